//! Which differences from the recordings are on purpose: recognised by what happened,
//! each with its row in docs/differences-from-ipvs.md.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use serde_json::Value;

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
    /// A server changed from NAT to direct routing is reached at its own address.
    NatToDirect,
    /// A server that is the director itself is refused.
    LocalServer,
    /// Two flows with one reply: the older keeps it.
    SharedReply,
    /// A template that was replaced is not kept.
    ReplacedTemplate,
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
}

use Purpose::*;

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 13] = [
        NoUdpChecksum,
        QuotedChecksum,
        Icmpv6FromServer,
        TunnelMtu,
        NatToDirect,
        LocalServer,
        SharedReply,
        ReplacedTemplate,
        SavedThresholds,
        Netmask,
        NoSyncDaemon,
        NoPersistenceEngine,
        Comments,
    ];

    /// The first cell of its row in docs/differences-from-ipvs.md.
    pub fn row(self) -> &'static str {
        match self {
            NoUdpChecksum => "UDP checksum 0 through NAT",
            QuotedChecksum => "quoted TCP/UDP checksum in a translated ICMP error",
            Icmpv6FromServer => "ICMPv6 errors from real servers with complete checksums",
            TunnelMtu => "first «fragmentation needed» relayed for a tunnel",
            NatToDirect => "new connections after `-e` from NAT to direct routing",
            LocalServer => "a real server that is one of the director's own addresses",
            SharedReply => "two flows whose replies look alike",
            ReplacedTemplate => "a persistence template that was replaced",
            SavedThresholds => "`-S` and thresholds",
            Netmask => "`-M`",
            NoSyncDaemon => "`--start-daemon`, `--stop-daemon`",
            NoPersistenceEngine => "`--pe`",
            Comments => "comment lines for `-R`",
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

/// Packets and bytes.
#[derive(Clone, Copy, Default)]
pub struct Tally(pub i64, pub i64);

/// What has happened so far and bears on later judgements.
#[derive(Default)]
pub struct Known {
    /// The director's addresses.
    pub own: HashSet<IpAddr>,
    /// Real servers that are the director.
    pub local_servers: HashSet<String>,
    /// ICMPv6 errors that Pollux translated and the kernel dropped.
    pub translated: Tally,
    /// Clients' ends whose flow the kernel sends to the VIP.
    pub to_vip: HashSet<String>,
    /// VIPs and ports by client's end and real server's end, for flows of NAT.
    pub replies: HashMap<(String, String), HashSet<(String, u64)>>,
    /// Services that only the kernel took.
    pub refused: HashSet<String>,
}

fn is_error(ip: &Value) -> bool {
    (ip["proto"] == "icmp" && matches!(ip["type"].as_u64(), Some(3 | 11)))
        || (ip["proto"] == "icmp6" && matches!(ip["type"].as_u64(), Some(1..=3)))
}

/// `address port` as one word.
pub fn end(address: &Value, port: &Value) -> String {
    format!("{} {}", address.as_str().unwrap_or_default(), port.as_u64().unwrap_or_default())
}

impl Known {
    /// Remembers a rule: servers that are the director.
    pub fn rule(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        while let Some(word) = words.next() {
            if word == "-r" || word == "--real-server" {
                let server = words.next().unwrap_or_default();
                let bare = server.rsplit_once(':').map_or(server, |(a, _)| a).trim_matches(['[', ']']);
                let ip = bare.parse().or_else(|_| server.parse::<IpAddr>());
                if ip.is_ok_and(|ip| self.own.contains(&ip)) {
                    self.local_servers.insert(bare.to_owned());
                }
            }
        }
    }

    /// Remembers what the kernel did with a packet.
    pub fn saw(&mut self, side: &str, text: &str, expected: &Value) {
        for w in expected["out"].as_array().into_iter().flatten() {
            let ip = &w["ip"];
            if side == "c" && w["method"] == "nat" {
                let sent: Vec<&str> = text.split_whitespace().collect();
                let to = sent.get(3).copied().unwrap_or_default();
                let split = if to.contains("::") || to.matches(':').count() > 1 { '.' } else { ':' };
                if let Some((vip, Ok(port))) = to.rsplit_once(split).map(|(v, p)| (v, p.parse())) {
                    let key = (end(&ip["src"], &ip["sport"]), end(&ip["dst"], &ip["dport"]));
                    self.replies.entry(key).or_default().insert((vip.to_owned(), port));
                }
            }
        }
    }

    /// A step after which other packets came out than in the recording.
    pub fn packets(
        &mut self,
        side: &str,
        text: &str,
        got: &[(&str, Value, usize)],
        expected: &Value,
    ) -> Option<Purpose> {
        let client = text.split_whitespace().nth(1).unwrap_or_default();
        let wanted = expected["out"].as_array().map_or(&[][..], Vec::as_slice);
        let only = if let [one] = got { Some(one) } else { None };
        if let Some((to, ip, bytes)) = only {
            if side == "s" && wanted.is_empty() && *to == "c" && text.starts_with("icmp6") && is_error(ip) {
                self.translated.0 += 1;
                self.translated.1 += *bytes as i64;
                return Some(Icmpv6FromServer);
            }
            if side == "c" && !self.local_servers.is_empty() && *to == "c" && is_error(ip) {
                return Some(LocalServer);
            }
        }
        let asks = |w: &Value| {
            let ip = w["text"]
                .as_str()
                .and_then(|t| t.split("who-has ").nth(1))
                .and_then(|t| t.split(' ').next()?.parse().ok());
            ip.is_some_and(|ip: IpAddr| self.own.contains(&ip))
        };
        if side == "c" && !wanted.is_empty() && wanted.iter().all(asks) {
            self.to_vip.insert(client.to_owned());
            return Some(NatToDirect);
        }
        (side == "c" && wanted.is_empty() && self.to_vip.contains(client)).then_some(NatToDirect)
    }

    /// A packet some fields of which differ.
    pub fn fields(&self, side: &str, text: &str, got: &Value, fields: &[Field]) -> Option<Purpose> {
        if side == "c" && !self.local_servers.is_empty() && is_error(got) && got["type"] == 3 {
            return Some(LocalServer);
        }
        let all = |f: &dyn Fn(&Field) -> bool| fields.iter().all(f);
        if got["proto"] == "udp" && text.contains("nosum") && all(&|f| f.path == "l4_ok" && f.got == "none") {
            return Some(NoUdpChecksum);
        }
        if all(&|f| f.path.starts_with("inner.") && f.path.ends_with("l4_ok") && f.got == true && f.want == false) {
            return Some(QuotedChecksum);
        }
        let smaller = |f: &Field| f.path == "rest" && f.got.as_u64().zip(f.want.as_u64()).is_some_and(|(g, w)| g < w);
        let too_big = (got["type"] == 3 && got["code"] == 4) || (got["proto"] == "icmp6" && got["type"] == 2);
        if side == "s" && text.starts_with("icmp") && too_big && all(&smaller) {
            return Some(TunnelMtu);
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        let spaced = |w: &str| {
            w.rsplit_once(if w.matches(':').count() > 1 { '.' } else { ':' }).map(|(a, p)| format!("{a} {p}"))
        };
        if let (true, Some(server), Some(client)) =
            (side == "s", words.get(1).and_then(|w| spaced(w)), words.get(3).and_then(|w| spaced(w)))
            && all(&|f| f.path == "sport" || f.path == "src")
        {
            let ours = (got["src"].as_str().unwrap_or_default().to_owned(), got["sport"].as_u64().unwrap_or(0));
            let flows = self.replies.get(&(client, server))?;
            return (flows.len() > 1 && flows.contains(&ours)).then_some(SharedReply);
        }
        None
    }

    /// A command that was answered differently: our exit code and words, the kernel's code.
    pub fn command(&mut self, line: &str, stdin: &str, (ours, said): (i32, &str), theirs: &Value) -> Option<Purpose> {
        let why = if said.starts_with("connection synchronization is not available") {
            Some(NoSyncDaemon)
        } else if said.starts_with("Scheduler or persistence engine not found") && line.contains("--pe ") {
            Some(NoPersistenceEngine)
        } else if said.contains("netmask specified") && line.split_whitespace().any(|w| w == "-M" || w == "--netmask") {
            Some(Netmask)
        } else if stdin.lines().any(|l| l.trim_start().starts_with('#')) {
            Some(Comments)
        } else {
            None
        };
        if why.is_some() && ours != 0 && *theirs == 0 {
            let service = line.split_whitespace().skip_while(|w| !matches!(*w, "-t" | "-u" | "-f")).nth(1);
            self.refused.extend(service.map(str::to_owned));
        }
        why
    }
}
