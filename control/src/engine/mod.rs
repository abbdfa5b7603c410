//! One loop: request, model, state file, snapshot, publish, answer.
//!
//! [`Engine`] is synchronous and takes the time as an argument, so that tests drive it and
//! workers in virtual time in one thread; [`run`] is the task around it, and
//! [`EngineHandle`] how other tasks reach it.

mod change;
mod core;
mod end_flows;
mod flows;
mod handle;
mod query;
mod report;
mod request;
mod run;
mod running;
mod statistics;
mod tables;
mod tick;

#[cfg(test)]
mod tests;

pub use self::core::{Engine, EngineError, Setup};
pub use handle::{EngineHandle, Envelope, QUEUE};
pub use report::*;
pub use request::{Change, EndFlows, FlowQuery, Operation, Reply, Request, Response};
pub use run::{Progress, Ticket, run};
pub use running::*;
