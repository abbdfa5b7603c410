//! Flows: the record, the table that finds it, the wheel that ends it, its states.

pub mod affinity;
pub mod expected;
pub mod extension;
pub mod hash;
mod index;
pub mod memory;
pub mod record;
pub mod sequence;
pub mod state;
pub mod table;
pub mod wheel;
