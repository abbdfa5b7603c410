//! What the engine does every ten milliseconds, whether asked or not.

use dataplane::counters::DropReason;
use dataplane::link::Event;
use dataplane::units::Ip;

use super::core::{ADOPT_MS, Engine};
use super::report::Accepted;
use super::request::{Reply, Response};
use super::run::Ticket;
use crate::model::{Error, ErrorCode, ForwardingMode};

/// Removed servers are looked over this often, milliseconds.
const RELEASE_MS: u64 = 100;
/// A reported path MTU is believed for so long, milliseconds (RFC 1191 section 6.3).
const PATH_MTU_MS: u64 = 600_000;
/// Full NAT's local ports are looked after this often, milliseconds, and warned of so often.
const POOL_LOOK_MS: u64 = 1_000;
const POOL_WARNING_MS: u64 = 60_000;
/// Frames given to the worker in one tick.
const FRAMES: usize = 128;

impl Engine {
    /// Every 10 ms: what the workers said, timers, at most one new snapshot. Returns the
    /// answers that are ready.
    pub fn tick(&mut self, now: u64) -> Vec<(Ticket, Reply)> {
        self.listen(now);
        self.neighbours.tick(&self.topology, now);
        self.send_frames();
        self.age_path_mtus(now);
        self.watch_local_ports(now);
        self.statistics.tick(self.ids.reals_used(), now);
        if now.saturating_sub(self.released_at) >= RELEASE_MS {
            self.released_at = now;
            self.release(now);
        }
        if self.neighbours.has_changed() || self.tables.is_dirty() {
            self.publish();
        }
        self.links.iter().for_each(|l| l.reclaim());
        let mut ready = self.listings.tick(&self.links, &self.services, &self.ids, now);
        self.waited(now, &mut ready);
        ready
    }

    /// Warns, once a minute at most, when full NAT has run out of local ports.
    fn watch_local_ports(&mut self, now: u64) {
        let (before, at) = self.pool_empty;
        if now < at {
            return;
        }
        let lost: u64 = self.links.iter().map(|l| l.counters.drop(DropReason::LocalPoolEmpty).get()).sum();
        self.pool_empty = (lost, now + if lost > before { POOL_WARNING_MS } else { POOL_LOOK_MS });
        if lost > before {
            self.warn(
                "full NAT has run out of local ports: connections are refused (drop reason local_pool_empty); \
                 add addresses to [full_nat]"
                    .into(),
            );
        }
    }

    fn waited(&mut self, now: u64, ready: &mut Vec<(Ticket, Reply)>) {
        let adopted = self.adopted();
        for w in std::mem::take(&mut self.waiting) {
            if adopted >= w.generation {
                let accepted = Accepted { generation: w.generation, ..self.accepted(w.notes) };
                ready.push((w.ticket, Ok(Response::Accepted(accepted))));
            } else if now >= w.deadline {
                let m = format!(
                    "the change was made and published as generation {}, but not every worker uses it after {ADOPT_MS} ms",
                    w.generation
                );
                ready.push((
                    w.ticket,
                    Err(Error::new(ErrorCode::Timeout, m).remedy("see the workers' generations in the status")),
                ));
            } else {
                self.waiting.push(w);
            }
        }
    }

    fn listen(&mut self, now: u64) {
        let links = self.links.clone();
        for (n, link) in links.iter().enumerate() {
            // Bounded by what the queues hold, lest a busy worker keep us here.
            for _ in 0..link.events.capacity() {
                let Some(event) = link.events.pop() else { break };
                if let Some(warning) = self.neighbours.event(&event, &self.topology, now) {
                    self.warn(warning);
                }
                if let Event::PathMtu { ip, mtu } = event {
                    self.path_mtu(ip, mtu, now);
                }
            }
            for _ in 0..link.answers.capacity() {
                let Some(answer) = link.answers.pop() else { break };
                self.listings.answer(n, &answer, now);
            }
        }
    }

    /// A router told of a smaller MTU on the way to a tunnel's end.
    fn path_mtu(&mut self, ip: Ip, mtu: u16, now: u64) {
        let tunnelled = |r: &crate::model::RealServer| r.mode == ForwardingMode::Tunnel && Ip::from(r.address.ip) == ip;
        if !self.services.iter().any(|s| s.servers.iter().any(tunnelled)) {
            return;
        }
        // Nothing smaller is worth believing (RFC 1191 section 3; RFC 8200 section 5).
        let mtu = mtu.max(if ip.is_v4() { 576 } else { 1280 });
        self.path_mtu_until.insert(ip, now + PATH_MTU_MS);
        if self.path_mtus.insert(ip, mtu) != Some(mtu) {
            self.tables.touch(ip);
        }
    }

    fn age_path_mtus(&mut self, now: u64) {
        if self.path_mtu_until.is_empty() {
            return;
        }
        let over: Vec<Ip> = self.path_mtu_until.iter().filter(|(_, until)| **until <= now).map(|(ip, _)| *ip).collect();
        for ip in over {
            self.path_mtu_until.remove(&ip);
            self.path_mtus.remove(&ip);
            self.tables.touch(ip);
        }
    }

    /// Frames go by the first worker, which can send on every port.
    fn send_frames(&mut self) {
        let Some(link) = self.links.first() else { return };
        for _ in 0..FRAMES {
            let Some(frame) = self.neighbours.next_frame() else { return };
            if let Err(frame) = link.inject.push(frame) {
                return self.neighbours.put_back(frame);
            }
        }
    }

    fn release(&mut self, now: u64) {
        let adopted = self.adopted();
        let links = self.links.clone();
        let freed = self.ids.release(adopted, now, |id| Self::in_use(&links, id));
        for (service, _, id) in &freed {
            self.statistics.retire(*service, *id);
            if !self.services.contains(service) {
                self.statistics.forget_service(service);
            }
        }
        if !freed.is_empty() {
            self.forget(freed.into_iter().map(|(_, server, id)| (Ip::from(server.ip), id)), now);
        }
    }
}
