# How the end-to-end tests speak (sourced by lib.sh): one line PASS or FAIL for each thing
# tested, details of a failure indented below. The exit status is that of the whole file.
# shellcheck shell=bash

FAILURES=0

pass() {
    printf 'PASS %s\n' "$*"
}

fail() {
    printf 'FAIL %s\n' "$*"
    FAILURES=$((FAILURES + 1))
}

# check WHAT COMMAND…: PASS if the command succeeds, else FAIL with what it printed.
check() {
    local what=$1 output status=0
    shift
    output=$("$@" 2>&1) || status=$?
    if [ "$status" -eq 0 ]; then
        pass "$what"
    else
        fail "$what"
        printf '%s\n' "$output" "(status $status of: $*)" | tail -n 15 | sed 's/^/    /'
    fi
}

# check_equal WHAT EXPECTED ACTUAL.
check_equal() {
    if [ "$2" = "$3" ]; then
        pass "$1"
    else
        fail "$1"
        printf '    expected: %s\n    found:    %s\n' "$2" "$3"
    fi
}

# check_at_least WHAT LEAST ACTUAL (whole numbers).
check_at_least() {
    if [[ "$3" =~ ^[0-9]+$ ]] && [ "$3" -ge "$2" ]; then
        pass "$1 ($3)"
    else
        fail "$1"
        printf '    at least: %s\n    found:    %s\n' "$2" "$3"
    fi
}

# check_match WHAT PATTERN TEXT: TEXT matches the extended regular expression.
check_match() {
    if grep -Eq -- "$2" <<<"$3"; then
        pass "$1"
    else
        fail "$1"
        printf '    wanted: %s\n' "$2"
        printf '%s\n' "$3" | tail -n 15 | sed 's/^/    /'
    fi
}

# test_done: the last line of every test file.
test_done() {
    if [ "$FAILURES" -gt 0 ] && [ -s "$WORLD_DIR/polluxd.log" ]; then
        what_it_says 2>&1 | sed 's/^/    /'
    fi
    [ "$FAILURES" -eq 0 ]
    exit
}

# what_it_says: what polluxd knows and logged, for whoever looks for the reason.
what_it_says() {
    printf 'the end of the log of polluxd:\n'
    tail -n 20 "$WORLD_DIR/polluxd.log"
    alive "$DAEMON_PID" || return 0
    ctl neighbours
    ctl --json stats | jq -c '.workers[] | [.worker, .counters, .drops]'
    printf 'the client, and the bridges:\n'
    in_ns cl ip neigh show
    in_ns dir bridge fdb show | grep -v permanent
}
