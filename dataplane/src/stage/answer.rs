//! Answers: what the director itself says to a sender.
//!
//! TCP resets, ICMP errors and the rate limit over them. An answer is routed like any
//! other packet; its source is the address the packet was sent to where that is ours,
//! else the director's address towards the sender, as the kernel chooses.

use crate::burst::{Burst, Direction, Lane, tcp_flags};
use crate::counters::DropReason;
use crate::flow::state::SCTP_ABORT;
use crate::io::{PacketBuf, PacketIo};
use crate::snapshot::{Hop, Refusal, Snapshot};
use crate::stage::local::icmp_error;
use crate::stage::parse::ETH;
use crate::stage::rewrite::{self, Outcome};
use crate::stage::schedule::{self, Refused};
use crate::stage::{fragment_out, ftp, local, resolve};
use crate::units::{Ip, Tick};
use crate::wire::{options, reply};
use crate::worker::Core;

/// Most bytes of an IPv4 packet that an ICMP error brings back in all (RFC 1812 section 4.3.2.3).
const ICMP4_MAX: usize = 576;
/// A reset with as many options as there may be.
const RESET_MAX: usize = 20 + options::MAX + 20;
/// Most bytes of an ICMPv6 error in all (RFC 4443 section 2.4 c).
const ICMP6_MAX: usize = 1280;

/// A token bucket over all answers of a worker: at most a second's worth at once.
#[derive(Debug)]
pub struct Limiter {
    /// In thousandths of an answer, so that no time is lost however often it is refilled.
    credit: u64,
    at: Tick,
    limited: bool,
}

/// What one answer takes of the credit.
const ANSWER: u64 = 1000;

impl Default for Limiter {
    fn default() -> Self {
        Self { credit: u64::MAX / 2, at: Tick(0), limited: true }
    }
}

impl Limiter {
    /// Fills the bucket up for the time that passed. `per_second` 0 means no limit.
    #[inline]
    pub fn refill(&mut self, now: Tick, per_second: u32) {
        self.limited = per_second != 0;
        let ms = now.ms_since(self.at);
        if !self.limited || ms == 0 {
            return;
        }
        self.at = now;
        let per_second = u64::from(per_second);
        self.credit = (self.credit + u64::from(ms) * per_second).min(per_second * ANSWER);
    }
    /// Whether one more answer may be sent.
    pub fn take(&mut self) -> bool {
        if self.limited {
            if self.credit < ANSWER {
                return false;
            }
            self.credit -= ANSWER;
        }
        true
    }
}

/// An error to tell a sender about its packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// Time exceeded in transit.
    TimeExceeded,
    /// Fragmentation needed, or packet too big: the MTU in bytes.
    TooBig(u16),
    /// Port unreachable.
    PortUnreachable,
    /// Protocol unreachable.
    ProtocolUnreachable,
    /// Host unreachable.
    HostUnreachable,
    /// Network unreachable, no route.
    NoRoute,
    /// What a router said about a tunnel's packet: type and code of the sender's own family.
    Relayed(u8, u8),
}

impl Error {
    /// ICMP type, code and the second word (RFC 792, RFC 1191).
    fn v4(self) -> (u8, u8, u32) {
        match self {
            Self::NoRoute => (3, 0, 0),
            Self::HostUnreachable => (3, 1, 0),
            Self::ProtocolUnreachable => (3, 2, 0),
            Self::PortUnreachable => (3, 3, 0),
            Self::TooBig(mtu) => (3, 4, u32::from(mtu)),
            Self::TimeExceeded => (11, 0, 0),
            Self::Relayed(kind @ (3 | 4 | 11), code) => (kind, code, 0),
            Self::Relayed(..) => (3, 1, 0),
        }
    }
    /// ICMPv6 type, code and the second word (RFC 4443).
    fn v6(self) -> (u8, u8, u32) {
        match self {
            Self::NoRoute => (1, 0, 0),
            Self::HostUnreachable => (1, 3, 0),
            Self::PortUnreachable => (1, 4, 0),
            Self::ProtocolUnreachable => (4, 1, 6),
            Self::TooBig(mtu) => (2, 0, u32::from(mtu)),
            Self::TimeExceeded => (3, 0, 0),
            Self::Relayed(kind @ (1 | 3), code) => (kind, code, 0),
            Self::Relayed(..) => (1, 3, 0),
        }
    }
}

/// Ends a lane that the rewrite did not let through.
#[cold]
pub fn outcome<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
    outcome: Outcome,
) {
    let (error, why) = match outcome {
        Outcome::Send => return burst.ready.insert(i),
        Outcome::Fragment(mtu) => return fragment_out::send(s, core, io, burst, i, mtu),
        Outcome::NotOurs => return burst.slow.insert(i),
        Outcome::Gone => return schedule::gone(s, core, io, burst, i),
        Outcome::Local => return here(s, core, io, burst, i),
        Outcome::Loopback => (None, DropReason::Martian),
        Outcome::TtlExceeded => (Some(Error::TimeExceeded), DropReason::TtlExceeded),
        Outcome::TooBig(mtu) => (Some(Error::TooBig(mtu)), DropReason::TooBig),
        Outcome::NoHeadroom => (None, DropReason::NoHeadroom),
        Outcome::NotInsertable => (None, DropReason::NotInsertable),
        Outcome::NoRoute => (Some(Error::NoRoute), DropReason::NoRoute),
    };
    if let (Some(error), Some(buf)) = (error, &burst.bufs[i]) {
        send_error(s, core, io, buf, usize::from(burst.lanes[i].l2), error);
    }
    burst.drop_lane(i, why, io, &core.link.counters);
}

/// A packet for a real server that is the director itself, where nothing listens: what its stack
/// answers is the real server's reply.
#[cold]
fn here<I: PacketIo>(s: &Snapshot, core: &mut Core<I::Buf>, io: &mut I, burst: &mut Burst<I::Buf>, i: usize) {
    let lane = burst.lanes[i];
    if let (Refusal::Answer, Some(buf)) = (s.settings.refusal, &burst.bufs[i]) {
        let l2 = usize::from(lane.l2);
        let len = match lane.key.proto {
            6 => send_reset(s, core, io, buf, l2, usize::from(lane.l4)),
            17 => send_error(s, core, io, buf, l2, Error::PortUnreachable),
            _ => send_error(s, core, io, buf, l2, Error::ProtocolUnreachable),
        };
        replied(s, core, &lane, len);
    }
    burst.drop_lane(i, DropReason::LocalNoListener, io, &core.link.counters);
}

/// Moves a flow on and counts for an answer of `len` bytes that stands for its real server's
/// reply. What comes of errors about direct routing and tunnels was counted when they were sent.
fn replied<B>(s: &Snapshot, core: &mut Core<B>, lane: &Lane, len: usize) {
    let Some(record) = core.flows.try_get_mut(lane.flow).filter(|_| len > 0) else { return };
    let (tcp, real) = (lane.key.proto == 6, record.real);
    let counted = !tcp && !icmp_error::rewrites(record);
    if tcp {
        let reset = Lane { direction: Direction::Reply, tcp_flags: tcp_flags::RST | tcp_flags::ACK, ..*lane };
        if rewrite::touch(s, record, &reset, core.now, core.defence.secure) {
            core.turned(lane.flow);
        }
    }
    if !counted {
        let c = core.link.counters.real(real);
        c.out_packets.add(1);
        c.out_bytes.add(len as u64);
    }
}

/// Refuses a packet that opens no flow.
#[cold]
pub fn refuse<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
    why: Refused,
) {
    let lane = burst.lanes[i];
    let reason = match why {
        Refused::NoService => DropReason::NoService,
        Refused::NoFlow => DropReason::NoFlow,
        Refused::NotListening => DropReason::LocalNoListener,
        Refused::NoRealServer => DropReason::NoRealServer,
        Refused::Drop(reason) => reason,
    };
    if let (Refusal::Answer, Some(buf)) = (s.settings.refusal, &burst.bufs[i]) {
        let l2 = usize::from(lane.l2);
        match (why, lane.key.proto) {
            (Refused::Drop(_), _) => 0,
            (Refused::NoRealServer, _) => send_error(s, core, io, buf, l2, Error::PortUnreachable),
            (_, 6 | 17) if !is_sound(&lane, buf) => 0,
            (_, 6) => send_reset(s, core, io, buf, l2, usize::from(lane.l4)),
            (_, 17) => send_error(s, core, io, buf, l2, Error::PortUnreachable),
            _ => send_error(s, core, io, buf, l2, Error::ProtocolUnreachable),
        };
    }
    burst.drop_lane(i, reason, io, &core.link.counters);
}

/// Whether a segment's or datagram's checksum is right: a host answers no other ones. Of a piece
/// it cannot be told.
#[cold]
fn is_sound<B: PacketBuf>(lane: &Lane, buf: &B) -> bool {
    let (l2, l4) = (usize::from(lane.l2), usize::from(lane.l4));
    let end = l2 + usize::from(lane.ip_len);
    if lane.later_fragment || local::fragment::is_marked(buf) || end < l4 {
        return true;
    }
    if lane.key.proto == 17 && buf.data().get(l4 + 6..l4 + 8) == Some(&[0, 0]) {
        // No checksum, which IPv6 does not allow (RFC 8200 section 8.1).
        return lane.v4;
    }
    local::transport_sum(buf, lane, lane.key.proto) == 0xffff
}

/// Whether a packet may be answered with an error at all (RFC 1122 section 3.2.2.1):
/// not an ICMP error, not a later fragment, not from or to a group.
fn may_answer(packet: &[u8]) -> bool {
    match packet.first().map(|b| b >> 4) {
        Some(4) if packet.len() >= 20 => {
            let ihl = usize::from(packet[0] & 15) * 4;
            let later_fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff != 0;
            let icmp_error = packet[9] == 1 && !matches!(packet.get(ihl), Some(0 | 8 | 13..=18) | None);
            !later_fragment && !icmp_error && (1..224).contains(&packet[12]) && packet[12] != 127 && packet[16] < 224
        }
        Some(6) if packet.len() >= 40 => {
            let icmp_error = packet[6] == 58 && packet.get(40).is_none_or(|t| *t < 128);
            !icmp_error && packet[8] != 0xff && packet[8..24] != [0; 16]
        }
        _ => false,
    }
}

/// Addresses of an IP packet: source and destination.
pub fn addresses(packet: &[u8]) -> Option<(Ip, Ip)> {
    if packet.first()? >> 4 == 4 {
        let h = packet.first_chunk::<20>()?;
        Some((Ip::from_v4([h[12], h[13], h[14], h[15]]), Ip::from_v4([h[16], h[17], h[18], h[19]])))
    } else {
        let (a, b) = (packet.get(8..24)?, packet.get(24..40)?);
        let ip = |x: &[u8]| x.first_chunk::<16>().map(|x| Ip::from_v6(*x));
        Some((ip(a)?, ip(b)?))
    }
}

/// The source address of an error about a packet to `dst`, sent to `to`.
fn error_source(s: &Snapshot, dst: Ip, to: Ip) -> Option<Ip> {
    if s.local(dst).is_some() {
        return Some(dst);
    }
    let iface = match s.route(to) {
        Hop::Via(id) => s.next_hop(id)?.iface,
        Hop::OnLink(iface) => iface,
        Hop::None => return None,
    };
    s.own_address(iface, to)
}

/// What a packet is an answer to: for the first piece of a datagram to the director or a VIP, the whole if
/// it is at hand. Routers judge each piece by itself.
fn datagram<'a, B: PacketBuf>(s: &Snapshot, core: &Core<B>, packet: &'a [u8], whole: &'a mut [u8]) -> &'a [u8] {
    let is_piece = packet.first().is_some_and(|b| b >> 4 == 4) && packet.get(6).is_some_and(|b| b & 0x20 != 0);
    let is_piece = is_piece && addresses(packet).is_some_and(|(_, dst)| s.local(dst).is_some());
    match is_piece.then(|| core.fragments.whole(packet, whole)).flatten() {
        Some(n) => &whole[..n],
        None => packet,
    }
}

/// Sends an ICMP error about the packet in `buf`, whose IP header starts at `l2`.
/// Returns its length from the IP header on; 0 when none was sent.
pub fn send_error<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    buf: &I::Buf,
    l2: usize,
    error: Error,
) -> usize {
    let (mut packet, mut whole) = ([0; ICMP6_MAX], [0; ICMP4_MAX]);
    let n = buf.copy_out(l2, &mut packet);
    let packet = datagram(s, core, &packet[..n], &mut whole);
    let Some((src, dst)) = addresses(packet).filter(|_| may_answer(packet)) else { return 0 };
    let Some(from) = error_source(s, dst, src) else { return 0 };
    if !core.limiter.take() {
        core.link.counters.worker.answers_suppressed.add(1);
        return 0;
    }
    let v4 = src.is_v4();
    let room = if v4 { ICMP4_MAX } else { ICMP6_MAX };
    let Some(mut answer) = io.alloc(ETH + room) else {
        core.link.counters.worker.answers_suppressed.add(1);
        return 0;
    };
    let id = core.next_ip_id();
    let len = answer.data_mut().get_mut(ETH..).map_or(0, |out| {
        if v4 {
            let (kind, code, rest) = error.v4();
            reply::icmp4_error(out, packet, from, kind, code, rest, id)
        } else {
            let (kind, code, rest) = error.v6();
            reply::icmp6_error(out, packet, from, kind, code, rest)
        }
    });
    answer.truncate(ETH + len);
    core.link.counters.worker.icmp_errors_sent.add(1);
    if let Some(q) = icmp_error::quote(packet, 0, v4) {
        icmp_error::count_one_way(s, core, &q, len);
    }
    resolve::send_routed(s, core, io, answer, ETH as u8, src);
    len
}

/// Answers a TCP segment with a reset (RFC 9293 section 3.10.7.1).
/// Returns its length from the IP header on; 0 when none was sent.
pub fn send_reset<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    buf: &I::Buf,
    l2: usize,
    l4: usize,
) -> usize {
    let data = buf.data();
    let (Some(packet), Some(flags)) = (data.get(l2..), data.get(l4 + 13)) else { return 0 };
    let mut whole = [0; ICMP4_MAX];
    let packet = datagram(s, core, packet, &mut whole);
    // A reset is never answered.
    let Some((src, _)) = addresses(packet).filter(|_| flags & 4 == 0) else { return 0 };
    if !core.limiter.take() {
        core.link.counters.worker.answers_suppressed.add(1);
        return 0;
    }
    let Some(mut answer) = io.alloc(ETH + RESET_MAX) else {
        core.link.counters.worker.answers_suppressed.add(1);
        return 0;
    };
    let len = answer.data_mut().get_mut(ETH..).map_or(0, |out| reply::tcp_reset(out, packet, l4 - l2));
    answer.truncate(ETH + len);
    core.link.counters.worker.resets_sent.add(1);
    resolve::send_routed(s, core, io, answer, ETH as u8, src);
    len
}

/// Whether a packet only says that there is no connection any more: a reset, or SCTP's ABORT.
fn ends(lane: &Lane) -> bool {
    match lane.key.proto {
        6 => lane.tcp_flags & tcp_flags::RST != 0,
        132 => lane.tcp_flags == SCTP_ABORT,
        _ => false,
    }
}

/// A packet that no flow and no service wants and that is not for the director: routed.
pub fn unrelated<I: PacketIo>(s: &Snapshot, core: &mut Core<I::Buf>, io: &mut I, burst: &mut Burst<I::Buf>, i: usize) {
    if core.expects() && burst.lanes[i].direction == Direction::Reply && ftp::from_real(s, core, io, burst, i) {
        return;
    }
    let lane = burst.lanes[i];
    let stray = s.settings.nat_icmp_send
        && lane.direction == Direction::Reply
        && !ends(&lane)
        && s.is_real_endpoint(lane.key.vip, lane.key.vport, lane.key.proto);
    if stray {
        // The kernel comes to this after routing, so the packet it quotes has lost a TTL.
        if let Some(buf) = &mut burst.bufs[i] {
            rewrite::lower_ttl(&lane, buf, 0);
            send_error(s, core, io, buf, usize::from(lane.l2), Error::PortUnreachable);
        }
        return burst.drop_lane(i, DropReason::NoFlow, io, &core.link.counters);
    }
    local::route(s, core, io, burst, i);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many answers a worker that polls every `poll` ms sends in ten seconds, of as many
    /// as there are.
    fn sent(per_second: u32, poll: usize) -> u32 {
        let mut limiter = Limiter::default();
        let mut n = 0;
        for ms in (5_000..15_000).step_by(poll) {
            limiter.refill(Tick(ms), per_second);
            while n < 1_000_000 && limiter.take() {
                n += 1;
            }
        }
        n
    }

    #[test]
    fn answers_keep_to_their_rate_however_often_a_worker_polls() {
        for per_second in [1, 5, 600, 999, 1000, 1500, 60_000] {
            for poll in [1, 2, 7, 300] {
                // One second's worth at once, and ten seconds' worth of time.
                let (n, most) = (sent(per_second, poll), 11 * per_second);
                assert!(
                    n <= most && u64::from(n) * 100 >= u64::from(most) * 97 - 300,
                    "{n} of {most}, polls {poll} ms apart"
                );
            }
        }
        assert_eq!(sent(0, 1), 1_000_000, "no limit");
    }
}
