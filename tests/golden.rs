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

/// A line of `golden/cases`.
struct Case {
    name: String,
    mode: ForwardingMode,
    /// Whether clients and VIP, and the servers, have IPv4 addresses.
    v4: bool,
    servers_v4: bool,
    tunnel: Tunnel,
}

fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/cases");
    let text = std::fs::read_to_string(path).expect("the list of cases");
    text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).map(case).collect()
}

fn case(line: &str) -> Case {
    let words: Vec<&str> = line.split_whitespace().collect();
    let &[name, mode, family, servers, tunnel] = &words[..] else { panic!("not a case: {line}") };
    Case {
        name: name.into(),
        mode: match mode {
            "nat" => ForwardingMode::Nat,
            "full-nat" => ForwardingMode::FullNat,
            "dr" => ForwardingMode::DirectRouting,
            "tunnel" => ForwardingMode::Tunnel,
            _ => panic!("mode {mode}"),
        },
        v4: family == "4",
        servers_v4: servers == "4",
        tunnel: match tunnel {
            "-" | "ipip" => Tunnel::Ipip,
            "gre" => Tunnel::Gre { checksum: false },
            "gre-checksum" => Tunnel::Gre { checksum: true },
            "gue" => Tunnel::Gue { port: 6080, checksum: GueChecksum::None },
            "gue-checksum" => Tunnel::Gue { port: 6080, checksum: GueChecksum::Udp },
            "gue-remote" => Tunnel::Gue { port: 6080, checksum: GueChecksum::Remote },
            "vxlan" => Tunnel::Vxlan { port: 4789, vni: 7 },
            _ => panic!("tunnel {tunnel}"),
        },
    }
}

/// What `pollux.toml.in` says, for one case.
fn world(case: &Case) -> Spec {
    let by_family = |v4: bool, four: &str, six: &str| ip(if v4 { four } else { six });
    let hop = |id: u32, addr: Ip, mac| NextHopSpec {
        id: NextHopId(id),
        iface: IfaceId(0),
        ip: addr,
        mac: Some(Mac([2, 0, 0, 0, mac, [2, 11, 12][id as usize]])),
    };
    let servers = [("10.2.0.11", "2001:db8:2::b"), ("10.2.0.12", "2001:db8:2::c")];
    let server = |n: u32| by_family(case.servers_v4, servers[n as usize].0, servers[n as usize].1);
    let gateway = by_family(case.v4, "10.3.0.2", "2001:db8:3::2");
    let vip = by_family(case.v4, "10.9.0.1", "2001:db8:9::1");
    let service = |id: u32, protocol, port| ServiceSpec {
        id: ServiceId(id as _),
        matches: Match::Address { protocol, vip, port },
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
        addr: server(n),
        port,
        mode: case.mode,
        tunnel: case.tunnel,
        weight: 1,
        last_weight: 1,
        upper: 0,
        lower: 0,
        next_hop: NextHopId(1 + n),
        source: by_family(case.servers_v4, "10.2.0.254", "2001:db8:2::fe"),
        path_mtu: 0,
        available: true,
        predecessor: RealId::NONE,
    };
    let translates = matches!(case.mode, ForwardingMode::Nat | ForwardingMode::FullNat);
    let (tcp, udp) = if translates { (8080, 7001) } else { (80, 7000) };
    let mut spec = Spec {
        generation: 1,
        interfaces: vec![InterfaceSpec {
            port: PortId(0),
            vlan: None,
            // What DPDK gives its first pcap port.
            mac: Mac([2, 0x70, 0x63, 0x61, 0x70, 0]),
            mtu: 1500,
            addresses: vec![
                (ip("10.3.0.1"), 24),
                (ip("10.2.0.254"), 24),
                (ip("2001:db8:3::1"), 64),
                (ip("2001:db8:2::fe"), 64),
            ],
        }],
        vips: vec![(vip, if case.v4 { 32 } else { 128 })],
        next_hops: vec![hop(0, gateway, 3), hop(1, server(0), 2), hop(2, server(1), 2)],
        routes: vec![RouteSpec { network: by_family(case.v4, "0.0.0.0", "::"), prefix_len: 0, gateway: NextHopId(0) }],
        services: vec![service(0, 6, 80), service(1, 17, 7000)],
        reals: vec![real(0, 0, tcp), real(0, 1, tcp), real(1, 0, udp), real(1, 1, udp)],
        ..Spec::default()
    };
    spec.settings.full_nat = FullNat { addresses: vec![ip("10.2.0.200"), ip("2001:db8:2::200")], ports: (2000, 2999) };
    spec
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

/// Puts make.py's outer source port in the place of that which came of the flow's hash (see
/// `golden/compare.py`): in a frame of GUE or VXLAN.
fn with_known_port(mut frame: Vec<u8>) -> Vec<u8> {
    let (proto, l4) = if frame[14] >> 4 == 4 { (frame[23], 34) } else { (frame[20], 54) };
    if proto != 17 || ![6080, 4789].contains(&u16::from_be_bytes([frame[l4 + 2], frame[l4 + 3]])) {
        return frame;
    }
    let word = |at: usize| u32::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    let (port, old) = (word(l4), word(l4 + 6));
    assert!(port >= 0xc000, "outer source port {port}");
    if old != 0 {
        // RFC 1624, equation 3.
        let sum = (!old & 0xffff) + (!port & 0xffff) + 0xc000;
        let sum = (sum & 0xffff) + (sum >> 16);
        let new = !((sum & 0xffff) + (sum >> 16)) as u16;
        frame[l4 + 6..l4 + 8].copy_from_slice(&if new == 0 { 0xffff } else { new }.to_be_bytes());
    }
    frame[l4..l4 + 2].copy_from_slice(&[0xc0, 0]);
    frame
}

/// What differs, if anything does.
fn play(case: &Case) -> Result<(), String> {
    let mut rig = Rig::new(1);
    rig.publish(&world(case));
    rig.run();
    rig.take();
    let name = &case.name;
    let mut expected = frames(&format!("{name}.out.pcap")).into_iter();
    for (n, frame) in frames(&format!("{name}.in.pcap")).iter().enumerate() {
        for (_, out) in rig.send(0, frame) {
            let (out, wanted) = (with_known_port(out), expected.next());
            if Some(&out) != wanted.as_ref() {
                return Err(format!("because of packet {} of {name}.in.pcap:\n{out:02x?}\n{wanted:02x?}", n + 1));
            }
        }
    }
    if expected.next().is_some() {
        return Err(format!("{name}: more was to come"));
    }
    if rig.wire.live() == 0 { Ok(()) } else { Err(format!("{name}: buffers are missing")) }
}

#[test]
fn every_capture_comes_out_byte_by_byte() {
    let wrong: Vec<String> = cases().iter().filter_map(|case| play(case).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
