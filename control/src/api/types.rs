//! Answers that are more than one of the engine's types: lists stand in objects, so that
//! more can be said beside them later.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::{NeighbourView, PortView, ServerView, ServiceView};
use crate::model::ServiceKey;

/// All services.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ServiceList {
    /// In the order of listings: firewall marks, then by family, protocol, address, port.
    pub services: Vec<ServiceView>,
}

/// The real servers of one service.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ServerList {
    /// The service.
    pub service: ServiceKey,
    /// In the order in which they were added.
    pub servers: Vec<ServerView>,
}

/// The neighbours.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct NeighbourList {
    /// Hosts on connected networks with their Ethernet addresses.
    pub neighbours: Vec<NeighbourView>,
}

/// The ports.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PortList {
    /// In the order of the configuration.
    pub ports: Vec<PortView>,
}

/// The three time-outs of `ipvsadm --set`, seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Timeouts {
    /// TCP, established.
    pub tcp_s: u32,
    /// TCP after a FIN.
    pub tcp_fin_s: u32,
    /// UDP.
    pub udp_s: u32,
}

/// Which of the three time-outs to change, seconds; what is left out stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TimeoutsPatch {
    /// TCP, established.
    pub tcp_s: u32,
    /// TCP after a FIN.
    pub tcp_fin_s: u32,
    /// UDP.
    pub udp_s: u32,
}

/// Whether the daemon answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// Always `ok`; a daemon that is not well answers with status 503.
    pub status: String,
    /// Generation of the newest snapshot.
    pub generation: u64,
}

/// What to zero.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ZeroQuery {
    /// Only this service's statistics.
    pub service: Option<ServiceKey>,
}

/// In which form to show the configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigQuery {
    /// `json` (if left out) or `toml`, the form of the configuration file.
    pub format: ConfigFormat,
}

/// Form of the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConfigFormat {
    /// An object as the API takes it.
    #[default]
    Json,
    /// Tables as the configuration file has them.
    Toml,
}
