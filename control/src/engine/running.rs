//! The whole configuration that the daemon runs with, in the words of the configuration file.
//!
//! Sections and keys are those of docs/configuration.md, defaults filled in; what the API changed
//! (services, time-outs) is as changed, and what waits for a restart is as it still runs. A test
//! reads the text made of it as a file again and wants the same configuration.

use std::collections::BTreeMap;
use std::net::IpAddr;

use dataplane::snapshot::{GonePolicy, Refusal, Settings};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::core::Engine;
use crate::config::{self, Config, Idle, LogFormat, Offload, Steering, TIMEOUT_KEYS};
use crate::model::{Limits, Network, NewService};

/// The configuration that runs now, in the form in which it can be given to a daemon again.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RunningConfig {
    /// Generation of the newest snapshot.
    pub generation: u64,
    /// The configuration file that the daemon was started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_file: Option<String>,
    /// VIPs that are answered for even without a service.
    pub vips: Vec<IpAddr>,
    /// What DPDK was started with.
    pub dpdk: RunningDpdk,
    /// The poll workers.
    pub workers: RunningWorkers,
    /// How much there may be of everything.
    pub limits: Limits,
    /// The ports in the order of their numbers.
    pub ports: Vec<RunningPort>,
    /// Static routes.
    pub routes: Vec<RunningRoute>,
    /// Static neighbours.
    pub neighbours: Vec<RunningNeighbour>,
    /// Settings of the dataplane.
    pub settings: RunningSettings,
    /// The local addresses and ports of full NAT.
    pub full_nat: RunningFullNat,
    /// Time-outs in force by the names of the file, seconds.
    pub timeouts: BTreeMap<String, u32>,
    /// The API's socket.
    pub api: RunningApi,
    /// Where accepted changes are kept.
    pub state: RunningState,
    /// The log.
    pub log: RunningLog,
    /// The services with their real servers.
    pub services: Vec<NewService>,
}

/// What DPDK was started with.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RunningDpdk {
    /// Ordinary memory instead of huge pages.
    pub no_huge: bool,
    /// Memory asked of DPDK, megabytes; worked out if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u32>,
    /// Packet buffers in all; worked out if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packet_buffers: Option<u32>,
    /// Bytes of one packet buffer; worked out if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buffer_bytes: Option<u16>,
    /// Name of DPDK's runtime files.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub file_prefix: String,
    /// More arguments for DPDK's environment abstraction layer.
    pub eal_args: Vec<String>,
}

/// The poll workers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RunningWorkers {
    /// One worker on each of these cores.
    pub cores: Vec<u32>,
    /// What they do without packets: `auto`, `spin` or `relax`.
    pub idle: String,
    /// How packets come to the worker that owns their flow: `auto`, `software` or `rss`.
    pub steering: String,
    /// Flows that each worker can track.
    pub flow_capacity: u32,
}

/// A port.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RunningPort {
    /// Its name.
    pub name: String,
    /// The DPDK device.
    pub device: String,
    /// Its own addresses, of untagged frames.
    pub addresses: Vec<Network>,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Its VLANs.
    pub vlans: Vec<RunningVlan>,
    /// Receive queues; one for each worker if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// Descriptors of each receive queue.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue.
    pub tx_descriptors: u16,
    /// Whether the device takes frames for any station.
    pub promiscuous: bool,
    /// What the device is asked to do for the packets: `auto`, `on` or `off`.
    pub offloads: String,
}

/// A VLAN of a port.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RunningVlan {
    /// Its id, 1 to 4094.
    pub id: u16,
    /// The director's own addresses on it.
    pub addresses: Vec<Network>,
}

/// A static route.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RunningRoute {
    /// The destination; prefix length 0 is the default route.
    pub to: Network,
    /// The gateway.
    pub via: IpAddr,
}

/// A static neighbour.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RunningNeighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: String,
    /// The port's name.
    pub port: String,
    /// The VLAN on that port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
}

/// Settings of the dataplane, by the names that docs/configuration.md explains.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RunningSettings {
    /// A TCP packet without SYN may open a flow.
    pub sloppy_tcp: bool,
    /// An SCTP packet other than INIT may open a flow.
    pub sloppy_sctp: bool,
    /// Lower the TTL in direct routing as well.
    pub dr_decrement_ttl: bool,
    /// What a port without a service answers: `answer` or `silent`.
    pub refusal: String,
    /// ICMP errors and resets a worker sends in a second at most; 0 is no limit.
    pub answer_rate_limit: u32,
    /// What becomes of flows whose real server was removed: `drop`, `kernel`, `reset`, `reschedule`.
    pub removed_server: String,
    /// A template whose real server has weight 0 is not used for new flows.
    pub expire_quiescent_template: bool,
    /// What a SYN on an old flow's ports does, 0 to 3.
    pub conn_reuse_mode: u8,
    /// Tell clients of a smaller path MTU.
    pub pmtu_disc: bool,
    /// Tell a real server that its reply belongs to no flow.
    pub nat_icmp_send: bool,
    /// Route packets that belong to no service and no flow.
    pub routing: bool,
    /// The stricter TCP state table, 0 to 3.
    pub secure_tcp: u8,
    /// With it, how long a connection may be half open, seconds; 0 leaves the ordinary time-outs.
    pub secure_half_open: u32,
    /// Evict half-open flows at random, 0 to 3.
    pub drop_entry: u8,
    /// Drop some of the packets that open flows, 0 to 3.
    pub drop_packet: u8,
    /// With 3, one of so many.
    pub drop_packet_rate: u16,
    /// From how many percent of the flow table on it counts as nearly full.
    pub overload_percent: u8,
    /// Schedule ICMP to a VIP as well.
    pub schedule_icmp: bool,
}

/// The local addresses and ports of full NAT.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RunningFullNat {
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// First and last port, such as `1024-65535`.
    pub ports: String,
}

/// The API's socket.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RunningApi {
    /// Its path.
    pub socket: String,
    /// Its permissions in octal, such as `0660`.
    pub mode: String,
    /// Its group; the daemon's if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Most connections at a time.
    pub max_connections: u32,
    /// Largest request body, bytes.
    pub max_request_bytes: u32,
}

/// Where accepted changes are kept.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RunningState {
    /// The file; empty for none.
    pub file: String,
}

/// The log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RunningLog {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// `text` or `json`.
    pub format: String,
}

impl Engine {
    /// What runs now.
    pub(super) fn running_config(&self) -> RunningConfig {
        RunningConfig {
            generation: self.generation,
            services: self.services.iter().map(|s| NewService::from(&**s)).collect(),
            ..RunningConfig::of(&self.config, &self.settings())
        }
    }
}

impl RunningConfig {
    /// A configuration with other settings than its own, such as time-outs that were changed.
    pub fn of(c: &Config, settings: &Settings) -> Self {
        let seconds = |state| settings.timeouts.get(state) / 1000;
        Self {
            generation: 0,
            config_file: c.path.as_ref().map(|p| p.display().to_string()),
            vips: c.vips.clone(),
            dpdk: RunningDpdk {
                no_huge: c.dpdk.no_huge,
                memory_mb: c.dpdk.memory_mb,
                packet_buffers: c.dpdk.packet_buffers,
                buffer_bytes: c.dpdk.buffer_bytes,
                file_prefix: c.dpdk.file_prefix.clone(),
                eal_args: c.dpdk.eal_args.clone(),
            },
            workers: workers(&c.workers),
            limits: c.limits,
            ports: c.ports.iter().map(port).collect(),
            routes: c.routes.iter().map(|r| RunningRoute { to: r.to, via: r.via }).collect(),
            neighbours: neighbours(c),
            settings: RunningSettings::from(settings),
            full_nat: RunningFullNat {
                addresses: settings.full_nat.addresses.iter().map(|a| a.to_std()).collect(),
                ports: format!("{}-{}", settings.full_nat.ports.0, settings.full_nat.ports.1),
            },
            timeouts: TIMEOUT_KEYS.iter().map(|(key, state)| ((*key).to_owned(), seconds(*state))).collect(),
            api: RunningApi {
                socket: c.api.socket.display().to_string(),
                mode: format!("{:04o}", c.api.mode),
                group: c.api.group.clone(),
                max_connections: c.api.max_connections,
                max_request_bytes: c.api.max_request_bytes,
            },
            state: RunningState { file: c.state_file.as_ref().map(|f| f.display().to_string()).unwrap_or_default() },
            log: RunningLog {
                level: c.log.level.clone(),
                format: match c.log.format {
                    LogFormat::Text => "text".into(),
                    LogFormat::Json => "json".into(),
                },
            },
            services: c.services.iter().map(|s| NewService::from(&**s)).collect(),
        }
    }
}

fn workers(w: &config::Workers) -> RunningWorkers {
    RunningWorkers {
        cores: w.cores.clone(),
        idle: match w.idle {
            Idle::Auto => "auto".into(),
            Idle::Spin => "spin".into(),
            Idle::Relax => "relax".into(),
        },
        steering: match w.steering {
            Steering::Auto => "auto".into(),
            Steering::Software => "software".into(),
            Steering::Rss => "rss".into(),
        },
        flow_capacity: w.flow_capacity,
    }
}

fn port(p: &config::Port) -> RunningPort {
    let vlan = |v: &config::Vlan| RunningVlan { id: v.id, addresses: v.addresses.clone() };
    RunningPort {
        name: p.name.clone(),
        device: p.device.clone(),
        addresses: p.addresses.clone(),
        mtu: p.mtu,
        vlans: p.vlans.iter().map(vlan).collect(),
        queues: p.queues,
        rx_descriptors: p.rx_descriptors,
        tx_descriptors: p.tx_descriptors,
        promiscuous: p.promiscuous,
        offloads: match p.offloads {
            Offload::Auto => "auto".into(),
            Offload::On => "on".into(),
            Offload::Off => "off".into(),
        },
    }
}

fn neighbours(c: &Config) -> Vec<RunningNeighbour> {
    let port = |n: usize| c.ports.get(n).map(|p| p.name.clone()).unwrap_or_default();
    let one = |n: &config::StaticNeighbour| RunningNeighbour {
        address: n.address,
        mac: n.mac.to_string(),
        port: port(n.port),
        vlan: n.vlan,
    };
    c.neighbours.iter().map(one).collect()
}

impl From<&Settings> for RunningSettings {
    fn from(s: &Settings) -> Self {
        Self {
            sloppy_tcp: s.sloppy_tcp,
            sloppy_sctp: s.sloppy_sctp,
            dr_decrement_ttl: s.dr_decrement_ttl,
            refusal: match s.refusal {
                Refusal::Answer => "answer".into(),
                Refusal::Silent => "silent".into(),
            },
            answer_rate_limit: s.answer_rate_limit,
            removed_server: match s.gone {
                GonePolicy::Drop => "drop".into(),
                GonePolicy::Kernel => "kernel".into(),
                GonePolicy::Reset => "reset".into(),
                GonePolicy::Reschedule => "reschedule".into(),
            },
            expire_quiescent_template: s.expire_quiescent_template,
            conn_reuse_mode: s.conn_reuse_mode,
            pmtu_disc: s.pmtu_disc,
            nat_icmp_send: s.nat_icmp_send,
            routing: s.routing,
            secure_tcp: s.secure_tcp,
            secure_half_open: s.secure_half_open_ms / 1000,
            drop_entry: s.drop_entry,
            drop_packet: s.drop_packet,
            drop_packet_rate: s.drop_packet_rate,
            overload_percent: s.overload_percent,
            schedule_icmp: s.schedule_icmp,
        }
    }
}
