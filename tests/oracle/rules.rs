//! The recordings' ipvsadm lines as a configuration.

use std::collections::HashMap;
use std::net::IpAddr;

use dataplane::flow::state::State;
use dataplane::sched::{self, SchedulerKind};
use dataplane::snapshot::*;
use dataplane::units::*;

/// A service's identity, as `-t`, `-u`, `--sctp-service` or `-f` names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// Protocol, address, port.
    Address(u8, Ip, u16),
    /// Mark, IPv6.
    Mark(u32, bool),
}

#[derive(Clone, Debug)]
struct Service {
    key: Key,
    id: ServiceId,
    scheduler: SchedulerKind,
    flags: u32,
    persistence: Option<Persistence>,
    one_packet: bool,
    reals: Vec<RealId>,
}

/// The configuration under test.
#[derive(Default)]
pub struct Rules {
    services: Vec<Service>,
    reals: Vec<RealSpec>,
    ids: HashMap<(Key, Ip, u16), RealId>,
    next_service: u32,
    /// What marks packets: rules of the scenario's set-up.
    pub marks: HashMap<u32, Vec<MarkRule>>,
    /// Settings.
    pub settings: Settings,
}

fn ip(text: &str) -> Option<Ip> {
    text.trim_matches(['[', ']']).parse::<IpAddr>().ok().map(Ip::from)
}

/// `1.2.3.4:80`, `[2001:db8::1]:80`, or without a port.
pub fn endpoint(text: &str) -> Option<(Ip, Option<u16>)> {
    if let Some(a) = ip(text) {
        return Some((a, None));
    }
    let (addr, port) = text.rsplit_once(':')?;
    Some((ip(addr)?, Some(port.parse().ok()?)))
}

#[derive(Default)]
struct Args<'a> {
    command: &'a str,
    key: Option<Key>,
    real: Option<(Ip, Option<u16>)>,
    scheduler: Option<&'a str>,
    persistent: Option<u32>,
    mask: Option<&'a str>,
    flags: &'a str,
    mode: Option<ForwardingMode>,
    tunnel: Option<&'a str>,
    tunnel_port: u16,
    tunnel_csum: &'a str,
    weight: Option<u32>,
    upper: u32,
    lower: u32,
    one_packet: bool,
    ipv6: bool,
    set: Vec<u32>,
}

fn parse(line: &str) -> Option<Args<'_>> {
    let mut a = Args::default();
    let mut words = line.split_whitespace().peekable();
    a.command = words.next()?;
    if a.command == "--set" {
        a.set = words.map(|w| w.parse().unwrap_or(0)).collect();
        return Some(a);
    }
    while let Some(w) = words.next() {
        match w {
            "-t" | "-u" | "--sctp-service" => {
                let (addr, port) = endpoint(words.next()?)?;
                let proto = match w {
                    "-t" => 6,
                    "-u" => 17,
                    _ => 132,
                };
                a.key = Some(Key::Address(proto, addr, port.unwrap_or(0)));
            }
            "-f" => a.key = Some(Key::Mark(words.next()?.parse().ok()?, false)),
            "-6" => a.ipv6 = true,
            "-r" => a.real = Some(endpoint(words.next()?)?),
            "-s" => a.scheduler = Some(words.next()?),
            "-p" => {
                let next = words.peek().and_then(|n| n.parse().ok());
                a.persistent = Some(next.unwrap_or(300));
                if next.is_some() {
                    words.next();
                }
            }
            "-M" => a.mask = Some(words.next()?),
            "-b" => a.flags = words.next()?,
            "-o" => a.one_packet = true,
            "-m" => a.mode = Some(ForwardingMode::Nat),
            "-g" => a.mode = Some(ForwardingMode::DirectRouting),
            "-i" => a.mode = Some(ForwardingMode::Tunnel),
            "-w" => a.weight = Some(words.next()?.parse().ok()?),
            "-x" => a.upper = words.next()?.parse().ok()?,
            "-y" => a.lower = words.next()?.parse().ok()?,
            "--tun-type" => a.tunnel = Some(words.next()?),
            "--tun-port" => a.tunnel_port = words.next()?.parse().ok()?,
            "--tun-nocsum" | "--tun-csum" | "--tun-remcsum" => a.tunnel_csum = w,
            _ => return None,
        }
    }
    if let (Some(Key::Mark(_, v6)), true) = (&mut a.key, a.ipv6) {
        *v6 = true;
    }
    Some(a)
}

fn tunnel(a: &Args) -> Tunnel {
    match a.tunnel {
        Some("gre") => Tunnel::Gre { checksum: a.tunnel_csum == "--tun-csum" },
        Some("gue") => Tunnel::Gue {
            port: a.tunnel_port,
            checksum: match a.tunnel_csum {
                "--tun-csum" => GueChecksum::Udp,
                "--tun-remcsum" => GueChecksum::Remote,
                _ => GueChecksum::None,
            },
        },
        _ => Tunnel::Ipip,
    }
}

impl Rules {
    /// Applies one line as ipvsadm would; false when it refuses (nothing has changed then).
    pub fn apply(&mut self, line: &str) -> bool {
        parse(line).is_some_and(|a| self.run(&a).is_some())
    }

    fn run(&mut self, a: &Args) -> Option<()> {
        match a.command {
            "-A" => self.add_service(a),
            "-E" => self.edit_service(a),
            "-D" => {
                let at = self.position(a)?;
                let service = self.services.remove(at);
                for id in service.reals {
                    self.reals[id.index()].available = false;
                }
                Some(())
            }
            "-a" | "-e" => self.add_server(a),
            "-d" => self.delete_server(a),
            "-C" => {
                for s in std::mem::take(&mut self.services) {
                    for id in s.reals {
                        self.reals[id.index()].available = false;
                    }
                }
                Some(())
            }
            "--set" => {
                let [tcp, fin, udp] = a.set[..] else { return None };
                for (state, seconds) in [(State::Established, tcp), (State::FinWait, fin), (State::Udp, udp)] {
                    if seconds > 0 {
                        self.settings.timeouts.set(state, seconds.saturating_mul(1000));
                    }
                }
                Some(())
            }
            _ => Some(()),
        }
    }

    fn position(&self, a: &Args) -> Option<usize> {
        let key = a.key.as_ref()?;
        self.services.iter().position(|s| s.key == *key)
    }

    fn details(a: &Args) -> Option<(SchedulerKind, u32, Option<Persistence>)> {
        let kind = serde_json::from_value(serde_json::json!(a.scheduler.unwrap_or("wlc"))).ok()?;
        let flags =
            a.flags.split(',').filter(|f| !f.is_empty()).map(sched::flags::by_name).fold(0, |x, f| x | f.unwrap_or(0));
        let v6 = match a.key.as_ref()? {
            Key::Address(_, ip, _) => !ip.is_v4(),
            Key::Mark(_, v6) => *v6,
        };
        let prefix_len = match a.mask {
            Some(m) if m.contains('.') => {
                m.parse::<std::net::Ipv4Addr>().ok().map(|m| u32::from(m).leading_ones() as u8)?
            }
            Some(m) => m.parse().ok()?,
            None if v6 => 128,
            None => 32,
        };
        Some((kind, flags, a.persistent.map(|s| Persistence { timeout_ms: s.saturating_mul(1000), prefix_len })))
    }

    fn add_service(&mut self, a: &Args) -> Option<()> {
        if self.position(a).is_some() {
            return None;
        }
        let (scheduler, flags, persistence) = Self::details(a)?;
        let key = a.key.clone()?;
        if let Key::Address(_, _, 0) = key {
            persistence?;
        }
        let id = ServiceId(self.next_service);
        self.next_service += 1;
        let one_packet = a.one_packet;
        self.services.push(Service { key, id, scheduler, flags, persistence, one_packet, reals: Vec::new() });
        Some(())
    }

    fn edit_service(&mut self, a: &Args) -> Option<()> {
        let at = self.position(a)?;
        let (scheduler, flags, persistence) = Self::details(a)?;
        let s = &mut self.services[at];
        (s.scheduler, s.flags, s.persistence, s.one_packet) = (scheduler, flags, persistence, a.one_packet);
        Some(())
    }

    fn server(&self, a: &Args) -> Option<(usize, Ip, u16)> {
        let at = self.position(a)?;
        let (addr, port) = a.real?;
        let own = match self.services[at].key {
            Key::Address(_, _, port) => port,
            Key::Mark(..) => 0,
        };
        Some((at, addr, port.unwrap_or(own)))
    }

    fn add_server(&mut self, a: &Args) -> Option<()> {
        let (at, addr, port) = self.server(a)?;
        let service = &mut self.services[at];
        let key = (service.key.clone(), addr, port);
        let next = RealId(self.reals.len() as u32);
        let known = self.ids.get(&key).copied();
        let id = known.unwrap_or(next);
        let member = service.reals.contains(&id);
        if member != (a.command == "-e") || (a.lower > a.upper) {
            return None;
        }
        let mut mode = a.mode.unwrap_or(ForwardingMode::DirectRouting);
        let is_vip = |ip: Ip| matches!(service.key, Key::Address(_, vip, _) if vip == ip);
        if addr.to_std().is_loopback() || is_vip(addr) {
            mode = ForwardingMode::Local;
        }
        let weight = a.weight.unwrap_or(1);
        let before = known.map_or(0, |id| self.reals[id.index()].last_weight);
        let spec = RealSpec {
            id,
            service: service.id,
            addr,
            port,
            mode,
            tunnel: tunnel(a),
            weight,
            last_weight: if weight > 0 || !member { weight } else { before },
            upper: a.upper,
            lower: a.lower,
            next_hop: NextHopId::NONE,
            source: Ip::UNSPECIFIED,
            path_mtu: 0,
            available: true,
            predecessor: RealId::NONE,
        };
        if !member {
            // The newest is tried first.
            service.reals.insert(0, id);
        }
        match known {
            Some(id) => self.reals[id.index()] = spec,
            None => {
                self.reals.push(spec);
                self.ids.insert(key, id);
            }
        }
        Some(())
    }

    fn delete_server(&mut self, a: &Args) -> Option<()> {
        let (at, addr, port) = self.server(a)?;
        let service = &mut self.services[at];
        let id = *self.ids.get(&(service.key.clone(), addr, port))?;
        let index = service.reals.iter().position(|r| *r == id)?;
        service.reals.remove(index);
        let r = &mut self.reals[id.index()];
        r.available = false;
        r.predecessor = if index == 0 { RealId::NONE } else { service.reals[index - 1] };
        Some(())
    }

    /// What a router reported of the path to a server.
    pub fn path_mtu(&mut self, addr: Ip, mtu: u16) {
        for r in self.reals.iter_mut().filter(|r| r.addr == addr) {
            r.path_mtu = mtu;
        }
    }

    /// The compiled description, without the world around it.
    pub fn fill(&self, spec: &mut Spec) {
        spec.settings = self.settings.clone();
        spec.reals = self.reals.clone();
        spec.services = self
            .services
            .iter()
            .map(|s| ServiceSpec {
                id: s.id,
                matches: match &s.key {
                    Key::Address(protocol, vip, port) => Match::Address { protocol: *protocol, vip: *vip, port: *port },
                    Key::Mark(mark, ipv6) => Match::Mark {
                        mark: *mark,
                        ipv6: *ipv6,
                        rules: self.marks.get(mark).cloned().unwrap_or_default(),
                    },
                },
                scheduler: s.scheduler,
                sched_flags: s.flags,
                persistence: s.persistence,
                one_packet: s.one_packet,
                reals: s.reals.clone(),
            })
            .collect();
    }

    /// Takes a set-up line: iptables marks and VIP networks.
    pub fn set_up(&mut self, line: &str, vips: &mut Vec<(Ip, u8)>) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |key: &str| words.iter().position(|w| *w == key).and_then(|i| words.get(i + 1).copied());
        let network = |text: &str| {
            let (a, len) = text.split_once('/').unwrap_or((text, ""));
            let a = ip(a)?;
            Some((a, len.parse().unwrap_or(if a.is_v4() { 32 } else { 128 })))
        };
        if words.first().is_some_and(|w| w.contains("iptables") || w.contains("ip6tables")) {
            let (Some(dst), Some(mark)) = (after("-d").and_then(network), after("--set-mark")) else { return };
            let protocol = after("-p").map(|p| match p {
                "tcp" => 6,
                "udp" => 17,
                _ => 132,
            });
            let port = after("--dport").and_then(|p| p.parse().ok());
            let rule = MarkRule {
                protocol,
                network: dst.0,
                prefix_len: dst.1,
                port_first: port.unwrap_or(0),
                port_last: port.unwrap_or(u16::MAX),
            };
            self.marks.entry(mark.parse().unwrap_or(0)).or_default().push(rule);
        } else if words.starts_with(&["ip", "route", "add", "local"]) || words.get(2) == Some(&"route") {
            vips.extend(words.iter().find(|w| w.contains('/')).and_then(|w| network(w)));
        }
    }
}
