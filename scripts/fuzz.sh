#!/usr/bin/env bash
# Fuzzes the packet's way for a while. See --help.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

help() {
    cat <<'HELP'
usage: scripts/fuzz.sh [--target NAME] [--minimise] [SECONDS]

Runs each fuzz target for SECONDS (60). Needs a nightly compiler and cargo-fuzz, and
installs both where they are missing.

  parse      the parse stage against a second, literal reading of the RFCs
  random     random bytes behind an Ethernet header, at two workers on ports in memory
  mutated    well-formed packets of both sides, some with bytes overwritten
  sides      clients ask and servers answer while services and servers come, go and change

  --target NAME   only this one
  --minimise      afterwards reduce the corpus to what adds coverage (fuzz/corpus is
                  kept in the repository)

A crash ends it with status 1 and leaves the input in fuzz/artifacts/NAME; run it again:
  cargo +nightly fuzz run NAME fuzz/artifacts/NAME/crash-…
and keep it in fuzz/corpus/NAME: every `cargo test` plays all that is there.
HELP
}

targets=(parse random mutated sides)
seconds=60
minimise=
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) help && exit 0 ;;
    --target)
        [ $# -ge 2 ] || usage_error "--target needs a name"
        targets=("$2")
        shift
        ;;
    --minimise) minimise=1 ;;
    *[!0-9]* | '') usage_error "not a number of seconds: $1" ;;
    *) seconds=$1 ;;
    esac
    shift
done

need_rust
have rustup || die "fuzzing needs a nightly compiler, and rustup to get it: see https://rustup.rs"
if ! rustup toolchain list | grep -q '^nightly'; then
    log "installing a nightly compiler"
    rustup -q toolchain install nightly --profile minimal >&2 || die "could not install it. Run: rustup toolchain install nightly"
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
    log "installing cargo-fuzz"
    cargo install -q --locked cargo-fuzz >&2 || die "could not install it. Run: cargo install cargo-fuzz"
fi

cd "$(repo_root)"
# Two instances of the target directory would compile everything twice.
export CARGO_TARGET_DIR=${FUZZ_TARGET_DIR:-$PWD/fuzz/target}
failed=0
for target in "${targets[@]}"; do
    mkdir -p "fuzz/corpus/$target"
    # New finds go to a scratch corpus; only --minimise changes what is in the repository.
    scratch="$CARGO_TARGET_DIR/corpus/$target"
    mkdir -p "$scratch"
    log "$target for $seconds s"
    if ! cargo +nightly fuzz run --sanitizer "${FUZZ_SANITIZER:-none}" "$target" "$scratch" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -max_len=4096 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
        >"$CARGO_TARGET_DIR/$target.log" 2>&1; then
        tail -n 30 "$CARGO_TARGET_DIR/$target.log" >&2
        log "$target: FAILED, see fuzz/artifacts/$target"
        failed=1
        continue
    fi
    printf 'fuzz %s: %s executions in %s s, no crash, coverage %s\n' "$target" \
        "$(sed -n 's/^stat::number_of_executed_units: *//p' "$CARGO_TARGET_DIR/$target.log")" "$seconds" \
        "$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$CARGO_TARGET_DIR/$target.log" | tail -n 1)"
    if [ -n "$minimise" ]; then
        # -merge=1 copies into the first directory those inputs of the others that add coverage.
        fresh=$(mktemp -d)
        cargo +nightly fuzz run --sanitizer "${FUZZ_SANITIZER:-none}" "$target" "$fresh" "$scratch" "fuzz/corpus/$target" -- -merge=1 \
            >>"$CARGO_TARGET_DIR/$target.log" 2>&1 || die "could not minimise the corpus of $target"
        rm -rf "fuzz/corpus/$target"
        mv "$fresh" "fuzz/corpus/$target"
    fi
done
exit $failed
