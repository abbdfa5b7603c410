#!/usr/bin/env bash
# kill -9 in the middle of changes: what was accepted is there after the restart, what was
# not is there as a whole or not at all, and the stale socket is taken over.
. "$(dirname "$0")/start.sh"

# writer: adds services one by one until told to stop; the accepted ones are listed.
writer() {
    local i answer
    for ((i = 1; ; i++)); do
        answer=$(api POST /v1/services -H 'Content-Type: application/json' \
            -d "{\"address\": \"tcp:198.51.101.$((i % 250 + 1)):$((1000 * $1 + i))\", \"servers\": [{\"address\": \"10.0.0.11:80\", \"mode\": \"nat\"}, {\"address\": \"10.0.0.12:80\", \"mode\": \"nat\"}]}") || return 0
        [ -z "$answer" ] && return 0
        if jq -e '.generation > 0' <<<"$answer" >/dev/null 2>&1; then
            printf 'tcp:198.51.101.%d:%d\n' $((i % 250 + 1)) $((1000 * $1 + i)) >>"$WORLD_DIR/accepted"
        else
            printf '%s\n' "$answer" >>"$WORLD_DIR/refused"
        fi
    done
}

: >"$WORLD_DIR/accepted"
: >"$WORLD_DIR/refused"
for round in 1 2 3 4 5; do
    writer "$round" &
    writing=$!
    sleep "0.$((RANDOM % 6 + 3))"
    daemon_kill
    wait "$writing"
    daemon_start
    ctl --json service list | jq -r '.. | objects | select(has("scheduler")) | .address' | sort >"$WORLD_DIR/there"
    check_equal "round $round: of $(wc -l <"$WORLD_DIR/accepted") accepted services none is missing after kill -9" "" \
        "$(sort "$WORLD_DIR/accepted" | comm -23 - "$WORLD_DIR/there" | head -n 3)"
    check_equal "round $round: none is there without its servers" 0 \
        "$(ctl --json service list | jq '[.. | objects | select(has("scheduler")) | select((.servers | length) < 2)] | length')"
done
check_at_least "services were accepted in all" 20 "$(wc -l <"$WORLD_DIR/accepted")"
check_equal "no change was refused" "" "$(head -n 3 "$WORLD_DIR/refused")"
check_equal "traffic flows after the crashes" 30 "$(requests "$VIP_NAT" 30 | grep -c '^real')"
test_done
