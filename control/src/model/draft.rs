//! Changes that are all kept or all taken back.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{RealServer, Service, ServiceKey, Services};

/// What became of one service.
#[derive(Clone, PartialEq, Debug)]
pub struct ServiceChange {
    /// Which one.
    pub key: ServiceKey,
    /// As it was; none if it is new.
    pub before: Option<Arc<Service>>,
    /// As it is now; none if it was removed.
    pub after: Option<Arc<Service>>,
}

/// A part of a service's list of real servers in the place of another one. What is before and after it stayed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ListChange<'a> {
    /// How many real servers are before it.
    pub at: usize,
    /// What is there no longer, or no longer the same.
    pub before: &'a [RealServer],
    /// What is there instead.
    pub after: &'a [RealServer],
    /// How many real servers are after it.
    pub kept: usize,
}

impl ServiceChange {
    /// What became of its list of real servers.
    pub fn list(&self) -> ListChange<'_> {
        let mut before: &[RealServer] = self.before.as_ref().map_or(&[], |s| &s.servers);
        let mut after: &[RealServer] = self.after.as_ref().map_or(&[], |s| &s.servers);
        let at = before.iter().zip(after).take_while(|(a, b)| a == b).count();
        (before, after) = (&before[at..], &after[at..]);
        let same = before.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count();
        ListChange { at, before: &before[..before.len() - same], after: &after[..after.len() - same], kept: same }
    }
}

impl Services {
    /// What leads from these to `after`, by key.
    pub fn changes_to(&self, after: &Self) -> Vec<ServiceChange> {
        let gone = self.map.iter().filter(|(key, _)| !after.map.contains_key(key));
        let gone = gone.map(|(key, s)| ServiceChange { key: *key, before: Some(s.clone()), after: None });
        let there = after.map.iter().filter(|(key, s)| self.map.get(key) != Some(s)).map(|(key, s)| ServiceChange {
            key: *key,
            before: self.map.get(key).cloned(),
            after: Some(s.clone()),
        });
        let mut all: Vec<_> = gone.chain(there).collect();
        all.sort_by_key(|c| c.key);
        all
    }
}

/// Services while they are being changed: what was touched is remembered, so that a change costs no more than
/// it touches, and can be taken back.
#[derive(Debug)]
pub struct Draft {
    services: Services,
    before: BTreeMap<ServiceKey, Option<Arc<Service>>>,
    servers_before: usize,
}

impl Draft {
    /// Begins to change them.
    pub fn new(services: Services) -> Self {
        Self { servers_before: services.servers, services, before: BTreeMap::new() }
    }

    /// The services, as changed so far.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// The services, to change the one of this key and no other.
    pub fn touch(&mut self, key: &ServiceKey) -> &mut Services {
        self.before.entry(*key).or_insert_with(|| self.services.map.get(key).cloned());
        &mut self.services
    }

    /// Removes all services.
    pub fn flush(&mut self) {
        for (key, service) in std::mem::take(&mut self.services.map) {
            self.before.entry(key).or_insert(Some(service));
        }
        self.services.servers = 0;
    }

    /// What is different now, by key.
    pub fn changes(&self) -> Vec<ServiceChange> {
        let now = |key: &ServiceKey| self.services.map.get(key);
        let different = self.before.iter().filter(|(key, before)| before.as_ref() != now(key));
        let change = |(key, before): (&ServiceKey, &Option<Arc<Service>>)| ServiceChange {
            key: *key,
            before: before.clone(),
            after: now(key).cloned(),
        };
        different.map(change).collect()
    }

    /// Ends it: the services as changed.
    pub fn keep(self) -> Services {
        self.services
    }

    /// Ends it: the services as they were.
    pub fn take_back(mut self) -> Services {
        for (key, service) in self.before {
            match service {
                Some(service) => drop(self.services.map.insert(key, service)),
                None => drop(self.services.map.remove(&key)),
            }
        }
        self.services.servers = self.servers_before;
        self.services
    }
}
