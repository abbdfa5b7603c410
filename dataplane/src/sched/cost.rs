//! The kernel's costs as whole numbers that compare the same way.
//!
//! The kernel compares `cost / weight` of two servers by multiplying crosswise. Here each
//! server gets the key `floor(cost · 2^f / weight)`. Two different quotients differ by at
//! least `1 / (w1 · w2)`, so with `2^f ≥ w1 · w2` for every pair the keys differ too and in
//! the same direction, and equal quotients have equal keys: the order is exactly the
//! kernel's. Weights are divided by their common divisor first, which keeps `f` small.

use super::SchedulerKind;
use super::counts::Connections;

/// Largest weight, as ipvsadm has it. Larger ones count as this.
pub const MAX_WEIGHT: u32 = 65_535;

/// Highest bit count of a cost.
const COST_BITS: u32 = 32;

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Divisor {
    /// `2^f / weight`.
    quotient: u64,
    /// `ceil(2^64 / weight)`; 0 where it is not needed.
    magic: u64,
    /// `2^f mod weight`.
    remainder: u32,
}

impl Divisor {
    /// Makes every cost zero.
    pub const ZERO: Self = Self { quotient: 0, magic: 0, remainder: 0 };

    /// For a (reduced) weight of 1 to [`MAX_WEIGHT`] and up to 32 bits after the point.
    pub fn new(weight: u32, fraction: u32) -> Self {
        let (one, weight) = (1u64 << fraction.min(32), u64::from(weight.clamp(1, MAX_WEIGHT)));
        let remainder = (one % weight) as u32;
        let magic = if remainder == 0 { 0 } else { u64::MAX / weight + 1 };
        Self { quotient: one / weight, magic, remainder }
    }
    /// `floor(cost · 2^f / weight)`. The second product is below 2^48, for which the magic
    /// number is exact with weights below 2^16.
    #[inline(always)]
    pub fn divide(&self, cost: u32) -> u64 {
        let rest = u64::from(cost) * u64::from(self.remainder);
        u64::from(cost) * self.quotient + ((u128::from(rest) * u128::from(self.magic)) >> 64) as u64
    }
}

/// The key of a server that may be chosen: the smallest one wins.
#[inline(always)]
pub(super) fn key(kind: SchedulerKind, c: Connections, weight: u32, by: &Divisor) -> u64 {
    use SchedulerKind::{Dh, Fo, Lc, Mh, Nq, Ovf, Rr, Sed, Sh, Twos, Wrr};
    match kind {
        Rr | Dh | Sh | Mh | Twos => 0,
        Wrr | Fo => u64::from(MAX_WEIGHT - weight),
        Ovf if c.active > weight => INELIGIBLE,
        Ovf => u64::from(MAX_WEIGHT - weight),
        Lc => u64::from(overhead(c)),
        // An idle server is the best there is, the first one in list order.
        Nq if c.active == 0 => 0,
        Sed | Nq => by.divide(c.active.saturating_add(1)),
        _ => by.divide(overhead(c)),
    }
}

/// The kernel's measure of load: an active connection costs as much as 256 inactive ones.
#[inline(always)]
pub(super) fn overhead(c: Connections) -> u32 {
    (u64::from(c.active) << 8).saturating_add(u64::from(c.inactive)).min(u64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_compare_as_cross_products(
            a in 0u32.., b in 0u32.., w1 in 1u32..=MAX_WEIGHT, w2 in 1u32..=MAX_WEIGHT, small in 1u32..40
        ) {
            for (w1, w2) in [(w1, w2), (small, w2 % 40 + 1), (w1, small)] {
                let f = fraction_bits(w1, w2);
                prop_assert!(f <= 32);
                let (k1, k2) = (Divisor::new(w1, f).divide(a), Divisor::new(w2, f).divide(b));
                let (x, y) = (u64::from(a) * u64::from(w2), u64::from(b) * u64::from(w1));
                prop_assert_eq!(k1.cmp(&k2), x.cmp(&y));
                // Neighbouring quotients are the hard ones.
                let near = (x / u64::from(w1)) as u32;
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
                for c in [0, 1, 2, 65_535, 65_536, u32::MAX - 1, u32::MAX] {
                    let want = (u128::from(c) << f) / u128::from(w);
                    assert_eq!(u128::from(Divisor::new(w, f).divide(c)), want, "{c} << {f} / {w}");
                }
            }
        }
    }
}
