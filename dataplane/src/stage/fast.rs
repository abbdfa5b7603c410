//! Fast: the whole way in three short loops, for the packet that nearly all packets are.
//!
//! Such a packet is untagged, IPv4 without options, no fragment; it carries data of an
//! established TCP flow or a datagram of a known flow, from a client to a real server whose
//! Ethernet address is known; it fits, and has TTL left. It moves a deadline and counters,
//! and nothing else. Whatever else there is to say about a packet is said by the stages
//! after this one, which tell all cases apart; lanes that are not sent here are left to
//! them untouched.
//!
//! No list of VIPs is asked: a flow that matches says that its VIP was one, and a service
//! that is gone leaves its real servers unavailable, which is in the [`Forward`].
//!
//! ```text
//! look   headers, hash             prefetches the bucket
//! probe  tags                      prefetches the record
//! act    record, rewrite, outbox
//! ```

use crate::burst::{Burst, Lanes};
use crate::flow::hash::FlowHash;
use crate::flow::record::{FlowKey, FlowRecord, flags};
use crate::flow::state::State;
use crate::flow::table::Candidates;
use crate::io::{BURST, PacketBuf, PacketIo};
use crate::snapshot::{Forward, ForwardingMode, Snapshot};
use crate::stage::parse::ETH;
use crate::units::{Be16, Ip, PortId, Tick};
use crate::wire::{at, checksum};
use crate::worker::Core;

/// Ethernet, IPv4 and TCP without options, bytes.
const HEAD: usize = ETH + 20 + 20;
/// How many packets ahead the first bytes are prefetched.
const AHEAD: usize = 6;

const TCP: u8 = 6;
const UDP: u8 = 17;
const NAT: u8 = ForwardingMode::Nat as u8;
const DIRECT: u8 = ForwardingMode::DirectRouting as u8;
const ESTABLISHED: u8 = State::Established as u8;
const DATAGRAM: u8 = State::Udp as u8;

/// What one loop leaves for the next.
#[derive(Clone, Copy, Default, Debug)]
pub struct Quick {
    hash: FlowHash,
    candidates: Candidates,
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
    let (mut plain, bytes) = look(core, burst, s.port_mac(port));
    if !s.serves[1] {
        plain = Lanes(0);
    }
    if steer {
        let own = |i: &usize| burst.quick[*i].hash.owner(core.workers) == core.id;
        plain = plain.filter(own).fold(Lanes(0), Lanes::with);
    }
    for i in plain {
        let q = &mut burst.quick[i];
        q.candidates = core.flows.probe(q.hash);
    }
    let sent = act(s, core, io, burst, plain);
    (Lanes(Lanes::first(burst.n).0 & !sent.0), bytes)
}

/// Finds the plain packets, hashes them, and prefetches their buckets.
#[inline(always)]
fn look<B: PacketBuf>(core: &Core<B>, burst: &mut Burst<B>, mac: u64) -> (Lanes, u64) {
    let mut plain = 0;
    let mut bytes = 0;
    let n = burst.n.min(BURST);
    for (i, q) in burst.quick.iter_mut().enumerate().take(n) {
        if let Some(Some(buf)) = burst.bufs.get(i + AHEAD) {
            buf.prefetch();
        }
        let Some(buf) = &burst.bufs[i] else { continue };
        let len = buf.total_len();
        bytes += len as u64;
        let Some(h) = buf.data().first_chunk::<HEAD>() else { continue };
        if is_plain(h, len, mac) {
            q.hash = core.secret.hash(Ip::from_v4(at::<26, 4, _>(h)), Be16(at::<34, 2, _>(h)), h[23]);
            core.flows.prefetch_bucket(q.hash);
            plain |= 1 << i;
        }
    }
    (Lanes(plain), bytes)
}

/// Whether the headers are those of a plain packet, for the station with address `mac`
/// (six bytes of a little-endian word).
#[inline(always)]
fn is_plain(h: &[u8; HEAD], len: usize, mac: u64) -> bool {
    const IPV4: u32 = u32::from_ne_bytes([0x08, 0x00, 0x45, 0]);
    const IPV4_MASK: u32 = u32::from_ne_bytes([0xff, 0xff, 0xff, 0]);
    const FRAGMENT: u16 = u16::from_ne_bytes([0x3f, 0xff]);
    let station = (u64::from_le_bytes(at::<0, 8, _>(h)) ^ mac) << 16;
    let kind = (u32::from_ne_bytes(at::<12, 4, _>(h)) ^ IPV4) & IPV4_MASK;
    if station | u64::from(kind) != 0 {
        return false;
    }
    let ip_len = usize::from(u16::from_be_bytes(at::<16, 2, _>(h)));
    let fragment = u16::from_ne_bytes(at::<20, 2, _>(h)) & FRAGMENT;
    // Of TCP only data: ACK without SYN, FIN or RST.
    let carries = match h[23] {
        TCP => (h[47] & 0x17 == 0x10) & (ip_len >= 40),
        UDP => ip_len >= 28,
        _ => false,
    };
    carries & (fragment == 0) & (ip_len + ETH <= len) & checksum_ok(h)
}

/// RFC 1071: the sum of the header's words, in any byte order, is a multiple of 0xffff. It
/// is never zero, as the first byte is not. As fast as asking the device.
#[inline(always)]
fn checksum_ok(h: &[u8; HEAD]) -> bool {
    let w = |b: [u8; 4]| u64::from(u32::from_ne_bytes(b));
    let sum = w(at::<14, 4, _>(h))
        + w(at::<18, 4, _>(h))
        + w(at::<22, 4, _>(h))
        + w(at::<26, 4, _>(h))
        + w(at::<30, 4, _>(h));
    sum % 0xffff == 0
}

/// What holds for all packets of a burst.
struct Terms {
    deadline_tcp: Tick,
    deadline_udp: Tick,
    direct_ttl: bool,
    pmtu: bool,
}

/// Compares records, rewrites, and collects the frames. Returns the lanes sent.
#[inline(always)]
fn act<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    plain: Lanes,
) -> Lanes {
    let Core { flows, link, out, now, ip_id, .. } = core;
    let terms = Terms {
        deadline_tcp: now.after_ms(s.settings.timeouts.of(ESTABLISHED)),
        deadline_udp: now.after_ms(s.settings.timeouts.of(DATAGRAM)),
        direct_ttl: s.settings.dr_decrement_ttl,
        pmtu: s.settings.pmtu_disc,
    };
    let mut sent = Lanes(0);
    for i in plain {
        let Some(buf) = burst.bufs[i].as_mut() else { continue };
        let Some(h) = buf.data().first_chunk::<HEAD>() else { continue };
        let key = FlowKey {
            client: Ip::from_v4(at::<26, 4, _>(h)),
            vip: Ip::from_v4(at::<30, 4, _>(h)),
            client_port: Be16(at::<34, 2, _>(h)),
            vport: Be16(at::<36, 2, _>(h)),
            proto: h[23],
        };
        let ip_len = u16::from_be_bytes(at::<16, 2, _>(h));
        let q = &burst.quick[i];
        let Some(id) = flows.find_request(q.hash, &key, q.candidates) else { continue };
        let record = flows.get_mut(id);
        let Some(to) = s.forwards.get(record.real.index()) else { continue };
        let steady = (record.state == ESTABLISHED) | (record.state == DATAGRAM);
        if !steady | (ip_len > to.mtu) | (record.flags & flags::BY_HAND != 0) || !send(buf, to, record, &terms, ip_id) {
            continue;
        }
        record.deadline = if record.state == DATAGRAM { terms.deadline_udp } else { terms.deadline_tcp };
        let c = link.counters.real(record.real);
        c.in_packets.add(1);
        c.in_bytes.add(u64::from(ip_len));
        sent.insert(i);
        if let Some(buf) = burst.bufs[i].take() {
            out.push(to.port, buf, io, link);
        }
    }
    sent
}

/// Turns a packet into the frame for its real server; false, and nothing changed, if that
/// takes more than can be done here.
#[inline(always)]
fn send<B: PacketBuf>(buf: &mut B, to: &Forward, record: &FlowRecord, terms: &Terms, ip_id: &mut u16) -> bool {
    match to.mode {
        DIRECT => direct(buf, to, terms.direct_ttl),
        NAT => nat(buf, to, record),
        Forward::SLOW => false,
        _ => ipip(buf, to, terms.pmtu, ip_id),
    }
}

/// Lowers the TTL and applies `delta` to the header checksum; false when the TTL is used up.
#[inline(always)]
fn lower_ttl(h: &mut [u8; HEAD], delta: u16) -> bool {
    if h[22] <= 1 {
        return false;
    }
    h[22] -= 1;
    let sum = u16::from_ne_bytes([h[24], h[25]]);
    let sum = checksum::apply(sum, checksum::add(delta, checksum::TTL_DELTA));
    [h[24], h[25]] = sum.to_ne_bytes();
    true
}

/// Direct routing.
#[inline(always)]
fn direct<B: PacketBuf>(buf: &mut B, to: &Forward, ttl: bool) -> bool {
    let Some(h) = buf.data_mut().first_chunk_mut::<HEAD>() else { return false };
    if ttl && !lower_ttl(h, 0) {
        return false;
    }
    h[..12].copy_from_slice(&to.header);
    true
}

/// NAT.
#[inline(always)]
fn nat<B: PacketBuf>(buf: &mut B, to: &Forward, record: &FlowRecord) -> bool {
    let Some(h) = buf.data_mut().first_chunk_mut::<HEAD>() else { return false };
    if !lower_ttl(h, record.l3_delta) {
        return false;
    }
    h[..12].copy_from_slice(&to.header);
    h[30..34].copy_from_slice(&to.addr);
    h[36..38].copy_from_slice(&record.rport.0);
    if h[23] == TCP {
        let old = u16::from_ne_bytes([h[50], h[51]]);
        h[50..52].copy_from_slice(&checksum::apply(old, record.l4_delta).to_ne_bytes());
    } else {
        let old = u16::from_ne_bytes([h[40], h[41]]);
        h[40..42].copy_from_slice(&checksum::apply_udp_optional(old, record.l4_delta).to_ne_bytes());
    }
    true
}

/// IPIP. See `tunnel` for what the outer header repeats of the inner one.
#[inline(always)]
fn ipip<B: PacketBuf>(buf: &mut B, to: &Forward, pmtu: bool, ip_id: &mut u16) -> bool {
    let Some(h) = buf.data().first_chunk::<HEAD>() else { return false };
    let (tos, ttl, df) = (h[15], h[22], if pmtu { h[20] & 0x40 } else { 0 });
    let ip_len = u16::from_be_bytes(at::<16, 2, _>(h));
    let (len, whole) = (ip_len + 20, ETH + usize::from(ip_len));
    // A short frame was padded by its sender, which must not be wrapped with the packet.
    let cut = buf.total_len() == whole || buf.truncate(whole);
    if !cut || ttl <= 1 || len > to.mtu || !buf.prepend(20) {
        return false;
    }
    let Some(f) = buf.data_mut().first_chunk_mut::<{ HEAD + 20 }>() else { return false };
    if let Some(inner) = f.last_chunk_mut::<HEAD>() {
        lower_ttl(inner, 0);
    }
    f[..12].copy_from_slice(&to.header);
    f[12..14].copy_from_slice(&[0x08, 0x00]);
    *ip_id = ip_id.wrapping_add(u16::from(df == 0));
    let id = if df == 0 { *ip_id } else { 0 };
    let tos = if tos & 3 == 3 { tos & !1 } else { tos };
    let ([l0, l1], [i0, i1]) = (len.to_be_bytes(), id.to_be_bytes());
    let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (to.source, to.addr);
    let mut outer = [0x45, tos, l0, l1, i0, i1, df, 0, ttl - 1, 4, 0, 0, s0, s1, s2, s3, d0, d1, d2, d3];
    let sum = !checksum::sum_header(&outer);
    outer[10..12].copy_from_slice(&sum.to_ne_bytes());
    f[14..34].copy_from_slice(&outer);
    true
}
