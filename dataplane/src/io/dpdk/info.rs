//! What an opened port turned out to be: what `polluxctl ports` shows.

use serde::Serialize;

use super::offload::{Offloads, Rss};
use crate::units::{Mac, PortId};

/// How packets find the worker that owns their flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Delivery {
    /// There is one receive queue.
    OneQueue,
    /// The device spreads by a Toeplitz hash over `fields`, with a key and a table that
    /// are known, so that software can compute the queue as well.
    Rss {
        /// What is hashed.
        fields: Rss,
        /// The hash key.
        key: Vec<u8>,
        /// Queue of each value of the hash's low bits; as long as a power of two.
        table: Vec<u16>,
    },
    /// The device spreads by a rule that is not known or not the one asked for: a packet
    /// is handed to its owner in software.
    HandOff {
        /// Why.
        why: String,
    },
}

/// An opened port, as it was set up.
#[derive(Clone, Debug, Serialize)]
pub struct PortInfo {
    /// Its index in the configuration.
    pub port: PortId,
    /// The device as DPDK names it, for example `net_tap0` or `0000:01:00.0`.
    pub device: String,
    /// DPDK's number of the port.
    pub dpdk_port: u16,
    /// The driver, for example `net_tap`.
    pub driver: String,
    /// Its Ethernet address.
    #[serde(serialize_with = "as_text")]
    pub mac: Mac,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// NUMA node, if the device says one.
    pub socket: Option<u32>,
    /// Receive queues in use; workers beyond get none.
    pub rx_queues: u16,
    /// Transmit queues in use; workers beyond get none.
    pub tx_queues: u16,
    /// Receive queues that the device offers.
    pub max_rx_queues: u16,
    /// Transmit queues that the device offers.
    pub max_tx_queues: u16,
    /// Descriptors of each receive queue.
    pub rx_ring: u16,
    /// Descriptors of each transmit queue.
    pub tx_ring: u16,
    /// Whether it takes every frame.
    pub promiscuous: bool,
    /// Work that the device does.
    pub offloads: Offloads,
    /// How packets find their worker.
    pub delivery: Delivery,
    /// What was asked for and is not to be had, one sentence each.
    pub notes: Vec<String>,
}

fn as_text<S: serde::Serializer>(mac: &Mac, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(mac)
}

/// State of the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Link {
    /// Whether it is up.
    pub up: bool,
    /// Megabits a second; `None` when not known.
    pub speed_mbps: Option<u32>,
    /// Whether both directions can be used at once.
    pub full_duplex: bool,
}

/// A port's counters since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets that the device dropped because the receive queue was full: the workers
    /// are too slow.
    pub rx_missed: u64,
    /// Packets received with an error.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Times that a receive found the packet pool empty.
    pub rx_no_buffer: u64,
}
