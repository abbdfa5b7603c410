//! The same for IPv6: direct routing and NAT. Addresses are read again where they are
//! compared, as four words a packet are too much to carry along.

use super::foreign::{self, Kind};
use super::rewrite::apply_l4;
use super::{Books, Known, Own, Quick, TCP, TCP_STATE, UDP, UDP_STATE, guess_some};
use crate::burst::{Burst, Lanes};
use crate::flow::hash::FlowHash;
use crate::flow::record::{FlowRecord, TailFirst, flags};
use crate::flow::table::{FlowId, FlowTable};
use crate::front::Front;
use crate::io::{BURST, PacketBuf, PacketIo};
use crate::snapshot::{Forward, ForwardingMode, Snapshot};
use crate::stage::parse::{ETH, fits};
use crate::units::{Be16, Ip};
use crate::wire::at;
use crate::worker::Core;

/// Ethernet, IPv6 and TCP without options, bytes.
pub(super) const HEAD: usize = ETH + 40 + 20;
/// What must not be said of a flow.
const UNFIT: u32 = flags::BY_HAND | flags::TEMPLATE | flags::V4;

/// Finds flows for `lanes`, and rewrites their packets. Returns which were plain, what is ready, and
/// the length of all their frames, bytes.
#[inline(never)]
pub fn six<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    lanes: Lanes,
    mac: u64,
    steer: Option<Own>,
) -> (Lanes, Known, u64) {
    let (plain, bytes) = match steer {
        None => look(core, burst, lanes, mac, |_, _| true),
        Some(own) => look_steering(s, core, io, burst, lanes, mac, own),
    };
    guess_some(s, core, burst, plain);
    (plain, settle(s, core, burst, plain), bytes)
}

/// As [`look`], and hands requests that others own to them.
#[inline(never)]
fn look_steering<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    lanes: Lanes,
    mac: u64,
    own: Own,
) -> (Lanes, u64) {
    let mut foreign = Lanes(0);
    let (plain, bytes) = look(core, burst, lanes, mac, foreign::noting(own, &mut foreign));
    let mut last = (Ip::UNSPECIFIED, false);
    foreign::hand_over(core, io, burst, foreign, own.0, Kind::Request6, |buf, _| {
        let Some(h) = buf.data().first_chunk::<HEAD>() else { return false };
        let vip = Ip(at::<38, 16, _>(h));
        if vip != last.0 {
            last = (vip, foreign::is_vip(s, vip));
        }
        last.1
    });
    let whole = burst.away > 0 && lanes == Lanes::first(burst.n);
    (if whole { foreign::close_up(burst, lanes, plain) } else { plain }, bytes)
}

/// The plain packets among `lanes` for which `is_own` says yes, and the length of all their frames.
#[inline(always)]
fn look<B: PacketBuf>(
    core: &Core<B>,
    burst: &mut Burst<B>,
    lanes: Lanes,
    mac: u64,
    mut is_own: impl FnMut(usize, FlowHash) -> bool,
) -> (Lanes, u64) {
    let Burst { bufs, quick, .. } = burst;
    let (mut plain, mut bytes) = (Lanes(0), 0);
    for i in lanes {
        let (Some(buf), q) = (&bufs[i & (BURST - 1)], &mut quick[i & (BURST - 1)]) else { continue };
        let len = buf.total_len();
        bytes += len as u64;
        let Some(h) = buf.data().first_chunk::<HEAD>() else { continue };
        let Some((ip_len, proto_state)) = read_plain(h, len, mac) else { continue };
        // An IPv4 address in an IPv6 header would have another hash: such a packet finds no flow here.
        let client = Ip(at::<22, 16, _>(h));
        q.hash = core.secret.hash_v6(client, Be16(at::<54, 2, _>(h)), h[20]);
        q.ip_len = ip_len;
        q.request.proto_state = proto_state;
        if !is_own(i, q.hash) {
            continue;
        }
        core.flows.prefetch_home(q.hash);
        plain.insert(i);
    }
    (plain, bytes)
}

/// Length of the IP packet, and protocol and state as a record has them, of a plain packet
/// for the station with address `mac`.
#[inline(always)]
pub(super) fn read_plain(h: &[u8; HEAD], len: usize, mac: u64) -> Option<(u16, u16)> {
    const KIND: u32 = u32::from_ne_bytes([0x86, 0xdd, 0x60, 0]);
    const KIND_MASK: u32 = u32::from_ne_bytes([0xff, 0xff, 0xf0, 0]);
    let station = (u64::from_le_bytes(at::<0, 8, _>(h)) ^ mac) << 16;
    let kind = (u32::from_ne_bytes(at::<12, 4, _>(h)) ^ KIND) & KIND_MASK;
    // A hop limit that is used up is for the others.
    if station | u64::from(kind) != 0 || h[21] <= 1 {
        return None;
    }
    let payload = u16::from_be_bytes(at::<18, 2, _>(h));
    let (carries, proto_state) = match h[20] {
        TCP => (h[67] & 0x17 == 0x10 && payload >= 20, TCP_STATE),
        UDP => (payload >= 8, UDP_STATE),
        _ => return None,
    };
    // No short circuits, as for IPv4: they cost more than they save.
    let fits = carries & fits(usize::from(payload) + 40, len) & (payload <= u16::MAX - 40);
    fits.then_some((payload.wrapping_add(40), proto_state))
}

pub(super) fn settle<B: PacketBuf>(s: &Snapshot, core: &mut Core<B>, burst: &mut Burst<B>, lanes: Lanes) -> Known {
    let Core { flows, link, now, .. } = core;
    let Burst { bufs, quick, .. } = burst;
    let books = Books::new(s, &link.counters, *now);
    let (mut ready, mut any, mut all) = (Lanes(0), 0, u32::MAX);
    for i in lanes {
        let q = &mut quick[i & (BURST - 1)];
        let Some(buf) = &mut bufs[i & (BURST - 1)] else { continue };
        let Some(h) = buf.data_mut().first_chunk_mut::<HEAD>() else { continue };
        if !is_steady(flows.get(q.flow), h, q.request.proto_state) && !search(flows, h, q) {
            continue;
        }
        let record = flows.get_mut(q.flow);
        if let Some((front, way)) = books.find(record, q.ip_len)
            && readdress(h, (front, way), record)
        {
            books.enter(record, front, q.ip_len);
            q.real = record.real;
            any |= way;
            all &= way;
            ready.insert(i);
        }
    }
    Known { ready, way: (any == all).then_some(all) }
}

/// Looks further for the flow of a packet whose guess was wrong.
#[cold]
#[inline(never)]
fn search(flows: &FlowTable, h: &[u8; HEAD], q: &mut Quick) -> bool {
    let proto_state = q.request.proto_state;
    let [_, state] = proto_state.to_ne_bytes();
    if flows.get(q.flow).as_steady(state).is_some_and(|r| is_steady(&r, h, proto_state)) {
        q.flow = FlowId::NONE;
        return false;
    }
    flows.guess_again(q.hash, |r| is_steady(r, h, proto_state)).map(|id| q.flow = id).is_some()
}

/// Whether the packet is one of this flow's, and the flow one that is served here.
#[inline(always)]
fn is_steady(record: &FlowRecord, h: &[u8; HEAD], proto_state: u16) -> bool {
    let vip = TailFirst::from(Ip(at::<38, 16, _>(h)));
    let ([a, b], [c, d]) = (record.client_port.0, record.vport.0);
    let ports = u32::from_ne_bytes([a, b, c, d]) ^ u32::from_ne_bytes(at::<54, 4, _>(h));
    let state = u16::from_ne_bytes([record.proto, record.state]) ^ proto_state;
    let addresses = (record.client.raw() ^ Ip(at::<22, 16, _>(h)).raw()) | (record.vip.raw() ^ vip.raw());
    addresses | u128::from(ports | (record.flags & UNFIT) | u32::from(state)) == 0
}

/// The packet's new headers; false, and nothing changed, for a mode that is not done here.
#[inline(always)]
fn readdress(h: &mut [u8; HEAD], (to, way): (&Front, u32), record: &FlowRecord) -> bool {
    const NAT: u8 = ForwardingMode::Nat as u8;
    const DIRECT: u8 = ForwardingMode::DirectRouting as u8;
    match Forward::mode(way) {
        DIRECT => h[21] -= 1,
        Forward::DIRECT_AS_IS => {}
        NAT => {
            h[21] -= 1;
            h[38..54].copy_from_slice(&to.addr().0);
            h[56..58].copy_from_slice(&record.rport.0);
            apply_l4::<54, HEAD>(h, h[20] == TCP, record.l4_delta);
        }
        _ => return false,
    }
    to.write_header(h);
    true
}
