#!/usr/bin/env bash
# Measures Pollux against DPDK's testpmd, in turns, on a replaying port. See docs/PERFORMANCE.md.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

usage() {
    cat <<'HELP'
usage: scripts/bench.sh [OPTION…]

Runs testpmd and Pollux alternately on the same port, captures and packet buffers, and
prints for each forwarding mode and number of flows: million packets per second, the ratio
to testpmd macswap (median of pairs), its spread, and E: nanoseconds a packet beyond
testpmd io. Of two orders of the flows, as created and shuffled, the worse is the figure.
Compares with the floors and fails when one is missed. Takes about twenty minutes.

  --quick            under two minutes: short slices, the shuffled order alone, which is the worse one
  --full             1,048,576 flows as well
  --rows LIST        of dr,nat,ipip              (dr,nat,ipip)
  --flows LIST       numbers of flows            (1024,65536)
  --workers LIST     numbers of workers          (1,2)
  --orders LIST      of created,shuffled,zipf    (created,shuffled)
  --pairs N          pairs of each kind          (5)
  --seconds S        length of a slice           (5)
  --max-spread X     widest spread reported      (0.10)
  --restart          start every program anew for every slice
  --json             one JSON object a line on standard output, each with the keys row, flows, workers, mpps,
                     macswap_mpps, io_mpps, ratio, spread and e_ns (null where a row has no such figure)
  --floor-only       testpmd alone
  --subject NAME     pollux, or to test the rig: macswap, 5tswap
  --write-doc        write the table into docs/PERFORMANCE.md
  --figures          instead of all this: measure each stage by itself (criterion, two minutes),
                     then draw docs/figures/*.svg from that and what --write-doc left there
  --generator        instead of all this: what packets made in the process show, also those
                     of 10 million flows; connections, hand-off, latency, scale, flow tables,
                     schedulers. Without one of --rows, --flows, --workers, --orders it is the
                     end of a whole run, which ends with all targets and what was reached
  --parts LIST       with --generator: of packets,connections,handoff,latency,delays,services,scale,
                     tables (look-ups against rte_hash and hashbrown, expiry), schedulers
  --instructions     instead of all this: instructions per packet by callgrind,
                     compared with benches/instructions.json
  --update           with --instructions: write the baseline

Exit status: 0 all floors hold, 1 one is missed, 2 wrong usage, 3 too noisy or not possible.
Environment: POLLUX_BIN_DIR (binaries built elsewhere), POLLUX_BENCH_DIR (captures and
results; default target/bench), POLLUX_SKIP_PACKAGES=1.
HELP
}

root=$(repo_root)
work=${POLLUX_BENCH_DIR:-$(target_dir)/bench}
command="scripts/bench.sh $*"
subject=pollux
quick='' full='' instructions='' update='' figures='' generator='' parts='' targets='' json='' doc=''
flows='' pairs='' seconds='' workers='' orders='' selected=''
pass=()

value() {
    [ -n "${2:-}" ] || usage_error "$1 needs a value"
}
while [ $# -gt 0 ]; do
    case $1 in --rows | --flows | --workers | --orders | --floor-only | --subject) selected=1 ;; esac
    case $1 in
    --quick) quick=1 ;;
    --full) full=1 ;;
    --flows) value "$@" && flows=$2 && shift ;;
    --workers) value "$@" && workers=$2 && shift ;;
    --orders) value "$@" && orders=$2 && shift ;;
    --pairs) value "$@" && pairs=$2 && shift ;;
    --seconds) value "$@" && seconds=$2 && shift ;;
    --rows | --max-spread) value "$@" && pass+=("$1" "$2") && shift ;;
    --restart) pass+=("$1") ;;
    --json) json=--json ;;
    --floor-only) subject=none ;;
    --subject) value "$@" && subject=$2 && shift ;;
    --write-doc) doc=$root/docs/PERFORMANCE.md ;;
    --generator) generator=1 ;;
    --parts) value "$@" && parts=$2 && shift ;;
    --figures) figures=1 ;;
    --instructions) instructions=1 ;;
    --update) update=--update ;;
    -h | --help) usage && exit 0 ;;
    *) usage_error "unknown option $1" ;;
    esac
    shift
done
mkdir -p "$work"

if [ -n "$instructions" ]; then
    need_packages valgrind python3 build-essential
    need_rust
    exec python3 "$root/scripts/bench/instructions.py" --root "$root" --target "$(target_dir)" --work "$work" $update
fi

# Tables for 10 million flows take 1.1 GiB. Without huge pages it goes as well, and slower.
generate() {
    need_packages python3 build-essential pkg-config libdpdk-dev libclang-dev clang
    need_rust
    # The part `scale` needs the daemon.
    case ,${parts:-${quick:+none}}, in
    ,, | *,scale,*) [ -n "$binaries" ] || binaries=$(build_release) ;;
    esac
    # Beside our table there are two of rte_hash.
    local pages=640
    case ,${parts:-${quick:+none}}, in
    ,, | *,tables,*) pages=2048 ;;
    esac
    (setup_hugepages "$pages") || log "goes on with fewer huge pages"
    python3 "$root/scripts/bench/generator.py" --root "$root" --work "$work" --command "${command% }" \
        --bin "$binaries" ${quick:+--quick} ${parts:+--parts "$parts"} $targets $json ${doc:+--write-doc "$doc"}
}

binaries=
if [ -n "$generator" ]; then
    generate
    exit
fi

if [ -n "$figures" ]; then
    need_packages python3-matplotlib build-essential
    need_rust
    (cd "$root" && CRITERION_HOME="$work/criterion" cargo bench -q -p pollux-dataplane --bench stages -- stage/ >&2)
    # Debian's Python, for which the package is; not another one on the path.
    exec /usr/bin/python3 "$root/scripts/bench/figures.py" --instructions "$root/benches/instructions.json" \
        --criterion "$work/criterion" --out "$root/docs/figures"
fi

need_root "it runs DPDK programs on huge pages"
need_packages dpdk dpdk-dev python3 pkg-config

# Sizes first, so that a short run stays short whatever else is chosen.
if [ -n "$quick" ]; then
    pass+=(--settle 0.05 --orders-many shuffled)
    : "${pairs:=3}" "${seconds:=0.3}" "${orders:=shuffled}"
else
    : "${pairs:=5}" "${seconds:=5}"
fi
: "${workers:=1,2}" "${orders:=created,shuffled}"
: "${flows:=1024,65536${full:+,1048576}}"

if [ "$subject" = pollux ]; then
    binaries=$(build_release)
fi

# Huge pages of 2 MiB for what lives at a time. A packet of a capture takes 448 bytes of
# mbuf, a flow about 100 of table; up to 131,072 flows five programs stay in memory.
largest=$(printf '%s\n' "${flows//,/$'\n'}" | tr -d _ | sort -n | tail -n 1)
programs=1
[ "$largest" -gt 131072 ] || programs=5
setup_hugepages $((programs * (160 + largest * 448 * 2 / 2097152) + largest * 256 / 2097152 + 128))

status=0
python3 "$root/scripts/bench/rig.py" --work "$work" --subject "$subject" --bin "$binaries" \
    --flows "$flows" --workers "$workers" --orders "$orders" --pairs "$pairs" --seconds "$seconds" \
    --command "${command% }" $json ${doc:+--write-doc "$doc"} "${pass[@]}" || status=$?
if [ -z "$selected" ] && [ "$status" -le 1 ]; then
    # What fits into two minutes.
    parts=${quick:+packets,connections}
    targets=--targets
    generate || status=1
fi
exit "$status"
