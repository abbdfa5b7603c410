//! The neighbour cache: which Ethernet address an IP address on a connected network has.
//!
//! Real servers and gateways are kept resolved all the time, so that the first packet for
//! one need not wait. Clients on connected networks are learned as packets for them turn
//! up, in a table of bounded size. States follow RFC 4861 section 7.3.2, for ARP as well:
//!
//! ```text
//! incomplete -> reachable -> probe -> reachable ...      a question a second, three times
//!      \            ^  stale --^ \
//!       failed <-----------------/     (a client is forgotten instead)
//! ```

mod announce;
mod frame;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dataplane::link::{Event, InjectFrame};
use dataplane::snapshot::{IfaceId, NextHopSpec};
use dataplane::units::{Ip, Mac, NextHopId};

use self::announce::Announcements;
use crate::engine::{NeighbourState, NeighbourView};
use crate::topology::Topology;

/// Between two questions, milliseconds (RFC 4861 section 10, RETRANS_TIMER).
const RETRY_MS: u64 = 1000;
/// Questions without an answer before giving up (MAX_MULTICAST_SOLICIT).
const TRIES: u8 = 3;
/// How long an answer is believed, milliseconds (REACHABLE_TIME).
const REACHABLE_MS: u64 = 30_000;
/// How long an unconfirmed address is used before it is asked about (DELAY_FIRST_PROBE_TIME).
const DELAY_MS: u64 = 5000;
/// Pause between rounds of questions for a server or gateway that does not answer.
const PAUSE_MS: u64 = 5000;
/// A client that no packet waited for in this long is forgotten.
const CLIENT_MS: u64 = 300_000;
/// Frames that may wait for the worker; timers wait while there are more.
const OUTBOX: usize = 256;

type Key = (u16, Ip);

/// What an entry is kept for. The later outranks the earlier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// A client on a connected network: may be forgotten.
    Client,
    /// A real server.
    Server,
    /// A gateway.
    Gateway,
    /// Configured: never asked for.
    Static,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Gateway => "gateway",
            Self::Static => "static",
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    id: NextHopId,
    role: Role,
    mac: Option<Mac>,
    state: NeighbourState,
    /// When the next thing is to be done.
    due: Option<u64>,
    tries: u8,
    confirmed: Option<u64>,
    wanted: u64,
}

/// The cache.
#[derive(Debug)]
pub struct Neighbours {
    entries: BTreeMap<Key, Entry>,
    timers: BTreeSet<(u64, Key)>,
    /// Clients, the oldest first.
    clients: VecDeque<Key>,
    most_clients: usize,
    incomplete_clients: usize,
    free: VecDeque<u32>,
    next: u32,
    outbox: VecDeque<InjectFrame>,
    announcements: Announcements,
    /// Those of which the workers must be told something new.
    changed: BTreeSet<Key>,
}

impl Neighbours {
    /// An empty cache for at most `most_clients` clients besides what is configured.
    pub fn new(most_clients: u32, announce: bool) -> Self {
        Self {
            entries: BTreeMap::new(),
            timers: BTreeSet::new(),
            clients: VecDeque::new(),
            most_clients: most_clients as usize,
            incomplete_clients: 0,
            free: VecDeque::new(),
            next: 0,
            outbox: VecDeque::new(),
            announcements: Announcements::new(announce),
            changed: BTreeSet::new(),
        }
    }

    /// Says which neighbours must be known: real servers, gateways, and the configured
    /// ones with their Ethernet addresses. What is not among them any more may be forgotten.
    pub fn require(&mut self, wanted: &BTreeMap<(IfaceId, Ip), (Role, Option<Mac>)>, now: u64) {
        let is_wanted = |k: &Key| wanted.contains_key(&(IfaceId(k.0), k.1));
        let stale: Vec<Key> =
            self.entries.iter().filter(|(k, e)| e.role != Role::Client && !is_wanted(k)).map(|(k, _)| *k).collect();
        for key in stale {
            self.remove(key);
        }
        for ((iface, ip), (role, mac)) in wanted {
            self.demand((iface.0, *ip), *role, *mac, now);
        }
    }

    /// Says that a real server is reached by a neighbour, which must be known from now on.
    pub fn require_server(&mut self, iface: IfaceId, ip: Ip, now: u64) {
        self.demand((iface.0, ip), Role::Server, None, now);
    }

    /// Says that none is any more.
    pub fn release_server(&mut self, iface: IfaceId, ip: Ip) {
        let key = (iface.0, ip);
        if self.entries.get(&key).is_some_and(|e| e.role == Role::Server) {
            self.remove(key);
        }
    }

    fn demand(&mut self, key: Key, role: Role, mac: Option<Mac>, now: u64) {
        match self.entries.get(&key) {
            Some(e) if e.role == role && (role != Role::Static || e.mac == mac) => return,
            // What was learned of a client stays true when it becomes a server.
            Some(e) if e.role < role && role < Role::Static => {
                let was_incomplete = e.role == Role::Client && e.mac.is_none();
                self.incomplete_clients -= usize::from(was_incomplete);
                if let Some(e) = self.entries.get_mut(&key) {
                    e.role = role;
                }
                self.clients.retain(|k| *k != key);
                self.changed.insert(key);
                return;
            }
            Some(_) => self.remove(key),
            None => {}
        }
        self.insert(key, role, mac, now);
        if role != Role::Static {
            self.schedule(key, Some(now));
        }
    }

    fn insert(&mut self, key: Key, role: Role, mac: Option<Mac>, now: u64) {
        let id = self.free.pop_front().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        let state = match (role, mac) {
            (Role::Static, _) => NeighbourState::Static,
            (_, Some(_)) => NeighbourState::Stale,
            (_, None) => NeighbourState::Incomplete,
        };
        let entry = Entry { id: NextHopId(id), role, mac, state, due: None, tries: 0, confirmed: None, wanted: now };
        if role == Role::Client {
            self.clients.push_back(key);
            self.incomplete_clients += usize::from(mac.is_none());
        }
        if role != Role::Client || mac.is_some() {
            self.changed.insert(key);
        }
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, key: Key) {
        self.schedule(key, None);
        let Some(e) = self.entries.remove(&key) else { return };
        self.free.push_back(e.id.0);
        if e.role == Role::Client {
            self.clients.retain(|k| *k != key);
            self.incomplete_clients -= usize::from(e.mac.is_none());
        }
        if e.role != Role::Client || e.mac.is_some() {
            self.changed.insert(key);
        }
    }

    fn schedule(&mut self, key: Key, due: Option<u64>) {
        let Some(e) = self.entries.get_mut(&key) else { return };
        if let Some(old) = std::mem::replace(&mut e.due, due) {
            self.timers.remove(&(old, key));
        }
        if let Some(due) = due {
            self.timers.insert((due, key));
        }
    }

    /// Takes note of what a worker saw. Returns a sentence when an operator should know.
    pub fn event(&mut self, event: &Event, topology: &Topology, now: u64) -> Option<String> {
        match *event {
            Event::NeighbourSeen { iface, ip, mac, solicited } => self.seen(iface, ip, mac, solicited, topology, now),
            Event::NeighbourWanted { iface, ip } => self.wanted(iface, ip, topology, now),
            Event::DuplicateAddress { iface, ip, mac } => {
                return self.announcements.duplicate(topology, iface, ip, mac, now);
            }
            Event::PathMtu { .. } => {}
        }
        None
    }

    fn seen(&mut self, iface: IfaceId, ip: Ip, mac: Mac, solicited: bool, topology: &Topology, now: u64) {
        if mac.is_multicast() || mac == Mac::default() || topology.owns(ip) {
            return;
        }
        let key = (iface.0, ip);
        if !self.entries.contains_key(&key) {
            // Somebody asks for an address of ours: the answer to its packets will need this.
            if topology.connected(ip).is_none_or(|(i, ..)| i != iface) || !self.room(false) {
                return;
            }
            self.insert(key, Role::Client, Some(mac), now);
            self.schedule(key, Some(now + DELAY_MS));
        }
        let Some(e) = self.entries.get_mut(&key) else { return };
        if e.role == Role::Static {
            return;
        }
        let moved = e.mac != Some(mac);
        if moved {
            self.incomplete_clients -= usize::from(e.role == Role::Client && e.mac.is_none());
            e.mac = Some(mac);
            self.changed.insert(key);
        }
        if solicited {
            e.state = NeighbourState::Reachable;
            e.confirmed = Some(now);
            e.tries = 0;
            // Spread, so that a thousand servers are not asked at the same moment.
            let spread = u64::from(e.id.0).wrapping_mul(2_654_435_761) % 10_000;
            self.schedule(key, Some(now + REACHABLE_MS - 5000 + spread));
        } else if moved {
            e.state = NeighbourState::Stale;
            e.tries = 0;
            self.schedule(key, Some(now + DELAY_MS));
        }
    }

    fn wanted(&mut self, iface: IfaceId, ip: Ip, topology: &Topology, now: u64) {
        let key = (iface.0, ip);
        if let Some(e) = self.entries.get_mut(&key) {
            e.wanted = now;
            // A packet waits: do not sit out the pause between rounds.
            if e.state == NeighbourState::Failed {
                self.schedule(key, Some(now));
            }
            return;
        }
        let here = topology.connected(ip).is_some_and(|(i, ..)| i == iface);
        if here && !topology.owns(ip) && self.room(true) {
            self.insert(key, Role::Client, None, now);
            self.schedule(key, Some(now));
        }
    }

    /// Makes room for one more client. Those who never answered may take a quarter of the
    /// room only, so that a scan of a network pushes nobody out.
    fn room(&mut self, incomplete: bool) -> bool {
        if incomplete && self.incomplete_clients >= self.most_clients / 4 {
            return false;
        }
        if self.clients.len() >= self.most_clients
            && let Some(oldest) = self.clients.front().copied()
        {
            self.remove(oldest);
        }
        self.clients.len() < self.most_clients
    }

    /// Asks, asks again, gives up. At most [`OUTBOX`] frames wait at a time.
    pub fn tick(&mut self, topology: &Topology, now: u64) {
        while self.outbox.len() < OUTBOX {
            let Some((due, key)) = self.timers.first().copied().filter(|(due, _)| *due <= now) else { break };
            self.timers.remove(&(due, key));
            if let Some(e) = self.entries.get_mut(&key) {
                e.due = None;
                self.expire(topology, key, now);
            }
        }
        self.announcements.tick(topology, &mut self.outbox, OUTBOX, now);
    }

    fn expire(&mut self, topology: &Topology, key: Key, now: u64) {
        let Some(e) = self.entries.get_mut(&key) else { return };
        match e.state {
            NeighbourState::Static => return,
            NeighbourState::Reachable | NeighbourState::Stale => {
                if e.role == Role::Client && now.saturating_sub(e.wanted) >= CLIENT_MS {
                    return self.remove(key);
                }
                e.state = NeighbourState::Probe;
                e.tries = 0;
            }
            NeighbourState::Failed => {
                e.state = NeighbourState::Incomplete;
                e.tries = 0;
            }
            NeighbourState::Probe | NeighbourState::Incomplete => {}
        }
        if e.tries >= TRIES {
            if e.role == Role::Client {
                return self.remove(key);
            }
            if e.mac.take().is_some() {
                self.changed.insert(key);
            }
            e.state = NeighbourState::Failed;
            return self.schedule(key, Some(now + PAUSE_MS));
        }
        e.tries += 1;
        // The last question of a probe goes to everybody: the station may have moved.
        let to = if e.state == NeighbourState::Probe && e.tries < TRIES { e.mac } else { None };
        self.schedule(key, Some(now + RETRY_MS));
        self.ask(topology, key, to);
    }

    fn ask(&mut self, topology: &Topology, key: Key, to: Option<Mac>) {
        let Some(iface) = topology.interface(IfaceId(key.0)) else { return };
        let same_family = |a: &&(Ip, u8)| a.0.is_v4() == key.1.is_v4();
        let inside = |a: &&(Ip, u8)| same_family(a) && a.0.masked(a.1) == key.1.masked(a.1);
        let own = iface.spec.addresses.iter();
        let source = own.clone().find(inside).or_else(|| own.clone().find(same_family));
        if let Some((source, _)) = source {
            self.outbox.push_back(frame::question(&iface.spec, *source, key.1, to));
        }
    }

    /// Sets the addresses to announce; new ones are announced at once and a few times more.
    pub fn announce(&mut self, addresses: impl Iterator<Item = Ip>, now: u64) {
        self.announcements.set(addresses, now);
    }

    /// One more address to announce, at once and a few times more.
    pub fn announce_also(&mut self, ip: Ip, now: u64) {
        self.announcements.add(ip, now);
    }

    /// One that is not announced any more.
    pub fn announce_no_more(&mut self, ip: Ip) {
        self.announcements.remove(ip);
    }

    /// The addresses that are announced.
    #[cfg(test)]
    pub fn announced(&self) -> BTreeSet<Ip> {
        self.announcements.known()
    }

    /// The next frame to send.
    pub fn next_frame(&mut self) -> Option<InjectFrame> {
        self.outbox.pop_front()
    }
    /// Gives back a frame that found no room.
    pub fn put_back(&mut self, frame: InjectFrame) {
        self.outbox.push_front(frame);
    }

    /// Whether the workers must be told of a change.
    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The neighbours of which they must be told; asking resets it.
    pub fn take_changed(&mut self) -> Vec<(IfaceId, Ip)> {
        std::mem::take(&mut self.changed).into_iter().map(|(iface, ip)| (IfaceId(iface), ip)).collect()
    }

    /// What the workers are told: all that must be known, and the clients that are.
    pub fn next_hops(&self) -> Vec<NextHopSpec> {
        self.entries.iter().filter_map(|(k, e)| told(k, e)).collect()
    }

    /// What they are told of one.
    pub fn next_hop(&self, iface: IfaceId, ip: Ip) -> Option<NextHopSpec> {
        let key = (iface.0, ip);
        told(&key, self.entries.get(&key)?)
    }

    /// Those that must be known, and what for.
    #[cfg(test)]
    pub fn required(&self) -> BTreeMap<(IfaceId, Ip), (Role, Option<Mac>)> {
        let required = self.entries.iter().filter(|(_, e)| e.role != Role::Client);
        required.map(|(k, e)| ((IfaceId(k.0), k.1), (e.role, e.mac.filter(|_| e.role == Role::Static)))).collect()
    }

    /// Whether the Ethernet address of a next hop is known.
    pub fn is_resolved(&self, iface: IfaceId, ip: Ip) -> bool {
        self.entries.get(&(iface.0, ip)).is_some_and(|e| e.mac.is_some())
    }

    /// The table for people.
    pub fn view(&self, topology: &Topology, now: u64) -> Vec<NeighbourView> {
        let row = |(k, e): (&Key, &Entry)| {
            let iface = topology.interface(IfaceId(k.0));
            NeighbourView {
                address: k.1.to_std(),
                mac: e.mac.map(|m| m.to_string()),
                port: iface.map(|i| i.port_name.clone()).unwrap_or_default(),
                vlan: iface.and_then(|i| i.spec.vlan),
                state: e.state,
                role: e.role.name().into(),
                age_s: e.confirmed.map(|at| u32::try_from(now.saturating_sub(at) / 1000).unwrap_or(u32::MAX)),
            }
        };
        self.entries.iter().map(row).collect()
    }
}

fn told(key: &Key, e: &Entry) -> Option<NextHopSpec> {
    let known = e.role != Role::Client || e.mac.is_some();
    known.then_some(NextHopSpec { id: e.id, iface: IfaceId(key.0), ip: key.1, mac: e.mac })
}
