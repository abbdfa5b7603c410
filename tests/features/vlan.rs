//! VLANs: clients on one, servers on another, of the same port.

use dataplane::counters::DropReason;
use dataplane::snapshot::*;
use dataplane::units::*;
use pollux_tests::rig::Rig;

use super::world::*;

const CLIENTS: [&str; 2] = ["10.1.0.1:40000", "[2001:db8:1::1]:40000"];
const VIPS: [&str; 2] = ["10.9.0.1:80", "[2001:db8:9::1]:80"];
const STATION: [u8; 6] = CLI;

fn spec(mode: ForwardingMode) -> Spec {
    let mut spec = world(mode, 1);
    spec.settings.full_nat.addresses = vec![ip("10.2.0.200"), ip("2001:db8:2::200")];
    for (iface, vlan) in spec.interfaces.iter_mut().zip([10, 20]) {
        (iface.port, iface.vlan, iface.mac) = (PortId(0), Some(vlan), Mac(STATION));
    }
    let plain = InterfaceSpec { port: PortId(0), vlan: None, mac: Mac(STATION), mtu: 1500, addresses: Vec::new() };
    spec.interfaces.push(plain);
    if mode != ForwardingMode::Nat && mode != ForwardingMode::FullNat {
        spec.reals.iter_mut().for_each(|r| r.port = 80);
    }
    spec
}

/// A rig whose devices take tags out and put them in, or leave both to us.
fn rig_of(by_device: bool, spec: &Spec, workers: usize) -> Rig {
    let devices = vec![DeviceWork { tags: by_device, checksums: false }; 2];
    let rig = rig(&Spec { devices, ..spec.clone() }, workers);
    if by_device {
        rig.wire.strip_tags();
    }
    rig
}

/// Puts a tag into a frame; priority 5.
fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let tci = (0xa000 | vlan).to_be_bytes();
    [&frame[..12], &[0x81, 0], &tci, &frame[12..]].concat()
}

/// The VLAN of a frame (its priority aside), and the frame without its tag.
fn untagged(frame: &[u8]) -> (u16, Vec<u8>) {
    assert_eq!(frame[12..14], [0x81, 0], "tagged");
    (u16::from_be_bytes([frame[14], frame[15]]) & 0xfff, [&frame[..12], &frame[16..]].concat())
}

fn send(rig: &mut Rig, vlan: u16, frame: &[u8]) -> Vec<(u16, Vec<u8>)> {
    rig.send(0, &tagged(frame, vlan))
        .into_iter()
        .map(|(port, f)| {
            assert_eq!(port, 0);
            untagged(&f)
        })
        .collect()
}

#[test]
fn each_mode_goes_from_one_vlan_to_another_and_back() {
    for by_device in [false, true] {
        for mode in [ForwardingMode::Nat, ForwardingMode::FullNat] {
            for family in 0..2 {
                let mut rig = rig_of(by_device, &spec(mode), 2);
                let syn = Segment::tcp(CLIENTS[family], VIPS[family], SYN);
                let out = send(&mut rig, 10, &syn.frame(STATION));
                assert_eq!((out.len(), out[0].0, &out[0].1[..12]), (1, 20, &[server_mac(11), STATION].concat()[..]));
                let at_server = Segment::see(&out[0].1);
                let out = send(&mut rig, 20, &at_server.back(SYN | ACK).frame(STATION));
                assert_eq!((out.len(), out[0].0, &out[0].1[..6]), (1, 10, &GATEWAY[..]));
                assert_eq!(Segment::see(&out[0].1), syn.back(SYN | ACK));
                // Data goes the same way as what opened the flow.
                let data = Segment::tcp(CLIENTS[family], VIPS[family], ACK).payload(b"data");
                let out = send(&mut rig, 10, &data.frame(STATION));
                assert_eq!((out[0].0, Segment::see(&out[0].1).dst), (20, at_server.dst));
                assert_eq!(rig.wire.live(), 0);
            }
        }
        for mode in [ForwardingMode::DirectRouting, ForwardingMode::Tunnel] {
            let mut rig = rig_of(by_device, &spec(mode), 1);
            for flags in [SYN, ACK] {
                let out = send(&mut rig, 10, &Segment::tcp(CLIENTS[0], VIPS[0], flags).frame(STATION));
                assert_eq!((out.len(), out[0].0, &out[0].1[..6]), (1, 20, &server_mac(11)[..]));
                let outer = if mode == ForwardingMode::Tunnel { 20 } else { 0 };
                assert_eq!(out[0].1.len(), 14 + outer + 40);
            }
        }
    }
}

#[test]
fn a_port_may_have_tagged_and_untagged_sides() {
    for by_device in [false, true] {
        let mut spec = spec(ForwardingMode::Nat);
        // The servers are untagged on port 1.
        spec.interfaces[1] = InterfaceSpec { port: PortId(1), vlan: None, mac: Mac(SRV), ..spec.interfaces[1].clone() };
        let mut rig = rig_of(by_device, &spec, 1);
        let syn = Segment::tcp(CLIENTS[0], VIPS[0], SYN);
        let out = rig.send(0, &tagged(&syn.frame(STATION), 10));
        assert_eq!(out[0].0, 1);
        let at_server = Segment::see(&out[0].1);
        let out = rig.send(1, &at_server.back(SYN | ACK).frame(SRV));
        let (vlan, frame) = untagged(&out[0].1);
        assert_eq!((out[0].0, vlan, Segment::see(&frame)), (0, 10, syn.back(SYN | ACK)));
    }
}

#[test]
fn answers_stay_in_their_vlan() {
    for by_device in [false, true] {
        let mut rig = rig_of(by_device, &spec(ForwardingMode::Nat), 1);
        // ARP for the VIP.
        let mut ask = [[0xff; 6], [2, 9, 9, 9, 9, 9]].concat();
        ask.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 9, 9, 9, 9, 9, 10, 3, 0, 2, 0, 0, 0, 0, 0, 0, 10, 9, 0, 1]);
        let out = send(&mut rig, 10, &ask);
        assert_eq!((out.len(), out[0].0, &out[0].1[22..32]), (1, 10, &[2, 0, 0, 0, 1, 0, 10, 9, 0, 1][..]));
        // A reset, and an ICMP error for a TTL that runs out.
        let out = send(&mut rig, 10, &Segment::tcp(CLIENTS[0], "10.9.0.1:81", SYN).frame(STATION));
        assert_eq!((out.len(), out[0].0, out[0].1[47]), (1, 10, RST | ACK));
        let mut frame = Segment::tcp(CLIENTS[0], VIPS[0], SYN).frame(STATION);
        frame[22] = 1;
        frame[24..26].fill(0);
        let sum = pollux_tests::packet::fold(&frame[14..34]).to_be_bytes();
        frame[24..26].copy_from_slice(&sum);
        let out = send(&mut rig, 10, &frame);
        assert_eq!((out.len(), out[0].0, &out[0].1[34..36]), (1, 10, &[11, 0][..]), "{:?}", drops(&rig));
    }
}

#[test]
fn a_packet_too_big_for_the_other_vlan_goes_in_pieces() {
    for by_device in [false, true] {
        let mut spec = spec(ForwardingMode::Nat);
        spec.interfaces[1].mtu = 1400;
        let mut rig = rig_of(by_device, &spec, 1);
        let mut frame = Segment::tcp(CLIENTS[0], VIPS[0], SYN).payload(&[7; 1460]).frame(STATION);
        frame[20] = 0;
        frame[24..26].fill(0);
        let sum = pollux_tests::packet::fold(&frame[14..34]).to_be_bytes();
        frame[24..26].copy_from_slice(&sum);
        let out = send(&mut rig, 10, &frame);
        assert_eq!(out.iter().map(|(vlan, f)| (*vlan, f.len() <= 1414)).collect::<Vec<_>>(), [(20, true); 2]);
    }
}

#[test]
fn pieces_that_come_in_a_vlan_leave_in_the_other() {
    for by_device in [false, true] {
        let mut rig = rig_of(by_device, &spec(ForwardingMode::Nat), 2);
        let whole = Segment::tcp(CLIENTS[0], VIPS[0], SYN).payload(&[7; 1000]).frame(STATION);
        let piece = |from: usize, to: usize, more: bool| {
            let mut f = [&whole[..34], &whole[34 + from..34 + to]].concat();
            f[16..18].copy_from_slice(&((20 + to - from) as u16).to_be_bytes());
            f[20..22].copy_from_slice(&((from / 8) as u16 | if more { 0x2000 } else { 0 }).to_be_bytes());
            f[24..26].fill(0);
            let sum = pollux_tests::packet::fold(&f[14..34]).to_be_bytes();
            f[24..26].copy_from_slice(&sum);
            tagged(&f, 10)
        };
        let mut out = rig.send(0, &piece(512, 1020, false));
        out.extend(rig.send(0, &piece(0, 512, true)));
        assert_eq!(out.len(), 2, "{:?}", drops(&rig));
        for (_, f) in out {
            let (vlan, f) = untagged(&f);
            assert_eq!((vlan, &f[30..34]), (20, &[10, 2, 0, 11][..]));
        }
        assert_eq!(rig.wire.live(), 0);
    }
}

#[test]
fn unknown_vlans_and_second_tags_are_counted_apart() {
    for by_device in [false, true] {
        let mut rig = rig_of(by_device, &spec(ForwardingMode::Nat), 1);
        let frame = Segment::tcp(CLIENTS[0], VIPS[0], SYN).frame(STATION);
        assert!(rig.send(0, &tagged(&frame, 30)).is_empty());
        assert_eq!(rig.drops(DropReason::UnknownVlan), 1);
        let twice = tagged(&tagged(&frame, 20), 10);
        assert!(rig.send(0, &twice).is_empty());
        let mut provider = twice;
        provider[12..14].copy_from_slice(&[0x88, 0xa8]);
        assert!(rig.send(0, &provider).is_empty());
        assert_eq!(rig.drops(DropReason::DoubleTagged), 2, "{:?}", drops(&rig));
    }
}

#[test]
fn a_frame_of_another_vlan_is_not_taken_for_one_of_a_known_flow() {
    for by_device in [false, true] {
        let mut rig = rig_of(by_device, &spec(ForwardingMode::Nat), 1);
        let frame = |flags| Segment::tcp(CLIENTS[0], VIPS[0], flags).frame(STATION);
        assert_eq!(send(&mut rig, 10, &frame(SYN)).len(), 1);
        // One burst: of its own VLAN, of one that is not there, and without a tag.
        for frame in [tagged(&frame(ACK), 10), tagged(&frame(ACK), 30), frame(ACK)] {
            rig.wire.push(0, 0, &frame);
        }
        rig.run();
        assert_eq!(rig.take().len(), 2);
        assert_eq!(drops(&rig), [(DropReason::UnknownVlan.name(), 1)]);
    }
}
