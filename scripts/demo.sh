#!/usr/bin/env bash
# Pollux at work, from nothing: see --help.
set -euo pipefail
# shellcheck source=e2e/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/e2e/lib.sh"

REQUESTS=300

help() {
    cat <<'HELP'
usage: scripts/demo.sh [--keep]

As root, on Debian 12 or newer: installs what is missing, builds Pollux, and makes a small
world of network namespaces: a client, a director with two TAP ports and two workers, and
three real servers with nginx. Then the client sends 300 requests, each on a connection of
its own, to a service with NAT, one with direct routing and one with IPIP tunnels. Shown
are which server answered how often, and what polluxctl has to say. Everything that was
made is removed again.

  --keep   leave it running, and say what to type; the next Ctrl-C or `exit` removes it

The last line is `demo: nat 300/300 dr 300/300 ipip 300/300` (answered/sent); the exit
status is 0 only if every request was answered.
HELP
}

keep=
case ${1:-} in
-h | --help) help && exit 0 ;;
--keep) keep=1 ;;
'') ;;
*) usage_error "unknown argument $1" ;;
esac
[ $# -le 1 ] || usage_error "too many arguments"

title() {
    printf '\n== %s\n' "$*"
}

# show COMMAND…: prints the command as one would type it, then what it prints.
show() {
    printf '\n$ polluxctl %s\n' "$*"
    ctl "$@" || die "polluxctl $* failed"
}

# ask MODE VIP: sends the requests, shows who answered; the number answered is in ANSWERED.
ask() {
    local mode=$1 vip=$2
    title "$mode: $REQUESTS requests to http://$vip/, one connection each"
    requests "$vip" "$REQUESTS" 4 >"$WORLD_DIR/answers"
    ANSWERED=$(grep -Ec '^real[123] ' "$WORLD_DIR/answers") || true
    awk '{ n[$1]++; seen[$1] = $2 } END { for (r in n) printf "%s answered %d times; it saw the client as %s\n", r, n[r], seen[r] }' \
        "$WORLD_DIR/answers" | sort
}

need_tap
install_packages "${WORLD_PACKAGES[@]}" "${BUILD_PACKAGES[@]}"
binaries

title "a client, a director, three real servers"
world_up demo
world_ready
{
    daemon_config 2
    daemon_services
} >"$WORLD_DIR/pollux.toml"
daemon_start
printf 'polluxd runs with two workers on two TAP ports, process %s\n' "$DAEMON_PID"

ask nat "$VIP_NAT"
nat=$ANSWERED
ask dr "$VIP_DR"
dr=$ANSWERED
ask ipip "$VIP_IPIP"
ipip=$ANSWERED

title "what polluxctl says"
show service list
show server list
show stats
show flows --limit 6
show neighbours
show ports

if [ -n "$keep" ]; then
    title "it is all still there"
    cat <<TYPE
In another terminal, as root:

  alias ctl='$POLLUXCTL --socket $WORLD_DIR/pollux.sock'
  ctl service list                               # or: stats, flows, neighbours, ports
  ip netns exec $WORLD-cl curl http://$VIP_NAT/         # $VIP_DR direct routing, $VIP_IPIP IPIP
  ctl server set tcp:$VIP_NAT:80 10.0.0.11:8080 --weight 0      # drain one server
  ip netns exec $WORLD-dir tcpdump -nni plxs0           # what the director sends to the servers
  curl --unix-socket $WORLD_DIR/pollux.sock http://pollux/v1/services

The configuration is $WORLD_DIR/pollux.toml, the log $WORLD_DIR/polluxd.log.
Press Enter or Ctrl-C here to take it all away.
TYPE
    read -r _ || sleep infinity
fi

status=0
if [ "$nat/$dr/$ipip" != "$REQUESTS/$REQUESTS/$REQUESTS" ]; then
    status=1
    title "the end of polluxd's log"
    tail -n 20 "$WORLD_DIR/polluxd.log"
fi
trap - EXIT
world_remove
printf '\ndemo: nat %d/%d dr %d/%d ipip %d/%d\n' "$nat" $REQUESTS "$dr" $REQUESTS "$ipip" $REQUESTS
exit $status
