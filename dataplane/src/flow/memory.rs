//! Memory of the flow table: large arrays in huge pages, prefetching, tag comparison.
//!
//! The one place besides `io::dpdk` with unsafe code. What it offers is safe: an index
//! beyond the end is taken for the last element, so that no access needs a panicking check.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ptr::NonNull;

/// Data that is valid when all its bytes are zero, and needs no destructor.
///
/// # Safety
/// The implementer guarantees both.
pub unsafe trait Plain: Copy {}

// SAFETY: a number; zero is one.
unsafe impl Plain for u32 {}

/// Size of the huge pages asked for, bytes.
const HUGE: usize = 2 << 20;

/// A fixed-size array, zeroed, in huge pages where there are any.
pub struct HugeArray<T> {
    ptr: NonNull<T>,
    len: usize,
    bytes: usize,
    huge: bool,
    _owns: PhantomData<T>,
}

// SAFETY: the array owns its memory as a Box does.
unsafe impl<T: Plain + Send> Send for HugeArray<T> {}

/// Why there is no array.
#[derive(Debug, thiserror::Error)]
#[error("cannot map {bytes} bytes of memory for the flow table: {source}")]
pub struct OutOfMemory {
    bytes: usize,
    source: std::io::Error,
}

impl<T: Plain> HugeArray<T> {
    /// `len` elements (at least one), all zero. Tries huge pages first when the array is
    /// worth one; ordinary pages are advised to become transparent huge ones.
    ///
    /// # Errors
    /// When the kernel has not that much memory.
    pub fn new(len: usize) -> Result<Self, OutOfMemory> {
        let len = len.max(1);
        let bytes = (len * size_of::<T>()).next_multiple_of(HUGE);
        let base = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let worth = len * size_of::<T>() >= HUGE;
        let huge = if worth { map(bytes, base | libc::MAP_HUGETLB | libc::MAP_POPULATE) } else { None };
        let is_huge = huge.is_some();
        let Some(ptr) = huge.or_else(|| map(bytes, base | libc::MAP_NORESERVE)) else {
            return Err(OutOfMemory { bytes, source: std::io::Error::last_os_error() });
        };
        if !is_huge {
            // SAFETY: the range was just mapped; advice changes no content.
            unsafe { libc::madvise(ptr.as_ptr(), bytes, libc::MADV_HUGEPAGE) };
        }
        Ok(Self { ptr: ptr.cast(), len, bytes, huge: is_huge, _owns: PhantomData })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Never; an array has at least one element.
    pub fn is_empty(&self) -> bool {
        false
    }
    /// Bytes mapped.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
    /// Whether it lies in huge pages.
    pub fn is_huge(&self) -> bool {
        self.huge
    }

    #[inline(always)]
    fn place(&self, i: usize) -> *mut T {
        let i = i.min(self.len - 1);
        // SAFETY: `i` is below `len`, and the mapping holds `len` elements.
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

    /// Brings an element into the cache.
    #[inline(always)]
    pub fn prefetch(&self, i: usize) {
        prefetch(self.place(i));
    }
}

impl<T> Drop for HugeArray<T> {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and is not referenced any more.
        unsafe { libc::munmap(self.ptr.as_ptr().cast(), self.bytes) };
    }
}

fn map(bytes: usize, flags: libc::c_int) -> Option<NonNull<libc::c_void>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
    let p = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if p == libc::MAP_FAILED { None } else { NonNull::new(p) }
}

/// Brings a cache line in, without any effect on the program.
#[inline(always)]
fn prefetch<T>(p: *const T) {
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
        let hits = unsafe { _mm_cmpeq_epi8(v, _mm_set1_epi8(tag as i8)) };
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
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_index_beyond_the_end_is_the_last_element() {
        let mut a = HugeArray::<u32>::new(3).unwrap();
        *a.at_mut(7) = 5;
        assert_eq!((*a.at(2), *a.at(1), a.len()), (5, 0, 3));
    }

    proptest! {
        #[test]
        fn simd_equals_scalar(tags: [u8; 16], tag: u8) {
            prop_assert_eq!(matching(&tags, tag), matching_portably(&tags, tag));
        }
    }
}
