#!/usr/bin/python3
"""Writes the golden captures: for each forwarding mode what goes in and what must come out.

    tests/golden/make.py [DIRECTORY]

Each story below is a list of steps: a packet that arrives, and the packets that leave
because of it. The expected ones are built here, from the addresses and the rules of the
forwarding mode, with every checksum computed by scapy: they are not recordings of what
the director once sent. The world is that of pollux.toml.in beside this file: one port,
so that the order of requests and replies is the order of the capture.

    client 10.1.0.1 -- gateway 10.3.0.2 --+-- director 10.3.0.1, 10.2.0.254
    servers 10.2.0.11 and 10.2.0.12 ------+   VIP 10.9.0.1
"""
import copy
import os
import sys

from scapy.config import conf
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import PcapWriter

conf.verb = 0
# Stations by their Ethernet addresses. The director's is what DPDK gives its first pcap port.
DIRECTOR = "02:70:63:61:70:00"
GATEWAY = "02:00:00:00:03:02"
SERVER = {"10.2.0.11": "02:00:00:00:02:0b", "10.2.0.12": "02:00:00:00:02:0c"}
CLIENT, VIP, OWN = "10.1.0.1", "10.9.0.1", "10.2.0.254"
# Round robin begins with the server that was added last, as the kernel does.
FIRST, SECOND = "10.2.0.12", "10.2.0.11"


class Story:
    """Steps of one capture, and the identifications that the director gives out."""

    def __init__(self, mode):
        self.mode = mode
        self.given = []
        self.expected = []
        # The first packet that the director makes itself has number 2.
        self.next_id = 2

    def own_id(self):
        self.next_id += 1
        return self.next_id - 1

    def step(self, packet, *leaves):
        """`packet` arrives; `leaves` are the frames that must leave, in this order."""
        # A wire pads frames to 60 bytes. What is only passed on keeps its padding; a tunnel
        # must take it off, as it would end up inside; what the director makes has none.
        self.given.append(bytes(packet).ljust(60, b"\0"))
        for frame in leaves:
            passed_on = not isinstance(frame, bytes) and self.mode != "ipip"
            self.expected.append(bytes(frame).ljust(60, b"\0") if passed_on else bytes(frame))


def client(l4, **ip):
    """A packet from the client to the VIP, as the gateway delivers it."""
    ip = {"id": 1000, "flags": "DF", "ttl": 62, **ip}
    return Ether(src=GATEWAY, dst=DIRECTOR) / IP(src=CLIENT, dst=VIP, **ip) / l4


def reply(server, l4, **ip):
    """A packet from a server to the client."""
    ip = {"id": 2000, "flags": "DF", "ttl": 64, **ip}
    return Ether(src=SERVER[server], dst=DIRECTOR) / IP(src=server, dst=CLIENT, **ip) / l4


def sum_again(packet):
    """Has scapy compute all checksums and lengths anew."""
    packet = copy.deepcopy(packet)
    layer = packet
    while layer:
        if isinstance(layer, UDP) and layer.chksum == 0:
            pass
        elif "chksum" in layer.fields:
            del layer.chksum
        layer = layer.payload if layer.payload else None
    return packet


def to_server(story, packet, server, port):
    """What must reach the server: the forwarding modes in a nutshell."""
    out = packet.copy()
    out[Ether].src, out[Ether].dst = DIRECTOR, SERVER[server]
    out[IP].ttl -= 1
    if story.mode == "nat":
        out[IP].dst = server
        if port is not None:
            out[IP].payload.dport = port
    elif story.mode == "ipip":
        # RFC 2003: the inner header as it is after its decrement; TTL, TOS and DF copied.
        inner = out[IP]
        df = bool(inner.flags.DF)
        outer = IP(
            src=OWN, dst=server, proto=4, ttl=inner.ttl, tos=inner.tos,
            flags="DF" if df else 0, id=0 if df else story.own_id(),
        )
        out = Ether(src=DIRECTOR, dst=SERVER[server]) / outer / inner
    return sum_again(out)


def to_client(packet, vport):
    """What the client must see of a server's reply, in NAT."""
    out = packet.copy()
    out[Ether].src, out[Ether].dst = DIRECTOR, GATEWAY
    out[IP].ttl -= 1
    out[IP].src = VIP
    if vport is not None:
        out[IP].payload.sport = vport
    return sum_again(out)


def from_director(ip, l4):
    """What the director itself says to the client."""
    return bytes(sum_again(Ether(src=DIRECTOR, dst=GATEWAY) / ip / l4))


# TCP between the client's port 40000 and the VIP's port 80: (from the client?, segment).
HELLO = b"GET / HTTP/1.0\r\n\r\n"
PAGE = b"HTTP/1.0 200 OK\r\n\r\nhello, an odd number of bytes"


def tcp_connection(client_port, rport):
    def c(flags, seq, ack, data=b"", **more):
        return True, TCP(sport=client_port, dport=80, flags=flags, seq=seq, ack=ack, **more) / data

    def s(flags, seq, ack, data=b"", **more):
        return False, TCP(sport=rport, dport=client_port, flags=flags, seq=seq, ack=ack, **more) / data

    h, p = len(HELLO), len(PAGE)
    options = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (7, 0)), ("NOP", None), ("WScale", 7)]
    return [
        c("S", 100, 0, options=options),
        s("SA", 900, 101, options=[("MSS", 1460)]),
        c("A", 101, 901),
        c("PA", 101, 901, HELLO),
        s("A", 901, 101 + h),
        s("PA", 901, 101 + h, PAGE),
        c("A", 101 + h, 901 + p, urgptr=7),
        s("FA", 901 + p, 101 + h),
        c("FA", 101 + h, 902 + p),
        s("A", 902 + p, 102 + h),
    ]


def play_tcp(story, client_port, server):
    nat = story.mode == "nat"
    for n, (from_client, segment) in enumerate(tcp_connection(client_port, 8080 if nat else 80)):
        # Identifications differ, one packet comes without DF, one with a TOS.
        ip = {"id": 1000 + n, "flags": 0 if n == 3 else "DF", "tos": 0x10 if n in (3, 5) else 0}
        if from_client:
            packet = client(segment, **ip)
            story.step(packet, to_server(story, packet, server, 8080))
        elif nat:
            packet = reply(server, segment, **ip)
            story.step(packet, to_client(packet, 80))


def play_udp(story, client_port, server, checksum):
    none = {} if checksum else {"chksum": 0}
    packet = client(UDP(sport=client_port, dport=7000, **none) / b"query", flags=0)
    story.step(packet, to_server(story, packet, server, 7001))
    if story.mode == "nat":
        packet = reply(server, UDP(sport=7001, dport=client_port, **none) / b"answer!", flags=0)
        story.step(packet, to_client(packet, 7000))


def play_nat_icmp(story, client_port, server):
    """The server says «port unreachable» about a datagram that it got from the director."""
    packet = client(UDP(sport=client_port, dport=7000) / b"anybody?", flags=0, id=77)
    arrived = to_server(story, packet, server, 7001)
    story.step(packet, arrived)
    quoted = bytes(arrived[IP])
    error = reply(server, ICMP(type=3, code=3) / Raw(quoted), id=2100, flags=0)
    seen = copy.deepcopy(arrived[IP])
    # Inside the quotation the destination is the VIP again, and the header's checksum is
    # right. UDP's stays that of the packet which the server saw, as in the kernel's IPVS:
    # often the quotation is too short to hold it.
    seen.dst = VIP
    seen[UDP].dport = 7000
    del seen.chksum
    out = Ether(src=DIRECTOR, dst=GATEWAY) / IP(src=VIP, dst=CLIENT, id=2100, ttl=63) / ICMP(type=3, code=3) / Raw(bytes(seen))
    story.step(error, sum_again(out))


def play_answers(story):
    """What the director answers by itself, and what it must swallow."""
    ping = client(ICMP(type=8, id=5, seq=6) / b"are you there?", id=3000, flags=0)
    pong = IP(src=VIP, dst=CLIENT, id=story.own_id(), ttl=64, flags=0)
    story.step(ping, from_director(pong, ICMP(type=0, id=5, seq=6) / b"are you there?"))

    closed = client(TCP(sport=40100, dport=81, flags="S", seq=500))
    reset = IP(src=VIP, dst=CLIENT, id=0, flags="DF", ttl=64)
    story.step(closed, from_director(reset, TCP(sport=81, dport=40100, flags="RA", seq=0, ack=501, window=0)))

    bad = client(TCP(sport=40200, dport=80, flags="S"))
    bad = Ether(bytes(bad))
    bad[IP].chksum ^= 0x0101
    story.step(bad)
    # Of a connection that nobody knows: not scheduled, and reset as a host would.
    stray = client(TCP(sport=40300, dport=80, flags="A", seq=1, ack=77))
    reset = IP(src=VIP, dst=CLIENT, id=0, flags="DF", ttl=64)
    story.step(stray, from_director(reset, TCP(sport=80, dport=40300, flags="R", seq=77, window=0)))
    old = client(TCP(sport=40400, dport=80, flags="S"), ttl=1)
    # From the VIP, since that is what the packet had reached: the kernel's choice too.
    late = IP(src=VIP, dst=CLIENT, tos=0xC0, id=story.own_id(), ttl=64)
    story.step(old, from_director(late, ICMP(type=11, code=0) / Raw(bytes(old[IP]))))


def tell(mode):
    story = Story(mode)
    play_tcp(story, 40000, FIRST)
    play_tcp(story, 40001, SECOND)
    play_udp(story, 50000, FIRST, True)
    play_udp(story, 50001, SECOND, False)
    if mode == "nat":
        play_nat_icmp(story, 50002, FIRST)
    play_answers(story)
    return story


def write(path, packets):
    writer = PcapWriter(path, linktype=1, sync=True)
    writer.write_header(None)
    for n, frame in enumerate(packets):
        writer.write_packet(frame, sec=n, usec=0)
    writer.close()


def main():
    directory = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    for mode in ("nat", "dr", "ipip"):
        story = tell(mode)
        write(os.path.join(directory, f"{mode}.in.pcap"), story.given)
        write(os.path.join(directory, f"{mode}.out.pcap"), story.expected)
        print(f"{mode}: {len(story.given)} packets in, {len(story.expected)} out")


if __name__ == "__main__":
    main()
