//! From a plan to running workers: DPDK, pool, ports, queues, rings, threads.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use dataplane::flow::hash::Secret;
use dataplane::flow::table::FlowTable;
use dataplane::io::dpdk::{Delivery, DpdkIo, Eal, Mempool, MempoolOptions, Port, PortInfo, PortOptions};
use dataplane::link::WorkerLink;
use dataplane::sched::SchedCore;
use dataplane::units::{QueueId, WorkerId};
use dataplane::worker::{Idle, Relays, Rings, Setup, Worker, run};
use tracing::{info, warn};

/// What the dataplane is to be made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Options for DPDK's environment.
    pub eal_args: Vec<String>,
    /// Packet buffers in the pool.
    pub packets: u32,
    /// Bytes of one buffer, headroom of 128 included.
    pub data_room: u16,
    /// The ports, in order.
    pub ports: Vec<PortOptions>,
    /// The workers' cores.
    pub cores: Vec<usize>,
    /// What an idle worker does; `None` chooses by the devices.
    pub idle: Option<Idle>,
    /// Whether packets are handed to their owner in software; `None` decides by the devices.
    pub software_steering: Option<bool>,
    /// Flows per worker.
    pub flow_capacity: u32,
    /// Of those, so many are found under a second key as well (full NAT).
    pub flow_aliases: u32,
    /// Most services.
    pub max_services: usize,
    /// Most real servers, removed ones that still have flows included.
    pub max_reals: usize,
    /// Megabytes asked of DPDK.
    pub memory_mb: usize,
    /// Real servers in the configuration file.
    pub configured_servers: usize,
}

/// The running dataplane. Dropping it without [`Dataplane::stop`] leaves the workers running.
pub struct Dataplane {
    /// The workers' links.
    pub links: Vec<Arc<WorkerLink>>,
    /// The opened ports.
    pub ports: Vec<Arc<Port>>,
    /// Whether packets are handed to their owner in software.
    pub software_steering: bool,
    /// What an idle worker does.
    pub idle: Idle,
    pool: Arc<Mempool>,
    threads: Vec<JoinHandle<()>>,
}

/// Drivers without hardware behind them: an idle worker relaxes.
fn is_virtual(info: &PortInfo) -> bool {
    info.driver.starts_with("net_")
        && ["tap", "pcap", "af_packet", "af_xdp", "null", "ring", "memif", "virtio_user"]
            .iter()
            .any(|v| info.driver["net_".len()..].starts_with(v))
}

/// Starts DPDK, opens the ports and starts the workers. `epoch` is point zero of all ticks.
pub fn start(plan: &Plan, epoch: Instant) -> Result<Dataplane> {
    let workers = plan.cores.len();
    let eal = Eal::init(&plan.eal_args).context("DPDK did not start")?;
    let mut pool_options = MempoolOptions::new("packets", plan.packets);
    pool_options.data_room = plan.data_room;
    let pool = Mempool::new(&eal, &pool_options)
        .with_context(|| format!("no pool of {} packets; give DPDK more memory ([dpdk] memory_mb)", plan.packets))?;
    let mut ports = Vec::new();
    for options in &plan.ports {
        let port =
            Port::open(&eal, options, &pool).with_context(|| format!("port {} ({})", options.port, options.device))?;
        for note in &port.info().notes {
            info!(port = %options.port, "{note}");
        }
        ports.push(port);
    }
    let by_device = workers > 1 && !ports.iter().all(|p| matches!(p.info().delivery, Delivery::Rss { .. }));
    let software_steering = plan.software_steering.unwrap_or(by_device) && workers > 1;
    let all_virtual = ports.iter().all(|p| is_virtual(p.info()));
    let idle = plan.idle.unwrap_or(if all_virtual { Idle::Relax } else { Idle::Spin });

    let links = WorkerLink::mesh(workers, plan.max_reals, ports.len(), persistent_clients(plan.flow_capacity, workers));
    let secret = Secret::random().context("no random numbers for the flow hash")?;
    let mut relays = relays(&ports, workers);
    let mut threads = Vec::new();
    for (n, rings) in Rings::mesh(workers).into_iter().enumerate() {
        let flows = FlowTable::with_aliases(plan.flow_capacity, plan.flow_aliases, secret).with_context(|| {
            format!("no flow table for {} flows; lower [workers] flow_capacity", plan.flow_capacity)
        })?;
        if n == 0 {
            let (bytes, huge) = (flows.bytes(), flows.is_huge());
            info!(workers, bytes, huge, "each worker has a flow table for {} flows", plan.flow_capacity);
        }
        let io = DpdkIo::new(QueueId(n as u16), &ports, &pool).with_context(|| format!("queues of worker {n}"))?;
        let setup = Setup {
            id: WorkerId(n as u16),
            io,
            flows,
            sched: SchedCore::new(plan.max_services, plan.max_reals),
            secret,
            links: links.clone(),
            rings,
            relays: std::mem::take(&mut relays[n]),
            software_steering,
        };
        threads.push(spawn(n, plan.cores[n], &eal, setup, idle, epoch)?);
    }
    Ok(Dataplane { links, ports, software_steering, idle, pool, threads })
}

/// How many persistent clients the workers can agree on: one for four flows.
pub fn persistent_clients(flow_capacity: u32, workers: usize) -> usize {
    flow_capacity as usize / 4 * workers
}

/// For every port with fewer transmit queues than workers: who sends for whom.
fn relays(ports: &[Arc<Port>], workers: usize) -> Vec<Relays<dataplane::io::dpdk::Mbuf>> {
    let mut all: Vec<_> = (0..workers).map(|_| Relays::default()).collect();
    for port in ports {
        let queues = usize::from(port.info().tx_queues);
        for worker in queues..workers {
            let (to, from) = rtrb::RingBuffer::new(dataplane::worker::HANDOFF_RING);
            all[worker].to.push((port.info().port, to));
            all[worker % queues.max(1)].from.push(from);
        }
    }
    all
}

fn spawn(n: usize, core: usize, eal: &Eal, setup: Setup<DpdkIo>, idle: Idle, epoch: Instant) -> Result<JoinHandle<()>> {
    let eal = eal.clone();
    std::thread::Builder::new()
        .name(format!("worker-{n}"))
        .spawn(move || {
            if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
                warn!(worker = n, core, "the worker cannot be pinned to its core and runs on any");
            }
            let lcore = eal.register_thread();
            if let Err(e) = &lcore {
                warn!(worker = n, "packet buffers come without a cache: {e}");
            }
            let mut worker = Worker::new(setup);
            run(&mut worker, idle, epoch);
            worker.drain();
            worker.io().release();
        })
        .with_context(|| format!("no thread for worker {n}"))
}

impl Dataplane {
    /// Ends the workers and waits for them; then the ports close.
    pub fn stop(self) -> Result<()> {
        for link in &self.links {
            link.stop();
        }
        let mut broken = 0;
        for thread in self.threads {
            broken += usize::from(thread.join().is_err());
        }
        drop(self.ports);
        if self.pool.in_use() > 0 {
            warn!(packets = self.pool.in_use(), "packet buffers were still in use at the end");
        }
        if broken > 0 {
            bail!("{broken} workers ended by a panic");
        }
        Ok(())
    }
}
