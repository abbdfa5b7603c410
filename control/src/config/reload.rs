//! What of a new file can be used at once, and what waits for a restart.

use super::Config;

impl Config {
    /// The configuration that a running daemon may go over to: everything of `new` that
    /// can change live, the rest from `self`; and the names of what waits for a restart.
    ///
    /// Live: addresses, routes, neighbours, VIPs, lower MTUs, settings, time-outs and services.
    pub fn reloaded(&self, new: Config) -> (Config, Vec<String>) {
        let mut waits = Vec::new();
        let mut next = new;
        let mut keep = |differs: bool, what: &str| {
            if differs {
                waits.push(what.to_owned());
            }
            differs
        };
        if keep(self.dpdk != next.dpdk, "[dpdk]") {
            next.dpdk = self.dpdk.clone();
        }
        if keep(self.workers != next.workers, "[workers]") {
            next.workers = self.workers.clone();
        }
        if keep(self.limits != next.limits, "[limits]") {
            next.limits = self.limits;
        }
        if keep(self.api != next.api, "[api]") {
            next.api = self.api.clone();
        }
        if keep(self.state_file != next.state_file, "[state]") {
            next.state_file.clone_from(&self.state_file);
        }
        if keep(self.log != next.log, "[log]") {
            next.log = self.log.clone();
        }
        if keep(!self.same_ports(&next), "[[port]]: devices, names, higher MTUs, queues and VLANs") {
            // Routes and neighbours refer to the ports, so they wait together.
            next.ports.clone_from(&self.ports);
            next.routes.clone_from(&self.routes);
            next.neighbours.clone_from(&self.neighbours);
        }
        next.path.clone_from(&self.path);
        (next, waits)
    }

    /// Whether the ports of `new` need neither another device nor larger buffers.
    fn same_ports(&self, new: &Self) -> bool {
        let same = |(a, b): (&super::Port, &super::Port)| {
            let lower = super::Port { mtu: b.mtu.min(a.mtu), ..a.without_addresses() };
            lower == b.without_addresses()
        };
        self.ports.len() == new.ports.len() && self.ports.iter().zip(&new.ports).all(same)
    }
}

impl super::Port {
    fn without_addresses(&self) -> Self {
        let mut p = self.clone();
        p.addresses.clear();
        p.vlans.iter_mut().for_each(|v| v.addresses.clear());
        p
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Port};

    #[test]
    fn a_lower_mtu_is_taken_over_and_a_higher_one_waits() {
        let with = |mtu| Config { ports: vec![Port { mtu, ..Port::new("lan", "net_tap0") }], ..Config::default() };
        let (next, waits) = with(1500).reloaded(with(1400));
        assert_eq!((next.ports[0].mtu, waits.len()), (1400, 0));
        let (next, waits) = next.reloaded(with(1500));
        assert_eq!((next.ports[0].mtu, waits.len()), (1400, 1));
        let other = Config { ports: vec![Port::new("wan", "net_tap0")], ..Config::default() };
        assert_eq!(with(1500).reloaded(other).1.len(), 1);
    }
}
