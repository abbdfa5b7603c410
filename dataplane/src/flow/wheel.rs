//! The timer wheel: which flows may be due.
//!
//! 4,096 slots of 256 ms; each record is linked into exactly one of them. A packet that
//! lengthens a flow's life only writes the record's deadline; when the slot comes up the
//! record moves on to where its deadline is now. Only a deadline that gets *earlier* than
//! the slot needs [`Wheel::rearm`]. Links are numbers in an array of their own, so that
//! walking a slot does not touch the records that are not due.

use super::memory::{HugeArray, OutOfMemory, Plain};
use crate::units::Tick;

/// Number of slots.
pub const SLOTS: u32 = 4096;
/// Milliseconds per slot, as a power of two.
const SHIFT: u32 = 8;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
#[repr(C)]
struct Link {
    prev: u32,
    next: u32,
    /// The slot it is linked into, modulo [`SLOTS`].
    slot: u32,
}

// SAFETY: three numbers.
#[allow(unsafe_code)]
unsafe impl Plain for Link {}

/// Bytes per record.
pub const LINK_BYTES: usize = size_of::<Link>();

/// The wheel over records `0..capacity`.
pub struct Wheel {
    links: HugeArray<Link>,
    heads: Box<[u32]>,
    /// The slot that is looked at next, not reduced.
    cursor: u32,
    started: bool,
}

/// The slot after whose begin the deadline has passed.
fn slot_of(deadline: Tick) -> u32 {
    (deadline.0 >> SHIFT).wrapping_add(1) & (u32::MAX >> SHIFT)
}

impl Wheel {
    /// An empty wheel.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn new(capacity: u32) -> Result<Self, OutOfMemory> {
        Ok(Self {
            links: HugeArray::new(capacity as usize)?,
            heads: vec![NONE; SLOTS as usize].into(),
            cursor: 0,
            started: false,
        })
    }

    /// Bytes mapped.
    pub fn bytes(&self) -> usize {
        self.links.bytes() + self.heads.len() * 4
    }

    fn start(&mut self, now: Tick) {
        if !self.started {
            self.started = true;
            self.cursor = now.0 >> SHIFT;
        }
    }

    /// How far ahead of the cursor a slot is; what lies further than the wheel reaches, or
    /// behind, goes to its far or near end.
    fn ahead(&self, slot: u32) -> u32 {
        let d = slot.wrapping_sub(self.cursor) & (u32::MAX >> SHIFT);
        if d > (u32::MAX >> (SHIFT + 1)) { 1 } else { d.clamp(1, SLOTS - 1) }
    }

    /// Links a record by its deadline.
    #[inline]
    pub fn insert(&mut self, record: u32, deadline: Tick, now: Tick) {
        self.start(now);
        let slot = self.cursor.wrapping_add(self.ahead(slot_of(deadline))) % SLOTS;
        self.link(record, slot);
    }

    fn link(&mut self, record: u32, slot: u32) {
        let head = std::mem::replace(&mut self.heads[slot as usize], record);
        *self.links.at_mut(record as usize) = Link { prev: NONE, next: head, slot };
        if head != NONE {
            self.links.at_mut(head as usize).prev = record;
        }
    }

    /// Unlinks a record.
    #[inline]
    pub fn remove(&mut self, record: u32) {
        let Link { prev, next, slot } = *self.links.at(record as usize);
        if prev == NONE {
            if let Some(head) = self.heads.get_mut(slot as usize) {
                *head = next;
            }
        } else {
            self.links.at_mut(prev as usize).next = next;
        }
        if next != NONE {
            self.links.at_mut(next as usize).prev = prev;
        }
    }

    /// Moves a record forward when its deadline is now earlier than its slot.
    #[inline]
    pub fn rearm(&mut self, record: u32, deadline: Tick) {
        let armed = self.links.at(record as usize).slot;
        let armed_ahead = armed.wrapping_sub(self.cursor) % SLOTS;
        let ahead = self.ahead(slot_of(deadline));
        if ahead < armed_ahead {
            self.remove(record);
            self.link(record, self.cursor.wrapping_add(ahead) % SLOTS);
        }
    }

    /// Brings a record's links into the cache.
    #[inline(always)]
    pub fn prefetch(&self, record: u32) {
        self.links.prefetch(record as usize);
    }

    /// The next record of a slot that has come up, unlinked; `None` when there is none or
    /// the budget is spent. Empty slots cost budget too, sixteen of them as much as a record.
    #[inline]
    pub fn pop_due(&mut self, now: Tick, budget: &mut usize) -> Option<u32> {
        self.start(now);
        let present = now.0 >> SHIFT;
        let mut empty = 0;
        loop {
            let behind = present.wrapping_sub(self.cursor) & (u32::MAX >> SHIFT);
            if behind > (u32::MAX >> (SHIFT + 1)) || *budget == 0 {
                return None;
            }
            let record = self.heads[(self.cursor % SLOTS) as usize];
            if record != NONE {
                *budget -= 1;
                let next = self.links.at(record as usize).next;
                if next != NONE {
                    self.links.prefetch(next as usize);
                }
                self.remove(record);
                return Some(record);
            }
            if behind == 0 {
                return None;
            }
            self.cursor = self.cursor.wrapping_add(1) & (u32::MAX >> SHIFT);
            empty += 1;
            if empty % 16 == 0 {
                *budget -= 1;
            }
        }
    }

    /// The records that come up first: at most `n`, from at most `slots` slots.
    pub fn soonest(&self, n: usize, slots: u32) -> impl Iterator<Item = u32> + '_ {
        let heads = (0..slots.min(SLOTS)).map(|i| self.heads[(self.cursor.wrapping_add(i) % SLOTS) as usize]);
        heads
            .flat_map(move |head| {
                std::iter::successors((head != NONE).then_some(head), |r| {
                    let next = self.links.at(*r as usize).next;
                    (next != NONE).then_some(next)
                })
            })
            .take(n)
    }
}
