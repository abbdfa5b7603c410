//! What a worker knows of a service, and the room for it.

use super::config::SchedulerKind;
use super::rotation::Rotation;
use super::tree::{Group, Node, Shape};
use crate::units::RealId;

/// What a worker knows of a service. The worker writes and reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServiceState {
    /// Of the list that the rest was built for; 0 when unused.
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
        rotation: Rotation::START,
        shape: Shape::EMPTY,
    };
}

/// Room for all services' lists and trees, given out front to back. When it is used up,
/// everything is taken back at once and each service builds its state again at its next
/// choice. It holds twice what all real servers need, so that this is rare.
#[derive(Debug)]
pub(super) struct Arena {
    /// Grows whenever everything was taken back.
    pub epoch: u32,
    used_groups: usize,
    used_list: usize,
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
        let leaves = 3 * reals + 16 * services + 64;
        let groups = leaves;
        Self {
            epoch: 1,
            used_groups: 0,
            used_list: 0,
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
    /// Room for a tree of this shape and its list (their starts); `None` if there is not
    /// even room for it alone.
    pub fn take(&mut self, shape: &Shape) -> Option<(u32, u32)> {
        let (groups, leaves) = (shape.groups(), shape.leaves());
        if self.used_groups + groups > self.narrow.len() || self.used_list + leaves > self.list.len() {
            if groups > self.narrow.len() || leaves > self.list.len() {
                return None;
            }
            (self.used_groups, self.used_list) = (0, 0);
            self.epoch = self.epoch.wrapping_add(1);
        }
        let at = (self.used_groups as u32, self.used_list as u32);
        self.used_groups += groups;
        self.used_list += leaves;
        Some(at)
    }
}
