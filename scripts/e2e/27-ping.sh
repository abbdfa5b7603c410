#!/usr/bin/env bash
# ping: the director answers for VIPs of each mode and for itself, and passes on what is for
# servers; small packets, full ones, and fragments (`ping -s 4000`), in both families.
. "$(dirname "$0")/modes.sh"
E2E_CONFIG=ping_config
ping_config() {
    modes_config
    everywhere service_for 'address = "tcp:@:80"'
}
. "$(dirname "$0")/start.sh" iputils-ping
modes_world
# Servers by their own addresses: through the director, both ways.
in_ns cl ip route add 10.0.0.0/24 via "$DIRECTOR_CLIENT_IP"
in_ns cl ip -6 route add 2001:db8:2::/64 via 2001:db8:1::fe

# pings FROM ADDRESS WHAT: each size is sent three times.
pings() {
    local size
    # 1472 and 1452 bytes fill a frame of each family.
    for size in 56 1472 1452 4000 16000; do
        [[ $2 = *:* && $size = 1472 || $2 != *:* && $size = 1452 ]] ||
            check "$3: three times $size bytes" in_ns "$1" ping -n -q -c 3 -i 0.05 -W 2 -s "$size" "$2"
    done
}
ping_vip() {
    pings cl "$(vip "$1" "$2")" "the VIP of $1 IPv$2"
}
everywhere ping_vip
for address in "$DIRECTOR_CLIENT_IP" 2001:db8:1::fe; do
    pings cl "$address" "the director's $address"
done
pings cl "$(real_ip 1)" "a server, through the director"
pings cl "$(real_ip6 1)" "a server, through the director, IPv6"
pings r1 "$DIRECTOR_SERVER_IP" "the director from a server"
pings r1 2001:db8:2::fe "the director from a server, IPv6"
pings r1 "$LOCAL_IP" "a local address of full NAT from a server"
pings r1 "$LOCAL_IP6" "a local address of full NAT from a server, IPv6"
pings r1 "$(vip nat 4)" "a VIP from a server"
pings r1 "$(vip nat 6)" "a VIP from a server, IPv6"
check_match "a ping whose time is up at the director" 'Time to live exceeded' "$(in_ns cl ping -n -c 1 -W 2 -t 1 "$(real_ip 1)")"
check_match "a ping whose time is up at the director, IPv6" 'Hop limit' "$(in_ns cl ping -n -c 1 -W 2 -t 1 "$(real_ip6 1)")"
check_equal "nothing was refused" "0 0 0" "$(drops bad_icmp) $(drops fragment_overlap) $(drops no_service)"
test_done
