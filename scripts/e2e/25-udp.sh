#!/usr/bin/env bash
# UDP request and reply in each forwarding mode and family, with and without a checksum.
. "$(dirname "$0")/udp-world.sh"

udp_through() {
    local what="$1 IPv$2" address answers
    address=$(vip "$1" "$2")
    answers=$(in_ns cl /usr/bin/python3 "$E2E_DIR/udp-echo.py" ask "$address" 7000 60)
    check_equal "$what: 60 datagrams, 60 answers from the VIP" 60 "$(grep -c '^real[123]$' <<<"$answers")"
    check_equal "$what: from all three servers" 3 "$(grep '^real' <<<"$answers" | sort -u | wc -l)"
    # IPv6 has no datagrams without a checksum (RFC 8200 section 8.1).
    [ "$2" = 4 ] || return 0
    answers=$(in_ns cl /usr/bin/python3 "$E2E_DIR/udp-echo.py" ask "$address" 7000 20 nosum)
    check_equal "$what: 20 datagrams without a checksum, 20 answers" 20 "$(grep -c '^real[123]$' <<<"$answers")"
}
everywhere udp_through
for family in "${FAMILIES[@]}"; do
    answers=$(in_ns cl /usr/bin/python3 "$E2E_DIR/udp-echo.py" ask "$(vip nat "$family")" 7999 1)
    check_match "IPv$family: a port without a service is refused (ICMP port unreachable)" 'refused' "$answers"
done
test_done
