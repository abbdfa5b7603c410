//! Two workers, and packets that arrive on the one that does not own their flow.

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use dataplane::flow::hash::Secret;
use dataplane::snapshot::ForwardingMode::{DirectRouting, Nat};
use dataplane::units::{Be16, Ip};
use dataplane::worker::tsc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::json;

use super::{Options, round, say};
use crate::rig::clock::{median, spread, tsc_per_ns};
use crate::rig::director::{Director, Shape, directors};
use crate::rig::port::{Ferry, GenIo, share};
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

/// What one worker did: packets sent, the time of the polls that found some, and the port's
/// part of it, nanoseconds. The port's is measured by itself: it has to write to lines that the
/// other core had last, which a device would do without the core.
struct Done {
    sent: u64,
    busy: f64,
    port: f64,
}

/// A poll that took so many cycles of the TSC was not on its core all the time.
const AWAY: u64 = 100_000;

/// What runs on a core.
trait Side: Send {
    /// One round; how many packets it met.
    fn poll(&mut self) -> usize;
    fn io(&mut self) -> &mut GenIo;
}

impl Side for Director {
    #[inline(always)]
    fn poll(&mut self) -> usize {
        Director::poll(self)
    }
    fn io(&mut self) -> &mut GenIo {
        self.worker.io()
    }
}

impl Side for Ferry {
    #[inline(always)]
    fn poll(&mut self) -> usize {
        Ferry::poll(self)
    }
    fn io(&mut self) -> &mut GenIo {
        &mut self.io
    }
}

/// Both workers for so long, each on a core. A worker whose buffers are all with the other
/// polls in vain; that does not count, as on a shared machine the other may be away.
fn run_both<S: Side>(pair: &mut [S], wall: Duration, rate: f64) -> Vec<Done> {
    let start = Arc::new(Barrier::new(pair.len()));
    std::thread::scope(|scope| {
        let threads: Vec<_> = pair
            .iter_mut()
            .enumerate()
            .map(|(core, d)| {
                let start = start.clone();
                scope.spawn(move || {
                    pin(core);
                    d.io().own = Some(0);
                    start.wait();
                    let (mut busy, from, begin) = (0u64, d.io().sent, Instant::now());
                    let mut last = tsc();
                    while begin.elapsed() < wall {
                        for _ in 0..64 {
                            let found = d.poll() > 0;
                            let now = tsc();
                            busy += if found && now - last < AWAY { now - last } else { 0 };
                            last = now;
                        }
                        last = tsc();
                    }
                    let port = d.io().own.take().unwrap_or(0) as f64 / rate;
                    Done { sent: d.io().sent - from, busy: busy as f64 / rate, port }
                })
            })
            .collect();
        threads.into_iter().filter_map(|t| t.join().ok()).collect()
    })
}

/// Nanoseconds a packet, in all and beyond the port.
fn a_packet(done: &[Done]) -> (f64, f64) {
    let sent = done.iter().map(|d| d.sent).sum::<u64>() as f64;
    let busy: f64 = done.iter().map(|d| d.busy).sum();
    (busy / sent, (busy - done.iter().map(|d| d.port).sum::<f64>()) / sent)
}

fn settle<S: Side>(pair: &mut [S]) {
    for d in pair.iter_mut() {
        d.io().traffic = Traffic::Silence;
    }
    while pair.iter_mut().map(Side::poll).sum::<usize>() > 0 {}
}

/// The part.
pub fn run(o: &Options) {
    let mut ferries = Ferry::pair();
    for (name, mode) in [("dr", DirectRouting), ("nat", Nat)] {
        let shape = Shape::small(mode, false);
        let mut pair = directors(&shape, 2, FLOWS);
        share(pair.iter_mut().map(Side::io));
        let flows: Vec<Stamp> = (0..FLOWS).map(|n| stamp(n, 1)).collect();
        let owned: Vec<Sequence> = (0..2)
            .map(|w| {
                let own: Vec<Stamp> = flows.iter().filter(|s| owner(s) == w).copied().collect();
                pair[w].open(&shape, &own);
                ordered(&own, Order::Shuffled)
            })
            .collect();
        let rounds = |s: &Sequence| Traffic::Rounds(Rounds::new(false, Way::Request, ACK, s.clone()));
        let rate = tsc_per_ns();
        let [mut costs, mut whole, mut travel] = [(); 3].map(|_| SHARES.map(|_| Vec::new()));
        let dropped: u64 = pair.iter().map(Director::dropped).sum();
        let mut handed = [0.0; SHARES.len()];
        for _ in 0..o.pairs {
            for (n, share) in SHARES.iter().enumerate() {
                for w in 0..2 {
                    pair[w].set(rounds(&mixed(&owned[w], &owned[1 - w], *share)));
                }
                let before: u64 = pair.iter().map(|d| d.link.counters.worker.handed_off.get()).sum();
                let done = run_both(&mut pair, Duration::from_millis(o.slice_ms), rate);
                let sent = done.iter().map(|d| d.sent).sum::<u64>() as f64;
                let (all, beyond) = a_packet(&done);
                whole[n].push(all);
                costs[n].push(beyond);
                let after: u64 = pair.iter().map(|d| d.link.counters.worker.handed_off.get()).sum();
                handed[n] = (after - before) as f64 / sent;
                settle(&mut pair);
                for w in 0..2 {
                    let packets = mixed(&owned[w], &owned[1 - w], *share);
                    ferries[w].foreign = packets.iter().map(|s| owner(s) != w).collect();
                    ferries[w].io.traffic = rounds(&packets);
                }
                travel[n].push(a_packet(&run_both(&mut ferries, Duration::from_millis(o.slice_ms), rate)).1);
                settle(&mut ferries);
            }
        }
        let lost = pair.iter().map(Director::dropped).sum::<u64>() - dropped;
        for (n, share) in SHARES.iter().enumerate() {
            let extra = |of: &[Vec<f64>]| median(&of[n].iter().zip(&of[0]).map(|(a, b)| a - b).collect::<Vec<_>>());
            let (by_handoff, by_travel) = (extra(&costs), extra(&travel));
            say(&format!(
                "{name}, {share} % on the wrong core: {:.1} ns beyond {:.1} of the port, {by_handoff:+.1} by hand-off, \
                 {by_travel:+.1} where packets only travel ({:.1} % handed over, {lost} dropped)",
                median(&costs[n]),
                median(&whole[n]) - median(&costs[n]),
                handed[n] * 100.0
            ));
            println!(
                "{}",
                json!({
                    "row": format!("handoff-{name}"), "flows": FLOWS, "workers": 2, "wrong_core": f64::from(*share) / 100.0,
                    "mpps": round(2000.0 / median(&whole[n])), "e_ns": round(median(&costs[n])),
                    "handoff_ns": round(by_handoff), "travel_ns": round(by_travel), "ratio": round(median(&whole[0]) / median(&whole[n])),
                    "spread": round(spread(&whole[n])), "dropped": lost,
                })
            );
        }
    }
}
