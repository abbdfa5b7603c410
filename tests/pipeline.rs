//! The straight way, end to end, on ports in memory.

use std::net::IpAddr;

use dataplane::counters::DropReason;
use dataplane::sched::SchedulerKind;
use dataplane::snapshot::*;
use dataplane::units::*;
use pollux_tests::packet::{Packet, see};
use pollux_tests::rig::Rig;

const CLI: [u8; 6] = [2, 0, 0, 0, 1, 0];
const SRV: [u8; 6] = [2, 0, 0, 0, 2, 0];
const GATEWAY: [u8; 6] = [2, 0, 0, 0, 3, 2];
const SYN: u8 = 2;
const ACK: u8 = 16;

fn ip(s: &str) -> Ip {
    s.parse::<IpAddr>().expect("address").into()
}

fn server_mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 2, n]
}

/// The oracle's world: clients behind a gateway, servers on a network of their own.
fn world(mode: ForwardingMode, scheduler: SchedulerKind, servers: u8) -> Spec {
    let iface = |port, mac, addr: &str| InterfaceSpec {
        port: PortId(port),
        vlan: None,
        mac: Mac(mac),
        mtu: 1500,
        addresses: vec![(ip(addr), 24)],
    };
    let hop = |id, iface, addr: &str, mac| NextHopSpec {
        id: NextHopId(id),
        iface: IfaceId(iface),
        ip: ip(addr),
        mac: Some(Mac(mac)),
    };
    let mut spec = Spec {
        generation: 1,
        interfaces: vec![iface(0, CLI, "10.3.0.1"), iface(1, SRV, "10.2.0.254")],
        vips: vec![(ip("10.9.0.1"), 32)],
        next_hops: vec![hop(0, 0, "10.3.0.2", GATEWAY)],
        routes: vec![RouteSpec { network: ip("0.0.0.0"), prefix_len: 0, gateway: NextHopId(0) }],
        services: vec![ServiceSpec {
            id: ServiceId(0),
            matches: Match::Address { protocol: 6, vip: ip("10.9.0.1"), port: 80 },
            scheduler,
            sched_flags: 0,
            persistence: None,
            one_packet: false,
            extras: Default::default(),
            reals: (0..servers).rev().map(|n| RealId(u32::from(n))).collect(),
        }],
        ..Spec::default()
    };
    for n in 0..servers {
        let addr = format!("10.2.0.{}", 11 + n);
        spec.next_hops.push(hop(1 + u32::from(n), 1, &addr, server_mac(11 + n)));
        spec.reals.push(RealSpec {
            id: RealId(u32::from(n)),
            service: ServiceId(0),
            addr: ip(&addr),
            port: if mode == ForwardingMode::Nat { 8080 } else { 80 },
            mode,
            tunnel: Tunnel::Ipip,
            weight: 1,
            last_weight: 1,
            upper: 0,
            lower: 0,
            next_hop: NextHopId(1 + u32::from(n)),
            source: ip("10.2.0.254"),
            path_mtu: 0,
            available: true,
            predecessor: RealId::NONE,
        });
    }
    spec
}

fn rig(mode: ForwardingMode, workers: usize) -> Rig {
    let mut rig = Rig::new(workers);
    rig.publish(&world(mode, SchedulerKind::Rr, 2));
    rig.run();
    rig
}

#[test]
fn nat_rewrites_both_ways() {
    let mut rig = rig(ForwardingMode::Nat, 1);
    let out = rig.send(0, &Packet::tcp("10.1.0.1:40000", "10.9.0.1:80", SYN).to(CLI).build());
    assert_eq!(out.len(), 1, "{:?}", drops(&rig));
    let seen = see(&out[0].1);
    assert_eq!((out[0].0, seen.to, seen.dst.as_str(), seen.ttl), (1, server_mac(12), "10.2.0.12:8080", 63));
    assert!(seen.sums_ok);
    let out = rig.send(1, &Packet::tcp("10.2.0.12:8080", "10.1.0.1:40000", SYN | ACK).to(SRV).build());
    let seen = see(&out[0].1);
    assert_eq!((out[0].0, seen.to, seen.src.as_str(), seen.ttl), (0, GATEWAY, "10.9.0.1:80", 63));
    assert!(seen.sums_ok);
    drop(out);
    assert_eq!(rig.wire.live(), 0);
}

#[test]
fn two_workers_share_no_flow_and_lose_no_reply() {
    let mut rig = rig(ForwardingMode::Nat, 2);
    for port in 0..200u16 {
        let client = format!("10.1.0.1:{}", 20_000 + port);
        let out = rig.send_on(0, usize::from(port % 2), &Packet::tcp(&client, "10.9.0.1:80", SYN).to(CLI).build());
        let server = see(&out[0].1).dst;
        // The reply arrives on both queues in turn: one of them is the wrong one.
        for queue in 0..2 {
            let out = rig.send_on(1, queue, &Packet::tcp(&server, &client, SYN | ACK).to(SRV).build());
            assert_eq!(see(&out[0].1).src, "10.9.0.1:80");
        }
    }
    let live: u32 = rig.workers.iter_mut().map(|w| w.core().flows.len()).sum();
    assert_eq!(live, 200);
    assert!(rig.links.iter().all(|l| l.counters.worker.handed_off.get() > 50));
}

#[test]
fn direct_routing_changes_the_frame_and_the_ttl_only() {
    let mut rig = rig(ForwardingMode::DirectRouting, 1);
    let sent = Packet::tcp("10.1.0.1:40000", "10.9.0.1:80", SYN).to(CLI).build();
    let out = rig.send(0, &sent);
    let mut expected = sent.clone();
    expected[..6].copy_from_slice(&server_mac(12));
    expected[6..12].copy_from_slice(&SRV);
    expected[22] = 63;
    let sum = u16::from_be_bytes([sent[24], sent[25]]).wrapping_add(0x100);
    expected[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(out, [(1, expected)]);
}

#[test]
fn ipip_wraps() {
    let mut rig = rig(ForwardingMode::Tunnel, 1);
    let out = rig.send(0, &Packet::tcp("10.1.0.1:40000", "10.9.0.1:80", SYN).to(CLI).build());
    let f = &out[0].1;
    assert_eq!(f.len(), 14 + 20 + 40);
    assert_eq!(&f[14 + 12..14 + 20], &[10, 2, 0, 254, 10, 2, 0, 12]);
    assert_eq!(f[14 + 9], 4);
    assert_eq!(pollux_tests::packet::fold(&f[14..34]), 0);
    let mut inner = f[..14].to_vec();
    inner.extend(&f[34..]);
    assert_eq!(see(&inner).ttl, 63);
    assert!(see(&inner).sums_ok);
}

#[test]
fn what_stands_behind_a_packet_goes_no_further() {
    for mode in [ForwardingMode::Nat, ForwardingMode::DirectRouting] {
        let mut rig = rig(mode, 1);
        let sent = |flags, behind: usize| {
            let mut frame = Packet::tcp("10.1.0.1:40000", "10.9.0.1:80", flags).to(CLI).build();
            frame.resize(frame.len() + behind, 0xee);
            frame
        };
        // The padding of a short frame may stay: the next one would have to be padded again.
        for (flags, behind, left) in [(SYN, 6, 6), (ACK, 6, 6), (ACK, 64, 0), (ACK, 1400, 0)] {
            let out = rig.send(0, &sent(flags, behind));
            assert_eq!(out[0].1.len(), 14 + 40 + left, "{mode:?}, {behind} bytes behind");
        }
        // The same for what is routed only.
        let mut routed = Packet::udp("10.2.0.11:1", "10.1.0.1:2").to(SRV).build();
        routed.resize(1400, 0);
        assert_eq!(rig.send(1, &routed)[0].1.len(), 14 + 28);
    }
}

#[test]
fn refusals_are_answered_as_a_host_would() {
    let mut rig = rig(ForwardingMode::Nat, 1);
    let out = rig.send(0, &Packet::tcp("10.1.0.1:40000", "10.9.0.1:81", SYN).to(CLI).build());
    let seen = see(&out[0].1);
    assert_eq!((seen.flags, seen.sums_ok, seen.to), (0x14, true, GATEWAY));
    let out = rig.send(0, &Packet::udp("10.1.0.1:40000", "10.9.0.1:81").to(CLI).build());
    assert_eq!(&out[0].1[14 + 20..14 + 22], &[3, 3]);
    let out = rig.send(0, &Packet::tcp("10.1.0.1:40000", "10.9.0.1:80", ACK).to(CLI).build());
    assert_eq!(see(&out[0].1).flags, 0x04);
    assert_eq!((rig.drops(DropReason::NoService), rig.drops(DropReason::NoFlow)), (2, 1));
}

#[test]
fn a_flow_ends_when_its_time_is_up() {
    let mut rig = rig(ForwardingMode::Nat, 1);
    rig.send(0, &Packet::tcp("10.1.0.1:40000", "10.9.0.1:80", SYN).to(CLI).build());
    rig.sleep_ms(59_000);
    assert_eq!(rig.workers[0].core().flows.len(), 1);
    rig.sleep_ms(3_000);
    assert_eq!(rig.workers[0].core().flows.len(), 0);
    assert_eq!(rig.links[0].counts.active(RealId(1)), 0);
}

fn drops(rig: &Rig) -> Vec<(&'static str, u64)> {
    DropReason::ALL.iter().map(|r| (r.name(), rig.drops(*r))).filter(|(_, n)| *n > 0).collect()
}
