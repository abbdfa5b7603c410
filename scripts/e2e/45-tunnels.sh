#!/usr/bin/env bash
# The tunnels other than IPIP: GRE and GUE with and without checksums, and VXLAN, within each
# family and between them; and all modes mixed in one service. The tunnel ends verify what
# they unwrap. Uploads have full packets, whose sender must be told what fits.
E2E_CONFIG=tunnels
TUNNELS=(
    'gre { type = "gre" }'
    'gre-checksum { type = "gre", checksum = true }'
    'gue { type = "gue", port = 6080 }'
    'gue-checksum { type = "gue", port = 6080, checksum = "udp" }'
    'vxlan { type = "vxlan", vni = 7, port = 4789 }'
)
# Family of the VIP, and of the servers.
PAIRS=(44 66 46 64)
MIXED=198.51.100.35

# tunnel_vip N PAIR: the VIP of the Nth tunnel.
tunnel_vip() {
    local n=$((100 + 10 * $1 + ${2:1}))
    if [ "${2:0:1}" = 4 ]; then printf '198.51.100.%d\n' "$n"; else printf '2001:db8:1::%d\n' "$n"; fi
}

# each_tunnel FUNCTION: calls it with name, VIP, the servers' family and the tunnel.
each_tunnel() {
    local n pair name tunnel
    for n in "${!TUNNELS[@]}"; do
        read -r name tunnel <<<"${TUNNELS[n]}"
        for pair in "${PAIRS[@]}"; do
            # An IPv6 host takes no UDP without a checksum unless it is told to.
            [ "$name$pair" != gue46 ] && [ "$name$pair" != gue66 ] || continue
            "$1" "$name, IPv${pair:0:1} in IPv${pair:1}" "$(tunnel_vip "$n" "$pair")" "${pair:1}" "$tunnel"
        done
    done
}

tunnel_service() {
    local vip=$2 family=$3 n server
    [[ $vip != *:* ]] || vip="[$vip]"
    printf '\n[[service]]   # %s\naddress = "tcp:%s:80"\nscheduler = "rr"\n' "$1" "$vip"
    for n in "${REALS[@]}"; do
        server=$(real_ip "$n")
        [ "$family" = 4 ] || server=$(real_ip6 "$n")
        printf '\n[[service.server]]\naddress = "%s"\nmode = "tunnel"\ntunnel = %s\n' "$server" "$4"
    done
}

tunnels() {
    # shellcheck source=world6.sh
    . "$E2E_DIR/world6.sh"
    daemon_config6
    each_tunnel tunnel_service
    cat <<CONFIG

[[service]]
address = "tcp:$MIXED:80"
scheduler = "rr"

[[service.server]]
address = "$(real_ip 1):8080"
mode = "nat"

[[service.server]]
address = "$(real_ip 2):80"
mode = "dr"

[[service.server]]
address = "$(real_ip 3):80"
mode = "ipip"
CONFIG
}
. "$(dirname "$0")/start.sh"
. "$E2E_DIR/world6.sh"
world6

local_vip() {
    local n
    for n in "${REALS[@]}"; do
        in_ns "r$n" ip addr add "$2" dev lo $([[ $2 != *:* ]] || echo nodad)
    done
}
each_tunnel local_vip
local_vip mixed "$MIXED"

upload() {
    local said
    said=$(in_ns cl curl -s --max-time 20 -o /dev/null --resolve "vip:80:[$1]" -w '%{http_code} %{size_upload}' --data-binary "@$WORLD_DIR/pages/1m" http://vip/)
    [ "$said" = "200 1048576" ] || { echo "curl: $said" && return 1; }
}

served() {
    local answers
    answers=$(requests "$2" 30)
    check_equal "$1: 30 requests, 30 answers from all three servers" "30 3" \
        "$(grep -Ec '^real[123] ' <<<"$answers") $(awk '{ print $1 }' <<<"$answers" | sort -u | wc -l)"
    check "$1: a megabyte up arrives whole" upload "$2"
}
each_tunnel served
served mixed "$MIXED"
check_equal "the tunnel ends refused nothing" "" "$(grep -h refused "$WORLD_DIR"/tunnel*.log | head -n 3)"
test_done
