#!/usr/bin/env bash
# Fragments: large datagrams through each mode, both ways.
. "$(dirname "$0")/udp-world.sh"

for mode in nat dr ipip; do
    vip=VIP_${mode^^}
    answers=$(in_ns cl /usr/bin/python3 "$E2E_DIR/udp-echo.py" ask "${!vip}" 7000 20 size=4000)
    check_equal "$mode: 20 datagrams of 4,000 bytes, 20 answers of as many" 20 "$(grep -c '^real[123]$' <<<"$answers")"
done
check_equal "nothing overlapped and nothing was lost" "0 0 0" "$(drops fragment_overlap) $(drops bad_fragment) $(drops fragment_no_room)"
test_done
