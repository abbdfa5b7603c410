#!/usr/bin/env bash
# iperf3 over NAT, both directions, one stream and four.
E2E_CONFIG=iperf_config
iperf_config() {
    daemon_config 2
    service "tcp:$VIP_NAT:5201" nat 5201 rr 1
}
. "$(dirname "$0")/start.sh" iperf3

start_in r1 "$WORLD_DIR/iperf" iperf3 -s --forceflush
wait_until 5 grep -q listening "$WORLD_DIR/iperf" || die "iperf3 did not start: $(cat "$WORLD_DIR/iperf")"

# transfer OPTION…: prints megabits a second; fails when iperf3 reports an error.
transfer() {
    local said
    said=$(in_ns cl timeout 20 iperf3 -J -t 2 -c "$VIP_NAT" "$@") || { jq -r .error <<<"$said" && return 1; }
    jq -e '.end.sum_received.bits_per_second / 1e6 | floor | select(. > 0)' <<<"$said"
}

for how in "" "-R" "-P 4" "-P 4 -R"; do
    # shellcheck disable=SC2086
    mbit=$(transfer $how) || mbit="failed: $mbit"
    check_at_least "iperf3 ${how:-to the server}: Mbit/s" 1 "$mbit"
    # The server takes one test at a time and needs a moment to be ready for the next.
    sleep 0.3
done
test_done
