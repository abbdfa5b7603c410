//! The flow table against hashbrown and, with feature `dpdk`, DPDK's `rte_hash`.
//!
//! `cargo bench -p pollux-dataplane --features dpdk --bench flow_table [-- FILTER]`
//!
//! `FLOWS=1000000` in the environment chooses one number of flows. On a noisy machine
//! believe `flow_ratio`, which runs the contestants alternately.

mod flow;

use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use dataplane::flow::hash::Secret;
use dataplane::flow::table::{Fate, FlowTable};
use dataplane::units::Tick;
use flow::{BURST, Packet};

/// Packets kept of each kind: more than caches hold, less than memory.
const MOST: usize = 4 << 20;
const SIZES: [u32; 4] = [1 << 10, 1 << 16, 1_000_000, 10_000_000];

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// One burst after the other through `run`; time per packet.
fn look(group: &mut Group<'_>, name: &str, packets: &[Packet], mut run: impl FnMut(&[Packet]) -> usize) {
    group.throughput(Throughput::Elements(BURST as u64));
    let mut bursts = packets.chunks_exact(BURST).cycle();
    group.bench_function(name, |b| b.iter(|| bursts.next().map_or(0, &mut run)));
}

/// Times `change` on bursts of new flows; `undo` is not timed.
fn change<T>(
    group: &mut Group<'_>,
    name: &str,
    packets: &[Packet],
    table: &mut T,
    change: fn(&mut T, &[Packet]),
    undo: fn(&mut T, &[Packet]),
) {
    group.throughput(Throughput::Elements(BURST as u64));
    let mut bursts = packets.chunks_exact(BURST).cycle();
    group.bench_function(name, |b| {
        b.iter_custom(|n| {
            let mut spent = Duration::ZERO;
            for burst in bursts.by_ref().take(n as usize) {
                let begin = Instant::now();
                change(table, burst);
                spent += begin.elapsed();
                undo(table, burst);
            }
            spent
        });
    });
}

fn insert_ours(t: &mut FlowTable, burst: &[Packet]) {
    for p in burst {
        t.prefetch_bucket(p.hash);
    }
    for p in burst {
        let done = t.insert(p.hash, flow::record(p), Tick(0));
        assert!(done.is_ok(), "room for the flow");
    }
}

fn remove_ours(t: &mut FlowTable, burst: &[Packet]) {
    for p in burst {
        let gone = t.lookup_request(p.hash, p.key()).and_then(|id| t.remove(id));
        assert!(gone.is_some(), "the flow is there");
    }
}

fn insert_brown(t: &mut flow::Brown, burst: &[Packet]) {
    for p in burst {
        t.insert(p);
    }
}

fn remove_brown(t: &mut flow::Brown, burst: &[Packet]) {
    for p in burst {
        assert!(t.remove(p), "the flow is there");
    }
}

/// A slot that comes up, flow by flow: kept (it moves on) or ended (and put back, untimed).
fn expire(group: &mut Group<'_>, t: &mut FlowTable) {
    // What `flow::record` sets.
    let mut now = Tick(900_512);
    group.throughput(Throughput::Elements(64));
    group.bench_function("pollux, kept", |b| {
        b.iter_custom(|n| {
            let (mut met, mut spent) = (0, Duration::ZERO);
            while met < n * 64 {
                let begin = Instant::now();
                let before = met;
                t.expire(now, 64, |_, r| {
                    met += 1;
                    r.deadline = now.after_ms(900_000);
                    Fate::Keep
                });
                spent += begin.elapsed();
                if met == before {
                    now = now.after_ms(900_512);
                }
            }
            spent
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("pollux, nothing due", |b| {
        t.expire(now, usize::MAX, |_, _| Fate::Keep);
        b.iter(|| t.expire(now, 64, |_, _| Fate::Keep));
    });
}

fn size(c: &mut Criterion, n: u32, #[cfg(feature = "dpdk")] eal: &dataplane::io::dpdk::Eal) {
    let secret = Secret::fixed();
    let mut packets = flow::packets(&secret, 0, n);
    let absent = flow::packets(&secret, n, n.min(MOST as u32));
    let mut ours = flow::ours(secret, &packets);
    let mut brown = flow::brown(&secret, &packets);
    #[cfg(feature = "dpdk")]
    let mut rte = flow::rte::RteHash::new(eal, flow::rte::Key::Wide, &packets);
    for what in ["hit in order", "hit shuffled", "miss"] {
        if what == "hit shuffled" {
            flow::shuffle(&mut packets);
        }
        let packets = if what == "miss" { &absent[..] } else { &packets[..packets.len().min(MOST)] };
        let mut group = c.benchmark_group(format!("{what}/{n}"));
        look(&mut group, "pollux", packets, |burst| flow::find_ours(&ours, burst));
        look(&mut group, "hashbrown", packets, |burst| flow::find_brown(&brown, burst));
        #[cfg(feature = "dpdk")]
        look(&mut group, "rte_hash", packets, |burst| rte.find(burst, &mut [std::ptr::null_mut(); BURST]));
    }
    let mut group = c.benchmark_group(format!("insert/{n}"));
    change(&mut group, "pollux", &absent, &mut ours, insert_ours, remove_ours);
    change(&mut group, "hashbrown", &absent, &mut brown, insert_brown, remove_brown);
    #[cfg(feature = "dpdk")]
    change(&mut group, "rte_hash", &absent, &mut rte, |t, b| t.insert(b, 0), |t, b| t.remove(b));
    group.finish();
    let mut group = c.benchmark_group(format!("expire/{n}"));
    expire(&mut group, &mut ours);
    group.finish();
}

fn main() {
    let mut c = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let chosen: Option<u32> = std::env::var("FLOWS").ok().and_then(|s| s.parse().ok());
    #[cfg(feature = "dpdk")]
    let eal = flow::rte::start();
    for n in SIZES.into_iter().filter(|n| chosen.is_none_or(|c| c == *n)) {
        size(
            &mut c,
            n,
            #[cfg(feature = "dpdk")]
            &eal,
        );
    }
    c.final_summary();
}
