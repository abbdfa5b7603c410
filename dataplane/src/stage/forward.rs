//! Forward: rewrite and resolve in one pass for the packet that nearly all packets are.
//!
//! IPv4 without options or tags, a request, data on an established TCP flow or a UDP
//! datagram, a real server whose Ethernet address is known, nothing too big, TTL left.
//! Such a packet changes no state but a deadline and counters. Everything else is left to
//! `rewrite` and `resolve`, which do the same with all cases told apart.

use crate::burst::{Burst, Direction, Lane, Lanes};
use crate::flow::state::State;
use crate::io::{PacketBuf, PacketIo};
use crate::snapshot::{Forward, ForwardingMode, Snapshot};
use crate::stage::parse::ETH;
use crate::stage::rewrite::lower_ttl4;
use crate::wire::checksum;
use crate::worker::Core;

const NAT: u8 = ForwardingMode::Nat as u8;
const DIRECT: u8 = ForwardingMode::DirectRouting as u8;
const ESTABLISHED: u8 = State::Established as u8;
const DATAGRAM: u8 = State::Udp as u8;

/// Forwards what it can of the ready lanes; the others stay ready.
#[inline]
pub fn forward<I: PacketIo>(s: &Snapshot, core: &mut Core<I::Buf>, io: &mut I, burst: &mut Burst<I::Buf>) {
    let Core { flows, link, out, now, ip_id, .. } = core;
    let counters = &link.counters;
    let deadline_tcp = now.after_ms(s.settings.timeouts.of(ESTABLISHED));
    let deadline_udp = now.after_ms(s.settings.timeouts.of(DATAGRAM));
    let direct_ttl = s.settings.dr_decrement_ttl;
    let pmtu = s.settings.pmtu_disc;
    let mut rest = Lanes(0);
    for i in burst.ready {
        let lane = &burst.lanes[i];
        let record = flows.get_mut(lane.flow);
        let deadline = if record.state == DATAGRAM { deadline_udp } else { deadline_tcp };
        // Of TCP only data: ACK without SYN, FIN or RST. A datagram has no flags.
        let flags = lane.tcp_flags & 0x17;
        let steady = ((flags == 0x10) & (record.state == ESTABLISHED)) | ((flags == 0) & (record.state == DATAGRAM));
        let shape = lane.v4 & (lane.l2 == ETH as u8) & (lane.direction == Direction::Request) & !lane.later_fragment;
        let fits = |f: &&Forward| lane.ip_len <= f.mtu;
        let to = s.forwards.get(record.real.index()).filter(fits);
        let (Some(to), Some(buf), true) = (to, burst.bufs[i].as_mut(), steady & shape) else {
            rest.insert(i);
            continue;
        };
        let done = match to.mode {
            DIRECT => direct(buf, to, direct_ttl),
            NAT => nat(buf, lane, to, record.rport.0, record.l3_delta, record.l4_delta),
            Forward::SLOW => false,
            _ => ipip(buf, lane, to, pmtu, ip_id),
        };
        if !done {
            rest.insert(i);
            continue;
        }
        record.deadline = deadline;
        let c = counters.real(record.real);
        c.in_packets.add(1);
        c.in_bytes.add(u64::from(lane.ip_len));
        if let Some(buf) = burst.bufs[i].take() {
            out.push(to.port, buf, io, link);
        }
    }
    burst.ready = rest;
}

/// Direct routing.
#[inline(always)]
fn direct<B: PacketBuf>(buf: &mut B, to: &Forward, ttl: bool) -> bool {
    let Some(h) = buf.data_mut().first_chunk_mut::<34>() else { return false };
    let Some(ip) = h.last_chunk_mut::<20>() else { return false };
    if ttl && !lower_ttl4(ip, 0) {
        return false;
    }
    h[..12].copy_from_slice(&to.header);
    true
}

/// NAT.
#[inline(always)]
fn nat<B: PacketBuf>(buf: &mut B, lane: &Lane, to: &Forward, rport: [u8; 2], l3: u16, l4: u16) -> bool {
    let tcp = lane.key.proto == 6;
    let data = buf.data_mut();
    let head: Option<&mut [u8; 42]> = data.first_chunk_mut();
    let Some(h) = head else { return false };
    {
        let Some(ip) = h.first_chunk_mut::<34>().and_then(|h| h.last_chunk_mut::<20>()) else { return false };
        if !lower_ttl4(ip, l3) {
            return false;
        }
        ip[16..20].copy_from_slice(&to.addr);
    }
    h[..12].copy_from_slice(&to.header);
    h[36..38].copy_from_slice(&rport);
    if tcp {
        if let Some(h) = data.first_chunk_mut::<54>() {
            let old = u16::from_ne_bytes([h[50], h[51]]);
            h[50..52].copy_from_slice(&checksum::apply(old, l4).to_ne_bytes());
        }
    } else {
        let old = u16::from_ne_bytes([h[40], h[41]]);
        if old != 0 {
            h[40..42].copy_from_slice(&checksum::apply_udp(old, l4).to_ne_bytes());
        }
    }
    true
}

/// IPIP. See `tunnel` for what the outer header repeats of the inner one.
#[inline(always)]
fn ipip<B: PacketBuf>(buf: &mut B, lane: &Lane, to: &Forward, pmtu: bool, ip_id: &mut u16) -> bool {
    let len = lane.ip_len + 20;
    let whole = ETH + usize::from(lane.ip_len);
    if lane.ip_len > u16::MAX - 20 || len > to.mtu || buf.total_len() != whole {
        return false;
    }
    let Some(ip) = buf.data_mut().first_chunk_mut::<34>().and_then(|h| h.last_chunk_mut::<20>()) else { return false };
    if ip[8] <= 1 {
        return false;
    }
    let (tos, df) = (ip[1], ip[6] & 0x40);
    let df = if pmtu { df } else { 0 };
    // The headroom is there on every packet that a device received, or on none.
    let ttl = ip[8] - 1;
    if !buf.prepend(20) {
        return false;
    }
    let Some(h) = buf.data_mut().first_chunk_mut::<54>() else { return false };
    if let Some(inner) = h.last_chunk_mut::<20>() {
        lower_ttl4(inner, 0);
    }
    h[..12].copy_from_slice(&to.header);
    h[12..14].copy_from_slice(&[0x08, 0x00]);
    *ip_id = ip_id.wrapping_add(u16::from(df == 0));
    let id = if df == 0 { *ip_id } else { 0 };
    let tos = if tos & 3 == 3 { tos & !1 } else { tos };
    let Some(outer) = h.first_chunk_mut::<34>().and_then(|h| h.last_chunk_mut::<20>()) else { return false };
    let [l0, l1] = len.to_be_bytes();
    let [i0, i1] = id.to_be_bytes();
    let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (to.source, to.addr);
    *outer = [0x45, tos, l0, l1, i0, i1, df, 0, ttl, 4, 0, 0, s0, s1, s2, s3, d0, d1, d2, d3];
    let sum = !checksum::sum(outer);
    outer[10..12].copy_from_slice(&sum.to_ne_bytes());
    true
}
