//! Each stage of the packet's way by itself, and the adopting of a snapshot.
//!
//! `cargo bench -p pollux-dataplane --bench stages [-- FILTER]`
//!
//! A burst of 64 packets goes through all stages that come before, untimed; then the stage is
//! timed. So what one stage prefetches for the next has come, and a stage finds its
//! packets in the cache: the sum is less than the whole way takes with many flows.

mod rig;

use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use dataplane::burst::{Burst, Lanes};
use dataplane::io::{BURST, PacketIo};
use dataplane::snapshot::ForwardingMode::{DirectRouting, Nat, Tunnel};
use dataplane::snapshot::Snapshot;
use dataplane::stage::{classify, fast, parse, resolve, rewrite, schedule, track};
use dataplane::units::PortId;
use dataplane::worker::tsc;
use rig::clock::tsc_per_ns;
use rig::director::{Director, Shape, spec};
use rig::port::{GenBuf, GenIo};
use rig::traffic::{ACK, Order, Rounds, SYN, Stamp, Traffic, Way, ordered, stamp};

const PORT: PortId = PortId(0);

/// The stages in their order; `Send` is the sending of what resolve collected.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
enum Stage {
    Receive,
    Fast,
    Parse,
    Classify,
    Track,
    Schedule,
    Rewrite,
    Resolve,
    Send,
}

/// A director, and a port and a burst that are not the worker's own, so that the stages can
/// be called one by one.
struct World {
    director: Director,
    snapshot: Arc<Snapshot>,
    io: GenIo,
    burst: Box<Burst<GenBuf>>,
}

impl World {
    /// With so many flows open; what comes belongs to them, or opens new ones.
    fn new(shape: &Shape, way: Way, flows: u32, new: bool) -> Self {
        let all: Vec<Stamp> = (0..flows).map(|n| stamp(n, 1)).collect();
        let mut director = Director::new(shape, flows * 2 + 4096);
        let replies = director.open(shape, &all);
        let fresh: Vec<Stamp> = (flows..2 * flows).map(|n| stamp(n, 1)).collect();
        let sequence = match (new, way) {
            (true, _) => ordered(&fresh, Order::Shuffled),
            (false, Way::Request) => ordered(&all, Order::Shuffled),
            (false, Way::Reply) => ordered(&replies, Order::Shuffled),
        };
        let io = GenIo::new(Traffic::Rounds(Rounds::new(shape.six, way, if new { SYN } else { ACK }, sequence)));
        let snapshot = director.worker.snapshot().clone();
        Self { director, snapshot, io, burst: Box::new(Burst::new()) }
    }

    /// A burst through all stages; returns TSC cycles of the chosen one.
    fn burst(&mut self, chosen: Stage) -> u64 {
        let Self { director, snapshot: s, io, burst, .. } = self;
        let core = director.worker.core();
        let mut spent = 0;
        let mut timed = |stage: Stage, run: &mut dyn FnMut()| {
            let begin = tsc();
            run();
            if stage == chosen {
                spent = tsc() - begin;
            }
        };
        timed(Stage::Receive, &mut || burst.n = io.rx(PORT, &mut burst.bufs));
        let mut left = Lanes::first(BURST);
        if chosen == Stage::Fast {
            // What shares a bucket and a tag with another flow is left to the other stages.
            timed(Stage::Fast, &mut || left = fast::fast(s, core, io, burst, PORT, false).0);
        }
        timed(Stage::Parse, &mut || parse::parse(burst, left, s.port_mac(PORT)));
        timed(Stage::Classify, &mut || classify::classify(s, core, io, burst, false));
        timed(Stage::Track, &mut || track::track::<GenIo>(s, core, burst));
        let missed = burst.missed;
        if !missed.is_empty() {
            timed(Stage::Schedule, &mut || schedule::schedule(s, core, io, burst));
        }
        timed(Stage::Rewrite, &mut || rewrite::rewrite(s, core, io, burst));
        assert_eq!(burst.ready, left, "no packet was lost on the way");
        timed(Stage::Resolve, &mut || resolve::resolve(s, core, io, burst));
        timed(Stage::Send, &mut || core.out.flush(io, &core.link));
        for lane in missed {
            core.end_flow(burst.lanes[lane].flow);
        }
        spent
    }
}

fn bench_way(c: &mut Criterion, name: &str, world: &mut World, stages: &[Stage]) {
    let rate = tsc_per_ns();
    let mut group = c.benchmark_group(format!("stage/{name}"));
    group.throughput(Throughput::Elements(BURST as u64));
    for stage in stages {
        group.bench_function(format!("{stage:?}").to_lowercase(), |b| {
            b.iter_custom(|n| {
                let mut cycles: Vec<u64> = (0..n).map(|_| world.burst(*stage)).collect();
                let mid = cycles.len() / 2;
                let most = 4 * *cycles.select_nth_unstable(mid).1;
                // The core was taken away: that says nothing about the stage.
                let sum: u64 = cycles.iter().map(|c| *c.min(&most)).sum();
                Duration::from_nanos((sum as f64 / rate) as u64)
            });
        });
    }
}

fn ways(c: &mut Criterion) {
    use Stage::*;
    const FLOWS: u32 = 65_536;
    let general = [Receive, Parse, Classify, Track, Rewrite, Resolve, Send];
    let opening = [Parse, Classify, Track, Schedule, Rewrite, Resolve];
    for (name, mode, six) in
        [("dr", DirectRouting, false), ("nat", Nat, false), ("ipip", Tunnel, false), ("dr6", DirectRouting, true)]
    {
        let shape = Shape::small(mode, six);
        let mut known = World::new(&shape, Way::Request, FLOWS, false);
        bench_way(c, &format!("{name}, known flows"), &mut known, &[Fast]);
        bench_way(c, &format!("{name}, known flows"), &mut known, &general);
        drop(known);
        bench_way(c, &format!("{name}, new flows"), &mut World::new(&shape, Way::Request, FLOWS, true), &opening);
        if mode == Nat {
            bench_way(c, "nat, replies", &mut World::new(&shape, Way::Reply, FLOWS, false), &general);
        }
    }
}

/// Publishing and adopting, while the worker has nothing else to do; and the first choice after
/// the list of servers has changed.
fn adoption(c: &mut Criterion) {
    let mut group = c.benchmark_group("snapshot");
    for (services, reals) in [(1, 10), (1, 1_000), (1_000, 10), (10_000, 10)] {
        let shape = Shape { services, reals, ..Shape::small(DirectRouting, false) };
        let with = spec(&shape);
        let mut without = with.clone();
        without.generation += 1;
        if let Some(service) = without.services.first_mut() {
            service.reals.pop();
        }
        let snapshots = [Arc::new(Snapshot::compile(&with)), Arc::new(Snapshot::compile(&without))];
        let mut director = Director::new(&shape, 4096);
        let name = format!("{services} x {reals} servers");
        let mut n = 0;
        group.bench_function(BenchmarkId::new("adopt", &name), |b| {
            b.iter(|| {
                n += 1;
                director.link.publish(snapshots[n % 2].clone());
                director.poll()
            });
        });
        group.sample_size(10).bench_function(BenchmarkId::new("compile", &name), |b| {
            b.iter(|| Snapshot::compile(&with));
        });
    }
}

fn main() {
    let mut c = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .configure_from_args();
    ways(&mut c);
    adoption(&mut c);
    c.final_summary();
}
