//! Memory of the flow table, and of what packets count in: large arrays in huge pages, prefetching,
//! tag comparison.
//!
//! The one place besides `io::dpdk` with unsafe code. What it offers is safe: an index
//! beyond the end is taken for the last element, so that no access needs a panicking check.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::ptr::NonNull;

use super::index::Bucket;
use super::record::FlowRecord;
use super::wheel::Link;
use crate::front::Front;

/// Data that is valid when all its bytes are zero, and needs no destructor.
///
/// # Safety
/// The implementer guarantees both.
pub unsafe trait Plain {}

// SAFETY: a number; zero is one.
unsafe impl Plain for u32 {}
// SAFETY: numbers only.
unsafe impl Plain for Bucket {}
// SAFETY: numbers only.
unsafe impl Plain for FlowRecord {}
// SAFETY: numbers only.
unsafe impl Plain for Link {}
// SAFETY: numbers only, although some are atomic.
unsafe impl Plain for Front {}

/// Bytes of a huge page, and of an ordinary one.
const HUGE: usize = 2 << 20;
const SMALL: usize = 4096;

/// What kind of pages an array got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Huge pages of 2 MiB that the administrator set aside (`vm.nr_hugepages`).
    Huge,
    /// Ordinary pages, which the kernel was asked to join to huge ones where it can.
    Advised,
    /// Ordinary pages: the array is smaller than a huge one.
    Small,
}

/// Why there is no array.
#[derive(Debug, thiserror::Error)]
#[error("cannot map {bytes} bytes of memory for the flow table: {source}")]
pub struct OutOfMemory {
    bytes: usize,
    source: io::Error,
}

/// A fixed-size array, zeroed, in huge pages where there are any. All its memory is taken
/// when it is made: no page fault comes later.
pub struct HugeArray<T> {
    ptr: NonNull<T>,
    /// Index of the last element.
    last: usize,
    bytes: usize,
    pages: Pages,
    _owns: PhantomData<T>,
}

// SAFETY: the array owns its memory as a Box does.
unsafe impl<T: Plain + Send> Send for HugeArray<T> {}
// SAFETY: shared access only reads.
unsafe impl<T: Plain + Sync> Sync for HugeArray<T> {}

impl<T: Plain> HugeArray<T> {
    /// `len` elements (at least one), all zero.
    ///
    /// # Errors
    /// When the kernel has not that much memory.
    pub fn new(len: usize) -> Result<Self, OutOfMemory> {
        Self::within(len, true)
    }

    /// The same without the huge pages that were set aside, which others count on: in ordinary ones, joined
    /// where the kernel can.
    ///
    /// # Errors
    /// As above.
    pub fn joined(len: usize) -> Result<Self, OutOfMemory> {
        Self::within(len, false)
    }

    fn within(len: usize, reserved: bool) -> Result<Self, OutOfMemory> {
        const { assert!(align_of::<T>() <= SMALL && size_of::<T>() > 0) };
        let len = len.max(1);
        if len > u32::MAX as usize {
            return Err(OutOfMemory { bytes: usize::MAX, source: io::ErrorKind::OutOfMemory.into() });
        }
        let need = len.saturating_mul(size_of::<T>());
        let (ptr, bytes, pages) = map(need, reserved).map_err(|source| OutOfMemory { bytes: need, source })?;
        Ok(Self { ptr: ptr.cast(), last: len - 1, bytes, pages, _owns: PhantomData })
    }

    /// Bytes mapped.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
    /// What it lies in.
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// All elements.
    #[inline(always)]
    pub fn all(&self) -> &[T] {
        // SAFETY: so many elements are mapped and initialised, and `&self` forbids writers.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.last + 1) }
    }

    #[inline(always)]
    fn place(&self, i: usize) -> *mut T {
        let i = i.min(self.last);
        // SAFETY: `i` is an element's index, and the mapping holds all elements.
        unsafe { self.ptr.as_ptr().add(i) }
    }

    /// An element.
    #[inline(always)]
    pub fn at(&self, i: usize) -> &T {
        // SAFETY: in bounds, aligned (pages are), initialised (zeroed), and `&self` forbids writers.
        unsafe { &*self.place(i) }
    }

    /// An element, to be changed.
    #[inline(always)]
    pub fn at_mut(&mut self, i: usize) -> &mut T {
        // SAFETY: as in `at`; `&mut self` makes this the only reference.
        unsafe { &mut *self.place(i) }
    }

    /// Brings the first cache line of an element in. An index beyond the end does nothing.
    #[inline(always)]
    pub fn prefetch(&self, i: usize) {
        prefetch(self.ptr.as_ptr().wrapping_add(i));
    }

    /// The element that a number stands for when all numbers share the elements evenly.
    #[inline(always)]
    fn share(&self, n: u32) -> *mut T {
        let i = share(n, self.last as u64 + 1);
        // SAFETY: `n` is below 2³², so the product shifted is below the number of elements,
        // which is below 2³² itself: nothing overflows.
        unsafe { self.ptr.as_ptr().add(i as usize) }
    }

    /// The element at the place `n`/2³² of the array.
    #[inline(always)]
    pub fn at_share(&self, n: u32) -> &T {
        // SAFETY: as in `at`.
        unsafe { &*self.share(n) }
    }

    /// Brings that element in.
    #[inline(always)]
    pub fn prefetch_share(&self, n: u32) {
        prefetch_near(self.share(n));
    }

    /// As [`prefetch`](Self::prefetch), for what is read within the burst.
    #[inline(always)]
    pub fn prefetch_near(&self, i: usize) {
        prefetch_near(self.ptr.as_ptr().wrapping_add(i));
    }
}

/// Which of `count` places (below 2³²) a number stands for when all numbers share them evenly.
#[inline(always)]
pub(super) fn share(n: u32, count: u64) -> u64 {
    (u64::from(n) * count) >> 32
}

impl<T> std::fmt::Debug for HugeArray<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} elements, {:?}", self.last + 1, self.pages)
    }
}

impl<T> Drop for HugeArray<T> {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and is not referenced any more.
        unsafe { libc::munmap(self.ptr.as_ptr().cast(), self.bytes) };
    }
}

/// Maps `need` bytes: huge pages if `reserved` ones may be used, else ordinary ones that lie so that they
/// can be joined.
fn map(need: usize, reserved: bool) -> io::Result<(NonNull<u8>, usize, Pages)> {
    if need < HUGE {
        let bytes = need.next_multiple_of(SMALL);
        let ptr = map_anonymous(bytes, libc::MAP_POPULATE)?;
        return Ok((ptr, bytes, Pages::Small));
    }
    let bytes = need.checked_next_multiple_of(HUGE).ok_or(io::ErrorKind::OutOfMemory)?;
    let huge = libc::MAP_HUGETLB | libc::MAP_HUGE_2MB | libc::MAP_POPULATE;
    if reserved && let Ok(ptr) = map_anonymous(bytes, huge) {
        return Ok((ptr, bytes, Pages::Huge));
    }
    let whole = map_anonymous(bytes.checked_add(HUGE).ok_or(io::ErrorKind::OutOfMemory)?, 0)?;
    let skip = whole.as_ptr().align_offset(HUGE);
    let bytes = need.next_multiple_of(SMALL);
    // SAFETY: less than a huge page into a mapping that is longer by one.
    let ptr = unsafe { whole.add(skip) };
    unmap_ends(whole, skip, bytes, need.next_multiple_of(HUGE) + HUGE);
    // SAFETY: the range was just mapped; the advice changes no content.
    unsafe { libc::madvise(ptr.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
    // SAFETY: the same; the pages are taken, their content stays zero.
    let rc = unsafe { libc::madvise(ptr.as_ptr().cast(), bytes, libc::MADV_POPULATE_WRITE) };
    let error = io::Error::last_os_error();
    // Kernels before 5.14 do not know it: then a page is taken when it is first touched.
    if rc != 0 && error.raw_os_error() != Some(libc::EINVAL) {
        // SAFETY: nothing refers to the mapping yet.
        unsafe { libc::munmap(ptr.as_ptr().cast(), bytes) };
        return Err(error);
    }
    Ok((ptr, bytes, Pages::Advised))
}

/// Gives back what lies before `skip` and after `skip + keep` of a mapping of `all` bytes.
fn unmap_ends(whole: NonNull<u8>, skip: usize, keep: usize, all: usize) {
    if skip > 0 {
        // SAFETY: the part before the array, of whole pages, referred to by nobody.
        unsafe { libc::munmap(whole.as_ptr().cast(), skip) };
    }
    let end = skip + keep;
    if end < all {
        // SAFETY: inside the mapping.
        let rest = unsafe { whole.add(end) };
        // SAFETY: the part after the array, of whole pages, referred to by nobody.
        unsafe { libc::munmap(rest.as_ptr().cast(), all - end) };
    }
}

fn map_anonymous(bytes: usize, more: libc::c_int) -> io::Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | more;
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
    let p = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if p == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(p.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// Brings a cache line into the second level, without any effect on the program: for tables
/// larger than the caches, whose lines the first level would lose again.
#[inline(always)]
pub fn prefetch<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch faults at no address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Brings a cache line into the first level: for what is read within the burst.
#[inline(always)]
pub fn prefetch_near<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch faults at no address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Which of the sixteen bytes equal `tag`: one bit each, the first byte lowest.
#[inline(always)]
pub fn matching(tags: &[u8; 16], tag: u8) -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8};
        // SAFETY: SSE2 is part of x86-64; the load is of sixteen bytes that exist.
        let v = unsafe { _mm_loadu_si128(tags.as_ptr().cast()) };
        // SAFETY: SSE2 is part of x86-64.
        let wanted = unsafe { _mm_set1_epi8(tag as i8) };
        // SAFETY: SSE2 is part of x86-64.
        let hits = unsafe { _mm_cmpeq_epi8(v, wanted) };
        // SAFETY: SSE2 is part of x86-64.
        unsafe { _mm_movemask_epi8(hits) as u32 }
    }
    #[cfg(not(target_arch = "x86_64"))]
    matching_portably(tags, tag)
}

/// The same, byte by byte.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn matching_portably(tags: &[u8; 16], tag: u8) -> u32 {
    tags.iter().enumerate().fold(0, |m, (i, t)| m | u32::from(*t == tag) << i)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_index_beyond_the_end_is_the_last_element() {
        let mut a = HugeArray::<u32>::new(3).unwrap();
        *a.at_mut(7) = 5;
        assert_eq!((*a.at(2), *a.at(1)), (5, 0));
        a.prefetch(usize::MAX);
        assert_eq!(a.all(), [0, 0, 5]);
    }

    #[test]
    fn joined_pages_are_none_of_those_set_aside() {
        let mut a = HugeArray::<u32>::joined(HUGE).unwrap();
        assert_eq!(a.pages(), Pages::Advised);
        *a.at_mut(HUGE - 1) = 7;
        assert_eq!((a.all().len(), a.all()[0], a.all()[HUGE - 1]), (HUGE, 0, 7));
    }

    #[test]
    fn every_element_of_a_large_array_can_be_used() {
        // Odd sizes, so that the ends that are given back differ.
        for len in [HUGE / 4, HUGE / 4 + 1, 3 * HUGE / 4 - 1, 1_234_567] {
            let mut a = HugeArray::<u32>::new(len).unwrap();
            assert!((len * 4..len * 4 + HUGE).contains(&a.bytes()), "{}", a.bytes());
            assert_ne!(a.pages(), Pages::Small);
            for i in (0..len).step_by(1000).chain([len - 1]) {
                assert_eq!(std::mem::replace(a.at_mut(i), i as u32), 0);
            }
            assert_eq!(*a.at(len - 1), len as u32 - 1);
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        assert!(HugeArray::<u32>::new(usize::MAX / 2).is_err());
        assert!(HugeArray::<u32>::new(usize::MAX - 5).is_err());
        assert!(HugeArray::<u32>::new(1 << 50).is_err());
    }

    #[test]
    fn shares_are_even_and_end_with_the_last() {
        let mut a = HugeArray::<u32>::new(5).unwrap();
        (0..5).for_each(|i| *a.at_mut(i) = i as u32);
        assert_eq!(
            [0, u32::MAX / 5, u32::MAX / 5 + 1, u32::MAX / 2, u32::MAX].map(|n| *a.at_share(n)),
            [0, 0, 1, 2, 4]
        );
    }

    proptest! {
        #[test]
        fn simd_equals_scalar(tags: [u8; 16], tag: u8) {
            prop_assert_eq!(matching(&tags, tag), matching_portably(&tags, tag));
        }
    }
}
