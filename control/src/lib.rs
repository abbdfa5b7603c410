//! What operators touch: configuration, API, statistics. Never links DPDK.
