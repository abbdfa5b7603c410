//! ICMP and ICMPv6 to the director, to VIPs and passing by.
//!
//! Echo requests to our addresses are answered. Errors about flows are translated
//! (`icmp_error`). What is about nothing of ours is routed on.

use crate::burst::{Burst, Lane};
use crate::counters::DropReason;
use crate::io::{PacketBuf, PacketIo};
use crate::snapshot::{IfaceId, Snapshot};
use crate::stage::local::{Examined, fragment, icmp_error, nd};
use crate::stage::{parse::ETH, resolve};
use crate::wire::{checksum, ipv4, options, protocol};
use crate::worker::Core;

/// Adds up the packet's bytes from `from` to `to` as RFC 1071 does, over all segments.
pub fn sum_range<B: PacketBuf>(buf: &B, from: usize, to: usize) -> u16 {
    let mut chunk = [0; 1024];
    let (mut at, mut total) = (from, 0);
    while at < to {
        let want = (to - at).min(chunk.len());
        let got = buf.copy_out(at, &mut chunk[..want]);
        if got == 0 {
            break;
        }
        total = checksum::add(total, checksum::sum(&chunk[..got]));
        at += got;
    }
    total
}

/// Sum over the pseudo-header for `proto` (RFC 9293 section 3.1, RFC 8200 section 8.1) and all that follows
/// the network header: 0xffff when the checksum is right.
pub fn transport_sum<B: PacketBuf>(buf: &B, lane: &Lane, proto: u8) -> u16 {
    let (l2, l4) = (usize::from(lane.l2), usize::from(lane.l4));
    let end = l2 + usize::from(lane.ip_len);
    let addresses = |from: usize, to: usize| buf.data().get(l2 + from..l2 + to).unwrap_or_default();
    let pseudo = match lane.v4 {
        true => checksum::pseudo4(addresses(12, 20), end.saturating_sub(l4), proto),
        false => checksum::pseudo6(addresses(8, 40), end.saturating_sub(l4), proto),
    };
    checksum::add(pseudo, sum_range(buf, l4, end))
}

/// ICMP in an IPv4 packet whose lane is filled in.
pub fn examine4<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
    steer: bool,
) -> Examined {
    let lane = burst.lanes[i];
    let Some(buf) = &burst.bufs[i] else { return Examined::Gone };
    let (l2, l4) = (usize::from(lane.l2), usize::from(lane.l4));
    let end = l2 + usize::from(lane.ip_len);
    let Some(h) = buf.data().get(l4..).and_then(|d| d.first_chunk::<8>()) else {
        return Examined::Drop(DropReason::BadIcmp);
    };
    let kind = h[0];
    if end < l4 + 8 {
        return Examined::Drop(DropReason::BadIcmp);
    }
    let sound = sum_range(buf, l4, end) == 0xffff;
    match (kind, s.local(lane.key.vip)) {
        (_, Some(_)) if !sound => Examined::Drop(DropReason::BadIcmp),
        (3 | 4 | 11, _) => icmp_error::examine(s, core, io, burst, i, steer, sound),
        (8, Some(_)) => echo(s, core, io, burst, i),
        (_, Some(_)) => Examined::Drop(DropReason::LocalNoListener),
        (_, None) => Examined::Deliver,
    }
}

/// ICMPv6: neighbour discovery, echo, errors.
pub fn examine6<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
    iface: IfaceId,
    steer: bool,
) -> Examined {
    let lane = burst.lanes[i];
    let Some(buf) = &burst.bufs[i] else { return Examined::Gone };
    let (l2, l4) = (usize::from(lane.l2), usize::from(lane.l4));
    let end = l2 + usize::from(lane.ip_len);
    let Some(h) = buf.data().get(l4..).and_then(|d| d.first_chunk::<8>()) else {
        return Examined::Drop(DropReason::BadIcmp);
    };
    let kind = h[0];
    if end < l4 + 8 {
        return Examined::Drop(DropReason::BadIcmp);
    }
    let (sound, local) = (transport_sum(buf, &lane, protocol::ICMPV6) == 0xffff, s.local(lane.key.vip).is_some());
    match kind {
        // What only passes by is for its receiver to check.
        133..=137 if !sound => Examined::Drop(DropReason::BadIcmp),
        _ if !sound && (local || lane.key.vip.0[0] == 0xff) => Examined::Drop(DropReason::BadIcmp),
        133..=137 => nd::examine(s, core, io, burst, i, iface),
        _ if lane.key.vip.0[0] == 0xff => Examined::Drop(DropReason::Multicast),
        1..=4 => icmp_error::examine(s, core, io, burst, i, steer, sound),
        128 if local => echo(s, core, io, burst, i),
        _ if local => Examined::Drop(DropReason::LocalNoListener),
        _ => Examined::Deliver,
    }
}

/// A piece of an ICMP message that is complete by now, and whose mark told the lane the type
/// (RFC 792 as RFC 4443: the first byte). The pieces of an echo request become those of its
/// reply; the sum over all of them is left to the asker.
pub fn piece<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
) -> Examined {
    let key = &burst.lanes[i].key;
    let request = if burst.lanes[i].v4 { 8 } else { 128 };
    match s.local(key.vip) {
        None => Examined::Deliver,
        Some(_) if key.client_port.0[0] == request => echo(s, core, io, burst, i),
        Some(_) => Examined::Drop(DropReason::LocalNoListener),
    }
}

/// Answers an echo request in place: addresses swapped, the type's change taken into the
/// checksum, a fresh TTL, and of the options the record route. A piece of one stays the same piece of the reply.
fn echo<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
) -> Examined {
    let lane = burst.lanes[i];
    let Some(mut buf) = burst.bufs[i].take() else { return Examined::Gone };
    let (l2, l4) = (usize::from(lane.l2), usize::from(lane.l4));
    if !core.limiter.take() {
        core.link.counters.drop(DropReason::AnswerSuppressed).add(1);
        io.free(buf);
        return Examined::Gone;
    }
    let whole = l2 + usize::from(lane.ip_len);
    if buf.total_len() > whole {
        buf.truncate(whole);
    }
    // All pieces need one identification. The request's is not used twice towards its sender, as
    // nothing else that is sent from here with this protocol is fragmented.
    let own_id = (!fragment::is_marked(&buf)).then(|| core.next_ip_id());
    let data = buf.data_mut();
    let (request, reply): (u16, u16) = if lane.v4 { (0x0800, 0x0000) } else { (0x8000, 0x8100) };
    let head = data.get_mut(l4..).filter(|_| !lane.later_fragment);
    if let Some(h) = head.and_then(|d| d.first_chunk_mut::<4>()) {
        let delta = checksum::add(!request.to_be(), reply.to_be());
        let sum = checksum::apply(u16::from_ne_bytes([h[2], h[3]]), delta);
        h[0] = (reply >> 8) as u8;
        [h[2], h[3]] = sum.to_ne_bytes();
        // The difference cannot tell the two zeros of such sums apart: of a reply that is zero
        // throughout, the right one is the other (RFC 1071).
        if sum == 0
            && own_id.is_some()
            && sum_range(&buf, l4, whole) == 0
            && let Some(c) = buf.data_mut().get_mut(l4 + 2..l4 + 4)
        {
            c.fill(0xff);
        }
    }
    // A piece keeps its length, so that all of them stay together.
    let l2 = if lane.v4 && own_id.is_some() && l4 > l2 + ipv4::LEN { echo_options(&mut buf, &lane) } else { l2 };
    let data = buf.data_mut();
    if lane.v4 {
        if let Some(h) = data.get_mut(l2..l4) {
            if own_id.is_none() {
                h[ipv4::LEN..].fill(ipv4::OPTION_NOP);
            }
            if let Some(id) = own_id {
                h[4..8].copy_from_slice(&[(id >> 8) as u8, id as u8, 0, 0]);
            }
            h[8] = 64;
            let (src, dst) = h[12..20].split_at_mut(4);
            src.swap_with_slice(dst);
            ipv4::fill_checksum(h);
        }
    } else if let Some(h) = data.get_mut(l2..l2 + 40) {
        h[7] = 64;
        let (src, dst) = h[8..40].split_at_mut(16);
        src.swap_with_slice(dst);
    }
    core.link.counters.worker.echo_replies_sent.add(1);
    debug_assert!(l2 >= ETH);
    resolve::send_routed(s, core, io, buf, l2 as u8, lane.key.client);
    Examined::Gone
}

/// Puts the options that an echo reply takes over in the place of the request's. They may be fewer, so
/// that the header starts later, which is returned.
#[cold]
fn echo_options<B: PacketBuf>(buf: &mut B, lane: &Lane) -> usize {
    let (l2, l4) = (usize::from(lane.l2), usize::from(lane.l4));
    let Some(old) = buf.data_mut().get_mut(l2..l4) else { return l2 };
    let options = options::echoed(old, lane.key.vip.v4_bytes());
    let new = ipv4::LEN + options.bytes().len();
    let Some(by) = old.len().checked_sub(new) else { return l2 };
    old.copy_within(..ipv4::LEN, by);
    let Some(header) = old.get_mut(by..) else { return l2 };
    header[0] = 0x40 | (new / 4) as u8;
    header[2..4].copy_from_slice(&(lane.ip_len - by as u16).to_be_bytes());
    header[ipv4::LEN..].copy_from_slice(options.bytes());
    l2 + by
}
