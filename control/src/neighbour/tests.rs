use std::net::IpAddr;

use super::*;

fn ip(s: &str) -> Ip {
    s.parse::<IpAddr>().unwrap().into()
}
const MAC: Mac = Mac([2, 0, 0, 0, 2, 11]);

fn topology() -> Topology {
    let text = "[[port]]\nname = \"cli\"\ndevice = \"a\"\naddresses = [\"10.3.0.1/24\"]\n\
                [[port]]\nname = \"srv\"\ndevice = \"b\"\naddresses = [\"10.2.0.254/24\"]\n";
    Topology::new(&crate::config::parse("t", text).unwrap(), &[Mac([2; 6]), Mac([4; 6])])
}

struct World {
    n: Neighbours,
    t: Topology,
    now: u64,
}

impl World {
    fn new(clients: u32) -> Self {
        Self { n: Neighbours::new(clients, true), t: topology(), now: 0 }
    }
    fn server(clients: u32) -> Self {
        let mut w = Self::new(clients);
        w.n.require(&BTreeMap::from([((IfaceId(1), ip("10.2.0.11")), (Role::Server, None))]), 0);
        w
    }
    /// Frames sent until `now`, with their times.
    fn until(&mut self, now: u64) -> Vec<(u64, InjectFrame)> {
        let mut out = Vec::new();
        while self.now < now {
            self.n.tick(&self.t, self.now);
            while let Some(f) = self.n.next_frame() {
                out.push((self.now, f));
            }
            self.now += 10;
        }
        out
    }
    fn state(&self, a: &str) -> String {
        let row = self.n.view(&self.t, self.now).into_iter().find(|v| v.address.to_string() == a);
        row.map_or("absent".into(), |r| format!("{:?}", r.state))
    }
    fn seen(&mut self, iface: u16, a: &str, mac: Mac, solicited: bool) {
        let e = Event::NeighbourSeen { iface: IfaceId(iface), ip: ip(a), mac, solicited };
        self.n.event(&e, &self.t, self.now);
    }
    fn wanted(&mut self, iface: u16, a: &str) {
        self.n.event(&Event::NeighbourWanted { iface: IfaceId(iface), ip: ip(a) }, &self.t, self.now);
    }
}

#[test]
fn a_server_is_asked_for_three_times_a_second_apart_then_in_rounds() {
    let mut w = World::server(16);
    let times: Vec<u64> = w.until(10_000).iter().map(|(t, _)| *t).collect();
    assert_eq!(times, [0, 1000, 2000, 8000, 9000]);
    assert_eq!(w.state("10.2.0.11"), "Incomplete");
    w.seen(1, "10.2.0.11", MAC, true);
    assert_eq!(w.state("10.2.0.11"), "Reachable");
    assert!(!w.n.take_changed().is_empty());
    assert_eq!(w.n.next_hops()[0].mac, Some(MAC));
}

#[test]
fn a_known_server_is_confirmed_by_questions_to_itself() {
    let mut w = World::server(16);
    w.seen(1, "10.2.0.11", MAC, true);
    w.n.take_changed();
    let frames = w.until(40_000);
    let to: Vec<bool> = frames.iter().map(|(_, f)| f.bytes[..6] == MAC.0).collect();
    assert_eq!(to[..3], [true, true, false], "two to itself, one to everybody");
    assert_eq!(w.n.next_hops()[0].mac, None, "no answer: not used any more");
    assert!(!w.n.take_changed().is_empty());
    // Answered in time, nothing changes for the workers.
    w.seen(1, "10.2.0.11", MAC, true);
    w.n.take_changed();
    let mut asked = 0;
    for _ in 0..12 {
        let now = w.now;
        asked += w.until(now + 10_000).len();
        w.seen(1, "10.2.0.11", MAC, true);
    }
    assert_eq!(w.state("10.2.0.11"), "Reachable");
    assert!(!w.n.has_changed());
    assert!(asked < 8, "{asked}");
}

#[test]
fn clients_are_learned_forgotten_and_bounded() {
    let mut w = World::new(16);
    w.wanted(0, "10.3.0.7");
    assert_eq!(w.until(100).len(), 1);
    assert!(!w.n.has_changed(), "workers need not know who is unknown");
    w.seen(0, "10.3.0.7", MAC, true);
    assert!(!w.n.take_changed().is_empty());
    assert_eq!(w.n.next_hops().len(), 1);
    w.wanted(0, "10.3.0.8");
    w.until(5000);
    assert_eq!(w.state("10.3.0.8"), "absent");
    // A scan takes a quarter of the room, and known clients stay.
    for a in 20..200 {
        w.wanted(0, &format!("10.3.0.{a}"));
    }
    assert_eq!(w.n.entries.len(), 1 + 4);
    w.until(10_000);
    assert_eq!((w.n.entries.len(), w.n.incomplete_clients), (1, 0));
    for a in 20..200 {
        w.seen(0, &format!("10.3.0.{a}"), MAC, false);
    }
    assert_eq!(w.n.entries.len(), 16);
    let ids: BTreeSet<u32> = w.n.next_hops().iter().map(|h| h.id.0).collect();
    assert_eq!(ids.len(), 16);
    assert!(ids.iter().all(|id| *id < 32), "numbers are used again: {ids:?}");
}

#[test]
fn nobody_is_learned_from_the_wrong_network() {
    let mut w = World::new(16);
    w.seen(0, "10.2.0.7", MAC, false);
    w.seen(0, "192.0.2.7", MAC, true);
    w.seen(0, "10.3.0.1", MAC, true);
    w.seen(0, "10.3.0.9", Mac::BROADCAST, true);
    w.wanted(1, "10.3.0.7");
    w.wanted(9, "10.3.0.7");
    assert!(w.n.entries.is_empty());
}

#[test]
fn static_neighbours_stay_as_configured() {
    let mut w = World::new(16);
    w.n.require(&BTreeMap::from([((IfaceId(1), ip("10.2.0.11")), (Role::Static, Some(MAC)))]), 0);
    w.seen(1, "10.2.0.11", Mac([2; 6]), true);
    assert!(w.until(100_000).is_empty());
    assert_eq!(w.n.next_hops()[0].mac, Some(MAC));
    w.n.require(&BTreeMap::new(), 0);
    assert!(w.n.next_hops().is_empty());
}

#[test]
fn a_moved_server_is_used_at_its_new_place_and_confirmed() {
    let mut w = World::server(16);
    w.seen(1, "10.2.0.11", MAC, true);
    w.seen(1, "10.2.0.11", Mac([2; 6]), false);
    assert_eq!(w.state("10.2.0.11"), "Stale");
    assert_eq!(w.n.next_hops()[0].mac, Some(Mac([2; 6])));
    let asked = w.until(6000);
    assert_eq!(asked[0].0, DELAY_MS);
}

#[test]
fn vips_are_announced_four_times_where_they_belong() {
    let mut w = World::new(16);
    w.n.announce([ip("10.3.0.100"), ip("10.9.0.1")].into_iter(), 0);
    let frames = w.until(20_000);
    let of = |p: u16| frames.iter().filter(|(_, f)| f.port.0 == p).count();
    assert_eq!((of(0), of(1)), (8, 4));
    // The same again is nothing new; another one is.
    w.n.announce([ip("10.3.0.100"), ip("10.9.0.1"), ip("10.2.0.100")].into_iter(), w.now);
    assert_eq!(w.until(40_000).len(), 4);
}

#[test]
fn a_duplicate_address_is_told_and_defended_now_and_then() {
    let mut w = World::new(16);
    w.n.announce([ip("10.9.0.1")].into_iter(), 0);
    w.until(20_000);
    let e = Event::DuplicateAddress { iface: IfaceId(0), ip: ip("10.9.0.1"), mac: MAC };
    let told = w.n.event(&e, &w.t, w.now).unwrap();
    assert_eq!(told, "another station, 02:00:00:00:02:0b on port `cli`, uses our address 10.9.0.1");
    assert!(w.n.event(&e, &w.t, w.now).is_none());
    let now = w.now;
    assert_eq!(w.until(now + 100).len(), 1);
}
