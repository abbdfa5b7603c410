//! Which numbers services and real servers have in the dataplane.
//!
//! A number stays while flows may refer to it: a real server that was removed keeps its
//! slot until no worker counts a flow on it, and finds it again when it is added again.

use std::collections::{BTreeMap, VecDeque};

use dataplane::units::{RealId, ServiceId};

use crate::model::{Error, ErrorCode, RealServer, ServerKey, ServiceKey, Services};

/// Milliseconds that a slot without flows is kept after every worker knows of the removal:
/// packets on their way between workers may still name it.
const LINGER_MS: u64 = 1000;

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

/// The numbers given out.
#[derive(Clone, Debug)]
pub struct Ids {
    services: BTreeMap<ServiceKey, ServiceId>,
    slots: BTreeMap<(ServiceKey, ServerKey), Slot>,
    removed: usize,
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
}

impl Ids {
    /// Room for so many services and real servers, removed ones with flows included.
    pub fn new(services: u32, reals: u32) -> Self {
        Self {
            services: BTreeMap::new(),
            slots: BTreeMap::new(),
            removed: 0,
            service_numbers: Numbers::new(services),
            real_numbers: Numbers::new(reals),
        }
    }

    /// A service's number.
    pub fn service(&self, key: &ServiceKey) -> Option<ServiceId> {
        self.services.get(key).copied()
    }
    /// A real server's number, also while it is removed.
    pub fn real(&self, service: &ServiceKey, server: &ServerKey) -> Option<RealId> {
        self.slots.get(&(*service, *server)).map(|s| s.id)
    }
    /// All slots of one service.
    pub fn slots_of(&self, service: ServiceKey) -> impl Iterator<Item = (&ServerKey, &Slot)> {
        let first = (service, ServerKey { ip: [0; 4].into(), port: 0 });
        self.slots.range(first..).take_while(move |((s, _), _)| *s == service).map(|((_, r), slot)| (r, slot))
    }
    /// All slots.
    pub fn slots(&self) -> impl Iterator<Item = (&ServiceKey, &ServerKey, &Slot)> {
        self.slots.iter().map(|((s, r), slot)| (s, r, slot))
    }
    /// How many removed servers still have a slot.
    pub fn removed(&self) -> usize {
        self.removed
    }
    /// One more than the highest number ever given to a real server.
    pub fn reals_used(&self) -> u32 {
        self.real_numbers.next
    }

    /// Whether all of `after` can have numbers. To be asked before anything is changed;
    /// what is the same as in `before` has them.
    pub fn check(&self, before: &Services, after: &Services) -> Result<(), Error> {
        let (mut services, mut reals) = (0, 0);
        for s in after.iter() {
            if before.get(&s.address).is_ok_and(|old| std::sync::Arc::ptr_eq(old, s)) {
                continue;
            }
            services += usize::from(!self.services.contains_key(&s.address));
            reals += s.servers.iter().filter(|r| !self.slots.contains_key(&(s.address, r.address))).count();
        }
        let full = |what: &str, held: usize| {
            let m = format!("no number is free for another {what}: {held} removed ones still have flows");
            Err(Error::new(ErrorCode::LimitReached, m).remedy("wait until their flows have ended, or raise [limits]"))
        };
        if services > self.service_numbers.available() {
            return full("service", self.services.len().saturating_sub(after.len()));
        }
        if reals > self.real_numbers.available() {
            return full("real server", self.removed);
        }
        Ok(())
    }

    /// Goes from `before` to `after`; `generation` is that of the snapshot to come.
    /// [`Ids::check`] has said that there is room; what has none all the same gets no number.
    pub fn update(&mut self, before: &Services, after: &Services, generation: u64) -> Changes {
        let mut changes = Changes::default();
        for old in before.iter() {
            let now = after.get(&old.address).ok();
            if now.is_some_and(|n| std::sync::Arc::ptr_eq(n, old)) {
                continue;
            }
            self.remove_missing(old, now.map(|n| &**n), generation, &mut changes);
        }
        for new in after.iter() {
            if before.get(&new.address).is_ok_and(|old| std::sync::Arc::ptr_eq(old, new)) {
                continue;
            }
            if !before.contains(&new.address) {
                changes.new_services.push(new.address);
            }
            if !self.services.contains_key(&new.address)
                && let Some(n) = self.service_numbers.take()
            {
                self.services.insert(new.address, ServiceId(n));
            }
            for r in &new.servers {
                let is_new = before.get(&new.address).is_ok_and(|old| old.server(&r.address).is_none());
                self.add(new.address, r, is_new, &mut changes);
            }
        }
        changes
    }

    fn add(&mut self, service: ServiceKey, server: &RealServer, is_new: bool, changes: &mut Changes) {
        match self.slots.get_mut(&(service, server.address)) {
            Some(slot) => {
                let back = slot.removed.take().is_some();
                self.removed -= usize::from(back);
                if back {
                    changes.back.push(slot.id);
                }
                if back || is_new || server.weight > 0 {
                    slot.last_weight = server.weight;
                }
            }
            None => {
                if let Some(n) = self.real_numbers.take() {
                    let slot = Slot { id: RealId(n), last_weight: server.weight, removed: None };
                    self.slots.insert((service, server.address), slot);
                    changes.new_slots.push((service, RealId(n)));
                }
            }
        }
    }

    fn remove_missing(
        &mut self,
        old: &crate::model::Service,
        now: Option<&crate::model::Service>,
        generation: u64,
        changes: &mut Changes,
    ) {
        // The scheduler's list is the newest first, so the one before is the next newer.
        for (n, r) in old.servers.iter().enumerate() {
            if now.is_some_and(|now| now.server(&r.address).is_some()) {
                continue;
            }
            let newer = old.servers.get(n + 1).and_then(|p| self.real(&old.address, &p.address));
            if let Some(slot) = self.slots.get_mut(&(old.address, r.address)) {
                let predecessor = newer.unwrap_or(RealId::NONE);
                slot.removed = Some(Removed { server: r.clone(), predecessor, generation, idle_since: None });
                self.removed += 1;
                changes.removed.push(slot.id);
            }
        }
    }

    /// Forgets removed servers that no flow refers to, and services without any server
    /// left to remember. `adopted` is the oldest generation that a worker still uses.
    /// Returns the slots that are free now.
    pub fn release(
        &mut self,
        services: &Services,
        adopted: u64,
        now: u64,
        in_use: impl Fn(RealId) -> bool,
    ) -> Vec<(ServiceKey, RealId)> {
        let mut gone = Vec::new();
        if self.removed > 0 {
            for ((service, server), slot) in &mut self.slots {
                let Some(removed) = &mut slot.removed else { continue };
                if removed.generation > adopted || in_use(slot.id) {
                    removed.idle_since = None;
                    continue;
                }
                let since = *removed.idle_since.get_or_insert(now);
                if now.saturating_sub(since) >= LINGER_MS {
                    gone.push((*service, *server, slot.id));
                }
            }
        }
        for (service, server, id) in &gone {
            self.slots.remove(&(*service, *server));
            self.real_numbers.free.push_back(id.0);
            self.removed -= 1;
        }
        self.release_services(services);
        gone.into_iter().map(|(service, _, id)| (service, id)).collect()
    }

    fn release_services(&mut self, services: &Services) {
        if self.services.len() == services.len() {
            return;
        }
        let unused: Vec<ServiceKey> = self
            .services
            .keys()
            .filter(|k| !services.contains(k) && self.slots_of(**k).next().is_none())
            .copied()
            .collect();
        for key in unused {
            if let Some(id) = self.services.remove(&key) {
                self.service_numbers.free.push_back(id.0);
            }
        }
    }
}
