//! One loop: request, model, state file, snapshot, publish, answer.

mod handle;
mod report;
mod request;

pub use handle::{EngineHandle, Envelope, QUEUE};
pub use report::*;
pub use request::{Change, FlowQuery, Operation, Reply, Request, Response};
