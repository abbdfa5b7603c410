//! lblc and lblcr: which real servers a destination was sent to before.
//!
//! The kernel keeps a growing table a service and prunes it by a timer. Here all services
//! of a worker share one table of fixed size. An entry unused for a day is as good as
//! none (the kernel drops it at its next half-hourly check); when the table is full, the
//! least recently used of a few entries gives way.

use crate::units::{Ip, RealId, ServiceId, Tick};

/// How long an unused entry counts, and how long a set of several servers (lblcr) stays
/// without change before its most loaded one is taken out: the kernel's
/// `lblc_expiration` and `lblcr_expiration`, a day.
pub const LOCALITY_EXPIRATION_MS: u32 = 24 * 60 * 60 * 1000;

/// Entries, as many as the kernel lets a service have before it prunes.
pub const LOCALITY_ENTRIES: usize = 16_384;

/// Servers in the sets of all entries together.
const MEMBERS: usize = 2 * LOCALITY_ENTRIES;

/// Servers in one set. The kernel's sets grow without limit, and are searched for every
/// flow; a set that is full here is left as it is, and wlc chooses.
const SET: u32 = 64;

/// Entries looked at for the least recently used one.
const LOOK: usize = 8;

const NONE: u32 = u32::MAX;

/// Names an entry: a destination of one service. `instance` tells a service from an
/// earlier one with its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub service: ServiceId,
    pub instance: u32,
    pub destination: Ip,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    place: Place,
    /// The servers, the newest first.
    first: u32,
    size: u32,
    last_used: Tick,
    last_changed: Tick,
    /// Next entry of the same bucket.
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    real: RealId,
    next: u32,
}

/// The table.
#[derive(Debug)]
pub(super) struct Locality {
    buckets: Box<[u32]>,
    entries: Vec<Entry>,
    members: Vec<Member>,
    /// Members that were given back.
    free: u32,
    /// Where the search for an entry to reuse goes on.
    rover: usize,
}

/// An entry's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryId(u32);

impl Locality {
    /// An empty table. Takes its memory at once: about 1.3 MB.
    pub fn new() -> Self {
        Self {
            buckets: vec![NONE; LOCALITY_ENTRIES].into(),
            entries: Vec::with_capacity(LOCALITY_ENTRIES),
            members: Vec::with_capacity(MEMBERS),
            free: NONE,
            rover: 0,
        }
    }

    fn bucket(place: &Place) -> usize {
        let a = place.destination;
        let x = a.hi() ^ a.lo().rotate_left(32) ^ u64::from(place.service.0) << 20 ^ u64::from(place.instance);
        (x.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50) as usize & (LOCALITY_ENTRIES - 1)
    }

    /// The entry of a destination, marked as used, unless it is stale.
    pub fn get(&mut self, place: &Place, now: Tick) -> Option<EntryId> {
        let mut at = self.buckets[Self::bucket(place)];
        while let Some(e) = self.entries.get_mut(at as usize) {
            if e.place == *place {
                // Not `ms_since`: a long silence is no negative time.
                let stale = now.0.wrapping_sub(e.last_used.0) >= LOCALITY_EXPIRATION_MS;
                e.last_used = now;
                if stale {
                    self.clear(EntryId(at), now);
                }
                return (!stale).then_some(EntryId(at));
            }
            at = e.next;
        }
        None
    }

    /// The servers of an entry, the newest first.
    pub fn members(&self, id: EntryId) -> impl Iterator<Item = RealId> + Clone + '_ {
        let mut at = self.entries.get(id.0 as usize).map_or(NONE, |e| e.first);
        std::iter::from_fn(move || {
            let m = self.members.get(at as usize)?;
            at = m.next;
            Some(m.real)
        })
    }

    /// How many servers an entry has.
    pub fn size(&self, id: EntryId) -> u32 {
        self.entries[id.0 as usize].size
    }

    /// Whether an entry's set has not changed for so long that it should shrink.
    pub fn is_settled(&self, id: EntryId, now: Tick) -> bool {
        now.0.wrapping_sub(self.entries[id.0 as usize].last_changed.0) > LOCALITY_EXPIRATION_MS
    }

    /// Adds a server to a destination's set, making the entry if there is none.
    pub fn add(&mut self, place: &Place, real: RealId, now: Tick) {
        let id = self.get(place, now).unwrap_or_else(|| self.make(place, now));
        if self.size(id) < SET && !self.members(id).any(|m| m == real) {
            self.push(id, real, now);
        }
    }

    /// Makes a server the only one of a destination's set.
    pub fn set(&mut self, place: &Place, real: RealId, now: Tick) {
        let id = self.get(place, now).unwrap_or_else(|| self.make(place, now));
        self.clear(id, now);
        self.push(id, real, now);
    }

    /// Takes a server out of an entry's set.
    pub fn remove(&mut self, id: EntryId, real: RealId, now: Tick) {
        let mut link = None;
        let mut at = self.entries[id.0 as usize].first;
        while let Some(m) = self.members.get(at as usize).copied() {
            if m.real == real {
                match link {
                    None => self.entries[id.0 as usize].first = m.next,
                    Some(before) => self.members[before as usize].next = m.next,
                }
                self.members[at as usize].next = self.free;
                self.free = at;
                let e = &mut self.entries[id.0 as usize];
                e.size -= 1;
                e.last_changed = now;
                return;
            }
            (link, at) = (Some(at), m.next);
        }
    }

    fn push(&mut self, id: EntryId, real: RealId, now: Tick) {
        let e = &mut self.entries[id.0 as usize];
        let member = Member { real, next: e.first };
        let at = self.free;
        if let Some(slot) = self.members.get_mut(at as usize) {
            self.free = slot.next;
            *slot = member;
            e.first = at;
        } else if self.members.len() < MEMBERS {
            e.first = self.members.len() as u32;
            self.members.push(member);
        } else {
            // No room to remember: the choice stands all the same.
            return;
        }
        e.size += 1;
        e.last_changed = now;
    }

    fn clear(&mut self, id: EntryId, now: Tick) {
        loop {
            let Some(real) = self.members(id).next() else { return };
            self.remove(id, real, now);
        }
    }

    fn make(&mut self, place: &Place, now: Tick) -> EntryId {
        let at = if self.entries.len() < LOCALITY_ENTRIES { self.entries.len() } else { self.reuse(now) };
        let bucket = Self::bucket(place);
        let entry = Entry {
            place: *place,
            first: NONE,
            size: 0,
            last_used: now,
            last_changed: now,
            next: self.buckets[bucket],
        };
        match self.entries.get_mut(at) {
            Some(e) => *e = entry,
            None => self.entries.push(entry),
        }
        self.buckets[bucket] = at as u32;
        EntryId(at as u32)
    }

    /// Empties the least recently used of the next few entries and takes it out of its bucket.
    fn reuse(&mut self, now: Tick) -> usize {
        let start = self.rover;
        self.rover = (start + LOOK) % LOCALITY_ENTRIES;
        let idle = |n: &usize| now.0.wrapping_sub(self.entries[*n].last_used.0);
        let at = (start..start + LOOK).map(|n| n % LOCALITY_ENTRIES).max_by_key(idle).unwrap_or(start);
        self.clear(EntryId(at as u32), now);
        let gone = self.entries[at];
        let bucket = Self::bucket(&gone.place);
        let mut link = self.buckets[bucket];
        if link == at as u32 {
            self.buckets[bucket] = gone.next;
            return at;
        }
        while let Some(e) = self.entries.get_mut(link as usize) {
            if e.next == at as u32 {
                e.next = gone.next;
                break;
            }
            link = e.next;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(n: u32) -> Place {
        Place { service: ServiceId(1), instance: 0, destination: Ip::from_v4(n.to_be_bytes()) }
    }

    #[test]
    fn sets_grow_at_the_front_and_shrink() {
        let (mut l, now) = (Locality::new(), Tick(7));
        assert_eq!(l.get(&place(1), now), None);
        for r in [1, 2, 3, 2] {
            l.add(&place(1), RealId(r), now);
        }
        let id = l.get(&place(1), now).unwrap();
        assert_eq!(l.members(id).map(|r| r.0).collect::<Vec<_>>(), [3, 2, 1]);
        l.remove(id, RealId(2), now);
        assert_eq!(l.members(id).map(|r| r.0).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(l.size(id), 2);
        l.set(&place(1), RealId(9), now);
        assert_eq!(l.members(id).map(|r| r.0).collect::<Vec<_>>(), [9]);
        assert!(!l.is_settled(id, now.after_ms(LOCALITY_EXPIRATION_MS)));
        assert!(l.is_settled(id, now.after_ms(LOCALITY_EXPIRATION_MS + 1)));
    }

    #[test]
    fn a_set_is_bounded() {
        let (mut l, now) = (Locality::new(), Tick(7));
        for r in 0..1000 {
            l.add(&place(1), RealId(r), now);
        }
        let id = l.get(&place(1), now).unwrap();
        assert_eq!(l.size(id), SET);
        assert_eq!(l.members(id).count(), SET as usize);
    }

    #[test]
    fn a_day_without_use_forgets() {
        let mut l = Locality::new();
        l.set(&place(1), RealId(9), Tick(0));
        assert!(l.get(&place(1), Tick(LOCALITY_EXPIRATION_MS - 1)).is_some());
        assert!(l.get(&place(1), Tick(2 * LOCALITY_EXPIRATION_MS)).is_none());
        assert!(l.get(&place(1), Tick(2 * LOCALITY_EXPIRATION_MS)).is_none_or(|id| l.size(id) == 0));
    }

    #[test]
    fn stays_within_its_size_and_keeps_what_is_used() {
        let mut l = Locality::new();
        let n = LOCALITY_ENTRIES as u32 * 4;
        for i in 0..n {
            let now = Tick(i);
            l.add(&place(i), RealId(i % 100), now);
            l.add(&place(i), RealId(100), now);
            // The first one is used all the time.
            l.add(&place(0), RealId(0), now);
        }
        assert_eq!(l.entries.len(), LOCALITY_ENTRIES);
        assert!(l.members.len() <= MEMBERS);
        let known = (0..n).filter(|i| l.get(&place(*i), Tick(n)).is_some()).count();
        assert_eq!(known, LOCALITY_ENTRIES);
        assert!(l.get(&place(0), Tick(n)).is_some());
        // Nothing leaked: every member is in a set or free.
        let in_sets: u32 = l.entries.iter().map(|e| e.size).sum();
        let mut free = 0;
        let mut at = l.free;
        while let Some(m) = l.members.get(at as usize) {
            (free, at) = (free + 1, m.next);
        }
        assert_eq!(in_sets + free, l.members.len() as u32);
    }
}
