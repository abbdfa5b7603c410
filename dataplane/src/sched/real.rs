//! What a worker knows of a real server.

use super::config::{SchedReal, SchedulerKind};
use super::cost::{self, Divisor, INELIGIBLE};
use super::counts::Connections;
use crate::units::ServiceId;

/// No position: the real server is in no list.
pub(super) const NOWHERE: u32 = u32::MAX;

/// What choosing and counting touch, half a cache line. The worker writes and reads.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(super) struct RealState {
    /// Connections on all workers, the others' as of the last refresh.
    pub all: Connections,
    by_weight: u64,
    /// Upper threshold, 0 for none.
    pub upper: u32,
    /// The service it is, or was last, a server of.
    pub service: ServiceId,
    /// Position in the service's list, or [`NOWHERE`].
    pub position: u32,
    weight: u16,
    shift: u8,
    marks: u8,
}

/// The rest of what a worker knows of a real server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RealRest {
    /// Connections on the other workers, as of the last refresh.
    pub others: Connections,
    /// Lower threshold.
    pub lower: u32,
}

const _: () = assert!(size_of::<RealState>() == 32);

/// The kernel's `IP_VS_DEST_F_OVERLOAD`: the upper threshold was reached, and the lower one
/// not since.
const OVERLOADED: u8 = 1;
/// lblc, lblcr: counted among the service's servers with room.
const SPARE: u8 = 2;

impl RealState {
    /// Of a number that was never used.
    pub const NONE: Self = Self {
        all: Connections { active: 0, inactive: 0 },
        by_weight: Divisor::ZERO.magic,
        upper: 0,
        service: ServiceId::NONE,
        position: NOWHERE,
        weight: 0,
        shift: Divisor::ZERO.shift,
        marks: 0,
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
    pub fn closed(&mut self, active: bool, rest: &[RealRest], index: usize) -> bool {
        let class = if active { &mut self.all.active } else { &mut self.all.inactive };
        *class = class.wrapping_sub(1);
        self.overloaded() && self.shrunk(rest.get(index).map_or(0, |r| r.lower))
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
    pub fn set_others(&mut self, rest: &mut RealRest, now: Connections) -> bool {
        let before = self.all.total();
        self.all.active = self.all.active.wrapping_sub(rest.others.active).wrapping_add(now.active);
        self.all.inactive = self.all.inactive.wrapping_sub(rest.others.inactive).wrapping_add(now.inactive);
        rest.others = now;
        match self.all.total().cmp(&before) {
            std::cmp::Ordering::Greater => self.grown(),
            std::cmp::Ordering::Less => self.overloaded() && self.shrunk(rest.lower),
            std::cmp::Ordering::Equal => false,
        }
    }
    /// After connections came; says whether the server became overloaded.
    #[inline(always)]
    pub fn grown(&mut self) -> bool {
        let reached = self.upper != 0 && !self.overloaded() && self.all.total() >= self.upper;
        self.marks |= if reached { OVERLOADED } else { 0 };
        reached
    }
    #[cold]
    fn shrunk(&mut self, lower: u32) -> bool {
        let total = u64::from(self.all.total());
        let (upper, lower) = (u64::from(self.upper), u64::from(lower));
        let still = if lower != 0 { total >= lower } else { upper != 0 && total * 4 >= upper * 3 };
        self.marks &= if still { u8::MAX } else { !OVERLOADED };
        !still
    }
    /// Takes a server into a service's list, with its weight and thresholds.
    pub fn enlist(&mut self, service: ServiceId, position: u32, new: &SchedReal) {
        // As the kernel: a threshold taken away or raised ends an overload; one set below
        // what is there does not begin one before the next connection.
        if self.service != service || new.upper == 0 || new.upper > self.upper {
            self.marks = 0;
        }
        (self.service, self.position, self.upper) = (service, position, new.upper);
        (self.by_weight, self.shift) = (new.by_weight.magic, new.by_weight.shift);
        // At most `MAX_WEIGHT`, which fits.
        self.weight = new.weight as u16;
    }
    /// Whether a server has the same weight and thresholds as before.
    pub fn is_like(&self, rest: &RealRest, new: &SchedReal) -> bool {
        let by_weight = Divisor { magic: self.by_weight, shift: self.shift };
        (self.weight(), self.upper, rest.lower, by_weight) == (new.weight, new.upper, new.lower, new.by_weight)
    }
    /// Weight.
    #[inline(always)]
    pub fn weight(&self) -> u32 {
        u32::from(self.weight)
    }
    /// Whether the upper threshold was reached, and the lower one not since.
    #[inline(always)]
    pub fn overloaded(&self) -> bool {
        self.marks & OVERLOADED != 0
    }
    /// Whether it may be chosen.
    #[inline(always)]
    pub fn usable(&self) -> bool {
        self.weight > 0 && !self.overloaded()
    }
    /// Its key in the service's tree.
    #[inline(always)]
    pub fn key(&self, kind: SchedulerKind) -> u64 {
        let by_weight = Divisor { magic: self.by_weight, shift: self.shift };
        if self.usable() { cost::key(kind, self.all, self.weight(), by_weight) } else { INELIGIBLE }
    }
    /// Whether it has fewer active connections than half its weight (lblc, lblcr).
    #[inline(always)]
    pub fn has_room(&self) -> bool {
        u64::from(self.all.active) * 2 < u64::from(self.weight)
    }
    /// Notes whether it has room: how the number of servers with room changes.
    #[inline(always)]
    pub fn mark_room(&mut self) -> i32 {
        let (had, has) = (self.marks & SPARE != 0, self.has_room());
        self.marks = if has { self.marks | SPARE } else { self.marks & !SPARE };
        i32::from(has) - i32::from(had)
    }
    /// Takes it out of its list.
    pub fn leave(&mut self) {
        self.position = NOWHERE;
        self.marks &= !SPARE;
    }
}
