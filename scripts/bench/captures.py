#!/usr/bin/env python3
"""Makes the captures that the benchmark replays. Deterministic: the same arguments
give the same bytes.

Flow i is a client 100.64.0.0/10 with a port from the ephemeral range (RFC 6335: 49152 to
65535) that talks to VIP 10.9.0.1:80. Address and port come from a permutation of i, so
that neighbouring flows share neither address nor port, and no two flows are equal.

  captures.py ack   FILE… --flows N --order created|shuffled|zipf
  captures.py syn   FILE  --flows N            one SYN a flow, in order of creation
  captures.py conn  FILE  --flows N            six packets a connection, SYN to close
  captures.py reply FILE  --flows N            the real server's side of `ack` (NAT)

With several FILEs the flows are dealt to them by the owner rule of the daemon, so that
the file of receive queue q holds what a NIC would deliver there.
"""

import argparse
import bisect
import itertools
import random
import struct
import sys

FIN, SYN, PSH, ACK = 0x01, 0x02, 0x08, 0x10
CLIENT_MAC = bytes.fromhex("0200000000aa")
# DPDK's net_pcap gives its first port this address.
DIRECTOR_MAC = bytes.fromhex("027063617000")
VIP = 0x0A090001
VPORT = 80
CLIENT_NET = 0x64400000  # 100.64.0.0/10 (RFC 6598): 22 bits of host part
# An odd multiplier is a permutation modulo a power of two. 22 bits of address + 14 of port.
SPREAD, SPREAD_MASK = 0x9E3779B97, (1 << 36) - 1


def client(i):
    """Address and port of flow i, as numbers."""
    t = (i * SPREAD + 0x5DEECE66D) & SPREAD_MASK
    return CLIENT_NET | (t & 0x3FFFFF), 0xC000 | (t >> 22)


def fold(s):
    """One's-complement sum in 16 bits (RFC 1071)."""
    while s >> 16:
        s = (s & 0xFFFF) + (s >> 16)
    return s


def word_sum(data):
    """Sum of the 16-bit words of `data`, not folded."""
    return sum(struct.unpack(f"!{len(data) // 2}H", data))


class Frames:
    """Builds Ethernet + IPv4 + TCP frames between two ends that differ in few fields."""

    def __init__(self, flags, payload=b""):
        self.flags, self.payload = flags, payload
        self.length = 40 + len(payload)
        # What does not vary: version, length, DF, TTL 64, TCP; pseudo-header, offset and flags, window.
        self.ip_sum = 0x4500 + self.length + 0x4000 + 0x4006
        padded = payload + b"\0" * (len(payload) % 2)
        self.tcp_sum = 6 + 20 + len(payload) + (0x5000 | flags) + 0xFFFF + word_sum(padded)
        self.pack = struct.Struct("!6s6sH BBHHHBBHII HHIIHHHH").pack

    def frame(self, src, sport, dst, dport, seq, ack, macs=(DIRECTOR_MAC, CLIENT_MAC)):
        """One frame. `ack` is 0 where the flag is not set."""
        address = (src >> 16) + (src & 0xFFFF) + (dst >> 16) + (dst & 0xFFFF)
        ip_csum = fold(self.ip_sum + address) ^ 0xFFFF
        tcp = self.tcp_sum + address + sport + dport + (seq >> 16) + (seq & 0xFFFF) + (ack >> 16) + (ack & 0xFFFF)
        return self.pack(
            macs[0], macs[1], 0x0800,
            0x45, 0, self.length, 0, 0x4000, 64, 6, ip_csum, src, dst,
            sport, dport, seq, ack, 0x5000 | self.flags, 0xFFFF, fold(tcp) ^ 0xFFFF, 0,
        ) + self.payload


def toeplitz_table(key, length):
    """Per byte position and value: what it adds to the Toeplitz hash. 8 × fewer steps."""
    bits = int.from_bytes(key, "big")
    width = len(key) * 8
    table = []
    for position in range(length):
        row = [0] * 256
        for bit in range(8):
            window = (bits >> (width - 32 - (position * 8 + bit))) & 0xFFFFFFFF
            for value in range(256):
                if value & (0x80 >> bit):
                    row[value] ^= window
        table.append(row)
    return table


class Writer:
    """Writes packets to one or several captures."""

    def __init__(self, paths, owner):
        self.files = [open(p, "wb", buffering=1 << 20) for p in paths]
        self.owner = owner
        self.packets = [0] * len(paths)
        for f in self.files:
            f.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))

    def write(self, src, sport, frame):
        queue = self.owner(src, sport) if len(self.files) > 1 else 0
        n = self.packets[queue]
        self.packets[queue] = n + 1
        self.files[queue].write(struct.pack("<IIII", n // 1000000, n % 1000000, len(frame), len(frame)) + frame)

    def close(self):
        for f in self.files:
            f.close()


def order_of(args):
    """Flow numbers in the order of their packets."""
    if args.order == "created":
        return range(args.flows)
    rng = random.Random(args.seed)
    if args.order == "shuffled":
        numbers = list(range(args.flows))
        rng.shuffle(numbers)
        return numbers
    # Zipf with exponent 1; which flow is popular has nothing to do with when it was created.
    rank_to_flow = list(range(args.flows))
    rng.shuffle(rank_to_flow)
    cumulative = list(itertools.accumulate(1.0 / r for r in range(1, args.flows + 1)))
    total = cumulative[-1]
    packets = args.packets or max(args.flows, 65536)
    return (rank_to_flow[bisect.bisect_left(cumulative, rng.random() * total)] for _ in range(packets))


def write_single(args, out, frames, to_client=False):
    for i in order_of(args):
        address, port = client(i)
        seq = (i * 2654435761) & 0xFFFFFFFF
        if to_client:
            frame = frames.frame(args.real[0], args.real[1], address, port, seq, 1)
        else:
            ack = 1 if frames.flags & ACK else 0
            frame = frames.frame(address, port, VIP, VPORT, seq, ack)
        out.write(address, port, frame)


def write_connections(args, out):
    """What a client sends: SYN, ACK, request, ACK, FIN, last ACK. The six steps of
    `--window` connections take turns, as on a busy link."""
    steps = [
        (Frames(SYN), 0, 0),
        (Frames(ACK), 1, 1),
        (Frames(PSH | ACK, b"GET / HTTP/1.0\r\n\r\n"), 1, 1),
        (Frames(ACK), 19, 201),
        (Frames(FIN | ACK), 19, 202),
        (Frames(ACK), 20, 202),
    ]
    for first in range(0, args.flows, args.window):
        for frames, seq, ack in steps:
            for i in range(first, min(first + args.window, args.flows)):
                address, port = client(i)
                base = (i * 2654435761) & 0xFFFFFFFF
                out.write(address, port, frames.frame(address, port, VIP, VPORT, (base + seq) & 0xFFFFFFFF, ack))


def endpoint(text):
    address, port = text.rsplit(":", 1)
    return struct.unpack("!I", bytes(int(x) for x in address.split(".")))[0], int(port)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["ack", "syn", "conn", "reply"])
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--flows", type=int, required=True)
    parser.add_argument("--order", choices=["created", "shuffled", "zipf"], default="created")
    parser.add_argument("--packets", type=int, help="zipf: how many packets (default: one a flow, at least 65536)")
    parser.add_argument("--window", type=int, default=256, help="conn: how many connections take turns")
    parser.add_argument("--real", type=endpoint, default="10.9.1.1:8080", help="reply: the real server")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if isinstance(args.real, str):
        args.real = endpoint(args.real)

    # The key that NICs' drivers use by default (Microsoft's RSS specification).
    key = bytes.fromhex(
        "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
    )
    table = toeplitz_table(key, 6)
    queues = len(args.files)

    def owner(src, sport):
        value = 0
        for row, byte in zip(table, struct.pack("!IH", src, sport)):
            value ^= row[byte]
        return (value & 127) % queues

    out = Writer(args.files, owner)
    if args.kind == "conn":
        write_connections(args, out)
    else:
        flags = SYN if args.kind == "syn" else ACK
        write_single(args, out, Frames(flags), to_client=args.kind == "reply")
    out.close()
    print(" ".join(f"{p}:{n}" for p, n in zip(args.files, out.packets)), file=sys.stderr)


if __name__ == "__main__":
    main()
