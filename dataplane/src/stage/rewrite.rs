//! Rewrite: what a packet of a known flow becomes.
//!
//! Requests: state, counters, TTL, then NAT, direct routing or a tunnel, in the kernel's
//! order (a packet whose TTL runs out has still moved the state). Replies of NAT flows:
//! TTL first, as routing comes before the flow is looked at there.
//! Checksums are updated by the difference that the flow carries (RFC 1624).

use crate::burst::{Burst, Direction, Lane, Lanes};
use crate::flow::record::{FlowRecord, flags};
use crate::flow::state::{self, State};
use crate::io::{PacketBuf, PacketIo};
use crate::snapshot::{ForwardingMode, Hop, NextHop, Snapshot};
use crate::stage::{answer, by_hand};
use crate::units::{Ip, NextHopId, Tick};
use crate::wire::checksum;
use crate::worker::Core;

/// What becomes of a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Ready to be sent to `lane.next_hop`.
    Send,
    /// The TTL or hop limit runs out here.
    TtlExceeded,
    /// Too big for a link with this MTU (what the sender is to be told, bytes).
    TooBig(u16),
    /// Rewritten, but too big for a link with this MTU, bytes: goes out in pieces.
    Fragment(u16),
    /// The client's address cannot be put in.
    NotInsertable,
    /// No headroom for the tunnel's header.
    NoHeadroom,
    /// The flow's real server was removed.
    Gone,
    /// No route to where it must go.
    NoRoute,
    /// Not for this flow's forwarding mode (a reply of a direct-routing flow): routed.
    NotOurs,
    /// The real server is the director itself, where nothing listens.
    Local,
    /// The real server is the director's loopback.
    Loopback,
}

/// One's-complement difference of a TTL lowered by one: the word (TTL, protocol) loses 0x0100.
const TTL_DELTA: u16 = u16::from_ne_bytes([0xfe, 0xff]);

/// Rewrites the ready lanes; those that are to be sent stay ready.
#[inline]
pub fn rewrite<I: PacketIo>(s: &Snapshot, core: &mut Core<I::Buf>, io: &mut I, burst: &mut Burst<I::Buf>) {
    let mut send = Lanes(0);
    let mut last_route = (Ip::UNSPECIFIED, Hop::None);
    for i in burst.ready {
        let lane = &mut burst.lanes[i];
        let Some(buf) = &mut burst.bufs[i] else { continue };
        let outcome = match lane.direction {
            Direction::Request => request(s, core, lane, buf),
            Direction::Reply => reply(s, core, lane, buf, &mut last_route),
        };
        if outcome == Outcome::Send {
            send.insert(i);
        } else {
            answer::outcome(s, core, io, burst, i, outcome);
        }
    }
    burst.ready = Lanes(send.0 | burst.finished.0);
}

/// A packet from a client to a real server.
#[inline(always)]
pub fn request<B: PacketBuf>(s: &Snapshot, core: &mut Core<B>, lane: &mut Lane, buf: &mut B) -> Outcome {
    let record = core.flows.get_mut(lane.flow);
    let Some(real) = s.real(record.real).filter(|r| r.available) else { return Outcome::Gone };
    let (real_id, mode) = (record.real, record.flags & flags::MODE_MASK);
    let deltas = (record.l3_delta, record.l4_delta);
    let rport = record.rport;
    let by_hand = record.flags & flags::EXTENDED != 0;
    let turned = touch(s, record, lane, core.now, core.defence.secure);
    if turned {
        core.turned(lane.flow);
    }
    let counters = core.link.counters.real(real_id);
    let (packets, bytes) = counted(lane);
    counters.in_packets.add(packets);
    counters.in_bytes.add(bytes);
    lane.next_hop = real.next_hop;
    let Some(hop) = s.next_hop(real.next_hop) else { return nowhere(real.next_hop) };
    if mode == ForwardingMode::DirectRouting as u32 {
        return direct(s, lane, buf, hop);
    }
    if mode == ForwardingMode::Tunnel as u32 {
        return super::tunnel::wrap(s, core, lane, buf, real, hop);
    }
    if by_hand {
        return by_hand::request(s, core, lane, buf, real, hop);
    }
    if !lower_ttl(lane, buf, deltas.0) {
        return Outcome::TtlExceeded;
    }
    let fit = fits(lane, buf, hop.mtu);
    if let Outcome::TooBig(_) = fit {
        // The quoted packet must be the one the client sent, but for its TTL.
        undo_l3(lane, buf, deltas.0);
        return fit;
    }
    write_destination(lane, buf, real.addr, rport.0, deltas.1);
    fit
}

/// What a packet counts as: a datagram of IPv4 in pieces is one packet with one header, as in the
/// kernel, which puts it together.
#[inline(always)]
pub(super) fn counted(lane: &Lane) -> (u64, u64) {
    let header = if lane.later_fragment && lane.v4 { u64::from(lane.l4 - u16::from(lane.l2)) } else { 0 };
    (u64::from(header == 0), u64::from(lane.ip_len) - header)
}

/// Why there is no next hop.
#[cold]
fn nowhere(id: NextHopId) -> Outcome {
    match id {
        NextHopId::HERE => Outcome::Local,
        NextHopId::LOOPBACK => Outcome::Loopback,
        _ => Outcome::NoRoute,
    }
}

/// Direct routing: the frame changes, the packet only loses one TTL.
#[inline(always)]
fn direct<B: PacketBuf>(s: &Snapshot, lane: &Lane, buf: &mut B, hop: &NextHop) -> Outcome {
    if s.settings.dr_decrement_ttl && !lower_ttl(lane, buf, 0) {
        return Outcome::TtlExceeded;
    }
    fits(lane, buf, hop.mtu)
}

/// A packet from a real server to a client.
#[inline(always)]
pub(super) fn reply<B: PacketBuf>(
    s: &Snapshot,
    core: &mut Core<B>,
    lane: &mut Lane,
    buf: &mut B,
    last: &mut (Ip, Hop),
) -> Outcome {
    let record = core.flows.get_mut(lane.flow);
    let mode = record.flags & flags::MODE_MASK;
    if record.flags & flags::EXTENDED != 0 {
        return by_hand::reply(s, core, lane, buf);
    }
    if mode != ForwardingMode::Nat as u32 {
        return Outcome::NotOurs;
    }
    if lane.key.client != last.0 {
        *last = (lane.key.client, s.route(lane.key.client));
    }
    let (id, mtu) = match last.1 {
        Hop::Via(id) => (id, s.next_hop(id).map_or(1500, |h| h.mtu)),
        Hop::OnLink(iface) => (NextHopId::NONE, s.interfaces.get(usize::from(iface.0)).map_or(1500, |i| i.mtu)),
        Hop::None => return Outcome::NoRoute,
    };
    lane.next_hop = id;
    let (l3, l4) = (!record.l3_delta, !record.l4_delta);
    if !lower_ttl(lane, buf, l3) {
        return Outcome::TtlExceeded;
    }
    let fit = fits(lane, buf, mtu);
    if let Outcome::TooBig(_) = fit {
        undo_l3(lane, buf, l3);
        raise_ttl(lane, buf);
        return fit;
    }
    let record: &mut FlowRecord = core.flows.get_mut(lane.flow);
    let (real_id, vip, vport) = (record.real, record.vip.ip(), record.vport);
    let answered = record.flags & flags::CONTROLLED != 0 && record.state == State::Udp as u8;
    let turned = touch(s, record, lane, core.now, core.defence.secure);
    if turned {
        core.turned(lane.flow);
    }
    if answered {
        core.assure(lane.flow);
    }
    let counters = core.link.counters.real(real_id);
    let (packets, bytes) = counted(lane);
    counters.out_packets.add(packets);
    counters.out_bytes.add(bytes);
    write_source(lane, buf, vip, vport.0, l4);
    if lane.v4 && lane.l4 > u16::from(lane.l2) + 20 {
        super::local::record_route::leave_as(s, lane, buf, vip);
    }
    fit
}

/// Moves the flow's state and its deadline on; true when the state changed. The deadline
/// follows the settings of now, so that changed time-outs hold from the next packet on.
#[inline(always)]
pub(super) fn touch(s: &Snapshot, record: &mut FlowRecord, lane: &Lane, now: Tick, secure: bool) -> bool {
    let before = record.state;
    // A piece without a transport header has no flags: the first one has moved the state.
    let after = if lane.later_fragment {
        before
    } else {
        state::advance(record, lane.tcp_flags, lane.direction == Direction::Reply, secure)
    };
    let mut timeout = s.settings.timeouts.of(after);
    if secure && s.settings.secure_half_open_ms > 0 && state::is_half_open(after) {
        timeout = timeout.min(s.settings.secure_half_open_ms);
    }
    record.deadline = now.after_ms(timeout);
    before != after
}

/// Whether the packet fits a link: sent as it is, refused (IPv6, or DF), or in pieces. As in the
/// kernel `pmtu_disc` is for tunnels alone.
#[inline(always)]
pub fn fits<B: PacketBuf>(lane: &Lane, buf: &B, mtu: u16) -> Outcome {
    if lane.ip_len <= mtu {
        return Outcome::Send;
    }
    let df = buf.data().get(usize::from(lane.l2) + 6).is_some_and(|b| b & 0x40 != 0);
    if !lane.v4 || df { Outcome::TooBig(mtu) } else { Outcome::Fragment(mtu) }
}

/// Lowers the TTL and applies `delta` to the IPv4 header checksum; false when the TTL is used up.
#[inline(always)]
pub fn lower_ttl<B: PacketBuf>(lane: &Lane, buf: &mut B, delta: u16) -> bool {
    let l2 = usize::from(lane.l2);
    let data = buf.data_mut();
    if lane.v4 {
        // The offset is nearly always the same, and a constant makes the access cheap.
        let ip = if l2 == 14 { data.first_chunk_mut::<34>().and_then(|f| f.last_chunk_mut::<20>()) } else { None };
        if let Some(ip) = ip {
            return lower_ttl4(ip, delta);
        }
        let Some(ip) = data.get_mut(l2..).and_then(|d| d.first_chunk_mut::<20>()) else { return false };
        lower_ttl4(ip, delta)
    } else {
        let Some(ip) = data.get_mut(l2..).and_then(|d| d.first_chunk_mut::<40>()) else { return false };
        if ip[7] <= 1 {
            return false;
        }
        ip[7] -= 1;
        true
    }
}

/// The same on an IPv4 header.
#[inline(always)]
pub fn lower_ttl4(ip: &mut [u8; 20], delta: u16) -> bool {
    if ip[8] <= 1 {
        return false;
    }
    ip[8] -= 1;
    let sum = u16::from_ne_bytes([ip[10], ip[11]]);
    let sum = checksum::apply(sum, checksum::add(delta, TTL_DELTA));
    [ip[10], ip[11]] = sum.to_ne_bytes();
    true
}

/// Takes an address change out of the IPv4 header checksum again, leaving the TTL lowered.
#[cold]
pub(super) fn undo_l3<B: PacketBuf>(lane: &Lane, buf: &mut B, delta: u16) {
    let l2 = usize::from(lane.l2);
    if let (true, Some(ip)) = (lane.v4, buf.data_mut().get_mut(l2..).and_then(|d| d.first_chunk_mut::<20>())) {
        let sum = checksum::apply(u16::from_ne_bytes([ip[10], ip[11]]), !delta);
        [ip[10], ip[11]] = sum.to_ne_bytes();
    }
}

/// Gives the TTL back that was taken: what is only routed is looked at before it loses one, so that
/// an error about its size quotes it as it came.
#[cold]
pub(super) fn raise_ttl<B: PacketBuf>(lane: &Lane, buf: &mut B) {
    let l2 = usize::from(lane.l2);
    let data = buf.data_mut();
    if !lane.v4 {
        if let Some(ip) = data.get_mut(l2..).and_then(|d| d.first_chunk_mut::<40>()) {
            ip[7] = ip[7].saturating_add(1);
        }
    } else if let Some(ip) = data.get_mut(l2..).and_then(|d| d.first_chunk_mut::<20>()) {
        ip[8] = ip[8].saturating_add(1);
        let sum = checksum::apply(u16::from_ne_bytes([ip[10], ip[11]]), !TTL_DELTA);
        [ip[10], ip[11]] = sum.to_ne_bytes();
    }
}

/// Where the transport checksum is, from the start of the transport header.
#[inline(always)]
fn l4_checksum_offset(proto: u8) -> usize {
    if proto == 6 { 16 } else { 6 }
}

/// Writes one port and updates the transport checksum.
#[inline(always)]
fn write_port<B: PacketBuf>(lane: &Lane, buf: &mut B, port_offset: usize, port: [u8; 2], delta: u16) {
    let l4 = usize::from(lane.l4);
    let proto = lane.key.proto;
    if lane.later_fragment {
        return;
    }
    if proto == 132 {
        return super::sctp::write_port(lane, buf, port_offset, port);
    }
    let at = l4_checksum_offset(proto);
    if let Some(t) = buf.data_mut().get_mut(l4..l4 + at + 2) {
        [t[port_offset], t[port_offset + 1]] = port;
        let old = u16::from_ne_bytes([t[at], t[at + 1]]);
        if proto == 6 {
            [t[at], t[at + 1]] = checksum::apply(old, delta).to_ne_bytes();
        } else if old != 0 {
            [t[at], t[at + 1]] = checksum::apply_udp(old, delta).to_ne_bytes();
        }
    }
}

#[inline(always)]
pub(super) fn write_destination<B: PacketBuf>(lane: &Lane, buf: &mut B, addr: Ip, rport: [u8; 2], delta: u16) {
    let l2 = usize::from(lane.l2);
    let data = buf.data_mut();
    if lane.v4 {
        if let Some(a) = data.get_mut(l2 + 16..l2 + 20) {
            a.copy_from_slice(&addr.v4_bytes());
        }
    } else if let Some(a) = data.get_mut(l2 + 24..l2 + 40) {
        a.copy_from_slice(&addr.0);
    }
    write_port(lane, buf, 2, rport, delta);
}

#[inline(always)]
pub(super) fn write_source<B: PacketBuf>(lane: &Lane, buf: &mut B, vip: Ip, vport: [u8; 2], delta: u16) {
    let l2 = usize::from(lane.l2);
    let data = buf.data_mut();
    if lane.v4 {
        if let Some(a) = data.get_mut(l2 + 12..l2 + 16) {
            a.copy_from_slice(&vip.v4_bytes());
        }
    } else if let Some(a) = data.get_mut(l2 + 8..l2 + 24) {
        a.copy_from_slice(&vip.0);
    }
    write_port(lane, buf, 0, vport, delta);
}

/// The differences NAT makes: over the addresses, and over addresses and ports.
pub fn deltas(vip: Ip, vport: [u8; 2], real: Ip, rport: [u8; 2]) -> (u16, u16) {
    let sum = |a: Ip| if a.is_v4() { checksum::sum(&a.v4_bytes()) } else { checksum::sum(&a.0) };
    let l3 = checksum::add(!sum(vip), sum(real));
    let l4 = checksum::add(l3, checksum::add(!u16::from_ne_bytes(vport), u16::from_ne_bytes(rport)));
    (l3, l4)
}
