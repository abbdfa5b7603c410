//! The client's address told to the server: PROXY protocol and TCP option.

use dataplane::counters::DropReason;
use dataplane::snapshot::{ClientAddress, Extras, ForwardingMode, Spec};

use super::world::*;

const CLIENTS: [&str; 2] = ["10.1.0.1:40000", "[2001:db8:1::1]:40000"];
const VIPS: [&str; 2] = ["10.9.0.1:80", "[2001:db8:9::1]:80"];
const MODES: [ForwardingMode; 2] = [ForwardingMode::Nat, ForwardingMode::FullNat];
/// The client's first sequence number: data wraps around zero.
const ISN: u32 = u32::MAX - 3;
/// The server's.
const SERVER_ISN: u32 = 5000;

fn spec(mode: ForwardingMode, client_address: ClientAddress) -> Spec {
    let mut spec = world(mode, 1);
    spec.settings.full_nat.addresses = vec![ip("10.2.0.200"), ip("2001:db8:2::200")];
    spec.services.iter_mut().for_each(|s| s.extras = Extras { client_address, ftp: false });
    spec
}

fn seq(n: u32) -> u32 {
    ISN.wrapping_add(n)
}

fn proxy(v4: bool) -> Vec<u8> {
    let mut h = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    let address = |s: &str| ip(s).0;
    if v4 {
        h.extend([0x11, 0, 12, 10, 1, 0, 1, 10, 9, 0, 1]);
    } else {
        h.extend([0x21, 0, 36]);
        h.extend(address("2001:db8:1::1"));
        h.extend(address("2001:db8:9::1"));
    }
    h.extend([0x9c, 0x40, 0, 80]);
    h
}

#[test]
fn the_proxy_header_comes_before_the_first_data_and_nobody_misses_a_byte() {
    for (mode, family) in MODES.into_iter().flat_map(|m| [(m, 0), (m, 1)]) {
        let mut rig = rig(&spec(mode, ClientAddress::Proxy), 1);
        let client = |flags| Segment::tcp(CLIENTS[family], VIPS[family], flags);
        let header = proxy(family == 0);
        let n = header.len() as u32;
        let mss = [2, 4, 0x05, 0xb4, 1, 1, 4, 2];
        let (_, syn) = pass(&mut rig, 0, &client(SYN).at(ISN, 0).options(&mss));
        assert_eq!((syn.seq, &syn.options[..]), (ISN, &mss[..]));
        // The server's answer announces room for the header.
        let (_, back) = pass(&mut rig, 1, &syn.back(SYN | ACK).at(SERVER_ISN, seq(1)).options(&mss));
        let lowered = (1460 - n as u16).to_be_bytes();
        assert_eq!((back.ack, &back.options[..4]), (seq(1), &[2, 4, lowered[0], lowered[1]][..]));
        // The handshake's end says nothing yet.
        let (_, end) = pass(&mut rig, 0, &client(ACK).at(seq(1), SERVER_ISN + 1));
        assert_eq!((end.seq, end.payload.len()), (seq(1), 0));
        // What overtakes the first data is shifted already.
        let (_, later) = pass(&mut rig, 0, &client(ACK).at(seq(6), 5001).payload(b"world"));
        assert_eq!((later.seq, &later.payload[..]), (seq(6 + n), &b"world"[..]));
        // The first data, and the first data again.
        for _ in 0..2 {
            let (_, first) = pass(&mut rig, 0, &client(ACK | PSH).at(seq(1), 5001).payload(b"hello"));
            assert_eq!((first.seq, first.payload), (seq(1), [&header[..], b"hello"].concat()));
        }
        // The server acknowledges the header, half a header, everything; and has a gap.
        for (acked, told) in [(1 + n, 1), (9, 1), (6 + n, 6), (11 + n, 11), (1, 1)] {
            let (_, back) = pass(&mut rig, 1, &syn.back(ACK).at(SERVER_ISN + 1, seq(acked)));
            assert_eq!((back.seq, back.ack), (SERVER_ISN + 1, seq(told)), "{acked}");
        }
        let edges = [seq(6 + n).to_be_bytes(), seq(11 + n).to_be_bytes()].concat();
        let sack = [&[1, 1, 5, 10][..], &edges].concat();
        let (_, back) = pass(&mut rig, 1, &syn.back(ACK).at(SERVER_ISN + 1, seq(1)).options(&sack));
        assert_eq!(back.options[4..], [seq(6).to_be_bytes(), seq(11).to_be_bytes()].concat());
        // The end of the connection.
        let (_, fin) = pass(&mut rig, 0, &client(FIN | ACK).at(seq(11), 5001));
        assert_eq!(fin.seq, seq(11 + n));
        let (_, back) = pass(&mut rig, 1, &syn.back(FIN | ACK).at(SERVER_ISN + 1, seq(12 + n)));
        assert_eq!(back.ack, seq(12));
        assert_eq!(rig.wire.live(), 0);
    }
}

#[test]
fn a_connection_without_data_has_no_header() {
    let mut rig = rig(&spec(ForwardingMode::Nat, ClientAddress::Proxy), 1);
    let client = |flags| Segment::tcp(CLIENTS[0], VIPS[0], flags);
    let (_, syn) = pass(&mut rig, 0, &client(SYN).at(ISN, 0));
    pass(&mut rig, 1, &syn.back(SYN | ACK).at(SERVER_ISN, seq(1)));
    let (_, fin) = pass(&mut rig, 0, &client(FIN | ACK).at(seq(1), 5001));
    assert_eq!((fin.seq, fin.payload.len()), (seq(1), 0));
    let (_, back) = pass(&mut rig, 1, &syn.back(ACK).at(5001, seq(2)));
    assert_eq!(back.ack, seq(2));
}

#[test]
fn a_segment_that_is_full_already_is_told_a_smaller_path() {
    let mut rig = rig(&spec(ForwardingMode::Nat, ClientAddress::Proxy), 1);
    let client = |flags| Segment::tcp(CLIENTS[0], VIPS[0], flags);
    pass(&mut rig, 0, &client(SYN).at(ISN, 0));
    let out = rig.send(0, &client(ACK).at(seq(1), 5001).payload(&[7; 1460]).frame(CLI));
    assert_eq!((out.len(), out[0].0, &out[0].1[34..36]), (1, 0, &[3, 4][..]));
    assert_eq!(out[0].1[40..42], 1472u16.to_be_bytes());
    assert_eq!(rig.drops(DropReason::TooBig), 1);
    let (_, fits) = pass(&mut rig, 0, &client(ACK).at(seq(1), 5001).payload(&[7; 1432]));
    assert_eq!(fits.payload.len(), 1460);
}

#[test]
fn the_option_stands_in_the_segments_that_open_the_connection() {
    for (mode, family) in MODES.into_iter().flat_map(|m| [(m, 0), (m, 1)]) {
        let mut rig = rig(&spec(mode, ClientAddress::Toa), 1);
        let client = |flags| Segment::tcp(CLIENTS[family], VIPS[family], flags);
        let mut option = vec![254, [8, 20][family], 0x9c, 0x40];
        option.extend(if family == 0 { vec![10, 1, 0, 1] } else { ip("2001:db8:1::1").0.to_vec() });
        let (_, syn) = pass(&mut rig, 0, &client(SYN).at(ISN, 0));
        assert_eq!(syn.options.len(), 0);
        let (_, back) = pass(&mut rig, 1, &syn.back(SYN | ACK).at(SERVER_ISN, seq(1)));
        assert_eq!(back.ack, seq(1));
        let times = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        for payload in [&b""[..], b"hello"] {
            let (_, first) = pass(&mut rig, 0, &client(ACK).at(seq(1), 5001).options(&times).payload(payload));
            assert_eq!((first.seq, &first.payload[..]), (seq(1), payload));
            assert_eq!(first.options, [&option[..], &times].concat());
        }
        let (_, later) = pass(&mut rig, 0, &client(ACK).at(seq(6), 5001).payload(b"world"));
        assert_eq!((later.seq, later.options.len()), (seq(6), 0));
        let (_, back) = pass(&mut rig, 1, &syn.back(ACK).at(5001, seq(11)));
        assert_eq!(back.ack, seq(11));
        // No room among forty bytes of other options: the segment goes as it is.
        let (_, full) = pass(&mut rig, 0, &client(ACK).at(seq(1), 5001).options(&[1; 40]));
        assert_eq!(full.options, [1; 40]);
    }
}

#[test]
fn an_ordinary_service_and_a_datagram_have_no_extension() {
    let mut rig = rig(&spec(ForwardingMode::Nat, ClientAddress::None), 1);
    pass(&mut rig, 0, &Segment::tcp(CLIENTS[0], VIPS[0], SYN));
    assert_eq!(rig.workers[0].core().extensions.len(), 0);
}
