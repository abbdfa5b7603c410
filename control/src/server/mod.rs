//! HTTP/1.1 on a Unix socket: [`bind`] takes the path, [`serve`] answers on it.
//!
//! Everything is bounded: connections at a time, the time to send a request, the time to
//! answer it, the life of a connection. A client that is stuck holds nothing for long,
//! and never another client.

mod connection;
mod listener;

pub use connection::{Peer, ServeLimits, serve};
pub use listener::{BindError, Listener, bind};
