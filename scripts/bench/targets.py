"""All targets, and what was reached: one table at the end of a whole run, and in the document."""

import report

# Nanoseconds a packet of DPVS 1.10.2, one core, at so many flows, and how many times as fast is wanted.
DPVS = {"dr": (154, 413, 660), "nat": (194, 506, 823), "ipip": (178, 474, 779), "full-nat": (189, 490, 740)}
DPVS_FLOWS = (1024, 65536, 1048576)
DPVS_FLOOR, DPVS_GOAL = (3, 6, 6), (5, 12, 10)
RATIO_GOAL = {"dr": {1024: 0.85, 65536: 0.80}, "nat": {1024: 0.75, 65536: 0.70}, "ipip": {1024: 0.75, 65536: 0.70}}
E_GOAL = {"dr": {1024: 8, 65536: 9, 1048576: 15, 10000000: 22}, "nat": {1024: 12, 65536: 14, 1048576: 22, 10000000: 35}}
NAMES = {"dr": "direct routing", "nat": "NAT", "ipip": "IPIP", "full-nat": "full NAT"}
HEAD = ["what", "must hold", "goal", "reached", "so"]


class Target:
    """One line: several values, each with what must hold and what is wanted."""

    def __init__(self, what, values, more=True, form="{:g}", unit=""):
        self.what, self.values, self.more, self.form, self.unit = what, values, more, form, unit

    def holds(self, value, wanted):
        return wanted is None or (value >= wanted if self.more else value <= wanted)

    def verdict(self):
        known = [v for v in self.values if v[1] is not None]
        missed = [label for label, value, floor, _ in known if not self.holds(value, floor)]
        if missed:
            return "miss" if len(missed) == len(self.values) and len(missed) > 1 else ("miss: " + ", ".join(missed)).rstrip(": ")
        if not known:
            return "not measured"
        partly = "" if len(known) == len(self.values) else ", not all measured"
        reached = [value for _, value, _, goal in known if goal is not None and self.holds(value, goal)]
        if all(goal is None for *_, goal in known):
            return "holds" + partly
        return ("goal" if len(reached) == len(known) else "holds" if not reached else "holds, goal in part") + partly

    def cells(self):
        def joined(values, form):
            texts = ["–" if v is None else form.format(v) for v in values]
            return " / ".join(texts[:1] if len(set(texts)) == 1 else texts)
        columns = [list(column) for column in zip(*self.values)]
        labels = [label for label in columns[0] if label]
        what = self.what + (", " + " / ".join(labels) if labels else "")
        unit = f" {self.unit}" if self.unit else ""
        wanted = [joined(c, "{:g}") + unit if any(v is not None for v in c) else "" for c in columns[2:]]
        reached = joined(columns[1], self.form)
        return [what, *wanted, reached + (unit if reached.strip("– /") else ""), self.verdict()]


def count(n):
    return f"{n:,}" if n < 1000000 else f"{n / 1e6:.0f} M"


def known_flows(rig, made):
    """Ratios and costs of packets of known flows."""
    one = {(r["row"], r["flows"]): r for r in rig if r["workers"] == 1}
    gen = {(r["row"].removeprefix("gen-"), r["flows"]): r for r in made if r["part"] == "packets"}

    def of(results, key, name):
        return results[key][name] if key in results else None

    for row, floors in report.RATIO_FLOOR.items():
        yield Target(f"{NAMES[row]} ÷ testpmd macswap", [
            (count(f), of(one, (row, f), "ratio"), floor, RATIO_GOAL[row][f]) for f, floor in floors.items()], form="{:.3f}")
    for row, floors in report.E_FLOOR.items():
        for port, results in (("net_pcap", one), ("generator port", gen)):
            values = [(count(f), of(results, (row, f), "e_ns"), floor, E_GOAL[row][f]) for f, floor in floors.items()
                      if results is gen or f <= 65536 or (row, f) in one]
            yield Target(f"E, {NAMES[row]}, {port}", values, more=False, form="{:.1f}", unit="ns")
    for row, others in DPVS.items():
        values = []
        for flows, theirs, floor, goal in zip(DPVS_FLOWS, others, DPVS_FLOOR, DPVS_GOAL):
            ours = None
            if (row, flows) in one:
                ours = 1000.0 / one[row, flows]["mpps"]
            elif (row, flows) in gen:
                ours = gen[row, flows]["e_ns"] + gen[row, flows]["port_ns"]
            values.append((count(flows), ours and theirs / ours, floor, goal))
        yield Target(f"whole packet, times as fast as DPVS, {NAMES[row]}", values, form="{:.1f}", unit="×")


def flow_table(made):
    """Look-ups in the flow table: the worse of the two orders."""
    hits = [r for r in made if r["row"].startswith("lookup hit")]
    for who, name, floor, goal in (("`rte_hash`", "rte_hash 48 B key", 1.2, 2), ("hashbrown", "hashbrown", 2, 4)):
        values = []
        for flows in (1000000, 10000000):
            ratios = [r[name] for r in hits if r["flows"] == flows]
            values.append((count(flows), min(ratios, default=None), floor, goal))
        yield Target(f"look-up, times as fast as {who}", values, form="{:.2f}", unit="×")
    size = next((r["bytes_a_flow"] for r in hits if r["flows"] == 10000000), None)
    yield Target("bytes a flow", [("direct routing", size, 96, 40), ("NAT", size, 160, 88)], more=False, form="{:.1f}")
    expiry = {r["row"]: r for r in made if r["row"].startswith("expiry") and r["flows"] == 10000000}
    yield Target("expiry, 10 million idle flows, share of the core",
                 [(k, expiry.get(f"expiry, {k}", {}).get("core_share", 0) * 100 if expiry else None, 5, 2)
                  for k in ("keep", "remove")], more=False, form="{:.2f}", unit="%")


def life(made):
    """Connections, changes, and what else takes time now and then."""
    rows = {r["row"]: r for r in made}

    def of(row, key):
        return rows.get(row, {}).get(key)

    modes = (("direct routing", "dr"), ("NAT", "nat"))
    yield Target("packet that opens a flow ÷ one of a known flow",
                 [(n, of(f"opening-{m}", "open_ratio"), 6, 3) for n, m in modes], more=False, form="{:.2f}")
    yield Target("connections opened and closed a second and core",
                 [(n, of(f"connections-{m}", "mconn_s"), 0.8, 2) for n, m in modes], form="{:.2f}", unit="M")
    choice = {r["weights"]: r for r in made if r["row"] == "choice wlc"}
    weights = ("equal", "1 to 10", "large")
    yield Target("wlc choice among 1,000 servers, weights",
                 [(w, choice.get(w, {}).get("cycles_1000"), 150, 40) for w in weights], more=False, form="{:.0f}", unit="cycles")
    yield Target("that ÷ the same among 10, weights",
                 [(w, choice[w]["cycles_1000"] / choice[w]["cycles_10"] if w in choice else None, None, 2) for w in weights],
                 more=False, form="{:.2f}")
    change = next((r for r in made if r["row"] == "scale" and r["reals"] == 1000), {})
    yield Target("a server added to or taken from 1,000, seen by every core", [("", change.get("change_ms"), 5, 1)],
                 more=False, form="{:.2f}", unit="ms")
    delays = [r for r in made if r["part"] == "delays" and r["row"] != "delay-none"]
    yield Target("burst held up by expiry, adoption or statistics, p99, the longest of all",
                 [("", max((r["p99_us"] for r in delays), default=None), 20, None)], more=False, form="{:.1f}", unit="µs")
    grown = {r["flows"]: r["growth"] for r in made if r["part"] == "services" and r["services"] == 10000}
    yield Target("E with 10,000 services ÷ with one",
                 [(count(f), grown.get(f), 1.3, None) for f in (65536, 1048576, 10000000)], more=False, form="{:.2f}")


def cores(rig):
    """Two workers against one."""
    scaling = {(row, flows): ours for row, flows, ours, _ in report.scaling(rig)}
    for flows in (1024, 65536):
        yield Target(f"two cores ÷ one, {count(flows)} flows", [
            (NAMES[row], scaling.get((row, flows)), report.SCALE_FLOOR, 1.95) for row in report.RATIO_FLOOR], form="{:.2f}", unit="×")


def lines(rig, made):
    """All targets as rows of cells, of the results of the rig and of the generator."""
    return [t.cells() for group in (known_flows(rig, made), flow_table(made), life(made), cores(rig)) for t in group]


def markdown(rig, made):
    rows = ["| " + " | ".join(r) + " |" for r in [HEAD] + lines(rig, made)]
    return "\n".join([rows[0], "|---|---|---|---|---|", *rows[1:]])


def text(rig, made):
    rows = [HEAD] + lines(rig, made)
    widths = [max(len(r[i]) for r in rows) for i in range(len(HEAD))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths)).rstrip() for r in rows)
