//! Changes: the model is changed, checked, written down, and then used; or all is taken back.

use super::core::Engine;
use super::report::Accepted;
use super::request::{Change, Operation};
use crate::config;
use crate::model::{Draft, Error, ErrorCode, NewService, ServiceChange, Services};
use crate::state::{SetTimeouts, TimeoutChange, fingerprint};
use crate::topology::Topology;

/// Operations in one request.
const MOST_OPERATIONS: usize = 200_000;
/// Longest time-out, seconds.
const MOST_SECONDS: u32 = 24 * 24 * 3600;

/// Changes that were checked and written down, to be used.
struct Made {
    changes: Vec<ServiceChange>,
    timeouts: Option<TimeoutChange>,
    notes: Vec<String>,
}

impl Engine {
    /// Makes a list of changes, all or none.
    pub(super) fn change(&mut self, change: &Change, now: u64) -> Result<Accepted, Error> {
        if change.operations.len() > MOST_OPERATIONS {
            let m = format!("{} operations in one request", change.operations.len());
            return Err(Error::invalid("operations", m).remedy(format!("send at most {MOST_OPERATIONS} at a time")));
        }
        let mut draft = Draft::new(std::mem::take(&mut self.services));
        let Made { changes, timeouts, notes } = match self.make_durable(&change.operations, &mut draft) {
            Ok(made) => made,
            Err(e) => {
                self.services = draft.take_back();
                return Err(e);
            }
        };
        let services = draft.keep();
        if !changes.is_empty() || timeouts != self.timeouts {
            self.timeouts = timeouts;
            self.services_from = if self.state.is_some() { "state" } else { self.services_from };
            self.go_over_to(services, &changes, false, now);
        } else {
            self.services = services;
        }
        for operation in &change.operations {
            if let Operation::Zero { service } = operation {
                self.statistics.zero(service.as_ref(), &self.ids);
            }
        }
        Ok(self.accepted(notes))
    }

    /// Makes the changes in a draft, and writes them down.
    fn make_durable(&mut self, operations: &[Operation], draft: &mut Draft) -> Result<Made, Error> {
        let made = self.make(operations, draft)?;
        if !made.changes.is_empty() || made.timeouts != self.timeouts {
            self.ids.check(&made.changes, draft.services())?;
            self.persist(draft.services(), &made.changes, made.timeouts)?;
        }
        Ok(made)
    }

    fn make(&self, operations: &[Operation], draft: &mut Draft) -> Result<Made, Error> {
        let (mut timeouts, mut notes) = (self.timeouts, Vec::new());
        for (n, operation) in operations.iter().enumerate() {
            self.operate(operation, draft, &mut timeouts).map_err(|e| Error { operation: Some(n), ..e })?;
            self.note(operation, &mut notes);
        }
        Ok(Made { changes: draft.changes(), timeouts, notes })
    }

    fn operate(
        &self,
        operation: &Operation,
        draft: &mut Draft,
        timeouts: &mut Option<TimeoutChange>,
    ) -> Result<(), Error> {
        let limits = &self.config.limits;
        match operation {
            Operation::AddService { service } => draft.touch(&service.address).add(service, limits),
            Operation::PutService { service } => draft.touch(&service.address).replace(service, limits),
            Operation::SetService { address, set } => draft.touch(address).set(address, set, limits),
            Operation::DeleteService { address } => draft.touch(address).delete(address),
            Operation::AddServer { service, server } => draft.touch(service).add_server(service, server, limits),
            Operation::SetServer { service, address, set } => draft.touch(service).set_server(service, address, set),
            Operation::DeleteServer { service, address } => draft.touch(service).delete_server(service, address),
            Operation::Flush => {
                draft.flush();
                Ok(())
            }
            Operation::SetTimeouts { tcp_s, tcp_fin_s, udp_s } => {
                *timeouts = self.set_timeouts(*timeouts, [*tcp_s, *tcp_fin_s, *udp_s])?;
                Ok(())
            }
            Operation::Zero { service } => service.as_ref().map_or(Ok(()), |key| draft.services().get(key).map(|_| ())),
        }
    }

    fn set_timeouts(&self, old: Option<TimeoutChange>, new: [u32; 3]) -> Result<Option<TimeoutChange>, Error> {
        if let Some(s) = new.iter().find(|s| **s > MOST_SECONDS) {
            return Err(Error::invalid("timeouts", format!("a time-out of {s} s is out of range"))
                .remedy(format!("give at most {MOST_SECONDS} seconds; 0 keeps the present one")));
        }
        let base = self.file_timeouts();
        let now = old.map_or(base, |o| o.set);
        let keep = |new: u32, now: u32| if new == 0 { now } else { new };
        let set = SetTimeouts {
            tcp_s: keep(new[0], now.tcp_s),
            tcp_fin_s: keep(new[1], now.tcp_fin_s),
            udp_s: keep(new[2], now.udp_s),
        };
        Ok((set != base).then_some(TimeoutChange { base, set }))
    }

    /// The time-outs in force: TCP, TCP after a FIN, UDP, seconds.
    pub(super) fn three_timeouts(&self) -> (u32, u32, u32) {
        let t = self.timeouts.map_or_else(|| self.file_timeouts(), |t| t.set);
        (t.tcp_s, t.tcp_fin_s, t.udp_s)
    }

    /// What is allowed but looks like a mistake.
    fn note(&self, operation: &Operation, notes: &mut Vec<String>) {
        let (key, servers) = match operation {
            Operation::AddService { service: NewService { address, servers, .. } }
            | Operation::PutService { service: NewService { address, servers, .. } } => (address, servers.as_slice()),
            Operation::AddServer { service, server } => (service, std::slice::from_ref(server)),
            _ => return,
        };
        for r in servers {
            let ip = r.address.ip;
            if notes.len() >= 16 {
                return;
            }
            if ip.is_loopback() || self.topology.owns(ip.into()) || key.vip() == Some(ip) {
                notes.push(format!("the real server {ip} is the director itself, where nothing listens"));
            } else if self.topology.way(ip.into()).is_none() {
                notes.push(format!("there is no route to the real server {ip}"));
            }
        }
    }

    /// Reads the configuration file again. All of it that can change live changes at once;
    /// what cannot is named in the answer. A mistake anywhere changes nothing.
    pub(super) fn reload(&mut self, now: u64) -> Result<Accepted, Error> {
        let Some(path) = self.config.path.clone() else {
            return Err(Error::new(ErrorCode::Invalid, "the daemon was started without a configuration file"));
        };
        let file = config::load(&path).map_err(|errors| {
            Error::new(ErrorCode::Invalid, config::render(&errors)).remedy("mend the file and reload again")
        })?;
        self.reconfigure(file, now)
    }

    /// Goes over to another configuration as far as that is possible live.
    pub fn reconfigure(&mut self, new: config::Config, now: u64) -> Result<Accepted, Error> {
        let (next, waits) = self.config.reloaded(new);
        let base = fingerprint(&next.services);
        let services = if base == self.base { self.services.clone() } else { next.services.clone() };
        self.fits(&services)?;
        let all = self.services.changes_to(&services);
        self.ids.check(&all, &services)?;
        if base != self.base {
            let replaced = self.services.clone();
            let before = std::mem::replace(&mut self.base, base);
            if let Err(e) = self.set_aside(&replaced, &services) {
                self.base = before;
                return Err(Error::new(ErrorCode::NotPersisted, e.to_string()));
            }
            self.services_from = "file";
        }
        // What the old file was warned of may be mended.
        let mended = std::mem::take(&mut self.config.warnings);
        self.warnings.retain(|w| !mended.contains(w));
        self.config = next;
        if self.timeouts.is_some_and(|t| t.base != self.file_timeouts()) {
            self.timeouts = None;
        }
        let devices = std::mem::take(&mut self.topology.devices);
        self.topology = Topology { devices, ..Topology::new(&self.config, &self.macs) };
        self.needs_restart.clone_from(&waits);
        self.go_over_to(services, &all, true, now);
        for w in self.config.warnings.clone() {
            self.warn(w);
        }
        Ok(self.accepted(waits.into_iter().map(|w| format!("needs a restart: {w}")).collect()))
    }

    /// Whether a file's services fit the limits that the daemon was started with.
    fn fits(&self, services: &Services) -> Result<(), Error> {
        let limits = &self.config.limits;
        let over = |n: usize, most: u32, what: &str| {
            let m = format!("the file has {n} {what}, the daemon was started for {most}");
            Err(Error::new(ErrorCode::LimitReached, m).remedy("restart the daemon with higher [limits]"))
        };
        if services.len() > limits.max_services as usize {
            return over(services.len(), limits.max_services, "services");
        }
        if services.server_count() > limits.max_real_servers as usize {
            return over(services.server_count(), limits.max_real_servers, "real servers");
        }
        Ok(())
    }
}
