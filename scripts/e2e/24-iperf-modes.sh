#!/usr/bin/env bash
# iperf3 through each mode in both families: TCP up and down, UDP up and down without loss.
# Control connection and data must meet at one server: a mark with persistence.
. "$(dirname "$0")/modes.sh"
E2E_CONFIG=iperf_config
SERVERS=(1)
iperf_config() {
    modes_config
    everywhere mark_for 0 'rules = ["tcp:@:5201", "udp:@:5201"]' 'scheduler = "rr"' 'persistence = 300'
}
. "$(dirname "$0")/start.sh" iperf3
modes_world

# One for each address: answering datagrams, iperf3 would take any of the server's addresses.
for address in "$(real_ip 1)" "$(real_ip6 1)" $(for mode in dr ipip cross; do vip "$mode" 4 && vip "$mode" 6; done); do
    start_in r1 "$WORLD_DIR/iperf.$address" iperf3 -s --forceflush -B "$address"
    wait_until 5 grep -q listening "$WORLD_DIR/iperf.$address" || die "iperf3 did not start: $(cat "$WORLD_DIR/iperf.$address")"
done

# transfer VIP OPTION…: prints the bytes that arrived and the datagrams lost, if any; the
# reason when iperf3 reports an error. The server of the last transfer may need a moment.
transfer() {
    local said
    for _ in 1 2 3; do
        if said=$(in_ns cl timeout 15 iperf3 -J -c "$@"); then
            jq -r '"\(.end.sum_received.bytes // .end.sum.bytes) \(.end.sum.lost_packets // 0)"' <<<"$said"
            return 0
        fi
        grep -q 'server is busy' <<<"$said" || break
        sleep 0.2
    done
    jq -r .error <<<"$said" 2>/dev/null || printf '%s\n' "$said"
    return 1
}

iperf_through() {
    local what="$1 IPv$2" address said how
    address=$(vip "$1" "$2")
    for how in "" "-R"; do
        # shellcheck disable=SC2086
        said=$(transfer "$address" -n 4M $how)
        # What is on the way when the client has sent everything is not counted.
        check_at_least "$what: TCP ${how:-to the server}, bytes of four megabytes" 1000000 "${said% *}"
        # Datagrams that fit into every tunnel.
        # shellcheck disable=SC2086
        said=$(transfer "$address" -u -l 1200 -b 20M -n 600K $how)
        check_at_least "$what: UDP ${how:-to the server}, bytes of 614,400" 500000 "${said% *}"
        check_equal "$what: UDP ${how:-to the server}, no datagram lost" 0 "${said#* }"
    done
}
everywhere iperf_through
test_done
