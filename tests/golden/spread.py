#!/usr/bin/python3
"""Puts frames for another station between the packets of a capture.

    spread.py FROM TO

A worker takes up to 64 packets at a time, and answers to what is not ordinary leave before
ordinary packets of the same burst. With 63 strangers after each packet every burst holds
one packet that counts, so that what leaves has the order of what came.
"""
import sys

from scapy.utils import PcapWriter, RawPcapReader

STRANGER = bytes.fromhex("020000000bad" "02000000f00d" "0800") + b"\0" * 46

writer = PcapWriter(sys.argv[2], linktype=1)
writer.write_header(None)
for frame, _ in RawPcapReader(sys.argv[1]):
    for each in [frame] + [STRANGER] * 63:
        writer.write_packet(each, sec=0, usec=0)
writer.close()
