# Starting, asking and stopping the polluxd of a world (see lib.sh, which sources this).
# shellcheck shell=bash

DAEMON_PID=

# ctl ARGUMENT…: polluxctl on this world's socket.
ctl() {
    "$POLLUXCTL" --socket "$WORLD_DIR/pollux.sock" "$@"
}

# api METHOD PATH [CURL ARGUMENT…]: the same socket by plain HTTP.
api() {
    local method=$1 path=$2
    shift 2
    curl -s --noproxy '*' --max-time 5 --unix-socket "$WORLD_DIR/pollux.sock" -X "$method" "$@" "http://pollux$path"
}

# daemon_config [WORKERS [FLOWS]]: prints the part of the configuration that is about the
# machine: ports, addresses, limits. Services come from daemon_services or a test.
daemon_config() {
    local workers=${1:-2} flows=${2:-65536} cores
    # Workers share cores when there are fewer; `relax` lets the others run.
    cores=$(seq -s, 0 $((workers - 1)))
    cat <<CONFIG
[dpdk]
no_huge = true                 # tests must run where no huge pages are set up
file_prefix = "$WORLD"
eal_args = ["--no-pci", "--no-telemetry"]

[workers]
cores = [$cores]
idle = "relax"                 # clients and servers run on the same cores
flow_capacity = $flows

[[port]]
name = "front"
device = "net_tap0,iface=plxc0"
addresses = ["$DIRECTOR_CLIENT_IP/24"]

[[port]]
name = "back"
device = "net_tap1,iface=plxs0"
addresses = ["$DIRECTOR_SERVER_IP/24"]

[[route]]
to = "default"
via = "198.51.100.1"

[api]
socket = "$WORLD_DIR/pollux.sock"

[state]
file = "$WORLD_DIR/state.json"
CONFIG
}

# service ADDRESS MODE PORT [SCHEDULER [REAL…]]: prints a service with its real servers.
service() {
    local address=$1 mode=$2 port=$3 scheduler=${4:-rr} n
    shift 3
    [ $# -eq 0 ] || shift
    printf '\n[[service]]\naddress = "%s"\nscheduler = "%s"\n' "$address" "$scheduler"
    for n in "${@:-"${REALS[@]}"}"; do
        printf '\n[[service.server]]\naddress = "%s:%s"\nmode = "%s"\n' "$(real_ip "$n")" "$port" "$mode"
    done
}

# daemon_services: the three services that most tests use, one for each forwarding mode.
daemon_services() {
    service "tcp:$VIP_NAT:80" nat 8080
    service "tcp:$VIP_DR:80" dr 80
    service "tcp:$VIP_IPIP:80" ipip 80
}

# daemon_start [OPTION…]: starts polluxd with $WORLD_DIR/pollux.toml in the director's
# namespace, plugs its TAP ports into the bridges and waits until it answers.
daemon_start() {
    ip netns exec "$WORLD-dir" "$POLLUXD" --config "$WORLD_DIR/pollux.toml" "$@" >>"$WORLD_DIR/polluxd.log" 2>&1 </dev/null &
    DAEMON_PID=$!
    wait_until 30 taps_there || daemon_died "its TAP devices did not appear"
    alive "$DAEMON_PID" || daemon_died "the process ended"
    plug_taps
    wait_until 30 daemon_answers || daemon_died "it does not answer on its socket"
    alive "$DAEMON_PID" || daemon_died "the process ended"
}

daemon_died() {
    tail -n 30 "$WORLD_DIR/polluxd.log" >&2
    die "polluxd did not start: $1; the end of its log is above"
}

# The two conditions below also hold when there is nothing to wait for, as the daemon ended.
taps_there() {
    alive "$DAEMON_PID" || return 0
    in_ns dir test -e /sys/class/net/plxc0 -a -e /sys/class/net/plxs0
}

daemon_answers() {
    alive "$DAEMON_PID" || return 0
    ctl version
}

plug_taps() {
    local tap
    # The addresses are polluxd's: the kernel of the director's namespace stays out.
    for tap in plxc0 plxs0; do
        in_ns dir sysctl -qw "net.ipv6.conf.$tap.disable_ipv6=1"
    done
    # The kernel's end of a TAP starts with the port's own Ethernet address. In a bridge that
    # would make the address the bridge's, and frames for polluxd would never reach it.
    in_ns dir ip link set plxc0 address 02:50:4c:58:00:0c
    in_ns dir ip link set plxs0 address 02:50:4c:58:00:05
    in_ns dir ip link set plxc0 master brc up
    in_ns dir ip link set plxs0 master brs up
}

# daemon_stop [SECONDS]: ends it by SIGTERM; its exit status is in DAEMON_STATUS.
daemon_stop() {
    [ -n "$DAEMON_PID" ] || return 0
    kill -TERM "$DAEMON_PID" 2>/dev/null || true
    wait_until "${1:-10}" dead "$DAEMON_PID" || kill -KILL "$DAEMON_PID" 2>/dev/null || true
    DAEMON_STATUS=0
    wait "$DAEMON_PID" 2>/dev/null || DAEMON_STATUS=$?
    DAEMON_PID=
}

# daemon_kill: kill -9, as a crash would.
daemon_kill() {
    kill -KILL "$DAEMON_PID"
    wait "$DAEMON_PID" 2>/dev/null || true
    DAEMON_PID=
}

# drops REASON: how many packets were dropped for that reason so far.
drops() {
    ctl --json stats | jq --arg r "$1" '[.drops[] | select(.reason == $r) | .packets] | add // 0'
}

# counter NAME: a worker counter, summed over the workers.
counter() {
    ctl --json stats | jq --arg n "$1" '[.workers[].counters[$n] // 0] | add'
}

# requests VIP N [PARALLEL]: N requests from the client, each on a connection of its own;
# prints what was answered, one line each.
requests() {
    local vip=$1 n=$2 parallel=${3:-4} i from to pids=()
    for ((i = 0; i < parallel; i++)); do
        from=$((i * n / parallel + 1)) to=$(((i + 1) * n / parallel))
        [ "$to" -ge "$from" ] || continue
        # By a name, as the brackets of an IPv6 address are curl's own.
        in_ns cl curl -s --max-time 4 -H 'Connection: close' --resolve "vip:80:[$vip]" "http://vip/?[$from-$to]" >"$WORLD_DIR/answers.$i" &
        pids+=($!)
    done
    for i in "${pids[@]}"; do
        wait "$i" || true
    done
    cat "$WORLD_DIR"/answers.*
    rm -f "$WORLD_DIR"/answers.*
}
