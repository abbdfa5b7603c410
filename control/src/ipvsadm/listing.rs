//! Listings in ipvsadm's formats, trailing blanks included. Always with numbers: names
//! would have to be looked up in the DNS.

use std::fmt::Write;
use std::net::IpAddr;

use dataplane::units::Protocol;

use super::List;
use crate::engine::{FlowView, Rates, ServerView, ServiceView, Traffic};
use crate::model::{ForwardingMode, GueChecksum, SchedFlag, Scheduler, ServerKey, ServiceKey, Tunnel};

/// What a listing is made from.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The services, in the order of keys.
    pub services: &'a [ServiceView],
    /// The flows, for `-c`.
    pub flows: &'a [FlowView],
    /// The time-outs: TCP, TCP after a FIN, UDP, seconds.
    pub timeouts: (u32, u32, u32),
    /// What the first line gives as the size of the connection table.
    pub size: u64,
}

/// What `ipvsadm -L` prints.
pub fn list(l: &List, facts: &Facts) -> String {
    if l.timeout {
        let (tcp, fin, udp) = facts.timeouts;
        return format!("Timeout (tcp tcpfin udp): {tcp} {fin} {udp}\n");
    }
    if l.daemon {
        return String::new();
    }
    if l.connections {
        return connections(facts.flows, l.persistent);
    }
    let mut out = String::new();
    if l.service.is_none() {
        let _ = writeln!(out, "IP Virtual Server version 1.2.1 (size={})", facts.size);
    }
    header(l, &mut out);
    let services = sorted(facts.services.iter().collect(), |s| service_words(&s.address));
    for s in services.into_iter().filter(|s| l.service.is_none_or(|k| k == s.address)) {
        service(l, s, &mut out);
        let mut servers: Vec<&ServerView> = s.servers.iter().rev().collect();
        if !l.unsorted {
            servers = sorted(servers, |r| server_words(&r.address));
        }
        for r in servers {
            server(l, r, &mut out);
        }
    }
    out
}

/// What services are sorted by: mark, family, protocol, address, port.
fn service_words(key: &ServiceKey) -> Vec<u32> {
    match *key {
        ServiceKey::Mark { mark, ipv6 } => vec![mark, u32::from(ipv6)],
        ServiceKey::Address { protocol, vip, port } => {
            let first = [0, u32::from(vip.is_ipv6()), protocol as u32];
            first.into_iter().chain(words(vip)).chain([u32::from(port)]).collect()
        }
    }
}

/// What real servers are sorted by: family, address, port.
fn server_words(key: &ServerKey) -> Vec<u32> {
    [u32::from(key.ip.is_ipv6())].into_iter().chain(words(key.ip)).chain([u32::from(key.port)]).collect()
}

/// An address in words of 32 bits.
fn words(ip: IpAddr) -> Vec<u32> {
    match ip {
        IpAddr::V4(ip) => vec![ip.into()],
        IpAddr::V6(ip) => {
            let n = u128::from(ip);
            [96, 64, 32, 0].map(|shift| (n >> shift) as u32).to_vec()
        }
    }
}

/// Sorts as ipvsadm does: it takes one word from another in 32 bits with a sign, so that of two words
/// 2^31 or more apart the larger one comes first. That is no order a library's sort would bear
/// with, hence a merge sort of its own (where three words disagree, the outcome is any).
fn sorted<T: Copy>(list: Vec<T>, key: impl Fn(T) -> Vec<u32> + Copy) -> Vec<T> {
    if list.len() < 2 {
        return list;
    }
    let (left, right) = list.split_at(list.len() / 2);
    let mut left = sorted(left.to_vec(), key).into_iter().peekable();
    let mut right = sorted(right.to_vec(), key).into_iter().peekable();
    let after = |a: T, b: T| {
        let differ = key(a).into_iter().zip(key(b)).map(|(a, b)| a.wrapping_sub(b) as i32).find(|d| *d != 0);
        differ.unwrap_or(0) > 0
    };
    let mut out = Vec::with_capacity(list.len());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let next = if after(*a, *b) { right.next() } else { left.next() };
        out.extend(next);
    }
    out.extend(left);
    out.extend(right);
    out
}

fn header(l: &List, out: &mut String) {
    let second = "  -> RemoteAddress:Port";
    let _ = if l.stats {
        writeln!(
            out,
            "{:<33} {:>8} {:>8} {:>8} {:>8} {:>8}\n{second}",
            "Prot LocalAddress:Port", "Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"
        )
    } else if l.rate {
        writeln!(
            out,
            "{:<33} {:>8} {:>8} {:>8} {:>8} {:>8}\n{second}",
            "Prot LocalAddress:Port", "CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"
        )
    } else if l.thresholds {
        writeln!(
            out,
            "{:<33} {:<10} {:<10} {:<10} {:<10}\n{second}",
            "Prot LocalAddress:Port", "Uthreshold", "Lthreshold", "ActiveConn", "InActConn"
        )
    } else if l.persistent {
        writeln!(
            out,
            "{:<33} {:<9} {:<11} {:<10} {:<10}\n{second}",
            "Prot LocalAddress:Port", "Weight", "PersistConn", "ActiveConn", "InActConn"
        )
    } else if l.tunnels {
        writeln!(
            out,
            "Prot LocalAddress:Port Scheduler Flags\n{second:<33} Forward TunnelInfo    Weight ActiveConn InActConn"
        )
    } else {
        writeln!(out, "Prot LocalAddress:Port Scheduler Flags\n{second:<33} Forward Weight ActiveConn InActConn")
    };
}

fn service(l: &List, s: &ServiceView, out: &mut String) {
    let name = match s.address {
        ServiceKey::Mark { mark, ipv6: false } => format!("FWM  {mark}"),
        ServiceKey::Mark { mark, ipv6: true } => format!("FWM  {mark} IPv6"),
        ServiceKey::Address { protocol, vip, port } => {
            let protocol = match protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
                Protocol::Sctp => "SCTP",
            };
            format!("{protocol:<4} {}", ServerKey { ip: vip, port })
        }
    };
    let _ = if l.stats {
        writeln!(out, "{name:<33}{}", traffic(&s.traffic, l.exact))
    } else if l.rate {
        writeln!(out, "{name:<33}{}", rates(&s.rates, l.exact))
    } else {
        writeln!(out, "{name} {}{}", s.scheduler, options(s))
    };
}

/// ` (FLAGS)`, ` persistent N`, ` mask M`, ` ops`.
fn options(s: &ServiceView) -> String {
    let mut out = String::new();
    if !s.sched_flags.is_empty() {
        let _ = write!(out, " ({})", flags(s));
    }
    if let Some(p) = s.persistence {
        let _ = write!(out, " persistent {}", p.timeout_s);
        if let Some(mask) = mask(s) {
            let _ = write!(out, " mask {mask}");
        }
    }
    if s.one_packet {
        out.push_str(" ops");
    }
    out
}

fn flags(s: &ServiceView) -> String {
    let name = |f: &SchedFlag| match (s.scheduler, f) {
        (Scheduler::Sh, SchedFlag::Fallback) => "sh-fallback",
        (Scheduler::Sh, SchedFlag::Port) => "sh-port",
        (Scheduler::Mh, SchedFlag::Fallback) => "mh-fallback",
        (Scheduler::Mh, SchedFlag::Port) => "mh-port",
        (_, SchedFlag::Fallback) => "flag-1",
        (_, SchedFlag::Port) => "flag-2",
        (_, SchedFlag::Flag3) => "flag-3",
    };
    // As ipvsadm: what has a name with its scheduler is shown with it, the rest is left out.
    let named = matches!(s.scheduler, Scheduler::Sh | Scheduler::Mh);
    let shown = s.sched_flags.iter().filter(|f| !(named && **f == SchedFlag::Flag3));
    shown.map(name).collect::<Vec<_>>().join(",")
}

/// The netmask, when it is not that of a single client.
fn mask(s: &ServiceView) -> Option<String> {
    let len = s.persistence?.prefix_len?;
    if s.address.is_ipv6() {
        return (len < 128).then(|| len.to_string());
    }
    let bits = u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0);
    (len < 32).then(|| std::net::Ipv4Addr::from(bits).to_string())
}

fn server(l: &List, r: &ServerView, out: &mut String) {
    let (active, inactive) = (r.active_connections, r.inactive_connections);
    let _ = write!(out, "  -> {:<28}", r.address.to_string());
    let method = method(r);
    let _ = if l.stats {
        writeln!(out, "{}", traffic(&r.traffic, l.exact))
    } else if l.rate {
        writeln!(out, "{}", rates(&r.rates, l.exact))
    } else if l.thresholds {
        writeln!(out, " {:<10} {:<10} {active:<10} {inactive:<10}", r.upper_threshold, r.lower_threshold)
    } else if l.persistent {
        writeln!(out, " {:<9} {:<11} {active:<10} {inactive:<10}", r.weight, r.persistent_connections)
    } else if l.tunnels {
        writeln!(out, " {method:<7} {:<13} {:<6} {active:<10} {inactive:<10}", tunnel(r), r.weight)
    } else {
        writeln!(out, " {method:<7} {:<6} {active:<10} {inactive:<10}", r.weight)
    };
}

fn method(r: &ServerView) -> &'static str {
    match r.mode {
        ForwardingMode::Nat => "Masq",
        ForwardingMode::DirectRouting => "Route",
        ForwardingMode::Tunnel => "Tunnel",
        ForwardingMode::FullNat => "FullNat",
    }
}

fn tunnel(r: &ServerView) -> String {
    match r.tunnel {
        None => "n/a".into(),
        Some(Tunnel::Ipip) => "ipip".into(),
        Some(Tunnel::Gre { checksum }) => format!("gre:{}c", if checksum { '+' } else { '-' }),
        Some(Tunnel::Gue { port, checksum }) => {
            let checksum = match checksum {
                GueChecksum::None => "-c",
                GueChecksum::Udp => "+c",
                GueChecksum::Remote => "r+c",
            };
            format!("gue:{port}:{checksum}")
        }
        Some(Tunnel::Vxlan { port, vni }) => format!("vxlan:{port}:{vni}"),
    }
}

fn traffic(t: &Traffic, exact: bool) -> String {
    [t.connections, t.in_packets, t.out_packets, t.in_bytes, t.out_bytes].map(|n| number(n, exact)).concat()
}

fn rates(r: &Rates, exact: bool) -> String {
    // The kernel rounds halves down.
    let whole = |x: f64| (x + 0.499).max(0.0) as u64;
    [r.connections, r.in_packets, r.out_packets, r.in_bytes, r.out_bytes].map(|x| number(whole(x), exact)).concat()
}

/// A blank and eight columns, large numbers in thousands and so on.
fn number(n: u64, exact: bool) -> String {
    match n {
        _ if exact => format!(" {n:>8}"),
        0..100_000_000 => format!(" {n:>8}"),
        100_000_000..1_000_000_000 => format!(" {:>7}K", n / 1000),
        1_000_000_000..100_000_000_000 => format!(" {:>7}M", n / 1_000_000),
        100_000_000_000..100_000_000_000_000 => format!(" {:>7}G", n / 1_000_000_000),
        _ => format!(" {:>7}T", n / 1_000_000_000_000),
    }
}

/// `engines`: with a heading for persistence engines' data, of which there is none.
fn connections(flows: &[FlowView], engines: bool) -> String {
    let mut out = String::from(
        "IPVS connection entries\npro expire state       source             virtual            destination",
    );
    out.push_str(if engines { "        pe name          pe_data\n" } else { "\n" });
    let end = |ip: IpAddr, port: u16| ServerKey { ip, port }.to_string();
    for f in flows {
        let protocol = match f.protocol.as_str() {
            "0" => "IP".into(),
            p => p.to_uppercase(),
        };
        let seconds = f.expires_ms / 1000;
        let server = f.server.map_or_else(|| "?".into(), |s| s.to_string());
        let _ = writeln!(
            out,
            "{protocol:<3} {:02}:{:02}  {:<11} {:<18} {:<18} {server}",
            seconds / 60,
            seconds % 60,
            f.state,
            end(f.client, f.client_port),
            end(f.vip, f.vip_port),
        );
    }
    out
}

/// What `ipvsadm -Sn` prints; thresholds are kept.
pub fn save(services: &[ServiceView]) -> String {
    let mut out = String::new();
    for s in sorted(services.iter().collect(), |s: &ServiceView| service_words(&s.address)) {
        let name = option(&s.address);
        let _ = write!(out, "-A {name} -s {}", s.scheduler);
        if let Some(p) = s.persistence {
            let _ = write!(out, " -p {}", p.timeout_s);
        }
        if let Some(mask) = mask(s) {
            let _ = write!(out, " -M {mask}");
        }
        out.push_str(if s.one_packet { " -o" } else { "" });
        if !s.sched_flags.is_empty() {
            let _ = write!(out, " -b {}", flags(s));
        }
        out.push('\n');
        for r in sorted(s.servers.iter().collect(), |r: &ServerView| server_words(&r.address)) {
            let _ = writeln!(out, "-a {name} -r {} {}", r.address, server_options(r));
        }
    }
    out
}

fn option(key: &ServiceKey) -> String {
    match *key {
        ServiceKey::Mark { mark, ipv6: false } => format!("-f {mark}"),
        ServiceKey::Mark { mark, ipv6: true } => format!("-f {mark} -6"),
        ServiceKey::Address { protocol, vip, port } => {
            let option = match protocol {
                Protocol::Tcp => "-t",
                Protocol::Udp => "-u",
                Protocol::Sctp => "--sctp-service",
            };
            format!("{option} {}", ServerKey { ip: vip, port })
        }
    }
}

fn server_options(r: &ServerView) -> String {
    let method = match r.mode {
        ForwardingMode::Nat => "-m",
        ForwardingMode::DirectRouting => "-g",
        ForwardingMode::Tunnel => "-i",
        ForwardingMode::FullNat => "--full-nat",
    };
    let mut out = format!("{method} -w {}", r.weight);
    if r.upper_threshold > 0 || r.lower_threshold > 0 {
        let _ = write!(out, " -x {} -y {}", r.upper_threshold, r.lower_threshold);
    }
    let _ = match r.tunnel {
        None => Ok(()),
        Some(Tunnel::Ipip) => write!(out, " --tun-type ipip"),
        Some(Tunnel::Gre { checksum }) => {
            write!(out, " --tun-type gre --tun-{}", if checksum { "csum" } else { "nocsum" })
        }
        Some(Tunnel::Gue { port, checksum }) => {
            let checksum = match checksum {
                GueChecksum::None => "nocsum",
                GueChecksum::Udp => "csum",
                GueChecksum::Remote => "remcsum",
            };
            write!(out, " --tun-type gue --tun-port {port} --tun-{checksum}")
        }
        Some(Tunnel::Vxlan { port, vni }) => write!(out, " --tun-type vxlan --tun-port {port} --tun-vni {vni}"),
    };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_cut() {
        for (n, text) in [
            (99_999_999, " 99999999"),
            (100_026_123, "  100026K"),
            (1_000_000_000, "    1000M"),
            (99_999_999_999, "   99999M"),
            (100_000_000_000, "     100G"),
            (u64::MAX, "18446744T"),
        ] {
            assert_eq!(number(n, false).trim_start(), text.trim_start());
        }
        assert_eq!(number(100_026_123, true), " 100026123");
        assert_eq!(number(5, false).len(), 9);
    }
}
