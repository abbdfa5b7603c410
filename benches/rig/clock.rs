//! Time: of this thread's processor, of the TSC; medians; a histogram.

use std::time::{Duration, Instant};

use dataplane::worker::tsc;
use nix::time::{ClockId, clock_gettime};

/// Nanoseconds that this thread has had a processor. Where others run as well, what they
/// take is left out; what they do to the caches is not.
pub fn cpu_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}

/// Cycles of the TSC in a nanosecond.
pub fn tsc_per_ns() -> f64 {
    let (t0, i0) = (tsc(), Instant::now());
    std::thread::sleep(Duration::from_millis(50));
    (tsc() - t0) as f64 / i0.elapsed().as_nanos() as f64
}

/// The median; 0 of nothing.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// A quantile, between neighbours.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut v = values.to_vec();
    v.sort_by(f64::total_cmp);
    let at = (v.len().saturating_sub(1)) as f64 * q;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    match (v.get(low), v.get(high)) {
        (Some(a), Some(b)) => a + (b - a) * (at - low as f64),
        _ => 0.0,
    }
}

/// Range of the middle half over the median, as the rig has it.
pub fn spread(values: &[f64]) -> f64 {
    let m = median(values);
    if m == 0.0 { 0.0 } else { (quantile(values, 0.75) - quantile(values, 0.25)) / m }
}

/// Counts by size, 32 steps to each power of two: a step is 3 %.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    /// How many were added.
    pub total: u64,
    /// The largest.
    pub max: u64,
}

const STEPS: u32 = 5;

impl Histogram {
    /// An empty one.
    pub fn new() -> Self {
        Self { counts: vec![0; 64 << STEPS], total: 0, max: 0 }
    }
    fn place(value: u64) -> usize {
        let power = value.max(1 << STEPS).ilog2();
        (((power - STEPS + 1) << STEPS) as u64 + ((value >> (power - STEPS)) & ((1 << STEPS) - 1))) as usize
    }
    fn value(place: usize) -> f64 {
        let (power, rest) = (place >> STEPS, place & ((1 << STEPS) - 1));
        if power == 0 { rest as f64 } else { ((1 << STEPS) + rest) as f64 * (1u64 << (power - 1)) as f64 }
    }
    /// Adds one.
    #[inline]
    pub fn add(&mut self, value: u64) {
        self.counts[if value < 1 << STEPS { value as usize } else { Self::place(value) }] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }
    /// Adds all of another one.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
        self.total += other.total;
        self.max = self.max.max(other.max);
    }
    /// The value below which the share `q` lies.
    pub fn quantile(&self, q: f64) -> f64 {
        let wanted = (self.total as f64 * q).ceil() as u64;
        let mut seen = 0;
        for (place, n) in self.counts.iter().enumerate() {
            seen += n;
            if seen >= wanted.max(1) {
                return Self::value(place);
            }
        }
        self.max as f64
    }
}
