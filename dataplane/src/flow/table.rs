//! STUB
use crate::flow::hash::FlowHash;
use crate::flow::record::{FlowKey, FlowRecord, ReplyKey, flags, peer_word};
use crate::units::Tick;
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct FlowId(pub u32);
impl FlowId {
    pub const NONE: Self = Self(u32::MAX);
}
#[derive(Clone, Copy, Debug, Default)]
pub struct Candidates;
#[derive(Clone, Copy, Debug)]
pub struct Full;
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Remove,
    Keep,
}
pub struct FlowTable {
    recs: Vec<Option<FlowRecord>>,
    idx: std::collections::HashMap<u64, Vec<u32>>,
    hashes: Vec<u64>,
    len: u32,
    cur: usize,
}
impl FlowTable {
    pub fn new(capacity: u32) -> Self {
        Self {
            recs: vec![None; capacity as usize],
            idx: Default::default(),
            hashes: vec![0; capacity as usize],
            len: 0,
            cur: 0,
        }
    }
    pub fn prefetch_bucket(&self, _: FlowHash) {}
    pub fn probe(&self, _: FlowHash) -> Candidates {
        Candidates
    }
    pub fn find_request(&self, h: FlowHash, k: &FlowKey, _: Candidates) -> Option<FlowId> {
        self.idx.get(&h.0)?.iter().copied().find(|i| self.recs[*i as usize].is_some_and(|r| r.key() == *k)).map(FlowId)
    }
    pub fn find_reply(&self, h: FlowHash, k: &ReplyKey, _: Candidates) -> Option<FlowId> {
        self.idx
            .get(&h.0)?
            .iter()
            .copied()
            .find(|i| {
                self.recs[*i as usize].is_some_and(|r| {
                    r.client == k.client
                        && r.client_port == k.client_port
                        && r.proto == k.proto
                        && r.rport == k.rport
                        && r.peer == peer_word(k.real)
                })
            })
            .map(FlowId)
    }
    pub fn lookup_request(&self, h: FlowHash, k: &FlowKey) -> Option<FlowId> {
        self.find_request(h, k, Candidates)
    }
    pub fn get(&self, id: FlowId) -> &FlowRecord {
        self.recs[id.0 as usize].as_ref().unwrap()
    }
    pub fn get_mut(&mut self, id: FlowId) -> &mut FlowRecord {
        self.recs[id.0 as usize].as_mut().unwrap()
    }
    pub fn try_get_mut(&mut self, id: FlowId) -> Option<&mut FlowRecord> {
        self.recs.get_mut(id.0 as usize)?.as_mut()
    }
    pub fn insert(&mut self, h: FlowHash, mut r: FlowRecord, _now: Tick) -> Result<FlowId, Full> {
        let i = self.recs.iter().position(|r| r.is_none()).ok_or(Full)?;
        r.flags |= flags::LIVE;
        self.recs[i] = Some(r);
        self.hashes[i] = h.0;
        self.idx.entry(h.0).or_default().push(i as u32);
        self.len += 1;
        Ok(FlowId(i as u32))
    }
    pub fn remove(&mut self, id: FlowId) -> Option<FlowRecord> {
        let r = self.recs.get_mut(id.0 as usize)?.take()?;
        self.idx.get_mut(&self.hashes[id.0 as usize]).unwrap().retain(|i| *i != id.0);
        self.len -= 1;
        Some(r)
    }
    pub fn rearm(&mut self, _: FlowId, _: Tick) {}
    pub fn evict(&mut self, _h: FlowHash, mut ok: impl FnMut(&FlowRecord) -> bool) -> Option<FlowRecord> {
        let i = self.recs.iter().position(|r| r.is_some_and(|r| ok(&r)))?;
        self.remove(FlowId(i as u32))
    }
    pub fn expire(&mut self, now: Tick, budget: usize, mut f: impl FnMut(FlowId, &mut FlowRecord) -> Fate) -> usize {
        let mut n = 0;
        for _ in 0..budget.max(self.recs.len()) {
            let i = self.cur;
            self.cur = (self.cur + 1) % self.recs.len();
            if let Some(r) = &mut self.recs[i] {
                if r.deadline.reached(now) && f(FlowId(i as u32), r) == Fate::Remove {
                    self.remove(FlowId(i as u32));
                    n += 1;
                }
            }
        }
        n
    }
    pub fn len(&self) -> u32 {
        self.len
    }
    pub fn capacity(&self) -> u32 {
        self.recs.len() as u32
    }
}
