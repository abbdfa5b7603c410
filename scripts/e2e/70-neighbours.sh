#!/usr/bin/env bash
# ARP and ping: answers for VIPs and its own addresses, gratuitous ARP for a new VIP,
# servers that change their Ethernet address, servers that do not answer.
. "$(dirname "$0")/start.sh" iputils-ping iputils-arping tcpdump

for address in "$VIP_NAT" "$VIP_DR" "$VIP_IPIP" "$DIRECTOR_CLIENT_IP"; do
    check "ARP is answered for $address" in_ns cl arping -c 2 -w 3 -I eth0 "$address"
    check "ping to $address" in_ns cl ping -c 3 -i 0.2 -W 2 "$address"
done
check "ping from a server to the director" in_ns r1 ping -c 2 -i 0.2 -W 2 "$DIRECTOR_SERVER_IP"
check_equal "all addresses on that wire have one Ethernet address" 1 \
    "$(in_ns cl ip neigh show dev eth0 | grep -E "$VIP_NAT|$VIP_DR|$VIP_IPIP|$DIRECTOR_CLIENT_IP" | awk '{ print $3 }' | sort -u | wc -l)"
in_ns cl arping -c 1 -w 1 -I eth0 198.51.100.77 >/dev/null
check_equal "ARP is not answered for an address of nobody" 1 $?
check "a large ping" in_ns cl ping -c 2 -i 0.2 -W 2 -s 1400 "$VIP_NAT"

# Announcing a new VIP.
start_in cl "$WORLD_DIR/arp" tcpdump -nni eth0 -l arp
wait_until 5 grep -q 'listening on' "$WORLD_DIR/arp"
check "add a service on a new VIP" ctl service add tcp:198.51.100.40:80
garp() {
    grep -Eq 'who-has 198.51.100.40 .*tell 198.51.100.40|Reply 198.51.100.40 is-at' "$WORLD_DIR/arp"
}
check "the new VIP is announced by gratuitous ARP" wait_until 5 garp
check "and pinged" in_ns cl ping -c 2 -i 0.2 -W 2 198.51.100.40

# A server gets another Ethernet address (a new machine at the same address) and says so:
# the announcement is heard.
requests "$VIP_DR" 12 >/dev/null
in_ns r1 ip link set eth0 address 02:00:00:00:aa:01
in_ns r1 arping -c 2 -w 3 -U -I eth0 "$(real_ip 1)" >/dev/null
relearned() {
    ctl --json neighbours | jq -e --arg a "$(real_ip 1)" --arg m "$1" '[.. | objects | select(.address? == $a and .mac? == $m)] | length > 0'
}
check "a server's new Ethernet address is learned" wait_until 10 relearned 02:00:00:00:aa:01
check_equal "and requests are answered" 30 "$(requests "$VIP_DR" 30 | grep -c '^real')"

# A new address without a word: found out by ageing.
in_ns r2 ip link set eth0 arp off
in_ns r2 ip link set eth0 address 02:00:00:00:aa:02
in_ns r2 ip link set eth0 arp on
answered_by_all() {
    [ "$(requests "$VIP_DR" 12 | awk '{ print $1 }' | grep -E '^real' | sort -u | wc -l)" -eq 3 ]
}
check "a silent change is found out by ageing" wait_until 90 answered_by_all

# A server that does not answer: bounded waiting, counted, nobody else suffers.
check "a server of nobody" ctl server add "tcp:$VIP_NAT:80" 10.0.0.99:8080 --mode nat
in_ns cl curl -s --max-time 2 "http://$VIP_NAT/?[1-8]" >/dev/null
unresolved() {
    [ "$(drops neighbour_unresolved)" -gt 0 ]
}
check "packets to it are given up and counted" wait_until 10 unresolved
check "take it out" ctl server del "tcp:$VIP_NAT:80" 10.0.0.99:8080
check_equal "the others answer" 30 "$(requests "$VIP_NAT" 30 | grep -c '^real')"
test_done
