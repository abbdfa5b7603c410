//! A port: found or plugged in, adjusted to what its device offers, started; stopped and
//! given back when the last worker that uses it is gone.

use std::ffi::{CStr, CString, c_char, c_int};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dpdk_sys as sys;

use super::info::{Delivery, Link, PortInfo, PortStats};
use super::mbuf::note_ingress;
use super::mempool::{HEADROOM, Mempool};
use super::offload::{Offloads, PARTIAL_CHECKSUM_DRIVERS, RSS_KEY, Rss, SOFTWARE_DRIVERS};
use super::{Eal, log, strerror};
use crate::units::{Mac, PortId, QueueId};

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
        if options.rss != Rss::Off {
            if let Delivery::HandOff { why } = &delivery {
                notes.push(format!("packets are handed to their owners in software: {why}"));
            }
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

/// What is asked of the device, after the wish met the offer.
struct Plan {
    driver: String,
    rx_queues: u16,
    tx_queues: u16,
    mtu: u32,
    offloads: Offloads,
    rss: Rss,
    /// DPDK's flags, or why there are none.
    rss_flags: Result<u64, String>,
}

impl Plan {
    fn new(
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
        if software {
            // The CPU would sum every packet up where an incremental update does.
            wish.rx_csum = false;
            wish.tx_csum = false;
        }
        if PARTIAL_CHECKSUM_DRIVERS.contains(&driver.as_str()) {
            wish.rx_csum = false;
        }
        let offloads = wish.offered_by(offer.rx_offload_capa, offer.tx_offload_capa);
        let missing = options.offloads.missing_from(offloads);
        if !missing.is_empty() {
            notes.push(format!("{driver} is not asked for {}", missing.join(", ")));
        }
        // Ethernet header, two tags, frame check sequence.
        let needs = usize::from(options.mtu.unwrap_or(1500)) + 14 + 8 + 4;
        let room = usize::from(pool.data_room().saturating_sub(HEADROOM));
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
        let rss_flags = if software {
            Err(format!("{driver} chooses the queue by a rule of its own"))
        } else {
            options.rss.flags(offer.flow_type_rss_offloads).map_err(str::to_owned)
        };
        let mtu = u32::from(options.mtu.unwrap_or(0));
        Ok(Self { driver, rx_queues, tx_queues, mtu, offloads, rss: options.rss, rss_flags })
    }
}

/// Which of DPDK's ports a [`Port`] of this process uses.
static OPEN: [AtomicBool; sys::RTE_MAX_ETHPORTS as usize] =
    [const { AtomicBool::new(false) }; sys::RTE_MAX_ETHPORTS as usize];

/// A device of DPDK's, in use by us; stopped, closed and, if we plugged it in, unplugged
/// when dropped.
#[derive(Debug)]
struct Device {
    id: u16,
    name: String,
    plugged: bool,
}

impl Device {
    fn find(description: &str) -> Result<Self, PortError> {
        let bad = || PortError::Name(description.to_owned());
        let mut args = description.to_owned();
        if is_short_pci(description) {
            args.insert_str(0, "0000:");
        }
        let name = args.split(',').next().unwrap_or_default().to_owned();
        let c_args = CString::new(args).map_err(|_| bad())?;
        let c_name = CString::new(name.as_str()).map_err(|_| bad())?;
        if name.is_empty() {
            return Err(bad());
        }
        let mark = log::mark();
        let (id, plugged) = match port_by_name(&c_name) {
            Some(id) => (id, false),
            None => {
                // SAFETY: a terminated string that is copied.
                let rc = unsafe { sys::rte_dev_probe(c_args.as_ptr()) };
                let found = if rc == 0 { port_by_name(&c_name) } else { None };
                let not_found = || PortError::NotFound {
                    device: description.to_owned(),
                    reason: if rc == 0 { "no driver made a port of it".to_owned() } else { strerror(-rc) },
                    log: log::since(&mark),
                };
                (found.ok_or_else(not_found)?, true)
            }
        };
        let claimed = OPEN.get(usize::from(id)).is_some_and(|open| !open.swap(true, Ordering::AcqRel));
        if !claimed {
            return Err(PortError::Open(name));
        }
        Ok(Self { id, name, plugged })
    }

    fn offer(&self) -> Result<sys::rte_eth_dev_info, PortError> {
        let mark = log::mark();
        // SAFETY: integers and pointers, for which all zeros is a value.
        let mut offer: sys::rte_eth_dev_info = unsafe { mem::zeroed() };
        // SAFETY: an open port and a place to write to.
        let rc = unsafe { sys::rte_eth_dev_info_get(self.id, &mut offer) };
        self.check(rc, "ask for capabilities", &mark)?;
        Ok(offer)
    }

    fn configure(&self, plan: &Plan, offer: &sys::rte_eth_dev_info) -> Result<(), PortError> {
        let mark = log::mark();
        // SAFETY: integers and pointers, for which all zeros is a value: DPDK's defaults.
        let mut conf: sys::rte_eth_conf = unsafe { mem::zeroed() };
        conf.rxmode.mtu = plan.mtu;
        conf.rxmode.offloads = plan.offloads.rx_flags();
        conf.txmode.offloads = plan.offloads.tx_flags();
        let mut key = RSS_KEY;
        if let (Ok(flags), true) = (&plan.rss_flags, plan.rx_queues > 1) {
            conf.rxmode.mq_mode = sys::RTE_ETH_MQ_RX_RSS;
            conf.rx_adv_conf.rss_conf.rss_hf = *flags;
            if (1..=key.len()).contains(&usize::from(offer.hash_key_size)) {
                conf.rx_adv_conf.rss_conf.rss_key = key.as_mut_ptr();
                conf.rx_adv_conf.rss_conf.rss_key_len = offer.hash_key_size;
            }
        }
        // SAFETY: an open, stopped port; the structure and the key live during the call,
        // which copies them.
        let rc = unsafe { sys::rte_eth_dev_configure(self.id, plan.rx_queues, plan.tx_queues, &conf) };
        self.check(rc, "configure it", &mark)
    }

    /// Sets every queue up and returns the rings' real sizes.
    fn set_up_queues(
        &self,
        options: &PortOptions,
        plan: &Plan,
        offer: &sys::rte_eth_dev_info,
        pool: &Mempool,
    ) -> Result<(u16, u16), PortError> {
        let (mut rx_ring, mut tx_ring) = (options.rx_ring, options.tx_ring);
        let mark = log::mark();
        // SAFETY: an open port and two places that hold a wish and take the answer.
        let rc = unsafe { sys::rte_eth_dev_adjust_nb_rx_tx_desc(self.id, &mut rx_ring, &mut tx_ring) };
        self.check(rc, "size its rings", &mark)?;
        // SAFETY: reads a property of the port.
        let socket = unsafe { sys::rte_eth_dev_socket_id(self.id) }.max(sys::SOCKET_ID_ANY) as u32;
        let mut rx = offer.default_rxconf;
        rx.offloads = plan.offloads.rx_flags();
        let mut tx = offer.default_txconf;
        tx.offloads = plan.offloads.tx_flags();
        for q in 0..plan.rx_queues {
            // SAFETY: a configured, stopped port; the configuration is copied, and the pool
            // outlives the device in `Port`.
            let rc = unsafe { sys::rte_eth_rx_queue_setup(self.id, q, rx_ring, socket, &rx, pool.raw()) };
            self.check(rc, "set up a receive queue", &mark)?;
        }
        for q in 0..plan.tx_queues {
            // SAFETY: as above.
            let rc = unsafe { sys::rte_eth_tx_queue_setup(self.id, q, tx_ring, socket, &tx) };
            self.check(rc, "set up a transmit queue", &mark)?;
        }
        Ok((rx_ring, tx_ring))
    }

    fn set_mtu(&self, mtu: u16, notes: &mut Vec<String>) -> Result<(), PortError> {
        let mark = log::mark();
        // SAFETY: an open port.
        let rc = unsafe { sys::rte_eth_dev_set_mtu(self.id, mtu) };
        if rc == -libc::ENOTSUP {
            let present = self.mtu()?;
            if present != mtu {
                notes.push(format!("the driver keeps its MTU of {present}"));
            }
            return Ok(());
        }
        self.check(rc, "set the MTU", &mark)
    }

    fn start(&self) -> Result<(), PortError> {
        let mark = log::mark();
        // SAFETY: a configured port whose queues are set up.
        let rc = unsafe { sys::rte_eth_dev_start(self.id) };
        self.check(rc, "start it", &mark)
    }

    /// Sets the address filters; returns whether the port takes every frame.
    fn set_filters(&self, options: &PortOptions, notes: &mut Vec<String>) -> bool {
        // SAFETY: an open port.
        let set = |on| match on {
            // SAFETY: an open port.
            true => unsafe { sys::rte_eth_promiscuous_enable(self.id) },
            // SAFETY: an open port.
            false => unsafe { sys::rte_eth_promiscuous_disable(self.id) },
        };
        if set(options.promiscuous) < 0 && options.promiscuous {
            notes.push("the driver has no promiscuous mode".to_owned());
        }
        if options.all_multicast {
            // SAFETY: an open port.
            let rc = unsafe { sys::rte_eth_allmulticast_enable(self.id) };
            if rc < 0 {
                notes.push("the driver cannot take all group addresses".to_owned());
            }
        }
        // SAFETY: an open port.
        unsafe { sys::rte_eth_promiscuous_get(self.id) == 1 }
    }

    /// How packets will find their owners. Spreads the redirection table over the queues.
    fn delivery(&self, plan: &Plan, offer: &sys::rte_eth_dev_info) -> Delivery {
        if plan.rx_queues == 1 {
            return Delivery::OneQueue;
        }
        if let Err(why) = &plan.rss_flags {
            return Delivery::HandOff { why: why.clone() };
        }
        let key_len = usize::from(offer.hash_key_size);
        if !(1..=RSS_KEY.len()).contains(&key_len) {
            return Delivery::HandOff { why: "the device does not take a hash key".to_owned() };
        }
        match self.spread(offer.reta_size, plan.rx_queues) {
            Some(table) => Delivery::Rss { fields: plan.rss, key: RSS_KEY[..key_len].to_vec(), table },
            None => Delivery::HandOff { why: "the device's redirection table cannot be set".to_owned() },
        }
    }

    /// Fills the redirection table with the queues in turn and returns it.
    fn spread(&self, size: u16, queues: u16) -> Option<Vec<u16>> {
        let group = sys::RTE_ETH_RETA_GROUP_SIZE as u16;
        if size == 0 || !size.is_power_of_two() {
            return None;
        }
        let table: Vec<u16> = (0..size).map(|i| i % queues).collect();
        let groups = table.chunks(usize::from(group)).map(|chunk| {
            // SAFETY: plain integers, for which all zeros is a value.
            let mut entry: sys::rte_eth_rss_reta_entry64 = unsafe { mem::zeroed() };
            for (i, q) in chunk.iter().enumerate() {
                entry.mask |= 1 << i;
                entry.reta[i] = *q;
            }
            entry
        });
        let mut groups: Vec<_> = groups.collect();
        // SAFETY: one entry for each 64 of `size`.
        let rc = unsafe { sys::rte_eth_dev_rss_reta_update(self.id, groups.as_mut_ptr(), size) };
        (rc == 0).then_some(table)
    }

    fn mac(&self) -> Result<Mac, PortError> {
        let mark = log::mark();
        // SAFETY: six bytes, for which all zeros is a value.
        let mut mac: sys::rte_ether_addr = unsafe { mem::zeroed() };
        // SAFETY: an open port and a place to write to.
        let rc = unsafe { sys::rte_eth_macaddr_get(self.id, &mut mac) };
        self.check(rc, "read its Ethernet address", &mark)?;
        Ok(Mac(mac.addr_bytes))
    }

    fn mtu(&self) -> Result<u16, PortError> {
        let mark = log::mark();
        let mut mtu = 0;
        // SAFETY: an open port and a place to write to.
        let rc = unsafe { sys::rte_eth_dev_get_mtu(self.id, &mut mtu) };
        self.check(rc, "read its MTU", &mark)?;
        Ok(mtu)
    }

    fn socket(&self) -> Option<u32> {
        // SAFETY: reads a property of the port.
        u32::try_from(unsafe { sys::rte_eth_dev_socket_id(self.id) }).ok()
    }

    /// Turns a negative answer into an error.
    fn check(&self, rc: c_int, step: &'static str, mark: &log::Mark) -> Result<(), PortError> {
        if rc >= 0 {
            return Ok(());
        }
        Err(PortError::Setup { device: self.name.clone(), step, reason: strerror(-rc), log: log::since(mark) })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let bus_device = self.offer().map(|o| o.device).ok().filter(|d| !d.is_null());
        // SAFETY: no worker polls the port any more, as each holds its `Port`. Stopping a
        // port that never started only logs.
        unsafe { sys::rte_eth_dev_stop(self.id) };
        // SAFETY: a stopped port.
        unsafe { sys::rte_eth_dev_close(self.id) };
        if let (true, Some(bus_device)) = (self.plugged, bus_device) {
            // SAFETY: the device we plugged in, whose only port is closed.
            unsafe { sys::rte_dev_remove(bus_device) };
        }
        if let Some(open) = OPEN.get(usize::from(self.id)) {
            open.store(false, Ordering::Release);
        }
    }
}

/// The port of the device called `name`, if DPDK has one.
fn port_by_name(name: &CStr) -> Option<u16> {
    let mut id = 0;
    // SAFETY: a terminated string and a place to write to.
    if unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &mut id) } == 0 {
        return Some(id);
    }
    // A driver may call its port otherwise than the bus calls the device.
    // SAFETY: takes any number.
    let next = |from: u16| unsafe { sys::rte_eth_find_next(from) };
    let mut id = next(0);
    while id < sys::RTE_MAX_ETHPORTS {
        if bus_name(id).is_some_and(|n| n.as_bytes() == name.to_bytes()) {
            return Some(id);
        }
        id = next(id + 1);
    }
    None
}

/// What the bus calls the device of port `id`.
fn bus_name(id: u16) -> Option<String> {
    // SAFETY: integers and pointers, for which all zeros is a value.
    let mut info: sys::rte_eth_dev_info = unsafe { mem::zeroed() };
    // SAFETY: a port number and a place to write to.
    if unsafe { sys::rte_eth_dev_info_get(id, &mut info) } != 0 || info.device.is_null() {
        return None;
    }
    // SAFETY: the device of a port that exists.
    let name = unsafe { sys::rte_dev_name(info.device) };
    if name.is_null() {
        return None;
    }
    // SAFETY: not null, so a terminated string that lives as long as the device.
    Some(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
}

/// Whether this is a PCI address without its domain, such as `01:00.0`.
fn is_short_pci(device: &str) -> bool {
    let name = device.split(',').next().unwrap_or_default();
    let b = name.as_bytes();
    b.len() == 7 && b[2] == b':' && b[5] == b'.' && [0, 1, 3, 4, 6].iter().all(|&i| b[i].is_ascii_hexdigit())
}

/// A C string in an array as text.
fn text(chars: &[c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_may_lack_the_domain() {
        assert!(is_short_pci("01:00.0"));
        assert!(is_short_pci("af:1f.7,mode=1"));
        assert!(!is_short_pci("0000:01:00.0"));
        assert!(!is_short_pci("net_tap0,iface=t"));
        assert!(!is_short_pci(""));
    }
}
