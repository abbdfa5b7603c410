#!/usr/bin/env bash
# HTTP through each forwarding mode: requests on connections of their own, shares of the
# servers, wrk with keep-alive, 1,000 short connections and more by wrk, a megabyte down.
. "$(dirname "$0")/start.sh" wrk

# wrk_run VIP SECONDS [ARGUMENT…]: fails when any request did; prints what wrk said.
wrk_run() {
    local vip=$1 seconds=$2 said
    shift 2
    said=$(in_ns cl wrk -t1 -d"${seconds}s" --timeout 5s "$@" "http://$vip/") || return 1
    printf '%s\n' "$said"
    ! grep -Eq 'Socket errors|Non-2xx' <<<"$said"
}

# many_short VIP: a second at a time until 1,000 connections are through.
many_short() {
    local n=0 said
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        said=$(wrk_run "$1" 1 -c16 -H 'Connection: close') || { echo "$said" && return 1; }
        n=$((n + $(sed -n 's/^ *\([0-9]*\) requests in.*/\1/p' <<<"$said")))
        [ "$n" -lt 1000 ] || return 0
    done
    echo "only $n requests in ten seconds" && return 1
}

download() {
    local size
    size=$(in_ns cl curl -s --max-time 20 -o "$WORLD_DIR/got" -w '%{size_download}' "http://$1/1m")
    [ "$size" = 1048576 ] && cmp "$WORLD_DIR/got" "$WORLD_DIR/pages/1m"
}

for mode in nat dr ipip; do
    vip=VIP_${mode^^}
    vip=${!vip}
    answers=$(requests "$vip" 90 3)
    check_equal "$mode: 90 requests, 90 answers" 90 "$(grep -Ec '^real[123] ' <<<"$answers")"
    # Round robin, but each worker for itself: equal shares up to one round per worker.
    check_at_least "$mode: every server gets its share" 20 "$(awk '{ n[$1]++ } END { print n["real1"] < n["real2"] ? (n["real1"] < n["real3"] ? n["real1"] : n["real3"]) : (n["real2"] < n["real3"] ? n["real2"] : n["real3"]) }' <<<"$answers")"
    check_equal "$mode: servers see the client's own address" "$CLIENT_IP" "$(awk '{ print $2 }' <<<"$answers" | sort -u)"
    check "$mode: wrk with keep-alive, no failed request" wrk_run "$vip" 2 -c32
    check "$mode: 1,000 short connections by wrk, no failed request" many_short "$vip"
    check "$mode: a megabyte down arrives whole" download "$vip"
done
check_at_least "both workers had packets" 1 "$(ctl --json stats | jq '[.workers[].counters.flows_opened] | min')"
test_done
