"""What the rig prints: a table against the floors, JSON lines, the section in the document."""

import json
import os
import platform
import re
import subprocess
import sys
import time

# Floors: ours ÷ testpmd macswap, by row and flows.
RATIO_FLOOR = {
    "dr": {1024: 0.65, 65536: 0.60},
    "nat": {1024: 0.50, 65536: 0.45},
    "ipip": {1024: 0.50, 65536: 0.45},
}
# And nanoseconds a packet beyond testpmd io.
E_FLOOR = {
    "dr": {1024: 14, 65536: 16, 1048576: 28, 10000000: 45},
    "nat": {1024: 22, 65536: 25, 1048576: 45, 10000000: 70},
}
# Two cores ÷ one core.
SCALE_FLOOR = 1.8

KEYS = ["row", "flows", "workers", "mpps", "macswap_mpps", "io_mpps", "ratio", "spread", "e_ns"]


def misses(r):
    """What this result misses, as text; empty when it holds."""
    out = []
    floor = RATIO_FLOOR.get(r["row"], {}).get(r["flows"])
    if floor is not None and r["ratio"] < floor:
        out.append(f"ratio < {floor:.2f}")
    floor = E_FLOOR.get(r["row"], {}).get(r["flows"])
    if floor is not None and r["e_ns"] > floor:
        out.append(f"E > {floor} ns")
    return out


def has_floor(r):
    return any(r["flows"] in floors.get(r["row"], {}) for floors in (RATIO_FLOOR, E_FLOOR))


def verdict(r, max_spread):
    if r["spread"] > max_spread:
        return "unsure"
    missed = misses(r)
    return "miss: " + ", ".join(missed) if missed else ("pass" if has_floor(r) else "")


def cells(r, max_spread):
    return [r["row"], f"{r['flows']:,}", str(r["workers"]), r["order"], f"{r['mpps']:.1f}",
            f"{r['macswap_mpps']:.1f}", f"{r['io_mpps']:.1f}", f"{r['ratio']:.3f}", f"{r['spread']:.1%}",
            f"{r['e_ns']:.1f}", verdict(r, max_spread)]


HEAD = ["row", "flows", "workers", "worse order", "Mpps", "macswap", "io", "ratio", "spread", "E (ns)", "floor"]


def text_table(results, max_spread):
    rows = [HEAD] + [cells(r, max_spread) for r in results]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    left = {0, 3, 10}
    lines = ["  ".join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip()
             for row in rows]
    return "\n".join(lines)


def markdown_table(results, max_spread):
    lines = ["| " + " | ".join(HEAD) + " |",
             "|" + "|".join("---" if i in (0, 3, 10) else "---:" for i in range(len(HEAD))) + "|"]
    lines += ["| " + " | ".join(cells(r, max_spread)) + " |" for r in results]
    return "\n".join(lines)


def scaling(results):
    """Two workers ÷ one, of Pollux and of testpmd on the same captures."""
    one = {(r["row"], r["flows"]): r for r in results if r["workers"] == 1}
    two = {(r["row"], r["flows"]): r for r in results if r["workers"] == 2}
    return [(row, flows, two[row, flows]["mpps"] / one[row, flows]["mpps"],
             two[row, flows]["macswap_mpps"] / one[row, flows]["macswap_mpps"])
            for row, flows in one if (row, flows) in two]


def scaling_text(results):
    return [f"two cores ÷ one: {row}, {flows:,} flows: {ours:.2f} (macswap {floor:.2f}, floor {SCALE_FLOOR})"
            for row, flows, ours, floor in scaling(results)]


def machine():
    """What the figures were taken on, as pairs."""
    cpu = "unknown"
    with open("/proc/cpuinfo") as f:
        if match := re.search(r"^model name\s*:\s*(.*)$", f.read(), re.M):
            cpu = match.group(1)
    dpdk = subprocess.run(["pkg-config", "--modversion", "libdpdk"], capture_output=True, text=True).stdout.strip()
    with open("/proc/meminfo") as f:
        memory = int(re.search(r"MemTotal:\s*(\d+)", f.read()).group(1)) / (1 << 20)
    hypervisor = subprocess.run(["systemd-detect-virt"], capture_output=True, text=True).stdout.strip() \
        if os.path.exists("/usr/bin/systemd-detect-virt") else ""
    return [
        ("processor", f"{cpu}, {os.cpu_count()} cores" + (f" ({hypervisor})" if hypervisor not in ("", "none") else "")),
        ("memory", f"{memory:.0f} GiB, huge pages of 2 MiB"),
        ("kernel", platform.release()),
        ("DPDK", dpdk or "unknown"),
        ("date", time.strftime("%Y-%m-%d")),
    ]


def keep(path, name, rows):
    """Leaves the results beside the document's figures, which are drawn from them."""
    directory = os.path.join(os.path.dirname(path), "figures")
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, name), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(r) for r in rows) + "\n]\n")


def write_between(path, name, text):
    """Replaces what stands between a document's markers of that name."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    with open(path) as f:
        whole = f.read()
    if begin not in whole or end not in whole:
        raise SystemExit(f"{path} lacks the lines {begin} and {end}")
    head, tail = whole.split(begin, 1)[0], whole.split(end, 1)[1]
    with open(path, "w") as f:
        f.write(f"{head}{begin}\n{text}\n{end}{tail}")


def write_doc(path, args, results):
    """Writes the section of the document, and leaves the results for the figures."""
    keep(path, "packets.json", [{k: round(r[k], 4) if isinstance(r[k], float) else r[k] for k in KEYS} for r in results])
    facts = "\n".join(f"| {k} | {v} |" for k, v in [("command", f"`{args.command}`")] + machine())
    body = [markdown_table(results, args.max_spread), ""]
    body += [f"- {line}" for line in scaling_text(results)]
    body += ["", "| taken with | |", "|---|---|", facts]
    write_between(path, "bench", "\n".join(body))


def finish(args, results):
    """Prints, writes, compares. Exit status: 0 all floors hold, 1 one is missed, 3 too noisy."""
    with open(os.path.join(args.work, "results.json"), "w") as f:
        json.dump({"machine": dict(machine()), "command": args.command, "results": results}, f, indent=1)
    unsure = [r for r in results if r["spread"] > args.max_spread]
    sure = [r for r in results if r not in unsure]
    if args.json:
        for r in sure:
            digits = {k: round(r[k], 4) if isinstance(r[k], float) else r[k] for k in KEYS}
            print(json.dumps(digits))
    out = sys.stderr if args.json else sys.stdout
    print(text_table(results if not args.json else sure, args.max_spread), file=out)
    for line in scaling_text(sure):
        print(line, file=out)
    busy = min((r["share"] for r in results), default=1.0)
    if busy < 0.9:
        print(f"bench: note: the machine was busy, workers had {busy:.0%} of their cores. Rates count the workers'"
              " own time, but caches were shared too: repeat on a calm machine.", file=sys.stderr)
    if unsure:
        names = ", ".join(f"{r['row']}/{r['flows']}/{r['workers']} ({r['spread']:.0%})" for r in unsure)
        print(f"bench: error: no figure for {names}: the pairs differ by more than {args.max_spread:.0%}. "
              "Stop what else runs here, or take more time: --pairs 10 --seconds 10", file=sys.stderr)
        return 3
    if args.write_doc:
        write_doc(args.write_doc, args, results)
        print(f"bench: wrote {args.write_doc}", file=sys.stderr)
    missed = [r for r in results if misses(r)]
    for r in missed:
        print(f"bench: miss: {r['row']}, {r['flows']:,} flows, {r['workers']} workers: {', '.join(misses(r))}",
              file=sys.stderr)
    slow = [line for line, (_, _, ours, _) in zip(scaling_text(results), scaling(results)) if ours < SCALE_FLOOR]
    for line in slow:
        print(f"bench: miss: {line}", file=sys.stderr)
    return 1 if missed or slow else 0
