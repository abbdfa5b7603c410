//! What names a service and a real server: `tcp:10.9.0.1:80`, `fwm:7`, `10.2.0.11:8080`.

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use dataplane::units::Protocol;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A string that is not what was asked for: the sentence says what is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub String);

macro_rules! as_string {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = ParseError;
            fn try_from(s: String) -> Result<Self, ParseError> {
                s.parse()
            }
        }
        impl From<$name> for String {
            fn from(v: $name) -> String {
                v.to_string()
            }
        }
        // As a string, without making one first: statistics have one for each real server.
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
    };
}
pub(super) use as_string;

/// The identity of a service, written `tcp:10.9.0.1:80`, `udp:[2001:db8::1]:53`,
/// `sctp:10.9.0.1:3868`, or `fwm:7` (`fwm6:7` for IPv6) for a firewall mark.
///
/// Ordered as ipvsadm lists them: by family, protocol, address and port, firewall marks last.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub enum ServiceKey {
    /// A firewall mark.
    Mark {
        /// IPv6 rather than IPv4.
        ipv6: bool,
        /// The number, not 0.
        mark: u32,
    },
    /// Protocol, VIP and port.
    Address {
        /// The protocol.
        protocol: Protocol,
        /// The VIP.
        vip: IpAddr,
        /// The port; 0 takes every port that has no service of its own.
        port: u16,
    },
}
as_string!(ServiceKey);

impl Ord for ServiceKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.listing_order().cmp(&other.listing_order())
    }
}
impl PartialOrd for ServiceKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl ServiceKey {
    /// What listings sort by: mark (none first), family, protocol, address, port.
    fn listing_order(&self) -> (u32, bool, u8, Option<IpAddr>, u16) {
        match *self {
            Self::Mark { ipv6, mark } => (mark, ipv6, 0, None, 0),
            Self::Address { protocol, vip, port } => (0, vip.is_ipv6(), order(protocol), Some(vip), port),
        }
    }
    /// Whether the service is IPv6.
    pub fn is_ipv6(&self) -> bool {
        match self {
            Self::Mark { ipv6, .. } => *ipv6,
            Self::Address { vip, .. } => vip.is_ipv6(),
        }
    }
    /// The port that real servers get when they name none.
    pub fn port(&self) -> u16 {
        match self {
            Self::Mark { .. } => 0,
            Self::Address { port, .. } => *port,
        }
    }
    /// The VIP, unless this is a firewall mark.
    pub fn vip(&self) -> Option<IpAddr> {
        match self {
            Self::Mark { .. } => None,
            Self::Address { vip, .. } => Some(*vip),
        }
    }
}

/// TCP, UDP, SCTP.
fn order(p: Protocol) -> u8 {
    match p {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
        Protocol::Sctp => 2,
    }
}

/// The name of a protocol in keys: lower case.
pub fn protocol_name(p: Protocol) -> &'static str {
    match p {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

pub(super) fn protocol_from_name(s: &str) -> Option<Protocol> {
    match s {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        "sctp" => Some(Protocol::Sctp),
        _ => None,
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mark { ipv6: false, mark } => write!(f, "fwm:{mark}"),
            Self::Mark { ipv6: true, mark } => write!(f, "fwm6:{mark}"),
            Self::Address { protocol, vip: IpAddr::V4(vip), port } => {
                write!(f, "{}:{vip}:{port}", protocol_name(*protocol))
            }
            Self::Address { protocol, vip: IpAddr::V6(vip), port } => {
                write!(f, "{}:[{vip}]:{port}", protocol_name(*protocol))
            }
        }
    }
}

impl FromStr for ServiceKey {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let wrong = |why: &str| {
            ParseError(format!(
                "`{s}` is not a service: {why}; write `tcp:10.9.0.1:80`, `udp:[2001:db8::1]:53` or `fwm:7`"
            ))
        };
        let (kind, rest) = s.split_once(':').ok_or_else(|| wrong("the protocol is missing"))?;
        if kind == "fwm" || kind == "fwm6" {
            let mark = rest
                .parse()
                .ok()
                .filter(|m| *m != 0)
                .ok_or_else(|| wrong("a mark is a number from 1 to 4294967295"))?;
            return Ok(Self::Mark { mark, ipv6: kind == "fwm6" });
        }
        let protocol =
            protocol_from_name(kind).ok_or_else(|| wrong("the protocol is none of tcp, udp, sctp, fwm, fwm6"))?;
        let (vip, port) = split_address(rest).map_err(|why| wrong(&why))?;
        let port = port.ok_or_else(|| wrong("the port is missing"))?;
        check_unicast(vip).map_err(|why| wrong(&why))?;
        Ok(Self::Address { protocol, vip, port })
    }
}

/// The identity of a real server within its service: `10.2.0.11:8080`, `[2001:db8::11]:80`.
/// Without a port (or with port 0) it takes the service's; behind a service of any port
/// or a firewall mark it then keeps each packet's port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct ServerKey {
    /// The address.
    pub ip: IpAddr,
    /// The port, 0 for none.
    pub port: u16,
}
as_string!(ServerKey);

impl fmt::Display for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            IpAddr::V4(ip) => write!(f, "{ip}:{}", self.port),
            IpAddr::V6(ip) => write!(f, "[{ip}]:{}", self.port),
        }
    }
}

impl FromStr for ServerKey {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let wrong = |why: &str| {
            ParseError(format!("`{s}` is not a real server: {why}; write `10.2.0.11:80` or `[2001:db8::11]:80`"))
        };
        let (ip, port) = split_address(s).map_err(|why| wrong(&why))?;
        check_unicast(ip).map_err(|why| wrong(&why))?;
        Ok(Self { ip, port: port.unwrap_or(0) })
    }
}

/// `10.9.0.1`, `10.9.0.1:80`, `[2001:db8::1]`, `[2001:db8::1]:80`, `2001:db8::1`.
fn split_address(s: &str) -> Result<(IpAddr, Option<u16>), String> {
    let port_of = |p: &str| p.parse::<u16>().map(Some).map_err(|_| format!("`{p}` is not a port (0–65535)"));
    if let Some(rest) = s.strip_prefix('[') {
        let (ip, rest) = rest.split_once(']').ok_or("`]` is missing")?;
        let ip = ip.parse().map(IpAddr::V6).map_err(|_| format!("`{ip}` is not an IPv6 address"))?;
        let port = match rest {
            "" => None,
            _ => port_of(rest.strip_prefix(':').ok_or("after `]` comes a colon and the port")?)?,
        };
        return Ok((ip, port));
    }
    if let Ok(ip) = s.parse::<IpAddr>() {
        return Ok((ip, None));
    }
    match s.rsplit_once(':') {
        Some((ip, _)) if ip.contains(':') => Err("an IPv6 address with a port needs brackets".into()),
        Some((ip, port)) => {
            let ip = ip.parse().map_err(|_| format!("`{ip}` is not an IP address"))?;
            Ok((ip, port_of(port)?))
        }
        None => Err(format!("`{s}` is not an IP address")),
    }
}

/// Refuses addresses that no service and no server can have. IPv4-mapped IPv6 is refused
/// since the tables hold IPv4 in that form.
fn check_unicast(ip: IpAddr) -> Result<(), String> {
    let bad = match ip {
        IpAddr::V4(a) => a.is_unspecified() || a.is_multicast() || a.is_broadcast(),
        IpAddr::V6(a) => a.is_unspecified() || a.is_multicast() || a.to_ipv4_mapped().is_some(),
    };
    if bad { Err(format!("`{ip}` is not the address of one host")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MarkRule;

    #[test]
    fn keys_are_written_as_they_are_read() {
        for s in ["tcp:10.9.0.1:80", "udp:[2001:db8::1]:53", "sctp:10.9.0.1:0", "fwm:7", "fwm6:4294967295"] {
            assert_eq!(s.parse::<ServiceKey>().unwrap().to_string(), s);
        }
        for s in ["10.2.0.11:8080", "[2001:db8::11]:80"] {
            assert_eq!(s.parse::<ServerKey>().unwrap().to_string(), s);
        }
        for s in ["tcp:10.9.0.1:80", "any:10.9.0.0/24", "udp:[2001:db8::/32]:1-9", "sctp:[2001:db8::1]"] {
            assert_eq!(s.parse::<MarkRule>().unwrap().to_string(), s);
        }
        assert_eq!("2001:db8::11".parse::<ServerKey>().unwrap().to_string(), "[2001:db8::11]:0");
    }

    #[test]
    fn wrong_keys_are_told_what_is_wrong() {
        for (s, why) in [
            ("10.9.0.1:80", "the protocol is none of"),
            ("tcp:10.9.0.1", "the port is missing"),
            ("tcp:10.9.0.1:99999", "`99999` is not a port"),
            ("tcp:10.9.0.300:80", "`10.9.0.300` is not an IP address"),
            ("tcp:2001:db8::1:80", "the port is missing"),
            ("tcp:[2001:db8::1:80", "`]` is missing"),
            ("tcp:0.0.0.0:80", "not the address of one host"),
            ("fwm:0", "a mark is a number from 1"),
            ("", "the protocol is missing"),
        ] {
            let e = s.parse::<ServiceKey>().unwrap_err().0;
            assert!(e.contains(why), "{s}: {e}");
        }
    }

    #[test]
    fn keys_sort_as_listings_do() {
        let keys = ["tcp:9.0.0.1:9", "tcp:10.9.0.1:80", "udp:1.0.0.1:1", "tcp:[::2]:1", "fwm6:1", "fwm:2"];
        let parsed: Vec<ServiceKey> = keys.iter().map(|k| k.parse().unwrap()).collect();
        let mut sorted = parsed.clone();
        sorted.reverse();
        sorted.sort();
        assert_eq!(sorted, parsed);
    }
}
