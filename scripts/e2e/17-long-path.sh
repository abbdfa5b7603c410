#!/usr/bin/env bash
# Path MTU discovery through each mode in both families: a megabyte down over a link of 1400
# bytes between the director and the client, whose router tells the server by way of the
# director; a megabyte up to a server behind one of 1300 bytes, whose router tells the client
# by way of the director. And datagrams in fragments, both ways.
. "$(dirname "$0")/modes.sh"
. "$(dirname "$0")/far-world.sh"
E2E_CONFIG=long_path_config
long_path_config() {
    far_config
    everywhere service_for 'address = "tcp:@:80"'
    everywhere service_for 'address = "udp:@:7000"'
}
. "$(dirname "$0")/start.sh" tcpdump python3 iputils-ping
modes_world
far_world

start_in r1 "$WORLD_DIR/udp" /usr/bin/python3 "$E2E_DIR/udp-echo.py" serve real1 7000
wait_until 5 grep -q ready "$WORLD_DIR/udp"

# page VIP: the URL of a VIP.
page() { printf 'http://%s/1m\n' "$(bracketed "$1")"; }

download() {
    local size
    size=$(in_ns fc curl -sg --max-time 15 -o "$WORLD_DIR/got" -w '%{size_download}' "$(page "$1")") &&
        [ "$size" = 1048576 ] && cmp "$WORLD_DIR/got" "$WORLD_DIR/pages/1m"
}

upload() {
    local said
    said=$(in_ns fc curl -sg --max-time 15 -o /dev/null -w '%{http_code} %{size_upload}' --data-binary "@$WORLD_DIR/pages/1m" "$(page "$1")x")
    [ "$said" = "200 1048576" ] || { echo "curl: $said" && return 1; }
}

start_in fc "$WORLD_DIR/told" tcpdump -nni eth0 -l '(icmp and icmp[0] == 3 and icmp[1] == 4) or (icmp6 and ip6[40] == 2)'
wait_until 5 grep -q 'listening on' "$WORLD_DIR/told"

# told VIP: the MTUs that the client was told by a VIP.
told() {
    sed -n "s/.* $1 > .*[ (]mtu \([0-9]*\).*/\1/p" "$WORLD_DIR/told" | sort -u | xargs
}

was_told() { [ -n "$(told "$1")" ]; }

long_path() {
    local what="$1 IPv$2" address mtu tries=1
    address=$(vip "$1" "$2")
    check "$what: a megabyte down over 1400 bytes" download "$address"
    check "$what: a megabyte up over 1300 bytes" upload "$address"
    # IPv6's first ones are lost while the sizes of the way are learned.
    [ "$2" = 4 ] || tries=6
    check_equal "$what: datagrams of 4,000 bytes, there and back" "real1 real1" \
        "$(in_ns fc /usr/bin/python3 "$E2E_DIR/udp-echo.py" ask "$address" 7000 2 size=4000 tries="$tries" | xargs)"
    # Inside a tunnel there is less by the outer header.
    case $1$2 in
    dr*) mtu= ;;
    *nat*) mtu=1300 ;;
    cross4) mtu=1260 ;;
    # Not less for IPv6, even where that does not fit: the tunnel's packets are cut then.
    *) mtu=1280 ;;
    esac
    [ -z "$mtu" ] || wait_until 2 was_told "$address"
    check_equal "$what: the VIP told the client ${mtu:-nothing}" "$mtu" "$(told "$address")"
}
everywhere long_path
test_done
