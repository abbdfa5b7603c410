//! The VIPs: those listed, those of services, and the networks of firewall marks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use dataplane::units::Ip;

use crate::model::{Service, Services};

/// Addresses and prefix lengths, each with how often it is named.
#[derive(Debug, Default, PartialEq)]
pub struct Vips {
    named: BTreeMap<(Ip, u8), u32>,
}

fn host(ip: IpAddr) -> (Ip, u8) {
    (Ip::from(ip), if ip.is_ipv4() { 32 } else { 128 })
}

/// Those that a service names.
fn of(s: &Service) -> impl Iterator<Item = (Ip, u8)> {
    s.address.vip().map(host).into_iter().chain(s.rules.iter().map(|r| (Ip::from(r.network.ip), r.network.prefix_len)))
}

impl Vips {
    /// Those listed in the configuration, and those of services.
    pub fn new(listed: &[IpAddr], services: &Services) -> Self {
        let mut all = Self::default();
        for vip in listed.iter().copied().map(host).chain(services.iter().flat_map(|s| of(s))) {
            *all.named.entry(vip).or_default() += 1;
        }
        all
    }

    /// All of them, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (Ip, u8)> {
        self.named.keys().copied()
    }

    /// The addresses among them.
    pub fn hosts(&self) -> impl Iterator<Item = Ip> {
        self.iter().filter(|(ip, len)| is_host(*ip, *len)).map(|(ip, _)| ip)
    }

    /// Whether one has this address, whatever the prefix length.
    pub fn contains(&self, ip: Ip) -> bool {
        self.named.range((ip, 0)..=(ip, u8::MAX)).next().is_some()
    }

    /// A service is there. Returns the VIPs that nobody named before.
    pub fn add(&mut self, s: &Service) -> Vec<(Ip, u8)> {
        let mut first = Vec::new();
        for vip in of(s) {
            let n = self.named.entry(vip).or_default();
            *n += 1;
            if *n == 1 {
                first.push(vip);
            }
        }
        first
    }

    /// A service is there no more. Returns the VIPs that nobody names now.
    pub fn remove(&mut self, s: &Service) -> Vec<(Ip, u8)> {
        let mut last = Vec::new();
        for vip in of(s) {
            let Some(n) = self.named.get_mut(&vip) else { continue };
            *n -= 1;
            if *n == 0 {
                self.named.remove(&vip);
                last.push(vip);
            }
        }
        last
    }
}

/// Whether a prefix is one address.
pub fn is_host(ip: Ip, len: u8) -> bool {
    len == if ip.is_v4() { 32 } else { 128 }
}
