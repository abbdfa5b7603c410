# A long way between a client and a server, for tests of path MTU and hop limits (sourced
# after modes.sh, before start.sh).
#
#   far client ── far router ═1400═ router ── director ── real 3 (a router) ─1300─ real 1
#   203.0.113.2   203.0.113.1      192.0.2.1             10.0.0.13               10.0.1.11
#
# The server behind a router serves NAT and tunnels; direct routing goes to real 1 on the
# director's own network. The addresses in IPv6: 2001:db8:f::2, 2001:db8:f::1,
# 2001:db8:e::1, 2001:db8:2::13, 2001:db8:3::11.
# shellcheck shell=bash
MORE_NAMESPACES=(fc fr)
SERVERS=(1)

# server_address MODE FAMILY N: instead of that of modes.sh.
server_address() {
    local six=$2
    [ "$1" != cross ] || six=$((10 - six))
    case $1$six in
    dr4) real_ip "$3" ;;
    dr6) real_ip6 "$3" ;;
    *4) printf '10.0.1.11\n' ;;
    *6) printf '2001:db8:3::11\n' ;;
    esac
}

far_config() {
    modes_config
    printf '\n[[route]]\nto = "10.0.1.0/24"\nvia = "%s"\n' "$(real_ip 3)"
    printf '\n[[route]]\nto = "2001:db8:3::/64"\nvia = "%s"\n' "$(real_ip6 3)"
}

# far_world: after start.sh and modes_world.
far_world() {
    local name
    for name in rt r3 fr; do
        # All that expires and all that does not fit is to be told, however fast it comes.
        in_ns "$name" sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.icmp_ratelimit=0 \
            net.ipv6.icmp.ratelimit=0
    done
    # Real 3 is a router here: it has one leg, and no way of its own for what comes from a VIP.
    in_ns r3 sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0
    in_ns r3 ip rule del from 198.51.100.0/24
    in_ns r3 ip -6 rule del from 2001:db8:1::/64
    in_ns r1 sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0
    cable fc eth0 fr eth0 1500 203.0.113.2/24 203.0.113.1/24 2001:db8:f::2/64 2001:db8:f::1/64
    cable fr eth1 rt eth2 1400 192.0.2.2/24 192.0.2.1/24 2001:db8:e::2/64 2001:db8:e::1/64
    in_ns fc ip route add default via 203.0.113.1
    in_ns fc ip -6 route add default via 2001:db8:f::1
    in_ns fr ip route add default via 192.0.2.1
    in_ns fr ip -6 route add default via 2001:db8:e::1
    in_ns rt ip route add 203.0.113.0/24 via 192.0.2.2
    in_ns rt ip -6 route add 2001:db8:f::/64 via 2001:db8:e::2
    in_ns r1 ip addr add 10.0.1.11/32 dev lo
    in_ns r1 ip addr add 2001:db8:3::11/128 dev lo nodad
    in_ns r3 ip route add 10.0.1.0/24 via "$(real_ip 1)" mtu 1300
    in_ns r3 ip -6 route add 2001:db8:3::/64 via "$(real_ip6 1)" mtu 1300
    # New links look for duplicates of their own addresses first, and take a moment.
    for name in "$DIRECTOR_CLIENT_IP" 2001:db8:1::fe; do
        wait_until 10 in_ns fc ping -n -q -c 1 -W 1 "$name" || die "the far client does not reach the director's $name"
    done
}

# cable NAME DEVICE NAME DEVICE MTU ADDRESS ADDRESS ADDRESS6 ADDRESS6: between two namespaces.
cable() {
    ip link add "$2" netns "$WORLD-$1" mtu "$5" type veth peer name "$4" netns "$WORLD-$3" mtu "$5"
    in_ns "$1" ip addr add "$6" dev "$2"
    in_ns "$3" ip addr add "$7" dev "$4"
    in_ns "$1" ip addr add "$8" dev "$2" nodad
    in_ns "$3" ip addr add "$9" dev "$4" nodad
    in_ns "$1" ip link set "$2" up
    in_ns "$3" ip link set "$4" up
}
