//! What the generator port makes: headers prepared once, into which each packet's flow is
//! stamped, checksums included.

use std::sync::Arc;

use dataplane::io::{BURST, PacketBuf};
use dataplane::wire::checksum;

use super::port::{GenBuf, HEADROOM, Slot};

/// The director's Ethernet address.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
/// VIP number 0; the others follow.
pub const VIP: u32 = 0x0a09_0000;
/// Real server number 0; the others follow.
pub const REAL: u32 = 0x0a80_0001;
const CLIENT: u32 = 0x0b00_0000;
/// Ports of each client.
const PORTS: u32 = 64;
/// Port of the real servers with NAT.
pub const RPORT: u16 = 8080;
/// Port of the VIPs.
pub const VPORT: u16 = 80;

/// TCP's flags.
pub const SYN: u8 = 2;
/// As above.
pub const ACK: u8 = 16;
const FIN: u8 = 1;
const PSH: u8 = 8;

/// Which packet comes next: all that varies.
#[derive(Clone, Copy, Default)]
pub struct Stamp {
    /// The client's address, host order (over IPv6: its last four bytes).
    pub client: u32,
    /// The client's port, host order.
    pub port: u16,
    /// Number of the VIP, or of the real server in a reply.
    pub peer: u16,
}

/// The stamp of flow `n`; the flows are spread over so many VIPs.
pub fn stamp(n: u32, vips: u32) -> Stamp {
    let vip = (u64::from(n.wrapping_mul(0x9e37_79b1)) * u64::from(vips)) >> 32;
    Stamp { client: CLIENT + n / PORTS, port: 1024 + (n % PORTS) as u16, peer: vip as u16 }
}

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From a client to a VIP.
    Request,
    /// From a real server (NAT) to a client.
    Reply,
}

/// The packets of one round, shared by those who send them.
pub type Sequence = Arc<[Stamp]>;

/// A prepared header, and the checksums of what does not vary.
#[derive(Clone)]
pub struct Template {
    bytes: [u8; 128],
    len: u8,
    peer: u32,
    ip_sum: u32,
    tcp_sum: u32,
}

/// Sum of 16-bit words in network order, not folded.
fn words(b: &[u8]) -> u32 {
    b.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum()
}

#[inline(always)]
fn fold(x: u32) -> [u8; 2] {
    let x = (x & 0xffff) + (x >> 16);
    let x = (x & 0xffff) + (x >> 16);
    (!(x as u16)).to_be_bytes()
}

impl Template {
    /// A TCP segment without data over IPv4 (54 bytes) or IPv6 (74).
    pub fn new(six: bool, way: Way, flags: u8) -> Self {
        let mut f = [0; 128];
        f[..6].copy_from_slice(&MAC);
        f[6..12].copy_from_slice(&[2, 0, 0, 0, 9, 9]);
        let l4 = if six { 54 } else { 34 };
        let (from, to) = match way {
            Way::Request => (0, VPORT),
            Way::Reply => (RPORT, 0),
        };
        f[l4..l4 + 2].copy_from_slice(&u16::to_be_bytes(from));
        f[l4 + 2..l4 + 4].copy_from_slice(&u16::to_be_bytes(to));
        f[l4 + 12..l4 + 16].copy_from_slice(&[0x50, flags, 0xff, 0xff]);
        if six {
            f[12..22].copy_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
            // 2001:db8:<kind>::, the number in the last four bytes.
            f[22..28].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8, 0, if way == Way::Request { 1 } else { 2 }]);
            f[38..44].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8, 0, if way == Way::Request { 9 } else { 1 }]);
        } else {
            f[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 40, 0, 7, 0x40, 0, 64, 6]);
        }
        let pseudo = if six { words(&f[22..54]) } else { 0 } + 6 + 20;
        let tcp_sum = pseudo + words(&f[l4..l4 + 20]);
        let peer = if way == Way::Request { VIP } else { REAL };
        Self { bytes: f, len: l4 as u8 + 20, peer, ip_sum: words(&f[14..24]), tcp_sum }
    }

    /// The packet of `s` by itself.
    pub fn frame(&self, s: Stamp) -> Vec<u8> {
        let mut buf = GenBuf::new();
        let slot = buf.fresh();
        match (self.len == 74, self.peer == VIP) {
            (false, true) => self.write::<false, false>(s, slot),
            (false, false) => self.write::<false, true>(s, slot),
            (true, true) => self.write::<true, false>(s, slot),
            (true, false) => self.write::<true, true>(s, slot),
        }
        buf.data().to_vec()
    }

    /// Writes the packet of `s`. Over IPv4 and IPv6, request and reply: one function each.
    #[inline(always)]
    fn write<const SIX: bool, const REPLY: bool>(&self, s: Stamp, slot: &mut Slot) {
        let room: &mut [u8; 128] = match slot.bytes.0[HEADROOM..].first_chunk_mut() {
            Some(room) => room,
            None => return,
        };
        let peer = self.peer + u32::from(s.peer);
        let ends = (s.client >> 16) + (s.client & 0xffff) + (peer >> 16) + (peer & 0xffff);
        let l4 = if SIX { 54 } else { 34 };
        // The client's address and port, then the other end's.
        let (client, port, other) = match (SIX, REPLY) {
            (false, false) => (26, 34, 30),
            (false, true) => (30, 36, 26),
            (true, false) => (34, 54, 50),
            (true, true) => (50, 56, 34),
        };
        if SIX {
            room[..80].copy_from_slice(&self.bytes[..80]);
        } else {
            room[..64].copy_from_slice(&self.bytes[..64]);
            room[24..26].copy_from_slice(&fold(self.ip_sum + ends));
        }
        room[client..client + 4].copy_from_slice(&s.client.to_be_bytes());
        room[other..other + 4].copy_from_slice(&peer.to_be_bytes());
        room[port..port + 2].copy_from_slice(&s.port.to_be_bytes());
        room[l4 + 16..l4 + 18].copy_from_slice(&fold(self.tcp_sum + ends + u32::from(s.port)));
        slot.len = self.len;
    }
}

/// Round and round through a sequence of flows, all packets alike.
pub struct Rounds {
    template: Template,
    six: bool,
    way: Way,
    sequence: Sequence,
    next: usize,
    /// Remembers where each packet went: the real servers' numbers, by the sequence.
    watched: Option<Vec<u16>>,
}

impl Rounds {
    /// Packets with these flags.
    pub fn new(six: bool, way: Way, flags: u8, sequence: Sequence) -> Self {
        Self { template: Template::new(six, way, flags), six, way, sequence, next: 0, watched: None }
    }

    /// Looks at the packets of the next round when they are sent.
    pub fn start_watching(&mut self) {
        self.next = 0;
        self.watched = Some(vec![0; self.sequence.len()]);
    }

    /// To which real server each packet of the sequence went (NAT).
    pub fn stop_watching(&mut self) -> Vec<u16> {
        self.watched.take().unwrap_or_default()
    }

    #[inline(always)]
    fn run<const SIX: bool, const REPLY: bool>(&mut self, n: usize, free: &mut Vec<GenBuf>, out: &mut Lanes) -> usize {
        for (i, lane) in out[..n].iter_mut().enumerate() {
            let Some(mut buf) = free.pop() else { return i };
            let at = self.next;
            self.next = if at + 1 >= self.sequence.len() { 0 } else { at + 1 };
            let slot = buf.fresh();
            self.template.write::<SIX, REPLY>(self.sequence[at], slot);
            slot.note = at as u32;
            *lane = Some(buf);
        }
        n
    }
}

type Lanes = [Option<GenBuf>; BURST];

/// TCP connections from the first SYN to the last ACK, six packets each, many at a time.
pub struct Connections {
    steps: [(Template, Way, u64); 6],
    six: bool,
    /// The connection whose SYN comes next.
    pub at: u64,
    step: usize,
    reals: Vec<u16>,
    vips: u32,
}

/// Connections between the SYN and what follows, and between other steps.
const STEP: u64 = 128;
/// Numbers of connections come again after so many.
const CYCLE: u64 = 1 << 26;
/// How far back real servers are remembered: more than connections are open.
const MEMORY: usize = 1 << 22;

impl Connections {
    /// `open` connections are open at a time. With NAT both sides are seen, else the client's.
    pub fn new(six: bool, nat: bool, open: u64, vips: u32) -> Self {
        let step = |way, flags, back| (Template::new(six, way, flags), way, back);
        use Way::{Reply, Request};
        let steps = if nat {
            [
                step(Request, SYN, 0),
                step(Reply, SYN | ACK, STEP),
                step(Request, ACK, 2 * STEP),
                step(Request, FIN | ACK, open),
                step(Reply, FIN | ACK, open + STEP),
                step(Request, ACK, open + 2 * STEP),
            ]
        } else {
            [
                step(Request, SYN, 0),
                step(Request, ACK, STEP),
                step(Request, PSH | ACK, 2 * STEP),
                step(Request, ACK, 3 * STEP),
                step(Request, FIN | ACK, open),
                step(Request, ACK, open + STEP),
            ]
        };
        Self { steps, six, at: 0, step: 0, reals: if nat { vec![0; MEMORY] } else { Vec::new() }, vips }
    }

    #[inline(always)]
    fn run<const SIX: bool>(&mut self, n: usize, free: &mut Vec<GenBuf>, out: &mut Lanes) -> usize {
        let mut made = 0;
        while made < n {
            let (template, way, back) = &self.steps[self.step];
            // The first steps have nothing to go back to.
            if self.at >= *back {
                let c = self.at - back;
                let mut s = stamp((c % CYCLE) as u32, self.vips);
                if *way == Way::Reply {
                    s.peer = self.reals[c as usize & (MEMORY - 1)];
                }
                let Some(mut buf) = free.pop() else { return made };
                let slot = buf.fresh();
                slot.note = if self.step == 0 { c as u32 + 1 } else { 0 };
                match way {
                    Way::Request => template.write::<SIX, false>(s, slot),
                    Way::Reply => template.write::<SIX, true>(s, slot),
                }
                out[made] = Some(buf);
                made += 1;
            }
            self.step += 1;
            if self.step == self.steps.len() {
                self.step = 0;
                self.at += 1;
            }
        }
        made
    }
}

/// Everything that a port can be asked for.
pub enum Traffic {
    /// Nothing.
    Silence,
    /// Known or new flows.
    Rounds(Rounds),
    /// Whole connections.
    Connections(Box<Connections>),
}

impl Traffic {
    /// Makes up to `n` packets of the free buffers; returns how many.
    #[inline(always)]
    pub fn fill(&mut self, n: usize, free: &mut Vec<GenBuf>, out: &mut Lanes) -> usize {
        let n = n.min(BURST);
        match self {
            Self::Silence => 0,
            Self::Rounds(r) => match (r.six, r.way) {
                (false, Way::Request) => r.run::<false, false>(n, free, out),
                (false, Way::Reply) => r.run::<false, true>(n, free, out),
                (true, Way::Request) => r.run::<true, false>(n, free, out),
                (true, Way::Reply) => r.run::<true, true>(n, free, out),
            },
            Self::Connections(c) if c.six => c.run::<true>(n, free, out),
            Self::Connections(c) => c.run::<false>(n, free, out),
        }
    }

    /// Whether it wants to see what is sent.
    #[inline(always)]
    pub fn watches(&self) -> bool {
        match self {
            Self::Silence => false,
            Self::Rounds(r) => r.watched.is_some(),
            Self::Connections(c) => !c.reals.is_empty(),
        }
    }

    /// Sees a packet that is sent.
    #[inline(always)]
    pub fn watch(&mut self, note: u32, frame: &[u8]) {
        let real = |six: bool| {
            let at = if six { 50 } else { 30 };
            let last = frame.get(at..at + 4).and_then(|b| b.first_chunk::<4>()).copied().unwrap_or_default();
            u32::from_be_bytes(last).wrapping_sub(REAL) as u16
        };
        match self {
            Self::Rounds(r) => {
                if let Some(slot) = r.watched.as_mut().and_then(|w| w.get_mut(note as usize)) {
                    *slot = real(r.six);
                }
            }
            Self::Connections(c) if note != 0 => c.reals[(note - 1) as usize & (MEMORY - 1)] = real(c.six),
            _ => {}
        }
    }
}

/// The order in which packets of the flows come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// That of the flows' creation.
    Created,
    /// Another one, always the same.
    Shuffled,
    /// At random, some flows far more often than others: Zipf with exponent 1.
    Zipf,
}

impl Order {
    /// As the rig calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Shuffled => "shuffled",
            Self::Zipf => "zipf",
        }
    }
}

/// A random number, the state being the last one.
pub fn random(x: &mut u64) -> u64 {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    *x
}

/// The packets of one round over these flows.
pub fn ordered(flows: &[Stamp], order: Order) -> Sequence {
    let mut out: Vec<Stamp> = flows.to_vec();
    let mut x = 0x2545_f491_4f6c_dd1d;
    if order != Order::Created {
        for i in (1..out.len()).rev() {
            out.swap(i, (random(&mut x) % (i as u64 + 1)) as usize);
        }
    }
    if order == Order::Zipf {
        let mut total = 0.0;
        let cumulative: Vec<f64> = (1..=out.len())
            .map(|rank| {
                total += 1.0 / rank as f64;
                total
            })
            .collect();
        let packets = out.len().clamp(65_536, 1 << 22);
        out = (0..packets)
            .map(|_| {
                let u = (random(&mut x) >> 11) as f64 / (1u64 << 53) as f64 * total;
                out[cumulative.partition_point(|c| *c < u).min(out.len() - 1)]
            })
            .collect();
    }
    Arc::from(out)
}

/// Whether the headers are right: for a look at the beginning.
pub fn is_sound(frame: &[u8]) -> bool {
    let (addresses, l4) = match frame.get(12..14) {
        Some([8, 0]) => (&frame[26..34], 34),
        Some([0x86, 0xdd]) => (&frame[22..54], 54),
        _ => return false,
    };
    let ip = l4 == 54 || checksum::sum(&frame[14..34]) == 0xffff;
    let pseudo = if l4 == 34 { checksum::pseudo4(addresses, 20, 6) } else { checksum::pseudo6(addresses, 20, 6) };
    ip && checksum::add(pseudo, checksum::sum(&frame[l4..])) == 0xffff
}
