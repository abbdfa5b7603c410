//! A tiny packet builder for tests: enough to say what goes in and look at what comes out.

use std::net::Ipv4Addr;

/// One's-complement checksum of `data` (RFC 1071), written independently of the product's.
pub fn fold(data: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for w in data.chunks(2) {
        sum += u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A TCP or UDP packet over IPv4 in an Ethernet frame.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Ethernet destination.
    pub to: [u8; 6],
    /// Ethernet source.
    pub from: [u8; 6],
    /// Source address and port.
    pub src: (Ipv4Addr, u16),
    /// Destination address and port.
    pub dst: (Ipv4Addr, u16),
    /// 6 or 17.
    pub proto: u8,
    /// TCP flags.
    pub flags: u8,
    /// Time to live.
    pub ttl: u8,
    /// Don't fragment.
    pub df: bool,
    /// Bytes after the transport header.
    pub payload: Vec<u8>,
}

impl Packet {
    /// A TCP segment.
    pub fn tcp(src: &str, dst: &str, flags: u8) -> Self {
        Self {
            to: [0; 6],
            from: [2, 9, 9, 9, 9, 9],
            src: parse(src),
            dst: parse(dst),
            proto: 6,
            flags,
            ttl: 64,
            df: false,
            payload: Vec::new(),
        }
    }
    /// A UDP datagram.
    pub fn udp(src: &str, dst: &str) -> Self {
        Self { proto: 17, ..Self::tcp(src, dst, 0) }
    }
    /// To this Ethernet address.
    pub fn to(mut self, mac: [u8; 6]) -> Self {
        self.to = mac;
        self
    }
    /// With this payload.
    pub fn payload(mut self, bytes: &[u8]) -> Self {
        self.payload = bytes.to_vec();
        self
    }
    /// The frame.
    pub fn build(&self) -> Vec<u8> {
        let mut l4 = Vec::new();
        l4.extend(self.src.1.to_be_bytes());
        l4.extend(self.dst.1.to_be_bytes());
        let at = if self.proto == 6 {
            l4.extend([0, 0, 3, 232, 0, 0, 0, 0, 0x50, self.flags, 0x20, 0, 0, 0, 0, 0]);
            16
        } else {
            l4.extend((8 + self.payload.len() as u16).to_be_bytes());
            l4.extend([0, 0]);
            6
        };
        l4.extend(&self.payload);
        let mut pseudo = [self.src.0.octets(), self.dst.0.octets()].concat();
        pseudo.extend([0, self.proto]);
        pseudo.extend((l4.len() as u16).to_be_bytes());
        pseudo.extend(&l4);
        let sum = fold(&pseudo).to_be_bytes();
        l4[at..at + 2].copy_from_slice(&sum);
        let mut ip = vec![0x45, 0];
        ip.extend((20 + l4.len() as u16).to_be_bytes());
        ip.extend([0, 7, if self.df { 0x40 } else { 0 }, 0, self.ttl, self.proto, 0, 0]);
        ip.extend(self.src.0.octets());
        ip.extend(self.dst.0.octets());
        let sum = fold(&ip).to_be_bytes();
        ip[10..12].copy_from_slice(&sum);
        [&self.to[..], &self.from, &[8, 0], &ip, &l4].concat()
    }
}

fn parse(s: &str) -> (Ipv4Addr, u16) {
    let (a, p) = s.split_once(':').expect("address:port");
    (a.parse().expect("address"), p.parse().expect("port"))
}

/// What a frame shows: for assertions.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    /// Ethernet destination.
    pub to: [u8; 6],
    /// Source address and port.
    pub src: String,
    /// Destination address and port.
    pub dst: String,
    /// TTL.
    pub ttl: u8,
    /// TCP flags, 0 for others.
    pub flags: u8,
    /// IP header and transport checksum right.
    pub sums_ok: bool,
}

/// Looks at a TCP or UDP packet over IPv4 without options.
pub fn see(frame: &[u8]) -> Seen {
    let ip = &frame[14..];
    let len = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let l4 = &ip[20..len];
    let a = |o: usize| Ipv4Addr::new(ip[o], ip[o + 1], ip[o + 2], ip[o + 3]);
    let port = |o: usize| u16::from_be_bytes([l4[o], l4[o + 1]]);
    let mut pseudo = ip[12..20].to_vec();
    pseudo.extend([0, ip[9]]);
    pseudo.extend((l4.len() as u16).to_be_bytes());
    pseudo.extend(l4);
    Seen {
        to: frame[..6].try_into().expect("six bytes"),
        src: format!("{}:{}", a(12), port(0)),
        dst: format!("{}:{}", a(16), port(2)),
        ttl: ip[8],
        flags: if ip[9] == 6 { l4[13] } else { 0 },
        sums_ok: fold(&ip[..20]) == 0 && fold(&pseudo) == 0,
    }
}
