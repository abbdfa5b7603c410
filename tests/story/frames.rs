//! Frames read off a string of bytes: what arrives where, what changes, how time passes.
//!
//! Half of the steps are well-formed packets with a few bytes overwritten, as random
//! bytes alone never get past the checksums.

use super::bytes::Bytes;
use super::check::ones_sum;
use super::world::{FIRST_V6, LOCAL_PORTS, PORT_MACS, SERVICES, vip};

/// One step of the story.
pub enum Step {
    /// A frame arrives on (port, queue), in one segment or cut after so many bytes.
    Frame {
        /// Port and queue.
        on: (usize, usize),
        /// The frame.
        bytes: Vec<u8>,
        /// Length of the first segment; 0 for all in one.
        cut: usize,
    },
    /// Time passes, milliseconds.
    Sleep(u32),
    /// The configuration changes.
    Change(u8),
}

impl Bytes<'_> {
    /// A packet's size: mostly small ones, so that many fit a story.
    fn size(&mut self) -> usize {
        let n = usize::from(self.u16());
        if n < 0xf000 { n % 100 } else { n % 2048 }
    }

    /// The next step of a story of random bytes behind a right Ethernet header, some with a right IPv4
    /// header checksum; none at the end.
    pub fn random_step(&mut self) -> Option<Step> {
        if self.is_empty() {
            return None;
        }
        let head = self.u8();
        let on = (usize::from(head >> 3) & 1, usize::from(head >> 4) & 1);
        Some(match head & 7 {
            0 => Step::Sleep(u32::from(self.u16())),
            1 => Step::Change(self.u8()),
            kind => {
                let n = self.size();
                let mut packet = self.take(n).to_vec();
                if kind == 2 {
                    return Some(Step::Frame { on, bytes: packet, cut: 0 });
                }
                let v6 = head & 0x20 != 0;
                if let Some(first) = packet.first_mut() {
                    *first = if v6 { 0x60 | *first & 15 } else { 0x45 };
                }
                if kind > 5 {
                    address_a_service(&mut packet, v6);
                }
                if kind > 3 && !v6 && packet.len() >= 20 {
                    packet[10..12].fill(0);
                    let sum = !ones_sum(&[&packet[..20]]);
                    packet[10..12].copy_from_slice(&sum.to_be_bytes());
                }
                let ether: [u8; 2] = if v6 { [0x86, 0xdd] } else { [8, 0] };
                let bytes = [&PORT_MACS[on.0][..], &[2, 9, 9, 9, 9, 9], &ether, &packet].concat();
                let cut = if head & 0xc0 == 0xc0 { usize::from(self.u8()).min(bytes.len()) } else { 0 };
                Step::Frame { on, bytes, cut }
            }
        })
    }

    /// The next step of a story of well-formed packets and mutated ones; none at the end.
    pub fn step(&mut self) -> Option<Step> {
        if self.is_empty() {
            return None;
        }
        let head = self.u8();
        let on = (usize::from(head >> 3) & 1, usize::from(head >> 4) & 1);
        let cut = if head & 0xe0 == 0xe0 { usize::from(self.u8()) } else { 0 };
        Some(match head & 7 {
            0 => {
                let n = self.size();
                Step::Frame { on, bytes: self.take(n).to_vec(), cut }
            }
            1 => Step::Sleep(u32::from(self.u16())),
            2 => Step::Change(self.u8()),
            kind => {
                let mut bytes = packet(self, on.0, kind);
                // Up to three overwritten bytes; none most of the time.
                for _ in 0..self.u8().saturating_sub(252) {
                    let at = usize::from(self.u16());
                    let value = self.u8();
                    let len = bytes.len().max(1);
                    if let Some(b) = bytes.get_mut(at % len) {
                        *b = value;
                    }
                }
                Step::Frame { on, bytes, cut }
            }
        })
    }
}

/// Makes a packet one for a service: by its protocol, and a VIP that the random bytes choose.
fn address_a_service(packet: &mut [u8], v6: bool) {
    let (proto, dst) = if v6 { (6, 24) } else { (9, 16) };
    if packet.len() < 40 {
        return;
    }
    packet[proto] = [1, 6, 17, 132, 58][usize::from(packet[proto]) % 5];
    let n = usize::from(packet[dst]);
    match vip(if v6 { FIRST_V6 + n % (SERVICES - FIRST_V6) } else { n % FIRST_V6 }).to_std() {
        std::net::IpAddr::V4(a) => packet[dst..dst + 4].copy_from_slice(&a.octets()),
        std::net::IpAddr::V6(a) => packet[dst..dst + 16].copy_from_slice(&a.octets()),
    }
    // A length that is right, which chance alone seldom has.
    let len = packet.len() as u16;
    let (at, len) = if v6 { (4, len - 40) } else { (2, len) };
    packet[at..at + 2].copy_from_slice(&len.to_be_bytes());
}

/// What FTP says about data connections.
const FTP: [&[u8]; 6] = [
    b"227 Entering Passive Mode (10,2,0,11,31,144).\r\n",
    b"227 Entering Passive Mode (110,220,130,111,0,80).\r\n",
    b"229 Entering Extended Passive Mode (|||80|)\r\n",
    b"PORT 10,1,0,1,4,1\r\n",
    b"EPRT |1|10.1.0.1|1025|\r\n",
    b"EPRT |2|2001:db8:1::1|1025|\r\n",
];

/// A well-formed packet: from a client to a service (port 0), or a server's reply (port 1).
fn packet(b: &mut Bytes, port: usize, kind: u8) -> Vec<u8> {
    let service = usize::from(b.u8()) % SERVICES;
    let v6 = service >= FIRST_V6;
    let client_port = 1024 + u16::from(b.u8()) % 8;
    let client_last = b.u8() % 4;
    let real = 11 + 3 * service + usize::from(b.u8()) % 3;
    let (client, server): (Vec<u8>, Vec<u8>) = if v6 {
        let mut c = [0x20, 1, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        c[15] = client_last;
        let mut s = [0x20, 1, 0x0d, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        s[15] = real as u8;
        (c.to_vec(), s.to_vec())
    } else {
        (vec![10, 1, 0, client_last], vec![10, 2, 0, real as u8])
    };
    let vip_octets = match vip(service).to_std() {
        std::net::IpAddr::V4(a) => a.octets().to_vec(),
        std::net::IpAddr::V6(a) => a.octets().to_vec(),
    };
    let proto = match kind {
        3 | 4 => 6,
        5 => 17,
        6 => 132,
        _ => {
            if v6 {
                58
            } else {
                1
            }
        }
    };
    let (src, dst, sport, dport) = if port == 0 {
        (client, vip_octets, client_port, 80)
    } else {
        // To the client, or to a local address of full NAT.
        let to = b.u8();
        let (to, dport) = match (to % 4, v6) {
            (0, false) => (vec![10, 2, 0, 200], LOCAL_PORTS.0 + u16::from(to >> 2) % 8),
            (0, true) => {
                let mut local = server.clone();
                local[15] = 0xc8;
                (local, LOCAL_PORTS.0 + u16::from(to >> 2) % 8)
            }
            _ => (client, client_port),
        };
        (server, to, if service == 8 { 80 } else { 8080 }, dport)
    };
    let options = b.u8();
    let l4 = transport(b, proto, (sport, dport), &src, &dst, options);
    let ip = if v6 { ipv6(b, proto, &src, &dst, &l4) } else { ipv4(b, proto, &src, &dst, &l4, options) };
    let ether: [u8; 2] = if v6 { [0x86, 0xdd] } else { [8, 0] };
    let mut frame = [&PORT_MACS[port][..], &[2, 9, 9, 9, 9, 9], &ether, &ip].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

fn transport(b: &mut Bytes, proto: u8, ports: (u16, u16), src: &[u8], dst: &[u8], options: u8) -> Vec<u8> {
    let flags = b.u8();
    let mut body = vec![0x5a; usize::from(b.u8()) * if options & 0x80 != 0 { 8 } else { 1 }];
    let mut l4 = Vec::new();
    let at = match proto {
        6 => {
            l4.extend(ports.0.to_be_bytes());
            l4.extend(ports.1.to_be_bytes());
            // Sequence numbers near each other, so that some are the first, and some come after.
            let words = if options & 3 == 1 { b.u8() % 11 } else { 0 };
            l4.extend([0, 0, 0, b.u8(), 0, 0, 0, b.u8(), 0x50 + (words << 4), flags, 0x20, 0, 0, 0, 0, 0]);
            l4.extend(b.take(4 * usize::from(words)));
            l4.resize(20 + 4 * usize::from(words), 1);
            if options & 3 == 2 {
                let line = FTP[usize::from(b.u8()) % FTP.len()];
                let n = body.len();
                body.splice(..n.min(line.len()), line.iter().copied());
            }
            16
        }
        17 => {
            l4.extend(ports.0.to_be_bytes());
            l4.extend(ports.1.to_be_bytes());
            l4.extend((8 + body.len() as u16).to_be_bytes());
            l4.extend([0, 0]);
            6
        }
        132 => {
            l4.extend(ports.0.to_be_bytes());
            l4.extend(ports.1.to_be_bytes());
            l4.extend([0, 0, 0, 1, 0, 0, 0, 0, flags % 16, 0, 0, 4]);
            8
        }
        _ => {
            // An ICMP error, or echo: what it quotes is the fuzzer's.
            l4.extend([flags, b.u8(), 0, 0, 0, 0, 5, b.u8()]);
            2
        }
    };
    if proto == 1 || proto == 58 {
        let n = usize::from(b.u8());
        l4.extend(b.take(n));
    } else {
        l4.extend(&body);
    }
    let mut pseudo = [src, dst].concat();
    pseudo.extend([0, proto]);
    pseudo.extend((l4.len() as u16).to_be_bytes());
    let sum = match proto {
        1 => !ones_sum(&[&l4]),
        132 => 0,
        _ => !ones_sum(&[&pseudo, &l4]),
    };
    // A UDP checksum of zero means none and stays so.
    let sum = if proto == 17 && options & 0x40 != 0 { 0 } else { sum };
    l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    l4
}

fn ipv4(b: &mut Bytes, proto: u8, src: &[u8], dst: &[u8], l4: &[u8], options: u8) -> Vec<u8> {
    let option_words = if options & 7 == 7 { usize::from(b.u8() % 11) } else { 0 };
    let fragment = if options & 0x18 == 0x18 { b.u16() } else { u16::from(options & 0x20 != 0) << 14 };
    let ttl = if options & 7 == 6 { b.u8() } else { 64 };
    let mut ip = vec![0x45 + option_words as u8, 0];
    ip.extend((20 + 4 * option_words as u16 + l4.len() as u16).to_be_bytes());
    ip.extend(b.u8().to_be_bytes());
    ip.push(1);
    ip.extend(fragment.to_be_bytes());
    ip.extend([ttl, proto, 0, 0]);
    ip.extend(src);
    ip.extend(dst);
    let given = b.take(4 * option_words);
    ip.extend(given);
    ip.resize(20 + 4 * option_words, 0);
    let sum = !ones_sum(&[&ip]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip.extend(l4);
    ip
}

fn ipv6(b: &mut Bytes, proto: u8, src: &[u8], dst: &[u8], l4: &[u8]) -> Vec<u8> {
    let shape = b.u8();
    // Extension headers of the fuzzer's making: kind, then its bytes.
    let (next, extension) = match shape {
        240.. => {
            let kind = [0, 43, 44, 60][usize::from(shape) % 4];
            let mut e = b.take(8).to_vec();
            e.resize(8, 0);
            e[0] = proto;
            if kind != 44 {
                e[1] = 0;
            }
            (kind, e)
        }
        _ => (proto, Vec::new()),
    };
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend(((l4.len() + extension.len()) as u16).to_be_bytes());
    ip.extend([next, if shape == 1 { b.u8() } else { 64 }]);
    ip.extend(src);
    ip.extend(dst);
    ip.extend(&extension);
    ip.extend(l4);
    ip
}
