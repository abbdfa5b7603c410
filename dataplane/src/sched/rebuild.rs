//! Building a service's state for a list of servers that it was not built for.

use arrayvec::ArrayVec;

use super::config::{SchedulerKind, ServiceSched};
use super::core::SchedCore;
use super::cost::is_narrow;
use super::counts::CoreCounts;
use super::real::RealState;
use super::rotation::{HEAD, Rotation};
use super::service::ServiceState;
use super::tree::{MAX_LEAVES, Node, Shape};
use crate::units::ServiceId;

/// Most changed servers that are amended one by one; with more the state is built anew.
const AMENDED: usize = 16;

/// How a list came from the one before.
struct Change {
    /// This many servers at the head were added, in order from the last of them to the first.
    added: usize,
    /// Some server was removed.
    removed: bool,
    /// Servers with another weight or threshold, by position in the new list.
    changed: ArrayVec<u32, AMENDED>,
    /// There are more of them.
    many: bool,
    /// Where the server chosen last is now: itself, or the last one before it that is still there.
    at: u32,
}

impl Change {
    /// Whether there was an edit besides the additions. One that changed nothing that is
    /// known here (the forwarding mode) counts.
    fn edited(&self) -> bool {
        self.removed || self.many || !self.changed.is_empty() || self.added == 0
    }
}

impl SchedCore {
    /// Builds the state of a service whose list has changed, or whose room was taken back.
    /// Fails for a service or server beyond what this state was made for.
    ///
    /// Changed weights and thresholds are amended where they are; otherwise every server of
    /// the service is visited: some nanoseconds each.
    #[cold]
    #[inline(never)]
    pub(super) fn rebuild(&mut self, id: ServiceId, sched: &ServiceSched, counts: &CoreCounts) -> Option<()> {
        let before = self.services[id.index()];
        let room = self.reals.len().min(counts.capacity());
        if sched.fingerprint == 0 || sched.reals.len() > MAX_LEAVES {
            return None;
        }
        if sched.reals.iter().any(|r| r.id.index() >= room) {
            return None;
        }
        let change = self.compare(&before, sched);
        let mut state = before;
        state.rotation = rotated(&before, sched, &change);
        if before.fingerprint == 0 || before.kind != sched.kind {
            state.instance = state.instance.wrapping_add(1);
        }
        let same_list = change.added == 0 && !change.removed && before.len as usize == sched.reals.len();
        let same_tree = before.kind == sched.kind && before.epoch == self.arena.epoch;
        (state.fingerprint, state.kind) = (sched.fingerprint, sched.kind);
        if same_list && same_tree && !change.many && state.wide != is_narrow(sched.fraction, state.shape.bits) {
            self.amend(id, &mut state, sched, &change.changed);
        } else {
            self.unlist(id, &before);
            self.place(&mut state, sched)?;
            self.enlist(id, &mut state, sched, counts);
        }
        self.used_services = self.used_services.max(id.index() + 1);
        self.services[id.index()] = state;
        Some(())
    }

    /// Compares a service's list with the one it had. Lists change by removing anywhere and
    /// adding at the head, so both are read from the tail.
    fn compare(&self, state: &ServiceState, sched: &ServiceSched) -> Change {
        let fresh = Change { added: 0, removed: false, changed: ArrayVec::new(), many: false, at: HEAD };
        if state.fingerprint == sched.fingerprint {
            return Change { at: state.rotation.at, ..fresh };
        }
        if state.fingerprint == 0 {
            return Change { added: sched.reals.len(), ..fresh };
        }
        if state.epoch != self.arena.epoch {
            // The old list is gone with the arena's last epoch: take the change for an edit.
            return Change { many: true, ..fresh };
        }
        let mut change = Change { added: sched.reals.len(), ..fresh };
        let old = &self.arena.list[state.list as usize..][..state.len as usize];
        for (position, id) in old.iter().enumerate().rev() {
            let kept = change.added > 0 && sched.reals[change.added - 1].id == *id;
            if !kept {
                change.removed = true;
                continue;
            }
            change.added -= 1;
            let (new, known) = (&sched.reals[change.added], &self.reals[id.index()]);
            if !known.is_like(&self.rest[id.index()], new) {
                change.many |= change.changed.try_push(change.added as u32).is_err();
            }
            // Positions run down: the first one kept at or before the old pointer is it.
            let pointer = state.rotation.at;
            if change.at == HEAD && pointer != HEAD && position <= pointer as usize {
                change.at = change.added as u32;
            }
        }
        change
    }

    /// Takes in new weights and thresholds of a few servers.
    fn amend(&mut self, id: ServiceId, state: &mut ServiceState, sched: &ServiceSched, changed: &[u32]) {
        for position in changed {
            let new = &sched.reals[*position as usize];
            let real = &mut self.reals[new.id.index()];
            self.rest[new.id.index()].lower = new.lower;
            real.enlist(id, *position, new);
            state.spare = state.spare.wrapping_add_signed(real.mark_room());
            let key = real.key(state.kind);
            self.arena.set(state, *position as usize, key);
        }
    }

    /// Takes the servers of a service's old list out of it.
    fn unlist(&mut self, id: ServiceId, state: &ServiceState) {
        let leave = |r: &mut RealState| {
            if r.service == id {
                r.leave();
            }
        };
        if state.len == 0 {
            // It had no list.
        } else if state.epoch == self.arena.epoch {
            for old in &self.arena.list[state.list as usize..][..state.len as usize] {
                self.reals.get_mut(old.index()).into_iter().for_each(leave);
            }
        } else {
            self.reals[..self.used_reals].iter_mut().for_each(leave);
        }
    }

    /// Finds room for the service's list and tree.
    fn place(&mut self, state: &mut ServiceState, sched: &ServiceSched) -> Option<()> {
        let len = sched.reals.len();
        if state.epoch != self.arena.epoch || state.shape.leaves() < len {
            state.shape = Shape::new(len);
            (state.groups, state.list) = self.arena.take(&state.shape)?;
            state.epoch = self.arena.epoch;
        }
        state.wide = !is_narrow(sched.fraction, state.shape.bits);
        Some(())
    }

    /// Takes in the list (positions, weights, thresholds), and grows the tree over it.
    fn enlist(&mut self, id: ServiceId, state: &mut ServiceState, sched: &ServiceSched, counts: &CoreCounts) {
        let Self { arena, reals, rest, used_reals, seen, .. } = self;
        let (kind, mut spare) = (state.kind, 0u32);
        let list = &mut arena.list[state.list as usize..][..sched.reals.len()];
        let keys = list.iter_mut().zip(sched.reals.iter()).enumerate().map(|(position, (slot, new))| {
            *slot = new.id;
            *used_reals = (*used_reals).max(new.id.index() + 1);
            let (real, rest) = (&mut reals[new.id.index()], &mut rest[new.id.index()]);
            let unknown = real.service != id;
            rest.lower = new.lower;
            real.enlist(id, position as u32, new);
            real.all = counts.connections(new.id).plus(rest.others);
            if unknown {
                // It may have connections from before, those of an earlier process.
                real.grown();
                // The others' connections of it may not have been looked at: begin a new round.
                *seen = seen.wrapping_sub(1);
            }
            spare = spare.wrapping_add_signed(real.mark_room());
            (position, real.key(kind))
        });
        let (shape, groups) = (state.shape, state.groups as usize);
        match state.wide {
            false => shape.build(&mut arena.narrow[groups..], keys.map(|(p, key)| Node::leaf(key, p, &shape))),
            true => shape.build(&mut arena.wide[groups..], keys.map(|(p, key)| Node::leaf(key, p, &shape))),
        }
        (state.len, state.spare) = (sched.reals.len() as u32, spare);
    }
}

/// The rotation after a change of the list.
fn rotated(before: &ServiceState, sched: &ServiceSched, change: &Change) -> Rotation {
    let fresh = before.fingerprint == 0;
    match sched.kind {
        _ if before.fingerprint == sched.fingerprint => before.rotation,
        SchedulerKind::Wrr if !fresh && before.kind != SchedulerKind::Wrr => Rotation::wrr_bound(sched),
        SchedulerKind::Wrr => {
            let mut rotation = if fresh { Rotation::START } else { before.rotation };
            if change.edited() {
                rotation.wrr_changed(sched, change.added);
            }
            // The kernel was told of one server after the other.
            for from in (0..change.added).rev() {
                rotation.wrr_changed(sched, from);
            }
            rotation
        }
        SchedulerKind::Rr if before.kind == SchedulerKind::Rr => Rotation { at: change.at, pass: 0 },
        _ => Rotation::START,
    }
}
