#!/usr/bin/env python3
"""How the daemon bears large configurations: time to start, memory, time of a change. Prints one
line of JSON for each size; `scripts/bench.sh --generator` runs it as the part `scale`.

The port is DPDK's null device without packets. A change is a PUT or DELETE of one real server that
waits until the worker has adopted it, over one connection."""

import argparse
import json
import os
import re
import statistics
import sys
import time

from pollux import UnixConnection
from subject import Process, Trouble

# Services, real servers of each, flows.
SIZES = [(1, 10, 65536), (1, 1000, 1000000), (1000, 10, 1000000), (10000, 10, 10000000)]
CHANGES = 40
# The longest that the change of one real server among 1,000 may take, milliseconds. Compared with the
# control thread's processor time, as others run on this machine too.
CHANGE_MS = 5.0

CONFIG = """\
[dpdk]
memory_mb = 64
packet_buffers = 8191
file_prefix = "{tag}"

[workers]
cores = [{core}]
idle = "relax"
flow_capacity = {flows}

[[port]]
name = "wire"
device = "net_null0,no-rx=1"
addresses = ["10.255.255.254/9"]

[limits]
max_services = {max_services}
max_real_servers = {max_reals}

[api]
socket = "{socket}"

[state]
file = ""
"""


def address(n):
    return f"10.{128 + (n >> 16)}.{n >> 8 & 255}.{n & 255}"


def services_text(services, reals):
    parts = []
    for s in range(services):
        parts.append(f'\n[[service]]\naddress = "tcp:10.9.{s >> 8}.{s & 255}:80"\n')
        parts += [f'[[service.server]]\naddress = "{address(s * reals + r + 1)}:80"\nmode = "direct-routing"\n'
                  for r in range(reals)]
    return "".join(parts)


def memory_mb(pid):
    """Ordinary and huge pages of a process."""
    with open(f"/proc/{pid}/status") as f:
        text = f.read()
    values = [int(m.group(1)) if (m := re.search(rf"^{k}:\s*(\d+)", text, re.M)) else 0 for k in ("VmRSS", "HugetlbPages")]
    return [v * 1024 / 1e6 for v in values]


class Daemon:
    """polluxd with one configuration."""

    def __init__(self, args, services, reals, flows):
        tag = f"ps-{os.getpid()}"
        self.socket = f"/tmp/{tag}.sock"
        config = os.path.join(args.work, "scale.toml")
        with open(config, "w") as f:
            f.write(CONFIG.format(tag=tag, core=(os.cpu_count() or 1) - 1, flows=flows, socket=self.socket,
                                  max_services=max(1024, services), max_reals=max(8192, services * reals + 1)))
            f.write(services_text(services, reals))
        began = time.monotonic()
        self.process = Process([os.path.join(args.bin, "polluxd"), "--config", config],
                               os.path.join(args.work, "polluxd-scale.log"))
        said = self.process.read_until(rb"ready").decode(errors="replace")
        self.start_s = time.monotonic() - began
        self.promised = int(re.search(r"(\d+) MB in all", said).group(1))
        self.connection = UnixConnection(self.socket)

    def ask(self, method, path, body=None):
        began = time.monotonic()
        self.connection.request(method, path, json.dumps(body) if body else None, {"content-type": "application/json"})
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise Trouble(f"{method} {path}: {answer.status} {text.decode(errors='replace')}")
        return (time.monotonic() - began) * 1000

    def change(self):
        """Takes a real server out of the first service and puts it back; both times in milliseconds."""
        server = f"/v1/services/tcp:10.9.0.0:80/servers/{address(2)}:80?wait=true"
        return [self.ask("DELETE", server), self.ask("PUT", server, {"mode": "direct-routing"})]

    def control_seconds(self):
        """Processor time of the control thread."""
        pid = self.process.child.pid
        with open(f"/proc/{pid}/task/{pid}/schedstat") as f:
            return int(f.read().split()[0]) / 1e9

    def end(self):
        self.connection.close()
        self.process.end()
        if os.path.exists(self.socket):
            os.unlink(self.socket)


def measure(args, services, reals, flows):
    daemon = Daemon(args, services, reals, flows)
    try:
        before = daemon.control_seconds()
        changes = [ms for _ in range(args.changes // 2) for ms in daemon.change()]
        cpu_ms = (daemon.control_seconds() - before) * 1000 / len(changes)
        statistics_ms = [daemon.ask("GET", "/v1/stats") for _ in range(5)]
        resident, huge = memory_mb(daemon.process.child.pid)
    finally:
        daemon.end()
    row = {"row": "scale", "services": services, "reals": services * reals, "flows": flows,
           "start_s": round(daemon.start_s, 3), "memory_mb": round(resident + huge), "huge_mb": round(huge),
           "promised_mb": daemon.promised, "change_ms": round(statistics.median(changes), 3),
           "change_cpu_ms": round(cpu_ms, 3), "change_max_ms": round(max(changes), 3), "stats_ms": round(statistics.median(statistics_ms), 3)}
    if reals == 1000:
        row["limit"] = {"key": "change_cpu_ms", "low": 0, "high": CHANGE_MS, "text": f"> {CHANGE_MS} ms"}
    print(json.dumps(row), flush=True)
    print(f"scale: {services:,} services, {services * reals:,} real servers, {flows:,} flows: {daemon.start_s:.2f} s to start, "
          f"{resident + huge:.0f} MB ({daemon.promised} promised), a change {row['change_ms']:.2f} ms ({cpu_ms:.2f} ms of processor time)", file=sys.stderr)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--work", required=True)
    p.add_argument("--bin", required=True, help="directory of polluxd")
    p.add_argument("--changes", type=int, default=CHANGES)
    p.add_argument("--largest", type=int, default=len(SIZES), help="how many of the sizes")
    args = p.parse_args()
    for size in SIZES[: args.largest]:
        measure(args, *size)


if __name__ == "__main__":
    try:
        main()
    except Trouble as e:
        print(f"bench: error: {e}", file=sys.stderr)
        sys.exit(3)
