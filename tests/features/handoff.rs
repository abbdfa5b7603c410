//! Packets that arrive on whatever worker, mixed at random into its bursts, come to the same as on a
//! single worker: the same frames, in order for each flow, the same records and the same counts.

use std::collections::BTreeMap;

use dataplane::flow::record::FlowRecord;
use dataplane::flow::table::FlowId;
use dataplane::sched::SchedulerKind;
use dataplane::snapshot::{ForwardingMode, Spec};
use dataplane::units::PortId;
use pollux_tests::rig::{FLOWS, Rig};

use super::fast::{Dice, flow, frame, mixed};
use super::world::*;

/// Workers have no say in which server a client gets, as each has its own round robin.
fn hashing(modes: &[ForwardingMode]) -> Spec {
    let mut spec = mixed(modes);
    spec.services.iter_mut().for_each(|s| s.scheduler = SchedulerKind::Sh);
    spec
}

/// Addresses and ports of a frame that is plain enough; of others, nothing.
fn flow_of(f: &[u8]) -> Vec<u8> {
    match f.get(12..15) {
        Some([8, 0, 0x45]) => f.get(23..24).into_iter().chain(f.get(26..38)).flatten().copied().collect(),
        Some([0x86, 0xdd, _]) => f.get(20..21).into_iter().chain(f.get(22..58)).flatten().copied().collect(),
        _ => Vec::new(),
    }
}

type ByFlow = BTreeMap<(usize, Vec<u8>), Vec<Vec<u8>>>;

/// What was sent, flow by flow in order. Each worker counts the identifications of what it makes itself.
fn by_flow(sent: Vec<(usize, Vec<u8>)>) -> ByFlow {
    let mut all = ByFlow::new();
    for (port, mut f) in sent {
        if f[12..14] == [8, 0] && matches!(f[23], 1 | 4) {
            f[18..20].fill(0);
            f[24..26].fill(0);
        }
        let of = match (f[12], f[20], f[23]) {
            (8, _, 4) => flow_of(&[&f[..14], &f[34..]].concat()),
            (0x86, 41, _) => flow_of(&[&f[..14], &f[54..]].concat()),
            _ => flow_of(&f),
        };
        all.entry((port, of)).or_default().push(f);
    }
    all
}

fn records(rig: &mut Rig) -> Vec<FlowRecord> {
    let mut all = Vec::new();
    for w in &mut rig.workers {
        let flows = &mut w.core().flows;
        all.extend((0..FLOWS).filter_map(|i| flows.try_get_mut(FlowId(i)).copied()));
    }
    all.sort_by_key(|r| (r.client.0, r.client_port.0, r.proto, r.vport.0));
    all
}

/// Sums over all workers: of each real server, and of each port.
fn counts(rig: &Rig) -> Vec<[u64; 5]> {
    let mut sums = Vec::new();
    for link in &rig.links {
        let c = &link.counters;
        let reals =
            c.reals().map(|r| [r.connections, r.in_packets, r.in_bytes, r.out_packets, r.out_bytes].map(|c| c.get()));
        let ports = [0, 1]
            .map(|n| c.port(PortId(n)))
            .map(|p| [p.rx_packets.get(), p.rx_bytes.get(), p.tx_packets.get(), p.tx_bytes.get(), 0]);
        let own: Vec<_> = reals.chain(ports).collect();
        sums.resize(own.len(), [0; 5]);
        for (sum, one) in sums.iter_mut().zip(own) {
            sum.iter_mut().zip(one).for_each(|(a, b)| *a += b);
        }
    }
    sums
}

/// One worker, and several with each flow's packets on a queue of its own, requests and replies on different ones.
struct Both {
    one: Rig,
    several: Rig,
    dice: Dice,
}

impl Both {
    fn push(&mut self, port: usize, queue: usize, f: &[u8]) {
        self.one.wire.push(port, 0, f);
        self.several.wire.push(port, queue, f);
    }
    /// Opens the flow; what its server sees of it.
    fn open(&mut self, segment: &Segment, nat: bool) -> Option<Segment> {
        let mut at_server = None;
        for flags in [SYN, ACK] {
            let f = Segment { flags, ..segment.clone() }.frame(CLI);
            let queue = self.dice.below(self.several.workers.len());
            let sent = self.one.send(0, &f);
            assert_eq!(by_flow(sent.clone()), by_flow(self.several.send_on(0, queue, &f)));
            if nat && flags == SYN {
                let seen = Segment::see(&sent[0].1);
                let f = seen.back(if seen.proto == 6 { SYN | ACK } else { 0 }).frame(SRV);
                let queue = self.dice.below(self.several.workers.len());
                assert_eq!(self.one.send(1, &f), self.several.send_on(1, queue, &f));
                at_server = Some(seen);
            }
        }
        at_server
    }
    /// Flow `n` sends some packets. Data that is not too short overtakes what else
    /// comes of the flow in the same burst, so it is either.
    fn talk(&mut self, (port, queue): (usize, usize), segment: &Segment) {
        let to = [CLI, SRV][port];
        if self.dice.below(8) == 0 {
            let f = frame(&mut self.dice, segment.clone(), to);
            // A bit that makes it another flow's, which comes on another queue, would be a race.
            if flow_of(&f) == flow_of(&segment.clone().frame(to)) {
                self.push(port, queue, &f);
            }
            return;
        }
        for n in 0..self.dice.below(8) {
            let payload = vec![n as u8; 12 + self.dice.below(100)];
            let f = Segment { flags: ACK, payload, ..segment.clone() }.frame(to);
            self.push(port, queue, &f);
        }
    }
    fn assert_same(&mut self) {
        self.one.sleep_ms(20);
        self.several.sleep_ms(20);
        let (a, b) = (by_flow(self.one.take()), by_flow(self.several.take()));
        for (of, frames) in &a {
            let at = (0..frames.len()).find(|i| b.get(of).and_then(|f| f.get(*i)) != Some(&frames[*i]));
            assert_eq!(at, None, "{of:?}: {} and {:?} frames", frames.len(), b.get(of).map(Vec::len));
        }
        assert_eq!(a.len(), b.len());
    }
}

fn same_on_one_and_on_several(modes: &[ForwardingMode], workers: usize, seed: u64) {
    let spec = hashing(modes);
    let mut both = Both { one: rig(&spec, 1), several: rig(&spec, workers), dice: Dice(seed | 1) };
    let nat = modes == [ForwardingMode::Nat];
    let mut ends = Vec::new();
    for n in 0..48 {
        // One of the two that come from one port: at a server they would look the same.
        let segment = flow(n / 4 * 8 + n % 4);
        let at_server = both.open(&segment, nat);
        ends.push((0, both.dice.below(workers), segment));
        if let Some(seen) = at_server {
            ends.push((1, both.dice.below(workers), seen.back(0)));
        }
    }
    for _ in 0..60 {
        for _ in 0..ends.len() {
            // Each at most once a round, in another order each time.
            let (a, b) = (both.dice.below(ends.len()), both.dice.below(ends.len()));
            ends.swap(a, b);
        }
        for (port, queue, segment) in &ends {
            both.talk((*port, *queue), segment);
        }
        both.assert_same();
    }
    let Both { mut one, mut several, .. } = both;
    assert_eq!(records(&mut one), records(&mut several));
    assert_eq!(counts(&one), counts(&several));
    assert_eq!(drops(&one), drops(&several));
    let sum = |get: fn(&dataplane::counters::WorkerCounters) -> u64| -> u64 {
        several.links.iter().map(|l| get(&l.counters.worker)).sum()
    };
    let handed = sum(|w| w.handed_off.get());
    assert!(handed > 2000, "only {handed} packets were handed over");
    assert_eq!(handed, sum(|w| w.taken_over.get()));
    assert_eq!(several.wire.live(), 0);
}

#[test]
fn it_comes_to_the_same_wherever_packets_arrive() {
    use ForwardingMode::{DirectRouting, Nat, Tunnel};
    for (n, modes) in [&[Nat][..], &[DirectRouting], &[Tunnel], &[Nat, DirectRouting, Tunnel]].iter().enumerate() {
        for workers in 2..5 {
            same_on_one_and_on_several(modes, workers, 1_000_003 * workers as u64 + n as u64);
        }
    }
}

#[test]
fn a_connection_that_opens_within_a_burst_is_handed_over_in_order() {
    let mut rig = rig(&world(ForwardingMode::DirectRouting, 2), 2);
    let ports = 40000..40020;
    for port in ports.clone() {
        for (n, flags) in [SYN, ACK, ACK].into_iter().enumerate() {
            let mut segment = Segment::tcp(&format!("10.1.0.1:{port}"), "10.9.0.1:80", flags);
            segment.payload = vec![n as u8; 10];
            rig.wire.push(0, 0, &segment.frame(CLI));
        }
    }
    rig.run();
    let sent = by_flow(rig.take());
    assert_eq!(drops(&rig), []);
    assert!((10..50).contains(&rig.links[0].counters.worker.handed_off.get()), "some are another's, and some are not");
    assert_eq!(sent.len(), ports.len());
    for frames in sent.values() {
        assert_eq!(frames.iter().map(|f| f[54]).collect::<Vec<_>>(), [0, 1, 2]);
    }
}
