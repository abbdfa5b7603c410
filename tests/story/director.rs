//! A whole director, from the operations of the API to the frames: engine, snapshots, workers.

use std::net::IpAddr;

use control::config::{Config, Port, Route, StaticNeighbour};
use control::engine::{Change, Engine, Operation, PortFacts, Request, Setup};
use control::model::{Error, Limits, Network};
use dataplane::snapshot::{FullNat, Settings};
use dataplane::units::Mac;

use crate::rig::Rig;

/// The ports' Ethernet addresses: towards clients, towards servers.
pub const PORTS: [[u8; 6]; 2] = [[2, 0, 0, 0, 1, 0], [2, 0, 0, 0, 2, 0]];
/// The clients' gateway.
pub const GATEWAY: [u8; 6] = [2, 0, 0, 0, 3, 2];
/// The director's addresses towards the servers: where its tunnels begin.
pub const ENDS: [&str; 2] = ["10.2.0.254", "2001:db8:2::fe"];
/// What full NAT shows to servers.
pub const LOCALS: [&str; 2] = ["10.2.0.200", "2001:db8:2::c8"];
/// Servers there may be.
pub const SERVERS: u8 = 100;

/// An address.
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

/// The address of server `n` in one family.
pub fn server_ip(n: u8, ipv6: bool) -> IpAddr {
    if ipv6 { ip(&format!("2001:db8:2::{n:x}")) } else { IpAddr::from([10, 2, 0, n]) }
}

/// Its Ethernet address, the same for both families.
pub fn server_mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 9, n]
}

/// The director.
pub struct Director {
    /// The workers and what lies outside.
    pub rig: Rig,
    engine: Engine,
    /// The engine's time, milliseconds.
    now: u64,
}

impl Director {
    /// Two ports, clients behind a gateway, every server's Ethernet address known; no services.
    pub fn new(workers: usize, flows: u32, settings: Settings) -> Self {
        let rig = Rig::with_flows(workers, flows);
        let facts = |(n, mac): (usize, &[u8; 6])| PortFacts {
            name: format!("port{n}"),
            mac: Mac(*mac).to_string(),
            ..PortFacts::default()
        };
        let setup = Setup {
            config: config(settings),
            links: rig.links.clone(),
            ports: PORTS.iter().enumerate().map(facts).collect(),
            build: Default::default(),
            announce: false,
        };
        let now = u64::from(rig.now.0);
        let mut director = Self { rig, engine: Engine::new(setup, now).expect("a valid configuration"), now };
        director.tick();
        director
    }

    /// Makes changes, all or none, and lets the workers adopt them.
    pub fn change(&mut self, operations: Vec<Operation>) -> Result<(), Error> {
        let done = self.engine.handle(Request::Change(Change { operations, wait: false }), self.now).map(|_| ());
        self.tick();
        done
    }

    /// The same, but the workers see it only at their next burst.
    pub fn change_unseen(&mut self, operations: Vec<Operation>) -> Result<(), Error> {
        self.engine.handle(Request::Change(Change { operations, wait: false }), self.now).map(|_| ())
    }

    /// The workers and the engine, for tests in which each has a thread of its own.
    pub fn into_parts(self) -> (Rig, Engine) {
        (self.rig, self.engine)
    }

    /// What the engine does every ten milliseconds. Its questions for neighbours stay off the wire.
    fn tick(&mut self) {
        self.engine.tick(self.now);
        for link in &self.rig.links {
            while link.inject.pop().is_some() {}
        }
        self.rig.run();
    }

    /// Sends an IP packet into a port's queue; what came out, as (port, frame).
    pub fn send(&mut self, port: usize, queue: usize, packet: &[u8]) -> Vec<(usize, Vec<u8>)> {
        self.push(port, queue, packet);
        self.rig.run();
        self.rig.take()
    }

    /// Puts an IP packet in a port's queue.
    pub fn push(&mut self, port: usize, queue: usize, packet: &[u8]) {
        let ethertype: [u8; 2] = if packet.first().is_none_or(|b| b >> 4 == 4) { [8, 0] } else { [0x86, 0xdd] };
        let frame = [&PORTS[port][..], &[2, 9, 9, 9, 9, 9], &ethertype, packet].concat();
        self.rig.wire.push(port, queue % self.rig.workers.len(), &frame);
    }

    /// Lets time pass for both sides.
    pub fn sleep_ms(&mut self, ms: u32) {
        self.rig.sleep_ms(ms);
        self.now += u64::from(ms);
        self.tick();
    }
}

/// Settings that none of the properties is about are such that they do not blur them.
pub fn settings() -> Settings {
    let addresses = LOCALS.iter().map(|a| ip(a).into()).collect();
    Settings { answer_rate_limit: 0, full_nat: FullNat { addresses, ports: (1024, 65_535) }, ..Settings::default() }
}

fn config(settings: Settings) -> Config {
    let network = |text: &str| text.parse::<Network>().expect("a literal network");
    let port = |name: &str, addresses: [&str; 2]| Port {
        addresses: addresses.iter().map(|a| network(a)).collect(),
        ..Port::new(name, name)
    };
    let gateways = [ip("10.3.0.2"), ip("2001:db8:3::2")];
    let mut neighbours: Vec<_> =
        gateways.iter().map(|a| StaticNeighbour { address: *a, mac: Mac(GATEWAY), port: 0, vlan: None }).collect();
    for n in 1..=SERVERS {
        let near = |ipv6| StaticNeighbour { address: server_ip(n, ipv6), mac: Mac(server_mac(n)), port: 1, vlan: None };
        neighbours.extend([near(false), near(true)]);
    }
    Config {
        ports: vec![
            port("cli", ["10.3.0.1/24", "2001:db8:3::1/64"]),
            port("srv", ["10.2.0.254/24", "2001:db8:2::fe/64"]),
        ],
        routes: vec![
            Route { to: network("0.0.0.0/0"), via: gateways[0] },
            Route { to: network("::/0"), via: gateways[1] },
        ],
        neighbours,
        settings,
        limits: Limits { max_services: 64, max_real_servers: 128, ..Limits::default() },
        ..Config::default()
    }
}
