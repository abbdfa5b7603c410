//! Pools of packets.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;

use dpdk_sys as sys;

use super::{Eal, errno, log, strerror};

/// Bytes in front of a received packet, free for headers to be put there.
pub const HEADROOM: u16 = sys::RTE_PKTMBUF_HEADROOM;

/// Why a pool could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MempoolError {
    /// The name is empty, too long (more than 25 bytes) or holds a zero byte.
    #[error("`{0}` cannot be the name of a packet pool: 1 to 25 bytes without a zero")]
    Name(String),
    /// The cache does not suit the pool.
    #[error("pool `{name}`: a cache of {cache} packets per lcore needs at least {needs} packets, not {packets}")]
    Cache {
        /// The pool.
        name: String,
        /// Cache size asked for.
        cache: u32,
        /// Packets asked for.
        packets: u32,
        /// Fewest packets that suit the cache.
        needs: u32,
    },
    /// DPDK refused, mostly for want of memory.
    #[error("pool `{name}` of {packets} packets of {data_room} bytes: {reason}; {log}")]
    Create {
        /// The pool.
        name: String,
        /// Packets asked for.
        packets: u32,
        /// Buffer size asked for, headroom included.
        data_room: u16,
        /// DPDK's name for the error.
        reason: String,
        /// The last lines of its log.
        log: String,
    },
}

/// What a pool shall be like.
#[derive(Clone, Debug)]
pub struct MempoolOptions {
    /// Unique within the process; 1 to 25 bytes.
    pub name: String,
    /// Number of packets. Memory is used best by a power of two minus one.
    pub packets: u32,
    /// Packets that each lcore keeps at hand; 0 for none, at most 512.
    pub cache: u32,
    /// Bytes of one buffer, headroom included.
    pub data_room: u16,
    /// NUMA node, `None` for any.
    pub socket: Option<u32>,
}

impl MempoolOptions {
    /// Packets of up to 2,048 bytes in one segment, 256 cached per lcore (fewer when the
    /// pool is small), on any NUMA node.
    pub fn new(name: &str, packets: u32) -> Self {
        Self { name: name.to_owned(), packets, cache: (packets / 4).min(256), data_room: 2048 + HEADROOM, socket: None }
    }
}

/// A pool of packets. Dropped when no port and no worker uses it any more.
#[derive(Debug)]
pub struct Mempool {
    raw: NonNull<sys::rte_mempool>,
    packets: u32,
    data_room: u16,
    _eal: Eal,
}

// SAFETY: DPDK's pools may be used by several threads at once (multi-producer,
// multi-consumer ring, caches per lcore); this type itself is never written.
unsafe impl Send for Mempool {}
// SAFETY: as above.
unsafe impl Sync for Mempool {}

impl Mempool {
    /// Makes a pool.
    ///
    /// # Errors
    /// A name or sizes that DPDK does not take, or too little memory.
    pub fn new(eal: &Eal, options: &MempoolOptions) -> Result<Arc<Self>, MempoolError> {
        let MempoolOptions { name, packets, cache, data_room, socket } = options;
        let (packets, cache, data_room) = (*packets, *cache, *data_room);
        let c_name = CString::new(name.as_str()).ok().filter(|n| (1..=25).contains(&n.as_bytes().len()));
        let c_name = c_name.ok_or_else(|| MempoolError::Name(name.clone()))?;
        let needs = cache + cache / 2;
        if cache > sys::RTE_MEMPOOL_CACHE_MAX_SIZE || packets < needs.max(1) {
            return Err(MempoolError::Cache { name: name.clone(), cache, packets, needs });
        }
        let socket = socket.and_then(|s| i32::try_from(s).ok()).unwrap_or(sys::SOCKET_ID_ANY);
        let mark = log::mark();
        // SAFETY: the environment runs, as `eal` proves; the name is copied.
        let raw = unsafe { sys::rte_pktmbuf_pool_create(c_name.as_ptr(), packets, cache, 0, data_room, socket) };
        let raw = NonNull::new(raw).ok_or_else(|| MempoolError::Create {
            name: name.clone(),
            packets,
            data_room,
            reason: strerror(errno()),
            log: log::since(&mark),
        })?;
        Ok(Arc::new(Self { raw, packets, data_room, _eal: eal.clone() }))
    }

    /// Number of packets in all.
    pub fn packets(&self) -> u32 {
        self.packets
    }

    /// Bytes of one buffer, headroom included.
    pub fn data_room(&self) -> u16 {
        self.data_room
    }

    /// Packets that are neither in the pool nor in an lcore's cache: in a device's rings,
    /// in a worker's hands, or lost. Walks all lcores: for tests and statistics. Counts of
    /// running lcores are read as they are, so that the sum may be off for a moment.
    pub fn in_use(&self) -> u32 {
        // SAFETY: the pool lives, as it is freed in `drop` only.
        unsafe { sys::rte_mempool_in_use_count(self.raw.as_ptr()) }
    }

    pub(super) fn raw(&self) -> *mut sys::rte_mempool {
        self.raw.as_ptr()
    }
}

impl Drop for Mempool {
    fn drop(&mut self) {
        // A packet that is still out would point into freed memory: then the pool stays.
        if self.in_use() == 0 {
            // SAFETY: no port, worker or packet refers to the pool any more.
            unsafe { sys::rte_mempool_free(self.raw.as_ptr()) };
        }
    }
}
