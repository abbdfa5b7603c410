//! The recordings' ipvsadm lines, by the real control side: parser, engine, snapshot.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use control::config::{Config, Port, Route, StaticNeighbour};
use control::engine::{
    Change, Engine, FlowPage, FlowQuery, FlowView, Operation, PortFacts, Progress, Request, Response, Setup,
};
use control::ipvsadm::{self, Command, Failure, Marks, Unknown};
use control::model::{Error, Limits, Network, ServiceKey, ServicePatch};
use dataplane::link::WorkerLink;
use dataplane::snapshot::{GonePolicy, Settings};
use dataplane::units::Mac;
use serde_json::Value;

use crate::oracle::world as lines;
use crate::rig::OBJECTS;

/// The ports' Ethernet addresses: clients, servers.
pub const MACS: [Mac; 2] = [Mac([2, 0, 0, 0, 1, 1]), Mac([2, 0, 0, 0, 1, 2])];
/// The clients' gateway.
pub const CLIENT_GATEWAY: Mac = Mac([2, 0, 0, 0, 3, 1]);

/// The configuration under test.
pub struct Rules {
    engine: Engine,
    config: Config,
    marks: Marks,
    links: Vec<Arc<WorkerLink>>,
    /// Whose Ethernet addresses it has asked for.
    asked: HashSet<IpAddr>,
}

/// Exit code and standard error of a failure.
fn told(f: Failure) -> (i32, String) {
    (f.code, f.message + "\n")
}

/// Whom an ARP request asks for (RFC 826).
fn asks_for(frame: &[u8]) -> Option<IpAddr> {
    let request = frame.get(12..14)? == [8, 6] && frame.get(20..22)? == [0, 1];
    let target: [u8; 4] = frame.get(38..42)?.try_into().ok()?;
    request.then(|| target.into())
}

fn network(text: &str) -> Result<Network> {
    text.parse().with_context(|| format!("{text} is no network"))
}

/// The director's world: two interfaces, clients behind a gateway.
fn world(scenario: &Value, vips: Vec<IpAddr>, servers: &HashMap<IpAddr, Mac>) -> Result<Config> {
    let mtu = |key: &str| scenario[key].as_u64().unwrap_or(1500) as u16;
    let mut cli = Port { mtu: mtu("mtu_cli"), ..Port::new("cli", "memory0") };
    cli.addresses = vec![network("10.3.0.1/24")?, network("2001:db8:3::1/64")?];
    let mut srv = Port { mtu: mtu("mtu_srv"), ..Port::new("srv", "memory1") };
    srv.addresses = vec![network("10.2.0.254/24")?, network("2001:db8:2::fe/64")?];
    let gateways: [IpAddr; 2] = ["10.3.0.2".parse()?, "2001:db8:3::2".parse()?];
    let near = gateways.map(|address| StaticNeighbour { address, mac: CLIENT_GATEWAY, port: 0, vlan: None });
    let far = servers.iter().map(|(a, mac)| StaticNeighbour { address: *a, mac: *mac, port: 1, vlan: None });
    Ok(Config {
        ports: vec![cli, srv],
        routes: vec![
            Route { to: network("0.0.0.0/0")?, via: gateways[0] },
            Route { to: network("::/0")?, via: gateways[1] },
        ],
        neighbours: near.into_iter().chain(far).collect(),
        vips,
        settings: Settings { answer_rate_limit: 0, gone: GonePolicy::Kernel, ..Settings::default() },
        limits: Limits { max_services: OBJECTS as u32 / 2, max_real_servers: OBJECTS as u32 / 2, ..Limits::default() },
        ..Config::default()
    })
}

impl Rules {
    /// The director of a scenario, without services.
    pub fn new(
        scenario: &Value,
        vips: Vec<IpAddr>,
        servers: &HashMap<IpAddr, Mac>,
        links: &[Arc<WorkerLink>],
        now: u64,
    ) -> Result<Self> {
        let mut config = world(scenario, vips, servers)?;
        for (key, value) in scenario["sysctl"].as_object().into_iter().flatten() {
            set_sysctl(&mut config.settings, key, value)?;
        }
        let mut marks = Marks::default();
        for line in scenario["setup"].as_array().into_iter().flatten().filter_map(Value::as_str).flat_map(commands) {
            match sysctl_of(line) {
                Some((key, value)) => set_sysctl(&mut config.settings, &key, &Value::from(value))?,
                None if lines::ip(&mut config, line) || lines::mark(&mut marks, line, &config.vips) => {}
                None if no_effect(line) => {}
                None => bail!("not understood: {line}"),
            }
        }
        let facts = |(n, mac): (usize, &Mac)| PortFacts {
            name: format!("port{n}"),
            mac: mac.to_string(),
            ..PortFacts::default()
        };
        let setup = Setup {
            config: config.clone(),
            links: links.to_vec(),
            ports: MACS.iter().enumerate().map(facts).collect(),
            build: Default::default(),
            announce: false,
        };
        Ok(Self { engine: Engine::new(setup, now)?, config, marks, links: links.to_vec(), asked: HashSet::new() })
    }

    fn apply(engine: &mut Engine, operation: &Operation, now: u64) -> Result<(), Error> {
        let change = Change { operations: vec![operation.clone()], wait: false };
        engine.handle(Request::Change(change), now).map(|_| ())
    }

    /// Has the engine do something, or say why a change cannot be made.
    fn ask(engine: &mut Engine, what: Result<&Operation, Unknown>, now: u64) -> Result<(), Failure> {
        match what {
            Ok(o) => Self::apply(engine, o, now).map_err(|e| ipvsadm::explain(o, &e)),
            Err(u) => Err(u.answer(engine.handle(Request::Service(u.service), now).is_ok())),
        }
    }

    /// Runs one ipvsadm line and returns exit code and standard error.
    pub fn run(&mut self, line: &str, stdin: &str, now: u64) -> (i32, String) {
        let line = &named(line);
        let words = ipvsadm::split(line.split(" < ").next().unwrap_or(line));
        match ipvsadm::parse(&words, &self.marks) {
            Err(f) => told(f),
            Ok(Command::Change(o)) => {
                Self::ask(&mut self.engine, Ok(&o), now).map_or_else(told, |()| (0, String::new()))
            }
            Ok(Command::Unknown(u)) => {
                Self::ask(&mut self.engine, Err(u), now).map_or_else(told, |()| (0, String::new()))
            }
            Ok(Command::Restore) => {
                let engine = &mut self.engine;
                let (said, code) = ipvsadm::restore(stdin, &self.marks, |what| Self::ask(engine, what, now));
                (code, said.iter().map(|s| format!("{s}\n")).collect())
            }
            Ok(Command::List(list)) => match list.service {
                Some(key) if self.engine.handle(Request::Service(key), now).is_err() => (1, "No such service\n".into()),
                _ => (0, String::new()),
            },
            Ok(_) => (0, String::new()),
        }
    }

    /// Whether a line lists rather than changes.
    pub fn is_listing(&self, line: &str) -> bool {
        let command = ipvsadm::parse(&ipvsadm::split(&named(line)), &self.marks);
        matches!(command, Ok(Command::List(_) | Command::Save { .. }))
    }

    /// The shortest persistence of any service, seconds; 0 when there is none.
    pub fn least_persistence_s(&mut self, now: u64) -> i64 {
        let Ok(Response::Services(services)) = self.engine.handle(Request::Services, now) else { return 0 };
        let all = services.iter().filter_map(|s| s.persistence.map(|p| i64::from(p.timeout_s)));
        all.min().unwrap_or(0)
    }

    /// A line of the scenario's world, while it runs: addresses, links, routes and neighbours, and rules of the
    /// firewall that mark packets.
    ///
    /// # Errors
    /// When it is not understood, or cannot be done while the director runs.
    pub fn setup(&mut self, line: &str, now: u64) -> Result<()> {
        if lines::ip(&mut self.config, line) {
            let accepted = self.engine.reconfigure(self.config.clone(), now)?;
            let waits: Vec<&String> = accepted.notes.iter().filter(|w| w.contains("needs a restart")).collect();
            return if waits.is_empty() { Ok(()) } else { bail!("{waits:?}") };
        }
        if !lines::mark(&mut self.marks, line, &self.config.vips) {
            return if no_effect(line) { Ok(()) } else { bail!("not understood") };
        }
        let Ok(Response::Services(services)) = self.engine.handle(Request::Services, now) else { return Ok(()) };
        for s in &services {
            if let ServiceKey::Mark { mark, ipv6 } = s.address {
                let set = ServicePatch { rules: Some(self.marks.rules(mark, ipv6)), ..ServicePatch::default() };
                Self::apply(&mut self.engine, &Operation::SetService { address: s.address, set }, now)
                    .map_err(|e| anyhow::anyhow!(e.message))?;
            }
        }
        Ok(())
    }

    /// What a listing prints, and its exit code. The workers run while flows are listed.
    pub fn show(&mut self, args: &str, now: u64, mut run: impl FnMut()) -> (i32, String, String) {
        let command = match ipvsadm::parse(&ipvsadm::split(&named(args)), &self.marks) {
            Err(f) => return (f.code, String::new(), f.message + "\n"),
            Ok(command) => command,
        };
        let Ok(Response::Services(services)) = self.engine.handle(Request::Services, now) else {
            return (255, String::new(), "no services".into());
        };
        let (list, said) = match command {
            Command::Save { .. } => return (0, ipvsadm::save(&services), String::new()),
            Command::List(list) if list.service.is_some_and(|k| services.iter().all(|s| s.address != k)) => {
                return (1, String::new(), "No such service\n".into());
            }
            Command::List(list) => (list, String::new()),
            _ => return (0, String::new(), String::new()),
        };
        let timeouts = match self.engine.handle(Request::Timeouts, now) {
            Ok(Response::Timeouts(tcp, fin, udp)) => (tcp, fin, udp),
            _ => (0, 0, 0),
        };
        let flows = if list.connections { self.flows(now, &mut run) } else { Vec::new() };
        let facts = ipvsadm::Facts { services: &services, flows: &flows, timeouts, size: 4096 };
        (0, ipvsadm::list(&list, &facts), said)
    }

    fn flows(&mut self, now: u64, run: &mut impl FnMut()) -> Vec<FlowView> {
        let (mut flows, mut cursor) = (Vec::new(), None);
        loop {
            let query = FlowQuery { limit: Some(4096), cursor, ..FlowQuery::default() };
            let Some(page) = self.page(query, now, run) else { return flows };
            flows.extend(page.flows);
            if page.next.is_none() {
                return flows;
            }
            cursor = page.next;
        }
    }

    fn page(&mut self, query: FlowQuery, now: u64, run: &mut impl FnMut()) -> Option<FlowPage> {
        let Progress::Pending(ticket) = self.engine.start(Request::Flows(query), now) else { return None };
        for _ in 0..100 {
            for (t, reply) in self.engine.tick(now) {
                if let (true, Ok(Response::Flows(page))) = (t == ticket, reply) {
                    return Some(page);
                }
            }
            run();
        }
        None
    }

    /// Whether the director has asked the network for an address.
    pub fn has_asked_for(&self, ip: &str) -> bool {
        ip.parse().is_ok_and(|ip: IpAddr| self.asked.contains(&ip))
    }

    /// Lets the engine do what it does every 10 ms. Its questions for neighbours are kept
    /// off the wire: the recordings show none.
    pub fn tick(&mut self, now: u64) {
        self.engine.tick(now);
        for link in &self.links {
            while let Some(frame) = link.inject.pop() {
                self.asked.extend(asks_for(&frame.bytes[..usize::from(frame.len).min(frame.bytes.len())]));
            }
        }
    }

    /// Sets one of the kernel's `net.ipv4.vs.*`.
    ///
    /// # Errors
    /// When it is none that is known.
    pub fn sysctl(&mut self, key: &str, value: &Value, now: u64) -> Result<()> {
        set_sysctl(&mut self.config.settings, key, value)?;
        self.engine.reconfigure(self.config.clone(), now)?;
        Ok(())
    }
}

/// A line with the names that the recordings' hosts have put into addresses.
fn named(line: &str) -> String {
    [("vip.example", "10.9.0.1"), ("rs1.example", "10.2.0.11")]
        .iter()
        .fold(line.to_owned(), |l, (n, a)| l.replace(n, a))
}

/// The commands of a line, one behind the other.
pub fn commands(line: &str) -> impl Iterator<Item = &str> {
    line.split("&&").flat_map(|c| c.split(';')).map(str::trim).filter(|c| !c.is_empty())
}

/// The setting that a command makes: `sysctl -w KEY=VALUE` or `echo VALUE > /proc/sys/KEY`.
pub fn sysctl_of(command: &str) -> Option<(String, &str)> {
    let name = |path: &str| path.trim().replace('/', ".");
    if let Some((value, path)) = command.strip_prefix("echo ").and_then(|c| c.split_once('>')) {
        let value = value.trim().trim_matches(['"', '\'']);
        return Some((name(path.trim().strip_prefix("/proc/sys/")?), value));
    }
    let rest = command.strip_prefix("sysctl ")?;
    // Blanks may stand around the sign.
    let (key, value) = rest.split_once('=')?;
    Some((name(key.split_whitespace().last()?), value.trim().trim_matches(['"', '\''])))
}

/// Whether a line changes nothing that a packet could show: it looks, waits, or makes addresses
/// local that marks name anyway.
fn no_effect(line: &str) -> bool {
    let looks = [
        "cat ",
        "cd ",
        "grep ",
        "sleep ",
        "true",
        "sysctl ",
        "ls ",
        "dmesg",
        "head ",
        "tail ",
        "wc ",
        "echo ",
        "ip -s ",
        "ip route show",
        "ip addr show",
        "ip address show",
        "ip a show",
        "ip neigh show",
        "ss ",
        "conntrack ",
        "modprobe ",
        "ip route flush cache",
        "ip route get ",
        "ip -d ",
    ];
    let adds = ["ip route add local ", "ip -6 route add local ", "ip route replace local "];
    adds.iter().any(|a| line.starts_with(a))
        || line == "ip a"
        || (looks.iter().any(|l| line.starts_with(l)) && !line.contains(['=', '>']))
}

/// Settings that Pollux has not, for what it has not or does otherwise within: memory,
/// synchronization, connection tracking, estimators.
const NEUTRAL: [&str; 21] = [
    "amemthresh",
    "backup_only",
    "cache_bypass",
    "conntrack",
    "debug_level",
    "est_cpulist",
    "est_nice",
    "ignore_tunneled",
    "lblc_expiration",
    "lblcr_expiration",
    "run_estimation",
    "snat_reroute",
    "drop_rate",
    "sync_persist_mode",
    "sync_ports",
    "sync_qlen_max",
    "sync_refresh_period",
    "sync_retries",
    "sync_sock_size",
    "sync_threshold",
    "sync_version",
];

fn set_sysctl(s: &mut Settings, key: &str, value: &Value) -> Result<()> {
    let number = value.as_i64().or_else(|| value.as_str().and_then(|t| t.trim().parse().ok()));
    let Some(key) = key.strip_prefix("net.ipv4.vs.") else {
        if key == "net.ipv4.ip_forward" {
            s.routing = number != Some(0);
        }
        // What else the host has a setting for, packets would show.
        return if key.starts_with("net.") { Ok(()) } else { bail!("`{key}` is not known here") };
    };
    if NEUTRAL.contains(&key) {
        return Ok(());
    }
    let n = number.with_context(|| format!("`{key}` is no number: {value}"))?;
    match key {
        // The kernel refuses what is no level.
        "secure_tcp" | "drop_entry" | "drop_packet" if !(0..=3).contains(&n) => {}
        "expire_nodest_conn" => s.gone = if n == 0 { GonePolicy::Kernel } else { GonePolicy::Reset },
        "expire_quiescent_template" => s.expire_quiescent_template = n != 0,
        "sloppy_tcp" => s.sloppy_tcp = n != 0,
        "sloppy_sctp" => s.sloppy_sctp = n != 0,
        "conn_reuse_mode" => s.conn_reuse_mode = n as u8,
        "pmtu_disc" => s.pmtu_disc = n != 0,
        "nat_icmp_send" => s.nat_icmp_send = n != 0,
        "secure_tcp" => s.secure_tcp = n as u8,
        "drop_entry" => s.drop_entry = n as u8,
        "drop_packet" => s.drop_packet = n as u8,
        "am_droprate" => s.drop_packet_rate = n as u16,
        "schedule_icmp" => s.schedule_icmp = n != 0,
        _ => bail!("`{key}` is not known here"),
    }
    Ok(())
}
