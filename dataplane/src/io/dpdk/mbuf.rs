//! One packet: DPDK's `rte_mbuf`, owned.
//!
//! Fields are reached through offsets that the build takes from the installed headers
//! (`dpdk_sys::LAYOUT_*`), as releases differ in how the structure nests them. What a
//! forwarded packet needs lies in the first cache line of the structure.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use dpdk_sys as sys;

use crate::io::{Csum, PacketBuf, RxInfo, TxOffload};
use crate::units::PortId;

/// Set in `ol_flags` when the packet carries a mark. Drivers write the flags anew on
/// receive and so clear it, at no cost: without the flag the mark reads as 0.
/// Registered with DPDK when the environment starts.
pub(super) const MARKED: u64 = sys::RTE_MBUF_F_LAST_FREE;

/// Set in the mbuf's port field when it holds a [`PortId`] that [`PacketBuf::set_ingress`]
/// put there; else it is DPDK's port number, as the driver put it there.
const OURS: u16 = 0x8000;

/// The [`PortId`] of each DPDK port, written when a port is opened.
static INGRESS: [AtomicU16; sys::RTE_MAX_ETHPORTS as usize] =
    [const { AtomicU16::new(u16::MAX) }; sys::RTE_MAX_ETHPORTS as usize];

/// Notes that packets of DPDK's port `device` arrive on `port`.
pub(super) fn note_ingress(device: u16, port: PortId) {
    if let Some(entry) = INGRESS.get(usize::from(device)) {
        entry.store(port.0, Ordering::Relaxed);
    }
}

/// One packet, perhaps of several segments; one pointer wide, also as `Option`.
///
/// Owns its segments alone (reference count 1): nothing here clones segments.
#[derive(Debug)]
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

// SAFETY: a packet is owned by one thread at a time, and its pool takes it back from any.
unsafe impl Send for Mbuf {}

// The burst functions take arrays of `Option<Mbuf>` as arrays of pointers.
const _: () = assert!(size_of::<Option<Mbuf>>() == size_of::<*mut sys::rte_mbuf>());

/// Accessors of one field: `get set: type @ offset`.
macro_rules! fields {
    ($($get:ident $set:ident: $ty:ty = $offset:ident;)*) => {
        $(
            #[inline(always)]
            #[allow(dead_code)]
            fn $get(self) -> $ty {
                const {
                    assert!(sys::$offset % align_of::<$ty>() == 0);
                    assert!(sys::$offset + size_of::<$ty>() <= sys::SIZE_rte_mbuf);
                }
                let place = self.0.as_ptr().wrapping_byte_add(sys::$offset).cast::<$ty>();
                // SAFETY: a field of a live mbuf, which its owner alone reads and writes;
                // the assertions above place it inside, aligned.
                unsafe { place.read() }
            }
            #[inline(always)]
            #[allow(dead_code)]
            fn $set(self, value: $ty) {
                let place = self.0.as_ptr().wrapping_byte_add(sys::$offset).cast::<$ty>();
                // SAFETY: as for reading; the callers own the packet for writing.
                unsafe { place.write(value) }
            }
        )*
    };
}

/// A segment's fields. A copy of the pointer, so that chains can be walked; made from an
/// [`Mbuf`] only, whose borrow decides whether the setters may be used.
#[derive(Clone, Copy)]
struct Seg(NonNull<sys::rte_mbuf>);

impl Seg {
    fields! {
        buf_addr set_buf_addr: *mut u8 = LAYOUT_rte_mbuf_buf_addr;
        data_off set_data_off: u16 = LAYOUT_rte_mbuf_data_off;
        nb_segs set_nb_segs: u16 = LAYOUT_rte_mbuf_nb_segs;
        port set_port: u16 = LAYOUT_rte_mbuf_port;
        ol_flags set_ol_flags: u64 = LAYOUT_rte_mbuf_ol_flags;
        pkt_len set_pkt_len: u32 = LAYOUT_rte_mbuf_pkt_len;
        data_len set_data_len: u16 = LAYOUT_rte_mbuf_data_len;
        vlan_tci set_vlan_tci: u16 = LAYOUT_rte_mbuf_vlan_tci;
        buf_len set_buf_len: u16 = LAYOUT_rte_mbuf_buf_len;
        next set_next: Option<NonNull<sys::rte_mbuf>> = LAYOUT_rte_mbuf_next;
        tx_offload set_tx_offload: u64 = LAYOUT_rte_mbuf_tx_offload;
    }

    /// The first byte of data.
    #[inline(always)]
    fn start(self) -> *mut u8 {
        self.buf_addr().wrapping_add(usize::from(self.data_off()))
    }

    /// The mark's place: the eight bytes of the RSS hash or flow-director match, in the
    /// first cache line, which nobody needs once the packet is marked. Not aligned to 8.
    #[inline(always)]
    fn mark_place(self) -> *mut u64 {
        self.0.as_ptr().wrapping_byte_add(sys::LAYOUT_rte_mbuf_hash).cast()
    }

    /// This segment and those after it.
    fn chain(self) -> impl Iterator<Item = Self> {
        std::iter::successors(Some(self), |s| s.next().map(Self))
    }

    fn last(self) -> Self {
        self.chain().last().unwrap_or(self)
    }

    /// Bytes free behind this segment's data.
    fn tailroom(self) -> usize {
        usize::from(self.buf_len()).saturating_sub(usize::from(self.data_off()) + usize::from(self.data_len()))
    }
}

impl Mbuf {
    /// Takes over a packet that DPDK handed out.
    ///
    /// # Safety
    /// `raw` is a live, initialised mbuf that nobody else uses.
    pub(super) unsafe fn from_raw(raw: NonNull<sys::rte_mbuf>) -> Self {
        Self(raw)
    }

    /// Whether each of `bufs` is `Some`. Taking 1 off a pointer sets the top bit only if
    /// it was null, as no address of a process has that bit; an addition and an `or` cost
    /// less than comparisons, and without a shortcut they become vector instructions.
    #[inline(always)]
    pub(super) fn all_some(bufs: &[Option<Self>]) -> bool {
        let less_one = |b: &Option<Self>| b.as_ref().map_or(0, |m| m.0.as_ptr().addr()).wrapping_sub(1);
        bufs.iter().fold(0, |bits, b| bits | less_one(b)) >> (usize::BITS - 1) == 0
    }

    /// DPDK's pointer, for calls that only read.
    pub(super) fn as_ptr(&self) -> *const sys::rte_mbuf {
        self.0.as_ptr()
    }

    #[inline(always)]
    fn seg(&self) -> Seg {
        Seg(self.0)
    }

    /// Sets the length of a fresh, empty, one-segment packet; false when it does not fit.
    #[inline(always)]
    pub(super) fn set_fresh_len(&mut self, len: usize) -> bool {
        let s = self.seg();
        if len > s.tailroom() {
            return false;
        }
        s.set_data_len(len as u16);
        s.set_pkt_len(len as u32);
        true
    }

    /// For drivers that pass on another port's mbufs as they are (`net_ring`): makes the
    /// packet look as if it had just arrived on DPDK's port `device`.
    pub(super) fn relabel(&mut self, device: u16) {
        self.seg().set_port(device);
        self.seg().set_ol_flags(self.seg().ol_flags() & !MARKED);
    }

    /// Frees the segments from `seg` on, which are linked to nothing any more.
    fn free_chain(seg: Seg) {
        // SAFETY: the segments were part of an owned packet and have been cut off it. They
        // form a chain of initialised segments; the count in the first is not used.
        unsafe { sys::px_pktmbuf_free(seg.0.as_ptr()) };
    }
}

impl PacketBuf for Mbuf {
    #[inline(always)]
    fn data(&self) -> &[u8] {
        let s = self.seg();
        // SAFETY: the segment's buffer holds `data_len` initialised-by-the-pool bytes from
        // `data_off` on, and lives and is not written while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(s.start(), usize::from(s.data_len())) }
    }

    #[inline(always)]
    fn data_mut(&mut self) -> &mut [u8] {
        let s = self.seg();
        // SAFETY: as in `data`; `self` is borrowed for writing and owns the buffer alone.
        unsafe { std::slice::from_raw_parts_mut(s.start(), usize::from(s.data_len())) }
    }

    #[inline(always)]
    fn prefetch(&self) {
        // Where a packet received into a buffer of our own pools begins: to read that from
        // the structure would be to wait for it. Elsewhere the prefetch is merely in vain.
        const START: usize = sys::SIZE_rte_mbuf + sys::RTE_PKTMBUF_HEADROOM as usize;
        crate::flow::memory::prefetch_near(self.0.as_ptr().wrapping_byte_add(START).cast::<u8>());
    }

    #[inline(always)]
    fn prefetch_whole(&self) {
        let first = self.0.as_ptr().cast::<u8>();
        crate::flow::memory::prefetch_near(first);
        // What is said for the device, and what a pool asks when it gets the packet back.
        crate::flow::memory::prefetch_near(first.wrapping_byte_add(64));
        self.prefetch();
    }

    #[inline(always)]
    fn total_len(&self) -> usize {
        self.seg().pkt_len() as usize
    }

    #[inline(always)]
    fn prepend(&mut self, n: usize) -> bool {
        let s = self.seg();
        // A segment longer than its length field can say would wrap it.
        if n > usize::from(s.data_off()) || n + usize::from(s.data_len()) > usize::from(u16::MAX) {
            return false;
        }
        s.set_data_off(s.data_off() - n as u16);
        s.set_data_len(s.data_len() + n as u16);
        s.set_pkt_len(s.pkt_len() + n as u32);
        true
    }

    #[inline(always)]
    fn trim_front(&mut self, n: usize) -> bool {
        let s = self.seg();
        if n > usize::from(s.data_len()) {
            return false;
        }
        s.set_data_off(s.data_off() + n as u16);
        s.set_data_len(s.data_len() - n as u16);
        s.set_pkt_len(s.pkt_len() - n as u32);
        true
    }

    fn truncate(&mut self, len: usize) -> bool {
        let head = self.seg();
        if len > head.pkt_len() as usize {
            return false;
        }
        // The segment in which the packet is to end.
        let (mut left, mut kept) = (len, 1u16);
        let mut end = head;
        while left > usize::from(end.data_len()) {
            left -= usize::from(end.data_len());
            let Some(next) = end.next() else { return false };
            end = Seg(next);
            kept += 1;
        }
        if let Some(rest) = end.next() {
            end.set_next(None);
            head.set_nb_segs(kept);
            Self::free_chain(Seg(rest));
        }
        end.set_data_len(left as u16);
        head.set_pkt_len(len as u32);
        true
    }

    fn extend(&mut self, n: usize) -> bool {
        let head = self.seg();
        let end = head.last();
        if n > end.tailroom() {
            return false;
        }
        end.set_data_len(end.data_len() + n as u16);
        head.set_pkt_len(head.pkt_len() + n as u32);
        true
    }

    fn copy_out(&self, offset: usize, out: &mut [u8]) -> usize {
        let (mut skip, mut done) = (offset, 0);
        for seg in self.seg().chain() {
            let len = usize::from(seg.data_len());
            if skip >= len {
                skip -= len;
                continue;
            }
            let n = (len - skip).min(out.len() - done);
            // SAFETY: `n` bytes from `skip` on lie within this segment's data, which is
            // neither written nor freed while `self` is borrowed.
            let from = unsafe { std::slice::from_raw_parts(seg.start().wrapping_add(skip), n) };
            out[done..done + n].copy_from_slice(from);
            done += n;
            skip = 0;
            if done == out.len() {
                break;
            }
        }
        done
    }

    #[inline(always)]
    fn is_chained(&self) -> bool {
        self.seg().nb_segs() != 1
    }

    #[inline(always)]
    fn ingress(&self) -> PortId {
        let port = self.seg().port();
        if port & OURS != 0 {
            return PortId(port & !OURS);
        }
        PortId(INGRESS.get(usize::from(port)).map_or(u16::MAX, |p| p.load(Ordering::Relaxed)))
    }

    #[inline(always)]
    fn set_ingress(&mut self, port: PortId) {
        self.seg().set_port(OURS | port.0);
    }

    #[inline(always)]
    fn rx_info(&self) -> RxInfo {
        let flags = self.seg().ol_flags();
        let l3 = match flags & sys::RTE_MBUF_F_RX_IP_CKSUM_MASK {
            sys::RTE_MBUF_F_RX_IP_CKSUM_GOOD => Csum::Good,
            sys::RTE_MBUF_F_RX_IP_CKSUM_BAD => Csum::Bad,
            // «None» says that the field is not right although the packet is: the caller,
            // who wants to change the field incrementally, must look at it.
            _ => Csum::Unknown,
        };
        let l4 = match flags & sys::RTE_MBUF_F_RX_L4_CKSUM_MASK {
            sys::RTE_MBUF_F_RX_L4_CKSUM_GOOD => Csum::Good,
            sys::RTE_MBUF_F_RX_L4_CKSUM_BAD => Csum::Bad,
            _ => Csum::Unknown,
        };
        let stripped = flags & sys::RTE_MBUF_F_RX_VLAN_STRIPPED != 0;
        RxInfo { l3, l4, vlan_tci: stripped.then(|| self.seg().vlan_tci()) }
    }

    #[inline(always)]
    fn set_tx_offload(&mut self, offload: TxOffload) {
        let s = self.seg();
        let l2 = u64::from(offload.l2_len) & mask(sys::RTE_MBUF_L2_LEN_BITS);
        let l3 = u64::from(offload.l3_len) & mask(sys::RTE_MBUF_L3_LEN_BITS);
        s.set_tx_offload(l2 << sys::RTE_MBUF_L2_LEN_OFS | l3 << sys::RTE_MBUF_L3_LEN_OFS);
        let mut flags = s.ol_flags() & !ALL_TX;
        if offload.ip_csum || offload.l4_csum.is_some() {
            flags |= if offload.ipv4 { sys::RTE_MBUF_F_TX_IPV4 } else { sys::RTE_MBUF_F_TX_IPV6 };
        }
        if offload.ip_csum {
            flags |= sys::RTE_MBUF_F_TX_IP_CKSUM;
        }
        flags |= match offload.l4_csum {
            Some(6) => sys::RTE_MBUF_F_TX_TCP_CKSUM,
            Some(17) => sys::RTE_MBUF_F_TX_UDP_CKSUM,
            _ => 0,
        };
        s.set_ol_flags(flags);
    }

    #[inline(always)]
    fn set_tx_tag(&mut self, tci: u16) {
        let s = self.seg();
        s.set_vlan_tci(tci);
        s.set_ol_flags(s.ol_flags() | sys::RTE_MBUF_F_TX_VLAN);
    }

    #[inline(always)]
    fn mark(&self) -> u64 {
        if self.seg().ol_flags() & MARKED == 0 {
            return 0;
        }
        // SAFETY: eight bytes inside a live mbuf; unaligned access is asked for.
        unsafe { self.seg().mark_place().read_unaligned() }
    }

    #[inline(always)]
    fn set_mark(&mut self, mark: u64) {
        let s = self.seg();
        s.set_ol_flags((s.ol_flags() & !(sys::RTE_MBUF_F_RX_RSS_HASH | sys::RTE_MBUF_F_RX_FDIR)) | MARKED);
        // SAFETY: eight bytes inside an mbuf that is borrowed for writing; unaligned access
        // is asked for.
        unsafe { s.mark_place().write_unaligned(mark) };
    }
}

// The mark fits into the union of hashes, which ends before the next field.
const _: () = assert!(sys::LAYOUT_rte_mbuf_hash + 8 <= sys::LAYOUT_rte_mbuf_buf_len);

/// Every request for checksums that is made here.
const ALL_TX: u64 =
    sys::RTE_MBUF_F_TX_IP_CKSUM | sys::RTE_MBUF_F_TX_IPV4 | sys::RTE_MBUF_F_TX_IPV6 | sys::RTE_MBUF_F_TX_L4_MASK;

/// `bits` ones.
const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}
