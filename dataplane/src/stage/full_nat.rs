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
use crate::snapshot::{ForwardingMode, Real, Snapshot};
use crate::stage::rewrite;
use crate::units::{Be16, Ip};
use crate::wire::checksum;
use crate::worker::Core;

/// Local addresses and ports that one new flow tries at most. When so many are taken, less than one in
/// a hundred is free.
const PROBES: u32 = 1024;
/// How many of them in a row, before the search goes on elsewhere: flows that were opened one after
/// the other and last for long hold ports that lie side by side.
const IN_A_ROW: u32 = 32;
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
    let workers = u32::from(core.workers);
    let most = PROBES.saturating_mul(workers);
    // The golden section spreads the places where the search goes on evenly. A pool that can
    // be searched whole is.
    let leap = if all > most { ((u64::from(all) * 0x9e37_79b9) >> 32) as u32 } else { 1 };
    for probe in 1..=all.min(most) {
        let n = core.extensions.cursor % all;
        let step = if probe % (IN_A_ROW * workers) == 0 { leap } else { 1 };
        core.extensions.cursor = ((u64::from(n) + u64::from(step)) % u64::from(all)) as u32;
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

/// A connection that closes keeps its port for a while, whichever side closed first and
/// whether or not the last acknowledgement came by.
pub fn hold(record: &mut FlowRecord, now: crate::units::Tick) {
    use State::{Close, CloseWait, FinWait, LastAck, TimeWait};
    let closing = [Close, TimeWait, LastAck, CloseWait, FinWait].iter().any(|s| *s as u8 == record.state);
    if closing && record.deadline.ms_left(now) < HOLD_MS {
        record.deadline = now.after_ms(HOLD_MS);
    }
}
