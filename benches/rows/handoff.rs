//! Two workers, and packets that arrive on the one that does not own their flow.

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use dataplane::flow::hash::Secret;
use dataplane::snapshot::ForwardingMode::{DirectRouting, Nat};
use dataplane::units::{Be16, Ip};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::json;

use super::{Options, round, say, slice};
use crate::rig::clock::{cpu_ns, median, spread};
use crate::rig::director::{Director, Shape, directors};
use crate::rig::port::Bare;
use crate::rig::traffic::{ACK, Order, Rounds, Sequence, Stamp, Traffic, Way, ordered, random, stamp};

const FLOWS: u32 = 65_536;
/// Percent of packets that arrive on the wrong core.
const SHARES: [u32; 3] = [0, 10, 50];

fn owner(s: &Stamp) -> usize {
    Secret::fixed().hash(Ip::from_v4(s.client.to_be_bytes()), Be16::new(s.port), 6).owner(2).index()
}

/// Packets for one worker: `share` percent of them belong to the other.
fn mixed(own: &Sequence, other: &Sequence, share: u32) -> Sequence {
    let mut x = 0x9e37_79b9_7f4a_7c15;
    (0..own.len())
        .map(|i| if random(&mut x) % 100 < u64::from(share) { other[i % other.len()] } else { own[i] })
        .collect::<Vec<_>>()
        .into()
}

fn pin(core: usize) {
    let mut set = CpuSet::new();
    if set.set(core).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

/// What one worker did: packets sent, processor time, and that of polls which found nothing.
struct Done {
    sent: u64,
    cpu: u64,
    idle: f64,
}

/// Both workers for so long, each on a core. A worker whose buffers are all with the other
/// polls in vain: that time is told apart, as on a shared machine the other may be away.
fn run_both(pair: &mut [Director], wall: Duration, idle_ns: f64) -> Vec<Done> {
    let start = Arc::new(Barrier::new(pair.len()));
    std::thread::scope(|scope| {
        let threads: Vec<_> = pair
            .iter_mut()
            .enumerate()
            .map(|(core, d)| {
                let start = start.clone();
                scope.spawn(move || {
                    pin(core);
                    start.wait();
                    let (mut idle, from) = (0u64, d.worker.io().sent);
                    let (begin, cpu) = (Instant::now(), cpu_ns());
                    while begin.elapsed() < wall {
                        for _ in 0..64 {
                            idle += u64::from(d.poll() == 0);
                        }
                    }
                    Done { sent: d.worker.io().sent - from, cpu: cpu_ns() - cpu, idle: idle as f64 * idle_ns }
                })
            })
            .collect();
        threads.into_iter().filter_map(|t| t.join().ok()).collect()
    })
}

fn settle(pair: &mut [Director]) {
    for d in pair.iter_mut() {
        d.set(Traffic::Silence);
    }
    while pair.iter_mut().map(Director::poll).sum::<usize>() > 0 {}
}

/// The part.
pub fn run(o: &Options) {
    for (name, mode) in [("dr", DirectRouting), ("nat", Nat)] {
        let shape = Shape::small(mode, false);
        let mut pair = directors(&shape, 2, FLOWS);
        let flows: Vec<Stamp> = (0..FLOWS).map(|n| stamp(n, 1)).collect();
        let owned: Vec<Sequence> = (0..2)
            .map(|w| {
                let own: Vec<Stamp> = flows.iter().filter(|s| owner(s) == w).copied().collect();
                pair[w].open(&shape, &own);
                ordered(&own, Order::Shuffled)
            })
            .collect();
        let rounds = |s: &Sequence| Traffic::Rounds(Rounds::new(false, Way::Request, ACK, s.clone()));
        let port = slice(o.slice_ns(), {
            let mut bare = Bare::new(rounds(&owned[0]));
            move || bare.empty()
        });
        let idle_ns = {
            let d = &mut pair[0];
            let mut polls = 0u64;
            let begin = cpu_ns();
            while polls < 1 << 20 {
                d.poll();
                polls += 1;
            }
            (cpu_ns() - begin) as f64 / polls as f64
        };
        let mut costs = SHARES.map(|_| Vec::new());
        let dropped: u64 = pair.iter().map(Director::dropped).sum();
        let mut handed = [0.0; SHARES.len()];
        for _ in 0..o.pairs {
            for (n, share) in SHARES.iter().enumerate() {
                for w in 0..2 {
                    pair[w].set(rounds(&mixed(&owned[w], &owned[1 - w], *share)));
                }
                let before: u64 = pair.iter().map(|d| d.link.counters.worker.handed_off.get()).sum();
                let done = run_both(&mut pair, Duration::from_millis(o.slice_ms), idle_ns);
                let sent = done.iter().map(|d| d.sent).sum::<u64>() as f64;
                let busy: f64 = done.iter().map(|d| d.cpu as f64 - d.idle).sum();
                costs[n].push(busy / sent);
                let after: u64 = pair.iter().map(|d| d.link.counters.worker.handed_off.get()).sum();
                handed[n] = (after - before) as f64 / sent;
                settle(&mut pair);
            }
        }
        let lost = pair.iter().map(Director::dropped).sum::<u64>() - dropped;
        for (n, share) in SHARES.iter().enumerate() {
            let extra: Vec<f64> = costs[n].iter().zip(&costs[0]).map(|(a, b)| a - b).collect();
            say(&format!(
                "{name}, {share} % on the wrong core: {:.1} ns beyond {port:.1} of the port, {:+.1} by hand-off \
                 ({:.1} % handed over, {lost} dropped)",
                median(&costs[n]) - port,
                median(&extra),
                handed[n] * 100.0
            ));
            println!(
                "{}",
                json!({
                    "row": format!("handoff-{name}"), "flows": FLOWS, "workers": 2, "wrong_core": f64::from(*share) / 100.0,
                    "mpps": round(2000.0 / median(&costs[n])), "e_ns": round(median(&costs[n]) - port),
                    "handoff_ns": round(median(&extra)), "ratio": round(median(&costs[0]) / median(&costs[n])),
                    "spread": round(spread(&costs[n])), "dropped": lost,
                })
            );
        }
    }
}
