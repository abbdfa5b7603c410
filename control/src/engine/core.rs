//! The engine's state and its way from a model to the workers.

use std::collections::BTreeMap;
use std::sync::Arc;

use dataplane::flow::state::State as FlowState;
use dataplane::link::{Command, WorkerLink};
use dataplane::snapshot::{GonePolicy, Settings};
use dataplane::units::{Ip, Mac, RealId};

use super::flows::Listings;
use super::report::{Accepted, PortFacts};
use super::request::{Reply, Request, Response};
use super::run::{Progress, Ticket};
use super::statistics::Statistics;
use super::tables::Tables;
use crate::config::Config;
use crate::ids::Ids;
use crate::model::{Error, ErrorCode, ServiceChange, Services};
use crate::neighbour::Neighbours;
use crate::state::{SetTimeouts, State, StateError, StateFile, TimeoutChange, differences, fingerprint};
use crate::topology::Topology;

/// How long a change waits for the workers, milliseconds.
pub(super) const ADOPT_MS: u64 = 2000;
/// Warnings kept for the status.
const WARNINGS: usize = 32;

/// What an engine is made of.
pub struct Setup {
    /// The configuration.
    pub config: Config,
    /// The workers.
    pub links: Vec<Arc<WorkerLink>>,
    /// The ports, in the order of the configuration.
    pub ports: Vec<PortFacts>,
    /// What is known of the build, for [`super::Version`].
    pub build: BTreeMap<String, String>,
    /// Whether VIPs are announced. Off in tests that look at every packet.
    pub announce: bool,
}

/// Why an engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The state file.
    #[error(transparent)]
    State(#[from] StateError),
    /// A port's Ethernet address.
    #[error("port `{port}`: {message}")]
    Port {
        /// The port's name.
        port: String,
        /// What is wrong.
        message: String,
    },
    /// Something does not fit.
    #[error("{0}")]
    Model(Error),
}

/// A change that waits for the workers.
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    pub(super) generation: u64,
    pub(super) deadline: u64,
    pub(super) notes: Vec<String>,
}

/// Control's whole state. Time is an argument: milliseconds since the daemon's epoch.
pub struct Engine {
    pub(super) config: Config,
    pub(super) topology: Topology,
    pub(super) macs: Vec<Mac>,
    pub(super) services: Services,
    /// [`fingerprint`] of the file's services.
    pub(super) base: String,
    pub(super) services_from: &'static str,
    pub(super) timeouts: Option<TimeoutChange>,
    pub(super) links: Vec<Arc<WorkerLink>>,
    pub(super) ports: Vec<PortFacts>,
    pub(super) build: BTreeMap<String, String>,
    pub(super) ids: Ids,
    pub(super) neighbours: Neighbours,
    pub(super) tables: Tables,
    pub(super) statistics: Statistics,
    pub(super) state: Option<StateFile>,
    pub(super) generation: u64,
    pub(super) started: u64,
    pub(super) warnings: Vec<String>,
    pub(super) needs_restart: Vec<String>,
    pub(super) path_mtus: BTreeMap<Ip, u16>,
    pub(super) path_mtu_until: BTreeMap<Ip, u64>,
    pub(super) listings: Listings,
    pub(super) waiting: Vec<Waiting>,
    tickets: u64,
    pub(super) released_at: u64,
    /// Connections that found no local port of full NAT, when last looked at, and when.
    pub(super) pool_empty: (u64, u64),
}

impl Engine {
    /// Reads the state file, decides between it and the configuration, and publishes the
    /// first snapshot.
    pub fn new(setup: Setup, now: u64) -> Result<Self, EngineError> {
        let Setup { config, links, ports, build, announce } = setup;
        let mac =
            |p: &PortFacts| p.mac.parse::<Mac>().map_err(|message| EngineError::Port { port: p.name.clone(), message });
        let macs = ports.iter().map(mac).collect::<Result<Vec<_>, _>>()?;
        let devices = ports.iter().map(|p| p.work).collect();
        let topology = Topology { devices, ..Topology::new(&config, &macs) };
        let mut engine = Self {
            topology,
            macs,
            services: Services::default(),
            base: fingerprint(&config.services),
            services_from: "file",
            timeouts: None,
            ids: Ids::new(config.limits.service_slots(), config.limits.real_slots()),
            neighbours: Neighbours::new(config.limits.max_neighbours, announce),
            tables: Tables::default(),
            statistics: Statistics::new(links.clone(), now),
            state: config.state_file.clone().map(StateFile::new),
            warnings: config.warnings.clone(),
            config,
            links,
            ports,
            build,
            generation: 0,
            started: now,
            needs_restart: Vec::new(),
            path_mtus: BTreeMap::new(),
            path_mtu_until: BTreeMap::new(),
            listings: Listings::default(),
            waiting: Vec::new(),
            tickets: 0,
            released_at: now,
            pool_empty: (0, now),
        };
        let services = engine.starting_services()?;
        let all = engine.services.changes_to(&services);
        engine.ids.check(&all, &services).map_err(EngineError::Model)?;
        engine.go_over_to(services, &all, true, now);
        Ok(engine)
    }

    /// The services to start with: the state's when it was made on the file's.
    fn starting_services(&mut self) -> Result<Services, EngineError> {
        let file = self.config.services.clone();
        let Some(state) = self.state.as_ref().map(StateFile::load).transpose()?.flatten() else { return Ok(file) };
        self.timeouts = state.timeouts.filter(|t| t.base == self.file_timeouts());
        let services = state.services().map_err(|e| EngineError::Model(Error::new(ErrorCode::Internal, e)))?;
        if state.base == self.base {
            self.services_from = "state";
            return Ok(services);
        }
        self.set_aside(&services, &file)?;
        Ok(file)
    }

    /// The operator edited the file's services: changes made by the API before are kept aside.
    pub(super) fn set_aside(&mut self, services: &Services, file: &Services) -> Result<(), StateError> {
        let lost = differences(services, file, 8);
        let Some(state) = &mut self.state else { return Ok(()) };
        let aside = state.supersede()?;
        if self.timeouts.is_some() {
            state.save(&State::new(self.base.clone(), file, self.timeouts))?;
        }
        if let Some(path) = aside.filter(|_| !lost.is_empty()) {
            self.warn(format!(
                "the services in the configuration file were edited: changes made by the API are set aside in {}: {}",
                path.display(),
                lost.join(", ")
            ));
        }
        Ok(())
    }

    /// Tells the log, and keeps it for the status.
    pub(super) fn warn(&mut self, warning: String) {
        tracing::warn!("{warning}");
        if self.warnings.contains(&warning) {
            return;
        }
        if self.warnings.len() >= WARNINGS {
            self.warnings.remove(0);
        }
        self.warnings.push(warning);
    }

    pub(super) fn file_timeouts(&self) -> SetTimeouts {
        let seconds = |s| self.config.settings.timeouts.get(s) / 1000;
        SetTimeouts {
            tcp_s: seconds(FlowState::Established),
            tcp_fin_s: seconds(FlowState::FinWait),
            udp_s: seconds(FlowState::Udp),
        }
    }

    /// The configuration's settings with the time-outs that were set.
    pub(super) fn settings(&self) -> Settings {
        let mut s = self.config.settings.clone();
        if let Some(TimeoutChange { set, .. }) = self.timeouts {
            s.timeouts.set(FlowState::Established, set.tcp_s.saturating_mul(1000));
            s.timeouts.set(FlowState::FinWait, set.tcp_fin_s.saturating_mul(1000));
            s.timeouts.set(FlowState::Udp, set.udp_s.saturating_mul(1000));
        }
        s
    }

    /// Goes over to the services, which `all` led to, and tells the workers. With `anew` more may have changed
    /// than services.
    pub(super) fn go_over_to(&mut self, services: Services, all: &[ServiceChange], anew: bool, now: u64) {
        let changes = self.ids.update(all, self.generation + 1);
        for key in &changes.new_services {
            self.statistics.forget_service(key);
            let slots: Vec<RealId> = self.ids.slots_of(*key).map(|(_, s)| s.id).collect();
            slots.into_iter().for_each(|id| self.statistics.rebase(id, false));
        }
        for (_, id) in &changes.new_slots {
            self.statistics.rebase(*id, true);
        }
        changes.removed.iter().for_each(|id| self.statistics.freeze(*id));
        changes.back.iter().for_each(|id| self.statistics.thaw(*id));
        self.services = services;
        if anew {
            self.rebuild(now);
        } else {
            self.follow(all, &changes, now);
        }
        if !changes.removed.is_empty() && self.config.settings.gone == GonePolicy::Reset {
            // A worker that has no room for this ends the flows as their packets come.
            for link in &self.links {
                let _ = link.commands.push(Command::FlushGone);
            }
        }
    }

    /// Writes down changes that lead to `services`, before they are used.
    pub(super) fn persist(
        &mut self,
        services: &Services,
        changes: &[ServiceChange],
        timeouts: Option<TimeoutChange>,
    ) -> Result<(), Error> {
        let Some(file) = &mut self.state else { return Ok(()) };
        file.save_change(&self.base, services, changes, timeouts).map_err(|e| {
            Error::new(ErrorCode::NotPersisted, format!("the change was not made: {e}"))
                .remedy("see to the disk and the directory, then try again")
        })
    }

    /// Whether flows may still refer to a real server.
    pub(super) fn in_use(links: &[Arc<WorkerLink>], id: RealId) -> bool {
        let one = |l: &Arc<WorkerLink>| {
            let c = &l.counts;
            id.index() < c.capacity() && (c.active(id) > 0 || c.inactive(id) > 0 || c.persistent(id) > 0)
        };
        links.iter().any(one)
    }

    /// The oldest generation that a worker works with.
    pub(super) fn adopted(&self) -> u64 {
        self.links.iter().map(|l| l.adopted_generation()).min().unwrap_or(self.generation)
    }

    /// Takes a request. What takes time is answered by a later [`Engine::tick`].
    pub fn start(&mut self, request: Request, now: u64) -> Progress {
        match request {
            Request::Change(change) => {
                let wait = change.wait;
                match self.change(&change, now) {
                    Ok(accepted) if wait && self.adopted() < accepted.generation => self.wait_for(accepted, now),
                    other => Progress::Done(other.map(Response::Accepted)),
                }
            }
            Request::Flows(query) => {
                let ticket = self.ticket();
                match self.listings.start(&query, &self.services, &self.ids, ticket, now) {
                    Ok(()) => Progress::Pending(ticket),
                    Err(e) => Progress::Done(Err(e)),
                }
            }
            Request::EndFlows(which) => Progress::Done(self.end_flows(&which).map(Response::Accepted)),
            Request::Reload => Progress::Done(self.reload(now).map(Response::Accepted)),
            query => Progress::Done(self.query(&query, now)),
        }
    }

    /// Takes a request that is answered at once. Listings of flows and changes that wait
    /// are not: use [`Engine::start`].
    pub fn handle(&mut self, request: Request, now: u64) -> Reply {
        match self.start(request, now) {
            Progress::Done(reply) => reply,
            Progress::Pending(_) => Err(Error::new(ErrorCode::Busy, "the answer takes a while")),
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn wait_for(&mut self, accepted: Accepted, now: u64) -> Progress {
        let ticket = self.ticket();
        let Accepted { generation, notes, .. } = accepted;
        self.waiting.push(Waiting { ticket, generation, deadline: now + ADOPT_MS, notes });
        Progress::Pending(ticket)
    }

    pub(super) fn accepted(&self, notes: Vec<String>) -> Accepted {
        let adopted = self.links.iter().map(|l| l.adopted_generation()).collect();
        Accepted { generation: self.generation, adopted, notes }
    }

    /// Whether a shorter tick would bring an answer sooner.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() || !self.listings.is_empty()
    }
}
