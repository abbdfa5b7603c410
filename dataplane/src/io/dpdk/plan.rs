//! What is asked of a device: the wish in the options, adjusted to what the device offers.

use std::ffi::CStr;

use dpdk_sys as sys;

use super::mempool::{HEADROOM, Mempool};
use super::offload::{Offloads, PARTIAL_CHECKSUM_DRIVERS, Rss, SOFTWARE_DRIVERS};
use super::port::{PortError, PortOptions};

/// What is asked of the device, after the wish met the offer.
pub(super) struct Plan {
    pub(super) driver: String,
    pub(super) rx_queues: u16,
    pub(super) tx_queues: u16,
    pub(super) mtu: u32,
    pub(super) offloads: Offloads,
    pub(super) rss: Rss,
    /// DPDK's flags, or why there are none.
    pub(super) rss_flags: Result<u64, String>,
}

impl Plan {
    /// Adjusts the wish to the offer; what is not to be had goes to `notes`.
    pub(super) fn new(
        options: &PortOptions,
        offer: &sys::rte_eth_dev_info,
        pool: &Mempool,
        notes: &mut Vec<String>,
    ) -> Result<Self, PortError> {
        let driver = if offer.driver_name.is_null() {
            String::new()
        } else {
            // SAFETY: not null, so the driver's terminated, constant name.
            unsafe { CStr::from_ptr(offer.driver_name) }.to_string_lossy().into_owned()
        };
        let software = SOFTWARE_DRIVERS.contains(&driver.as_str());
        let mut wish = options.offloads;
        if software && !wish.by_software {
            // It is the CPU that would do them.
            wish.rx_csum = false;
            wish.tx_csum = false;
            wish.vlan = false;
        }
        if PARTIAL_CHECKSUM_DRIVERS.contains(&driver.as_str()) {
            wish.rx_csum = false;
        }
        // Ethernet header, two tags, frame check sequence.
        let needs = usize::from(options.mtu.unwrap_or(1500)) + 14 + 8 + 4;
        let room = usize::from(pool.data_room().saturating_sub(HEADROOM));
        // A device that may send chains cannot free the fast way.
        wish.segments &= needs > room;
        let offloads = wish.offered_by(offer.rx_offload_capa, offer.tx_offload_capa);
        let missing = Offloads { fast_free: false, ..wish }.missing_from(offloads);
        if !missing.is_empty() {
            notes.push(format!("{driver} does not offer {}", missing.join(", ")));
        }
        if needs > room && !offloads.segments {
            if let Some(mtu) = options.mtu {
                return Err(PortError::Mtu { device: options.device.clone(), mtu, needs, room });
            }
            notes.push(format!("frames longer than the pool's {room} bytes arrive in several segments, or not at all"));
        }
        let (rx_queues, tx_queues) =
            (options.queues.clamp(1, offer.max_rx_queues.max(1)), options.queues.max(1).min(offer.max_tx_queues));
        for (n, direction) in [(rx_queues, "receive"), (tx_queues, "transmit")] {
            if n < options.queues {
                notes.push(format!(
                    "{driver} offers {n} {direction} queues, so {} workers have none",
                    options.queues - n
                ));
            }
        }
        if driver == "net_af_packet" && rx_queues < offer.max_rx_queues {
            // The kernel spreads over the sockets that exist, polled or not.
            notes.push(format!(
                "{driver} delivers to {} queues, of which {rx_queues} are polled: set qpairs={rx_queues}",
                offer.max_rx_queues
            ));
        }
        let rss_flags = if software {
            Err(format!("{driver} chooses the queue by a rule of its own"))
        } else {
            options.rss.flags(offer.flow_type_rss_offloads).map_err(str::to_owned)
        };
        let mtu = u32::from(options.mtu.unwrap_or(0));
        Ok(Self { driver, rx_queues, tx_queues, mtu, offloads, rss: options.rss, rss_flags })
    }
}
