//! Packets of known flows: the director, testpmd's `io` and its `macswap` in turns, on the
//! generator port.

use dataplane::snapshot::ForwardingMode::{DirectRouting, FullNat, Nat, Tunnel};
use serde_json::json;

use super::{Options, round, say, slice};
use crate::rig::clock::{median, spread};
use crate::rig::director::{Director, Shape};
use crate::rig::port::Bare;
use crate::rig::traffic::{ACK, Order, Rounds, Stamp, Traffic, Way, ordered, stamp};

/// Widest spread of the ratios that is taken for an answer.
const SPREAD: f64 = 0.05;

/// A row's configuration, and which way its packets go.
pub fn row(name: &str) -> Option<(Shape, Way)> {
    let (name, way) = name.strip_suffix("-reply").map_or((name, Way::Request), |n| (n, Way::Reply));
    let (name, six) = name.strip_suffix('6').map_or((name, false), |n| (n, true));
    let mode = match name {
        "dr" => DirectRouting,
        "nat" => Nat,
        "ipip" => Tunnel,
        "full-nat" => FullNat,
        _ => return None,
    };
    Some((Shape::small(mode, six), way))
}

/// Nanoseconds a packet: nothing behind the port, `macswap`, the director.
pub struct Costs {
    /// The port itself.
    pub empty: Vec<f64>,
    /// With the addresses exchanged.
    pub macswap: Vec<f64>,
    /// The director.
    pub ours: Vec<f64>,
}

impl Costs {
    /// What load balancing costs, by pair.
    pub fn e(&self) -> Vec<f64> {
        self.ours.iter().zip(&self.empty).map(|(a, b)| a - b).collect()
    }
    /// Rate of the director ÷ that of `macswap`, by pair.
    fn ratio(&self) -> Vec<f64> {
        self.ours.iter().zip(&self.macswap).map(|(a, b)| b / a).collect()
    }
}

/// The three of them in turns, on the same packets.
pub fn compare(o: &Options, director: &mut Director, make: impl Fn() -> Traffic) -> Costs {
    let mut bare = Bare::new(make());
    director.set(make());
    let mut costs = Costs { empty: Vec::new(), macswap: Vec::new(), ours: Vec::new() };
    let (received, dropped) = (director.worker.io().received, director.dropped());
    let sent = director.worker.io().sent;
    // As many again while they differ too much.
    for n in 0..2 * o.pairs {
        if n >= o.pairs && spread(&costs.ratio()) <= SPREAD {
            break;
        }
        costs.empty.push(slice(o.slice_ns(), || bare.empty()));
        costs.macswap.push(slice(o.slice_ns(), || bare.macswap()));
        costs.ours.push(slice(o.slice_ns(), || director.poll()));
    }
    let io = director.worker.io();
    assert_eq!(io.received - received, io.sent - sent, "every packet left");
    assert_eq!(director.dropped(), dropped, "no packet was dropped");
    costs
}

fn order_of(name: &str) -> Order {
    match name {
        "created" => Order::Created,
        "zipf" => Order::Zipf,
        _ => Order::Shuffled,
    }
}

/// The part.
pub fn run(o: &Options) {
    for flows in &o.flows {
        let all: Vec<Stamp> = (0..*flows).map(|n| stamp(n, 1)).collect();
        for name in &o.rows {
            let Some((shape, way)) = row(name) else {
                say(&format!("there is no row `{name}`"));
                continue;
            };
            let mut director = Director::new(&shape, flows + flows / 4 + 64);
            let replies = director.open(&shape, &all);
            let flows_of = if way == Way::Reply { &replies } else { &all };
            for order in o.orders.iter().map(|n| order_of(n)) {
                let sequence = ordered(flows_of, order);
                let make = || Traffic::Rounds(Rounds::new(shape.six, way, ACK, sequence.clone()));
                report(name, *flows, order, &compare(o, &mut director, make), director.worker.core().flows.is_huge());
            }
        }
    }
}

fn report(name: &str, flows: u32, order: Order, costs: &Costs, huge: bool) {
    let rate = |ns: &[f64]| round(1000.0 / median(ns));
    let e = median(&costs.e());
    say(&format!(
        "{name:10}{flows:>9} flows {:9} {e:6.1} ns beyond {:.1} ns of the port, ratio {:.3}, spread {:.1} %",
        order.name(),
        median(&costs.empty),
        median(&costs.ratio()),
        spread(&costs.ratio()) * 100.0
    ));
    println!(
        "{}",
        json!({
            "row": format!("gen-{name}"), "flows": flows, "workers": 1, "order": order.name(),
            "mpps": rate(&costs.ours), "macswap_mpps": rate(&costs.macswap), "io_mpps": rate(&costs.empty),
            "ratio": round(median(&costs.ratio())), "spread": round(spread(&costs.ratio())), "e_ns": round(e),
            "e_low_ns": round(crate::rig::clock::quantile(&costs.e(), 0.25)),
            "e_high_ns": round(crate::rig::clock::quantile(&costs.e(), 0.75)), "huge_pages": huge,
        })
    );
}
