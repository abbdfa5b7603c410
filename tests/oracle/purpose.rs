//! Which differences from the recordings are on purpose: recognised by what happened,
//! each with its row in docs/differences-from-ipvs.md.

use std::collections::HashSet;
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
    pub const ALL: [Self; 10] = [
        NoUdpChecksum,
        QuotedChecksum,
        Icmpv6FromServer,
        TunnelMtu,
        NatToDirect,
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
    /// ICMPv6 errors that Pollux translated and the kernel dropped.
    pub translated: Tally,
    /// Clients' ends whose flow the kernel sends to the VIP.
    pub to_vip: HashSet<String>,
    /// Services that only the kernel took.
    pub refused: HashSet<String>,
}

fn is_error(ip: &Value) -> bool {
    (ip["proto"] == "icmp" && matches!(ip["type"].as_u64(), Some(3 | 11)))
        || (ip["proto"] == "icmp6" && matches!(ip["type"].as_u64(), Some(1..=3)))
}

impl Known {
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
