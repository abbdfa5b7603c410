//! Connections per real server on one worker, readable by everybody.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::units::RealId;

/// One worker's connections per real server. The worker writes, with plain loads and
/// stores; the other workers and control read whenever they like.
///
/// Active and inactive share one word, so that a reader never sees a connection in both
/// classes or in neither.
#[derive(Debug)]
pub struct CoreCounts {
    /// Active in the low half, inactive in the high half.
    connections: Box<[AtomicU64]>,
    /// Persistence templates.
    persistent: Box<[AtomicU32]>,
    /// Counts every change of `connections`, so that readers can tell that nothing happened.
    changes: AtomicU64,
}

const ONE_ACTIVE: u64 = 1;
const ONE_INACTIVE: u64 = 1 << 32;

/// Connections of one real server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Connections {
    /// Connections that carry traffic (kernel: ActiveConn).
    pub active: u32,
    /// Connections that are closing, or of a protocol without states (kernel: InActConn).
    pub inactive: u32,
}

impl Connections {
    #[inline(always)]
    fn from_word(w: u64) -> Self {
        Self { active: w as u32, inactive: (w >> 32) as u32 }
    }
    /// Both classes together: what thresholds are compared with.
    #[inline(always)]
    pub fn total(self) -> u32 {
        self.active.saturating_add(self.inactive)
    }
    /// The sum of two workers' numbers.
    #[inline(always)]
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            active: self.active.saturating_add(other.active),
            inactive: self.inactive.saturating_add(other.inactive),
        }
    }
}

impl CoreCounts {
    /// Zeroes for real servers numbered below `max_reals`.
    pub fn new(max_reals: usize) -> Self {
        Self {
            connections: (0..max_reals).map(|_| AtomicU64::new(0)).collect(),
            persistent: (0..max_reals).map(|_| AtomicU32::new(0)).collect(),
            changes: AtomicU64::new(0),
        }
    }
    /// How many real servers there is room for.
    pub fn capacity(&self) -> usize {
        self.connections.len()
    }
    /// This worker's connections of a real server; none when the number is out of range.
    #[inline(always)]
    pub fn connections(&self, id: RealId) -> Connections {
        Connections::from_word(self.connections.get(id.index()).map_or(0, |c| c.load(Relaxed)))
    }
    /// This worker's active connections of a real server.
    pub fn active(&self, id: RealId) -> u32 {
        self.connections(id).active
    }
    /// This worker's inactive connections of a real server.
    pub fn inactive(&self, id: RealId) -> u32 {
        self.connections(id).inactive
    }
    /// This worker's persistence templates of a real server.
    pub fn persistent(&self, id: RealId) -> u32 {
        self.persistent.get(id.index()).map_or(0, |c| c.load(Relaxed))
    }
    /// Grows with every change of any connection count.
    #[inline(always)]
    pub fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }
    /// Worker: a template was made.
    pub fn persistent_opened(&self, id: RealId) {
        if let Some(c) = self.persistent.get(id.index()) {
            c.store(c.load(Relaxed).saturating_add(1), Relaxed);
        }
    }
    /// Worker: a template ended.
    pub fn persistent_closed(&self, id: RealId) {
        if let Some(c) = self.persistent.get(id.index()) {
            c.store(c.load(Relaxed).saturating_sub(1), Relaxed);
        }
    }
    /// Worker: one connection more. For [`super::SchedCore`] only, which mirrors the numbers.
    #[inline(always)]
    pub(super) fn open(&self, id: RealId, active: bool) {
        self.change(id, |w| w.wrapping_add(if active { ONE_ACTIVE } else { ONE_INACTIVE }));
    }
    /// Worker: one connection less.
    #[inline(always)]
    pub(super) fn close(&self, id: RealId, active: bool) {
        self.change(id, |w| w.wrapping_sub(if active { ONE_ACTIVE } else { ONE_INACTIVE }));
    }
    /// Worker: one connection became `active`, or inactive.
    #[inline(always)]
    pub(super) fn turn(&self, id: RealId, active: bool) {
        let step = ONE_INACTIVE - ONE_ACTIVE;
        self.change(id, |w| if active { w.wrapping_sub(step) } else { w.wrapping_add(step) });
    }
    #[inline(always)]
    fn change(&self, id: RealId, f: impl Fn(u64) -> u64) {
        if let Some(c) = self.connections.get(id.index()) {
            c.store(f(c.load(Relaxed)), Relaxed);
            self.changes.store(self.changes.load(Relaxed).wrapping_add(1), Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_do_not_spill_into_each_other() {
        let c = CoreCounts::new(2);
        let id = RealId(1);
        c.open(id, true);
        c.open(id, true);
        c.open(id, false);
        c.turn(id, false);
        assert_eq!(c.connections(id), Connections { active: 1, inactive: 2 });
        c.turn(id, true);
        c.close(id, false);
        assert_eq!(c.connections(id), Connections { active: 2, inactive: 0 });
        assert_eq!(c.connections(RealId(0)).total(), 0);
        assert_eq!(c.connections(RealId::NONE).total(), 0);
        assert_eq!(c.changes(), 6);
    }
}
