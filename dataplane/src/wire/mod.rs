//! Bytes <-> typed fields.

pub mod checksum;
pub mod ipv4;
pub mod reply;
