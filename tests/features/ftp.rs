//! FTP's data connections through NAT.

use dataplane::counters::DropReason;
use dataplane::snapshot::{Extras, ForwardingMode, Match, Spec};
use pollux_tests::rig::Rig;

use super::world::*;

const CLIENTS: [&str; 2] = ["10.1.0.1", "[2001:db8:1::1]"];
const VIPS: [&str; 2] = ["10.9.0.1", "[2001:db8:9::1]"];
const SERVERS: [&str; 2] = ["10.2.0.11", "[2001:db8:2::11]"];
const S: u32 = 70_000;

fn spec(ftp: bool) -> Spec {
    let mut spec = world(ForwardingMode::Nat, 1);
    for s in &mut spec.services {
        if let Match::Address { port, .. } = &mut s.matches {
            *port = 21;
        }
        s.extras = Extras { ftp, ..Extras::default() };
    }
    spec.reals.iter_mut().for_each(|r| r.port = 21);
    spec
}

fn client(family: usize, flags: u8) -> Segment {
    Segment::tcp(&format!("{}:40000", CLIENTS[family]), &format!("{}:21", VIPS[family]), flags)
}

fn server(family: usize, flags: u8) -> Segment {
    Segment::tcp(&format!("{}:21", SERVERS[family]), &format!("{}:40000", CLIENTS[family]), flags)
}

/// A control connection.
fn control(rig: &mut Rig, family: usize) {
    pass(rig, 0, &client(family, SYN).at(1000, 0));
    pass(rig, 1, &server(family, SYN | ACK).at(S - 1, 1001));
    pass(rig, 0, &client(family, ACK).at(1001, S));
}

fn connect(rig: &mut Rig, family: usize, from: u16, to: u16, queue: usize) -> Vec<(usize, Vec<u8>)> {
    let syn = Segment::tcp(&format!("{}:{from}", CLIENTS[family]), &format!("{}:{to}", VIPS[family]), SYN);
    rig.send_on(0, queue, &syn.frame(CLI))
}

#[test]
fn the_answer_to_pasv_names_the_vip_and_the_numbers_follow() {
    // The VIP's address is shorter than the server's, or longer, or as long.
    for (vip, by) in [("10.9.0.1", -1i32), ("10.9.0.11", 0), ("110.109.0.1", 2)] {
        let mut spec = spec(true);
        spec.vips[0].0 = ip(vip);
        if let Match::Address { vip: v, .. } = &mut spec.services[0].matches {
            *v = ip(vip);
        }
        let mut rig = rig(&spec, 1);
        let client = |flags| Segment::tcp("10.1.0.1:40000", &format!("{vip}:21"), flags);
        pass(&mut rig, 0, &client(SYN).at(1000, 0));
        pass(&mut rig, 1, &server(0, SYN | ACK).at(S - 1, 1001));
        let line = b"227 Entering Passive Mode (10,2,0,11,195,80).\r\n";
        let wanted = format!("227 Entering Passive Mode ({},195,80).\r\n", vip.replace('.', ","));
        assert_eq!(wanted.len() as i32 - line.len() as i32, by);
        for _ in 0..2 {
            let (_, told) = pass(&mut rig, 1, &server(0, ACK | PSH).at(S, 1001).payload(line));
            assert_eq!(String::from_utf8(told.payload).unwrap(), wanted);
            assert_eq!((told.seq, told.ack), (S, 1001));
        }
        let end = S + line.len() as u32;
        let shifted = end.wrapping_add_signed(by);
        let (_, acked) = pass(&mut rig, 0, &client(ACK).at(1001, shifted));
        assert_eq!((acked.seq, acked.ack), (1001, end));
        let (_, next) = pass(&mut rig, 1, &server(0, ACK | PSH).at(end, 1001).payload(b"150 Here it comes\r\n"));
        assert_eq!((next.seq, &next.payload[..]), (shifted, &b"150 Here it comes\r\n"[..]));
        // A second transfer shifts once more.
        pass(&mut rig, 1, &server(0, ACK | PSH).at(end + 19, 1001).payload(line));
        let (_, acked) = pass(&mut rig, 0, &client(ACK).at(1001, shifted + 19 + wanted.len() as u32));
        assert_eq!(acked.ack, end + 19 + line.len() as u32);
        assert_eq!(rig.wire.live(), 0);
    }
}

#[test]
fn a_passive_connection_reaches_the_server_whichever_worker_it_comes_to() {
    for (family, line) in [
        (0, &b"227 Entering Passive Mode (10,2,0,11,195,80).\r\n"[..]),
        (0, b"229 Entering Extended Passive Mode (|||50000|)\r\n"),
        (1, b"229 Entering Extended Passive Mode (|||50000|)\r\n"),
    ] {
        for from in 41_000..41_010 {
            let mut rig = rig(&spec(true), 2);
            control(&mut rig, family);
            pass(&mut rig, 1, &server(family, ACK | PSH).at(S, 1001).payload(line));
            let out = connect(&mut rig, family, from, 50_000, usize::from(from % 2));
            assert_eq!((out.len(), out[0].0), (1, 1), "{:?}", drops(&rig));
            let at_server = Segment::see(&out[0].1);
            assert_eq!(format!("{}", std::net::SocketAddr::from(at_server.dst)), format!("{}:50000", SERVERS[family]));
            let (_, back) = pass_on(&mut rig, 1, usize::from(from % 2), &at_server.back(SYN | ACK));
            assert_eq!(format!("{}", std::net::SocketAddr::from(back.src)), format!("{}:50000", VIPS[family]));
        }
    }
}

#[test]
fn an_active_connection_comes_from_the_vip() {
    for (family, line) in [
        (0, &b"PORT 10,1,0,1,164,16\r\n"[..]),
        (0, b"EPRT |1|10.1.0.1|42000|\r\n"),
        (1, b"EPRT |2|2001:db8:1::1|42000|\r\n"),
    ] {
        for from in [20, 45_123] {
            let mut rig = rig(&spec(true), 2);
            control(&mut rig, family);
            let (_, passed) = pass(&mut rig, 0, &client(family, ACK | PSH).at(1001, S).payload(line));
            assert_eq!(passed.payload, line);
            let at = |ip: &str, port| format!("{ip}:{port}");
            let syn = Segment::tcp(&at(SERVERS[family], from), &at(CLIENTS[family], 42_000), SYN);
            let (port, at_client) = pass(&mut rig, 1, &syn);
            assert_eq!((port, at_client.src.1, at_client.dst.1), (0, 20, 42_000));
            assert_eq!(std::net::SocketAddr::from(at_client.src).to_string(), at(VIPS[family], 20));
            let (_, back) = pass(&mut rig, 0, &at_client.back(SYN | ACK));
            assert_eq!(back, syn.back(SYN | ACK));
        }
    }
}

#[test]
fn what_was_not_announced_or_long_ago_or_for_another_is_refused() {
    let pasv = b"227 Entering Passive Mode (10,2,0,11,195,80).\r\n";
    let announce = |rig: &mut Rig| {
        control(rig, 0);
        pass(rig, 1, &server(0, ACK | PSH).at(S, 1001).payload(pasv));
    };
    let refused = |rig: &mut Rig, from, to| {
        let before = rig.drops(DropReason::NoService);
        connect(rig, 0, from, to, 0);
        rig.drops(DropReason::NoService) == before + 1
    };
    let mut director = rig(&spec(true), 1);
    announce(&mut director);
    assert!(refused(&mut director, 41_000, 50_001));
    assert!(!refused(&mut director, 41_000, 50_000));
    assert!(refused(&mut director, 41_001, 50_000), "taken once");
    let mut director = rig(&spec(true), 1);
    announce(&mut director);
    director.sleep_ms(61_000);
    assert!(refused(&mut director, 41_000, 50_000), "too late");
    // Without the setting nothing is read.
    let mut director = rig(&spec(false), 1);
    announce(&mut director);
    assert!(refused(&mut director, 41_000, 50_000));
    // A client that names another host's address.
    let mut director = rig(&spec(true), 1);
    control(&mut director, 0);
    pass(&mut director, 0, &client(0, ACK | PSH).at(1001, S).payload(b"PORT 10,1,0,2,164,16\r\n"));
    let syn = Segment::tcp("10.2.0.11:20", "10.1.0.2:42000", SYN);
    let (_, routed) = pass(&mut director, 1, &syn);
    assert_eq!(routed, syn, "routed as it is");
}
