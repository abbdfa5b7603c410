//! The player for scenarios recorded from the Linux kernel's IPVS.

pub mod director;
pub mod dissect;
mod files;
pub mod lab;
pub mod language;
pub mod listing;
mod pieces;
pub mod player;
pub mod purpose;
pub mod rules;
pub mod table;
pub mod world;
