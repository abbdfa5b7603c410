//! Plays a scenario through the pipeline and compares every packet with the recording.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use dataplane::units::Mac;
use serde_json::Value;

use crate::oracle::director::Director;
use crate::oracle::files::Files;
use crate::oracle::listing::{Finding, Listings, is_comparable};
use crate::oracle::purpose::{Field, Known, Out, Purpose, Sent, asks_for_more};
use crate::oracle::rules::{commands, sysctl_of};

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
    director: Director,
    results: std::vec::IntoIter<Value>,
    report: Report,
    known: Known,
    listings: Listings,
    files: Files,
    /// Our time, milliseconds, when the recording's clock was at zero.
    zero: Option<f64>,
}

/// What a scenario may say about itself besides its steps.
const KEYS: [&str; 13] = [
    "name",
    "about",
    "rules",
    "steps",
    "sysctl",
    "setup",
    "vips",
    "mtu_cli",
    "mtu_srv",
    "hex",
    "pcap",
    "icmp6_partial",
    "note",
];

/// What a step may be, and what may stand beside it.
const STEPS: [(&str, &[&str]); 9] = [
    ("pkt", &["count", "quiet"]),
    ("burst", &["count", "every"]),
    ("flow", &["count", "vary", "stride", "upto", "proto"]),
    ("ipvsadm", &["stdin"]),
    ("show", &[]),
    ("fast", &[]),
    ("sleep", &[]),
    ("sh", &[]),
    ("proc", &[]),
];

/// What may stand beside any step: it says nothing about what comes out.
const ASIDE: [&str; 4] = ["note", "about", "wait", "hex"];

/// What ipvsadm says of a scheduler that its kernel has not.
const NO_SCHEDULER: &str = "Scheduler or persistence engine not found";

/// Plays `scenarios/NAME.json` against `results/NAME.jsonl` of a folder.
pub fn play(dir: &Path, name: &str) -> Result<Report> {
    let read = |p: std::path::PathBuf| fs::read_to_string(&p).with_context(|| format!("cannot read {}", p.display()));
    let scenario: Value = serde_json::from_str(&read(dir.join("scenarios").join(format!("{name}.json")))?)?;
    let results = read(dir.join("results").join(format!("{name}.jsonl")))?;
    let results: Vec<Value> =
        results.lines().filter(|l| !l.trim().is_empty()).map(serde_json::from_str).collect::<Result<_, _>>()?;
    let mut player = Player::new(name, &scenario, results)?;
    player.rules(&scenario);
    for step in scenario["steps"].as_array().context("no steps")? {
        player.step(step)?;
    }
    player.rest();
    Ok(player.report)
}

fn strings(v: &Value) -> impl Iterator<Item = &str> {
    v.as_array().into_iter().flatten().filter_map(Value::as_str)
}

impl Player {
    fn new(name: &str, scenario: &Value, results: Vec<Value>) -> Result<Self> {
        let begin = results.iter().find(|r| r["type"] == "begin").context("the recording has no beginning")?;
        let mut servers = HashMap::new();
        for (addr, mac) in begin["servers"].as_object().into_iter().flatten() {
            let mac: Mac = mac.as_str().unwrap_or_default().parse().map_err(anyhow::Error::msg)?;
            let Ok(a) = addr.parse::<IpAddr>() else { continue };
            servers.insert(a, mac);
        }
        let vips: Vec<IpAddr> = strings(&begin["vips"]).filter_map(|v| v.parse().ok()).collect();
        let mut known = Known::in_a_world_of(scenario["mtu_srv"].as_u64().unwrap_or(1500));
        known.own.extend(&vips);
        for own in ["10.3.0.1", "10.2.0.254", "2001:db8:3::1", "2001:db8:2::fe"] {
            known.own.insert(own.parse()?);
        }
        for (key, value) in scenario["sysctl"].as_object().into_iter().flatten() {
            known.setting(key, value.to_string().trim_matches('"'));
        }
        let director = Director::new(scenario, vips, &servers)?;
        let mut report = Report { name: name.into(), compared: 0, findings: Vec::new() };
        let strange = scenario.as_object().into_iter().flatten().filter(|(k, _)| !KEYS.contains(&k.as_str()));
        report
            .findings
            .extend(strange.map(|(k, _)| (format!("the scenario has `{k}`, which is not known here"), None)));
        let (listings, results) = (Listings::default(), results.into_iter());
        Ok(Self { director, results, report, known, listings, files: Files::default(), zero: None })
    }

    fn differ(&mut self, text: String) {
        self.report.findings.push((text, None));
    }

    /// The rules that a scenario begins with: taken or refused as the recording says.
    fn rules(&mut self, scenario: &Value) {
        let recorded = self.results.as_slice().iter().find(|r| r["type"] == "rules").cloned().unwrap_or_default();
        let stderr = recorded["stderr"].as_str().unwrap_or_default();
        let (mut said, mut refused) = (String::new(), false);
        for rule in strings(&scenario["rules"]) {
            if asks_for_more(rule) && stderr.contains(NO_SCHEDULER) {
                refused = true;
                self.report.findings.push((format!("`ipvsadm {rule}` is not refused"), Some(Purpose::MoreSchedulers)));
                continue;
            }
            let (code, words) = self.director.ipvsadm(rule, "");
            if code == 0 {
                self.known.rule(rule);
            } else {
                let in_recording = !words.is_empty() && stderr.contains(words.trim_end());
                let why = if in_recording { None } else { self.known.command(rule, (code, &words), (0, "")) };
                if !in_recording {
                    let text = format!("`ipvsadm {rule}` is refused: {}", words.trim_end());
                    self.report.findings.push((text, why));
                }
                refused |= why.is_none();
                said.push_str(&words);
            }
        }
        let failed = recorded["rc"].as_i64().unwrap_or(0) != 0;
        if failed && !refused {
            self.differ(format!("the rules are taken, and the kernel says {stderr:?}"));
        }
        self.director.rig.run();
    }

    /// Catches up with the recording's clock, so that timers can be compared.
    fn catch_up(&mut self, line: &Value) {
        let Some(t) = line["t"].as_f64() else { return };
        let now = self.director.now() as f64;
        let zero = *self.zero.get_or_insert(now - t * 1000.0);
        let behind = zero + t * 1000.0 - now;
        if behind >= 1.0 {
            self.director.sleep_ms(behind as u32);
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

    /// What the recording has after the last step must be nothing to compare.
    fn rest(&mut self) {
        let left: Vec<Value> = self.results.by_ref().collect();
        for r in left {
            if matches!(r["type"].as_str(), Some("pkt" | "show" | "ipvsadm" | "crash")) {
                self.differ(format!("the recording goes on after the last step: {}", r["type"]));
            }
        }
    }

    fn step(&mut self, step: &Value) -> Result<()> {
        let keys: Vec<&str> = step.as_object().map(|o| o.keys().map(String::as_str).collect()).unwrap_or_default();
        let kind = STEPS.iter().find(|(k, _)| keys.contains(k));
        let Some((kind, beside)) = kind else {
            // A note is nothing to play.
            if keys.is_empty() || !keys.iter().all(|k| ASIDE.contains(k)) {
                self.differ(format!("a step that is not known: {step}"));
            }
            return Ok(());
        };
        for k in keys.iter().filter(|k| *k != kind && !ASIDE.contains(*k) && !beside.contains(*k)) {
            self.differ(format!("a `{kind}` step with `{k}`, which is not known here"));
        }
        match *kind {
            "burst" => self.unreported(step)?,
            "pkt" if step.get("quiet").is_some_and(|q| *q != false) => self.unreported(step)?,
            "pkt" => {
                for _ in 0..step["count"].as_u64().unwrap_or(1) {
                    let expected = self.next("pkt")?;
                    self.packet(&expected);
                }
            }
            "flow" => loop {
                let Some(r) = self.results.next() else { bail!("the recording ends within a flow step") };
                match r["type"].as_str() {
                    Some("pkt") => self.packet(&r),
                    Some("sequence") => break,
                    _ => {}
                }
            },
            "ipvsadm" => {
                let expected = self.next("ipvsadm")?;
                let line = step["ipvsadm"].as_str().unwrap_or_default();
                self.ipvsadm(line, step["stdin"].as_str().unwrap_or_default(), &expected);
            }
            "show" => self.show_all(step)?,
            "sh" => self.shell(step["sh"].as_str().unwrap_or_default()),
            "proc" => {}
            time => self.director.sleep_ms((step[time].as_f64().unwrap_or(0.0) * 1000.0) as u32),
        }
        Ok(())
    }

    fn shell(&mut self, line: &str) {
        let now = self.director.now();
        for command in commands(line) {
            let done = match sysctl_of(command) {
                _ if command.starts_with("ipvsadm") || command.contains("| ipvsadm") => {
                    self.files.run(command, &mut self.director);
                    Ok(())
                }
                Some((key, value)) => {
                    self.known.setting(&key, value);
                    self.director.rules.sysctl(&key, &Value::from(value), now)
                }
                None => self.director.rules.setup(command, now),
            };
            if let Err(e) = done {
                self.differ(format!("`{command}`: {e:#}"));
            }
            self.director.rig.run();
        }
    }

    fn ipvsadm(&mut self, line: &str, stdin: &str, expected: &Value) {
        self.catch_up(expected);
        if self.director.rules.is_listing(line) {
            return self.show(line, expected);
        }
        let (rc, stderr) = (expected["rc"].as_i64().unwrap_or(0), expected["stderr"].as_str().unwrap_or_default());
        if asks_for_more(line) && rc == 255 && stderr.contains(NO_SCHEDULER) {
            let text = format!("`ipvsadm {line}` is not refused");
            return self.report.findings.push((text, Some(Purpose::MoreSchedulers)));
        }
        // The kernel's ipvsadm gives up at a comment, and so did the rest of the recording: what
        // stands behind must not be there when listings are compared.
        let comment = stdin.lines().position(|l| l.trim_start().starts_with('#')).filter(|_| rc != 0);
        let until: String = stdin.lines().take(comment.unwrap_or(usize::MAX)).map(|l| format!("{l}\n")).collect();
        let (code, said) = self.director.ipvsadm(line, &until);
        if code == 0 {
            self.known.rule(line);
        }
        let same = rc == i64::from(code) && stderr == said;
        if same && comment.is_none() {
            return;
        }
        let text = format!("`ipvsadm {line}`: {code} {said:?} instead of {rc} {stderr:?}");
        let refused = stderr.strip_prefix(&said).is_some_and(|rest| rest.lines().count() <= 1);
        let why = match comment {
            Some(_) => (code == 0 && refused).then_some(Purpose::Comments),
            None => self.known.command(line, (code, &said), (rc, stderr)),
        };
        self.report.findings.push((text, why));
    }

    /// Compares listings: `all` is recorded as one line for each form.
    fn show_all(&mut self, step: &Value) -> Result<()> {
        let one = [step["show"].as_str().unwrap_or_default()];
        for asked in if one == ["all"] { &ALL_FORMS[..] } else { &one } {
            let expected = self.next("show")?;
            let args = expected["args"].as_str().unwrap_or_default().to_owned();
            if args != *asked {
                bail!("the recording has `{args}` where `{asked}` was due");
            }
            self.show(&args, &expected);
        }
        Ok(())
    }

    fn show(&mut self, args: &str, expected: &Value) {
        self.catch_up(expected);
        let now = self.director.now();
        let Director { rules, rig, .. } = &mut self.director;
        let (code, out, said) = rules.show(args, now, || rig.run());
        let wanted = expected["stdout"].as_str().unwrap_or_default();
        if expected["rc"] != code || expected["stderr"] != said.as_str() {
            let text = format!("`ipvsadm {args}`: {code} {said:?} instead of {}", expected["rc"]);
            return self.differ(text);
        }
        if args.contains("--daemon") && out.is_empty() && !wanted.is_empty() {
            let why = self.known.are_daemons(wanted).then_some(Purpose::NoSyncDaemon);
            return self.report.findings.push((format!("`ipvsadm {args}`: no daemon instead of {wanted:?}"), why));
        }
        if !is_comparable(args) {
            return;
        }
        self.listings.elapsed_s = expected["t"].as_f64().unwrap_or(0.0) as i64;
        self.listings.least_persistence_s = self.director.rules.least_persistence_s(now);
        for (text, why) in self.listings.compare(args, &out, wanted, &self.known) {
            self.report.findings.push((format!("`ipvsadm {args}`: {text}"), why));
        }
    }

    fn unreported(&mut self, step: &Value) -> Result<()> {
        let text = step["pkt"].as_str().or(step["burst"].as_str()).unwrap_or_default().to_owned();
        let every = step["every"].as_f64().unwrap_or(0.0);
        let (side, text) = text.split_once(' ').context("a packet without a side")?;
        for _ in 0..step["count"].as_u64().unwrap_or(1) {
            if let Err(e) = self.director.send(side, text) {
                self.differ(format!("{e:#}"));
                break;
            }
            if every > 0.0 {
                self.director.sleep_ms((every * 1000.0) as u32);
            }
        }
        Ok(())
    }

    fn packet(&mut self, expected: &Value) {
        self.catch_up(expected);
        let (side, text) =
            (expected["side"].as_str().unwrap_or_default(), expected["sent"].as_str().unwrap_or_default());
        let quoted = self.director.quoted(text);
        let sent = Sent { side, text, quoted: &quoted };
        self.report.compared += 1;
        let n = &expected["n"];
        let out = match self.director.send(side, text) {
            Ok(out) => out,
            Err(e) => return self.differ(format!("#{n}: {e:#}")),
        };
        let mut wanted = expected["out"].as_array().cloned().unwrap_or_default();
        // Questions for neighbours go another way here, which keeps its own time.
        wanted.retain(|w| !w["arp"].as_str().is_some_and(|ip| self.director.rules.has_asked_for(ip)));
        let frames = wanted.iter().any(|w| w["ip"].is_null());
        let cut = text.contains(" frag=") && out.iter().zip(&wanted).any(|(o, w)| !unlike(o, w).is_empty());
        if out.len() != wanted.len() || frames || cut {
            let got: Vec<_> = out.iter().map(|o| format!("{} {}", o.side, brief(&o.ip))).collect();
            let (ours, theirs, got) = (out.len(), wanted.len(), got.join("; "));
            let verdict = &expected["verdict"];
            let text_of = format!("#{n} {side} {text}: {ours} packets instead of {theirs} ({verdict}): {got}");
            let why = self.known.packets(&sent, &out, expected);
            self.report.findings.push((text_of, why));
            return;
        }
        for (o, w) in out.iter().zip(&wanted) {
            let fields = unlike(o, w);
            if !fields.is_empty() {
                let why = self.known.fields(&sent, &o.ip, &fields);
                let said: Vec<_> =
                    fields.iter().map(|f| format!("{} is {} instead of {}", f.path, f.got, f.want)).collect();
                self.report.findings.push((format!("#{n} {text}: {}", said.join(", ")), why));
            }
        }
    }
}

/// In what a packet differs from the recorded one.
fn unlike(o: &Out, w: &Value) -> Vec<Field> {
    let mut fields = Vec::new();
    let mut differs = |path: &str, got: &str, want: &Value| {
        fields.push(Field { path: path.into(), got: got.into(), want: want.clone() });
    };
    if w["side"] != o.side {
        differs("side", o.side, &w["side"]);
    }
    if let Some(server) = w["to"].as_str() {
        let got = o.to.as_deref().unwrap_or("another station");
        if got != server {
            differs("to", got, &w["to"]);
        }
    }
    let mut want = w["ip"].clone();
    if w["method"] == "tun" {
        // The outer identification is the director's own.
        want["id"] = o.ip["id"].clone();
    }
    compare(&o.ip, &want, "", &mut fields);
    fields
}

/// The forms that `show all` stands for.
const ALL_FORMS: [&str; 9] = [
    "-Ln",
    "-Lnc",
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
