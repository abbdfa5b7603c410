//! The index of the flow table: 64-byte buckets of tags and record numbers.
//!
//! ```text
//! byte 0           12        16                                        64
//!      | 12 tags   | passed  | 12 record numbers                       |
//! ```
//!
//! A hash names a home bucket and a stride. An entry lies in the first bucket with room
//! among the home and the next ones along the stride; each full bucket that it passed
//! counts it, so that a search stops where nothing went further. At the fill that the
//! table is made for, one flow in a hundred lies outside its home. Strides differ from
//! flow to flow: with neighbours for everybody, full regions would form and grow.

use super::hash::FlowHash;
use super::memory::{HugeArray, OutOfMemory, Pages, matching};

/// Entries of a bucket.
pub const WAYS: usize = 12;
/// Buckets that an entry may be in.
pub const REACH: u32 = 16;
/// Entries per bucket on average when the table is full: half of them, so that twelve
/// hold what chance brings together (a Poisson variable of mean 6 is above 12 in 0.9 %).
const FILL: u32 = 6;

/// One cache line of the index.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Bucket {
    /// Tags of the entries, 0 for a free one; in the last four bytes how many entries
    /// went past this bucket when it was full.
    tags: [u8; 16],
    records: [u32; WAYS],
}

const _: () = assert!(size_of::<Bucket>() == 64);
const ENTRIES: u32 = (1 << WAYS) - 1;

impl Bucket {
    #[inline(always)]
    fn passed(&self) -> u32 {
        let t = &self.tags;
        u32::from_ne_bytes([t[12], t[13], t[14], t[15]])
    }
    fn set_passed(&mut self, n: u32) {
        self.tags[WAYS..].copy_from_slice(&n.to_ne_bytes());
    }
    #[inline(always)]
    fn hits(&self, tag: u8) -> u32 {
        matching(&self.tags, tag) & ENTRIES
    }
    #[inline(always)]
    fn record(&self, hits: u32) -> u32 {
        // The remainder spares a check: a hit is below WAYS.
        self.records[(hits.trailing_zeros() as usize).min(WAYS - 1)]
    }
}

/// What the home bucket says of a hash: entries whose tag fits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Candidates {
    bucket: u32,
    /// The record of the first of them.
    first: u32,
    hits: u32,
}

impl Candidates {
    /// The record to expect, if any tag fits.
    #[inline(always)]
    pub(super) fn first(&self) -> Option<u32> {
        (self.hits != 0).then_some(self.first)
    }
}

/// No room: every record is taken, or the entry's reach is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The index.
pub struct Index {
    buckets: HugeArray<Bucket>,
    count: u32,
}

impl Index {
    /// An index for `entries` entries.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn new(entries: u32) -> Result<Self, OutOfMemory> {
        let count = Self::buckets_for(entries);
        Ok(Self { buckets: HugeArray::new(count as usize)?, count })
    }

    fn buckets_for(entries: u32) -> u32 {
        // Two at least, so that a stride has somewhere to go.
        entries.div_ceil(FILL).max(2)
    }

    /// Bytes needed for `entries` entries, before rounding up to pages.
    pub fn bytes_for(entries: u32) -> usize {
        Self::buckets_for(entries) as usize * size_of::<Bucket>()
    }
    /// Bytes mapped.
    pub fn bytes(&self) -> usize {
        self.buckets.bytes()
    }
    /// What it lies in.
    pub fn pages(&self) -> Pages {
        self.buckets.pages()
    }

    /// Brings the home bucket in.
    #[inline(always)]
    pub fn prefetch(&self, hash: FlowHash) {
        self.buckets.prefetch(hash.bucket(self.count) as usize);
    }

    /// Brings the home bucket in, by a shorter way.
    #[inline(always)]
    pub fn prefetch_home(&self, hash: FlowHash) {
        self.buckets.prefetch_share(hash.0 as u32);
    }

    /// The record to expect under a hash: the first of the home bucket whose tag fits, else
    /// any.
    #[inline(always)]
    pub fn guess(&self, hash: FlowHash) -> u32 {
        let b = self.buckets.at_share(hash.0 as u32);
        b.record(b.hits(hash.tag()) | 1 << (WAYS - 1))
    }

    /// Compares the home bucket's tags.
    #[inline(always)]
    pub fn probe(&self, hash: FlowHash) -> Candidates {
        let bucket = hash.bucket(self.count);
        let b = self.buckets.at(bucket as usize);
        let hits = b.hits(hash.tag());
        if hits == 0 && b.passed() != 0 {
            self.buckets.prefetch(self.next(bucket, hash.stride(self.count)) as usize);
        }
        Candidates { bucket, first: b.record(hits), hits }
    }

    /// The first record under `hash` that is the `same`.
    #[inline(always)]
    pub fn find(&self, hash: FlowHash, c: Candidates, mut same: impl FnMut(u32) -> bool) -> Option<u32> {
        if c.hits != 0 && same(c.first) {
            return Some(c.first);
        }
        let b = self.buckets.at(c.bucket as usize);
        if c.hits & c.hits.wrapping_sub(1) == 0 && b.passed() == 0 {
            return None;
        }
        self.find_further(hash, c, same)
    }

    /// The candidates after the first, then the buckets after the home.
    #[cold]
    fn find_further(&self, hash: FlowHash, c: Candidates, mut same: impl FnMut(u32) -> bool) -> Option<u32> {
        let stride = hash.stride(self.count);
        let mut at = c.bucket;
        let mut hits = c.hits & c.hits.wrapping_sub(1);
        for _ in 0..REACH {
            let b = self.buckets.at(at as usize);
            while hits != 0 {
                let record = b.record(hits);
                if same(record) {
                    return Some(record);
                }
                hits &= hits - 1;
            }
            if b.passed() == 0 {
                return None;
            }
            at = self.next(at, stride);
            hits = self.buckets.at(at as usize).hits(hash.tag());
        }
        None
    }

    #[inline(always)]
    fn next(&self, at: u32, stride: u32) -> u32 {
        let at = at + stride;
        if at >= self.count { at - self.count } else { at }
    }

    /// The buckets of a hash, home first.
    fn reach(&self, hash: FlowHash) -> impl Iterator<Item = usize> + use<> {
        let (mut at, stride, count) = (hash.bucket(self.count), hash.stride(self.count), self.count);
        (0..REACH).map(move |_| {
            let here = at;
            at = if at + stride >= count { at + stride - count } else { at + stride };
            here as usize
        })
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// [`Full`] when there is no room in reach; nothing has changed then.
    #[inline]
    pub fn insert(&mut self, hash: FlowHash, record: u32) -> Result<(), Full> {
        for (steps, at) in self.reach(hash).enumerate() {
            let b = self.buckets.at_mut(at);
            let free = b.hits(0);
            if free != 0 {
                let way = free.trailing_zeros() as usize;
                b.tags[way] = hash.tag();
                b.records[way] = record;
                self.pass(hash, steps, 1);
                return Ok(());
            }
        }
        Err(Full)
    }

    /// Takes an entry out; whether it was there.
    #[inline]
    pub fn remove(&mut self, hash: FlowHash, record: u32) -> bool {
        for (steps, at) in self.reach(hash).enumerate() {
            let b = self.buckets.at_mut(at);
            let mut hits = b.hits(hash.tag());
            while hits != 0 {
                if b.record(hits) == record {
                    b.tags[hits.trailing_zeros() as usize] = 0;
                    self.pass(hash, steps, u32::MAX);
                    return true;
                }
                hits &= hits - 1;
            }
        }
        false
    }

    /// Adds `one` (1 or −1) to the counts of the first `steps` buckets.
    #[inline]
    fn pass(&mut self, hash: FlowHash, steps: usize, one: u32) {
        for at in self.reach(hash).take(steps) {
            let b = self.buckets.at_mut(at);
            b.set_passed(b.passed().wrapping_add(one));
        }
    }

    /// All records in reach of a hash.
    pub fn in_reach(&self, hash: FlowHash) -> impl Iterator<Item = u32> + '_ {
        self.reach(hash).flat_map(move |at| {
            let b = self.buckets.at(at);
            (0..WAYS).filter(|way| b.tags[*way] != 0).map(|way| b.records[way])
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find(index: &Index, h: u64, record: u32) -> bool {
        index.find(FlowHash(h), index.probe(FlowHash(h)), |r| r == record).is_some()
    }

    #[test]
    fn equal_hashes_fill_their_reach_and_no_more() {
        let mut index = Index::new(100_000).unwrap();
        let h = FlowHash(0x1234_5678_9abc_def0);
        let kept = (0..1000).filter(|i| index.insert(h, *i).is_ok()).count();
        assert_eq!(kept, WAYS * REACH as usize);
        assert!((0..kept as u32).all(|i| find(&index, h.0, i)));
        assert_eq!(index.in_reach(h).count(), kept);
        assert!((0..kept as u32).rev().all(|i| index.remove(h, i)));
        // All counts are back: a search ends in the home bucket.
        assert!(index.reach(h).all(|at| index.buckets.at(at).passed() == 0));
    }

    #[test]
    fn a_full_index_spills_few_and_loses_none() {
        let n = 600_000;
        let mut index = Index::new(n).unwrap();
        let hash = |i: u32| {
            crate::flow::hash::Secret::fixed().hash(
                crate::units::Ip::from_v4(i.to_be_bytes()),
                crate::units::Be16::new(80),
                6,
            )
        };
        assert!((0..n).all(|i| index.insert(hash(i), i).is_ok()));
        assert!((0..n).all(|i| find(&index, hash(i).0, i)));
        let full = (0..index.count).filter(|b| index.buckets.at(*b as usize).passed() > 0).count();
        assert!(full * 100 < 2 * index.count as usize, "{full} of {} buckets overflow", index.count);
    }

    proptest! {
        /// Few buckets and few hashes, so that everything collides and wraps.
        #[test]
        fn it_agrees_with_a_list(ops in prop::collection::vec((any::<bool>(), 0..60u32), 1..600)) {
            let mut index = Index::new(18).unwrap();
            let mut model = Vec::new();
            for (add, record) in ops {
                // Different tags for some, different homes for others.
                let h = (u64::from(record % 2) * 0xc000_0000) | (u64::from(record % 3) << 40);
                let known = model.iter().position(|e| *e == (h, record));
                if add && known.is_none() {
                    if index.insert(FlowHash(h), record).is_ok() {
                        model.push((h, record));
                    } else {
                        prop_assert!(model.len() >= WAYS);
                    }
                } else if !add {
                    prop_assert_eq!(index.remove(FlowHash(h), record), known.is_some());
                    known.map(|at| model.swap_remove(at));
                }
                for (h, record) in &model {
                    prop_assert!(find(&index, *h, *record));
                }
            }
            for (h, record) in model {
                prop_assert!(index.remove(FlowHash(h), record));
            }
            prop_assert!((0..index.count).all(|b| index.buckets.at(b as usize).passed() == 0));
        }
    }
}
