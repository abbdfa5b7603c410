# The little world of the end-to-end tests and of the demo: network namespaces with a
# client, a director, three real servers and a router. Source it from bash.
#
#                          namespace "director"
#   client ─────┐   ┌──────────────────────────────────┐   ┌───── real 1  10.0.0.11
#   198.51.100.2│   │          p o l l u x d           │   ├───── real 2  10.0.0.12
#               ├─ brc ── TAP plxc0        TAP plxs0 ── brs ───── real 3  10.0.0.13
#   router ─────┘   └──────────────────────────────────┘   └───── router  10.0.0.1
#   198.51.100.1     198.51.100.254     10.0.0.254
#
# The two bridges stand for the two switches. The router is the way that replies take in
# direct routing and in a tunnel: from the real server to the client, past the director.
# A real server sends what comes from a VIP to the router and everything else to the
# director, so that all forwarding modes work at the same time.
#
# The names of the namespaces hold the process id, so that runs do not meet; all other
# names live inside them. `world_down` removes everything; `trap world_down EXIT` is set
# by `world_up`.
# shellcheck shell=bash

E2E_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../lib/common.sh
. "$E2E_DIR/../lib/common.sh"
# shellcheck source=daemon.sh
. "$E2E_DIR/daemon.sh"
# shellcheck source=check.sh
. "$E2E_DIR/check.sh"

VIP_NAT=198.51.100.10
VIP_DR=198.51.100.20
VIP_IPIP=198.51.100.30
VIPS=("$VIP_NAT" "$VIP_DR" "$VIP_IPIP")
CLIENT_IP=198.51.100.2
DIRECTOR_CLIENT_IP=198.51.100.254
DIRECTOR_SERVER_IP=10.0.0.254
REALS=(1 2 3)
# Namespaces that a test wants besides, named before this file is read; it plugs them itself.
[ -n "${MORE_NAMESPACES+set}" ] || MORE_NAMESPACES=()

# What the world itself takes; tests add their own.
WORLD_PACKAGES=(iproute2 procps nginx-light curl jq)

real_ip() { printf '10.0.0.%d\n' $((10 + $1)); }

# ns NAME: prints the namespace's name. Names: cl (client), dir (director), rt (router),
# r1, r2, r3.
ns() { printf '%s-%s\n' "$WORLD" "$1"; }

# in_ns NAME COMMAND…: runs a command there. In the background `$!` is that of a shell
# around it, good to wait for; what is to get signals is started by start_in.
in_ns() {
    local name=$1
    shift
    # A proxy that is set up for the outside does not exist in there.
    no_proxy='*' NO_PROXY='*' ip netns exec "$WORLD-$name" "$@"
}

# start_in NAME LOG COMMAND…: starts a background process that world_down ends; its
# process id is in STARTED.
start_in() {
    local name=$1 file=$2
    shift 2
    ip netns exec "$WORLD-$name" "$@" >"$file" 2>&1 </dev/null &
    STARTED=$!
    WORLD_PIDS+=("$STARTED")
}

# install_packages PACKAGE…: need_packages, but nothing that is installed starts a service
# (nginx would, on port 80 of this machine).
install_packages() {
    local policy=/usr/sbin/policy-rc.d made=
    if [ "$(id -u)" -eq 0 ] && [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && made=1
    fi
    (need_packages "$@")
    local status=$?
    [ -z "$made" ] || rm -f "$policy"
    return $status
}

# need_tap: stops unless the kernel offers what the world is made of.
need_tap() {
    need_root "it makes network namespaces and TAP devices"
    if [ ! -c /dev/net/tun ]; then
        mkdir -p /dev/net
        mknod /dev/net/tun c 10 200 2>/dev/null || true
    fi
    (: <>/dev/net/tun) 2>/dev/null || die "/dev/net/tun cannot be opened: load the module (modprobe tun), or give the container that device"
}

# world_up [PREFIX]: makes the namespaces, starts nginx and the tunnel ends.
# Afterwards: WORLD (prefix of the namespaces), WORLD_DIR (scratch directory).
world_up() {
    need_tap
    WORLD=${1:-plx}$$
    WORLD_DIR=$(mktemp -d "/tmp/$WORLD.XXXXXX")
    WORLD_PIDS=()
    trap world_down EXIT
    trap 'exit 130' INT TERM HUP
    local name
    for name in cl dir rt "${REALS[@]/#/r}" "${MORE_NAMESPACES[@]}"; do
        ip netns add "$WORLD-$name" || die "cannot make network namespaces: is CAP_SYS_ADMIN there? (a container needs --privileged)"
        # The names inside are short and the same for every run.
        in_ns "$name" ip link set lo up
        # The replies of direct routing come in on another leg than the requests left by.
        in_ns "$name" sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
        in_ns "$name" sysctl -qw net.ipv6.conf.all.accept_ra=0 net.ipv6.conf.default.accept_ra=0
    done
    bridges_up
    clients_up
    for name in "${REALS[@]}"; do
        real_up "$name"
    done
}

bridges_up() {
    local bridge filter
    for bridge in brc brs; do
        in_ns dir ip link add "$bridge" type bridge mcast_snooping 0
        in_ns dir ip link set "$bridge" up
        # The bridges are switches: the director's kernel has no address in these networks.
        in_ns dir sysctl -qw "net.ipv6.conf.$bridge.disable_ipv6=1"
    done
    # Nor does it look into the packets: where bridges pass netfilter, malformed ones would
    # end there and never reach polluxd.
    for filter in iptables ip6tables arptables; do
        in_ns dir sysctl -qw "net.bridge.bridge-nf-call-$filter=0" 2>/dev/null || true
    done
}

# plug NAME DEVICE BRIDGE ADDRESS: a cable from a namespace to a bridge.
plug() {
    local name=$1 device=$2 bridge=$3 address=$4 far="$1-$2"
    ip link add "$device" netns "$WORLD-$name" type veth peer name "$far" netns "$WORLD-dir"
    in_ns dir ip link set "$far" master "$bridge" up
    in_ns dir sysctl -qw "net.ipv6.conf.$far.disable_ipv6=1"
    in_ns "$name" ip addr add "$address" dev "$device"
    in_ns "$name" ip link set "$device" up
}

# director_cable A B: a cable within the director's namespace, its kernel not talking.
director_cable() {
    in_ns dir ip link add "$1" type veth peer name "$2"
    in_ns dir sysctl -qw "net.ipv6.conf.$1.disable_ipv6=1" "net.ipv6.conf.$2.disable_ipv6=1"
    in_ns dir ip link set "$1" up
    in_ns dir ip link set "$2" up
}

# whole_checksums: the hosts sum up what they send. What a kernel leaves to a device that is none
# would arrive unfinished at a program that reads the cable's other end (a TAP finishes it).
whole_checksums() {
    local n
    for n in cl/eth0 rt/eth0 rt/eth1 "${REALS[@]/#/r}"; do
        in_ns "${n%/*}" ethtool -K "$([[ $n == */* ]] && echo "${n#*/}" || echo eth0)" tx off >/dev/null
    done
}

clients_up() {
    plug cl eth0 brc "$CLIENT_IP/24"
    plug rt eth0 brc 198.51.100.1/24
    plug rt eth1 brs 10.0.0.1/24
    in_ns rt sysctl -qw net.ipv4.ip_forward=1
    # Many short connections: closed ones must not use up the ports.
    in_ns cl sysctl -qw "net.ipv4.ip_local_port_range=1024 65000"
}

# real_up N: one real server: addresses, routes, nginx, tunnel end.
real_up() {
    local n=$1 name="r$1" vip
    plug "$name" eth0 brs "$(real_ip "$n")/24"
    # It has the VIPs, but does not say so on the wire.
    in_ns "$name" sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
    for vip in "$VIP_DR" "$VIP_IPIP"; do
        in_ns "$name" ip addr add "$vip/32" dev lo
    done
    in_ns "$name" ip route add default via "$DIRECTOR_SERVER_IP"
    in_ns "$name" ip route add default via 10.0.0.1 table 100
    in_ns "$name" ip rule add from 198.51.100.0/24 lookup 100
    nginx_config "$n" >"$WORLD_DIR/nginx$n.conf"
    start_in "$name" "$WORLD_DIR/nginx$n.log" nginx -e "$WORLD_DIR/nginx$n.error" -c "$WORLD_DIR/nginx$n.conf"
    if [ -n "${TUNNEL_END:-}" ]; then
        start_in "$name" "$WORLD_DIR/tunnel$n.log" "$TUNNEL_END"
    fi
}

# nginx_config N: answers every request with its name and the client's address; on port
# 80 (direct routing and tunnels keep the port) and 8080 (NAT maps it). /1m is a megabyte.
nginx_config() {
    local page="$WORLD_DIR/pages"
    if [ ! -d "$page" ]; then
        mkdir "$page" && chmod 755 "$page" "$WORLD_DIR"
        head -c 1048576 /dev/urandom >"$page/1m"
    fi
    cat <<CONFIG
daemon off;
master_process off;
user root;
pid $WORLD_DIR/nginx$1.pid;
events { worker_connections 4096; }
http {
    access_log off;
    keepalive_requests 1000000;
    client_body_temp_path $WORLD_DIR/body$1;
    proxy_temp_path $WORLD_DIR/proxy$1;
    fastcgi_temp_path $WORLD_DIR/fastcgi$1;
    uwsgi_temp_path $WORLD_DIR/uwsgi$1;
    scgi_temp_path $WORLD_DIR/scgi$1;
    server {
        listen 80 backlog=4096;
        listen [::]:80 backlog=4096;
        listen 8080 backlog=4096;
        listen [::]:8080 backlog=4096;
        client_max_body_size 16m;
        location = /1m { root $page; }
        location / { return 200 "real$1 \$remote_addr\n"; }
    }
}
CONFIG
}

# world_remove: ends what was started here and removes the namespaces.
world_remove() {
    local pid name
    [ -n "${WORLD:-}" ] || return 0
    daemon_stop
    for pid in "${WORLD_PIDS[@]}"; do
        stop_pid "$pid" 2
    done
    for name in cl dir rt "${REALS[@]/#/r}" "${MORE_NAMESPACES[@]}"; do
        ip netns del "$WORLD-$name" 2>/dev/null || true
    done
    rm -rf "$WORLD_DIR"
    WORLD=
}

# world_down: the same at the end of a script, whatever the reason.
world_down() {
    local status=$?
    trap - EXIT
    if [ "$status" -ne 0 ] && [ -n "${E2E_KEEP_LOGS:-}" ] && [ -n "${WORLD:-}" ]; then
        cp -r "$WORLD_DIR" "$WORLD_DIR.kept"
        log "what was logged is in $WORLD_DIR.kept"
    fi
    world_remove
    exit "$status"
}

# world_ready: waits until the real servers answer on their own addresses.
world_ready() {
    local n
    for n in "${REALS[@]}"; do
        wait_until 10 in_ns rt curl -sf --max-time 1 "http://$(real_ip "$n")/" ||
            die "nginx of real server $n does not answer: $(cat "$WORLD_DIR/nginx$n.log" "$WORLD_DIR/nginx$n.error" 2>/dev/null | tail -n 3)"
        [ -z "${TUNNEL_END:-}" ] || wait_until 5 grep -q ready "$WORLD_DIR/tunnel$n.log" ||
            die "the tunnel end of real server $n did not start: $(tail -n 3 "$WORLD_DIR/tunnel$n.log")"
    done
}

# binaries: finds or builds polluxd, polluxctl and tunnel-end; sets POLLUXD, POLLUXCTL,
# TUNNEL_END. POLLUX_BIN_DIR names a directory that has them.
binaries() {
    local dir
    dir=$(build_release -p pollux -p pollux-control -p pollux-tests --bin polluxd --bin polluxctl --bin tunnel-end) || exit 1
    POLLUXD=$dir/polluxd POLLUXCTL=$dir/polluxctl TUNNEL_END=$dir/tunnel-end
    local program
    for program in "$POLLUXD" "$POLLUXCTL" "$TUNNEL_END"; do
        [ -x "$program" ] || die "$program is missing; unset POLLUX_BIN_DIR, or build it: cargo build --release"
    done
}
