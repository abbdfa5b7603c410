#!/usr/bin/env bash
# UDP request and reply in each forwarding mode, with and without a checksum.
. "$(dirname "$0")/udp-world.sh"

for mode in nat dr ipip; do
    vip=VIP_${mode^^}
    vip=${!vip}
    answers=$(in_ns cl /usr/bin/python3 "$E2E_DIR/udp-echo.py" ask "$vip" 7000 60)
    check_equal "$mode: 60 datagrams, 60 answers from the VIP" 60 "$(grep -c '^real[123]$' <<<"$answers")"
    check_equal "$mode: from all three servers" 3 "$(grep '^real' <<<"$answers" | sort -u | wc -l)"
    answers=$(in_ns cl /usr/bin/python3 "$E2E_DIR/udp-echo.py" ask "$vip" 7000 20 nosum)
    check_equal "$mode: 20 datagrams without a checksum, 20 answers" 20 "$(grep -c '^real[123]$' <<<"$answers")"
done
answers=$(in_ns cl /usr/bin/python3 "$E2E_DIR/udp-echo.py" ask "$VIP_NAT" 7999 1)
check_match "a port without a service is refused (ICMP port unreachable)" 'refused' "$answers"
test_done
