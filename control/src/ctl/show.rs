//! Commands that show how things stand.

use std::path::Path;

use super::args::FlowsArgs;
use super::table::{Numbers, Table, duration, minutes, plural};
use super::{Context, Done, Failure};
use crate::api::{NeighbourList, PortList, ServerList, ServiceList};
use crate::client::escape;
use crate::config;
use crate::engine::{FlowPage, FlowView, NeighbourState, PortView, ServerView, ServiceView, Status, Version};
use crate::model::{ClientAddress, ForwardingMode, ServiceKey, Tunnel};

/// Most rows of one page that the API gives.
const PAGE: u64 = 4096;

impl Context<'_> {
    pub(super) fn list_services(&mut self) -> Done {
        self.print("/v1/services", |l: &ServiceList| services_table(&l.services))
    }

    pub(super) fn show_service(&mut self, key: ServiceKey) -> Done {
        self.print(&format!("/v1/services/{}", escape(&key.to_string())), service_text)
    }

    pub(super) fn list_servers(&mut self, service: Option<ServiceKey>) -> Done {
        match service {
            Some(key) => self.print(&format!("/v1/services/{}/servers", escape(&key.to_string())), |l: &ServerList| {
                servers_table(&[(l.service, &l.servers)])
            }),
            None => self.print("/v1/services", |l: &ServiceList| {
                let all: Vec<_> = l.services.iter().map(|s| (s.address, s.servers.as_slice())).collect();
                servers_table(&all)
            }),
        }
    }

    /// Page after page, until there are enough rows or no more.
    pub(super) fn flows(&mut self, a: &FlowsArgs) -> Done {
        let mut left = if a.all { u64::MAX } else { a.limit };
        let (mut cursor, mut rows) = (a.cursor.clone(), Vec::new());
        loop {
            let answer = self.client.get(&flows_path(a, left.min(PAGE), cursor.as_deref()))?;
            let page: FlowPage = answer.json()?;
            left = left.saturating_sub(page.flows.len() as u64);
            cursor = page.next;
            if self.json {
                // One page a line.
                self.raw(&answer.body)?;
            } else {
                rows.extend(page.flows);
            }
            if left == 0 || cursor.is_none() {
                break;
            }
        }
        if self.json {
            return Ok(());
        }
        let mut text = flows_table(&rows);
        if let Some(cursor) = cursor {
            text.push_str(&format!("There are more: --all lists them, --cursor {cursor} goes on here.\n"));
        }
        Ok(self.out.write_all(text.as_bytes())?)
    }

    pub(super) fn neighbours(&mut self) -> Done {
        self.print("/v1/neighbours", |l: &NeighbourList| neighbours_table(l))
    }

    pub(super) fn ports(&mut self) -> Done {
        self.print("/v1/ports", |l: &PortList| ports_tables(&l.ports))
    }

    pub(super) fn version(&mut self) -> Done {
        let client = env!("CARGO_PKG_VERSION");
        self.print("/v1/version", |v: &Version| {
            let mut text = format!("polluxd    {}\npolluxctl  {client}\nAPI        {}\n", v.version, v.api.join(", "));
            for (name, value) in &v.build {
                text.push_str(&format!("{name:<9}  {value}\n"));
            }
            text
        })
    }

    pub(super) fn status(&mut self) -> Done {
        self.print("/v1/status", status_text)
    }

    /// With `--json` the API's form, else the lines of the configuration file.
    pub(super) fn show_config(&mut self) -> Done {
        let path = if self.json { "/v1/config" } else { "/v1/config?format=toml" };
        let answer = self.client.get(path)?;
        self.raw(&answer.body)
    }

    pub(super) fn check_config(&mut self, file: &Path) -> Done {
        match config::check(file) {
            (text, true) => Ok(self.out.write_all(text.as_bytes())?),
            (text, false) => Err(Failure::Rendered(text)),
        }
    }
}

fn flows_path(a: &FlowsArgs, limit: u64, cursor: Option<&str>) -> String {
    let mut path = format!("/v1/flows?limit={limit}");
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", escape(&value)));
        }
    };
    add("client", a.client.map(|v| v.to_string()));
    add("vip", a.vip.map(|v| v.to_string()));
    add("service", a.service.map(|v| v.to_string()));
    add("server", a.server.map(|v| v.to_string()));
    add("protocol", a.protocol.clone());
    add("cursor", cursor.map(str::to_owned));
    path
}

/// What is special about a service, in few words.
fn flags(s: &ServiceView) -> String {
    let mut words: Vec<String> = s.sched_flags.iter().map(|f| f.to_string()).collect();
    if let Some(p) = s.persistence {
        let prefix = p.prefix_len.map_or(String::new(), |l| format!("/{l}"));
        words.push(format!("persistent {}s{prefix}", p.timeout_s));
    }
    if s.one_packet {
        words.push("one-packet".into());
    }
    if s.client_address != ClientAddress::None {
        words.push(s.client_address.to_string());
    }
    if s.ftp {
        words.push("ftp".into());
    }
    if words.is_empty() { "-".into() } else { words.join(", ") }
}

fn connections(servers: &[ServerView]) -> (u64, u64) {
    let sum = |f: fn(&ServerView) -> u32| servers.iter().map(|s| u64::from(f(s))).sum();
    (sum(|s| s.active_connections), sum(|s| s.inactive_connections))
}

fn services_table(services: &[ServiceView]) -> String {
    if services.is_empty() {
        return "There is no service. Add one: polluxctl service add tcp:10.9.0.1:80\n".into();
    }
    let n = Numbers::default();
    let mut t =
        Table::new(&["SERVICE", "SCHEDULER", "FLAGS", ">SERVERS", ">ACTIVE", ">INACTIVE", ">CONN/S", ">IN", ">OUT"]);
    for s in services {
        let (active, inactive) = connections(&s.servers);
        t.row([
            s.address.to_string(),
            s.scheduler.to_string(),
            flags(s),
            s.servers.len().to_string(),
            n.count(active),
            n.count(inactive),
            n.rate(s.rates.connections),
            n.bits(s.rates.in_bytes),
            n.bits(s.rates.out_bytes),
        ]);
    }
    t.render()
}

fn service_text(s: &ServiceView) -> String {
    let n = Numbers::default();
    let mut text = format!("service    {}\nscheduler  {}\nflags      {}\n", s.address, s.scheduler, flags(s));
    for rule in &s.rules {
        text.push_str(&format!("takes      {rule}\n"));
    }
    let (t, r) = (&s.traffic, &s.rates);
    text.push_str(&format!(
        "total      {} connections, in {} packets {}, out {} packets {}\n",
        n.count(t.connections),
        n.count(t.in_packets),
        n.bytes(t.in_bytes),
        n.count(t.out_packets),
        n.bytes(t.out_bytes),
    ));
    text.push_str(&format!(
        "now        {} connections/s, in {} packets/s {}, out {} packets/s {}\n\n",
        n.rate(r.connections),
        n.rate(r.in_packets),
        n.bits(r.in_bytes),
        n.rate(r.out_packets),
        n.bits(r.out_bytes),
    ));
    text + &servers_table(&[(s.address, &s.servers)])
}

/// How a server's packets reach it: the mode, and the wrapping of a tunnel.
fn mode(s: &ServerView) -> String {
    match (s.mode, s.tunnel) {
        (ForwardingMode::Tunnel, tunnel) => match tunnel.unwrap_or_default() {
            Tunnel::Gue { port, .. } => format!("tunnel gue:{port}"),
            Tunnel::Vxlan { port, vni } => format!("tunnel vxlan:{port} vni {vni}"),
            other => format!("tunnel {}", other.name()),
        },
        (mode, _) => mode.to_string(),
    }
}

/// Whether a server takes flows, and if not, why.
fn state(s: &ServerView) -> String {
    let all = u64::from(s.active_connections) + u64::from(s.inactive_connections);
    match (s.weight, s.resolved) {
        (0, _) if all == 0 => "drained".into(),
        (0, _) => format!("draining, {} left", plural(all as usize, "flow")),
        (_, false) => "no neighbour".into(),
        _ if s.upper_threshold > 0 && all >= s.upper_threshold.into() => "at threshold".into(),
        _ => "ok".into(),
    }
}

fn servers_table(services: &[(ServiceKey, &[ServerView])]) -> String {
    let n = Numbers::default();
    let thresholds = services.iter().flat_map(|(_, s)| s.iter()).any(|s| s.upper_threshold > 0);
    let mut columns = vec!["SERVICE", "SERVER", "MODE", ">WEIGHT", ">ACTIVE", ">INACTIVE", ">CONN/S"];
    if thresholds {
        columns.push(">LIMITS");
    }
    columns.push("STATE");
    let mut t = Table::new(&columns);
    for (service, servers) in services {
        for s in *servers {
            let mut row = vec![
                service.to_string(),
                s.address.to_string(),
                mode(s),
                s.weight.to_string(),
                n.count(s.active_connections.into()),
                n.count(s.inactive_connections.into()),
                n.rate(s.rates.connections),
            ];
            if thresholds {
                row.push(match (s.upper_threshold, s.lower_threshold) {
                    (0, _) => "-".into(),
                    (upper, 0) => format!("{}-{upper}", u64::from(upper) * 3 / 4),
                    (upper, lower) => format!("{lower}-{upper}"),
                });
            }
            row.push(state(s));
            t.row(row);
        }
    }
    match (t.is_empty(), services) {
        (false, _) => t.render(),
        (true, [(service, _)]) => {
            format!("{service} has no real server. Add one: polluxctl server add {service} ADDRESS:PORT\n")
        }
        (true, _) => "There is no real server. Add one: polluxctl server add SERVICE ADDRESS:PORT\n".into(),
    }
}

fn socket(ip: std::net::IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}

fn flows_table(flows: &[FlowView]) -> String {
    if flows.is_empty() {
        return "No flow matches.\n".into();
    }
    let mut t = Table::new(&["PROTO", "CLIENT", "VIRTUAL", "SERVER", "MODE", "STATE", ">EXPIRES", ">WORKER"]);
    for f in flows {
        t.row([
            f.protocol.clone(),
            if f.template { f.client.to_string() } else { socket(f.client, f.client_port) },
            socket(f.vip, f.vip_port),
            f.server.map_or_else(|| "-".into(), |s| s.to_string()),
            f.local.map_or_else(|| f.mode.clone(), |local| format!("{} from {local}", f.mode)),
            if f.template { "template".into() } else { f.state.clone() },
            minutes(f.expires_ms),
            f.worker.to_string(),
        ]);
    }
    t.render()
}

fn neighbours_table(l: &NeighbourList) -> String {
    if l.neighbours.is_empty() {
        return "No neighbour is known yet: none was asked for.\n".into();
    }
    let mut t = Table::new(&["ADDRESS", "MAC", "PORT", "STATE", "ROLE", ">CONFIRMED"]);
    for n in &l.neighbours {
        let state = match n.state {
            NeighbourState::Static => "static",
            NeighbourState::Incomplete => "incomplete",
            NeighbourState::Reachable => "reachable",
            NeighbourState::Stale => "stale",
            NeighbourState::Probe => "probe",
            NeighbourState::Failed => "failed",
        };
        t.row([
            n.address.to_string(),
            n.mac.clone().unwrap_or_else(|| "-".into()),
            n.vlan.map_or_else(|| n.port.clone(), |v| format!("{}.{v}", n.port)),
            state.into(),
            n.role.clone(),
            n.age_s.map_or_else(|| "-".into(), |s| format!("{} ago", duration(s.into()))),
        ]);
    }
    t.render()
}

fn ports_tables(ports: &[PortView]) -> String {
    if ports.is_empty() {
        return "There is no port: add [[port]] to the configuration file and restart polluxd.\n".into();
    }
    let n = Numbers::default();
    let mut facts = Table::new(&["PORT", "DRIVER", "MAC", "LINK", ">MTU", ">QUEUES", "STEERING", "ADDRESSES"]);
    let mut traffic = Table::new(&["PORT", ">RX PACKETS", ">RX BYTES", ">TX PACKETS", ">TX BYTES", "DEVICE"]);
    for p in ports {
        let f = &p.facts;
        facts.row([
            f.name.clone(),
            f.driver.clone(),
            f.mac.clone(),
            f.link_up.map_or("?", |up| if up { "up" } else { "down" }).into(),
            f.mtu.to_string(),
            format!("{}/{}", f.rx_queues, f.tx_queues),
            f.steering.clone(),
            if p.addresses.is_empty() { "-".into() } else { p.addresses.join(", ") },
        ]);
        traffic.row([
            f.name.clone(),
            n.count(p.rx_packets),
            n.bytes(p.rx_bytes),
            n.count(p.tx_packets),
            n.bytes(p.tx_bytes),
            f.device.clone(),
        ]);
    }
    let mut text = format!("{}\n{}", facts.render(), traffic.render());
    let telling: Vec<_> =
        ports.iter().filter(|p| !p.facts.offloads.is_empty() || !p.facts.details.is_empty()).collect();
    if !telling.is_empty() {
        text.push('\n');
    }
    for p in telling {
        let mut words: Vec<String> = Vec::new();
        if !p.facts.offloads.is_empty() {
            words.push(format!("offloads {}", p.facts.offloads.join(" ")));
        }
        words.extend(p.facts.details.iter().map(|(k, v)| format!("{k} {v}")));
        text.push_str(&format!("{}: {}\n", p.facts.name, words.join("; ")));
    }
    text
}

fn status_text(s: &Status) -> String {
    let behind = s.adopted.iter().filter(|g| **g != s.generation).count();
    let adopted = match (s.adopted.len(), behind) {
        (0, _) => "no worker runs".into(),
        (n, behind) => format!("adopted by {} of {}", n - behind, plural(n, "worker")),
    };
    let none = || "none".to_owned();
    let mut text = format!(
        "running     {}\ngeneration  {}, {adopted}\nservices    {}, {}{}{}\nfile        {}\nstate       {}\n",
        duration(s.uptime_s),
        s.generation,
        plural(s.services as usize, "service"),
        plural(s.servers as usize, "real server"),
        match s.services_from.as_str() {
            "file" => ", from the configuration file",
            "state" => ", from the state file",
            _ => "",
        },
        if s.changed_by_api { ", changed since by the API" } else { "" },
        s.config_file.clone().unwrap_or_else(none),
        s.state_file.clone().unwrap_or_else(none),
    );
    for w in &s.warnings {
        text.push_str(&format!("warning     {w}\n"));
    }
    for r in &s.needs_restart {
        text.push_str(&format!("restart     {r}\n"));
    }
    text
}
