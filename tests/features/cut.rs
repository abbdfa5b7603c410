//! IPv4 packets without DF that are too big for a tunnel go in pieces of the outer packet.

use dataplane::counters::DropReason;
use dataplane::link::Event;
use dataplane::snapshot::{ForwardingMode, Spec, Tunnel};
use pollux_tests::packet::fold;

use super::world::*;

/// A service of IPv4 whose one server is reached over IPv6.
fn over_ipv6(tunnel: Tunnel, path_mtu: u16) -> Spec {
    let mut spec = world(ForwardingMode::Tunnel, 1);
    let far = spec.reals.iter().find(|r| r.id.0 == 100).expect("a real server").clone();
    let near = spec.reals.iter_mut().find(|r| r.id.0 == 0).expect("a real server");
    (near.addr, near.source, near.next_hop) = (far.addr, far.source, far.next_hop);
    (near.tunnel, near.path_mtu) = (tunnel, path_mtu);
    spec
}

/// A segment that fills a frame, with DF or without.
fn full(df: bool) -> Vec<u8> {
    let data: Vec<u8> = (0..1460).map(|n| n as u8).collect();
    let mut frame = Segment::tcp("10.1.0.1:40000", "10.9.0.1:80", SYN).payload(&data).frame(CLI);
    if !df {
        frame[14 + 6] = 0;
        frame[24..26].fill(0);
        let sum = fold(&frame[14..34]).to_be_bytes();
        frame[24..26].copy_from_slice(&sum);
    }
    frame
}

#[test]
fn without_df_the_outer_packet_is_cut_over_ipv6() {
    for (tunnel, shim, path_mtu, pieces) in [
        (Tunnel::Ipip, 0, 0, 2),
        (Tunnel::Gre { checksum: true }, 8, 0, 2),
        (Tunnel::Ipip, 0, 1300, 2),
        (Tunnel::Ipip, 0, 600, 3),
    ] {
        let mut rig = rig(&over_ipv6(tunnel, path_mtu), 1);
        let out = rig.send(0, &full(false));
        assert_eq!(out.len(), pieces, "{:?}", drops(&rig));
        let mut whole = Vec::new();
        for (n, (port, frame)) in out.iter().enumerate() {
            let ip = &frame[14..];
            let more = n + 1 < pieces;
            assert_eq!((*port, &frame[12..14], ip[0], ip[6], ip[7]), (1, &[0x86, 0xdd][..], 0x60, 44, 63));
            assert_eq!(usize::from(u16::from_be_bytes([ip[4], ip[5]])) + 40, ip.len());
            assert!(ip.len() <= if path_mtu == 0 { 1500 } else { usize::from(path_mtu) });
            assert_eq!(u16::from_be_bytes([ip[42], ip[43]]), whole.len() as u16 | u16::from(more));
            assert_eq!((ip[40], &ip[44..48]), (out[0].1[14 + 40], &out[0].1[14 + 44..14 + 48]));
            assert_eq!(ip[40], if shim == 0 { 4 } else { 47 });
            whole.extend(&ip[48..]);
        }
        // Inside is the packet itself, one hop on.
        let mut inner = full(false)[..14].to_vec();
        inner.extend(&whole[shim..]);
        assert_eq!(Segment::see(&inner), Segment::see(&hop_on(full(false))));
        assert_eq!(rig.wire.live(), 0);
    }
}

/// The frame with one hop less.
fn hop_on(mut frame: Vec<u8>) -> Vec<u8> {
    frame[14 + 8] -= 1;
    frame[24..26].fill(0);
    let sum = fold(&frame[14..34]).to_be_bytes();
    frame[24..26].copy_from_slice(&sum);
    frame
}

#[test]
fn each_packet_has_an_identification_of_its_own() {
    let mut rig = rig(&over_ipv6(Tunnel::Ipip, 0), 1);
    let ids: Vec<Vec<u8>> = (0..3).map(|_| rig.send(0, &full(false))[0].1[14 + 44..14 + 48].to_vec()).collect();
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
}

#[test]
fn a_router_that_finds_a_piece_too_big_is_heard() {
    let mut rig = rig(&over_ipv6(Tunnel::Ipip, 0), 1);
    let out = rig.send(0, &full(false));
    let (own, router) = (ip("2001:db8:2::fe").0, ip("2001:db8:2::99").0);
    for (piece, told) in [(0, true), (1, false)] {
        let mut message = vec![2, 0, 0, 0, 0, 0, 0x05, 0x14];
        message.extend(&out[piece].1[14..out[piece].1.len().min(1200)]);
        let length = (message.len() as u32).to_be_bytes();
        let sum = fold(&[&router[..], &own, &length, &[0, 0, 0, 58], &message].concat()).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        let mut frame = [&SRV[..], &[2, 9, 9, 9, 9, 9, 0x86, 0xdd, 0x60, 0, 0, 0]].concat();
        frame.extend((message.len() as u16).to_be_bytes());
        frame.extend([58, 64]);
        frame.extend([&router[..], &own, &message].concat());
        while rig.links[0].events.pop().is_some() {}
        rig.send(1, &frame);
        let heard = rig.links[0].events.pop();
        assert_eq!(matches!(heard, Some(Event::PathMtu { mtu: 1300, .. })), told, "piece {piece}");
    }
}

#[test]
fn with_df_the_sender_is_told() {
    let mut rig = rig(&over_ipv6(Tunnel::Ipip, 0), 1);
    let out = rig.send(0, &full(true));
    assert_eq!(
        (out.len(), out[0].0, &out[0].1[34..36], &out[0].1[40..42]),
        (1, 0, &[3, 4][..], &1460u16.to_be_bytes()[..])
    );
    assert_eq!(rig.drops(DropReason::TooBig), 1);
}
