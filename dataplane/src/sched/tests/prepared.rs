//! Lists that are taken in by slices before their snapshot is adopted come to the same as lists
//! that are taken in at once.

use super::*;
use crate::sched::twos::Random;
use crate::snapshot::{Match, RealSpec, ServiceSpec, Snapshot, Spec, Tunnel};
use crate::units::NextHopId;

const ROOM: usize = 2048;

impl Random {
    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 11) as usize % n
    }
}

/// A director's schedulers, their counts, and the flows that are open.
struct Side {
    core: SchedCore,
    counts: CoreCounts,
    open: Vec<RealId>,
}

impl Side {
    fn new() -> Self {
        let mut core = SchedCore::new(8, ROOM);
        core.random = Random::new(7);
        Self { core, counts: CoreCounts::new(ROOM), open: Vec::new() }
    }
    fn flow(&mut self, snapshot: &Snapshot, n: usize) -> Option<RealId> {
        let key = SchedKey {
            client: Ip::from_v4((0x0a01_0000 + n as u32).to_be_bytes()),
            client_port: Be16::new(n as u16),
            vip: Ip::from_v4([10, 9, 0, (n % 16) as u8]),
            vport: Be16::new(80),
        };
        let sched = &snapshot.service(SERVICE)?.sched;
        let id = self.core.choose(SERVICE, sched, &self.counts, &key, Tick(n as u32))?;
        self.core.opened(&self.counts, id, !n.is_multiple_of(3));
        self.open.push(id);
        Some(id)
    }
    fn end(&mut self, at: usize, active: bool) {
        if !self.open.is_empty() {
            let id = self.open.swap_remove(at % self.open.len());
            self.core.turned(&self.counts, id, !active);
            self.core.turned(&self.counts, id, active);
            self.core.closed(&self.counts, id, active);
        }
    }
}

fn snapshot(kind: SchedulerKind, generation: u64, list: &[(RealId, u32)]) -> Snapshot {
    let real = |(id, weight): &(RealId, u32)| RealSpec {
        id: *id,
        service: SERVICE,
        addr: Ip::from_v4((0x0a02_0000 + id.0).to_be_bytes()),
        port: 80,
        mode: ForwardingMode::DirectRouting,
        tunnel: Tunnel::Ipip,
        weight: *weight,
        last_weight: *weight,
        upper: 9,
        lower: 0,
        next_hop: NextHopId(0),
        source: Ip::UNSPECIFIED,
        path_mtu: 0,
        available: true,
        predecessor: RealId::NONE,
    };
    let service = ServiceSpec {
        id: SERVICE,
        matches: Match::Address { protocol: 6, vip: Ip::from_v4([10, 9, 0, 1]), port: 80 },
        scheduler: kind,
        sched_flags: 0,
        persistence: None,
        one_packet: false,
        extras: Default::default(),
        reals: list.iter().map(|(id, _)| *id).collect(),
    };
    let reals = list.iter().map(real).collect();
    Snapshot::compile(&Spec { generation, services: vec![service], reals, ..Spec::default() })
}

/// Some servers go, some get another weight, some come at the head; now and then everything changes.
fn edit(dice: &mut Random, list: &mut Vec<(RealId, u32)>) {
    match dice.below(5) {
        0 => list.retain(|_| dice.below(9) > 0),
        1 => list.iter_mut().for_each(|(_, w)| *w = dice.below(5) as u32),
        2 => drop(list.split_off(list.len() / 3)),
        _ => {}
    }
    for _ in 0..dice.below(4) {
        if !list.is_empty() {
            let at = dice.below(list.len());
            if dice.below(2) == 0 {
                list.remove(at);
            } else {
                list[at].1 = dice.below(5) as u32;
            }
        }
    }
    for _ in 0..[1, 3, 400][dice.below(3)] {
        let id = RealId(dice.below(ROOM) as u32);
        if list.iter().all(|(known, _)| *known != id) {
            list.insert(0, (id, 1 + dice.below(4) as u32));
        }
    }
}

fn same_as_at_once(kind: SchedulerKind, seed: u64) {
    let mut dice = Random::new(seed);
    let (mut sliced, mut at_once) = (Side::new(), Side::new());
    let mut list = Vec::new();
    let (mut slices, mut n) = (0, 0);
    let mut now = snapshot(kind, 0, &list);
    for generation in 1..40 {
        edit(&mut dice, &mut list);
        let next = snapshot(kind, generation, &list);
        // wrr's rotation is led over to the new list when its building begins.
        let busy = kind != SchedulerKind::Wrr;
        while !sliced.core.prepare(&next, &sliced.counts) {
            slices += 1;
            for _ in 0..dice.below(8) {
                let (at, active) = (dice.below(1000), dice.below(2) == 0);
                n += 1;
                if busy {
                    assert_eq!(sliced.flow(&now, n), at_once.flow(&now, n), "{kind} while it is built");
                }
                sliced.end(at, active);
                at_once.end(at, active);
            }
        }
        now = next;
        sliced.core.adopt();
        for step in 0..60 {
            if step % 7 == 1 && !sliced.core.is_tidy() {
                sliced.core.tidy(&now);
            }
            n += 1;
            assert_eq!(sliced.flow(&now, n), at_once.flow(&now, n), "{kind}, generation {generation}, flow {step}");
            let (at, active) = (dice.below(1000), dice.below(2) == 0);
            if dice.below(3) > 0 {
                sliced.end(at, active);
                at_once.end(at, active);
            }
        }
        while !sliced.core.is_tidy() {
            sliced.core.tidy(&now);
        }
    }
    assert!(slices > 20, "{kind}: only {slices} slices");
}

#[test]
fn a_list_taken_in_by_slices_serves_as_one_taken_in_at_once() {
    for kind in SchedulerKind::ALL {
        for seed in 1..5 {
            same_as_at_once(kind, seed * 7_000_003);
        }
    }
}

/// Once its slices are done the first choice finds everything ready.
#[test]
fn a_prepared_list_is_not_built_at_the_first_choice() {
    let list: Vec<_> = (0..1000).map(|n| (RealId(n), 1)).collect();
    let mut side = Side::new();
    let mut begun = Vec::new();
    for (generation, list) in [&list[..], &list[1..], &list[..999]].into_iter().enumerate() {
        let next = snapshot(SchedulerKind::Wlc, generation as u64, list);
        while !side.core.prepare(&next, &side.counts) {}
        side.core.adopt();
        assert!(side.flow(&next, generation).is_some());
        begun.push(side.core.services[SERVICE.index()].begun);
        while !side.core.is_tidy() {
            side.core.tidy(&next);
        }
    }
    assert_eq!(begun, [1, 2, 3]);
}
