//! A flood of SYNs against a small flow table.

use dataplane::counters::DropReason;
use dataplane::snapshot::{ForwardingMode, Settings};
use pollux_tests::rig::Rig;

use super::world::*;

const VIP: &str = "10.9.0.1:80";

fn small(settings: Settings) -> Rig {
    let mut spec = world(ForwardingMode::Nat, 2);
    spec.settings = settings;
    let mut rig = Rig::with_flows(1, 1000);
    rig.publish(&spec);
    rig.run();
    rig
}

fn flood(rig: &mut Rig, from: u16, n: u16) {
    for port in from..from + n {
        rig.send(0, &Segment::tcp(&format!("10.1.0.9:{port}"), VIP, SYN).frame(CLI));
    }
}

fn counter(rig: &Rig, name: &str) -> u64 {
    rig.links[0].counters.worker.each().iter().find(|(n, _)| *n == name).expect(name).1
}

#[test]
fn half_open_flows_go_and_established_ones_stay() {
    let mut rig = small(Settings { drop_entry: 1, ..Settings::default() });
    for n in 0..50 {
        let syn = Segment::tcp(&format!("10.1.0.1:{}", 1000 + n), VIP, SYN);
        let (_, at_server) = pass(&mut rig, 0, &syn);
        pass(&mut rig, 1, &at_server.back(SYN | ACK));
        pass(&mut rig, 0, &Segment::tcp(&format!("10.1.0.1:{}", 1000 + n), VIP, ACK));
    }
    flood(&mut rig, 10_000, 800);
    rig.sleep_ms(5_000);
    assert_eq!(counter(&rig, "flows_dropped"), 0, "there is room enough");
    flood(&mut rig, 11_000, 140);
    assert_eq!(counter(&rig, "defence_drop_entry"), 1);
    rig.sleep_ms(8_000);
    let dropped = counter(&rig, "flows_dropped");
    assert!((80..=250).contains(&dropped), "{dropped} half-open flows were evicted");
    assert_eq!(counter(&rig, "defence_drop_entry"), 0, "and then there was room again");
    assert_eq!(rig.workers[0].core().flows.len() as u64, 990 - dropped);
    for n in 0..50 {
        pass(&mut rig, 0, &Segment::tcp(&format!("10.1.0.1:{}", 1000 + n), VIP, ACK));
    }
}

#[test]
fn packets_that_open_flows_are_dropped_when_the_table_fills() {
    let mut rig = small(Settings { drop_packet: 2, ..Settings::default() });
    flood(&mut rig, 10_000, 890);
    assert_eq!(rig.drops(DropReason::Overload), 0);
    flood(&mut rig, 12_000, 500);
    let (dropped, flows) = (rig.drops(DropReason::Overload), rig.workers[0].core().flows.len());
    assert!(dropped > 200 && flows > 950, "{dropped} dropped with {flows} flows");
    // Not those of flows that are there.
    pass(&mut rig, 0, &Segment::tcp("10.1.0.9:10000", VIP, SYN));
}

#[test]
fn the_stricter_states_shorten_what_is_half_open() {
    let mut rig = small(Settings { secure_tcp: 3, secure_half_open_ms: 10_000, ..Settings::default() });
    flood(&mut rig, 10_000, 20);
    rig.sleep_ms(12_000);
    assert_eq!(rig.workers[0].core().flows.len(), 0);
}

#[test]
fn a_defence_that_is_switched_off_ends_at_once() {
    let mut rig = small(Settings { secure_tcp: 3, drop_packet: 3, ..Settings::default() });
    assert_eq!((counter(&rig, "defence_secure_tcp"), counter(&rig, "defence_drop_packet")), (1, 1));
    let mut spec = world(ForwardingMode::Nat, 2);
    spec.generation = 2;
    rig.publish(&spec);
    rig.run();
    assert_eq!((counter(&rig, "defence_secure_tcp"), counter(&rig, "defence_drop_packet")), (0, 0));
    flood(&mut rig, 10_000, 100);
    assert_eq!(rig.drops(DropReason::Overload), 0);
}
