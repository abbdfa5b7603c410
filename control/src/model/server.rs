//! A real server of one service.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::service::named;
use super::{Error, ErrorCode, ServerKey, Service, ServiceKey};

named! {
    /// How packets reach a real server.
    #[derive(Default)]
    ForwardingMode, "forwarding mode" {
        /// The frame is re-addressed, the packet left as it is.
        #[default]
        DirectRouting = "direct-routing" | "dr" | "gatewaying" | "route",
        /// Destination address and port are rewritten; replies come back through the director.
        Nat = "nat" | "masquerading" | "masq",
        /// The packet is wrapped and sent to the real server's address.
        Tunnel = "tunnel" | "ipip" | "tun",
        /// Like NAT, and the client's address is replaced by a local one.
        FullNat = "full-nat" | "fullnat",
    }
}

named! {
    /// What protects the outer packet of GUE.
    #[derive(Default)]
    GueChecksum, "checksum choice" {
        /// The outer UDP checksum is zero.
        #[default]
        None = "none",
        /// The outer UDP checksum is filled in.
        Udp = "udp",
        /// Remote checksum offload.
        Remote = "remote",
    }
}

/// How a tunnel wraps packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Tunnel {
    /// IP in IP (RFC 2003, RFC 2473).
    #[default]
    Ipip,
    /// Generic routing encapsulation (RFC 2784).
    Gre {
        /// With the checksum field.
        #[serde(default)]
        checksum: bool,
    },
    /// Generic UDP encapsulation.
    Gue {
        /// UDP port at the real server.
        port: u16,
        /// What protects the outer packet.
        #[serde(default)]
        checksum: GueChecksum,
    },
    /// VXLAN (RFC 7348).
    Vxlan {
        /// UDP port at the real server.
        #[serde(default = "vxlan_port")]
        port: u16,
        /// Network identifier, 24 bits.
        vni: u32,
    },
}

const fn vxlan_port() -> u16 {
    4789
}

impl Tunnel {
    /// The wrapping's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ipip => "ipip",
            Self::Gre { .. } => "gre",
            Self::Gue { .. } => "gue",
            Self::Vxlan { .. } => "vxlan",
        }
    }
    fn is_ipip(&self) -> bool {
        *self == Self::Ipip
    }
}

/// The largest weight and the largest threshold: the kernel's.
const MOST: u32 = i32::MAX as u32;

/// A real server of one service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RealServer {
    /// Address and port.
    pub address: ServerKey,
    /// How packets reach it.
    #[serde(default)]
    pub mode: ForwardingMode,
    /// The wrapping, with mode `tunnel`.
    #[serde(default, skip_serializing_if = "Tunnel::is_ipip")]
    pub tunnel: Tunnel,
    /// Share of new flows, 0 to 2147483647; 0 drains it: it keeps its flows and takes no new ones.
    #[serde(default = "one")]
    pub weight: u32,
    /// Takes no new flow at this many connections; 0 is no limit.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub upper_threshold: u32,
    /// Takes new flows again below this many; 0 means three quarters of the upper one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lower_threshold: u32,
}

const fn one() -> u32 {
    1
}
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// A real server to add. What it leaves out gets its default.
pub type NewServer = RealServer;

impl RealServer {
    /// A server with defaults: direct routing, weight 1.
    pub fn new(address: ServerKey) -> Self {
        Self {
            address,
            mode: ForwardingMode::default(),
            tunnel: Tunnel::Ipip,
            weight: 1,
            upper_threshold: 0,
            lower_threshold: 0,
        }
    }
}

/// What to change about a real server. A field that is left out keeps its value.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerPatch {
    /// How packets reach it. Flows that are open keep theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ForwardingMode>,
    /// The wrapping, with mode `tunnel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Tunnel>,
    /// Share of new flows, 0 to 2147483647; 0 drains it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Takes no new flow at this many connections; 0 is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper_threshold: Option<u32>,
    /// Takes new flows again below this many; 0 means three quarters of the upper one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower_threshold: Option<u32>,
}

impl Service {
    /// Adds a real server after the others.
    pub fn add_server(&mut self, new: &NewServer) -> Result<(), Error> {
        let mut server = new.clone();
        server.address = self.normal(&server.address);
        self.check_thresholds(&server)?;
        if self.server(&server.address).is_some() {
            let m = format!("the service {} has the real server {} already", self.address, server.address);
            return Err(Error::new(ErrorCode::ServerExists, m).remedy("change it instead of adding it"));
        }
        self.check_server(&server)?;
        self.servers.push(server);
        Ok(())
    }

    /// Changes a real server.
    pub fn set_server(&mut self, key: &ServerKey, patch: &ServerPatch) -> Result<(), Error> {
        let key = self.normal(key);
        if let (Some(upper_threshold), Some(lower_threshold)) = (patch.upper_threshold, patch.lower_threshold) {
            self.check_thresholds(&RealServer { upper_threshold, lower_threshold, ..RealServer::new(key) })?;
        }
        let Some(at) = self.servers.iter().position(|s| s.address == key) else {
            return Err(Error::no_such_server(&self.address, &key));
        };
        let mut s = self.servers[at].clone();
        s.mode = patch.mode.unwrap_or(s.mode);
        s.tunnel = match (patch.tunnel, s.mode) {
            (Some(t), _) => t,
            // Leaving the tunnel mode leaves its wrapping behind.
            (None, ForwardingMode::Tunnel) => s.tunnel,
            (None, _) => Tunnel::Ipip,
        };
        s.weight = patch.weight.unwrap_or(s.weight);
        s.upper_threshold = patch.upper_threshold.unwrap_or(s.upper_threshold);
        s.lower_threshold = patch.lower_threshold.unwrap_or(s.lower_threshold);
        self.check_server(&s)?;
        self.servers[at] = s;
        Ok(())
    }

    /// Removes a real server.
    pub fn delete_server(&mut self, key: &ServerKey) -> Result<(), Error> {
        let key = self.normal(key);
        let Some(at) = self.servers.iter().position(|s| s.address == key) else {
            return Err(Error::no_such_server(&self.address, &key));
        };
        self.servers.remove(at);
        Ok(())
    }

    /// The rules of one real server behind this service.
    fn check_server(&self, s: &RealServer) -> Result<(), Error> {
        let (key, at) = (self.address, s.address);
        let mode = s.mode.name();
        if !is_unicast(at.ip) {
            let m = format!("the real server {at} of {key} has an address that is no host's");
            return Err(Error::invalid("address", m).remedy("give the address of one host"));
        }
        if let ServiceKey::Address { port, .. } = key
            && matches!(s.mode, ForwardingMode::DirectRouting | ForwardingMode::Tunnel)
            && at.port != port
        {
            let m = format!("the real server {at} of {key} has port {}, which mode `{mode}` cannot reach", at.port);
            return Err(Error::invalid("address", m)
                .remedy(format!("direct routing and tunnels leave the packet's port: use {port}, or mode `nat`")));
        }
        if at.ip.is_ipv6() != key.is_ipv6() && s.mode != ForwardingMode::Tunnel {
            let m = format!("the real server {at} is of another address family than {key}, with mode `{mode}`");
            return Err(Error::invalid("address", m).remedy("only mode `tunnel` carries one family over the other"));
        }
        if s.mode == ForwardingMode::FullNat && self.one_packet {
            let m = format!("mode `full-nat` for {at} of {key} needs flows, which one-packet scheduling has none of");
            return Err(Error::invalid("mode", m).remedy("leave `one_packet` out, or use another mode"));
        }
        if s.mode != ForwardingMode::Tunnel && s.tunnel != Tunnel::Ipip {
            let m =
                format!("the real server {at} of {key} has a tunnel of type {} with mode `{mode}`", s.tunnel.name());
            return Err(Error::invalid("tunnel", m).remedy("leave `tunnel` out, or use mode `tunnel`"));
        }
        for (field, n) in
            [("weight", s.weight), ("upper_threshold", s.upper_threshold), ("lower_threshold", s.lower_threshold)]
        {
            if n > MOST {
                let m = format!("the real server {at} of {key} has `{field}` {n}");
                return Err(Error::invalid(field, m).remedy(format!("it is at most {MOST}")));
            }
        }
        check_tunnel(s)?;
        self.check_server_extras(s)?;
        self.check_thresholds(s)
    }

    /// Looked at before anything else, as the kernel does.
    fn check_thresholds(&self, s: &RealServer) -> Result<(), Error> {
        if s.lower_threshold <= s.upper_threshold {
            return Ok(());
        }
        let m = format!(
            "the real server {} of {} has a lower threshold of {} above its upper one of {}",
            s.address, self.address, s.lower_threshold, s.upper_threshold
        );
        Err(Error::invalid("lower_threshold", m).remedy("the lower threshold is at most the upper one"))
    }
}

/// Whether an address is that of one host, which packets may be routed to.
fn is_unicast(ip: std::net::IpAddr) -> bool {
    match ip {
        std::net::IpAddr::V4(ip) => !(ip.octets()[0] == 0 || ip.is_broadcast() || ip.is_multicast()),
        std::net::IpAddr::V6(ip) => !(ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local()),
    }
}

fn check_tunnel(s: &RealServer) -> Result<(), Error> {
    let at = s.address;
    match s.tunnel {
        Tunnel::Gue { port: 0, .. } | Tunnel::Vxlan { port: 0, .. } => {
            Err(Error::invalid("tunnel", format!("the tunnel to {at} has port 0")).remedy("give the server's UDP port"))
        }
        Tunnel::Vxlan { vni, .. } if vni >= 1 << 24 => {
            Err(Error::invalid("tunnel", format!("the tunnel to {at} has VNI {vni}")).remedy("a VNI has 24 bits"))
        }
        _ => Ok(()),
    }
}
