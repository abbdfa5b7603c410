//! The schedulers that remember or draw: lblc, lblcr and twos, on top of the tree.

use super::SchedKey;
use super::config::ServiceSched;
use super::core::SchedCore;
use super::cost::overhead;
use super::locality::Place;
use super::real::{Member, RealState};
use crate::units::{RealId, ServiceId, Tick};

/// Draws before twos takes the next usable server instead.
const DRAWS: usize = 16;

impl SchedCore {
    fn place_of(&self, service: ServiceId, key: &SchedKey) -> Place {
        Place { service, instance: self.services[service.index()].live().instance, destination: key.vip }
    }

    /// The state of a server that is in the service's list.
    fn listed(&self, service: ServiceId, id: RealId) -> Option<Load<'_>> {
        let sides = &self.services[service.index()];
        let load = self.load(service, id)?;
        (load.real.service == service && load.member.position < sides.live().len).then_some(load)
    }

    /// The state of a server in the list that serves, if it is or was in it.
    fn load(&self, service: ServiceId, id: RealId) -> Option<Load<'_>> {
        let real = self.reals.get(id.index())?;
        Some(Load { real, member: &real.sides[self.services[service.index()].live_side()] })
    }

    /// Whether a destination should leave this server: it has more active connections than
    /// its weight, while some other has fewer than half.
    fn is_crowded(&self, service: ServiceId, load: &Load<'_>) -> bool {
        load.real.all.active > load.member.weight() && self.services[service.index()].live().spare > 0
    }

    /// lblc: the destination's server, else the one that wlc would choose, remembered.
    pub(super) fn near(&mut self, service: ServiceId, key: &SchedKey, now: Tick) -> Option<RealId> {
        let place = self.place_of(service, key);
        if let Some(entry) = self.locality.get(&place, now) {
            let known = self.locality.members(entry).next();
            // As the kernel, overload by the threshold does not part them.
            let fits = |l: Load<'_>| l.member.weight() > 0 && !self.is_crowded(service, &l);
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
            let usable = usable.filter(|(_, l)| l.member.usable());
            let known = usable.reduce(|a, b| if b.1.lighter(&a.1) { b } else { a });
            let known = known.filter(|(_, l)| !self.is_crowded(service, l)).map(|(id, _)| id);
            if self.locality.size(entry) > 1 && self.locality.is_settled(entry, now) {
                let loaded = members.filter_map(|id| Some((id, self.load(service, id)?)));
                let loaded = loaded.filter(|(_, l)| l.member.weight() > 0);
                let most = loaded.reduce(|a, b| if a.1.lighter(&b.1) { b } else { a });
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
        let (a, b) = (self.load(service, first)?, self.load(service, second)?);
        Some(if b.lighter(&a) { second } else { first })
    }

    /// A usable server drawn by weight.
    fn draw(&mut self, service: ServiceId, sched: &ServiceSched) -> Option<RealId> {
        let draw = sched.draw.as_ref()?;
        for _ in 0..DRAWS {
            let id = sched.reals.get(draw.position(self.random.next()))?.id;
            if self.load(service, id).is_some_and(|l| l.member.usable()) {
                return Some(id);
            }
        }
        // Most of the weight is overloaded.
        self.least(service)
    }
}

/// A real server with its weight in the list that serves.
#[derive(Clone, Copy)]
struct Load<'a> {
    real: &'a RealState,
    member: &'a Member,
}

impl Load<'_> {
    /// Whether it has a smaller cost for its weight than another one.
    fn lighter(&self, than: &Self) -> bool {
        let cost = |l: &Self| u64::from(overhead(l.real.all));
        cost(self) * u64::from(than.member.weight()) < cost(than) * u64::from(self.member.weight())
    }
}
