//! Options into operations.

use std::collections::BTreeSet;

use dataplane::units::Protocol;

use super::options::{Given, Name, Verb, Words, words};
use super::{Failure, Marks, address};
use crate::engine::Operation;
use crate::model::{
    ForwardingMode, GueChecksum, NewService, Persistence, RealServer, SchedFlag, Scheduler, ServerKey, ServerPatch,
    ServiceKey, ServicePatch, Tunnel, default_persistence_s,
};

/// Longest time-out that ipvsadm takes, seconds: 31 days.
const MAX_TIMEOUT_S: i64 = 31 * 24 * 3600;

/// What a line asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// A change.
    Change(Operation),
    /// A service with a scheduler or a persistence engine that is not known. The kernel looks at the
    /// service first: [`Unknown::answer`].
    Unknown(Unknown),
    /// A listing.
    List(List),
    /// `-S`: the rules as command lines.
    Save {
        /// Numbers instead of names.
        numeric: bool,
    },
    /// `-R`: rules from standard input, see [`super::restore`].
    Restore,
    /// `-h`.
    Help,
    /// `-v`.
    Version,
}

/// A change of a service that cannot be made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unknown {
    /// The service.
    pub service: ServiceKey,
    /// Whether it is to be added rather than changed.
    pub adds: bool,
}

impl Unknown {
    /// What is said of it, given whether the service exists.
    pub fn answer(&self, exists: bool) -> Failure {
        Failure::refused(match (self.adds, exists) {
            (true, true) => "Service already exists",
            (false, false) => "No such service",
            _ => "Scheduler or persistence engine not found",
        })
    }
}

/// What a listing shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct List {
    /// One service only.
    pub service: Option<ServiceKey>,
    /// Numbers instead of names.
    pub numeric: bool,
    /// Connections instead of services.
    pub connections: bool,
    /// The three time-outs.
    pub timeout: bool,
    /// The sync daemons.
    pub daemon: bool,
    /// Statistics.
    pub stats: bool,
    /// Rates.
    pub rate: bool,
    /// Thresholds.
    pub thresholds: bool,
    /// Persistent connections.
    pub persistent: bool,
    /// Tunnels.
    pub tunnels: bool,
    /// Numbers in full.
    pub exact: bool,
    /// Real servers as schedulers try them, the newest first.
    pub unsorted: bool,
}

/// Reads one line, without the program's name. `marks` are the rules that firewall marks
/// of new services get.
pub fn parse(args: &[&str], marks: &Marks) -> Result<Command, Failure> {
    if args.is_empty() {
        return Ok(Command::List(List::default()));
    }
    let w = words(args)?;
    let operation = match w.verb {
        Verb::Help => return Ok(Command::Help),
        Verb::Version => return Ok(Command::Version),
        Verb::Restore => return Ok(Command::Restore),
        Verb::Save => return Ok(Command::Save { numeric: w.has("numeric") }),
        Verb::List => return list(&w).map(Command::List),
        Verb::Flush => Operation::Flush,
        Verb::Zero => Operation::Zero { service: service_key(&w)? },
        Verb::Set => set(&w)?,
        Verb::StartDaemon | Verb::StopDaemon => return Err(daemon(&w)),
        Verb::DeleteService => Operation::DeleteService { address: must(service_key(&w)?)? },
        Verb::AddService | Verb::EditService if is_unknown(&w) => {
            let service = service(&w, marks)?.address;
            return Ok(Command::Unknown(Unknown { service, adds: w.verb == Verb::AddService }));
        }
        Verb::AddService => Operation::AddService { service: service(&w, marks)? },
        Verb::EditService => {
            let s = service(&w, marks)?;
            let set = ServicePatch {
                scheduler: Some(s.scheduler),
                sched_flags: Some(s.sched_flags),
                persistence: Some(s.persistence),
                one_packet: Some(s.one_packet),
                rules: None,
                // ipvsadm has no word for the rest: it stays as it is.
                ..ServicePatch::default()
            };
            Operation::SetService { address: s.address, set }
        }
        Verb::AddServer | Verb::EditServer | Verb::DeleteServer => server(&w)?,
    };
    Ok(Command::Change(operation))
}

/// Whether the value of the option given last is one; what it means is looked at later.
pub(super) fn value(w: &Words, o: &Given) -> Result<(), Failure> {
    let text = o.value.unwrap_or_default();
    match o.name {
        "service-address" => service_key(w).map(drop),
        "ipv6" => match w.get("service-address") {
            Some(s) if s.long == "--fwmark-service" => Ok(()),
            _ => Err(Failure::wrong("-6 used before -f\n")),
        },
        "persistent" if o.value.is_some() => seconds(text, 1).map(drop),
        "real-server" => real_server(text).map(drop),
        "weight" => limit(*o, "weight").map(drop),
        "u-threshold" => limit(*o, "u_threshold").map(drop),
        "l-threshold" => limit(*o, "l_threshold").map(drop),
        "tun-type" if !matches!(text, "ipip" | "gue" | "gre") => Err(Failure::wrong("illegal tunnel type specified")),
        "tun-port" => tunnel_port(text).map(drop),
        _ => Ok(()),
    }
}

/// Whether the scheduler's flags are such of the scheduler.
pub(super) fn sched_flags(w: &Words) -> Result<(), Failure> {
    let Some(o) = w.get("sched-flags") else { return Ok(()) };
    let named = w.get("scheduler").and_then(|o| o.value).unwrap_or_default();
    let scheduler = if named.is_empty() { Ok(Scheduler::default()) } else { named.parse() };
    // Of one that is not known none are.
    flags(o.value.unwrap_or_default(), scheduler.unwrap_or_default()).map(drop)
}

fn real_server(text: &str) -> Result<(std::net::IpAddr, Option<u16>), Failure> {
    address::address(text).ok_or_else(|| Failure::wrong("illegal real server address[:port] specified"))
}

fn tunnel_port(text: &str) -> Result<u16, Failure> {
    let n = address::number(text, 1, 65535).and_then(|n| u16::try_from(n).ok());
    n.ok_or_else(|| Failure::wrong("illegal tunnel port specified"))
}

fn must<T>(value: Option<T>) -> Result<T, Failure> {
    value.ok_or_else(Failure::usage)
}

fn service_key(w: &Words) -> Result<Option<ServiceKey>, Failure> {
    let Some(Given { long, value, .. }) = w.get("service-address") else { return Ok(None) };
    let text = value.unwrap_or_default();
    let protocol = match long {
        "--tcp-service" => Protocol::Tcp,
        "--udp-service" => Protocol::Udp,
        "--sctp-service" => Protocol::Sctp,
        _ => {
            let wrong = || Failure::wrong(format!("invalid fwmark value `{text}' specified"));
            let mark = address::number(text, 1, i64::from(u32::MAX)).ok_or_else(wrong)?;
            let mark = u32::try_from(mark).map_err(|_| wrong())?;
            return Ok(Some(ServiceKey::Mark { mark, ipv6: w.has("ipv6") }));
        }
    };
    let wrong = || Failure::wrong("illegal virtual server address[:port] specified");
    let (vip, port) = address::service(text).ok_or_else(wrong)?;
    Ok(Some(ServiceKey::Address { protocol, vip, port: port.unwrap_or(0) }))
}

/// The scheduler that is named; of an empty name none is.
fn named_scheduler(w: &Words) -> Option<Result<Scheduler, ()>> {
    let name = w.get("scheduler")?.value.filter(|n| !n.is_empty())?;
    Some(name.parse().map_err(|_| ()))
}

/// Whether a service's line names what is not here. What else is wrong with it comes first.
fn is_unknown(w: &Words) -> bool {
    w.has("pe") || named_scheduler(w) == Some(Err(()))
}

fn service(w: &Words, marks: &Marks) -> Result<NewService, Failure> {
    let key = must(service_key(w)?)?;
    let mut s = NewService::new(key);
    if let Some(Ok(known)) = named_scheduler(w) {
        s.scheduler = known;
    }
    s.persistence = persistence(w, &key)?;
    s.one_packet = w.has("ops");
    if let Some(o) = w.get("sched-flags") {
        s.sched_flags = flags(o.value.unwrap_or_default(), s.scheduler)?;
    }
    if let ServiceKey::Address { port, protocol, .. } = key {
        if port == 0 && s.persistence.is_none() {
            return Err(Failure::wrong("Zero port specified for non-persistent service"));
        }
        if s.one_packet && protocol != Protocol::Udp {
            return Err(Failure::wrong("One-Packet Scheduling is only for UDP virtual services"));
        }
    }
    if let ServiceKey::Mark { mark, ipv6 } = key {
        s.rules = marks.rules(mark, ipv6);
    }
    Ok(s)
}

fn persistence(w: &Words, key: &ServiceKey) -> Result<Option<Persistence>, Failure> {
    let prefix_len = match w.get("netmask") {
        None => None,
        Some(o) => {
            let kind = if key.is_ipv6() { "ipv6" } else { "virtual server" };
            let wrong = || Failure::wrong(format!("illegal {kind} netmask specified"));
            Some(address::netmask(o.value.unwrap_or_default(), key.is_ipv6()).ok_or_else(wrong)?)
        }
    };
    let Some(o) = w.get("persistent") else { return Ok(None) };
    let timeout_s = match o.value {
        None => default_persistence_s(),
        Some(text) => seconds(text, 1)?,
    };
    Ok(Some(Persistence { timeout_s, prefix_len }))
}

fn seconds(text: &str, least: i64) -> Result<u32, Failure> {
    let wrong = || Failure::wrong(format!("invalid timeout value `{text}' specified"));
    u32::try_from(address::number(text, least, MAX_TIMEOUT_S).ok_or_else(wrong)?).map_err(|_| wrong())
}

fn flags(text: &str, scheduler: Scheduler) -> Result<BTreeSet<SchedFlag>, Failure> {
    let one = |name: &str| {
        let flag = match name {
            "sh-fallback" | "mh-fallback" | "flag-1" => SchedFlag::Fallback,
            "sh-port" | "mh-port" | "flag-2" => SchedFlag::Port,
            "flag-3" => SchedFlag::Flag3,
            _ => return Err(Failure::wrong(format!("invalid scheduler flag `{name}'"))),
        };
        let of = name.split('-').next().unwrap_or_default();
        if of != "flag" && of != scheduler.name() {
            return Err(Failure::wrong(format!("incompatible scheduler flag `{name}'")));
        }
        Ok(flag)
    };
    text.split(',').filter(|n| !n.is_empty()).map(one).collect()
}

fn server(w: &Words) -> Result<Operation, Failure> {
    let service = must(service_key(w)?)?;
    let text = w.get("real-server").and_then(|o| o.value).unwrap_or_default();
    let (ip, port) = real_server(text)?;
    let mut r = RealServer::new(ServerKey { ip, port: port.unwrap_or_else(|| service.port()) });
    r.mode = match w.get("forwarding-method").map(|o| o.long) {
        Some("--masquerading") => ForwardingMode::Nat,
        Some("--ipip") => ForwardingMode::Tunnel,
        Some("--full-nat") => ForwardingMode::FullNat,
        _ => ForwardingMode::DirectRouting,
    };
    if w.verb == Verb::DeleteServer {
        return Ok(Operation::DeleteServer { service, address: r.address });
    }
    if let Some(o) = w.get("weight") {
        r.weight = limit(o, "weight")?;
    }
    if let Some(o) = w.get("u-threshold") {
        r.upper_threshold = limit(o, "u_threshold")?;
    }
    if let Some(o) = w.get("l-threshold") {
        r.lower_threshold = limit(o, "l_threshold")?;
    }
    r.tunnel = tunnel(w, r.mode)?;
    if r.mode != ForwardingMode::Tunnel && ip.is_ipv6() != service.is_ipv6() {
        return Err(Failure::wrong("Different address family is allowed only for tunneling servers"));
    }
    // Direct routing and tunnels cannot change the port, so ipvsadm sets it.
    if r.mode != ForwardingMode::Nat && !matches!(service, ServiceKey::Mark { .. }) {
        r.address.port = service.port();
    }
    if w.verb == Verb::AddServer {
        return Ok(Operation::AddServer { service, server: r });
    }
    let set = ServerPatch {
        mode: Some(r.mode),
        tunnel: Some(r.tunnel),
        weight: Some(r.weight),
        upper_threshold: Some(r.upper_threshold),
        lower_threshold: Some(r.lower_threshold),
    };
    Ok(Operation::SetServer { service, address: r.address, set })
}

/// A weight or a threshold, up to 2^31 − 1 as the kernel has it.
fn limit(o: Given, name: &str) -> Result<u32, Failure> {
    let wrong = || Failure::wrong(format!("illegal {name} specified"));
    let n = address::number(o.value.unwrap_or_default(), 0, i64::from(i32::MAX)).ok_or_else(wrong)?;
    u32::try_from(n).map_err(|_| wrong())
}

fn tunnel(w: &Words, mode: ForwardingMode) -> Result<Tunnel, Failure> {
    let names = ["tun-type", "tun-port", "tun-nocsum", "tun-csum", "tun-remcsum"];
    if mode != ForwardingMode::Tunnel && names.iter().any(|n| w.has(n)) {
        return Err(Failure::wrong("Tunnel options conflict with forward method"));
    }
    let kind = w.get("tun-type").and_then(|o| o.value).unwrap_or("ipip");
    let illegal = |name: &str| Failure::wrong(format!("Illegal '{name}' option with the '{kind}' tunnel type"));
    let port = w.get("tun-port").map(|o| tunnel_port(o.value.unwrap_or_default())).transpose()?;
    match kind {
        "ipip" => match names[1..].iter().find(|n| w.has(n)) {
            Some(n) => Err(illegal(n)),
            None => Ok(Tunnel::Ipip),
        },
        "gre" if port.is_some() => Err(illegal("tun-port")),
        "gre" if w.has("tun-remcsum") => Err(illegal("tun-remcsum")),
        "gre" => Ok(Tunnel::Gre { checksum: w.has("tun-csum") }),
        "gue" => {
            let missing = || Failure::wrong("You need to supply the 'tun-port' option for the 'gue' tunnel type");
            let checksum = match (w.has("tun-csum"), w.has("tun-remcsum")) {
                (_, true) => GueChecksum::Remote,
                (true, false) => GueChecksum::Udp,
                (false, false) => GueChecksum::None,
            };
            Ok(Tunnel::Gue { port: port.ok_or_else(missing)?, checksum })
        }
        _ => Err(Failure::wrong("illegal tunnel type specified")),
    }
}

/// What is said to `--start-daemon` and `--stop-daemon`: there is no connection
/// synchronization, so none is ever running.
fn daemon(w: &Words) -> Failure {
    match w.arguments.as_slice() {
        [] => return Failure::usage(),
        ["master" | "backup"] => {}
        [_] => return Failure::wrong(format!("illegal {} parameter specified", w.verb.name())),
        [_, more, ..] => return Failure::wrong(format!("unexpected argument {more}")),
    }
    for (name, least, most) in
        [("syncid", 0, 255), ("sync-maxlen", 1, 65_535 - 28), ("mcast-port", 1, 65_535), ("mcast-ttl", 1, 255)]
    {
        let value = w.get(name).map(|o| o.value.unwrap_or_default());
        if value.is_some_and(|v| address::number(v, least, most).is_none()) {
            return Failure::wrong(format!("illegal {name} specified"));
        }
    }
    match (w.verb, w.has("mcast-interface")) {
        (Verb::StopDaemon, _) => Failure::refused("No daemon is running"),
        (_, false) => Failure::refused("No such device"),
        (_, true) => Failure::refused("connection synchronization is not available"),
    }
}

fn set(w: &Words) -> Result<Operation, Failure> {
    let [tcp, fin, udp] = match w.arguments.as_slice() {
        [a, b, c] => [*a, *b, *c],
        [_, _, _, more, ..] => return Err(Failure::wrong(format!("unexpected argument {more}"))),
        [] => return Err(Failure::refused("--set: missing argument")),
        _ => return Err(Failure::wrong("--set option requires 3 timeout values")),
    };
    Ok(Operation::SetTimeouts { tcp_s: seconds(tcp, 0)?, tcp_fin_s: seconds(fin, 0)?, udp_s: seconds(udp, 0)? })
}

fn list(w: &Words) -> Result<List, Failure> {
    let l = List {
        service: service_key(w)?,
        numeric: w.has("numeric"),
        connections: w.has("connection"),
        timeout: w.has("timeout"),
        daemon: w.has("daemon"),
        stats: w.has("stats"),
        rate: w.has("rate"),
        thresholds: w.has("thresholds"),
        persistent: w.has("persistent-conn"),
        tunnels: w.has("tun-info"),
        exact: w.has("exact"),
        unsorted: w.has("nosort"),
    };
    let alone: [Name; 4] = ["connection", "service-address", "timeout", "daemon"];
    let mut alone = alone.into_iter().filter(|name| w.has(name));
    if let (Some(first), Some(second)) = (alone.next(), alone.next()) {
        let m = format!("The option '{second}' conflicts with the '{first}' option in the 'list' command");
        return Err(Failure::wrong(m));
    }
    let other = l.connections || l.timeout || l.daemon;
    let formats = l.stats || l.rate || l.thresholds || l.tunnels;
    if (other && formats) || ((l.timeout || l.daemon) && l.persistent) {
        return Err(Failure::wrong("options conflicts in the list command"));
    }
    Ok(l)
}
