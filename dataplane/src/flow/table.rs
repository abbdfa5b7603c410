//! The flow table of one worker.
//!
//! An index of 64-byte buckets (twelve 8-bit tags and twelve record numbers) finds 64-byte
//! records; both directions of a flow share one entry. A packet of a known flow touches
//! one bucket and one record, both prefetched by the burst:
//!
//! ```text
//! for all lanes: prefetch_bucket(hash)
//! for all lanes: probe(hash) -> Candidates             compares tags, prefetches the record
//! for all lanes: find_request / find_reply(hash, key, candidates) -> Option<FlowId>
//! then:          get / get_mut(id), insert, remove, rearm
//! ```
//!
//! Memory is taken once; capacity is fixed; 87 bytes a flow in all. A deadline that a
//! packet moves away is only written into the record; [`FlowTable::rearm`] is for one that
//! comes nearer. [`FlowTable::expire`] does a bounded piece of work at each poll.

use super::hash::{FlowHash, Secret};
use super::index::Index;
pub use super::index::{Candidates, Full};
use super::memory::{HugeArray, OutOfMemory, Pages};
use super::record::{FlowKey, FlowRecord, ReplyKey, TailFirst, flags, peer_word};
use super::wheel::{LINK_BYTES, Wheel};
use crate::snapshot::ForwardingMode;
use crate::units::{Ip, Tick};

#[cfg(test)]
mod tests;

const NAT: u32 = ForwardingMode::Nat as u32;

/// Fewest flows a table holds.
const MIN_CAPACITY: u32 = 16;
/// Most flows a table holds: record numbers and buckets stay far from 32 bits.
const MAX_CAPACITY: u32 = 1 << 30;
/// Records that the wheel gives at once, so that their cache misses overlap.
const BATCH: usize = 16;
/// Looked at for one that may be evicted: the records that the wheel meets first, in so
/// many slots; then records in order of number, from where the last search stopped.
const EVICT_SOONEST: usize = 16;
const EVICT_SLOTS: u32 = 512;
const EVICT_SWEEP: u32 = 64;
/// Most searches that are spared after searches in vain.
const EVICT_MOST_SPARED: u32 = 63;

/// Number of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct FlowId(pub u32);

impl FlowId {
    /// No flow.
    pub const NONE: Self = Self(u32::MAX);
}

/// What becomes of a flow whose time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes.
    Remove,
    /// It stays: the callback has moved its deadline, or wants to be asked again in a
    /// quarter of a second.
    Keep,
}

/// The table.
pub struct FlowTable {
    index: Index,
    records: HugeArray<FlowRecord>,
    wheel: Wheel,
    secret: Secret,
    capacity: u32,
    len: u32,
    /// Where the next search for a flow to evict goes on.
    sweep: u32,
    /// Searches to spare, and how many the next one in vain will spare.
    spare: u32,
    spare_next: u32,
}

impl FlowTable {
    /// A table for up to `capacity` flows (at least 16).
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn new(capacity: u32, secret: Secret) -> Result<Self, OutOfMemory> {
        Self::with_aliases(capacity, 0, secret)
    }

    /// A table for up to `capacity` flows of which `aliases` are found under a second hash
    /// as well (full NAT: the local address and port).
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn with_aliases(capacity: u32, aliases: u32, secret: Secret) -> Result<Self, OutOfMemory> {
        let capacity = capacity.clamp(MIN_CAPACITY, MAX_CAPACITY);
        Ok(Self {
            index: Index::new(capacity.saturating_add(aliases))?,
            records: HugeArray::new(capacity as usize)?,
            wheel: Wheel::new(capacity)?,
            secret,
            capacity,
            len: 0,
            sweep: 0,
            spare: 0,
            spare_next: 0,
        })
    }

    /// Bytes that a table for `capacity` flows needs, before rounding up to whole pages.
    pub fn bytes_for(capacity: u32) -> usize {
        Self::bytes_with_aliases(capacity, 0)
    }

    /// The same with `aliases` second hashes.
    pub fn bytes_with_aliases(capacity: u32, aliases: u32) -> usize {
        let capacity = capacity.clamp(MIN_CAPACITY, MAX_CAPACITY);
        Index::bytes_for(capacity.saturating_add(aliases)) + capacity as usize * (size_of::<FlowRecord>() + LINK_BYTES)
    }

    /// Bytes mapped.
    pub fn bytes(&self) -> usize {
        self.index.bytes() + self.records.bytes() + self.wheel.bytes()
    }

    /// Whether index and records lie in huge pages.
    pub fn is_huge(&self) -> bool {
        self.index.pages() == Pages::Huge && self.records.pages() == Pages::Huge
    }

    /// Live flows.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        self.len
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Most flows there can be. Record numbers are below.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// First of two prefetches: the bucket.
    #[inline(always)]
    pub fn prefetch_bucket(&self, hash: FlowHash) {
        self.index.prefetch(hash);
    }

    /// Compares the tags and prefetches the first record that fits. What it returns is
    /// good until the table changes.
    #[inline(always)]
    pub fn probe(&self, hash: FlowHash) -> Candidates {
        let c = self.index.probe(hash);
        if let Some(record) = c.first() {
            self.records.prefetch(record as usize);
        }
        c
    }

    /// Brings the home bucket in, for [`guess`](Self::guess).
    #[inline(always)]
    pub fn prefetch_home(&self, hash: FlowHash) {
        self.index.prefetch_home(hash);
    }

    /// The record that a known flow most likely has; brings it in. The caller compares.
    #[inline(always)]
    pub fn guess(&self, hash: FlowHash) -> FlowId {
        let record = self.index.guess(hash);
        self.records.prefetch_near(record as usize);
        FlowId(record)
    }

    /// Where the guess was wrong (another flow has the same tag, or the bucket was full when the flow
    /// came): the flow under `hash` whose record is the `same`, wherever it is.
    #[cold]
    #[inline(never)]
    pub fn guess_again(&self, hash: FlowHash, same: impl Fn(&FlowRecord) -> bool) -> Option<FlowId> {
        self.find(hash, self.index.probe(hash), same)
    }

    /// The flow under `hash` whose record is the `same`.
    #[inline(always)]
    pub fn find(&self, hash: FlowHash, c: Candidates, same: impl Fn(&FlowRecord) -> bool) -> Option<FlowId> {
        self.index.find(hash, c, |id| same(self.records.at(id as usize))).map(FlowId)
    }

    /// The flow of a packet from a client.
    #[inline(always)]
    pub fn find_request(&self, hash: FlowHash, key: &FlowKey, c: Candidates) -> Option<FlowId> {
        let vip = TailFirst::from(key.vip);
        self.find(hash, c, |r| {
            (r.client.raw() ^ key.client.raw()) | (r.vip.raw() ^ vip.raw()) == 0
                && r.client_port == key.client_port
                && r.vport == key.vport
                && r.proto == key.proto
        })
    }

    /// The flow of a packet from a real server. IPv6 addresses are compared by their
    /// [`peer_word`] only: the caller compares the rest.
    #[inline(always)]
    pub fn find_reply(&self, hash: FlowHash, key: &ReplyKey, c: Candidates) -> Option<FlowId> {
        let peer = peer_word(key.real);
        self.find(hash, c, |r| {
            r.client.raw() == key.client.raw()
                && r.client_port == key.client_port
                && r.rport == key.rport
                && r.proto == key.proto
                && r.peer == peer
                // The client may use one port for several VIPs: of all modes, only NAT's replies
                // are for the client itself.
                && r.flags & (flags::TEMPLATE | flags::SHADOWED | flags::MODE_MASK) == NAT
        })
    }

    /// `probe` and `find_request` in one, for single look-ups.
    pub fn lookup_request(&self, hash: FlowHash, key: &FlowKey) -> Option<FlowId> {
        self.find_request(hash, key, self.probe(hash))
    }

    /// `probe` and `find_reply` in one, for single look-ups.
    pub fn lookup_reply(&self, hash: FlowHash, key: &ReplyKey) -> Option<FlowId> {
        self.find_reply(hash, key, self.probe(hash))
    }

    /// After a flow that took an older one's replies has ended: the newest of those that are
    /// left gets them.
    #[cold]
    pub fn unshadow(&mut self, ended: &FlowRecord) {
        let hash = self.hash_of(ended);
        let left = |with: u32| {
            self.find(hash, self.probe(hash), |r| {
                r.flags & with == with
                    && (r.client, r.client_port, r.rport) == (ended.client, ended.client_port, ended.rport)
                    && (r.proto, r.peer) == (ended.proto, ended.peer)
            })
        };
        // One that is in the middle has taken another one's replies itself.
        let heir = left(flags::SHADOWED | flags::SHADOWS).or_else(|| left(flags::SHADOWED));
        if let Some(id) = heir {
            let r = self.get_mut(id);
            let by_hand = if r.flags & flags::EXTENDED == 0 { flags::BY_HAND } else { 0 };
            r.flags &= !(flags::SHADOWED | by_hand);
        }
    }

    /// A record.
    #[inline(always)]
    pub fn get(&self, id: FlowId) -> &FlowRecord {
        self.records.at(id.0 as usize)
    }
    /// A record, to be changed. Its client, client port and protocol must stay, or it
    /// cannot be removed any more.
    #[inline(always)]
    pub fn get_mut(&mut self, id: FlowId) -> &mut FlowRecord {
        self.records.at_mut(id.0 as usize)
    }
    /// A record, if there is a live one of this number. Listings go through the numbers
    /// below [`capacity`](Self::capacity) with it, so many at a poll.
    #[inline]
    pub fn try_get_mut(&mut self, id: FlowId) -> Option<&mut FlowRecord> {
        if id.0 >= self.capacity {
            return None;
        }
        Some(self.records.at_mut(id.0 as usize)).filter(|r| r.flags & flags::LIVE != 0)
    }

    /// Adds a flow; `hash` is that of its client, client port and protocol.
    ///
    /// # Errors
    /// [`Full`] when there is no room; nothing has changed then.
    #[inline]
    pub fn insert(&mut self, hash: FlowHash, mut record: FlowRecord, now: Tick) -> Result<FlowId, Full> {
        let id = self.wheel.next_free().ok_or(Full)?;
        self.index.insert(hash, id)?;
        record.flags |= flags::LIVE;
        if record.client.is_v4() && record.vip.ip().is_v4() {
            record.flags |= flags::V4;
        }
        *self.records.at_mut(id as usize) = record;
        self.wheel.take(id, record.deadline, now);
        self.len += 1;
        // The next flow will want the next record.
        if let Some(next) = self.wheel.next_free() {
            self.records.prefetch(next as usize);
            self.wheel.prefetch(next);
        }
        Ok(FlowId(id))
    }

    /// Makes a live flow known under a second hash. Whoever finds it there compares what
    /// belongs to that hash, with [`find`](Self::find). Ending the flow does not take the
    /// alias away: [`remove_alias`](Self::remove_alias) does.
    ///
    /// # Errors
    /// [`Full`] when there is no room in reach of the hash.
    pub fn insert_alias(&mut self, hash: FlowHash, id: FlowId) -> Result<(), Full> {
        self.index.insert(hash, id.0)
    }

    /// Takes a second hash away; whether it was there.
    pub fn remove_alias(&mut self, hash: FlowHash, id: FlowId) -> bool {
        self.index.remove(hash, id.0)
    }

    /// Ends a flow and returns its record, so that counts can be corrected; `None` when
    /// there was none.
    pub fn remove(&mut self, id: FlowId) -> Option<FlowRecord> {
        let record = *self.try_get_mut(id)?;
        self.wheel.remove(id.0);
        self.discard(id.0, self.hash_of(&record));
        Some(record)
    }

    #[inline(always)]
    fn hash_of(&self, r: &FlowRecord) -> FlowHash {
        self.secret.hash(r.client, r.client_port, r.proto)
    }

    /// Frees a record that the wheel has let go.
    #[inline]
    fn discard(&mut self, id: u32, hash: FlowHash) {
        let known = self.index.remove(hash, id);
        debug_assert!(known, "record {id} is not in the index");
        let record = self.records.at_mut(id as usize);
        record.flags = 0;
        // No client has this address: stale candidates do not find the record.
        record.client = Ip::UNSPECIFIED;
        self.wheel.give(id);
        self.len -= 1;
        self.spare = 0;
    }

    /// To be called when a flow's deadline became earlier. A later one needs no call.
    #[inline]
    pub fn rearm(&mut self, id: FlowId, deadline: Tick) {
        if self.try_get_mut(id).is_some() {
            self.wheel.rearm(id.0, deadline);
        }
    }

    /// Looks at up to `budget` records that may be due and ends those that `f` lets go.
    /// Returns how many ended. Misses of the cache overlap, sixteen records at a time.
    #[inline]
    pub fn expire(&mut self, now: Tick, budget: usize, mut f: impl FnMut(FlowId, &mut FlowRecord) -> Fate) -> usize {
        let mut left = budget;
        let mut ended = 0;
        let mut due = [0; BATCH];
        loop {
            let n = self.wheel.pop_due(now, &mut left, &mut due);
            if n == 0 {
                return ended;
            }
            let due = due.get(..n).unwrap_or_default();
            for id in due {
                self.records.prefetch(*id as usize);
            }
            let mut going = [(0, FlowHash(0)); BATCH];
            let mut going_len = 0;
            for id in due {
                let record = self.records.at_mut(*id as usize);
                if record.deadline.reached(now) && f(FlowId(*id), record) == Fate::Remove {
                    let hash = self.secret.hash(record.client, record.client_port, record.proto);
                    self.index.prefetch(hash);
                    going[going_len] = (*id, hash);
                    going_len += 1;
                } else {
                    // What is kept without a new deadline comes up again in the next slot,
                    // however far behind the wheel is.
                    let deadline = if record.deadline.reached(now) { now } else { record.deadline };
                    self.wheel.insert(*id, deadline, now);
                }
            }
            for (id, hash) in going.into_iter().take(going_len) {
                self.discard(id, hash);
            }
            ended += going_len;
        }
    }

    /// Makes room for an entry under `hash`, after [`insert`](Self::insert) found none:
    /// ends a flow that `may_go` and returns its record.
    ///
    /// When the table is full, that is the first one that may go among the 16 that the
    /// wheel meets first (the nearest to their time-out when last looked at: of half-open
    /// flows, the oldest), else among the next 64 records of a sweep through the table.
    /// When only the reach of the hash is full, it is the one nearest to its deadline there.
    ///
    /// A search in vain costs a microsecond or two, so after one the next is spared, after
    /// two the next three and so on to 63, until a flow ends.
    #[cold]
    pub fn evict(&mut self, hash: FlowHash, may_go: impl Fn(&FlowRecord) -> bool) -> Option<FlowRecord> {
        if self.spare > 0 {
            self.spare -= 1;
            return None;
        }
        let victim = if self.wheel.next_free().is_none() {
            self.near_the_end(&may_go).or_else(|| self.swept(&may_go))
        } else {
            let wheel_time = self.wheel.time();
            let records = &self.records;
            let left = |id: &u32| records.at(*id as usize).deadline.0.wrapping_sub(wheel_time.0) as i32;
            self.index.in_reach(hash).filter(|id| may_go(records.at(*id as usize))).min_by_key(left)
        };
        match victim.and_then(|id| self.remove(FlowId(id))) {
            Some(record) => {
                self.spare_next = 0;
                Some(record)
            }
            None => {
                self.spare_next = (2 * self.spare_next + 1).min(EVICT_MOST_SPARED);
                self.spare = self.spare_next;
                None
            }
        }
    }

    fn near_the_end(&self, may_go: impl Fn(&FlowRecord) -> bool) -> Option<u32> {
        self.wheel.soonest(EVICT_SOONEST, EVICT_SLOTS).find(|id| may_go(self.records.at(*id as usize)))
    }

    fn swept(&mut self, may_go: impl Fn(&FlowRecord) -> bool) -> Option<u32> {
        for _ in 0..EVICT_SWEEP {
            let id = self.sweep;
            self.sweep = if id + 1 >= self.capacity { 0 } else { id + 1 };
            let record = self.records.at(id as usize);
            if record.flags & flags::LIVE != 0 && may_go(record) {
                return Some(id);
            }
        }
        None
    }
}
