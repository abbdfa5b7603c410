//! Which differences from the recordings are on purpose: recognised by what happened at that
//! very step, each with its row in docs/differences-from-ipvs.md.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use control::engine::Operation;
use control::ipvsadm::{self, Command, Marks};
use control::model::ForwardingMode;
use serde_json::Value;

use crate::oracle::pieces::pieces;

/// A kind of difference that is meant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Purpose {
    /// UDP without a checksum stays without one.
    NoUdpChecksum,
    /// The checksum of a packet quoted in an ICMP error is brought up to date.
    QuotedChecksum,
    /// ICMPv6 errors from real servers are translated.
    Icmpv6FromServer,
    /// A relayed «fragmentation needed» names what the client may send.
    TunnelMtu,
    /// Each piece of a datagram is wrapped by itself.
    TunnelledPieces,
    /// Errors about tunnels' packets are relayed where IPv6 is inside or outside.
    TunnelErrorV6,
    /// A tunnel that is narrower than IPv6 allows carries IPv6 all the same.
    NarrowTunnel,
    /// A server changed from NAT to direct routing is reached at its own address.
    NatToDirect,
    /// `-S` saves thresholds.
    SavedThresholds,
    /// Netmasks are prefixes.
    Netmask,
    /// There is no synchronization daemon.
    NoSyncDaemon,
    /// There are no persistence engines.
    NoPersistenceEngine,
    /// `-R` takes comments.
    Comments,
    /// There is a scheduler that the recordings' kernel was built without.
    MoreSchedulers,
    /// Packets are counted without `run_estimation` as well.
    AlwaysCounted,
    /// What wraps IPv6 in IPv4 may not be cut on its way.
    TunnelDf,
    /// A segment whose first piece does not show its header is refused.
    TinyPiece,
    /// Pieces that fit go on, though the whole would not and forbids to be cut.
    FittingPieces,
    /// Timestamps are neither filled in nor told.
    Timestamps,
    /// ESP and AH belong to no flow.
    Ipsec,
}

use Purpose::*;

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 20] = [
        NoUdpChecksum,
        QuotedChecksum,
        Icmpv6FromServer,
        TunnelMtu,
        TunnelledPieces,
        TunnelErrorV6,
        NarrowTunnel,
        NatToDirect,
        SavedThresholds,
        Netmask,
        NoSyncDaemon,
        NoPersistenceEngine,
        Comments,
        MoreSchedulers,
        AlwaysCounted,
        TunnelDf,
        TinyPiece,
        FittingPieces,
        Timestamps,
        Ipsec,
    ];

    /// The first cell of its row in docs/differences-from-ipvs.md.
    pub fn row(self) -> &'static str {
        match self {
            NoUdpChecksum => "UDP checksum 0 through NAT",
            QuotedChecksum => "quoted TCP/UDP checksum in a translated ICMP error",
            Icmpv6FromServer => "ICMPv6 errors from real servers with complete checksums",
            TunnelMtu => "first «fragmentation needed» relayed for a tunnel",
            TunnelledPieces => "datagrams in pieces through tunnels",
            TunnelErrorV6 => "ICMP errors about tunnels with IPv6 inside or outside",
            NarrowTunnel => "a tunnel with less room than the 1,280 bytes that IPv6 hosts send at least",
            NatToDirect => "new connections after `-e` from NAT to direct routing",
            SavedThresholds => "`-S` and thresholds",
            Netmask => "`-M`",
            NoSyncDaemon => "`--start-daemon`, `--stop-daemon`",
            NoPersistenceEngine => "`--pe`",
            Comments => "comment lines for `-R`",
            MoreSchedulers => "`-s twos`",
            AlwaysCounted => "counters without `run_estimation`",
            TunnelDf => "what wraps IPv6 in IPv4",
            TinyPiece => "a first piece without a whole TCP header",
            FittingPieces => "datagrams in pieces that all forbid fragmentation",
            Timestamps => "timestamp options, timestamp requests",
            Ipsec => "ESP and AH",
        }
    }
}

/// One field of a packet that differs.
pub struct Field {
    /// Where: `inner.` before the name for a quoted or wrapped packet.
    pub path: String,
    /// What Pollux sent.
    pub got: Value,
    /// What the kernel sent.
    pub want: Value,
}

/// A step with a packet.
pub struct Sent<'a> {
    /// `c` or `s`.
    pub side: &'a str,
    /// Its description.
    pub text: &'a str,
    /// The packet that it quotes, taken apart; or null.
    pub quoted: &'a Value,
}

impl Sent<'_> {
    pub(super) fn word(&self, n: usize) -> &str {
        self.text.split_whitespace().nth(n).unwrap_or_default()
    }
    pub(super) fn option(&self, name: &str) -> Option<u64> {
        self.text.split_whitespace().find_map(|w| w.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
    }
    fn word_of(&self, name: &str) -> Option<&str> {
        self.text.split_whitespace().find_map(|w| w.strip_prefix(name)?.strip_prefix('='))
    }
    pub(super) fn has(&self, word: &str) -> bool {
        self.text.split_whitespace().any(|w| w == word)
    }
    /// An ICMP error, of either family, about a tunnel's packet, from the servers' side.
    fn is_about_a_tunnel(&self) -> bool {
        self.side == "s" && self.text.starts_with("icmp") && overhead(self.quoted).is_some()
    }
}

/// What came out: where, taken apart, its length, and which server's station it was for.
pub struct Out {
    /// `c` or `s`.
    pub side: &'static str,
    /// The packet.
    pub ip: Value,
    /// Its length.
    pub len: usize,
    /// The real server that its Ethernet address names.
    pub to: Option<String>,
}

/// What has happened so far and bears on later judgements.
#[derive(Default)]
pub struct Known {
    /// The MTU towards the servers.
    mtu: u64,
    /// The director's addresses.
    pub own: HashSet<IpAddr>,
    /// ICMPv6 errors that Pollux translated and the kernel dropped: packets and bytes by real server.
    translated: HashMap<String, (i64, i64)>,
    /// Real servers that NAT served, by address.
    nat: HashSet<IpAddr>,
    /// Those that were changed to direct routing.
    changed: HashSet<IpAddr>,
    /// Clients' ends whose flow the kernel sends to the VIP.
    to_vip: HashSet<String>,
    /// Services that only the kernel took, with `--pe sip`, as listings name them.
    refused: HashSet<String>,
    /// Whether the kernel has started a synchronization daemon.
    daemon: bool,
    /// Whether the kernel's counters stand still in listings.
    pub still: bool,
}

fn is_error(ip: &Value) -> bool {
    (ip["proto"] == "icmp" && matches!(ip["type"].as_u64(), Some(3 | 4 | 11)))
        || (ip["proto"] == "icmp6" && matches!(ip["type"].as_u64(), Some(1..=3)))
}

/// How many bytes the outermost wrapping of a packet takes.
pub(super) fn overhead(outer: &Value) -> Option<u64> {
    let header = if outer["v"] == 6 { 40 } else { 20 };
    match outer["proto"].as_str()? {
        "ipip" | "ipv6" => Some(header),
        "gre" => Some(header + outer["gre"]["head"].as_str()?.len() as u64 / 2),
        "udp" if matches!(outer["dport"].as_u64(), Some(6080 | 9999)) => Some(header + 12),
        _ => None,
    }
}

/// What an ipvsadm line does to the rules.
fn operation(line: &str) -> Option<Operation> {
    match ipvsadm::parse(&ipvsadm::split(line), &Marks::default()) {
        Ok(Command::Change(o)) => Some(o),
        _ => None,
    }
}

/// The value after an option, however it is written.
fn value<'a>(line: &'a str, short: &str, long: &str) -> Option<&'a str> {
    let mut words = line.split_whitespace();
    while let Some(w) = words.next() {
        if w == short || w == long {
            return words.next();
        }
        if let Some(v) = w.strip_prefix(long).and_then(|v| v.strip_prefix('=')) {
            return Some(v);
        }
        if let Some(v) = w.strip_prefix(short).filter(|v| !v.is_empty() && !w.starts_with("--")) {
            return Some(v);
        }
    }
    None
}

impl Known {
    /// Nothing has happened yet; `mtu` is that towards the servers.
    pub fn in_a_world_of(mtu: u64) -> Self {
        Self { mtu, ..Self::default() }
    }

    /// Remembers a rule that was taken: real servers' modes.
    pub fn rule(&mut self, line: &str) {
        let (ip, mode) = match operation(line) {
            Some(Operation::AddServer { server, .. }) => (server.address.ip, Some(server.mode)),
            Some(Operation::SetServer { address, set, .. }) => (address.ip, set.mode),
            _ => return,
        };
        match mode {
            Some(ForwardingMode::Nat) => {
                self.nat.insert(ip);
                self.changed.remove(&ip);
            }
            Some(ForwardingMode::DirectRouting) if self.nat.contains(&ip) => {
                self.changed.insert(ip);
            }
            _ => {}
        }
    }

    /// One of the host's settings was changed.
    pub fn setting(&mut self, key: &str, value: &str) {
        if key == "net.ipv4.vs.run_estimation" {
            // What stood still goes on from there; our counters have not waited.
            self.still |= value.trim() == "0";
        }
    }

    /// A step after which other packets came out than in the recording.
    pub fn packets(&mut self, sent: &Sent, got: &[Out], expected: &Value) -> Option<Purpose> {
        let wanted = expected["out"].as_array().map_or(&[][..], Vec::as_slice);
        if sent.option("frag").is_some() {
            return pieces(sent, got, wanted);
        }
        if let ([], [w], "c") = (got, wanted, sent.side)
            && sent.text.starts_with("icmp ")
            && (sent.option("type"), w["ip"]["type"].as_u64()) == (Some(13), Some(14))
        {
            return Some(Timestamps);
        }
        if sent.side == "c" && wanted.is_empty() && self.is_narrow(got) {
            return Some(NarrowTunnel);
        }
        let [only] = got else { return None };
        if sent.side == "s" && wanted.is_empty() && only.side == "c" && is_error(&only.ip) {
            return self.error_for_client(sent, only);
        }
        let server: Option<IpAddr> = only.to.as_ref().and_then(|to| to.parse().ok());
        let direct =
            only.side == "s" && only.ip["dst"].as_str() == sent.word(3).rsplit_once([':', '.']).map(|(a, _)| a);
        if sent.side != "c" || !direct || !server.is_some_and(|ip| self.nat.contains(&ip)) {
            return None;
        }
        let asks = |w: &Value| {
            let ip = w["text"].as_str()?.split("who-has ").nth(1)?.split(' ').next()?.parse::<IpAddr>().ok()?;
            self.own.contains(&ip).then_some(())
        };
        let client = sent.word(1).to_owned();
        if !wanted.is_empty() && wanted.iter().all(|w| asks(w).is_some()) && self.changed.contains(&server?) {
            self.to_vip.insert(client);
            return Some(NatToDirect);
        }
        (wanted.is_empty() && self.to_vip.contains(&client)).then_some(NatToDirect)
    }

    /// Whether an IPv6 packet went into a tunnel that has less room than 1,280 bytes, or was refused for more.
    fn is_narrow(&self, got: &[Out]) -> bool {
        let Some(first) = got.first() else { return false };
        match overhead(&first.ip) {
            Some(extra) if first.side == "s" => {
                // In pieces it shows no more than that it is one.
                let inside = &first.ip["inner"];
                inside["v"] == 6 && self.mtu.saturating_sub(extra) < 1280
            }
            _ => first.side == "c" && first.ip["type"] == 2 && first.ip["rest"] == 1280 && self.mtu < 1280 + 80,
        }
    }

    /// The kernel dropped an ICMP error of the servers' side that Pollux told the client of.
    fn error_for_client(&mut self, sent: &Sent, only: &Out) -> Option<Purpose> {
        let inner = |ip: &Value| ip["v"] == 6 || ip["proto"] == "ipv6";
        if sent.is_about_a_tunnel() {
            let six = inner(sent.quoted) || sent.quoted["inner"]["v"] == 6;
            return six.then_some(TunnelErrorV6);
        }
        let same = sent.option("type") == only.ip["type"].as_u64() && only.ip["inner"]["dst"] == only.ip["src"];
        if !sent.text.starts_with("icmp6") || !same {
            return None;
        }
        let server = sent.quoted["dst"].as_str()?.to_owned();
        let t = self.translated.entry(server).or_default();
        *t = (t.0 + 1, t.1 + only.len as i64);
        Some(Icmpv6FromServer)
    }

    /// A packet some fields of which differ.
    pub fn fields(&self, sent: &Sent, got: &Value, fields: &[Field]) -> Option<Purpose> {
        let refused = matches!((got["type"].as_u64(), got["code"].as_u64()), (Some(3), Some(2)) | (Some(4), Some(1)));
        let elsewhere = fields.iter().any(|f| f.path == "side" && f.got == "c" && f.want == "s");
        if matches!(sent.option("proto"), Some(50 | 51)) && refused && elsewhere {
            return Some(Ipsec);
        }
        let [f] = fields else { return None };
        if f.path == "l4_ok" && f.got == "none" && f.want == true && got["proto"] == "udp" && sent.has("nosum") {
            return Some(NoUdpChecksum);
        }
        let stale = f.path == "inner.l4_ok" && f.got == true && f.want == false;
        if stale && sent.text.starts_with("icmp") && is_error(got) {
            return Some(QuotedChecksum);
        }
        let stamped = |options: &str| options.starts_with("44") || options.starts_with("0144");
        if matches!(f.path.as_str(), "ipopt" | "inner.ipopt") && sent.word_of("ipopt").is_some_and(stamped) {
            let len = |v: &Value| v.as_str().map(str::len);
            return (len(&f.got).is_none() || len(&f.got) == len(&f.want)).then_some(Timestamps);
        }
        let six_in_four = got["v"] == 4 && overhead(got).is_some() && got["inner"]["v"] == 6;
        if f.path == "df" && f.got == true && f.want == false && six_in_four && sent.side == "c" {
            return Some(TunnelDf);
        }
        let too_big = got["type"] == 3 && got["code"] == 4;
        if too_big && f.path == "rest" && sent.is_about_a_tunnel() {
            let right = sent.option("mtu")? - overhead(sent.quoted)?;
            return (f.got == right && f.want.as_u64()? > right).then_some(TunnelMtu);
        }
        None
    }

    /// A command that was answered differently: our exit code and words, and the kernel's.
    pub fn command(&mut self, line: &str, ours: (i32, &str), theirs: (i64, &str)) -> Option<Purpose> {
        let verb = line.split_whitespace().next().unwrap_or_default().split('=').next().unwrap_or_default();
        if verb == "--start-daemon" && ours.1.starts_with("connection synchronization is not available") {
            self.daemon |= theirs.0 == 0;
            return (theirs.0 == 0 || theirs.0 == 255).then_some(NoSyncDaemon);
        }
        if verb == "--stop-daemon" && ours.1.starts_with("No daemon is running") {
            return (self.daemon && theirs.0 == 0).then_some(NoSyncDaemon);
        }
        let edits = matches!(verb, "-A" | "-E" | "--add-service" | "--edit-service");
        if edits && value(line, "--pe", "--pe") == Some("sip") && ours.0 == 255 && theirs.0 == 0 {
            self.refused.extend(service_name(line));
            return Some(NoPersistenceEngine);
        }
        let mask = value(line, "-M", "--netmask").and_then(|m| m.parse::<std::net::Ipv4Addr>().ok());
        let holes = mask.is_some_and(|m| u32::from(m).leading_ones() != u32::from(m).count_ones());
        let number = value(line, "-M", "--netmask").is_some_and(|m| m.parse::<u64>().is_ok_and(|n| n > 32));
        let refused = ours.0 == 2 && ours.1 == "illegal virtual server netmask specified\n";
        if edits && (holes || number) && refused && theirs.0 != 2 {
            return Some(Netmask);
        }
        let on_refused = service_name(line).is_some_and(|s| self.refused.contains(&s));
        (on_refused && theirs.0 == 0).then_some(NoPersistenceEngine)
    }

    /// A listing's line that the kernel has and Pollux has not: of a service that it refused, or
    /// a daemon that it does not have.
    pub fn is_of_refused(&self, service_line: &str) -> bool {
        let words: Vec<&str> = service_line.split_whitespace().collect();
        let name = match words.iter().position(|w| matches!(*w, "-t" | "-u")) {
            Some(at) => words.get(at + 1).map(|s| format!("{} {s}", if words[at] == "-t" { "TCP" } else { "UDP" })),
            None => Some(words[..words.len().min(2)].join(" ")),
        };
        name.is_some_and(|n| self.refused.contains(&n))
    }

    /// Whether the kernel's listing of daemons is of those that were asked for.
    pub fn are_daemons(&self, lines: &str) -> bool {
        self.daemon && lines.lines().all(|l| l.contains(" sync daemon (mcast="))
    }

    /// What a differing line of a listing may mean.
    pub fn line(&self, args: &str, got: &str, want: &str) -> Option<Purpose> {
        let (g, w): (Vec<&str>, Vec<&str>) = (got.split_whitespace().collect(), want.split_whitespace().collect());
        if g.first() == Some(&"-a") && w.first() == Some(&"-a") {
            let mut kept = Vec::new();
            let mut words = g.iter();
            while let Some(word) = words.next() {
                if matches!(*word, "-x" | "-y") {
                    words.next();
                } else {
                    kept.push(*word);
                }
            }
            return (kept == w && kept.len() < g.len()).then_some(SavedThresholds);
        }
        if self.still && args.contains("--stats") && g.len() == w.len() && ahead(&g, &w) {
            return Some(AlwaysCounted);
        }
        let differ: Vec<usize> = (0..g.len().max(w.len())).filter(|i| g.get(*i) != w.get(*i)).collect();
        let [at] = differ[..] else { return self.counts(args, &g, &w) };
        let after_mask = g.len() == w.len() && at > 0 && matches!(w[at - 1], "mask" | "-M");
        (after_mask && w[at].starts_with("0.0.0.")).then_some(Netmask)
    }

    /// Statistics: higher by exactly the errors that were translated.
    fn counts(&self, args: &str, g: &[&str], w: &[&str]) -> Option<Purpose> {
        let n = g.len();
        if !args.contains("--stats") || n != w.len() || n < 6 {
            return None;
        }
        let over = |i: usize| Some(g[i].parse::<i64>().ok()? - w[i].parse::<i64>().ok()?);
        let same = (0..n).filter(|i| *i != n - 1 && *i != n - 3).all(|i| g[i] == w[i]);
        let mine = |server: &str| g[0] != "->" || g[1].trim_start_matches('[').starts_with(&format!("{server}]"));
        let sum = self.translated.iter().filter(|(s, _)| mine(s)).fold((0, 0), |a, (_, t)| (a.0 + t.0, a.1 + t.1));
        (same && sum.0 > 0 && (over(n - 3)?, over(n - 1)?) == sum).then_some(Icmpv6FromServer)
    }
}

/// Whether the kernel's numbers, five at the end of a line, are all behind.
fn ahead(got: &[&str], want: &[&str]) -> bool {
    let n = got.len().saturating_sub(5);
    let numbers = |words: &[&str]| words[n..].iter().map(|w| w.parse::<u64>().ok()).collect::<Option<Vec<_>>>();
    let (Some(g), Some(w)) = (numbers(got), numbers(want)) else { return false };
    n > 0 && got[..n] == want[..n] && g.iter().zip(&w).all(|(g, w)| g >= w)
}

/// Whether a line asks for a scheduler that the recordings' kernel was built without.
pub fn asks_for_more(line: &str) -> bool {
    value(line, "-s", "--scheduler") == Some("twos")
}

/// A line's service as listings name it: `TCP 10.9.0.8:80`.
fn service_name(line: &str) -> Option<String> {
    let tcp = value(line, "-t", "--tcp-service").map(|a| format!("TCP {a}"));
    tcp.or_else(|| value(line, "-u", "--udp-service").map(|a| format!("UDP {a}")))
}
