//! What is not forwarded: why each packet is dropped, and who is told.

use dataplane::counters::DropReason;
use dataplane::snapshot::{ForwardingMode, Refusal, Settings, Spec};
use dataplane::units::NextHopId;
use pollux_tests::packet::fold;
use pollux_tests::rig::Rig;

use super::world::*;

const CLIENT: &str = "10.1.0.1:40000";
const VIP: &str = "10.9.0.1:80";

fn syn() -> Vec<u8> {
    Segment::tcp(CLIENT, VIP, SYN).frame(CLI)
}

/// The frame with `change` made, and a right header checksum.
fn with(change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut f = syn();
    change(&mut f);
    let end = (14 + usize::from(f[14] & 15) * 4).clamp(34, f.len());
    f[24..26].fill(0);
    let sum = fold(&f[14..end]).to_be_bytes();
    f[24..26].copy_from_slice(&sum);
    f
}

/// With four bytes of options.
fn options(bytes: [u8; 4]) -> Vec<u8> {
    with(|f| {
        f[14] = 0x46;
        f[17] += 4;
        f.splice(34..34, bytes);
    })
}

fn set(at: usize, bytes: &[u8]) -> impl Fn(&mut Vec<u8>) + '_ {
    move |f| f[at..at + bytes.len()].copy_from_slice(bytes)
}

/// Every kind of malformed frame, and the reason it is counted under.
fn malformed() -> Vec<(&'static str, Vec<u8>, DropReason)> {
    use DropReason::*;
    let six = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut f = Segment::tcp("[2001:db8:1::1]:40000", "[2001:db8:9::1]:80", SYN).frame(CLI);
        change(&mut f);
        f
    };
    vec![
        ("nothing", vec![], TooShort),
        ("13 bytes", syn()[..13].to_vec(), TooShort),
        ("an Ethernet header alone", syn()[..14].to_vec(), TooShort),
        ("half an IPv4 header", syn()[..24].to_vec(), TooShort),
        ("a tag that is cut", [&syn()[..12], &[0x81, 0, 0]].concat(), TooShort),
        ("a tag of no VLAN of ours", [&syn()[..12], &[0x81, 0, 0, 7], &syn()[12..]].concat(), UnknownVlan),
        ("two tags", [&syn()[..12], &[0x88, 0xa8, 0, 7], &syn()[12..]].concat(), DoubleTagged),
        ("another station's", with(set(0, &[2, 0, 0, 0, 1, 9])), NotForUs),
        ("an unknown type", with(set(12, &[0x88, 0xcc])), UnknownEthertype),
        ("IPv4 with version 5", with(set(14, &[0x55])), BadIpVersion),
        ("a header of 16 bytes", with(set(14, &[0x44])), BadHeaderLength),
        ("a header longer than the packet", with(set(14, &[0x4f])), BadHeaderLength),
        ("a total length below the header", with(set(16, &[0, 19])), BadTotalLength),
        ("a total length beyond the frame", with(set(16, &[0, 41])), BadTotalLength),
        (
            "a wrong checksum",
            {
                let mut f = syn();
                f[24] ^= 1;
                f
            },
            BadIpChecksum,
        ),
        ("an option without length", options([1, 1, 1, 0x44]), BadIpOption),
        ("an option beyond the header", options([0x44, 8, 5, 0]), BadIpOption),
        ("a loose source route", options([0x83, 3, 4, 0]), SourceRouted),
        ("a strict source route", options([0x89, 3, 4, 0]), SourceRouted),
        ("from 0.0.0.1", with(set(26, &[0, 0, 0, 1])), Martian),
        ("from 127.0.0.1", with(set(26, &[127, 0, 0, 1])), Martian),
        ("from a group", with(set(26, &[224, 0, 0, 1])), Martian),
        ("from a VIP", with(set(26, &[10, 9, 0, 1])), Martian),
        ("from the director", with(set(26, &[10, 3, 0, 1])), Martian),
        ("to 0.0.0.1", with(set(30, &[0, 0, 0, 1])), Martian),
        ("to 127.0.0.1", with(set(30, &[127, 0, 0, 1])), Martian),
        ("to a group", with(set(30, &[224, 0, 0, 1])), Multicast),
        ("to a group's station", with(set(0, &[1, 0, 0x5e, 0, 0, 1])), Multicast),
        (
            "TCP of 19 bytes",
            with(|f| {
                f[17] = 39;
                f.truncate(53);
            }),
            BadL4Header,
        ),
        (
            "UDP of 7 bytes",
            with(|f| {
                f[17] = 27;
                f[23] = 17;
                f.truncate(41);
            }),
            BadL4Header,
        ),
        ("IPv6 with version 4", six(&set(14, &[0x40])), BadIpVersion),
        ("IPv6 longer than the frame", six(&set(18, &[0, 21])), BadTotalLength),
        ("IPv6 from a group", six(&set(22, &[0xff, 2])), Martian),
        (
            "IPv6 TCP of 19 bytes",
            six(&|f| {
                f[19] = 19;
                f.truncate(73);
            }),
            BadL4Header,
        ),
    ]
}

#[test]
fn every_malformed_packet_is_counted_once_under_its_own_reason() {
    for (what, frame, reason) in malformed() {
        let mut rig = rig(&world(ForwardingMode::Nat, 2), 1);
        let out = rig.send(0, &frame);
        assert_eq!((drops(&rig), out.len()), (vec![(reason.name(), 1)], 0), "{what}");
        assert_eq!(rig.wire.live(), 0, "{what}");
        // And the next packet passes.
        assert_eq!(rig.send(0, &syn()).len(), 1, "{what}");
    }
}

/// A rig with settings, where port 81 has no service and [2001:db8:9::1]:80 no server.
fn refusing(settings: Settings) -> Rig {
    let mut spec = world(ForwardingMode::Nat, 2);
    spec.services[1].reals.clear();
    spec.reals.retain(|r| r.service == spec.services[0].id);
    spec.settings = settings;
    rig(&spec, 1)
}

const REFUSED: [(&str, &str); 3] = [
    (CLIENT, "10.9.0.1:81"),
    ("[2001:db8:1::1]:40000", "[2001:db8:9::1]:81"),
    ("[2001:db8:1::1]:40000", "[2001:db8:9::1]:80"),
];

#[test]
fn a_refused_client_is_told_and_the_packet_counted_once() {
    let mut rig = refusing(Settings::default());
    for (n, (client, vip)) in REFUSED.iter().enumerate() {
        let out = rig.send(0, &Segment::tcp(client, vip, SYN).frame(CLI));
        assert_eq!(out.len(), 1, "{vip}");
        let f = &out[0].1;
        match n {
            0 => assert_eq!(f[14 + 20 + 13] & RST, RST),
            1 => assert_eq!(f[14 + 40 + 13] & RST, RST),
            // No server: port unreachable, for TCP as well, as the kernel does.
            _ => assert_eq!((f[20], f[54], f[55]), (58, 1, 4)),
        }
    }
    assert_eq!(drops(&rig), [("no_service", 2), ("no_real_server", 1)]);
}

#[test]
fn with_silence_nobody_is_told_and_the_packet_is_counted_all_the_same() {
    let mut rig = refusing(Settings { refusal: Refusal::Silent, ..Settings::default() });
    for (client, vip) in REFUSED {
        assert!(rig.send(0, &Segment::tcp(client, vip, SYN).frame(CLI)).is_empty(), "{vip}");
    }
    assert_eq!(drops(&rig), [("no_service", 2), ("no_real_server", 1)]);
}

#[test]
fn answers_beyond_their_rate_are_not_sent_and_the_packets_counted_once() {
    let mut rig = refusing(Settings { answer_rate_limit: 5, ..Settings::default() });
    rig.sleep_ms(2000);
    let syn = Segment::tcp(CLIENT, "10.9.0.1:81", SYN).frame(CLI);
    assert_eq!((0..20).map(|_| rig.send(0, &syn).len()).sum::<usize>(), 5);
    let w = &rig.links[0].counters.worker;
    assert_eq!((w.resets_sent.get(), w.answers_suppressed.get()), (5, 15));
    assert_eq!(drops(&rig), [("no_service", 20)]);
}

fn unresolved() -> Spec {
    let mut spec = world(ForwardingMode::Nat, 1);
    spec.next_hops.iter_mut().filter(|h| h.id == NextHopId(10)).for_each(|h| h.mac = None);
    spec
}

#[test]
fn packets_wait_for_an_address_in_a_queue_that_ends() {
    let mut spec = unresolved();
    let mut rig = rig(&spec, 1);
    for n in 0..20 {
        let out = rig.send(0, &Segment::tcp(&format!("10.1.0.1:{}", 1000 + n), VIP, SYN).frame(CLI));
        assert!(out.iter().all(|(_, f)| f[12..14] == [8, 6]), "only questions leave");
    }
    assert_eq!(drops(&rig), [("neighbour_queue_full", 4)]);
    spec.generation = 2;
    spec.next_hops.iter_mut().for_each(|h| h.mac = h.mac.or(Some(dataplane::units::Mac(server_mac(11)))));
    rig.publish(&spec);
    rig.run();
    let sent = rig.take();
    let ports: Vec<u16> = sent.iter().map(|(_, f)| Segment::see(f).src.1).collect();
    assert_eq!(ports, (1000..1016).collect::<Vec<_>>(), "in their order");
}

#[test]
fn packets_do_not_wait_for_ever() {
    let mut rig = rig(&unresolved(), 1);
    rig.send(0, &syn());
    rig.sleep_ms(10_000);
    assert_eq!(drops(&rig), [("neighbour_unresolved", 1)]);
    assert_eq!(rig.wire.live(), 0);
}
