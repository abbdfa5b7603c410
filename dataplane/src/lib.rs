//! The packet's way, top to bottom.
//!
//! A worker owns one core. Each poll ([`worker::Worker::poll`]) adopts the newest
//! [`snapshot`] (one atomic load when nothing changed), receives a burst from every port
//! queue it owns and sends it through the stages in a straight line:
//!
//! ```text
//! rx -> parse -> classify -> track -> schedule -> rewrite -> resolve -> tx
//! ```
//!
//! The stages share one [`burst::Burst`]: arrays with one lane a packet. A packet
//! never yields an error: it gets a verdict, and a drop has a reason with a counter.
//! On the way there is no allocation, no lock, no log and no system call.
//!
//! This crate builds and tests on a machine without DPDK; the feature `dpdk` adds
//! `io::dpdk`, the one place that talks to it.
#![deny(unsafe_code)]

pub mod units;

pub mod wire;

pub mod io;

pub mod burst;

pub mod worker;

pub mod stage;

pub mod flow;

pub mod sched;

pub mod snapshot;

pub mod link;

pub mod counters;

pub mod front;
