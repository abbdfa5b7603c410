//! Jumbo frames, in one piece of memory and in several.

use dataplane::counters::DropReason;
use dataplane::snapshot::{ClientAddress, Extras, ForwardingMode, Spec};

use super::world::*;

const CLIENTS: [&str; 2] = ["10.1.0.1:40000", "[2001:db8:1::1]:40000"];
const VIPS: [&str; 2] = ["10.9.0.1:80", "[2001:db8:9::1]:80"];

fn spec(mode: ForwardingMode) -> Spec {
    let mut spec = world(mode, 1);
    spec.settings.full_nat.addresses = vec![ip("10.2.0.200"), ip("2001:db8:2::200")];
    spec.interfaces.iter_mut().for_each(|i| i.mtu = 9000);
    if mode != ForwardingMode::Nat && mode != ForwardingMode::FullNat {
        spec.reals.iter_mut().for_each(|r| r.port = 80);
    }
    spec
}

fn data(family: usize, len: usize) -> Segment {
    let bytes: Vec<u8> = (0..len).map(|n| (n * 7) as u8).collect();
    Segment::tcp(CLIENTS[family], VIPS[family], ACK).at(1001, 5001).payload(&bytes)
}

/// What comes out for a data segment whose first `first` bytes lie by themselves; 0 for one piece.
fn forwarded(spec: &Spec, family: usize, first: usize) -> Vec<(usize, Vec<u8>)> {
    let mut rig = rig(spec, 1);
    rig.send(0, &Segment::tcp(CLIENTS[family], VIPS[family], SYN).frame(CLI));
    let frame = data(family, 8800).frame(CLI);
    let out = if first == 0 {
        rig.send(0, &frame)
    } else {
        rig.wire.push_chained(0, 0, &frame, first);
        rig.run();
        rig.take()
    };
    assert_eq!(rig.wire.live(), 0);
    out
}

#[test]
fn a_frame_in_two_pieces_is_forwarded_like_one_in_one_piece() {
    use ForwardingMode::*;
    let mut all: Vec<Spec> = [Nat, FullNat, DirectRouting, Tunnel].into_iter().map(spec).collect();
    for tunnel in [
        dataplane::snapshot::Tunnel::Gre { checksum: true },
        dataplane::snapshot::Tunnel::Vxlan { port: 4789, vni: 7 },
        dataplane::snapshot::Tunnel::Gue { port: 6080, checksum: dataplane::snapshot::GueChecksum::Udp },
    ] {
        let mut s = spec(Tunnel);
        s.reals.iter_mut().for_each(|r| r.tunnel = tunnel);
        all.push(s);
    }
    for client_address in [ClientAddress::Proxy, ClientAddress::Toa] {
        let mut s = spec(FullNat);
        s.services.iter_mut().for_each(|s| s.extras = Extras { client_address, ftp: false });
        all.push(s);
    }
    for spec in &all {
        let what = (spec.reals[0].mode, spec.reals[0].tunnel, spec.services[0].extras);
        for family in 0..2 {
            let whole = forwarded(spec, family, 0);
            assert_eq!((whole.len(), whole[0].0), (1, 1), "{what:?}");
            assert!(whole[0].1.len() > 8800);
            let header = 14 + [40, 60][family];
            for first in [header, header + 1, 128, 2000] {
                assert!(forwarded(spec, family, first) == whole, "{what:?}, family {family}, {first} bytes first");
            }
        }
    }
}

#[test]
fn headers_in_two_pieces_are_counted_and_nothing_leaks() {
    let spec = spec(ForwardingMode::Nat);
    for family in 0..2 {
        for first in [1, 14, 20, 34, 40, 50] {
            let mut rig = rig(&spec, 1);
            rig.wire.push_chained(0, 0, &data(family, 8800).frame(CLI), first);
            rig.run();
            rig.take();
            let dropped: u64 = DropReason::ALL.iter().map(|r| rig.drops(*r)).sum();
            assert!(dropped > 0, "{first}");
            assert_eq!(rig.wire.live(), 0);
        }
    }
}

#[test]
fn a_reply_in_two_pieces_reaches_the_client() {
    for mode in [ForwardingMode::Nat, ForwardingMode::FullNat] {
        let mut rig = rig(&spec(mode), 1);
        let (_, at_server) = pass(&mut rig, 0, &Segment::tcp(CLIENTS[0], VIPS[0], SYN));
        let reply = at_server.back(ACK).payload(&[9; 8001]);
        rig.wire.push_chained(1, 0, &reply.frame(SRV), 100);
        rig.run();
        let out = rig.take();
        assert_eq!((out.len(), Segment::see(&out[0].1).payload.len()), (1, 8001));
    }
}

#[test]
fn a_jumbo_frame_meets_a_smaller_link() {
    let mut spec = spec(ForwardingMode::Nat);
    spec.interfaces[1].mtu = 1500;
    let out = forwarded(&spec, 0, 128);
    assert_eq!((out.len(), out[0].0, &out[0].1[34..36], &out[0].1[40..42]), (1, 0, &[3, 4][..], &[5, 220][..]));
}
