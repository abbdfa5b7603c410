"""What the rig measures: programs that take packets from a replaying port, and count them.

A subject is started once, then run in slices. Between slices it is stopped by SIGSTOP,
so that two programs can take turns on one core without paying for their start each time.
"""

import os
import pty
import re
import select
import signal
import statistics
import subprocess
import time
from dataclasses import dataclass


class Trouble(Exception):
    """Something that the user has to know and can act on."""


@dataclass(frozen=True)
class Load:
    """What a port replays, and on how many queues."""

    flows: int
    order: str
    files: tuple  # one capture a receive queue
    packets: int  # in all of them

    @property
    def workers(self):
        return len(self.files)

    @property
    def device(self):
        """DPDK device arguments. With no transmit argument the port counts and frees what it
        is given; `infinite_rx` keeps the capture in mbufs and copies from them."""
        return "net_pcap0," + ",".join(f"rx_pcap={f}" for f in self.files) + ",infinite_rx=1"

    @property
    def mbufs(self):
        """One for every packet of the captures, and as many as may be on their way:
        bursts, and what the workers' caches hold back (twice 512 each)."""
        return self.packets + 4096 * self.workers

    @property
    def megabytes(self):
        """Memory of the mbufs: mempool header 64, mbuf 128, buffer (headroom 128 + room 128)."""
        return self.mbufs * (64 + 128 + MBUF_SIZE) >> 20


@dataclass(frozen=True)
class Slice:
    """What one slice showed. The rate is per second of the workers' processor time: on a
    calm machine that is the same as the time on the wall, on a busy one it leaves out what
    others took. `share` is how much of their cores the workers had."""

    mpps: float
    share: float


# Headroom (128) and room for the frame with an outer header. A small one, so that a
# million packets fit, and so that the rig measures the program rather than the memory.
MBUF_SIZE = 256


def cores_of(workers):
    """Cores of the workers. One worker has the last core to itself, control the first; more
    workers than the machine has cores less one share the first with control."""
    count = os.cpu_count() or 1
    if workers < count:
        return list(range(count - workers, count))
    return list(range(min(workers, count)))


class Process:
    """A child with its terminal, ended by its number whatever happens."""

    def __init__(self, command, log_path, environment=None):
        self.master, slave = pty.openpty()
        self.log = open(log_path, "wb")
        self.child = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
        os.close(slave)
        self.command = command
        self.pending = b""
        self.paused = False

    def alive(self):
        return self.child.poll() is None

    def write(self, text):
        os.write(self.master, text.encode())

    def read_until(self, pattern, timeout=120):
        """Everything up to and with the first match. Fails when the program ends before."""
        deadline = time.monotonic() + timeout
        pattern = re.compile(pattern)
        while not (match := pattern.search(self.pending)):
            ready, _, _ = select.select([self.master], [], [], 0.1)
            if ready:
                try:
                    data = os.read(self.master, 65536)
                except OSError:  # the other end of the terminal is closed
                    data = b""
                self.log.write(data)
                self.log.flush()
                self.pending += data
            if not self.alive() or time.monotonic() > deadline:
                state = "ended" if not self.alive() else f"did not answer within {timeout} s"
                tail = self.pending.decode(errors="replace")[-1500:]
                raise Trouble(f"{self.command[0]} {state}; its last words (all in {self.log.name}):\n{tail}")
        out, self.pending = self.pending[: match.end()], self.pending[match.end():]
        return out

    def drain(self):
        """Reads what has been said, so that the program never blocks on its terminal."""
        while select.select([self.master], [], [], 0)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:
                return
            if not data:
                return
            self.log.write(data)
            self.pending = (self.pending + data)[-65536:]

    def pause(self):
        if self.alive() and not self.paused:
            os.kill(self.child.pid, signal.SIGSTOP)
            self.paused = True

    def resume(self):
        if self.paused:
            os.kill(self.child.pid, signal.SIGCONT)
            self.paused = False

    def end(self, gently=None):
        """Asks, waits, kills; always reaps. Nothing is lost by a kill: memory is private."""
        if self.alive():
            self.resume()
            try:
                (gently or self.child.terminate)()
                deadline = time.monotonic() + 5
                while self.alive() and time.monotonic() < deadline:
                    self.drain()
                    time.sleep(0.01)
            except OSError:
                pass
            if self.alive():
                self.child.kill()
        self.child.wait()
        os.close(self.master)
        self.log.close()


class Subject:
    """Start, run in slices, end. `packets()` is what subclasses define."""

    name = "?"
    process = None
    worker_name = re.compile("worker")  # the workers' threads

    def start(self):
        raise NotImplementedError

    def packets(self):
        """Packets forwarded so far."""
        raise NotImplementedError

    def check(self):
        """Raises Trouble when what was forwarded is not what should have been."""

    def stop(self):
        if self.process:
            self.process.end()
            self.process = None

    def cpu_seconds(self):
        """Processor time that the workers have had."""
        tasks = f"/proc/{self.process.child.pid}/task"
        total = 0
        for task in os.listdir(tasks):
            with open(f"{tasks}/{task}/comm") as f:
                if not self.worker_name.match(f.read().strip()):
                    continue
            with open(f"{tasks}/{task}/schedstat") as f:
                total += int(f.read().split()[0])
        return total / 1e9

    def sample(self):
        return time.perf_counter(), self.cpu_seconds(), self.packets()

    def slice(self, seconds, settle):
        """Runs for `seconds` after `settle` seconds that warm the caches."""
        self.process.resume()
        time.sleep(settle)
        t0, c0, n0 = self.sample()
        time.sleep(seconds)
        t1, c1, n1 = self.sample()
        self.process.pause()
        if n1 <= n0 or c1 <= c0:
            raise Trouble(f"{self.name} forwarded nothing in {seconds} s; see {self.process.log.name}")
        workers = self.load.workers
        return Slice(mpps=(n1 - n0) / (c1 - c0) * workers / 1e6, share=(c1 - c0) / (t1 - t0) / workers)


class Testpmd(Subject):
    """DPDK's own forwarder: the floor. Burst 32 and a cache of 250 mbufs, its defaults,
    are also its fastest on this port."""

    worker_name = re.compile(r"(rte-worker|lcore-worker)-\d+$")

    def __init__(self, mode, load, work_dir):
        self.name, self.mode, self.load, self.work_dir = mode, mode, load, work_dir

    def start(self):
        workers = self.load.workers
        cores = cores_of(workers)
        lcores = ",".join(["0@0"] + [f"{i + 1}@{core}" for i, core in enumerate(cores)])
        # --in-memory: no files in hugetlbfs (no mount needed) and nothing shared with another
        # process, so that several can live side by side.
        command = ["dpdk-testpmd", "--lcores", lcores, "--main-lcore=0", "--no-pci", "--in-memory",
                   "--no-telemetry", f"--vdev={self.load.device}", "--", "-i",
                   f"--nb-cores={workers}", f"--rxq={workers}", f"--txq={workers}",
                   f"--forward-mode={self.mode}", f"--total-num-mbufs={self.load.mbufs}",
                   f"--mbuf-size={MBUF_SIZE}", "--port-topology=loop"]
        self.process = Process(command, os.path.join(self.work_dir, f"testpmd-{self.mode}.log"))
        self.process.read_until(rb"testpmd> ")
        self.process.write("start\n")
        self.process.read_until(rb"testpmd> ")

    def packets(self):
        self.process.drain()
        self.process.pending = b""
        self.process.write("show port stats 0\n")
        said = self.process.read_until(rb"TX-packets: *\d+(?:.|\n)*?testpmd> ", timeout=20)
        return int(re.search(rb"TX-packets: *(\d+)", said).group(1))

    def stop(self):
        if self.process:
            self.process.end(gently=lambda: self.process.write("quit\n"))
            self.process = None


def spread_of(values):
    """Interquartile range over the median: how far the middle half of the pairs lies apart."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / statistics.median(values)
