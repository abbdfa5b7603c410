//! IPv6 neighbour discovery (RFC 4861): answers for our addresses, and tells control who
//! is who; and the walk over extension headers (RFC 8200 section 4).

use crate::burst::Burst;
use crate::counters::DropReason;
use crate::io::{PacketBuf, PacketIo};
use crate::link::Event;
use crate::snapshot::{IfaceId, Snapshot};
use crate::stage::local::Examined;
use crate::stage::resolve;
use crate::units::{Ip, Mac};
use crate::wire::{checksum, protocol};
use crate::worker::Core;

/// Extension headers walked at most; more of them is taken for an attack.
const HEADERS_MAX: usize = 8;

/// A fragment header's content.
#[derive(Clone, Copy)]
pub struct Fragment {
    /// Offset in units of eight bytes.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
    /// Identification.
    pub id: u32,
}

/// Where the walk over the extension headers ended.
pub struct Walked {
    /// The upper-layer protocol.
    pub proto: u8,
    /// Offset of its header from the IP header.
    pub offset: usize,
    /// The fragment header, if the packet is one.
    pub fragment: Option<Fragment>,
}

/// Walks from the fixed header to the upper layer. `packet` starts at the IP header.
pub fn walk(packet: &[u8], ip_len: usize, first: u8) -> Result<Walked, DropReason> {
    let packet = &packet[..packet.len().min(ip_len)];
    let (mut proto, mut offset, mut fragment) = (first, 40, None);
    for _ in 0..HEADERS_MAX {
        let h = packet.get(offset..).unwrap_or(&[]);
        let size = match proto {
            0 | 60 | 43 if h.len() >= 8 => (usize::from(h[1]) + 1) * 8,
            51 if h.len() >= 8 => (usize::from(h[1]) + 2) * 4,
            44 if h.len() >= 8 => 8,
            0 | 60 | 43 | 51 | 44 => return Err(DropReason::BadHeaderLength),
            _ => return Ok(Walked { proto, offset, fragment }),
        };
        // RFC 5095: routing header type 0 with segments left.
        if proto == 43 && h[2] == 0 && h[3] != 0 {
            return Err(DropReason::SourceRouted);
        }
        if size > h.len() {
            return Err(DropReason::BadHeaderLength);
        }
        if proto == 44 {
            let word = u16::from_be_bytes([h[2], h[3]]);
            let f =
                Fragment { offset: word >> 3, more: word & 1 != 0, id: u32::from_be_bytes([h[4], h[5], h[6], h[7]]) };
            // An atomic fragment (RFC 6946) is a whole packet.
            if f.offset != 0 || f.more {
                fragment = Some(f);
            }
        }
        proto = h[0];
        offset += size;
        if fragment.is_some_and(|f| f.offset != 0) {
            return Ok(Walked { proto, offset, fragment });
        }
    }
    Err(DropReason::BadHeaderLength)
}

/// A neighbour discovery message whose checksum is right.
pub fn examine<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
    iface: IfaceId,
) -> Examined {
    let lane = burst.lanes[i];
    let Some(buf) = &burst.bufs[i] else { return Examined::Gone };
    let (l2, l4) = (usize::from(lane.l2), usize::from(lane.l4));
    let end = l2 + usize::from(lane.ip_len);
    let data = buf.data();
    let Some(message) = data.get(l4..end) else { return Examined::Drop(DropReason::BadNd) };
    // RFC 4861 sections 7.1.1 and 7.1.2: hop limit 255, code 0.
    if data[l2 + 7] != 255 || message[1] != 0 {
        return Examined::Drop(DropReason::BadNd);
    }
    let kind = message[0];
    if kind != 135 && kind != 136 {
        // Routers' messages and redirects: routes come from the configuration here.
        return gone(io, burst, i);
    }
    let Some(target) = message.get(8..24).and_then(|t| t.first_chunk::<16>()).map(|t| Ip::from_v6(*t)) else {
        return Examined::Drop(DropReason::BadNd);
    };
    let Ok(option) = link_address(&message[24..], if kind == 135 { 1 } else { 2 }) else {
        return Examined::Drop(DropReason::BadNd);
    };
    let ours = s.answers_for(target, iface);
    let src = lane.key.client;
    if kind == 136 {
        let Some(mac) = option else { return gone(io, burst, i) };
        if s.local(target).is_some() {
            core.tell(Event::DuplicateAddress { iface, ip: target, mac });
            return Examined::Drop(DropReason::DuplicateAddress);
        }
        if s.neighbour(iface, target).is_some() {
            core.tell(Event::NeighbourSeen { iface, ip: target, mac, solicited: message[4] & 0x40 != 0 });
        }
        return gone(io, burst, i);
    }
    if let (Some(mac), true) = (option, ours && src != Ip::UNSPECIFIED) {
        core.tell(Event::NeighbourSeen { iface, ip: src, mac, solicited: false });
    }
    if !ours {
        return gone(io, burst, i);
    }
    advertise(s, core, io, burst, i, iface, target, option)
}

fn gone<I: PacketIo>(io: &mut I, burst: &mut Burst<I::Buf>, i: usize) -> Examined {
    if let Some(buf) = burst.bufs[i].take() {
        io.free(buf);
    }
    Examined::Gone
}

/// The link-layer address option of the wanted type (RFC 4861 section 4.6.1).
fn link_address(mut options: &[u8], wanted: u8) -> Result<Option<Mac>, ()> {
    let mut found = None;
    while !options.is_empty() {
        let len = usize::from(*options.get(1).ok_or(())?) * 8;
        if len == 0 || len > options.len() {
            return Err(());
        }
        if options[0] == wanted && len >= 8 {
            let m = options[2..].first_chunk::<6>().ok_or(())?;
            found = Some(Mac(*m)).filter(|m| !m.is_multicast());
        }
        options = &options[len..];
    }
    Ok(found)
}

/// Answers a solicitation with an advertisement (RFC 4861 section 7.2.4), in a new packet.
#[allow(clippy::too_many_arguments)]
fn advertise<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
    iface: IfaceId,
    target: Ip,
    asker: Option<Mac>,
) -> Examined {
    let Some(here) = s.interfaces.get(usize::from(iface.0)) else {
        return Examined::Drop(DropReason::BadNd);
    };
    let own = here.mac;
    let Some(old) = burst.bufs[i].take() else { return Examined::Gone };
    let lane = burst.lanes[i];
    let l2 = usize::from(lane.l2);
    let mut head = [0; 18];
    old.copy_out(0, &mut head);
    io.free(old);
    // Duplicate address detection asks from nowhere; all nodes hear the answer.
    let detection = lane.key.client == Ip::UNSPECIFIED;
    let (dst, flags) = if detection { (ALL_NODES, 0x20) } else { (lane.key.client, 0x60) };
    let to = if detection {
        [0x33, 0x33, 0, 0, 0, 1]
    } else {
        asker.map_or([head[6], head[7], head[8], head[9], head[10], head[11]], |m| m.0)
    };
    let Some(mut buf) = io.alloc(l2 + 72) else { return Examined::Gone };
    if let Some(d) = buf.data_mut().get_mut(..l2 + 72) {
        d.fill(0);
        d[..6].copy_from_slice(&to);
        d[6..12].copy_from_slice(&own.0);
        d[12..l2].copy_from_slice(&head[12..l2]);
        let ip = &mut d[l2..];
        ip[0] = 0x60;
        ip[5] = 32;
        ip[6] = 58;
        ip[7] = 255;
        ip[8..24].copy_from_slice(&target.0);
        ip[24..40].copy_from_slice(&dst.0);
        ip[40] = 136;
        ip[44] = flags;
        ip[48..64].copy_from_slice(&target.0);
        ip[64..66].copy_from_slice(&[2, 1]);
        ip[66..72].copy_from_slice(&own.0);
        let pseudo = checksum::pseudo6(&ip[8..40], 32, protocol::ICMPV6);
        let sum = !checksum::add(pseudo, checksum::sum(&ip[40..72]));
        ip[42..44].copy_from_slice(&sum.to_ne_bytes());
    }
    core.link.counters.worker.neighbour_replies_sent.add(1);
    resolve::send_on(s, core, io, buf, here);
    Examined::Gone
}

const ALL_NODES: Ip = Ip([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
