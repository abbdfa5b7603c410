//! Ports, routes, neighbours and VIPs.

use std::net::IpAddr;

use dataplane::units::Mac;

use super::read::set;
use super::reader::{Field, Section};
use super::{Config, Offload, Port, Route, StaticNeighbour, Vlan};
use crate::model::Network;

pub fn read_ports(root: &Section, c: &mut Config) {
    let tables = root.sections("port");
    if tables.is_empty() && root.get("port").is_none() {
        let remedy = "add [[port]] with `name`, `device` and `addresses`";
        root.error("no port is configured: without one nothing can arrive".into(), remedy);
    }
    let mut seen: Vec<IpAddr> = Vec::new();
    for s in &tables {
        let name = s.required("name", "give the port a short name, such as `name = \"front\"`");
        let device = s.required("device", "name a PCI address or a virtual device, such as `net_tap0,iface=plx0`");
        let mut p = Port::new("", "");
        if let Some(f) = name
            && let Some(n) = f.string()
        {
            let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if n.is_empty() || n.len() > 32 || !n.chars().all(good) {
                f.error(format!("`{n}` is no name for a port"), "use 1 to 32 letters, digits, `-`, `_` and `.`");
            }
            if c.ports.iter().any(|p| p.name == n) {
                f.error(format!("two ports are named `{n}`"), "give each port its own name");
            }
            p.name = n.into();
        }
        if let Some(f) = device
            && let Some(d) = f.string()
        {
            if d.trim().is_empty() {
                f.error("the device is empty", "name a PCI address or a virtual device, such as `net_tap0,iface=plx0`");
            } else if c.ports.iter().any(|p| p.device == d) {
                f.error(format!("two ports use the device `{d}`"), "use each device once");
            }
            p.device = d.trim().into();
        }
        p.addresses = read_addresses(s, &mut seen);
        set(&mut p.mtu, s.get("mtu").and_then(|f| f.int(576..=9600)));
        p.queues = s.get("queues").and_then(|f| f.int(1..=64));
        set(&mut p.rx_descriptors, s.get("rx_descriptors").and_then(|f| f.int(64..=32768)));
        set(&mut p.tx_descriptors, s.get("tx_descriptors").and_then(|f| f.int(64..=32768)));
        set(&mut p.promiscuous, s.get("promiscuous").and_then(|f| f.bool()));
        let offloads = [("auto", Offload::Auto), ("on", Offload::On), ("off", Offload::Off)];
        set(&mut p.offloads, s.get("offloads").and_then(|f| f.choice(&offloads)));
        for v in s.sections("vlans") {
            read_vlan(&v, &mut p, &mut seen);
        }
        let has_v6 = p.addresses.iter().chain(p.vlans.iter().flat_map(|v| &v.addresses)).any(|a| a.ip.is_ipv6());
        if has_v6 && p.mtu < 1280 {
            s.error_at("mtu", format!("{} is too small for IPv6", p.mtu), Some("IPv6 needs at least 1280".into()));
        }
        s.finish();
        c.ports.push(p);
    }
}

fn read_vlan(s: &Section, p: &mut Port, seen: &mut Vec<IpAddr>) {
    let field = s.required("id", "give the VLAN's id, 1 to 4094");
    let id = field.as_ref().and_then(|f| f.int::<u16>(1..=4094));
    let addresses = read_addresses(s, seen);
    s.finish();
    let (Some(f), Some(id)) = (field, id) else { return };
    if p.vlans.iter().any(|v| v.id == id) {
        f.error(format!("VLAN {id} is configured twice on this port"), "put all its addresses in one entry");
        return;
    }
    p.vlans.push(Vlan { id, addresses });
}

fn read_addresses(s: &Section, seen: &mut Vec<IpAddr>) -> Vec<Network> {
    let Some(f) = s.get("addresses") else { return Vec::new() };
    let mut out = Vec::new();
    for e in f.list() {
        let Some(n) = e.parse::<Network>("write address and prefix length, such as `10.3.0.1/24`") else { continue };
        if !e.string().unwrap_or_default().contains('/') {
            e.error(format!("the prefix length of `{}` is missing", n.ip), format!("write `{}/24`, say", n.ip));
        } else if n.ip.is_unspecified() || n.ip.is_multicast() || n.prefix_len == 0 {
            e.error(
                format!("`{n}` is no address of an interface"),
                "write the director's own address, such as `10.3.0.1/24`",
            );
        } else if is_network_or_broadcast(&n) {
            e.error(
                format!("`{n}` names the network, not the director's address in it"),
                "write the director's own address, such as `10.3.0.1/24`",
            );
        } else if seen.contains(&n.ip) {
            e.error(format!("the address {} is configured twice", n.ip), "give each address to one port or VLAN");
        }
        seen.push(n.ip);
        out.push(n);
    }
    out
}

fn is_network_or_broadcast(n: &Network) -> bool {
    match n.ip {
        IpAddr::V4(ip) if n.prefix_len < 31 => {
            let host = u32::from(ip) & (u32::MAX >> n.prefix_len);
            host == 0 || host == u32::MAX >> n.prefix_len
        }
        _ => false,
    }
}

pub fn read_routes(root: &Section, c: &mut Config) {
    for s in root.sections("route") {
        let to_field = s.required("to", "name the destination, such as `10.0.0.0/8`, or `default`");
        let via_field = s.required("via", "name the gateway's address");
        let via =
            via_field.as_ref().and_then(|f| f.parse::<IpAddr>("name the gateway's address, such as `10.3.0.254`"));
        s.finish();
        let (Some(to_field), Some(via_field), Some(via)) = (to_field, via_field, via) else { continue };
        let Some(to) = route_target(&to_field, via) else { continue };
        if to.ip.is_ipv4() != via.is_ipv4() {
            via_field
                .error(format!("the gateway {via} is of another family than `{to}`"), "route each family by itself");
        } else if !c.interface_networks().any(|n| n.contains(via)) {
            let networks: Vec<String> = c.interface_networks().map(|n| n.to_string()).collect();
            let remedy = format!("the gateway must be in one of the ports' networks: {}", networks.join(", "));
            via_field.error(format!("the gateway {via} is on no connected network"), remedy);
        } else if c.owns(via) {
            via_field.error(format!("the gateway {via} is the director's own address"), "name another host");
        } else if c.routes.iter().any(|r| r.to == to) {
            to_field.error(format!("there are two routes to `{to}`"), "keep one");
        } else {
            c.routes.push(Route { to, via });
        }
    }
}

fn route_target(f: &Field, via: IpAddr) -> Option<Network> {
    if f.string()? == "default" {
        let ip = if via.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0u8; 16]) };
        return Some(Network { ip, prefix_len: 0 });
    }
    let to: Network = f.parse("write a network such as `10.0.0.0/8`, or `default`")?;
    if to.has_host_bits() {
        let masked = dataplane::units::Ip::from(to.ip).masked(to.prefix_len);
        f.error(format!("`{to}` has bits set beyond its prefix"), format!("write `{masked}/{}`", to.prefix_len));
        return None;
    }
    Some(to)
}

pub fn read_neighbours(root: &Section, c: &mut Config) {
    for s in root.sections("neighbour") {
        let address = s.required("address", "name the neighbour's address");
        let address = address.and_then(|f| f.parse::<IpAddr>("write an address such as `10.2.0.11`"));
        let mac_field = s.required("mac", "give the Ethernet address, such as `02:00:00:00:02:0b`");
        let mac =
            mac_field.as_ref().and_then(|f| f.parse::<Mac>("write six pairs of digits, such as `02:00:00:00:02:0b`"));
        let port_field = s.required("port", "name the port it is on");
        let port = port_field.as_ref().and_then(|f| {
            let names: Vec<(&str, usize)> = c.ports.iter().enumerate().map(|(n, p)| (p.name.as_str(), n)).collect();
            f.choice(&names)
        });
        let vlan_field = s.get("vlan");
        let vlan = vlan_field.as_ref().and_then(|f| f.int::<u16>(1..=4094));
        s.finish();
        let (Some(address), Some(mac), Some(port)) = (address, mac, port) else { continue };
        if mac.is_multicast() || mac == Mac::default() {
            s.error_at("mac", format!("`{mac}` is not the address of one station"), None);
        } else if let Some(f) = &vlan_field
            && !c.ports[port].vlans.iter().any(|v| Some(v.id) == vlan)
        {
            f.error("the port has no such VLAN", "add it to the port's `vlans`");
        } else if c.neighbours.iter().any(|n| (n.address, n.port, n.vlan) == (address, port, vlan)) {
            s.error_at("address", format!("the neighbour {address} is configured twice"), Some("keep one".into()));
        } else {
            c.neighbours.push(StaticNeighbour { address, mac, port, vlan });
        }
    }
}

pub fn read_vips(root: &Section, c: &mut Config) {
    let Some(f) = root.get("vips") else { return };
    for e in f.list() {
        let Some(ip) = e.parse::<IpAddr>("write an address without prefix length, such as `10.9.0.1`") else {
            continue;
        };
        if ip.is_unspecified() || ip.is_multicast() {
            e.error(format!("`{ip}` is not the address of one host"), "write the VIP's address");
        } else if c.owns(ip) {
            e.error(
                format!("{ip} is an address of a port already"),
                "leave it out: the director answers for it anyway",
            );
        } else if c.vips.contains(&ip) {
            e.error(format!("the VIP {ip} is listed twice"), "keep one");
        } else {
            c.vips.push(ip);
        }
    }
}

/// Most local addresses of full NAT.
const MAX_LOCAL_ADDRESSES: usize = 4096;

/// The local addresses and ports of full NAT.
pub fn read_full_nat(s: &Section, c: &mut Config) {
    if let Some(f) = s.get("addresses") {
        let list = f.list();
        if list.len() > MAX_LOCAL_ADDRESSES {
            f.error(format!("{} addresses are listed", list.len()), format!("there are at most {MAX_LOCAL_ADDRESSES}"));
        }
        for e in list.iter().take(MAX_LOCAL_ADDRESSES) {
            let Some(ip) = e.parse::<IpAddr>("write an address without prefix length, such as `10.2.0.200`") else {
                continue;
            };
            let local = dataplane::units::Ip::from(ip);
            if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
                e.error(format!("`{ip}` is not the address of one host"), "write an address that servers can answer");
            } else if c.owns(ip) {
                e.error(format!("{ip} is an address of a port already"), "full NAT needs addresses of its own");
            } else if c.vips.contains(&ip) {
                e.error(format!("{ip} is a VIP already"), "full NAT needs addresses of its own");
            } else if c.settings.full_nat.addresses.contains(&local) {
                e.error(format!("the address {ip} is listed twice"), "keep one");
            } else {
                c.settings.full_nat.addresses.push(local);
            }
        }
    }
    if let Some(f) = s.get("ports")
        && let Some(text) = f.string()
    {
        let ports = text.split_once('-').and_then(|(a, b)| Some((a.parse::<u16>().ok()?, b.parse::<u16>().ok()?)));
        match ports {
            Some((first, last)) if first > 0 && first <= last => c.settings.full_nat.ports = (first, last),
            _ => f.error(format!("`{text}` is no range of ports"), "write first and last, such as \"1024-65535\""),
        }
    }
    s.finish();
}
