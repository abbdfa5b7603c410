//! What the device is asked to do, and what it is then really asked, given what it offers.

use dpdk_sys as sys;
use serde::{Deserialize, Serialize};

/// Work for the device: a wish in [`super::PortOptions`], a fact in [`super::PortInfo`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Offloads {
    /// Check IPv4, TCP and UDP checksums on receive.
    pub rx_csum: bool,
    /// Compute IPv4, TCP and UDP checksums of the packets that ask for it.
    pub tx_csum: bool,
    /// Take an 802.1Q tag out of received frames, and put one into the frames that ask for it. Both
    /// or neither: what came without its tag must be able to leave with one.
    pub vlan: bool,
    /// Packets in several segments, received and sent: needed when the MTU exceeds one buffer.
    pub segments: bool,
    /// Free sent packets the fast way: every packet that is sent has one segment and comes
    /// from the port's one pool.
    pub fast_free: bool,
    /// Ask for checksums and tags even where it is this machine's CPU that does them.
    pub by_software: bool,
}

const RX_CSUM: u64 =
    sys::RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | sys::RTE_ETH_RX_OFFLOAD_UDP_CKSUM | sys::RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
const TX_CSUM: u64 =
    sys::RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | sys::RTE_ETH_TX_OFFLOAD_UDP_CKSUM | sys::RTE_ETH_TX_OFFLOAD_TCP_CKSUM;

impl Offloads {
    /// What of this wish a device with these capabilities fulfils.
    #[must_use]
    pub(super) fn offered_by(self, rx: u64, tx: u64) -> Self {
        let rx_has = |bits: u64| rx & bits == bits;
        let tx_has = |bits: u64| tx & bits == bits;
        // Drivers without the two bits for segments, such as net_pcap, cannot do them;
        // receiving them without being able to send them is no use.
        let segments =
            self.segments && rx_has(sys::RTE_ETH_RX_OFFLOAD_SCATTER) && tx_has(sys::RTE_ETH_TX_OFFLOAD_MULTI_SEGS);
        Self {
            rx_csum: self.rx_csum && rx_has(RX_CSUM),
            tx_csum: self.tx_csum && tx_has(TX_CSUM),
            vlan: self.vlan
                && rx_has(sys::RTE_ETH_RX_OFFLOAD_VLAN_STRIP)
                && tx_has(sys::RTE_ETH_TX_OFFLOAD_VLAN_INSERT),
            segments,
            fast_free: self.fast_free && !segments && tx_has(sys::RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE),
            by_software: false,
        }
    }

    /// DPDK's receive flags.
    pub(super) fn rx_flags(self) -> u64 {
        let mut flags = 0;
        if self.rx_csum {
            flags |= RX_CSUM;
        }
        if self.vlan {
            flags |= sys::RTE_ETH_RX_OFFLOAD_VLAN_STRIP;
        }
        if self.segments {
            flags |= sys::RTE_ETH_RX_OFFLOAD_SCATTER;
        }
        flags
    }

    /// DPDK's transmit flags.
    pub(super) fn tx_flags(self) -> u64 {
        let mut flags = 0;
        if self.tx_csum {
            flags |= TX_CSUM;
        }
        if self.vlan {
            flags |= sys::RTE_ETH_TX_OFFLOAD_VLAN_INSERT;
        }
        if self.segments {
            flags |= sys::RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
        }
        if self.fast_free {
            flags |= sys::RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;
        }
        flags
    }

    /// The names of what is in `self` and not in `used`.
    pub(super) fn missing_from(self, used: Self) -> Vec<&'static str> {
        [
            (self.rx_csum && !used.rx_csum, "rx_csum"),
            (self.tx_csum && !used.tx_csum, "tx_csum"),
            (self.vlan && !used.vlan, "vlan"),
            (self.segments && !used.segments, "segments"),
            (self.fast_free && !used.fast_free, "fast_free"),
        ]
        .into_iter()
        .filter_map(|(missing, name)| missing.then_some(name))
        .collect()
    }
}

const SOURCE_ONLY: u64 = 1 << sys::RSS_L3_SRC_ONLY_BIT | 1 << sys::RSS_L4_SRC_ONLY_BIT;
const DESTINATION_ONLY: u64 = 1 << sys::RSS_L3_DST_ONLY_BIT | 1 << sys::RSS_L4_DST_ONLY_BIT;
/// The flags that confine the hash to one end.
pub(super) const ONE_END: u64 = SOURCE_ONLY | DESTINATION_ONLY;

/// What the device hashes to choose a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rss {
    /// Nothing: the device's own rule holds.
    #[default]
    Off,
    /// Addresses and ports of both ends.
    FiveTuple,
    /// Source address and port: for a port that faces the clients.
    Source,
    /// Destination address and port: for a port that faces the real servers, as a reply
    /// carries the client as its destination.
    Destination,
}

impl Rss {
    /// DPDK's flags, as far as a device with the capabilities `offered` does them; `Err`
    /// says why it is no use.
    pub(super) fn flags(self, offered: u64) -> Result<u64, &'static str> {
        let protocols =
            (sys::RTE_ETH_RSS_IP | sys::RTE_ETH_RSS_TCP | sys::RTE_ETH_RSS_UDP | sys::RTE_ETH_RSS_SCTP) & offered;
        if protocols & (sys::RTE_ETH_RSS_TCP | sys::RTE_ETH_RSS_UDP) == 0 {
            return Err("the device does not hash TCP and UDP ports");
        }
        let side = match self {
            Self::Off => return Err("no rule was asked for"),
            Self::FiveTuple => 0,
            Self::Source => SOURCE_ONLY,
            Self::Destination => DESTINATION_ONLY,
        };
        if side & offered == side {
            Ok(protocols | side)
        } else {
            Err("the device cannot hash one end's address and port only")
        }
    }
}

/// Drivers of software devices. They take an RSS configuration without following it (the
/// kernel or the peer chooses the queue), and their checksum «offloads» are computed by
/// this machine's CPU, where updating a checksum incrementally is cheaper. `net_null`, which
/// makes its packets of nothing, is not among them: it stands in for a NIC in tests.
pub(super) const SOFTWARE_DRIVERS: [&str; 9] = [
    "net_tap",
    "net_tun",
    "net_pcap",
    "net_ring",
    "net_af_packet",
    "net_af_xdp",
    "net_memif",
    "net_vhost",
    "net_softnic",
];

/// Drivers that, asked to check checksums, also take packets whose checksum the sender left
/// to the device: updating such a checksum incrementally would be wrong.
pub(super) const PARTIAL_CHECKSUM_DRIVERS: [&str; 2] = ["net_virtio", "net_virtio_user"];

/// Default hash key: random once, fixed ever since, so that a restart keeps the owners.
/// No symmetric pattern is needed, as one end's fields are hashed in either direction.
pub(super) const RSS_KEY: [u8; 64] = [
    0x7d, 0x1b, 0xa9, 0x42, 0x36, 0xe8, 0x5f, 0xc4, 0x91, 0x0e, 0xd7, 0x68, 0xb2, 0x2c, 0x73, 0xf5, 0x4a, 0x87, 0x1d,
    0xee, 0x50, 0xbc, 0x39, 0x06, 0xcb, 0x94, 0x62, 0xaf, 0x18, 0xd3, 0x7e, 0x25, 0xf1, 0x8a, 0x44, 0x0b, 0x97, 0x6d,
    0xe2, 0x3c, 0xb9, 0x51, 0x08, 0xc6, 0x7f, 0xa3, 0x1a, 0xd4, 0x65, 0x9e, 0x30, 0xfb, 0x82, 0x4d, 0x17, 0xe9, 0x5c,
    0xa6, 0x03, 0xd8, 0x71, 0xbe, 0x2f, 0x94,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_without_a_capability_is_not_asked_for_it() {
        let wish = Offloads { rx_csum: true, tx_csum: true, segments: true, fast_free: true, ..Offloads::default() };
        let used = wish.offered_by(RX_CSUM, sys::RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE);
        assert_eq!(used, Offloads { rx_csum: true, fast_free: true, ..Offloads::default() });
        assert_eq!(wish.missing_from(used), ["tx_csum", "segments"]);
        assert_eq!(used.tx_flags(), sys::RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE);
        // Segments rule the fast way of freeing out.
        assert!(!wish.offered_by(!0, !0).fast_free);
    }

    #[test]
    fn rss_over_one_end_needs_a_device_that_can() {
        let basic = sys::RTE_ETH_RSS_IP | sys::RTE_ETH_RSS_TCP | sys::RTE_ETH_RSS_UDP;
        assert_eq!(Rss::FiveTuple.flags(basic), Ok(basic));
        assert!(Rss::Source.flags(basic).is_err());
        assert!(Rss::Source.flags(!0).unwrap() != Rss::Destination.flags(!0).unwrap());
        assert!(Rss::FiveTuple.flags(0).is_err());
    }
}
