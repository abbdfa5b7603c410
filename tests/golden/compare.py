#!/usr/bin/python3
"""Compares a capture that the director wrote with the golden one, byte by byte.

    compare.py EXPECTED ACTUAL

Frames to groups (gratuitous ARP, unsolicited neighbour advertisements) are left out on both
sides: the director announces its addresses when it likes. The outer source port of GUE and
VXLAN comes from the hash of the flow, whose key is random at each start; it must be one for
each flow, differ between flows, and is then replaced by the one that make.py writes.
Exit status 1 and a dissection of both packets at the first difference.
"""
import sys

import scapy.layers.inet  # so that IP is dissected
import scapy.layers.inet6
from scapy.layers.l2 import Ether
from scapy.utils import RawPcapReader, hexdump

# Destination port of a tunnel in UDP: bytes from the UDP header to the inner packet.
SHIMS = {6080: 8 + 4, 4789: 8 + 8 + 14}
OUTER_PORT = 0xC000


def frames(path):
    """All frames of a capture that are for one station."""
    return [data for data, _ in RawPcapReader(path) if not data[0] & 1]


def number(data, at):
    return int.from_bytes(data[at:at + 2], "big")


def known_port(frame, ports):
    """The frame with make.py's outer source port; what was there goes to `ports`, by flow."""
    v4 = frame[14] >> 4 == 4
    udp = 34 if v4 else 54
    if frame[23 if v4 else 20] != 17 or frame[12:14] == b"\x08\x06" or number(frame, udp + 2) not in SHIMS:
        return frame
    inner = frame[udp + SHIMS[number(frame, udp + 2)]:]
    # ICMP has no ports: the flow is that of the packet it quotes.
    if inner[0] >> 4 == 4:
        flow = inner[9:10] + inner[12:24] if inner[9] != 1 else None
    else:
        flow = inner[6:7] + inner[8:44] if inner[6] != 58 else None
    port, old = number(frame, udp), number(frame, udp + 6)
    if flow:
        ports.setdefault(flow, set()).add(port)
    # RFC 1624, equation 3.
    new = (old ^ 0xFFFF) + (port ^ 0xFFFF) + OUTER_PORT
    new = (new & 0xFFFF) + (new >> 16)
    new = ((new & 0xFFFF) + (new >> 16)) ^ 0xFFFF
    new = 0 if old == 0 else new or 0xFFFF
    return frame[:udp] + OUTER_PORT.to_bytes(2, "big") + frame[udp + 2:udp + 6] + new.to_bytes(2, "big") + frame[udp + 8:]


def check_ports(ports):
    """One port for each flow, of the upper quarter, and not the same for all."""
    if not all(len(used) == 1 and min(used) >= OUTER_PORT for used in ports.values()):
        sys.exit(f"outer source ports: {ports}")
    if len(ports) > 1 and len(set.union(*ports.values())) == 1:
        sys.exit(f"all {len(ports)} flows have one outer source port: {ports}")


def show(what, frame):
    print(f"--- {what}: {len(frame)} bytes" if frame is not None else f"--- {what}: nothing")
    if frame is not None:
        print(Ether(frame).show(dump=True))
        hexdump(frame)


def main():
    expected, actual = (frames(path) for path in sys.argv[1:3])
    if not expected:
        sys.exit(f"{sys.argv[1]} holds no packets: run tests/golden/make.py")
    ports = {}
    actual = [known_port(frame, ports) for frame in actual]
    check_ports(ports)
    for n in range(max(len(expected), len(actual))):
        want = expected[n] if n < len(expected) else None
        have = actual[n] if n < len(actual) else None
        if want != have:
            print(f"packet {n + 1} differs ({len(expected)} expected, {len(actual)} came)")
            show("expected", want)
            show("came", have)
            sys.exit(1)
    print(f"{len(actual)} packets, every byte as expected")


if __name__ == "__main__":
    main()
