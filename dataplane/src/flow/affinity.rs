//! What the workers agree on about persistent clients.
//!
//! A client's connections are spread over the workers, and each worker keeps a template of
//! its own, with its own timer, as the kernel keeps one for all. So that all those templates
//! name the same real server, a worker that makes one asks here first: the first to enter
//! a client's server has decided for all. One word an entry, changed by compare-and-swap: no
//! lock, no pointer, nothing to free. With one worker there is no table.
//!
//! A word is a tag of the client, the real server's number and when the entry runs out:
//! 20, 22 and 22 bits. Two clients with one tag in one line (about one in 130,000) share a
//! server: each still always meets the same one. Where two workers meet a new client in the very moment
//! in which an older entry of its line runs out, both may enter; all later connections follow
//! one of the two. A full line gives up the entry that would run out first.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::flow::hash::FlowHash;
use crate::units::{RealId, Tick};

/// Entries that a client's may be among: a cache line of them.
const WAYS: usize = 8;

#[repr(align(64))]
#[derive(Debug, Default)]
struct Line([AtomicU64; WAYS]);

/// The table, shared by all workers.
#[derive(Debug)]
pub struct Affinity {
    lines: Box<[Line]>,
}

/// Bits of the number of a real server, and of a time.
const REAL_BITS: u32 = 22;
const TIME_BITS: u32 = 22;
/// Ticks (milliseconds) in a unit of an entry's time: what is left of 32 bits, so that both wrap together.
const UNIT_SHIFT: u32 = 32 - TIME_BITS;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
const REAL_MASK: u64 = (1 << REAL_BITS) - 1;

/// One entry; 0 is none, as no tag is 0.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry(u64);

impl Entry {
    fn new(tag: u64, real: RealId, ends: Tick) -> Self {
        // Rounded up: not before the template itself.
        let ends = u64::from(ends.0.wrapping_add((1 << UNIT_SHIFT) - 1) >> UNIT_SHIFT);
        Self(tag << (REAL_BITS + TIME_BITS) | (u64::from(real.0) & REAL_MASK) << TIME_BITS | ends)
    }
    fn tag(self) -> u64 {
        self.0 >> (REAL_BITS + TIME_BITS)
    }
    fn real(self) -> RealId {
        RealId((self.0 >> TIME_BITS & REAL_MASK) as u32)
    }
    /// How long it has left, in ticks; 0 when it has run out, or is none.
    fn left(self, now: Tick) -> u32 {
        let ends = ((self.0 & TIME_MASK) as u32) << UNIT_SHIFT;
        let left = ends.wrapping_sub(now.0);
        if self.0 == 0 || left as i32 <= 0 { 0 } else { left }
    }
}

impl Affinity {
    /// A table for about `clients` clients; none at all for 0.
    pub fn new(clients: usize) -> Self {
        let lines = if clients == 0 { 0 } else { clients.div_ceil(WAYS).next_power_of_two() };
        Self { lines: (0..lines).map(|_| Line::default()).collect() }
    }

    /// Bytes taken.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.lines)
    }

    /// Whether there is nobody to agree with.
    #[inline]
    pub fn is_none(&self) -> bool {
        self.lines.is_empty()
    }

    /// The line and tag of a template whose key has this hash.
    fn place(&self, key: FlowHash) -> Option<(&[AtomicU64; WAYS], u64)> {
        let line = self.lines.get(key.0 as usize & self.lines.len().wrapping_sub(1))?;
        Some((&line.0, (key.0 >> (REAL_BITS + TIME_BITS)).max(1)))
    }

    /// The real server that the workers have agreed on.
    pub fn agreed(&self, key: FlowHash, now: Tick) -> Option<RealId> {
        let (line, tag) = self.place(key)?;
        let entries = line.iter().map(|w| Entry(w.load(Relaxed)));
        entries.filter(|e| e.tag() == tag && e.left(now) > 0).map(Entry::real).next()
    }

    /// Forgets the client's entry if it names `real`.
    pub fn forget(&self, key: FlowHash, real: RealId) {
        let Some((line, tag)) = self.place(key) else { return };
        for word in line {
            let e = Entry(word.load(Relaxed));
            if e.tag() == tag && e.real() == real {
                // Changed meanwhile means that another worker is of another mind: let it.
                let _ = word.compare_exchange(e.0, 0, Relaxed, Relaxed);
            }
        }
    }

    /// Says that this worker has a template for `real` until `ends`. Returns the server to
    /// take: this one, or one that `usable` likes and another worker was faster to enter.
    pub fn agree(&self, key: FlowHash, real: RealId, ends: Tick, now: Tick, usable: impl Fn(RealId) -> bool) -> RealId {
        let Some((line, tag)) = self.place(key) else { return real };
        let mine = Entry::new(tag, real, ends);
        // Every failure means that another worker wrote; eight of them in a row do not happen.
        for _ in 0..WAYS {
            let entries = line.each_ref().map(|w| Entry(w.load(Relaxed)));
            let same = entries.iter().position(|e| e.tag() == tag && e.left(now) > 0);
            let at = same.unwrap_or_else(|| (0..WAYS).min_by_key(|i| entries[*i].left(now)).unwrap_or(0));
            let old = entries[at];
            let other = old.real();
            let next = match same {
                Some(_) if other != real && usable(other) => return other,
                // Never shorter, as another worker may have flows to the end of it.
                Some(_) if other == real && old.left(now) >= mine.left(now) => return real,
                _ => mine,
            };
            if line[at].compare_exchange(old.0, next.0, Relaxed, Relaxed).is_ok() {
                return real;
            }
        }
        real
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u32 = 1000;

    fn key(n: u64) -> FlowHash {
        FlowHash(n.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ n << 40)
    }

    #[test]
    fn the_first_decides() {
        let (a, now) = (Affinity::new(64), Tick(5));
        assert_eq!(a.agreed(key(1), now), None);
        let ends = now.after_ms(300 * SECOND);
        assert_eq!(a.agree(key(1), RealId(7), ends, now, |_| true), RealId(7));
        assert_eq!(a.agree(key(1), RealId(8), ends, now, |_| true), RealId(7));
        assert_eq!(a.agreed(key(1), now), Some(RealId(7)));
        assert_eq!(a.agreed(key(2), now), None);
    }

    #[test]
    fn a_server_that_is_of_no_use_is_replaced() {
        let (a, now) = (Affinity::new(64), Tick(0));
        let ends = now.after_ms(300 * SECOND);
        a.agree(key(1), RealId(7), ends, now, |_| true);
        assert_eq!(a.agree(key(1), RealId(8), ends, now, |r| r != RealId(7)), RealId(8));
        assert_eq!(a.agreed(key(1), now), Some(RealId(8)));
    }

    #[test]
    fn entries_run_out_not_before_their_time_and_are_prolonged() {
        // Across the end of the clock as well.
        for start in [0, 12_345, u32::MAX - 100 * SECOND] {
            let (a, now) = (Affinity::new(64), Tick(start));
            a.agree(key(1), RealId(7), now.after_ms(300 * SECOND), now, |_| true);
            let at = |s: u32| now.after_ms(s * SECOND);
            assert_eq!(a.agreed(key(1), at(300)), Some(RealId(7)), "{start}");
            a.agree(key(1), RealId(7), at(400), at(300), |_| true);
            // A shorter time takes nothing away.
            a.agree(key(1), RealId(7), at(350), at(300), |_| true);
            assert_eq!(a.agreed(key(1), at(400)), Some(RealId(7)), "{start}");
            assert_eq!(a.agreed(key(1), at(403)), None, "{start}");
            assert_eq!(a.agree(key(1), RealId(9), at(500), at(403), |_| true), RealId(9), "{start}");
        }
    }

    #[test]
    fn a_full_line_gives_up_what_runs_out_first() {
        let (a, now) = (Affinity::new(1), Tick(0));
        for n in 0..=WAYS as u32 {
            a.agree(key(u64::from(n)), RealId(n), now.after_ms((100 + 10 * n) * SECOND), now, |_| true);
        }
        assert_eq!(a.agreed(key(0), now), None);
        assert!((1..=WAYS as u32).all(|n| a.agreed(key(u64::from(n)), now) == Some(RealId(n))));
    }

    #[test]
    fn an_entry_is_forgotten_with_its_server() {
        let (a, now) = (Affinity::new(64), Tick(0));
        a.agree(key(1), RealId(7), now.after_ms(SECOND), now, |_| true);
        a.forget(key(1), RealId(8));
        assert_eq!(a.agreed(key(1), now), Some(RealId(7)));
        a.forget(key(1), RealId(7));
        assert_eq!(a.agreed(key(1), now), None);
    }

    #[test]
    fn one_worker_agrees_with_itself() {
        let a = Affinity::new(0);
        assert!(a.is_none());
        assert_eq!(a.agree(key(1), RealId(7), Tick(9), Tick(0), |_| true), RealId(7));
        assert_eq!(a.agreed(key(1), Tick(0)), None);
    }

    /// Four threads propose a server of their own for each client, all at once, until they
    /// have come into each other's way (a busy machine may run one after the other).
    #[test]
    fn threads_agree() {
        assert!((0..1000).any(|_| race() > 1), "no race in a thousand rounds");
    }

    /// Returns how many threads were the first for some client.
    fn race() -> usize {
        const CLIENTS: u64 = 20_000;
        let (a, now) = (Affinity::new(4 * CLIENTS as usize), Tick(0));
        let barrier = std::sync::Barrier::new(4);
        let chosen: Vec<Vec<RealId>> = std::thread::scope(|s| {
            let run = |t: u32| {
                let (a, barrier) = (&a, &barrier);
                move || {
                    barrier.wait();
                    let propose = |n| a.agree(key(n), RealId(t), now.after_ms(SECOND), now, |_| true);
                    (0..CLIENTS).map(propose).collect()
                }
            };
            let threads: Vec<_> = (0..4).map(|t| s.spawn(run(t))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let differ = (0..CLIENTS as usize).filter(|n| chosen.iter().any(|c| c[*n] != chosen[0][*n])).count();
        assert_eq!(differ, 0);
        (0..4).filter(|t| chosen[0].contains(&RealId(*t))).count()
    }
}
