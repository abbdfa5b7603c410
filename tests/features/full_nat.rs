//! Full NAT: local addresses, their ports, and what closes them.

use std::collections::HashSet;

use dataplane::counters::DropReason;
use dataplane::snapshot::{ForwardingMode, FullNat, Match, Persistence, RealSpec, ServiceSpec, Spec};
use dataplane::units::{Ip, RealId, ServiceId};

use pollux_tests::rig::Rig;

use super::world::*;

const VIPS: [&str; 2] = ["10.9.0.1:80", "[2001:db8:9::1]:80"];
const CLIENTS: [&str; 2] = ["10.1.0.1:40000", "[2001:db8:1::1]:40000"];

fn spec(ports: (u16, u16)) -> Spec {
    let mut spec = world(ForwardingMode::FullNat, 2);
    spec.settings.full_nat = FullNat { addresses: vec![ip("10.2.0.200"), ip("2001:db8:2::200")], ports };
    spec
}

fn local(s: &Segment) -> Ip {
    s.src.0.into()
}

#[test]
fn both_addresses_are_replaced_both_ways_in_both_families() {
    for (client, vip) in CLIENTS.iter().zip(VIPS) {
        let mut rig = rig(&spec((1024, 65535)), 1);
        let syn = Segment::tcp(client, vip, SYN).payload(b"odd");
        let (port, at_server) = pass(&mut rig, 0, &syn);
        assert_eq!(port, 1);
        assert!([ip("10.2.0.200"), ip("2001:db8:2::200")].contains(&local(&at_server)), "{at_server:?}");
        assert_eq!((at_server.dst.1, &at_server.payload[..]), (8080, &b"odd"[..]));
        let (port, at_client) = pass(&mut rig, 1, &at_server.back(SYN | ACK).payload(b"answer"));
        assert_eq!((port, &at_client), (0, &syn.back(SYN | ACK).payload(b"answer")));
        // The same flow for what follows.
        let (_, again) = pass(&mut rig, 0, &Segment::tcp(client, vip, ACK).payload(b"more"));
        assert_eq!((again.src, again.dst), (at_server.src, at_server.dst));
        assert_eq!(rig.wire.live(), 0);
    }
}

#[test]
fn datagrams_and_a_zero_checksum_pass() {
    let mut spec = spec((1024, 65535));
    if let dataplane::snapshot::Match::Address { protocol, .. } = &mut spec.services[0].matches {
        *protocol = 17;
    }
    let mut rig = rig(&spec, 1);
    let ask = Segment::udp(CLIENTS[0], VIPS[0]).payload(b"ask");
    let (_, at_server) = pass(&mut rig, 0, &ask);
    let (_, at_client) = pass(&mut rig, 1, &at_server.back(0).payload(b"tell"));
    assert_eq!(at_client, ask.back(0).payload(b"tell"));
    let mut frame = ask.frame(CLI);
    frame[14 + 20 + 6..14 + 20 + 8].fill(0);
    let out = rig.send(0, &frame);
    assert_eq!(out[0].1[14 + 20 + 6..14 + 20 + 8], [0, 0]);
}

#[test]
fn a_long_run_of_taken_ports_is_leapt_over() {
    const TAKEN: u32 = 3000;
    let mut spec = spec((10_000, 60_000));
    spec.services.truncate(1);
    spec.services[0].reals.truncate(1);
    let mut rig = Rig::with_flows(1, 8192);
    rig.publish(&spec);
    rig.run();
    let syn = |n: u32| Segment::tcp(&format!("10.1.0.1:{}", 1024 + n), VIPS[0], SYN);
    for n in 0..TAKEN {
        pass(&mut rig, 0, &syn(n));
    }
    // As if the search had gone round once.
    rig.workers[0].core().extensions.cursor = 0;
    let (_, at_server) = pass(&mut rig, 0, &syn(TAKEN));
    assert!(at_server.src.1 >= 10_000 + TAKEN as u16);
    assert_eq!(pass(&mut rig, 1, &at_server.back(SYN | ACK)).1, syn(TAKEN).back(SYN | ACK));
}

#[test]
fn each_reply_finds_the_worker_that_holds_its_flow() {
    let mut rig = rig(&spec((1024, 65535)), 2);
    let mut seen = HashSet::new();
    for n in 0..300u16 {
        let syn = Segment::tcp(&format!("10.1.0.1:{}", 20_000 + n), VIPS[0], SYN);
        let (_, at_server) = pass_on(&mut rig, 0, usize::from(n % 2), &syn);
        assert!(seen.insert((at_server.src, at_server.dst)), "{at_server:?} is in use");
        for queue in 0..2 {
            let (_, at_client) = pass_on(&mut rig, 1, queue, &at_server.back(SYN | ACK));
            assert_eq!(at_client, syn.back(SYN | ACK));
        }
    }
    let live: Vec<u32> = rig.workers.iter_mut().map(|w| w.core().flows.len()).collect();
    assert_eq!(live.iter().sum::<u32>(), 300);
    assert!(live.iter().all(|n| *n > 50), "{live:?}");
}

#[test]
fn an_empty_pool_is_counted_and_a_closed_connection_keeps_its_port_for_a_minute() {
    let mut spec = spec((5000, 5003));
    spec.reals.retain(|r| r.id.0 % 100 == 0);
    spec.services.iter_mut().for_each(|s| s.reals.retain(|r| r.0 % 100 == 0));
    let mut rig = rig(&spec, 1);
    let syn = |n: u16| Segment::tcp(&format!("10.1.0.1:{}", 20_000 + n), VIPS[0], SYN);
    let first: Vec<Segment> = (0..4).map(|n| pass(&mut rig, 0, &syn(n)).1).collect();
    let ports: HashSet<u16> = first.iter().map(|s| s.src.1).collect();
    assert_eq!(ports, HashSet::from([5000, 5001, 5002, 5003]));
    assert!(rig.send(0, &syn(4).frame(CLI)).is_empty());
    assert_eq!((rig.drops(DropReason::LocalPoolEmpty), rig.drops(DropReason::FlowTableFull)), (1, 0));
    assert_eq!(rig.links[0].counters.worker.flows_extended.get(), 4);
    // The other family has a pool of its own.
    pass(&mut rig, 0, &Segment::tcp(CLIENTS[1], VIPS[1], SYN));
    // A connection that is reset has a time-out of 10 s, but its port rests for 60 s.
    pass(&mut rig, 1, &first[2].back(RST));
    rig.sleep_ms(50_000);
    assert!(rig.send(0, &syn(5).frame(CLI)).is_empty());
    rig.sleep_ms(12_000);
    let (_, again) = pass(&mut rig, 0, &syn(6));
    assert!(ports.contains(&again.src.1));
    // And every end gives its port back.
    rig.sleep_ms(130_000);
    let core = rig.workers[0].core();
    assert_eq!((core.flows.len(), core.extensions.len()), (0, 0));
    for n in 10..14 {
        pass(&mut rig, 0, &syn(n));
    }
}

#[test]
fn one_local_port_serves_a_connection_to_each_server() {
    let mut rig = rig(&spec((5000, 5000)), 1);
    let a = pass(&mut rig, 0, &Segment::tcp("10.1.0.1:20000", VIPS[0], SYN));
    let b = pass(&mut rig, 0, &Segment::tcp("10.1.0.1:20001", VIPS[0], SYN));
    assert_eq!(a.1.src, b.1.src);
    assert_ne!(a.1.dst, b.1.dst);
    for (n, at_server) in [(20_000, a.1), (20_001, b.1)] {
        assert_eq!(pass(&mut rig, 1, &at_server.back(SYN | ACK)).1.dst.1, n);
    }
}

#[test]
fn replies_find_their_worker_where_devices_steer_as_well() {
    let mut rig = pollux_tests::rig::Rig::steered_by_device(2);
    rig.publish(&spec((1024, 65535)));
    rig.run();
    for n in 0..40u16 {
        let syn = Segment::tcp(&format!("10.1.0.1:{}", 20_000 + n), VIPS[0], SYN);
        let (_, at_server) = pass_on(&mut rig, 0, usize::from(n % 2), &syn);
        for queue in 0..2 {
            assert_eq!(pass_on(&mut rig, 1, queue, &at_server.back(SYN | ACK)).1, syn.back(SYN | ACK));
        }
    }
    assert!(rig.workers.iter_mut().all(|w| w.core().flows.len() == 20));
}

#[test]
fn a_listing_tells_the_local_address_and_port() {
    use dataplane::link::{Answer, Command, FlowFilter};
    let mut rig = rig(&spec((5000, 5000)), 1);
    pass(&mut rig, 0, &Segment::tcp(CLIENTS[0], VIPS[0], SYN));
    let ask = Command::ListFlows { query: 7, cursor: 0, limit: 10, filter: FlowFilter::default() };
    assert!(rig.links[0].commands.push(ask).is_ok());
    rig.sleep_ms(1000);
    let Some(Answer::Flow { local, .. }) = rig.links[0].answers.pop() else { panic!("no flow is listed") };
    assert_eq!(local.map(|(ip, port)| (ip, port.get())), Some((ip("10.2.0.200"), 5000)));
}

#[test]
fn one_armed_the_packet_leaves_where_it_came_from() {
    let mut spec = spec((1024, 65535));
    // The server stands on the clients' network.
    spec.next_hops.iter_mut().filter(|h| h.id.0 >= 10).for_each(|h| h.iface = dataplane::snapshot::IfaceId(0));
    let mut rig = rig(&spec, 1);
    let syn = Segment::tcp(CLIENTS[0], VIPS[0], SYN);
    let (port, at_server) = pass(&mut rig, 0, &syn);
    assert_eq!(port, 0);
    let (port, at_client) = pass(&mut rig, 0, &at_server.back(SYN | ACK));
    assert_eq!((port, at_client), (0, syn.back(SYN | ACK)));
}

#[test]
fn what_belongs_to_no_flow_is_reset_and_the_local_address_answers() {
    let mut rig = rig(&spec((1024, 65535)), 1);
    let stray = Segment::tcp("10.2.0.11:8080", "10.2.0.200:4711", ACK);
    let out = rig.send(1, &stray.frame(SRV));
    assert_eq!(rig.drops(DropReason::LocalNoListener), 1, "{:?}", drops(&rig));
    assert!(out.is_empty() || out[0].1[14 + 20 + 13] & RST != 0);
    // ARP: who has 10.2.0.200?
    let mut ask = [[0xff; 6], [2, 9, 9, 9, 9, 9]].concat();
    ask.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 9, 9, 9, 9, 9, 10, 2, 0, 77, 0, 0, 0, 0, 0, 0, 10, 2, 0, 200]);
    ask.resize(60, 0);
    let out = rig.send(1, &ask);
    assert_eq!((out.len(), &out[0].1[22..32]), (1, &[2, 0, 0, 0, 2, 0, 10, 2, 0, 200][..]));
}

#[test]
fn persistence_and_a_flow_removed_early_leave_nothing_behind() {
    let mut spec = spec((1024, 65535));
    spec.services[0].persistence = Some(Persistence { timeout_ms: 60_000, prefix_len: 32 });
    let mut rig = rig(&spec, 1);
    let servers: HashSet<_> = (0..6u16)
        .map(|n| pass(&mut rig, 0, &Segment::tcp(&format!("10.1.0.1:{}", 20_000 + n), VIPS[0], SYN)).1.dst)
        .collect();
    assert_eq!(servers.len(), 1);
    assert!(rig.links[0].commands.push(dataplane::link::Command::FlushService(ServiceId(0))).is_ok());
    rig.sleep_ms(1000);
    let core = rig.workers[0].core();
    assert_eq!((core.flows.len(), core.extensions.len()), (0, 0));
}

#[test]
fn icmp_errors_name_what_each_side_knows() {
    let mut rig = rig(&spec((1024, 65535)), 1);
    let syn = Segment::tcp(CLIENTS[0], VIPS[0], SYN);
    let (_, at_server) = pass(&mut rig, 0, &syn);
    // The server's router says that the packet cannot get on.
    let quoted = &at_server.frame(SRV)[14..];
    let mut icmp = vec![3, 1, 0, 0, 0, 0, 0, 0];
    icmp.extend(quoted);
    let sum = pollux_tests::packet::fold(&icmp).to_be_bytes();
    icmp[2..4].copy_from_slice(&sum);
    let mut h = vec![0x45, 0];
    h.extend((20 + icmp.len() as u16).to_be_bytes());
    h.extend([0, 7, 0, 0, 64, 1, 0, 0, 10, 2, 0, 253, 10, 2, 0, 200]);
    let sum = pollux_tests::packet::fold(&h).to_be_bytes();
    h[10..12].copy_from_slice(&sum);
    let frame = [&SRV[..], &[2, 9, 9, 9, 9, 9, 8, 0], &h, &icmp].concat();
    let out = rig.send(1, &frame);
    assert_eq!((out.len(), out[0].0), (1, 0), "{:?}", drops(&rig));
    let ip = &out[0].1[14..];
    assert_eq!(pollux_tests::packet::fold(&ip[20..]), 0);
    assert_eq!(ip[12..20], [10, 9, 0, 1, 10, 1, 0, 1]);
    // It quotes the client's own packet.
    assert_eq!(ip[28 + 12..28 + 24], [10, 1, 0, 1, 10, 9, 0, 1, 0x9c, 0x40, 0, 80]);
    let mut whole = out[0].1[..14].to_vec();
    whole.extend(&ip[28..]);
    whole[14 + 8] = 63;
    let mut h = whole[14..34].to_vec();
    h[10..12].fill(0);
    let sum = pollux_tests::packet::fold(&h).to_be_bytes();
    whole[24..26].copy_from_slice(&sum);
    assert_eq!(Segment::see(&whole), syn);
}

#[test]
fn a_client_may_use_one_port_for_services_of_several_modes() {
    // A second service with the same real servers, of plain NAT.
    let mut spec = spec((1024, 65535));
    let vip = "10.9.0.7:80";
    spec.vips.push((ip("10.9.0.7"), 32));
    let matches = Match::Address { protocol: 6, vip: ip("10.9.0.7"), port: 80 };
    let mut plain = ServiceSpec { id: ServiceId(2), matches, ..spec.services[0].clone() };
    plain.reals = vec![RealId(201), RealId(200)];
    for (n, id) in plain.reals.iter().enumerate() {
        let like = spec.reals.iter().find(|r| r.id.0 == 1 - n as u32).expect("a real server").clone();
        spec.reals.push(RealSpec { id: *id, service: ServiceId(2), mode: ForwardingMode::Nat, ..like });
    }
    spec.services.push(plain);
    for first in [VIPS[0], vip] {
        let mut rig = rig(&spec, 1);
        let second = if first == vip { VIPS[0] } else { vip };
        for vip in [first, second] {
            let syn = Segment::tcp(CLIENTS[0], vip, SYN);
            let (_, at_server) = pass(&mut rig, 0, &syn);
            assert_eq!(pass(&mut rig, 1, &at_server.back(SYN | ACK)).1, syn.back(SYN | ACK));
        }
    }
}
