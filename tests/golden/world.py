"""The world of the golden captures: who is in it, and packets as they should be.

    client 10.1.0.1 -- gateway 10.3.0.2 --+-- director 10.3.0.1, 10.2.0.254
    servers 10.2.0.11 and 10.2.0.12 ------+   VIP 10.9.0.1

The same with 2001:db8:N:: for 10.N.0.0 in IPv6. It is that of pollux.toml.in: one port, so
that the order of requests and replies is the order of the capture. Checksums and lengths
are scapy's.
"""
import os
from dataclasses import dataclass

from scapy.layers.inet import GRE, ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6TimeExceeded, IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

# Stations by their Ethernet addresses. The director's is what DPDK gives its first pcap port.
DIRECTOR = "02:70:63:61:70:00"
GATEWAY = "02:00:00:00:03:02"
FIRST_MAC, SECOND_MAC = "02:00:00:00:02:0c", "02:00:00:00:02:0b"


@dataclass(frozen=True)
class Family:
    """Addresses of one family. Round robin begins with the server that was added last, as
    the kernel does: that is `first`."""

    v4: bool
    client: str
    gateway: str
    vip: str
    own: str
    local: str
    first: str
    second: str
    # Routers that report errors: one beyond the gateway, one towards the servers.
    far: str
    near: str


V4 = Family(True, "10.1.0.1", "10.3.0.2", "10.9.0.1", "10.2.0.254", "10.2.0.200", "10.2.0.12", "10.2.0.11", "10.1.7.1", "10.2.7.1")
V6 = Family(
    False, "2001:db8:1::1", "2001:db8:3::2", "2001:db8:9::1", "2001:db8:2::fe", "2001:db8:2::200",
    "2001:db8:2::c", "2001:db8:2::b", "2001:db8:1:7::1", "2001:db8:2:7::1",
)
FAMILY = {"4": V4, "6": V6}


@dataclass(frozen=True)
class Case:
    """One line of the file `cases`."""

    name: str
    mode: str
    family: Family
    server_family: Family
    tunnel: str

    def translates(self):
        """Whether servers see other addresses than the VIP, and answer through the director."""
        return self.mode in ("nat", "full-nat")


def cases():
    """All lines of the file `cases`."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "cases")) as lines:
        words = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    return [Case(name, mode, FAMILY[f], FAMILY[s], tunnel) for name, mode, f, s, tunnel in words]


def ip(src, dst, l4, ttl=64, tos=0, ident=0, df=True, **more):
    """An IP packet; the family is that of the addresses. `ident` and `df` are IPv4's."""
    if ":" in src:
        return IPv6(src=src, dst=dst, hlim=ttl, tc=tos, **more) / l4
    return IP(src=src, dst=dst, ttl=ttl, tos=tos, id=ident, flags="DF" if df else 0, **more) / l4


def ttl_of(packet):
    """TTL or hop limit."""
    return packet.hlim if isinstance(packet, IPv6) else packet.ttl


def forwarded(packet, src=None, dst=None, sport=None, dport=None):
    """The packet one hop on, with what is given replaced. Checksums are not filled in yet in
    what scapy builds, so they come out right for the new addresses."""
    out = packet.copy()
    if isinstance(out, IPv6):
        out.hlim -= 1
    else:
        out.ttl -= 1
    return readdressed(out, src, dst, sport, dport)


def readdressed(packet, src=None, dst=None, sport=None, dport=None):
    """The packet with the addresses and ports given."""
    out = packet.copy()
    out.src, out.dst = src or out.src, dst or out.dst
    if isinstance(out.payload, (TCP, UDP)):
        out.payload.sport, out.payload.dport = sport or out.payload.sport, dport or out.payload.dport
    return out


def unreachable(v4):
    """Port unreachable."""
    return ICMP(type=3, code=3) if v4 else ICMPv6DestUnreach(code=4)


def exceeded(v4):
    """Time exceeded in transit."""
    return ICMP(type=11, code=0) if v4 else ICMPv6TimeExceeded(code=0)


def too_big(v4, mtu):
    """Fragmentation needed, or packet too big."""
    return ICMP(type=3, code=4, nexthopmtu=mtu) if v4 else ICMPv6PacketTooBig(mtu=mtu)


def quoted(packet):
    """How an error quotes a packet: IPv4 routers give eight bytes behind the header at
    least (RFC 792), and here no more when it is large; IPv6 ones all that fits (RFC 4443)."""
    whole = bytes(packet)
    return Raw(whole if len(whole) < 500 else whole[:28] if isinstance(packet, IP) else whole[:1232])


def wrap(case, server, inner, mac, ident):
    """The inner packet in its tunnel to the server. `ident()` gives the outer identification
    where the director takes one: without DF (RFC 6864)."""
    v4, inner_v4 = case.server_family.v4, isinstance(inner, IP)
    tos = inner.tos if inner_v4 else inner.tc
    # IPv6 is never fragmented on the way, and what carries it neither.
    df = bool(inner.flags.DF) if inner_v4 else True
    shim = {
        "ipip": lambda: inner,
        "gre": lambda: GRE(proto=0x0800 if inner_v4 else 0x86DD) / inner,
        "gre-checksum": lambda: GRE(chksum_present=1, proto=0x0800 if inner_v4 else 0x86DD) / inner,
        "gue": lambda: gue(inner, inner_v4, chksum=0),
        "gue-checksum": lambda: gue(inner, inner_v4),
        # Of what comes off a wire all sums are filled in: nothing is left to offload.
        "gue-remote": lambda: gue(inner, inner_v4),
        "vxlan": lambda: vxlan(inner, mac, v4),
    }[case.tunnel]()
    # Copied as the kernel does, congestion experienced as RFC 6040's compatibility mode.
    ecn = tos & ~1 if tos & 3 == 3 else tos
    proto = {"gre": 47, "gre-checksum": 47, "ipip": 4 if inner_v4 else 41}.get(case.tunnel, 17)
    number = ident() if v4 and not df else 0
    more = {"proto" if v4 else "nh": proto}
    return ip(case.server_family.own, server, shim, ttl=ttl_of(inner), tos=ecn, ident=number, df=df, **more)


# The director takes the port from the hash of the flow, whose key is random: compare.py puts
# this one in its place.
OUTER_PORT = 0xC000


def gue(inner, inner_v4, **checksum):
    """GUE of version 0 without options (draft-ietf-intarea-gue): length 0, inner protocol."""
    return UDP(sport=OUTER_PORT, dport=6080, **checksum) / Raw(bytes([0, 4 if inner_v4 else 41, 0, 0]) + bytes(inner))


def vxlan(inner, mac, outer_v4):
    """VXLAN (RFC 7348): over IPv4 without a checksum; IPv6 wants one."""
    checksum = {"chksum": 0} if outer_v4 else {}
    frame = Ether(src=DIRECTOR, dst=mac) / inner
    return UDP(sport=OUTER_PORT, dport=4789, **checksum) / VXLAN(flags="Instance", vni=7) / frame


def overhead(case):
    """Bytes that the tunnel adds."""
    shim = {"ipip": 0, "gre": 4, "gre-checksum": 8, "vxlan": 8 + 8 + 14}.get(case.tunnel, 8 + 4)
    return shim + (20 if case.server_family.v4 else 40)
