//! One worker's scheduler state: choosing, counting, and rebuilding what changed.

use std::sync::Arc;

use super::SchedKey;
use super::config::{SchedulerKind, ServiceSched};
use super::cost::{self, Divisor, INELIGIBLE, is_narrow};
use super::counts::{Connections, CoreCounts};
use super::rotation::{HEAD, Rotation};
use super::tree::{Node, Shape};
use crate::link::WorkerLink;
use crate::snapshot::Snapshot;
use crate::units::{RealId, ServiceId, Tick, WorkerId};

/// Real servers of every other worker that one [`SchedCore::refresh`] looks at: as many
/// counts as a cache line holds.
pub const REFRESH_BUDGET: usize = 8;

/// Most services that a [`SchedCore`] can be made for.
pub const HIGHEST_SERVICES: usize = 1 << 20;

/// No position: the real server is in no list.
const NOWHERE: u32 = u32::MAX;

/// What a worker knows of a real server; one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct RealState {
    /// Connections on all workers, the others' as of the last refresh.
    all: Connections,
    /// Of them, the other workers'.
    others: Connections,
    by_weight: Divisor,
    weight: u32,
    upper: u32,
    lower: u32,
    service: ServiceId,
    /// Position in the service's list, or [`NOWHERE`].
    position: u32,
    /// The kernel's `IP_VS_DEST_F_OVERLOAD`: the upper threshold was reached, and the
    /// lower one not since.
    overloaded: bool,
}

impl RealState {
    const NONE: Self = Self {
        all: Connections { active: 0, inactive: 0 },
        others: Connections { active: 0, inactive: 0 },
        by_weight: Divisor::ZERO,
        weight: 0,
        upper: 0,
        lower: 0,
        service: ServiceId::NONE,
        position: NOWHERE,
        overloaded: false,
    };

    /// After a connection came.
    #[inline(always)]
    fn grown(&mut self) {
        if self.upper != 0 && self.all.total() >= self.upper {
            self.overloaded = true;
        }
    }
    /// After a connection went.
    #[inline(always)]
    fn shrunk(&mut self) {
        if self.overloaded {
            let total = u64::from(self.all.total());
            let (upper, lower) = (u64::from(self.upper), u64::from(self.lower));
            self.overloaded = if lower != 0 { total >= lower } else { upper != 0 && total * 4 >= upper * 3 };
        }
    }
    #[inline(always)]
    fn usable(&self) -> bool {
        self.weight > 0 && !self.overloaded
    }
    #[inline(always)]
    fn key(&self, kind: SchedulerKind) -> u64 {
        if self.usable() { cost::key(kind, self.all, self.weight, &self.by_weight) } else { INELIGIBLE }
    }
}

/// What a worker knows of a service.
#[derive(Clone, Copy, Debug)]
struct ServiceState {
    /// Of the list that the rest was built for; 0 when unused.
    fingerprint: u64,
    kind: SchedulerKind,
    /// The tree has wide nodes.
    wide: bool,
    /// Whether the region in the arena is this service's still.
    epoch: u32,
    /// How many real servers.
    len: u32,
    /// Start of its nodes and of its list in the arena.
    nodes: u32,
    list: u32,
    shape: Shape,
    rotation: Rotation,
}

impl ServiceState {
    const UNUSED: Self = Self {
        fingerprint: 0,
        kind: SchedulerKind::Wlc,
        wide: false,
        epoch: 0,
        len: 0,
        nodes: 0,
        list: 0,
        shape: Shape::EMPTY,
        rotation: Rotation::START,
    };
}

/// Room for all services' lists and trees, given out front to back. When it is used up,
/// everything is taken back at once and each service builds its state again at its next
/// choice. It holds twice what all real servers need, so that this is rare.
#[derive(Debug)]
struct Arena {
    /// Grows whenever everything was taken back.
    epoch: u32,
    used_nodes: usize,
    used_list: usize,
    list: Box<[RealId]>,
    narrow: Box<[u64]>,
    wide: Box<[u128]>,
}

impl Arena {
    fn new(services: usize, reals: usize) -> Self {
        let leaves = 3 * reals + 16 * services + 64;
        let nodes = leaves * 2;
        Self {
            epoch: 1,
            used_nodes: 0,
            used_list: 0,
            list: vec![RealId::NONE; leaves].into(),
            narrow: vec![0; nodes].into(),
            wide: vec![0; nodes].into(),
        }
    }
    /// Room for a tree of this shape and its list; `None` if there is not even room for it alone.
    fn take(&mut self, shape: &Shape) -> Option<(u32, u32)> {
        let (nodes, leaves) = (shape.nodes(), shape.leaves());
        if self.used_nodes + nodes > self.narrow.len() || self.used_list + leaves > self.list.len() {
            (self.used_nodes, self.used_list) = (0, 0);
            self.epoch = self.epoch.wrapping_add(1);
            if nodes > self.narrow.len() || leaves > self.list.len() {
                return None;
            }
        }
        let at = (self.used_nodes as u32, self.used_list as u32);
        self.used_nodes += nodes;
        self.used_list += leaves;
        Some(at)
    }
}

/// One worker's scheduler state.
#[derive(Debug)]
pub struct SchedCore {
    services: Box<[ServiceState]>,
    reals: Box<[RealState]>,
    arena: Arena,
    /// Services numbered below this were used.
    used_services: usize,
    /// Real servers numbered below this were used.
    used_reals: usize,
    /// Where the next refresh goes on.
    cursor: usize,
    /// How many real servers the refresh has still to look at.
    pending: usize,
    /// The other workers' changes when the refresh last began a round.
    seen: u64,
}

impl SchedCore {
    /// State for services and real servers numbered below these. Takes all the memory that
    /// it will ever need: about 250 bytes a real server and 600 a service.
    pub fn new(max_services: usize, max_reals: usize) -> Self {
        let max_services = max_services.min(HIGHEST_SERVICES);
        Self {
            services: vec![ServiceState::UNUSED; max_services].into(),
            reals: vec![RealState::NONE; max_reals].into(),
            arena: Arena::new(max_services, max_reals),
            used_services: 0,
            used_reals: 0,
            cursor: 0,
            pending: 0,
            seen: 0,
        }
    }

    /// Picks the real server for a new flow, or none when no server is usable. `counts` are
    /// this worker's own.
    #[inline]
    pub fn choose(
        &mut self,
        service: ServiceId,
        sched: &ServiceSched,
        counts: &CoreCounts,
        key: &SchedKey,
        now: Tick,
    ) -> Option<RealId> {
        let state = self.services.get(service.index())?;
        if state.fingerprint != sched.fingerprint || state.epoch != self.arena.epoch {
            self.rebuild(service, sched, counts)?;
        }
        let _ = (key, now);
        let state = &mut self.services[service.index()];
        let position = if state.wide {
            pick(state, &self.arena.wide[state.nodes as usize..], sched)
        } else {
            pick(state, &self.arena.narrow[state.nodes as usize..], sched)
        };
        position.map(|p| self.arena.list[state.list as usize + p])
    }

    /// Counts a connection that was opened.
    #[inline]
    pub fn opened(&mut self, counts: &CoreCounts, id: RealId, active: bool) {
        counts.open(id, active);
        let Some(real) = self.reals.get_mut(id.index()) else { return };
        let before = real.overloaded;
        let class = if active { &mut real.all.active } else { &mut real.all.inactive };
        *class = class.wrapping_add(1);
        real.grown();
        let flipped = before != real.overloaded;
        self.update(id, flipped);
    }

    /// Counts a connection that became active, or inactive.
    #[inline]
    pub fn turned(&mut self, counts: &CoreCounts, id: RealId, active: bool) {
        counts.turn(id, active);
        let Some(real) = self.reals.get_mut(id.index()) else { return };
        let all = &mut real.all;
        let (more, less) =
            if active { (&mut all.active, &mut all.inactive) } else { (&mut all.inactive, &mut all.active) };
        *more = more.wrapping_add(1);
        *less = less.wrapping_sub(1);
        self.update(id, false);
    }

    /// Counts a connection that ended; `active` is the class it was in.
    #[inline]
    pub fn closed(&mut self, counts: &CoreCounts, id: RealId, active: bool) {
        counts.close(id, active);
        let Some(real) = self.reals.get_mut(id.index()) else { return };
        let before = real.overloaded;
        let class = if active { &mut real.all.active } else { &mut real.all.inactive };
        *class = class.wrapping_sub(1);
        real.shrunk();
        let flipped = before != real.overloaded;
        self.update(id, flipped);
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
            self.set_others(id, now);
        }
    }

    fn set_others(&mut self, id: RealId, now: Connections) {
        let Some(real) = self.reals.get_mut(id.index()) else { return };
        if real.others == now {
            return;
        }
        let overloaded = real.overloaded;
        let before = real.all.total();
        real.all.active = real.all.active.wrapping_sub(real.others.active).wrapping_add(now.active);
        real.all.inactive = real.all.inactive.wrapping_sub(real.others.inactive).wrapping_add(now.inactive);
        real.others = now;
        match real.all.total().cmp(&before) {
            std::cmp::Ordering::Greater => real.grown(),
            std::cmp::Ordering::Less => real.shrunk(),
            std::cmp::Ordering::Equal => {}
        }
        let flipped = overloaded != real.overloaded;
        self.update(id, flipped);
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
        self.reals.get(id.index()).is_some_and(|r| r.overloaded)
    }

    /// Brings a real server's leaf up to date.
    #[inline(always)]
    fn update(&mut self, id: RealId, flipped: bool) {
        let real = &self.reals[id.index()];
        let Some(state) = self.services.get(real.service.index()) else { return };
        let current = real.position < state.len && state.epoch == self.arena.epoch;
        if !current || !(flipped || counts_matter(state.kind)) {
            return;
        }
        let (key, position) = (real.key(state.kind), real.position as usize);
        if state.wide {
            let nodes = &mut self.arena.wide[state.nodes as usize..];
            state.shape.set(nodes, position, leaf(key, position, &state.shape));
        } else {
            let nodes = &mut self.arena.narrow[state.nodes as usize..];
            state.shape.set(nodes, position, leaf(key, position, &state.shape));
        }
    }

    /// Builds a service's state for a list that it was not built for.
    #[cold]
    #[inline(never)]
    fn rebuild(&mut self, id: ServiceId, sched: &ServiceSched, counts: &CoreCounts) -> Option<()> {
        let mut state = self.services[id.index()];
        let fits = sched.reals.iter().all(|r| r.id.index() < self.reals.len().min(counts.capacity()));
        if !fits || sched.fingerprint == 0 {
            return None;
        }
        let change = self.compare(&state, sched);
        self.unlist(id, &state);
        self.place(&mut state, sched)?;
        self.take_in(id, &mut state, sched, counts);
        state.rotation = rotated(&state, sched, &change);
        state.fingerprint = sched.fingerprint;
        state.kind = sched.kind;
        self.used_services = self.used_services.max(id.index() + 1);
        self.services[id.index()] = state;
        self.plant(&state);
        Some(())
    }
}

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
        for (p, id) in old.iter().enumerate().rev() {
            let kept = change.added > 0 && sched.reals[change.added - 1].id == *id;
            if kept {
                change.added -= 1;
                let (new, known) = (&sched.reals[change.added], &self.reals[id.index()]);
                change.edited |= (new.weight, new.upper, new.lower) != (known.weight, known.upper, known.lower);
            } else {
                change.edited = true;
            }
            // Positions run down: the first one kept at or before the old pointer is it.
            if kept && change.at == HEAD && state.rotation.at != HEAD && p <= state.rotation.at as usize {
                change.at = change.added as u32;
            }
        }
        change.edited |= change.added == 0;
        change
    }

    /// Finds room for the service's list and tree.
    fn place(&mut self, state: &mut ServiceState, sched: &ServiceSched) -> Option<()> {
        let len = sched.reals.len();
        if state.epoch != self.arena.epoch || state.shape.leaves() < len || state.fingerprint == 0 {
            // Some room to grow, so that adding servers one by one moves the list seldom.
            state.shape = Shape::new(len + len / 4);
            (state.nodes, state.list) = self.arena.take(&state.shape)?;
            state.epoch = self.arena.epoch;
        }
        state.wide = !is_narrow(sched.fraction, state.shape.bits);
        Some(())
    }

    /// Takes the servers of a service's old list out of it.
    fn unlist(&mut self, id: ServiceId, state: &ServiceState) {
        let mine = |r: &mut RealState| {
            if r.service == id {
                r.position = NOWHERE
            }
        };
        if state.len == 0 {
        } else if state.epoch == self.arena.epoch {
            for old in &self.arena.list[state.list as usize..][..state.len as usize] {
                self.reals.get_mut(old.index()).into_iter().for_each(mine);
            }
        } else {
            self.reals[..self.used_reals].iter_mut().for_each(mine);
        }
    }

    /// Takes in the list: positions, weights, thresholds.
    fn take_in(&mut self, id: ServiceId, state: &mut ServiceState, sched: &ServiceSched, counts: &CoreCounts) {
        state.len = sched.reals.len() as u32;
        let list = &mut self.arena.list[state.list as usize..];
        for (position, new) in sched.reals.iter().enumerate() {
            list[position] = new.id;
            self.used_reals = self.used_reals.max(new.id.index() + 1);
            let real = &mut self.reals[new.id.index()];
            if real.service != id {
                real.overloaded = false;
                real.service = id;
                // The others' connections of it may not have been looked at: begin a new round.
                self.seen = self.seen.wrapping_sub(1);
            }
            // As the kernel: a threshold taken away or raised ends an overload, a lower one
            // does not begin one before the next connection.
            if new.upper == 0 || new.upper > real.upper {
                real.overloaded = false;
            }
            real.all = counts.connections(new.id).plus(real.others);
            real.by_weight = new.by_weight;
            (real.weight, real.upper, real.lower) = (new.weight, new.upper, new.lower);
            real.position = position as u32;
        }
    }

    /// Grows the service's tree from the servers' state.
    fn plant(&mut self, state: &ServiceState) {
        let Self { arena, reals, .. } = self;
        let list = &arena.list[state.list as usize..][..state.len as usize];
        let keys = list.iter().map(|id| reals[id.index()].key(state.kind)).enumerate();
        if state.wide {
            let leaves = keys.map(|(p, key)| leaf(key, p, &state.shape));
            state.shape.build(&mut arena.wide[state.nodes as usize..], leaves);
        } else {
            let leaves = keys.map(|(p, key)| leaf(key, p, &state.shape));
            state.shape.build(&mut arena.narrow[state.nodes as usize..], leaves);
        }
    }
}

/// Whether a change of a count can change the choice.
#[inline(always)]
fn counts_matter(kind: SchedulerKind) -> bool {
    !matches!(kind, SchedulerKind::Rr | SchedulerKind::Wrr | SchedulerKind::Fo)
}

#[inline(always)]
fn leaf<N: Node>(key: u64, position: usize, shape: &Shape) -> N {
    if key == INELIGIBLE { N::NONE } else { N::new(key, position, shape.bits) }
}

/// The position chosen by a scheduler that needs the tree alone.
#[inline(always)]
fn pick<N: Node>(state: &mut ServiceState, nodes: &[N], sched: &ServiceSched) -> Option<usize> {
    match state.kind {
        SchedulerKind::Rr => state.rotation.next_rr(nodes, &state.shape),
        SchedulerKind::Wrr => state.rotation.next_wrr(nodes, &state.shape, sched),
        _ => {
            let least = state.shape.min(nodes);
            (least != N::NONE).then(|| least.position(state.shape.bits))
        }
    }
}

/// The rotation after a change of the list.
fn rotated(before: &ServiceState, sched: &ServiceSched, change: &Change) -> Rotation {
    let fresh = before.fingerprint == 0;
    match sched.kind {
        SchedulerKind::Wrr if !fresh && before.kind != SchedulerKind::Wrr => Rotation::wrr_bound(sched),
        SchedulerKind::Wrr => {
            let mut rotation = if fresh { Rotation::START } else { before.rotation };
            if change.edited && !fresh {
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
