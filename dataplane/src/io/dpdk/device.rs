//! The device behind a port: finding it, and each step of setting it up.

use std::ffi::{CStr, CString, c_int};
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};

use dpdk_sys as sys;

use super::info::Delivery;
use super::mempool::Mempool;
use super::offload::{ONE_END, RSS_KEY};
use super::plan::Plan;
use super::port::{PortError, PortOptions};
use super::{log, strerror};
use crate::units::Mac;

/// Which of DPDK's ports a [`Port`] of this process uses.
static OPEN: [AtomicBool; sys::RTE_MAX_ETHPORTS as usize] =
    [const { AtomicBool::new(false) }; sys::RTE_MAX_ETHPORTS as usize];

/// A device of DPDK's, in use by us; stopped, closed and, if we plugged it in, unplugged
/// when dropped.
#[derive(Debug)]
pub(super) struct Device {
    /// DPDK's number of its port.
    pub(super) id: u16,
    name: String,
    plugged: bool,
}

impl Device {
    pub(super) fn find(description: &str) -> Result<Self, PortError> {
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

    pub(super) fn offer(&self) -> Result<sys::rte_eth_dev_info, PortError> {
        let mark = log::mark();
        // SAFETY: integers and pointers, for which all zeros is a value.
        let mut offer: sys::rte_eth_dev_info = unsafe { mem::zeroed() };
        // SAFETY: an open port and a place to write to.
        let rc = unsafe { sys::rte_eth_dev_info_get(self.id, &mut offer) };
        self.check(rc, "ask for capabilities", &mark)?;
        Ok(offer)
    }

    pub(super) fn configure(&self, plan: &Plan, offer: &sys::rte_eth_dev_info) -> Result<(), PortError> {
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
            conf.rx_adv_conf.rss_conf.rss_key = key.as_mut_ptr();
            conf.rx_adv_conf.rss_conf.rss_key_len = key_len(offer);
        }
        // SAFETY: an open, stopped port; the structure and the key live during the call,
        // which copies them.
        let rc = unsafe { sys::rte_eth_dev_configure(self.id, plan.rx_queues, plan.tx_queues, &conf) };
        self.check(rc, "configure it", &mark)
    }

    /// Sets every queue up and returns the rings' real sizes.
    pub(super) fn set_up_queues(
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

    pub(super) fn set_mtu(&self, mtu: u16, notes: &mut Vec<String>) -> Result<(), PortError> {
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

    pub(super) fn start(&self) -> Result<(), PortError> {
        let mark = log::mark();
        // SAFETY: a configured port whose queues are set up.
        let rc = unsafe { sys::rte_eth_dev_start(self.id) };
        self.check(rc, "start it", &mark)
    }

    /// Sets the address filters; returns whether the port takes every frame.
    pub(super) fn set_filters(&self, options: &PortOptions, notes: &mut Vec<String>) -> bool {
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
    pub(super) fn delivery(&self, plan: &Plan, offer: &sys::rte_eth_dev_info) -> Delivery {
        if plan.rx_queues == 1 {
            return Delivery::OneQueue;
        }
        let flags = match &plan.rss_flags {
            Ok(flags) => *flags,
            Err(why) => return Delivery::HandOff { why: why.clone() },
        };
        // Most drivers take the key when they are configured, some only afterwards.
        let key = self.rss_key(key_len(offer), flags).or_else(|| {
            self.set_rss(key_len(offer), flags);
            self.rss_key(key_len(offer), flags)
        });
        let Some(key) = key else {
            return Delivery::HandOff { why: "the device does not confirm key and fields of the hash".to_owned() };
        };
        match self.spread(offer.reta_size, plan.rx_queues) {
            Some(table) => Delivery::Rss { fields: plan.rss, key, table },
            None => Delivery::HandOff { why: "the device's redirection table cannot be set".to_owned() },
        }
    }

    /// The hash key, if the device answers that it uses the one it was given, and hashes the
    /// one end, or both, that `flags` say.
    fn rss_key(&self, len: u8, flags: u64) -> Option<Vec<u8>> {
        let mut key = [0; RSS_KEY.len()];
        // SAFETY: integers and a pointer, for which all zeros is a value.
        let mut conf: sys::rte_eth_rss_conf = unsafe { mem::zeroed() };
        conf.rss_key = key.as_mut_ptr();
        conf.rss_key_len = len;
        // SAFETY: an open port, and room for a key of the stated length.
        let rc = unsafe { sys::rte_eth_dev_rss_hash_conf_get(self.id, &mut conf) };
        let key = key.get(..usize::from(len))?;
        let same = RSS_KEY.starts_with(key) && (conf.rss_hf ^ flags) & ONE_END == 0;
        (rc == 0 && same).then(|| key.to_vec())
    }

    /// Sets key and fields of the hash on a running device; [`Self::rss_key`] tells whether
    /// it worked.
    fn set_rss(&self, len: u8, flags: u64) {
        let mut key = RSS_KEY;
        // SAFETY: integers and a pointer, for which all zeros is a value.
        let mut conf: sys::rte_eth_rss_conf = unsafe { mem::zeroed() };
        conf.rss_key = key.as_mut_ptr();
        conf.rss_key_len = len;
        conf.rss_hf = flags;
        // SAFETY: an open port; the key lives during the call, which copies it.
        unsafe { sys::rte_eth_dev_rss_hash_update(self.id, &mut conf) };
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

    pub(super) fn mac(&self) -> Result<Mac, PortError> {
        let mark = log::mark();
        // SAFETY: six bytes, for which all zeros is a value.
        let mut mac: sys::rte_ether_addr = unsafe { mem::zeroed() };
        // SAFETY: an open port and a place to write to.
        let rc = unsafe { sys::rte_eth_macaddr_get(self.id, &mut mac) };
        self.check(rc, "read its Ethernet address", &mark)?;
        Ok(Mac(mac.addr_bytes))
    }

    pub(super) fn mtu(&self) -> Result<u16, PortError> {
        let mark = log::mark();
        let mut mtu = 0;
        // SAFETY: an open port and a place to write to.
        let rc = unsafe { sys::rte_eth_dev_get_mtu(self.id, &mut mtu) };
        self.check(rc, "read its MTU", &mark)?;
        Ok(mtu)
    }

    pub(super) fn socket(&self) -> Option<u32> {
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

/// Length of the hash key: 40 bytes, the common length, where the device does not say; never
/// more than we have.
fn key_len(offer: &sys::rte_eth_dev_info) -> u8 {
    match offer.hash_key_size {
        0 => 40,
        n => n.min(RSS_KEY.len() as u8),
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
