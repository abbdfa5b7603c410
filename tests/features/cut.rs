//! What is too big: packets that a tunnel must carry all the same go in pieces of the outer
//! packet, and routers' words about pieces are understood.

use dataplane::counters::DropReason;
use dataplane::link::Event;
use dataplane::snapshot::{ForwardingMode, Match, Spec, Tunnel};
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

/// The frame of an ICMPv6 «packet too big» from `router` to `to`, with MTU 1300.
fn too_big(station: [u8; 6], router: &str, to: &str, quote: &[u8]) -> Vec<u8> {
    let (router, to) = (ip(router).0, ip(to).0);
    let mut message = vec![2, 0, 0, 0, 0, 0, 0x05, 0x14];
    message.extend(&quote[..quote.len().min(1200)]);
    let length = (message.len() as u32).to_be_bytes();
    let sum = fold(&[&router[..], &to, &length, &[0, 0, 0, 58], &message].concat()).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    let mut frame = [&station[..], &[2, 9, 9, 9, 9, 9, 0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    frame.extend((message.len() as u16).to_be_bytes());
    frame.extend([58, 64]);
    frame.extend([&router[..], &to, &message].concat());
    frame
}

#[test]
fn a_router_that_finds_a_piece_too_big_is_heard() {
    let mut rig = rig(&over_ipv6(Tunnel::Ipip, 0), 1);
    let out = rig.send(0, &full(false));
    for (piece, told) in [(0, true), (1, false)] {
        while rig.links[0].events.pop().is_some() {}
        rig.send(1, &too_big(SRV, "2001:db8:2::99", "2001:db8:2::fe", &out[piece].1[14..]));
        let heard = rig.links[0].events.pop();
        assert_eq!(matches!(heard, Some(Event::PathMtu { mtu: 1300, .. })), told, "piece {piece}");
    }
}

#[test]
fn a_server_hears_that_a_piece_of_its_reply_was_too_big() {
    let mut spec = world(ForwardingMode::Nat, 1);
    spec.services.iter_mut().for_each(|s| {
        if let Match::Address { protocol, .. } = &mut s.matches {
            *protocol = 17;
        }
    });
    let mut rig = rig(&spec, 1);
    let ask = Segment::udp("[2001:db8:1::1]:40000", "[2001:db8:9::1]:80").payload(b"ask");
    let (_, at_server) = pass(&mut rig, 0, &ask);
    // The first piece of the reply as it reached the router, and a later one.
    let reply = ask.back(0).payload(&[7; 1000]).frame(CLI);
    for (offset, told) in [(0u16, true), (1448, false)] {
        let mut quote = reply[14..54].to_vec();
        quote[6] = 44;
        quote.extend([17, 0]);
        quote.extend((offset | 1).to_be_bytes());
        quote.extend([0, 0, 0, 9]);
        quote.extend(&reply[54..]);
        let out = rig.send(0, &too_big(CLI, "2001:db8:1:7::1", "2001:db8:9::1", &quote));
        assert_eq!(out.len(), usize::from(told), "{:?}", drops(&rig));
        for (port, frame) in out {
            let quoted = &frame[14 + 40 + 8..];
            let server = ip("2001:db8:2::11").0;
            assert_eq!((port, &frame[14 + 24..14 + 40], &quoted[8..24]), (1, &server[..], &server[..]));
            assert_eq!(quoted[48..52], [at_server.dst.1.to_be_bytes(), 40000u16.to_be_bytes()].concat());
            let pseudo = [&frame[14 + 8..14 + 40], &((frame.len() - 54) as u32).to_be_bytes(), &[0, 0, 0, 58]].concat();
            assert_eq!(fold(&[&pseudo, &frame[54..]].concat()), 0, "ICMPv6 checksum");
        }
    }
}

/// An IPv6 segment of `len` bytes from the IP header on.
fn six(len: usize) -> Vec<u8> {
    let s = Segment::tcp("[2001:db8:1::1]:40000", "[2001:db8:9::1]:80", SYN);
    s.payload(&vec![7; len - 60]).frame(CLI)
}

/// A service of IPv6 whose one server is reached by IPIP over a path of this MTU.
fn six_over(v4: bool, path_mtu: u16) -> Spec {
    let mut spec = world(ForwardingMode::Tunnel, 1);
    let near = spec.reals.iter().find(|r| r.id.0 == 0).expect("a real server").clone();
    let far = spec.reals.iter_mut().find(|r| r.id.0 == 100).expect("a real server");
    far.path_mtu = path_mtu;
    if v4 {
        (far.addr, far.source, far.next_hop) = (near.addr, near.source, near.next_hop);
    }
    spec
}

#[test]
fn the_least_that_ipv6_hosts_send_goes_through_narrower_tunnels() {
    // Cut on the outside: 1,320 bytes over IPv6 do not fit 1,300.
    let mut rig = rig(&six_over(false, 1300), 1);
    let out = rig.send(0, &six(1280));
    assert_eq!(out.iter().map(|(_, f)| (f[14 + 6], f.len() - 14)).collect::<Vec<_>>(), [(44, 1296), (44, 80)]);
    // Nor 1,300 over IPv4 1,290.
    let mut rig = super::world::rig(&six_over(true, 1290), 1);
    let out = rig.send(0, &six(1280));
    assert_eq!(out.iter().map(|(_, f)| (f[14 + 6], f.len() - 14)).collect::<Vec<_>>(), [(0x20, 1284), (0, 36)]);
    assert_eq!(out[0].1[14 + 4..14 + 6], out[1].1[14 + 4..14 + 6], "one identification");
    let out = rig.send(0, &six(1270));
    assert_eq!(out.iter().map(|(_, f)| (f[14 + 6], f.len() - 14)).collect::<Vec<_>>(), [(0x40, 1290)]);
    // More than that is refused, and nobody is told to send less.
    for v4 in [true, false] {
        let mut rig = super::world::rig(&six_over(v4, 1290), 1);
        let out = rig.send(0, &six(1281));
        assert_eq!((out.len(), out[0].0, out[0].1[54], &out[0].1[60..62]), (1, 0, 2, &1280u16.to_be_bytes()[..]));
    }
    // Nor by a router in the tunnel.
    let mut rig = super::world::rig(&six_over(false, 0), 1);
    let out = rig.send(0, &six(1400));
    let out = rig.send(1, &too_big(SRV, "2001:db8:2::99", "2001:db8:2::fe", &out[0].1[14..]));
    assert_eq!((out.len(), out[0].0, out[0].1[54], &out[0].1[60..62]), (1, 0, 2, &1280u16.to_be_bytes()[..]));
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
