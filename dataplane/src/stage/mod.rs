//! The stages, in the order in which a burst passes them. Each takes the snapshot, the
//! worker's own state and the burst, and loops over lanes.

pub mod classify;
pub mod fast;
pub mod parse;
pub mod resolve;
pub mod rewrite;
pub mod schedule;
pub mod track;

pub mod tunnel;

pub mod answer;
pub mod by_hand;
pub mod encapsulate;
pub mod fragment_out;
pub mod ftp;
pub mod full_nat;
pub mod local;
pub mod sctp;
pub mod segment;
