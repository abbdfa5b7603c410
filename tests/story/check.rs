//! What must be true of a frame that leaves the director, read from the RFCs alone.
//!
//! Nothing here uses the product's own code, so that a mistake there is not made twice:
//! Ethernet II, IPv4 (RFC 791), IPv6 (RFC 8200), TCP (RFC 9293), UDP (RFC 768), SCTP
//! (RFC 9260), ICMP (RFC 792), ICMPv6 (RFC 4443), IP in IP (RFC 2003, 2473), GRE (RFC 2784),
//! GUE (draft-ietf-intarea-gue) and VXLAN (RFC 7348).

use std::net::IpAddr;

/// What is wrong with a frame.
pub type Wrong = String;

/// UDP port of GUE in the tests' worlds.
pub const GUE_PORT: u16 = 6080;
/// UDP port of VXLAN.
pub const VXLAN_PORT: u16 = 4789;

/// The one's-complement sum of big-endian words (RFC 1071), folded to 16 bits; an odd last byte is
/// the high half of a word.
pub fn ones_sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for word in part.chunks(2) {
            sum += u64::from(word[0]) << 8 | u64::from(word.get(1).copied().unwrap_or(0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// How far a sum with its checksum field included is from right: 0 is right. Both zeros of the
/// one's complement count as one, so a packet whose addresses were rewritten keeps this number.
fn residue(parts: &[&[u8]]) -> u16 {
    match ones_sum(parts) {
        0xffff => 0,
        n => n,
    }
}

/// CRC32c of an SCTP packet whose checksum field is zero (RFC 9260, appendix A), bit by bit.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for b in bytes {
        crc ^= u32::from(*b);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

/// One packet of a frame: tunnels have two, the outer one first.
#[derive(Clone, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Protocol after all extension headers.
    pub proto: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// A piece of a datagram: its identification, first byte, and whether more follow.
    pub piece: Option<(u32, usize, bool)>,
    /// Source and destination port, in a packet that begins a datagram.
    pub ports: Option<(u16, u16)>,
    /// Sequence and acknowledgement number, flags and options of TCP.
    pub tcp: Option<(u32, u32, u8, Vec<u8>)>,
    /// What follows the transport header; for a later piece, all of it.
    pub payload: Vec<u8>,
    /// Transport header and payload.
    pub body: Vec<u8>,
    /// How far the transport checksum is off, 0 if it is right or the packet says that it has none;
    /// nothing where it cannot be known: pieces, protocols without one, lengths that contradict.
    pub residue: Option<u16>,
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { src, dst, proto, ttl, piece, ports, tcp, residue, .. } = self;
        let len = self.body.len();
        write!(f, "({proto} {src} to {dst} {ports:?} ttl {ttl} {piece:?} {tcp:x?} {residue:?}, {len} bytes)")
    }
}

/// A frame.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Ethernet destination.
    pub to: [u8; 6],
    /// Ethernet type, behind VLAN tags.
    pub ethertype: u16,
    /// Its packets, outermost first; none in ARP.
    pub packets: Vec<Packet>,
}

impl Seen {
    /// The packet that a client or a server meant.
    pub fn inner(&self) -> Option<&Packet> {
        self.packets.last()
    }
}

fn be16(b: &[u8], at: usize) -> u16 {
    u16::from(b[at]) << 8 | u16::from(b[at + 1])
}

fn be32(b: &[u8], at: usize) -> u32 {
    u32::from(be16(b, at)) << 16 | u32::from(be16(b, at + 2))
}

fn need(holds: bool, what: &str) -> Result<(), Wrong> {
    if holds { Ok(()) } else { Err(what.into()) }
}

/// Reads an emitted frame on a link of `mtu` bytes. Tunnels are looked into when they come from one of
/// `ends`: what others wrapped is theirs to get right.
pub fn frame(bytes: &[u8], mtu: usize, ends: &[IpAddr]) -> Result<Seen, Wrong> {
    let seen = ethernet(bytes, ends)?;
    need(bytes[..6] != [0; 6], "sent to the zero address")?;
    need(bytes[6] & 1 == 0 && bytes[6..12] != [0; 6], "sent from no station's address")?;
    if let Some(outer) = seen.packets.first() {
        let len = if outer.src.is_ipv4() { usize::from(be16(bytes, 16)) } else { 40 + usize::from(be16(bytes, 18)) };
        need(len <= mtu, "larger than the link's MTU")?;
        need(outer.ttl > 0, "sent with a TTL of zero")?;
        // Behind the packet there may be the padding of a short Ethernet frame.
        need(bytes.len() - 14 - len < 64, "trailing bytes")?;
    }
    Ok(seen)
}

/// Reads any frame, without what only an emitted one must hold.
pub fn ethernet(bytes: &[u8], ends: &[IpAddr]) -> Result<Seen, Wrong> {
    need(bytes.len() >= 14, "no Ethernet header")?;
    let to = [bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]];
    let ethertype = be16(bytes, 12);
    let mut packets = Vec::new();
    match ethertype {
        0x0800 | 0x86dd => {
            let packet = &bytes[14..];
            need(!packet.is_empty(), "no packet")?;
            need(packet[0] >> 4 == if ethertype == 0x0800 { 4 } else { 6 }, "IP version against the Ethernet type")?;
            ip(packet, ends, &mut packets)?;
        }
        0x0806 => need(bytes.len() >= 14 + 28, "short ARP")?,
        _ => return Err(format!("Ethernet type {ethertype:04x}")),
    }
    Ok(Seen { to, ethertype, packets })
}

/// Reads an IP packet, and those inside it, into `out`.
pub fn ip(bytes: &[u8], ends: &[IpAddr], out: &mut Vec<Packet>) -> Result<(), Wrong> {
    let (mut packet, body) = match bytes.first().map(|b| b >> 4) {
        Some(4) => ipv4(bytes)?,
        Some(6) => ipv6(bytes)?,
        _ => return Err("no IP packet".into()),
    };
    if packet.piece.is_none_or(|(_, first, _)| first == 0) {
        transport(&mut packet, body);
    } else {
        packet.payload = body.to_vec();
    }
    packet.body = body.to_vec();
    let inside = if ends.contains(&packet.src) && packet.piece.is_none() { wrapped(&packet, body)? } else { None };
    out.push(packet);
    match inside {
        Some(inner) if out.len() < 4 => {
            ip(inner, ends, out)?;
            let left = out.last().map_or(0, |_| trailing(inner));
            need(left == 0, "the inner packet does not fill the tunnel")
        }
        _ => Ok(()),
    }
}

/// Bytes behind an IP packet.
fn trailing(bytes: &[u8]) -> usize {
    let len = if bytes[0] >> 4 == 4 { usize::from(be16(bytes, 2)) } else { 40 + usize::from(be16(bytes, 4)) };
    bytes.len() - len
}

fn ipv4(b: &[u8]) -> Result<(Packet, &[u8]), Wrong> {
    need(b.len() >= 20, "short IPv4 header")?;
    let (header, total) = (usize::from(b[0] & 15) * 4, usize::from(be16(b, 2)));
    need(header >= 20 && header <= total && total <= b.len(), "IPv4 lengths")?;
    need(residue(&[&b[..header]]) == 0, "IPv4 header checksum")?;
    let (fragment, id) = (be16(b, 6), u32::from(be16(b, 4)));
    let (first, more) = (usize::from(fragment & 0x1fff) * 8, fragment & 0x2000 != 0);
    let piece = (first > 0 || more).then_some((id, first, more));
    need(first + total - header <= 65_535, "a piece beyond the largest datagram")?;
    let at = |n: usize| IpAddr::from([b[n], b[n + 1], b[n + 2], b[n + 3]]);
    Ok((empty(at(12), at(16), b[9], b[8], piece), &b[header..total]))
}

fn empty(src: IpAddr, dst: IpAddr, proto: u8, ttl: u8, piece: Option<(u32, usize, bool)>) -> Packet {
    Packet { src, dst, proto, ttl, piece, ports: None, tcp: None, payload: Vec::new(), body: Vec::new(), residue: None }
}

fn ipv6(b: &[u8]) -> Result<(Packet, &[u8]), Wrong> {
    need(b.len() >= 40, "short IPv6 header")?;
    let end = 40 + usize::from(be16(b, 4));
    need(end <= b.len(), "IPv6 payload length")?;
    let at = |n: usize| {
        let mut a = [0; 16];
        a.copy_from_slice(&b[n..n + 16]);
        IpAddr::from(a)
    };
    let (mut proto, mut next, mut piece) = (b[6], 40, None);
    // Hop-by-hop options, routing, destination options, fragment (RFC 8200, section 4).
    while matches!(proto, 0 | 43 | 44 | 60) && piece.is_none_or(|(_, first, _)| first == 0) {
        if next + 8 > end {
            return Ok((empty(at(8), at(24), 59, b[7], piece), &b[end..end]));
        }
        let len = if proto == 44 { 8 } else { 8 + 8 * usize::from(b[next + 1]) };
        if proto == 44 {
            let word = be16(b, next + 2);
            let (first, more) = (usize::from(word & 0xfff8), word & 1 != 0);
            // A fragment header on a whole datagram (RFC 6946) makes it none the less whole.
            piece = (first > 0 || more).then_some((be32(b, next + 4), first, more));
        }
        // The checksum of a source-routed packet covers an address that is not in the header.
        if proto == 43 && b[next + 3] > 0 {
            return Ok((empty(at(8), at(24), 59, b[7], piece), &b[end..end]));
        }
        if next + len > end {
            return Ok((empty(at(8), at(24), 59, b[7], piece), &b[end..end]));
        }
        proto = b[next];
        next += len;
    }
    Ok((empty(at(8), at(24), proto, b[7], piece), &b[next..end]))
}

fn pseudo(p: &Packet, len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    match (p.src, p.dst) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            out.extend(a.octets());
            out.extend(b.octets());
            out.extend([0, p.proto]);
            out.extend((len as u16).to_be_bytes());
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            out.extend(a.octets());
            out.extend(b.octets());
            out.extend((len as u32).to_be_bytes());
            out.extend([0, 0, 0, p.proto]);
        }
        _ => {}
    }
    out
}

/// Fills in what the transport header shows. One that is cut short leaves the packet as it is.
fn transport(p: &mut Packet, l4: &[u8]) {
    let sum = |p: &Packet| residue(&[&pseudo(p, l4.len()), l4]);
    let (from, off) = match p.proto {
        6 if l4.len() >= 20 => {
            let data = usize::from(l4[12] >> 4) * 4;
            if (20..=l4.len()).contains(&data) {
                p.tcp = Some((be32(l4, 4), be32(l4, 8), l4[13], l4[20..data].to_vec()));
            }
            (data.clamp(20, l4.len()), Some(sum(p)))
        }
        17 if l4.len() >= 8 => {
            let len = usize::from(be16(l4, 4));
            // RFC 768: a checksum of zero is none.
            let off = if be16(l4, 6) == 0 { 0 } else { sum(p) };
            (8, Some(off).filter(|_| len == l4.len()))
        }
        // A CRC has no residue that survives a rewriting: right or wrong is all that can be said.
        132 if l4.len() >= 12 => {
            let right = l4[8..12] == crc32c(&[&l4[..8], &[0; 4], &l4[12..]].concat()).to_le_bytes();
            (12, Some(if right { 0 } else { 0xffff }))
        }
        1 if l4.len() >= 8 => (8, Some(residue(&[l4]))),
        58 if l4.len() >= 8 => (8, Some(sum(p))),
        _ => (0, None),
    };
    p.payload = l4[from..].to_vec();
    p.residue = off.filter(|_| p.piece.is_none());
    if matches!(p.proto, 6 | 17 | 132) && l4.len() >= 4 {
        p.ports = Some((be16(l4, 0), be16(l4, 2)));
    }
}

/// The packet inside a tunnel of ours, once everything around it is right.
fn wrapped<'a>(p: &Packet, body: &'a [u8]) -> Result<Option<&'a [u8]>, Wrong> {
    let of = |proto: u16, inner: &'a [u8]| {
        let version = inner.first().map_or(0, |b| b >> 4);
        let right = matches!((proto, version), (4 | 0x0800, 4) | (41 | 0x86dd, 6));
        need(right, "the tunnel announces another protocol than it holds").map(|()| Some(inner))
    };
    match (p.proto, p.ports) {
        (4 | 41, _) => of(u16::from(p.proto), body),
        (47, _) => {
            need(body.len() >= 4, "short GRE header")?;
            // Checksum present; no key, no sequence number, version 0.
            need(be16(body, 0) & 0x7fff == 0, "GRE flags")?;
            let len = if body[0] & 0x80 != 0 { 8 } else { 4 };
            need(body.len() >= len, "short GRE header")?;
            need(len == 4 || residue(&[body]) == 0, "GRE checksum")?;
            of(be16(body, 2), &body[len..])
        }
        (17, Some((_, port @ (GUE_PORT | VXLAN_PORT)))) => {
            need(p.residue == Some(0), "outer UDP length or checksum")?;
            need(p.src.is_ipv4() || be16(body, 6) != 0 || port == GUE_PORT, "no UDP checksum over IPv6")?;
            let inner = &body[8..];
            if port == GUE_PORT {
                need(inner.len() >= 4 && inner[0] & 0xe0 == 0, "GUE header")?;
                let len = 4 + 4 * usize::from(inner[0] & 0x1f);
                need(inner.len() >= len, "GUE header")?;
                return of(u16::from(inner[1]), &inner[len..]);
            }
            need(inner.len() >= 8 + 14 && inner[0] == 8, "VXLAN header")?;
            of(be16(inner, 8 + 12), &inner[8 + 14..])
        }
        _ => Ok(None),
    }
}

/// A tunnel's packet that came in pieces, and those inside it, outermost first.
pub fn unwrap(outer: Packet, ends: &[IpAddr]) -> Result<Vec<Packet>, Wrong> {
    let mut inside = Vec::new();
    match wrapped(&outer, &outer.body)? {
        Some(inner) => ip(inner, ends, &mut inside)?,
        None => return Err("no tunnel".into()),
    }
    inside.insert(0, outer);
    Ok(inside)
}

/// The packet that an ICMP error quotes: source, destination, protocol, ports; and whether an IPv4
/// header in it has the right checksum.
pub type Quote = (IpAddr, IpAddr, u8, Option<(u16, u16)>);

/// Reads what an ICMP error quotes.
pub fn quoted(error: &Packet) -> Result<Quote, Wrong> {
    let b = &error.payload[..];
    let (p, l4) = match b.first().map(|b| b >> 4) {
        Some(4) => {
            need(b.len() >= 20, "short quote")?;
            let header = usize::from(b[0] & 15) * 4;
            need(header >= 20 && b.len() >= header, "quoted header's length")?;
            need(residue(&[&b[..header]]) == 0, "quoted header's checksum")?;
            let at = |n: usize| IpAddr::from([b[n], b[n + 1], b[n + 2], b[n + 3]]);
            (empty(at(12), at(16), b[9], b[8], None), &b[header..])
        }
        Some(6) => {
            need(b.len() >= 40, "short quote")?;
            let at = |n: usize| {
                let mut a = [0; 16];
                a.copy_from_slice(&b[n..n + 16]);
                IpAddr::from(a)
            };
            (empty(at(8), at(24), b[6], b[7], None), &b[40..])
        }
        _ => return Err("quotes no packet".into()),
    };
    let ports = (l4.len() >= 4).then(|| (be16(l4, 0), be16(l4, 2)));
    Ok((p.src, p.dst, p.proto, ports))
}

/// Puts the pieces of one datagram together, in whatever order they came, and reads the whole.
pub fn reassemble(pieces: &[Packet]) -> Result<Packet, Wrong> {
    let mut sorted: Vec<&Packet> = pieces.iter().collect();
    sorted.sort_by_key(|p| p.piece.map_or(0, |(_, first, _)| first));
    let (mut body, mut ended) = (Vec::new(), false);
    for p in &sorted {
        let (_, at, more) = p.piece.ok_or("a whole packet among the pieces")?;
        need(!ended && at == body.len(), "a gap between pieces, or an overlap")?;
        body.extend(&p.body);
        ended = !more;
    }
    let head = sorted.first().ok_or("no piece")?;
    need(ended, "no last piece")?;
    let mut whole = empty(head.src, head.dst, head.proto, head.ttl, None);
    transport(&mut whole, &body);
    whole.body = body;
    Ok(whole)
}
