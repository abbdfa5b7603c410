#!/usr/bin/env bash
# Fragments: large datagrams through each mode, both ways.
E2E_CONFIG=udp_config
udp_config() {
    daemon_config 2
    service "udp:$VIP_NAT:7000" nat 7001
    service "udp:$VIP_DR:7000" dr 7000
    service "udp:$VIP_IPIP:7000" ipip 7000
}
. "$(dirname "$0")/start.sh" python3

for n in "${REALS[@]}"; do
    for port in 7000 7001; do
        start_in "r$n" "$WORLD_DIR/udp$n.$port" /usr/bin/python3 "$E2E_DIR/udp-echo.py" serve "real$n" "$port"
        wait_until 5 grep -q ready "$WORLD_DIR/udp$n.$port"
    done
done
for mode in nat dr ipip; do
    vip=VIP_${mode^^}
    answers=$(in_ns cl /usr/bin/python3 "$E2E_DIR/udp-echo.py" ask "${!vip}" 7000 20 size=4000)
    check_equal "$mode: 20 datagrams of 4,000 bytes, 20 answers of as many" 20 "$(grep -c '^real[123]$' <<<"$answers")"
done
check_equal "nothing overlapped and nothing was lost" "0 0 0" "$(drops fragment_overlap) $(drops bad_fragment) $(drops fragment_no_room)"
test_done
