//! The recordings' ipvsadm lines, by the real control side: parser, engine, snapshot.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use control::config::{Config, Port, Route, StaticNeighbour};
use control::engine::{Change, Engine, FlowQuery, FlowView, Operation, PortFacts, Progress, Request, Response, Setup};
use control::ipvsadm::{self, Command, Marks};
use control::model::{Error, Limits, Network, ServiceKey, ServicePatch};
use dataplane::link::WorkerLink;
use dataplane::snapshot::{GonePolicy, Settings};
use dataplane::units::Mac;
use serde_json::Value;

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
        limits: Limits { max_services: 128, max_real_servers: 128, ..Limits::default() },
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
        for line in scenario["setup"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !no_effect(line) && !marks.iptables(line) {
                bail!("not understood: {line}");
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
        Ok(Self { engine: Engine::new(setup, now)?, config, marks, links: links.to_vec() })
    }

    fn apply(engine: &mut Engine, operation: &Operation, now: u64) -> Result<(), Error> {
        let change = Change { operations: vec![operation.clone()], wait: false };
        engine.handle(Request::Change(change), now).map(|_| ())
    }

    /// Runs one ipvsadm line and returns exit code and standard error.
    pub fn run(&mut self, line: &str, stdin: &str, now: u64) -> (i32, String) {
        let line = &named(line);
        let words = ipvsadm::split(line.split(" < ").next().unwrap_or(line));
        match ipvsadm::parse(&words, &self.marks) {
            Err(f) => (f.code, f.message + "\n"),
            Ok(Command::Change(o)) => match Self::apply(&mut self.engine, &o, now) {
                Ok(()) => (0, String::new()),
                Err(e) => {
                    let f = ipvsadm::explain(&o, &e);
                    (f.code, f.message + "\n")
                }
            },
            Ok(Command::Restore) => {
                let engine = &mut self.engine;
                let (said, code) = ipvsadm::restore(stdin, &self.marks, |o| Self::apply(engine, o, now));
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

    /// A line of the scenario's world, while it runs: a rule of the firewall that marks packets.
    ///
    /// # Errors
    /// When it is not understood.
    pub fn setup(&mut self, line: &str, now: u64) -> Result<()> {
        if !self.marks.iptables(line) {
            bail!("not understood");
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
        let query = FlowQuery { limit: Some(4096), ..FlowQuery::default() };
        let Progress::Pending(ticket) = self.engine.start(Request::Flows(query), now) else { return Vec::new() };
        for _ in 0..100 {
            for (t, reply) in self.engine.tick(now) {
                if let (true, Ok(Response::Flows(page))) = (t == ticket, reply) {
                    return page.flows;
                }
            }
            run();
        }
        Vec::new()
    }

    /// Lets the engine do what it does every 10 ms. Its questions for neighbours are kept
    /// off the wire: the recordings show none.
    pub fn tick(&mut self, now: u64) {
        self.engine.tick(now);
        for link in &self.links {
            while link.inject.pop().is_some() {}
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

/// Whether a line changes nothing that a packet could show: it looks, waits, or makes addresses
/// local that marks name anyway.
pub fn no_effect(line: &str) -> bool {
    let looks = ["cat ", "cd ", "grep ", "sleep ", "true", "sysctl -a", "sysctl net", "ls ", "dmesg", "ip route show"];
    line.starts_with("ip route add local ")
        || line.starts_with("ip -6 route add local ")
        || (looks.iter().any(|l| line.starts_with(l)) && !line.contains(['=', '>']))
}

/// Settings that Pollux has not, for what it has not or does otherwise within: memory,
/// synchronization, connection tracking, estimators.
const NEUTRAL: [&str; 16] = [
    "amemthresh",
    "backup_only",
    "cache_bypass",
    "conntrack",
    "debug_level",
    "ignore_tunneled",
    "run_estimation",
    "snat_reroute",
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
    let number = value.as_u64().or_else(|| value.as_str().and_then(|t| t.trim().parse().ok()));
    let Some(key) = key.strip_prefix("net.ipv4.vs.") else { bail!("`{key}` is not known here") };
    if NEUTRAL.contains(&key) {
        return Ok(());
    }
    let n = number.with_context(|| format!("`{key}` is no number: {value}"))?;
    match key {
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
