//! IPv4 (RFC 791).

/// Loose source and record route (RFC 791 section 3.1).
pub const OPTION_LSRR: u8 = 0x83;
/// Strict source and record route.
pub const OPTION_SSRR: u8 = 0x89;
/// Record route.
pub const OPTION_RR: u8 = 0x07;
