#!/usr/bin/env bash
# Fragments: large datagrams through each mode in both families, both ways. In a tunnel full
# fragments no longer fit: IPv4's are cut again, IPv6's sender is told and sends smaller ones.
. "$(dirname "$0")/udp-world.sh"

fragments_through() {
    local what="$1 IPv$2" answers tries=1
    [ "$2" = 4 ] || tries=3
    answers=$(in_ns cl /usr/bin/python3 "$E2E_DIR/udp-echo.py" ask "$(vip "$1" "$2")" 7000 20 size=4000 tries="$tries")
    check_equal "$what: 20 datagrams of 4,000 bytes, 20 answers of as many" 20 "$(grep -c '^real[123]$' <<<"$answers")"
}
everywhere fragments_through
check_equal "nothing overlapped and nothing was lost" "0 0 0" "$(drops fragment_overlap) $(drops bad_fragment) $(drops fragment_no_room)"
test_done
