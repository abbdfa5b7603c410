//! What a worker knows of a service, and the room for it.
//!
//! There are two sides: one serves, on the other the state for a changed list is built
//! (`rebuild.rs`), a slice at a time. Counts go to both.

use arrayvec::ArrayVec;

use super::config::SchedulerKind;
use super::rotation::Rotation;
use super::tree::{Group, Node, Shape};
use crate::units::RealId;

/// What a worker knows of a service. The worker writes and reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServiceSides {
    /// Which of the two serves.
    live: u8,
    /// Counts what was begun to be built, so that a builder sees that another one came.
    pub begun: u32,
    sides: [ServiceState; 2],
}

impl ServiceSides {
    /// Of a number that was never used.
    pub const UNUSED: Self = Self { live: 0, begun: 0, sides: [ServiceState::UNUSED; 2] };

    /// Number of the side that serves.
    #[inline(always)]
    pub fn live_side(&self) -> usize {
        usize::from(self.live & 1)
    }
    /// The side that serves.
    #[inline(always)]
    pub fn live(&self) -> &ServiceState {
        &self.sides[self.live_side()]
    }
    /// The same, to be changed.
    #[inline(always)]
    pub fn live_mut(&mut self) -> &mut ServiceState {
        &mut self.sides[usize::from(self.live & 1)]
    }
    /// The other side.
    #[inline(always)]
    pub fn spare(&self) -> &ServiceState {
        &self.sides[self.live_side() ^ 1]
    }
    /// The same, to be changed.
    #[inline(always)]
    pub fn spare_mut(&mut self) -> &mut ServiceState {
        &mut self.sides[usize::from(self.live & 1) ^ 1]
    }
    /// The other side serves from now on.
    pub fn flip(&mut self) {
        self.live ^= 1;
        self.spare_mut().fingerprint = 0;
    }
}

/// One side of a service.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServiceState {
    /// Of the list that the rest was built for; 0 when unused, or not built to the end.
    pub fingerprint: u64,
    /// The scheduler.
    pub kind: SchedulerKind,
    /// The tree has wide nodes.
    pub wide: bool,
    /// The arena's epoch that the region below was taken in.
    pub epoch: u32,
    /// Its tree's first group in the arena.
    pub groups: u32,
    /// Start of its list in the arena.
    pub list: u32,
    /// How many real servers.
    pub len: u32,
    /// Grows whenever the scheduler starts afresh.
    pub instance: u32,
    /// lblc, lblcr: servers with fewer active connections than half their weight.
    pub spare: u32,
    /// How many servers at the head of the list are not in the one before.
    pub added: u32,
    /// rr, wrr: where the rotation stands.
    pub rotation: Rotation,
    /// The tree.
    pub shape: Shape,
}

impl ServiceState {
    /// Of a number that was never used.
    pub const UNUSED: Self = Self {
        fingerprint: 0,
        kind: SchedulerKind::Wlc,
        wide: false,
        epoch: 0,
        groups: 0,
        list: 0,
        len: 0,
        instance: 0,
        spare: 0,
        added: 0,
        rotation: Rotation::START,
        shape: Shape::EMPTY,
    };
}

/// A region of the arena.
#[derive(Clone, Copy, Debug)]
struct Region {
    groups: u32,
    list: u32,
    shape: Shape,
}

/// Regions given back that are remembered, and how many of them are looked at.
const GIVEN_BACK: usize = 64;

/// Room for all services' lists and trees, given out front to back. A region that its list has
/// outgrown is given to another list of about its size. When all is used up,
/// everything is taken back at once and each service builds its state again at its next
/// choice. It holds twice what both sides of all services need, so that this is rare.
#[derive(Debug)]
pub(super) struct Arena {
    /// Grows whenever everything was taken back.
    pub epoch: u32,
    used_groups: usize,
    used_list: usize,
    free: ArrayVec<Region, GIVEN_BACK>,
    /// Real servers by service and position.
    pub list: Box<[RealId]>,
    /// Trees' nodes of 64 bits.
    pub narrow: Box<[Group<u64>]>,
    /// Nodes of 128 bits, at the same places.
    pub wide: Box<[Group<u128>]>,
}

impl Arena {
    /// Room for so many services and real servers.
    pub fn new(services: usize, reals: usize) -> Self {
        let leaves = 5 * reals + 16 * services + 64;
        // A tree takes half as many groups as it has leaves, or fewer.
        let groups = leaves / 2;
        Self {
            epoch: 1,
            used_groups: 0,
            used_list: 0,
            free: ArrayVec::new(),
            list: vec![RealId::NONE; leaves].into(),
            narrow: vec![Group::NONE; groups].into(),
            wide: vec![Group::NONE; groups].into(),
        }
    }
    /// Sets the key of one position of a service.
    #[inline(always)]
    pub fn set(&mut self, state: &ServiceState, position: usize, key: u64) {
        let (shape, first) = (&state.shape, state.groups as usize);
        match state.wide {
            false => shape.set(&mut self.narrow[first..], position, Node::leaf(key, position, shape)),
            true => shape.set(&mut self.wide[first..], position, Node::leaf(key, position, shape)),
        }
    }
    /// Sets the key of one position of a service, and nothing above it.
    #[inline(always)]
    pub fn put(&mut self, state: &ServiceState, position: usize, key: u64) {
        let (shape, first) = (&state.shape, state.groups as usize);
        match state.wide {
            false => shape.put(&mut self.narrow[first..], position, Node::leaf(key, position, shape)),
            true => shape.put(&mut self.wide[first..], position, Node::leaf(key, position, shape)),
        }
    }
    /// Fills part of a service's tree from its leaves: see [`Shape::raise`].
    pub fn raise(&mut self, state: &ServiceState, from: usize, to: usize) {
        let (shape, first) = (&state.shape, state.groups as usize);
        match state.wide {
            false => shape.raise(&mut self.narrow[first..], from, to),
            true => shape.raise(&mut self.wide[first..], from, to),
        }
    }
    /// Takes back the room of a state that has outgrown it.
    pub fn give_back(&mut self, state: &ServiceState) {
        if state.epoch == self.epoch && state.shape.leaves() > 0 {
            let _ = self.free.try_push(Region { groups: state.groups, list: state.list, shape: state.shape });
        }
    }
    /// Room for a tree of this shape and its list (their starts); `None` if there is not
    /// even room for it alone.
    pub fn take(&mut self, shape: &Shape) -> Option<(u32, u32)> {
        let (groups, leaves) = (shape.groups(), shape.leaves());
        let fits = |r: &Region| (leaves..=2 * leaves).contains(&r.shape.leaves()) && r.shape.groups() >= groups;
        if let Some(at) = self.free.iter().position(fits) {
            let region = self.free.swap_remove(at);
            return Some((region.groups, region.list));
        }
        if self.used_groups + groups > self.narrow.len() || self.used_list + leaves > self.list.len() {
            if groups > self.narrow.len() || leaves > self.list.len() {
                return None;
            }
            (self.used_groups, self.used_list) = (0, 0);
            self.free.clear();
            self.epoch = self.epoch.wrapping_add(1);
        }
        let at = (self.used_groups as u32, self.used_list as u32);
        self.used_groups += groups;
        self.used_list += leaves;
        Some(at)
    }
}
