//! `polluxd`.
fn main() {}
