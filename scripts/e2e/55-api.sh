#!/usr/bin/env bash
# The API of a real daemon by curl, and polluxctl: listings, changes, errors, exit codes.
. "$(dirname "$0")/start.sh"

# status METHOD PATH [CURL ARGUMENT…]: the HTTP status.
status() {
    api "$@" -o /dev/null -w '%{http_code}'
}
json='Content-Type: application/json'
vip=192.0.2.1

for path in healthz version status services stats flows neighbours ports timeouts config openapi.json; do
    check_equal "GET /v1/$path" 200 "$(status GET "/v1/$path")"
    check "GET /v1/$path is JSON" jq -e . <<<"$(api GET "/v1/$path")"
done
# The whole configuration that runs: what the file says, what it leaves out, and what the API changed.
config=$(api GET /v1/config)
check_equal "the configuration has the ports" "$(api GET /v1/ports | jq '.ports | length')" "$(jq '.ports | length' <<<"$config")"
check_equal "the workers" "$(api GET /v1/status | jq '.adopted | length')" "$(jq '.workers.cores | length' <<<"$config")"
check_equal "addresses, routes, settings, limits, time-outs" true \
    "$(jq '(.ports[0].addresses | length > 0) and (.routes | type == "array") and (.settings | has("routing"))
        and (.limits.max_services > 0) and (.timeouts.tcp_established > 0)' <<<"$config")"
check_equal "all services with their servers" "$(api GET /v1/services | jq -c '[.services[] | [.address, (.servers | length)]]')" \
    "$(jq -c '[.services[] | [.address, (.servers | length)]]' <<<"$config")"
check_equal "time-outs are changed" 200 "$(status PATCH /v1/timeouts -H "$json" -d '{"udp_s": 123}')"
check_equal "and shown as changed" 123 "$(api GET /v1/config | jq .timeouts.udp)"
check_equal "and back" 200 "$(status PATCH /v1/timeouts -H "$json" -d '{"udp_s": 300}')"
ctl config show >"$WORLD_DIR/running.toml"
check "polluxctl config show is a file that polluxd takes" ctl config check "$WORLD_DIR/running.toml"

check_equal "an unknown path" 404 "$(status GET /v1/nonsense)"
check_equal "a wrong method" 405 "$(status DELETE /v1/version)"
check_equal "a service that is not there" 404 "$(status GET /v1/services/tcp:192.0.2.9:80)"
check_match "and the error is for programs" '"code": *"no_such_service"' "$(api GET /v1/services/tcp:192.0.2.9:80)"

check_equal "add a service" 201 "$(status POST /v1/services -H "$json" -d "{\"address\": \"tcp:$vip:80\", \"scheduler\": \"wrr\"}")"
check_equal "not twice" 409 "$(status POST /v1/services -H "$json" -d "{\"address\": \"tcp:$vip:80\"}")"
check_equal "add a server" 201 "$(status POST "/v1/services/tcp:$vip:80/servers" -H "$json" -d '{"address": "10.0.0.11:80", "mode": "nat"}')"
check_equal "change its weight" 200 "$(status PATCH "/v1/services/tcp:$vip:80/servers/10.0.0.11:80" -H "$json" -d '{"weight": 7}')"
check_equal "the weight is as changed" 7 "$(api GET "/v1/services/tcp:$vip:80" | jq '.servers[0].weight')"
check_equal "an unknown field is an error" 400 "$(status PATCH "/v1/services/tcp:$vip:80" -H "$json" -d '{"colour": "red"}')"
check_equal "a weight out of range is an error" 400 "$(status PATCH "/v1/services/tcp:$vip:80/servers/10.0.0.11:80" -H "$json" -d '{"weight": 2147483648}')"
check_equal "no JSON is an error" 400 "$(status POST /v1/services -H "$json" -d '{')"

before=$(api GET /v1/services | jq length)
check_equal "a batch with a mistake is refused" 409 "$(status POST /v1/batch -H "$json" -d "{\"operations\": [
    {\"op\": \"add-service\", \"service\": {\"address\": \"tcp:$vip:81\"}},
    {\"op\": \"add-service\", \"service\": {\"address\": \"tcp:$vip:80\"}}]}")"
check_equal "and nothing of it is done" "$before" "$(api GET /v1/services | jq length)"
check_equal "delete the service" 200 "$(status DELETE "/v1/services/tcp:$vip:80")"

head -c 20000000 /dev/zero >"$WORLD_DIR/big"
check_equal "a request that is too large" 413 "$(status POST /v1/services -H "$json" -H 'Expect:' --data-binary "@$WORLD_DIR/big")"
check "the daemon is well after that" ctl version

# polluxctl: exit status 0, 1 (refused), 2 (wrong usage).
exit_of() {
    "$@" >/dev/null 2>&1
    echo $?
}
check_equal "polluxctl adds a service" 0 "$(exit_of ctl service add "tcp:$vip:80" --scheduler wlc)"
check_equal "polluxctl: refused is 1" 1 "$(exit_of ctl service add "tcp:$vip:80")"
check_equal "polluxctl: wrong usage is 2" 2 "$(exit_of ctl service frobnicate)"
check_equal "polluxctl: no daemon is 1" 1 "$(exit_of "$POLLUXCTL" --socket "$WORLD_DIR/nobody.sock" version)"
check_match "and says what to do" 'polluxd|socket' "$("$POLLUXCTL" --socket "$WORLD_DIR/nobody.sock" version 2>&1)"
check_equal "polluxctl adds a server" 0 "$(exit_of ctl server add "tcp:$vip:80" 10.0.0.11:80 --mode nat --weight 3)"
check_equal "polluxctl changes it" 0 "$(exit_of ctl server set "tcp:$vip:80" 10.0.0.11:80 --weight 5)"
check_match "polluxctl lists it" '10\.0\.0\.11:80.* 5( |$)' "$(ctl server list "tcp:$vip:80")"
check_equal "polluxctl removes it" 0 "$(exit_of ctl server del "tcp:$vip:80" 10.0.0.11:80)"
check_equal "polluxctl removes the service" 0 "$(exit_of ctl service del "tcp:$vip:80")"
for command in "service list" stats flows neighbours ports version; do
    # shellcheck disable=SC2086
    check "polluxctl $command" ctl $command
    # shellcheck disable=SC2086
    check "polluxctl --json $command is JSON" jq -e . <<<"$(ctl --json $command)"
done

# What the README shows is right usage: without a daemon it is refused with 1, not 2.
while read -r -a words; do
    check_equal "README: polluxctl ${words[*]}" 1 "$(exit_of "$POLLUXCTL" --socket "$WORLD_DIR/nobody.sock" "${words[@]}")"
done < <(sed -n 's/^\$ polluxctl \([^#]*\).*/\1/p' "$(repo_root)/README.md")

requests "$VIP_NAT" 20 >/dev/null
check_at_least "flows are listed" 20 "$(api GET '/v1/flows?limit=1000' | jq '.flows | length')"
check_equal "by pages" 5 "$(api GET '/v1/flows?limit=5' | jq '.flows | length')"
check_equal "and filtered" 0 "$(api GET '/v1/flows?client=192.0.2.77' | jq '.flows | length')"
check_equal "20 connections are counted" 20 "$(api GET "/v1/services/tcp:$VIP_NAT:80" | jq '.traffic.connections')"
test_done
