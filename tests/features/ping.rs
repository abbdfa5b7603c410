//! Echo requests in pieces: answered like others where they are for the director, routed where
//! they pass by.

use dataplane::counters::DropReason;
use dataplane::snapshot::ForwardingMode;
use pollux_tests::packet::fold;

use super::world::*;

/// Data bytes of a piece, a multiple of eight, and of the whole message.
const PIECE: usize = 1448;
const WHOLE: usize = 4008;

/// Addresses of one packet: the client's, and the one asked.
fn octets(v4: bool, to: &str) -> (Vec<u8>, Vec<u8>) {
    let bytes = |a: &str| if v4 { ip(a).v4_bytes().to_vec() } else { ip(a).0.to_vec() };
    (bytes(if v4 { "10.1.0.1" } else { "2001:db8:1::1" }), bytes(to))
}

/// The sum that ICMPv6 takes over addresses, length and protocol besides (RFC 8200 section 8.1).
fn pseudo(v4: bool, src: &[u8], dst: &[u8]) -> Vec<u8> {
    if v4 { Vec::new() } else { [src, dst, &(WHOLE as u32).to_be_bytes(), &[0, 0, 0, 58]].concat() }
}

/// The frames of an echo request of 4,000 data bytes.
fn request(v4: bool, to: &str) -> Vec<Vec<u8>> {
    let (src, dst) = octets(v4, to);
    let mut message = vec![if v4 { 8 } else { 128 }, 0, 0, 0, 0, 5, 0, 6];
    message.extend((0..WHOLE - 8).map(|n| n as u8));
    let sum = fold(&[pseudo(v4, &src, &dst), message.clone()].concat()).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    let piece = |(n, data): (usize, &[u8])| {
        let more = (n + 1) * PIECE < WHOLE;
        let mut out = [&CLI[..], &[2, 9, 9, 9, 9, 9]].concat();
        if v4 {
            let word = (n * PIECE / 8) as u16 | if more { 0x2000 } else { 0 };
            let mut h = vec![0x45, 0];
            h.extend((20 + data.len() as u16).to_be_bytes());
            h.extend([0x77, 0x88]);
            h.extend(word.to_be_bytes());
            h.extend([61, 1, 0, 0]);
            h.extend([&src[..], &dst].concat());
            let sum = fold(&h).to_be_bytes();
            h[10..12].copy_from_slice(&sum);
            out.extend([8, 0]);
            out.extend(h);
        } else {
            out.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            out.extend((8 + data.len() as u16).to_be_bytes());
            out.extend([44, 61]);
            out.extend([&src[..], &dst].concat());
            out.extend([58, 0]);
            out.extend(((n * PIECE) as u16 | u16::from(more)).to_be_bytes());
            out.extend([0, 0, 0x77, 0x88]);
        }
        out.extend(data);
        out
    };
    message.chunks(PIECE).enumerate().map(piece).collect()
}

/// The message that frames carry which are the same pieces of one datagram as those of
/// `request`; addresses, hop count, lengths and header checksums are asserted.
fn glue(v4: bool, frames: &[Vec<u8>], src: &[u8], dst: &[u8], hops: u8) -> Vec<u8> {
    let mut message = Vec::new();
    for (n, frame) in frames.iter().enumerate() {
        let ip = &frame[14..];
        let more = (n + 1) * PIECE < WHOLE;
        if v4 {
            assert_eq!(fold(&ip[..20]), 0);
            let word = (n * PIECE / 8) as u16 | if more { 0x2000 } else { 0 };
            assert_eq!((&ip[4..6], &ip[6..8], ip[8]), (&[0x77, 0x88][..], &word.to_be_bytes()[..], hops));
            assert_eq!(ip[12..20], [src, dst].concat());
            message.extend(&ip[20..]);
        } else {
            let word = (n * PIECE) as u16 | u16::from(more);
            assert_eq!((ip[7], &ip[42..44], &ip[46..48]), (hops, &word.to_be_bytes()[..], &[0x77, 0x88][..]));
            assert_eq!(ip[8..40], [src, dst].concat());
            message.extend(&ip[48..]);
        }
    }
    assert_eq!(message.len(), WHOLE);
    assert_eq!(fold(&[pseudo(v4, src, dst), message.clone()].concat()), 0, "ICMP checksum");
    message
}

#[test]
fn a_large_ping_is_answered_whatever_worker_gets_its_pieces() {
    for (v4, vip) in [(true, "10.9.0.1"), (false, "2001:db8:9::1")] {
        for order in [[0, 1, 2], [2, 0, 1]] {
            let mut rig = rig(&world(ForwardingMode::Nat, 2), 2);
            let frames = request(v4, vip);
            let mut out = Vec::new();
            for (queue, n) in order.into_iter().enumerate() {
                out.extend(rig.send_on(0, queue % 2, &frames[n]));
            }
            assert!(out.iter().all(|(port, _)| *port == 0));
            let out: Vec<_> = out.into_iter().map(|(_, frame)| frame).collect();
            assert_eq!(out.len(), 3, "{:?}", drops(&rig));
            let (client, vip) = octets(v4, vip);
            let answer = glue(v4, &out, &vip, &client, 64);
            assert_eq!(answer[..2], [if v4 { 0 } else { 129 }, 0]);
            assert!(answer[8..].iter().enumerate().all(|(n, b)| *b == n as u8));
            assert_eq!(rig.wire.live(), 0);
        }
    }
}

#[test]
fn a_large_ping_to_a_server_itself_is_routed() {
    for (v4, server) in [(true, "10.2.0.11"), (false, "2001:db8:2::11")] {
        let mut rig = rig(&world(ForwardingMode::Nat, 2), 1);
        let out: Vec<_> = request(v4, server).iter().flat_map(|f| rig.send(0, f)).collect();
        assert!(out.iter().all(|(port, _)| *port == 1), "{:?}", drops(&rig));
        let out: Vec<_> = out.into_iter().map(|(_, frame)| frame).collect();
        assert_eq!(out.len(), 3, "{:?}", drops(&rig));
        let (client, server) = octets(v4, server);
        assert_eq!(glue(v4, &out, &client, &server, 60)[0], if v4 { 8 } else { 128 });
    }
}

#[test]
fn other_messages_in_pieces_are_dropped() {
    for (v4, vip) in [(true, "10.9.0.1"), (false, "2001:db8:9::1")] {
        let mut rig = rig(&world(ForwardingMode::Nat, 2), 1);
        let mut frames = request(v4, vip);
        let at = if v4 { 34 } else { 62 };
        frames[0][at] += 1;
        assert_eq!(frames.iter().map(|f| rig.send(0, f).len()).sum::<usize>(), 0);
        assert_eq!(rig.drops(DropReason::LocalNoListener), 3, "{:?}", drops(&rig));
        assert_eq!(rig.wire.live(), 0);
    }
}
