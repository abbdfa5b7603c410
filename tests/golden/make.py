#!/usr/bin/python3
"""Writes the golden captures: for each case what goes in and what must come out.

    tests/golden/make.py [DIRECTORY]

Each story below is a list of steps: a packet that arrives, and the packets that leave
because of it. The expected ones are built here, from the addresses and the rules of the
forwarding mode, with every checksum computed by scapy: they are not recordings of what
the director once sent.
"""
import os
import sys

from scapy.config import conf
from scapy.layers.inet import ICMP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6ND_NA, ICMPv6ND_NS
from scapy.layers.inet6 import ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6, in6_getnsma, in6_getnsmac
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw
from scapy.pton_ntop import inet_ntop, inet_pton
from scapy.utils import PcapWriter
from world import DIRECTOR, FIRST_MAC, GATEWAY, SECOND_MAC, cases, exceeded, forwarded, ip, overhead, quoted, readdressed
from world import too_big, unreachable, wrap

conf.verb = 0


class Story:
    """Steps of one capture, and the numbers that the director gives out."""

    def __init__(self, case):
        self.case = case
        self.f = case.family
        self.given = []
        self.expected = []
        # The first packet that the director makes itself has number 2.
        self.next_id = 2
        # Full NAT takes local ports in turn.
        self.next_local = 2000

    def own_id(self):
        self.next_id += 1
        return self.next_id - 1

    def flow(self, client_port, second=False):
        """A new flow to one of the two servers."""
        local = None
        if self.case.mode == "full-nat":
            local, self.next_local = (self.f.local, self.next_local), self.next_local + 1
        servers = self.case.server_family
        server, mac = (servers.second, SECOND_MAC) if second else (servers.first, FIRST_MAC)
        return Flow(self, client_port, server, mac, local)

    def step(self, frame, *leaves):
        """`frame` arrives; `leaves` are the frames that must leave, in this order: bytes as
        they are, what is passed on with its padding."""
        # A wire pads frames to 60 bytes. What is only passed on keeps its padding; a tunnel
        # must take it off, as it would end up inside; what the director makes has none.
        self.given.append(bytes(frame).ljust(60, b"\0"))
        for out in leaves:
            passed_on = not isinstance(out, bytes) and self.case.mode != "tunnel"
            self.expected.append(bytes(out).ljust(60, b"\0") if passed_on else bytes(out))

    def client(self, l4, **how):
        """A packet from the client to the VIP."""
        return ip(self.f.client, self.f.vip, l4, **{"ident": 1000, "ttl": 62, **how})

    def from_client(self, packet, *leaves):
        self.step(Ether(src=GATEWAY, dst=DIRECTOR) / packet, *leaves)

    def from_servers(self, packet, *leaves, mac=FIRST_MAC):
        self.step(Ether(src=mac, dst=DIRECTOR) / packet, *leaves)

    def to_client(self, packet):
        """A frame passed on towards the client."""
        return Ether(src=DIRECTOR, dst=GATEWAY) / packet

    def said(self, l4, **how):
        """What the director itself says to the client, from the VIP."""
        if "ident" not in how and self.f.v4:
            how = {"df": False, "ident": self.own_id(), **how}
        return bytes(self.to_client(ip(self.f.vip, self.f.client, l4, **how)))

    def error(self, l4, about):
        """An ICMP error of the director's own: internetwork control in IPv4 (RFC 1812)."""
        return self.said(l4 / quoted(about), tos=0xC0 if self.f.v4 else 0)


class Flow:
    """One client port's flow, and what the forwarding mode makes of its packets."""

    def __init__(self, story, client_port, server, mac, local):
        self.story, self.case, self.f = story, story.case, story.f
        self.client_port, self.server, self.mac, self.local = client_port, server, mac, local

    def port(self, vport):
        """The server's port of a service."""
        return {80: 8080, 7000: 7001}[vport] if self.case.translates() else vport

    def at_server(self, packet):
        """What the server must get of a packet to the VIP, from the IP header on."""
        l4 = packet.payload
        if self.case.mode == "tunnel":
            return wrap(self.case, self.server, forwarded(packet), self.mac, self.story.own_id)
        if self.case.mode == "dr":
            return forwarded(packet)
        dport = self.port(l4.dport) if isinstance(l4, (TCP, UDP)) else None
        src, sport = self.local or (None, None)
        return forwarded(packet, dst=self.server, dport=dport, src=src, sport=sport)

    def frame(self, packet):
        return Ether(src=DIRECTOR, dst=self.mac) / packet

    def request(self, l4, **how):
        packet = self.story.client(l4, **how)
        out = self.at_server(packet)
        self.story.from_client(packet, self.frame(out))
        return out

    def reply(self, l4, vport, **how):
        """The server answers through the director; the client sees the VIP."""
        l4.sport = self.port(vport)
        to, l4.dport = self.local or (self.f.client, self.client_port)
        packet = ip(self.server, to, l4, **{"ident": 2000, **how})
        seen = forwarded(packet, src=self.f.vip, sport=vport, dst=self.f.client, dport=self.client_port)
        self.story.from_servers(packet, self.story.to_client(seen), mac=self.mac)

    def reported_by_server_side(self, who, l4, sent):
        """An error of the server, or of a router near it, about `sent`, which left to it. The
        client is told of its own packet, by the VIP."""
        to = self.local[0] if self.local else self.f.client
        error = ip(who, to, l4 / quoted(sent), ident=2100, df=False)
        its = readdressed(sent, src=self.f.client, sport=self.client_port, dst=self.f.vip, dport=self.vport_of(sent))
        seen = ip(self.f.vip, self.f.client, l4 / quoted(its), ident=2100, df=False, ttl=63)
        self.story.from_servers(error, self.story.to_client(seen), mac=self.mac)

    def vport_of(self, sent):
        return {8080: 80, 7001: 7000}[sent.payload.dport]

    def reported_by_client_side(self, who, l4, reply):
        """An error of the client, or of a router near it, about a reply. The server is told
        of its own packet."""
        packet = ip(who, self.f.vip, l4 / quoted(reply), ident=2200, df=False, ttl=60)
        if not self.case.translates():
            out = self.at_server(packet)
        else:
            to, dport = self.local or (None, None)
            its = readdressed(reply, src=self.server, sport=self.port(reply.payload.sport), dst=to, dport=dport)
            # In full NAT a server knows nobody beyond the director: the error seems to come
            # from where the client seems to be.
            out = ip(to or who, self.server, l4 / quoted(its), ident=2200, df=False, ttl=59)
        self.story.from_client(packet, self.frame(out))


# TCP between the client's port and the VIP's port 80: (from the client?, segment).
HELLO = b"GET / HTTP/1.0\r\n\r\n"
PAGE = b"HTTP/1.0 200 OK\r\n\r\nhello, an odd number of bytes"


def tcp_connection(client_port):
    def c(flags, seq, ack, data=b"", **more):
        return True, TCP(sport=client_port, dport=80, flags=flags, seq=seq, ack=ack, **more) / data

    def s(flags, seq, ack, data=b"", **more):
        return False, TCP(flags=flags, seq=seq, ack=ack, **more) / data

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


def play_tcp(flow):
    for n, (from_client, segment) in enumerate(tcp_connection(flow.client_port)):
        # Identifications differ, one packet comes without DF, one with a TOS (one of them
        # with congestion experienced), two with a flow label.
        how = {"ident": 1000 + n, "df": n != 3, "tos": {3: 0x13, 5: 0x10}.get(n, 0)}
        if not flow.f.v4:
            how["fl"] = 0x12345 if n in (2, 5) else 0
        if from_client:
            flow.request(segment, **how)
        elif flow.case.translates():
            flow.reply(segment, 80, **how)


def play_udp(flow, checksum):
    # IPv6 knows no datagrams without a checksum (RFC 8200 section 8.1).
    none = {} if checksum or not flow.f.v4 else {"chksum": 0}
    flow.request(UDP(sport=flow.client_port, dport=7000, **none) / b"query", df=False)
    if flow.case.translates():
        flow.reply(UDP(**none) / b"answer!", 7000, df=False)


def play_errors(story):
    """ICMP errors about flows: from the servers' side, the clients' side, and about tunnels."""
    v4, f = story.f.v4, story.f
    flow = story.flow(50002)
    sent = flow.request(UDP(sport=50002, dport=7000) / b"anybody?", df=False, ident=77)
    if story.case.translates():
        flow.reported_by_server_side(flow.server, unreachable(v4), sent)
    answer = ip(f.vip, f.client, UDP(sport=7000, dport=50002) / b"nobody listens any more", ident=78, ttl=61)
    flow.reported_by_client_side(f.client, unreachable(v4), answer)

    flow = story.flow(40010)
    sent = flow.request(TCP(sport=40010, dport=80, flags="S", seq=70))
    if story.case.translates():
        near = story.case.server_family.near
        flow.reported_by_server_side(near, exceeded(v4), sent)
    page = ip(f.vip, f.client, TCP(sport=80, dport=40010, flags="A", seq=900, ack=71) / (b"page" * 360), ident=79, ttl=61)
    flow.reported_by_client_side(f.far, too_big(v4, 1400), page)
    if story.case.mode == "tunnel":
        play_tunnel_errors(story, flow, sent)


def play_tunnel_errors(story, flow, sent):
    """A router speaks of the outer packet; the client is told of its own by the VIP."""
    servers, v4 = story.case.server_family, story.f.v4
    inner = forwarded(story.client(TCP(sport=40010, dport=80, flags="S", seq=70)))
    quote = Raw(bytes(sent))
    error = ip(servers.near, servers.own, exceeded(servers.v4) / quote, ident=2300, df=False)
    story.from_servers(error, story.error(exceeded(v4), inner))
    error = ip(servers.near, servers.own, too_big(servers.v4, 1400) / quote, ident=2301, df=False)
    story.from_servers(error, story.error(too_big(v4, 1400 - overhead(story.case)), inner))


def play_neighbour(story):
    """Who has the VIP?"""
    f = story.f
    if f.v4:
        ask = Ether(src=GATEWAY, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=GATEWAY, psrc=f.gateway, pdst=f.vip)
        tell = ARP(op=2, hwsrc=DIRECTOR, psrc=f.vip, hwdst=GATEWAY, pdst=f.gateway)
    else:
        group = in6_getnsma(inet_pton(10, f.vip))
        ask = Ether(src=GATEWAY, dst=in6_getnsmac(group)) / IPv6(src=f.gateway, dst=inet_ntop(10, group), hlim=255)
        ask /= ICMPv6ND_NS(tgt=f.vip) / ICMPv6NDOptSrcLLAddr(lladdr=GATEWAY)
        tell = IPv6(src=f.vip, dst=f.gateway, hlim=255)
        tell /= ICMPv6ND_NA(R=0, S=1, O=1, tgt=f.vip) / ICMPv6NDOptDstLLAddr(lladdr=DIRECTOR)
    story.step(ask, bytes(Ether(src=DIRECTOR, dst=GATEWAY) / tell))


def play_answers(story):
    """What the director answers by itself, and what it must swallow."""
    v4 = story.f.v4
    data = b"are you there?"
    ask, tell = (ICMP(type=8, id=5, seq=6), ICMP(type=0, id=5, seq=6)) if v4 else (ICMPv6EchoRequest(id=5, seq=6), ICMPv6EchoReply(id=5, seq=6))
    story.from_client(story.client(ask / data, ident=3000, df=False), story.said(tell / data))

    closed = story.client(TCP(sport=40100, dport=81, flags="S", seq=500))
    story.from_client(closed, story.said(TCP(sport=81, dport=40100, flags="RA", seq=0, ack=501, window=0), ident=0, df=True))
    closed = story.client(UDP(sport=40100, dport=81) / b"closed")
    story.from_client(closed, story.error(unreachable(v4), closed))

    bad = story.client(TCP(sport=40200, dport=80, flags="S"), **({"chksum": 0x0101} if v4 else {"plen": 1000}))
    story.from_client(bad)
    # Of a connection that nobody knows: not scheduled, and reset as a host would.
    stray = story.client(TCP(sport=40300, dport=80, flags="A", seq=1, ack=77))
    story.from_client(stray, story.said(TCP(sport=80, dport=40300, flags="R", seq=77, window=0), ident=0, df=True))
    # From the VIP, since that is what the packet had reached: the kernel's choice too.
    old = story.client(TCP(sport=40400, dport=80, flags="S"), ttl=1)
    story.from_client(old, story.error(exceeded(v4), old))


def tell(case):
    story = Story(case)
    play_tcp(story.flow(40000))
    play_tcp(story.flow(40001, second=True))
    play_udp(story.flow(50000), True)
    play_udp(story.flow(50001, second=True), False)
    play_errors(story)
    play_neighbour(story)
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
    for case in cases():
        story = tell(case)
        write(os.path.join(directory, f"{case.name}.in.pcap"), story.given)
        write(os.path.join(directory, f"{case.name}.out.pcap"), story.expected)
        print(f"{case.name}: {len(story.given)} packets in, {len(story.expected)} out")


if __name__ == "__main__":
    main()
