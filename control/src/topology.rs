//! Interfaces and routes as numbers: what the configuration's ports and VLANs become.

use std::net::IpAddr;

use dataplane::snapshot::{DeviceWork, IfaceId, InterfaceSpec};
use dataplane::units::{Ip, Mac, PortId};

use crate::config::{Config, Route};
use crate::model::Network;

/// One interface: a port's untagged frames, or one of its VLANs.
#[derive(Clone, Debug, PartialEq)]
pub struct Interface {
    /// What the dataplane is told of it.
    pub spec: InterfaceSpec,
    /// The port's name.
    pub port_name: String,
}

/// Interfaces by number, and static routes. The numbers depend on ports and VLANs only,
/// which do not change while the daemon runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Topology {
    /// The interfaces by [`IfaceId`].
    pub interfaces: Vec<Interface>,
    /// Static routes, the longest prefix first.
    pub routes: Vec<Route>,
    /// What the ports' devices do, by port.
    pub devices: Vec<DeviceWork>,
}

/// How the director reaches an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The interface.
    pub iface: IfaceId,
    /// The next hop on it: the destination itself, or a gateway.
    pub next_hop: Ip,
    /// The director's own address on it, of the destination's family.
    pub source: Ip,
    /// Whether the next hop is a gateway.
    pub gateway: bool,
}

impl Topology {
    /// The interfaces of `config`; `macs` are the ports' Ethernet addresses.
    pub fn new(config: &Config, macs: &[Mac]) -> Self {
        let mut interfaces = Vec::new();
        for (n, port) in config.ports.iter().enumerate() {
            let mac = macs.get(n).copied().unwrap_or_default();
            let mut add = |vlan: Option<u16>, addresses: &[Network]| {
                let spec = InterfaceSpec {
                    port: PortId(n as u16),
                    vlan,
                    mac,
                    mtu: port.mtu,
                    addresses: addresses.iter().map(|a| (Ip::from(a.ip), a.prefix_len)).collect(),
                };
                interfaces.push(Interface { spec, port_name: port.name.clone() });
            };
            add(None, &port.addresses);
            for v in &port.vlans {
                add(Some(v.id), &v.addresses);
            }
        }
        let mut routes = config.routes.clone();
        routes.sort_by_key(|r| std::cmp::Reverse(r.to.prefix_len));
        Self { interfaces, routes, devices: Vec::new() }
    }

    /// An interface by number.
    pub fn interface(&self, id: IfaceId) -> Option<&Interface> {
        self.interfaces.get(usize::from(id.0))
    }

    /// The interfaces with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (IfaceId, &Interface)> {
        self.interfaces.iter().enumerate().map(|(n, i)| (IfaceId(n as u16), i))
    }

    /// Whether `ip` is one of the director's own addresses.
    pub fn owns(&self, ip: Ip) -> bool {
        self.interfaces.iter().any(|i| i.spec.addresses.iter().any(|(a, _)| *a == ip))
    }

    /// The connected network that `ip` is in, longest prefix first, with the own address in it.
    pub fn connected(&self, ip: Ip) -> Option<(IfaceId, Ip, u8)> {
        let all = self.iter().flat_map(|(id, i)| i.spec.addresses.iter().map(move |(a, len)| (id, *a, *len)));
        let inside = all.filter(|(_, a, len)| a.is_v4() == ip.is_v4() && a.masked(*len) == ip.masked(*len));
        // Among equals the first interface wins, as in the dataplane.
        inside.reduce(|best, x| if x.2 > best.2 { x } else { best })
    }

    /// Longest-prefix match over connected networks and static routes.
    pub fn way(&self, ip: Ip) -> Option<Way> {
        let connected = self.connected(ip);
        let to: IpAddr = ip.to_std();
        let route = self.routes.iter().find(|r| r.to.contains(to));
        match (connected, route) {
            (Some((iface, source, len)), r) if r.is_none_or(|r| r.to.prefix_len <= len) => {
                Some(Way { iface, next_hop: ip, source, gateway: false })
            }
            (_, Some(r)) => self.gateway(r),
            _ => None,
        }
    }

    /// The way that a static route takes.
    pub fn gateway(&self, route: &Route) -> Option<Way> {
        let via = Ip::from(route.via);
        let (iface, source, _) = self.connected(via)?;
        Some(Way { iface, next_hop: via, source, gateway: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let text = "[[port]]\nname = \"a\"\ndevice = \"x\"\naddresses = [\"10.3.0.1/24\", \"10.3.0.129/25\"]\n\
                    vlans = [{ id = 5, addresses = [\"10.5.0.1/16\"] }]\n\
                    [[route]]\nto = \"default\"\nvia = \"10.3.0.2\"\n[[route]]\nto = \"10.5.7.0/24\"\nvia = \"10.3.0.200\"\n";
        let config = crate::config::parse("t", text).unwrap();
        let t = Topology::new(&config, &[Mac([2, 0, 0, 0, 0, 1])]);
        let way = |ip: &str| {
            let w = t.way(ip.parse::<IpAddr>().unwrap().into()).unwrap();
            format!("{} {} {}", w.iface.0, w.next_hop, w.source)
        };
        assert_eq!(way("10.3.0.9"), "0 10.3.0.9 10.3.0.1");
        assert_eq!(way("10.3.0.200"), "0 10.3.0.200 10.3.0.129");
        assert_eq!(way("10.5.1.1"), "1 10.5.1.1 10.5.0.1");
        assert_eq!(way("10.5.7.1"), "0 10.3.0.200 10.3.0.129");
        assert_eq!(way("192.0.2.1"), "0 10.3.0.2 10.3.0.1");
        assert!(t.way("2001:db8::1".parse::<IpAddr>().unwrap().into()).is_none());
    }
}
