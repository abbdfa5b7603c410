//! The model as workers are told it. Pure: the same input gives the same description.

use std::collections::{BTreeMap, HashSet};

use dataplane::sched::{SchedulerKind, flags as sched_flags};
use dataplane::snapshot::{self as snap, Match, NextHopSpec, RealSpec, RouteSpec, ServiceSpec, Settings, Spec};
use dataplane::units::{Ip, NextHopId, RealId, ServiceId};

use crate::ids::{Ids, Slot};
use crate::model::{
    ClientAddress, ForwardingMode, GueChecksum, MarkRule, Persistence, RealServer, SchedFlag, Scheduler, Service,
    ServiceKey, Services, Tunnel,
};
use crate::topology::{Topology, Way};

/// Everything that a snapshot is made from.
pub struct Input<'a> {
    /// Number of the snapshot.
    pub generation: u64,
    /// Settings and time-outs.
    pub settings: &'a Settings,
    /// Interfaces and routes.
    pub topology: &'a Topology,
    /// VIPs that are listed in the configuration.
    pub vips: &'a [std::net::IpAddr],
    /// The services.
    pub services: &'a Services,
    /// The numbers of services and real servers.
    pub ids: &'a Ids,
    /// The neighbours, with their numbers.
    pub next_hops: &'a [NextHopSpec],
    /// Path MTUs that routers reported, by real server's address.
    pub path_mtus: &'a BTreeMap<Ip, u16>,
}

/// Describes the snapshot.
pub fn compile(input: &Input) -> Spec {
    let hops: BTreeMap<(u16, Ip), NextHopId> = input.next_hops.iter().map(|h| ((h.iface.0, h.ip), h.id)).collect();
    let vips = vips(input.vips, input.services);
    let hosts: HashSet<Ip> = vips.iter().map(|(ip, _)| *ip).collect();
    // A server that is the director itself, by one of its own addresses, a VIP or the loopback.
    let local = |r: &RealServer| {
        let ip = Ip::from(r.address.ip);
        r.address.ip.is_loopback() || hosts.contains(&ip) || input.topology.owns(ip)
    };
    let mut reals = Vec::new();
    for (service, server, slot) in input.ids.slots() {
        let number = input.ids.service(service).unwrap_or(ServiceId::NONE);
        let config = match &slot.removed {
            Some(r) => Some(r.server.clone()),
            None => input.services.get(service).ok().and_then(|s| s.server(server)).cloned(),
        };
        if let Some(config) = config {
            let local = local(&config);
            let way = if local { None } else { input.topology.way(Ip::from(config.address.ip)) };
            let next_hop = match way {
                // The kernel drops what NAT would send to the loopback.
                _ if local && config.address.ip.is_loopback() && rewrites(config.mode) => NextHopId::LOOPBACK,
                _ if local => NextHopId::HERE,
                Some(w) => hops.get(&(w.iface.0, w.next_hop)).copied().unwrap_or(NextHopId::NONE),
                None => NextHopId::NONE,
            };
            reals.push(real(input, (service, number), &config, slot, (way, next_hop)));
        }
    }
    Spec {
        generation: input.generation,
        settings: input.settings.clone(),
        devices: input.topology.devices.clone(),
        interfaces: input.topology.interfaces.iter().map(|i| i.spec.clone()).collect(),
        vips,
        services: input.services.iter().filter_map(|s| service(s, input.ids)).collect(),
        reals,
        next_hops: input.next_hops.to_vec(),
        routes: routes(input.topology, &hops),
    }
}

fn routes(topology: &Topology, hops: &BTreeMap<(u16, Ip), NextHopId>) -> Vec<RouteSpec> {
    let spec = |r: &crate::config::Route| {
        let way = topology.gateway(r)?;
        let gateway = *hops.get(&(way.iface.0, way.next_hop))?;
        Some(RouteSpec { network: Ip::from(r.to.ip), prefix_len: r.to.prefix_len, gateway })
    };
    topology.routes.iter().filter_map(spec).collect()
}

/// VIPs: those listed, those of services, and the networks of firewall marks. Sorted.
pub fn vips(listed: &[std::net::IpAddr], services: &Services) -> Vec<(Ip, u8)> {
    let host = |ip: std::net::IpAddr| (Ip::from(ip), if ip.is_ipv4() { 32 } else { 128 });
    let mut out: Vec<(Ip, u8)> = listed.iter().map(|ip| host(*ip)).collect();
    for s in services.iter() {
        out.extend(s.address.vip().map(host));
        out.extend(s.rules.iter().map(|r| (Ip::from(r.network.ip), r.network.prefix_len)));
    }
    out.sort();
    out.dedup();
    out
}

fn service(s: &Service, ids: &Ids) -> Option<ServiceSpec> {
    let matches = match s.address {
        ServiceKey::Address { protocol, vip, port } => {
            Match::Address { protocol: protocol as u8, vip: Ip::from(vip), port }
        }
        ServiceKey::Mark { mark, ipv6 } => Match::Mark { mark, ipv6, rules: s.rules.iter().map(rule).collect() },
    };
    Some(ServiceSpec {
        id: ids.service(&s.address)?,
        matches,
        scheduler: scheduler(s.scheduler),
        sched_flags: s.sched_flags.iter().fold(0, |bits, f| bits | flag(*f)),
        persistence: s.persistence.map(|p| persistence(p, s.address.is_ipv6())),
        one_packet: s.one_packet,
        extras: snap::Extras {
            client_address: match s.client_address {
                ClientAddress::None => snap::ClientAddress::None,
                ClientAddress::Proxy => snap::ClientAddress::Proxy,
                ClientAddress::Toa => snap::ClientAddress::Toa,
            },
            ftp: s.ftp,
        },
        // The newest is tried first, as in the kernel.
        reals: s.servers.iter().rev().filter_map(|r| ids.real(&s.address, &r.address)).collect(),
    })
}

fn rule(r: &MarkRule) -> snap::MarkRule {
    snap::MarkRule {
        protocol: r.protocol.map(|p| p as u8),
        network: Ip::from(r.network.ip),
        prefix_len: r.network.prefix_len,
        port_first: r.port_first,
        port_last: r.port_last,
    }
}

fn persistence(p: Persistence, ipv6: bool) -> snap::Persistence {
    snap::Persistence {
        timeout_ms: p.timeout_s.saturating_mul(1000).min(Persistence::MOST_MS),
        prefix_len: p.prefix_len.unwrap_or(if ipv6 { 128 } else { 32 }),
    }
}

fn real(
    input: &Input,
    (key, service): (&ServiceKey, ServiceId),
    r: &RealServer,
    slot: &Slot,
    (way, next_hop): (Option<Way>, NextHopId),
) -> RealSpec {
    let addr = Ip::from(r.address.ip);
    RealSpec {
        id: slot.id,
        service,
        addr,
        port: if matches!(key, ServiceKey::Mark { .. }) && !rewrites(r.mode) { 0 } else { r.address.port },
        mode: mode(r.mode),
        tunnel: tunnel(r.tunnel),
        weight: r.weight,
        last_weight: slot.last_weight,
        upper: r.upper_threshold,
        lower: r.lower_threshold,
        next_hop,
        source: way.map_or(Ip::UNSPECIFIED, |w| w.source),
        path_mtu: input.path_mtus.get(&addr).copied().unwrap_or(0),
        available: slot.removed.is_none(),
        predecessor: slot.removed.as_ref().map_or(RealId::NONE, |g| g.predecessor),
    }
}

fn rewrites(m: ForwardingMode) -> bool {
    matches!(m, ForwardingMode::Nat | ForwardingMode::FullNat)
}

fn mode(m: ForwardingMode) -> snap::ForwardingMode {
    match m {
        ForwardingMode::DirectRouting => snap::ForwardingMode::DirectRouting,
        ForwardingMode::Nat => snap::ForwardingMode::Nat,
        ForwardingMode::Tunnel => snap::ForwardingMode::Tunnel,
        ForwardingMode::FullNat => snap::ForwardingMode::FullNat,
    }
}

fn tunnel(t: Tunnel) -> snap::Tunnel {
    match t {
        Tunnel::Ipip => snap::Tunnel::Ipip,
        Tunnel::Gre { checksum } => snap::Tunnel::Gre { checksum },
        Tunnel::Gue { port, checksum } => {
            let checksum = match checksum {
                GueChecksum::None => snap::GueChecksum::None,
                GueChecksum::Udp => snap::GueChecksum::Udp,
                GueChecksum::Remote => snap::GueChecksum::Remote,
            };
            snap::Tunnel::Gue { port, checksum }
        }
        Tunnel::Vxlan { port, vni } => snap::Tunnel::Vxlan { port, vni },
    }
}

fn flag(f: SchedFlag) -> u32 {
    match f {
        SchedFlag::Fallback => sched_flags::FALLBACK,
        SchedFlag::Port => sched_flags::PORT,
        // IP_VS_SVC_F_SCHED3: carried along, read by nobody.
        SchedFlag::Flag3 => 0x20,
    }
}

fn scheduler(s: Scheduler) -> SchedulerKind {
    match s {
        Scheduler::Rr => SchedulerKind::Rr,
        Scheduler::Wrr => SchedulerKind::Wrr,
        Scheduler::Lc => SchedulerKind::Lc,
        Scheduler::Wlc => SchedulerKind::Wlc,
        Scheduler::Sed => SchedulerKind::Sed,
        Scheduler::Nq => SchedulerKind::Nq,
        Scheduler::Dh => SchedulerKind::Dh,
        Scheduler::Sh => SchedulerKind::Sh,
        Scheduler::Mh => SchedulerKind::Mh,
        Scheduler::Lblc => SchedulerKind::Lblc,
        Scheduler::Lblcr => SchedulerKind::Lblcr,
        Scheduler::Fo => SchedulerKind::Fo,
        Scheduler::Ovf => SchedulerKind::Ovf,
        Scheduler::Twos => SchedulerKind::Twos,
    }
}
