#!/usr/bin/env python3
"""Instructions per packet, counted by callgrind on ports in memory. Repeatable to a
fraction of a percent, so that it can gate a change: `benches/instructions.json` holds the
figures that stand, and one that grows by more than 3 % fails.

The bench program runs twice with different numbers of polls; the difference has neither
start-up nor the filling of the table in it. What the ports in memory cost (`empty`) is
subtracted. The program is built as portable code: what callgrind counts must not depend on the
machine, nor use instructions that callgrind does not know."""

import argparse
import json
import os
import re
import subprocess
import sys

from building import build_bench

BURST = 64
FLOWS = 1024
# Polls of the two runs: known flows, and (more memory for each) packets that open one.
POLLS = {"hit": (200, 1200), "miss": (100, 600)}
ROWS = ["dr", "nat", "ipip", "dr6", "nat6"]
TOLERANCE = 0.03


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def count(program, work, kind, polls):
    """Instructions of a whole run, and how many packets it says it sent."""
    out = os.path.join(work, "callgrind.out")
    done = subprocess.run(["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}",
                           program, kind, str(FLOWS), str(polls)], capture_output=True, text=True)
    collected = re.search(r"Collected\s*:\s*(\d+)", done.stderr)
    packets = re.match(r"(\d+) packets", done.stdout)
    if done.returncode or not collected or not packets:
        sys.stderr.write(done.stderr[-3000:])
        raise SystemExit(f"bench: error: valgrind or the bench program failed on `{kind}`")
    return int(collected.group(1)), int(packets.group(1))


def per_packet(program, work, kind, polls):
    (i0, p0), (i1, p1) = (count(program, work, kind, n) for n in polls)
    wanted = (polls[1] - polls[0]) * BURST
    if p1 - p0 != wanted:
        raise SystemExit(f"bench: error: `{kind}` sent {p1 - p0} packets of {wanted}: others were dropped")
    return (i1 - i0) / (p1 - p0)


def measure(program, work):
    ports = {what: per_packet(program, work, "empty" if what == "hit" else "empty-miss", POLLS[what])
             for what in POLLS}
    figures = {"ports in memory": round(ports["hit"], 1)}
    for row in ROWS:
        for what in POLLS:
            kind = row if what == "hit" else f"{row}-miss"
            figures[f"{row} {what}"] = round(per_packet(program, work, kind, POLLS[what]) - ports[what], 1)
            say(f"{row:5}{what:5}{figures[f'{row} {what}']:8.1f} instructions a packet")
    # The replies of known NAT flows.
    for row, kind in (("nat", "back"), ("nat6", "back6")):
        figures[f"{row} back"] = round(per_packet(program, work, kind, POLLS["hit"]) - ports["hit"], 1)
        say(f"{row:5}back {figures[f'{row} back']:8.1f} instructions a packet")
    return figures


def compare(old, new):
    """Names of the figures that grew too much, after printing all."""
    grown = []
    print(f"{'instructions a packet':24}{'stands':>9}{'now':>9}{'change':>9}")
    for name, value in new.items():
        before = old.get(name)
        change = f"{value / before - 1:+.1%}" if before else "new"
        print(f"{name:24}{before if before is not None else '-':>9}{value:>9}{change:>9}")
        if before and value > before * (1 + TOLERANCE):
            grown.append(name)
    return grown


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--root", required=True)
    p.add_argument("--target", required=True)
    p.add_argument("--work", required=True)
    p.add_argument("--update", action="store_true")
    args = p.parse_args()
    baseline = os.path.join(args.root, "benches", "instructions.json")
    old = {}
    if os.path.exists(baseline):
        with open(baseline) as f:
            old = json.load(f)["instructions_per_packet"]
    new = measure(build_bench(args.root, "instructions"), args.work)
    grown = compare(old, new)
    if args.update:
        with open(baseline, "w") as f:
            json.dump({"what": "callgrind instructions a packet: scripts/bench.sh --instructions --update",
                       "instructions_per_packet": new}, f, indent=2)
            f.write("\n")
        say(f"wrote {baseline}")
        return 0
    if not old:
        raise SystemExit("bench: error: there is no benches/instructions.json; write it with --update")
    if grown:
        say(f"grown by more than {TOLERANCE:.0%}: {', '.join(grown)}. Make it cheaper, or, where the cost is "
            "worth it, run with --update and commit the file with the change")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
