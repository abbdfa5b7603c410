//! What a choice costs: schedulers by the number of real servers.
//!
//! `cargo bench -p pollux-dataplane --bench schedulers [-- FILTER]` (criterion): a choice, the flow
//! that it opens counted, and the end of an older one.
//!
//! `… --bench schedulers -- --cycles [NAME]` makes a table. A row is one scheduler, a column one number of
//! servers. `open` is a choice and the count of the flow that it opens; `life` adds the end of some older flow;
//! `rebuild` is the first choice after one server came or went; `compile` is control's part of
//! that. Each figure is the best of several rounds, in nanoseconds and in cycles of the core,
//! whose length is measured first by a chain of dependent multiplications. Lines of JSON between the
//! others are for `scripts/bench.sh`.

use std::hint::black_box;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput};
use dataplane::sched::{CoreCounts, SchedCore, SchedKey, SchedulerKind, ServiceSched};
use dataplane::snapshot::{ForwardingMode, Match, RealSpec, ServiceSpec, Snapshot, Spec, Tunnel};
use dataplane::units::{Be16, Ip, NextHopId, RealId, ServiceId, Tick};
use serde_json::json;

const SERVERS: [u32; 4] = [10, 100, 1_000, 10_000];
const ROUNDS: usize = 15;
const FLOWS: u32 = 20_000;
const SERVICE: ServiceId = ServiceId(0);
/// What weighted least connection may take for a choice among 1,000 servers.
const WLC_CYCLES: u32 = 150;

/// How weights are given out.
#[derive(Clone, Copy)]
struct Weights(&'static str, fn(u32) -> u32);

const WEIGHTS: [Weights; 3] = [
    Weights("equal", |_| 1),
    Weights("1 to 10", |n| 1 + n % 10),
    // Large, without a common divisor: costs take more than 64 bits with the position.
    Weights("large", |n| 65_535 - n % 1_000 * 7),
];

struct Setup {
    /// Microseconds that compiling the snapshot took.
    compile: f64,
    core: SchedCore,
    counts: CoreCounts,
    snapshot: Snapshot,
    flows: Vec<RealId>,
    random: u64,
}

impl Setup {
    fn new(kind: SchedulerKind, servers: u32, weights: Weights) -> Self {
        let reals: Vec<RealSpec> = (0..servers).map(|n| real(n, (weights.1)(n))).collect();
        let service = ServiceSpec {
            id: SERVICE,
            matches: Match::Address { protocol: 6, vip: Ip::from_v4([10, 9, 0, 1]), port: 80 },
            scheduler: kind,
            sched_flags: 0,
            persistence: None,
            one_packet: false,
            extras: Default::default(),
            reals: reals.iter().map(|r| r.id).collect(),
        };
        let spec = Spec { generation: 1, services: vec![service], reals, ..Spec::default() };
        let compile = Self::time_compile(&spec);
        Self {
            compile,
            core: SchedCore::new(64, 16_384),
            counts: CoreCounts::new(16_384),
            snapshot: Snapshot::compile(&spec),
            flows: Vec::with_capacity(4 * FLOWS as usize),
            random: 88_172_645_463_325_252,
        }
    }
    fn sched(&self) -> &ServiceSched {
        &self.snapshot.service(SERVICE).expect("the one service").sched
    }
    /// Opens `flows` flows, ending an older one after each if `life`.
    #[inline(never)]
    fn run(&mut self, flows: u32, life: bool) {
        let Self { core, counts, snapshot, flows: opened, random, .. } = self;
        let Some(service) = snapshot.service(SERVICE) else { return };
        let mut key = SchedKey {
            client: Ip::from_v4([10, 1, 0, 1]),
            client_port: Be16::new(1),
            vip: Ip::from_v4([10, 9, 0, 1]),
            vport: Be16::new(80),
        };
        for n in 0..flows {
            key.client = Ip::from_v4(n.wrapping_mul(0x9e37_79b9).to_be_bytes());
            if let Some(id) = core.choose(SERVICE, &service.sched, counts, &key, Tick(0)) {
                core.opened(counts, id, true);
                opened.push(id);
            }
            if life && !opened.is_empty() {
                *random ^= *random << 13;
                *random ^= *random >> 7;
                *random ^= *random << 17;
                let id = opened.swap_remove((*random >> 33) as usize % opened.len());
                core.closed(counts, id, true);
            }
        }
    }
    fn close_all(&mut self) {
        while let Some(id) = self.flows.pop() {
            self.core.closed(&self.counts, id, true);
        }
    }
    /// Nanoseconds per flow opened: the best round, from empty servers on.
    fn time_open(&mut self) -> f64 {
        best(|| {
            self.close_all();
            let start = Instant::now();
            self.run(FLOWS, false);
            start.elapsed().as_nanos() as f64 / f64::from(FLOWS)
        })
    }
    /// The same with a flow closed for every flow opened.
    fn time_life(&mut self) -> f64 {
        best(|| {
            self.close_all();
            self.run(2 * FLOWS, false);
            let start = Instant::now();
            self.run(FLOWS, true);
            start.elapsed().as_nanos() as f64 / f64::from(FLOWS)
        })
    }
    /// Microseconds for control to compile the whole snapshot.
    fn time_compile(spec: &Spec) -> f64 {
        best(|| {
            let start = Instant::now();
            black_box(Snapshot::compile(black_box(spec)));
            start.elapsed().as_nanos() as f64 / 1_000.0
        })
    }
    /// Microseconds for the first choice after a change of the list.
    fn time_rebuild(&mut self, other: &ServiceSched) -> f64 {
        let key =
            SchedKey { client: Ip::default(), client_port: Be16::new(0), vip: Ip::default(), vport: Be16::new(0) };
        best(|| {
            let own = self.sched().clone();
            black_box(self.core.choose(SERVICE, other, &self.counts, &key, Tick(0)));
            let start = Instant::now();
            black_box(self.core.choose(SERVICE, &own, &self.counts, &key, Tick(0)));
            start.elapsed().as_nanos() as f64 / 1_000.0
        })
    }
}

fn real(n: u32, weight: u32) -> RealSpec {
    RealSpec {
        id: RealId(n),
        service: SERVICE,
        addr: Ip::from_v4([10, 2, (n >> 8) as u8, n as u8]),
        port: 80,
        mode: ForwardingMode::DirectRouting,
        tunnel: Tunnel::Ipip,
        weight,
        last_weight: weight,
        upper: 0,
        lower: 0,
        next_hop: NextHopId(0),
        source: Ip::UNSPECIFIED,
        path_mtu: 0,
        available: true,
        predecessor: RealId::NONE,
    }
}

fn best(mut round: impl FnMut() -> f64) -> f64 {
    (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
}

/// Cycles of the core in a nanosecond: a multiplication takes three, an exclusive or one.
fn cycles_per_ns() -> f64 {
    let chain = || {
        let mut x = black_box(3u64);
        let start = Instant::now();
        for _ in 0..1_000_000 {
            x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 1;
        }
        black_box(x);
        start.elapsed().as_nanos() as f64 / 4_000_000.0
    };
    1.0 / best(chain)
}

/// Flows of one turn of a criterion bench.
const TURN: u32 = 64;

fn criterion() {
    let mut c = Criterion::default().configure_from_args();
    for kind in SchedulerKind::ALL {
        let mut group = c.benchmark_group(format!("choice/{}", kind.name()));
        group.throughput(Throughput::Elements(u64::from(TURN)));
        for servers in SERVERS {
            let mut setup = Setup::new(kind, servers, WEIGHTS[1]);
            setup.run(2 * FLOWS, false);
            group.bench_function(BenchmarkId::from_parameter(servers), |b| b.iter(|| setup.run(TURN, true)));
        }
    }
    c.final_summary();
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|a| a == "--cycles") {
        return cycles(args.iter().find(|a| !a.starts_with('-')));
    }
    criterion();
}

fn cycles(filter: Option<&String>) {
    let rate = cycles_per_ns();
    println!("cycles of {:.2} GHz; each cell: ns (cycles)\n", rate);
    println!("{:<8}{:<10}{:<8}{}", "", "weights", "", SERVERS.map(|n| format!("{n:>18}")).concat());
    for kind in SchedulerKind::ALL {
        if filter.is_some_and(|f| f != kind.name()) {
            continue;
        }
        for weights in WEIGHTS {
            let mut rows = [const { String::new() }; 4];
            let mut opens = Vec::new();
            for servers in SERVERS {
                let mut setup = Setup::new(kind, servers, weights);
                let figures = [setup.time_open(), setup.time_life()];
                opens.push((figures[0] * rate).round());
                for (row, ns) in rows.iter_mut().zip(figures) {
                    row.push_str(&format!("{:>10.1} ({:>5.0})", ns, ns * rate));
                }
                let other = Setup::new(kind, servers - 1, weights);
                rows[3].push_str(&format!("{:>15.0} µs", setup.compile));
                rows[2].push_str(&format!("{:>15.1} µs", setup.time_rebuild(other.sched())));
            }
            for (name, row) in ["open", "life", "rebuild", "compile"].iter().zip(rows) {
                println!("{:<8}{:<10}{:<8}{row}", kind.name(), weights.0, name);
            }
            let mut row = json!({"row": format!("choice {}", kind.name()), "weights": weights.0});
            for (servers, cycles) in SERVERS.iter().zip(&opens) {
                row[format!("cycles_{servers}")] = json!(cycles);
            }
            if kind == SchedulerKind::Wlc {
                row["limit"] = json!({"key": "cycles_1000", "low": 0, "high": WLC_CYCLES, "text": "> 150 cycles"});
            }
            println!("{row}");
        }
    }
}
