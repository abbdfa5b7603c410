//! One worker's scheduler state: choosing and counting.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{Ordering::SeqCst, fence};

use super::SchedKey;
use super::config::{SchedulerKind, ServiceSched};
use super::counts::{Connections, CoreCounts};
use super::locality::Locality;
use super::real::{Member, Moved, NOWHERE, RealState};
use super::rebuild::Chores;
use super::service::{Arena, ServiceSides, ServiceState};
use super::tables;
use super::tree::{Group, Node, Shape};
use super::twos::Random;
use crate::link::WorkerLink;
use crate::units::{RealId, ServiceId, Tick, WorkerId};

/// Real servers of every other worker that one [`SchedCore::refresh`] looks at: as many
/// counts as a cache line holds.
pub const REFRESH_BUDGET: usize = 8;

/// One worker's scheduler state.
#[derive(Debug)]
pub struct SchedCore {
    pub(super) services: Box<[ServiceSides]>,
    pub(super) reals: Box<[RealState]>,
    /// Connections on the other workers, as of the last refresh.
    pub(super) others: Box<[Connections]>,
    pub(super) arena: Arena,
    pub(super) locality: Locality,
    pub(super) random: Random,
    /// Services numbered below this were used.
    pub(super) used_services: usize,
    /// Real servers numbered below this were used.
    pub(super) used_reals: usize,
    /// What is under way for the next snapshot, or after the last one.
    pub(super) chores: Chores,
    /// Where the next refresh goes on.
    cursor: usize,
    /// How many real servers the refresh has still to look at.
    pending: usize,
    /// The sum of the other workers' changes when the refresh last began a round.
    pub(super) seen: u64,
}

impl SchedCore {
    /// State for services and real servers numbered below these. Takes all the memory that
    /// it will ever need: about 340 bytes a real server, 1,100 a service, and 1.3 MB.
    pub fn new(max_services: usize, max_reals: usize) -> Self {
        Self {
            services: vec![ServiceSides::UNUSED; max_services].into(),
            reals: vec![RealState::NONE; max_reals].into(),
            others: vec![Connections::default(); max_reals].into(),
            arena: Arena::new(max_services, max_reals),
            locality: Locality::new(),
            random: Random::new(RandomState::new().hash_one(0)),
            used_services: 0,
            used_reals: 0,
            chores: Chores::default(),
            cursor: 0,
            pending: 0,
            seen: 0,
        }
    }

    /// Picks the real server for a new flow, or none when no server is usable. `counts` are
    /// this worker's own.
    ///
    /// Cost: one load for the schedulers that compare, a look at a few nodes for the
    /// rotating and a look into a table for the hashing ones. The first choice after the
    /// service's list has changed exchanges the sides where [`Self::prepare`] was asked, and
    /// else builds its state, some nanoseconds a server.
    #[inline]
    pub fn choose(
        &mut self,
        service: ServiceId,
        sched: &ServiceSched,
        counts: &CoreCounts,
        key: &SchedKey,
        now: Tick,
    ) -> Option<RealId> {
        let state = self.services.get(service.index())?.live();
        if state.fingerprint != sched.fingerprint || state.epoch != self.arena.epoch {
            self.renew(service, sched, counts)?;
        }
        use SchedulerKind as K;
        let state = self.services[service.index()].live_mut();
        match state.kind {
            K::Rr | K::Wrr => {
                let (first, list) = (state.groups as usize, state.list as usize);
                let position = match state.wide {
                    false => rotate(state, &self.arena.narrow[first..], sched),
                    true => rotate(state, &self.arena.wide[first..], sched),
                };
                position.map(|p| self.arena.list[list + p])
            }
            K::Lc | K::Wlc | K::Sed | K::Nq | K::Fo | K::Ovf => self.least(service),
            K::Dh | K::Sh | K::Mh => self.hashed(service, sched, key),
            K::Lblc => self.near(service, key, now),
            K::Lblcr => self.near_replicated(service, key, now),
            K::Twos => self.less_of_two(service, sched),
        }
    }

    /// The server with the smallest key.
    #[inline(always)]
    pub(super) fn least(&self, service: ServiceId) -> Option<RealId> {
        let state = self.services.get(service.index())?.live();
        let first = state.groups as usize;
        let position = match state.wide {
            false => smallest(&state.shape, &self.arena.narrow[first..]),
            true => smallest(&state.shape, &self.arena.wide[first..]),
        };
        position.map(|p| self.arena.list[state.list as usize + p])
    }

    fn hashed(&self, service: ServiceId, sched: &ServiceSched, key: &SchedKey) -> Option<RealId> {
        let side = self.services.get(service.index())?.live_side();
        let serves = |r: &RealState| r.service == service && r.sides[side].usable();
        let usable = |id: RealId| self.reals.get(id.index()).is_some_and(serves);
        // Whether there is any, before all slots are tried in vain.
        self.least(service)?;
        tables::look_up(sched, key, usable)
    }

    /// Counts a connection that was opened, active or not.
    #[inline]
    pub fn opened(&mut self, counts: &CoreCounts, id: RealId, active: bool) {
        counts.open(id, active);
        if let Some(real) = self.reals.get_mut(id.index()) {
            real.opened(active);
            self.update(id, Moved::Grown);
        }
    }

    /// Counts a connection that became active, or inactive.
    #[inline]
    pub fn turned(&mut self, counts: &CoreCounts, id: RealId, active: bool) {
        counts.turn(id, active);
        if let Some(real) = self.reals.get_mut(id.index()) {
            real.turned(active);
            self.update(id, Moved::Turned);
        }
    }

    /// Counts a connection that ended; `active` is the class it was in.
    #[inline]
    pub fn closed(&mut self, counts: &CoreCounts, id: RealId, active: bool) {
        counts.close(id, active);
        if let Some(real) = self.reals.get_mut(id.index()) {
            real.closed(active);
            self.update(id, Moved::Shrunk);
        }
    }

    /// Takes in a bounded part of what the other workers changed: [`REFRESH_BUDGET`] real
    /// servers, or nothing when nothing has changed. To be called once a poll.
    #[inline]
    pub fn refresh(&mut self, workers: &[Arc<WorkerLink>], me: WorkerId) {
        if workers.len() > 1 {
            let others = workers.iter().enumerate().filter(|(n, _)| *n != me.index()).map(|(_, w)| &w.counts);
            self.refresh_from(others);
        }
    }

    /// As [`Self::refresh`], from the other workers' counts themselves.
    pub fn refresh_from<'a>(&mut self, others: impl Iterator<Item = &'a CoreCounts> + Clone) {
        if self.pending == 0 {
            // These only grow, so the sum differs whenever anything has changed.
            let changes = others.clone().fold(0u64, |sum, o| sum.wrapping_add(o.changes()));
            if changes == self.seen {
                return;
            }
            self.seen = changes;
            self.pending = self.used_reals;
        }
        let n = self.pending.min(REFRESH_BUDGET);
        self.pending -= n;
        for _ in 0..n {
            if self.cursor >= self.used_reals {
                self.cursor = 0;
            }
            let id = RealId(self.cursor as u32);
            self.cursor += 1;
            let now = others.clone().fold(Connections::default(), |sum, o| sum.plus(o.connections(id)));
            let known = &mut self.others[id.index()];
            if *known != now {
                let moved = self.reals[id.index()].set_others(known, now);
                self.update(id, moved);
            }
        }
    }

    /// Whether a connection that was just counted may stay: false when it and those that the
    /// other workers have counted by now are more than the server's upper threshold. Two workers
    /// that ask at the same time never both hear yes for the last place; both may hear no.
    #[inline]
    pub fn admits(&mut self, id: RealId, workers: &[Arc<WorkerLink>], me: WorkerId) -> bool {
        let others = workers.iter().enumerate().filter(|(n, _)| *n != me.index()).map(|(_, w)| &w.counts);
        self.admits_beside(id, others)
    }

    /// As [`Self::admits`], from the other workers' counts themselves.
    pub fn admits_beside<'a>(&mut self, id: RealId, others: impl Iterator<Item = &'a CoreCounts>) -> bool {
        let Some(real) = self.reals.get_mut(id.index()) else { return true };
        let side = self.services.get(real.service.index()).map_or(0, ServiceSides::live_side);
        let upper = real.sides[side].upper;
        if upper == 0 {
            return true;
        }
        // Each worker first counts its own and then looks at the others', in this order.
        fence(SeqCst);
        let now = others.fold(Connections::default(), |sum, o| sum.plus(o.connections(id)));
        let known = &mut self.others[id.index()];
        if *known != now {
            let moved = real.set_others(known, now);
            self.update(id, moved);
        }
        self.connections(id).total() <= upper
    }

    /// Connections of a real server on all workers, as this worker knows them.
    pub fn connections(&self, id: RealId) -> Connections {
        self.reals.get(id.index()).map_or(Connections::default(), |r| r.all)
    }

    /// Whether a real server's upper threshold was reached, and its lower one not since.
    pub fn overloaded(&self, id: RealId) -> bool {
        let Some(real) = self.reals.get(id.index()) else { return false };
        let side = self.services.get(real.service.index()).map_or(0, ServiceSides::live_side);
        real.sides[side].overloaded()
    }

    /// Brings a real server's leaf up to date after its counts changed, and another one where the
    /// service's state is being built anew.
    #[inline(always)]
    fn update(&mut self, id: RealId, moved: Moved) {
        let Self { reals, services, arena, .. } = self;
        let Some(real) = reals.get_mut(id.index()) else { return };
        let Some(service) = services.get_mut(real.service.index()) else { return };
        let side = service.live_side();
        renew_leaf(arena, service.live_mut(), &mut real.sides[side], real.all, moved);
        if real.sides[side ^ 1].position != NOWHERE {
            renew_other(arena, service.spare_mut(), &mut real.sides[side ^ 1], real.all, moved);
        }
    }
}

#[inline(always)]
fn renew_leaf(arena: &mut Arena, state: &mut ServiceState, real: &mut Member, all: Connections, moved: Moved) {
    let flipped = real.flips(all, moved);
    // A server that was removed is at no position; a service whose room was taken back
    // builds its tree anew before it is used.
    let current = real.position < state.len && state.epoch == arena.epoch;
    if !current || !(flipped || counts_matter(state.kind)) {
        return;
    }
    arena.set(state, real.position as usize, real.key(state.kind, all));
    if matches!(state.kind, SchedulerKind::Lblc | SchedulerKind::Lblcr) {
        state.spare = state.spare.wrapping_add_signed(real.mark_room(all));
    }
}

#[cold]
#[inline(never)]
fn renew_other(arena: &mut Arena, state: &mut ServiceState, real: &mut Member, all: Connections, moved: Moved) {
    renew_leaf(arena, state, real, all, moved);
}

/// Whether a change of a count can change a leaf.
#[inline(always)]
fn counts_matter(kind: SchedulerKind) -> bool {
    use SchedulerKind as K;
    matches!(kind, K::Wlc | K::Lc | K::Sed | K::Nq | K::Ovf | K::Lblc | K::Lblcr)
}

#[inline(always)]
fn smallest<N: Node>(shape: &Shape, groups: &[Group<N>]) -> Option<usize> {
    let least = shape.min(groups);
    (least != N::NONE).then(|| least.position(shape.bits))
}

#[inline(always)]
fn rotate<N: Node>(state: &mut ServiceState, groups: &[Group<N>], sched: &ServiceSched) -> Option<usize> {
    match state.kind {
        SchedulerKind::Rr => state.rotation.next_rr(groups, &state.shape),
        _ => state.rotation.next_wrr(groups, &state.shape, sched),
    }
}
