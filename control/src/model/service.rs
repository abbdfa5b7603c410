//! A service: what it takes and how it chooses real servers.

use std::collections::BTreeSet;

use dataplane::units::Protocol;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Error, ForwardingMode, MarkRule, NewServer, RealServer, ServerKey, ServiceKey, is_false, present};

macro_rules! named {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$vdoc:meta])* $variant:ident = $text:literal $(| $alias:literal)*,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, schemars::JsonSchema)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text $(, alias = $alias)*)] $variant,)+ }
        impl $name {
            /// All values.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];
            /// The name in configuration, API and listings.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }
        impl std::str::FromStr for $name {
            type Err = super::ParseError;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                match s {
                    $($text $(| $alias)* => Ok($name::$variant),)+
                    _ => Err(super::ParseError(format!(concat!("`{}` is no ", $what, "; there are {}"), s, [$($text),+].join(", ")))),
                }
            }
        }
    };
}
pub(crate) use named;

named! {
    /// Who gets a new flow. Names as ipvsadm has them.
    #[derive(Default)]
    Scheduler, "scheduler" {
        /// Round robin.
        Rr = "rr",
        /// Weighted round robin.
        Wrr = "wrr",
        /// Least connection.
        Lc = "lc",
        /// Weighted least connection.
        #[default]
        Wlc = "wlc",
        /// Shortest expected delay.
        Sed = "sed",
        /// Never queue: an idle server first, else as sed.
        Nq = "nq",
        /// Destination hashing.
        Dh = "dh",
        /// Source hashing.
        Sh = "sh",
        /// Maglev hashing.
        Mh = "mh",
        /// Locality-based least connection.
        Lblc = "lblc",
        /// Locality-based least connection with replication.
        Lblcr = "lblcr",
        /// Weighted fail-over: the highest weight that is available.
        Fo = "fo",
        /// Weighted overflow: the highest weight until its connections exceed it.
        Ovf = "ovf",
        /// The less loaded of two random choices.
        Twos = "twos",
    }
}

named! {
    /// Flags of the hashing schedulers.
    SchedFlag, "scheduler flag" {
        /// sh, mh: when the chosen server is unusable, take another one.
        Fallback = "fallback" | "sh-fallback" | "mh-fallback" | "flag-1",
        /// sh, mh: the client's port is hashed as well.
        Port = "port" | "sh-port" | "mh-port" | "flag-2",
        /// The third flag of the kernel's interface; no scheduler uses it.
        Flag3 = "flag-3",
    }
}

named! {
    /// How real servers are told a client's address, besides by the packet's source.
    #[derive(Default)]
    ClientAddress, "way to tell a client's address" {
        /// Not at all.
        #[default]
        None = "none",
        /// By the PROXY protocol, version 2, in front of the first data.
        Proxy = "proxy" | "proxy-v2",
        /// By a TCP option (kind 254) in the segments that open the connection.
        Toa = "toa",
    }
}

impl ClientAddress {
    /// Whether it is the default.
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// Flows of one client go to one real server, for as long as they come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Persistence {
    /// How long a client without flows is remembered, seconds (1 to 2,678,400).
    #[serde(default = "default_persistence_s")]
    pub timeout_s: u32,
    /// Clients that agree in this many leading bits of their address count as one:
    /// 1 to 32 (default) for IPv4, 1 to 128 (default) for IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_len: Option<u8>,
}

/// As `ipvsadm -p` without a number.
pub(crate) const fn default_persistence_s() -> u32 {
    360
}

/// Longest persistence, as ipvsadm has it: 31 days. The dataplane is given at most
/// [`Persistence::MOST_MS`], what its clock can express.
pub(crate) const MAX_TIMEOUT_S: u32 = 31 * 24 * 3600;

impl Persistence {
    /// Longest time-out that the dataplane's clock can express, milliseconds (24 days).
    pub const MOST_MS: u32 = 24 * 24 * 3600 * 1000;
}

/// A virtual service with its real servers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// What names it: `tcp:10.9.0.1:80`, or `fwm:7` for a firewall mark.
    pub address: ServiceKey,
    /// Who gets a new flow.
    #[serde(default)]
    pub scheduler: Scheduler,
    /// Flags of the scheduler.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub sched_flags: BTreeSet<SchedFlag>,
    /// Persistence, if wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<Persistence>,
    /// Every UDP packet is scheduled by itself.
    #[serde(default, skip_serializing_if = "is_false")]
    pub one_packet: bool,
    /// How real servers are told clients' addresses.
    #[serde(default, skip_serializing_if = "ClientAddress::is_none")]
    pub client_address: ClientAddress,
    /// Follow FTP's control connection to its data connections.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ftp: bool,
    /// For a firewall mark: what traffic carries it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<MarkRule>,
    /// The real servers in the order in which they were added.
    #[serde(default)]
    pub servers: Vec<RealServer>,
}

/// A service to add, with or without real servers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewService {
    /// What names it: `tcp:10.9.0.1:80`, or `fwm:7` for a firewall mark.
    pub address: ServiceKey,
    /// Who gets a new flow.
    #[serde(default)]
    pub scheduler: Scheduler,
    /// Flags of the scheduler.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub sched_flags: BTreeSet<SchedFlag>,
    /// Persistence, if wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<Persistence>,
    /// Every UDP packet is scheduled by itself.
    #[serde(default, skip_serializing_if = "is_false")]
    pub one_packet: bool,
    /// How real servers are told clients' addresses.
    #[serde(default, skip_serializing_if = "ClientAddress::is_none")]
    pub client_address: ClientAddress,
    /// Follow FTP's control connection to its data connections.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ftp: bool,
    /// For a firewall mark: what traffic carries it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<MarkRule>,
    /// The real servers in the order in which they are to be added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<NewServer>,
}

impl From<&Service> for NewService {
    fn from(s: &Service) -> Self {
        Self::with_servers(s, &s.servers)
    }
}

impl NewService {
    /// A service with other real servers than it has.
    pub fn with_servers(s: &Service, servers: &[RealServer]) -> Self {
        Self {
            address: s.address,
            scheduler: s.scheduler,
            sched_flags: s.sched_flags.clone(),
            persistence: s.persistence,
            one_packet: s.one_packet,
            client_address: s.client_address,
            ftp: s.ftp,
            rules: s.rules.clone(),
            servers: servers.to_vec(),
        }
    }

    /// A service with defaults and no real server.
    pub fn new(address: ServiceKey) -> Self {
        Self {
            address,
            scheduler: Scheduler::default(),
            sched_flags: BTreeSet::new(),
            persistence: None,
            one_packet: false,
            client_address: ClientAddress::None,
            ftp: false,
            rules: Vec::new(),
            servers: Vec::new(),
        }
    }

    /// The service, if it obeys the rules.
    pub fn validate(&self) -> Result<Service, Error> {
        let mut s = Service {
            address: self.address,
            scheduler: self.scheduler,
            sched_flags: self.sched_flags.clone(),
            persistence: self.persistence,
            one_packet: self.one_packet,
            client_address: self.client_address,
            ftp: self.ftp,
            rules: self.rules.clone(),
            servers: Vec::new(),
        };
        s.check()?;
        for new in &self.servers {
            s.add_server(new)?;
        }
        Ok(s)
    }
}

/// What to change about a service. A field that is left out keeps its value.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServicePatch {
    /// Who gets a new flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    /// Flags of the scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sched_flags: Option<BTreeSet<SchedFlag>>,
    /// Persistence; `null` ends it.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub persistence: Option<Option<Persistence>>,
    /// Every UDP packet is scheduled by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_packet: Option<bool>,
    /// How real servers are told clients' addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_address: Option<ClientAddress>,
    /// Follow FTP's control connection to its data connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ftp: Option<bool>,
    /// For a firewall mark: what traffic carries it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<MarkRule>>,
}

/// Most rules of a firewall mark.
pub(crate) const MAX_RULES: usize = 256;

impl Service {
    /// The real server of this key.
    pub fn server(&self, key: &ServerKey) -> Option<&RealServer> {
        let key = self.normal(key);
        self.servers.iter().find(|s| s.address == key)
    }

    /// The key with the service's port where it names none.
    pub fn normal(&self, key: &ServerKey) -> ServerKey {
        ServerKey { ip: key.ip, port: if key.port == 0 { self.address.port() } else { key.port } }
    }

    /// Applies a change to a copy and checks it.
    pub fn patched(&self, patch: &ServicePatch) -> Result<Self, Error> {
        let mut s = self.clone();
        let p = patch.clone();
        s.scheduler = p.scheduler.unwrap_or(s.scheduler);
        s.sched_flags = p.sched_flags.unwrap_or(s.sched_flags);
        s.persistence = p.persistence.unwrap_or(s.persistence);
        s.one_packet = p.one_packet.unwrap_or(s.one_packet);
        s.client_address = p.client_address.unwrap_or(s.client_address);
        s.ftp = p.ftp.unwrap_or(s.ftp);
        s.rules = p.rules.unwrap_or(s.rules);
        s.check()?;
        Ok(s)
    }

    /// The rules of one service, its servers aside.
    pub(super) fn check(&self) -> Result<(), Error> {
        let key = self.address;
        if let Some(p) = self.persistence {
            if p.timeout_s == 0 || p.timeout_s > MAX_TIMEOUT_S {
                let m = format!("persistence of {} s for {key} is out of range", p.timeout_s);
                return Err(Error::invalid("persistence", m).remedy(format!("give 1 to {MAX_TIMEOUT_S} seconds")));
            }
            // As in the kernel, all clients of IPv4 may be one.
            let bits = if key.is_ipv6() { 1..=128 } else { 0..=32 };
            if p.prefix_len.is_some_and(|l| !bits.contains(&l)) {
                let m = format!("persistence prefix length {} for {key} is out of range", p.prefix_len.unwrap_or(0));
                return Err(Error::invalid("persistence", m).remedy(format!(
                    "give {} to {} bits",
                    bits.start(),
                    bits.end()
                )));
            }
        } else if let ServiceKey::Address { port: 0, .. } = key {
            let m = format!("the service {key} has port 0 and no persistence");
            return Err(Error::invalid("address", m).remedy("give it a port, or persistence: port 0 takes every port"));
        }
        self.check_one_packet()?;
        self.check_extras()?;
        self.check_rules()
    }

    fn check_one_packet(&self) -> Result<(), Error> {
        let udp = matches!(self.address, ServiceKey::Mark { .. } | ServiceKey::Address { protocol: Protocol::Udp, .. });
        if self.one_packet
            && let Some(r) = self.servers.iter().find(|r| r.mode == ForwardingMode::FullNat)
        {
            let m = format!("one-packet scheduling keeps no flows, which mode `full-nat` of {} needs", r.address);
            return Err(Error::invalid("one_packet", m).remedy("leave `one_packet` out, or use another mode"));
        }
        if self.one_packet && !udp {
            let m = format!("one-packet scheduling is for UDP, not for {}", self.address);
            return Err(Error::invalid("one_packet", m).remedy("leave `one_packet` out"));
        }
        Ok(())
    }

    /// What is done to TCP connections needs TCP, and servers whose replies come back.
    fn check_extras(&self) -> Result<(), Error> {
        let tcp = matches!(self.address, ServiceKey::Mark { .. } | ServiceKey::Address { protocol: Protocol::Tcp, .. });
        let key = self.address;
        if self.client_address != ClientAddress::None && !tcp {
            let m = format!("{} tells a client's address in a TCP connection, not to {key}", self.client_address);
            return Err(Error::invalid("client_address", m).remedy("leave `client_address` out"));
        }
        if self.ftp && !tcp {
            return Err(Error::invalid("ftp", format!("FTP goes over TCP, not over {key}")).remedy("leave `ftp` out"));
        }
        self.servers.iter().try_for_each(|r| self.check_server_extras(r))
    }

    pub(super) fn check_server_extras(&self, r: &RealServer) -> Result<(), Error> {
        let (at, mode) = (r.address, r.mode);
        if self.client_address != ClientAddress::None && !matches!(mode, ForwardingMode::Nat | ForwardingMode::FullNat)
        {
            let m = format!(
                "client_address `{}` needs the replies of {at}, which mode `{mode}` does not see",
                self.client_address
            );
            return Err(Error::invalid("mode", m)
                .remedy("use mode `full-nat` or `nat`; this mode shows the client's address anyway"));
        }
        if self.ftp && mode != ForwardingMode::Nat {
            let m = format!("the service follows FTP, which mode `{mode}` of {at} does not allow");
            return Err(Error::invalid("mode", m).remedy("use mode `nat`, or leave `ftp` out"));
        }
        Ok(())
    }

    fn check_rules(&self) -> Result<(), Error> {
        let key = self.address;
        if self.rules.is_empty() {
            return Ok(());
        }
        if !matches!(key, ServiceKey::Mark { .. }) {
            let m = format!("the service {key} has rules, which only a firewall mark can have");
            return Err(Error::invalid("rules", m).remedy("leave `rules` out, or name the service `fwm:N`"));
        }
        if let Some(r) = self.rules.iter().find(|r| r.network.prefix_len == 0) {
            // It would make every address in the world the director's own.
            return Err(Error::invalid("rules", format!("the rule {r} of {key} takes every address"))
                .remedy("name networks with a prefix length of at least 1"));
        }
        if self.rules.len() > MAX_RULES {
            let m = format!("the service {key} has {} rules", self.rules.len());
            return Err(Error::invalid("rules", m).remedy(format!("a mark has at most {MAX_RULES}")));
        }
        match self.rules.iter().find(|r| r.network.ip.is_ipv6() != key.is_ipv6()) {
            Some(r) => Err(Error::invalid("rules", format!("the rule {r} is of another address family than {key}"))
                .remedy("use `fwm:N` for IPv4 and `fwm6:N` for IPv6")),
            None => Ok(()),
        }
    }
}
