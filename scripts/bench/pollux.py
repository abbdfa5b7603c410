"""Pollux as a subject: the daemon on the same device, captures and mbufs as the floor."""

import http.client
import json
import os
import re
import socket
import time

from subject import MBUF_SIZE, Process, Subject, Trouble, cores_of

MODES = {"dr": "direct-routing", "nat": "nat", "ipip": "tunnel"}
REAL_SERVERS = 4

CONFIG = """\
# Written by scripts/bench.sh: what is not here is at its default.
[dpdk]
memory_mb = {memory_mb}
packet_buffers = {mbufs}
buffer_bytes = {mbuf_size}
file_prefix = "{name}"

[workers]
cores = {cores}
idle = "spin"
steering = "{steering}"
flow_capacity = {capacity}

[[port]]
name = "wire"
device = "{device}"
addresses = ["10.9.1.254/24"]
queues = {workers}

# The flows are opened through this port, in their own order, before the measurement.
[[port]]
name = "seed"
device = "net_memif0,role=server,id=0,socket={memif},socket-abstract=no,mac=02:70:63:61:70:00"
queues = {workers}

[[service]]
address = "tcp:10.9.0.1:80"
{servers}
[api]
socket = "{socket}"

[state]
file = ""

[log]
level = "info"
"""

SERVER = """
[[service.server]]
address = "{address}:{port}"
mode = "{mode}"

[[neighbour]]
address = "{address}"
mac = "02:00:00:00:02:{n:02x}"
port = "wire"
"""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the daemon's socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Pollux(Subject):
    """polluxd with one service on the VIP and four real servers in one forwarding mode."""

    worker_name = re.compile(r"worker-\d+$")

    def __init__(self, row, load, work_dir, bin_dir, seeds):
        """`seeds`: captures, one a queue, of the SYNs that open the flows in order of creation."""
        self.name, self.row, self.load = row, row, load
        self.work_dir, self.seeds = work_dir, seeds
        self.daemon = os.path.join(bin_dir, "polluxd")
        self.tag = f"pb-{os.getpid()}-{row}"
        # A Unix socket's path must be short (108 bytes): not in the work directory.
        self.socket = f"/tmp/{self.tag}.sock"
        self.memif = f"/tmp/{self.tag}.memif"
        self.connection = self.feeder = None
        self.drops = {}

    @property
    def capacity(self):
        """Flows a worker can hold: the daemon's default, more where the load needs it."""
        return max(262144, 1 << (2 * self.load.flows // self.load.workers - 1).bit_length())

    @property
    def memory_mb(self):
        return self.load.megabytes + 128

    def config(self):
        port = 8080 if self.row == "nat" else 80
        servers = "".join(
            SERVER.format(address=f"10.9.1.{n}", port=port, mode=MODES[self.row], n=n)
            for n in range(1, REAL_SERVERS + 1)
        )
        return CONFIG.format(
            memory_mb=self.memory_mb, mbufs=self.load.mbufs + 4096, mbuf_size=MBUF_SIZE, name=self.tag,
            cores=cores_of(self.load.workers), workers=self.load.workers,
            # The captures are dealt to the queues by flow, as a NIC would deliver them.
            steering="rss" if self.load.workers > 1 else "auto",
            capacity=self.capacity, device=self.load.device, memif=self.memif, servers=servers, socket=self.socket,
        )

    def start(self):
        config = os.path.join(self.work_dir, f"{self.row}.toml")
        with open(config, "w") as f:
            f.write(self.config())
        self.process = Process([self.daemon, "--config", config], os.path.join(self.work_dir, f"polluxd-{self.row}.log"))
        self.process.read_until(rb"ready")
        self.connection = UnixConnection(self.socket)
        self.open_flows()
        self.drops = self.dropped()

    def get(self, path):
        # The daemon ends connections that are silent for long, as this one is between slices.
        for last in (False, True):
            try:
                self.connection.request("GET", path)
                return json.load(self.connection.getresponse())
            except (OSError, ValueError, http.client.HTTPException) as e:
                self.connection.close()
                if last:
                    raise Trouble(f"polluxd does not answer {path}: {e}; see {self.process.log.name}") from e

    def stats(self):
        self.process.drain()
        return self.get("/v1/stats")

    def packets(self):
        """Packets that left by the wire: what was dropped does not count."""
        return next(p["tx_packets"] for p in self.stats()["ports"] if p["facts"]["name"] == "wire")

    def dropped(self):
        return {d["reason"]: d["packets"] for d in self.stats()["drops"] if d["packets"]}

    def check(self):
        """Nothing may have been dropped since the flows were opened."""
        now = self.dropped()
        lost = {k: n - self.drops.get(k, 0) for k, n in now.items() if n > self.drops.get(k, 0)}
        if sum(lost.values()) > self.packets() // 10000:
            raise Trouble(f"{self.name}: polluxd dropped packets during the measurement: {lost}")

    def open_flows(self):
        """Sends every flow's SYN in order of creation, over shared memory (memif), while
        the packets of the same flows already come by the wire and are refused."""
        inputs = "net_pcap0," + ",".join(f"rx_pcap={f}" for f in self.seeds)
        queues = self.load.workers
        lcores = ",".join(["0@0"] + [f"{i + 1}@0" for i in range(queues)])
        command = ["dpdk-testpmd", "--lcores", lcores, "--main-lcore=0", "--no-pci", "--in-memory", "--no-telemetry",
                   f"--vdev={inputs}",
                   f"--vdev=net_memif0,role=client,id=0,socket={self.memif},socket-abstract=no,rsize=12",
                   "--", "-i", f"--nb-cores={queues}", f"--rxq={queues}", f"--txq={queues}",
                   "--total-num-mbufs=32768", f"--mbuf-size={MBUF_SIZE}", "--port-topology=paired",
                   "--no-flush-rx"]  # without it, `start` throws away what the capture holds
        self.feeder = Process(command, os.path.join(self.work_dir, "feeder.log"))
        self.feeder.read_until(rb"testpmd> ")
        for text in ("set fwd io retry\n", "set burst tx delay 10 retry 100000\n", "start\n"):
            self.feeder.write(text)
            self.feeder.read_until(rb"testpmd> ")
        deadline = time.monotonic() + 60
        flows, since = -1, 0
        while flows < self.load.flows:
            before, flows = flows, self.stats()["flows"]
            self.feeder.drain()
            since = since + 1 if flows == before else 0
            if since > 40 or time.monotonic() > deadline:
                raise Trouble(f"{self.name}: only {flows} of {self.load.flows} flows were opened; "
                              f"drops: {self.dropped()}; see {self.process.log.name}")
            time.sleep(0.05)
        # Connected and silent: a poll of the port then finds an empty ring.
        self.feeder.pause()

    def stop(self):
        if self.connection:
            self.connection.close()
        for process in (self.feeder, self.process):
            if process:
                process.end()
        self.feeder = self.process = self.connection = None
        for path in (self.socket, self.memif):
            if os.path.exists(path):
                os.unlink(path)


def huge_table_of(log):
    """Whether the daemon's flow table lies in huge pages, from what it says at its start."""
    with open(log, errors="replace") as f:
        return re.search(r"huge=true", f.read()) is not None
