//! Look-ups of the flow table against hashbrown and DPDK's `rte_hash`, run alternately in
//! small pieces, so that a noisy machine disturbs all alike: medians and ratios.
//!
//! `cargo bench -p pollux-dataplane --features dpdk --bench flow_ratio [-- FLOWS …]`
//!
//! Lines of JSON between the others are for `scripts/bench.sh`.

mod flow;

use std::time::Instant;

use dataplane::flow::hash::Secret;
use dataplane::flow::record::FlowRecord;
use dataplane::flow::table::{Fate, FlowTable};
use dataplane::units::Tick;
use flow::{BURST, Packet};
use serde_json::json;

const ROUNDS: usize = 15;
/// Look-ups of one contestant before it is the next one's turn.
const PIECE: usize = 1 << 20;

/// Nanoseconds per packet of each round, by contestant.
struct Race {
    names: Vec<&'static str>,
    times: Vec<Vec<f64>>,
}

impl Race {
    fn median(&self, i: usize) -> f64 {
        let mut t = self.times[i].clone();
        t.sort_by(f64::total_cmp);
        t[t.len() / 2]
    }

    fn print(&self, what: &str, flows: u32) {
        let mut row = json!({
            "row": format!("lookup {what}"), "flows": flows, "ns": round(self.median(0)),
            "bytes_a_flow": round(FlowTable::bytes_for(flows) as f64 / f64::from(flows)),
        });
        for (i, name) in self.names.iter().enumerate() {
            let mut ratios: Vec<f64> = self.times[i].iter().zip(&self.times[0]).map(|(t, ours)| t / ours).collect();
            ratios.sort_by(f64::total_cmp);
            let (low, mid, high) = (ratios[1], ratios[ratios.len() / 2], ratios[ratios.len() - 2]);
            println!("{flows:>9} {what:<16} {name:<18} {:>7.1} ns {mid:>6.2} x  ({low:.2}-{high:.2})", self.median(i));
            row[*name] = json!(round(mid));
        }
        println!("{row}");
    }
}

fn round(x: f64) -> f64 {
    (x * 1000.0).round() / 1000.0
}

type Contestant<'a> = (&'static str, Box<dyn FnMut(std::ops::Range<usize>) -> usize + 'a>);

/// Sends pieces of `0..len` through each in turn; all must find `share` of them.
fn race(len: usize, hit: bool, mut contestants: Vec<Contestant<'_>>) -> Race {
    let names = contestants.iter().map(|c| c.0).collect();
    let mut times = vec![Vec::new(); contestants.len()];
    let mut at = 0;
    for round in 0..=ROUNDS {
        for (i, (name, run)) in contestants.iter_mut().enumerate() {
            let (mut from, mut done) = (at, 0);
            let begin = Instant::now();
            while done < PIECE {
                let n = BURST.min(len - from);
                let hits = run(from..from + n);
                assert_eq!(hits, if hit { n } else { 0 }, "{name}");
                done += n;
                from = (from + n) % len;
            }
            // The first round warms up.
            if round > 0 {
                times[i].push(begin.elapsed().as_nanos() as f64 / done as f64);
            }
        }
        at = (at + PIECE.next_multiple_of(BURST)) % len / BURST * BURST;
    }
    Race { names, times }
}

/// How long the pieces of expiry take with these flows, idle: the table walks through 20
/// minutes in steps of a millisecond; each flow comes up and is kept or ends.
fn expiry(secret: Secret, packets: &[Packet], fate: Fate) {
    const LIFE_MS: u32 = 900_000;
    let n = packets.len() as u32;
    let mut t = FlowTable::new(n, secret).expect("memory for the table");
    for (i, p) in packets.iter().enumerate() {
        // Ends evenly spread, in another order than numbers.
        let end = (u64::from((i as u32).wrapping_mul(0x9e37_79b1)) * u64::from(LIFE_MS)) >> 32;
        let r = FlowRecord { deadline: Tick(end as u32), ..flow::record(p) };
        t.insert(p.hash, r, Tick(0)).expect("room");
    }
    let (mut met, mut spent, mut pieces) = (0u32, 0, Vec::with_capacity(1 << 20));
    for ms in 0..LIFE_MS + 300 {
        let now = Tick(ms);
        let before = met;
        let begin = Instant::now();
        t.expire(now, 64, |_, r| {
            met += 1;
            r.deadline = now.after_ms(LIFE_MS);
            fate
        });
        let took = begin.elapsed().as_nanos() as u64;
        spent += took;
        if met > before {
            pieces.push(took);
        }
    }
    pieces.sort_unstable();
    let at = |share: f64| pieces.get((pieces.len() as f64 * share) as usize).copied().unwrap_or(0) as f64 / 1000.0;
    println!(
        "{n:>9} expire, {fate:?}: {:.0} ns a flow, {:.3} % of a core; a piece takes {:.1} us (median), {:.1} (99 %), {:.1} (99.9 %); met {met}",
        spent as f64 / f64::from(met.max(1)),
        spent as f64 / (f64::from(LIFE_MS) * 1e6) * 100.0,
        at(0.5),
        at(0.99),
        at(0.999),
    );
    let share = spent as f64 / (f64::from(LIFE_MS) * 1e6);
    println!(
        "{}",
        json!({
            "row": format!("expiry, {fate:?}").to_lowercase(), "flows": n, "core_share": (share * 1e6).round() / 1e6,
            "piece_p50_us": round(at(0.5)), "piece_p99_us": round(at(0.99)),
            "limit": {"key": "core_share", "low": 0.0, "high": EXPIRY_SHARE, "text": "> 5 % of the core"},
        })
    );
}

/// The share of a core that expiry may take.
const EXPIRY_SHARE: f64 = 0.05;

/// Packets of which so many are kept for one race: more than caches hold, less than memory.
const MOST: usize = 4 << 20;

fn main() {
    let chosen: Vec<u32> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let sizes = if chosen.is_empty() { vec![1 << 10, 1 << 16, 1_000_000, 10_000_000] } else { chosen };
    #[cfg(feature = "dpdk")]
    let eal = flow::rte::start();
    for n in sizes {
        let secret = Secret::fixed();
        let mut packets = flow::packets(&secret, 0, n);
        let ours = flow::ours(secret, &packets);
        let bare = flow::TwoLines::new(n);
        let brown = flow::brown(&secret, &packets);
        #[cfg(feature = "dpdk")]
        let (wide, narrow) = (
            flow::rte::RteHash::new(&eal, flow::rte::Key::Wide, &packets),
            flow::rte::RteHash::new(&eal, flow::rte::Key::Narrow, &packets),
        );
        println!(
            "{n:>9} flows, {:.1} bytes a flow, huge pages: {}",
            ours.bytes() as f64 / f64::from(n),
            ours.is_huge()
        );
        for (what, hit) in [("hit, in order", true), ("hit, shuffled", true), ("miss", false)] {
            match what {
                "hit, shuffled" => flow::shuffle(&mut packets),
                "miss" => packets = flow::packets(&secret, n, n.min(MOST as u32)),
                _ => {}
            }
            let packets: &[Packet] = &packets[..packets.len().min(MOST)];
            let mut contestants: Vec<Contestant<'_>> = vec![
                ("pollux", Box::new(|r| flow::find_ours(&ours, &packets[r]))),
                ("hashbrown", Box::new(|r| flow::find_brown(&brown, &packets[r]))),
                #[cfg(feature = "dpdk")]
                ("rte_hash 48 B key", Box::new(|r| wide.find(&packets[r], &mut [std::ptr::null_mut(); BURST]))),
                #[cfg(feature = "dpdk")]
                ("rte_hash 16 B key", Box::new(|r| narrow.find(&packets[r], &mut [std::ptr::null_mut(); BURST]))),
            ];
            if hit {
                contestants.push(("two lines, bare", Box::new(|r| bare.find(&packets[r]))));
            }
            race(packets.len(), hit, contestants).print(what, n);
        }
        drop((ours, bare, brown));
        #[cfg(feature = "dpdk")]
        drop((wide, narrow));
        let packets = flow::packets(&secret, 0, n);
        expiry(secret, &packets, Fate::Keep);
        expiry(secret, &packets, Fate::Remove);
    }
}
