#!/usr/bin/env bash
# Everything that is tested. See --help.
set -uo pipefail
# shellcheck source=e2e/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/e2e/lib.sh"

help() {
    cat <<'HELP'
usage: scripts/test.sh [--list] [--keep-going|--fail-fast] [NAME…]

As root on Debian 12 or newer (what is missing is installed): formatting, lints with and
without DPDK, unit and property tests, scenarios recorded from the kernel, golden captures
through the daemon, and the daemon in network namespaces with nginx, wrk, iperf3, dig, ftp,
traceroute and others. No huge pages are needed.

NAME chooses steps: format, lint, no-dpdk, build, assembly, unit, oracle, instructions, golden, e2e, or one file of scripts/e2e
such as 30-change-under-load. --list prints the names.

A line PASS or FAIL for each step and test; the last line is `N passed, N failed`. A tool
that cannot be installed is a failure. Logs of the last run: target/test/*.log
HELP
}

ALL=(format lint no-dpdk build assembly unit oracle instructions golden)
for file in "$E2E_DIR"/[0-9][0-9]-*.sh; do
    ALL+=("$(basename "$file" .sh)")
done

fail_fast=
chosen=()
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) help && exit 0 ;;
    --list) printf '%s\n' "${ALL[@]}" && exit 0 ;;
    --fail-fast) fail_fast=1 ;;
    --keep-going) fail_fast= ;;
    e2e)
        for name in "${ALL[@]}"; do
            [[ "$name" != [0-9]* ]] || chosen+=("$name")
        done
        ;;
    *)
        printf '%s\n' "${ALL[@]}" | grep -qxF -- "$1" || usage_error "no step named $1"
        chosen+=("$1")
        ;;
    esac
    shift
done
[ ${#chosen[@]} -gt 0 ] || chosen=("${ALL[@]}")

# What a build from nothing takes, with a third to spare.
LEAST_DISK_MB=4000
ROOT=$(repo_root)
LOGS=$(target_dir)/test
PASSED=0
FAILED=0
FAILED_NAMES=()

# run NAME COMMAND…: a step that passes or fails as a whole.
run() {
    local name=$1 from=$SECONDS status=0
    shift
    (cd "$ROOT" && "$@") >"$LOGS/$name.log" 2>&1 || status=$?
    if [ "$status" -eq 0 ]; then
        PASSED=$((PASSED + 1))
        printf 'PASS %s (%d s)\n' "$name" $((SECONDS - from))
    else
        failed "$name"
        printf 'FAIL %s (%d s, status %d)\n' "$name" $((SECONDS - from)) "$status"
        tail -n 40 "$LOGS/$name.log" | sed 's/^/    /'
    fi
}

failed() {
    FAILED=$((FAILED + 1))
    FAILED_NAMES+=("$1")
}

# run_counting NAME COMMAND…: a step that prints lines PASS and FAIL of its own, or the
# totals of cargo test. One that counts nothing, or ends badly without a FAIL, fails.
run_counting() {
    local name=$1 from=$SECONDS status=0 log passed bad
    shift
    log=$LOGS/$name.log
    (cd "$ROOT" && "$@") >"$log" 2>&1 || status=$?
    passed=$(($(grep -c '^PASS ' "$log") + $(cargo_total passed "$log")))
    bad=$(($(grep -c '^FAIL ' "$log") + $(cargo_total failed "$log")))
    if [ "$bad" -eq 0 ] && { [ "$status" -ne 0 ] || [ "$passed" -eq 0 ]; }; then
        bad=1
    fi
    PASSED=$((PASSED + passed))
    if [ "$bad" -eq 0 ]; then
        printf 'PASS %s: %d tests (%d s)\n' "$name" "$passed" $((SECONDS - from))
    else
        failed "$name"
        FAILED=$((FAILED + bad - 1))
        printf 'FAIL %s: %d passed, %d failed (%d s, status %d)\n' "$name" "$passed" "$bad" $((SECONDS - from)) "$status"
        grep -A 8 -E '^FAIL |^---- .* stdout|^error' "$log" | tail -n 60 | sed 's/^/    /'
        tail -n 25 "$log" | sed 's/^/    | /'
    fi
}

# cargo_total passed|failed LOG: the sum over all test programs.
cargo_total() {
    awk -v what="$1" '/^test result:/ { for (i = 2; i <= NF; i++) if ($i ~ "^" what) n += $(i - 1) } END { print n + 0 }' "$2"
}

lint() {
    # With DPDK, everything; then what must build on a machine that has none; then the fuzz targets.
    cargo clippy --workspace --all-targets -- -D warnings &&
        cargo clippy -p pollux-dataplane -p pollux-control --all-targets -- -D warnings &&
        cargo clippy --manifest-path fuzz/Cargo.toml --locked --target-dir "$(target_dir)" --all-targets -- -D warnings &&
        shell_syntax
}

# What a machine without DPDK can do, and what the build says there. In a directory of its own,
# as nothing that is built with DPDK should be built again. For all x86-64 processors that DPDK runs
# on, so that those who build for them find the tests passed.
no_dpdk() {
    local -x PKG_CONFIG_LIBDIR=/nonexistent PKG_CONFIG_PATH= CARGO_TARGET_DIR
    if [ "$(uname -m)" = x86_64 ]; then
        local -x RUSTFLAGS="-C target-cpu=x86-64-v2"
    fi
    cargo test -p pollux-dataplane -p pollux-control && cargo build -p pollux-control --bin polluxctl || return 1
    CARGO_TARGET_DIR=$(target_dir)/no-dpdk
    local said
    said=$(cargo check -p dpdk-sys 2>&1) && echo "it builds without DPDK: $said" && return 1
    for words in 'DPDK 22.11 or newer is needed' 'Debian, Ubuntu: apt-get install libdpdk-dev' \
        'Fedora, RHEL: dnf install dpdk-devel'; do
        grep -qF "$words" <<<"$said" || { echo "the message does not say «$words»: $said" && return 1; }
    done
}

shell_syntax() {
    local file
    while IFS= read -r file; do
        bash -n "$file" || return 1
    done < <(git ls-files '*.sh' .ci/run)
}

build() {
    build_release -p pollux -p pollux-control -p pollux-tests --bin polluxd --bin polluxctl --bin tunnel-end
}

# The release build serves all that follows; it is made once.
use_build() {
    [ -z "${POLLUX_BIN_DIR:-}" ] || return 0
    POLLUX_BIN_DIR=$(build) || return 1
    export POLLUX_BIN_DIR
}

step() {
    case $1 in
    format) run format cargo fmt --all --check ;;
    lint) run lint lint ;;
    no-dpdk) run_counting no-dpdk no_dpdk ;;
    build) run build build ;;
    # Fails when a packet costs 3 % more instructions than benches/instructions.json says.
    instructions) run instructions scripts/bench.sh --instructions ;;
    unit) run_counting unit cargo test --workspace --no-fail-fast ;;
    oracle) run oracle scripts/oracle.sh tests/fixtures/oracle ;;
    *)
        if ! use_build; then
            failed "$1"
            printf 'FAIL %s: the build failed\n' "$1"
        elif [ "$1" = assembly ]; then
            run assembly "$ROOT/scripts/assembly.sh" "$POLLUX_BIN_DIR/polluxd"
        elif [ "$1" = golden ]; then
            run_counting golden "$ROOT/tests/golden/run.sh"
        else
            run_counting "$1" "$E2E_DIR/$1.sh"
        fi
        ;;
    esac
}

need_root "it installs packages and makes network namespaces"
need_tap
need_rust
for component in rustfmt clippy; do
    cargo "${component/rust/}" --version >/dev/null 2>&1 && continue
    if have rustup; then
        rustup -q component add "$component" >&2 || die "cargo ${component/rust/} is missing. Run: rustup component add $component"
    else
        need_packages "${component/clippy/rust-clippy}"
    fi
done
# All at once, which is faster than one by one: every test names what it needs itself too.
install_packages "${BUILD_PACKAGES[@]}" "${WORLD_PACKAGES[@]}" wrk iperf3 tcpdump tshark python3 python3-scapy \
    iputils-ping iputils-arping iputils-tracepath traceroute bind9-dnsutils dnsmasq-base ftp vsftpd ethtool dpdk-dev git
mkdir -p "$LOGS"
# Nothing is built twice with a change between.
export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}
need_disk "$LEAST_DISK_MB" "$LOGS"

for name in "${chosen[@]}"; do
    step "$name"
    if [ -n "$fail_fast" ] && [ "$FAILED" -gt 0 ]; then
        break
    fi
done
[ "$FAILED" -eq 0 ] || printf 'failed: %s (logs in %s)\n' "${FAILED_NAMES[*]}" "$LOGS"
printf '%d passed, %d failed\n' "$PASSED" "$FAILED"
[ "$FAILED" -eq 0 ]
