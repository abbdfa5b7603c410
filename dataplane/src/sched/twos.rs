//! Power of two choices: two servers drawn by weight, the less loaded one taken
//! (Mitzenmacher et al., «The Power of Two Random Choices»).
//!
//! The kernel draws a number from 0 to the sum of the weights, both included, and walks
//! the list until the weights add up to it. Here the sums are in a table, with a guide
//! that says where to begin, so that a draw takes constant time on average.

use std::sync::Arc;

use super::config::SchedReal;

/// Sums of weights with a guide.
#[derive(Debug, PartialEq)]
pub(super) struct Draw {
    /// The sum of the weights up to and with each position.
    sums: Box<[u64]>,
    /// By the draw's share of the whole: the first position that may be meant.
    guide: Box<[u32]>,
}

impl Draw {
    /// For servers in list order; `None` when no server has a weight.
    pub fn new(reals: &[SchedReal]) -> Option<Arc<Self>> {
        let mut total = 0u64;
        let sums: Box<[u64]> = reals
            .iter()
            .map(|r| {
                total += u64::from(r.given_weight);
                total
            })
            .collect();
        if total == 0 {
            return None;
        }
        let steps = sums.len() as u64;
        let guide = (0..=steps).map(|g| sums.partition_point(|s| s * steps < total * g) as u32).collect();
        Some(Arc::new(Self { sums, guide }))
    }
    /// The position that 64 random bits mean.
    #[inline]
    pub fn position(&self, random: u64) -> usize {
        let total = self.sums.last().copied().unwrap_or(0);
        let drawn = ((u128::from(random) * u128::from(total + 1)) >> 64) as u64;
        let step = drawn * self.sums.len() as u64 / total.max(1);
        let mut at = self.guide.get(step as usize).map_or(0, |p| *p as usize);
        // 0 means the first server that has a weight, as in the kernel.
        while self.sums.get(at).is_some_and(|s| *s < drawn.max(1)) {
            at += 1;
        }
        at
    }
}

/// Random numbers of one worker: xorshift with a multiplication (Vigna, «xorshift*»).
#[derive(Debug, Clone, Copy)]
pub(super) struct Random(u64);

impl Random {
    /// From a seed; 0 is as good as any.
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }
    #[inline(always)]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Bench;
    use super::super::{MAX_WEIGHT, SchedulerKind};
    use super::*;

    #[test]
    fn every_draw_means_what_a_walk_means() {
        for weights in [&[1][..], &[0, 3, 0, 1, 0], &[5, 1, 1, 1, 9, 2], &[MAX_WEIGHT, 1, MAX_WEIGHT], &[0, 0, 1]] {
            let servers: Vec<_> = weights.iter().rev().enumerate().map(|(n, w)| (n as u8 + 11, *w)).collect();
            let bench = Bench::new(SchedulerKind::Twos, &servers);
            let draw = Draw::new(&bench.sched.reals).unwrap();
            let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            for drawn in (0..=total).step_by(if total > 1000 { 997 } else { 1 }) {
                let random = (((u128::from(drawn) << 64) + u128::from(total)) / u128::from(total + 1)) as u64;
                let mut left = drawn as i64;
                let walk = weights.iter().position(|w| {
                    left -= i64::from(*w);
                    *w > 0 && left <= 0
                });
                assert_eq!(Some(draw.position(random)), walk, "{drawn} of {weights:?}");
            }
            assert!(weights[draw.position(u64::MAX)] > 0);
        }
        assert!(Draw::new(&Bench::new(SchedulerKind::Twos, &[(11, 0)]).sched.reals).is_none());
    }
}
