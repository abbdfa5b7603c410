//! `polluxd`.
#[path = "dataplane.rs"]
mod start;
fn main() {}
