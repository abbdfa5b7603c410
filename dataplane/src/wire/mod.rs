//! Bytes <-> typed fields.
