#!/usr/bin/env bash
# IPv6: each mode, tunnels between the families, neighbour discovery, ping, path MTU.
E2E_CONFIG=ipv6_config
VIP_FOUR_IN_SIX=198.51.100.36
VIP6_SIX_IN_FOUR=2001:db8:1::40
ipv6_config() {
    # shellcheck source=world6.sh
    . "$E2E_DIR/world6.sh"
    local six=() four=() n
    for n in "${REALS[@]}"; do
        six+=("$(real_ip6 "$n")") four+=("$(real_ip "$n")")
    done
    daemon_config6
    service6 "$VIP6_NAT" nat 8080 "${six[@]}"
    service6 "$VIP6_DR" dr 80 "${six[@]}"
    service6 "$VIP6_IPIP" ipip 80 "${six[@]}"
    service6 "$VIP6_SIX_IN_FOUR" ipip 80 "${four[@]}"
    service6 "$VIP_FOUR_IN_SIX" ipip 80 "${six[@]}"
}
. "$(dirname "$0")/start.sh" wrk iputils-ping
. "$E2E_DIR/world6.sh"
world6 "$VIP6_DR" "$VIP6_IPIP" "$VIP6_SIX_IN_FOUR"
for n in "${REALS[@]}"; do
    in_ns "r$n" ip addr add "$VIP_FOUR_IN_SIX/32" dev lo
done

for vip in "$VIP6_NAT" "$VIP6_DR" 2001:db8:1::fe; do
    check "ping to $vip" in_ns cl ping -6 -c 3 -i 0.3 -W 2 "$vip"
done
check "ping from a server to the director" in_ns r1 ping -6 -c 2 -i 0.3 -W 2 2001:db8:2::fe

upload() {
    local code
    code=$(in_ns cl curl -s --max-time 20 -o /dev/null --resolve "vip:80:[$1]" -w '%{http_code} %{size_upload}' --data-binary "@$WORLD_DIR/pages/1m" http://vip/)
    [ "$code" = "200 1048576" ] || { echo "curl: $code" && return 1; }
}

for line in "nat $VIP6_NAT" "dr $VIP6_DR" "6in6 $VIP6_IPIP" "6in4 $VIP6_SIX_IN_FOUR" "4in6 $VIP_FOUR_IN_SIX"; do
    read -r name vip <<<"$line"
    answers=$(requests "$vip" 60)
    check_equal "$name: 60 requests, 60 answers" 60 "$(grep -Ec '^real[123] ' <<<"$answers")"
    check_equal "$name: from all three servers" 3 "$(awk '{ print $1 }' <<<"$answers" | sort -u | wc -l)"
    check "$name: a megabyte up arrives whole" upload "$vip"
done
check_equal "servers see the client's own address" "$CLIENT_IP6" "$(requests "$VIP6_NAT" 6 | awk '{ print $2 }' | sort -u)"
said=$(in_ns cl wrk -t1 -c16 -d2s --timeout 5s "http://[$VIP6_NAT]/" 2>&1)
check_equal "wrk over NAT: no failed request" "" "$(grep -E 'Socket errors|Non-2xx|unable' <<<"$said")"
test_done
