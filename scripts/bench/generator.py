#!/usr/bin/env python3
"""What packets made in the process show: builds and runs `benches/generator.rs`, and makes
tables of its results. `scripts/bench.sh --generator` calls this."""

import argparse
import json
import os
import subprocess
import sys

import report
import targets
from building import build_bench

# What each part is asked for, in full and in a hurry.
FULL = {
    "packets": ["--pairs", "5", "--slice-ms", "150"],
    "connections": ["--pairs", "9"],
    "handoff": ["--pairs", "15", "--slice-ms", "100"],
    "latency": ["--pairs", "7"],
    "delays": [],
    "services": ["--flows", "65536,1048576,10000000", "--pairs", "5", "--slice-ms", "150"],
    "scale": [],
    "tables": ["1024", "65536", "1000000", "10000000"],
    "schedulers": ["--cycles", "wlc"],
}
QUICK = {
    "packets": ["--rows", "dr,nat", "--flows", "65536,1048576", "--orders", "shuffled", "--pairs", "3", "--slice-ms", "60"],
    "connections": ["--pairs", "3", "--slice-ms", "60"],
    "handoff": ["--pairs", "3", "--slice-ms", "50"],
    "latency": ["--pairs", "2", "--slice-ms", "60"],
    "delays": ["--pairs", "2", "--slice-ms", "60"],
    "services": ["--flows", "65536", "--services", "1,10000", "--pairs", "3", "--slice-ms", "60"],
}
# Each part's table: its title, which rows it has, and its columns: heading, key, digits behind
# the point (None: as it is).
TABLES = [
    ("Known flows: nanoseconds a packet beyond the port's own", "gen-", [
        ("row", "row", None), ("flows", "flows", 0), ("worse order", "order", None), ("E (ns)", "e_ns", 1),
        ("Zipf mix", "zipf_e_ns", 1), ("port alone (ns)", "port_ns", 1), ("ratio to macswap", "ratio", 3),
        ("spread", "spread", "%"), ("floor", "floor", None)]),
    ("TCP connections opened and closed, six packets each, a million flows live", "connections-", [
        ("row", "row", None), ("million a second and core", "mconn_s", 2), ("with the port's cost", "mconn_s_with_port", 2),
        ("ns each", "connection_ns", 0), ("flows live", "flows", 0), ("spread", "spread", "%"), ("floor", "floor", None)]),
    ("A packet that opens a flow ÷ one of a known flow, a million flows live", "opening-", [
        ("row", "row", None), ("opens (ns)", "open_ns", 0), ("known (ns)", "known_ns", 1), ("ratio", "open_ratio", 2),
        ("with the port's cost", "open_ratio_with_port", 2), ("spread", "spread", "%"), ("floor", "floor", None)]),
    ("Two workers, packets that arrive on the wrong core", "handoff-", [
        ("row", "row", None), ("wrong core", "wrong_core", "%"), ("Mpps, both", "mpps", 1), ("E (ns)", "e_ns", 1),
        ("by hand-off (ns)", "handoff_ns", 1), ("only travelling (ns)", "travel_ns", 1),
        ("rate ÷ that of 0 %", "ratio", 3), ("spread", "spread", "%"),
        ("dropped", "dropped", 0)]),
    ("Latency from arrival to sending, 65,536 flows", "latency-", [
        ("row", "row", None), ("load", "load", "%"), ("Mpps", "mpps", 1), ("p50 (µs)", "p50_us", 2), ("p99", "p99_us", 2), ("p99.9", "p999_us", 2),
        ("port alone p50", "port_p50_us", 2), ("p99.9", "port_p999_us", 2), ("left out", "left_out", "%"),
        ("lost", "lost", 0)]),
    ("What holds a burst up: time of one poll", "delay-", [
        ("the poll has", "what", None), ("polls", "polls", 0), ("p50 (µs)", "p50_us", 2), ("p99", "p99_us", 2),
        ("p99.9", "p999_us", 2), ("longest", "max_us", 1), ("target", "floor", None)]),
    ("Services with ten real servers each, direct routing", "services-", [
        ("flows", "flows", 0), ("services", "services", 0), ("real servers", "reals", 0), ("E (ns)", "e_ns", 1),
        ("E ÷ that of the first", "growth", 2), ("whole packet ÷", "growth_with_port", 2),
        ("compile (ms)", "compile_ms", 1), ("spread", "spread", "%"), ("target", "floor", None)]),
    ("Look-ups in the flow table: how many times as fast as others, same keys", "lookup ", [
        ("look-up", "row", None), ("flows", "flows", 0), ("ns", "ns", 1), ("hashbrown", "hashbrown", 2),
        ("`rte_hash`", "rte_hash 48 B key", 2), ("`rte_hash`, keys of IPv4 alone", "rte_hash 16 B key", 2),
        ("two bare lines", "two lines, bare", 2), ("bytes a flow", "bytes_a_flow", 1)]),
    ("Expiry of idle flows, a piece being 64 of them", "expiry, ", [
        ("what", "row", None), ("flows", "flows", 0), ("share of a core", "core_share", "%"), ("a piece p50 (µs)", "piece_p50_us", 1),
        ("p99", "piece_p99_us", 1), ("floor", "floor", None)]),
    ("A choice and the flow counted, cycles", "choice ", [
        ("scheduler", "row", None), ("weights", "weights", None), ("10 servers", "cycles_10", 0), ("100", "cycles_100", 0),
        ("1,000", "cycles_1000", 0), ("10,000", "cycles_10000", 0), ("floor", "floor", None)]),
    ("The daemon with large configurations", "scale", [
        ("services", "services", 0), ("real servers", "reals", 0), ("room for flows", "flows", 0), ("start (s)", "start_s", 2),
        ("memory (MB)", "memory_mb", 0), ("announced", "promised_mb", 0), ("change of one server (ms)", "change_ms", 1),
        ("control's processor time", "change_cpu_ms", 1), ("longest", "change_max_ms", 1), ("all statistics (ms)", "stats_ms", 1),
        ("target", "floor", None)]),
]
# Parts that are programs of their own: the bench, and what it is built with.
PROGRAMS = {"tables": ("flow_ratio", "--features", "dpdk"), "schedulers": ("schedulers",)}
MAX_SPREAD = 0.10


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def load(path):
    """What a file of JSON holds, if there is one."""
    if not os.path.exists(path):
        return None
    with open(path) as f:
        return json.load(f)


def run(args, part, options):
    """The results of one part."""
    say(f"part {part}")
    if part in PROGRAMS:
        command = [build_bench(args.root, *PROGRAMS[part]), *options]
    elif part != "scale":
        command = [build_bench(args.root, "generator"), part, *options]
    else:
        tool = os.path.join(os.path.dirname(os.path.abspath(__file__)), "scale.py")
        command = [sys.executable, tool, "--work", args.work, "--bin", args.bin, *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"bench: error: part `{part}` failed")
    return [{"part": part, **json.loads(line)} for line in done.stdout.splitlines() if line.startswith("{")]


def worse_orders(rows):
    """Of one row in two orders the worse one; a Zipf mix stands beside it."""
    zipf = {(r["row"], r["flows"]): r["e_ns"] for r in rows if r["order"] == "zipf"}
    worst = {}
    for r in rows:
        key = r["row"], r["flows"]
        if r["order"] != "zipf" and (key not in worst or r["e_ns"] > worst[key]["e_ns"]):
            worst[key] = {**r, "zipf_e_ns": zipf.get(key), "port_ns": 1000.0 / r["io_mpps"]}
    return list(worst.values())


def misses(r):
    """What a result misses, as text."""
    if r.get("spread", 0) > MAX_SPREAD:
        return ""
    floor = report.E_FLOOR.get(r["row"].removeprefix("gen-"), {}).get(r.get("flows"))
    if r["part"] == "packets" and floor is not None and r["e_ns"] > floor:
        return f"E > {floor} ns"
    limit = r.get("limit")
    if limit is not None and not limit["low"] <= r[limit["key"]] <= limit["high"]:
        return limit["text"]
    return ""


def has_floor(r):
    known = report.E_FLOOR.get(r["row"].removeprefix("gen-"), {})
    return (r["part"] == "packets" and r.get("flows") in known) or "limit" in r


def cell(r, key, digits):
    if key == "floor":
        missed = misses(r)
        if r.get("spread", 0) > MAX_SPREAD:
            return "unsure"
        return f"miss: {missed}" if missed else ("pass" if has_floor(r) else "")
    value = r.get(key)
    if value is None:
        return ""
    if digits == "%":
        return f"{value:.1%}"
    return f"{value:,.{digits}f}" if digits is not None else str(value)


def tables(results):
    """Markdown, one table a kind of row."""
    out = []
    for title, prefix, columns in TABLES:
        rows = [r for r in results if r["row"].startswith(prefix)]
        if not rows:
            continue
        out += [f"**{title}**", "", "| " + " | ".join(c[0] for c in columns) + " |",
                "|" + "|".join("---" if c[2] is None else "---:" for c in columns) + "|"]
        out += ["| " + " | ".join(cell(r, c[1], c[2]) for c in columns) + " |" for r in rows]
        out.append("")
    return "\n".join(out).rstrip()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--root", required=True)
    p.add_argument("--work", required=True)
    p.add_argument("--bin", default="", help="directory of polluxd, for the part scale")
    p.add_argument("--quick", action="store_true")
    p.add_argument("--parts", default="")
    p.add_argument("--json", action="store_true")
    p.add_argument("--targets", action="store_true", help="end with the table of targets")
    p.add_argument("--write-doc", metavar="FILE")
    p.add_argument("--command", default="scripts/bench.sh --generator")
    args = p.parse_args()
    plan = QUICK if args.quick else FULL
    chosen = args.parts.split(",") if args.parts else list(plan)
    if unknown := [c for c in chosen if c not in FULL]:
        raise SystemExit(f"bench: no part {unknown[0]}; there are {', '.join(FULL)}")
    if not args.bin:
        chosen = [c for c in chosen if c != "scale"]
    path = os.path.join(args.work, "generator.json")
    results = load(path) or []
    for part in chosen:
        rows = run(args, part, plan.get(part, FULL[part]))
        if part == "packets":
            rows = worse_orders(rows)
        results = [r for r in results if r["part"] != part] + rows
        results.sort(key=lambda r: list(FULL).index(r["part"]))
        # What is done stays done, should a later part fail.
        with open(path, "w") as f:
            json.dump(results, f, indent=1)
    fresh = [r for r in results if r["part"] in chosen]
    if args.json:
        for r in fresh:
            print(json.dumps({**dict.fromkeys(report.KEYS), **{k: v for k, v in r.items() if k != "limit"}}))
    print(tables(fresh), file=sys.stderr if args.json else sys.stdout)
    if args.targets:
        rig = load(os.path.join(args.work, "results.json"))
        print("\n" + targets.text(rig["results"] if rig else [], results), file=sys.stderr if args.json else sys.stdout)
    if args.write_doc:
        report.keep(args.write_doc, "generator.json", [{k: v for k, v in r.items() if k != "limit"} for r in results])
        # Those of the rig as the document has them.
        rig = load(os.path.join(os.path.dirname(args.write_doc), "figures", "packets.json"))
        report.write_between(args.write_doc, "targets", targets.markdown(rig or [], results))
        facts = ", ".join(v for _, v in report.machine())
        report.write_between(args.write_doc, "generator", f"{tables(results)}\n\n`{args.command}`; {facts}.")
        say(f"wrote {args.write_doc}")
    missed = [r for r in fresh if misses(r)]
    for r in missed:
        of = r.get("what") or r.get("weights") or format(r["flows"], ",") + " flows"
        say(f"miss: {r['row']}, {of}: {misses(r)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
