//! Traffic: `stats` and `drops`.

use std::thread::sleep;
use std::time::Duration;

use super::args::StatsArgs;
use super::table::{Numbers, Table};
use super::{Context, Done};
use crate::client::ClientError;
use crate::engine::{DropView, Rates, ServiceView, Stats, Traffic, WorkerView};
use crate::model::{Error, ServiceKey};

/// Clears a terminal and goes to its top.
const CLEAR: &str = "\x1b[H\x1b[2J";
/// Drop reasons that `stats` shows below the traffic.
const TOP_DROPS: usize = 5;

impl Context<'_> {
    pub(super) fn stats(&mut self, a: &StatsArgs) -> Done {
        loop {
            let answer = self.client.get("/v1/stats")?;
            if self.json {
                self.raw(&answer.body)?;
            } else {
                let stats: Stats = answer.json()?;
                let text = stats_text(&stats, a)?;
                if a.watch.is_some() && self.terminal {
                    self.out.write_all(CLEAR.as_bytes())?;
                }
                self.out.write_all(text.as_bytes())?;
            }
            let Some(seconds) = a.watch else { return Ok(()) };
            if !self.json && !self.terminal {
                self.out.write_all(b"\n")?;
            }
            self.out.flush()?;
            sleep(Duration::from_secs(seconds));
        }
    }

    pub(super) fn drops(&mut self, all: bool) -> Done {
        self.print("/v1/stats", |s: &Stats| {
            let mut wanted: Vec<&DropView> = s.drops.iter().filter(|d| all || d.packets > 0).collect();
            wanted.sort_by_key(|d| std::cmp::Reverse(d.packets));
            if wanted.is_empty() {
                return "No packet was dropped.\n".into();
            }
            drops_table(&wanted)
        })
    }
}

fn stats_text(stats: &Stats, a: &StatsArgs) -> Result<String, ClientError> {
    if a.workers {
        return Ok(workers_table(&stats.workers, Numbers { exact: a.exact }));
    }
    if a.cycles {
        return Ok(cycles_table(&stats.workers));
    }
    let services = match a.service {
        Some(key) => vec![one(stats, key)?],
        None => stats.services.iter().collect(),
    };
    let n = Numbers { exact: a.exact };
    let mut text = if a.rates { rates_table(stats, &services, a, n) } else { totals_table(stats, &services, a, n) };
    if a.service.is_none() {
        text.push_str(&format!("\nFlows tracked now: {}\n", n.count(stats.flows)));
        let mut drops: Vec<&DropView> = stats.drops.iter().filter(|d| d.packets > 0).collect();
        drops.sort_by_key(|d| std::cmp::Reverse(d.packets));
        let more = drops.len().saturating_sub(TOP_DROPS);
        drops.truncate(TOP_DROPS);
        if !drops.is_empty() {
            text.push_str(&format!("\n{}", drops_table(&drops)));
        }
        if more > 0 {
            text.push_str(&format!("{more} more: polluxctl drops\n"));
        }
    }
    Ok(text)
}

/// The service that is asked for; a refusal like the API's when there is none.
fn one(stats: &Stats, key: ServiceKey) -> Result<&ServiceView, ClientError> {
    stats.services.iter().find(|s| s.address == key).ok_or_else(|| {
        let mut problem = crate::api::Problem::from(Error::no_such_service(&key));
        problem.object = Some(key.to_string());
        let body = serde_json::to_vec(&serde_json::json!({ "error": problem })).unwrap_or_default();
        ClientError::Refused { status: 404, problem: Box::new(problem), body: body.into() }
    })
}

fn totals_table(stats: &Stats, services: &[&ServiceView], a: &StatsArgs, n: Numbers) -> String {
    let columns = ["SERVICE / SERVER", ">CONNECTIONS", ">IN PACKETS", ">OUT PACKETS", ">IN BYTES", ">OUT BYTES"];
    let row = |name: String, t: &Traffic| {
        let counts = [t.connections, t.in_packets, t.out_packets].map(|c| n.count(c));
        std::iter::once(name).chain(counts).chain([t.in_bytes, t.out_bytes].map(|b| n.bytes(b)))
    };
    let mut t = Table::new(&columns);
    for s in services {
        t.row(row(s.address.to_string(), &s.traffic));
        s.servers.iter().for_each(|r| t.row(row(format!("  {}", r.address), &r.traffic)));
    }
    if a.service.is_none() {
        t.row(row("all services".into(), &stats.traffic));
    }
    t.render()
}

fn rates_table(stats: &Stats, services: &[&ServiceView], a: &StatsArgs, n: Numbers) -> String {
    let columns = ["SERVICE / SERVER", ">CONN/S", ">IN PACKETS/S", ">OUT PACKETS/S", ">IN", ">OUT"];
    let row = |name: String, r: &Rates| {
        let counts = [r.connections, r.in_packets, r.out_packets].map(|c| n.rate(c));
        std::iter::once(name).chain(counts).chain([r.in_bytes, r.out_bytes].map(|b| n.bits(b)))
    };
    let mut t = Table::new(&columns);
    for s in services {
        t.row(row(s.address.to_string(), &s.rates));
        s.servers.iter().for_each(|r| t.row(row(format!("  {}", r.address), &r.rates)));
    }
    if a.service.is_none() {
        t.row(row("all services".into(), &stats.rates));
    }
    t.render()
}

fn drops_table(drops: &[&DropView]) -> String {
    let mut t = Table::new(&[">DROPPED", "REASON", "MEANING"]);
    for d in drops {
        t.row([d.packets.to_string(), d.reason.clone(), d.description.clone()]);
    }
    t.render()
}

/// Busy and idle share of each core, and cycles a packet by stage in the polls that were timed.
fn cycles_table(workers: &[WorkerView]) -> String {
    const STAGES: [&str; 5] = ["receive", "fast", "general", "housekeeping", "send"];
    let mut columns = ["WORKER", ">CORE", ">BUSY", ">IDLE"].map(str::to_owned).to_vec();
    columns.extend(STAGES.iter().map(|s| format!(">{}", s.to_uppercase())));
    columns.push(">CYCLES A PACKET".into());
    let mut t = Table::new(&columns);
    for w in workers {
        let of = |name: &str| w.counters.get(name).copied().unwrap_or(0) as f64;
        let packets = of("sampled_packets");
        let cell = |cycles: f64| if packets > 0.0 { format!("{:.0}", cycles / packets) } else { "-".into() };
        let stages = STAGES.map(|s| of(&format!("cycles_{s}")));
        let core = w.core.map_or_else(|| "?".into(), |c| c.to_string());
        let shares = [w.busy, 1.0 - w.busy].map(|share| format!("{:.1} %", share * 100.0));
        let head = [w.worker.to_string(), core].into_iter().chain(shares);
        t.row(head.chain(stages.map(cell)).chain([cell(stages.iter().sum())]));
    }
    format!(
        "{}\nTimed: one in 1,024 polls that received packets. Sending is part of fast where a burst leaves whole.\n",
        t.render()
    )
}

/// One column a worker, one row a counter: workers are few, counters many.
fn workers_table(workers: &[WorkerView], n: Numbers) -> String {
    let Some(first) = workers.first() else { return "No worker runs.\n".into() };
    let mut columns = vec!["COUNTER".to_owned()];
    columns.extend(workers.iter().map(|w| format!(">WORKER {}", w.worker)));
    let mut t = Table::new(&columns);
    let mut row = |name: &str, cell: &dyn Fn(&WorkerView) -> String| {
        t.row(std::iter::once(name.to_owned()).chain(workers.iter().map(cell)));
    };
    row("core", &|w| w.core.map_or_else(|| "?".into(), |c| c.to_string()));
    row("generation", &|w| w.generation.to_string());
    row("busy", &|w| format!("{:.1} %", w.busy * 100.0));
    for name in first.counters.keys() {
        row(name, &|w| n.count(w.counters.get(name).copied().unwrap_or(0)));
    }
    let reasons: std::collections::BTreeSet<&String> = workers.iter().flat_map(|w| w.drops.keys()).collect();
    for reason in reasons {
        row(&format!("dropped: {reason}"), &|w| n.count(w.drops.get(reason).copied().unwrap_or(0)));
    }
    t.render()
}
