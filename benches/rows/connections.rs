//! Connections: opened and closed at a steady number of live flows, and what opening costs.

use std::sync::Arc;

use dataplane::snapshot::ForwardingMode::{DirectRouting, Nat};
use dataplane::units::Tick;
use serde_json::json;

use super::{Options, round, say, slice};
use crate::rig::clock::{median, spread};
use crate::rig::director::{Director, Shape};
use crate::rig::port::Bare;
use crate::rig::traffic::{ACK, Connections, Order, Rounds, SYN, Stamp, Traffic, Way, ordered, stamp};

/// Live flows in the steady state: half of them open, half waiting for their end.
const LIVE: u64 = 1_000_000;
/// How long a closed connection is kept, the default.
const TIME_WAIT_MS: u64 = 120_000;
/// How many times a packet of a known flow one that opens a flow may cost.
const OPENING_FLOOR: f64 = 6.0;
/// Connections a second and core.
const RATE_FLOOR: f64 = 0.8;

/// The part.
pub fn run(o: &Options) {
    for (name, mode) in [("dr", DirectRouting), ("nat", Nat)] {
        let shape = Shape::small(mode, false);
        lives(o, name, &shape);
        openings(o, name, &shape);
    }
}

/// Six packets a connection, at a steady number of live flows.
///
/// The director's clock is driven by the connections: so many a millisecond that as many as
/// are open wait for their end. That keeps the default time-outs, and lets time pass some
/// hundred times as fast as it does: the wheel turns more often than it would.
fn lives(o: &Options, name: &str, shape: &Shape) {
    let nat = shape.mode == Nat;
    let make = || Traffic::Connections(Box::new(Connections::new(false, nat, LIVE / 2, 1)));
    let mut bare = Bare::new(make());
    let mut director = Director::new(shape, LIVE as u32 * 5 / 4);
    director.set(make());
    let mut now = Tick(1);
    let mut poll = |d: &mut Director| {
        if let Traffic::Connections(c) = &d.worker.io().traffic {
            now = Tick(1 + (c.at * TIME_WAIT_MS / (LIVE / 2)) as u32);
        }
        d.worker.poll(now)
    };
    // Until the first connections have come to their end, and some more.
    while opened(&director) < 2 * LIVE {
        poll(&mut director);
        bare.empty();
    }
    let (mut ours, mut empty, mut live) = (Vec::new(), Vec::new(), Vec::new());
    let (before, dropped) = (opened(&director), director.dropped());
    for n in 0..2 * o.pairs {
        if n >= o.pairs && spread(&ours) < 0.05 {
            break;
        }
        empty.push(6.0 * slice(o.slice_ns(), || bare.empty()));
        ours.push(6.0 * slice(o.slice_ns(), || poll(&mut director)));
        live.push(f64::from(director.worker.core().flows.len()));
    }
    let e: Vec<f64> = ours.iter().zip(&empty).map(|(a, b)| a - b).collect();
    let done = opened(&director) - before;
    assert_eq!(director.dropped(), dropped, "no packet was dropped");
    let expired = director.link.counters.worker.flows_expired.get();
    let rate = 1000.0 / median(&e);
    say(&format!(
        "{name}: {rate:.2} million connections a second ({:.0} ns each beyond {:.0} of the port), {:.0} live, \
         {done} opened, {expired} expired",
        median(&e),
        median(&empty),
        median(&live)
    ));
    println!(
        "{}",
        json!({
            "row": format!("connections-{name}"), "flows": median(&live), "workers": 1, "mconn_s": round(rate),
            "mconn_s_with_port": round(1000.0 / median(&ours)), "connection_ns": round(median(&e)),
            "spread": round(spread(&ours)),
            "limit": {"key": "mconn_s", "low": RATE_FLOOR, "high": 1e9, "text": format!("< {RATE_FLOOR} M/s")},
        })
    );
}

fn opened(d: &Director) -> u64 {
    d.link.counters.worker.flows_opened.get()
}

/// SYNs of new flows against ACKs of known ones, while a million flows are live.
fn openings(o: &Options, name: &str, shape: &Shape) {
    const KNOWN: u32 = 1 << 20;
    const NEW: u32 = 1 << 18;
    let flows: Vec<Stamp> = (0..KNOWN).map(|n| stamp(n, 1)).collect();
    let mut director = Director::new(shape, KNOWN + 2 * NEW);
    director.open(shape, &flows);
    let known = ordered(&flows, Order::Shuffled);
    let new: Vec<Stamp> = (KNOWN..KNOWN + NEW).map(|n| stamp(n, 1)).collect();
    let new: Arc<[Stamp]> = new.into();
    let rounds =
        |flags, sequence: &Arc<[Stamp]>| Traffic::Rounds(Rounds::new(false, Way::Request, flags, sequence.clone()));
    let (mut bare, mut port) = (Bare::new(rounds(ACK, &known)), Vec::new());
    let (mut hits, mut opens) = (Vec::new(), Vec::new());
    let mut now = Tick(20_000);
    let lap = |d: &mut Director, n: u32, now: Tick| {
        let target = d.worker.io().received + u64::from(n);
        let begin = crate::rig::clock::cpu_ns();
        while d.worker.io().received < target {
            d.worker.poll(now);
        }
        (crate::rig::clock::cpu_ns() - begin) as f64 / f64::from(n)
    };
    for _ in 0..o.pairs {
        port.push(slice(o.slice_ns() / 4, || bare.empty()));
        director.set(rounds(ACK, &known));
        hits.push(lap(&mut director, KNOWN, now));
        director.set(rounds(SYN, &new));
        opens.push(lap(&mut director, NEW, now));
        // The new ones end, untimed; the known ones live on.
        director.set(Traffic::Silence);
        now = now.after_ms(130_000);
        while director.worker.core().flows.len() > KNOWN {
            director.worker.poll(now);
        }
    }
    assert_eq!(director.worker.core().flows.len(), KNOWN, "the known flows live on");
    let ratios: Vec<f64> =
        opens.iter().zip(&hits).zip(&port).map(|((open, hit), port)| (open - port) / (hit - port)).collect();
    let (open, hit, port) = (median(&opens), median(&hits), median(&port));
    say(&format!(
        "{name}: opening a flow {:.0} ns, packet of a known flow {:.1} ns, {:.2} times",
        open - port,
        hit - port,
        median(&ratios)
    ));
    println!(
        "{}",
        json!({
            "row": format!("opening-{name}"), "flows": KNOWN, "workers": 1, "open_ns": round(open - port),
            "known_ns": round(hit - port), "open_ratio": round(median(&ratios)),
            "open_ratio_with_port": round(open / hit), "spread": round(spread(&ratios)),
            "limit": {"key": "open_ratio", "low": 0.0, "high": OPENING_FLOOR, "text": format!("> {OPENING_FLOOR} times")},
        })
    );
}
