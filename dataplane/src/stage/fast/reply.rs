//! The way back: IPv4 packets of known NAT flows from real servers to clients.
//!
//! As for requests no list is asked: a flow whose real server the sender is says so. Where
//! the client is to be found is asked once for packets to the same client in a row.

use super::rewrite::apply_l4;
use super::{Books, HEAD, Own, TCP, guess_some, read_plain};
use crate::burst::{Burst, Lanes};
use crate::flow::record::FlowRecord;
use crate::io::{BURST, PacketBuf};
use crate::snapshot::{Hop, NextHop, Snapshot};
use crate::units::{Ip, PortId};
use crate::wire::checksum;
use crate::worker::Core;

/// The lanes that are replies, rewritten, and where all of them leave, if that is one port.
#[derive(Default)]
pub struct Back {
    pub ready: Lanes,
    pub port: Option<PortId>,
}

/// Finds replies among `lanes`, rewrites them, and writes into `ports` where each leaves.
#[inline(never)]
pub fn reply<B: PacketBuf>(
    s: &Snapshot,
    core: &mut Core<B>,
    burst: &mut Burst<B>,
    lanes: Lanes,
    (mac, steer): (u64, Option<Own>),
    ports: &mut [PortId; BURST],
) -> Back {
    let plain = look(core, burst, lanes, mac, steer);
    guess_some(s, core, burst, plain);
    settle(s, core, burst, plain, ports)
}

fn look<B: PacketBuf>(core: &Core<B>, burst: &mut Burst<B>, lanes: Lanes, mac: u64, steer: Option<Own>) -> Lanes {
    let Burst { bufs, quick, .. } = burst;
    let mut plain = Lanes(0);
    for i in lanes {
        let (Some(buf), q) = (&bufs[i & (BURST - 1)], &mut quick[i & (BURST - 1)]) else { continue };
        let Some(h) = buf.data().first_chunk::<HEAD>() else { continue };
        if read_plain(h, buf.total_len(), mac, q).is_none() {
            continue;
        }
        // The client's side is the destination.
        let (to, port) = (u64::from_le(q.request.addresses) >> 32, u32::from_le(q.request.ports) >> 16);
        q.hash = core.secret.hash_v4(to << 32 | u64::from(port) << 16 | u64::from(h[23]) << 8);
        if steer.is_some_and(|(workers, own)| q.hash.owner(workers) != own) {
            continue;
        }
        core.flows.prefetch_home(q.hash);
        plain.insert(i);
    }
    plain
}

fn settle<B: PacketBuf>(
    s: &Snapshot,
    core: &mut Core<B>,
    burst: &mut Burst<B>,
    lanes: Lanes,
    ports: &mut [PortId; BURST],
) -> Back {
    let Core { flows, link, now, .. } = core;
    let Burst { bufs, quick, .. } = burst;
    let books = Books::new(s, &link.counters, *now);
    let (mut back, mut same, mut route) = (Back::default(), true, (0, None));
    for i in lanes {
        let i = i & (BURST - 1);
        let q = &quick[i];
        let Some(h) = bufs[i].as_mut().and_then(|b| b.data_mut().first_chunk_mut::<HEAD>()) else { continue };
        let record = flows.get_mut(q.flow);
        if !record.is_steady_reply(&q.request) {
            continue;
        }
        let to = (u64::from_le(q.request.addresses) >> 32) as u32;
        if to != route.0 || route.1.is_none() {
            route = (to, way(s, to));
        }
        let (Some(hop), Some(counter)) = (route.1.filter(|hop| q.ip_len <= hop.mtu), books.serving(record)) else {
            continue;
        };
        record.deadline = books.deadlines[usize::from(record.proto & 1)];
        counter.out_packets.add(1);
        counter.out_bytes.add(u64::from(q.ip_len));
        translate(h, hop, record);
        same &= *back.port.get_or_insert(hop.port) == hop.port;
        ports[i] = hop.port;
        back.ready.insert(i);
    }
    Back { port: back.port.filter(|_| same), ..back }
}

/// The next hop towards a client, if a frame can leave for it as it is.
#[inline(never)]
fn way(s: &Snapshot, to: u32) -> Option<&NextHop> {
    let Hop::Via(id) = s.route(Ip::from_v4(to.to_le_bytes())) else { return None };
    s.next_hop(id).filter(|hop| hop.resolved && hop.l2_len == 14)
}

#[inline(always)]
fn translate(h: &mut [u8; HEAD], hop: &NextHop, record: &FlowRecord) {
    h[22] = h[22].wrapping_sub(1);
    let sum = u16::from_ne_bytes([h[24], h[25]]);
    let sum = checksum::apply(sum, checksum::add(!record.l3_delta, checksum::TTL_DELTA));
    [h[24], h[25]] = sum.to_ne_bytes();
    h[..12].copy_from_slice(&hop.header[..12]);
    h[26..30].copy_from_slice(&record.vip.v4_bytes());
    h[34..36].copy_from_slice(&record.vport.0);
    apply_l4::<34, HEAD>(h, h[23] == TCP, !record.l4_delta);
}
