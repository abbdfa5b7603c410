//! Fast: the whole way in short loops, for the packet that nearly all packets are.
//!
//! Such a packet is untagged, IPv4 without options or IPv6 without extension headers
//! ([`six`]), no fragment; it carries data of an established TCP flow or a datagram of a
//! known flow, from a client to a real server whose Ethernet address is known; it fits, and
//! has TTL left. It moves a deadline and counters, and nothing else. Whatever else there is to say about a packet is said by the stages
//! after this one, which tell all cases apart; lanes that are not sent here are left to
//! them untouched.
//!
//! No list of VIPs is asked: a flow that matches says that its VIP was one, and a service
//! that is gone leaves its real servers unavailable, which is in the [`Forward`].
//!
//! ```text
//! look   headers, hash             prefetches the bucket
//! guess  tags                      prefetches the record
//! settle record, deadline, counters
//! rewrite                          one loop for each forwarding mode
//! ```
//!
//! Replies of NAT go the same way once more ([`reply`]), after what is left of the
//! requests, or before them on a port where most packets are replies.
//!
//! Each is a function of its own, not inlined: a loop keeps its registers to itself.

use crate::burst::{Burst, Lanes};
use crate::counters::{Back, CoreCounters};
use crate::flow::hash::FlowHash;
use crate::flow::memory::prefetch_near;
use crate::flow::record::{FlowRecord, RequestV4, flags};
use crate::flow::state::State;
use crate::flow::table::{FlowId, FlowTable};
use crate::front::Front;
use crate::io::{BURST, PacketBuf, PacketIo};
use crate::snapshot::{Forward, Snapshot};
use crate::stage::parse::{ETH, fits};
use crate::units::{PortId, RealId, Tick, WorkerId};
use crate::wire::at;
use crate::worker::Core;

mod foreign;
mod reply;
mod rewrite;
mod six;

pub use foreign::{Learnt, taken};

/// Ethernet, IPv4 and TCP without options, bytes.
const HEAD: usize = ETH + 20 + 20;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ESTABLISHED: u8 = State::Established as u8;
const DATAGRAM: u8 = State::Udp as u8;
const TCP_STATE: u16 = u16::from_ne_bytes([TCP, ESTABLISHED]);
const UDP_STATE: u16 = u16::from_ne_bytes([UDP, DATAGRAM]);

/// What one loop leaves for the next. A packet that is not plain has a request that fits
/// no flow.
#[derive(Clone, Copy, Default, Debug)]
pub struct Quick {
    hash: FlowHash,
    request: RequestV4,
    /// The flow to expect.
    flow: FlowId,
    /// Length of the IP packet, bytes.
    ip_len: u16,
    /// The flow's real server.
    real: RealId,
}

/// Sends what it can of the burst. Returns the lanes that are left, and the length of all
/// frames, bytes.
#[inline]
pub fn fast<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    port: PortId,
    steer: bool,
) -> (Lanes, u64) {
    let mut n = burst.n.min(BURST);
    let mac = s.port_mac(port);
    let steer = steer.then_some((core.workers, core.id));
    for buf in burst.bufs[..n].iter().flatten() {
        buf.prefetch();
    }
    let (mut back, mut answered) = (Lanes(0), 0);
    let hint = 1_u64 << (port.index() & 63);
    let replies_first = core.replies_first & hint != 0 && s.translates != [false; 2];
    let mut whole_len = None;
    if replies_first {
        let len = burst.bytes();
        back = answer(s, core, io, burst, (Lanes::first(n), len), (mac, steer));
        // The burst is shorter now if some of it was handed over.
        n = burst.n.min(BURST);
        if back == Lanes::first(n) {
            return (Lanes(0), len);
        }
        (whole_len, answered) = (Some(len), back.0.count_ones());
    }
    let (mut known, mut grown, mut plain6) = (Known::default(), 0, Lanes(0));
    let before = burst.away;
    let (mut plain, mut len) = match s.serves {
        [_, true] => look(core, &burst.bufs[..n], &mut burst.quick[..n], mac),
        [true, false] => (0, 0),
        [false, false] => (0, burst.bytes()),
    };
    if plain > 0 {
        if let Some(own) = steer {
            let handed = foreign::requests(s, core, io, burst, own, back);
            if handed > 0 {
                (n, plain, back) = (burst.n.min(BURST), plain.wrapping_sub(handed as usize), Lanes(0));
            }
        }
        guess(core, &mut burst.quick[..n]);
        call(s, core, &burst.quick[..n]);
        known = settle(s, core, &mut burst.quick[..n]);
        (known.ready, grown) = rewrite::rewrite(s, core, burst, &known);
    }
    if plain < n && s.serves[0] {
        let lanes = Lanes(Lanes::first(n).0 & !known.ready.0 & !back.0);
        let (plain, ready, bytes) = six::six(s, core, io, burst, lanes, mac, steer);
        (plain6, known) = (plain, known.and(ready));
        // Where the others have not been looked at, these are all, or those that `whole_len` counts.
        len += if s.serves[1] { 0 } else { bytes };
    }
    let all = Lanes::first(burst.n);
    let left = Lanes(all.0 & !known.ready.0 & !back.0);
    let whole = known.way.map(Forward::port).filter(|_| known.ready == all);
    let left_here = len.wrapping_add(grown).wrapping_sub(burst.away.wrapping_sub(before));
    send(core, io, burst, known.ready, whole, left_here);
    // Replies are plain packets as well, which belong to no flow as requests.
    let replies = (plain > 0 && s.translates[1]) || (plain6.0 & left.0 != 0 && s.translates[0]);
    if !replies_first && replies && !left.is_empty() {
        let guessed = if plain > 0 { all } else { plain6 };
        let lanes = Lanes(left.0 & !requests(burst, Lanes(left.0 & guessed.0)).0);
        back = answer(s, core, io, burst, (lanes, len), (mac, steer));
        answered = back.0.count_ones();
    }
    let to = known.ready.0.count_ones();
    if (answered > to) != replies_first && answered != to {
        core.replies_first ^= hint;
    }
    (Lanes(left.0 & !back.0 & !burst.gone.0), whole_len.unwrap_or(len))
}

/// Finds the plain packets, hashes them, and prefetches their buckets. Returns how many
/// there are, and the length of all frames, bytes.
#[inline(never)]
fn look<B: PacketBuf>(core: &Core<B>, bufs: &[Option<B>], quick: &mut [Quick], mac: u64) -> (usize, u64) {
    let (mut plain, mut bytes) = (0, 0);
    for (buf, q) in bufs.iter().zip(quick) {
        let len = buf.as_ref().map_or(0, PacketBuf::total_len);
        bytes += len as u64;
        let head = buf.as_ref().and_then(|b| b.data().first_chunk::<HEAD>());
        let Some(client) = head.and_then(|h| read_plain(h, len, mac, q)) else {
            *q = Quick::default();
            continue;
        };
        q.hash = core.secret.hash_v4(client);
        core.flows.prefetch_home(q.hash);
        plain += 1;
    }
    (plain, bytes)
}

/// Finds out which flows to expect, and prefetches their records.
#[inline(never)]
fn guess<B>(core: &Core<B>, quick: &mut [Quick]) {
    for q in quick {
        q.flow = core.flows.guess(q.hash);
    }
}

/// With so many real servers that they leave the first cache level, it pays to call for what is known of
/// a burst's all at once.
const MANY: usize = 256;

/// The same for some lanes.
#[inline(always)]
fn guess_some<B>(s: &Snapshot, core: &Core<B>, burst: &mut Burst<B>, lanes: Lanes) {
    for i in lanes {
        let q = &mut burst.quick[i & (BURST - 1)];
        q.flow = core.flows.guess(q.hash);
    }
    call(s, core, &burst.quick[..burst.n.min(BURST)]);
}

/// Prefetches what is known of the flows' real servers, where they are many.
#[inline(always)]
fn call<B>(s: &Snapshot, core: &Core<B>, quick: &[Quick]) {
    if s.forwards.len() > MANY {
        call_all(core, quick);
    }
}

#[inline(never)]
fn call_all<B>(core: &Core<B>, quick: &[Quick]) {
    let fronts = core.link.counters.fronts();
    for q in quick {
        if let Some(front) = fronts.get(core.flows.get(q.flow).real.index()) {
            prefetch_near(front);
        }
    }
}

/// The number of workers, and this one.
type Own = (u16, WorkerId);

/// Reads a plain packet for the station with address `mac` (six bytes of a little-endian
/// word). Returns the client's side as [`hash_v4`](crate::flow::hash::Secret::hash_v4) takes
/// it; nothing when the packet is not plain.
#[inline(always)]
fn read_plain(h: &[u8; HEAD], len: usize, mac: u64, q: &mut Quick) -> Option<u64> {
    const IPV4: u16 = u16::from_ne_bytes([0x08, 0x00]);
    const VERSION: u64 = u64::from_le_bytes([0x45, 0, 0, 0, 0, 0, 0, 0]);
    // Version and header length, then flags and offset but for «don't fragment».
    const VERSION_FRAGMENT: u64 = u64::from_le_bytes([0xff, 0, 0, 0, 0, 0, 0x3f, 0xff]);
    const CLIENT_PROTO: u64 = u64::from_le_bytes([0, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    let word = |bytes| u64::from_le_bytes(bytes);
    let (w14, w22) = (word(at::<14, 8, _>(h)), word(at::<22, 8, _>(h)));
    let station = (word(at::<0, 8, _>(h)) ^ mac) << 16;
    let kind = u64::from(u16::from_ne_bytes(at::<12, 2, _>(h)) ^ IPV4);
    if station | kind | ((w14 & VERSION_FRAGMENT) ^ VERSION) != 0 {
        return None;
    }
    // A TTL that is used up is for the others.
    if w22 & 0xff <= 1 {
        return None;
    }
    let ip_len = ((w14 >> 16) as u16).swap_bytes();
    // Of TCP only data: ACK without SYN, FIN or RST.
    let (carries, proto_state) = match (w22 >> 8) as u8 {
        TCP => (h[47] & 0x17 == 0x10 && ip_len >= 40, TCP_STATE),
        UDP => (ip_len >= 28, UDP_STATE),
        _ => return None,
    };
    let fits = fits(usize::from(ip_len), len);
    let addresses = word(at::<26, 8, _>(h));
    if !carries || !fits || !checksum_ok(w14, w22, (addresses >> 32) as u32) {
        return None;
    }
    let ports = u32::from_le_bytes(at::<34, 4, _>(h));
    q.request = RequestV4 { addresses: addresses.to_le(), ports: ports.to_le(), proto_state };
    q.ip_len = ip_len;
    Some((w22 & CLIENT_PROTO) | u64::from(ports as u16) << 16)
}

/// RFC 1071: the sum of a header's words, in any byte order and of any size, is a multiple
/// of 0xffff. It is never zero, as the first byte is not. As fast as asking the device.
#[inline(always)]
fn checksum_ok(a: u64, b: u64, c: u32) -> bool {
    // A number is a multiple of an odd one if and only if the product with that one's
    // inverse modulo 2⁶⁴ is as small as a quotient.
    const INVERSE: u64 = 0xfffe_fffe_fffe_ffff;
    const _: () = assert!(INVERSE.wrapping_mul(0xffff) == 1);
    let (ab, carry) = a.overflowing_add(b);
    let (abc, carry) = ab.overflowing_add(u64::from(c) + u64::from(carry));
    (abc + u64::from(carry)).wrapping_mul(INVERSE) <= u64::MAX / 0xffff
}

/// What became of the packets of a burst.
#[derive(Default)]
struct Known {
    /// Lanes that have a flow.
    ready: Lanes,
    /// The way that all of them go, if it is the same ([`Forward::way`]).
    way: Option<u32>,
}

impl Known {
    /// These and others.
    fn and(self, other: Self) -> Self {
        if self.ready.is_empty() {
            return other;
        }
        let same = other.ready.is_empty() || self.way == other.way;
        Self { ready: Lanes(self.ready.0 | other.ready.0), way: self.way.filter(|_| same) }
    }
}

/// What a packet is held against and entered in, besides its flow.
struct Books<'a> {
    fronts: &'a [Front],
    backs: &'a [Back],
    forwards: &'a [Forward],
    /// Number of the adoption that copies of forwards must come from.
    adoption: u64,
    /// By the lowest bit of TCP's number and UDP's.
    deadlines: [Tick; 2],
}

impl<'a> Books<'a> {
    #[inline(always)]
    fn new(s: &'a Snapshot, counters: &'a CoreCounters, now: Tick) -> Self {
        const { assert!(TCP & 1 == 0 && UDP & 1 == 1) };
        // Cut to one length, so that one comparison serves both.
        let reals = counters.fronts().len().min(counters.backs().len());
        Self {
            fronts: &counters.fronts()[..reals],
            backs: &counters.backs()[..reals],
            forwards: &s.forwards,
            adoption: counters.worker.snapshots_adopted.get(),
            deadlines: [ESTABLISHED, DATAGRAM].map(|state| now.after_ms(s.settings.timeouts.of(state))),
        }
    }

    /// A real server's line, as the snapshot has it.
    #[inline(always)]
    fn front(&self, real: RealId) -> Option<&'a Front> {
        let front = self.fronts.get(real.index())?;
        if front.is_of(self.adoption) { Some(front) } else { self.renew(front, real) }
    }

    #[cold]
    #[inline(never)]
    fn renew(&self, front: &'a Front, real: RealId) -> Option<&'a Front> {
        front.renew(self.forwards.get(real.index())?, self.adoption);
        Some(front)
    }

    /// How the flow's packet of `ip_len` bytes is forwarded and where it counts; nothing if
    /// that is not for the fast stage.
    #[inline(always)]
    fn find(&self, record: &FlowRecord, ip_len: u16) -> Option<(&'a Front, u32)> {
        let front = self.front(record.real)?;
        let way = front.way();
        if ip_len > front.mtu() || (record.flags ^ Forward::opens(way)) & flags::MODE_MASK != 0 {
            return None;
        }
        Some((front, way))
    }

    /// The flow's real server, and where its replies count; nothing if they are not for the fast stage.
    #[inline(always)]
    fn serving(&self, record: &FlowRecord) -> Option<(&'a Front, &'a Back)> {
        let back = self.backs.get(record.real.index())?;
        self.front(record.real).filter(|front| front.mtu() > 0).map(|front| (front, back))
    }

    #[inline(always)]
    fn enter(&self, record: &mut FlowRecord, front: &Front, ip_len: u16) {
        record.deadline = self.deadlines[usize::from(record.proto & 1)];
        front.in_packets.add(1);
        front.in_bytes.add(u64::from(ip_len));
    }
}

/// Looks further for the flow of a packet whose guess was wrong. One in a hundred is, of a large table: for the
/// general stages, which find nothing prepared, such a packet would be as dear as ten others.
///
/// A packet that opens, closes or belongs to a flow by hand has found it already: no other flow is asked for.
#[cold]
#[inline(never)]
fn search(flows: &FlowTable, q: &mut Quick) -> bool {
    if q.ip_len == 0 {
        return false;
    }
    let [_, state] = q.request.proto_state.to_ne_bytes();
    if flows.get(q.flow).as_steady(state).is_some_and(|r| r.is_steady(&q.request)) {
        q.flow = FlowId::NONE;
        return false;
    }
    flows.guess_again(q.hash, |r| r.is_steady(&q.request)).map(|id| q.flow = id).is_some()
}

/// Those of `lanes` that were found to be requests, as [`search`] says.
fn requests<B>(burst: &Burst<B>, lanes: Lanes) -> Lanes {
    lanes.fold(Lanes(0), |mut found, i| {
        if burst.quick[i & (BURST - 1)].flow == FlowId::NONE {
            found.insert(i);
        }
        found
    })
}

/// Compares records, moves deadlines and counts.
#[inline(never)]
fn settle<B: PacketBuf>(s: &Snapshot, core: &mut Core<B>, quick: &mut [Quick]) -> Known {
    let Core { flows, link, now, .. } = core;
    let books = Books::new(s, &link.counters, *now);
    let first = quick.first().map_or(RealId::NONE, |q| flows.get(q.flow).real);
    let first = books.front(first).map_or(0, Front::way);
    let (mut ready, mut same) = (0_u64, true);
    let unused = BURST - quick.len().clamp(1, BURST);
    for q in quick {
        // Lanes enter at the top and move down, so that none needs a number.
        ready >>= 1;
        if !flows.get(q.flow).is_steady(&q.request) && !search(flows, q) {
            continue;
        }
        let record = flows.get_mut(q.flow);
        if let Some((front, way)) = books.find(record, q.ip_len) {
            books.enter(record, front, q.ip_len);
            q.real = record.real;
            same &= way == first;
            ready |= 1 << 63;
        }
    }
    Known { ready: Lanes(ready >> unused), way: (same && ready != 0).then_some(first) }
}

/// Sends the replies among `lanes`, whose frames are `bytes` long if they are the whole burst as it
/// came. Returns which they were.
#[inline(never)]
fn answer<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    (lanes, bytes): (Lanes, u64),
    station: (u64, Option<Own>),
) -> Lanes {
    let mut ports = [PortId(0); BURST];
    let back = reply::reply(s, core, io, burst, lanes, station, &mut ports);
    let left_here = bytes.wrapping_sub(burst.away);
    send_back(core, io, burst, &back, &ports, left_here)
}

/// Sends replies; `bytes` as above. Returns which they were.
#[inline(always)]
fn send_back<I: PacketIo>(
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    reply::Back { ready, port }: &reply::Back,
    ports: &[PortId; BURST],
    bytes: u64,
) -> Lanes {
    let Core { link, out, .. } = core;
    match port.filter(|_| *ready == Lanes::first(burst.n) && burst.n >= BURST / 2) {
        Some(port) => out.send_all(port, &mut burst.bufs, (burst.n, bytes), io, link),
        None => {
            for i in *ready {
                let i = i & (BURST - 1);
                if let Some(buf) = burst.bufs[i].take() {
                    out.push(ports[i], buf, io, link);
                }
            }
        }
    }
    *ready
}

/// Sends what is ready: the whole burst, `bytes` long, where it lies if it leaves by one port.
#[inline(always)]
fn send<I: PacketIo>(
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    ready: Lanes,
    whole: Option<PortId>,
    bytes: u64,
) {
    let Core { link, out, .. } = core;
    if let Some(port) = whole.filter(|_| burst.n >= BURST / 2) {
        return out.send_all(port, &mut burst.bufs, (burst.n, bytes), io, link);
    }
    for i in ready {
        let way = link.counters.fronts().get(burst.quick[i].real.index()).map(Front::way);
        if let (Some(way), Some(buf)) = (way, burst.bufs[i].take()) {
            out.push(Forward::port(way), buf, io, link);
        }
    }
}
