//! Sequences of servers that the kernel gave, and properties against plain scans.

mod cores;
mod hashing;
mod prepared;
mod reference;
mod sequences;

use super::*;
use crate::snapshot::{ForwardingMode, Real};
use crate::units::{RealId, ServiceId, Tick};

/// A director with one service, edited the way ipvsadm edits the kernel's.
pub(super) struct Bench {
    pub kind: SchedulerKind,
    pub flags: u32,
    /// Every server there ever was, by number; the last byte of its address is its name.
    pub reals: Vec<Real>,
    /// The list, newest first.
    pub list: Vec<RealId>,
    pub sched: ServiceSched,
    pub core: SchedCore,
    pub counts: CoreCounts,
    pub now: Tick,
}

/// What changes from flow to flow.
#[derive(Clone, Copy)]
pub(super) enum Vary {
    Client,
    Port,
    Vip,
}

pub(super) const SERVICE: ServiceId = ServiceId(3);

impl Bench {
    pub fn new(kind: SchedulerKind, servers: &[(u8, u32)]) -> Self {
        let mut bench = Self {
            kind,
            flags: 0,
            reals: Vec::new(),
            list: Vec::new(),
            sched: ServiceSched::default(),
            core: SchedCore::new(8, 64),
            counts: CoreCounts::new(64),
            now: Tick(0),
        };
        for (name, weight) in servers {
            bench.add(*name, *weight);
        }
        bench
    }
    pub fn id(&self, name: u8) -> RealId {
        RealId(self.reals.iter().position(|r| r.addr.0[15] == name).unwrap() as u32)
    }
    pub fn compile(&mut self) {
        let members = self.list.iter().map(|id| (*id, &self.reals[id.index()]));
        self.sched = ServiceSched::compile(self.kind, self.flags, members);
    }
    pub fn add(&mut self, name: u8, weight: u32) {
        if self.reals.iter().all(|r| r.addr.0[15] != name) {
            let addr = Ip::from_v4([10, 2, 0, name]);
            self.reals.push(Real { addr, port: Be16::new(80), ..Real::NONE });
        }
        let id = self.id(name);
        (self.reals[id.index()].weight, self.reals[id.index()].last_weight) = (weight, weight);
        self.list.insert(0, id);
        self.compile();
    }
    pub fn edit(&mut self, name: u8, weight: u32) {
        let id = self.id(name);
        self.reals[id.index()].weight = weight;
        if weight > 0 {
            self.reals[id.index()].last_weight = weight;
        }
        self.compile();
    }
    pub fn threshold(&mut self, upper: u32, lower: u32) {
        for r in &mut self.reals {
            (r.upper, r.lower) = (upper, lower);
        }
        self.compile();
    }
    pub fn set_mode(&mut self, name: u8, mode: ForwardingMode) {
        let id = self.id(name);
        self.reals[id.index()].mode = mode;
        self.compile();
    }
    pub fn del(&mut self, name: u8) {
        let id = self.id(name);
        self.list.retain(|r| *r != id);
        self.compile();
    }
    pub fn switch(&mut self, kind: SchedulerKind) {
        self.kind = kind;
        self.compile();
    }
    pub fn choose(&mut self, client: [u8; 4], port: u16, vip: [u8; 4]) -> Option<RealId> {
        let key = SchedKey {
            client: Ip::from_v4(client),
            client_port: Be16::new(port),
            vip: Ip::from_v4(vip),
            vport: Be16::new(80),
        };
        self.core.choose(SERVICE, &self.sched, &self.counts, &key, self.now)
    }
    pub fn name(&self, id: Option<RealId>) -> String {
        id.map_or("-".to_string(), |id| self.reals[id.index()].addr.0[15].to_string())
    }
    /// `n` flows opened one after the other; the servers' names.
    pub fn flows(&mut self, n: usize) -> String {
        self.flows_as(n, true)
    }
    pub fn flows_as(&mut self, n: usize, active: bool) -> String {
        let mut names = Vec::new();
        for _ in 0..n {
            let id = self.choose([10, 1, 0, 1], 40000, [10, 9, 0, 1]);
            if let Some(id) = id {
                self.core.opened(&self.counts, id, true);
                if !active {
                    self.core.turned(&self.counts, id, false);
                }
            }
            names.push(self.name(id));
        }
        names.join(" ")
    }
    /// The servers of flows from `n` clients or to `n` destinations, one address apart; nothing is counted.
    pub fn hashes(&mut self, n: u8, step: u8, port: u16, vary: Vary) -> String {
        let mut names = Vec::new();
        for i in 0..n {
            let by = i.wrapping_mul(step);
            let (client, port, vip) = match vary {
                Vary::Client => (1 + by, port, 1),
                Vary::Port => (1, port + u16::from(by), 1),
                Vary::Vip => (1, port, by),
            };
            let id = self.choose([10, 1, 0, client], port, [10, 9, 0, vip]);
            names.push(self.name(id));
        }
        names.join(" ")
    }
    /// A flow to each of six destinations, opened.
    pub fn destinations(&mut self) -> String {
        let mut names = Vec::new();
        for vip in 0..6 {
            let id = self.choose([10, 1, 0, 1], 20_000, [10, 9, 0, vip]);
            id.into_iter().for_each(|id| self.core.opened(&self.counts, id, true));
            names.push(self.name(id));
        }
        names.join(" ")
    }
    pub fn close(&mut self, name: u8) {
        let id = self.id(name);
        self.core.closed(&self.counts, id, true);
    }
}
