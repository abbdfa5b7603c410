//! `[[service]]` with `[[service.server]]`.

use super::reader::{Field, Section};
use crate::model::{
    ClientAddress, Error, ForwardingMode, GueChecksum, Limits, MarkRule, NewService, Persistence, RealServer,
    SchedFlag, Scheduler, ServerKey, Service, ServiceKey, Services, Tunnel,
};

pub fn read_services(root: &Section, limits: &Limits) -> Services {
    let mut out = Services::default();
    for s in root.sections("service") {
        let (new, servers) = read_service(&s);
        s.finish();
        let Some(new) = new else { continue };
        // Servers are checked one by one, so that each mistake is told at its place.
        let mut service = match new.validate() {
            Ok(service) => Some(service),
            Err(e) => {
                tell(&s, &e);
                None
            }
        };
        for (section, server) in &servers {
            add_server(section, server, &mut service);
        }
        let Some(service) = service else { continue };
        let whole = NewService { servers: service.servers, ..new };
        if let Err(e) = out.add(&whole, limits) {
            let key = if e.code == crate::model::ErrorCode::ServiceExists { "address" } else { "server" };
            let e = match e.code {
                crate::model::ErrorCode::ServiceExists => {
                    Error { message: format!("the service {} is configured twice", whole.address), ..e }
                        .remedy("put its real servers in one entry")
                }
                _ => e,
            };
            s.error_at(key, e.message, e.remedy);
        }
    }
    out
}

fn add_server(section: &Section, server: &RealServer, service: &mut Option<Service>) {
    let Some(service) = service else { return };
    if let Err(e) = service.add_server(server) {
        let e = match e.code {
            crate::model::ErrorCode::ServerExists => {
                Error { message: format!("the real server {} is configured twice", server.address), ..e }
                    .remedy("keep one entry for each address and port")
            }
            _ => e,
        };
        section.error_at(e.field.as_deref().unwrap_or("address"), e.message, e.remedy);
    }
}

fn tell(s: &Section, e: &Error) {
    s.error_at(e.field.as_deref().unwrap_or("address"), e.message.clone(), e.remedy.clone());
}

fn read_service<'a>(s: &Section<'a>) -> (Option<NewService>, Vec<(Section<'a>, RealServer)>) {
    let address = s.required("address", "name protocol, VIP and port, such as `address = \"tcp:10.9.0.1:80\"`");
    let address = address.and_then(|f| f.parse::<ServiceKey>(""));
    let mut new = address.map(NewService::new);
    let scheduler = s.get("scheduler").and_then(|f| {
        let names: Vec<(&str, Scheduler)> = Scheduler::ALL.iter().map(|s| (s.name(), *s)).collect();
        f.choice(&names)
    });
    let flags = s.get("sched_flags").map(|f| f.list().iter().filter_map(|e| e.parse::<SchedFlag>("")).collect());
    let persistence = s.get("persistence").and_then(|f| read_persistence(&f));
    let one_packet = s.get("one_packet").and_then(|f| f.bool());
    let client_address = s.get("client_address").and_then(|f| {
        let names: Vec<(&str, ClientAddress)> = ClientAddress::ALL.iter().map(|c| (c.name(), *c)).collect();
        f.choice(&names)
    });
    let ftp = s.get("ftp").and_then(|f| f.bool());
    let rules: Option<Vec<MarkRule>> =
        s.get("rules").map(|f| f.list().iter().filter_map(|e| e.parse::<MarkRule>("")).collect());
    let mut servers = Vec::new();
    for section in s.sections("server") {
        let server = read_server(&section);
        section.finish();
        if let Some(server) = server {
            servers.push((section, server));
        }
    }
    if let Some(n) = &mut new {
        n.scheduler = scheduler.unwrap_or_default();
        n.sched_flags = flags.unwrap_or_default();
        n.persistence = persistence;
        n.one_packet = one_packet.unwrap_or(false);
        n.client_address = client_address.unwrap_or_default();
        n.ftp = ftp.unwrap_or(false);
        n.rules = rules.unwrap_or_default();
    }
    (new, servers)
}

/// `persistence = 300`, or `persistence = { timeout_s = 300, prefix_len = 24 }`.
fn read_persistence(f: &Field) -> Option<Persistence> {
    if !f.is_table() {
        return Some(Persistence { timeout_s: f.int(1..=2_678_400)?, prefix_len: None });
    }
    let s = f.section()?;
    let timeout_s = s.get("timeout_s").map_or(Some(360), |f| f.int(1..=2_678_400));
    let prefix_len = s.get("prefix_len").and_then(|f| f.int(0..=128));
    s.finish();
    Some(Persistence { timeout_s: timeout_s?, prefix_len })
}

fn read_server(s: &Section) -> Option<RealServer> {
    let address = s.required("address", "name the real server, such as `address = \"10.2.0.11:80\"`");
    let address = address.and_then(|f| f.parse::<ServerKey>(""));
    let mut server = address.map(RealServer::new);
    let mode = s.get("mode").and_then(|f| match f.string()? {
        // Short forms that operators know.
        "dr" => Some(ForwardingMode::DirectRouting),
        "ipip" => Some(ForwardingMode::Tunnel),
        _ => {
            let names: Vec<(&str, ForwardingMode)> = ForwardingMode::ALL.iter().map(|m| (m.name(), *m)).collect();
            f.choice(&names)
        }
    });
    let weight = s.get("weight").and_then(|f| f.int(0..=2_147_483_647));
    let upper = s.get("upper_threshold").and_then(|f| f.int(0..=2_147_483_647));
    let lower = s.get("lower_threshold").and_then(|f| f.int(0..=2_147_483_647));
    let tunnel = s.section("tunnel").and_then(|t| read_tunnel(&t));
    if let Some(r) = &mut server {
        r.mode = mode.unwrap_or_default();
        r.weight = weight.unwrap_or(1);
        r.upper_threshold = upper.unwrap_or(0);
        r.lower_threshold = lower.unwrap_or(0);
        r.tunnel = tunnel.unwrap_or_default();
    }
    server
}

fn read_tunnel(s: &Section) -> Option<Tunnel> {
    let kind = s.required("type", "name the wrapping: `ipip`, `gre`, `gue` or `vxlan`");
    let kind = kind.and_then(|f| f.choice(&[("ipip", 0), ("gre", 1), ("gue", 2), ("vxlan", 3)]))?;
    let tunnel = match kind {
        0 => Some(Tunnel::Ipip),
        1 => Some(Tunnel::Gre { checksum: s.get("checksum").and_then(|f| f.bool()).unwrap_or(false) }),
        2 => {
            let port = s.required("port", "give the server's UDP port, such as 6080").and_then(|f| f.int(1..=65535));
            let names: Vec<(&str, GueChecksum)> = GueChecksum::ALL.iter().map(|c| (c.name(), *c)).collect();
            let checksum = s.get("checksum").and_then(|f| f.choice(&names)).unwrap_or_default();
            port.map(|port| Tunnel::Gue { port, checksum })
        }
        _ => {
            let port = s.get("port").map_or(Some(4789), |f| f.int(1..=65535));
            let vni = s.required("vni", "give the network identifier").and_then(|f| f.int(0..=(1 << 24) - 1));
            port.zip(vni).map(|(port, vni)| Tunnel::Vxlan { port, vni })
        }
    };
    s.finish();
    tunnel
}
