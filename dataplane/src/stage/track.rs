//! Track: find the flow of each lane.

use crate::burst::{Burst, Direction, Lane, Lanes, tcp_flags};
use crate::flow::record::{ReplyKey, flags};
use crate::flow::state::SCTP_INIT;
use crate::flow::table::{Candidates, FlowId};
use crate::io::{BURST, PacketIo};
use crate::snapshot::{Local, Snapshot};
use crate::stage::full_nat;
use crate::worker::Core;

/// Looks all ready lanes up. Hits stay ready with `lane.flow` set; requests without a
/// flow become `missed`, replies without one `slow` (they are routed, or answered).
#[inline]
pub fn track<I: PacketIo>(s: &Snapshot, core: &mut Core<I::Buf>, burst: &mut Burst<I::Buf>) {
    let mut candidates = [Candidates::default(); BURST];
    for i in burst.ready {
        candidates[i] = core.flows.probe(burst.lanes[i].hash);
    }
    let mut hits = Lanes(0);
    for i in burst.ready {
        match find(s, core, &burst.lanes[i], candidates[i]) {
            Some(id) => {
                let lane = &mut burst.lanes[i];
                lane.flow = id;
                let record = core.flows.get(id);
                if record.flags & flags::EXTENDED != 0 {
                    core.extensions.prefetch(record.ext);
                }
                // A SYN may reopen an old flow: `schedule` judges.
                if lane.direction == Direction::Request && is_new(lane) {
                    burst.missed.insert(i);
                } else {
                    hits.insert(i);
                }
            }
            None if burst.lanes[i].direction == Direction::Request => {
                burst.lanes[i].flow = FlowId::NONE;
                burst.missed.insert(i);
            }
            None => burst.slow.insert(i),
        }
    }
    burst.ready = hits;
}

/// Whether a packet asks for a new connection: a SYN (with RST, which the kernel does not look at
/// here, it ends an old one and opens none), or SCTP's INIT.
#[inline(always)]
pub fn is_new(lane: &Lane) -> bool {
    let syn = lane.tcp_flags & tcp_flags::SYN != 0;
    (syn && lane.key.proto == 6) || (lane.key.proto == 132 && lane.tcp_flags == SCTP_INIT)
}

/// Looks one lane up.
#[inline(always)]
pub fn find<B>(s: &Snapshot, core: &Core<B>, lane: &Lane, candidates: Candidates) -> Option<FlowId> {
    let flows = &core.flows;
    match lane.direction {
        Direction::Request => flows.find_request(lane.hash, &lane.key, candidates),
        Direction::Reply => {
            let key = ReplyKey {
                client: lane.key.client,
                real: lane.key.vip,
                client_port: lane.key.client_port,
                rport: lane.key.vport,
                proto: lane.key.proto,
            };
            let Some(id) = flows.find_reply(lane.hash, &key, candidates) else {
                let local = s.has_local_pool() && s.local(lane.key.client) == Some(Local::Pool);
                return if local { full_nat::find(s, core, lane, candidates) } else { None };
            };
            // The table compares a fold of an IPv6 address only.
            let real = s.real(flows.get(id).real)?;
            (lane.v4 || real.addr == key.real).then_some(id)
        }
    }
}
