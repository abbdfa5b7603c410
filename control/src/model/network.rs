//! Networks, and the rules of firewall marks that are made of them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use dataplane::units::Protocol;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::key::{ParseError, as_string, protocol_from_name, protocol_name};

/// A network, `10.9.0.0/24` or `2001:db8::/32`; an address alone is a host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    /// The address. Bits beyond the prefix are kept: an interface address has them.
    pub ip: IpAddr,
    /// Prefix length within the family.
    pub prefix_len: u8,
}
as_string!(Network);

impl Network {
    /// Whether this is a single address.
    pub fn is_host(&self) -> bool {
        self.prefix_len == if self.ip.is_ipv4() { 32 } else { 128 }
    }
    /// Whether `ip` is inside.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let (a, b) = (dataplane::units::Ip::from(self.ip), dataplane::units::Ip::from(ip));
        self.ip.is_ipv4() == ip.is_ipv4() && a.masked(self.prefix_len) == b.masked(self.prefix_len)
    }
    /// Whether bits beyond the prefix are set.
    pub fn has_host_bits(&self) -> bool {
        dataplane::units::Ip::from(self.ip).masked(self.prefix_len).to_std() != self.ip
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix_len)
    }
}

impl FromStr for Network {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let wrong = |why: String| ParseError(format!("`{s}` is not a network: {why}; write `10.3.0.0/24`"));
        let (ip, len) = match s.split_once('/') {
            Some((ip, len)) => (ip, Some(len)),
            None => (s, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| wrong(format!("`{ip}` is not an IP address")))?;
        if matches!(ip, IpAddr::V6(a) if a.to_ipv4_mapped().is_some()) {
            return Err(wrong("an IPv4 address is written as such".into()));
        }
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let prefix_len = match len {
            None => most,
            Some(l) => l
                .parse()
                .ok()
                .filter(|l| *l <= most)
                .ok_or_else(|| wrong(format!("the prefix length is a number from 0 to {most}")))?,
        };
        Ok(Self { ip, prefix_len })
    }
}

/// What a firewall-mark service takes, written `tcp:10.9.0.1:80`, `udp:10.9.0.0/24:5000-5010`,
/// `tcp:[2001:db8::/32]:443`, or with `any` for the protocol and without ports for all of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct MarkRule {
    /// Protocol, or any.
    pub protocol: Option<Protocol>,
    /// Destination network.
    pub network: Network,
    /// First destination port.
    pub port_first: u16,
    /// Last destination port.
    pub port_last: u16,
}
as_string!(MarkRule);

impl fmt::Display for MarkRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.network;
        write!(f, "{}:", self.protocol.map_or("any", protocol_name))?;
        match (n.ip, n.is_host()) {
            (IpAddr::V4(ip), true) => write!(f, "{ip}")?,
            (IpAddr::V4(_), false) => write!(f, "{n}")?,
            (IpAddr::V6(ip), true) => write!(f, "[{ip}]")?,
            (IpAddr::V6(_), false) => write!(f, "[{n}]")?,
        }
        match (self.port_first, self.port_last) {
            (0, u16::MAX) => Ok(()),
            (a, b) if a == b => write!(f, ":{a}"),
            (a, b) => write!(f, ":{a}-{b}"),
        }
    }
}

impl FromStr for MarkRule {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let wrong = |why: String| {
            ParseError(format!(
                "`{s}` is not a rule of a mark: {why}; write `tcp:10.9.0.1:80` or `any:10.9.0.0/24:1-1023`"
            ))
        };
        let (kind, rest) = s.split_once(':').ok_or_else(|| wrong("the protocol is missing".into()))?;
        let protocol = match kind {
            "any" => None,
            _ => Some(
                protocol_from_name(kind).ok_or_else(|| wrong("the protocol is none of tcp, udp, sctp, any".into()))?,
            ),
        };
        let (network, ports) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (n, rest) = rest.split_once(']').ok_or_else(|| wrong("`]` is missing".into()))?;
                match rest {
                    "" => (n, None),
                    _ => (n, Some(rest.strip_prefix(':').ok_or_else(|| wrong("after `]` comes a colon".into()))?)),
                }
            }
            None => match rest.split_once(':') {
                Some((n, ports)) => (n, Some(ports)),
                None => (rest, None),
            },
        };
        let network: Network = network.parse().map_err(|e: ParseError| wrong(e.0))?;
        if network.has_host_bits() {
            return Err(wrong(format!("`{network}` has bits set beyond its prefix")));
        }
        let (port_first, port_last) = match ports {
            None => (0, u16::MAX),
            Some(p) => {
                let (a, b) = p.split_once('-').unwrap_or((p, p));
                let port = |p: &str| p.parse::<u16>().map_err(|_| wrong(format!("`{p}` is not a port (0–65535)")));
                (port(a)?, port(b)?)
            }
        };
        if port_first > port_last {
            return Err(wrong("the first port is above the last".into()));
        }
        Ok(Self { protocol, network, port_first, port_last })
    }
}
