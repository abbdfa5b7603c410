//! What follows from services, real servers and neighbours: VIPs, next hops that must be known, and the
//! snapshot. Kept up to date by what a change touches; made anew when the configuration is read again.

use std::collections::{BTreeMap, BTreeSet};

use dataplane::snapshot::{Builder, IfaceId, Snapshot};
use dataplane::units::{Ip, Mac, RealId};

use super::core::Engine;
use crate::compile::{self, Input};
use crate::ids::Changes;
use crate::model::ServiceChange;
use crate::neighbour::Role;
use crate::vips::{Vips, is_host};

/// A next hop.
type Hop = (IfaceId, Ip);
/// Neighbours that must be known, with what for and the configured Ethernet address.
type Wanted = BTreeMap<Hop, (Role, Option<Mac>)>;

/// The state of all that.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) vips: Vips,
    builder: Builder,
    /// Real servers' addresses, removed ones with flows included.
    addresses: BTreeMap<Ip, Address>,
    /// How many of those addresses a next hop is the way to.
    needed: BTreeMap<Hop, u32>,
    /// Gateways and static neighbours: known whatever servers there are.
    fixed: Wanted,
    /// Real servers that must be described anew.
    dirty: BTreeSet<RealId>,
}

/// An address of real servers.
#[derive(Debug, Default)]
struct Address {
    /// Their numbers.
    reals: Vec<RealId>,
    /// The next hop, where that need not be known anyway.
    hop: Option<Hop>,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            vips: Vips::default(),
            builder: Builder::new(&Default::default()),
            addresses: BTreeMap::new(),
            needed: BTreeMap::new(),
            fixed: BTreeMap::new(),
            dirty: BTreeSet::new(),
        }
    }
}

impl Tables {
    /// Real servers of an address have to be described anew.
    pub(super) fn touch(&mut self, ip: Ip) {
        if let Some(a) = self.addresses.get(&ip) {
            self.dirty.extend(&a.reals);
        }
    }

    /// Whether any have.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }
}

impl Engine {
    fn input<'a>(&'a self, settings: &'a dataplane::snapshot::Settings) -> Input<'a> {
        Input {
            generation: self.generation,
            settings,
            topology: &self.topology,
            vips: &self.tables.vips,
            services: &self.services,
            ids: &self.ids,
            neighbours: &self.neighbours,
            path_mtus: &self.path_mtus,
        }
    }

    /// Makes everything anew, and publishes. For what changes the whole: interfaces, routes, settings.
    pub(super) fn rebuild(&mut self, now: u64) {
        let mut t = Tables { vips: Vips::new(&self.config.vips, &self.services), ..Tables::default() };
        t.fixed = self.fixed_neighbours();
        for (_, server, slot) in self.ids.slots() {
            t.addresses.entry(server.ip.into()).or_default().reals.push(slot.id);
        }
        self.tables = t;
        let hops: Vec<(Ip, Option<Hop>)> =
            self.tables.addresses.keys().map(|ip| (*ip, self.hop_towards(*ip))).collect();
        let mut wanted = self.tables.fixed.clone();
        for (ip, hop) in hops {
            if let Some(hop) = hop {
                *self.tables.needed.entry(hop).or_default() += 1;
                wanted.insert(hop, (Role::Server, None));
            }
            self.tables.addresses.entry(ip).or_default().hop = hop;
        }
        self.neighbours.require(&wanted, now);
        let own = self.topology.interfaces.iter().flat_map(|i| i.spec.addresses.iter().map(|(a, _)| *a));
        let pool = self.config.settings.full_nat.addresses.iter().copied();
        self.neighbours.announce(self.tables.vips.hosts().chain(own).chain(pool), now);
        self.neighbours.take_changed();
        let settings = self.settings();
        self.tables.builder = Builder::new(&compile::compile(&self.input(&settings)));
        self.publish();
    }

    /// Gateways and static neighbours.
    fn fixed_neighbours(&self) -> Wanted {
        let mut fixed = Wanted::new();
        for way in self.topology.routes.iter().filter_map(|r| self.topology.gateway(r)) {
            fixed.insert((way.iface, way.next_hop), (Role::Gateway, None));
        }
        let mut configured = Wanted::new();
        for n in &self.config.neighbours {
            let on = |i: &crate::topology::Interface| (usize::from(i.spec.port.0), i.spec.vlan) == (n.port, n.vlan);
            if let Some((id, _)) = self.topology.iter().find(|(_, i)| on(i)) {
                configured.entry((id, Ip::from(n.address))).or_insert((Role::Static, Some(n.mac)));
            }
        }
        fixed.extend(configured);
        fixed
    }

    /// The neighbour that must be known for real servers of an address, if that is not one of the fixed.
    fn hop_towards(&self, ip: Ip) -> Option<Hop> {
        // Nobody is asked for an address of our own.
        if self.topology.owns(ip) || self.tables.vips.contains(ip) {
            return None;
        }
        let way = self.topology.way(ip)?;
        Some((way.iface, way.next_hop)).filter(|hop| !self.tables.fixed.contains_key(hop))
    }

    /// Follows a change of services, and publishes.
    pub(super) fn follow(&mut self, all: &[ServiceChange], changes: &Changes, now: u64) {
        self.follow_vips(all, now);
        let new: BTreeSet<RealId> = changes.new_slots.iter().map(|(_, id)| *id).collect();
        for id in &changes.touched {
            let Some((_, server)) = self.ids.owner(*id) else { continue };
            let ip = Ip::from(server.ip);
            if new.contains(id) {
                self.tables.addresses.entry(ip).or_default().reals.push(*id);
                self.follow_address(ip, now);
            }
            self.tables.dirty.insert(*id);
        }
        for c in all {
            if let (None, Some(id)) = (&c.after, self.ids.service(&c.key)) {
                self.tables.builder.remove_service(id);
            }
        }
        self.describe();
        for spec in all.iter().filter_map(|c| compile::service(c.after.as_deref()?, &self.ids)) {
            self.tables.builder.set_service(&spec);
        }
        self.publish();
    }

    /// Follows real servers that were quite forgotten, and publishes.
    pub(super) fn forget(&mut self, freed: impl Iterator<Item = (Ip, RealId)>, now: u64) {
        for (ip, id) in freed {
            self.tables.builder.remove_real(id);
            if let Some(a) = self.tables.addresses.get_mut(&ip) {
                a.reals.retain(|r| *r != id);
                self.follow_address(ip, now);
            }
        }
        self.publish();
    }

    fn follow_vips(&mut self, all: &[ServiceChange], now: u64) {
        let t = &mut self.tables;
        // Those that come first, so that one that goes from a service to another stays.
        let come: Vec<_> = all.iter().filter_map(|c| c.after.as_ref()).flat_map(|s| t.vips.add(s)).collect();
        let gone: Vec<_> = all.iter().filter_map(|c| c.before.as_ref()).flat_map(|s| t.vips.remove(s)).collect();
        for (ip, len) in &come {
            t.builder.add_vip(*ip, *len);
            if is_host(*ip, *len) {
                self.neighbours.announce_also(*ip, now);
            }
        }
        let kept = |ip: Ip| self.topology.owns(ip) || self.config.settings.full_nat.addresses.contains(&ip);
        for (ip, len) in &gone {
            t.builder.remove_vip(*ip, *len);
            if is_host(*ip, *len) && !kept(*ip) {
                self.neighbours.announce_no_more(*ip);
            }
        }
        // Real servers whose address became ours, or is ours no longer.
        for (ip, _) in come.into_iter().chain(gone) {
            self.tables.touch(ip);
            if self.tables.addresses.contains_key(&ip) {
                self.follow_address(ip, now);
            }
        }
    }

    /// The way to an address may be another one now, or nobody may have the address any more.
    fn follow_address(&mut self, ip: Ip, now: u64) {
        let Some(a) = self.tables.addresses.get(&ip) else { return };
        let (empty, before) = (a.reals.is_empty(), a.hop);
        let hop = if empty { None } else { self.hop_towards(ip) };
        let t = &mut self.tables;
        if empty {
            t.addresses.remove(&ip);
        } else if let Some(a) = t.addresses.get_mut(&ip) {
            a.hop = hop;
        }
        if hop == before {
            return;
        }
        if let Some(hop) = hop {
            let n = t.needed.entry(hop).or_default();
            *n += 1;
            if *n == 1 {
                self.neighbours.require_server(hop.0, hop.1, now);
            }
        }
        if let Some(hop) = before
            && let Some(n) = t.needed.get_mut(&hop)
        {
            *n -= 1;
            if *n == 0 {
                t.needed.remove(&hop);
                self.neighbours.release_server(hop.0, hop.1);
            }
        }
    }

    /// Tells the builder of neighbours, and of real servers that must be described anew.
    fn describe(&mut self) {
        let hops: Vec<_> = self
            .neighbours
            .take_changed()
            .into_iter()
            .map(|(i, ip)| (i, ip, self.neighbours.next_hop(i, ip)))
            .collect();
        for (iface, ip, _) in hops.iter().filter(|(.., spec)| spec.is_none()) {
            self.tables.builder.remove_next_hop(*iface, *ip);
        }
        for spec in hops.iter().filter_map(|(.., spec)| spec.as_ref()) {
            self.tables.builder.set_next_hop(spec);
        }
        if !self.tables.is_dirty() {
            return;
        }
        let settings = self.settings();
        let input = self.input(&settings);
        let specs: Vec<_> = self.tables.dirty.iter().filter_map(|id| compile::real_of(&input, *id)).collect();
        specs.iter().for_each(|spec| self.tables.builder.set_real(spec));
        self.tables.dirty.clear();
    }

    /// Gives the next snapshot to every worker.
    pub(super) fn publish(&mut self) {
        self.describe();
        self.generation += 1;
        self.tables.builder.set_timeouts(self.settings().timeouts);
        let snapshot: std::sync::Arc<Snapshot> = self.tables.builder.snapshot(self.generation).into();
        #[cfg(test)]
        if self.services.server_count() < 10_000 {
            self.check_tables(&snapshot);
        }
        for link in &self.links {
            link.publish(snapshot.clone());
        }
    }

    /// What was kept up to date is what is made anew.
    #[cfg(test)]
    fn check_tables(&self, snapshot: &Snapshot) {
        assert_eq!(self.tables.vips, Vips::new(&self.config.vips, &self.services));
        let settings = self.settings();
        let anew = Snapshot::compile(&compile::compile(&self.input(&settings)));
        assert_eq!(snapshot.difference(&anew), None);
        let mut wanted = self.fixed_neighbours();
        wanted.extend(
            self.ids.slots().filter_map(|(_, r, _)| Some((self.hop_towards(r.ip.into())?, (Role::Server, None)))),
        );
        assert_eq!(self.neighbours.required(), wanted);
        let own = self.topology.interfaces.iter().flat_map(|i| i.spec.addresses.iter().map(|(a, _)| *a));
        let pool = settings.full_nat.addresses.iter().copied();
        assert_eq!(self.neighbours.announced(), self.tables.vips.hosts().chain(own).chain(pool).collect());
    }
}
