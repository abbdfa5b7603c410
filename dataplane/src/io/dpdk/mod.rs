//! DPDK: the one module of this crate that calls it.
//!
//! - [`eal`]: starts the environment, lets threads register; [`log`] keeps what DPDK says.
//! - [`mempool`]: packet pools.
//! - [`mbuf`]: one packet, [`Mbuf`], a pointer wide.
//! - [`port`]: opens a device, by a `plan` that adjusts the wish to what it offers, step by
//!   step in `device`; [`offload`] and [`info`] say what came out of it.
//! - [`queue`]: [`DpdkIo`], one worker's queues: bursts go to the driver straight from here.
//!
//! ```no_run
//! use dataplane::io::dpdk::{DpdkIo, Eal, Mempool, MempoolOptions, Port, PortOptions};
//! use dataplane::units::{PortId, QueueId};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let eal = Eal::init(&["--no-huge".into(), "-m".into(), "256".into(), "--no-pci".into()])?;
//! let pool = Mempool::new(&eal, &MempoolOptions::new("packets", 8191))?;
//! let port = Port::open(&eal, &PortOptions::new(PortId(0), "net_tap0,iface=tap0"), &pool)?;
//! let mut io = DpdkIo::new(QueueId(0), &[port], &pool)?; // one of these per worker
//! # Ok(())
//! # }
//! ```
//!
//! Ownership keeps the order of release right: a [`DpdkIo`] holds its ports, a port holds
//! its pool, a pool holds the environment.

#[cfg(test)]
mod callback_tests;
mod device;
pub mod eal;
pub mod info;
pub mod log;
pub mod mbuf;
pub mod mempool;
pub mod offload;
mod plan;
pub mod port;
pub mod queue;

pub use eal::{Eal, EalError, Lcore};
pub use info::{Delivery, Link, PortInfo, PortStats};
pub use mbuf::Mbuf;
pub use mempool::{Mempool, MempoolError, MempoolOptions};
pub use offload::{Offloads, Rss};
pub use port::{Port, PortError, PortOptions};
pub use queue::{DpdkIo, QueueError};

use std::ffi::CStr;

/// What DPDK calls error number `errno` (positive).
fn strerror(errno: i32) -> String {
    // SAFETY: takes any number and returns a pointer to a string that lives as long as
    // the thread and is only overwritten by this thread's next call.
    let text = unsafe { dpdk_sys::rte_strerror(errno) };
    if text.is_null() {
        return format!("error {errno}");
    }
    // SAFETY: not null, so a terminated string; it is copied before the next call.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// The calling thread's last DPDK error, a positive number.
fn errno() -> i32 {
    // SAFETY: reads a thread-local variable.
    unsafe { dpdk_sys::px_errno() }
}
