//! Where packets come from and go to.
//!
//! [`PacketIo`] is one worker's view of its port queues, [`PacketBuf`] one packet.
//! Two implementations: [`memory`] (tests, fuzzing, instruction counts) and `dpdk`.
//! Both are generic parameters, never `dyn`.

#[cfg(any(test, feature = "dpdk"))]
pub mod contract;
#[cfg(feature = "dpdk")]
#[allow(unsafe_code)]
pub mod dpdk;

use crate::units::PortId;

pub mod memory;

/// How many packets one receive call returns at most, and how many lanes a burst has.
pub const BURST: usize = 64;

/// What the receiving device says about a checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Csum {
    /// The device did not look.
    #[default]
    Unknown,
    /// The device found it right.
    Good,
    /// The device found it wrong.
    Bad,
}

/// What the device found out on receive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RxInfo {
    /// IPv4 header checksum.
    pub l3: Csum,
    /// TCP, UDP or SCTP checksum.
    pub l4: Csum,
    /// Tag control information (host order) of an 802.1Q tag that the device stripped.
    pub vlan_tci: Option<u16>,
}

/// What the sending device is asked to do. The caller has put the pseudo-header sum
/// into the L4 checksum field where `l4` is set, as DPDK's mbuf guide asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TxOffload {
    /// Length of the Ethernet header with its tags, bytes.
    pub l2_len: u8,
    /// Length of the IP header, bytes.
    pub l3_len: u16,
    /// Compute the IPv4 header checksum.
    pub ip_csum: bool,
    /// Compute the TCP checksum (`Some(6)`) or the UDP one (`Some(17)`).
    pub l4_csum: Option<u8>,
    /// The packet is IPv4 (else IPv6).
    pub ipv4: bool,
}

/// One packet. Owned: it is sent, freed or handed to another worker exactly once.
/// There is no `Drop`: a buffer that is merely dropped is leaked, which the tests'
/// pool accounting finds.
pub trait PacketBuf: Sized + Send {
    /// The bytes of the first segment, from the Ethernet header on.
    fn data(&self) -> &[u8];
    /// The same, to be changed.
    fn data_mut(&mut self) -> &mut [u8];
    /// Brings the first bytes into the cache, if that is worth anything.
    #[inline(always)]
    fn prefetch(&self) {}
    /// Brings in, to be changed, all that the way of a packet needs and that another core had last.
    #[inline(always)]
    fn prefetch_whole(&self) {}
    /// Length of all segments, bytes.
    fn total_len(&self) -> usize;
    /// Adds `n` bytes of unspecified content in front; false (and nothing changed)
    /// when the headroom is too small.
    fn prepend(&mut self, n: usize) -> bool;
    /// Removes `n` bytes at the front of the first segment; false when it is shorter.
    fn trim_front(&mut self, n: usize) -> bool;
    /// Cuts the packet to `len` bytes in all; false when it is shorter already.
    fn truncate(&mut self, len: usize) -> bool;
    /// Appends `n` bytes of unspecified content to the last segment; false when the
    /// tailroom is too small. After success on a one-segment packet `data_mut` spans them.
    fn extend(&mut self, n: usize) -> bool;
    /// Copies from all segments, starting `offset` bytes into the packet; returns how
    /// many bytes there were to copy, at most `out.len()`.
    fn copy_out(&self, offset: usize, out: &mut [u8]) -> usize;
    /// Whether the packet has more than one segment.
    fn is_chained(&self) -> bool;
    /// The port it arrived on.
    fn ingress(&self) -> PortId;
    /// Sets the port it counts as having arrived on (for packets made here).
    fn set_ingress(&mut self, port: PortId);
    /// What the device found out.
    fn rx_info(&self) -> RxInfo;
    /// Asks the sending device for checksums; see [`TxOffload`].
    fn set_tx_offload(&mut self, offload: TxOffload);
    /// Asks the sending device to put in an 802.1Q tag with this control information (host order).
    fn set_tx_tag(&mut self, tci: u16);
    /// A word that travels with the packet between workers; 0 on receive.
    fn mark(&self) -> u64;
    /// Sets that word.
    fn set_mark(&mut self, mark: u64);
}

/// One worker's ports: its own receive and transmit queue on each, and a pool.
pub trait PacketIo {
    /// The packet type.
    type Buf: PacketBuf;
    /// Number of ports.
    fn ports(&self) -> usize;
    /// Whether this worker owns a receive queue of `port`. Constant.
    fn has_rx(&self, port: PortId) -> bool;
    /// Whether this worker owns a transmit queue of `port`. Constant.
    fn has_tx(&self, port: PortId) -> bool;
    /// Receives up to [`BURST`] packets into the front of `out`, whose entries are all
    /// `None` on entry; returns how many. Entries `0..n` are then `Some`.
    fn rx(&mut self, port: PortId, out: &mut [Option<Self::Buf>; BURST]) -> usize;
    /// Sends the packets in `bufs[..n]` (all `Some`), leaving `None` behind; what the
    /// device does not take is freed. Returns how many were taken.
    fn tx(&mut self, port: PortId, bufs: &mut [Option<Self::Buf>], n: usize) -> usize;
    /// A new packet of `len` bytes of unspecified content, one segment, the usual
    /// headroom; `None` when the pool is empty or `len` does not fit one buffer.
    fn alloc(&mut self, len: usize) -> Option<Self::Buf>;
    /// Gives one packet back to its pool.
    fn free(&mut self, buf: Self::Buf);
    /// A copy of the whole packet with its metadata; `None` when the pool is empty.
    fn copy(&mut self, buf: &Self::Buf) -> Option<Self::Buf>;
}
