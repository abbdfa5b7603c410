//! Traffic per real server and service, summed over the workers, and rates.
//!
//! Workers count for ever; what is shown is the difference to a base, so that starting at
//! zero and giving a slot to another server need nothing of the workers.

use std::collections::BTreeMap;
use std::sync::Arc;

use dataplane::counters::DropReason;
use dataplane::link::WorkerLink;
use dataplane::units::RealId;

use super::report::{Rates, Traffic};
use crate::ids::Ids;
use crate::model::ServiceKey;

/// Between two samples, milliseconds: the kernel's estimators use the same.
const PERIOD_MS: u64 = 2000;

impl Traffic {
    fn fold(self, o: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            connections: f(self.connections, o.connections),
            in_packets: f(self.in_packets, o.in_packets),
            out_packets: f(self.out_packets, o.out_packets),
            in_bytes: f(self.in_bytes, o.in_bytes),
            out_bytes: f(self.out_bytes, o.out_bytes),
        }
    }
    pub(super) fn plus(self, o: Self) -> Self {
        self.fold(o, u64::wrapping_add)
    }
    pub(super) fn minus(self, o: Self) -> Self {
        self.fold(o, u64::saturating_sub)
    }
}

impl Rates {
    pub(super) fn plus(self, o: Self) -> Self {
        self.fold(o, |a, b| a + b)
    }
    fn fold(self, o: Self, f: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            connections: f(self.connections, o.connections),
            in_packets: f(self.in_packets, o.in_packets),
            out_packets: f(self.out_packets, o.out_packets),
            in_bytes: f(self.in_bytes, o.in_bytes),
            out_bytes: f(self.out_bytes, o.out_bytes),
        }
    }
    fn of(t: Traffic, seconds: f64) -> Self {
        Self {
            connections: t.connections as f64 / seconds,
            in_packets: t.in_packets as f64 / seconds,
            out_packets: t.out_packets as f64 / seconds,
            in_bytes: t.in_bytes as f64 / seconds,
            out_bytes: t.out_bytes as f64 / seconds,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    base: Traffic,
    /// What a removed server had counted: what passes since is nobody's, as in the kernel.
    frozen: Option<Traffic>,
    sampled: Traffic,
    rates: Rates,
}

/// The bases and rates.
#[derive(Debug)]
pub struct Statistics {
    links: Vec<Arc<WorkerLink>>,
    slots: Vec<Slot>,
    /// What servers counted that a service no longer has and whose slots are free.
    retired: BTreeMap<ServiceKey, Traffic>,
    total_base: Traffic,
    drops_base: Vec<u64>,
    sampled_at: u64,
}

impl Statistics {
    pub fn new(links: Vec<Arc<WorkerLink>>, now: u64) -> Self {
        Self {
            links,
            slots: Vec::new(),
            retired: BTreeMap::new(),
            total_base: Traffic::default(),
            drops_base: vec![0; DropReason::ALL.len()],
            sampled_at: now,
        }
    }

    /// What the workers have counted on all of `used` slots since the daemon started: read in the order of their
    /// numbers, which is that of memory.
    pub fn read(&self, used: u32) -> Vec<Traffic> {
        (0..used).map(|n| self.raw(RealId(n))).collect()
    }

    /// What they have counted on one.
    pub fn raw(&self, id: RealId) -> Traffic {
        let one = |l: &Arc<WorkerLink>| {
            let c = l.counters.real(id);
            Traffic {
                connections: c.connections.get(),
                in_packets: c.in_packets.get(),
                out_packets: c.out_packets.get(),
                in_bytes: c.in_bytes.get(),
                out_bytes: c.out_bytes.get(),
            }
        };
        self.links.iter().map(one).fold(Traffic::default(), Traffic::plus)
    }

    fn slot(&self, id: RealId) -> Slot {
        self.slots.get(id.index()).copied().unwrap_or_default()
    }

    /// Starts a slot at zero: it has a new owner, or somebody asked for it.
    pub fn rebase(&mut self, id: RealId, forget_rates: bool) {
        let raw = self.raw(id);
        if self.slots.len() <= id.index() {
            self.slots.resize(id.index() + 1, Slot::default());
        }
        let slot = &mut self.slots[id.index()];
        slot.base = raw;
        slot.frozen = slot.frozen.map(|_| Traffic::default());
        if forget_rates {
            *slot = Slot { base: raw, sampled: raw, ..Slot::default() };
        }
    }

    /// A server was removed: its traffic stays as it is.
    pub fn freeze(&mut self, id: RealId) {
        let counted = self.server(id, self.raw(id)).0;
        if let Some(slot) = self.slots.get_mut(id.index()) {
            slot.frozen = Some(counted);
        }
    }

    /// A removed server is back: it counts on from where it was.
    pub fn thaw(&mut self, id: RealId) {
        let raw = self.raw(id);
        if let Some(slot) = self.slots.get_mut(id.index())
            && let Some(counted) = slot.frozen.take()
        {
            slot.base = raw.minus(counted);
        }
    }

    /// A removed server's slot is free: its service keeps what it counted.
    pub fn retire(&mut self, service: ServiceKey, id: RealId) {
        let counted = self.server(id, self.raw(id)).0;
        let sum = self.retired.entry(service).or_default();
        *sum = sum.plus(counted);
        self.rebase(id, true);
    }

    /// A service is new, or quite gone: nothing counted before is its own.
    pub fn forget_service(&mut self, service: &ServiceKey) {
        self.retired.remove(service);
    }

    /// Traffic and rates of one slot, on which the workers have counted `raw`.
    pub fn server(&self, id: RealId, raw: Traffic) -> (Traffic, Rates) {
        let slot = self.slot(id);
        (slot.frozen.unwrap_or_else(|| raw.minus(slot.base)), slot.rates)
    }

    /// Traffic and rates of a service, removed servers included; `raw` says what was counted on a slot.
    pub fn service(&self, service: &ServiceKey, ids: &Ids, raw: impl Fn(RealId) -> Traffic) -> (Traffic, Rates) {
        let retired = self.retired.get(service).copied().unwrap_or_default();
        ids.slots_of(*service).fold((retired, Rates::default()), |(t, r), (_, slot)| {
            let (traffic, rates) = self.server(slot.id, raw(slot.id));
            (t.plus(traffic), r.plus(rates))
        })
    }

    /// Traffic and rates of everything, `raw` being what was [`read`](Self::read).
    pub fn total(&self, raw: &[Traffic]) -> (Traffic, Rates) {
        let rates = self.slots.iter().fold(Rates::default(), |sum, s| sum.plus(s.rates));
        (sum(raw).minus(self.total_base), rates)
    }

    /// Packets dropped for a reason by all workers.
    pub fn drops(&self, reason: DropReason) -> u64 {
        let base = self.drops_base.get(reason as usize).copied().unwrap_or(0);
        self.raw_drops(reason).saturating_sub(base)
    }

    fn raw_drops(&self, reason: DropReason) -> u64 {
        self.links.iter().map(|l| l.counters.drop(reason).get()).fold(0, u64::wrapping_add)
    }

    /// Starts one service at zero, or everything.
    pub fn zero(&mut self, service: Option<&ServiceKey>, ids: &Ids) {
        let slots: Vec<RealId> = match service {
            Some(key) => ids.slots_of(*key).map(|(_, s)| s.id).collect(),
            None => ids.slots().map(|(.., s)| s.id).collect(),
        };
        slots.into_iter().for_each(|id| self.rebase(id, false));
        match service {
            Some(key) => {
                self.retired.remove(key);
            }
            None => {
                self.retired.clear();
                self.total_base = sum(&self.read(ids.reals_used()));
                self.drops_base = DropReason::ALL.iter().map(|r| self.raw_drops(*r)).collect();
            }
        }
    }

    /// Moves the rates a quarter of the way, every two seconds.
    pub fn tick(&mut self, used: u32, now: u64) {
        let periods = now.saturating_sub(self.sampled_at) / PERIOD_MS;
        if periods == 0 {
            return;
        }
        self.sampled_at += periods * PERIOD_MS;
        let seconds = (periods * PERIOD_MS) as f64 / 1000.0;
        // Periods that were missed count as if their traffic had been even.
        let kept = 0.75f64.powi(i32::try_from(periods).unwrap_or(i32::MAX));
        self.slots.resize(self.slots.len().max(used as usize), Slot::default());
        for n in 0..used {
            let raw = self.raw(RealId(n));
            let slot = &mut self.slots[n as usize];
            let rate = Rates::of(raw.minus(slot.sampled), seconds);
            slot.rates = slot.rates.fold(rate, |old, new| {
                let next = new + (old - new) * kept;
                if next < 0.005 { 0.0 } else { next }
            });
            slot.sampled = raw;
        }
    }
}

fn sum(all: &[Traffic]) -> Traffic {
    all.iter().copied().fold(Traffic::default(), Traffic::plus)
}
