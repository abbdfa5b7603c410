//! `polluxd`: wires configuration, control and dataplane together.

mod log;
mod plan;
mod workers;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use ::dataplane::io::dpdk::Eal;
use anyhow::{Context, Result};
use clap::Parser;
use control::api::{ApiLimits, router};
use control::config::{self, Config};
use control::engine::{self, Engine, EngineHandle};
use control::server::{self, Listener, ServeLimits};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

/// The Pollux director: a layer-4 load balancer on DPDK.
///
/// SIGTERM stops it, SIGHUP makes it read the configuration file again.
#[derive(Parser)]
#[command(version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("POLLUX_COMMIT"), ")"))]
struct Args {
    /// The configuration file (TOML; see docs/configuration.md).
    #[arg(long, short, default_value = "/etc/pollux/pollux.toml")]
    config: PathBuf,
    /// Only checks the file: prints every mistake, or that there is none and how much memory it
    /// takes.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.check {
        let (text, correct) = config::check(&args.config);
        if correct {
            print!("{text}");
            if let Ok(config) = config::load(&args.config) {
                println!("{}", plan::memory_summary(&plan::plan(&config)));
            }
        } else {
            eprint!("{text}");
        }
        return ExitCode::from(u8::from(!correct));
    }
    let config = match config::load(&args.config) {
        Ok(config) => config,
        Err(errors) => {
            eprint!("{}", config::render(&errors));
            return ExitCode::FAILURE;
        }
    };
    log::start(&config.log);
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> Result<()> {
    let epoch = Instant::now();
    for w in &config.warnings {
        warn!("{w}");
    }
    // From here on no signal ends the daemon where it stands.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no event loop")?;
    let signals = runtime.block_on(async { Signals::new() })?;
    // The socket next: a second daemon must not touch the ports of the first.
    let listener = server::bind(&config.api.socket, config.api.mode, config.api.group.as_deref())?;
    let plan = plan::plan(&config);
    info!("{}", plan::memory_summary(&plan));
    if config.dpdk.no_huge {
        warn!(
            "no_huge: tables and packets lie in ordinary memory, which costs speed: with many flows nearly every \
             look-up misses the processor's address cache. Set vm.nr_hugepages and drop it for production"
        );
    }
    let dataplane = workers::start(&plan, epoch)?;
    for port in &dataplane.ports {
        let i = port.info();
        let name = config.ports.get(i.port.index()).map_or("", |p| p.name.as_str());
        info!(
            port = name, device = %i.device, driver = %i.driver, mac = %i.mac, mtu = i.mtu,
            rx_queues = i.rx_queues, tx_queues = i.tx_queues, "port open"
        );
    }
    let setup = engine::Setup {
        links: dataplane.links.clone(),
        ports: plan::port_facts(&config, &dataplane),
        build: build_facts(),
        announce: true,
        config,
    };
    let served = serve(&runtime, signals, setup, listener, epoch);
    let stopped = dataplane.stop();
    served.and(stopped)?;
    info!("stopped");
    Ok(())
}

/// Serves the API and drives the engine, on this thread, until a signal comes.
fn serve(
    runtime: &tokio::runtime::Runtime,
    mut signals: Signals,
    setup: engine::Setup,
    listener: Listener,
    epoch: Instant,
) -> Result<()> {
    let clock = move || u64::try_from(epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
    let api_limits = ApiLimits::with_largest(setup.config.api.max_request_bytes as usize);
    let limits = ServeLimits { max_connections: setup.config.api.max_connections as usize, ..ServeLimits::default() };
    let socket = setup.config.api.socket.clone();
    let engine = Engine::new(setup, clock())?;
    runtime.block_on(async {
        let (handle, requests) = EngineHandle::new();
        let (stop_serving, serving_stops) = watch::channel(false);
        let (stop_engine, engine_stops) = watch::channel(false);
        let until = |mut stopping: watch::Receiver<bool>| async move {
            let _ = stopping.wait_for(|stop| *stop).await;
        };
        let serving = tokio::spawn(server::serve(listener, router(handle, api_limits), limits, until(serving_stops)));
        let engine = tokio::spawn(engine::run(engine, requests, signals.hangup, clock, until(engine_stops)));
        info!(socket = %socket.display(), "ready");
        tokio::select! {
            _ = signals.terminate.recv() => info!("stopping on SIGTERM"),
            _ = signals.interrupt.recv() => info!("stopping on SIGINT"),
        }
        // First nobody may ask any more, then nobody is there to answer.
        let _ = stop_serving.send(true);
        let served = serving.await;
        let _ = stop_engine.send(true);
        engine.await??;
        served??;
        Ok(())
    })
}

/// The signals that the daemon listens to; one that comes before it does is kept.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

fn build_facts() -> BTreeMap<String, String> {
    [("commit", env!("POLLUX_COMMIT").to_owned()), ("dpdk", Eal::version())]
        .map(|(k, v)| (k.to_owned(), v))
        .into_iter()
        .collect()
}
