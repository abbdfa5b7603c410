#!/usr/bin/env bash
# traceroute and tracepath from a far client through each mode in both families: hop limits
# that end at routers before the director, at the director, at a router behind it and at the
# server. All that answers from the director on is the VIP to the client.
. "$(dirname "$0")/modes.sh"
. "$(dirname "$0")/far-world.sh"
E2E_CONFIG=trace_config
trace_service() {
    service_for "$@" 'address = "tcp:@:80"'
    mark_for "$@" 0 'rules = ["udp:@:33434-65535"]'
}
trace_config() {
    far_config
    everywhere trace_service
}
. "$(dirname "$0")/start.sh" traceroute iputils-tracepath iputils-ping
modes_world
far_world

# The servers' routed network, from the far side through the director.
in_ns rt ip route add 10.0.1.0/24 via "$DIRECTOR_CLIENT_IP"
in_ns rt ip -6 route add 2001:db8:3::/64 via 2001:db8:1::fe

# trace ADDRESS OPTION…: prints the address of each hop, on one line.
trace() {
    in_ns fc timeout 20 traceroute -n -q 1 -w 2 -m 8 "${@:2}" "$1" | awk 'NR > 1 { print $2 }' | xargs
}

# path ADDRESS: prints the same of tracepath, then what it found the path to be. A hop has
# several lines when a packet did not fit on the way; the last one counts.
path() {
    in_ns fc timeout 20 tracepath -n -m 8 "$1" |
        awk '/Resume/ { found = $2 " " $3 " " $4 " " $5; next } $2 ~ /^[0-9a-f.:]+$/ { hop[n = $1 + 0] = $2 }
            END { for (i = 1; i <= n; i++) printf "%s ", hop[i]; print found }'
}

# far_hops FAMILY: the routers before the director.
far_hops() {
    if [ "$1" = 4 ]; then printf '203.0.113.1 192.0.2.1\n'; else printf '2001:db8:f::1 2001:db8:e::1\n'; fi
}

trace_through() {
    local what="$1 IPv$2" address expected mtu hops=5
    address=$(vip "$1" "$2")
    # Director, router, server.
    expected="$(far_hops "$2") $address $address $address"
    case $1$2 in
    dr*) mtu=1400 hops=4 expected="$(far_hops "$2") $address $address" ;;
    *nat*) mtu=1300 ;;
    cross4) mtu=1260 ;;
    # Not less for IPv6, even where that does not fit.
    *) mtu=1280 ;;
    esac
    check_equal "$what: traceroute by UDP" "$expected" "$(trace "$address")"
    check_equal "$what: traceroute by TCP" "$expected" "$(trace "$address" -T -p 80)"
    # The director answers for the VIP.
    check_equal "$what: traceroute by ICMP" "$(far_hops "$2") $address" "$(trace "$address" -I)"
    check_equal "$what: tracepath" "$expected pmtu $mtu hops $hops" "$(path "$address")"
}
everywhere trace_through

for line in "10.0.1.11 4 $DIRECTOR_CLIENT_IP $(real_ip 3)" "2001:db8:3::11 6 2001:db8:1::fe $(real_ip6 3)"; do
    read -r address family director router <<<"$line"
    expected="$(far_hops "$family") $director $router $address"
    for how in "" -I "-T -p 80"; do
        # shellcheck disable=SC2086
        check_equal "traceroute ${how:-by UDP} to a server itself, IPv$family" "$expected" "$(trace "$address" $how)"
    done
    check_equal "tracepath to a server itself, IPv$family" "$expected pmtu 1300 hops 5" "$(path "$address")"
done
test_done
