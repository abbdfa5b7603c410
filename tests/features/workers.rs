//! What several workers must agree on.

use std::collections::HashSet;

use dataplane::counters::DropReason;
use dataplane::snapshot::{ForwardingMode, Persistence, Spec};
use dataplane::units::RealId;
use pollux_tests::rig::Rig;

use super::world::*;

const VIP: &str = "10.9.0.1:80";

fn persistent() -> Spec {
    let mut spec = world(ForwardingMode::Nat, 8);
    spec.services[0].persistence = Some(Persistence { timeout_ms: 300_000, prefix_len: 24 });
    spec
}

/// A rig whose workers are at different places of their round robin.
fn uneven(spec: &Spec, workers: usize) -> Rig {
    let mut rig = rig(spec, workers);
    for n in 0..23 {
        pass(&mut rig, 0, &Segment::tcp(&format!("10.7.{n}.7:1000"), VIP, SYN));
    }
    let places: HashSet<u32> = spread(&mut rig).into_iter().collect();
    assert!(places.len() > 1, "{places:?}");
    rig
}

/// The servers that connections from these ports of a client reach.
fn servers(rig: &mut Rig, client: &str, ports: std::ops::Range<u16>) -> HashSet<std::net::IpAddr> {
    ports.map(|p| pass(rig, 0, &Segment::tcp(&format!("{client}:{p}"), VIP, SYN)).1.dst.0).collect()
}

/// How many flows each worker has.
fn spread(rig: &mut Rig) -> Vec<u32> {
    rig.workers.iter_mut().map(|w| w.core().flows.len()).collect()
}

#[test]
fn a_persistent_client_meets_one_server_whichever_worker_opens_the_flow() {
    let mut rig = uneven(&persistent(), 4);
    let mut first = HashSet::new();
    for n in 0..16 {
        let met = servers(&mut rig, &format!("10.1.{n}.7"), 1000..1040);
        assert_eq!(met.len(), 1, "client {n}: {met:?}");
        first.extend(met);
    }
    assert!(first.len() > 4, "the clients are spread over the servers: {first:?}");
    assert!(spread(&mut rig).iter().all(|n| *n > 100), "and their flows over the workers: {:?}", spread(&mut rig));
}

#[test]
fn a_persistent_client_of_a_removed_server_moves_to_one_other_and_stays() {
    let mut spec = persistent();
    let mut rig = uneven(&spec, 4);
    let before = servers(&mut rig, "10.1.0.7", 1000..1040);
    let old = before.iter().next().copied().unwrap();
    let real = spec.reals.iter_mut().find(|r| r.addr == old.into()).unwrap();
    real.available = false;
    let id = real.id;
    let list = spec.services[0].reals.clone();
    spec.services[0].reals.retain(|r| *r != id);
    spec.generation = 2;
    rig.publish(&spec);
    rig.run();
    let after = servers(&mut rig, "10.1.0.7", 2000..2040);
    assert_eq!(after.len(), 1);
    assert!(!after.contains(&old));
    // Workers that have not seen the client since still have a template for the old server.
    let real = spec.reals.iter_mut().find(|r| r.id == id).unwrap();
    real.available = true;
    spec.services[0].reals = list;
    spec.generation = 3;
    rig.publish(&spec);
    rig.run();
    assert_eq!(servers(&mut rig, "10.1.0.8", 3000..3040), after, "the same network, so the same client");
}

#[test]
fn a_client_without_flows_is_forgotten_by_all_workers() {
    let mut spec = persistent();
    spec.services[0].persistence = Some(Persistence { timeout_ms: 30_000, prefix_len: 32 });
    let mut rig = uneven(&spec, 2);
    let mut met = HashSet::new();
    for round in 0..6 {
        let now = servers(&mut rig, "10.1.0.7", 1000 + 100 * round..1020 + 100 * round);
        assert_eq!(now.len(), 1);
        met.extend(now);
        rig.sleep_ms(300_000);
        assert_eq!(spread(&mut rig), [0, 0]);
    }
    assert!(met.len() > 1, "round robin went on");
}

#[test]
fn a_persistent_client_keeps_its_server_while_any_worker_has_a_flow() {
    let mut spec = persistent();
    spec.services[0].persistence = Some(Persistence { timeout_ms: 10_000, prefix_len: 32 });
    let mut rig = uneven(&spec, 2);
    let (_, at_server) = pass(&mut rig, 0, &Segment::tcp("10.1.0.7:1000", VIP, SYN));
    pass(&mut rig, 1, &at_server.back(SYN | ACK));
    for _ in 0..6 {
        pass(&mut rig, 0, &Segment::tcp("10.1.0.7:1000", VIP, ACK));
        rig.sleep_ms(100_000);
    }
    assert_eq!(servers(&mut rig, "10.1.0.7", 2000..2040), HashSet::from([at_server.dst.0]));
}

#[test]
fn a_threshold_holds_over_all_workers_within_one_burst() {
    let mut spec = world(ForwardingMode::Nat, 2);
    spec.reals.iter_mut().filter(|r| r.id < RealId(2)).for_each(|r| r.upper = 5);
    let mut rig = rig(&spec, 4);
    // All at once, so that no worker has looked at another's counts in between.
    for port in 1000..1100 {
        let frame = Segment::tcp(&format!("10.1.0.7:{port}"), VIP, SYN).frame(CLI);
        rig.wire.push(0, 0, &frame);
    }
    rig.run();
    let mut at = [0; 2];
    for (_, frame) in rig.take().iter().filter(|(port, _)| *port == 1) {
        let to = Segment::see(frame).dst.0;
        at[usize::from(to == "10.2.0.12".parse::<std::net::IpAddr>().unwrap())] += 1;
    }
    assert!(at.iter().all(|n| (2..=5).contains(n)), "{at:?}");
    assert_eq!(rig.drops(DropReason::NoRealServer) + at[0] + at[1], 100);
    assert!(spread(&mut rig).iter().sum::<u32>() as u64 == at[0] + at[1]);
}
