//! The golden captures of `tests/golden` through the pipeline, on ports in memory: the
//! same packets that `tests/golden/run.sh` plays through the daemon, byte by byte.

use std::net::IpAddr;
use std::path::Path;

use dataplane::sched::SchedulerKind;
use dataplane::snapshot::*;
use dataplane::units::*;
use pollux_tests::rig::Rig;

fn ip(s: &str) -> Ip {
    s.parse::<IpAddr>().expect("address").into()
}

/// What `pollux.toml.in` says, for one forwarding mode.
fn world(mode: ForwardingMode) -> Spec {
    let hop = |id: u32, addr: &str, mac| NextHopSpec {
        id: NextHopId(id),
        iface: IfaceId(0),
        ip: ip(addr),
        mac: Some(Mac(mac)),
    };
    let service = |id: u32, protocol, port| ServiceSpec {
        id: ServiceId(id as _),
        matches: Match::Address { protocol, vip: ip("10.9.0.1"), port },
        scheduler: SchedulerKind::Rr,
        sched_flags: 0,
        persistence: None,
        one_packet: false,
        extras: Default::default(),
        // Newest first, as the kernel keeps them.
        reals: vec![RealId(2 * id + 1), RealId(2 * id)],
    };
    let real = |service: u32, n: u32, port| RealSpec {
        id: RealId(2 * service + n),
        service: ServiceId(service as _),
        addr: ip(&format!("10.2.0.{}", 11 + n)),
        port,
        mode,
        tunnel: Tunnel::Ipip,
        weight: 1,
        last_weight: 1,
        upper: 0,
        lower: 0,
        next_hop: NextHopId(1 + n),
        source: ip("10.2.0.254"),
        path_mtu: 0,
        available: true,
        predecessor: RealId::NONE,
    };
    let (tcp, udp) = if mode == ForwardingMode::Nat { (8080, 7001) } else { (80, 7000) };
    Spec {
        generation: 1,
        interfaces: vec![InterfaceSpec {
            port: PortId(0),
            vlan: None,
            // What DPDK gives its first pcap port.
            mac: Mac([2, 0x70, 0x63, 0x61, 0x70, 0]),
            mtu: 1500,
            addresses: vec![(ip("10.3.0.1"), 24), (ip("10.2.0.254"), 24)],
        }],
        vips: vec![(ip("10.9.0.1"), 32)],
        next_hops: vec![
            hop(0, "10.3.0.2", [2, 0, 0, 0, 3, 2]),
            hop(1, "10.2.0.11", [2, 0, 0, 0, 2, 11]),
            hop(2, "10.2.0.12", [2, 0, 0, 0, 2, 12]),
        ],
        routes: vec![RouteSpec { network: ip("0.0.0.0"), prefix_len: 0, gateway: NextHopId(0) }],
        services: vec![service(0, 6, 80), service(1, 17, 7000)],
        reals: vec![real(0, 0, tcp), real(0, 1, tcp), real(1, 0, udp), real(1, 1, udp)],
        ..Spec::default()
    }
}

/// The frames of a capture (little-endian pcap, as make.py writes it).
fn frames(name: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(bytes[..4], [0xd4, 0xc3, 0xb2, 0xa1], "{name}");
    let (mut rest, mut out) = (&bytes[24..], Vec::new());
    while !rest.is_empty() {
        let len = u32::from_le_bytes(rest[8..12].try_into().expect("four bytes")) as usize;
        out.push(rest[16..16 + len].to_vec());
        rest = &rest[16 + len..];
    }
    assert!(!out.is_empty(), "{name} holds no packets");
    out
}

fn play(mode: ForwardingMode, name: &str) {
    let mut rig = Rig::new(1);
    rig.publish(&world(mode));
    rig.run();
    rig.take();
    let mut expected = frames(&format!("{name}.out.pcap")).into_iter();
    for (n, frame) in frames(&format!("{name}.in.pcap")).iter().enumerate() {
        for (port, out) in rig.send(0, frame) {
            assert_eq!(port, 0);
            assert_eq!(Some(&out), expected.next().as_ref(), "because of packet {} of {name}.in.pcap", n + 1);
        }
    }
    assert_eq!(expected.next(), None, "{name}: more was to come");
    assert_eq!(rig.wire.live(), 0);
}

#[test]
fn nat() {
    play(ForwardingMode::Nat, "nat");
}

#[test]
fn direct_routing() {
    play(ForwardingMode::DirectRouting, "dr");
}

#[test]
fn ipip() {
    play(ForwardingMode::Tunnel, "ipip");
}
