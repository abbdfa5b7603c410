//! The schedulers that remember or draw: lblc, lblcr and twos, on top of the tree.

use super::SchedKey;
use super::config::ServiceSched;
use super::core::SchedCore;
use super::cost::overhead;
use super::locality::Place;
use super::real::RealState;
use crate::units::{RealId, ServiceId, Tick};

/// Draws before twos takes the next usable server instead.
const DRAWS: usize = 16;

impl SchedCore {
    fn place_of(&self, service: ServiceId, key: &SchedKey) -> Place {
        Place { service, instance: self.services[service.index()].instance, destination: key.vip }
    }

    /// The state of a server that is in the service's list.
    fn listed(&self, service: ServiceId, id: RealId) -> Option<&RealState> {
        let real = self.reals.get(id.index())?;
        (real.service == service && real.position < self.services[service.index()].len).then_some(real)
    }

    /// Whether a destination should leave this server: it has more active connections than
    /// its weight, while some other has fewer than half.
    fn is_crowded(&self, service: ServiceId, real: &RealState) -> bool {
        real.all.active > real.weight() && self.services[service.index()].spare > 0
    }

    /// lblc: the destination's server, else the one that wlc would choose, remembered.
    pub(super) fn near(&mut self, service: ServiceId, key: &SchedKey, now: Tick) -> Option<RealId> {
        let place = self.place_of(service, key);
        if let Some(entry) = self.locality.get(&place, now) {
            let known = self.locality.members(entry).next();
            // As the kernel, overload by the threshold does not part them.
            let fits = |r: &RealState| r.weight() > 0 && !self.is_crowded(service, r);
            if let Some(id) = known.filter(|id| self.listed(service, *id).is_some_and(fits)) {
                return Some(id);
            }
        }
        let id = self.least(service)?;
        self.locality.set(&place, id, now);
        Some(id)
    }

    /// lblcr: the least loaded of the destination's servers; when it is crowded, the one
    /// that wlc would choose joins them. Now and then the most loaded one leaves.
    pub(super) fn near_replicated(&mut self, service: ServiceId, key: &SchedKey, now: Tick) -> Option<RealId> {
        let place = self.place_of(service, key);
        if let Some(entry) = self.locality.get(&place, now) {
            let members = self.locality.members(entry);
            let usable = members.clone().filter_map(|id| Some((id, self.listed(service, id)?)));
            let known = usable.filter(|(_, r)| r.usable()).reduce(|a, b| if lighter(b.1, a.1) { b } else { a });
            let known = known.filter(|(_, r)| !self.is_crowded(service, r)).map(|(id, _)| id);
            if self.locality.size(entry) > 1 && self.locality.is_settled(entry, now) {
                let loaded = members.filter_map(|id| Some((id, self.reals.get(id.index())?)));
                let most = loaded.filter(|(_, r)| r.weight() > 0).reduce(|a, b| if lighter(a.1, b.1) { b } else { a });
                if let Some(id) = most.map(|(id, _)| id) {
                    self.locality.remove(entry, id, now);
                }
            }
            if known.is_some() {
                return known;
            }
        }
        let id = self.least(service)?;
        self.locality.add(&place, id, now);
        Some(id)
    }

    /// twos: two draws by weight, the first one kept unless the second is less loaded.
    pub(super) fn less_of_two(&mut self, service: ServiceId, sched: &ServiceSched) -> Option<RealId> {
        let first = self.draw(service, sched)?;
        let second = self.draw(service, sched)?;
        let (a, b) = (&self.reals[first.index()], &self.reals[second.index()]);
        Some(if lighter(b, a) { second } else { first })
    }

    /// A usable server drawn by weight.
    fn draw(&mut self, service: ServiceId, sched: &ServiceSched) -> Option<RealId> {
        let draw = sched.draw.as_ref()?;
        for _ in 0..DRAWS {
            let id = sched.reals.get(draw.position(self.random.next()))?.id;
            if self.reals.get(id.index()).is_some_and(RealState::usable) {
                return Some(id);
            }
        }
        // Most of the weight is overloaded.
        self.least(service)
    }
}

/// Whether `a` has a smaller cost for its weight than `b`.
fn lighter(a: &RealState, b: &RealState) -> bool {
    let cost = |r: &RealState| u64::from(overhead(r.all));
    cost(a) * u64::from(b.weight()) < cost(b) * u64::from(a.weight())
}
