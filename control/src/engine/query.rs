//! Answers that only look.

use std::collections::BTreeMap;
use std::sync::Arc;

use dataplane::counters::DropReason;
use dataplane::link::WorkerLink;
use dataplane::units::{Ip, PortId, RealId};

use super::core::Engine;
use super::report::{DropView, PortView, ServerView, ServiceView, Stats, Status, Traffic, Version, WorkerView};
use super::request::{Reply, Request, Response};
use crate::model::{ForwardingMode, RealServer, Service};

impl Engine {
    pub(super) fn query(&self, request: &Request, now: u64) -> Reply {
        Ok(match request {
            Request::Services => Response::Services(self.service_views(&self.statistics.read(self.ids.reals_used()))),
            Request::Service(key) => {
                let one = self.service_view(self.services.get(key)?, |id| self.statistics.raw(id));
                Response::Service(Box::new(one))
            }
            Request::Stats => Response::Stats(Box::new(self.stats())),
            Request::Neighbours => Response::Neighbours(self.neighbours.view(&self.topology, now)),
            Request::Ports => Response::Ports(self.port_views()),
            Request::Version => Response::Version(self.version()),
            Request::Timeouts => {
                let (tcp, tcp_fin, udp) = self.three_timeouts();
                Response::Timeouts(tcp, tcp_fin, udp)
            }
            Request::Config => Response::Config(Box::new(self.running_config())),
            // The others never come here; a status harms nobody.
            _ => Response::Status(Box::new(self.status(now))),
        })
    }

    /// All services; `raw` is what was counted on all slots.
    fn service_views(&self, raw: &[Traffic]) -> Vec<ServiceView> {
        let of = |id: RealId| raw.get(id.index()).copied().unwrap_or_default();
        self.services.iter().map(|s| self.service_view(s, of)).collect()
    }

    fn service_view(&self, s: &Service, raw: impl Fn(RealId) -> Traffic) -> ServiceView {
        let (traffic, rates) = self.statistics.service(&s.address, &self.ids, &raw);
        ServiceView {
            address: s.address,
            scheduler: s.scheduler,
            sched_flags: s.sched_flags.clone(),
            persistence: s.persistence,
            one_packet: s.one_packet,
            client_address: s.client_address,
            ftp: s.ftp,
            rules: s.rules.clone(),
            traffic,
            rates,
            servers: s
                .servers
                .iter()
                .zip(self.ids.list(&s.address))
                .map(|(r, id)| self.server_view(r, Some(*id).filter(|id| *id != RealId::NONE), &raw))
                .collect(),
        }
    }

    fn server_view(&self, r: &RealServer, id: Option<RealId>, raw: impl Fn(RealId) -> Traffic) -> ServerView {
        let (traffic, rates) = id.map(|id| self.statistics.server(id, raw(id))).unwrap_or_default();
        let sum = |f: fn(&WorkerLink, RealId) -> u32| {
            let one = |l: &Arc<WorkerLink>, id: RealId| if id.index() < l.counts.capacity() { f(l, id) } else { 0 };
            id.map_or(0, |id| self.links.iter().map(|l| one(l, id)).fold(0, u32::wrapping_add))
        };
        let way = self.topology.way(Ip::from(r.address.ip));
        ServerView {
            address: r.address,
            mode: r.mode,
            tunnel: (r.mode == ForwardingMode::Tunnel).then_some(r.tunnel),
            weight: r.weight,
            upper_threshold: r.upper_threshold,
            lower_threshold: r.lower_threshold,
            active_connections: sum(|l, id| l.counts.active(id)),
            inactive_connections: sum(|l, id| l.counts.inactive(id)),
            persistent_connections: sum(|l, id| l.counts.persistent(id)),
            resolved: way.is_some_and(|w| self.neighbours.is_resolved(w.iface, w.next_hop)),
            traffic,
            rates,
        }
    }

    fn stats(&self) -> Stats {
        let raw = self.statistics.read(self.ids.reals_used());
        let (traffic, rates) = self.statistics.total(&raw);
        let drop_view = |r: &DropReason| DropView {
            reason: r.name().into(),
            description: r.describe().into(),
            packets: self.statistics.drops(*r),
        };
        Stats {
            traffic,
            rates,
            flows: self.links.iter().map(|l| l.counters.worker.flows_live.get()).sum(),
            services: self.service_views(&raw),
            ports: self.port_views(),
            workers: self.links.iter().enumerate().map(|(n, l)| self.worker_view(n, l)).collect(),
            drops: DropReason::ALL.iter().map(drop_view).collect(),
        }
    }

    fn worker_view(&self, n: usize, link: &WorkerLink) -> WorkerView {
        let c = &link.counters;
        let (busy, total) = (c.worker.busy_cycles.get() as f64, c.worker.total_cycles.get() as f64);
        let counters: BTreeMap<String, u64> = c.worker.each().into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        let drops = DropReason::ALL.iter().map(|r| (r.name().to_owned(), c.drop(*r).get())).filter(|(_, n)| *n > 0);
        WorkerView {
            worker: n as u16,
            core: self.config.workers.cores.get(n).copied(),
            generation: link.adopted_generation(),
            busy: if total > 0.0 { (busy / total).min(1.0) } else { 0.0 },
            counters,
            drops: drops.collect(),
        }
    }

    fn port_views(&self) -> Vec<PortView> {
        let view = |(n, facts): (usize, &super::report::PortFacts)| {
            let of_port = |i: &&crate::topology::Interface| i.spec.port.index() == n;
            let text = |i: &crate::topology::Interface| {
                let vlan = i.spec.vlan;
                let with = move |(a, len): &(Ip, u8)| match vlan {
                    Some(v) => format!("{a}/{len} (VLAN {v})"),
                    None => format!("{a}/{len}"),
                };
                i.spec.addresses.iter().map(with).collect::<Vec<_>>()
            };
            let mut v = PortView {
                facts: facts.clone(),
                addresses: self.topology.interfaces.iter().filter(of_port).flat_map(text).collect(),
                rx_packets: 0,
                rx_bytes: 0,
                tx_packets: 0,
                tx_bytes: 0,
            };
            for c in self.links.iter().map(|l| l.counters.port(PortId(n as u16))) {
                v.rx_packets += c.rx_packets.get();
                v.rx_bytes += c.rx_bytes.get();
                v.tx_packets += c.tx_packets.get();
                v.tx_bytes += c.tx_bytes.get();
            }
            v
        };
        self.ports.iter().enumerate().map(view).collect()
    }

    fn version(&self) -> Version {
        Version {
            name: "pollux".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            api: vec!["v1".into()],
            build: self.build.clone(),
        }
    }

    fn status(&self, now: u64) -> Status {
        let mut warnings = self.warnings.clone();
        if self.ids.removed() > 0 {
            warnings.push(format!("{} removed real servers still have flows", self.ids.removed()));
        }
        Status {
            generation: self.generation,
            adopted: self.links.iter().map(|l| l.adopted_generation()).collect(),
            uptime_s: now.saturating_sub(self.started) / 1000,
            config_file: self.config.path.as_ref().map(|p| p.display().to_string()),
            state_file: self.state.as_ref().map(|s| s.path().display().to_string()),
            services_from: if self.services.is_empty() { "none".into() } else { self.services_from.into() },
            changed_by_api: self.services != self.config.services || self.timeouts.is_some(),
            services: self.services.len() as u64,
            servers: self.services.server_count() as u64,
            warnings,
            needs_restart: self.needs_restart.clone(),
        }
    }
}
