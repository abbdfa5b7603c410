//! Full NAT: both addresses of a packet are replaced, so that the real server answers the
//! director wherever it stands in the network.
//!
//! Every worker uses local ports of its own: those whose hash, together with the local
//! address, names it as the owner. A reply's destination thus leads to the worker that
//! holds the flow, without any shared table; [`super::classify`] hands it over as it hands
//! over anything else. The flow is found there under an alias in the index.
//!
//! One local port serves many flows at a time, as long as their real servers differ. The
//! search goes round all addresses and ports, so that the one used longest ago comes first,
//! and a closed connection keeps its port for [`HOLD_MS`] whatever the time-outs are.

use crate::burst::Lane;
use crate::flow::hash::FlowHash;
use crate::flow::record::{FlowRecord, flags, peer_word};
use crate::flow::state::State;
use crate::flow::table::{Candidates, FlowId};
use crate::io::PacketBuf;
use crate::snapshot::{ForwardingMode, Hop, NextHop, Real, Snapshot};
use crate::stage::rewrite::{self, Outcome};
use crate::units::{Be16, Ip, NextHopId};
use crate::wire::checksum;
use crate::worker::Core;

/// Local addresses and ports that one new flow tries at most.
const PROBES: u32 = 1024;
/// How long a closed connection keeps its local port at least, milliseconds: as long as the
/// real server's TIME_WAIT lasts, in which segments of the old connection may still arrive
/// (RFC 9293 section 3.4.3; Linux waits 60 s).
pub const HOLD_MS: u32 = 60_000;

/// A local address and port, and their hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub addr: Ip,
    /// The port.
    pub port: Be16,
    /// Hash of both and the protocol.
    pub hash: FlowHash,
}

/// Finds a local address and port for a flow to `real`'s port `rport`; `None` when all
/// that were tried are in use.
#[cold]
pub fn choose<B>(s: &Snapshot, core: &mut Core<B>, real: &Real, rport: Be16, proto: u8) -> Option<Endpoint> {
    let pool = s.local_pool(real.addr.is_v4());
    let (first, last) = s.settings.full_nat.ports;
    let (addresses, ports) = (pool.len() as u32, u32::from(last.checked_sub(first)?) + 1);
    let all = addresses.checked_mul(ports)?;
    for _ in 0..all.min(PROBES.saturating_mul(u32::from(core.workers))) {
        let n = core.extensions.cursor;
        core.extensions.cursor = if n + 1 >= all { 0 } else { n + 1 };
        let n = n % all;
        let addr = *pool.get((n % addresses) as usize)?;
        let port = Be16::new(first.wrapping_add((n / addresses) as u16));
        let hash = core.secret.hash(addr, port, proto);
        if hash.owner(core.workers) != core.id {
            continue;
        }
        let key = Lane { key: reply_key(addr, port, real.addr, rport, proto), hash, ..Lane::default() };
        let candidates = core.flows.probe(hash);
        if find(s, core, &key, candidates).is_none() {
            return Some(Endpoint { addr, port, hash });
        }
    }
    None
}

fn reply_key(local: Ip, port: Be16, real: Ip, rport: Be16, proto: u8) -> crate::flow::record::FlowKey {
    crate::flow::record::FlowKey { client: local, vip: real, client_port: port, vport: rport, proto }
}

/// The flow of a reply to a local address (which the lane has as its client).
#[cold]
pub fn find<B>(s: &Snapshot, core: &Core<B>, lane: &Lane, candidates: Candidates) -> Option<FlowId> {
    let key = &lane.key;
    let peer = peer_word(key.vip);
    let ours = |r: &FlowRecord| {
        r.flags & (flags::MODE_MASK | flags::EXTENDED) == ForwardingMode::FullNat as u32 | flags::EXTENDED
            && (r.rport, r.proto, r.peer) == (key.vport, key.proto, peer)
            && core.extensions.get(r.ext).is_some_and(|e| (e.local, e.local_port) == (key.client, key.client_port))
            // The word is a fold of an IPv6 address only.
            && (key.vip.is_v4() || s.real(r.real).is_some_and(|real| real.addr == key.vip))
    };
    core.flows.find(lane.hash, candidates, ours)
}

/// The differences to the checksums in the request's direction.
pub fn deltas(lane: &Lane, local: &Endpoint, real: &Real, rport: Be16) -> (u16, u16) {
    let key = &lane.key;
    let (dst3, dst4) = rewrite::deltas(key.vip, key.vport.0, real.addr, rport.0);
    let (src3, src4) = rewrite::deltas(key.client, key.client_port.0, local.addr, local.port.0);
    (checksum::add(dst3, src3), checksum::add(dst4, src4))
}

/// A closed connection keeps its port for a while.
pub fn hold(record: &mut FlowRecord, now: crate::units::Tick) {
    let closed = record.state == State::Close as u8 || record.state == State::TimeWait as u8;
    if closed && record.deadline.ms_left(now) < HOLD_MS {
        record.deadline = now.after_ms(HOLD_MS);
    }
}

/// A packet from a client, whose flow has been moved on and counted.
#[cold]
pub fn request<B: PacketBuf>(
    s: &Snapshot,
    core: &mut Core<B>,
    lane: &Lane,
    buf: &mut B,
    real: &Real,
    hop: &NextHop,
) -> Outcome {
    let record = core.flows.get_mut(lane.flow);
    hold(record, core.now);
    let record = *record;
    let Some(e) = core.extensions.get(record.ext) else { return Outcome::Gone };
    if !rewrite::lower_ttl(lane, buf, record.l3_delta) {
        return Outcome::TtlExceeded;
    }
    let fit = rewrite::fits(s, lane, buf, hop.mtu);
    if let Outcome::TooBig(_) = fit {
        // The quoted packet must be the one the client sent, but for its TTL.
        rewrite::undo_l3(lane, buf, record.l3_delta);
        return fit;
    }
    // The whole difference goes with the second port; the first one is written as it is.
    rewrite::write_source(lane, buf, e.local, e.local_port.0, 0);
    rewrite::write_destination(lane, buf, real.addr, record.rport.0, record.l4_delta);
    fit
}

/// A packet from a real server to a local address.
#[cold]
pub fn reply<B: PacketBuf>(s: &Snapshot, core: &mut Core<B>, lane: &mut Lane, buf: &mut B) -> Outcome {
    let record = *core.flows.get(lane.flow);
    let (id, mtu) = match s.route(record.client) {
        Hop::Via(id) => (id, s.next_hop(id).map_or(1500, |h| h.mtu)),
        Hop::OnLink(iface) => (NextHopId::NONE, s.interfaces.get(usize::from(iface.0)).map_or(1500, |i| i.mtu)),
        Hop::None => return Outcome::NoRoute,
    };
    lane.next_hop = id;
    let (l3, l4) = (!record.l3_delta, !record.l4_delta);
    if !rewrite::lower_ttl(lane, buf, l3) {
        return Outcome::TtlExceeded;
    }
    let fit = rewrite::fits(s, lane, buf, mtu);
    if let Outcome::TooBig(_) = fit {
        rewrite::undo_l3(lane, buf, l3);
        return fit;
    }
    let moved = core.flows.get_mut(lane.flow);
    let turned = rewrite::touch(s, moved, lane, core.now, core.defence.secure);
    hold(moved, core.now);
    if turned {
        core.turned(lane.flow);
    }
    let counters = core.link.counters.real(record.real);
    counters.out_packets.add(1);
    counters.out_bytes.add(u64::from(lane.ip_len));
    rewrite::write_destination(lane, buf, record.client, record.client_port.0, 0);
    rewrite::write_source(lane, buf, record.vip, record.vport.0, l4);
    // From here on the packet is one for the client.
    lane.key.client = record.client;
    fit
}
