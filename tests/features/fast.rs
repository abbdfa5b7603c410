//! The fast stage comes to the same as the general ones: two directors, one without it, are
//! sent the same bursts of good, odd and broken packets.

use dataplane::flow::record::FlowRecord;
use dataplane::flow::table::FlowId;
use dataplane::snapshot::{ForwardingMode, Match, Spec};
use dataplane::units::{RealId, ServiceId};
use pollux_tests::packet::fold;
use pollux_tests::rig::{FLOWS, Rig};

use super::world::*;

/// Numbers that look random and are the same each time (xorshift).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }
}

/// TCP and UDP over both families, to ports 80 and 81; the servers take turns with `modes`.
pub fn mixed(modes: &[ForwardingMode]) -> Spec {
    let mut spec = world(modes[0], 3);
    for mut udp in spec.services.clone() {
        if let Match::Address { protocol, .. } = &mut udp.matches {
            *protocol = 17;
        }
        udp.id = ServiceId(udp.id.0 + 2);
        udp.reals = udp.reals.iter().map(|r| RealId(r.0 + 200)).collect();
        spec.services.push(udp);
    }
    for mut real in spec.reals.clone() {
        (real.id, real.service) = (RealId(real.id.0 + 200), ServiceId(real.service.0 + 2));
        spec.reals.push(real);
    }
    for mut other in spec.services.clone() {
        if let Match::Address { port, .. } = &mut other.matches {
            *port = 81;
        }
        other.id = ServiceId(other.id.0 + 4);
        // In another order, so that a client's two connections have different servers.
        other.reals = other.reals.iter().rev().map(|r| RealId(r.0 + 400)).collect();
        spec.services.push(other);
    }
    for mut real in spec.reals.clone() {
        (real.id, real.service) = (RealId(real.id.0 + 400), ServiceId(real.service.0 + 4));
        spec.reals.push(real);
    }
    for real in &mut spec.reals {
        real.mode = modes[real.id.0 as usize % modes.len()];
    }
    // An established flow's data overtakes what else came of the flow in the same burst. That a
    // connection is opened anew, and with which server, may hang on it.
    spec.settings.conn_reuse_mode = 0;
    spec
}

/// Two flows each come from the same port of a client: they have the same hash, and the first guess is
/// wrong for one of them.
pub fn flow(n: usize) -> Segment {
    let (port, to) = (40000 + n / 8 * 4 + n % 4, 80 + n / 4 % 2);
    match n % 4 {
        0 => Segment::tcp(&format!("10.1.0.1:{port}"), &format!("10.9.0.1:{to}"), ACK),
        1 => Segment::tcp(&format!("[2001:db8:1::1]:{port}"), &format!("[2001:db8:9::1]:{to}"), ACK),
        2 => Segment::udp(&format!("10.1.0.2:{port}"), &format!("10.9.0.1:{to}")),
        _ => Segment::udp(&format!("[2001:db8:1::2]:{port}"), &format!("[2001:db8:9::1]:{to}")),
    }
}

/// A frame of this flow for the station `to`: usually data, sometimes something else.
pub fn frame(dice: &mut Dice, mut segment: Segment, to: [u8; 6]) -> Vec<u8> {
    segment.flags = [ACK, ACK, ACK, ACK | PSH, ACK | PSH, ACK, ACK, ACK, FIN | ACK, RST, SYN, 0][dice.below(12)];
    segment.payload = vec![dice.below(256) as u8; [0, 7, 100, 1440][dice.below(4)]];
    let mut f = segment.frame(to);
    match dice.below(16) {
        0 => {
            let at = dice.below(f.len().min(80));
            f[at] ^= 1 << dice.below(8);
        }
        1 if f[14] >> 4 == 4 => {
            f[22] = dice.below(3) as u8;
            f[24..26].fill(0);
            let sum = fold(&f[14..34]).to_be_bytes();
            f[24..26].copy_from_slice(&sum);
        }
        1 => f[21] = dice.below(3) as u8,
        2 => f.truncate(dice.below(f.len())),
        3 if f.len() < 60 => f.resize(60, 0),
        4 if f[14] >> 4 == 4 && segment.proto == 17 => f[40..42].fill(0),
        _ => {}
    }
    f
}

/// All live records, in the order of their keys.
fn records(rig: &mut Rig) -> Vec<FlowRecord> {
    let flows = &mut rig.workers[0].core().flows;
    let mut all: Vec<_> = (0..FLOWS).filter_map(|i| flows.try_get_mut(FlowId(i)).copied()).collect();
    all.sort_by_key(|r| (r.client.0, r.client_port.0, r.proto));
    all
}

fn traffic(rig: &Rig) -> Vec<[u64; 5]> {
    let c = &rig.links[0].counters;
    let one = |r: dataplane::counters::RealCounters<'_>| {
        [r.connections, r.in_packets, r.in_bytes, r.out_packets, r.out_bytes].map(|c| c.get())
    };
    c.reals().map(one).collect()
}

/// The order between flows does not matter; the first difference is shown.
fn assert_same(mut a: Vec<(usize, Vec<u8>)>, mut b: Vec<(usize, Vec<u8>)>, round: usize) {
    a.sort();
    b.sort();
    let head = |f: Option<&(usize, Vec<u8>)>| f.map(|(port, f)| (*port, f.len(), f[..f.len().min(80)].to_vec()));
    let at = (0..a.len().max(b.len())).find(|i| a.get(*i) != b.get(*i));
    assert_eq!(at.map(|i| head(a.get(i))), at.map(|i| head(b.get(i))), "round {round}");
}

fn same_with_and_without(modes: &[ForwardingMode], seed: u64, lowers_ttl: bool) {
    let mut spec = mixed(modes);
    spec.settings.dr_decrement_ttl = lowers_ttl;
    let (mut with, mut without) = (rig(&spec, 1), rig(&spec, 1));
    without.workers[0].without_fast_stage();
    let mut dice = Dice(seed | 1);
    let flows = 24;
    let mut at_servers = Vec::new();
    for n in 0..flows {
        for flags in [SYN, ACK] {
            let f = Segment { flags, ..flow(n) }.frame(CLI);
            let sent = with.send(0, &f);
            assert_eq!(sent, without.send(0, &f));
            // The answers in between: without them NAT's connections are not established.
            if let Some((1, seen)) = sent.first().filter(|_| flags == SYN && modes == [ForwardingMode::Nat]) {
                let seen = Segment::see(seen);
                let f = seen.back(if seen.proto == 6 { SYN | ACK } else { 0 }).frame(SRV);
                assert_eq!(with.send(1, &f), without.send(1, &f));
                at_servers.push(seen);
            }
        }
    }
    let before = with.links[0].counters.port(dataplane::units::PortId(1)).tx_packets.get();
    let answered = with.links[0].counters.port(dataplane::units::PortId(0)).tx_packets.get();
    for round in 0..200 {
        for _ in 0..=dice.below(100) {
            let n = dice.below(2 * flows);
            let (port, f) = match at_servers.get(n) {
                Some(seen) => (1, frame(&mut dice, seen.back(0), SRV)),
                None => (0, frame(&mut dice, flow(n), CLI)),
            };
            with.wire.push(port, 0, &f);
            without.wire.push(port, 0, &f);
        }
        with.sleep_ms(20);
        without.sleep_ms(20);
        assert_same(with.take(), without.take(), round);
    }
    let sent = with.links[0].counters.port(dataplane::units::PortId(1)).tx_packets.get() - before;
    assert!(sent > 1000, "only {sent} packets were forwarded");
    let back = with.links[0].counters.port(dataplane::units::PortId(0)).tx_packets.get() - answered;
    assert!(at_servers.is_empty() || back > 1000, "only {back} packets came back");
    assert_eq!(records(&mut with), records(&mut without));
    assert_eq!(traffic(&with), traffic(&without));
    assert_eq!(drops(&with), drops(&without));
}

#[test]
fn it_comes_to_the_same_as_the_general_stages() {
    use ForwardingMode::{DirectRouting, Nat, Tunnel};
    for (n, modes) in [&[Nat][..], &[DirectRouting], &[Tunnel], &[Nat, DirectRouting, Tunnel]].iter().enumerate() {
        for seed in 1..6 {
            same_with_and_without(modes, seed * 1_000_003 + n as u64, seed % 2 == 1);
        }
    }
}

/// The TTL that a client's packet has at its server, with the fast stage and without.
fn ttl_at_server(lowers_ttl: bool, fast: bool) -> Vec<u8> {
    let mut spec = world(ForwardingMode::DirectRouting, 1);
    spec.settings.dr_decrement_ttl = lowers_ttl;
    let mut rig = rig(&spec, 1);
    if !fast {
        rig.workers[0].without_fast_stage();
    }
    let six = ("[2001:db8:1::1]:40000", "[2001:db8:9::1]:80");
    let mut ttls = Vec::new();
    for (client, vip) in [("10.1.0.1:40000", "10.9.0.1:80"), six] {
        for flags in [SYN, ACK] {
            let out = rig.send(0, &Segment::tcp(client, vip, flags).frame(CLI));
            let f = &out[0].1;
            ttls.push(if f[14] >> 4 == 4 { f[22] } else { f[21] });
        }
    }
    ttls
}

#[test]
fn direct_routing_lowers_the_ttl_unless_told_not_to() {
    for fast in [true, false] {
        assert_eq!(ttl_at_server(true, fast), [63; 4]);
        assert_eq!(ttl_at_server(false, fast), [64; 4]);
    }
}

#[test]
fn now_and_then_a_poll_is_timed_by_stage() {
    let mut rig = rig(&world(ForwardingMode::Nat, 2), 1);
    let mut segment = Segment::tcp("10.1.0.1:40000", "10.9.0.1:80", SYN);
    rig.send(0, &segment.frame(CLI));
    segment.flags = ACK;
    for _ in 0..2048 {
        rig.send(0, &segment.frame(CLI));
    }
    let w = &rig.links[0].counters.worker;
    // The first poll with packets, and two more.
    assert_eq!(w.sampled_packets.get(), 3);
    for stage in [&w.cycles_receive, &w.cycles_fast, &w.cycles_general, &w.cycles_housekeeping, &w.cycles_send] {
        assert!(stage.get() > 0);
    }
}
