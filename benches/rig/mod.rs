//! A generator port and a director behind it: what the benches share that make their own
//! packets.
#![allow(dead_code, reason = "the benches share it, and none needs all")]

pub mod clock;
pub mod director;
pub mod port;
pub mod traffic;
