//! Plays a scenario through the pipeline and compares every packet with the recording.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use dataplane::link::Event;
use dataplane::snapshot::*;
use dataplane::units::*;
use serde_json::Value;

use crate::oracle::dissect::dissect;
use crate::oracle::language;
use crate::oracle::rules::{Rules, endpoint};
use crate::rig::Rig;

const CLI_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
const SRV_MAC: Mac = Mac([2, 0, 0, 0, 1, 2]);
const CLIENT_GATEWAY: Mac = Mac([2, 0, 0, 0, 3, 1]);

/// What playing one scenario showed.
pub struct Report {
    /// The scenario's name.
    pub name: String,
    /// Steps compared.
    pub compared: usize,
    /// Every difference, in words.
    pub differences: Vec<String>,
}

struct Player {
    rig: Rig,
    rules: Rules,
    spec: Spec,
    servers: HashMap<Ip, Mac>,
    macs: HashMap<[u8; 6], String>,
    last: HashMap<String, Vec<u8>>,
    results: std::vec::IntoIter<Value>,
    report: Report,
}

/// Plays `scenarios/NAME.json` against `results/NAME.jsonl` of a folder.
pub fn play(dir: &Path, name: &str) -> Result<Report> {
    let read = |p: std::path::PathBuf| fs::read_to_string(&p).with_context(|| format!("cannot read {}", p.display()));
    let scenario: Value = serde_json::from_str(&read(dir.join("scenarios").join(format!("{name}.json")))?)?;
    let results = read(dir.join("results").join(format!("{name}.jsonl")))?;
    let results: Vec<Value> = results.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let mut player = Player::new(name, &scenario, results)?;
    for rule in strings(&scenario["rules"]) {
        player.rules.apply(rule);
    }
    player.publish();
    for step in scenario["steps"].as_array().context("no steps")? {
        player.step(step)?;
    }
    Ok(player.report)
}

fn strings(v: &Value) -> impl Iterator<Item = &str> {
    v.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn ip(text: &str) -> Option<Ip> {
    text.parse::<std::net::IpAddr>().ok().map(Ip::from)
}

impl Player {
    fn new(name: &str, scenario: &Value, results: Vec<Value>) -> Result<Self> {
        let begin = results.iter().find(|r| r["type"] == "begin").context("the recording has no beginning")?;
        let mut servers = HashMap::new();
        let mut macs = HashMap::new();
        for (addr, mac) in begin["servers"].as_object().into_iter().flatten() {
            let mac: Mac = mac.as_str().unwrap_or_default().parse().map_err(anyhow::Error::msg)?;
            let Some(a) = ip(addr) else { continue };
            servers.insert(a, mac);
            macs.insert(mac.0, addr.clone());
        }
        let mut spec = world(scenario);
        spec.vips = strings(&begin["vips"]).filter_map(ip).map(|a| (a, if a.is_v4() { 32 } else { 128 })).collect();
        let mut rules = Rules::default();
        rules.settings.answer_rate_limit = 0;
        for line in strings(&scenario["setup"]) {
            rules.set_up(line, &mut spec.vips);
        }
        for (key, value) in scenario["sysctl"].as_object().into_iter().flatten() {
            set_sysctl(&mut rules.settings, key, value);
        }
        let report = Report { name: name.into(), compared: 0, differences: Vec::new() };
        Ok(Self {
            rig: Rig::new(1),
            rules,
            spec,
            servers,
            macs,
            last: HashMap::new(),
            results: results.into_iter(),
            report,
        })
    }

    /// Compiles and publishes the rules as they are.
    fn publish(&mut self) {
        let mut spec = self.spec.clone();
        self.spec.generation += 1;
        spec.generation = self.spec.generation;
        self.rules.fill(&mut spec);
        let gateways = spec.next_hops.len() as u32;
        let mut known: Vec<_> = self.servers.iter().collect();
        known.sort();
        for (n, (addr, mac)) in known.iter().enumerate() {
            spec.next_hops.push(NextHopSpec {
                id: NextHopId(gateways + n as u32),
                iface: IfaceId(1),
                ip: **addr,
                mac: Some(**mac),
            });
        }
        for r in &mut spec.reals {
            r.next_hop = spec.next_hops.iter().find(|h| h.ip == r.addr).map_or(NextHopId::NONE, |h| h.id);
            let own = spec.interfaces[1].addresses.iter().find(|(a, _)| a.is_v4() == r.addr.is_v4());
            r.source = own.map_or(Ip::UNSPECIFIED, |(a, _)| *a);
        }
        self.rig.publish(&spec);
        self.rig.run();
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
        } else if let Some(s) = step["fast"].as_f64().or(step["sleep"].as_f64()) {
            self.rig.sleep_ms((s * 1000.0) as u32);
        } else if let Some(line) = step["sh"].as_str() {
            if let Some((value, key)) = line.strip_prefix("echo ").and_then(|l| l.split_once(" > /proc/sys/")) {
                set_sysctl(&mut self.rules.settings, &key.replace('/', "."), &Value::from(value));
                self.publish();
            }
        }
        Ok(())
    }

    fn ipvsadm(&mut self, line: &str, stdin: Option<&str>, expected: &Value) {
        let changes = ["-A", "-E", "-D", "-a", "-e", "-d", "-R", "-C", "--set"];
        if !changes.iter().any(|c| line.starts_with(c)) {
            return;
        }
        let mut ok = true;
        if line.starts_with("-R") {
            for l in stdin.unwrap_or("").lines() {
                ok &= self.rules.apply(l);
            }
        } else {
            ok = self.rules.apply(line);
        }
        let accepted = expected["rc"] == 0;
        if ok != accepted {
            let said = if accepted { "accepts" } else { "refuses" };
            self.report.differences.push(format!("`ipvsadm {line}`: the kernel {said} it"));
        }
        self.publish();
    }

    fn unreported(&mut self, step: &Value) -> Result<()> {
        let text = step["pkt"].as_str().or(step["burst"].as_str()).unwrap_or_default().to_owned();
        let every = step["every"].as_f64().unwrap_or(0.0);
        for _ in 0..step["count"].as_u64().unwrap_or(1) {
            let (side, text) = text.split_once(' ').context("a packet without a side")?;
            self.inject(side, text);
            if every > 0.0 {
                self.rig.sleep_ms((every * 1000.0) as u32);
            }
        }
        Ok(())
    }

    /// Sends a described packet and returns what came out as (side, Ethernet destination, IP packet).
    fn inject(&mut self, side: &str, text: &str) -> Vec<(&'static str, [u8; 6], Vec<u8>)> {
        let inner = language::quotes(text).and_then(|q| self.last.get(q).cloned());
        let packets = language::build(text, inner.as_deref()).unwrap_or_default();
        let (port, to) = if side == "c" { (0, CLI_MAC) } else { (1, SRV_MAC) };
        let mut out = Vec::new();
        for p in packets {
            let ethertype: [u8; 2] = if p[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
            let frame = [&to.0[..], &[2, 0, 0, 0, 9, 9], &ethertype, &p].concat();
            out.extend(self.rig.send(port, &frame));
        }
        while let Some(event) = self.rig.links[0].events.pop() {
            if let Event::PathMtu { ip, mtu } = event {
                self.rules.path_mtu(ip, mtu);
                self.publish();
            }
        }
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
        let (side, text) =
            (expected["side"].as_str().unwrap_or_default(), expected["sent"].as_str().unwrap_or_default());
        let out = self.inject(side, text);
        self.report.compared += 1;
        let wanted = expected["out"].as_array().cloned().unwrap_or_default();
        let n = &expected["n"];
        if out.len() != wanted.len() {
            let got: Vec<_> = out.iter().map(|(s, _, p)| format!("{s} {}", brief(&dissect(p, false)))).collect();
            self.report.differences.push(format!(
                "#{n} {side} {text}: {} packets instead of {} ({}): {}",
                out.len(),
                wanted.len(),
                expected["verdict"],
                got.join("; ")
            ));
            return;
        }
        for ((side, to, p), w) in out.iter().zip(&wanted) {
            let mut differences = Vec::new();
            if w["side"] != *side {
                differences.push(format!("side {side} instead of {}", w["side"]));
            }
            if let Some(server) = w["to"].as_str() {
                let got = self.macs.get(to).map_or("another station", String::as_str);
                if got != server {
                    differences.push(format!("to {got} instead of {server}"));
                }
            }
            let mut want = w["ip"].clone();
            let got = dissect(p, false);
            if w["method"] == "tun" {
                // The outer identification is the director's own.
                want["id"] = got["id"].clone();
            }
            compare(&got, &want, "", &mut differences);
            if !differences.is_empty() {
                self.report.differences.push(format!("#{n} {text}: {}", differences.join(", ")));
            }
        }
    }
}

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

fn compare(got: &Value, want: &Value, path: &str, out: &mut Vec<String>) {
    let (Some(g), Some(w)) = (got.as_object(), want.as_object()) else {
        out.push(format!("{path} is {got} instead of {want}"));
        return;
    };
    for key in g.keys().chain(w.keys().filter(|k| !g.contains_key(*k))) {
        let (a, b) = (&got[key], &want[key]);
        if a == b || free(key, got, path) {
            continue;
        }
        if key == "inner" {
            compare(a, b, &format!("{path}inner."), out);
        } else if key == "l4_ok" && path.contains("inner") && !a.is_null() {
            // The quoted transport checksum: ours is right where the kernel's is stale.
            if *a == Value::Bool(false) {
                out.push(format!("{path}{key} is {a} instead of {b}"));
            }
        } else {
            out.push(format!("{path}{key} is {a} instead of {b}"));
        }
    }
}

/// The director's world: two interfaces, clients behind a gateway.
fn world(scenario: &Value) -> Spec {
    let mtu = |key: &str| scenario[key].as_u64().unwrap_or(1500) as u16;
    let a = |t: &str, len| (ip(t).unwrap_or_default(), len);
    let iface = |port, mac, mtu, addresses| InterfaceSpec { port: PortId(port), vlan: None, mac, mtu, addresses };
    let hop = |id, t: &str| NextHopSpec {
        id: NextHopId(id),
        iface: IfaceId(0),
        ip: ip(t).unwrap_or_default(),
        mac: Some(CLIENT_GATEWAY),
    };
    let route =
        |t: &str, gateway| RouteSpec { network: ip(t).unwrap_or_default(), prefix_len: 0, gateway: NextHopId(gateway) };
    Spec {
        interfaces: vec![
            iface(0, CLI_MAC, mtu("mtu_cli"), vec![a("10.3.0.1", 24), a("2001:db8:3::1", 64)]),
            iface(1, SRV_MAC, mtu("mtu_srv"), vec![a("10.2.0.254", 24), a("2001:db8:2::fe", 64)]),
        ],
        next_hops: vec![hop(0, "10.3.0.2"), hop(1, "2001:db8:3::2")],
        routes: vec![route("0.0.0.0", 0), route("::", 1)],
        ..Spec::default()
    }
}

fn set_sysctl(s: &mut Settings, key: &str, value: &Value) {
    let n = value.as_u64().or_else(|| value.as_str().and_then(|t| t.trim().parse().ok())).unwrap_or(0);
    match key.trim_start_matches("net.ipv4.vs.") {
        "expire_nodest_conn" => s.gone = if n == 0 { GonePolicy::Drop } else { GonePolicy::Reset },
        "expire_quiescent_template" => s.expire_quiescent_template = n != 0,
        "sloppy_tcp" => s.sloppy_tcp = n != 0,
        "sloppy_sctp" => s.sloppy_sctp = n != 0,
        "conn_reuse_mode" => s.conn_reuse_mode = n as u8,
        "pmtu_disc" => s.pmtu_disc = n != 0,
        "nat_icmp_send" => s.nat_icmp_send = n != 0,
        "secure_tcp" => s.secure_tcp = n == 3,
        "schedule_icmp" => s.schedule_icmp = n != 0,
        _ => {}
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
    // An endpoint that cannot be read would otherwise only show as a refused rule.
    debug_assert!(endpoint("10.0.0.1:80").is_some());
    Ok(names)
}
