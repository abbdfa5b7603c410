#!/usr/bin/env bash
# What is left to devices where they offer it: checksums of tunnels' UDP datagrams (net_tap does
# them), VLAN tags put in and taken out (net_af_packet does). The same is asked of the software,
# and the real servers' tunnel ends verify what they get.
VIP_GUE=198.51.100.40
VIP_GUE6=2001:db8:1::40

# with_offloads HOW: puts a setting into every port of a configuration.
with_offloads() { sed "/^device = /a offloads = \"$1\""; }

gue_service() {
    local n
    printf '\n[[service]]\naddress = "tcp:%s:80"\nscheduler = "rr"\n' "$1"
    for n in "${REALS[@]}"; do
        printf '\n[[service.server]]\naddress = "%s"\nmode = "tunnel"\ntunnel = { type = "gue", port = 6080, checksum = "udp" }\n' "$("$2" "$n")"
    done
}

tunnels() {
    # shellcheck source=world6.sh
    . "$E2E_DIR/world6.sh"
    daemon_config6
    gue_service "$VIP_GUE" real_ip
    gue_service "[$VIP_GUE6]" real_ip6
}

# The back port is a cable to a switch's port, on which the real servers are VLAN 10.
vlans() {
    daemon_config 2 | sed -e 's/net_tap1,iface=plxs0/net_af_packet0,iface=afs0/' \
        -e "s|^addresses = \[\"$DIRECTOR_SERVER_IP/24\"\]|vlans = [{ id = 10, addresses = [\"$DIRECTOR_SERVER_IP/24\"] }]|"
    daemon_services
}
E2E_NO_DAEMON=1 E2E_CONFIG=tunnels
. "$(dirname "$0")/start.sh" ethtool python3 iputils-ping
. "$E2E_DIR/world6.sh"
world6
for n in "${REALS[@]}"; do
    in_ns "r$n" ip addr add "$VIP_GUE" dev lo
    in_ns "r$n" ip addr add "$VIP_GUE6" dev lo nodad
done
whole_checksums

used() { ctl --json ports | jq -r '[.ports[].facts | .name + ":" + (.offloads | join("+"))] | join(" ")'; }

served() {
    local answers
    answers=$(requests "$2" 60)
    check_equal "$1: 60 requests, 60 answers from all three servers" "60 3" \
        "$(grep -Ec '^real[123] ' <<<"$answers") $(awk '{ print $1 }' <<<"$answers" | sort -u | wc -l)"
}

upload() {
    check_equal "$1: a megabyte up arrives whole" "200 1048576" "$(in_ns cl curl -s --max-time 20 -o /dev/null --resolve "vip:80:[$2]" \
        -w '%{http_code} %{size_upload}' --data-binary "@$WORLD_DIR/pages/1m" http://vip/)"
}

for how in on auto; do
    tunnels | with_offloads "$how" >"$WORLD_DIR/pollux.toml"
    daemon_start
    [ "$how" = on ] && expected="front:tx-checksum back:tx-checksum" || expected="front: back:"
    check_equal "checksums, offloads = \"$how\" on net_tap: in use" "$expected" "$(used)"
    for vip in "$VIP_GUE" "$VIP_GUE6"; do
        served "checksums, $how, $vip" "$vip"
        upload "checksums, $how, $vip" "$vip"
    done
    daemon_stop
done
check_equal "the tunnel ends refused nothing" "" "$(grep -h refused "$WORLD_DIR"/tunnel*.log | head -n 3)"

director_cable afs0 plxs0
director_cable vlan10 access10
in_ns dir ip link set access10 master brs
start_in dir "$WORLD_DIR/vlan-port.log" python3 "$E2E_DIR/vlan-port.py" 10 plxs0 vlan10
wait_until 5 grep -q ready "$WORLD_DIR/vlan-port.log" || die "the switch's port did not start: $(cat "$WORLD_DIR/vlan-port.log")"
plug_taps() {
    in_ns dir sysctl -qw net.ipv6.conf.plxc0.disable_ipv6=1
    in_ns dir ip link set plxc0 address 02:50:4c:58:00:0c
    in_ns dir ip link set plxc0 master brc up
}
for how in on off; do
    vlans | with_offloads "$how" >"$WORLD_DIR/pollux.toml"
    daemon_start
    [ "$how" = on ] && expected="front:tx-checksum back:vlan" || expected="front: back:"
    check_equal "tags, offloads = \"$how\" on net_af_packet: in use" "$expected" "$(used)"
    for vip in "$VIP_NAT" "$VIP_DR" "$VIP_IPIP"; do
        served "tags, $how, $vip" "$vip"
    done
    upload "tags, $how, $VIP_NAT" "$VIP_NAT"
    check_equal "tags, $how: a ping from a real server is answered" 0 \
        "$(in_ns r1 ping -c 2 -i 0.2 -W 2 -q "$DIRECTOR_SERVER_IP" >/dev/null 2>&1; echo $?)"
    check_equal "tags, $how: no frame was of an unknown VLAN" 0 "$(drops unknown_vlan)"
    daemon_stop
done
check_equal "every frame from polluxd had the tag" "" "$(grep dropped "$WORLD_DIR/vlan-port.log" | head -n 3)"
test_done
