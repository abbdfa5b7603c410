//! The parts of the `generator` bench.

mod connections;
mod delays;
mod handoff;
mod latency;
mod packets;
mod services;

use crate::rig::clock::cpu_ns;

/// Every part with its name.
pub const PARTS: [Part; 6] = [
    ("services", services::run),
    ("latency", latency::run),
    ("delays", delays::run),
    ("handoff", handoff::run),
    ("packets", packets::run),
    ("connections", connections::run),
];

type Part = (&'static str, fn(&Options));

/// How much is measured.
pub struct Options {
    /// Numbers of flows.
    pub flows: Vec<u32>,
    /// Rows, as `report` names them.
    pub rows: Vec<String>,
    /// Orders of the flows.
    pub orders: Vec<String>,
    /// Numbers of services.
    pub services: Vec<u32>,
    /// Pairs of slices.
    pub pairs: usize,
    /// Length of a slice, milliseconds.
    pub slice_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        let names = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Self {
            flows: vec![1 << 10, 1 << 16, 1 << 20, 10_000_000],
            rows: names(&["dr", "nat", "ipip", "full-nat", "dr6", "nat6", "nat-reply", "nat6-reply"]),
            orders: names(&["created", "shuffled", "zipf"]),
            services: vec![1, 10, 100, 1_000, 10_000],
            pairs: 7,
            slice_ms: 200,
        }
    }
}

impl Options {
    /// Sets an option by name.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        fn list<T: std::str::FromStr>(value: &str) -> Option<Vec<T>> {
            value.split(',').map(|v| v.replace('_', "").parse().ok()).collect()
        }
        let done = match name {
            "flows" => list(value).map(|v| self.flows = v),
            "rows" => list(value).map(|v| self.rows = v),
            "orders" => list(value).map(|v| self.orders = v),
            "services" => list(value).map(|v| self.services = v),
            "pairs" => value.parse().ok().map(|v| self.pairs = v),
            "slice-ms" => value.parse().ok().map(|v| self.slice_ms = v),
            _ => return Err(format!("there is no option --{name}")),
        };
        done.ok_or_else(|| format!("--{name} cannot be `{value}`"))
    }
    /// Length of a slice, nanoseconds.
    pub fn slice_ns(&self) -> u64 {
        self.slice_ms * 1_000_000
    }
}

/// Rounds between two looks at the clock.
const ROUNDS: u32 = 64;

/// Runs for `ns` nanoseconds of processor time, after a short while that warms the caches;
/// returns nanoseconds per packet.
#[inline(never)]
pub fn slice(ns: u64, mut round: impl FnMut() -> usize) -> f64 {
    let mut run = |ns: u64| {
        let (begin, mut packets) = (cpu_ns(), 0);
        loop {
            for _ in 0..ROUNDS {
                packets += round();
            }
            let spent = cpu_ns() - begin;
            if spent >= ns {
                return spent as f64 / packets.max(1) as f64;
            }
        }
    };
    run(ns / 10);
    run(ns)
}

/// Says what goes on.
pub fn say(text: &str) {
    eprintln!("generator: {text}");
}

/// A number as JSON has it, with as many digits as mean something.
pub fn round(x: f64) -> f64 {
    (x * 10_000.0).round() / 10_000.0
}
