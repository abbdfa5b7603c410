#!/usr/bin/python3
"""Compares a capture that the director wrote with the golden one, byte by byte.

    compare.py EXPECTED ACTUAL

ARP is left out on both sides: the director announces its addresses when it likes.
Exit status 1 and a dissection of both packets at the first difference.
"""
import sys

import scapy.layers.inet  # so that IP is dissected
from scapy.layers.l2 import Ether
from scapy.utils import RawPcapReader, hexdump


def frames(path):
    """All frames of a capture but ARP."""
    return [data for data, _ in RawPcapReader(path) if data[12:14] != b"\x08\x06"]


def show(what, frame):
    print(f"--- {what}: {len(frame)} bytes" if frame is not None else f"--- {what}: nothing")
    if frame is not None:
        print(Ether(frame).show(dump=True))
        hexdump(frame)


def main():
    expected, actual = (frames(path) for path in sys.argv[1:3])
    if not expected:
        sys.exit(f"{sys.argv[1]} holds no packets: run tests/golden/make.py")
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
