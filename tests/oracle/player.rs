//! Plays a scenario through the pipeline and compares every packet with the recording.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use dataplane::units::Mac;
use serde_json::Value;

use crate::oracle::dissect::dissect;
use crate::oracle::language;
use crate::oracle::listing::{Finding, Listings, is_numeric};
use crate::oracle::purpose::{Field, Known, Purpose};
use crate::oracle::rules::{MACS, Rules};
use crate::rig::Rig;

/// What playing one scenario showed.
pub struct Report {
    /// The scenario's name.
    pub name: String,
    /// Steps compared.
    pub compared: usize,
    /// Every difference, in words, and the purpose it serves if it is meant.
    pub findings: Vec<Finding>,
}

impl Report {
    /// What differs and is not meant to.
    pub fn differences(&self) -> impl Iterator<Item = &str> {
        self.findings.iter().filter(|(_, why)| why.is_none()).map(|(text, _)| text.as_str())
    }

    /// What the differences that are meant are for.
    pub fn purposes(&self) -> BTreeSet<Purpose> {
        self.findings.iter().filter_map(|(_, why)| *why).collect()
    }
}

struct Player {
    rig: Rig,
    rules: Rules,
    macs: HashMap<[u8; 6], String>,
    last: HashMap<String, Vec<u8>>,
    results: std::vec::IntoIter<Value>,
    report: Report,
    known: Known,
    listings: Listings,
    /// Our time, milliseconds, when the recording's clock was at zero.
    zero: Option<f64>,
}

/// Plays `scenarios/NAME.json` against `results/NAME.jsonl` of a folder.
pub fn play(dir: &Path, name: &str) -> Result<Report> {
    let read = |p: std::path::PathBuf| fs::read_to_string(&p).with_context(|| format!("cannot read {}", p.display()));
    let scenario: Value = serde_json::from_str(&read(dir.join("scenarios").join(format!("{name}.json")))?)?;
    let results = read(dir.join("results").join(format!("{name}.jsonl")))?;
    let results: Vec<Value> = results.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let mut player = Player::new(name, &scenario, results)?;
    for rule in strings(&scenario["rules"]) {
        let (code, said) = player.rules.run(rule, "", player.now());
        if code != 0 {
            let why = player.known.command(rule, "", (code, &said), &Value::from(0));
            player.report.findings.push((format!("`ipvsadm {rule}` is refused: {}", said.trim_end()), why));
        }
    }
    player.rig.run();
    for step in scenario["steps"].as_array().context("no steps")? {
        player.step(step)?;
    }
    Ok(player.report)
}

fn strings(v: &Value) -> impl Iterator<Item = &str> {
    v.as_array().into_iter().flatten().filter_map(Value::as_str)
}

impl Player {
    fn new(name: &str, scenario: &Value, results: Vec<Value>) -> Result<Self> {
        let begin = results.iter().find(|r| r["type"] == "begin").context("the recording has no beginning")?;
        let mut servers = HashMap::new();
        let mut macs = HashMap::new();
        for (addr, mac) in begin["servers"].as_object().into_iter().flatten() {
            let mac: Mac = mac.as_str().unwrap_or_default().parse().map_err(anyhow::Error::msg)?;
            let Ok(a) = addr.parse::<IpAddr>() else { continue };
            servers.insert(a, mac);
            macs.insert(mac.0, addr.clone());
        }
        let vips: Vec<IpAddr> = strings(&begin["vips"]).filter_map(|v| v.parse().ok()).collect();
        let mut known = Known::default();
        known.own.extend(&vips);
        for own in ["10.3.0.1", "10.2.0.254", "2001:db8:3::1", "2001:db8:2::fe"] {
            known.own.insert(own.parse()?);
        }
        let rig = Rig::new(1);
        let rules = Rules::new(scenario, vips, &servers, &rig.links, u64::from(rig.now.0))?;
        let report = Report { name: name.into(), compared: 0, findings: Vec::new() };
        let (last, listings, results) = (HashMap::new(), Listings::default(), results.into_iter());
        Ok(Self { rig, rules, macs, last, results, report, known, listings, zero: None })
    }

    fn now(&self) -> u64 {
        u64::from(self.rig.now.0)
    }

    /// The control side's turn, and the workers'.
    fn tick(&mut self) {
        self.rules.tick(self.now());
        self.rig.run();
    }

    fn sleep(&mut self, ms: u32) {
        for _ in 0..ms / 250 {
            self.rig.sleep_ms(250);
            self.tick();
        }
        self.rig.sleep_ms(ms % 250);
        self.tick();
    }

    /// Catches up with the recording's clock, so that timers can be compared.
    fn catch_up(&mut self, line: &Value) {
        let Some(t) = line["t"].as_f64() else { return };
        let now = self.now() as f64;
        let zero = *self.zero.get_or_insert(now - t * 1000.0);
        let behind = zero + t * 1000.0 - now;
        if behind >= 1.0 {
            self.sleep(behind as u32);
        }
    }

    fn next(&mut self, kind: &str) -> Result<Value> {
        loop {
            let Some(r) = self.results.next() else { bail!("the recording ends where a `{kind}` line was due") };
            if r["type"] == kind {
                return Ok(r);
            }
            if r["type"] == "pkt" {
                bail!("the recording has a packet where a `{kind}` line was due");
            }
        }
    }

    fn step(&mut self, step: &Value) -> Result<()> {
        if step.get("quiet").is_some() || step.get("burst").is_some() {
            return self.unreported(step);
        }
        if step.get("pkt").is_some() {
            for _ in 0..step["count"].as_u64().unwrap_or(1) {
                let expected = self.next("pkt")?;
                self.packet(&expected);
            }
        } else if step.get("flow").is_some() {
            loop {
                let Some(r) = self.results.next() else { bail!("the recording ends within a flow step") };
                match r["type"].as_str() {
                    Some("pkt") => self.packet(&r),
                    Some("sequence") => break,
                    _ => {}
                }
            }
        } else if let Some(line) = step["ipvsadm"].as_str() {
            let expected = self.next("ipvsadm")?;
            self.ipvsadm(line, step["stdin"].as_str(), &expected);
        } else if step.get("show").is_some() {
            self.show_all(step)?;
        } else if let Some(s) = step["fast"].as_f64().or(step["sleep"].as_f64()) {
            self.sleep((s * 1000.0) as u32);
        } else if let Some(line) = step["sh"].as_str() {
            if let Some((value, key)) = line.strip_prefix("echo ").and_then(|l| l.split_once(" > /proc/sys/")) {
                self.rules.sysctl(&key.replace('/', "."), &Value::from(value), self.now())?;
                self.rig.run();
            }
        }
        Ok(())
    }

    fn ipvsadm(&mut self, line: &str, stdin: Option<&str>, expected: &Value) {
        self.catch_up(expected);
        let (code, said) = self.rules.run(line, stdin.unwrap_or_default(), self.now());
        self.rig.run();
        if expected["rc"] != code || expected["stderr"] != said.as_str() {
            let (rc, stderr) = (&expected["rc"], &expected["stderr"]);
            let why = self.known.command(line, stdin.unwrap_or_default(), (code, &said), rc);
            let text = format!("`ipvsadm {line}`: {code} {said:?} instead of {rc} {stderr}");
            self.report.findings.push((text, why));
        }
    }

    /// Compares listings: `all` is recorded as one line for each form.
    fn show_all(&mut self, step: &Value) -> Result<()> {
        let forms = if step["show"] == "all" { ALL_FORMS.len() } else { 1 };
        for _ in 0..forms {
            let expected = self.next("show")?;
            self.show(&expected);
        }
        Ok(())
    }

    fn show(&mut self, expected: &Value) {
        let args = expected["args"].as_str().unwrap_or_default();
        // Names come from the DNS, the order without sorting from the kernel's hash table,
        // and rates depend on when the kernel's timer ran.
        if args.contains("nosort") || args.contains("rate") || !(is_numeric(args) || args.contains("timeout")) {
            return;
        }
        self.catch_up(expected);
        let now = self.now();
        let rig = &mut self.rig;
        let (code, out, said) = self.rules.show(args, now, || rig.run());
        let wanted = expected["stdout"].as_str().unwrap_or_default();
        if expected["rc"] != code || expected["stderr"] != said.as_str() {
            let text = format!("`ipvsadm {args}`: {code} {said:?} instead of {}", expected["rc"]);
            self.report.findings.push((text, None));
        }
        self.listings.elapsed_s = expected["t"].as_f64().unwrap_or(0.0) as i64;
        for (text, why) in self.listings.compare(args, &out, wanted, &self.known) {
            self.report.findings.push((format!("`ipvsadm {args}`: {text}"), why));
        }
    }

    fn unreported(&mut self, step: &Value) -> Result<()> {
        let text = step["pkt"].as_str().or(step["burst"].as_str()).unwrap_or_default().to_owned();
        let every = step["every"].as_f64().unwrap_or(0.0);
        for _ in 0..step["count"].as_u64().unwrap_or(1) {
            let (side, text) = text.split_once(' ').context("a packet without a side")?;
            self.inject(side, text);
            if every > 0.0 {
                self.sleep((every * 1000.0) as u32);
            }
        }
        Ok(())
    }

    /// Sends a described packet and returns what came out as (side, Ethernet destination, IP packet).
    fn inject(&mut self, side: &str, text: &str) -> Vec<(&'static str, [u8; 6], Vec<u8>)> {
        let inner = language::quotes(text).and_then(|q| self.last.get(q).cloned());
        let packets = language::build(text, inner.as_deref()).unwrap_or_default();
        let (port, to) = if side == "c" { (0, MACS[0]) } else { (1, MACS[1]) };
        let mut out = Vec::new();
        for p in packets {
            let ethertype: [u8; 2] = if p[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
            let frame = [&to.0[..], &[2, 0, 0, 0, 9, 9], &ethertype, &p].concat();
            out.extend(self.rig.send(port, &frame));
        }
        self.tick();
        let out: Vec<_> = out
            .into_iter()
            .map(|(port, f)| {
                let mut to = [0; 6];
                to.copy_from_slice(&f[..6]);
                (if port == 0 { "c" } else { "s" }, to, f[14..].to_vec())
            })
            .collect();
        // `last` is what the director last sent, per side; a server's address what went to it.
        for (side, to, p) in out.iter().filter(|(_, _, p)| !matches!(p[if p[0] >> 4 == 4 { 9 } else { 6 }], 1 | 58)) {
            self.last.insert("last".into(), p.clone());
            self.last.insert(format!("last-{side}"), p.clone());
            if let Some(server) = self.macs.get(to) {
                self.last.insert(server.clone(), p.clone());
            }
        }
        out
    }

    fn packet(&mut self, expected: &Value) {
        self.catch_up(expected);
        let (side, text) =
            (expected["side"].as_str().unwrap_or_default(), expected["sent"].as_str().unwrap_or_default());
        let out = self.inject(side, text);
        self.report.compared += 1;
        let wanted = expected["out"].as_array().cloned().unwrap_or_default();
        let n = &expected["n"];
        let packets: Vec<_> = out.iter().map(|(s, _, p)| (*s, dissect(p, false), p.len())).collect();
        let frames = wanted.iter().any(|w| w["ip"].is_null());
        if out.len() != wanted.len() || frames {
            let got: Vec<_> = packets.iter().map(|(s, p, _)| format!("{s} {}", brief(p))).collect();
            let (ours, theirs, got) = (out.len(), wanted.len(), got.join("; "));
            let verdict = &expected["verdict"];
            let text_of = format!("#{n} {side} {text}: {ours} packets instead of {theirs} ({verdict}): {got}");
            let why = self.known.packets(side, text, &packets, expected);
            self.report.findings.push((text_of, why));
            return;
        }
        for (((out_side, to, _), (_, got, _)), w) in out.iter().zip(&packets).zip(&wanted) {
            let mut fields = Vec::new();
            let mut differs = |path: &str, got: &str, want: &Value| {
                fields.push(Field { path: path.into(), got: got.into(), want: want.clone() });
            };
            if w["side"] != *out_side {
                differs("side", out_side, &w["side"]);
            }
            if let Some(server) = w["to"].as_str() {
                let got = self.macs.get(to).map_or("another station", String::as_str);
                if got != server {
                    differs("to", got, &w["to"]);
                }
            }
            let mut want = w["ip"].clone();
            if w["method"] == "tun" {
                // The outer identification is the director's own.
                want["id"] = got["id"].clone();
            }
            compare(got, &want, "", &mut fields);
            if !fields.is_empty() {
                let why = self.known.fields(side, text, got, &fields);
                let said: Vec<_> =
                    fields.iter().map(|f| format!("{} is {} instead of {}", f.path, f.got, f.want)).collect();
                self.report.findings.push((format!("#{n} {text}: {}", said.join(", ")), why));
            }
        }
    }
}

/// The forms that `show all` stands for.
const ALL_FORMS: [&str; 8] = [
    "-Ln",
    "-Ln --stats",
    "-Ln --rate",
    "-Ln --thresholds",
    "-Ln --persistent-conn",
    "-Ln --tun-info",
    "-Ln --timeout",
    "-Sn",
];

fn brief(d: &Value) -> String {
    format!("{} {}:{} > {}:{} {}", d["proto"], d["src"], d["sport"], d["dst"], d["dport"], d["flags"])
}

/// Fields that the director chooses freely.
fn free(key: &str, got: &Value, path: &str) -> bool {
    let own = got["proto"] == "icmp"
        || (got["proto"] != "tcp" && got["proto"] != "udp" && got["proto"] != "sctp")
        || got.get("gue").is_some();
    (key == "id" && own && path.is_empty())
        || (key == "flow" && path.is_empty())
        || (key == "sport" && got.get("gue").is_some())
}

fn compare(got: &Value, want: &Value, path: &str, out: &mut Vec<Field>) {
    let (Some(g), Some(w)) = (got.as_object(), want.as_object()) else {
        out.push(Field { path: path.into(), got: got.clone(), want: want.clone() });
        return;
    };
    for key in g.keys().chain(w.keys().filter(|k| !g.contains_key(*k))) {
        let (a, b) = (&got[key], &want[key]);
        if a == b || free(key, got, path) {
            continue;
        }
        if key == "inner" {
            compare(a, b, &format!("{path}inner."), out);
        } else {
            out.push(Field { path: format!("{path}{key}"), got: a.clone(), want: b.clone() });
        }
    }
}

/// The names of the scenarios in a folder, sorted.
pub fn scenarios(dir: &Path) -> Result<Vec<String>> {
    let folder = dir.join("scenarios");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .filter_map(|e| Some(e.ok()?.file_name().to_str()?.strip_suffix(".json")?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}
