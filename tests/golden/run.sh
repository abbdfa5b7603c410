#!/usr/bin/env bash
# The golden captures: polluxd on net_pcap, without privileges and huge pages. For each
# line of the file `cases` a capture goes in, and what comes out must be the golden one byte
# by byte, with every checksum right in the eyes of tshark.
#
#   tests/golden/run.sh [NAME…]
#
# To change what is expected, change make.py and run it. POLLUX_BIN_DIR names ready
# binaries.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../../scripts/lib/common.sh
. "$here/../../scripts/lib/common.sh"

names=("$@")
[ $# -gt 0 ] || mapfile -t names < <(awk '!/^#/ && NF { print $1 }' "$here/cases")
need_packages python3-scapy tshark jq curl
bin=$(build_release -p pollux -p pollux-control --bin polluxd --bin polluxctl) || exit 1
work=$(mktemp -d /tmp/pollux-golden.XXXXXX)
daemon=
cleanup() {
    stop_pid "$daemon"
    rm -rf "$work"
}
trap cleanup EXIT
failed=0

# came: how many packets the director has taken in by now.
came() {
    curl -s --noproxy '*' --max-time 2 --unix-socket "$work/pollux.sock" http://pollux/v1/ports | jq '[.. | .rx_packets? // empty] | add // 0'
}

all_came() {
    [ "$(came)" -ge "$1" ]
}

# tunnel WORD: the configuration's line for the last column of `cases`.
tunnel() {
    case $1 in
    -) ;;
    gre | ipip) printf '\\ntunnel = { type = "%s" }' "$1" ;;
    gre-checksum) printf '\\ntunnel = { type = "gre", checksum = true }' ;;
    gue) printf '\\ntunnel = { type = "gue", port = 6080, checksum = "none" }' ;;
    gue-checksum) printf '\\ntunnel = { type = "gue", port = 6080, checksum = "udp" }' ;;
    gue-remote) printf '\\ntunnel = { type = "gue", port = 6080, checksum = "remote" }' ;;
    vxlan) printf '\\ntunnel = { type = "vxlan", vni = 7, port = 4789 }' ;;
    *) return 1 ;;
    esac
}

# configure NAME: the configuration for a line of `cases`.
configure() {
    local mode family servers word line vip=10.9.0.1 first=10.2.0.11 second=10.2.0.12 tcp=80 udp=7000
    read -r mode family servers word < <(awk -v n="$1" '$1 == n { print $2, $3, $4, $5 }' "$here/cases")
    line=$(tunnel "$word") || { echo "$1: no tunnel called $word" && return 1; }
    [ "$family" = 4 ] || vip='[2001:db8:9::1]'
    [ "$servers" = 4 ] || first='[2001:db8:2::b]' second='[2001:db8:2::c]'
    [[ $mode != *nat ]] || tcp=8080 udp=7001
    sed -e "s|@WORK@|$work|; s|@IN@|$work/in.pcap|; s|@PREFIX@|golden-$$|; s|@VIP@|$vip|; s|@FIRST@|$first|" \
        -e "s|@SECOND@|$second|; s|@MODE@|$mode|; s|@TUNNEL@|$line|; s|@TCP@|$tcp|; s|@UDP@|$udp|" \
        "$here/pollux.toml.in" >"$work/pollux.toml"
}

# play NAME: prints what went wrong; status 0 if nothing did.
play() {
    local name=$1 packets status
    configure "$name" || return 1
    /usr/bin/python3 "$here/spread.py" "$here/$name.in.pcap" "$work/in.pcap" || return 1
    rm -f "$work/out.pcap"
    "$bin/polluxd" --config "$work/pollux.toml" >"$work/log" 2>&1 &
    daemon=$!
    packets=$(tshark -r "$work/in.pcap" 2>/dev/null | wc -l)
    if ! wait_until 20 all_came "$packets"; then
        echo "polluxd took in $(came) of $packets packets; its log ends:"
        tail -n 20 "$work/log"
        stop_pid "$daemon"
        return 1
    fi
    # What went in must have come out before the capture is closed.
    sleep 0.3
    kill -TERM "$daemon"
    wait "$daemon"
    status=$?
    daemon=
    [ "$status" -eq 0 ] || { echo "polluxd ended with status $status" && tail -n 20 "$work/log" && return 1; }
    /usr/bin/python3 "$here/compare.py" "$here/$name.out.pcap" "$work/out.pcap" || return 1
    wrong_checksums "$work/out.pcap"
}

# wrong_checksums CAPTURE: lists the packets whose checksums tshark finds wrong. The
# quotation inside an ICMP error is not looked at: its checksum is that of another packet.
wrong_checksums() {
    local found
    found=$(tshark -r "$1" -o ip.check_checksum:TRUE -o tcp.check_checksum:TRUE -o udp.check_checksum:TRUE \
        -Y 'ip.checksum.status == 0 || icmp.checksum.status == 0 || icmpv6.checksum.status == 0 || gre.checksum.status == 0 ||
            ((tcp.checksum.status == 0 || udp.checksum.status == 0) && !icmp && !icmpv6)' \
        2>"$work/tshark") || { cat "$work/tshark" && return 1; }
    [ -z "$found" ] || { echo "wrong checksums:" && echo "$found" && return 1; }
}

for name in "${names[@]}"; do
    [ -r "$here/$name.in.pcap" ] || usage_error "no capture called $name"
    if play "$name" >"$work/said" 2>&1; then
        echo "PASS golden $name: $(head -n 1 "$work/said")"
    else
        echo "FAIL golden $name"
        cat "$work/said"
        failed=1
    fi
done
exit $failed
