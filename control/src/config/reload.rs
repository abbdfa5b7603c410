//! What of a new file can be used at once, and what waits for a restart.

use super::Config;

impl Config {
    /// The configuration that a running daemon may go over to: everything of `new` that
    /// can change live, the rest from `self`; and the names of what waits for a restart.
    ///
    /// Live: addresses, routes, neighbours, VIPs, settings, time-outs and services.
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
        let shape = |c: &Config| -> Vec<super::Port> { c.ports.iter().map(|p| p.without_addresses()).collect() };
        if keep(shape(self) != shape(&next), "[[port]]: devices, names, MTUs, queues and VLANs") {
            // Routes and neighbours refer to the ports, so they wait together.
            next.ports.clone_from(&self.ports);
            next.routes.clone_from(&self.routes);
            next.neighbours.clone_from(&self.neighbours);
        }
        next.path.clone_from(&self.path);
        (next, waits)
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
