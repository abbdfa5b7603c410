//! What operators configure: services, their real servers, and the rules that both obey.
//!
//! Everything here is validated once, at the edge; what comes later relies on it. The
//! types are those of the API and of the state file, so their comments are read by users.

mod draft;
mod key;
mod network;
mod server;
mod service;
mod set;

pub use draft::{Draft, ListChange, ServiceChange};
pub use key::{ParseError, ServerKey, ServiceKey, protocol_name};
pub use network::{MarkRule, Network};
pub use server::{ForwardingMode, GueChecksum, NewServer, RealServer, ServerPatch, Tunnel};
pub(crate) use service::default_persistence_s;
pub use service::{ClientAddress, NewService, Persistence, SchedFlag, Scheduler, Service, ServicePatch};
pub use set::{Limits, Services};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// What kind of mistake a request made. The name is stable: programs may rely on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// There is a service of this key already.
    ServiceExists,
    /// There is no service of this key.
    NoSuchService,
    /// The service has this real server already.
    ServerExists,
    /// The service has no such real server.
    NoSuchServer,
    /// A value is out of range or does not go with another one.
    Invalid,
    /// One of the configured limits is reached.
    LimitReached,
    /// The change could not be written to the state file, so it was not made.
    NotPersisted,
    /// The change can be made by a restart only.
    NeedsRestart,
    /// Too many requests wait already.
    Busy,
    /// A worker did not answer in time.
    Timeout,
    /// The daemon is stopping.
    Stopping,
    /// Something that should not happen happened.
    Internal,
}

/// Why a request was refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What kind of mistake.
    pub code: ErrorCode,
    /// One sentence that names the object and the value.
    pub message: String,
    /// What to do next, where there is something to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The field that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// In a list of operations: the number of the one that was refused, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<usize>,
}

impl Error {
    /// An error without remedy or field.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), remedy: None, field: None, operation: None }
    }
    /// A value that is wrong by itself or beside another one.
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(ErrorCode::Invalid, message) }
    }
    /// The same error with what to do next.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
    /// No service of this key.
    pub fn no_such_service(key: &ServiceKey) -> Self {
        Self::new(ErrorCode::NoSuchService, format!("there is no service {key}"))
            .remedy("list the services to see their keys")
    }
    /// No such real server.
    pub fn no_such_server(key: &ServiceKey, server: &ServerKey) -> Self {
        Self::new(ErrorCode::NoSuchServer, format!("the service {key} has no real server {server}"))
            .remedy("list the service's real servers to see their addresses")
    }
}

/// For fields of patches where `null` removes and absence keeps.
pub(crate) fn present<'de, T, D>(d: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(d).map(Some)
}

/// Skips `false` in output.
pub(crate) fn is_false(b: &bool) -> bool {
    !b
}
