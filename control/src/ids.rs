//! Which numbers services and real servers have in the dataplane.
//!
//! A number stays while flows may refer to it: a real server that was removed keeps its
//! slot until no worker counts a flow on it, and finds it again when it is added again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dataplane::units::{RealId, ServiceId};

use crate::model::{Error, ErrorCode, ListChange, RealServer, ServerKey, Service, ServiceChange, ServiceKey, Services};

/// Milliseconds that a slot without flows is kept after every worker knows of the removal:
/// packets on their way between workers may still name it.
const LINGER_MS: u64 = 1000;
/// The same where few are kept: one that is added again soon finds its counters, as in the kernel.
const KEPT_MS: u64 = 120_000;
/// Most real servers, and services, that are kept so long: less than what there is room for beyond the limits.
const KEPT_SERVERS: usize = 32;
const KEPT_SERVICES: usize = 8;
/// Servers of a service that is too large for it.
const LONG: usize = 1024;

/// The slot of a real server.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// Its number.
    pub id: RealId,
    /// The last weight other than 0 since it was added, 0 if there was none.
    pub last_weight: u32,
    /// Set when the server was removed.
    pub removed: Option<Removed>,
}

/// A server that was removed while flows may refer to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Removed {
    /// What it was.
    pub server: RealServer,
    /// The one before it in the scheduler's list.
    pub predecessor: RealId,
    /// Generation of the first snapshot without it.
    pub generation: u64,
    /// Since when it could be forgotten, milliseconds.
    pub idle_since: Option<u64>,
}

#[derive(Clone, Debug)]
struct Numbers {
    next: u32,
    capacity: u32,
    /// Oldest first, so that a number rests as long as possible.
    free: VecDeque<u32>,
}

impl Numbers {
    fn new(capacity: u32) -> Self {
        Self { next: 0, capacity, free: VecDeque::new() }
    }
    fn available(&self) -> usize {
        (self.capacity - self.next) as usize + self.free.len()
    }
    fn take(&mut self) -> Option<u32> {
        if self.next < self.capacity {
            self.next += 1;
            return Some(self.next - 1);
        }
        self.free.pop_front()
    }
}

/// The numbers of one service.
#[derive(Clone, Debug)]
struct Holder {
    id: ServiceId,
    /// Those of its real servers in the order of its list; [`RealId::NONE`] where there was none to give.
    list: Vec<RealId>,
    /// Removed ones included.
    slots: BTreeMap<ServerKey, Slot>,
}

/// The numbers given out.
#[derive(Clone, Debug)]
pub struct Ids {
    services: BTreeMap<ServiceKey, Holder>,
    /// By [`RealId`]: whose it is.
    owners: Vec<Option<(ServiceKey, ServerKey)>>,
    /// How many real servers were removed and have a slot, by service.
    removed: BTreeMap<ServiceKey, usize>,
    /// Services that were removed and have a number.
    leaving: BTreeSet<ServiceKey>,
    service_numbers: Numbers,
    real_numbers: Numbers,
}

/// What [`Ids::update`] did.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    /// Services that are new or back.
    pub new_services: Vec<ServiceKey>,
    /// Slots that went to another server than before.
    pub new_slots: Vec<(ServiceKey, RealId)>,
    /// Real servers that were removed.
    pub removed: Vec<RealId>,
    /// Removed ones that were added again.
    pub back: Vec<RealId>,
    /// All slots of which something may be different, those above included.
    pub touched: Vec<RealId>,
}

impl Ids {
    /// Room for so many services and real servers, removed ones with flows included.
    pub fn new(services: u32, reals: u32) -> Self {
        Self {
            services: BTreeMap::new(),
            owners: Vec::new(),
            removed: BTreeMap::new(),
            leaving: BTreeSet::new(),
            service_numbers: Numbers::new(services),
            real_numbers: Numbers::new(reals),
        }
    }

    /// A service's number.
    pub fn service(&self, key: &ServiceKey) -> Option<ServiceId> {
        self.services.get(key).map(|h| h.id)
    }
    /// A real server's slot, also while it is removed.
    pub fn slot(&self, service: &ServiceKey, server: &ServerKey) -> Option<&Slot> {
        self.services.get(service)?.slots.get(server)
    }
    /// A real server's number, also while it is removed.
    pub fn real(&self, service: &ServiceKey, server: &ServerKey) -> Option<RealId> {
        self.slot(service, server).map(|s| s.id)
    }
    /// Whose a number is.
    pub fn owner(&self, id: RealId) -> Option<(ServiceKey, ServerKey)> {
        *self.owners.get(id.index())?
    }
    /// The numbers of a service's real servers in the order of its list; [`RealId::NONE`] for one that has none.
    pub fn list(&self, service: &ServiceKey) -> &[RealId] {
        self.services.get(service).map_or(&[], |h| &h.list)
    }
    /// All slots of one service.
    pub fn slots_of(&self, service: ServiceKey) -> impl Iterator<Item = (&ServerKey, &Slot)> {
        self.services.get(&service).into_iter().flat_map(|h| h.slots.iter())
    }
    /// All slots.
    pub fn slots(&self) -> impl Iterator<Item = (&ServiceKey, &ServerKey, &Slot)> {
        self.services.iter().flat_map(|(s, h)| h.slots.iter().map(move |(r, slot)| (s, r, slot)))
    }
    /// How many removed servers still have a slot.
    pub fn removed(&self) -> usize {
        self.removed.values().sum()
    }

    /// One of a service's is not among them any more.
    fn not_removed(&mut self, service: &ServiceKey) {
        if let Some(n) = self.removed.get_mut(service) {
            *n -= 1;
            if *n == 0 {
                self.removed.remove(service);
            }
        }
    }
    /// One more than the highest number ever given to a real server.
    pub fn reals_used(&self) -> u32 {
        self.real_numbers.next
    }

    /// Whether all that `changes` add can have numbers; `after` is what they lead to. To be asked before
    /// anything is changed.
    pub fn check(&self, changes: &[ServiceChange], after: &Services) -> Result<(), Error> {
        let (mut services, mut reals) = (0, 0);
        for c in changes.iter().filter(|c| c.after.is_some()) {
            services += usize::from(!self.services.contains_key(&c.key));
            reals += c.list().after.iter().filter(|r| self.slot(&c.key, &r.address).is_none()).count();
        }
        let full = |what: &str, held: usize| {
            let m = format!("no number is free for another {what}: {held} removed ones still have flows");
            Err(Error::new(ErrorCode::LimitReached, m).remedy("wait until their flows have ended, or raise [limits]"))
        };
        if services > self.service_numbers.available() {
            return full("service", self.services.len().saturating_sub(after.len()));
        }
        if reals > self.real_numbers.available() {
            return full("real server", self.removed());
        }
        Ok(())
    }

    /// Follows changes; `generation` is that of the snapshot to come. [`Ids::check`] has said that there is
    /// room; what has none all the same gets no number.
    pub fn update(&mut self, all: &[ServiceChange], generation: u64) -> Changes {
        let mut changes = Changes::default();
        for c in all {
            if let Some(old) = &c.before {
                self.remove_missing(old, c, generation, &mut changes);
            }
            if c.after.is_none()
                && let Some(holder) = self.services.get_mut(&c.key)
            {
                holder.list.clear();
                self.leaving.insert(c.key);
            }
        }
        for c in all.iter().filter(|c| c.after.is_some()) {
            self.leaving.remove(&c.key);
            if c.before.is_none() {
                changes.new_services.push(c.key);
            }
            if !self.services.contains_key(&c.key)
                && let Some(n) = self.service_numbers.take()
            {
                self.services.insert(c.key, Holder { id: ServiceId(n), list: Vec::new(), slots: BTreeMap::new() });
            }
            self.list_anew(c, &mut changes);
        }
        changes
    }

    /// Gives numbers to what is new in a service's list.
    fn list_anew(&mut self, c: &ServiceChange, changes: &mut Changes) {
        let Some(mut holder) = self.services.remove(&c.key) else { return };
        let mut list = c.list();
        if let Some(after) = c.after.as_ref().filter(|_| holder.list.len() != list.at + list.before.len() + list.kept) {
            // It had no number before, so that all of it is new here.
            holder.list.clear();
            list = ListChange { at: 0, before: &[], after: &after.servers, kept: 0 };
        }
        // Only a service that was there can have had the server before.
        let old: BTreeSet<ServerKey> = list.before.iter().map(|r| r.address).collect();
        let mut numbers = Vec::with_capacity(list.after.len());
        for r in list.after {
            let is_new = c.before.is_some() && !old.contains(&r.address);
            numbers.push(self.add(c.key, &mut holder, r, is_new, changes).unwrap_or(RealId::NONE));
        }
        holder.list.splice(list.at..list.at + list.before.len(), numbers);
        self.services.insert(c.key, holder);
    }

    fn add(
        &mut self,
        service: ServiceKey,
        holder: &mut Holder,
        server: &RealServer,
        is_new: bool,
        changes: &mut Changes,
    ) -> Option<RealId> {
        let id = match holder.slots.get_mut(&server.address) {
            Some(slot) => {
                let back = slot.removed.take().is_some();
                if back {
                    self.not_removed(&service);
                    changes.back.push(slot.id);
                }
                if back || is_new || server.weight > 0 {
                    slot.last_weight = server.weight;
                }
                slot.id
            }
            None => {
                let id = RealId(self.real_numbers.take()?);
                holder.slots.insert(server.address, Slot { id, last_weight: server.weight, removed: None });
                self.owners.resize(self.owners.len().max(id.index() + 1), None);
                self.owners[id.index()] = Some((service, server.address));
                changes.new_slots.push((service, id));
                id
            }
        };
        changes.touched.push(id);
        Some(id)
    }

    fn remove_missing(&mut self, old: &Service, c: &ServiceChange, generation: u64, changes: &mut Changes) {
        let Some(holder) = self.services.get_mut(&c.key) else { return };
        let list = c.list();
        let kept: BTreeSet<ServerKey> = list.after.iter().map(|r| r.address).collect();
        for (n, r) in list.before.iter().enumerate().filter(|(_, r)| !kept.contains(&r.address)) {
            // The scheduler's list is the newest first, so the one before is the next newer.
            let newer = old.servers.get(list.at + n + 1).and_then(|p| holder.slots.get(&p.address)).map(|s| s.id);
            if let Some(slot) = holder.slots.get_mut(&r.address) {
                let predecessor = newer.unwrap_or(RealId::NONE);
                slot.removed = Some(Removed { server: r.clone(), predecessor, generation, idle_since: None });
                *self.removed.entry(c.key).or_default() += 1;
                changes.removed.push(slot.id);
                changes.touched.push(slot.id);
            }
        }
    }

    /// Forgets removed servers that no flow refers to, and services without any server
    /// left to remember. `adopted` is the oldest generation that a worker still uses.
    /// Returns the slots that are free now.
    pub fn release(
        &mut self,
        adopted: u64,
        now: u64,
        in_use: impl Fn(RealId) -> bool,
    ) -> Vec<(ServiceKey, ServerKey, RealId)> {
        let mut gone = Vec::new();
        let few = self.removed() <= KEPT_SERVERS && self.leaving.len() <= KEPT_SERVICES;
        for service in self.removed.keys() {
            let Some(holder) = self.services.get_mut(service) else { continue };
            // A long list is not to be looked through for so long.
            let linger = if few && holder.slots.len() <= LONG { KEPT_MS } else { LINGER_MS };
            for (server, slot) in &mut holder.slots {
                let Some(removed) = &mut slot.removed else { continue };
                if removed.generation > adopted || in_use(slot.id) {
                    removed.idle_since = None;
                    continue;
                }
                let since = *removed.idle_since.get_or_insert(now);
                if now.saturating_sub(since) >= linger {
                    gone.push((*service, *server, slot.id));
                }
            }
        }
        for (service, server, id) in &gone {
            if let Some(holder) = self.services.get_mut(service) {
                holder.slots.remove(server);
            }
            self.owners[id.index()] = None;
            self.real_numbers.free.push_back(id.0);
            self.not_removed(service);
        }
        self.release_services();
        gone
    }

    fn release_services(&mut self) {
        let services = &self.services;
        let unused = |k: &ServiceKey| services.get(k).is_none_or(|h| h.slots.is_empty());
        for key in self.leaving.iter().copied().filter(unused).collect::<Vec<_>>() {
            self.leaving.remove(&key);
            if let Some(holder) = self.services.remove(&key) {
                self.service_numbers.free.push_back(holder.id.0);
            }
        }
    }
}
