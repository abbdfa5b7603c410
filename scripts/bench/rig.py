#!/usr/bin/env python3
"""Measures Pollux against DPDK's testpmd, in turns, on a replaying port. `scripts/bench.sh`
prepares the machine and calls this.

For every number of flows, order and number of workers there are rounds. In a round testpmd
macswap runs before each forwarding mode of Pollux, and testpmd io once:

    macswap dr macswap nat macswap ipip io

A mode and the macswap right before it are one pair. The figure is the median of the pairs'
ratios; of the two orders of the flows the worse one counts.
"""

import argparse
import hashlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time

import report
from pollux import MODES, Pollux
from subject import Load, Testpmd, Trouble, spread_of

# With fewer flows than this, programs wait in memory for their turn; else each turn starts anew.
STAY_LIMIT = 131072


class Captures:
    """Makes captures when they are first asked for, and keeps them for the next run."""

    def __init__(self, directory):
        self.directory = directory
        self.tool = os.path.join(os.path.dirname(os.path.abspath(__file__)), "captures.py")
        # What was made by another version of the tool is not what this one would make.
        with open(self.tool, "rb") as f:
            version = hashlib.sha256(f.read()).hexdigest()[:12]
        self.directory = os.path.join(directory, f"captures-{version}")
        os.makedirs(self.directory, exist_ok=True)

    def files(self, kind, flows, order, workers):
        names = [f"{kind}-{flows}-{order}-{q + 1}of{workers}.pcap" for q in range(workers)]
        paths = [os.path.join(self.directory, n) for n in names]
        if not all(os.path.exists(p) for p in paths):
            say(f"making the capture {kind}, {flows:,} flows, {order}")
            temporary = [p + ".part" for p in paths]
            subprocess.run([sys.executable, self.tool, kind, *temporary, f"--flows={flows}", f"--order={order}"],
                           check=True, stderr=subprocess.DEVNULL)
            for t, p in zip(temporary, paths):
                os.rename(t, p)
        return tuple(paths)

    def load(self, flows, order, workers):
        files = self.files("ack", flows, order, workers)
        # A capture has a header of 24 bytes, and one of 16 for each packet of 54.
        packets = sum((os.path.getsize(f) - 24) // (16 + 54) for f in files)
        return Load(flows, order, files, packets)

    def seeds(self, flows, workers):
        return self.files("syn", flows, "created", workers)


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


class Setting:
    """One number of flows, order and number of workers: its programs and what they showed."""

    def __init__(self, args, captures, flows, order, workers):
        self.args, self.flows, self.order, self.workers = args, flows, order, workers
        load = captures.load(flows, order, workers)
        self.floor = Testpmd("macswap", load, args.work)
        self.io = Testpmd("io", load, args.work)
        self.ours = {}
        if args.subject == "macswap":  # the rig against itself
            self.ours = {row: Testpmd("macswap", load, args.work) for row in args.rows}
        elif args.subject == "5tswap":
            self.ours = {row: Testpmd("5tswap", load, args.work) for row in args.rows}
        elif args.subject == "pollux":
            seeds = captures.seeds(flows, workers)
            self.ours = {row: Pollux(row, load, args.work, args.bin, seeds) for row in args.rows}
        self.stay = flows <= STAY_LIMIT and not args.restart
        self.rates = {row: {"ours": [], "macswap": []} for row in args.rows}
        self.io_rates, self.macswap_rates, self.shares = [], [], []
        self.load = load

    def everyone(self):
        return [self.floor, self.io, *self.ours.values()]

    def turn(self, subject):
        """One slice of one program. Those that stay are woken and put to sleep again."""
        if not subject.process:
            subject.start()
            subject.process.pause()
        taken = subject.slice(self.args.seconds, self.args.settle)
        if not self.stay:
            subject.process.resume()
            subject.check()
            subject.stop()
        self.shares.append(taken.share)
        return taken.mpps

    def round(self):
        for row in self.args.rows or ["floor"]:
            floor = self.turn(self.floor)
            self.macswap_rates.append(floor)
            if row in self.ours:
                self.rates[row]["macswap"].append(floor)
                self.rates[row]["ours"].append(self.turn(self.ours[row]))
        self.io_rates.append(self.turn(self.io))

    def ratios(self, row):
        r = self.rates[row]
        return [a / b for a, b in zip(r["ours"], r["macswap"])]

    def spread(self):
        """The widest spread of a row, of the floor alone where there are no rows."""
        return max([spread_of(self.ratios(row)) for row in self.ours] or [spread_of(self.macswap_rates)])

    def run(self):
        """All rounds, and up to as many again while the spread is too wide."""
        try:
            for n in range(2 * self.args.pairs):
                if n >= self.args.pairs and self.spread() <= self.args.max_spread:
                    break
                self.round()
            for subject in self.everyone():
                if subject.process:
                    subject.process.resume()
                    subject.check()
        finally:
            for subject in self.everyone():
                subject.stop()

    def results(self):
        io, share = statistics.median(self.io_rates), statistics.median(self.shares)
        base = {"flows": self.flows, "workers": self.workers, "order": self.order, "io_mpps": io, "share": share}
        if not self.ours:
            floor = statistics.median(self.macswap_rates)
            return [{**base, "row": "floor", "mpps": floor, "macswap_mpps": floor, "ratio": 1.0,
                     "spread": spread_of(self.macswap_rates), "e_ns": self.nanoseconds(floor) - self.nanoseconds(io)}]
        rows = []
        for row, r in self.rates.items():
            ours = statistics.median(r["ours"])
            # E from the same round's io, then the median, as with the ratios.
            costs = [self.nanoseconds(a) - self.nanoseconds(b) for a, b in zip(r["ours"], self.io_rates)]
            rows.append({**base, "row": row, "mpps": ours, "macswap_mpps": statistics.median(r["macswap"]),
                         "ratio": statistics.median(self.ratios(row)), "spread": spread_of(self.ratios(row)),
                         "e_ns": statistics.median(costs)})
        return rows

    def nanoseconds(self, mpps):
        """A core's time for one packet."""
        return 1000.0 * self.workers / mpps


def worse(a, b):
    """Of one row in two orders: the one with the lower ratio."""
    return a if a["ratio"] <= b["ratio"] else b


def measure(args, captures):
    """Every setting; one result for each row, flows and workers: the worse order's."""
    results = []
    for workers in args.workers:
        for flows in args.flows:
            best = {}
            for order in args.orders if workers == 1 else args.orders_many or args.orders:
                setting = Setting(args, captures, flows, order, workers)
                started = time.monotonic()
                setting.run()
                for r in setting.results():
                    say(f"{r['row']:7} {flows:>9,} flows {order:8} {workers} worker{'s' * (workers > 1)}: "
                        f"{r['mpps']:6.2f} Mpps, macswap {r['macswap_mpps']:6.2f}, io {r['io_mpps']:6.2f}, "
                        f"ratio {r['ratio']:.3f} ± {r['spread'] / 2:.3f}, had {r['share']:.0%} of its cores")
                    best[r["row"]] = worse(best[r["row"]], r) if r["row"] in best else r
                say(f"  ({time.monotonic() - started:.0f} s)")
            results += best.values()
    return results


def parse():
    def numbers(text):
        return [int(x.replace("_", "")) for x in text.split(",")]

    def names(allowed):
        def parse_names(text):
            chosen = text.split(",")
            for name in chosen:
                if name not in allowed:
                    raise argparse.ArgumentTypeError(f"`{name}` is none of {', '.join(allowed)}")
            return chosen
        return parse_names

    p = argparse.ArgumentParser(prog="bench.sh")
    p.add_argument("--rows", type=names(list(MODES)), default=["dr", "nat", "ipip"])
    p.add_argument("--flows", type=numbers, default=[1024, 65536])
    p.add_argument("--workers", type=numbers, default=[1, 2])
    p.add_argument("--orders", type=names(["created", "shuffled", "zipf"]), default=["created", "shuffled"])
    p.add_argument("--orders-many", type=names(["created", "shuffled", "zipf"]), help="orders for several workers")
    p.add_argument("--pairs", type=int, default=5)
    p.add_argument("--seconds", type=float, default=5.0)
    p.add_argument("--settle", type=float, default=0.3)
    p.add_argument("--max-spread", type=float, default=0.10)
    p.add_argument("--restart", action="store_true")
    p.add_argument("--subject", choices=["pollux", "macswap", "5tswap", "none"], default="pollux")
    p.add_argument("--json", action="store_true")
    p.add_argument("--write-doc", metavar="FILE")
    p.add_argument("--command", default="scripts/bench.sh")
    p.add_argument("--work", required=True, help="directory for captures, logs and results")
    p.add_argument("--bin", help="directory of polluxd")
    args = p.parse_args()
    if args.subject == "none":
        args.rows = []
    return args


def main():
    args = parse()
    os.makedirs(args.work, exist_ok=True)
    captures = Captures(args.work)
    # A kill of the script must not leave programs behind that hold huge pages.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    if not shutil.which("dpdk-testpmd"):
        raise Trouble("dpdk-testpmd is missing. Run: apt-get install dpdk")
    results = measure(args, captures)
    return report.finish(args, results)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Trouble as e:
        say(f"error: {e}")
        sys.exit(3)
    except KeyboardInterrupt:
        sys.exit(130)
