//! Packets that clients and servers send, built from the RFCs without the product's code.

use std::net::{IpAddr, SocketAddr};

use super::check::{crc32c, ones_sum};

/// A TCP segment, UDP datagram or SCTP packet.
#[derive(Clone)]
pub struct Datagram {
    /// Source.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
    /// 6, 17 or 132.
    pub proto: u8,
    /// TCP's flags; SCTP's chunk type.
    pub flags: u8,
    /// TCP's sequence number.
    pub seq: u32,
    /// TCP's acknowledgement number.
    pub ack: u32,
    /// TTL or hop limit.
    pub ttl: u8,
    /// UDP without a checksum (IPv4 only).
    pub unsummed: bool,
    /// The payload.
    pub payload: Vec<u8>,
}

impl std::fmt::Debug for Datagram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { src, dst, proto, flags, seq, ack, .. } = self;
        let len = self.payload.len();
        write!(f, "[{proto} {src} to {dst}, flags {flags:#x}, {seq:#x}/{ack:#x}, {len} bytes]")
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// An IP packet around `l4`. `piece` is identification, offset in bytes and whether more follow.
pub fn ip(src: IpAddr, dst: IpAddr, proto: u8, ttl: u8, l4: &[u8], piece: Option<(u16, usize, bool)>) -> Vec<u8> {
    let mut out = Vec::new();
    if src.is_ipv4() {
        let (id, at, more) = piece.unwrap_or((7, 0, false));
        out.extend([0x45, 0]);
        out.extend((20 + l4.len() as u16).to_be_bytes());
        out.extend(id.to_be_bytes());
        out.extend(((at / 8) as u16 | if more { 0x2000 } else { 0 }).to_be_bytes());
        out.extend([ttl, proto, 0, 0]);
        out.extend(octets(src));
        out.extend(octets(dst));
        let sum = !ones_sum(&[&out]);
        out[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        let extra = if piece.is_some() { 8 } else { 0 };
        out.extend([0x60, 0, 0, 0]);
        out.extend((extra + l4.len() as u16).to_be_bytes());
        out.extend([if piece.is_some() { 44 } else { proto }, ttl]);
        out.extend(octets(src));
        out.extend(octets(dst));
        if let Some((id, at, more)) = piece {
            out.extend([proto, 0]);
            out.extend((at as u16 | u16::from(more)).to_be_bytes());
            out.extend(u32::from(id).to_be_bytes());
        }
    }
    out.extend(l4);
    out
}

/// An ICMP or ICMPv6 error of this type and code about `about`, of which it quotes up to `quote` bytes.
pub fn error(src: IpAddr, dst: IpAddr, kind: u8, code: u8, word: u32, about: &[u8], quote: usize) -> Vec<u8> {
    let mut l4 = vec![kind, code, 0, 0];
    l4.extend(word.to_be_bytes());
    l4.extend(&about[..quote.min(about.len())]);
    let proto = if src.is_ipv4() { 1 } else { 58 };
    let pseudo = if src.is_ipv4() { Vec::new() } else { pseudo(src, dst, proto, l4.len()) };
    let sum = !ones_sum(&[&pseudo, &l4]);
    l4[2..4].copy_from_slice(&sum.to_be_bytes());
    ip(src, dst, proto, 64, &l4, None)
}

fn pseudo(src: IpAddr, dst: IpAddr, proto: u8, len: usize) -> Vec<u8> {
    let mut out = [octets(src), octets(dst)].concat();
    out.extend((len as u32).to_be_bytes());
    out.extend([0, 0, 0, proto]);
    out
}

impl Datagram {
    /// Without payload, TTL 64.
    pub fn new(proto: u8, src: SocketAddr, dst: SocketAddr, flags: u8) -> Self {
        Self { src, dst, proto, flags, seq: 0, ack: 0, ttl: 64, unsummed: false, payload: Vec::new() }
    }

    /// Transport header and payload.
    pub fn l4(&self) -> Vec<u8> {
        let mut l4 = [self.src.port().to_be_bytes(), self.dst.port().to_be_bytes()].concat();
        let at = match self.proto {
            6 => {
                l4.extend(self.seq.to_be_bytes());
                l4.extend(self.ack.to_be_bytes());
                l4.extend([0x50, self.flags, 0x20, 0, 0, 0, 0, 0]);
                Some(16)
            }
            17 => {
                l4.extend((8 + self.payload.len() as u16).to_be_bytes());
                l4.extend([0, 0]);
                (!self.unsummed || self.src.is_ipv6()).then_some(6)
            }
            _ => {
                // A verification tag (0 with INIT), the checksum, one chunk of four bytes, and what follows it.
                l4.extend([0, 0, 0, u8::from(self.flags != 1), 0, 0, 0, 0, self.flags, 0, 0, 4]);
                None
            }
        };
        l4.extend(&self.payload);
        if let Some(at) = at {
            let sum = !ones_sum(&[&pseudo(self.src.ip(), self.dst.ip(), self.proto, l4.len()), &l4]);
            let sum = if self.proto == 17 && sum == 0 { 0xffff } else { sum };
            l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        if self.proto == 132 {
            let crc = crc32c(&l4);
            l4[8..12].copy_from_slice(&crc.to_le_bytes());
        }
        l4
    }

    /// The IP packet.
    pub fn packet(&self) -> Vec<u8> {
        ip(self.src.ip(), self.dst.ip(), self.proto, self.ttl, &self.l4(), None)
    }

    /// The same in pieces of `size` bytes, which must be a multiple of eight.
    pub fn pieces(&self, id: u16, size: usize) -> Vec<Vec<u8>> {
        let l4 = self.l4();
        let last = l4.len().div_ceil(size).saturating_sub(1);
        l4.chunks(size)
            .enumerate()
            .map(|(n, part)| {
                ip(self.src.ip(), self.dst.ip(), self.proto, self.ttl, part, Some((id, n * size, n < last)))
            })
            .collect()
    }
}
