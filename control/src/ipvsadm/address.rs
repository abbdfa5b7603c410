//! Addresses, ports and numbers as ipvsadm takes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `10.9.0.1:80`, `10.9.0.1`, `[2001:db8::1]:80`, `2001:db8::1`, `10.9.0.1:http`, `web.example:80`.
pub fn address(text: &str) -> Option<(IpAddr, Option<u16>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (ip, rest) = rest.split_once(']')?;
        let ip = IpAddr::V6(ip.parse::<Ipv6Addr>().ok()?);
        return Some((ip, Some(port(rest.strip_prefix(':')?)?)));
    }
    if let Ok(ip) = text.parse::<Ipv6Addr>() {
        return Some((IpAddr::V6(ip), None));
    }
    let (ip, p) = match text.split_once(':') {
        Some((ip, p)) => (ip, Some(port(p)?)),
        None => (text, None),
    };
    let ip: Ipv4Addr = ip.parse().ok().or_else(|| from_etc_hosts(ip))?;
    Some((IpAddr::V4(ip), p))
}

/// The same for a service: no group's address, and not that of no host.
pub fn service(text: &str) -> Option<(IpAddr, Option<u16>)> {
    let own = |ip: &IpAddr| ip.is_ipv6() || !(ip.is_unspecified() || ip.is_multicast());
    address(text).filter(|(ip, _)| own(ip))
}

/// A number, or the name of a well-known port.
fn port(text: &str) -> Option<u16> {
    if let Ok(p) = text.parse::<u16>() {
        return Some(p);
    }
    let known = KNOWN.iter().find(|(name, _)| *name == text).map(|(_, p)| *p);
    known.or_else(|| from_etc_services(text))
}

/// Names for machines without `/etc/services`.
const KNOWN: [(&str, u16); 14] = [
    ("ftp", 21),
    ("ssh", 22),
    ("telnet", 23),
    ("smtp", 25),
    ("domain", 53),
    ("http", 80),
    ("pop3", 110),
    ("ntp", 123),
    ("imap2", 143),
    ("ldap", 389),
    ("https", 443),
    ("imaps", 993),
    ("mysql", 3306),
    ("sip", 5060),
];

/// The IPv4 address that `/etc/hosts` has for a name. The DNS is not asked.
fn from_etc_hosts(name: &str) -> Option<Ipv4Addr> {
    named(&std::fs::read_to_string("/etc/hosts").ok()?, name)
}

/// The first IPv4 address of a name in a hosts file.
fn named(hosts: &str, name: &str) -> Option<Ipv4Addr> {
    hosts.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let ip = words.next()?.parse().ok()?;
        words.any(|w| w.eq_ignore_ascii_case(name)).then_some(ip)
    })
}

fn from_etc_services(name: &str) -> Option<u16> {
    let text = std::fs::read_to_string("/etc/services").ok()?;
    text.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let (first, number) = (words.next()?, words.next()?);
        let named = first == name || words.any(|alias| alias == name);
        if named { number.split('/').next()?.parse().ok() } else { None }
    })
}

/// A whole number within bounds, in decimal, with or without a sign.
pub fn number(text: &str, low: i64, high: i64) -> Option<i64> {
    text.parse().ok().filter(|n| (low..=high).contains(n))
}

/// The prefix length of a netmask: dotted for IPv4, or a number of bits for either family.
pub fn netmask(text: &str, ipv6: bool) -> Option<u8> {
    let bits = if ipv6 { 1..=128 } else { 0..=32 };
    if let Ok(n) = text.parse::<u8>() {
        return bits.contains(&n).then_some(n);
    }
    if ipv6 {
        return None;
    }
    let mask = u32::from(text.parse::<Ipv4Addr>().ok()?);
    let len = mask.leading_ones();
    (mask.count_ones() == len).then_some(len as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_the_hosts_file() {
        let hosts = "127.0.0.1\tlocalhost\n::1 localhost ip6 # web\n10.9.0.1 vip.example web\n10.9.0.2 web # second\n";
        assert_eq!(named(hosts, "web"), Some(Ipv4Addr::new(10, 9, 0, 1)));
        assert_eq!(named(hosts, "Localhost"), Some(Ipv4Addr::LOCALHOST));
        assert_eq!(named(hosts, "ip6"), None);
        assert_eq!(named(hosts, "second"), None);
    }
}
