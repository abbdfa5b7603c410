//! Flows: the record, the table that finds it, the wheel that ends it, its states.

pub mod record;
