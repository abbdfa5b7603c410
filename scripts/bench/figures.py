#!/usr/bin/env python3
"""Draws the benchmark's figures as SVG: rate against number of flows, and cost by mode."""

import argparse
import json
import os
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 44, 56
COLOURS = {"io": "#9aa0a6", "macswap": "#5f6368", "dr": "#1a73e8", "nat": "#e8710a", "ipip": "#188038"}
NAMES = {"io": "testpmd io", "macswap": "testpmd macswap", "dr": "direct routing", "nat": "NAT", "ipip": "IPIP"}


class Svg:
    """A page that lines, texts and boxes are put on."""

    def __init__(self, title):
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'font-family="sans-serif" font-size="13">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        ]
        self.text(LEFT, 24, title, size=15, weight="bold")

    def text(self, x, y, text, anchor="start", size=13, weight="normal", colour="#202124"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
                          f'font-weight="{weight}" fill="{colour}">{escape(str(text))}</text>')

    def line(self, points, colour, width=1.0, dash=""):
        coordinates = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        style = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<polyline points="{coordinates}" fill="none" stroke="{colour}" stroke-width="{width}"{style}/>')

    def dot(self, x, y, colour):
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')

    def box(self, x, y, width, height, colour):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>')

    def save(self, path):
        with open(path, "w") as f:
            f.write("\n".join(self.parts + ["</svg>", ""]))
        print(f"bench: wrote {path}")


def nice_top(value):
    """The next round number above."""
    step = 1
    while value > 10 * step:
        step *= 10
    for factor in (1, 2, 3, 4, 5, 6, 8, 10):
        if factor * step >= value:
            return factor * step
    return 10 * step


def grid(svg, top, unit):
    """The vertical axis from 0 to `top`; returns value -> y."""
    def y(value):
        return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)
    for i in range(6):
        value = top * i / 5
        svg.line([(LEFT, y(value)), (WIDTH - RIGHT, y(value))], "#e0e0e0")
        svg.text(LEFT - 8, y(value) + 4, f"{value:g}", anchor="end")
    svg.text(LEFT, TOP - 6, unit, size=11)
    return y


def rate_by_flows(results, path):
    """One line a program; one worker, the worse order."""
    results = [r for r in results if r["workers"] == 1]
    flows = sorted({r["flows"] for r in results})
    if not flows:
        return
    series = {}
    for r in results:
        # Every row has a floor of its own on the same captures: their mean stands for testpmd.
        for name, key in ((r["row"], "mpps"), ("macswap", "macswap_mpps"), ("io", "io_mpps")):
            if name in NAMES:
                series.setdefault(name, {}).setdefault(r["flows"], []).append(r[key])
    svg = Svg("Packets per second of one core, by number of flows")
    top = nice_top(max(max(v) for s in series.values() for v in s.values()))
    y = grid(svg, top, "million packets per second")
    gap = (WIDTH - LEFT - RIGHT - 60) / max(1, len(flows) - 1)
    x = {n: LEFT + 30 + i * gap for i, n in enumerate(flows)}
    for n in flows:
        svg.text(x[n], HEIGHT - BOTTOM + 20, f"{n:,}", anchor="middle")
    svg.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, "flows", anchor="middle")
    ends = []
    for name in NAMES:
        if name not in series:
            continue
        points = [(x[n], y(sum(v) / len(v))) for n, v in sorted(series[name].items())]
        svg.line(points, COLOURS[name], 2.0, "6 4" if name in ("io", "macswap") else "")
        for px, py in points:
            svg.dot(px, py, COLOURS[name])
        ends.append([points[-1][1], name])
    # Labels at the lines' ends, pushed apart where they would overlap.
    ends.sort()
    for above, below in zip(ends, ends[1:]):
        below[0] = max(below[0], above[0] + 16)
    for py, name in ends:
        svg.text(WIDTH - RIGHT + 8, py + 4, NAMES[name], colour=COLOURS[name])
    svg.save(path)


def bars(title, unit, groups, path):
    """`groups`: (label, value, colour)."""
    svg = Svg(title)
    y = grid(svg, nice_top(max(v for _, v, _ in groups)), unit)
    width = (WIDTH - LEFT - RIGHT) / len(groups)
    for i, (label, value, colour) in enumerate(groups):
        left = LEFT + i * width + width * 0.2
        svg.box(left, y(value), width * 0.6, HEIGHT - BOTTOM - y(value), colour)
        svg.text(left + width * 0.3, y(value) - 5, f"{value:.0f}", anchor="middle")
        svg.text(left + width * 0.3, HEIGHT - BOTTOM + 20, label, anchor="middle", size=12)
    svg.save(path)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--results", required=True)
    p.add_argument("--instructions", required=True)
    p.add_argument("--out", required=True)
    args = p.parse_args()
    os.makedirs(args.out, exist_ok=True)
    with open(args.results) as f:
        rate_by_flows(json.load(f)["results"], os.path.join(args.out, "rate-by-flows.svg"))
    if os.path.exists(args.instructions):
        with open(args.instructions) as f:
            figures = json.load(f)["instructions_per_packet"]
        groups = [(name, value, COLOURS.get(name.split()[0], "#9aa0a6")) for name, value in figures.items()]
        bars("Instructions a packet, by forwarding mode", "instructions", groups,
             os.path.join(args.out, "instructions.svg"))


if __name__ == "__main__":
    main()
