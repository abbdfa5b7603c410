//! The kernel's costs as whole numbers that compare the same way.
//!
//! The kernel compares `cost / weight` of two servers by multiplying crosswise. Here each
//! server gets the key `floor(cost · 2^f / weight)`. Two different quotients differ by at
//! least `1 / (w1 · w2)`, so with `2^f ≥ w1 · w2` for every pair the keys differ too and in
//! the same direction, and equal quotients have equal keys: the order is exactly the
//! kernel's. Weights are divided by their common divisor first, which keeps `f` small.

use super::SchedulerKind;
use super::counts::Connections;

/// Largest weight that costs are divided by; larger ones are brought below (`config.rs`).
pub const MAX_WEIGHT: u32 = 65_535;

/// Bits of a cost. The kernel computes it in a signed 32-bit number; larger ones count as
/// the largest (8 million active connections on one server).
const COST_BITS: u32 = 31;

/// Key of a server that must not be chosen.
pub(super) const INELIGIBLE: u64 = u64::MAX;

/// Bits after the point that tell all quotients over these weights apart. `a` and `b` are
/// the two largest different (reduced) weights; with one weight only, no fraction is needed.
pub(super) fn fraction_bits(a: u32, b: u32) -> u32 {
    (u64::from(a) * u64::from(b)).max(1).next_power_of_two().trailing_zeros()
}

/// Whether keys with `fraction` bits after the point leave room for a position.
pub(super) fn is_narrow(fraction: u32, position_bits: u32) -> bool {
    COST_BITS + fraction + position_bits < 64
}

/// Divides by a server's weight without dividing: `floor(cost · 2^f / weight)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Divisor {
    /// `ceil(2^(f + 31 + l) / weight)` with `l = ceil(log2(weight))`.
    pub magic: u64,
    /// `33 − l`: moves the cost so that the product's upper half is the quotient.
    pub shift: u8,
}

impl Divisor {
    /// Makes every cost zero.
    pub const ZERO: Self = Self { magic: 0, shift: 0 };

    /// For a (reduced) weight of 1 to [`MAX_WEIGHT`] and up to 32 bits after the point.
    ///
    /// The magic number is too large by less than 1, so the quotient by less than
    /// `cost / 2^(31 + l)`, which is less than `1 / weight`: too little to reach the next
    /// whole number, as the fraction before is at most `1 − 1 / weight`.
    pub fn new(weight: u32, fraction: u32) -> Self {
        let weight = weight.clamp(1, MAX_WEIGHT);
        let log = weight.next_power_of_two().trailing_zeros();
        let dividend = 1u128 << (fraction.min(32) + COST_BITS + log);
        Self { magic: dividend.div_ceil(u128::from(weight)) as u64, shift: (33 - log) as u8 }
    }
    /// `floor(cost · 2^f / weight)` for a cost below 2^31.
    #[inline(always)]
    pub fn divide(&self, cost: u32) -> u64 {
        let moved = u64::from(cost) << (self.shift & 63);
        ((u128::from(moved) * u128::from(self.magic)) >> 64) as u64
    }
}

/// The key of a server that may be chosen: the smallest one wins.
#[inline(always)]
pub(super) fn key(kind: SchedulerKind, c: Connections, weight: u32, by: Divisor) -> u64 {
    use SchedulerKind::{Dh, Fo, Lc, Mh, Nq, Ovf, Rr, Sed, Sh, Twos, Wrr};
    match kind {
        Rr | Dh | Sh | Mh | Twos => 0,
        Wrr | Fo => u64::from(MAX_WEIGHT - weight),
        Ovf if c.active > weight => INELIGIBLE,
        Ovf => u64::from(MAX_WEIGHT - weight),
        Lc => u64::from(overhead(c)),
        // An idle server is the best there is, the first one in list order.
        Nq if c.active == 0 => 0,
        Sed | Nq => by.divide(c.active.min(LARGEST_COST - 1) + 1),
        _ => by.divide(overhead(c)),
    }
}

/// The kernel's measure of load: an active connection costs as much as 256 inactive ones.
#[inline(always)]
pub(super) fn overhead(c: Connections) -> u32 {
    let cost = (u64::from(c.active) << 8) + u64::from(c.inactive);
    // A branch, not a minimum: the tree waits for this number.
    if cost > u64::from(LARGEST_COST) { largest_cost() } else { cost as u32 }
}

#[cold]
fn largest_cost() -> u32 {
    LARGEST_COST
}

const LARGEST_COST: u32 = (1 << COST_BITS) - 1;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_compare_as_cross_products(
            a in 0..1u32 << 31, b in 0..1u32 << 31, w1 in 1u32..=MAX_WEIGHT, w2 in 1u32..=MAX_WEIGHT, small in 1u32..40
        ) {
            for (w1, w2) in [(w1, w2), (small, w2 % 40 + 1), (w1, small)] {
                let f = fraction_bits(w1, w2);
                prop_assert!(f <= 32);
                let (k1, k2) = (Divisor::new(w1, f).divide(a), Divisor::new(w2, f).divide(b));
                let (x, y) = (u64::from(a) * u64::from(w2), u64::from(b) * u64::from(w1));
                prop_assert_eq!(k1.cmp(&k2), x.cmp(&y));
                // Neighbouring quotients are the hard ones.
                let near = (x / u64::from(w1)).min(u64::from(LARGEST_COST)) as u32;
                let kn = Divisor::new(w2, f).divide(near);
                prop_assert_eq!(k1.cmp(&kn), x.cmp(&(u64::from(near) * u64::from(w1))));
                prop_assert!(k1 < u64::MAX);
            }
        }
    }

    #[test]
    fn division_is_exact_at_the_edges() {
        for w in [1, 2, 3, 7, 255, 256, 257, 65_521, MAX_WEIGHT] {
            for f in [0, 16, 31, 32] {
                for c in [0, 1, 2, 65_535, 65_536, LARGEST_COST - 1, LARGEST_COST] {
                    let want = (u128::from(c) << f) / u128::from(w);
                    assert_eq!(u128::from(Divisor::new(w, f).divide(c)), want, "{c} << {f} / {w}");
                }
            }
        }
    }
}
