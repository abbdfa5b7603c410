//! Telling the networks where the VIPs are: gratuitous ARP and unsolicited advertisements.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use dataplane::link::InjectFrame;
use dataplane::snapshot::IfaceId;
use dataplane::units::{Ip, Mac};

use super::frame;
use crate::topology::Topology;

/// When a new address is announced: at once and so long after, milliseconds. Switches
/// whose link has just come up lose the first.
const AFTER_MS: [u64; 4] = [0, 1000, 3000, 7000];
/// An address that another station claims is announced at most this often (RFC 5227 section 2.4).
const DEFEND_MS: u64 = 10_000;
/// Duplicates remembered, to tell of each once in a while only.
const DUPLICATES: usize = 256;

/// The addresses announced.
#[derive(Debug)]
pub struct Announcements {
    on: bool,
    known: BTreeMap<Ip, Announced>,
    /// How many of `known` still have announcements to come.
    pending: usize,
    duplicates: BTreeMap<Ip, u64>,
    defend: Vec<(IfaceId, Ip)>,
}

#[derive(Debug)]
struct Announced {
    since: u64,
    done: usize,
    /// Interface to go on with.
    iface: u16,
}

impl Announcements {
    pub fn new(on: bool) -> Self {
        Self { on, known: BTreeMap::new(), pending: 0, duplicates: BTreeMap::new(), defend: Vec::new() }
    }

    pub fn set(&mut self, addresses: impl Iterator<Item = Ip>, now: u64) {
        let mut before = std::mem::take(&mut self.known);
        for ip in addresses {
            let entry = before.remove(&ip).unwrap_or(Announced { since: now, done: 0, iface: 0 });
            self.known.insert(ip, entry);
        }
        self.pending = self.known.values().filter(|a| a.done < AFTER_MS.len()).count();
    }

    pub fn add(&mut self, ip: Ip, now: u64) {
        if let Entry::Vacant(e) = self.known.entry(ip) {
            e.insert(Announced { since: now, done: 0, iface: 0 });
            self.pending += 1;
        }
    }

    pub fn remove(&mut self, ip: Ip) {
        if let Some(a) = self.known.remove(&ip) {
            self.pending -= usize::from(a.done < AFTER_MS.len());
        }
    }

    #[cfg(test)]
    pub fn known(&self) -> std::collections::BTreeSet<Ip> {
        self.known.keys().copied().collect()
    }

    pub fn tick(&mut self, topology: &Topology, outbox: &mut VecDeque<InjectFrame>, most: usize, now: u64) {
        if !self.on {
            return;
        }
        for (iface, ip) in self.defend.drain(..) {
            if let Some(i) = topology.interface(iface) {
                outbox.push_back(frame::announcement(&i.spec, ip));
            }
        }
        if self.pending == 0 {
            return;
        }
        for (ip, a) in &mut self.known {
            while a.done < AFTER_MS.len() && now >= a.since + AFTER_MS[a.done] {
                for (id, i) in
                    topology.iter().filter(|(id, _)| id.0 >= a.iface).filter(|(id, _)| belongs(topology, *id, *ip))
                {
                    if outbox.len() >= most {
                        a.iface = id.0;
                        return;
                    }
                    outbox.push_back(frame::announcement(&i.spec, *ip));
                }
                a.iface = 0;
                a.done += 1;
                self.pending -= usize::from(a.done == AFTER_MS.len());
            }
        }
    }

    /// Another station claims `ip`: announces it once more and says so, both now and then only.
    pub fn duplicate(&mut self, topology: &Topology, iface: IfaceId, ip: Ip, mac: Mac, now: u64) -> Option<String> {
        if self.duplicates.get(&ip).is_some_and(|at| now < at + DEFEND_MS) {
            return None;
        }
        if self.duplicates.len() >= DUPLICATES {
            self.duplicates.clear();
        }
        self.duplicates.insert(ip, now);
        if self.known.contains_key(&ip) {
            self.defend.push((iface, ip));
        }
        let port = topology.interface(iface).map_or("?", |i| &i.port_name);
        Some(format!("another station, {mac} on port `{port}`, uses our address {ip}"))
    }
}

/// Whether `ip` is announced on an interface: on the one whose network it is in, and on
/// all when it is in none, since neighbours of any may be routed to it.
fn belongs(topology: &Topology, iface: IfaceId, ip: Ip) -> bool {
    match topology.connected(ip) {
        Some((i, ..)) => i == iface,
        None => true,
    }
}
