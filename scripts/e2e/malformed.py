#!/usr/bin/python3
"""Sends frames with something wrong, one kind after the other.

    malformed.py INTERFACE DIRECTOR_MAC VIP COUNT

Prints a line `REASON COUNT` for each kind: the drop reason that polluxd must count it
under, and how many frames were sent.
"""
import socket
import sys

from scapy.config import conf
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_LSRR
from scapy.layers.l2 import ARP, Dot1Q, Ether

conf.verb = 0
interface, mac, vip, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
CLIENT = "198.51.100.2"
ether = Ether(dst=mac, src="02:00:00:00:99:01")
syn = TCP(sport=4000, dport=80, flags="S")


def ip(**fields):
    return ether / IP(**{"src": CLIENT, "dst": vip, **fields})


def cut(frame, n):
    return bytes(frame)[:n]


def patched(frame, offset, value):
    data = bytearray(bytes(frame))
    data[offset : offset + len(value)] = value
    return bytes(data)


KINDS = [
    # A frame that ends inside its IP header. The kernel pads nothing on a veth.
    ("too_short", cut(ip() / syn, 30)),
    ("unknown_ethertype", bytes(ether)[:12] + b"\x88\xb5" + b"\0" * 46),
    ("unknown_vlan", Ether(dst=mac, src="02:00:00:00:99:01") / Dot1Q(vlan=77) / IP(src=CLIENT, dst=vip) / syn),
    ("bad_ip_version", patched(ip() / syn, 14, b"\x55")),
    ("bad_header_length", patched(ip() / syn, 14, b"\x44")),
    # A total length beyond the frame, and one below the header.
    ("bad_total_length", ip(len=1400) / syn),
    ("bad_total_length", ip(len=19) / syn),
    ("bad_ip_checksum", ip(chksum=0x1234) / syn),
    ("bad_ip_option", ip(options=b"\x07\x01\x00\x00") / syn),
    ("source_routed", ip(options=IPOption_LSRR(routers=["10.0.0.11"])) / syn),
    ("martian", ip(src="127.0.0.1") / syn),
    ("martian", ip(src="0.0.0.0") / syn),
    ("martian", ip(src="224.0.0.1") / syn),
    # The TCP header is cut off, with lengths that agree.
    ("bad_l4_header", cut(ip(len=32) / syn, 14 + 32)),
    ("bad_l4_header", cut(ip(len=24) / UDP(sport=1, dport=80), 14 + 24)),
    ("bad_icmp", ip() / ICMP(type=8, chksum=0x1234)),
    ("bad_arp", ether / ARP(op=1, hwlen=5, psrc=CLIENT, pdst=vip)),
]

link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
link.bind((interface, 0))
for reason, frame in KINDS:
    for _ in range(count):
        link.send(bytes(frame))
    print(reason, count, flush=True)
