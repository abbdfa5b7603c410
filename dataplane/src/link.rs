//! Between control and the workers: one [`WorkerLink`] a worker, shared by `Arc`.
//!
//! Everything here is bounded and made before the start. Control writes the mailbox,
//! commands and injected frames; the worker writes counters, events and answers.
//! A worker neither allocates nor frees: a retired snapshot goes back to control.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::counters::CoreCounters;
use crate::flow::affinity::Affinity;
use crate::flow::expected::Expected;
use crate::flow::record::FlowRecord;
use crate::sched::CoreCounts;
use crate::snapshot::{IfaceId, Snapshot};
use crate::units::{Be16, Ip, Mac, PortId, RealId, ServiceId, Tick};

/// What a worker tells control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A station on `iface` said which Ethernet address `ip` has (ARP, neighbour discovery).
    NeighbourSeen {
        /// Where it was heard.
        iface: IfaceId,
        /// The station's IP address.
        ip: Ip,
        /// Its Ethernet address.
        mac: Mac,
        /// It answered a question (else it asked us something, or announced itself).
        solicited: bool,
    },
    /// A packet waits for the Ethernet address of `ip`.
    NeighbourWanted {
        /// The interface it is to leave by.
        iface: IfaceId,
        /// The next hop.
        ip: Ip,
    },
    /// Another station claims an address of ours.
    DuplicateAddress {
        /// Where it was heard.
        iface: IfaceId,
        /// The address.
        ip: Ip,
        /// The other station.
        mac: Mac,
    },
    /// A smaller path MTU towards a tunnel's real server was reported.
    PathMtu {
        /// The outer destination.
        ip: Ip,
        /// The MTU of the outer packet, bytes.
        mtu: u16,
    },
}

/// What control asks of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// List flows from record number `cursor` on, at most `limit` of them that match.
    ListFlows {
        /// Copied into every answer.
        query: u64,
        /// First record number to look at.
        cursor: u32,
        /// Most rows wanted.
        limit: u32,
        /// What to list.
        filter: FlowFilter,
    },
    /// End all flows of a real server, templates included.
    FlushReal(RealId),
    /// End all flows of a service, templates included.
    FlushService(ServiceId),
    /// End the flows of all real servers that were removed, templates included (the kernel's
    /// `expire_nodest_conn`).
    FlushGone,
    /// End all flows.
    FlushAll,
    /// Zero nothing, do nothing: answered with [`Answer::Done`] once seen.
    Ping {
        /// Copied into the answer.
        query: u64,
    },
}

/// Which flows a listing wants; `None` matches all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// The client's address.
    pub client: Option<Ip>,
    /// The VIP.
    pub vip: Option<Ip>,
    /// The real server.
    pub real: Option<RealId>,
    /// The service.
    pub service: Option<ServiceId>,
    /// IP protocol number.
    pub proto: Option<u8>,
    /// Those of removed real servers only.
    pub gone: bool,
}

/// What a worker answers.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// One row of a listing.
    Flow {
        /// The query's number.
        query: u64,
        /// The flow as it is now.
        record: FlowRecord,
        /// Full NAT: the local address and port.
        local: Option<(Ip, Be16)>,
        /// The worker's clock, to tell how long the flow has left.
        now: Tick,
    },
    /// The end of a listing or command.
    Done {
        /// The query's number.
        query: u64,
        /// Where to go on, `u32::MAX` at the end of the table.
        cursor: u32,
    },
}

/// Longest frame that control injects: ARP, neighbour discovery and health probes.
pub const INJECT_MAX: usize = 192;

/// A frame that control wants sent.
#[derive(Clone, Copy, Debug)]
pub struct InjectFrame {
    /// The port it leaves by.
    pub port: PortId,
    /// Bytes used.
    pub len: u16,
    /// The frame from the Ethernet header on.
    pub bytes: [u8; INJECT_MAX],
}

/// The shared part of one worker.
#[derive(Debug)]
pub struct WorkerLink {
    /// Generation of the snapshot in the mailbox or adopted. Control writes.
    published: AtomicU64,
    /// Generation that the worker works with. The worker writes.
    adopted: AtomicU64,
    mailbox: ArrayQueue<Arc<Snapshot>>,
    retired: ArrayQueue<Arc<Snapshot>>,
    /// Counters. The worker writes.
    pub counters: CoreCounters,
    /// Connection numbers per real server. The worker writes, the other workers read.
    pub counts: CoreCounts,
    /// Worker to control.
    pub events: ArrayQueue<Event>,
    /// Control to worker.
    pub commands: ArrayQueue<Command>,
    /// Worker to control.
    pub answers: ArrayQueue<Answer>,
    /// All workers: the real servers of persistent clients.
    pub affinity: Arc<Affinity>,
    /// Worker to worker: connections that another one has announced.
    pub expected: ArrayQueue<Expected>,
    /// Control to worker: frames to send as they are.
    pub inject: ArrayQueue<InjectFrame>,
    /// Set by control to end the worker's loop.
    stop: AtomicU64,
}

impl WorkerLink {
    /// The link of a single worker, for up to `max_reals` real servers and `ports` ports.
    pub fn new(max_reals: usize, ports: usize) -> Arc<Self> {
        Arc::new(Self::sharing(max_reals, ports, Arc::new(Affinity::new(0))))
    }

    /// The links of several workers with room for `clients` persistent clients together.
    pub fn mesh(workers: usize, max_reals: usize, ports: usize, clients: usize) -> Vec<Arc<Self>> {
        let affinity = Arc::new(Affinity::new(if workers > 1 { clients } else { 0 }));
        (0..workers).map(|_| Arc::new(Self::sharing(max_reals, ports, affinity.clone()))).collect()
    }

    fn sharing(max_reals: usize, ports: usize, affinity: Arc<Affinity>) -> Self {
        Self {
            published: AtomicU64::new(0),
            adopted: AtomicU64::new(0),
            mailbox: ArrayQueue::new(1),
            retired: ArrayQueue::new(64),
            counters: CoreCounters::new(max_reals, ports),
            counts: CoreCounts::new(max_reals),
            events: ArrayQueue::new(1024),
            commands: ArrayQueue::new(64),
            answers: ArrayQueue::new(4096),
            affinity,
            expected: ArrayQueue::new(256),
            inject: ArrayQueue::new(256),
            stop: AtomicU64::new(0),
        }
    }

    /// Control: makes `snapshot` the one to adopt at the next burst. Frees what the
    /// worker gave back, and an earlier snapshot that the worker never took.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        let generation = snapshot.generation;
        drop(self.mailbox.force_push(snapshot));
        self.published.store(generation, Ordering::Release);
        self.reclaim();
    }

    /// Control: frees the snapshots that the worker gave back.
    pub fn reclaim(&self) {
        while self.retired.pop().is_some() {}
    }

    /// Control: the generation that the worker works with.
    pub fn adopted_generation(&self) -> u64 {
        self.adopted.load(Ordering::Acquire)
    }

    /// Worker: the newer snapshot, if there is one. One relaxed load when there is none.
    #[inline(always)]
    pub fn newer(&self, current: u64) -> Option<Arc<Snapshot>> {
        if self.published.load(Ordering::Relaxed) == current {
            return None;
        }
        self.take_newer()
    }

    #[cold]
    fn take_newer(&self) -> Option<Arc<Snapshot>> {
        // Without room to give the old one back nothing is adopted: a worker never frees.
        if self.retired.is_full() { None } else { self.mailbox.pop() }
    }

    /// Worker: says which snapshot it works with now and gives the old one back.
    pub fn adopted(&self, generation: u64, old: Arc<Snapshot>) {
        self.adopted.store(generation, Ordering::Release);
        if let Err(old) = self.retired.push(old) {
            // Unreachable: `take_newer` found room and nobody else pushes. Leak rather than free.
            std::mem::forget(old);
        }
    }

    /// Control: asks the worker to return from its loop.
    pub fn stop(&self) {
        self.stop.store(1, Ordering::Release);
    }

    /// Worker: whether it was asked to.
    #[inline(always)]
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed) != 0
    }
}
