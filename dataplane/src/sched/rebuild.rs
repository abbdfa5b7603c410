//! Building a service's state for a list of servers that it was not built for.

use super::config::{SchedulerKind, ServiceSched};
use super::core::SchedCore;
use super::cost::is_narrow;
use super::counts::CoreCounts;
use super::real::RealState;
use super::rotation::{HEAD, Rotation};
use super::service::ServiceState;
use super::tree::{Node, Shape};
use crate::units::ServiceId;

/// How a list came from the one before.
struct Change {
    /// This many servers at the head were added, in order from the last of them to the first.
    added: usize,
    /// Some server was removed, or changed.
    edited: bool,
    /// Where the server chosen last is now: itself, or the last one before it that is still there.
    at: u32,
}

impl SchedCore {
    /// Builds the state of a service whose list has changed, or whose room was taken back.
    /// Fails for a service or server beyond what this state was made for.
    #[cold]
    #[inline(never)]
    pub(super) fn rebuild(&mut self, id: ServiceId, sched: &ServiceSched, counts: &CoreCounts) -> Option<()> {
        let before = self.services[id.index()];
        let room = self.reals.len().min(counts.capacity());
        if sched.fingerprint == 0 || sched.reals.iter().any(|r| r.id.index() >= room) {
            return None;
        }
        let change = self.compare(&before, sched);
        self.unlist(id, &before);
        let mut state = before;
        self.place(&mut state, sched)?;
        state.rotation = rotated(&before, sched, &change);
        if before.fingerprint == 0 || before.kind != sched.kind {
            state.instance = state.instance.wrapping_add(1);
        }
        (state.fingerprint, state.kind) = (sched.fingerprint, sched.kind);
        self.enlist(id, &mut state, sched, counts);
        self.used_services = self.used_services.max(id.index() + 1);
        self.services[id.index()] = state;
        self.plant(&state);
        Some(())
    }

    /// Compares a service's list with the one it had. Lists change by removing anywhere and
    /// adding at the head, so both are read from the tail.
    fn compare(&self, state: &ServiceState, sched: &ServiceSched) -> Change {
        if state.fingerprint == sched.fingerprint {
            return Change { added: 0, edited: false, at: state.rotation.at };
        }
        let mut change = Change { added: sched.reals.len(), edited: false, at: HEAD };
        if state.fingerprint == 0 {
            return change;
        }
        if state.epoch != self.arena.epoch {
            // The old list is gone with the arena's last epoch: take the change for an edit.
            return Change { added: 0, edited: true, at: HEAD };
        }
        let old = &self.arena.list[state.list as usize..][..state.len as usize];
        for (position, id) in old.iter().enumerate().rev() {
            let kept = change.added > 0 && sched.reals[change.added - 1].id == *id;
            if !kept {
                change.edited = true;
                continue;
            }
            change.added -= 1;
            let (new, known) = (&sched.reals[change.added], &self.reals[id.index()]);
            change.edited |=
                (new.weight, new.upper, new.lower) != (known.weight(), known.upper, self.rest[id.index()].lower);
            // Positions run down: the first one kept at or before the old pointer is it.
            let pointer = state.rotation.at;
            if change.at == HEAD && pointer != HEAD && position <= pointer as usize {
                change.at = change.added as u32;
            }
        }
        change.edited |= change.added == 0;
        change
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

    /// Takes in the list: positions, weights, thresholds.
    fn enlist(&mut self, id: ServiceId, state: &mut ServiceState, sched: &ServiceSched, counts: &CoreCounts) {
        state.len = sched.reals.len() as u32;
        state.spare = 0;
        let list = &mut self.arena.list[state.list as usize..];
        for (position, new) in sched.reals.iter().enumerate() {
            list[position] = new.id;
            self.used_reals = self.used_reals.max(new.id.index() + 1);
            let real = &mut self.reals[new.id.index()];
            if real.service != id {
                // The others' connections of it may not have been looked at: begin a new round.
                self.seen = self.seen.wrapping_sub(1);
            }
            let rest = &mut self.rest[new.id.index()];
            rest.lower = new.lower;
            real.enlist(id, position as u32, new);
            real.all = counts.connections(new.id).plus(rest.others);
            state.spare = state.spare.wrapping_add_signed(real.mark_room());
        }
    }

    /// Grows the service's tree from the servers' state.
    fn plant(&mut self, state: &ServiceState) {
        let Self { arena, reals, .. } = self;
        let (list, groups) = (&arena.list[state.list as usize..][..state.len as usize], state.groups as usize);
        let keys = list.iter().map(|id| reals[id.index()].key(state.kind)).enumerate();
        let shape = &state.shape;
        match state.wide {
            false => shape.build(&mut arena.narrow[groups..], keys.map(|(p, key)| Node::leaf(key, p, shape))),
            true => shape.build(&mut arena.wide[groups..], keys.map(|(p, key)| Node::leaf(key, p, shape))),
        }
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
            if change.edited {
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
