//! The engine as other tasks reach it.

use tokio::sync::{mpsc, oneshot};

use super::report::{Accepted, FlowPage, NeighbourView, PortView, ServiceView, Stats, Status, Version};
use super::request::{Change, EndFlows, FlowQuery, Operation, Reply, Request, Response};
use super::running::RunningConfig;
use crate::model::{Error, ErrorCode, ServiceKey};

/// A request on its way to the engine.
#[derive(Debug)]
pub struct Envelope {
    /// The request.
    pub request: Request,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Reply>,
}

/// Sends requests to the engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    sender: mpsc::Sender<Envelope>,
}

/// Requests that may wait for the engine.
pub const QUEUE: usize = 256;

macro_rules! query {
    ($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty)?) -> $out:ty, $request:expr, $variant:pat => $value:expr) => {
        $(#[$doc])*
        pub async fn $name(&self $(, $arg: $ty)?) -> Result<$out, Error> {
            match self.request($request).await? {
                $variant => Ok($value),
                other => Err(mismatch(&other)),
            }
        }
    };
}

impl EngineHandle {
    /// A handle and the engine's end of it.
    pub fn new() -> (Self, mpsc::Receiver<Envelope>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self { sender }, receiver)
    }

    /// Asks the engine. Waits for the answer, refuses when too many wait already.
    pub async fn request(&self, request: Request) -> Reply {
        let (reply, answer) = oneshot::channel();
        self.sender.try_send(Envelope { request, reply }).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => {
                Error::new(ErrorCode::Busy, format!("{QUEUE} requests wait already")).remedy("try again in a moment")
            }
            mpsc::error::TrySendError::Closed(_) => stopping(),
        })?;
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Makes one change and answers when it is published.
    pub async fn apply(&self, operation: Operation) -> Result<Accepted, Error> {
        let change = Change { operations: vec![operation], wait: false };
        // The number of the operation helps only where there are several.
        self.change(change).await.map_err(|e| Error { operation: None, ..e })
    }

    query! {
        /// Makes a list of changes, all or none.
        change(change: Change) -> Accepted, Request::Change(change), Response::Accepted(a) => a
    }
    query! {
        /// All services with their real servers and numbers.
        services() -> Vec<ServiceView>, Request::Services, Response::Services(s) => s
    }
    query! {
        /// One service.
        service(key: ServiceKey) -> ServiceView, Request::Service(key), Response::Service(s) => *s
    }
    query! {
        /// All statistics.
        stats() -> Stats, Request::Stats, Response::Stats(s) => *s
    }
    query! {
        /// A page of flows.
        flows(query: FlowQuery) -> FlowPage, Request::Flows(query), Response::Flows(f) => f
    }
    query! {
        /// Ends flows before their time.
        end_flows(which: EndFlows) -> Accepted, Request::EndFlows(which), Response::Accepted(a) => a
    }
    query! {
        /// The neighbours.
        neighbours() -> Vec<NeighbourView>, Request::Neighbours, Response::Neighbours(n) => n
    }
    query! {
        /// The ports.
        ports() -> Vec<PortView>, Request::Ports, Response::Ports(p) => p
    }
    query! {
        /// What the daemon is.
        version() -> Version, Request::Version, Response::Version(v) => v
    }
    query! {
        /// How the daemon is.
        status() -> Status, Request::Status, Response::Status(s) => *s
    }
    query! {
        /// The time-outs of `ipvsadm --set`: TCP, TCP after a FIN, UDP, seconds.
        timeouts() -> (u32, u32, u32), Request::Timeouts, Response::Timeouts(a, b, c) => (a, b, c)
    }
    query! {
        /// The configuration that runs.
        config() -> RunningConfig, Request::Config, Response::Config(c) => *c
    }
    query! {
        /// Reads the configuration file again.
        reload() -> Accepted, Request::Reload, Response::Accepted(a) => a
    }
}

fn stopping() -> Error {
    Error::new(ErrorCode::Stopping, "the daemon is stopping")
}

fn mismatch(got: &Response) -> Error {
    let name: String = format!("{got:?}").chars().take(40).collect();
    Error::new(ErrorCode::Internal, format!("the engine answered another question: {name}"))
}
