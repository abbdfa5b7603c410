//! The model as workers are told it. Pure: the same input gives the same description.

use std::collections::BTreeMap;

use dataplane::sched::{SchedulerKind, flags as sched_flags};
use dataplane::snapshot::{self as snap, Match, RealSpec, RouteSpec, ServiceSpec, Settings, Spec};
use dataplane::units::{Ip, NextHopId, RealId, ServiceId};

use crate::ids::Ids;
use crate::model::{
    ClientAddress, ForwardingMode, GueChecksum, MarkRule, Persistence, RealServer, SchedFlag, Scheduler, Service,
    ServiceKey, Services, Tunnel,
};
use crate::neighbour::Neighbours;
use crate::topology::Topology;
use crate::vips::Vips;

/// Everything that a snapshot is made from.
pub struct Input<'a> {
    /// Number of the snapshot.
    pub generation: u64,
    /// Settings and time-outs.
    pub settings: &'a Settings,
    /// Interfaces and routes.
    pub topology: &'a Topology,
    /// The VIPs.
    pub vips: &'a Vips,
    /// The services.
    pub services: &'a Services,
    /// The numbers of services and real servers.
    pub ids: &'a Ids,
    /// The neighbours, with their numbers.
    pub neighbours: &'a Neighbours,
    /// Path MTUs that routers reported, by real server's address.
    pub path_mtus: &'a BTreeMap<Ip, u16>,
}

/// Describes the snapshot.
pub fn compile(input: &Input) -> Spec {
    let mut reals = Vec::new();
    for s in input.services.iter() {
        // By position, as looking for each of a long list would take a while.
        let numbers = input.ids.list(&s.address).iter().copied();
        reals.extend(s.servers.iter().zip(numbers).filter_map(|(r, id)| real(input, &s.address, r, id)));
    }
    let removed = input.ids.slots().filter_map(|(s, _, slot)| Some((s, slot.id, slot.removed.as_ref()?)));
    reals.extend(removed.filter_map(|(s, id, gone)| real(input, s, &gone.server, id)));
    Spec {
        generation: input.generation,
        settings: input.settings.clone(),
        devices: input.topology.devices.clone(),
        interfaces: input.topology.interfaces.iter().map(|i| i.spec.clone()).collect(),
        vips: input.vips.iter().collect(),
        services: input.services.iter().filter_map(|s| service(s, input.ids)).collect(),
        reals,
        next_hops: input.neighbours.next_hops(),
        routes: routes(input),
    }
}

fn routes(input: &Input) -> Vec<RouteSpec> {
    let spec = |r: &crate::config::Route| {
        let way = input.topology.gateway(r)?;
        let gateway = input.neighbours.next_hop(way.iface, way.next_hop)?.id;
        Some(RouteSpec { network: Ip::from(r.to.ip), prefix_len: r.to.prefix_len, gateway })
    };
    input.topology.routes.iter().filter_map(spec).collect()
}

/// Describes a service.
pub fn service(s: &Service, ids: &Ids) -> Option<ServiceSpec> {
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
        reals: ids.list(&s.address).iter().rev().copied().filter(|id| *id != RealId::NONE).collect(),
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

/// Describes the real server of a number.
pub fn real_of(input: &Input, id: RealId) -> Option<RealSpec> {
    let (service, server) = input.ids.owner(id)?;
    match &input.ids.slot(&service, &server)?.removed {
        Some(gone) => real(input, &service, &gone.server, id),
        None => real(input, &service, input.services.get(&service).ok()?.server(&server)?, id),
    }
}

/// Describes a real server with its number.
pub fn real(input: &Input, key: &ServiceKey, r: &RealServer, id: RealId) -> Option<RealSpec> {
    let slot = input.ids.slot(key, &r.address).filter(|s| s.id == id)?;
    let addr = Ip::from(r.address.ip);
    // A server that is the director itself, by one of its own addresses, a VIP or the loopback.
    let local = r.address.ip.is_loopback() || input.vips.contains(addr) || input.topology.owns(addr);
    let way = if local { None } else { input.topology.way(addr) };
    let next_hop = match way {
        // The kernel drops what NAT would send to the loopback.
        _ if local && r.address.ip.is_loopback() && rewrites(r.mode) => NextHopId::LOOPBACK,
        _ if local => NextHopId::HERE,
        Some(w) => input.neighbours.next_hop(w.iface, w.next_hop).map_or(NextHopId::NONE, |n| n.id),
        None => NextHopId::NONE,
    };
    Some(RealSpec {
        id,
        service: input.ids.service(key).unwrap_or(ServiceId::NONE),
        addr,
        port: r.address.port,
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
    })
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
