//! Lines of `ip` and iptables that change a scenario's world.

use std::net::IpAddr;

use control::config::{Config, Route, StaticNeighbour};
use control::ipvsadm::Marks;
use control::model::Network;

/// The port that a device of the recordings' world is.
fn port(device: &str) -> Option<usize> {
    ["cli", "srv"].iter().position(|d| *d == device)
}

/// The value after one of these words.
fn after<'a>(words: &[&'a str], names: &[&str]) -> Option<&'a str> {
    words.iter().position(|w| names.contains(w)).and_then(|at| words.get(at + 1)).copied()
}

/// `10.0.0.0/8`, a bare address, `default` of the next hop's family.
fn network(text: &str, family: Option<IpAddr>) -> Option<Network> {
    let ip: IpAddr = match text {
        "default" if family?.is_ipv6() => return "::/0".parse().ok(),
        "default" => return "0.0.0.0/0".parse().ok(),
        _ if text.contains('/') => return text.parse().ok(),
        _ => text.parse().ok()?,
    };
    format!("{ip}/{}", if ip.is_ipv6() { 128 } else { 32 }).parse().ok()
}

/// Takes a line `ip …` that adds, changes or removes an address, a link's MTU, a route by a gateway
/// or a neighbour. False when it is none of these.
pub fn ip(config: &mut Config, line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().filter(|w| !matches!(*w, "-4" | "-6")).collect();
    let ["ip", what, verb, rest @ ..] = words.as_slice() else { return false };
    let adds = matches!(*verb, "add" | "a" | "replace" | "change" | "append");
    if !adds && !matches!(*verb, "del" | "delete" | "d" | "set") {
        return false;
    }
    match *what {
        "addr" | "address" | "a" => address(config, rest, adds),
        "link" | "l" if *verb == "set" => link(config, rest),
        "route" | "r" => route(config, rest, adds),
        "neigh" | "neighbor" | "neighbour" | "n" => neighbour(config, rest, adds),
        _ => None,
    }
    .is_some()
}

fn address(config: &mut Config, words: &[&str], adds: bool) -> Option<()> {
    let device = after(words, &["dev"])?;
    let text = words
        .iter()
        .find(|w| w.starts_with(|c: char| c.is_ascii_hexdigit() || c == ':') && network(w, None).is_some())?;
    let new = network(text, None)?;
    if device == "lo" {
        config.vips.retain(|v| *v != new.ip);
        config.vips.extend(adds.then_some(new.ip));
        return Some(());
    }
    let own = &mut config.ports[port(device)?].addresses;
    own.retain(|a| a.ip != new.ip);
    own.extend(adds.then_some(new));
    Some(())
}

fn link(config: &mut Config, words: &[&str]) -> Option<()> {
    let device = words.iter().find_map(|w| port(w))?;
    config.ports[device].mtu = after(words, &["mtu"])?.parse().ok()?;
    Some(())
}

fn route(config: &mut Config, words: &[&str], adds: bool) -> Option<()> {
    let via: Option<IpAddr> = after(words, &["via"]).and_then(|v| v.parse().ok());
    let to = network(words.first()?, via)?;
    // A route's own MTU is nothing that can be set here.
    let new = via.filter(|_| !words.contains(&"mtu")).map(|via| Route { to, via });
    (!adds || new.is_some()).then_some(())?;
    config.routes.retain(|r| r.to != to);
    config.routes.extend(new.filter(|_| adds));
    Some(())
}

fn neighbour(config: &mut Config, words: &[&str], adds: bool) -> Option<()> {
    let address: IpAddr = words.first()?.parse().ok()?;
    config.neighbours.retain(|n| n.address != address);
    if adds {
        let mac = after(words, &["lladdr"])?.parse().ok()?;
        config.neighbours.push(StaticNeighbour { address, mac, port: port(after(words, &["dev"])?)?, vlan: None });
    }
    Some(())
}

/// Takes a rule of the firewall that marks packets, one for any destination being for all VIPs; and a line that
/// takes all of a family's away. False when it is neither.
pub fn mark(marks: &mut Marks, line: &str, vips: &[IpAddr]) -> bool {
    let line = line.replacen("tables-legacy", "tables", 1).replacen("tables-nft", "tables", 1);
    let six = line.starts_with("ip6tables ");
    if (six || line.starts_with("iptables ")) && line.split_whitespace().any(|w| matches!(w, "-F" | "--flush")) {
        marks.flush(six);
        return true;
    }
    if line.split_whitespace().any(|w| matches!(w, "-d" | "--dst" | "--destination")) {
        return marks.iptables(&line);
    }
    let mut all = vips.iter().filter(|v| v.is_ipv6() == six).peekable();
    all.peek().is_some() && all.all(|v| marks.iptables(&format!("{line} -d {v}")))
}
