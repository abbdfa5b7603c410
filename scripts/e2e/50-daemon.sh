#!/usr/bin/env bash
# The daemon as a process: --check, a second one on the same socket, SIGHUP, SIGTERM.
. "$(dirname "$0")/start.sh"

socket=$WORLD_DIR/pollux.sock
check "--check accepts the configuration" "$POLLUXD" --check --config "$WORLD_DIR/pollux.toml"
sed 's/^scheduler = "rr"/schedular = "rr"/' "$WORLD_DIR/pollux.toml" >"$WORLD_DIR/wrong.toml"
said=$("$POLLUXD" --check --config "$WORLD_DIR/wrong.toml" 2>&1)
check_equal "--check refuses a wrong one" 1 $?
check_match "and names the place" 'wrong.toml:[0-9]+:[0-9]+: .*schedular' "$said"

# A second daemon: other devices, the same socket.
sed -e 's/plxc0/plxd0/; s/plxs0/plxt0/' -e "s/^file_prefix = .*/file_prefix = \"$WORLD-2\"/" "$WORLD_DIR/pollux.toml" >"$WORLD_DIR/second.toml"
said=$(in_ns dir timeout 20 "$POLLUXD" --config "$WORLD_DIR/second.toml" 2>&1)
status=$?
[ "$status" -ne 0 ] && [ "$status" -ne 124 ]
check_equal "a second daemon on the same socket ends at once with an error" 0 $?
check_match "and says why" 'pollux.sock' "$said"
check "the first one answers on" ctl version
check_equal "and its socket is not touched: requests are answered" 30 "$(requests "$VIP_NAT" 30 | grep -c '^real')"
check_equal "the socket's mode is 0660" 660 "$(stat -c %a "$socket")"

# SIGHUP: the file is read again, connections stay.
sed 's/^scheduler = "rr"/scheduler = "wrr"/' "$WORLD_DIR/pollux.toml" >"$WORLD_DIR/new.toml"
mv "$WORLD_DIR/new.toml" "$WORLD_DIR/pollux.toml"
has_wrr() {
    [ "$(ctl --json service list | jq '[.. | objects | select(.scheduler? == "wrr")] | length')" -eq 3 ]
}
in_ns cl curl -s --max-time 20 --limit-rate 400k -o "$WORLD_DIR/got" "http://$VIP_NAT/1m" &
download=$!
sleep 0.5
kill -HUP "$DAEMON_PID"
check "SIGHUP reads the file again" wait_until 5 has_wrr
wait "$download"
check_equal "a download that ran meanwhile is whole" 0 "$(cmp "$WORLD_DIR/got" "$WORLD_DIR/pages/1m" >/dev/null; echo $?)"
cp "$WORLD_DIR/wrong.toml" "$WORLD_DIR/pollux.toml"
kill -HUP "$DAEMON_PID"
sleep 0.5
check "SIGHUP with a wrong file changes nothing" has_wrr
check_match "and the log says what is wrong" 'schedular' "$(cat "$WORLD_DIR/polluxd.log")"
sed -i 's/^schedular/scheduler/' "$WORLD_DIR/pollux.toml"

# SIGTERM: ends by itself, status 0, the socket and the devices are gone.
daemon_stop 10
check_equal "SIGTERM ends it with status 0" 0 "$DAEMON_STATUS"
check_equal "its socket is gone" no "$([ -e "$socket" ] && echo yes || echo no)"
check_equal "its devices are gone" no "$(in_ns dir test -e /sys/class/net/plxc0 && echo yes || echo no)"

# A stale socket, as a crash leaves it.
daemon_start
daemon_kill
check_equal "kill -9 leaves the socket behind" yes "$([ -S "$socket" ] && echo yes || echo no)"
daemon_start
check "the next daemon takes the stale socket over" ctl version
# Something else at that path is not removed.
daemon_stop
echo precious >"$socket"
said=$(in_ns dir timeout 20 "$POLLUXD" --config "$WORLD_DIR/pollux.toml" 2>&1)
check_equal "a file at the socket's path is left alone" precious "$(cat "$socket")"
rm -f "$socket"

# Logs for programs.
printf '\n[log]\nformat = "json"\n' >>"$WORLD_DIR/pollux.toml"
daemon_start
daemon_stop
check_equal "with log.format = json its lines are objects" '["ready","stopped"]' \
    "$(grep '^{' "$WORLD_DIR/polluxd.log" | jq -s -c '[.[].message | select(. == "ready" or . == "stopped")]')"
test_done
