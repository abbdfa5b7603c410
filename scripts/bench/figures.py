#!/usr/bin/env python3
"""Draws the figures of docs/PERFORMANCE.md as SVG, from the results that stand beside them
(docs/figures/*.json), which `--write-doc` leaves there, and from criterion's last run of
benches/stages.rs."""

import argparse
import json
import os
import re

import matplotlib

matplotlib.use("svg")
# Text stays text, and the same data gives the same file.
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "pollux", "font.size": 9, "axes.grid": True,
                            "grid.color": "#e0e0e0", "axes.axisbelow": True, "axes.spines.top": False,
                            "axes.spines.right": False, "legend.frameon": False})
import matplotlib.pyplot as plt  # noqa: E402

NAMES = {"io": "testpmd io", "macswap": "testpmd macswap", "dr": "direct routing", "nat": "NAT", "ipip": "IPIP",
         "dr6": "direct routing, IPv6", "nat6": "NAT, IPv6", "nat-reply": "NAT, replies"}
COLOURS = {"io": "#9aa0a6", "macswap": "#5f6368", "dr": "#1a73e8", "nat": "#e8710a", "ipip": "#188038",
           "dr6": "#1a73e8", "nat6": "#e8710a", "nat-reply": "#a142f4"}
STAGES = {"fast": "#1a73e8", "parse": "#e8710a", "classify": "#fbbc04", "track": "#188038", "schedule": "#a142f4",
          "rewrite": "#d93025", "resolve": "#12b5cb", "send": "#5f6368"}
GOALS = {"dr": {1024: 8, 65536: 9, 1048576: 15, 10000000: 22}, "nat": {1024: 12, 65536: 14, 1048576: 22, 10000000: 35}}


def load(directory, name):
    path = os.path.join(directory, name)
    if not os.path.exists(path):
        return []
    with open(path) as f:
        return json.load(f)


def save(figure, directory, name):
    path = os.path.join(directory, name)
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    # No blanks at the ends of lines.
    with open(path) as f:
        text = re.sub(r"[ \t]+$", "", f.read(), flags=re.M)
    with open(path, "w") as f:
        f.write(text)
    print(f"bench: wrote {path}")


def lines(axis, series, styles=None, names=NAMES):
    """One line a program, by number of flows."""
    for name in NAMES:
        if name in series:
            points = sorted(series[name].items())
            style = (styles or {}).get(name, "--" if name in ("io", "macswap") else "-")
            axis.plot([x for x, _ in points], [sum(v) / len(v) for _, v in points], style, color=COLOURS[name],
                      marker="o", markersize=3.5, label=names[name])
    flows = sorted({x for s in series.values() for x in s})
    axis.set_xscale("log", base=2)
    axis.set_xticks(flows, [f"{n:,}" for n in flows], rotation=20)
    axis.minorticks_off()
    axis.set_xlabel("flows")
    axis.set_ylim(bottom=0)


def rates(rows, prefix=""):
    """Mpps of a row, and of what it was measured against, by flows."""
    series = {}
    for r in rows:
        # Every row was measured against a run of its own: their mean stands for testpmd.
        for name, key in ((r["row"].removeprefix(prefix), "mpps"), ("macswap", "macswap_mpps"), ("io", "io_mpps")):
            if name in NAMES:
                series.setdefault(name, {}).setdefault(r["flows"], []).append(r[key])
    return series


def rate_by_flows(packets, generator, out):
    replayed = [r for r in packets if r["workers"] == 1]
    made = [r for r in generator if r["part"] == "packets"]
    panels = [(t, rows, prefix) for t, rows, prefix in [("replayed captures (net_pcap)", replayed, ""),
                                                      ("made in the process", made, "gen-")] if rows]
    if not panels:
        return
    figure, axes = plt.subplots(1, len(panels), figsize=(4.8 * len(panels), 3.6), squeeze=False)
    for axis, (title, rows, prefix) in zip(axes[0], panels):
        styles = {"dr6": ":", "nat6": ":", "nat-reply": "-."}
        # There it is no testpmd, only the same thing done.
        own = {**NAMES, "io": "port, nothing behind", "macswap": "addresses exchanged"}
        lines(axis, rates(rows, prefix), styles, own if prefix else NAMES)
        axis.set_title(f"One core, {title}", fontsize=10)
        axis.set_ylabel("million packets per second")
        axis.legend(fontsize=7.5)
    save(figure, out, "rate-by-flows.svg")


def cost_by_flows(generator, out):
    rows = [r for r in generator if r["part"] == "packets"]
    if not rows:
        return
    figure, axis = plt.subplots(figsize=(6, 3.8))
    series = {}
    for r in rows:
        series.setdefault(r["row"].removeprefix("gen-"), {})[r["flows"]] = [r["e_ns"]]
    lines(axis, series, {"dr6": ":", "nat6": ":", "nat-reply": "-."})
    for name, goals in GOALS.items():
        axis.plot(list(goals), list(goals.values()), linestyle="none", marker="_", markersize=14, markeredgewidth=2,
                  color=COLOURS[name], alpha=0.5, label=f"goal, {NAMES[name]}")
    axis.set_ylabel("E: ns a packet beyond the port")
    axis.set_title("What load balancing costs, by number of flows", fontsize=10)
    axis.legend(fontsize=7.5)
    save(figure, out, "cost-by-flows.svg")


def services(generator, out):
    rows = [r for r in generator if r["part"] == "services"]
    if not rows:
        return
    figure, axis = plt.subplots(figsize=(5, 3.2))
    for flows, style in zip(sorted({r["flows"] for r in rows}), ["-", "--", ":"]):
        points = sorted((r["services"], r["e_ns"]) for r in rows if r["flows"] == flows)
        axis.plot([x for x, _ in points], [y for _, y in points], style, color=COLOURS["dr"], marker="o", markersize=3.5,
                  label=f"{flows:,} flows")
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("services, ten real servers each")
    axis.set_ylabel("E: ns a packet beyond the port")
    axis.set_title("Direct routing, by number of services", fontsize=10)
    axis.legend(fontsize=8)
    save(figure, out, "cost-by-services.svg")


def stage_times(criterion):
    """{way: {stage: nanoseconds a packet}} from criterion's estimates; a burst has 64."""
    times = {}
    if not os.path.isdir(criterion):
        return times
    for group in sorted(os.listdir(criterion)):
        if not group.startswith("stage_"):
            continue
        for stage in STAGES:
            path = os.path.join(criterion, group, stage, "new", "estimates.json")
            if os.path.exists(path):
                with open(path) as f:
                    way = group.removeprefix("stage_")
                    times.setdefault(way, {})[stage] = round(json.load(f)["median"]["point_estimate"] / 64, 2)
    return times


def stages(times, out):
    """A stacked bar for each way; the fast way of known flows is a bar of its own."""
    if not times:
        return
    bars = []
    for way, stage in times.items():
        if "fast" in stage:
            bars.append((f"{way}: fast stage", {"fast": stage["fast"]}))
            bars.append((f"{way}: general stages", {k: v for k, v in stage.items() if k != "fast"}))
        else:
            bars.append((way, stage))
    figure, axis = plt.subplots(figsize=(7, 0.3 * len(bars) + 1.2))
    left = [0.0] * len(bars)
    for name, colour in STAGES.items():
        widths = [b.get(name, 0.0) for _, b in bars]
        if any(widths):
            axis.barh(range(len(bars)), widths, left=left, color=colour, label=name, height=0.7)
        left = [a + b for a, b in zip(left, widths)]
    for i, total in enumerate(left):
        axis.text(total + 0.6, i, f"{total:.0f}", va="center", fontsize=8)
    axis.set_yticks(range(len(bars)), [b for b, _ in bars])
    axis.invert_yaxis()
    axis.set_xlabel("ns a packet, 65,536 flows")
    axis.set_title("What each stage costs", fontsize=10)
    axis.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.02, 0.5))
    save(figure, out, "stages.svg")


def instructions(path, out):
    if not os.path.exists(path):
        return
    with open(path) as f:
        figures = json.load(f)["instructions_per_packet"]
    figure, axis = plt.subplots(figsize=(6.5, 3))
    names = list(figures)
    drawn = axis.bar(names, list(figures.values()), color=[COLOURS.get(n.split()[0], "#9aa0a6") for n in names])
    axis.bar_label(drawn, fmt="%.0f", fontsize=8)
    axis.tick_params(axis="x", rotation=35)
    axis.set_title("Instructions a packet", fontsize=10)
    save(figure, out, "instructions.svg")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--instructions", required=True)
    p.add_argument("--criterion", required=True, help="where criterion leaves its estimates")
    p.add_argument("--out", required=True)
    args = p.parse_args()
    packets, generator = load(args.out, "packets.json"), load(args.out, "generator.json")
    # What criterion does not have (any more) is as it was.
    times = load(args.out, "stages.json") or {}
    times.update(stage_times(args.criterion))
    if times:
        with open(os.path.join(args.out, "stages.json"), "w") as f:
            json.dump(times, f, indent=1)
            f.write("\n")
    rate_by_flows(packets, generator, args.out)
    cost_by_flows(generator, args.out)
    services(generator, args.out)
    stages(times, args.out)
    instructions(args.instructions, args.out)


if __name__ == "__main__":
    main()
