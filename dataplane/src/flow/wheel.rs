//! The timer wheel: which flows may be due. And the list of free records.
//!
//! 4,096 slots of 256 ms; each live record is linked into exactly one of them. A packet that
//! lengthens a flow's life only writes the record's deadline; when the slot comes up the
//! record moves on to where its deadline is now. Only a deadline that gets *earlier* than
//! the slot needs [`Wheel::rearm`]. A deadline farther away than the wheel reaches (17
//! minutes) waits in the last slot and moves on from there. Links are numbers in an array
//! of their own, so that walking a slot does not touch the records that are not due.
//!
//! The links of records that are not live make the list of free records, last in first out.

use super::memory::{HugeArray, OutOfMemory};
use crate::units::Tick;

/// Number of slots.
pub const SLOTS: u32 = 4096;
/// Milliseconds per slot, as a power of two.
const SHIFT: u32 = 8;
/// Slot numbers have as many bits as a [`Tick`] leaves.
const SLOT_MASK: u32 = u32::MAX >> SHIFT;
const NONE: u32 = u32::MAX;

/// A record's place in a slot's list.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Link {
    prev: u32,
    next: u32,
    /// The slot it is linked into, modulo [`SLOTS`].
    slot: u32,
}

/// Bytes per record.
pub const LINK_BYTES: usize = size_of::<Link>();

/// The wheel over records `0..capacity`.
pub struct Wheel {
    links: HugeArray<Link>,
    heads: Box<[u32; SLOTS as usize]>,
    /// The slot that is looked at next, not reduced.
    cursor: u32,
    started: bool,
    capacity: u32,
    /// The first free record that was used before.
    free: u32,
    /// Records from here on were never used.
    fresh: u32,
}

/// The slot after whose begin the deadline has passed.
fn slot_of(deadline: Tick) -> u32 {
    (deadline.0 >> SHIFT).wrapping_add(1) & SLOT_MASK
}

impl Wheel {
    /// An empty wheel, all records free.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn new(capacity: u32) -> Result<Self, OutOfMemory> {
        Ok(Self {
            links: HugeArray::new(capacity as usize)?,
            heads: Box::new([NONE; SLOTS as usize]),
            cursor: 0,
            started: false,
            capacity,
            free: NONE,
            fresh: 0,
        })
    }

    /// Bytes mapped.
    pub fn bytes(&self) -> usize {
        self.links.bytes() + size_of_val(&*self.heads)
    }

    /// The free record that [`take`](Self::take) gives next.
    #[inline(always)]
    pub fn next_free(&self) -> Option<u32> {
        if self.free != NONE {
            return Some(self.free);
        }
        (self.fresh < self.capacity).then_some(self.fresh)
    }

    /// Takes the record off the list of free ones and links it by its deadline.
    #[inline]
    pub fn take(&mut self, record: u32, deadline: Tick, now: Tick) {
        if record == self.free {
            self.free = self.links.at(record as usize).next;
        } else {
            self.fresh += 1;
        }
        self.insert(record, deadline, now);
    }

    /// Puts a record that is in no slot on the list of free ones.
    #[inline]
    pub fn give(&mut self, record: u32) {
        self.links.at_mut(record as usize).next = self.free;
        self.free = record;
    }

    fn start(&mut self, now: Tick) {
        if !self.started {
            self.started = true;
            self.cursor = now.0 >> SHIFT;
        }
    }

    /// The time at which the wheel stands.
    pub fn time(&self) -> Tick {
        Tick(self.cursor << SHIFT)
    }

    /// How far ahead of the cursor a slot is; what lies further than the wheel reaches, or
    /// behind, goes to its far or near end.
    #[inline(always)]
    fn ahead(&self, slot: u32) -> u32 {
        let d = slot.wrapping_sub(self.cursor) & SLOT_MASK;
        if d > SLOT_MASK / 2 { 1 } else { d.clamp(1, SLOTS - 1) }
    }

    /// Links a record that is in no slot by its deadline.
    #[inline]
    pub fn insert(&mut self, record: u32, deadline: Tick, now: Tick) {
        self.start(now);
        let slot = self.cursor.wrapping_add(self.ahead(slot_of(deadline))) % SLOTS;
        self.link(record, slot);
    }

    #[inline]
    fn link(&mut self, record: u32, slot: u32) {
        let head = std::mem::replace(&mut self.heads[(slot % SLOTS) as usize], record);
        *self.links.at_mut(record as usize) = Link { prev: NONE, next: head, slot };
        if head != NONE {
            self.links.at_mut(head as usize).prev = record;
        }
    }

    /// Unlinks a record from its slot.
    #[inline]
    pub fn remove(&mut self, record: u32) {
        let Link { prev, next, slot } = *self.links.at(record as usize);
        if prev == NONE {
            self.heads[(slot % SLOTS) as usize] = next;
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

    /// Unlinks records of slots that have come up, as many as there are places in `due`, and
    /// returns how many. 0 when there are none or the budget is spent: a record costs 1, and
    /// sixteen empty slots as much.
    #[inline]
    pub fn pop_due(&mut self, now: Tick, budget: &mut usize, due: &mut [u32]) -> usize {
        self.start(now);
        let present = now.0 >> SHIFT;
        let mut empty = 0;
        while *budget > 0 {
            let behind = present.wrapping_sub(self.cursor) & SLOT_MASK;
            if behind > SLOT_MASK / 2 {
                return 0;
            }
            let n = self.pop_slot(*budget, due);
            *budget -= n;
            if n > 0 || behind == 0 {
                return n;
            }
            self.cursor = self.cursor.wrapping_add(1) & SLOT_MASK;
            empty += 1;
            if empty % 16 == 0 {
                *budget -= 1;
            }
        }
        0
    }

    /// Unlinks the first records of the slot at the cursor, at most `most`.
    #[inline]
    fn pop_slot(&mut self, most: usize, due: &mut [u32]) -> usize {
        let slot = (self.cursor % SLOTS) as usize;
        let mut record = self.heads[slot];
        if record == NONE {
            return 0;
        }
        let mut n = 0;
        for place in due.iter_mut().take(most) {
            *place = record;
            n += 1;
            record = self.links.at(record as usize).next;
            if record == NONE {
                break;
            }
            self.links.prefetch(record as usize);
        }
        self.heads[slot] = record;
        if record != NONE {
            self.links.at_mut(record as usize).prev = NONE;
        }
        n
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

    /// Brings a record's links in.
    #[inline(always)]
    pub fn prefetch(&self, record: u32) {
        self.links.prefetch(record as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that is due, taken in bites of `bite`.
    fn due(w: &mut Wheel, now: Tick, bite: usize) -> Vec<u32> {
        let mut all = Vec::new();
        loop {
            let mut some = [0; 7];
            let n = w.pop_due(now, &mut (bite + 1000), &mut some[..bite.min(7)]);
            if n == 0 {
                return all;
            }
            all.extend(&some[..n]);
        }
    }

    #[test]
    fn records_come_up_within_a_slot_of_their_deadline_and_never_before() {
        for start in [Tick(0), Tick(u32::MAX - 10_000), Tick(u32::MAX / 2 - 3)] {
            let mut w = Wheel::new(1000).unwrap();
            let deadline = |r: u32| start.after_ms(r * 37);
            for r in 0..1000 {
                w.take(r, deadline(r), start);
            }
            assert_eq!(w.next_free(), None);
            let mut seen = 0;
            for ms in (0..40_000).step_by(50) {
                let now = start.after_ms(ms);
                for r in due(&mut w, now, 3) {
                    assert!(deadline(r).reached(now));
                    assert!(!deadline(r).after_ms(256 + 50).reached(now), "record {r} at {ms}");
                    seen += 1;
                }
            }
            assert_eq!(seen, 1000);
        }
    }

    #[test]
    fn far_deadlines_wait_in_the_last_slot() {
        let mut w = Wheel::new(16).unwrap();
        w.insert(3, Tick(10_000_000), Tick(0));
        assert!(due(&mut w, Tick(1_040_000), 7).is_empty());
        assert_eq!(due(&mut w, Tick(1_049_000), 7), [3]);
    }

    #[test]
    fn the_budget_bounds_empty_slots_too() {
        let mut w = Wheel::new(16).unwrap();
        w.insert(3, Tick(0), Tick(0));
        let mut some = [0; 4];
        assert_eq!(w.pop_due(Tick(300), &mut 1, &mut some), 1);
        w.insert(3, Tick(500_000), Tick(0));
        let later = Tick(600_000);
        assert_eq!(w.pop_due(later, &mut 10, &mut some), 0);
        assert_eq!(w.time(), Tick(161 << SHIFT));
        assert_eq!(w.pop_due(later, &mut 1000, &mut some), 1);
    }

    #[test]
    fn a_record_is_unlinked_from_any_place_of_its_list() {
        for gone in 0..3 {
            let mut w = Wheel::new(16).unwrap();
            (0..3).for_each(|r| w.take(r, Tick(100), Tick(0)));
            w.remove(gone);
            w.give(gone);
            let mut left = due(&mut w, Tick(1000), 7);
            left.sort_unstable();
            assert_eq!(left, (0..3).filter(|r| *r != gone).collect::<Vec<_>>());
            assert_eq!(w.next_free(), Some(gone));
        }
    }

    #[test]
    fn what_a_bite_left_is_a_list_of_its_own() {
        let mut w = Wheel::new(16).unwrap();
        (0..6).for_each(|r| w.take(r, Tick(100), Tick(0)));
        let mut some = [0; 2];
        assert_eq!(w.pop_due(Tick(1000), &mut 100, &mut some), 2);
        assert_eq!(some, [5, 4]);
        // Its first record goes, as does one of those that were popped and put back.
        w.insert(5, Tick(5000), Tick(1000));
        w.remove(3);
        w.remove(5);
        assert_eq!(due(&mut w, Tick(1000), 7), [2, 1, 0]);
        assert!(due(&mut w, Tick(9000), 7).is_empty());
    }

    #[test]
    fn free_records_come_back_last_in_first_out() {
        let mut w = Wheel::new(3).unwrap();
        for r in 0..3 {
            assert_eq!(w.next_free(), Some(r));
            w.take(r, Tick(0), Tick(0));
        }
        for r in [1, 0] {
            w.remove(r);
            w.give(r);
        }
        for r in [0, 1] {
            assert_eq!(w.next_free(), Some(r));
            w.take(r, Tick(0), Tick(0));
        }
        assert_eq!(w.next_free(), None);
    }
}
