//! STUB
use crate::link::WorkerLink;
use crate::snapshot::{Real, Snapshot};
use crate::units::*;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchedulerKind {
    Rr,
    Wrr,
    Lc,
    #[default]
    Wlc,
    Sed,
    Nq,
    Dh,
    Sh,
    Mh,
    Lblc,
    Lblcr,
    Fo,
    Ovf,
    Twos,
}
#[derive(Clone, Copy, Debug)]
pub struct SchedReal {
    pub id: RealId,
    pub weight: u32,
}
#[derive(Clone, Debug, Default)]
pub struct ServiceSched {
    pub kind: SchedulerKind,
    pub reals: Vec<SchedReal>,
}
impl ServiceSched {
    pub fn compile<'a>(kind: SchedulerKind, _flags: u32, members: impl Iterator<Item = (RealId, &'a Real)>) -> Self {
        Self { kind, reals: members.map(|(id, r)| SchedReal { id, weight: r.weight }).collect() }
    }
}
pub struct SchedKey {
    pub client: Ip,
    pub client_port: Be16,
    pub vip: Ip,
    pub vport: Be16,
}
#[derive(Debug)]
pub struct CoreCounts {
    a: Box<[AtomicU32]>,
    i: Box<[AtomicU32]>,
}
impl CoreCounts {
    pub fn new(n: usize) -> Self {
        let z = || (0..n.max(1)).map(|_| AtomicU32::new(0)).collect();
        Self { a: z(), i: z() }
    }
    pub fn active(&self, r: RealId) -> u32 {
        self.a[r.index()].load(Relaxed)
    }
    pub fn inactive(&self, r: RealId) -> u32 {
        self.i[r.index()].load(Relaxed)
    }
    pub fn persistent_opened(&self, _: RealId) {}
    pub fn persistent_closed(&self, _: RealId) {}
}
pub struct SchedCore {
    rr: Vec<usize>,
}
impl SchedCore {
    pub fn new(max_services: usize, _max_reals: usize) -> Self {
        Self { rr: vec![0; max_services] }
    }
    pub fn adopt(&mut self, _: &Snapshot) {}
    pub fn refresh(&mut self, _: &[Arc<WorkerLink>], _: WorkerId) {}
    pub fn choose(
        &mut self,
        s: ServiceId,
        svc: &ServiceSched,
        _: &Snapshot,
        c: &CoreCounts,
        _: &SchedKey,
        _: Tick,
    ) -> Option<RealId> {
        let r = &svc.reals;
        if r.is_empty() {
            return None;
        }
        if svc.kind == SchedulerKind::Rr {
            for _ in 0..r.len() {
                let i = self.rr[s.index()] % r.len();
                self.rr[s.index()] += 1;
                if r[i].weight > 0 {
                    return Some(r[i].id);
                }
            }
            return None;
        }
        r.iter()
            .filter(|x| x.weight > 0)
            .min_by(|x, y| {
                let o = |z: &SchedReal| u64::from(c.active(z.id)) * 256 + u64::from(c.inactive(z.id));
                (o(x) * u64::from(y.weight)).cmp(&(o(y) * u64::from(x.weight)))
            })
            .map(|x| x.id)
    }
    pub fn opened(&mut self, _: &Snapshot, c: &CoreCounts, r: RealId, active: bool) {
        if active {
            c.a[r.index()].fetch_add(1, Relaxed);
        } else {
            c.i[r.index()].fetch_add(1, Relaxed);
        }
    }
    pub fn closed(&mut self, c: &CoreCounts, r: RealId, active: bool) {
        if active {
            c.a[r.index()].fetch_sub(1, Relaxed);
        } else {
            c.i[r.index()].fetch_sub(1, Relaxed);
        }
    }
    pub fn turned(&mut self, c: &CoreCounts, r: RealId, active: bool) {
        self.closed(c, r, !active);
        if active {
            c.a[r.index()].fetch_add(1, Relaxed);
        } else {
            c.i[r.index()].fetch_add(1, Relaxed);
        }
    }
}
pub fn flag(_: &str) -> Option<u32> {
    None
}
