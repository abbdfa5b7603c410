//! Stories: what arrives, what changes, how time passes, all read off a string of bytes; and what
//! must be true of everything that leaves. Property tests make the bytes up, fuzzers search for
//! them, and those that once ended badly are kept and played by every `cargo test`.

pub mod bytes;
pub mod check;
mod conversation;
pub mod datagram;
pub mod director;
pub mod frames;
pub mod rules;
pub mod sides;
pub mod wild;
pub mod world;

use dataplane::counters::DropReason;

use crate::rig::Rig;

/// What the director counted, for the message of a failure.
pub fn drops(rig: &Rig) -> Vec<(&'static str, u64)> {
    let drops = DropReason::ALL.iter().map(|r| (r.name(), rig.drops(*r)));
    let events = rig.links.iter().flat_map(|l| l.counters.worker.each());
    drops.chain(events).filter(|(_, n)| *n > 0).collect()
}

/// Bytes as they are given to `STORY`, or pasted into a dissector.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
