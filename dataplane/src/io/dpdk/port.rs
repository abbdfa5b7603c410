//! A port: found or plugged in, adjusted to what its device offers, started; stopped and
//! given back when the last worker that uses it is gone.

use std::ffi::c_char;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dpdk_sys as sys;

use super::Eal;
use super::device::Device;
use super::info::{Delivery, Link, PortInfo, PortStats};
use super::mbuf::note_ingress;
use super::mempool::Mempool;
use super::offload::{Offloads, Rss};
use super::plan::Plan;
use crate::units::{PortId, QueueId};

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The device description is empty or holds a zero byte.
    #[error("`{0}` is not a device: a PCI address or a device name with arguments is needed")]
    Name(String),
    /// A port of this process uses the device already.
    #[error("device `{0}` is in use by another port")]
    Open(String),
    /// DPDK does not find the device, or no driver takes it.
    #[error("device `{device}` is not found: {reason}; {log}")]
    NotFound {
        /// The device as given.
        device: String,
        /// DPDK's name for the error.
        reason: String,
        /// The last lines of its log.
        log: String,
    },
    /// Packets of the MTU asked for do not fit the pool's buffers.
    #[error(
        "device `{device}`: an MTU of {mtu} needs buffers of {needs} bytes; the pool's take {room}, \
         and packets in several segments are not in use"
    )]
    Mtu {
        /// The device as given.
        device: String,
        /// MTU asked for.
        mtu: u16,
        /// Bytes of a frame of that MTU.
        needs: usize,
        /// Bytes of a frame that fits.
        room: usize,
    },
    /// A step of the setup failed.
    #[error("device `{device}`: cannot {step}: {reason}; {log}")]
    Setup {
        /// The device as given.
        device: String,
        /// What was tried.
        step: &'static str,
        /// DPDK's name for the error.
        reason: String,
        /// The last lines of its log.
        log: String,
    },
}

/// What a port shall be like. Where the device offers less, the port does with less and
/// [`PortInfo::notes`] says so.
#[derive(Clone, Debug)]
pub struct PortOptions {
    /// Index in the configuration, below 32,767.
    pub port: PortId,
    /// A PCI address (`0000:01:00.0`, `01:00.0`), or the name of a virtual device with its
    /// arguments (`net_tap0,iface=tap0`, `net_pcap0,rx_pcap=in.pcap`), perhaps one that
    /// an EAL option has made already.
    pub device: String,
    /// Receive and transmit queues wanted: the number of workers.
    pub queues: u16,
    /// Largest IP packet, bytes; `None` leaves the device's own.
    pub mtu: Option<u16>,
    /// Descriptors of each receive queue.
    pub rx_ring: u16,
    /// Descriptors of each transmit queue.
    pub tx_ring: u16,
    /// Take every frame, whatever its destination address.
    pub promiscuous: bool,
    /// Take every frame to a group address.
    pub all_multicast: bool,
    /// Work for the device, where it offers it.
    pub offloads: Offloads,
    /// What the device shall hash to choose a queue.
    pub rss: Rss,
}

impl PortOptions {
    /// One queue, rings of 1,024, the device's own MTU, no offloads.
    pub fn new(port: PortId, device: &str) -> Self {
        Self {
            port,
            device: device.to_owned(),
            queues: 1,
            mtu: None,
            rx_ring: 1024,
            tx_ring: 1024,
            promiscuous: false,
            all_multicast: false,
            offloads: Offloads::default(),
            rss: Rss::Off,
        }
    }
}

/// A started port. Workers reach its queues through [`super::DpdkIo`].
#[derive(Debug)]
pub struct Port {
    info: PortInfo,
    /// Whether a worker has receive queue n, or transmit queue n: each is one worker's.
    claimed_rx: Vec<AtomicBool>,
    claimed_tx: Vec<AtomicBool>,
    // Dropped in this order: the device stops before its packets' pool goes.
    device: Device,
    pool: Arc<Mempool>,
    _eal: Eal,
}

impl Port {
    /// Finds or plugs in the device, sets it up and starts it. Received packets come from
    /// `pool`.
    ///
    /// # Errors
    /// When there is no such device, or it refuses what it had offered.
    pub fn open(eal: &Eal, options: &PortOptions, pool: &Arc<Mempool>) -> Result<Arc<Self>, PortError> {
        let device = Device::find(&options.device)?;
        let offer = device.offer()?;
        let mut notes = Vec::new();
        let plan = Plan::new(options, &offer, pool, &mut notes)?;
        device.configure(&plan, &offer)?;
        let (rx_ring, tx_ring) = device.set_up_queues(options, &plan, &offer, pool)?;
        if let Some(mtu) = options.mtu {
            device.set_mtu(mtu, &mut notes)?;
        }
        device.start()?;
        let promiscuous = device.set_filters(options, &mut notes);
        let delivery = device.delivery(&plan, &offer);
        if options.rss != Rss::Off
            && let Delivery::HandOff { why } = &delivery
        {
            notes.push(format!("packets are handed to their owners in software: {why}"));
        }
        note_ingress(device.id, options.port);
        let info = PortInfo {
            port: options.port,
            device: options.device.split(',').next().unwrap_or_default().to_owned(),
            dpdk_port: device.id,
            driver: plan.driver,
            mac: device.mac()?,
            mtu: device.mtu()?,
            socket: device.socket(),
            rx_queues: plan.rx_queues,
            tx_queues: plan.tx_queues,
            max_rx_queues: offer.max_rx_queues,
            max_tx_queues: offer.max_tx_queues,
            rx_ring,
            tx_ring,
            promiscuous,
            offloads: plan.offloads,
            delivery,
            notes,
        };
        let flags = |n: u16| (0..n).map(|_| AtomicBool::new(false)).collect();
        Ok(Arc::new(Self {
            claimed_rx: flags(info.rx_queues),
            claimed_tx: flags(info.tx_queues),
            info,
            device,
            pool: Arc::clone(pool),
            _eal: eal.clone(),
        }))
    }

    /// What the port turned out to be.
    pub fn info(&self) -> &PortInfo {
        &self.info
    }

    /// The pool that received packets come from.
    pub fn pool(&self) -> &Arc<Mempool> {
        &self.pool
    }

    /// State of the link, without waiting; `None` when the driver cannot say.
    pub fn link(&self) -> Option<Link> {
        // SAFETY: plain integers, for which all zeros is a value.
        let mut link: sys::px_link = unsafe { mem::zeroed() };
        // SAFETY: an open port and a place to write to.
        let rc = unsafe { sys::px_eth_link_get(self.device.id, &mut link) };
        (rc == 0).then(|| Link {
            up: link.up != 0,
            speed_mbps: (link.speed_mbps != 0 && link.speed_mbps != u32::MAX).then_some(link.speed_mbps),
            full_duplex: link.full_duplex != 0,
        })
    }

    /// The device's counters; all zeros when the driver keeps none.
    pub fn stats(&self) -> PortStats {
        // SAFETY: plain integers, for which all zeros is a value.
        let mut s: sys::rte_eth_stats = unsafe { mem::zeroed() };
        // SAFETY: an open port and a place to write to.
        if unsafe { sys::rte_eth_stats_get(self.device.id, &mut s) } != 0 {
            return PortStats::default();
        }
        PortStats {
            rx_packets: s.ipackets,
            tx_packets: s.opackets,
            rx_bytes: s.ibytes,
            tx_bytes: s.obytes,
            rx_missed: s.imissed,
            rx_errors: s.ierrors,
            tx_errors: s.oerrors,
            rx_no_buffer: s.rx_nombuf,
        }
    }

    /// The driver's own counters by name, in its order.
    pub fn extended_stats(&self) -> Vec<(String, u64)> {
        let id = self.device.id;
        // SAFETY: a null pointer and no room ask for the number of counters.
        let n = unsafe { sys::rte_eth_xstats_get_names(id, std::ptr::null_mut(), 0) };
        let n = usize::try_from(n).unwrap_or(0);
        // SAFETY: characters, for which all zeros is a value.
        let mut names: Vec<sys::rte_eth_xstat_name> = (0..n).map(|_| unsafe { mem::zeroed() }).collect();
        // SAFETY: plain integers, for which all zeros is a value.
        let mut values: Vec<sys::rte_eth_xstat> = (0..n).map(|_| unsafe { mem::zeroed() }).collect();
        // SAFETY: room for `n` names.
        let named = unsafe { sys::rte_eth_xstats_get_names(id, names.as_mut_ptr(), n as u32) };
        // SAFETY: room for `n` values.
        let valued = unsafe { sys::rte_eth_xstats_get(id, values.as_mut_ptr(), n as u32) };
        let valid = usize::try_from(named.min(valued)).unwrap_or(0).min(n);
        values[..valid]
            .iter()
            .filter_map(|v| Some((text(&names.get(usize::try_from(v.id).ok()?)?.name), v.value)))
            .collect()
    }

    /// DPDK's number of the port.
    pub(super) fn device_id(&self) -> u16 {
        self.device.id
    }

    /// Gives receive queue `q` to the caller; false when the port has no such queue, `Err`
    /// when somebody has it.
    pub(super) fn claim_rx(&self, q: QueueId) -> Result<bool, ()> {
        claim(&self.claimed_rx, q)
    }

    /// The same for transmit queue `q`.
    pub(super) fn claim_tx(&self, q: QueueId) -> Result<bool, ()> {
        claim(&self.claimed_tx, q)
    }

    /// Takes back what was claimed.
    pub(super) fn release(&self, q: QueueId, rx: bool, tx: bool) {
        for (had, flags) in [(rx, &self.claimed_rx), (tx, &self.claimed_tx)] {
            if let (true, Some(flag)) = (had, flags.get(q.index())) {
                flag.store(false, Ordering::Release);
            }
        }
    }
}

fn claim(flags: &[AtomicBool], q: QueueId) -> Result<bool, ()> {
    match flags.get(q.index()) {
        None => Ok(false),
        Some(flag) if flag.swap(true, Ordering::Acquire) => Err(()),
        Some(_) => Ok(true),
    }
}

/// A C string in an array as text.
fn text(chars: &[c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
