//! One worker's queues.
//!
//! A receive is one call of the driver's function, which writes pointers straight into the
//! lanes; a transmit is one call that reads them there. Besides, a burst costs a handful of
//! loads: function, queue, callback. Nothing is done per packet, except that a transmit
//! looks over its lanes for an empty one (a few vector instructions for the whole burst).

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use dpdk_sys as sys;

use super::mbuf::Mbuf;
use super::mempool::Mempool;
use super::port::Port;
use crate::io::{BURST, PacketIo};
use crate::units::{PortId, QueueId};

/// Why a worker did not get its queues.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Ports must be given in the order of their indices, from 0 and without a gap.
    #[error("port {found} stands in place {place}")]
    Order {
        /// The place.
        place: usize,
        /// The port that stands there.
        found: PortId,
    },
    /// Another worker has the queue.
    #[error("queue {queue} of port {port} is in use by another worker")]
    Taken {
        /// The port.
        port: PortId,
        /// The queue.
        queue: QueueId,
    },
    /// The port frees packets the fast way, into its own pool.
    #[error("port {port} frees packets into its own pool only, but the worker, or another port, has a different one")]
    Pool {
        /// The port.
        port: PortId,
    },
}

/// One port as a worker sees it. Read on every burst, never written after the start.
struct Lane {
    /// The driver's functions for this port; DPDK replaces them when the port stops.
    ops: *const sys::rte_eth_fp_ops,
    device: u16,
    has_rx: bool,
    has_tx: bool,
    /// The driver wants to see packets with checksum requests before they are sent.
    prepare: bool,
    /// The driver passes packets on with another port's metadata.
    relabel: bool,
    port: Arc<Port>,
}

/// Packets at hand, so that taking or giving back one is not a call.
const HELD: usize = 64;
/// How many are fetched at once.
const REFILL: usize = 32;

/// One worker's receive and transmit queue of each port, and its pool. Register the
/// worker's thread ([`super::Eal::register_thread`]) before it uses this, else the pools
/// are reached without a cache.
pub struct DpdkIo {
    lanes: Vec<Lane>,
    queue: QueueId,
    pool: Arc<Mempool>,
    /// New packets, reset and empty: the first `fresh_len`.
    fresh: [Option<Mbuf>; REFILL],
    fresh_len: usize,
    /// Packets to be freed: the first `spent_len`.
    spent: [Option<Mbuf>; HELD],
    spent_len: usize,
}

// SAFETY: `ops` points to a static of DPDK's; everything else may move between threads,
// and a queue has one owner at a time.
unsafe impl Send for DpdkIo {}

impl DpdkIo {
    /// Takes queue `queue` of every port that has one of that number. `ports` are in the
    /// order of their indices; new packets come from `pool`.
    ///
    /// # Errors
    /// When the ports are out of order, a queue is taken, or pools do not go together.
    pub fn new(queue: QueueId, ports: &[Arc<Port>], pool: &Arc<Mempool>) -> Result<Self, QueueError> {
        for (place, port) in ports.iter().enumerate() {
            let info = port.info();
            if info.port.index() != place {
                return Err(QueueError::Order { place, found: info.port });
            }
            let one_pool = || ports.iter().map(|p| p.pool()).chain([pool]).all(|p| Arc::ptr_eq(p, port.pool()));
            if info.offloads.fast_free && !one_pool() {
                return Err(QueueError::Pool { port: info.port });
            }
        }
        let mut io = Self {
            lanes: Vec::with_capacity(ports.len()),
            queue,
            pool: Arc::clone(pool),
            fresh: [const { None }; REFILL],
            fresh_len: 0,
            spent: [const { None }; HELD],
            spent_len: 0,
        };
        for port in ports {
            let taken = |()| QueueError::Taken { port: port.info().port, queue };
            let has_rx = port.claim_rx(queue).map_err(taken)?;
            let has_tx = port.claim_tx(queue).map_err(|()| {
                port.release(queue, has_rx, false);
                taken(())
            })?;
            let device = port.device_id();
            io.lanes.push(Lane {
                ops: (&raw const sys::rte_eth_fp_ops).cast::<sys::rte_eth_fp_ops>().wrapping_add(usize::from(device)),
                device,
                has_rx,
                has_tx,
                prepare: port.info().offloads.tx_csum,
                relabel: port.info().driver == "net_ring",
                port: Arc::clone(port),
            });
        }
        Ok(io)
    }

    /// The ports, in the order of their indices.
    pub fn port(&self, port: PortId) -> Option<&Arc<Port>> {
        self.lanes.get(port.index()).map(|l| &l.port)
    }

    /// Gives back what is kept at hand, so that the pool's count is exact.
    pub fn release(&mut self) {
        let n = std::mem::take(&mut self.fresh_len);
        free_burst(&mut self.fresh[..n]);
        self.flush_spent();
    }

    #[cold]
    #[inline(never)]
    fn flush_spent(&mut self) {
        let n = std::mem::take(&mut self.spent_len);
        free_burst(&mut self.spent[..n]);
    }

    /// Fetches new packets; false when the pool is empty.
    #[cold]
    #[inline(never)]
    fn refill(&mut self) -> bool {
        self.flush_spent();
        for n in [REFILL, 1] {
            // SAFETY: room for `n` pointers, as `Option<Mbuf>` is one; the pool lives.
            let rc = unsafe { sys::px_pktmbuf_alloc_bulk(self.pool.raw(), self.fresh.as_mut_ptr().cast(), n as u32) };
            if rc == 0 {
                self.fresh_len = n;
                return true;
            }
        }
        false
    }
}

impl PacketIo for DpdkIo {
    type Buf = Mbuf;

    fn ports(&self) -> usize {
        self.lanes.len()
    }

    #[inline]
    fn has_rx(&self, port: PortId) -> bool {
        self.lanes.get(port.index()).is_some_and(|l| l.has_rx)
    }

    #[inline]
    fn has_tx(&self, port: PortId) -> bool {
        self.lanes.get(port.index()).is_some_and(|l| l.has_tx)
    }

    #[inline]
    fn rx(&mut self, port: PortId, out: &mut [Option<Mbuf>; BURST]) -> usize {
        let Some(lane) = self.lanes.get(port.index()).filter(|l| l.has_rx) else { return 0 };
        let n = lane.rx(self.queue, out);
        if n == 0 && self.spent_len != 0 {
            // Nothing to do: a good time to give freed packets back.
            self.flush_spent();
        }
        n
    }

    #[inline]
    fn tx(&mut self, port: PortId, bufs: &mut [Option<Mbuf>], n: usize) -> usize {
        let mut n = n.min(bufs.len()).min(usize::from(u16::MAX));
        let bufs = &mut bufs[..n];
        if !Mbuf::all_some(bufs) {
            n = close_gaps(bufs);
        }
        let taken = match self.lanes.get(port.index()).filter(|l| l.has_tx) {
            Some(lane) => lane.tx(self.queue, &mut bufs[..n]),
            None => 0,
        };
        if taken < n {
            free_burst(&mut bufs[taken..n]);
        }
        // Not `fill`, as a packet cannot be cloned; becomes one memset.
        for b in bufs.iter_mut() {
            *b = None;
        }
        taken
    }

    #[inline]
    fn alloc(&mut self, len: usize) -> Option<Mbuf> {
        if self.fresh_len == 0 && !self.refill() {
            return None;
        }
        let mut buf = self.fresh.get_mut(self.fresh_len - 1)?.take()?;
        self.fresh_len -= 1;
        if buf.set_fresh_len(len) {
            return Some(buf);
        }
        self.free(buf);
        None
    }

    #[inline]
    fn free(&mut self, buf: Mbuf) {
        if self.spent_len == HELD {
            self.flush_spent();
        }
        if let Some(place) = self.spent.get_mut(self.spent_len) {
            *place = Some(buf);
            self.spent_len += 1;
        }
    }

    fn copy(&mut self, buf: &Mbuf) -> Option<Mbuf> {
        // SAFETY: a live packet, which is read, and a live pool; the whole length.
        let raw = unsafe { sys::rte_pktmbuf_copy(buf.as_ptr(), self.pool.raw(), 0, u32::MAX) };
        // SAFETY: a new packet, ours alone.
        NonNull::new(raw).map(|raw| unsafe { Mbuf::from_raw(raw) })
    }
}

impl Drop for DpdkIo {
    fn drop(&mut self) {
        self.release();
        for lane in &self.lanes {
            lane.port.release(self.queue, lane.has_rx, lane.has_tx);
        }
    }
}

/// Reads a field of `rte_eth_fp_ops` (or a pointer in what it points to), which the
/// control thread's DPDK calls may replace at any time.
///
/// # Safety
/// `place` is readable and aligned.
#[inline(always)]
unsafe fn load<T: Copy>(place: *const T) -> T {
    // SAFETY: as the caller promises. Volatile: the compiler may neither split nor repeat
    // the load, which is what DPDK's own inline functions rely on.
    unsafe { place.read_volatile() }
}

impl Lane {
    /// A field of the driver's functions.
    #[inline(always)]
    fn op<T: Copy>(&self, offset: usize) -> T {
        // SAFETY: `ops` is an entry of DPDK's static array, and callers pass the offset
        // of a field of type T in it.
        unsafe { load(self.ops.wrapping_byte_add(offset).cast::<T>()) }
    }

    /// Entry `queue` of the array of pointers at `offset` in the driver's functions.
    #[inline(always)]
    fn of_queue(&self, offset: usize, queue: QueueId) -> *mut c_void {
        let array: *const *mut c_void = self.op(offset);
        // SAFETY: DPDK keeps an entry for each of RTE_MAX_QUEUES_PER_PORT queues, and the
        // port has this one.
        unsafe { load(array.wrapping_add(queue.index())) }
    }

    #[inline(always)]
    fn rx(&self, queue: QueueId, out: &mut [Option<Mbuf>; BURST]) -> usize {
        let data = self.of_queue(RXQ_DATA, queue);
        let burst: sys::eth_rx_burst_t = self.op(sys::LAYOUT_rte_eth_fp_ops_rx_pkt_burst);
        let callbacks = self.of_queue(RXQ_CALLBACKS, queue);
        let pkts = out.as_mut_ptr().cast::<*mut sys::rte_mbuf>();
        let n = match burst {
            Some(burst) if callbacks.is_null() => {
                // SAFETY: the driver's function with its own queue; it writes at most BURST
                // pointers to packets that become ours.
                unsafe { burst(data, pkts, BURST as u16) }
            }
            // SAFETY: a started port's queue that is this worker's alone; room as above.
            _ => unsafe { sys::px_eth_rx_burst(self.device, queue.0, pkts, BURST as u16) },
        };
        if self.relabel {
            for buf in out.iter_mut().take(usize::from(n)).flatten() {
                buf.relabel(self.device);
            }
        }
        usize::from(n)
    }

    /// Sends `bufs`, all of which are `Some`; returns how many the device took from the
    /// front. What it took is not ours any more, although the pointers are still there.
    #[inline(always)]
    fn tx(&self, queue: QueueId, bufs: &mut [Option<Mbuf>]) -> usize {
        let n = if self.prepare { self.prepare(queue, bufs) } else { bufs.len() } as u16;
        let data = self.of_queue(TXQ_DATA, queue);
        let burst: sys::eth_tx_burst_t = self.op(sys::LAYOUT_rte_eth_fp_ops_tx_pkt_burst);
        let callbacks = self.of_queue(TXQ_CALLBACKS, queue);
        let pkts = bufs.as_mut_ptr().cast::<*mut sys::rte_mbuf>();
        let taken = match burst {
            Some(burst) if callbacks.is_null() => {
                // SAFETY: the driver's function with its own queue and `n` packets that are
                // ours to give.
                unsafe { burst(data, pkts, n) }
            }
            // SAFETY: a started port's queue that is this worker's alone; packets as above.
            _ => unsafe { sys::px_eth_tx_burst(self.device, queue.0, pkts, n) },
        };
        usize::from(taken)
    }

    /// Shows the packets to the driver, which completes what its device needs for the
    /// checksums. Returns how many from the front may be sent: those that the driver
    /// refuses are moved behind them.
    #[inline(never)]
    fn prepare(&self, queue: QueueId, bufs: &mut [Option<Mbuf>]) -> usize {
        let prepare: sys::eth_tx_prep_t = self.op(sys::LAYOUT_rte_eth_fp_ops_tx_pkt_prepare);
        let Some(prepare) = prepare else { return bufs.len() };
        let data = self.of_queue(TXQ_DATA, queue);
        let (mut ready, mut end) = (0, bufs.len());
        while ready < end {
            let pkts = bufs[ready..end].as_mut_ptr().cast::<*mut sys::rte_mbuf>();
            // SAFETY: the driver's function with its own queue and packets that are ours.
            let n = unsafe { prepare(data, pkts, (end - ready) as u16) };
            ready += usize::from(n).min(end - ready);
            if ready < end {
                // The driver stopped at one it cannot send.
                end -= 1;
                bufs.swap(ready, end);
            }
        }
        ready
    }
}

const RXQ_DATA: usize = sys::LAYOUT_rte_eth_fp_ops_rxq + sys::LAYOUT_rte_ethdev_qdata_data;
const RXQ_CALLBACKS: usize = sys::LAYOUT_rte_eth_fp_ops_rxq + sys::LAYOUT_rte_ethdev_qdata_clbk;
const TXQ_DATA: usize = sys::LAYOUT_rte_eth_fp_ops_txq + sys::LAYOUT_rte_ethdev_qdata_data;
const TXQ_CALLBACKS: usize = sys::LAYOUT_rte_eth_fp_ops_txq + sys::LAYOUT_rte_ethdev_qdata_clbk;

/// Frees packets, all at once. The entries, all of which are `Some`, are `None` afterwards.
fn free_burst(bufs: &mut [Option<Mbuf>]) {
    let pkts = bufs.as_mut_ptr().cast::<*mut sys::rte_mbuf>();
    // SAFETY: as many packets as stated, which are ours and forgotten right below.
    unsafe { sys::px_pktmbuf_free_bulk(pkts, bufs.len() as u32) };
    // SAFETY: all zeros is `None`, as `Option<Mbuf>` is a pointer that may be null.
    unsafe { ptr::write_bytes(bufs.as_mut_ptr(), 0, bufs.len()) };
}

/// Moves the packets of a burst with gaps to the front; returns their number.
#[cold]
#[inline(never)]
fn close_gaps(bufs: &mut [Option<Mbuf>]) -> usize {
    let mut n = 0;
    for i in 0..bufs.len() {
        if bufs[i].is_some() {
            bufs.swap(n, i);
            n += 1;
        }
    }
    n
}
