//! Making snapshots, one out of the other.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Makes snapshots of a configuration that changes bit by bit. Told what is different, it touches that
/// and what follows from it; the rest is shared with the snapshots made before.
///
/// What is set refers to what is there already: next hops come before the real servers that are
/// reached by them, real servers before the services that have them in their lists. A service
/// is to be set again when one of its real servers was.
#[derive(Debug)]
pub struct Builder {
    /// The next snapshot as far as it is kept up to date all the time.
    made: Snapshot,
    /// By [`RealId`]: whether there is such a real server.
    described: Vec<bool>,
    /// The real servers by next hop.
    through: BTreeSet<(NextHopId, RealId)>,
    /// By [`ServiceId`]: what packets it takes.
    matches: Vec<Option<Match>>,
    /// Rules in the order in which they are tried: by mark.
    marks: BTreeMap<(u32, bool, ServiceId), Vec<MarkRule>>,
    long_lists: BTreeSet<ServiceId>,
    vips: BTreeSet<(Ip, u8)>,
    forwards: Vec<Forward>,
    /// How many there are of each: NAT servers and services by family, persistent services, FTP's ports.
    translating: [usize; 2],
    serving: [usize; 2],
    persistent: usize,
    ftp: usize,
    /// What of the following is out of date in `made`.
    stale: Stale,
}

/// Tables that are made anew as a whole when something in them has changed.
#[derive(Debug, Default)]
struct Stale {
    forwards: bool,
    rules: bool,
    long_lists: bool,
    networks: bool,
}

impl Default for NextHop {
    fn default() -> Self {
        Self {
            header: [0; 16],
            l2_len: 14,
            device_tag: 0,
            resolved: false,
            port: PortId(0),
            mtu: 1500,
            iface: IfaceId(0),
            ip: Ip::UNSPECIFIED,
        }
    }
}

impl Default for Real {
    fn default() -> Self {
        Self::NONE
    }
}

impl Default for Service {
    fn default() -> Self {
        Self {
            id: ServiceId::NONE,
            mark: 0,
            port: 0,
            persistence: None,
            one_packet: false,
            extras: Extras::default(),
            sched: sched::ServiceSched::default(),
        }
    }
}

impl From<&RealSpec> for Real {
    fn from(r: &RealSpec) -> Self {
        Self {
            addr: r.addr,
            port: Be16::new(r.port),
            mode: r.mode,
            available: r.available,
            service: r.service,
            next_hop: r.next_hop,
            weight: r.weight,
            last_weight: if r.weight > 0 { r.weight } else { r.last_weight },
            tunnel: r.tunnel,
            source: r.source,
            reported_mtu: r.path_mtu,
            upper: r.upper,
            lower: r.lower,
            predecessor: r.predecessor,
        }
    }
}

impl Builder {
    /// Begins with a whole configuration.
    pub fn new(spec: &Spec) -> Self {
        let mut b = Self {
            made: frame(spec),
            described: Vec::new(),
            through: BTreeSet::new(),
            matches: Vec::new(),
            marks: BTreeMap::new(),
            long_lists: BTreeSet::new(),
            vips: BTreeSet::new(),
            forwards: Vec::new(),
            translating: [0; 2],
            serving: [0; 2],
            persistent: 0,
            ftp: 0,
            stale: Stale::default(),
        };
        spec.vips.iter().for_each(|(ip, len)| b.add_vip(*ip, *len));
        spec.next_hops.iter().for_each(|n| b.set_next_hop(n));
        spec.reals.iter().for_each(|r| b.set_real(r));
        spec.services.iter().for_each(|s| b.set_service(s));
        b
    }

    /// The snapshot of what was told until now.
    pub fn snapshot(&mut self, generation: u64) -> Snapshot {
        let Stale { forwards, rules, long_lists, networks } = std::mem::take(&mut self.stale);
        let made = &mut self.made;
        if forwards {
            made.forwards = self.forwards.as_slice().into();
        }
        if rules {
            let of_mark = |((_, _, id), rules): (&(u32, bool, ServiceId), &Vec<MarkRule>)| {
                let id = *id;
                rules.iter().map(move |r| (r.clone(), id)).collect::<Vec<_>>()
            };
            made.mark_rules = self.marks.iter().flat_map(of_mark).collect();
        }
        if long_lists {
            made.long_lists = self.long_lists.iter().copied().collect();
        }
        if networks {
            made.vip_networks = self.vips.iter().filter(|(ip, len)| !is_host(*ip, *len)).copied().collect();
        }
        made.local_pools = [false, true].map(|v4| {
            let family = |ip: &&Ip| ip.is_v4() == v4 && made.locals.get(ip) == Some(&Local::Pool);
            made.settings.full_nat.addresses.iter().filter(family).copied().collect()
        });
        made.translates = self.translating.map(|n| n > 0);
        made.serves = self.serving.map(|n| n > 0);
        made.has_persistence = self.persistent > 0;
        made.has_ftp = self.ftp > 0;
        Snapshot { generation, ..made.clone() }
    }

    /// Other time-outs.
    pub fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.made.settings.timeouts = timeouts;
    }

    /// A VIP, or with a prefix length shorter than a host's the network of a mark.
    pub fn add_vip(&mut self, ip: Ip, len: u8) {
        if !self.vips.insert((ip, len)) {
            return;
        }
        if is_host(ip, len) {
            if !matches!(self.made.locals.get(&ip), Some(Local::Own(_))) {
                self.made.locals.insert(ip, Local::Vip);
            }
        } else {
            self.stale.networks = true;
        }
    }

    /// That one is not there any more.
    pub fn remove_vip(&mut self, ip: Ip, len: u8) {
        if !self.vips.remove(&(ip, len)) {
            return;
        }
        if !is_host(ip, len) {
            self.stale.networks = true;
        } else if self.made.locals.get(&ip) == Some(&Local::Vip) {
            if self.made.settings.full_nat.addresses.contains(&ip) {
                self.made.locals.insert(ip, Local::Pool);
            } else {
                self.made.locals.remove(&ip);
            }
        }
    }

    /// A next hop is new, or its Ethernet address is.
    pub fn set_next_hop(&mut self, n: &NextHopSpec) {
        self.made.neighbours.insert((n.iface, n.ip), n.id);
        let made = self.made.interfaces.get(usize::from(n.iface.0)).map(|iface| {
            let by_device = self.made.device(iface.port).tags;
            next_hop(n, iface, by_device)
        });
        self.made.next_hops.set(n.id.index(), made.unwrap_or_default());
        self.forward_through(n.id);
    }

    /// A next hop is forgotten. Its number is free.
    pub fn remove_next_hop(&mut self, iface: IfaceId, ip: Ip) {
        if let Some(id) = self.made.neighbours.remove(&(iface, ip)) {
            self.made.next_hops.set(id.index(), NextHop::default());
            self.forward_through(id);
        }
    }

    /// A real server is new, or something about it has changed.
    pub fn set_real(&mut self, r: &RealSpec) {
        let real = Real::from(r);
        if self.described.get(r.id.index()) == Some(&true) {
            if self.made.reals.get(r.id.index()) == Some(&real) {
                return;
            }
            self.uncount(r.id);
        }
        let n = r.id.index();
        if self.described.len() <= n {
            self.described.resize(n + 1, false);
        }
        self.described[n] = true;
        self.through.insert((real.next_hop, r.id));
        self.translating[usize::from(real.addr.is_v4())] += usize::from(real.mode == ForwardingMode::Nat);
        let same = self.made.real_addresses.get(&real.addr).copied().unwrap_or(0);
        self.made.real_addresses.insert(real.addr, same + 1);
        self.made.reals.set(n, real);
        self.forward(r.id);
    }

    /// A real server is quite forgotten. Its number is free.
    pub fn remove_real(&mut self, id: RealId) {
        if self.described.get(id.index()) != Some(&true) {
            return;
        }
        self.uncount(id);
        self.described[id.index()] = false;
        self.made.reals.set(id.index(), Real::NONE);
        self.forward(id);
    }

    fn uncount(&mut self, id: RealId) {
        let Some(old) = self.made.reals.get(id.index()) else { return };
        let addr = old.addr;
        self.through.remove(&(old.next_hop, id));
        self.translating[usize::from(addr.is_v4())] -= usize::from(old.mode == ForwardingMode::Nat);
        let _ = match self.made.real_addresses.get(&addr).copied() {
            Some(same) if same > 1 => self.made.real_addresses.insert(addr, same - 1),
            _ => self.made.real_addresses.remove(&addr),
        };
    }

    fn forward_through(&mut self, id: NextHopId) {
        let users: Vec<RealId> = self.through.range((id, RealId(0))..=(id, RealId::NONE)).map(|(_, r)| *r).collect();
        users.into_iter().for_each(|r| self.forward(r));
    }

    fn forward(&mut self, id: RealId) {
        let Some(real) = self.made.reals.get(id.index()) else { return };
        let hop = self.made.next_hops.get(real.next_hop.index());
        let forward = Forward::new(real, hop, &self.made.settings);
        if self.forwards.len() <= id.index() {
            let unset = Forward::new(&Real::NONE, None, &self.made.settings);
            self.forwards.resize(id.index() + 1, unset);
            self.stale.forwards = true;
        }
        let at = &mut self.forwards[id.index()];
        self.stale.forwards |= *at != forward;
        *at = forward;
    }

    /// A service is new, or something about it or its real servers has changed.
    pub fn set_service(&mut self, s: &ServiceSpec) {
        let n = s.id.index();
        if self.matches.len() <= n {
            self.matches.resize(n + 1, None);
        }
        if self.matches[n].as_ref() != Some(&s.matches) {
            self.unmatch(s.id);
            self.match_service(s);
        }
        let (mark, port) = match &s.matches {
            Match::Address { port, .. } => (0, *port),
            Match::Mark { mark, .. } => (*mark, 0),
        };
        let reals = &self.made.reals;
        let members = s.reals.iter().filter_map(|id| reals.get(id.index()).map(|r| (*id, r)));
        let service = Service {
            id: s.id,
            mark,
            port,
            persistence: s.persistence,
            one_packet: s.one_packet,
            extras: s.extras,
            sched: sched::ServiceSched::compile(s.scheduler, s.sched_flags, members),
        };
        let was_persistent = self.made.services.get(n).is_some_and(|s| s.persistence.is_some());
        self.persistent = self.persistent + usize::from(s.persistence.is_some()) - usize::from(was_persistent);
        let long = service.sched.reals.len() > sched::rebuild::PREPARED;
        let changed = if long { self.long_lists.insert(s.id) } else { self.long_lists.remove(&s.id) };
        self.stale.long_lists |= changed;
        self.made.services.set(n, service);
    }

    /// A service is removed. Its number is free once all its real servers are forgotten.
    pub fn remove_service(&mut self, id: ServiceId) {
        if self.matches.get(id.index()).is_none_or(Option::is_none) {
            return;
        }
        self.unmatch(id);
        let was_persistent = self.made.services.get(id.index()).is_some_and(|s| s.persistence.is_some());
        self.persistent -= usize::from(was_persistent);
        self.stale.long_lists |= self.long_lists.remove(&id);
        self.made.services.set(id.index(), Service::default());
    }

    fn match_service(&mut self, s: &ServiceSpec) {
        self.serving[usize::from(s.matches.is_v4())] += 1;
        match &s.matches {
            Match::Address { protocol, vip, port } => {
                let key = port_protocol(*port, *protocol);
                self.made.by_address.insert((*vip, key), s.id);
                self.ftp += usize::from(key == port_protocol(FTP, 6));
            }
            Match::Mark { mark, ipv6, rules } => {
                self.marks.insert((*mark, *ipv6, s.id), rules.clone());
                self.stale.rules = true;
            }
        }
        self.matches[s.id.index()] = Some(s.matches.clone());
    }

    fn unmatch(&mut self, id: ServiceId) {
        let Some(old) = self.matches.get_mut(id.index()).and_then(Option::take) else { return };
        self.serving[usize::from(old.is_v4())] -= 1;
        match old {
            Match::Address { protocol, vip, port } => {
                let key = port_protocol(port, protocol);
                self.made.by_address.remove(&(vip, key));
                self.ftp -= usize::from(key == port_protocol(FTP, 6));
            }
            Match::Mark { mark, ipv6, .. } => {
                self.marks.remove(&(mark, ipv6, id));
                self.stale.rules = true;
            }
        }
    }
}

/// What does not depend on services, real servers and neighbours.
fn frame(spec: &Spec) -> Snapshot {
    let mut locals = Shards::default();
    for ip in &spec.settings.full_nat.addresses {
        locals.insert(*ip, Local::Pool);
    }
    for (i, iface) in spec.interfaces.iter().enumerate() {
        for (ip, _) in &iface.addresses {
            locals.insert(*ip, Local::Own(IfaceId(i as u16)));
        }
    }
    let slot = |i: &InterfaceSpec| (i.port.0, i.vlan.unwrap_or(0));
    let ifaces: Map<_, _> = spec.interfaces.iter().enumerate().map(|(n, i)| (slot(i), IfaceId(n as u16))).collect();
    Snapshot {
        generation: 0,
        settings: spec.settings.clone(),
        devices: spec.devices.as_slice().into(),
        strips: spec.devices.iter().any(|d| d.tags),
        interfaces: spec.interfaces.as_slice().into(),
        services: Pages::default(),
        reals: Pages::default(),
        forwards: Arc::default(),
        next_hops: Pages::default(),
        locals,
        vip_networks: Arc::default(),
        by_address: Shards::default(),
        mark_rules: Arc::default(),
        real_addresses: Shards::default(),
        routes: routes(spec),
        neighbours: Shards::default(),
        macs: macs(spec),
        ifaces: Arc::new(ifaces),
        serves: [false; 2],
        long_lists: Arc::default(),
        translates: [false; 2],
        has_persistence: false,
        has_ftp: false,
        has_vlans: spec.interfaces.iter().any(|i| i.vlan.is_some()),
        local_pools: [Arc::default(), Arc::default()],
    }
}

/// Whether a prefix is one address.
fn is_host(ip: Ip, len: u8) -> bool {
    len >= if ip.is_v4() { 32 } else { 128 }
}

fn macs(spec: &Spec) -> Arc<[u64]> {
    let n = spec.interfaces.iter().map(|i| i.port.index() + 1).max().unwrap_or(0);
    let mut out = vec![u64::MAX; n];
    for i in spec.interfaces.iter().filter(|i| i.vlan.is_none()) {
        let m = i.mac.0;
        out[i.port.index()] = u64::from_le_bytes([m[0], m[1], m[2], m[3], m[4], m[5], 0, 0]);
    }
    out.into()
}

fn next_hop(n: &NextHopSpec, iface: &InterfaceSpec, by_device: bool) -> NextHop {
    let mut header = [0; 16];
    header[..6].copy_from_slice(&n.mac.unwrap_or_default().0);
    header[6..12].copy_from_slice(&iface.mac.0);
    let in_frame = iface.vlan.filter(|_| !by_device);
    if let Some(vlan) = in_frame {
        header[12..14].copy_from_slice(&0x8100u16.to_be_bytes());
        header[14..16].copy_from_slice(&vlan.to_be_bytes());
    }
    NextHop {
        header,
        l2_len: if in_frame.is_some() { 18 } else { 14 },
        device_tag: iface.vlan.filter(|_| by_device).unwrap_or(0),
        resolved: n.mac.is_some(),
        port: iface.port,
        mtu: iface.mtu,
        iface: n.iface,
        ip: n.ip,
    }
}

fn prefix_mask(ip: Ip, len: u8) -> u128 {
    let len = if ip.is_v4() { 96 + u32::from(len.min(32)) } else { u32::from(len.min(128)) };
    let m: u128 = if len == 0 { 0 } else { u128::MAX << (128 - len) };
    u128::from_ne_bytes(m.to_be_bytes())
}

fn routes(spec: &Spec) -> Arc<[RouteEntry]> {
    let mut out: Vec<(u8, RouteEntry)> = Vec::new();
    let mut add = |network: Ip, len: u8, to: Hop| {
        let mask = prefix_mask(network, len);
        let bits = if network.is_v4() { 96 + len.min(32) } else { len.min(128) };
        out.push((bits, RouteEntry { network: network.raw() & mask, mask, to }));
    };
    for (i, iface) in spec.interfaces.iter().enumerate() {
        for (ip, len) in &iface.addresses {
            add(*ip, *len, Hop::OnLink(IfaceId(i as u16)));
        }
    }
    for r in &spec.routes {
        add(r.network, r.prefix_len, Hop::Via(r.gateway));
    }
    // Longest prefix first; among equals the connected network, which was added first.
    out.sort_by_key(|(bits, _)| std::cmp::Reverse(*bits));
    out.into_iter().map(|(_, r)| r).collect()
}
