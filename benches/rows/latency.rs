//! How long a packet takes from its arrival to its sending, at shares of the largest rate: direct
//! routing, NAT in both directions, IPIP.

use dataplane::worker::tsc;
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::json;

use super::packets::row;
use super::{Options, round, say};
use crate::rig::clock::{Histogram, median, tsc_per_ns};
use crate::rig::director::Director;
use crate::rig::port::{Bare, GenIo, Pace};
use crate::rig::traffic::{ACK, Order, Rounds, Sequence, Stamp, Traffic, Way, ordered, stamp};

const FLOWS: u32 = 65_536;
/// Packets that a device keeps for a worker that is late.
const RING: u64 = 1024;
/// Percent of the largest rate.
const LOADS: [u32; 3] = [10, 50, 90];
/// Nanoseconds that are looked at together.
const PIECE_NS: f64 = 2e6;

/// How often the kernel took the core away from this thread.
pub fn interruptions() -> i64 {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |u| u.involuntary_context_switches())
}

/// What was seen at one rate: of each piece the quantiles, and what all had together.
#[derive(Default)]
struct Seen {
    /// Of each piece in microseconds: half, 99 and 99.9 % of the packets were sent after that.
    pieces: [Vec<f64>; 3],
    max_us: f64,
    packets: u64,
    lost: u64,
    left_out: f64,
}

const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];

impl Seen {
    /// The medians of the pieces' quantiles, microseconds.
    fn medians(&self) -> [f64; 3] {
        [0, 1, 2].map(|n| round(median(&self.pieces[n])))
    }
}

/// What is asked of a pipeline: a poll, and a change of the port before it.
type Poll<'a> = dyn FnMut(&mut dyn FnMut(&mut GenIo)) + 'a;

/// Pieces of two milliseconds at one rate. One in which the kernel took the core away says
/// nothing about the director, and is left out; what it cannot tell (interrupts, the hypervisor) is
/// in some pieces, so that the median of the pieces is the figure.
fn paced(ns: u64, interval: f64, rate: f64, poll: &mut Poll<'_>) -> Seen {
    let mut seen = Seen::default();
    let (mut count, mut bad, most) = (0, 0, 10 * (ns as f64 / PIECE_NS) as u64);
    while ((count - bad) as f64) < ns as f64 / PIECE_NS && count < most {
        let before = interruptions();
        let begin = tsc();
        poll(&mut |io| {
            io.delays = Some(Box::new(Histogram::new()));
            io.pace = Some(Pace::new(interval * rate, RING));
        });
        while ((tsc() - begin) as f64) < PIECE_NS * rate {
            poll(&mut |_| {});
        }
        count += 1;
        let mut piece = (None, 0);
        poll(&mut |io| piece = (io.delays.take(), io.pace.take().map_or(0, |p| p.missed)));
        let (Some(delays), missed) = piece else { continue };
        if interruptions() != before {
            bad += 1;
            continue;
        }
        for (values, q) in seen.pieces.iter_mut().zip(QUANTILES) {
            values.push(delays.quantile(q) / rate / 1000.0);
        }
        seen.max_us = seen.max_us.max(delays.max as f64 / rate / 1000.0);
        seen.packets += delays.total;
        seen.lost += missed;
    }
    seen.left_out = bad as f64 / count as f64;
    seen
}

/// Nanoseconds a packet at the largest rate, all stamps being taken, by the clock on the wall: the
/// median of pieces in which the kernel left the core alone.
fn largest(ns: u64, rate: f64, director: &mut Director) -> f64 {
    let (mut pieces, mut count) = (Vec::new(), 0);
    while (pieces.len() as f64) < ns as f64 / PIECE_NS && count < 10 * (ns as f64 / PIECE_NS) as usize {
        count += 1;
        // More come than can be taken.
        director.worker.io().delays = Some(Box::new(Histogram::new()));
        director.worker.io().pace = Some(Pace::new(rate, RING));
        let (before, begin, mut packets) = (interruptions(), tsc(), 0);
        while ((tsc() - begin) as f64) < PIECE_NS * rate {
            packets += director.poll();
        }
        let spent = (tsc() - begin) as f64 / rate;
        if interruptions() == before {
            pieces.push(spent / packets as f64);
        }
    }
    director.worker.io().pace = None;
    median(&pieces)
}

/// What is measured, as [`row`] names it.
const ROWS: [&str; 4] = ["dr", "nat", "nat-reply", "ipip"];

/// The part.
pub fn run(o: &Options) {
    for name in ROWS.into_iter().filter(|name| o.rows.iter().any(|r| r == name)) {
        one(o, name);
    }
}

/// One row.
fn one(o: &Options, name: &str) {
    let Some((shape, way)) = row(name) else { return };
    let flows: Vec<Stamp> = (0..FLOWS).map(|n| stamp(n, 1)).collect();
    let mut director = Director::new(&shape, 2 * FLOWS);
    let replies = director.open(&shape, &flows);
    let sequence: Sequence = ordered(if way == Way::Reply { &replies } else { &flows }, Order::Shuffled);
    let traffic = || Traffic::Rounds(Rounds::new(shape.six, way, ACK, sequence.clone()));
    director.set(traffic());
    let mut bare = Bare::new(traffic());
    let rate = tsc_per_ns();
    let time = o.slice_ns() * o.pairs as u64;
    let largest = largest(time / 4, rate, &mut director);
    for load in LOADS {
        let interval = largest * 100.0 / f64::from(load);
        let dropped = director.dropped();
        let ours = paced(time, interval, rate, &mut |change| {
            change(director.worker.io());
            director.poll();
        });
        assert_eq!(director.dropped(), dropped, "no packet was dropped");
        let empty = paced(time / 4, interval, rate, &mut |change| {
            change(&mut bare.io);
            bare.empty();
        });
        let (q, port) = (ours.medians(), empty.medians());
        say(&format!(
            "{name}, {load} % of {:.1} Mpps: p50 {:.2} us, p99 {:.2}, p99.9 {:.2}, longest {:.1}; port alone {:.2}, {:.2}; \
             {} of {} lost, {:.0} % of the time left out",
            1000.0 / largest,
            q[0],
            q[1],
            q[2],
            ours.max_us,
            port[0],
            port[2],
            ours.lost,
            ours.packets,
            ours.left_out * 100.0
        ));
        println!(
            "{}",
            json!({
                "row": format!("latency-{name}"), "flows": FLOWS, "workers": 1, "load": f64::from(load) / 100.0,
                "mpps": round(1000.0 / interval), "p50_us": q[0], "p99_us": q[1], "p999_us": q[2],
                "max_us": round(ours.max_us), "port_p50_us": port[0], "port_p999_us": port[2],
                "lost": ours.lost, "packets": ours.packets, "left_out": round(ours.left_out),
            })
        );
    }
}
