//! What the engine answers: services with their numbers, statistics, flows, neighbours.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dataplane::snapshot::DeviceWork;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{
    ClientAddress, ForwardingMode, MarkRule, Persistence, SchedFlag, Scheduler, ServerKey, ServiceKey, Tunnel,
};

/// Traffic since the start or the last `zero`. Bytes are IP total lengths.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Traffic {
    /// Flows opened.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Packets from real servers.
    pub out_packets: u64,
    /// Bytes from clients.
    pub in_bytes: u64,
    /// Bytes from real servers.
    pub out_bytes: u64,
}

/// Traffic per second: every two seconds a quarter of the way to the newest value, as the
/// kernel's IPVS smooths it.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Rates {
    /// Flows opened per second.
    pub connections: f64,
    /// Packets from clients per second.
    pub in_packets: f64,
    /// Packets from real servers per second.
    pub out_packets: f64,
    /// Bytes from clients per second.
    pub in_bytes: f64,
    /// Bytes from real servers per second.
    pub out_bytes: f64,
}

/// A real server as it stands.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ServerView {
    /// Address and port.
    pub address: ServerKey,
    /// How packets reach it.
    pub mode: ForwardingMode,
    /// The wrapping, with mode `tunnel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Tunnel>,
    /// Share of new flows; 0 drains it.
    pub weight: u32,
    /// Takes no new flow at this many connections; 0 is no limit.
    pub upper_threshold: u32,
    /// Takes new flows again below this many; 0 means three quarters of the upper one.
    pub lower_threshold: u32,
    /// Established connections (for UDP, all flows).
    pub active_connections: u32,
    /// Flows in any other state.
    pub inactive_connections: u32,
    /// Persistence templates that point to it.
    pub persistent_connections: u32,
    /// Whether the Ethernet address of the next hop towards it is known.
    pub resolved: bool,
    /// Traffic since the start or the last `zero`.
    pub traffic: Traffic,
    /// Traffic per second.
    pub rates: Rates,
}

/// A service as it stands.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ServiceView {
    /// What names it.
    pub address: ServiceKey,
    /// Who gets a new flow.
    pub scheduler: Scheduler,
    /// Flags of the scheduler.
    #[serde(default)]
    pub sched_flags: BTreeSet<SchedFlag>,
    /// Persistence, if any.
    #[serde(default)]
    pub persistence: Option<Persistence>,
    /// Every UDP packet is scheduled by itself.
    pub one_packet: bool,
    /// How real servers are told clients' addresses.
    #[serde(default, skip_serializing_if = "ClientAddress::is_none")]
    pub client_address: ClientAddress,
    /// FTP's control connection is followed to its data connections.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ftp: bool,
    /// For a firewall mark: what traffic carries it.
    #[serde(default)]
    pub rules: Vec<MarkRule>,
    /// Traffic since the start or the last `zero`, that of removed servers included.
    pub traffic: Traffic,
    /// Traffic per second.
    pub rates: Rates,
    /// Its real servers in the order in which they were added.
    pub servers: Vec<ServerView>,
}

/// What a port is. Told by the daemon at the start.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct PortFacts {
    /// The name in the configuration.
    pub name: String,
    /// The device as configured.
    pub device: String,
    /// The driver that serves it.
    pub driver: String,
    /// The Ethernet address.
    pub mac: String,
    /// Largest IP packet that fits, bytes.
    pub mtu: u16,
    /// Whether the link is up; may be out of date, see the daemon's log.
    #[serde(default)]
    pub link_up: Option<bool>,
    /// Receive queues, one for each worker that receives from it.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// How packets come to their worker: `rss`, `software`, or `single` with one worker.
    pub steering: String,
    /// Checksums and tags that the device does by itself.
    #[serde(default)]
    pub offloads: Vec<String>,
    /// Whatever else the daemon knows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
    /// The same of `offloads`, as the dataplane is told.
    #[serde(skip)]
    pub work: DeviceWork,
}

/// A port with its counters, summed over the workers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PortView {
    /// What it is.
    pub facts: PortFacts,
    /// Its addresses, those of its VLANs included.
    pub addresses: Vec<String>,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received, Ethernet headers included.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent, Ethernet headers included.
    pub tx_bytes: u64,
}

/// Packets that went no further for one reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DropView {
    /// The reason's name.
    pub reason: String,
    /// The reason in one sentence.
    pub description: String,
    /// Packets since the start or the last `zero`.
    pub packets: u64,
}

/// One worker.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WorkerView {
    /// Its number.
    pub worker: u16,
    /// The core it runs on, if known.
    pub core: Option<u32>,
    /// Generation of the snapshot it works with.
    pub generation: u64,
    /// Share of its cycles spent on polls that received something, 0 to 1.
    pub busy: f64,
    /// Its counters by name.
    pub counters: BTreeMap<String, u64>,
    /// Packets dropped by it, by reason; reasons that never occurred are left out.
    pub drops: BTreeMap<String, u64>,
}

/// All statistics at one moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Stats {
    /// Traffic of all services.
    pub traffic: Traffic,
    /// Traffic of all services per second.
    pub rates: Rates,
    /// Flows live now.
    pub flows: u64,
    /// Per service and real server.
    pub services: Vec<ServiceView>,
    /// Per port.
    pub ports: Vec<PortView>,
    /// Per worker.
    pub workers: Vec<WorkerView>,
    /// Per drop reason, all of them, summed over the workers.
    pub drops: Vec<DropView>,
}

/// One flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FlowView {
    /// `tcp`, `udp`, `sctp`, or the protocol's number.
    pub protocol: String,
    /// The client's address; for a persistence template the network's.
    pub client: IpAddr,
    /// The client's port, 0 for a template.
    pub client_port: u16,
    /// The virtual address.
    pub vip: IpAddr,
    /// The virtual port.
    pub vip_port: u16,
    /// The real server's address; none for a server that is quite forgotten.
    pub server: Option<ServerKey>,
    /// The service, unless it was removed.
    pub service: Option<ServiceKey>,
    /// The state as `ipvsadm -Lnc` names it.
    pub state: String,
    /// How packets reach the real server.
    pub mode: String,
    /// Milliseconds until it ends unless a packet comes.
    pub expires_ms: u32,
    /// A persistence template rather than a flow.
    pub template: bool,
    /// Full NAT: the local address and port that the real server sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<ServerKey>,
    /// The worker that owns it.
    pub worker: u16,
}

/// One page of flows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FlowPage {
    /// The rows, in no particular order.
    pub flows: Vec<FlowView>,
    /// Where the next page starts; none after the last one.
    pub next: Option<String>,
}

/// How sure the neighbour's Ethernet address is (RFC 4861, section 7.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NeighbourState {
    /// From the configuration; never asked for.
    Static,
    /// Asked for, no answer yet.
    Incomplete,
    /// Known to be right a short while ago.
    Reachable,
    /// Known, but not confirmed for a while.
    Stale,
    /// Known and being asked for again.
    Probe,
    /// Does not answer.
    Failed,
}

/// One neighbour.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct NeighbourView {
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address, once known.
    pub mac: Option<String>,
    /// The port it is on.
    pub port: String,
    /// The VLAN on that port.
    #[serde(default)]
    pub vlan: Option<u16>,
    /// How sure that is.
    pub state: NeighbourState,
    /// What it is for: `server`, `gateway`, `static` or `client`.
    pub role: String,
    /// Seconds since the address was last confirmed.
    pub age_s: Option<u32>,
}

/// What the daemon is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Version {
    /// Always `pollux`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Versions of the API it speaks.
    pub api: Vec<String>,
    /// What else is known of the build: the commit, the DPDK version.
    pub build: BTreeMap<String, String>,
}

/// How the daemon is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Generation of the newest snapshot.
    pub generation: u64,
    /// Generation that each worker works with.
    pub adopted: Vec<u64>,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// The configuration file.
    pub config_file: Option<String>,
    /// The state file.
    pub state_file: Option<String>,
    /// Where the services came from: `file`, `state` or `none`.
    pub services_from: String,
    /// Whether services were changed by the API since the file was read.
    pub changed_by_api: bool,
    /// Number of services.
    pub services: u64,
    /// Number of real servers.
    pub servers: u64,
    /// What an operator should know.
    pub warnings: Vec<String>,
    /// What a restart would change.
    pub needs_restart: Vec<String>,
}

/// What a change did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Accepted {
    /// Generation of the snapshot that holds the change.
    pub generation: u64,
    /// Generation that each worker works with.
    pub adopted: Vec<u64>,
    /// What an operator should know, such as what needs a restart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}
