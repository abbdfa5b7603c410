#!/usr/bin/env bash
# HTTP through each mode in both families: requests on connections of their own, wrk with
# keep-alive, and what address servers see.
. "$(dirname "$0")/modes.sh"
E2E_CONFIG=http_config
http_service() {
    # Modes that translate ports do so.
    [[ $1 != *nat ]] || SERVER_PORT=8080
    service_for "$1" "$2" 'address = "tcp:@:80"' 'scheduler = "rr"'
    SERVER_PORT=
}
http_config() {
    modes_config
    everywhere http_service
}
. "$(dirname "$0")/start.sh" wrk
modes_world

http_through() {
    local what="$1 IPv$2" address answers seen said
    address=$(vip "$1" "$2")
    case $1$2 in
    full-nat4) seen=$LOCAL_IP ;;
    full-nat6) seen=$LOCAL_IP6 ;;
    *4) seen=$CLIENT_IP ;;
    *) seen=$CLIENT_IP6 ;;
    esac
    answers=$(requests "$address" 60)
    check_equal "$what: 60 requests, 60 answers from all three servers" "60 3" \
        "$(grep -Ec '^real[123] ' <<<"$answers") $(awk '{ print $1 }' <<<"$answers" | sort -u | wc -l)"
    check_equal "$what: servers see $seen" "$seen" "$(awk '{ print $2 }' <<<"$answers" | sort -u)"
    said=$(in_ns cl wrk -t1 -c16 -d1s --timeout 5s "http://$(bracketed "$address")/" 2>&1)
    check_match "$what: wrk with keep-alive" '^Requests/sec' "$said"
    check_equal "$what: no failed request" "" "$(grep -E 'Socket errors|Non-2xx|unable' <<<"$said")"
}
everywhere http_through
test_done
