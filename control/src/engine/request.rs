//! What the engine is asked.

use std::net::IpAddr;

use dataplane::units::Protocol;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::report::{Accepted, FlowPage, NeighbourView, PortView, ServiceView, Stats, Status, Version};
use super::running::RunningConfig;
use crate::model::{Error, NewServer, NewService, ServerKey, ServerPatch, ServiceKey, ServicePatch};

/// One change. A request carries a list of them, of which all are made or none.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Operation {
    /// Adds a service, with or without real servers.
    AddService {
        /// The service.
        service: NewService,
    },
    /// Adds a service or replaces the one of the same key, real servers included.
    PutService {
        /// The service.
        service: NewService,
    },
    /// Changes a service.
    SetService {
        /// Which one.
        address: ServiceKey,
        /// What to change.
        set: ServicePatch,
    },
    /// Removes a service with its real servers.
    DeleteService {
        /// Which one.
        address: ServiceKey,
    },
    /// Adds a real server.
    AddServer {
        /// The service.
        service: ServiceKey,
        /// The real server.
        server: NewServer,
    },
    /// Changes a real server.
    SetServer {
        /// The service.
        service: ServiceKey,
        /// The real server.
        address: ServerKey,
        /// What to change.
        set: ServerPatch,
    },
    /// Removes a real server.
    DeleteServer {
        /// The service.
        service: ServiceKey,
        /// The real server.
        address: ServerKey,
    },
    /// Removes all services.
    Flush,
    /// Sets the three time-outs that `ipvsadm --set` knows, seconds; 0 keeps one.
    SetTimeouts {
        /// TCP, established.
        #[serde(default)]
        tcp_s: u32,
        /// TCP after a FIN.
        #[serde(default)]
        tcp_fin_s: u32,
        /// UDP.
        #[serde(default)]
        udp_s: u32,
    },
    /// Starts the statistics of a service, or of everything, at zero again.
    Zero {
        /// Which one; all if left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<ServiceKey>,
    },
}

/// A list of changes: all are made or none.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The changes in order.
    pub operations: Vec<Operation>,
    /// Answer only when every worker works with the change (else when it is published,
    /// and every worker adopts it with its next burst).
    #[serde(default)]
    pub wait: bool,
}

/// Which flows are wanted; what is left out matches all.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FlowQuery {
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The virtual address.
    pub vip: Option<IpAddr>,
    /// The service.
    pub service: Option<ServiceKey>,
    /// The real server of that service.
    pub server: Option<ServerKey>,
    /// The protocol.
    #[schemars(with = "Option<String>")]
    pub protocol: Option<Protocol>,
    /// Most rows wanted, 1 to 4096 (100 if left out).
    pub limit: Option<u32>,
    /// `next` of the page before.
    pub cursor: Option<String>,
}

/// Which flows to end before their time. Something must be named.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EndFlows {
    /// Those of this service.
    pub service: Option<ServiceKey>,
    /// Of them, those to this real server; one that was removed counts while it has flows.
    pub server: Option<ServerKey>,
    /// All flows.
    pub all: bool,
}

/// A request.
#[derive(Clone, PartialEq, Debug)]
pub enum Request {
    /// Changes services.
    Change(Change),
    /// All services with their real servers and numbers.
    Services,
    /// One service.
    Service(ServiceKey),
    /// All statistics.
    Stats,
    /// A page of flows.
    Flows(FlowQuery),
    /// Ends flows.
    EndFlows(EndFlows),
    /// The neighbours.
    Neighbours,
    /// The ports.
    Ports,
    /// What the daemon is.
    Version,
    /// How the daemon is.
    Status,
    /// The time-outs of `ipvsadm --set`: TCP, TCP after a FIN, UDP, seconds.
    Timeouts,
    /// The configuration that runs.
    Config,
    /// Reads the configuration file again.
    Reload,
}

/// An answer to the request of the same name.
#[derive(Clone, PartialEq, Debug)]
pub enum Response {
    /// To [`Request::Change`], [`Request::EndFlows`] and [`Request::Reload`].
    Accepted(Accepted),
    /// To [`Request::Services`].
    Services(Vec<ServiceView>),
    /// To [`Request::Service`].
    Service(Box<ServiceView>),
    /// To [`Request::Stats`].
    Stats(Box<Stats>),
    /// To [`Request::Flows`].
    Flows(FlowPage),
    /// To [`Request::Neighbours`].
    Neighbours(Vec<NeighbourView>),
    /// To [`Request::Ports`].
    Ports(Vec<PortView>),
    /// To [`Request::Version`].
    Version(Version),
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Timeouts`]: TCP, TCP after a FIN, UDP, seconds.
    Timeouts(u32, u32, u32),
    /// To [`Request::Config`].
    Config(Box<RunningConfig>),
}

/// What a request ends with.
pub type Reply = Result<Response, Error>;
