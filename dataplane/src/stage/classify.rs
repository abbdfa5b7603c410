//! Classify: request to a VIP, or perhaps a real server's reply; then hash and steer.
//!
//! A packet whose owner is another worker leaves here, over that worker's ring.

use crate::burst::{Burst, Direction, Lane, Lanes};
use crate::io::{PacketBuf, PacketIo};
use crate::snapshot::{Local, Snapshot};
use crate::units::Ip;
use crate::worker::Core;

/// Classifies the ready lanes and prefetches their buckets. With `steer` set, lanes
/// that another worker owns are handed to it.
#[inline]
pub fn classify<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    steer: bool,
) {
    let mut ready = Lanes(0);
    // Most bursts are for one VIP: remember the last answer.
    let mut last = (Ip::UNSPECIFIED, None);
    for i in burst.ready {
        let lane = &mut burst.lanes[i];
        let dst = lane.key.vip;
        if dst != last.0 {
            last = (dst, s.local(dst));
        }
        if !s.serves[usize::from(lane.v4)] {
            unplaced(lane);
            burst.slow.insert(i);
            continue;
        }
        match last.1 {
            Some(Local::Vip) => lane.direction = Direction::Request,
            Some(Local::Pool) => reply(lane),
            None if s.is_real_address(lane.key.client) => reply(lane),
            _ => {
                unplaced(lane);
                burst.slow.insert(i);
                continue;
            }
        }
        lane.hash = core.secret.hash(lane.key.client, lane.key.client_port, lane.key.proto);
        // Devices that steer replies know nothing of local ports.
        if last.1 == Some(Local::Pool) && lane.hash.owner(core.workers) != core.id {
            if let Some(buf) = burst.bufs[i].take() {
                core.hand_off(lane.hash.owner(core.workers), buf, burst.came[i], io);
            }
            continue;
        }
        ready.insert(i);
    }
    burst.ready = ready;
    if steer {
        steer_lanes(core, io, burst);
    }
    for i in burst.ready {
        core.flows.prefetch_bucket(burst.lanes[i].hash);
    }
}

/// The lane is neither's: its addresses stand as they came, whatever a packet of an earlier burst was.
#[inline(always)]
fn unplaced(lane: &mut Lane) {
    lane.direction = Direction::Request;
}

/// The lane comes from a real server: its destination is the client's side of the flow.
#[inline(always)]
fn reply(lane: &mut Lane) {
    lane.direction = Direction::Reply;
    std::mem::swap(&mut lane.key.client, &mut lane.key.vip);
    std::mem::swap(&mut lane.key.client_port, &mut lane.key.vport);
}

#[inline]
fn steer_lanes<I: PacketIo>(core: &mut Core<I::Buf>, io: &mut I, burst: &mut Burst<I::Buf>) {
    let mut own = Lanes(0);
    for i in burst.ready {
        let owner = burst.lanes[i].hash.owner(core.workers);
        if owner == core.id {
            own.insert(i);
        } else if let Some(buf) = burst.bufs[i].take() {
            core.hand_off(owner, buf, burst.came[i], io);
        }
    }
    burst.ready = own;
}

/// Whether a packet is one that carries its decision in its mark (see `stage::local`).
#[inline(always)]
pub fn is_marked<B: PacketBuf>(buf: &B) -> bool {
    buf.mark() != 0
}
