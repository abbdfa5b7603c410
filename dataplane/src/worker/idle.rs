//! The loop around [`Worker::poll`]: what a worker does when nothing comes.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::io::PacketIo;
use crate::units::Tick;
use crate::worker::Worker;

/// What an idle worker does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Idle {
    /// Polls on: the lowest latency, a whole core. For NICs.
    Spin,
    /// After many empty polls it sleeps some tens of microseconds. For virtual devices
    /// and machines that run other things.
    Relax,
}

/// Empty polls before the first sleep.
const PATIENCE: u32 = 256;
/// How long a relaxed worker sleeps. The kernel adds its timer slack of 50 µs.
const NAP: Duration = Duration::from_micros(20);
/// How long it sleeps after it has slept [`DEEP_AFTER`] times in a row.
const DEEP_NAP: Duration = Duration::from_micros(100);
const DEEP_AFTER: u32 = 1000;

/// Milliseconds since the daemon's epoch, from the TSC: no system call per poll.
struct Clock {
    epoch: Instant,
    base_tsc: u64,
    base_ms: u64,
    tsc_per_ms: u64,
    /// The millisecond of the last reading, and the TSC at its beginning.
    tick_ms: u64,
    tick_tsc: u64,
}

impl Clock {
    fn new(epoch: Instant) -> Self {
        let (t0, i0) = (tsc(), Instant::now());
        std::thread::sleep(Duration::from_millis(20));
        let (t1, elapsed) = (tsc(), i0.elapsed());
        let per_ms = (t1 - t0) as u128 * 1_000_000 / elapsed.as_nanos().max(1);
        let base_ms = epoch.elapsed().as_millis() as u64;
        let tsc_per_ms = (per_ms as u64).max(1);
        Self { epoch, base_tsc: t1, base_ms, tsc_per_ms, tick_ms: base_ms, tick_tsc: t1 }
    }
    /// The time at a reading `t` of the TSC.
    #[inline]
    fn at(&mut self, t: u64) -> Tick {
        // Most polls are in the millisecond of the one before: no division for them.
        if t.wrapping_sub(self.tick_tsc) >= self.tsc_per_ms {
            self.advance(t);
        }
        Tick(self.tick_ms as u32)
    }

    #[cold]
    fn advance(&mut self, t: u64) {
        let ms = t.wrapping_sub(self.base_tsc) / self.tsc_per_ms;
        if ms >= 1000 {
            // Once a second the TSC's guess is replaced by the clock, so that no drift adds up.
            self.base_tsc = t;
            self.base_ms = (self.epoch.elapsed().as_millis() as u64).max(self.base_ms);
            (self.tick_ms, self.tick_tsc) = (self.base_ms, t);
        } else {
            (self.tick_ms, self.tick_tsc) = (self.base_ms + ms, self.base_tsc + ms * self.tsc_per_ms);
        }
    }
}

/// The time stamp counter, or nanoseconds where there is none.
#[inline(always)]
#[allow(unsafe_code)]
pub fn tsc() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: RDTSC exists on every x86-64 processor and touches no memory.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

/// Polls until control says stop. `epoch` is the daemon's point zero of [`Tick`].
pub fn run<I: PacketIo>(worker: &mut Worker<I>, idle: Idle, epoch: Instant) {
    let mut clock = Clock::new(epoch);
    let mut empty = 0u32;
    let mut last = tsc();
    let mut begin = last;
    while !worker.core.link.stopping() {
        let packets = worker.poll(clock.at(begin));
        // One reading a poll: it takes as long as a packet.
        let after = tsc();
        let w = &worker.core.link.counters.worker;
        w.total_cycles.add(after.wrapping_sub(last));
        last = after;
        if packets > 0 {
            w.busy_cycles.add(after.wrapping_sub(begin));
            empty = 0;
            begin = after;
            continue;
        }
        empty = empty.saturating_add(1);
        if idle == Idle::Relax && empty > PATIENCE {
            std::thread::sleep(if empty > PATIENCE + DEEP_AFTER { DEEP_NAP } else { NAP });
        } else {
            std::hint::spin_loop();
        }
        begin = tsc();
    }
}
