//! Shared code of the tests that cross crate borders.

pub mod oracle;
pub mod packet;
pub mod rig;
pub mod story;
