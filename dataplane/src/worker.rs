//! One worker: a core, its flows, and the loop.
//!
//! [`Worker::poll`] is the packet's way on one screen. [`Core`] is what the stages share:
//! everything mutable that this worker owns, besides the packets and the ports.

use std::sync::Arc;

use crate::burst::{Burst, Lanes};
use crate::counters::{Counter, DropReason, WorkerCounters};
use crate::flow::expected::Expectations;
use crate::flow::extension::Extensions;
use crate::flow::hash::{FlowHash, Secret};
use crate::flow::record::{FlowKey, FlowRecord, flags};
use crate::flow::state::{self, State};
use crate::flow::table::{Fate, FlowId, FlowTable};
use crate::io::{BURST, PacketBuf, PacketIo};
use crate::link::{Event, WorkerLink};
use crate::sched::SchedCore;
use crate::snapshot::Snapshot;
use crate::stage::local::fragment::Fragments;
use crate::stage::resolve::{Outbox, Waiting};
use crate::stage::{answer, classify, fast, local, parse, resolve, rewrite, schedule, track};
use crate::units::{PortId, RealId, Tick, WorkerId};

mod commands;
mod defence;
mod handoff;
mod idle;

pub use handoff::NO_LANE;
pub use idle::{Idle, run, tsc};

/// Flows examined for expiry per poll: with 32 a slice stays below 20 µs, even where each flow that ends
/// touches lines that are in no cache (64 took 14 µs, and 23 in one poll of a hundred).
const EXPIRE_BUDGET: usize = 32;
/// Frames sent for one other worker per poll.
const RELAYED: usize = BURST;
/// Length of the ring from one worker to another, packets.
pub const HANDOFF_RING: usize = 2048;
/// How long a template is kept on while it has live flows, as the kernel does.
const TEMPLATE_GRACE_MS: u32 = 60_000;
/// How long one whose time is up waits before that for flows of its own age.
const SAME_AGE_MS: u32 = 1000;

/// What the stages share: owned by this worker alone.
pub struct Core<B> {
    /// This worker.
    pub id: WorkerId,
    /// How many workers there are.
    pub workers: u16,
    /// Key of the flow hash; the same on all workers.
    pub secret: Secret,
    /// The flows.
    pub flows: FlowTable,
    /// Connections that others have announced.
    pub expected: Expectations,
    /// The links of all workers, by number.
    pub peers: Vec<Arc<WorkerLink>>,
    /// What it does when the flow table fills.
    pub defence: defence::Defence,
    /// What some flows need beyond their record.
    pub extensions: Extensions,
    /// Scheduler state.
    pub sched: SchedCore,
    /// What is shared with control.
    pub link: Arc<WorkerLink>,
    /// The time of this poll.
    pub now: Tick,
    /// The burst comes from a port: nobody has looked at its packets before.
    pub fresh: bool,
    /// Frames on their way out, by port.
    pub out: Outbox<B>,
    /// Packets that wait for an Ethernet address.
    pub waiting: Waiting<B>,
    /// Datagrams in pieces.
    pub fragments: Fragments<B>,
    /// How many answers may still be sent.
    pub limiter: answer::Limiter,
    /// Identification of the next IPv4 packet made here.
    pub ip_id: u16,
    to_others: handoff::ToOthers<B>,
    /// The ports, one bit each, where most packets are replies.
    pub replies_first: u64,
}

impl<B: PacketBuf> Core<B> {
    /// Hands a packet that came in this lane of its burst ([`NO_LANE`]: or in none) to the worker that
    /// owns its flow, at the end of the poll or a little later. Packets of a burst stay in order.
    #[inline(never)]
    pub fn hand_off<I: PacketIo<Buf = B>>(&mut self, owner: WorkerId, buf: B, lane: u8, io: &mut I) {
        self.hand_over(owner, (buf, fast::Learnt::default()), lane, io);
    }

    /// The same with what the fast stage has learnt.
    #[inline]
    pub fn hand_over<I: PacketIo<Buf = B>>(
        &mut self,
        owner: WorkerId,
        packet: (B, fast::Learnt),
        lane: u8,
        io: &mut I,
    ) {
        let counters = &self.link.counters;
        match self.to_others.get(owner.index()) {
            Some(to) => to.push(packet, lane, io, counters),
            None => {
                counters.drop(DropReason::HandoffFull).add(1);
                io.free(packet.0);
            }
        }
    }
}

impl<B> Core<B> {
    /// Tells control something, if its queue has room.
    #[cold]
    pub fn tell(&self, event: Event) {
        if self.link.events.push(event).is_err() {
            self.link.counters.worker.events_lost.add(1);
        }
    }

    /// The identification of an IPv4 packet made here.
    #[inline]
    pub fn next_ip_id(&mut self) -> u16 {
        self.ip_id = self.ip_id.wrapping_add(1);
        self.ip_id
    }

    /// Adds a flow, evicting an old half-open one if the table is full. Counts it.
    pub fn open_flow(&mut self, hash: FlowHash, record: FlowRecord) -> Option<FlowId> {
        let id = match self.flows.insert(hash, record, self.now) {
            Ok(id) => id,
            Err(_) => {
                let evicted =
                    self.flows.evict(hash, |r| r.flags & flags::TEMPLATE == 0 && !state::is_established(r.state))?;
                self.link.counters.worker.flows_evicted.add(1);
                self.forget(&evicted);
                self.flows.insert(hash, record, self.now).ok()?
            }
        };
        if record.flags & flags::TEMPLATE == 0 {
            self.link.counters.worker.flows_opened.add(1);
            self.link.counters.real(record.real).connections.add(1);
            self.sched.opened(&self.link.counts, record.real, state::is_active(record.state));
            if !state::is_active(record.state) {
                self.flows.get_mut(id).flags |= flags::INACTIVE;
            }
        } else {
            self.link.counts.persistent_opened(record.real);
        }
        Some(id)
    }

    /// Ties a flow to its template, which lives on.
    pub fn control(&mut self, flow: FlowId, template: FlowId) {
        let record = self.flows.get_mut(flow);
        if record.flags & flags::EXTENDED == 0 {
            record.ext = template.0;
        } else if let Some(e) = self.extensions.get_mut(record.ext) {
            e.template = template;
        }
        let t = self.flows.get_mut(template);
        t.ext = t.ext.saturating_add(1);
        t.flags &= !flags::INACTIVE;
        t.deadline = self.now.after_ms(t.template_timeout_ms());
    }

    /// Where the workers keep what they agree on about a template's key.
    fn affinity_key(&self, key: &FlowKey) -> FlowHash {
        let client = self.secret.hash(key.client, key.client_port, key.proto).0;
        FlowHash(client.rotate_left(32) ^ self.secret.hash(key.vip, key.vport, 0).0)
    }

    /// The real server that the workers have agreed on for a template.
    pub fn agreed(&self, key: &FlowKey) -> Option<RealId> {
        if self.link.affinity.is_none() {
            return None;
        }
        self.link.affinity.agreed(self.affinity_key(key), self.now)
    }

    /// The real server for a template with `timeout_ms` to go: `real`, or what another worker
    /// has decided.
    pub fn agree(&self, key: &FlowKey, real: RealId, timeout_ms: u32, usable: impl Fn(RealId) -> bool) -> RealId {
        if self.link.affinity.is_none() {
            return real;
        }
        self.link.affinity.agree(self.affinity_key(key), real, self.now.after_ms(timeout_ms), self.now, usable)
    }

    /// The flow is known to be wanted by both ends: so is its template (the kernel's
    /// `ip_vs_control_assure_ct`).
    #[cold]
    pub fn assure(&mut self, id: FlowId) {
        let record = self.flows.get(id);
        if record.flags & flags::CONTROLLED == 0 {
            return;
        }
        let template = match record.flags & flags::EXTENDED {
            0 => FlowId(record.ext),
            _ => self.extensions.get_mut(record.ext).map_or(FlowId::NONE, |e| e.template),
        };
        if let Some(t) = self.flows.try_get_mut(template).filter(|t| t.flags & flags::TEMPLATE != 0) {
            t.state = State::Established as u8;
        }
    }

    /// After a flow's state changed: its class at the real server, and the wheel.
    #[cold]
    pub fn turned(&mut self, id: FlowId) {
        let record = self.flows.get_mut(id);
        let (real, deadline) = (record.real, record.deadline);
        let active = state::is_active(record.state);
        let was_active = record.flags & flags::INACTIVE == 0;
        let established = state::is_established(record.state);
        if active != was_active {
            record.flags ^= flags::INACTIVE;
            self.sched.turned(&self.link.counts, real, active);
        }
        self.flows.rearm(id, deadline);
        if established {
            self.assure(id);
        }
    }

    /// Ends a flow at once.
    pub fn end_flow(&mut self, id: FlowId) {
        if let Some(record) = self.flows.remove(id) {
            self.forget(&record);
        }
    }

    /// Takes an ended flow out of all counts.
    pub fn forget(&mut self, record: &FlowRecord) {
        if record.flags & flags::TEMPLATE != 0 {
            self.link.counts.persistent_closed(record.real);
            if !self.link.affinity.is_none() {
                self.link.affinity.forget(self.affinity_key(&record.key()), record.real);
            }
            return;
        }
        let active = record.flags & flags::INACTIVE == 0;
        self.sched.closed(&self.link.counts, record.real, active);
        if record.flags & (flags::SHADOWS | flags::SHADOWED) == flags::SHADOWS {
            self.flows.unshadow(record);
        }
        let extended = record.flags & flags::EXTENDED != 0;
        let template = if extended { self.give_extension(record) } else { FlowId(record.ext) };
        if record.flags & flags::CONTROLLED != 0
            && let Some(t) = self.flows.try_get_mut(template).filter(|t| t.flags & flags::TEMPLATE != 0)
        {
            t.ext = t.ext.saturating_sub(1);
        }
    }

    /// Takes over what other workers expect.
    #[cold]
    pub fn learn_expected(&mut self) {
        while let Some(e) = self.link.expected.pop() {
            if !self.expected.add(e, self.now) {
                self.link.counters.worker.expectations_lost.add(1);
            }
        }
    }

    /// Whether a connection without a service may be an announced one.
    #[inline]
    pub fn expects(&self) -> bool {
        !(self.expected.is_empty() && self.link.expected.is_empty())
    }

    /// Takes a flow's extension back, and its alias out of the index; returns its template.
    #[cold]
    fn give_extension(&mut self, record: &FlowRecord) -> FlowId {
        let Some(e) = self.extensions.give(record.ext) else { return FlowId::NONE };
        if e.has_local() {
            let hash = self.secret.hash(e.local, e.local_port, record.proto);
            self.flows.remove_alias(hash, e.flow);
        }
        self.link.counters.worker.flows_extended.set(self.extensions.len() as u64);
        e.template
    }

    fn expire(&mut self) {
        let Self { flows, link, sched, now, .. } = self;
        let now = *now;
        let mut shadows = arrayvec::ArrayVec::<FlowRecord, EXPIRE_BUDGET>::new();
        let mut orphans = arrayvec::ArrayVec::<FlowId, EXPIRE_BUDGET>::new();
        let mut extended = arrayvec::ArrayVec::<FlowRecord, EXPIRE_BUDGET>::new();
        let mut kept = arrayvec::ArrayVec::<FlowRecord, EXPIRE_BUDGET>::new();
        let n = flows.expire(now, EXPIRE_BUDGET, |_, record| {
            if record.flags & flags::TEMPLATE != 0 {
                if record.ext > 0 && record.flags & flags::INACTIVE == 0 {
                    // Flows that are as old end with it, and then nothing keeps it: the kernel's
                    // timers of one moment run in the reverse order of their making.
                    record.flags |= flags::INACTIVE;
                    record.deadline = now.after_ms(SAME_AGE_MS);
                    return Fate::Keep;
                }
                if record.ext > 0 {
                    record.flags &= !flags::INACTIVE;
                    // From now on new flows keep it no longer either, as in the kernel.
                    record.set_template_timeout_ms(TEMPLATE_GRACE_MS);
                    record.deadline = now.after_ms(TEMPLATE_GRACE_MS);
                    if record.vport.get() != schedule::RETIRED {
                        let _ = kept.try_push(*record);
                    }
                    return Fate::Keep;
                }
                link.counts.persistent_closed(record.real);
            } else {
                sched.closed(&link.counts, record.real, record.flags & flags::INACTIVE == 0);
                if record.flags & flags::EXTENDED != 0 {
                    let _ = extended.try_push(*record);
                } else if record.flags & flags::CONTROLLED != 0 {
                    let _ = orphans.try_push(FlowId(record.ext));
                }
            }
            if record.flags & (flags::SHADOWS | flags::SHADOWED) == flags::SHADOWS {
                let _ = shadows.try_push(*record);
            }
            Fate::Remove
        });
        // By reference: to take them out of their arrays would be to copy the arrays, each poll.
        for record in &shadows {
            flows.unshadow(record);
        }
        let expired = n as u64;
        for record in &kept {
            self.agree(&record.key(), record.real, TEMPLATE_GRACE_MS, |_| true);
        }
        for record in &extended {
            let _ = orphans.try_push(self.give_extension(record));
        }
        let Self { flows, link, .. } = self;
        for template in &orphans {
            if let Some(t) = flows.try_get_mut(*template).filter(|t| t.flags & flags::TEMPLATE != 0) {
                t.ext = t.ext.saturating_sub(1);
            }
        }
        link.counters.worker.flows_expired.add(expired);
        link.counters.worker.flows_live.set(u64::from(flows.len()));
    }
}

/// A worker with its ports.
pub struct Worker<I: PacketIo> {
    core: Core<I::Buf>,
    io: I,
    snapshot: Arc<Snapshot>,
    /// The one that is to follow, once the schedulers are ready for it.
    next: Option<Arc<Snapshot>>,
    burst: Box<Burst<I::Buf>>,
    from_others: Vec<Option<rtrb::Consumer<handoff::Handed<I::Buf>>>>,
    /// The ring that is asked first.
    turn: usize,
    relayed: Vec<rtrb::Consumer<I::Buf>>,
    peers: Vec<Arc<WorkerLink>>,
    scan: commands::Scan,
    software_steering: bool,
    fast: bool,
    sample: Sample,
}

/// Polls with packets from one whose stages are timed to the next.
const SAMPLE_EVERY: u32 = 1024;

/// The cycle account: reads the TSC between the stages of a poll now and then.
#[derive(Default)]
struct Sample {
    /// Polls with packets until the next one that is timed; 0: this one.
    left: u32,
    last: u64,
}

impl Sample {
    #[inline(always)]
    fn start(&mut self) {
        if self.left == 0 {
            self.last = idle::tsc();
        }
    }
    /// A stage is over.
    #[inline(always)]
    fn end(&mut self, stage: &Counter) {
        if self.left == 0 {
            let now = idle::tsc();
            stage.add(now.wrapping_sub(self.last));
            self.last = now;
        }
    }
    /// The poll is over.
    #[inline(always)]
    fn finish(&mut self, packets: usize, counters: &WorkerCounters) {
        if packets > 0 {
            if self.left == 0 {
                counters.sampled_packets.add(packets as u64);
                self.left = SAMPLE_EVERY;
            }
            self.left -= 1;
        }
    }
}

/// What a worker is made of.
pub struct Setup<I: PacketIo> {
    /// Its number.
    pub id: WorkerId,
    /// Its ports.
    pub io: I,
    /// Its flow table.
    pub flows: FlowTable,
    /// Its scheduler state.
    pub sched: SchedCore,
    /// Key of the flow hash, the same for all.
    pub secret: Secret,
    /// All workers' links, by number; its own among them.
    pub links: Vec<Arc<WorkerLink>>,
    /// Its ends of the rings to and from the others.
    pub rings: Rings<I::Buf>,
    /// Its ends of the rings of frames for ports on which not every worker can send.
    pub relays: Relays<I::Buf>,
    /// Whether packets are handed to their owner in software. False when the devices
    /// deliver both directions of each flow to one worker.
    pub software_steering: bool,
}

/// One worker's ends of the rings that carry finished frames to a worker with a transmit
/// queue, where a device has fewer of them than there are workers.
pub struct Relays<B> {
    /// Ports that this worker cannot send on, and the ring to who can.
    pub to: Vec<(PortId, rtrb::Producer<B>)>,
    /// Frames of others that this worker sends; each names its port as ingress.
    pub from: Vec<rtrb::Consumer<B>>,
}

impl<B> Default for Relays<B> {
    fn default() -> Self {
        Self { to: Vec::new(), from: Vec::new() }
    }
}

/// One worker's ends of the rings between workers, by the other's number.
pub struct Rings<B> {
    to: Vec<Option<rtrb::Producer<handoff::Handed<B>>>>,
    from: Vec<Option<rtrb::Consumer<handoff::Handed<B>>>>,
}

impl<B> Rings<B> {
    /// Rings between `workers` workers, each to each; one `Rings` for every worker.
    pub fn mesh(workers: usize) -> Vec<Self> {
        let empty = || Self { to: (0..workers).map(|_| None).collect(), from: (0..workers).map(|_| None).collect() };
        let mut all: Vec<Self> = (0..workers).map(|_| empty()).collect();
        for a in 0..workers {
            for b in (0..workers).filter(|b| *b != a) {
                let (to, from) = rtrb::RingBuffer::new(HANDOFF_RING);
                all[a].to[b] = Some(to);
                all[b].from[a] = Some(from);
            }
        }
        all
    }
}

impl<I: PacketIo> Worker<I> {
    /// A worker with the empty configuration.
    pub fn new(setup: Setup<I>) -> Self {
        let Setup { id, io, flows, sched, secret, links, rings, relays, software_steering } = setup;
        let link = links[id.index()].clone();
        let ports = io.ports();
        let mut out = Outbox::new(ports);
        for (port, ring) in relays.to {
            out.relay(port, ring);
        }
        Self {
            core: Core {
                id,
                workers: links.len() as u16,
                secret,
                expected: Expectations::new(),
                peers: links.clone(),
                defence: defence::Defence::new(u64::from(id.0) + 1),
                extensions: Extensions::new(flows.capacity()),
                flows,
                sched,
                link,
                now: Tick(0),
                fresh: false,
                out,
                waiting: Waiting::new(),
                fragments: Fragments::new(),
                limiter: answer::Limiter::default(),
                ip_id: 1,
                to_others: handoff::ToOthers::new(rings.to),
                replies_first: 0,
            },
            io,
            snapshot: Snapshot::empty(),
            next: None,
            burst: Box::new(Burst::new()),
            from_others: rings.from,
            turn: 0,
            relayed: relays.from,
            peers: links,
            scan: commands::Scan::default(),
            software_steering,
            fast: true,
            sample: Sample::default(),
        }
    }

    /// One round: adopt, receive, process, send, and a slice of the housekeeping.
    /// Returns how many packets it met.
    #[inline]
    pub fn poll(&mut self, now: Tick) -> usize {
        self.core.now = now;
        let preparing = self.adopt();
        self.sample.start();
        let mut packets = 0;
        for port in (0..self.io.ports() as u16).map(PortId) {
            if self.io.has_rx(port) {
                let n = self.io.rx(port, &mut self.burst.bufs);
                self.sample.end(&self.core.link.counters.worker.cycles_receive);
                if n > 0 {
                    packets += n;
                    self.core.fresh = true;
                    let bytes = self.process(port, n, self.software_steering && self.core.workers > 1);
                    self.core.fresh = false;
                    let counters = self.core.link.counters.port(port);
                    counters.rx_packets.add(n as u64);
                    counters.rx_bytes.add(bytes);
                }
            }
        }
        packets += self.take_over();
        packets += self.reassembled();
        packets += self.send_for_others();
        let timed = packets;
        packets += self.housekeeping(packets) + usize::from(preparing);
        self.sample.end(&self.core.link.counters.worker.cycles_housekeeping);
        let busy = packets >= BURST / 2;
        packets += usize::from(self.core.to_others.end_poll(busy, &mut self.io, &self.core.link.counters));
        self.core.out.flush(&mut self.io, &self.core.link);
        let counters = &self.core.link.counters.worker;
        self.sample.end(&counters.cycles_send);
        self.sample.finish(timed, counters);
        packets
    }

    /// The straight line. Returns the length of the frames, bytes.
    #[inline]
    fn process(&mut self, port: PortId, n: usize, steer: bool) -> u64 {
        let Self { core, io, snapshot, burst, .. } = self;
        let s = &**snapshot;
        burst.n = n;
        if steer {
            burst.number();
        }
        let tagged = if s.strips { burst.tagged() } else { Lanes(0) };
        let (rest, bytes) = match self.fast && tagged.is_empty() {
            true => fast::fast(s, core, io, burst, port, steer),
            false => (Lanes::first(n), burst.bytes()),
        };
        self.sample.end(&core.link.counters.worker.cycles_fast);
        if !rest.is_empty() {
            self.general(port, rest, tagged, steer);
            self.sample.end(&self.core.link.counters.worker.cycles_general);
        }
        if steer {
            let Self { core, io, burst, .. } = self;
            core.to_others.end_burst(io, &core.link.counters);
            burst.away = 0;
        }
        bytes
    }

    /// The straight line for what the fast stage left.
    #[inline(never)]
    fn general(&mut self, port: PortId, rest: Lanes, tagged: Lanes, steer: bool) {
        let Self { core, io, snapshot, burst, .. } = self;
        let s = &**snapshot;
        parse::parse(burst, Lanes(rest.0 & !tagged.0), s.port_mac(port));
        // A frame whose tag the device took out looks like one of the port itself.
        burst.slow.0 |= rest.0 & tagged.0;
        if !burst.slow.is_empty() {
            local::examine(s, core, io, burst, steer);
        }
        classify::classify(s, core, io, burst, steer);
        track::track::<I>(s, core, burst);
        if !burst.missed.is_empty() {
            schedule::schedule(s, core, io, burst);
        }
        if !(burst.ready.is_empty() && burst.finished.is_empty()) {
            rewrite::rewrite(s, core, io, burst);
        }
        if !burst.slow.is_empty() {
            local::deliver(s, core, io, burst);
        }
        if !burst.ready.is_empty() {
            resolve::resolve(s, core, io, burst);
        }
    }

    /// Takes the newest snapshot, if there is one, as soon as the schedulers are ready for it: they
    /// get a slice of time each poll. Returns whether one waits for that.
    #[inline]
    fn adopt(&mut self) -> bool {
        if self.next.is_none() {
            if !self.core.sched.is_tidy() {
                self.core.sched.tidy(&self.snapshot);
                if !self.core.sched.is_tidy() {
                    return false;
                }
            }
            self.next = self.core.link.newer(self.snapshot.generation);
        }
        self.next.is_some() && self.follow()
    }

    /// Prepares the next snapshot, and adopts it when that is done.
    #[cold]
    fn follow(&mut self) -> bool {
        if let Some(next) = &self.next
            && !self.core.sched.prepare(next, &self.core.link.counts)
        {
            return true;
        }
        if let Some(newer) = self.next.take() {
            let generation = newer.generation;
            let old = std::mem::replace(&mut self.snapshot, newer);
            self.core.sched.adopt();
            defence::tend(&mut self.core, &self.snapshot.settings);
            self.core.link.counters.worker.snapshots_adopted.add(1);
            self.core.link.adopted(generation, old);
            self.core.waiting.retry(&self.snapshot, &mut self.core.out, &mut self.io, &self.core.link);
        }
        false
    }

    /// Processes what other workers received for this one. Their classification is not
    /// trusted (they may have had another snapshot), but what they read in the headers is, and their choice
    /// of owner is final.
    #[inline]
    fn take_over(&mut self) -> usize {
        let rings = self.from_others.len();
        let mut packets = 0;
        // As many bursts as there are others, with the packets of several rings in one.
        for _ in 1..rings {
            let Self { core, burst, from_others, turn, .. } = self;
            let mut odd = Lanes(0);
            burst.n = 0;
            let (last, first) = from_others.split_at_mut(*turn);
            for ring in first.iter_mut().chain(last).flatten() {
                odd.0 |= handoff::take(ring, burst, &core.flows).0;
            }
            *turn = if *turn + 1 < rings { *turn + 1 } else { 0 };
            let n = burst.n;
            if n > 0 {
                packets += n;
                core.link.counters.worker.taken_over.add(n as u64);
                self.process_taken(odd);
            }
            if n < BURST {
                break;
            }
        }
        packets
    }

    /// The straight line for what others have received.
    #[inline]
    fn process_taken(&mut self, odd: Lanes) {
        let Self { core, io, snapshot, burst, .. } = self;
        let s = &**snapshot;
        let rest = match self.fast {
            true => fast::taken(s, core, io, burst, odd),
            false => Lanes::first(burst.n),
        };
        self.sample.end(&core.link.counters.worker.cycles_fast);
        if !rest.is_empty() {
            let port = rest.into_iter().next().and_then(|i| burst.bufs[i].as_ref()).map_or(PortId(0), |b| b.ingress());
            let tagged = if s.strips { burst.tagged() } else { Lanes(0) };
            self.general(port, rest, tagged, false);
            self.sample.end(&self.core.link.counters.worker.cycles_general);
        }
    }

    /// Sends frames of workers that have no transmit queue on their port.
    #[inline]
    fn send_for_others(&mut self) -> usize {
        let Self { core, io, relayed, .. } = self;
        let mut n = 0;
        for ring in relayed {
            for _ in 0..RELAYED {
                let Ok(buf) = ring.pop() else { break };
                core.out.push(buf.ingress(), buf, io, &core.link);
                n += 1;
            }
        }
        n
    }

    /// Gives back every packet that is kept here or on its way here, at the end.
    pub fn drain(&mut self) {
        let Self { core, io, from_others, relayed, .. } = self;
        core.to_others.flush(io, &core.link.counters);
        core.out.flush(io, &core.link);
        for ring in from_others.iter_mut().flatten() {
            handoff::drain(ring, io);
        }
        for ring in relayed {
            while let Ok(buf) = ring.pop() {
                io.free(buf);
            }
        }
        core.waiting.drain(io);
        core.fragments.drain(io);
    }

    /// Sends the pieces of complete datagrams down the straight way.
    #[inline]
    fn reassembled(&mut self) -> usize {
        let mut n = 0;
        while n < BURST {
            let Some(buf) = self.core.fragments.pop() else { break };
            self.burst.bufs[n] = Some(buf);
            n += 1;
        }
        if n > 0 {
            let port = self.burst.bufs[0].as_ref().map_or(PortId(0), |b| b.ingress());
            self.process(port, n, self.software_steering && self.core.workers > 1);
        }
        n
    }

    /// A bounded slice of everything that is not a received packet.
    #[inline]
    fn housekeeping(&mut self, packets: usize) -> usize {
        let core = &mut self.core;
        core.expire();
        core.sched.refresh(&self.peers, core.id);
        defence::tend(core, &self.snapshot.settings);
        core.limiter.refill(core.now, self.snapshot.settings.answer_rate_limit);
        let mut work = 0;
        if !core.link.inject.is_empty() {
            work += commands::inject(core, &mut self.io);
        }
        if !core.link.commands.is_empty() || self.scan.active() {
            work += commands::serve(core, &mut self.scan, &self.snapshot);
        }
        if !core.link.expected.is_empty() {
            core.learn_expected();
        }
        if !core.waiting.is_empty() {
            core.waiting.age(core.now, &mut self.io, &core.link);
        }
        core.fragments.age(core.now, &mut self.io, &core.link);
        let w = &core.link.counters.worker;
        w.polls.add(1);
        if packets == 0 {
            w.idle_polls.add(1);
        }
        work
    }

    /// Leaves every packet to the general stages, which come to the same: for tests.
    pub fn without_fast_stage(&mut self) {
        self.fast = false;
    }

    /// The worker's own state, for tests and benches.
    pub fn core(&mut self) -> &mut Core<I::Buf> {
        &mut self.core
    }

    /// The ports.
    pub fn io(&mut self) -> &mut I {
        &mut self.io
    }

    /// The snapshot it works with.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }
}
