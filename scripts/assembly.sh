#!/usr/bin/env bash
# Shows what the compiler made of the hot stages: for each function its instructions and what
# it calls. Fails when one can panic: no bounds check, no unwrap, no overflow check may be left
# in what a known flow's packet runs through.
#
#   scripts/assembly.sh [BINARY]     # default: the release build of polluxd, made if missing
set -uo pipefail
# shellcheck source=lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

# Whole names as objdump demangles them; all must be there, or be inlined into those that are.
HOT='dataplane::stage::fast::(look|guess|settle|call|call_all|answer|foreign::(foreign|requests|close_up|taken|sort)|six::(six|look_steering)|reply::(reply|taken|among|look_steering|way)|rewrite::(direct|nat|ipip|sort))'
NEEDED=(look guess settle foreign::foreign foreign::requests foreign::close_up reply::among six::six rewrite::direct rewrite::nat rewrite::ipip)

case ${1:-} in
-h | --help) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
esac
need_packages binutils
if [ $# -gt 0 ]; then
    binary=$1
else
    binary=$(build_release -p pollux --bin polluxd)/polluxd || exit 1
fi
[ -x "$binary" ] || die "no binary $binary"

objdump -d --no-show-raw-insn --demangle=rust "$binary" | awk -v hot="^<$HOT>:\$" -v needed="${NEEDED[*]}" '
    /^[0-9a-f]+ </ {
        name = $0
        sub(/^[0-9a-f]+ /, "", name)
        inside = name ~ hot
        gsub(/[<>:]+$|^</, "", name)
        if (inside) { order[++n] = name; seen = seen " " name }
        next
    }
    inside && NF > 1 && $2 != "int3" && $2 !~ /^nop/ {
        count[n]++
        # Calls, and jumps out of the function.
        if ($2 ~ /^(call|jmp)/ && match($0, /<.*>/)) {
            to = substr($0, RSTART + 1, RLENGTH - 2)
            sub(/\+0x[0-9a-f]+$/, "", to)
            if (to != order[n]) calls[n] = calls[n] "\n        calls " to
            if (to ~ /panic|unwrap_failed|expect_failed|slice_.*_fail|option::|result::/) bad[n] = 1
        }
    }
    END {
        for (i = 1; i <= n; i++) {
            printf "%s %-48s %5d instructions%s\n", bad[i] ? "FAIL" : "PASS", order[i], count[i], calls[i]
            failed += bad[i]
        }
        many = split(needed, names, " ")
        for (i = 1; i <= many; i++) if (index(seen, names[i]) == 0) { print "FAIL " names[i] ": no such function: renamed?"; failed++ }
        exit failed > 0
    }'
