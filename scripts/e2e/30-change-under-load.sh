#!/usr/bin/env bash
# Servers come and go under load, and no established connection notices.
E2E_CONFIG=two_servers
two_servers() {
    daemon_config 2
    service "tcp:$VIP_NAT:80" nat 8080 rr 1 2
    service "tcp:$VIP_DR:80" dr 80 rr 1 2
    service "tcp:$VIP_IPIP:80" ipip 80 rr 1 2
}
. "$(dirname "$0")/start.sh" wrk

# connections SERVICE SERVER: active connections, as polluxctl tells them.
connections() {
    ctl --json server list "$1" | jq --arg a "$2" '[.. | objects | select(.address? == $a) | .active_connections] | add // 0'
}

none_active() {
    [ "$(connections "$1" "$2")" -eq 0 ]
}

for mode in nat dr ipip; do
    vip=VIP_${mode^^}
    vip=${!vip}
    port=80
    [ "$mode" != nat ] || port=8080
    service="tcp:$vip:80" third="$(real_ip 3):$port"

    # Two kinds of load over all of what follows: connections that live as long as the
    # test, and short ones. wrk counts every request that fails and every broken connection.
    in_ns cl wrk -t1 -c24 -d6s --timeout 4s "http://$vip/" >"$WORLD_DIR/long" 2>&1 &
    long=$!
    in_ns cl wrk -t1 -c4 -d6s --timeout 4s -H 'Connection: close' "http://$vip/" >"$WORLD_DIR/short" 2>&1 &
    short=$!
    sleep 1
    check "$mode: add a server under load" ctl server add "$service" "$third" --mode "$mode"
    sleep 1
    check_at_least "$mode: it gets connections" 1 "$(ctl --json server list "$service" | jq --arg a "$third" '[.. | objects | select(.address? == $a) | .traffic.connections] | add // 0')"
    check "$mode: drain it" ctl server set "$service" "$third" --weight 0
    # Long connections never went there (they are older than the server), so the drain ends.
    check "$mode: its connections come to an end" wait_until 5 none_active "$service" "$third"
    check "$mode: remove it" ctl server del "$service" "$third"
    wait "$long" "$short"
    for kind in long short; do
        check_match "$mode: the $kind connections made requests" '[1-9][0-9]* requests in' "$(cat "$WORLD_DIR/$kind")"
        check_equal "$mode: no $kind connection was disturbed" "" "$(grep -E 'Socket errors|Non-2xx' "$WORLD_DIR/$kind")"
    done
done
test_done
