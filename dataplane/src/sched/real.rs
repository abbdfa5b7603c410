//! What a worker knows of a real server.

use super::config::{SchedReal, SchedulerKind};
use super::cost::{self, Divisor, INELIGIBLE};
use super::counts::Connections;
use crate::units::ServiceId;

/// No position: the real server is in no list.
pub(super) const NOWHERE: u32 = u32::MAX;

/// What choosing and counting touch, one cache line. The worker writes and reads.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct RealState {
    /// Connections on all workers, the others' as of the last refresh.
    pub all: Connections,
    /// The service it is, or was last, a server of.
    pub service: ServiceId,
    /// As a member of its service's list, for each side of the service.
    pub sides: [Member; 2],
}

/// A real server as a member of one list of its service.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Member {
    by_weight: u64,
    /// Upper threshold, 0 for none.
    pub upper: u32,
    /// Lower threshold.
    lower: u32,
    /// Position in the service's list, or [`NOWHERE`].
    pub position: u32,
    weight: u16,
    shift: u8,
    marks: u8,
}

const _: () = assert!(size_of::<RealState>() == 64);

/// What has become of a real server's connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Moved {
    /// There are more.
    Grown,
    /// There are fewer.
    Shrunk,
    /// As many, of another class.
    Turned,
}

/// The kernel's `IP_VS_DEST_F_OVERLOAD`: the upper threshold was reached, and the lower one
/// not since.
const OVERLOADED: u8 = 1;
/// lblc, lblcr: counted among the service's servers with room.
const SPARE: u8 = 2;

impl RealState {
    /// Of a number that was never used.
    pub const NONE: Self =
        Self { all: Connections { active: 0, inactive: 0 }, service: ServiceId::NONE, sides: [Member::NONE; 2] };

    /// Counts a connection that came.
    #[inline(always)]
    pub fn opened(&mut self, active: bool) {
        let class = if active { &mut self.all.active } else { &mut self.all.inactive };
        *class = class.wrapping_add(1);
    }
    /// Counts a connection that went.
    #[inline(always)]
    pub fn closed(&mut self, active: bool) {
        let class = if active { &mut self.all.active } else { &mut self.all.inactive };
        *class = class.wrapping_sub(1);
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
    /// Takes in the other workers' connections, now and as of the last refresh.
    pub fn set_others(&mut self, others: &mut Connections, now: Connections) -> Moved {
        let before = self.all.total();
        self.all.active = self.all.active.wrapping_sub(others.active).wrapping_add(now.active);
        self.all.inactive = self.all.inactive.wrapping_sub(others.inactive).wrapping_add(now.inactive);
        *others = now;
        match self.all.total().cmp(&before) {
            std::cmp::Ordering::Greater => Moved::Grown,
            std::cmp::Ordering::Less => Moved::Shrunk,
            std::cmp::Ordering::Equal => Moved::Turned,
        }
    }
    /// Takes the server into the list on side `new` of a service, with its weight and thresholds
    /// there; `live` is the side that serves. True if the server was not known as one of this service.
    pub fn enlist(
        &mut self,
        service: ServiceId,
        (new, live): (usize, usize),
        position: u32,
        as_what: &SchedReal,
    ) -> bool {
        let (unknown, before) = (self.service != service, self.sides[live & 1]);
        // As the kernel: a threshold taken away or raised ends an overload; one set below
        // what is there does not begin one before the next connection.
        let afresh = unknown || as_what.upper == 0 || as_what.upper > before.upper;
        if unknown {
            self.sides = [Member::NONE; 2];
        }
        self.service = service;
        self.sides[new & 1] = Member {
            by_weight: as_what.by_weight.magic,
            shift: as_what.by_weight.shift,
            upper: as_what.upper,
            lower: as_what.lower,
            position,
            // At most `MAX_WEIGHT`, which fits.
            weight: as_what.weight as u16,
            marks: if afresh { 0 } else { before.marks & OVERLOADED },
        };
        unknown
    }
    /// Takes it out of the list on a side that does not serve. One that is in no list any more
    /// keeps on the other side what is known of it.
    pub fn leave(&mut self, side: usize) {
        let (left, live) = (side & 1, side & 1 ^ 1);
        self.sides[left].marks &= !SPARE;
        if std::mem::replace(&mut self.sides[left].position, NOWHERE) != NOWHERE && self.sides[live].position == NOWHERE
        {
            self.sides[live] = self.sides[left];
        }
    }
}

impl Member {
    const NONE: Self = Self {
        by_weight: Divisor::ZERO.magic,
        upper: 0,
        lower: 0,
        position: NOWHERE,
        weight: 0,
        shift: Divisor::ZERO.shift,
        marks: 0,
    };

    /// After connections came or went, `all` being left: whether the server became overloaded
    /// or ceased to be.
    #[inline(always)]
    pub fn flips(&mut self, all: Connections, moved: Moved) -> bool {
        match moved {
            Moved::Grown => self.grown(all),
            Moved::Shrunk => self.overloaded() && self.shrunk(all),
            Moved::Turned => false,
        }
    }
    /// After connections came; says whether the server became overloaded.
    #[inline(always)]
    pub fn grown(&mut self, all: Connections) -> bool {
        let reached = self.upper != 0 && !self.overloaded() && all.total() >= self.upper;
        self.marks |= if reached { OVERLOADED } else { 0 };
        reached
    }
    #[cold]
    fn shrunk(&mut self, all: Connections) -> bool {
        let total = u64::from(all.total());
        let (upper, lower) = (u64::from(self.upper), u64::from(self.lower));
        let still = if lower != 0 { total >= lower } else { upper != 0 && total * 4 >= upper * 3 };
        self.marks &= if still { u8::MAX } else { !OVERLOADED };
        !still
    }
    /// Whether a server has the same weight and thresholds as before.
    pub fn is_like(&self, new: &SchedReal) -> bool {
        let by_weight = Divisor { magic: self.by_weight, shift: self.shift };
        (self.weight(), self.upper, self.lower, by_weight) == (new.weight, new.upper, new.lower, new.by_weight)
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
    pub fn key(&self, kind: SchedulerKind, all: Connections) -> u64 {
        let by_weight = Divisor { magic: self.by_weight, shift: self.shift };
        if self.usable() { cost::key(kind, all, self.weight(), by_weight) } else { INELIGIBLE }
    }
    /// Notes whether it has fewer active connections than half its weight (lblc, lblcr): how
    /// the number of servers with room changes.
    #[inline(always)]
    pub fn mark_room(&mut self, all: Connections) -> i32 {
        let (had, has) = (self.marks & SPARE != 0, u64::from(all.active) * 2 < u64::from(self.weight));
        self.marks = if has { self.marks | SPARE } else { self.marks & !SPARE };
        i32::from(has) - i32::from(had)
    }
}
