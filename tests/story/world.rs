//! A configuration with every forwarding mode, both families and most schedulers.

use std::net::IpAddr;

use dataplane::sched::SchedulerKind;
use dataplane::snapshot::*;
use dataplane::units::*;

/// Ethernet addresses of the director's two ports.
pub const PORT_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 1, 0], [2, 0, 0, 0, 2, 0]];
/// How many services there are: service `n` has the VIPs `10.9.0.(1 + n)` and, from
/// [`FIRST_V6`] on, `2001:db8:9::(1 + n)`.
pub const SERVICES: usize = 14;
/// The first IPv6 service.
pub const FIRST_V6: usize = 9;
/// Real servers of each service.
pub const REALS: usize = 3;

fn ip(s: &str) -> Ip {
    s.parse::<IpAddr>().expect("a literal address").into()
}

/// The local addresses of full NAT.
pub const LOCALS: [&str; 2] = ["10.2.0.200", "2001:db8:2::c8"];
/// Their ports.
pub const LOCAL_PORTS: (u16, u16) = (5000, 5007);

/// The VIP of service `n`.
pub fn vip(n: usize) -> Ip {
    if n < FIRST_V6 { ip(&format!("10.9.0.{}", 1 + n)) } else { ip(&format!("2001:db8:9::{:x}", 1 + n)) }
}

/// Mode and wrapping of service `n`, cycling through all of them in each family.
fn mode(n: usize) -> (ForwardingMode, Tunnel) {
    let gue = |checksum| (ForwardingMode::Tunnel, Tunnel::Gue { port: 6080, checksum });
    match n {
        0 | 8 | 9 => (ForwardingMode::Nat, Tunnel::Ipip),
        1 | 10 => (ForwardingMode::DirectRouting, Tunnel::Ipip),
        2 | 11 => (ForwardingMode::Tunnel, Tunnel::Ipip),
        3 | 12 => (ForwardingMode::Tunnel, Tunnel::Gre { checksum: true }),
        4 => gue(GueChecksum::None),
        5 | 13 => gue(GueChecksum::Udp),
        6 => gue(GueChecksum::Remote),
        _ => (ForwardingMode::Tunnel, Tunnel::Vxlan { port: 4789, vni: 7 }),
    }
}

/// The configuration. `variant` switches settings, schedulers, persistence, and which
/// real servers are drained or gone, so that rules can change underneath live flows.
pub fn world(generation: u64, variant: u8) -> Spec {
    let iface = |port: u16, v4: &str, v6: &str| InterfaceSpec {
        port: PortId(port),
        vlan: None,
        mac: Mac(PORT_MACS[usize::from(port)]),
        mtu: 1500,
        addresses: vec![(ip(v4), 24), (ip(v6), 64)],
    };
    let mut spec = Spec {
        generation,
        settings: settings(variant),
        interfaces: vec![iface(0, "10.3.0.1", "2001:db8:3::1"), iface(1, "10.2.0.254", "2001:db8:2::fe")],
        vips: (0..SERVICES).map(|n| (vip(n), if n < FIRST_V6 { 32 } else { 128 })).collect(),
        ..Spec::default()
    };
    let gateway = |id, addr: &str| NextHopSpec {
        id: NextHopId(id),
        iface: IfaceId(0),
        ip: ip(addr),
        mac: Some(Mac([2, 0, 0, 0, 3, 2])),
    };
    spec.next_hops = vec![gateway(0, "10.3.0.2"), gateway(1, "2001:db8:3::2")];
    spec.routes = vec![
        RouteSpec { network: ip("0.0.0.0"), prefix_len: 0, gateway: NextHopId(0) },
        RouteSpec { network: ip("::"), prefix_len: 0, gateway: NextHopId(1) },
    ];
    for n in 0..SERVICES {
        service(&mut spec, n, variant);
    }
    spec
}

fn settings(variant: u8) -> Settings {
    let on = |bit: u8| variant & (1 << bit) != 0;
    Settings {
        sloppy_tcp: on(0),
        schedule_icmp: on(1),
        refusal: if on(2) { Refusal::Silent } else { Refusal::Answer },
        gone: [GonePolicy::Drop, GonePolicy::Reset, GonePolicy::Reschedule, GonePolicy::Kernel]
            [usize::from(variant) % 4],
        pmtu_disc: !on(3),
        nat_icmp_send: on(4),
        secure_tcp: if on(5) { 3 } else { 1 },
        expire_quiescent_template: on(6),
        drop_entry: variant & 3,
        drop_packet: variant >> 2 & 3,
        // Few ports, so that they run out and replies find them.
        full_nat: FullNat { addresses: LOCALS.iter().map(|a| ip(a)).collect(), ports: LOCAL_PORTS },
        ..Settings::default()
    }
}

fn service(spec: &mut Spec, n: usize, variant: u8) {
    use SchedulerKind::*;
    const KINDS: [SchedulerKind; 10] = [Rr, Wrr, Lc, Wlc, Sed, Nq, Dh, Sh, Mh, Fo];
    let (mut forwarding, tunnel) = mode(n);
    if variant & 0x20 != 0 && (n == 0 || n == 10) {
        forwarding = ForwardingMode::FullNat;
    }
    let rewrites = matches!(forwarding, ForwardingMode::Nat | ForwardingMode::FullNat);
    let told = [ClientAddress::None, ClientAddress::Proxy, ClientAddress::Toa];
    let extras = match rewrites {
        true => Extras { client_address: told[usize::from(variant >> 1) % 3], ftp: variant & 1 != 0 },
        false => Extras::default(),
    };
    let udp = n % 2 == 1;
    let v4 = n < FIRST_V6;
    let ids = (0..REALS).map(|r| RealId((n * REALS + r) as u32));
    spec.services.push(ServiceSpec {
        id: ServiceId(n as _),
        matches: Match::Address { protocol: if udp { 17 } else { 6 }, vip: vip(n), port: if n == 8 { 0 } else { 80 } },
        scheduler: KINDS[(n + usize::from(variant)) % KINDS.len()],
        sched_flags: 0,
        persistence: (n == 8 || (variant as usize + n).is_multiple_of(5))
            .then_some(Persistence { timeout_ms: 300_000, prefix_len: if v4 { 24 } else { 64 } }),
        one_packet: udp && variant & 0x80 != 0,
        extras,
        reals: ids.clone().rev().collect(),
    });
    for (r, id) in ids.enumerate() {
        let last = 11 + n * REALS + r;
        let addr = if v4 { format!("10.2.0.{last}") } else { format!("2001:db8:2::{last:x}") };
        let hop = NextHopId(spec.next_hops.len() as _);
        spec.next_hops.push(NextHopSpec {
            id: hop,
            iface: IfaceId(1),
            ip: ip(&addr),
            // One server's Ethernet address is unknown, so that packets wait for it.
            mac: (r != 2 || !n.is_multiple_of(3)).then_some(Mac([2, 0, 0, 0, 2, last as u8])),
        });
        spec.reals.push(RealSpec {
            id,
            service: ServiceId(n as _),
            addr: ip(&addr),
            port: if rewrites && n != 8 { 8080 } else { 0 },
            mode: forwarding,
            tunnel,
            weight: if (variant as usize + r).is_multiple_of(4) { 0 } else { 1 + r as u32 },
            upper: if variant & 8 != 0 { 4 } else { 0 },
            lower: 0,
            next_hop: hop,
            source: ip(if v4 { "10.2.0.254" } else { "2001:db8:2::fe" }),
            path_mtu: if r == 1 && variant & 4 != 0 { 1300 } else { 0 },
            available: !(variant & 0x10 != 0 && r == 0),
            last_weight: 1,
            predecessor: RealId::NONE,
        });
    }
    if variant & 0x10 != 0
        && let Some(s) = spec.services.last_mut()
    {
        s.reals.retain(|id| !(id.0 as usize).is_multiple_of(REALS));
    }
}
