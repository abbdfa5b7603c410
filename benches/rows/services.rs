//! What more services cost: a packet, and the compiling of a snapshot.

use std::time::Instant;

use dataplane::flow::table::FlowTable;
use dataplane::snapshot::ForwardingMode::DirectRouting;
use dataplane::snapshot::Snapshot;
use serde_json::json;

use super::packets::compare;
use super::{Options, round, say};
use crate::rig::clock::{median, spread};
use crate::rig::director::{Director, Shape, spec};
use crate::rig::traffic::{ACK, Order, Rounds, Stamp, Traffic, Way, ordered, stamp};

/// Real servers of each service.
const REALS: u32 = 10;
/// How much a packet may become dearer from the first to the last number of services.
const GROWTH: f64 = 1.3;

/// The part.
pub fn run(o: &Options) {
    for flows in o.flows.iter().filter(|n| **n >= 1 << 16) {
        let mut first = None;
        for services in &o.services {
            let shape = Shape { services: *services, reals: REALS, ..Shape::small(DirectRouting, false) };
            let described = spec(&shape);
            let begin = Instant::now();
            let snapshot = Snapshot::compile(&described);
            let compile_ms = begin.elapsed().as_secs_f64() * 1000.0;
            drop((described, snapshot));
            let all: Vec<Stamp> = (0..*flows).map(|n| stamp(n, *services)).collect();
            let mut director = Director::new(&shape, flows + flows / 4 + 64);
            director.open(&shape, &all);
            let sequence = ordered(&all, Order::Shuffled);
            let costs =
                compare(o, &mut director, || Traffic::Rounds(Rounds::new(false, Way::Request, ACK, sequence.clone())));
            // The whole packet, its port included, and E alone.
            let (whole, e) = (median(&costs.ours), median(&costs.e()));
            let (whole_first, e_first) = *first.get_or_insert((whole, e));
            say(&format!(
                "{services:>6} services of {REALS} servers, {flows:>9} flows: {e:.1} ns beyond the port, {:.2} times \
                 the first; compiled in {compile_ms:.1} ms",
                e / e_first,
            ));
            println!(
                "{}",
                json!({
                    "row": "services-dr", "flows": flows, "workers": 1, "services": services,
                    "reals": services * REALS, "e_ns": round(e), "growth": round(e / e_first),
                    "growth_with_port": round(whole / whole_first), "spread": round(spread(&costs.ours)),
                    "compile_ms": round(compile_ms), "table_mb": round(director.worker.core().flows.bytes() as f64 / 1e6),
                    "bytes_a_flow": round(FlowTable::bytes_for(*flows) as f64 / f64::from(*flows)),
                    "limit": {"key": "growth", "low": 0.0, "high": GROWTH, "text": format!("grows by more than {GROWTH}")},
                })
            );
        }
    }
}
