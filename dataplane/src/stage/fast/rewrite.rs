//! The packets' new headers, one loop for each forwarding mode. What could be said against
//! sending them has been said before.

use super::{HEAD, Known, TCP};
use crate::burst::{Burst, Lanes};
use crate::flow::record::FlowRecord;
use crate::flow::table::FlowTable;
use crate::front::Front;
use crate::io::{BURST, PacketBuf};
use crate::snapshot::{Forward, ForwardingMode, Snapshot};
use crate::stage::parse::ETH;
use crate::stage::tunnel::outer_tos;
use crate::wire::checksum;
use crate::worker::Core;

/// Ethernet and IPv4 without options, bytes: the shortest plain packet has them.
const IP_HEAD: usize = ETH + 20;

const NAT: usize = ForwardingMode::Nat as usize;
const DIRECT: usize = ForwardingMode::DirectRouting as usize;
const TUNNEL: usize = ForwardingMode::Tunnel as usize;
const AS_IS: usize = Forward::DIRECT_AS_IS as usize;

/// Rewrites the packets that have a flow. Returns those that could be, and how many bytes
/// they have grown by.
#[inline(always)]
pub fn rewrite<B: PacketBuf>(s: &Snapshot, core: &mut Core<B>, burst: &mut Burst<B>, known: &Known) -> (Lanes, u64) {
    let (mut modes, Core { link, flows, ip_id, .. }) = ([Lanes(0); 4], core);
    let fronts = link.counters.fronts();
    match known.way {
        Some(way) => modes[usize::from(Forward::mode(way) & 3)] = known.ready,
        None => sort(fronts, burst, known.ready, &mut modes),
    }
    if !modes[DIRECT].is_empty() {
        direct::<B, true>(fronts, burst, modes[DIRECT]);
    }
    if !modes[AS_IS].is_empty() {
        direct::<B, false>(fronts, burst, modes[AS_IS]);
    }
    if !modes[NAT].is_empty() {
        nat(fronts, flows, burst, modes[NAT]);
    }
    let grown = if modes[TUNNEL].is_empty() { 0 } else { ipip(s, (fronts, ip_id), burst, &mut modes[TUNNEL]) };
    (Lanes(modes.iter().fold(0, |all, lanes| all | lanes.0)), grown)
}

/// Sorts lanes by forwarding mode.
#[inline(never)]
fn sort<B>(fronts: &[Front], burst: &Burst<B>, ready: Lanes, modes: &mut [Lanes; 4]) {
    for i in ready {
        if let Some(to) = fronts.get(burst.quick[i & (BURST - 1)].real.index()) {
            modes[usize::from(Forward::mode(to.way()) & 3)].insert(i);
        }
    }
}

/// Lowers the TTL, which is above 1. The checksum gains what the word of TTL and protocol
/// loses (RFC 1141), and is never left 0xffff (RFC 1624): two instructions less than `apply`.
#[inline(always)]
fn lower_ttl(h: &mut [u8; IP_HEAD]) {
    h[22] = h[22].wrapping_sub(1);
    let sum = u16::from_le_bytes([h[24], h[25]]);
    let sum = sum.wrapping_add(1).wrapping_add(u16::from(sum >= 0xfffe));
    [h[24], h[25]] = sum.to_le_bytes();
}

/// Applies `delta` to the checksum of the TCP or UDP header at `L4`.
#[inline(always)]
pub(super) fn apply_l4<const L4: usize, const N: usize>(h: &mut [u8; N], tcp: bool, delta: u16) {
    let at = if tcp { L4 + 16 } else { L4 + 6 };
    let old = u16::from_ne_bytes([h[at], h[at + 1]]);
    let new = if tcp { checksum::apply(old, delta) } else { checksum::apply_udp_optional(old, delta) };
    [h[at], h[at + 1]] = new.to_ne_bytes();
}

/// Direct routing.
#[inline(never)]
fn direct<B: PacketBuf, const TTL: bool>(fronts: &[Front], burst: &mut Burst<B>, lanes: Lanes) {
    let Burst { bufs, quick, .. } = burst;
    for i in lanes {
        let Some(to) = fronts.get(quick[i & (BURST - 1)].real.index()) else { continue };
        let Some(buf) = &mut bufs[i & (BURST - 1)] else { continue };
        let Some(h) = buf.data_mut().first_chunk_mut::<IP_HEAD>() else { continue };
        if TTL {
            lower_ttl(h);
        }
        to.write_header(h);
    }
}

/// NAT.
#[inline(never)]
fn nat<B: PacketBuf>(fronts: &[Front], flows: &FlowTable, burst: &mut Burst<B>, lanes: Lanes) {
    let Burst { bufs, quick, .. } = burst;
    for i in lanes {
        let q = &quick[i & (BURST - 1)];
        let Some(to) = fronts.get(q.real.index()) else { continue };
        let Some(buf) = &mut bufs[i & (BURST - 1)] else { continue };
        let Some(h) = buf.data_mut().first_chunk_mut::<HEAD>() else { continue };
        translate(h, to, flows.get(q.flow));
    }
}

#[inline(always)]
fn translate(h: &mut [u8; HEAD], to: &Front, record: &FlowRecord) {
    h[22] = h[22].wrapping_sub(1);
    let sum = u16::from_ne_bytes([h[24], h[25]]);
    let sum = checksum::apply(sum, checksum::add(record.l3_delta, checksum::TTL_DELTA));
    [h[24], h[25]] = sum.to_ne_bytes();
    to.write_header(h);
    h[30..34].copy_from_slice(&to.addr_v4());
    h[36..38].copy_from_slice(&record.rport.0);
    apply_l4::<34, HEAD>(h, h[23] == TCP, record.l4_delta);
}

/// IPIP. What cannot be wrapped is taken out of `lanes`, and out of the counters.
#[inline(never)]
fn ipip<B: PacketBuf>(
    s: &Snapshot,
    (fronts, ip_id): (&[Front], &mut u16),
    burst: &mut Burst<B>,
    lanes: &mut Lanes,
) -> u64 {
    let Burst { bufs, quick, .. } = burst;
    let (mut grown, pmtu) = (0_u64, s.settings.pmtu_disc);
    for i in *lanes {
        let q = &quick[i & (BURST - 1)];
        let Some(to) = fronts.get(q.real.index()) else { continue };
        let Some(buf) = &mut bufs[i & (BURST - 1)] else { continue };
        let had = buf.total_len() as u64;
        if wrap(buf, to, q.ip_len, pmtu, ip_id) {
            grown = grown.wrapping_add(buf.total_len() as u64).wrapping_sub(had);
        } else {
            lanes.0 &= !(1 << i);
            to.in_packets.add(u64::MAX);
            to.in_bytes.add(u64::from(q.ip_len).wrapping_neg());
        }
    }
    grown
}

/// Puts the outer header in front. See `tunnel` for what it repeats of the inner one. False
/// when there is no room for it.
#[inline(always)]
fn wrap<B: PacketBuf>(buf: &mut B, to: &Front, ip_len: u16, pmtu: bool, ip_id: &mut u16) -> bool {
    let whole = ETH + usize::from(ip_len);
    // A short frame was padded by its sender, which must not be wrapped with the packet.
    if buf.total_len() != whole && !buf.truncate(whole) || !buf.prepend(20) {
        return false;
    }
    let Some(f) = buf.data_mut().first_chunk_mut::<{ IP_HEAD + 20 }>() else { return false };
    let Some(inner) = f.last_chunk_mut::<IP_HEAD>() else { return false };
    lower_ttl(inner);
    let (tos, ttl, df) = (inner[15], inner[22], if pmtu { inner[20] & 0x40 } else { 0 });
    *ip_id = ip_id.wrapping_add(u16::from(df == 0));
    let id = if df == 0 { *ip_id } else { 0 };
    let tos = outer_tos(tos);
    // All words but those in the sum already, as they lie in memory.
    let ([l, m], [i, j]) = ((ip_len + 20).to_be_bytes(), id.to_be_bytes());
    let words = [[0, tos], [l, m], [i, j], [df, 0], [ttl, 0]].map(|w| u32::from(u16::from_ne_bytes(w)));
    let sum = words.iter().fold(u32::from(to.outer_sum()), |s, w| s + w);
    let sum = (sum & 0xffff) + (sum >> 16);
    let [s0, s1] = (!((sum + (sum >> 16)) as u16)).to_ne_bytes();
    to.write_header(f);
    f[12..26].copy_from_slice(&[0x08, 0x00, 0x45, tos, l, m, i, j, df, 0, ttl, 4, s0, s1]);
    f[26..30].copy_from_slice(&to.source());
    f[30..34].copy_from_slice(&to.addr_v4());
    true
}
