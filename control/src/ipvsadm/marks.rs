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
        let (mut protocol, mut network, mut ports, mut mark) = (None, None, (0, u16::MAX), None);
        while let Some(option) = words.next() {
            let Some(value) = words.next() else { return false };
            let known = match option {
                "-t" | "-A" | "-I" | "-j" | "-m" => true,
                "-p" => {
                    protocol = match value {
                        "tcp" => Some(Protocol::Tcp),
                        "udp" => Some(Protocol::Udp),
                        "sctp" => Some(Protocol::Sctp),
                        _ => return false,
                    };
                    true
                }
                "-d" => value.parse::<Network>().map(|n| network = Some(n)).is_ok(),
                "--dport" => {
                    let (a, b) = value.split_once(':').unwrap_or((value, value));
                    a.parse().ok().zip(b.parse().ok()).map(|p| ports = p).is_some()
                }
                "--set-mark" => super::address::number(value, 1, i64::from(u32::MAX))
                    .and_then(|m| u32::try_from(m).ok())
                    .map(|m| mark = Some(m))
                    .is_some(),
                _ => false,
            };
            if !known {
                return false;
            }
        }
        match (network, mark) {
            (Some(network), Some(mark)) => {
                self.add(mark, MarkRule { protocol, network, port_first: ports.0, port_last: ports.1 });
                true
            }
            _ => false,
        }
    }
}
