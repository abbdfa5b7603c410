//! A director with a generator port: its configuration, and flows opened in it.

use std::sync::Arc;
use std::time::Instant;

use dataplane::flow::hash::Secret;
use dataplane::flow::table::FlowTable;
use dataplane::link::WorkerLink;
use dataplane::sched::{SchedCore, SchedulerKind};
use dataplane::snapshot::*;
use dataplane::units::*;
use dataplane::worker::{Relays, Rings, Setup, Worker};

use super::port::{GenBuf, GenIo};
use super::traffic::{ACK, MAC, Order, REAL, RPORT, Rounds, SYN, Sequence, Stamp, Traffic, VIP, VPORT, Way};

/// What is configured.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How packets reach the real servers.
    pub mode: ForwardingMode,
    /// IPv6 instead of IPv4.
    pub six: bool,
    /// Services, each with a VIP of its own.
    pub services: u32,
    /// Real servers of each.
    pub reals: u32,
    /// How they are chosen.
    pub scheduler: SchedulerKind,
}

impl Shape {
    /// One service with four servers.
    pub fn small(mode: ForwardingMode, six: bool) -> Self {
        Self { mode, six, services: 1, reals: 4, scheduler: SchedulerKind::Wlc }
    }
}

fn ip(six: bool, kind: u8, n: u32) -> Ip {
    let [a, b, c, d] = n.to_be_bytes();
    if six { Ip([0x20, 0x01, 0x0d, 0xb8, 0, kind, 0, 0, 0, 0, 0, 0, a, b, c, d]) } else { Ip::from_v4([a, b, c, d]) }
}

/// Full NAT's local addresses: room for a million flows to one server.
const LOCAL: u32 = 64;

/// The configuration, as control describes it.
pub fn spec(shape: &Shape) -> Spec {
    let Shape { mode, six, services, reals, scheduler } = *shape;
    let own = (ip(six, 2, 0x0aff_fffe), if six { 64 } else { 9 });
    let mut spec = Spec {
        generation: 1,
        interfaces: vec![InterfaceSpec { port: PortId(0), vlan: None, mac: Mac(MAC), mtu: 1500, addresses: vec![own] }],
        vips: (0..services).map(|n| (ip(six, 9, VIP + n), if six { 128 } else { 32 })).collect(),
        ..Spec::default()
    };
    for n in 0..services * reals {
        let addr = ip(six, 2, REAL + n);
        let [_, b, c, d] = n.to_be_bytes();
        spec.next_hops.push(NextHopSpec {
            id: NextHopId(n),
            iface: IfaceId(0),
            ip: addr,
            mac: Some(Mac([2, 0, 2, b, c, d])),
        });
        spec.reals.push(RealSpec {
            id: RealId(n),
            service: ServiceId(n / reals),
            addr,
            port: if matches!(mode, ForwardingMode::Nat | ForwardingMode::FullNat) { RPORT } else { VPORT },
            mode,
            tunnel: Tunnel::Ipip,
            weight: 1,
            last_weight: 1,
            upper: 0,
            lower: 0,
            next_hop: NextHopId(n),
            source: own.0,
            path_mtu: 0,
            available: true,
            predecessor: RealId::NONE,
        });
    }
    if mode == ForwardingMode::FullNat {
        spec.settings.full_nat.addresses = (0..LOCAL).map(|n| ip(six, 2, 0x0ac0_0000 + n)).collect();
    }
    // Clients are behind a router.
    let gateway = NextHopId(services * reals);
    spec.next_hops.push(NextHopSpec {
        id: gateway,
        iface: IfaceId(0),
        ip: ip(six, 2, 0x0aff_fffd),
        mac: Some(Mac([2, 0, 9, 9, 9, 9])),
    });
    spec.routes.push(RouteSpec { network: ip(six, 0, 0).masked(0), prefix_len: 0, gateway });
    spec.services = (0..services)
        .map(|n| ServiceSpec {
            id: ServiceId(n),
            matches: Match::Address { protocol: 6, vip: ip(six, 9, VIP + n), port: VPORT },
            scheduler,
            sched_flags: 0,
            persistence: None,
            one_packet: false,
            extras: Default::default(),
            reals: (n * reals..(n + 1) * reals).map(RealId).collect(),
        })
        .collect();
    spec
}

/// A worker, its link, and the time it goes by.
pub struct Director {
    /// The worker.
    pub worker: Worker<GenIo>,
    /// Its link.
    pub link: Arc<WorkerLink>,
    clock: Clock,
}

/// Milliseconds, read now and then: a reading costs as much as a packet.
struct Clock {
    epoch: Instant,
    polls: u32,
    now: Tick,
    /// Time stands still.
    held: bool,
}

impl Clock {
    #[inline]
    fn tick(&mut self) -> Tick {
        self.polls = self.polls.wrapping_add(1);
        if self.polls & 31 == 0 && !self.held {
            self.now = Tick(self.epoch.elapsed().as_millis() as u32);
        }
        self.now
    }
}

/// Workers of one director, with room for so many flows each, and no traffic yet.
pub fn directors(shape: &Shape, workers: u16, capacity: u32) -> Vec<Director> {
    let snapshot = Arc::new(Snapshot::compile(&spec(shape)));
    let reals = (shape.services * shape.reals) as usize;
    let links: Vec<_> = (0..workers).map(|_| WorkerLink::new(reals, 1)).collect();
    let aliases = if shape.mode == ForwardingMode::FullNat { capacity } else { 0 };
    let epoch = Instant::now();
    Rings::<GenBuf>::mesh(usize::from(workers))
        .into_iter()
        .enumerate()
        .map(|(n, rings)| {
            links[n].publish(snapshot.clone());
            let worker = Worker::new(Setup {
                id: WorkerId(n as u16),
                io: GenIo::new(Traffic::Silence),
                flows: FlowTable::with_aliases(capacity, aliases, Secret::fixed()).expect("memory for the flow table"),
                sched: SchedCore::new(shape.services as usize, reals),
                secret: Secret::fixed(),
                links: links.clone(),
                rings,
                relays: Relays::default(),
                software_steering: workers > 1,
            });
            Director { worker, link: links[n].clone(), clock: Clock { epoch, polls: 0, now: Tick(0), held: false } }
        })
        .collect()
}

impl Director {
    /// One worker with room for so many flows.
    pub fn new(shape: &Shape, capacity: u32) -> Self {
        directors(shape, 1, capacity).remove(0)
    }

    /// One round of the worker.
    #[inline(always)]
    pub fn poll(&mut self) -> usize {
        let now = self.clock.tick();
        self.worker.poll(now)
    }

    /// From now on this comes.
    pub fn set(&mut self, traffic: Traffic) {
        self.worker.io().traffic = traffic;
    }

    /// Everything of `flows` once, in order, with these flags. Returns where each went (NAT).
    fn once(&mut self, six: bool, flags: u8, flows: &Sequence) -> Vec<u16> {
        let mut rounds = Rounds::new(six, Way::Request, flags, flows.clone());
        rounds.start_watching();
        self.set(Traffic::Rounds(rounds));
        let target = self.worker.io().sent + flows.len() as u64;
        // The last burst goes on at the beginning of the sequence: the same packets again.
        while self.worker.io().sent < target {
            self.poll();
        }
        match &mut self.worker.io().traffic {
            Traffic::Rounds(r) => r.stop_watching(),
            _ => Vec::new(),
        }
    }

    /// Opens and establishes the flows, in order. With NAT, `peer` of the stamps that come
    /// back names the real servers: those of the replies.
    pub fn open(&mut self, shape: &Shape, flows: &[Stamp]) -> Vec<Stamp> {
        let sequence: Sequence = flows.into();
        // Else the first would time out half open before the last are there.
        self.clock.held = true;
        let reals = self.once(shape.six, SYN, &sequence);
        self.once(shape.six, ACK, &sequence);
        self.clock.held = false;
        self.set(Traffic::Silence);
        assert_eq!(self.worker.core().flows.len() as usize, flows.len(), "every flow was opened");
        flows.iter().zip(reals).map(|(s, peer)| Stamp { peer, ..*s }).collect()
    }

    /// Packets dropped so far, for whatever reason.
    pub fn dropped(&self) -> u64 {
        dataplane::counters::DropReason::ALL.iter().map(|r| self.link.counters.drop(*r).get()).sum()
    }
}

/// The packets of a round: requests, or the replies of what was opened.
pub fn rounds(shape: &Shape, way: Way, flows: &[Stamp], order: Order) -> Traffic {
    Traffic::Rounds(Rounds::new(shape.six, way, ACK, super::traffic::ordered(flows, order)))
}
