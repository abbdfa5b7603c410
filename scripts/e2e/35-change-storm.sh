#!/usr/bin/env bash
# 100 changes while 24 long connections are busy: each answered with a higher generation,
# none noticed by a connection.
. "$(dirname "$0")/start.sh" wrk

start_in cl "$WORLD_DIR/long" wrk -t1 -c24 -d300s --timeout 4s "http://$VIP_NAT/"
long=$STARTED
sleep 0.5
last=0 refused=0 backwards=0
for ((i = 0; i < 50; i++)); do
    for change in "POST 10.0.0.99" "DELETE 10.0.0.99"; do
        read -r method address <<<"$change"
        path="/v1/services/tcp:$VIP_NAT:80/servers"
        if [ "$method" = POST ]; then
            answer=$(api POST "$path" -H 'Content-Type: application/json' -d "{\"address\": \"$address:8080\", \"mode\": \"nat\", \"weight\": 0}")
        else
            answer=$(api DELETE "$path/$address:8080")
        fi
        generation=$(jq -r '.generation // 0' <<<"$answer" 2>/dev/null || echo 0)
        [ "$generation" -gt 0 ] || { refused=$((refused + 1)) && printf '    %s\n' "$answer"; }
        [ "$generation" -gt "$last" ] || backwards=$((backwards + 1))
        last=$generation
    done
done
check_equal "100 changes accepted" 0 "$refused"
check_equal "the generation counts up with each" 0 "$backwards"
adopted() {
    [ "$(ctl --json stats | jq '[.workers[].generation] | min')" -ge "$last" ]
}
check "every worker adopts the last one" wait_until 2 adopted
# wrk ends on an interrupt as it does in time, and sums up.
kill -INT "$long"
wait "$long"
check_equal "no connection was disturbed" "" "$(grep -E 'Socket errors|Non-2xx' "$WORLD_DIR/long")"
check_match "and there were requests" '[1-9][0-9]* requests in' "$(cat "$WORLD_DIR/long")"
test_done
