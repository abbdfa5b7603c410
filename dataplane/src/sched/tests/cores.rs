//! Several workers: how far their views of the counts may drift apart.

use super::*;
use crate::snapshot::Real;

/// `workers` workers that schedule the same service.
struct Workers {
    sched: ServiceSched,
    cores: Vec<(SchedCore, CoreCounts)>,
}

impl Workers {
    fn new(workers: usize, weights: &[u32]) -> Self {
        let real = |(n, w): (usize, &u32)| Real {
            addr: Ip::from_v4([10, 2, (n >> 8) as u8, n as u8]),
            weight: *w,
            ..Real::NONE
        };
        let reals: Vec<Real> = weights.iter().enumerate().map(real).collect();
        let members = reals.iter().enumerate().map(|(n, r)| (RealId(n as u32), r));
        Self {
            sched: ServiceSched::compile(SchedulerKind::Wlc, 0, members),
            cores: (0..workers).map(|_| (SchedCore::new(4, reals.len()), CoreCounts::new(reals.len()))).collect(),
        }
    }
    fn open(&mut self, worker: usize) -> RealId {
        let key =
            SchedKey { client: Ip::default(), client_port: Be16::new(0), vip: Ip::default(), vport: Be16::new(0) };
        let (core, counts) = &mut self.cores[worker];
        let id = core.choose(SERVICE, &self.sched, counts, &key, Tick(0)).unwrap();
        core.opened(counts, id, true);
        id
    }
    fn refresh(&mut self, worker: usize) {
        let (before, rest) = self.cores.split_at_mut(worker);
        let (me, after) = rest.split_first_mut().unwrap();
        let others = before.iter().chain(after.iter()).map(|(_, counts)| counts);
        me.0.refresh_from(others);
    }
    fn totals(&self) -> Vec<u32> {
        let total = |id| self.cores.iter().map(|(_, c)| c.active(RealId(id as u32))).sum();
        (0..self.sched.reals.len()).map(total).collect()
    }
    fn spread(&self) -> u32 {
        let totals = self.totals();
        totals.iter().max().unwrap() - totals.iter().min().unwrap()
    }
}

/// Polls of `burst` new flows each, the workers in an irregular order. The spread stays
/// within what is opened between two looks at a count. The order is irregular, so the
/// others may open more in one worker's round than it does: twice as much is allowed for.
fn spread_of(workers: usize, servers: usize, burst: usize) -> (u32, u32) {
    let mut w = Workers::new(workers, &vec![1; servers]);
    let (mut random, mut worst) = (7u32, 0);
    for _ in 0..20_000 / burst {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let worker = (random >> 16) as usize % workers;
        for _ in 0..burst {
            w.open(worker);
        }
        w.refresh(worker);
        worst = worst.max(w.spread());
    }
    let round = servers.div_ceil(REFRESH_BUDGET);
    (worst, 1 + (2 * (workers - 1) * round * burst) as u32)
}

#[test]
fn imbalance_of_two_workers_is_bounded() {
    for (servers, burst, usual) in [(3, 1, 2), (8, 1, 2), (8, 32, 2), (100, 1, 3), (100, 32, 10)] {
        let (worst, bound) = spread_of(2, servers, burst);
        assert!(worst <= bound, "{servers} servers, bursts of {burst}: {worst} > {bound}");
        assert!(worst <= usual, "{servers} servers, bursts of {burst}: {worst}");
    }
}

/// A worker that carries everything is levelled out by one that starts later.
#[test]
fn a_late_worker_fills_the_gaps() {
    let mut w = Workers::new(2, &[1, 1, 1, 1]);
    let lame = w.open(0);
    for _ in 0..399 {
        w.open(0);
    }
    // The flows of one server end on worker 0.
    let (core, counts) = &mut w.cores[0];
    for _ in 0..100 {
        core.closed(counts, lame, true);
    }
    w.open(1);
    w.refresh(1);
    let got: Vec<RealId> = (0..95).map(|_| w.open(1)).collect();
    assert!(got.iter().all(|id| *id == lame));
    assert!(w.spread() <= 5, "{:?}", w.totals());
}

/// Weighted: each server's share is as its weight within the same bound.
#[test]
fn shares_follow_the_weights_on_two_workers() {
    let weights = [1, 2, 3, 10];
    let mut w = Workers::new(2, &weights);
    for n in 0..16_000 {
        w.open(n % 2);
        w.refresh(n % 2);
    }
    for (got, weight) in w.totals().iter().zip(weights) {
        assert!(got.abs_diff(1000 * weight) <= 1 + 2 * weight, "{got} for weight {weight}");
    }
}

/// Nothing is read while nothing changes, and every count is seen after one round.
#[test]
fn a_round_of_refreshes_sees_everything() {
    let mut w = Workers::new(2, &[1; 50]);
    for _ in 0..100 {
        w.open(0);
    }
    w.open(1);
    for _ in 0..50usize.div_ceil(REFRESH_BUDGET) {
        w.refresh(1);
    }
    for id in (0..50).map(RealId) {
        let all = w.cores[0].1.connections(id).plus(w.cores[1].1.connections(id));
        assert_eq!(w.cores[1].0.connections(id), all);
    }
}

/// A threshold reached by another worker's connections blocks here as well.
#[test]
fn thresholds_count_all_workers() {
    let mut w = Workers::new(2, &[1]);
    let reals: Vec<Real> = vec![Real { weight: 1, upper: 3, ..Real::NONE }];
    w.sched = ServiceSched::compile(SchedulerKind::Wlc, 0, std::iter::once((RealId(0), &reals[0])));
    w.open(0);
    w.open(0);
    w.open(1);
    assert!(!w.cores[1].0.overloaded(RealId(0)));
    w.refresh(1);
    assert!(w.cores[1].0.overloaded(RealId(0)));
    let (core, counts) = &mut w.cores[0];
    core.closed(counts, RealId(0), true);
    w.refresh(1);
    // Two of three is not below three quarters yet: 2 * 4 < 3 * 3.
    assert!(!w.cores[1].0.overloaded(RealId(0)));
}

/// Four threads fill servers with thresholds as fast as they can, without ever refreshing.
#[test]
fn thresholds_are_exact_on_threads() {
    const WORKERS: usize = 4;
    let uppers = [1, 2, 40, 1000];
    let reals = uppers.map(|upper| Real { weight: 1, upper, ..Real::NONE });
    let members = || reals.iter().enumerate().map(|(n, r)| (RealId(n as u32), r));
    let key = SchedKey { client: Ip::default(), client_port: Be16::new(0), vip: Ip::default(), vport: Be16::new(0) };
    for kind in [SchedulerKind::Wlc, SchedulerKind::Rr] {
        for _ in 0..50 {
            let sched = ServiceSched::compile(kind, 0, members());
            let counts: Vec<CoreCounts> = (0..WORKERS).map(|_| CoreCounts::new(reals.len())).collect();
            let barrier = std::sync::Barrier::new(WORKERS);
            let fill = |me: usize| {
                let mut core = SchedCore::new(4, reals.len());
                barrier.wait();
                while let Some(id) = core.choose(SERVICE, &sched, &counts[me], &key, Tick(0)) {
                    core.opened(&counts[me], id, true);
                    let others = counts.iter().enumerate().filter(|(n, _)| *n != me).map(|(_, c)| c);
                    if !core.admits_beside(id, others) {
                        core.closed(&counts[me], id, true);
                    }
                }
            };
            std::thread::scope(|s| {
                for me in 0..WORKERS {
                    let fill = &fill;
                    s.spawn(move || fill(me));
                }
            });
            for (n, upper) in uppers.iter().enumerate() {
                let total: u32 = counts.iter().map(|c| c.active(RealId(n as u32))).sum();
                assert!(total <= *upper, "{kind:?}: {total} of {upper}");
                assert!(total + WORKERS as u32 > *upper, "{kind:?}: {total} of {upper}");
            }
        }
    }
}

/// More services and servers than the arena holds at once: states are built anew, nothing else changes.
#[test]
fn a_full_arena_starts_over() {
    let real = Real { weight: 1, ..Real::NONE };
    let mut core = SchedCore::new(64, 256);
    let counts = CoreCounts::new(256);
    let key = SchedKey { client: Ip::default(), client_port: Be16::new(0), vip: Ip::default(), vport: Be16::new(0) };
    let epoch = core.arena.epoch;
    // Ever larger lists of the same service force new room again and again.
    for round in 0..200u32 {
        for service in 0..4u32 {
            let n = 1 + (round * 7 + service * 13) % 64;
            let kind = if service % 2 == 0 { SchedulerKind::Rr } else { SchedulerKind::Wlc };
            let members = (0..n).map(|i| (RealId(service * 64 + i), &real));
            let sched = ServiceSched::compile(kind, 0, members);
            let mut seen = std::collections::HashSet::new();
            for _ in 0..n {
                let id = core.choose(ServiceId(service + round % 16 * 4), &sched, &counts, &key, Tick(0)).unwrap();
                core.opened(&counts, id, true);
                seen.insert(id);
            }
            assert_eq!(seen.len() as u32, n, "every server once");
            seen.into_iter().for_each(|id| core.closed(&counts, id, true));
        }
    }
    assert_ne!(epoch, core.arena.epoch);
}

#[test]
fn numbers_out_of_range_are_refused() {
    let real = Real { weight: 1, ..Real::NONE };
    let (mut core, counts) = (SchedCore::new(2, 4), CoreCounts::new(4));
    let key = SchedKey { client: Ip::default(), client_port: Be16::new(0), vip: Ip::default(), vport: Be16::new(0) };
    let sched = |id| ServiceSched::compile(SchedulerKind::Wlc, 0, std::iter::once((RealId(id), &real)));
    assert_eq!(core.choose(ServiceId(0), &sched(3), &counts, &key, Tick(0)), Some(RealId(3)));
    assert_eq!(core.choose(ServiceId(0), &sched(4), &counts, &key, Tick(0)), None);
    assert_eq!(core.choose(ServiceId(2), &sched(3), &counts, &key, Tick(0)), None);
    assert_eq!(core.choose(ServiceId(1), &ServiceSched::default(), &counts, &key, Tick(0)), None);
    core.opened(&counts, RealId(4), true);
    core.closed(&counts, RealId::NONE, true);
}
