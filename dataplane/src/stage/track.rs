//! Track: find the flow of each lane.

use crate::burst::{Burst, Direction, Lane, Lanes, tcp_flags};
use crate::flow::record::ReplyKey;
use crate::flow::table::{Candidates, FlowId, FlowTable};
use crate::io::{BURST, PacketIo};
use crate::snapshot::Snapshot;
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
        let lane = &mut burst.lanes[i];
        match find(s, &core.flows, lane, candidates[i]) {
            Some(id) => {
                lane.flow = id;
                // A SYN may reopen an old flow: `schedule` judges.
                let syn = lane.tcp_flags & (tcp_flags::SYN | tcp_flags::RST) == tcp_flags::SYN;
                if syn && lane.direction == Direction::Request && lane.key.proto == 6 {
                    burst.missed.insert(i);
                } else {
                    hits.insert(i);
                }
            }
            None if lane.direction == Direction::Request => burst.missed.insert(i),
            None => burst.slow.insert(i),
        }
    }
    burst.ready = hits;
}

/// Looks one lane up.
#[inline(always)]
pub fn find(s: &Snapshot, flows: &FlowTable, lane: &Lane, candidates: Candidates) -> Option<FlowId> {
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
            let id = flows.find_reply(lane.hash, &key, candidates)?;
            // The table compares a fold of an IPv6 address only.
            let real = s.real(flows.get(id).real)?;
            (lane.v4 || real.addr == key.real).then_some(id)
        }
    }
}
