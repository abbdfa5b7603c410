//! All services. Cheap to copy, so that a change is made on a copy and kept as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::server::NewServer;
use super::{Error, ErrorCode, NewService, ServerKey, ServerPatch, Service, ServiceKey, ServicePatch};

/// How much there may be of everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Services.
    pub max_services: u32,
    /// Real servers of all services together, removed ones that still have flows included.
    pub max_real_servers: u32,
    /// Real servers of one service.
    pub max_servers_per_service: u32,
    /// Neighbours learned on connected networks.
    pub max_neighbours: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_services: 1024, max_real_servers: 8192, max_servers_per_service: 4096, max_neighbours: 4096 }
    }
}

impl Limits {
    /// Numbers for services: removed ones keep theirs while they have flows. What is
    /// indexed by them in the dataplane needs this size.
    pub fn service_slots(&self) -> u32 {
        self.max_services.saturating_add(self.max_services / 4).saturating_add(16)
    }
    /// Numbers for real servers: removed ones keep theirs while they have flows. What is
    /// indexed by them in the dataplane needs this size.
    pub fn real_slots(&self) -> u32 {
        self.max_real_servers.saturating_add(self.max_real_servers / 4).saturating_add(64)
    }
}

/// The services by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Services {
    pub(super) map: BTreeMap<ServiceKey, Arc<Service>>,
    pub(super) servers: usize,
}

impl Services {
    /// All of them in the order of listings.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.map.values()
    }
    /// Number of services.
    pub fn len(&self) -> usize {
        self.map.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
    /// Number of real servers of all services.
    pub fn server_count(&self) -> usize {
        self.servers
    }
    /// One service.
    pub fn get(&self, key: &ServiceKey) -> Result<&Arc<Service>, Error> {
        self.map.get(key).ok_or_else(|| Error::no_such_service(key))
    }
    /// Whether there is a service of this key.
    pub fn contains(&self, key: &ServiceKey) -> bool {
        self.map.contains_key(key)
    }

    /// Adds a service.
    pub fn add(&mut self, new: &NewService, limits: &Limits) -> Result<(), Error> {
        if self.contains(&new.address) {
            let m = format!("the service {} exists already", new.address);
            return Err(Error::new(ErrorCode::ServiceExists, m).remedy("change it instead of adding it"));
        }
        self.put(new.validate()?, limits)
    }

    /// Adds a service, or replaces the one of its key as a whole.
    pub fn replace(&mut self, new: &NewService, limits: &Limits) -> Result<(), Error> {
        self.put(new.validate()?, limits)
    }

    /// Changes a service.
    pub fn set(&mut self, key: &ServiceKey, patch: &ServicePatch, limits: &Limits) -> Result<(), Error> {
        let s = self.get(key)?.patched(patch)?;
        self.put(s, limits)
    }

    /// Removes a service with its real servers.
    pub fn delete(&mut self, key: &ServiceKey) -> Result<(), Error> {
        match self.map.remove(key) {
            Some(s) => {
                self.servers -= s.servers.len();
                Ok(())
            }
            None => Err(Error::no_such_service(key)),
        }
    }

    /// Removes all services.
    pub fn flush(&mut self) {
        *self = Self::default();
    }

    /// Adds a real server to a service.
    pub fn add_server(&mut self, key: &ServiceKey, new: &NewServer, limits: &Limits) -> Result<(), Error> {
        let service = self.get(key)?;
        if service.server(&new.address).is_none() {
            self.check_room(key, service.servers.len(), service.servers.len() + 1, limits)?;
        }
        self.edit(key, |s| s.add_server(new))
    }

    /// Changes a real server of a service.
    pub fn set_server(&mut self, key: &ServiceKey, server: &ServerKey, patch: &ServerPatch) -> Result<(), Error> {
        self.edit(key, |s| s.set_server(server, patch))
    }

    /// Removes a real server from a service.
    pub fn delete_server(&mut self, key: &ServiceKey, server: &ServerKey) -> Result<(), Error> {
        self.edit(key, |s| s.delete_server(server))
    }

    /// Changes a service in place. Only the first change copies it, if somebody else holds
    /// it; a change that fails leaves it as it was.
    fn edit(&mut self, key: &ServiceKey, change: impl FnOnce(&mut Service) -> Result<(), Error>) -> Result<(), Error> {
        let service = self.map.get_mut(key).ok_or_else(|| Error::no_such_service(key))?;
        let before = service.servers.len();
        let service = Arc::make_mut(service);
        let done = change(service);
        self.servers = self.servers - before + service.servers.len();
        done
    }

    /// Whether a service may go from `before` to `after` real servers.
    fn check_room(&self, key: &ServiceKey, before: usize, after: usize, limits: &Limits) -> Result<(), Error> {
        if after > before && after > limits.max_servers_per_service as usize {
            let n = limits.max_servers_per_service;
            return full(key, "real servers of one service", n, "max_servers_per_service");
        }
        if after > before && self.servers - before + after > limits.max_real_servers as usize {
            return full(key, "real servers", limits.max_real_servers, "max_real_servers");
        }
        Ok(())
    }

    fn put(&mut self, service: Service, limits: &Limits) -> Result<(), Error> {
        let key = service.address;
        let before = self.map.get(&key).map(|old| old.servers.len());
        if before.is_none() && self.map.len() >= limits.max_services as usize {
            return full(&key, "services", limits.max_services, "max_services");
        }
        let (before, after) = (before.unwrap_or(0), service.servers.len());
        self.check_room(&key, before, after, limits)?;
        self.servers = self.servers - before + after;
        self.map.insert(key, Arc::new(service));
        Ok(())
    }
}

fn full(key: &ServiceKey, what: &str, n: u32, name: &str) -> Result<(), Error> {
    Err(Error::new(ErrorCode::LimitReached, format!("{key}: there are {n} {what} already, the limit"))
        .remedy(format!("raise `{name}` in [limits] and restart the daemon")))
}
