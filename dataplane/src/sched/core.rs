//! One worker's scheduler state: choosing and counting.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{Ordering::SeqCst, fence};

use super::SchedKey;
use super::config::{SchedulerKind, ServiceSched};
use super::counts::{Connections, CoreCounts};
use super::locality::Locality;
use super::real::{RealRest, RealState};
use super::service::{Arena, ServiceState};
use super::tables;
use super::tree::{Group, Node, Shape};
use super::twos::Random;
use crate::link::WorkerLink;
use crate::snapshot::Snapshot;
use crate::units::{RealId, ServiceId, Tick, WorkerId};

/// Real servers of every other worker that one [`SchedCore::refresh`] looks at: as many
/// counts as a cache line holds.
pub const REFRESH_BUDGET: usize = 8;

/// One worker's scheduler state.
#[derive(Debug)]
pub struct SchedCore {
    pub(super) services: Box<[ServiceState]>,
    pub(super) reals: Box<[RealState]>,
    pub(super) rest: Box<[RealRest]>,
    pub(super) arena: Arena,
    pub(super) locality: Locality,
    pub(super) random: Random,
    /// Services numbered below this were used.
    pub(super) used_services: usize,
    /// Real servers numbered below this were used.
    pub(super) used_reals: usize,
    /// Where the next refresh goes on.
    cursor: usize,
    /// How many real servers the refresh has still to look at.
    pending: usize,
    /// The sum of the other workers' changes when the refresh last began a round.
    pub(super) seen: u64,
}

impl SchedCore {
    /// State for services and real servers numbered below these. Takes all the memory that
    /// it will ever need: about 220 bytes a real server, 1,000 a service, and 1.3 MB.
    pub fn new(max_services: usize, max_reals: usize) -> Self {
        Self {
            services: vec![ServiceState::UNUSED; max_services].into(),
            reals: vec![RealState::NONE; max_reals].into(),
            rest: vec![RealRest::default(); max_reals].into(),
            arena: Arena::new(max_services, max_reals),
            locality: Locality::new(),
            random: Random::new(RandomState::new().hash_one(0)),
            used_services: 0,
            used_reals: 0,
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
    /// service's list has changed builds its state, some nanoseconds a server.
    #[inline]
    pub fn choose(
        &mut self,
        service: ServiceId,
        sched: &ServiceSched,
        counts: &CoreCounts,
        key: &SchedKey,
        now: Tick,
    ) -> Option<RealId> {
        let state = self.services.get_mut(service.index())?;
        if state.fingerprint != sched.fingerprint || state.epoch != self.arena.epoch {
            self.rebuild(service, sched, counts)?;
        }
        use SchedulerKind as K;
        let state = &mut self.services[service.index()];
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
        let state = self.services.get(service.index())?;
        let first = state.groups as usize;
        let position = match state.wide {
            false => smallest(&state.shape, &self.arena.narrow[first..]),
            true => smallest(&state.shape, &self.arena.wide[first..]),
        };
        position.map(|p| self.arena.list[state.list as usize + p])
    }

    fn hashed(&self, service: ServiceId, sched: &ServiceSched, key: &SchedKey) -> Option<RealId> {
        let usable = |id: RealId| self.reals.get(id.index()).is_some_and(|r| r.service == service && r.usable());
        // Whether there is any, before all slots are tried in vain.
        self.least(service)?;
        tables::look_up(sched, key, usable)
    }

    /// Counts a connection that was opened, active or not.
    #[inline]
    pub fn opened(&mut self, counts: &CoreCounts, id: RealId, active: bool) {
        counts.open(id, active);
        if let Some(real) = self.reals.get_mut(id.index()) {
            let flipped = real.opened(active);
            self.update(id, flipped);
        }
    }

    /// Counts a connection that became active, or inactive.
    #[inline]
    pub fn turned(&mut self, counts: &CoreCounts, id: RealId, active: bool) {
        counts.turn(id, active);
        if let Some(real) = self.reals.get_mut(id.index()) {
            real.turned(active);
            self.update(id, false);
        }
    }

    /// Counts a connection that ended; `active` is the class it was in.
    #[inline]
    pub fn closed(&mut self, counts: &CoreCounts, id: RealId, active: bool) {
        counts.close(id, active);
        if let Some(real) = self.reals.get_mut(id.index()) {
            let flipped = real.closed(active, &self.rest, id.index());
            self.update(id, flipped);
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
            let rest = &mut self.rest[id.index()];
            if rest.others != now {
                let flipped = self.reals[id.index()].set_others(rest, now);
                self.update(id, flipped);
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
        let Some(real) = self.reals.get_mut(id.index()).filter(|r| r.upper != 0) else { return true };
        // Each worker first counts its own and then looks at the others', in this order.
        fence(SeqCst);
        let now = others.fold(Connections::default(), |sum, o| sum.plus(o.connections(id)));
        let upper = real.upper;
        let rest = &mut self.rest[id.index()];
        if rest.others != now {
            let flipped = real.set_others(rest, now);
            self.update(id, flipped);
        }
        self.connections(id).total() <= upper
    }

    /// Forgets services that are no more, so that a service added again starts afresh.
    /// To be called with every snapshot adopted; looks at one word a service.
    pub fn adopt(&mut self, snapshot: &Snapshot) {
        for (n, state) in self.services[..self.used_services].iter_mut().enumerate() {
            if state.fingerprint != 0 && snapshot.service(ServiceId(n as u32)).is_none() {
                state.fingerprint = 0;
            }
        }
    }

    /// Connections of a real server on all workers, as this worker knows them.
    pub fn connections(&self, id: RealId) -> Connections {
        self.reals.get(id.index()).map_or(Connections::default(), |r| r.all)
    }

    /// Whether a real server's upper threshold was reached, and its lower one not since.
    pub fn overloaded(&self, id: RealId) -> bool {
        self.reals.get(id.index()).is_some_and(RealState::overloaded)
    }

    /// Brings a real server's leaf up to date after its counts changed, or (`flipped`)
    /// whether it may be chosen.
    #[inline(always)]
    fn update(&mut self, id: RealId, flipped: bool) {
        let real = &mut self.reals[id.index()];
        let Some(state) = self.services.get_mut(real.service.index()) else { return };
        // A server that was removed is at no position; a service whose room was taken back
        // builds its tree anew before it is used.
        let current = real.position < state.len && state.epoch == self.arena.epoch;
        if !current || !(flipped || counts_matter(state.kind)) {
            return;
        }
        let (key, position) = (real.key(state.kind), real.position as usize);
        self.arena.set(state, position, key);
        if matches!(state.kind, SchedulerKind::Lblc | SchedulerKind::Lblcr) {
            state.spare = state.spare.wrapping_add_signed(real.mark_room());
        }
    }
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
