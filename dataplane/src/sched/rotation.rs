//! Round robin and weighted round robin: the pointer into the list, and how it survives
//! changes of the list.

use super::config::ServiceSched;
use super::cost::MAX_WEIGHT;
use super::tree::{Group, Node, Shape};

/// Position of «before the first»: the kernel's list head.
pub(super) const HEAD: u32 = u32::MAX;

/// Where the rotation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rotation {
    /// Position of the server chosen last, or [`HEAD`].
    pub at: u32,
    /// wrr: servers of at least this weight are chosen in this pass. 0 before the first server came.
    pub pass: u32,
}

impl Rotation {
    /// Before any server was added.
    pub const START: Self = Self { at: HEAD, pass: 0 };

    /// What the kernel does to wrr after a change of the list from `from` on (the servers
    /// before that position were added later): back to the head, the pass kept if it still
    /// exists.
    pub fn wrr_changed(&mut self, sched: &ServiceSched, from: usize) {
        let (max, step) = limits(sched, from);
        self.at = HEAD;
        if self.pass > max || self.pass == 0 {
            self.pass = max;
        } else if step > 1 {
            self.pass = self.pass / step * step + 1;
        }
    }

    /// wrr bound anew to a service that has servers already.
    pub fn wrr_bound(sched: &ServiceSched) -> Self {
        Self { at: HEAD, pass: limits(sched, 0).0 }
    }

    /// The next eligible server, the one chosen last coming last.
    #[inline]
    pub fn next_rr<N: Node>(&mut self, groups: &[Group<N>], shape: &Shape) -> Option<usize> {
        let any = N::limit(0, shape.bits);
        let after = shape.next(groups, self.at.wrapping_add(1) as usize, any);
        let found = after.or_else(|| if self.at == HEAD { None } else { shape.next(groups, 0, any) })?;
        self.at = found as u32;
        Some(found)
    }

    /// The next eligible server of sufficient weight; passes go from the largest weight
    /// down to 1 by the common divisor.
    #[inline]
    pub fn next_wrr<N: Node>(&mut self, groups: &[Group<N>], shape: &Shape, sched: &ServiceSched) -> Option<usize> {
        let limit = |weight: u32| N::limit(u64::from(MAX_WEIGHT - weight.min(MAX_WEIGHT)), shape.bits);
        if let Some(found) = shape.next(groups, self.at.wrapping_add(1) as usize, limit(self.pass)) {
            self.at = found as u32;
            return Some(found);
        }
        let (max, step) = limits(sched, 0);
        if max == 0 {
            return None;
        }
        let best = shape.min(groups);
        if best == N::NONE {
            // Where the kernel's search ends that meets overloaded servers only.
            if self.at == HEAD || self.pass > step {
                *self = Self { at: HEAD, pass: max };
            } else {
                self.pass = (max - 1) % step + 1;
            }
            return None;
        }
        // Passes above the largest eligible weight find nothing: skip them.
        let heaviest = MAX_WEIGHT - best.key(shape.bits) as u32;
        self.pass = if self.pass > step { self.pass - step } else { max };
        if self.pass > heaviest {
            self.pass -= (self.pass - heaviest).div_ceil(step) * step;
        }
        let found = shape.next(groups, 0, limit(self.pass))?;
        self.at = found as u32;
        Some(found)
    }
}

/// The first pass and the step between passes for the servers from position `from` on.
/// The last pass is always 1.
fn limits(sched: &ServiceSched, from: usize) -> (u32, u32) {
    let (max, divisor) = sched.reals.get(from).map_or((0, 0), |r| (r.tail_max, r.tail_divisor));
    let step = divisor.max(1);
    (max.saturating_sub(step - 1), step)
}
