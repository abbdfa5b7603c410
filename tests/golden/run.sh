#!/usr/bin/env bash
# The golden captures: polluxd on net_pcap, without privileges and huge pages. For each
# forwarding mode a capture goes in, and what comes out must be the golden one byte by
# byte, with every checksum right in the eyes of tshark.
#
#   tests/golden/run.sh [nat|dr|ipip]…
#
# To change what is expected, change make.py and run it. POLLUX_BIN_DIR names ready
# binaries.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../../scripts/lib/common.sh
. "$here/../../scripts/lib/common.sh"

modes=("$@")
[ $# -gt 0 ] || modes=(nat dr ipip)
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

# play MODE: prints what went wrong; status 0 if nothing did.
play() {
    local mode=$1 tcp=80 udp=7000 packets status
    [ "$mode" != nat ] || tcp=8080 udp=7001
    /usr/bin/python3 "$here/spread.py" "$here/$mode.in.pcap" "$work/in.pcap" || return 1
    sed -e "s|@WORK@|$work|; s|@IN@|$work/in.pcap|; s|@MODE@|$mode|; s|@TCP@|$tcp|; s|@UDP@|$udp|" \
        -e "s|@PREFIX@|golden-$$|" "$here/pollux.toml.in" >"$work/pollux.toml"
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
    /usr/bin/python3 "$here/compare.py" "$here/$mode.out.pcap" "$work/out.pcap" || return 1
    wrong_checksums "$work/out.pcap"
}

# wrong_checksums CAPTURE: lists the packets whose checksums tshark finds wrong. The
# quotation inside an ICMP error is not looked at: its checksum is that of another packet.
wrong_checksums() {
    local found
    found=$(tshark -r "$1" -o ip.check_checksum:TRUE -o tcp.check_checksum:TRUE -o udp.check_checksum:TRUE \
        -Y 'ip.checksum.status == 0 || icmp.checksum.status == 0 || ((tcp.checksum.status == 0 || udp.checksum.status == 0) && !icmp)' \
        2>"$work/tshark") || { cat "$work/tshark" && return 1; }
    [ -z "$found" ] || { echo "wrong checksums:" && echo "$found" && return 1; }
}

for mode in "${modes[@]}"; do
    [ -r "$here/$mode.in.pcap" ] || usage_error "no capture for the mode $mode"
    if play "$mode" >"$work/said" 2>&1; then
        echo "PASS golden $mode: $(head -n 1 "$work/said")"
    else
        echo "FAIL golden $mode"
        cat "$work/said"
        failed=1
    fi
done
exit $failed
