//! Packets that arrive on a worker that does not own their flow.
//!
//! Who receives one has read its headers to know the owner; what it learnt goes along, so that
//! the owner can look for the flow before the frame itself has come over. The lanes that are
//! left move up, in order: they are a burst without gaps again.

use super::{DATAGRAM, Known, Own, Quick, call, guess, reply, rewrite, send, send_back, settle, six};
use crate::burst::{Burst, Lanes};
use crate::flow::hash::FlowHash;
use crate::flow::record::RequestV4;
use crate::io::{BURST, PacketBuf, PacketIo};
use crate::snapshot::{Forward, Local, Snapshot};
use crate::units::{Ip, PortId, RealId};
use crate::worker::Core;

/// What a packet is that is handed over; 0: nothing is known of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A plain packet to a VIP, over IPv4.
    Request = 1,
    /// The same over IPv6.
    Request6,
    /// A plain packet from a real server's address, over IPv4.
    Reply,
    /// The same over IPv6.
    Reply6,
}

/// What is known of a packet that is handed over. The fast stage's packets are in one of two
/// states, so that the high bits of that byte are free for the kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Learnt {
    hash: FlowHash,
    addresses: u64,
    ports: u32,
    kind_state: u16,
    ip_len: u16,
}

const SHIFT: u32 = 5;
const _: () = assert!(DATAGRAM < 1 << SHIFT);
const STATE_MASK: u16 = u16::from_ne_bytes([0xff, (1 << SHIFT) - 1]);

impl Kind {
    const fn word(self) -> u16 {
        u16::from_ne_bytes([0, (self as u8) << SHIFT])
    }
}

impl Learnt {
    #[inline(always)]
    fn new(q: &Quick, kind: Kind) -> Self {
        let RequestV4 { addresses, ports, proto_state } = q.request;
        Self { hash: q.hash, addresses, ports, kind_state: proto_state | kind.word(), ip_len: q.ip_len }
    }
}

impl Quick {
    /// Takes over what another worker has learnt, the kind included. Returns the hash, and whether
    /// it is anything but a request over IPv4.
    #[inline(always)]
    pub fn learn(&mut self, l: Learnt) -> (FlowHash, bool) {
        let Learnt { hash, addresses, ports, kind_state, ip_len } = l;
        let odd = (kind_state ^ Kind::Request.word()) & !STATE_MASK != 0;
        let proto_state = kind_state & if odd { u16::MAX } else { STATE_MASK };
        *self = Self { hash, request: RequestV4 { addresses, ports, proto_state }, ip_len, ..*self };
        (hash, odd)
    }
}

/// The lanes of `quick` that are plain and that others own.
#[inline(never)]
fn foreign((workers, own): Own, quick: &[Quick]) -> Lanes {
    let mut lanes = 0_u64;
    for q in quick {
        lanes >>= 1;
        lanes |= u64::from((q.ip_len != 0) & (q.hash.owner(workers) != own)) << 63;
    }
    Lanes(lanes >> (BURST - quick.len().clamp(1, BURST)))
}

/// Tells of one lane after the other whether this worker owns it, and notes those that it does not.
#[inline(always)]
pub(super) fn noting((workers, own): Own, foreign: &mut Lanes) -> impl FnMut(usize, FlowHash) -> bool {
    move |i, hash| {
        let is_own = hash.owner(workers) == own;
        foreign.0 |= u64::from(!is_own) << (i & (BURST - 1));
        is_own
    }
}

/// Hands requests over IPv4 to who owns their flow, and closes up what remains of the burst without
/// the lanes `sent`. Returns how many it handed over; if none, nothing has moved.
#[inline(never)]
pub(super) fn requests<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    own: Own,
    sent: Lanes,
) -> u32 {
    let n = burst.n.min(BURST);
    let lanes = foreign(own, &burst.quick[..n]);
    if lanes.is_empty() {
        return 0;
    }
    // Most bursts are for one VIP: the last answer is remembered, with a bit that no address has.
    let mut last = (0, false);
    let gone = hand_over(core, io, burst, lanes, own.0, Kind::Request, |_, q| {
        let vip = u64::from_le(q.request.addresses) >> 32 | 1 << 32;
        if vip != last.0 {
            last = (vip, is_vip(s, Ip::from_v4((vip as u32).to_le_bytes())));
        }
        last.1
    });
    // Perhaps replies; in any case no requests of flows that are here.
    for i in Lanes(lanes.0 & !gone.0) {
        burst.quick[i & (BURST - 1)] = Quick::default();
    }
    if !gone.is_empty() {
        close_up(burst, Lanes(Lanes::first(n).0 & !sent.0), Lanes(0));
    }
    gone.0.count_ones()
}

/// Whether classify takes a packet to this address for a request.
pub(super) fn is_vip(s: &Snapshot, to: Ip) -> bool {
    s.local(to) == Some(Local::Vip)
}

/// Whether classify takes a packet for a reply, and what receives it need not know of full NAT.
pub(super) fn is_reply(s: &Snapshot, from: Ip, to: Ip) -> bool {
    s.is_real_address(from) && s.local(to).is_none()
}

/// Hands those of `lanes` over that are what they seem. Returns which they were.
#[inline(always)]
pub(super) fn hand_over<I: PacketIo>(
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    lanes: Lanes,
    workers: u16,
    kind: Kind,
    mut is_so: impl FnMut(&I::Buf, &Quick) -> bool,
) -> Lanes {
    let (mut gone, mut away) = (Lanes(0), 0);
    for i in lanes {
        let i = i & (BURST - 1);
        let q = &burst.quick[i];
        if burst.bufs[i].as_ref().is_some_and(|buf| is_so(buf, q))
            && let Some(buf) = burst.bufs[i].take()
        {
            away += buf.total_len() as u64;
            core.hand_over(q.hash.owner(workers), (buf, Learnt::new(q, kind)), burst.came[i], io);
            gone.insert(i);
        }
    }
    burst.gone.0 |= gone.0;
    burst.away += away;
    gone
}

/// Moves the lanes `keep`, without what is gone, up to the front, in order. Returns where those of
/// `marked` are then.
#[inline(never)]
pub(super) fn close_up<B: PacketBuf>(burst: &mut Burst<B>, keep: Lanes, marked: Lanes) -> Lanes {
    let keep = keep.0 & !std::mem::take(&mut burst.gone).0;
    let Burst { bufs, quick, came, .. } = burst;
    // Up to the first gap nothing moves.
    let mut to = keep.trailing_ones() as usize;
    let stay = Lanes::first(to).0;
    let mut moved = marked.0 & stay;
    for from in Lanes(keep & !stay) {
        let (from, at) = (from & (BURST - 1), to & (BURST - 1));
        bufs.swap(at, from);
        quick[at] = quick[from];
        came[at] = came[from];
        moved |= (marked.0 >> from & 1) << at;
        to += 1;
    }
    burst.n = to;
    Lanes(moved)
}

/// Sends what it can of a burst that others have received for this worker; `odd` are the lanes that
/// are no requests over IPv4. Returns the lanes that are left.
#[inline]
pub fn taken<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    odd: Lanes,
) -> Lanes {
    let n = burst.n.min(BURST);
    let all = Lanes::first(n);
    let kinds = if odd.is_empty() { [Lanes(0); KINDS] } else { sort(&mut burst.quick, odd) };
    guess(core, &mut burst.quick[..n]);
    call(s, core, &burst.quick[..n]);
    let mut known = Known::default();
    if odd != all {
        known = settle(s, core, &mut burst.quick[..n]);
        known.ready = rewrite::rewrite(s, core, burst, &known).0;
    }
    let six = kinds[Kind::Request6 as usize];
    if !six.is_empty() {
        unpack(&mut burst.quick, six);
        known = known.and(six::settle(s, core, burst, six));
    }
    let whole = known.way.map(Forward::port).filter(|_| known.ready == all);
    // Asked for now, as the lengths come from the other core as well.
    let bytes = if whole.is_some() { burst.bytes() } else { 0 };
    send(core, io, burst, known.ready, whole, bytes);
    let mut left = Lanes(all.0 & !known.ready.0);
    let replies = [Kind::Reply, Kind::Reply6].map(|k| kinds[k as usize]);
    if replies != [Lanes(0); 2] {
        unpack(&mut burst.quick, Lanes(replies[0].0 | replies[1].0));
        let mut ports = [PortId(0); BURST];
        let back = reply::taken(s, core, burst, replies, &mut ports);
        let bytes = burst.bytes();
        left.0 &= !send_back(core, io, burst, &back, &ports, bytes).0;
    }
    left
}

const KINDS: usize = Kind::Reply6 as usize + 1;

/// Sorts `odd` lanes by kind, and makes packets of them that fit no flow as requests over IPv4.
#[cold]
fn sort(quick: &mut [Quick; BURST], odd: Lanes) -> [Lanes; KINDS] {
    let mut kinds = [Lanes(0); KINDS];
    for i in odd {
        let q = &mut quick[i & (BURST - 1)];
        let [_, kind] = (q.request.proto_state & !STATE_MASK).to_ne_bytes();
        q.request.proto_state &= STATE_MASK;
        // Until its turn comes; the flow's real server is known only then.
        q.real = RealId(u32::from(std::mem::take(&mut q.ip_len)));
        if let Some(lanes) = kinds.get_mut(usize::from(kind >> SHIFT)) {
            lanes.insert(i);
        }
    }
    kinds
}

/// Their turn has come.
#[inline(always)]
fn unpack(quick: &mut [Quick; BURST], lanes: Lanes) {
    for i in lanes {
        let q = &mut quick[i & (BURST - 1)];
        q.ip_len = q.real.0 as u16;
    }
}
