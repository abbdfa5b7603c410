//! The configuration file: TOML into typed values, with every mistake at once.

mod error;
mod network;
mod read;
mod reader;
mod reload;
mod services;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use dataplane::snapshot::Settings;
use dataplane::units::Mac;

pub use error::{ConfigError, render};
pub use read::TIMEOUT_KEYS;

use crate::model::{Limits, Network, Services};

/// Everything that the file says, with defaults filled in.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Config {
    /// The file it was read from.
    pub path: Option<PathBuf>,
    /// What DPDK is started with.
    pub dpdk: Dpdk,
    /// The poll workers.
    pub workers: Workers,
    /// The ports in the order of their numbers.
    pub ports: Vec<Port>,
    /// Static routes.
    pub routes: Vec<Route>,
    /// Static neighbours.
    pub neighbours: Vec<StaticNeighbour>,
    /// VIPs that are answered for even without a service.
    pub vips: Vec<IpAddr>,
    /// Settings of the dataplane, time-outs included.
    pub settings: Settings,
    /// How much there may be of everything.
    pub limits: Limits,
    /// The API's socket.
    pub api: Api,
    /// Where accepted changes are kept; `None` keeps them in memory only.
    pub state_file: Option<PathBuf>,
    /// The log.
    pub log: Log,
    /// The services.
    pub services: Services,
    /// What is allowed but looks like a mistake.
    pub warnings: Vec<String>,
}

/// What DPDK is started with.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Dpdk {
    /// Ordinary memory instead of huge pages.
    pub no_huge: bool,
    /// Memory for packets and tables, megabytes; `None` lets the daemon work it out.
    pub memory_mb: Option<u32>,
    /// Name of DPDK's runtime files; daemons side by side need different ones.
    pub file_prefix: String,
    /// More arguments for DPDK's environment abstraction layer.
    pub eal_args: Vec<String>,
    /// Packet buffers in all; `None` lets the daemon work it out.
    pub packet_buffers: Option<u32>,
    /// Bytes of one packet buffer, DPDK's headroom of 128 included; `None` fits the largest MTU.
    pub buffer_bytes: Option<u16>,
}

/// What a worker does when no packet comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Idle {
    /// Spin if any port is a NIC, relax if all are virtual devices.
    #[default]
    Auto,
    /// Poll on: lowest latency, a core in full use.
    Spin,
    /// Sleep some tens of microseconds after many empty polls.
    Relax,
}

/// How packets come to the worker that owns their flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Steering {
    /// By the NIC where it can, else by software.
    #[default]
    Auto,
    /// Worker to worker, over rings.
    Software,
    /// By the NIC's receive-side scaling; an error where the device has none.
    Rss,
}

/// What a port's device is asked to do for the packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// What it offers, unless that is software.
    #[default]
    Auto,
    /// What it offers, software or not.
    On,
    /// Nothing.
    Off,
}

/// The poll workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    /// One worker on each of these cores.
    pub cores: Vec<u32>,
    /// What they do when no packet comes.
    pub idle: Idle,
    /// How packets come to the worker that owns their flow.
    pub steering: Steering,
    /// Flows that each worker can track.
    pub flow_capacity: u32,
}

impl Default for Workers {
    fn default() -> Self {
        Self { cores: vec![0], idle: Idle::Auto, steering: Steering::Auto, flow_capacity: 262_144 }
    }
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name here, in the log and in `polluxctl`.
    pub name: String,
    /// A DPDK device: a PCI address, or a virtual device with its arguments.
    pub device: String,
    /// Its own addresses, of untagged frames.
    pub addresses: Vec<Network>,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Its VLANs.
    pub vlans: Vec<Vlan>,
    /// Receive queues; `None` is one for each worker where the device has them.
    pub queues: Option<u16>,
    /// Descriptors of each receive queue.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue.
    pub tx_descriptors: u16,
    /// Whether the device is to take frames for any station.
    pub promiscuous: bool,
    /// What the device is asked to do for the packets.
    pub offloads: Offload,
}

impl Port {
    /// A port with defaults.
    pub fn new(name: &str, device: &str) -> Self {
        Self {
            name: name.into(),
            device: device.into(),
            addresses: Vec::new(),
            mtu: 1500,
            vlans: Vec::new(),
            queues: None,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            promiscuous: false,
            offloads: Offload::Auto,
        }
    }
}

/// A VLAN of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// Its id, 1 to 4094.
    pub id: u16,
    /// The director's own addresses on it.
    pub addresses: Vec<Network>,
}

/// A static route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The destination; prefix length 0 is the default route.
    pub to: Network,
    /// The gateway, on a connected network.
    pub via: IpAddr,
}

/// A neighbour whose Ethernet address is not asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticNeighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Index of the port.
    pub port: usize,
    /// The VLAN on that port.
    pub vlan: Option<u16>,
}

/// The API's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// Its path.
    pub socket: PathBuf,
    /// Its permissions.
    pub mode: u32,
    /// Its group; `None` leaves the daemon's.
    pub group: Option<String>,
    /// Most connections at a time.
    pub max_connections: u32,
    /// Largest request body, bytes.
    pub max_request_bytes: u32,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            socket: "/run/pollux/pollux.sock".into(),
            mode: 0o660,
            group: None,
            max_connections: 64,
            max_request_bytes: 16 << 20,
        }
    }
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// How it is written.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

/// Largest configuration file, bytes.
const MAX_FILE: u64 = 64 << 20;

/// Reads a file. All mistakes are told at once, in the order of the text.
pub fn load(path: &Path) -> Result<Config, Vec<ConfigError>> {
    let name = path.display().to_string();
    let fail = |message: String, remedy: &str| vec![ConfigError::of_file(&name, message, remedy)];
    let length = std::fs::metadata(path).map(|m| m.len());
    if length.is_ok_and(|l| l > MAX_FILE) {
        return Err(fail("the file is larger than 64 MB".into(), "name the configuration file"));
    }
    let bytes = std::fs::read(path)
        .map_err(|e| fail(format!("cannot read the file: {e}"), "name a readable file with --config"))?;
    let text = String::from_utf8(bytes)
        .map_err(|e| fail(format!("byte {} is not UTF-8", e.utf8_error().valid_up_to()), "save the file as UTF-8"))?;
    let mut config = parse(&name, &text)?;
    config.path = Some(path.to_owned());
    Ok(config)
}

/// Reads a text; `file` is the name that mistakes are told with.
pub fn parse(file: &str, text: &str) -> Result<Config, Vec<ConfigError>> {
    read::parse(file, text)
}

/// What `polluxd --check` prints and exits with.
pub fn check(path: &Path) -> (String, bool) {
    match load(path) {
        Ok(c) => {
            let mut out = String::new();
            for w in &c.warnings {
                out.push_str(&format!("warning: {w}\n"));
            }
            let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
            out.push_str(&format!(
                "{}: correct: {}, {}, {}, {}\n",
                path.display(),
                count(c.ports.len(), "port"),
                count(c.workers.cores.len(), "worker"),
                count(c.services.len(), "service"),
                count(c.services.server_count(), "real server"),
            ));
            (out, true)
        }
        Err(errors) => (render(&errors), false),
    }
}
