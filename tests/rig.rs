//! A director in memory: workers on [`MemoryIo`], driven packet by packet in virtual time.

use std::sync::Arc;

use dataplane::flow::hash::Secret;
use dataplane::flow::table::FlowTable;
use dataplane::io::memory::{MemoryIo, Wire};
use dataplane::link::WorkerLink;
use dataplane::sched::SchedCore;
use dataplane::snapshot::{Snapshot, Spec};
use dataplane::units::{Tick, WorkerId};
use dataplane::worker::{Relays, Rings, Setup, Worker};

/// Flows each worker has room for.
pub const FLOWS: u32 = 4096;
/// Real servers and services there is room for.
pub const OBJECTS: usize = 1024;

/// A director with its workers.
pub struct Rig {
    /// The workers, polled in turn.
    pub workers: Vec<Worker<MemoryIo>>,
    /// Their links.
    pub links: Vec<Arc<WorkerLink>>,
    /// The outside.
    pub wire: Arc<Wire>,
    /// The time.
    pub now: Tick,
}

impl Rig {
    /// A director with `workers` workers and two ports, 0 towards clients and 1 towards servers.
    pub fn new(workers: usize) -> Self {
        Self::with_flows(workers, FLOWS)
    }

    /// The same with room for `flows` flows per worker.
    pub fn with_flows(workers: usize, flows: u32) -> Self {
        Self::made(workers, flows, true)
    }

    /// A director whose devices choose the worker: a flow belongs to who gets its first packet.
    pub fn steered_by_device(workers: usize) -> Self {
        Self::made(workers, FLOWS, false)
    }

    fn made(workers: usize, flows: u32, software_steering: bool) -> Self {
        let wire = Wire::new(2, workers);
        let links = WorkerLink::mesh(workers, OBJECTS, 2, flows as usize);
        let workers = Rings::mesh(workers)
            .into_iter()
            .enumerate()
            .map(|(i, rings)| {
                Worker::new(Setup {
                    id: WorkerId(i as u16),
                    io: MemoryIo::new(&wire, i),
                    flows: FlowTable::new(flows, Secret::fixed()).expect("memory"),
                    sched: SchedCore::new(OBJECTS, OBJECTS),
                    secret: Secret::fixed(),
                    links: links.clone(),
                    rings,
                    relays: Relays::default(),
                    software_steering,
                })
            })
            .collect();
        Self { workers, links, wire, now: Tick(1000) }
    }

    /// Publishes a configuration to all workers.
    pub fn publish(&mut self, spec: &Spec) {
        let snapshot = Arc::new(Snapshot::compile(spec));
        for link in &self.links {
            link.publish(snapshot.clone());
        }
    }

    /// Polls all workers until none has anything left to do.
    pub fn run(&mut self) {
        for _ in 0..1000 {
            let now = self.now;
            let work: usize = self.workers.iter_mut().map(|w| w.poll(now)).sum();
            if work == 0 {
                return;
            }
        }
        panic!("the workers never came to rest");
    }

    /// Lets time pass, polling often enough for every timer.
    pub fn sleep_ms(&mut self, ms: u32) {
        let end = self.now.after_ms(ms);
        while !end.reached(self.now) {
            self.now = self.now.after_ms(end.ms_left(self.now).min(250));
            self.run();
        }
        self.run();
    }

    /// Sends one frame into a port's queue and returns what comes out: (port, frame).
    pub fn send_on(&mut self, port: usize, queue: usize, frame: &[u8]) -> Vec<(usize, Vec<u8>)> {
        self.wire.push(port, queue, frame);
        self.run();
        self.take()
    }

    /// Sends one frame into queue 0 of a port.
    pub fn send(&mut self, port: usize, frame: &[u8]) -> Vec<(usize, Vec<u8>)> {
        self.send_on(port, 0, frame)
    }

    /// Takes everything the director sent.
    pub fn take(&mut self) -> Vec<(usize, Vec<u8>)> {
        (0..2).flat_map(|p| self.wire.sent(p).into_iter().map(move |f| (p, f))).collect()
    }

    /// A drop reason's count over all workers.
    pub fn drops(&self, reason: dataplane::counters::DropReason) -> u64 {
        self.links.iter().map(|l| l.counters.drop(reason).get()).sum()
    }
}
