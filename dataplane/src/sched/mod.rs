//! Schedulers: which real server a new flow goes to.
//!
//! All of Linux Virtual Server's, with its results: for one worker every sequence of
//! servers is the one that the kernel's IPVS gives (Linux 6.1), ties and pointers
//! included. With several workers each has its own pointers and its own view of the
//! counts, as told below.
//!
//! # Who owns what
//!
//! | what | written by | read by |
//! |---|---|---|
//! | [`ServiceSched`]: servers in list order, tables, divisors | control, once | all workers |
//! | [`CoreCounts`]: connections per real server on one worker | its worker | the other workers, control |
//! | [`SchedCore`]: pointers, trees, sums, overload marks | its worker | nobody else |
//!
//! # The calls of a worker
//!
//! [`SchedCore::choose`] picks a server; then [`SchedCore::opened`], [`SchedCore::turned`]
//! and [`SchedCore::closed`] tell what became of the flow; [`SchedCore::refresh`] runs once
//! a poll. Nothing allocates.
//!
//! After a change of a service's list its state is built anew, some nanoseconds a server: 0.1 ms for
//! 10,000. So that no burst waits for that, a worker calls [`SchedCore::prepare`] once a poll with
//! the next snapshot before it adopts it: a slice of at most some microseconds builds on one side
//! of a service while the other side serves, counts going to both. `choose` by the new list then only
//! exchanges the sides. What was not prepared (lists of 16 servers or fewer) it builds itself.
//! After the adoption [`SchedCore::tidy`] takes the old lists down, in slices as well.
//!
//! # Cost
//!
//! lc, wlc, sed, nq, fo, ovf and lblc keep the servers in a minimum tree (`tree.rs`):
//! choosing is one load, a count that changes costs one walk to the root (five levels for
//! 1,000 servers). rr and wrr find the next eligible server after a position in the same
//! tree. sh, dh and mh are one look into a table that control built, twos two draws by
//! such a table. lblcr searches a destination's set, which is bounded. A choice together
//! with the count of the flow that it opens, from `benches/schedulers.rs`, in nanoseconds:
//!
//! | real servers | 10 | 100 | 1,000 | 10,000 |
//! |---|---|---|---|---|
//! | wlc, weights 1 to 10 | 13.6 | 15.2 | 17.0 | 19.0 |
//! | rr, wrr | 9 | 9 | 9 | 9 |
//! | sh, dh | 9 | 9 | 9 | 9 |
//! | mh | 16 | 16 | 16 | 16 |
//!
//! # Where this differs from the kernel
//!
//! - wrr's pass depends on the order in which servers were added and changed. Of several
//!   edits that a worker did not see apart from each other, or that came before the first
//!   flow, the final list is known: it is taken as one edit and then one addition after
//!   the other.
//! - Weights above [`MAX_WEIGHT`] are divided so that the largest is not (`config.rs`):
//!   shares are exact to one part in 32,768 of the largest one.
//! - The memory of lblc and lblcr is of fixed size (`locality.rs`).
//! - mh takes a larger table where the kernel refuses to add a server.
//! - twos draws again when it meets an overloaded server.
//!
//! # Several workers
//!
//! What a worker compares is its own connections, as of now, plus the other workers' as
//! [`SchedCore::refresh`] last saw them. A refresh looks at [`REFRESH_BUDGET`] real servers
//! of every other worker, and only while some count there has changed, so a number is at
//! most `R / REFRESH_BUDGET` polls of this worker old, R being the highest real server
//! number in use: one poll with 8 servers, 125 with 1,000 (at full load about 0.1 ms).
//! Until then a worker does not know what the others opened. If those open at most n flows
//! together in that time, then no choice makes a server larger than another of its weight by
//! more than `1 + n`: the chooser's own view is exact but for these n. Measured with two
//! workers and 100 servers: by 2 with one new flow a poll, by 7 with 32 (`tests/cores.rs`).
//!
//! Thresholds are exact: after a flow has been counted, and before its packet leaves, the worker
//! reads what the others have counted by then, and withdraws ([`SchedCore::admits`]). So a
//! server never has more connections than its upper threshold. Where W workers reach for the
//! last places in the same instant all may withdraw: a server may count as full with up to
//! W − 1 connections fewer (`tests/cores.rs` shows both on real threads).

mod config;
mod core;
mod cost;
mod counts;
mod locality;
mod memory;
mod real;
pub(crate) mod rebuild;
mod rotation;
mod service;
mod tables;
mod tree;
mod twos;

pub use config::{SchedReal, SchedulerKind, ServiceSched, UnknownScheduler, flags};
pub use core::{REFRESH_BUDGET, SchedCore};
pub use cost::MAX_WEIGHT;
pub use counts::{Connections, CoreCounts};
pub use locality::{LOCALITY_ENTRIES, LOCALITY_EXPIRATION_MS};

use crate::units::{Be16, Ip};

/// What of a packet a scheduler may look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedKey {
    /// The client's address (masked for a persistence template).
    pub client: Ip,
    /// The client's port.
    pub client_port: Be16,
    /// The address the client sent to.
    pub vip: Ip,
    /// The port the client sent to.
    pub vport: Be16,
}

#[cfg(test)]
mod tests;
