# IPv6 for the world of lib.sh (sourced by tests that want it): the same picture with
# 2001:db8:1::/64 for clients and 2001:db8:2::/64 for servers.
# shellcheck shell=bash

VIP6_NAT=2001:db8:1::10
VIP6_DR=2001:db8:1::20
VIP6_IPIP=2001:db8:1::30
CLIENT_IP6=2001:db8:1::2

real_ip6() { printf '2001:db8:2::%d\n' $((10 + $1)); }

# daemon_config6: daemon_config with addresses of both families.
daemon_config6() {
    daemon_config 2 | sed -e "s|^addresses = \[\"$DIRECTOR_CLIENT_IP/24\"|&, \"2001:db8:1::fe/64\"|" \
        -e "s|^addresses = \[\"$DIRECTOR_SERVER_IP/24\"|&, \"2001:db8:2::fe/64\"|"
    printf '\n[[route]]\nto = "::/0"\nvia = "2001:db8:1::1"\n'
}

# service6 VIP MODE PORT SERVERS…: prints a service; SERVERS are addresses of either family.
service6() {
    local vip=$1 mode=$2 port=$3 server
    shift 3
    [[ $vip != *:* ]] || vip="[$vip]"
    printf '\n[[service]]\naddress = "tcp:%s:80"\nscheduler = "rr"\n' "$vip"
    for server in "$@"; do
        [[ $server != *:* ]] || server="[$server]"
        printf '\n[[service.server]]\naddress = "%s:%s"\nmode = "%s"\n' "$server" "$port" "$mode"
    done
}

# world6: adds the addresses and routes. VIPs of servers that answer by themselves follow
# as arguments.
world6() {
    local n name vip
    in_ns cl ip addr add "$CLIENT_IP6/64" dev eth0 nodad
    in_ns rt ip addr add 2001:db8:1::1/64 dev eth0 nodad
    in_ns rt ip addr add 2001:db8:2::1/64 dev eth1 nodad
    in_ns rt sysctl -qw net.ipv6.conf.all.forwarding=1
    for n in "${REALS[@]}"; do
        name=r$n
        in_ns "$name" ip addr add "$(real_ip6 "$n")/64" dev eth0 nodad
        for vip in "$@"; do
            in_ns "$name" ip addr add "$vip/128" dev lo nodad
        done
        in_ns "$name" ip -6 route add default via 2001:db8:2::fe
        in_ns "$name" ip -6 route add default via 2001:db8:2::1 table 100
        in_ns "$name" ip -6 rule add from 2001:db8:1::/64 lookup 100
    done
    # Until a link's own address is known to be the only one, a station asks for no neighbour, and
    # what waits for it is lost.
    wait_until 10 links_settled || echo "an IPv6 address is still tentative"
}

links_settled() {
    local name
    for name in cl rt "${REALS[@]/#/r}"; do
        [ -z "$(in_ns "$name" ip -6 -o addr show tentative)" ] || return 1
    done
}
