//! Firewall marks: what iptables rules of a host say, as rules of a service.

use std::collections::BTreeMap;

use dataplane::units::Protocol;

use crate::model::{MarkRule, Network};

/// The rules of each mark, IPv4 and IPv6 together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Marks {
    rules: BTreeMap<u32, Vec<MarkRule>>,
}

impl Marks {
    /// Adds a rule to a mark.
    pub fn add(&mut self, mark: u32, rule: MarkRule) {
        self.rules.entry(mark).or_default().push(rule);
    }

    /// Takes all rules of one family away.
    pub fn flush(&mut self, ipv6: bool) {
        self.rules.values_mut().for_each(|rules| rules.retain(|r| r.network.ip.is_ipv6() != ipv6));
    }

    /// The rules of a mark for one family.
    pub fn rules(&self, mark: u32, ipv6: bool) -> Vec<MarkRule> {
        let of = |r: &&MarkRule| r.network.ip.is_ipv6() == ipv6;
        self.rules.get(&mark).map(|r| r.iter().filter(of).copied().collect()).unwrap_or_default()
    }

    /// Reads a line such as
    /// `iptables -t mangle -A PREROUTING -d 10.9.0.1 -p tcp --dport 80 -j MARK --set-mark 1`.
    /// Returns false for a line that marks nothing or uses matches that are not known.
    pub fn iptables(&mut self, line: &str) -> bool {
        let mut words = line.split_whitespace();
        if !words.next().is_some_and(|w| w.contains("iptables") || w.contains("ip6tables")) {
            return false;
        }
        let (mut protocol, mut network, mut ports, mut mark) = (None, None, vec![(0, u16::MAX)], None);
        while let Some(option) = words.next() {
            if matches!(option, "-w" | "--wait") {
                continue;
            }
            let Some(value) = words.next() else { return false };
            let known = match option {
                // The chain may be followed by a place in it.
                "-I" | "--insert" => {
                    let _ = words.clone().next().filter(|w| w.parse::<u32>().is_ok()).and_then(|_| words.next());
                    true
                }
                "-t" | "--table" | "-A" | "--append" | "-j" | "--jump" | "-m" | "--match" => true,
                // Clients are on one side only.
                "-i" | "--in-interface" => true,
                "-p" | "--protocol" => {
                    protocol = match value {
                        "tcp" | "6" => Some(Protocol::Tcp),
                        "udp" | "17" => Some(Protocol::Udp),
                        "sctp" | "132" => Some(Protocol::Sctp),
                        _ => return false,
                    };
                    true
                }
                "-d" | "--dst" | "--destination" => value.parse::<Network>().map(|n| network = Some(n)).is_ok(),
                "--dport" | "--destination-port" | "--dports" | "--destination-ports" => {
                    let range = |text: &str| {
                        let (a, b) = text.split_once(':').unwrap_or((text, text));
                        a.parse().ok().zip(b.parse().ok())
                    };
                    value.split(',').map(range).collect::<Option<Vec<_>>>().map(|p| ports = p).is_some()
                }
                "--set-mark" | "--set-xmark" => number(value).map(|m| mark = Some(m)).is_some(),
                _ => false,
            };
            if !known {
                return false;
            }
        }
        let (Some(network), Some(mark)) = (network, mark) else { return false };
        for (port_first, port_last) in ports {
            self.add(mark, MarkRule { protocol, network, port_first, port_last });
        }
        true
    }
}

/// A mark other than 0, in decimal or hexadecimal, of all bits.
fn number(text: &str) -> Option<u32> {
    let text = text.strip_suffix("/0xffffffff").unwrap_or(text);
    let n = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    n.ok().filter(|n| *n > 0)
}
