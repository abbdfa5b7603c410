#!/usr/bin/env bash
# oracle.sh DIR [NAME…]: plays the scenarios of DIR/scenarios against DIR/results, recorded
# from the kernel's IPVS; the last line is `oracle: N same, N on purpose, N differ`.
set -euo pipefail
# shellcheck source=lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
[ $# -ge 1 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }
dir=$(realpath "$1")
shift
cd "$(repo_root)"
exec cargo run -q --release -p pollux-tests --bin oracle -- "$dir" "$@"
