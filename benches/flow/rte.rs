//! DPDK's `rte_hash`, set up as its users do: bulk look-ups with the hash given, keys of a
//! length that it compares with vector instructions.
#![allow(unsafe_code, reason = "the library that is compared against is C")]

use std::ffi::{c_char, c_void};
use std::ptr;

use dataplane::io::dpdk::Eal;
use dpdk_sys as sys;

use super::{BURST, Packet};

/// Which key: `rte_hash` compares 16 and 48 bytes without `memcmp`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Both families, as ours, and the hash: 48 bytes.
    Wide,
    /// IPv4 only: 16 bytes, the shortest there is.
    Narrow,
}

impl Key {
    #[inline(always)]
    fn of(self, p: &Packet) -> *const c_void {
        match self {
            Self::Wide => ptr::from_ref(p).cast(),
            Self::Narrow => p.narrow.as_ptr().cast(),
        }
    }
}

/// The environment, in huge pages when there are some.
pub fn start() -> Eal {
    let args = ["--in-memory", "--no-pci", "--no-telemetry", "--log-level=error"].map(str::to_owned);
    Eal::init(&args).expect("DPDK starts")
}

/// A table with these flows.
pub struct RteHash {
    h: *mut sys::rte_hash,
    key: Key,
}

impl RteHash {
    /// With flow `i` under the data pointer `i`.
    pub fn new(_eal: &Eal, key: Key, flows: &[Packet]) -> Self {
        let (name, key_len) = if key == Key::Narrow { (c"narrow", 16) } else { (c"wide", 48) };
        // SAFETY: a C struct of numbers and pointers; all zero means defaults.
        let mut p: sys::rte_hash_parameters = unsafe { std::mem::zeroed() };
        p.name = name.as_ptr().cast::<c_char>();
        // Room for one burst more.
        p.entries = (flows.len() + BURST) as u32;
        p.key_len = key_len;
        p.socket_id = 0;
        // RTE_HASH_EXTRA_FLAGS_EXT_TABLE: so that a full table holds all it should.
        p.extra_flag = 0x08;
        // SAFETY: the parameters are complete and outlive the call.
        let h = unsafe { sys::rte_hash_create(&p) };
        assert!(!h.is_null(), "rte_hash of {} entries: not enough memory", flows.len());
        let mut table = Self { h, key };
        for (i, burst) in flows.chunks(BURST).enumerate() {
            table.insert(burst, i * BURST);
        }
        table
    }

    /// Adds flows with the numbers from `first` on.
    #[inline(never)]
    pub fn insert(&mut self, burst: &[Packet], first: usize) {
        for (i, p) in burst.iter().enumerate() {
            let (key, data) = (self.key.of(p), ptr::without_provenance_mut(first + i));
            // SAFETY: the table lives, the key has the length it was made for; the data is a number.
            let rc = unsafe { sys::rte_hash_add_key_with_hash_data(self.h, key, p.hash.0 as u32, data) };
            assert_eq!(rc, 0, "flow {}", first + i);
        }
    }

    /// Takes flows out.
    #[inline(never)]
    pub fn remove(&mut self, burst: &[Packet]) {
        for p in burst {
            // SAFETY: the table lives, the key has the length it was made for.
            let rc = unsafe { sys::rte_hash_del_key_with_hash(self.h, self.key.of(p), p.hash.0 as u32) };
            assert!(rc >= 0);
        }
    }

    /// A burst; returns the hits, with each flow's number in `found`.
    #[inline(never)]
    pub fn find(&self, burst: &[Packet], found: &mut [*mut c_void; BURST]) -> usize {
        let mut keys = [ptr::null::<c_void>(); BURST];
        let mut hashes = [0; BURST];
        for ((k, h), p) in keys.iter_mut().zip(&mut hashes).zip(burst) {
            // The low half of the signature is the place, the high half the tag.
            (*k, *h) = (self.key.of(p), p.hash.0 as u32);
        }
        let mut hits = 0;
        // SAFETY: all four arrays hold as many elements as the burst has keys.
        let rc = unsafe {
            sys::rte_hash_lookup_with_hash_bulk_data(
                self.h,
                keys.as_mut_ptr(),
                hashes.as_mut_ptr(),
                burst.len() as u32,
                &mut hits,
                found.as_mut_ptr(),
            )
        };
        assert!(rc >= 0);
        hits.count_ones() as usize
    }
}

impl Drop for RteHash {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and used no more.
        unsafe { sys::rte_hash_free(self.h) };
    }
}
