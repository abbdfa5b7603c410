//! The tunnels other than plain IPv4 in IPv4: IPIP across families, GRE, GUE, VXLAN.
//!
//! Built from the inside out: what goes between the outer IP header and the packet, then
//! the outer header. Facts as the kernel's `ip_vs_xmit.c` shows them on the wire.

use crate::burst::Lane;
use crate::io::{PacketBuf, TxOffload};
use crate::snapshot::{GueChecksum, NextHop, Real, Snapshot, Tunnel};
use crate::stage::local::sum_range;
use crate::stage::rewrite::Outcome;
use crate::wire::{checksum, ipv6, protocol};
use crate::worker::Core;

/// Most bytes a tunnel puts in front: IPv6, UDP, VXLAN, Ethernet.
const EXTRA_MAX: usize = 40 + 8 + 8 + 14;

/// What the inner header says that the outer one repeats.
struct Inner {
    tos: u8,
    ttl: u8,
    df: bool,
}

fn inner<B: PacketBuf>(lane: &Lane, buf: &B) -> Option<Inner> {
    let h = buf.data().get(usize::from(lane.l2)..)?.first_chunk::<20>()?;
    Some(if lane.v4 {
        Inner { tos: h[1], ttl: h[8], df: h[6] & 0x40 != 0 }
    } else {
        Inner { tos: (h[0] << 4) | (h[1] >> 4), ttl: h[7], df: true }
    })
}

/// Bytes between the outer IP header and the packet.
fn shim_len(tunnel: Tunnel) -> usize {
    match tunnel {
        Tunnel::Ipip => 0,
        Tunnel::Gre { checksum: false } => 4,
        Tunnel::Gre { checksum: true } => 8,
        Tunnel::Gue { .. } => 8 + 4,
        Tunnel::Vxlan { .. } => 8 + 8 + 14,
    }
}

/// Wraps a packet whose TTL has been lowered.
pub fn wrap<B: PacketBuf>(
    s: &Snapshot,
    core: &mut Core<B>,
    lane: &mut Lane,
    buf: &mut B,
    real: &Real,
    hop: &NextHop,
) -> Outcome {
    let Some(inner) = inner(lane, buf) else { return Outcome::NoHeadroom };
    let l2 = usize::from(lane.l2);
    let outer_v4 = real.addr.is_v4();
    let outer_len = if outer_v4 { 20 } else { 40 };
    let shim = shim_len(real.tunnel);
    let extra = outer_len + shim;
    let room = real.path_mtu(hop).saturating_sub(extra as u16);
    // IPv6 hosts cannot be told to send less than the minimum. What does not fit then is cut on
    // the outside (RFC 2473 section 7.1, RFC 4213 section 3.2).
    let small = !lane.v4 && lane.ip_len > room && lane.ip_len <= ipv6::MIN_MTU;
    let df = inner.df && s.settings.pmtu_disc && !small;
    if lane.ip_len > room && (df || !lane.v4 && !small) {
        return Outcome::TooBig(if lane.v4 { room } else { room.max(ipv6::MIN_MTU) });
    }
    let whole = l2 + usize::from(lane.ip_len);
    if buf.total_len() > whole {
        buf.truncate(whole);
    }
    let inner_len = usize::from(lane.ip_len);
    let mtu = real.path_mtu(hop);
    let fits = inner_len + extra <= usize::from(mtu);
    // Only a whole packet has a checksum that a device can fill in.
    let sums = match summed(real.tunnel, outer_v4) {
        Summed::Udp if fits && s.device(hop.port).checksums => Summed::UdpByDevice,
        other => other,
    };
    // For a checksum over the payload the inner packet is summed before it moves.
    let inner_sum = if matches!(sums, Summed::Gre | Summed::Udp) { sum_range(buf, l2, whole) } else { 0 };
    if !buf.prepend(extra) {
        return Outcome::NoHeadroom;
    }
    let mut head = [0; EXTRA_MAX];
    let source_port = 0xc000 | (lane.hash.0 >> 17) as u16 & 0x3fff;
    let proto = fill_shim(&mut head[outer_len..extra], real.tunnel, lane, inner_len, inner_sum, source_port, hop);
    let df = outer_v4 && df;
    let tos = super::tunnel::outer_tos(inner.tos);
    let id = if outer_v4 && !df { core.next_ip_id() } else { 0 };
    fill_outer(&mut head[..outer_len], real, proto, extra + inner_len, tos, inner.ttl, df, id);
    match sums {
        Summed::Udp => udp_checksum(&mut head, outer_len, extra, inner_len, Some(inner_sum)),
        Summed::UdpByDevice => {
            udp_checksum(&mut head, outer_len, extra, inner_len, None);
            buf.set_tx_offload(TxOffload {
                l2_len: hop.l2_len,
                l3_len: outer_len as u16,
                ip_csum: false,
                l4_csum: Some(protocol::UDP),
                ipv4: outer_v4,
            });
        }
        Summed::Gre | Summed::Nothing => {}
    }
    let Some(out) = buf.data_mut().get_mut(l2..l2 + extra) else { return Outcome::NoHeadroom };
    out.copy_from_slice(&head[..extra]);
    lane.ip_len += extra as u16;
    lane.v4 = outer_v4;
    if fits { Outcome::Send } else { Outcome::Fragment(mtu) }
}

/// What of a wrapped packet has a checksum over the packet inside, and who adds it up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Summed {
    Nothing,
    Gre,
    Udp,
    UdpByDevice,
}

fn summed(tunnel: Tunnel, outer_v4: bool) -> Summed {
    match tunnel {
        Tunnel::Gre { checksum: true } => Summed::Gre,
        // Remote checksum offload saves a sender that has not summed the inner packet yet. What
        // comes off a wire is summed, so the kernel falls back to the plain checksum, and so do we.
        Tunnel::Gue { checksum: GueChecksum::Udp | GueChecksum::Remote, .. } => Summed::Udp,
        // RFC 8200 section 8.1: over IPv6 a UDP checksum is not optional.
        Tunnel::Vxlan { .. } if !outer_v4 => Summed::Udp,
        _ => Summed::Nothing,
    }
}

/// Fills what stands between the outer header and the packet; returns the outer protocol.
#[allow(clippy::too_many_arguments)]
fn fill_shim(
    out: &mut [u8],
    tunnel: Tunnel,
    lane: &Lane,
    inner_len: usize,
    inner_sum: u16,
    source_port: u16,
    hop: &NextHop,
) -> u8 {
    let inner_proto: u8 = if lane.v4 { 4 } else { 41 };
    let ethertype: [u8; 2] = if lane.v4 { [8, 0] } else { [0x86, 0xdd] };
    match tunnel {
        Tunnel::Ipip => inner_proto,
        Tunnel::Gre { checksum } => {
            out[2..4].copy_from_slice(&ethertype);
            if checksum {
                out[0] = 0x80;
                let sum = !checksum::add(checksum::sum(&out[..8]), inner_sum);
                out[4..6].copy_from_slice(&sum.to_ne_bytes());
            }
            47
        }
        Tunnel::Gue { port, .. } => {
            udp_header(out, source_port, port, out.len() + inner_len);
            out[9] = inner_proto;
            17
        }
        Tunnel::Vxlan { port, vni } => {
            udp_header(out, source_port, port, out.len() + inner_len);
            out[8] = 0x08;
            out[12..15].copy_from_slice(&vni.to_be_bytes()[1..]);
            out[16..22].copy_from_slice(&hop.header[..6]);
            out[22..28].copy_from_slice(&hop.header[6..12]);
            out[28..30].copy_from_slice(&ethertype);
            17
        }
    }
}

fn udp_header(out: &mut [u8], source: u16, destination: u16, len: usize) {
    out[..2].copy_from_slice(&source.to_be_bytes());
    out[2..4].copy_from_slice(&destination.to_be_bytes());
    out[4..6].copy_from_slice(&(len as u16).to_be_bytes());
}

#[allow(clippy::too_many_arguments)]
fn fill_outer(out: &mut [u8], real: &Real, proto: u8, len: usize, tos: u8, ttl: u8, df: bool, id: u16) {
    if out.len() == 20 {
        out[0] = 0x45;
        out[1] = tos;
        out[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        out[4..6].copy_from_slice(&id.to_be_bytes());
        out[6] = if df { 0x40 } else { 0 };
        out[8] = ttl;
        out[9] = proto;
        out[12..16].copy_from_slice(&real.source.v4_bytes());
        out[16..20].copy_from_slice(&real.addr.v4_bytes());
        let sum = !checksum::sum(out);
        out[10..12].copy_from_slice(&sum.to_ne_bytes());
    } else {
        out[0] = 0x60 | tos >> 4;
        out[1] = tos << 4;
        out[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
        out[6] = proto;
        out[7] = ttl;
        out[8..24].copy_from_slice(&real.source.0);
        out[24..40].copy_from_slice(&real.addr.0);
    }
}

/// Fills in the outer UDP checksum over pseudo-header, shim and packet; of the pseudo-header
/// alone for a device to complete, if the packet was not summed.
fn udp_checksum(head: &mut [u8; EXTRA_MAX], outer_len: usize, extra: usize, inner_len: usize, inner_sum: Option<u16>) {
    let len = extra - outer_len + inner_len;
    let pseudo = match outer_len {
        20 => checksum::pseudo4(&head[12..20], len, protocol::UDP),
        _ => checksum::pseudo6(&head[8..40], len, protocol::UDP),
    };
    let sum = match inner_sum {
        None => pseudo,
        Some(inner) => match !checksum::add(checksum::add(pseudo, checksum::sum(&head[outer_len..extra])), inner) {
            0 => 0xffff,
            sum => sum,
        },
    };
    head[outer_len + 6..outer_len + 8].copy_from_slice(&sum.to_ne_bytes());
}
