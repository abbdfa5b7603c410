//! `polluxctl`.
fn main() {}
