//! Connections of a removed server, and ports that are used again.

use dataplane::counters::DropReason;
use dataplane::snapshot::{ForwardingMode, GonePolicy, Spec};
use dataplane::units::RealId;
use pollux_tests::rig::Rig;

use super::world::*;

const CLIENT: &str = "10.1.0.1:40000";
const VIP: &str = "10.9.0.1:80";

fn send(flags: u8) -> Segment {
    Segment::tcp(CLIENT, VIP, flags)
}

fn spec(mode: ForwardingMode, gone: GonePolicy) -> Spec {
    let mut spec = world(mode, 2);
    spec.settings.gone = gone;
    spec.settings.full_nat.addresses = vec![ip("10.2.0.200")];
    spec
}

/// A connection through a server that is then removed; and which one it was.
fn removed(mode: ForwardingMode, gone: GonePolicy) -> (Rig, Segment) {
    let mut spec = spec(mode, gone);
    let mut rig = rig(&spec, 1);
    let (_, at_server) = pass(&mut rig, 0, &send(SYN));
    pass(&mut rig, 1, &at_server.back(SYN | ACK));
    pass(&mut rig, 0, &send(ACK));
    let ip = at_server.dst.0;
    spec.generation = 2;
    for r in spec.reals.iter_mut().filter(|r| r.addr == ip.into()) {
        r.available = false;
        spec.services.iter_mut().for_each(|s| s.reals.retain(|id| *id != r.id));
    }
    rig.publish(&spec);
    rig.run();
    (rig, at_server)
}

const MODES: [ForwardingMode; 2] = [ForwardingMode::Nat, ForwardingMode::FullNat];

#[test]
fn by_default_the_client_of_a_removed_server_hears_nothing_and_the_server_is_still_heard() {
    for mode in MODES {
        let (mut rig, at_server) = removed(mode, GonePolicy::Drop);
        for flags in [ACK, FIN | ACK] {
            assert!(rig.send(0, &send(flags).frame(CLI)).is_empty());
        }
        assert_eq!(rig.drops(DropReason::RealServerGone), 2);
        assert_eq!(pass(&mut rig, 1, &at_server.back(ACK)).1, send(0).back(ACK));
    }
}

#[test]
fn the_ports_of_a_removed_server_s_connection_can_be_used_again_at_once() {
    for mode in MODES {
        let (mut rig, at_server) = removed(mode, GonePolicy::Drop);
        let (_, again) = pass(&mut rig, 0, &send(SYN));
        assert_ne!(again.dst, at_server.dst);
        assert_eq!(pass(&mut rig, 1, &again.back(SYN | ACK)).1.flags, SYN | ACK);
        assert_eq!(rig.workers[0].core().flows.len(), 1);
    }
}

#[test]
fn as_in_the_kernel_a_syn_waits_for_the_end_of_a_removed_server_s_connection() {
    for mode in MODES {
        let (mut rig, _) = removed(mode, GonePolicy::Kernel);
        assert!(rig.send(0, &send(SYN).frame(CLI)).is_empty());
        assert_eq!(rig.drops(DropReason::RealServerGone), 1);
    }
}

#[test]
fn a_reset_tells_the_client_and_its_next_connection_goes_on_at_once() {
    for mode in MODES {
        let (mut rig, at_server) = removed(mode, GonePolicy::Reset);
        let out = rig.send(0, &send(ACK).frame(CLI));
        assert_eq!((out.len(), out[0].0, out[0].1[14 + 20 + 13] & RST), (1, 0, RST));
        assert_eq!(rig.workers[0].core().flows.len(), 0);
        assert_eq!(rig.workers[0].core().extensions.len(), 0);
        let (_, again) = pass(&mut rig, 0, &send(SYN));
        assert_ne!(again.dst, at_server.dst);
    }
}

#[test]
fn with_reset_a_syn_goes_straight_to_another_server() {
    let (mut rig, at_server) = removed(ForwardingMode::Nat, GonePolicy::Reset);
    let (_, again) = pass(&mut rig, 0, &send(SYN));
    assert_ne!(again.dst, at_server.dst);
}

#[test]
fn a_rescheduled_packet_reaches_another_server_at_once() {
    for mode in MODES {
        let (mut rig, at_server) = removed(mode, GonePolicy::Reschedule);
        let (_, again) = pass(&mut rig, 0, &send(ACK).payload(b"on"));
        assert_ne!(again.dst, at_server.dst);
        assert_eq!(rig.workers[0].core().flows.len(), 1);
    }
}

#[test]
fn ports_used_again_after_a_close_get_a_new_choice_and_a_new_local_port() {
    for mode in MODES {
        for (reuse, same) in [(0, true), (1, false)] {
            let mut spec = spec(mode, GonePolicy::Drop);
            spec.settings.conn_reuse_mode = reuse;
            let mut rig = rig(&spec, 1);
            let (_, at_server) = pass(&mut rig, 0, &send(SYN));
            pass(&mut rig, 1, &at_server.back(SYN | ACK));
            pass(&mut rig, 0, &send(ACK));
            pass(&mut rig, 1, &at_server.back(FIN | ACK));
            pass(&mut rig, 0, &send(FIN | ACK));
            let (_, again) = pass(&mut rig, 0, &send(SYN).at(77, 0));
            assert_eq!(again.dst == at_server.dst, same, "{mode:?} with mode {reuse}");
            assert_eq!(again.src == at_server.src, same || mode == ForwardingMode::Nat);
            assert_eq!(rig.workers[0].core().flows.len(), 1);
        }
    }
}

#[test]
fn ports_used_again_do_not_lead_to_a_drained_server() {
    let mut spec = spec(ForwardingMode::Nat, GonePolicy::Reset);
    let mut rig = rig(&spec, 1);
    let (_, at_server) = pass(&mut rig, 0, &send(SYN));
    let drained = spec.reals.iter_mut().find(|r| r.addr == at_server.dst.0.into()).unwrap();
    drained.weight = 0;
    assert_ne!(drained.id, RealId::NONE);
    spec.generation = 2;
    rig.publish(&spec);
    rig.run();
    let (_, again) = pass(&mut rig, 0, &send(SYN).at(77, 0));
    assert_ne!(again.dst, at_server.dst);
}
