//! Building a service's state for a list of servers that it was not built for: on the side that
//! does not serve, in slices, while the other side serves as before.
//!
//! Lists of some length are built before their snapshot is adopted ([`SchedCore::prepare`]); the first
//! choice by the new list exchanges the sides. Short ones are built at that choice.

use super::config::{SchedulerKind, ServiceSched};
use super::core::SchedCore;
use super::cost::is_narrow;
use super::counts::CoreCounts;
use super::rotation::{HEAD, Rotation};
use super::service::ServiceState;
use super::tree::{MAX_LEAVES, Shape};
use crate::snapshot::Snapshot;
use crate::units::{RealId, ServiceId};

/// Services with more servers than this are built before their snapshot is adopted; those of others
/// take less than 0.3 µs at their next choice.
pub(crate) const PREPARED: usize = 16;

/// What a slice of work may cost, and what its parts do: about nanoseconds, where nothing is in a cache.
const SLICE: usize = 8000;
const LOOK: usize = 12;
const COMPARE: usize = 8;
const ENLIST: usize = 16;
const RAISE: usize = 4;
const LEAVE: usize = 8;

/// What is left of a slice.
#[derive(Debug)]
pub(super) struct Budget(usize);

impl Budget {
    /// One slice.
    pub fn slice() -> Self {
        Self(SLICE)
    }
    /// As much as it takes.
    pub fn unlimited() -> Self {
        Self(usize::MAX)
    }
    /// How many of `left` steps of this cost there is time for. The cost is taken off.
    fn take(&mut self, left: usize, cost: usize) -> usize {
        let n = left.min(self.0 / cost);
        self.0 -= n * cost;
        n
    }
}

/// What is done to a service, one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Servers leave the list that was there before.
    Clean,
    /// The new list is compared with the one that serves.
    Compare,
    /// wrr: the additions are told to the rotation, one by one.
    Rotate,
    /// Servers come into the new list, and the leaves into its tree.
    Enlist,
    /// The rest of the tree.
    Raise,
}

/// The building of one service's state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Build {
    service: ServiceId,
    step: Step,
    /// How far the step has come.
    at: usize,
    /// How many servers at the head of the list were added, in order from the last of them to the first,
    /// or may have been: those before this were not.
    added: usize,
    /// Some server was removed, or has another weight or threshold.
    edited: bool,
    /// Another one may have begun to build the same service.
    begun: u32,
}

/// How far a build has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    /// It waits for another slice.
    More,
    /// It may serve.
    Ready,
    /// It cannot be built: a server beyond what this state was made for.
    Failed,
}

/// What is to be done for the next snapshot, or after the last one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Chores {
    /// The next place in the list of services that are prepared, and what is being built.
    prepared: usize,
    build: Option<Build>,
    /// Since a snapshot was adopted: the next service to tidy up, and how far it has come.
    tidied: Option<(usize, usize)>,
}

impl SchedCore {
    /// Brings the state of a service to a list that it does not serve: by exchanging the sides
    /// where that was prepared, else by building it now, some nanoseconds a server. Fails for a
    /// service or server beyond what this state was made for.
    #[cold]
    #[inline(never)]
    pub(super) fn renew(&mut self, id: ServiceId, sched: &ServiceSched, counts: &CoreCounts) -> Option<()> {
        if !self.is_prepared(id, sched) {
            let mut build = self.begin(id)?;
            let progress = self.advance(&mut build, sched, counts, &mut Budget::unlimited());
            if progress != Progress::Ready {
                return None;
            }
            self.flip(id, sched);
            self.clean(id, &mut 0, &mut Budget::unlimited());
        } else {
            self.flip(id, sched);
        }
        Some(())
    }

    /// A slice of the work that makes the next snapshot's long lists ready. True when they are: then
    /// it may be adopted. `snapshot` must be the same until then.
    pub fn prepare(&mut self, snapshot: &Snapshot, counts: &CoreCounts) -> bool {
        let mut budget = Budget::slice();
        while let Some(id) = snapshot.long_lists.get(self.chores.prepared) {
            let Some(service) = snapshot.service(*id) else {
                self.chores.prepared += 1;
                continue;
            };
            if budget.take(1, LOOK) == 0 {
                return false;
            }
            let build = match self.chores.build.take() {
                Some(build) => Some(build),
                None if self.serves(*id, &service.sched) => None,
                None => self.begin(*id),
            };
            if let Some(mut build) = build
                && self.advance(&mut build, &service.sched, counts, &mut budget) == Progress::More
            {
                self.chores.build = Some(build);
                return false;
            }
            self.chores.prepared += 1;
        }
        self.chores.prepared = 0;
        true
    }

    /// Begins to forget services that are no more, so that a service added again starts afresh, and
    /// what was built for earlier lists. To be called with every snapshot adopted; [`Self::tidy`] does the work.
    pub fn adopt(&mut self) {
        self.chores.tidied = Some((0, 0));
    }

    /// Whether nothing is left to tidy up: the next snapshot may be prepared.
    #[inline(always)]
    pub fn is_tidy(&self) -> bool {
        self.chores.tidied.is_none()
    }

    /// A slice of the work that follows the adoption of a snapshot.
    pub fn tidy(&mut self, snapshot: &Snapshot) {
        let Some((mut n, mut at)) = self.chores.tidied else { return };
        let mut budget = Budget::slice();
        while n < self.used_services {
            let id = ServiceId(n as u32);
            if budget.take(1, LOOK) == 0 {
                break;
            }
            match snapshot.service(id) {
                Some(s) if self.is_prepared(id, &s.sched) => self.flip(id, &s.sched),
                None => {
                    let service = &mut self.services[n];
                    service.live_mut().fingerprint = 0;
                    service.spare_mut().fingerprint = 0;
                }
                Some(_) => {}
            }
            if !self.clean(id, &mut at, &mut budget) {
                break;
            }
            (n, at) = (n + 1, 0);
        }
        self.chores.tidied = (n < self.used_services).then_some((n, at));
    }

    /// Whether a service serves this list.
    fn serves(&self, id: ServiceId, sched: &ServiceSched) -> bool {
        let live = self.services.get(id.index()).map(|s| s.live());
        live.is_some_and(|s| s.fingerprint == sched.fingerprint && s.epoch == self.arena.epoch)
    }

    /// Whether the other side is ready for this list, and the one that serves is not.
    fn is_prepared(&self, id: ServiceId, sched: &ServiceSched) -> bool {
        let Some(service) = self.services.get(id.index()) else { return false };
        let spare = service.spare();
        spare.fingerprint == sched.fingerprint && spare.epoch == self.arena.epoch && spare.fingerprint != 0
    }

    /// Begins to build a service's state anew.
    fn begin(&mut self, id: ServiceId) -> Option<Build> {
        let service = self.services.get_mut(id.index())?;
        self.used_services = self.used_services.max(id.index() + 1);
        service.begun = service.begun.wrapping_add(1);
        service.spare_mut().fingerprint = 0;
        let begun = service.begun;
        Some(Build { service: id, step: Step::Clean, at: 0, added: 0, edited: false, begun })
    }

    /// Goes on with a build for as long as there is time.
    fn advance(&mut self, b: &mut Build, sched: &ServiceSched, counts: &CoreCounts, budget: &mut Budget) -> Progress {
        let Some(service) = self.services.get(b.service.index()) else { return Progress::Failed };
        // Its room may be gone as well.
        let placed = b.step == Step::Raise || (b.step == Step::Enlist && b.at > 0);
        let lost = placed && service.spare().epoch != self.arena.epoch;
        if sched.fingerprint == 0 || sched.reals.len() > MAX_LEAVES {
            return Progress::Failed;
        }
        if service.begun != b.begun || lost {
            // The list that was compared with may not serve any more.
            match self.begin(b.service) {
                Some(again) => *b = again,
                None => return Progress::Failed,
            }
        }
        loop {
            let next = match b.step {
                Step::Clean => self.clean(b.service, &mut b.at, budget).then_some(Step::Compare),
                Step::Compare => self.compare(b, sched, budget).then_some(Step::Rotate),
                Step::Rotate => self.rotate(b, sched, budget).then_some(Step::Enlist),
                Step::Enlist => match self.enlist(b, sched, counts, budget) {
                    Progress::More => None,
                    Progress::Ready => Some(Step::Raise),
                    Progress::Failed => return Progress::Failed,
                },
                Step::Raise => {
                    let state = self.services[b.service.index()].spare_mut();
                    let n = budget.take(state.shape.above() - b.at, RAISE);
                    self.arena.raise(state, b.at, b.at + n);
                    b.at += n;
                    if b.at < state.shape.above() {
                        return Progress::More;
                    }
                    state.fingerprint = sched.fingerprint;
                    return Progress::Ready;
                }
            };
            let Some(next) = next else { return Progress::More };
            (b.step, b.at) = (next, 0);
        }
    }

    /// Servers leave the list of the side that does not serve. True when all have.
    fn clean(&mut self, id: ServiceId, at: &mut usize, budget: &mut Budget) -> bool {
        let Self { services, reals, arena, used_reals, .. } = self;
        let service = &mut services[id.index()];
        let (side, state) = (service.live_side() ^ 1, service.spare());
        if state.len == 0 || state.fingerprint != 0 {
            return true;
        }
        // What stood in the arena before its last epoch is gone: then all servers are looked at.
        let list = (state.epoch == arena.epoch).then(|| &arena.list[state.list as usize..][..state.len as usize]);
        let all = list.map_or(*used_reals, <[RealId]>::len);
        let n = budget.take(all - *at, LEAVE);
        for position in *at..*at + n {
            let real = list.map_or(position, |l| l[position].index());
            if let Some(r) = reals.get_mut(real).filter(|r| r.service == id) {
                r.leave(side);
            }
        }
        *at += n;
        let done = *at == all;
        if done {
            service.spare_mut().len = 0;
        }
        done
    }

    /// Compares a service's list with the one that serves. Lists change by removing anywhere and
    /// adding at the head, so both are read from the tail.
    fn compare(&self, b: &mut Build, sched: &ServiceSched, budget: &mut Budget) -> bool {
        let service = &self.services[b.service.index()];
        let (side, old) = (service.live_side(), service.live());
        if b.at == 0 {
            b.added = sched.reals.len();
        }
        if old.fingerprint == 0 {
            return true;
        }
        if old.fingerprint == sched.fingerprint || old.epoch != self.arena.epoch {
            // The old list is gone with the arena's last epoch: take the change for an edit.
            (b.added, b.edited) = (0, true);
            return true;
        }
        let list = &self.arena.list[old.list as usize..][..old.len as usize];
        let n = budget.take(list.len() - b.at, COMPARE);
        for id in list[list.len() - b.at - n..list.len() - b.at].iter().rev() {
            if b.added == 0 || sched.reals[b.added - 1].id != *id {
                b.edited = true;
                continue;
            }
            b.added -= 1;
            b.edited |= !self.reals[id.index()].sides[side].is_like(&sched.reals[b.added]);
        }
        b.at += n;
        // An edit that changed nothing that is known here (the forwarding mode) counts.
        b.edited |= b.at == list.len() && b.added == 0;
        b.at == list.len()
    }

    /// The rotation of wrr after the change; that of the others follows when the sides are exchanged.
    fn rotate(&mut self, b: &mut Build, sched: &ServiceSched, budget: &mut Budget) -> bool {
        let service = &mut self.services[b.service.index()];
        let (fresh, before) = (service.live().fingerprint == 0, *service.live());
        let rotation = &mut service.spare_mut().rotation;
        if sched.kind != SchedulerKind::Wrr || before.fingerprint == sched.fingerprint {
            return true;
        }
        if !fresh && before.kind != SchedulerKind::Wrr {
            *rotation = Rotation::wrr_bound(sched);
            return true;
        }
        if b.at == 0 {
            *rotation = if fresh { Rotation::START } else { before.rotation };
            if b.edited {
                rotation.wrr_changed(sched, b.added);
            }
        }
        // The kernel was told of one server after the other.
        let n = budget.take(b.added - b.at, COMPARE);
        for from in (b.added - b.at - n..b.added - b.at).rev() {
            rotation.wrr_changed(sched, from);
        }
        b.at += n;
        b.at == b.added
    }

    /// Takes in the list (positions, weights, thresholds) and the leaves of its tree.
    fn enlist(&mut self, b: &mut Build, sched: &ServiceSched, counts: &CoreCounts, budget: &mut Budget) -> Progress {
        let id = b.service;
        if b.at == 0 && self.place(b, sched).is_none() {
            return Progress::Failed;
        }
        let room = self.reals.len().min(counts.capacity());
        let Self { arena, reals, others, used_reals, seen, services, .. } = self;
        let service = &mut services[id.index()];
        let live = service.live_side();
        let state = service.spare_mut();
        let n = budget.take(state.shape.leaves() - b.at, ENLIST);
        for position in b.at..b.at + n {
            let Some(new) = sched.reals.get(position) else {
                arena.put(state, position, super::cost::INELIGIBLE);
                continue;
            };
            if new.id.index() >= room {
                return Progress::Failed;
            }
            arena.list[state.list as usize + position] = new.id;
            *used_reals = (*used_reals).max(new.id.index() + 1);
            let real = &mut reals[new.id.index()];
            let unknown = real.enlist(id, (live ^ 1, live), position as u32, new);
            real.all = counts.connections(new.id).plus(others[new.id.index()]);
            let member = &mut real.sides[live ^ 1];
            if unknown {
                // It may have connections from before, those of an earlier process.
                member.grown(real.all);
                // The others' connections of it may not have been looked at: begin a new round.
                *seen = seen.wrapping_sub(1);
            }
            state.spare = state.spare.wrapping_add_signed(member.mark_room(real.all));
            arena.put(state, position, member.key(state.kind, real.all));
        }
        b.at += n;
        if b.at < state.shape.leaves() { Progress::More } else { Progress::Ready }
    }

    /// Finds room for the service's list and tree.
    fn place(&mut self, b: &Build, sched: &ServiceSched) -> Option<()> {
        let len = sched.reals.len();
        let state = self.services[b.service.index()].spare_mut();
        if state.epoch != self.arena.epoch || state.shape.leaves() < len {
            self.arena.give_back(state);
            state.shape = Shape::new(len);
            (state.groups, state.list) = self.arena.take(&state.shape)?;
            state.epoch = self.arena.epoch;
        }
        state.wide = !is_narrow(sched.fraction, state.shape.bits);
        (state.kind, state.len, state.spare, state.added) = (sched.kind, len as u32, 0, b.added as u32);
        Some(())
    }

    /// Lets the side that was built serve.
    fn flip(&mut self, id: ServiceId, sched: &ServiceSched) {
        let (before, after) = (*self.services[id.index()].live(), *self.services[id.index()].spare());
        let rotation = match sched.kind {
            _ if before.fingerprint == sched.fingerprint => before.rotation,
            SchedulerKind::Wrr => after.rotation,
            SchedulerKind::Rr if before.kind == SchedulerKind::Rr => Rotation { at: self.moved(id, &before), pass: 0 },
            _ => Rotation::START,
        };
        let afresh = before.fingerprint == 0 || before.kind != sched.kind;
        let service = &mut self.services[id.index()];
        service.flip();
        let state = service.live_mut();
        (state.rotation, state.instance) = (rotation, before.instance.wrapping_add(u32::from(afresh)));
    }

    /// Where the server chosen last is on the other side: itself, or the last one before it that
    /// is still there.
    fn moved(&self, id: ServiceId, before: &ServiceState) -> u32 {
        let service = &self.services[id.index()];
        let (side, added) = (service.live_side() ^ 1, service.spare().added);
        if before.fingerprint == 0 || before.epoch != self.arena.epoch || before.rotation.at == HEAD {
            return HEAD;
        }
        let list = &self.arena.list[before.list as usize..][..before.len as usize];
        let at = (before.rotation.at as usize).min(list.len().wrapping_sub(1));
        let positions = list[..=at].iter().rev().filter_map(|r| self.reals.get(r.index()));
        let kept = |p: &u32| *p != super::real::NOWHERE && *p >= added;
        positions.filter(|r| r.service == id).map(|r| r.sides[side].position).find(kept).unwrap_or(HEAD)
    }
}
