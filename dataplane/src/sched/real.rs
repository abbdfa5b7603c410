//! What a worker knows of a real server.

use super::config::SchedulerKind;
use super::cost::{self, Divisor, INELIGIBLE};
use super::counts::Connections;
use crate::units::ServiceId;

/// No position: the real server is in no list.
pub(super) const NOWHERE: u32 = u32::MAX;

/// One cache line. The worker writes and reads.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct RealState {
    /// Connections on all workers, the others' as of the last refresh.
    pub all: Connections,
    /// Of them, the other workers'.
    pub others: Connections,
    /// Divides a cost by the weight.
    pub by_weight: Divisor,
    /// Weight.
    pub weight: u32,
    /// Upper threshold, 0 for none.
    pub upper: u32,
    /// Lower threshold.
    pub lower: u32,
    /// The service it is, or was last, a server of.
    pub service: ServiceId,
    /// Position in the service's list, or [`NOWHERE`].
    pub position: u32,
    /// The kernel's `IP_VS_DEST_F_OVERLOAD`: the upper threshold was reached, and the
    /// lower one not since.
    pub overloaded: bool,
    /// lblc, lblcr: counted among the service's servers with fewer active connections
    /// than half the weight.
    pub spare: bool,
}

const _: () = assert!(size_of::<RealState>() == 64);

impl RealState {
    /// Of a number that was never used.
    pub const NONE: Self = Self {
        all: Connections { active: 0, inactive: 0 },
        others: Connections { active: 0, inactive: 0 },
        by_weight: Divisor::ZERO,
        weight: 0,
        upper: 0,
        lower: 0,
        service: ServiceId::NONE,
        position: NOWHERE,
        overloaded: false,
        spare: false,
    };

    /// Counts a connection that came; says whether the server became overloaded.
    #[inline(always)]
    pub fn opened(&mut self, active: bool) -> bool {
        let class = if active { &mut self.all.active } else { &mut self.all.inactive };
        *class = class.wrapping_add(1);
        self.grown()
    }
    /// Counts a connection that went; says whether the server ceased to be overloaded.
    #[inline(always)]
    pub fn closed(&mut self, active: bool) -> bool {
        let class = if active { &mut self.all.active } else { &mut self.all.inactive };
        *class = class.wrapping_sub(1);
        self.shrunk()
    }
    /// Counts a connection that changed its class.
    #[inline(always)]
    pub fn turned(&mut self, active: bool) {
        let (to, from) = match active {
            true => (&mut self.all.active, &mut self.all.inactive),
            false => (&mut self.all.inactive, &mut self.all.active),
        };
        *to = to.wrapping_add(1);
        *from = from.wrapping_sub(1);
    }
    /// Takes in the other workers' connections; says whether being overloaded changed.
    pub fn set_others(&mut self, now: Connections) -> bool {
        let before = self.all.total();
        self.all.active = self.all.active.wrapping_sub(self.others.active).wrapping_add(now.active);
        self.all.inactive = self.all.inactive.wrapping_sub(self.others.inactive).wrapping_add(now.inactive);
        self.others = now;
        if self.all.total() > before { self.grown() } else { self.all.total() < before && self.shrunk() }
    }
    #[inline(always)]
    fn grown(&mut self) -> bool {
        let reached = self.upper != 0 && self.all.total() >= self.upper && !self.overloaded;
        self.overloaded |= reached;
        reached
    }
    #[inline(always)]
    fn shrunk(&mut self) -> bool {
        if !self.overloaded {
            return false;
        }
        let total = u64::from(self.all.total());
        let (upper, lower) = (u64::from(self.upper), u64::from(self.lower));
        self.overloaded = if lower != 0 { total >= lower } else { upper != 0 && total * 4 >= upper * 3 };
        !self.overloaded
    }
    /// Whether it may be chosen.
    #[inline(always)]
    pub fn usable(&self) -> bool {
        self.weight > 0 && !self.overloaded
    }
    /// Its key in the service's tree.
    #[inline(always)]
    pub fn key(&self, kind: SchedulerKind) -> u64 {
        if self.usable() { cost::key(kind, self.all, self.weight, &self.by_weight) } else { INELIGIBLE }
    }
    /// Whether it has fewer active connections than half its weight (lblc, lblcr).
    #[inline(always)]
    pub fn has_room(&self) -> bool {
        u64::from(self.all.active) * 2 < u64::from(self.weight)
    }
}
