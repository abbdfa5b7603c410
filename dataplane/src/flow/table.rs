//! The flow table of one worker.
//!
//! An index of 64-byte buckets (twelve 8-bit tags and twelve record numbers) finds 64-byte
//! records; both directions of a flow share one entry. A packet of a known flow touches
//! one bucket and one record, both prefetched by the burst. A bucket that is full sends
//! what comes later to its neighbours and counts it, so that a miss stops early. Memory is
//! taken once; capacity is fixed.

use super::hash::{FlowHash, Secret};
use super::memory::{HugeArray, OutOfMemory, Plain, matching};
use super::record::{FlowKey, FlowRecord, ReplyKey, flags, peer_word};
use super::wheel::{LINK_BYTES, Wheel};
use crate::units::Tick;

/// Entries of a bucket.
const WAYS: usize = 12;
/// Buckets that an entry may be in: its home and the next ones.
const REACH: u32 = 8;
/// Entries per bucket on average when the table is full.
const FILL: u32 = 8;
/// Records and slots looked at for one that may be evicted.
const EVICT_RECORDS: usize = 64;
const EVICT_SLOTS: u32 = 512;

/// Number of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct FlowId(pub u32);

impl FlowId {
    /// No flow.
    pub const NONE: Self = Self(u32::MAX);
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    /// Tags of the entries, 0 for a free one; then how many entries went past this full
    /// bucket (sticks at 255), and padding.
    tags: [u8; 16],
    records: [u32; WAYS],
}

const OVERFLOW: usize = WAYS;
const _: () = assert!(size_of::<Bucket>() == 64);
const ENTRIES: u32 = (1 << WAYS) - 1;

// SAFETY: numbers only.
#[allow(unsafe_code)]
unsafe impl Plain for Bucket {}
// SAFETY: numbers only.
#[allow(unsafe_code)]
unsafe impl Plain for FlowRecord {}

/// Entries of the home bucket whose tag fits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Candidates {
    bucket: u32,
    hits: u32,
}

/// No room: every record is taken, or the entry's reach is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// What becomes of a flow whose time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes.
    Remove,
    /// It stays: the callback has moved its deadline.
    Keep,
}

/// The table.
pub struct FlowTable {
    buckets: HugeArray<Bucket>,
    records: HugeArray<FlowRecord>,
    free: HugeArray<u32>,
    wheel: Wheel,
    secret: Secret,
    bucket_count: u32,
    capacity: u32,
    /// Entries of `free` in use.
    free_len: u32,
    /// Records never used yet start here.
    fresh: u32,
    len: u32,
}

impl FlowTable {
    /// A table for up to `capacity` flows (at least 16).
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn new(capacity: u32, secret: Secret) -> Result<Self, OutOfMemory> {
        let capacity = capacity.max(16);
        let bucket_count = Self::buckets_for(capacity);
        Ok(Self {
            buckets: HugeArray::new(bucket_count as usize)?,
            records: HugeArray::new(capacity as usize)?,
            free: HugeArray::new(capacity as usize)?,
            wheel: Wheel::new(capacity)?,
            secret,
            bucket_count,
            capacity,
            free_len: 0,
            fresh: 0,
            len: 0,
        })
    }

    fn buckets_for(capacity: u32) -> u32 {
        capacity.div_ceil(FILL).max(REACH)
    }

    /// Bytes that a table for `capacity` flows needs, before rounding up to pages.
    pub fn bytes_for(capacity: u32) -> usize {
        let n = capacity.max(16) as usize;
        Self::buckets_for(capacity.max(16)) as usize * size_of::<Bucket>()
            + n * (size_of::<FlowRecord>() + LINK_BYTES + 4)
    }

    /// Bytes mapped.
    pub fn bytes(&self) -> usize {
        self.buckets.bytes() + self.records.bytes() + self.free.bytes() + self.wheel.bytes()
    }

    /// Whether index and records lie in huge pages.
    pub fn is_huge(&self) -> bool {
        self.buckets.is_huge() && self.records.is_huge()
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
    /// Most flows there can be.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// First of two prefetches: the bucket.
    #[inline(always)]
    pub fn prefetch_bucket(&self, hash: FlowHash) {
        self.buckets.prefetch(hash.bucket(self.bucket_count) as usize);
    }

    /// Compares the tags and prefetches the first record that fits.
    #[inline(always)]
    pub fn probe(&self, hash: FlowHash) -> Candidates {
        let bucket = hash.bucket(self.bucket_count);
        let b = self.buckets.at(bucket as usize);
        let hits = matching(&b.tags, hash.tag()) & ENTRIES;
        if hits != 0 {
            self.records.prefetch(b.records[hits.trailing_zeros() as usize % WAYS] as usize);
        }
        Candidates { bucket, hits }
    }

    #[inline(always)]
    fn find(&self, hash: FlowHash, c: Candidates, same: impl Fn(&FlowRecord) -> bool) -> Option<FlowId> {
        let b = self.buckets.at(c.bucket as usize);
        let mut hits = c.hits;
        while hits != 0 {
            let id = b.records[hits.trailing_zeros() as usize % WAYS];
            if same(self.records.at(id as usize)) {
                return Some(FlowId(id));
            }
            hits &= hits - 1;
        }
        if b.tags[OVERFLOW] == 0 {
            return None;
        }
        self.find_further(hash, c.bucket, same)
    }

    #[cold]
    fn find_further(&self, hash: FlowHash, home: u32, same: impl Fn(&FlowRecord) -> bool) -> Option<FlowId> {
        for step in 1..REACH {
            let b = self.buckets.at(self.neighbour(home, step));
            let mut hits = matching(&b.tags, hash.tag()) & ENTRIES;
            while hits != 0 {
                let id = b.records[hits.trailing_zeros() as usize % WAYS];
                if same(self.records.at(id as usize)) {
                    return Some(FlowId(id));
                }
                hits &= hits - 1;
            }
            if b.tags[OVERFLOW] == 0 {
                return None;
            }
        }
        None
    }

    #[inline(always)]
    fn neighbour(&self, home: u32, step: u32) -> usize {
        let at = home + step;
        (if at >= self.bucket_count { at - self.bucket_count } else { at }) as usize
    }

    /// The flow of a packet from a client.
    #[inline(always)]
    pub fn find_request(&self, hash: FlowHash, key: &FlowKey, c: Candidates) -> Option<FlowId> {
        self.find(hash, c, |r| {
            (r.client.raw() ^ key.client.raw()) | (r.vip.raw() ^ key.vip.raw()) == 0
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
            r.client == key.client
                && r.client_port == key.client_port
                && r.rport == key.rport
                && r.proto == key.proto
                && r.peer == peer
                && r.flags & flags::TEMPLATE == 0
        })
    }

    /// `probe` and `find_request` in one, for single look-ups.
    pub fn lookup_request(&self, hash: FlowHash, key: &FlowKey) -> Option<FlowId> {
        self.find_request(hash, key, self.probe(hash))
    }

    /// A record.
    #[inline(always)]
    pub fn get(&self, id: FlowId) -> &FlowRecord {
        self.records.at(id.0 as usize)
    }
    /// A record, to be changed. Its key must stay.
    #[inline(always)]
    pub fn get_mut(&mut self, id: FlowId) -> &mut FlowRecord {
        self.records.at_mut(id.0 as usize)
    }
    /// A record, if there is a live one of this number.
    #[inline]
    pub fn try_get_mut(&mut self, id: FlowId) -> Option<&mut FlowRecord> {
        if id.0 >= self.capacity {
            return None;
        }
        Some(self.records.at_mut(id.0 as usize)).filter(|r| r.flags & flags::LIVE != 0)
    }

    /// Adds a flow.
    ///
    /// # Errors
    /// [`Full`] when there is no room; nothing has changed then.
    #[inline]
    pub fn insert(&mut self, hash: FlowHash, mut record: FlowRecord, now: Tick) -> Result<FlowId, Full> {
        let id = match (self.free_len, self.fresh) {
            (0, fresh) if fresh >= self.capacity => return Err(Full),
            (0, fresh) => fresh,
            (n, _) => *self.free.at(n as usize - 1),
        };
        self.enter(hash, id)?;
        if self.free_len > 0 {
            self.free_len -= 1;
        } else {
            self.fresh += 1;
        }
        record.flags |= flags::LIVE;
        *self.records.at_mut(id as usize) = record;
        self.wheel.insert(id, record.deadline, now);
        self.len += 1;
        Ok(FlowId(id))
    }

    /// Writes an index entry; full buckets on the way count what passed them.
    fn enter(&mut self, hash: FlowHash, id: u32) -> Result<(), Full> {
        let home = hash.bucket(self.bucket_count);
        for step in 0..REACH {
            let at = self.neighbour(home, step);
            let b = self.buckets.at_mut(at);
            let empty = matching(&b.tags, 0) & ENTRIES;
            if empty != 0 {
                let way = empty.trailing_zeros() as usize % WAYS;
                b.tags[way] = hash.tag();
                b.records[way] = id;
                for passed in 0..step {
                    let at = self.neighbour(home, passed);
                    let count = &mut self.buckets.at_mut(at).tags[OVERFLOW];
                    *count = count.saturating_add(1);
                }
                return Ok(());
            }
        }
        Err(Full)
    }

    fn leave(&mut self, hash: FlowHash, id: u32) {
        let home = hash.bucket(self.bucket_count);
        for step in 0..REACH {
            let at = self.neighbour(home, step);
            let b = self.buckets.at_mut(at);
            let mut hits = matching(&b.tags, hash.tag()) & ENTRIES;
            while hits != 0 {
                let way = hits.trailing_zeros() as usize % WAYS;
                if b.records[way] == id {
                    b.tags[way] = 0;
                    for passed in 0..step {
                        let at = self.neighbour(home, passed);
                        let count = &mut self.buckets.at_mut(at).tags[OVERFLOW];
                        // A count that stuck cannot be known any more.
                        *count -= u8::from(*count != u8::MAX && *count != 0);
                    }
                    return;
                }
                hits &= hits - 1;
            }
        }
    }

    /// Ends a flow and returns its record; `None` when there was none.
    pub fn remove(&mut self, id: FlowId) -> Option<FlowRecord> {
        let record = *self.try_get_mut(id)?;
        self.wheel.remove(id.0);
        self.discard(id.0, &record);
        Some(record)
    }

    /// Frees a record that the wheel has let go.
    fn discard(&mut self, id: u32, record: &FlowRecord) {
        self.leave(self.secret.hash(record.client, record.client_port, record.proto), id);
        self.records.at_mut(id as usize).flags = 0;
        *self.free.at_mut(self.free_len as usize) = id;
        self.free_len += 1;
        self.len -= 1;
    }

    /// To be called when a flow's deadline became earlier. A later one needs no call.
    #[inline]
    pub fn rearm(&mut self, id: FlowId, deadline: Tick) {
        self.wheel.rearm(id.0, deadline);
    }

    /// Makes room for an entry under `hash`: ends the flow that `may_go` and is next to
    /// time out, among those in reach when the reach is full, else among the 64 that the
    /// wheel meets first. Returns its record.
    pub fn evict(&mut self, hash: FlowHash, may_go: impl Fn(&FlowRecord) -> bool) -> Option<FlowRecord> {
        let table_full = self.free_len == 0 && self.fresh >= self.capacity;
        let victim = if table_full {
            self.wheel.soonest(EVICT_RECORDS, EVICT_SLOTS).find(|id| may_go(self.records.at(*id as usize)))
        } else {
            self.in_reach(hash).filter(|id| may_go(self.records.at(*id as usize))).min_by_key(|id| {
                let r = self.records.at(*id as usize);
                // Time-outs differ by state, not within one: the nearest deadline is the oldest of its state.
                r.deadline.0
            })
        };
        self.remove(FlowId(victim?))
    }

    fn in_reach(&self, hash: FlowHash) -> impl Iterator<Item = u32> + '_ {
        let home = hash.bucket(self.bucket_count);
        (0..REACH).flat_map(move |step| {
            let b = self.buckets.at(self.neighbour(home, step));
            (0..WAYS).filter(|way| b.tags[*way] != 0).map(|way| b.records[way])
        })
    }

    /// Looks at up to `budget` records that may be due and ends those that `f` lets go.
    /// Returns how many ended.
    #[inline]
    pub fn expire(&mut self, now: Tick, budget: usize, mut f: impl FnMut(FlowId, &mut FlowRecord) -> Fate) -> usize {
        let mut left = budget;
        let mut ended = 0;
        while let Some(id) = self.wheel.pop_due(now, &mut left) {
            let record = self.records.at_mut(id as usize);
            if record.deadline.reached(now) && f(FlowId(id), record) == Fate::Remove {
                let record = *record;
                self.discard(id, &record);
                ended += 1;
            } else {
                let deadline = record.deadline;
                self.wheel.insert(id, deadline, now);
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::units::{Be16, Ip, RealId};

    fn record(n: u32, deadline: Tick) -> FlowRecord {
        let client = Ip::from_v4((0x0a00_0000 + n / 4).to_be_bytes());
        FlowRecord {
            client,
            vip: Ip::from_v4([10, 9, 0, (n % 4) as u8]),
            client_port: Be16::new(1000),
            vport: Be16::new(80),
            rport: Be16::new(8080 + (n % 4) as u16),
            proto: 6,
            state: 0,
            real: RealId(n),
            peer: peer_word(Ip::from_v4([10, 2, 0, 11])),
            deadline,
            flags: 0,
            l3_delta: 0,
            l4_delta: 0,
            ext: u32::MAX,
        }
    }

    fn hash(t: &FlowTable, r: &FlowRecord) -> FlowHash {
        t.secret.hash(r.client, r.client_port, r.proto)
    }

    fn lookup(t: &FlowTable, r: &FlowRecord) -> Option<FlowId> {
        t.lookup_request(hash(t, r), &r.key())
    }

    fn table(capacity: u32) -> FlowTable {
        FlowTable::new(capacity, Secret::fixed()).unwrap()
    }

    #[test]
    fn both_directions_find_the_record() {
        let mut t = table(64);
        let r = record(5, Tick(100));
        let id = t.insert(hash(&t, &r), r, Tick(0)).unwrap();
        assert_eq!(lookup(&t, &r), Some(id));
        let key = ReplyKey {
            client: r.client,
            real: Ip::from_v4([10, 2, 0, 11]),
            client_port: r.client_port,
            rport: r.rport,
            proto: 6,
        };
        assert_eq!(t.find_reply(hash(&t, &r), &key, t.probe(hash(&t, &r))), Some(id));
        let wrong = ReplyKey { rport: Be16::new(1), ..key };
        assert_eq!(t.find_reply(hash(&t, &r), &wrong, t.probe(hash(&t, &r))), None);
    }

    #[test]
    fn it_holds_as_many_as_promised_and_then_refuses() {
        let mut t = table(1000);
        for n in 0..1000 {
            let r = record(n * 4, Tick(1000));
            t.insert(hash(&t, &r), r, Tick(0)).unwrap();
        }
        let r = record(99_999, Tick(1000));
        assert_eq!(t.insert(hash(&t, &r), r, Tick(0)), Err(Full));
        assert!((0..1000).all(|n| lookup(&t, &record(n * 4, Tick(0))).is_some()));
        let gone = t.evict(hash(&t, &r), |r| r.real.0 % 8 == 4).unwrap();
        assert_eq!(gone.real.0 % 8, 4);
        t.insert(hash(&t, &r), r, Tick(0)).unwrap();
        assert_eq!((t.len(), lookup(&t, &gone)), (1000, None));
    }

    #[test]
    fn one_client_port_with_many_vips_fills_its_reach_only() {
        let mut t = table(10_000);
        let mut kept = 0;
        for n in 0..200u32 {
            let mut r = record(0, Tick(1000));
            r.vip = Ip::from_v4(n.to_be_bytes());
            kept += u32::from(t.insert(hash(&t, &r), r, Tick(0)).is_ok());
        }
        assert_eq!(kept, WAYS as u32 * REACH);
        let r = record(400, Tick(1000));
        assert!(t.insert(hash(&t, &r), r, Tick(0)).is_ok());
    }

    #[test]
    fn flows_end_on_time_and_packets_lengthen_them() {
        let mut t = table(64);
        let start = Tick(u32::MAX - 5_000);
        let (a, b) = (record(1, start.after_ms(10_000)), record(9, start.after_ms(900_000)));
        let ia = t.insert(hash(&t, &a), a, start).unwrap();
        let ib = t.insert(hash(&t, &b), b, start).unwrap();
        t.get_mut(ia).deadline = start.after_ms(30_000);
        let run = |t: &mut FlowTable, ms| t.expire(start.after_ms(ms), 10_000, |_, _| Fate::Remove);
        assert_eq!(run(&mut t, 29_000), 0);
        assert_eq!(run(&mut t, 30_600), 1);
        t.get_mut(ib).deadline = start.after_ms(40_000);
        t.rearm(ib, start.after_ms(40_000));
        assert_eq!(run(&mut t, 39_000), 0);
        assert_eq!(run(&mut t, 40_600), 1);
        assert!(t.is_empty());
    }

    #[test]
    fn a_flow_takes_at_most_88_bytes() {
        assert!(FlowTable::bytes_for(1_000_000) <= 88_000_000, "{}", FlowTable::bytes_for(1_000_000));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u32, u32),
        Remove(u32),
        Touch(u32, u32),
        Pass(u32),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0..300u32, 0..2_000_000u32).prop_map(|(n, t)| Op::Insert(n, t)),
            (0..300u32).prop_map(Op::Remove),
            (0..300u32, 0..2_000_000u32).prop_map(|(n, t)| Op::Touch(n, t)),
            (0..400_000u32).prop_map(Op::Pass),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_agrees_with_a_map(start: u32, ops in prop::collection::vec(op(), 1..400)) {
            let mut t = table(128);
            let mut model: HashMap<u32, Tick> = HashMap::new();
            let mut now = Tick(start);
            t.expire(now, 10, |_, _| Fate::Remove);
            for op in ops {
                match op {
                    Op::Insert(n, ms) if !model.contains_key(&n) => {
                        let r = record(n, now.after_ms(ms));
                        if t.insert(hash(&t, &r), r, now).is_ok() {
                            model.insert(n, r.deadline);
                        } else {
                            prop_assert_eq!(model.len(), 128);
                        }
                    }
                    Op::Remove(n) => {
                        let id = lookup(&t, &record(n, now));
                        prop_assert_eq!(id.is_some(), model.remove(&n).is_some());
                        if let Some(id) = id {
                            prop_assert_eq!(t.remove(id).unwrap().real, RealId(n));
                        }
                    }
                    Op::Touch(n, ms) => if let Some(id) = lookup(&t, &record(n, now)) {
                        let deadline = now.after_ms(ms);
                        t.get_mut(id).deadline = deadline;
                        t.rearm(id, deadline);
                        model.insert(n, deadline);
                    },
                    Op::Pass(ms) => {
                        now = now.after_ms(ms);
                        let mut ended = Vec::new();
                        while t.expire(now, 50, |_, r| { ended.push(r.real.0); Fate::Remove }) > 0 {}
                        for _ in 0..200 { t.expire(now, 50, |_, r| { ended.push(r.real.0); Fate::Remove }); }
                        for n in ended {
                            prop_assert!(model.remove(&n).unwrap().reached(now));
                        }
                        // Nothing stays longer than a slot beyond its time.
                        prop_assert!(model.values().all(|d| !d.after_ms(600).reached(now)));
                    }
                    Op::Insert(..) => {}
                }
                prop_assert_eq!(t.len() as usize, model.len());
            }
            for n in 0..300 {
                prop_assert_eq!(lookup(&t, &record(n, now)).is_some(), model.contains_key(&n));
            }
        }
    }
}
