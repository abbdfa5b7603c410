//! What holds a burst up: the longest polls when flows end, a snapshot is adopted, or
//! somebody reads the counters.
//!
//! Each poll is timed by the thread's own processor time, so that a core taken away by the
//! kernel does not count; reading that clock takes a third of a microsecond, which is
//! subtracted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use dataplane::sched::SchedulerKind;
use dataplane::snapshot::ForwardingMode::DirectRouting;
use dataplane::snapshot::{Snapshot, Spec};
use dataplane::units::Tick;
use serde_json::json;

use super::{Options, round, say};
use crate::rig::clock::{Histogram, cpu_ns};
use crate::rig::director::{Director, Shape, spec};
use crate::rig::traffic::{ACK, Order, Rounds, SYN, Stamp, Traffic, Way, ordered, stamp};

/// How long a burst may be held up, microseconds.
const TARGET_US: f64 = 20.0;
const FLOWS: u32 = 1 << 20;
/// As many flows as a poll ends at most.
const ENDED: u64 = 32;

/// What a poll takes, nanoseconds of processor time.
fn timed(mut poll: impl FnMut()) -> u64 {
    let begin = cpu_ns();
    poll();
    let middle = cpu_ns();
    let end = cpu_ns();
    (middle - begin).saturating_sub(end - middle)
}

/// The part.
pub fn run(o: &Options) {
    expiry();
    statistics(o);
    for (services, reals) in [(1, 10), (1, 1_000), (1, 10_000), (1_000, 10), (10_000, 10)] {
        adoption(SchedulerKind::Wlc, services, reals, o.pairs * 40);
    }
    for scheduler in SchedulerKind::ALL.into_iter().filter(|s| *s != SchedulerKind::Wlc) {
        adoption(scheduler, 1, 10_000, o.pairs * 20);
    }
}

fn report(row: &str, what: &str, h: &Histogram) {
    let us = |q: f64| round(h.quantile(q) / 1000.0);
    let max = round(h.max as f64 / 1000.0);
    say(&format!(
        "{what}: p50 {:.2} us, p99 {:.2}, p99.9 {:.2}, longest {max:.1} of {}",
        us(0.5),
        us(0.99),
        us(0.999),
        h.total
    ));
    println!(
        "{}",
        json!({
            "row": row, "what": what, "polls": h.total, "p50_us": us(0.5), "p99_us": us(0.99), "p999_us": us(0.999),
            "max_us": max,
            "limit": {"key": "p99_us", "low": 0.0, "high": TARGET_US, "text": format!("p99 > {TARGET_US} us")},
        })
    );
}

/// A million flows whose last packets came in random order end in that order, some hundred in each
/// slot of the wheel. Before, all of them come up once and are kept. Packets of other flows
/// come meanwhile, a full burst a poll.
fn expiry() {
    let shape = Shape::small(DirectRouting, false);
    let flows: Vec<Stamp> = (0..FLOWS).map(|n| stamp(n, 1)).collect();
    let few: Vec<Stamp> = (FLOWS..FLOWS + 1024).map(|n| stamp(n, 1)).collect();
    let acks = |flows: &[Stamp], order| Traffic::Rounds(Rounds::new(false, Way::Request, ACK, ordered(flows, order)));
    let mut director = Director::new(&shape, FLOWS + 2048);
    director.open(&shape, &[&few[..], &flows[..]].concat());
    director.set(acks(&flows, Order::Shuffled));
    // From second 200 to 800.
    for n in 0..FLOWS / 64 {
        director.worker.poll(Tick(200_000 + (u64::from(n) * 600_000 / u64::from(FLOWS / 64)) as u32));
    }
    director.set(acks(&few, Order::Shuffled));
    let mut now = Tick(800_000);
    let expired = |d: &Director| d.link.counters.worker.flows_expired.get();
    let poll = |d: &mut Director, now: Tick| {
        let before = expired(d);
        let took = timed(|| {
            d.worker.poll(now);
        });
        (took, expired(d) - before)
    };
    let (mut calm, mut kept, mut ended) = (Histogram::new(), Histogram::new(), Histogram::new());
    for _ in 0..FLOWS / 64 {
        calm.add(poll(&mut director, now).0);
    }
    // What was opened in the first seconds comes up, and is not due.
    now = Tick(910_000);
    for _ in 0..FLOWS / 64 {
        kept.add(poll(&mut director, now).0);
    }
    assert_eq!(expired(&director), 0, "no flow was due");
    while director.worker.core().flows.len() > 1024 && now.0 < 2_000_000 {
        match poll(&mut director, now) {
            (took, ENDED) => ended.add(took),
            (_, 0) => now = now.after_ms(256),
            _ => {}
        }
    }
    report("delay-none", "64 packets, nothing else", &calm);
    report("delay-expiry", "64 packets, and 64 flows come up and are kept", &kept);
    report("delay-expiry", &format!("64 packets, and {ENDED} flows end"), &ended);
}

/// Bursts of known flows while another thread reads all counters without pause.
fn statistics(o: &Options) {
    let shape = Shape { reals: 1_000, ..Shape::small(DirectRouting, false) };
    let flows: Vec<Stamp> = (0..65_536).map(|n| stamp(n, 1)).collect();
    let mut director = Director::new(&shape, 131_072);
    director.open(&shape, &flows);
    director.set(Traffic::Rounds(Rounds::new(false, Way::Request, ACK, ordered(&flows, Order::Shuffled))));
    let polls = o.slice_ms as usize * o.pairs * 100;
    for reading in [false, true] {
        let (stop, link) = (AtomicBool::new(false), director.link.clone());
        let mut h = Histogram::new();
        std::thread::scope(|scope| {
            if reading {
                scope.spawn(|| {
                    while !stop.load(Relaxed) {
                        let sum: u64 = link.counters.reals().map(|r| r.in_packets.get() + r.in_bytes.get()).sum();
                        std::hint::black_box((sum, link.counters.worker.each()));
                    }
                });
                std::thread::sleep(Duration::from_millis(20));
            }
            for _ in 0..polls {
                h.add(timed(|| {
                    director.poll();
                }));
            }
            stop.store(true, Relaxed);
        });
        let what = if reading { "64 packets while all counters are read without pause" } else { "64 packets" };
        report("delay-statistics", what, &h);
    }
}

/// Adopts snapshots in which a real server comes and goes, poll by poll; then the first flow that is
/// opened, for which the scheduler takes the new list over, and what follows.
fn adoption(scheduler: SchedulerKind, services: u32, reals: u32, times: usize) {
    let shape = Shape { services, reals, scheduler, ..Shape::small(DirectRouting, false) };
    let with = spec(&shape);
    let mut without: Spec = with.clone();
    without.generation += 1;
    if let Some(service) = without.services.first_mut() {
        service.reals.pop();
    }
    let snapshots = [Arc::new(Snapshot::compile(&with)), Arc::new(Snapshot::compile(&without))];
    let mut director = Director::new(&shape, 65_536);
    let (mut adopt, mut first, mut rounds) = (Histogram::new(), Histogram::new(), 0);
    let settle = |director: &mut Director| {
        (0..1000).for_each(|_| {
            director.poll();
        })
    };
    settle(&mut director);
    for n in 0..2 * times {
        director.link.publish(snapshots[(n + 1) % 2].clone());
        let generation = snapshots[(n + 1) % 2].generation;
        while director.worker.snapshot().generation != generation {
            rounds += 1;
            adopt.add(timed(|| {
                director.poll();
            }));
        }
        // One SYN for the first service.
        let one: Arc<[Stamp]> = [stamp(n as u32 * 64, 1)].into();
        director.set(Traffic::Rounds(Rounds::new(false, Way::Request, SYN, one)));
        director.worker.io().burst = 1;
        first.add(timed(|| {
            director.poll();
        }));
        director.set(Traffic::Silence);
        for _ in 0..40 {
            adopt.add(timed(|| {
                director.poll();
            }));
        }
        settle(&mut director);
    }
    let name = match scheduler {
        SchedulerKind::Wlc => format!("{services} × {reals} servers"),
        other => format!("{services} × {reals} servers, {other}"),
    };
    say(&format!("{name}: {:.1} polls until a snapshot is adopted", f64::from(rounds) / (2 * times) as f64));
    report("delay-adoption", &format!("a snapshot of {name} is adopted, and before and after"), &adopt);
    report("delay-first-flow", &format!("the first flow after that, {name}"), &first);
}
