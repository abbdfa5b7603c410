#!/usr/bin/env bash
# DNS with dig and dnsmasq through each mode in both families: UDP, TCP, a large answer in
# fragments, and the same by TCP after a truncated one.
. "$(dirname "$0")/modes.sh"
E2E_CONFIG=dns_config
dns_config() {
    modes_config
    everywhere service_for 'address = "udp:@:53"' 'scheduler = "rr"'
    everywhere service_for 'address = "tcp:@:53"' 'scheduler = "rr"'
}
. "$(dirname "$0")/start.sh" dnsmasq-base bind9-dnsutils iproute2
modes_world

# large.test has sixteen records: 3,500 bytes.
records() {
    local n
    printf 'txt-record=who.test,real%d\n' "$1"
    for n in {10..25}; do
        printf 'txt-record=large.test,%s\n' "$(printf "$n.%.0s" {1..66})"
    done
}
for n in "${REALS[@]}"; do
    records "$n" >"$WORLD_DIR/dns$n.conf"
    start_in "r$n" "$WORLD_DIR/dns$n.log" dnsmasq -k -C "$WORLD_DIR/dns$n.conf" --user=root --pid-file= --no-resolv \
        --no-hosts --edns-packet-max=4096 --log-facility=-
    wait_until 5 in_ns "r$n" bash -c "ss -lnut | grep -q ':53 '" || die "dnsmasq did not start: $(tail -n 3 "$WORLD_DIR/dns$n.log")"
done

# ask VIP WORD…: prints the answers to one question.
ask() {
    local vip=$1
    shift
    in_ns cl dig "@$vip" +short +tries=1 +time=3 "$@" 2>&1
}

dns_through() {
    local mode=$1 family=$2 what answers n address
    what="$mode IPv$family" address=$(vip "$1" "$2")
    answers=$(for n in 1 2 3 4 5 6; do ask "$address" who.test TXT; done)
    check_equal "$what: six questions by UDP, answers from all servers" "6 3" \
        "$(grep -c '^"real[123]"$' <<<"$answers") $(sort -u <<<"$answers" | wc -l)"
    check_match "$what: by TCP" '^"real[123]"$' "$(ask "$address" +tcp who.test TXT)"
    check_equal "$what: 3,500 bytes in one datagram, in fragments" 16 "$(ask "$address" +bufsize=4096 +notcp +ignore large.test TXT | grep -c '"\(..\.\)\{66\}"')"
    check_equal "$what: 3,500 bytes after a truncated answer, by TCP" 16 "$(ask "$address" +bufsize=1232 large.test TXT | grep -c '"\(..\.\)\{66\}"')"
}
everywhere dns_through
check_equal "no fragment was lost" "0 0 0" "$(drops fragment_overlap) $(drops bad_fragment) $(drops fragment_no_room)"
test_done
