//! Shared code of the tests that cross crate borders.

pub mod packet;
pub mod rig;
