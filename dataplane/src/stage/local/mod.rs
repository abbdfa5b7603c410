//! Local: every packet that is not on the straight way.
//!
//! [`examine`] looks again at what parse put aside, names what is wrong, answers ARP,
//! neighbour discovery and echo, and sends what turns out to be ordinary (tagged frames,
//! harmless options, extension headers, whole datagrams) down the straight way.
//! [`deliver`] ends what classify and track could not place: the director's own
//! addresses, replies without a flow, traffic to be routed.

mod arp;
pub mod fragment;
mod icmp;
pub(crate) mod icmp_error;
mod nd;
pub(crate) mod record_route;
mod tunnel_error;

pub use icmp::{sum_range, transport_sum};

use crate::burst::{Burst, Direction, Lane, Lanes};
use crate::counters::DropReason;
use crate::flow::record::FlowKey;
use crate::io::{PacketBuf, PacketIo};
use crate::snapshot::{Hop, IfaceId, Local, Snapshot};
use crate::stage::parse::{self, ETH};
use crate::stage::schedule::Refused;
use crate::stage::{answer, fragment_out, resolve, rewrite};
use crate::units::{Be16, Ip, Mac, NextHopId};
use crate::wire::{ipv4, vlan};
use crate::worker::Core;

/// What examining a packet led to.
pub(crate) enum Examined {
    /// The lane is filled in: down the straight way.
    Ordinary,
    /// Dropped, with the reason.
    Drop(DropReason),
    /// The packet has left its lane (answered, kept, handed on).
    Gone,
    /// For `deliver`, lane filled in: routed or refused.
    Deliver,
}

/// Looks at the slow lanes after parse. What remains slow is for [`deliver`].
#[cold]
pub fn examine<I: PacketIo>(s: &Snapshot, core: &mut Core<I::Buf>, io: &mut I, burst: &mut Burst<I::Buf>, steer: bool) {
    let mut deliver = Lanes(0);
    for i in std::mem::take(&mut burst.slow) {
        match look(s, core, io, burst, i, steer) {
            Examined::Ordinary => burst.ready.insert(i),
            Examined::Drop(why) => burst.drop_lane(i, why, io, &core.link.counters),
            Examined::Gone => {}
            Examined::Deliver => deliver.insert(i),
        }
    }
    burst.slow = deliver;
}

/// Frame level: who it is for, which VLAN, what it carries.
fn look<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
    steer: bool,
) -> Examined {
    let Some(buf) = &burst.bufs[i] else { return Examined::Gone };
    let data = buf.data();
    let Some(eth) = data.first_chunk::<ETH>() else { return Examined::Drop(DropReason::TooShort) };
    let mut ethertype = u16::from_be_bytes([eth[12], eth[13]]);
    let taken_out = buf.rx_info().vlan_tci;
    let (mut l2, mut vid) = (ETH, taken_out.map_or(0, vlan::vlan_of));
    if ethertype == vlan::CUSTOMER && taken_out.is_none() {
        let Some(tag) = data.get(ETH..ETH + 4) else { return Examined::Drop(DropReason::TooShort) };
        vid = u16::from_be_bytes([tag[0], tag[1]]) & 0xfff;
        ethertype = u16::from_be_bytes([tag[2], tag[3]]);
        l2 = ETH + 4;
    }
    if matches!(ethertype, vlan::CUSTOMER | vlan::SERVICE) {
        return Examined::Drop(DropReason::DoubleTagged);
    }
    let Some(iface) = s.iface(buf.ingress(), vid) else {
        return Examined::Drop(if vid == 0 { DropReason::NotForUs } else { DropReason::UnknownVlan });
    };
    let dst = Mac([eth[0], eth[1], eth[2], eth[3], eth[4], eth[5]]);
    let own = s.interfaces.get(usize::from(iface.0)).is_some_and(|x| x.mac == dst);
    if !own && !dst.is_multicast() {
        return Examined::Drop(DropReason::NotForUs);
    }
    match ethertype {
        0x0806 => arp::examine(s, core, io, burst, i, iface, l2),
        0x0800 => ip4(s, core, io, burst, i, l2, own, steer),
        0x86dd => ip6(s, core, io, burst, i, iface, l2, own, steer),
        _ => Examined::Drop(DropReason::UnknownEthertype),
    }
}

/// IPv4: validates the header and fills the lane.
#[allow(clippy::too_many_arguments)]
fn ip4<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
    l2: usize,
    own: bool,
    steer: bool,
) -> Examined {
    let Some(buf) = &burst.bufs[i] else { return Examined::Gone };
    let packet = &buf.data()[l2..];
    let frame_len = buf.total_len() - l2;
    let h = match check_v4(packet, frame_len) {
        Ok(h) => h,
        Err(why) => return Examined::Drop(why),
    };
    if is_martian_v4(h.src) {
        return Examined::Drop(DropReason::Martian);
    }
    if !own || h.dst[0] >= 224 {
        return Examined::Drop(DropReason::Multicast);
    }
    if h.dst[0] == 0 || h.dst[0] == 127 {
        return Examined::Drop(DropReason::Martian);
    }
    cut(&mut burst.bufs[i], l2 + usize::from(h.total_len));
    if let (Some(buf), true) = (&mut burst.bufs[i], core.fresh && h.header_len > 20) {
        record_route::enter(s, buf, l2, h.header_len, Ip::from_v4(h.dst));
    }
    let lane = &mut burst.lanes[i];
    *lane = Lane {
        key: FlowKey {
            client: Ip::from_v4(h.src),
            vip: Ip::from_v4(h.dst),
            client_port: Be16::default(),
            vport: Be16::default(),
            proto: h.proto,
        },
        l4: (l2 + h.header_len) as u16,
        ip_len: h.total_len,
        l2: l2 as u8,
        v4: true,
        direction: Direction::Request,
        ..Lane::default()
    };
    if h.fragment != 0 && burst.bufs[i].as_ref().is_some_and(|b| !fragment::is_marked(b)) {
        return fragment::keep(s, core, io, burst, i, steer);
    }
    transport(s, core, io, burst, i, steer)
}

/// Cuts off what stands behind a packet, unless it is no more than a frame's padding: nobody meant it to be
/// carried on, and behind a small packet it could be larger than the next link.
fn cut<B: PacketBuf>(buf: &mut Option<B>, whole: usize) {
    if let Some(buf) = buf
        && buf.total_len() >= whole + parse::TRAILER
    {
        buf.truncate(whole);
    }
}

/// What check_v4 found.
struct Ipv4Facts {
    src: [u8; 4],
    dst: [u8; 4],
    proto: u8,
    header_len: usize,
    total_len: u16,
    /// More-fragments bit and offset.
    fragment: u16,
}

/// Validates an IPv4 header (RFC 791, RFC 1812 section 5.2.2).
fn check_v4(packet: &[u8], frame_len: usize) -> Result<Ipv4Facts, DropReason> {
    let h = packet.first_chunk::<20>().ok_or(DropReason::TooShort)?;
    if h[0] >> 4 != 4 {
        return Err(DropReason::BadIpVersion);
    }
    let header_len = usize::from(h[0] & 15) * 4;
    if header_len < 20 || header_len > packet.len() {
        return Err(DropReason::BadHeaderLength);
    }
    let total_len = u16::from_be_bytes([h[2], h[3]]);
    if usize::from(total_len) < header_len || usize::from(total_len) > frame_len {
        return Err(DropReason::BadTotalLength);
    }
    if crate::wire::checksum::sum(&packet[..header_len]) != 0xffff {
        return Err(DropReason::BadIpChecksum);
    }
    check_options(&packet[20..header_len])?;
    Ok(Ipv4Facts {
        src: [h[12], h[13], h[14], h[15]],
        dst: [h[16], h[17], h[18], h[19]],
        proto: h[9],
        header_len,
        total_len,
        fragment: u16::from_be_bytes([h[6], h[7]]) & 0x3fff,
    })
}

/// Walks the options: well-formed, and no source routing.
fn check_options(mut options: &[u8]) -> Result<(), DropReason> {
    while let [kind, rest @ ..] = options {
        match kind {
            0 => return Ok(()),
            1 => options = rest,
            _ => {
                let len = usize::from(*rest.first().ok_or(DropReason::BadIpOption)?);
                if len < 2 || len > options.len() {
                    return Err(DropReason::BadIpOption);
                }
                if matches!(*kind, ipv4::OPTION_LSRR | ipv4::OPTION_SSRR) {
                    return Err(DropReason::SourceRouted);
                }
                options = &options[len..];
            }
        }
    }
    Ok(())
}

/// Whether an address is a group's.
fn is_group(ip: Ip) -> bool {
    if ip.is_v4() { matches!(ip.v4_bytes()[0], 224..240) } else { ip.0[0] == 0xff }
}

/// Whether a source address is one that no wire carries, or a destination one that nothing is
/// routed to (RFC 1812 section 5.3.7).
pub(crate) fn is_martian(src: Ip) -> bool {
    if src.is_v4() {
        return is_martian_v4(src.v4_bytes());
    }
    src.0[0] == 0xff || src.hi() == 0
}

/// Source addresses that no wire carries (RFC 1812 section 5.3.7).
fn is_martian_v4(src: [u8; 4]) -> bool {
    src[0] == 0 || src[0] == 127 || src[0] >= 224
}

/// IPv6: validates the header, walks the extension headers and fills the lane.
#[allow(clippy::too_many_arguments)]
fn ip6<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
    iface: IfaceId,
    l2: usize,
    own: bool,
    steer: bool,
) -> Examined {
    let Some(buf) = &burst.bufs[i] else { return Examined::Gone };
    let packet = &buf.data()[l2..];
    let frame_len = buf.total_len() - l2;
    let Some(h) = packet.first_chunk::<40>() else { return Examined::Drop(DropReason::TooShort) };
    if h[0] >> 4 != 6 {
        return Examined::Drop(DropReason::BadIpVersion);
    }
    let ip_len = usize::from(u16::from_be_bytes([h[4], h[5]])) + 40;
    if ip_len > frame_len || ip_len > usize::from(u16::MAX) {
        return Examined::Drop(DropReason::BadTotalLength);
    }
    let (Some((src, dst)), proto) = (answer::addresses(packet), h[6]) else {
        return Examined::Drop(DropReason::TooShort);
    };
    if src.0[0] == 0xff || src.hi() == 0 && src.lo().to_be() == 1 {
        return Examined::Drop(DropReason::Martian);
    }
    let walked = match nd::walk(packet, ip_len, proto) {
        Ok(w) => w,
        Err(why) => return Examined::Drop(why),
    };
    cut(&mut burst.bufs[i], l2 + ip_len);
    let lane = &mut burst.lanes[i];
    *lane = Lane {
        key: FlowKey { client: src, vip: dst, proto: walked.proto, ..FlowKey::default() },
        l4: (l2 + walked.offset) as u16,
        ip_len: ip_len as u16,
        l2: l2 as u8,
        v4: false,
        direction: Direction::Request,
        ..Lane::default()
    };
    if walked.proto == 58 && walked.fragment.is_none() {
        return icmp::examine6(s, core, io, burst, i, iface, steer);
    }
    if !own || dst.0[0] == 0xff {
        return Examined::Drop(DropReason::Multicast);
    }
    if src == Ip::UNSPECIFIED {
        return Examined::Drop(DropReason::Martian);
    }
    if walked.fragment.is_some() && burst.bufs[i].as_ref().is_some_and(|b| !fragment::is_marked(b)) {
        return fragment::keep(s, core, io, burst, i, steer);
    }
    transport(s, core, io, burst, i, steer)
}

/// Ports and flags, with every length checked.
pub(crate) fn transport<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
    steer: bool,
) -> Examined {
    let Some(buf) = &burst.bufs[i] else { return Examined::Gone };
    let lane = &mut burst.lanes[i];
    if fragment::is_marked(buf) {
        let later = fragment::unmark(buf, lane);
        if lane.key.proto == if lane.v4 { 1 } else { 58 } {
            return icmp::piece(s, core, io, burst, i);
        }
        if later {
            return Examined::Ordinary;
        }
    }
    let l4 = usize::from(lane.l4);
    let end = usize::from(lane.l2) + usize::from(lane.ip_len);
    let data = buf.data();
    let header = data.get(l4..end.min(data.len())).unwrap_or(&[]);
    let ok = match lane.key.proto {
        6 => header.len() >= 20 && header[12] >> 4 >= 5 && usize::from(header[12] >> 4) * 4 <= end - l4,
        17 => header.len() >= 8,
        132 => header.len() >= 12,
        1 if lane.v4 => return icmp::examine4(s, core, io, burst, i, steer),
        _ => return Examined::Deliver,
    };
    if !ok {
        return Examined::Drop(DropReason::BadL4Header);
    }
    lane.key.client_port = Be16([header[0], header[1]]);
    lane.key.vport = Be16([header[2], header[3]]);
    lane.tcp_flags = match lane.key.proto {
        6 => header[13],
        132 => header.get(12).copied().unwrap_or(0),
        _ => 0,
    };
    Examined::Ordinary
}

/// Ends the slow lanes after track.
#[cold]
pub fn deliver<I: PacketIo>(s: &Snapshot, core: &mut Core<I::Buf>, io: &mut I, burst: &mut Burst<I::Buf>) {
    for i in std::mem::take(&mut burst.slow) {
        let lane = &burst.lanes[i];
        let (src, dst) = match lane.direction {
            Direction::Reply => (lane.key.vip, lane.key.client),
            Direction::Request => (lane.key.client, lane.key.vip),
        };
        // As Linux: nobody else sends from the director's addresses. For IPv6 it does not look.
        let stolen = src.is_v4() && s.local(src).is_some();
        if is_martian(src) || is_martian(dst) || stolen {
            let group = !is_martian(src) && !stolen && is_group(dst);
            let why = if group { DropReason::Multicast } else { DropReason::Martian };
            burst.drop_lane(i, why, io, &core.link.counters);
            continue;
        }
        match s.local(dst) {
            Some(Local::Vip) => answer::refuse(s, core, io, burst, i, Refused::NoService),
            Some(Local::Own(_) | Local::Pool) => answer::refuse(s, core, io, burst, i, Refused::NotListening),
            None => {
                if lane.direction == Direction::Request && s.local(src) == Some(Local::Vip) {
                    let lane = *lane;
                    passing_reply(s, core, &lane);
                }
                answer::unrelated(s, core, io, burst, i);
            }
        }
    }
}

/// A packet from a VIP to somewhere else: a reply of direct routing or a tunnel whose real server
/// has the director for its gateway. It moves its flow on and is counted, then routed as it is.
/// (Only IPv6 comes here: IPv4 packets from one's own addresses are martians.)
fn passing_reply<B>(s: &Snapshot, core: &mut Core<B>, lane: &Lane) {
    let key = FlowKey {
        client: lane.key.vip,
        vip: lane.key.client,
        client_port: lane.key.vport,
        vport: lane.key.client_port,
        proto: lane.key.proto,
    };
    if !matches!(key.proto, 6 | 17 | 132) {
        return;
    }
    let hash = core.secret.hash(key.client, key.client_port, key.proto);
    let Some(id) = core.flows.lookup_request(hash, &key) else { return };
    let record = core.flows.get_mut(id);
    let real = record.real;
    if icmp_error::rewrites(record) {
        return;
    }
    let reply = Lane { direction: Direction::Reply, ..*lane };
    if rewrite::touch(s, record, &reply, core.now, core.defence.secure) {
        core.turned(id);
    }
    let c = core.link.counters.real(real);
    c.out_packets.add(1);
    c.out_bytes.add(u64::from(lane.ip_len));
}

/// Routes a packet as it is: TTL, next hop, size.
pub(crate) fn route<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
) {
    let lane = burst.lanes[i];
    if !s.settings.routing {
        return burst.drop_lane(i, DropReason::NotRouted, io, &core.link.counters);
    }
    let Some(buf) = &mut burst.bufs[i] else { return };
    let Some((_, dst)) = buf.data().get(usize::from(lane.l2)..).and_then(answer::addresses) else { return };
    let hop = s.route(dst);
    let mtu = s.mtu_towards(hop);
    let outcome = match hop {
        Hop::None => rewrite::Outcome::NoRoute,
        _ if !rewrite::lower_ttl(&lane, buf, 0) => rewrite::Outcome::TtlExceeded,
        _ => rewrite::fits(&lane, buf, mtu),
    };
    if let rewrite::Outcome::TooBig(_) = outcome {
        rewrite::raise_ttl(&lane, buf);
    }
    match outcome {
        rewrite::Outcome::Send => {
            core.link.counters.worker.routed.add(1);
            if let Some(buf) = burst.bufs[i].take() {
                resolve::send_routed(s, core, io, buf, lane.l2, dst);
            }
        }
        rewrite::Outcome::Fragment(mtu) => {
            core.link.counters.worker.routed.add(1);
            let lane = &mut burst.lanes[i];
            // The pieces go where this lane points.
            (lane.next_hop, lane.key.client) = (if let Hop::Via(id) = hop { id } else { NextHopId::NONE }, dst);
            fragment_out::send(s, core, io, burst, i, mtu);
        }
        other => answer::outcome(s, core, io, burst, i, other),
    }
}
