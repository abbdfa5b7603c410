//! Random rules: services of every kind, real servers of every mode.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use control::engine::Operation;
use control::model::{
    ClientAddress, ForwardingMode, GueChecksum, NewService, Persistence, RealServer, SchedFlag, Scheduler, ServerKey,
    ServerPatch, ServiceKey, ServicePatch, Tunnel,
};

use super::bytes::Bytes;
use super::check::{GUE_PORT, VXLAN_PORT};
use super::director::{ip, server_ip};

/// The services there can be.
pub const KEYS: [&str; 8] = [
    "tcp:10.9.0.1:80",
    "udp:10.9.0.2:53",
    "tcp:[2001:db8:9::1]:80",
    "udp:[2001:db8:9::2]:53",
    "sctp:10.9.0.3:90",
    "tcp:10.9.0.4:0",
    "fwm:7",
    "sctp:[2001:db8:9::3]:90",
];
/// Real servers each can have.
pub const EACH: u8 = 5;

/// A service as it is configured now.
pub struct Shape {
    /// Its place in [`KEYS`].
    pub index: usize,
    /// Its settings, without servers.
    pub service: NewService,
    /// Its servers by the number that their Ethernet address shows.
    pub servers: BTreeMap<u8, RealServer>,
}

impl Shape {
    /// Settings by the story's choice. Not all go together: the engine may refuse them.
    pub fn choose(b: &mut Bytes, index: usize) -> Self {
        let key: ServiceKey = KEYS[index].parse().expect("a key");
        let mut service = NewService::new(key);
        (service.scheduler, service.sched_flags) = scheduler(b);
        service.persistence = persistence(b, key, if index == 5 { 255 } else { 64 });
        service.one_packet = KEYS[index].starts_with("udp") && b.u8() < 32;
        let tcp = KEYS[index].starts_with("tcp");
        service.client_address = match b.u8() {
            0..48 if tcp => ClientAddress::Proxy,
            48..80 if tcp => ClientAddress::Toa,
            _ => ClientAddress::None,
        };
        if index == 6 {
            service.rules = vec!["tcp:10.9.1.0/28:8000-8010".parse().expect("a rule")];
        }
        let mut shape = Self { index, service, servers: BTreeMap::new() };
        for i in 0..1 + b.u8() % EACH {
            let server = shape.server(b, i);
            shape.servers.insert(shape.number(i), server);
        }
        shape
    }

    /// The number of its server `i`.
    pub fn number(&self, i: u8) -> u8 {
        10 * (self.index as u8 + 1) + i % EACH
    }

    /// A real server by the story's choice.
    pub fn server(&self, b: &mut Bytes, i: u8) -> RealServer {
        let ipv6 = self.service.address.is_ipv6();
        let extras = self.service.client_address != ClientAddress::None;
        let (mode, tunnel) = match b.u8() % if extras { 4 } else { 10 } {
            0 | 1 => (ForwardingMode::Nat, Tunnel::Ipip),
            2 | 3 if self.service.one_packet => (ForwardingMode::Nat, Tunnel::Ipip),
            2 | 3 => (ForwardingMode::FullNat, Tunnel::Ipip),
            4 | 5 => (ForwardingMode::DirectRouting, Tunnel::Ipip),
            6 => (ForwardingMode::Tunnel, Tunnel::Ipip),
            7 => (ForwardingMode::Tunnel, Tunnel::Gre { checksum: b.u8() & 1 != 0 }),
            8 => {
                let checksum = [GueChecksum::None, GueChecksum::Udp, GueChecksum::Remote][usize::from(b.u8()) % 3];
                (ForwardingMode::Tunnel, Tunnel::Gue { port: GUE_PORT, checksum })
            }
            _ => (ForwardingMode::Tunnel, Tunnel::Vxlan { port: VXLAN_PORT, vni: 7 }),
        };
        let rewrites = matches!(mode, ForwardingMode::Nat | ForwardingMode::FullNat);
        // A tunnel may lead over the other family.
        let over6 = ipv6 != (mode == ForwardingMode::Tunnel && b.u8() < 80);
        let port = match self.service.address {
            ServiceKey::Address { port, .. } if port > 0 && (!rewrites || b.u8() & 1 != 0) => port,
            _ if rewrites && self.index != 5 && b.u8() < 192 => 8080,
            ServiceKey::Address { port, .. } => port,
            ServiceKey::Mark { .. } => 0,
        };
        let address = ServerKey { ip: server_ip(self.number(i), over6), port };
        let mut server = RealServer { mode, tunnel, ..RealServer::new(address) };
        server.weight = weight(b);
        if b.u8() < 32 {
            server.upper_threshold = 1 + u32::from(b.u8() % 8);
        }
        server
    }

    /// The operation that makes it so.
    pub fn put(&self) -> Operation {
        let servers = self.servers.values().cloned().collect();
        Operation::PutService { service: NewService { servers, ..self.service.clone() } }
    }

    /// A target behind it, and the protocol.
    pub fn target(&self, b: &mut Bytes) -> (u8, SocketAddr) {
        match self.service.address {
            ServiceKey::Address { protocol, vip, port: 0 } => {
                (protocol as u8, SocketAddr::new(vip, 1000 + u16::from(b.u8() % 16)))
            }
            ServiceKey::Address { protocol, vip, port } => (protocol as u8, SocketAddr::new(vip, port)),
            ServiceKey::Mark { .. } => {
                let vip = IpAddr::from([10, 9, 1, b.u8() % 16]);
                (6, SocketAddr::new(vip, 8000 + u16::from(b.u8() % 11)))
            }
        }
    }

    /// Changes a weight.
    pub fn reweigh(&mut self, b: &mut Bytes) -> Option<Operation> {
        let n = self.number(b.u8());
        let server = self.servers.get_mut(&n)?;
        server.weight = weight(b);
        let set = ServerPatch { weight: Some(server.weight), ..ServerPatch::default() };
        Some(Operation::SetServer { service: self.service.address, address: server.address, set })
    }

    /// Changes how new flows are placed.
    pub fn rearrange(&mut self, b: &mut Bytes) -> Operation {
        let (scheduler, sched_flags) = scheduler(b);
        let persistence = persistence(b, self.service.address, if self.index == 5 { 255 } else { 64 });
        self.service = NewService { scheduler, sched_flags, persistence, ..self.service.clone() };
        let set = ServicePatch {
            scheduler: Some(scheduler),
            sched_flags: Some(self.service.sched_flags.clone()),
            persistence: Some(persistence),
            ..ServicePatch::default()
        };
        Operation::SetService { address: self.service.address, set }
    }
}

fn weight(b: &mut Bytes) -> u32 {
    match b.u8() {
        0..32 => 0,
        32..40 => i32::MAX as u32,
        n => u32::from(n % 8) + 1,
    }
}

fn scheduler(b: &mut Bytes) -> (Scheduler, std::collections::BTreeSet<SchedFlag>) {
    let scheduler = Scheduler::ALL[usize::from(b.u8()) % Scheduler::ALL.len()];
    let hashing = matches!(scheduler, Scheduler::Sh | Scheduler::Mh);
    let bits = b.u8();
    let flags = [(1, SchedFlag::Fallback), (2, SchedFlag::Port)];
    (scheduler, flags.into_iter().filter(|(bit, _)| hashing && bits & bit != 0).map(|(_, f)| f).collect())
}

/// Persistence in `share` of 255 cases.
fn persistence(b: &mut Bytes, key: ServiceKey, share: u8) -> Option<Persistence> {
    let prefix_len = match (b.u8(), key.is_ipv6()) {
        (0..128, _) => None,
        (_, false) => Some(24),
        (_, true) => Some(64),
    };
    (b.u8() <= share).then_some(Persistence { timeout_s: 300, prefix_len })
}

/// The address of client `n`.
pub fn client_ip(n: u8, ipv6: bool) -> IpAddr {
    if ipv6 { ip(&format!("2001:db8:1::{n:x}")) } else { IpAddr::from([10, 1, 0, n]) }
}
