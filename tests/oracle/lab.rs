//! A director to try statements on: rules and packets in the recordings' words, answers in
//! theirs as well.

use std::collections::HashMap;
use std::net::IpAddr;

use dataplane::counters::DropReason;
use dataplane::units::Mac;
use serde_json::{Value, json};

use crate::oracle::director::Director;
use crate::oracle::purpose::Out;

/// A scenario in the making. Whatever is not understood panics: it is for tests.
pub struct Lab {
    director: Director,
    /// What the last packet brought out.
    pub out: Vec<Out>,
}

/// The addresses after an option, in rules' order.
fn addresses(rules: &[&str], options: &[&str]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for rule in rules {
        let words: Vec<&str> = rule.split_whitespace().collect();
        for pair in words.windows(2).filter(|p| options.contains(&p[0])) {
            let bare = pair[1]
                .rsplit_once(':')
                .filter(|(a, _)| !a.contains(':') || a.ends_with(']'))
                .map_or(pair[1], |(a, _)| a);
            if let Ok(ip) = bare.trim_matches(['[', ']']).parse() {
                found.push(ip);
            }
        }
    }
    found
}

impl Lab {
    /// A director with these rules; addresses after `-r` are real servers, those after `-t` and
    /// so on VIPs.
    pub fn new(rules: &[&str]) -> Self {
        Self::with(json!({}), rules)
    }

    /// The same in a world with `sysctl`, `setup`, `mtu_srv` and so on, as scenarios have them.
    pub fn with(world: Value, rules: &[&str]) -> Self {
        let mut servers = HashMap::new();
        // One more that rules to come may add.
        for ip in addresses(rules, &["-r"]).into_iter().chain(["10.2.0.99".parse().expect("address")]) {
            let n = servers.len() as u8 + 1;
            servers.entry(ip).or_insert(Mac([2, 0, 0, 0, 2, n]));
        }
        let mut vips = addresses(rules, &["-t", "-u", "--sctp-service"]);
        vips.extend(world["vips"].as_array().into_iter().flatten().filter_map(|v| v.as_str()?.parse::<IpAddr>().ok()));
        vips.sort();
        vips.dedup();
        let mut lab = Self { director: Director::new(&world, vips, &servers).expect("a world"), out: Vec::new() };
        for rule in rules {
            lab.ipvsadm(rule);
        }
        lab
    }

    /// An ipvsadm line that must be taken.
    pub fn ipvsadm(&mut self, line: &str) {
        assert_eq!(self.director.ipvsadm(line, ""), (0, String::new()), "{line}");
    }

    /// Any ipvsadm line: exit code and standard error.
    pub fn tries(&mut self, line: &str, stdin: &str) -> (i32, String) {
        self.director.ipvsadm(line, stdin)
    }

    /// A line that changes the world: `ip addr add 10.9.0.7/32 dev lo`, `iptables …`.
    pub fn sh(&mut self, line: &str) {
        let now = self.director.now();
        self.director.rules.setup(line, now).expect(line);
        self.director.rig.run();
    }

    /// Sets one of the kernel's settings.
    pub fn sysctl(&mut self, key: &str, value: u64) {
        let now = self.director.now();
        self.director.rules.sysctl(&format!("net.ipv4.vs.{key}"), &value.into(), now).expect(key);
        self.director.rig.run();
    }

    /// Sends a packet (`c tcp …` or `s udp …`) and returns the verdict as the recordings have it:
    /// `nat 10.2.0.11:80`, `dr 10.2.0.11`, `tun 10.2.0.11`, `reply`, `icmp 3/3`, `none`; several
    /// with commas.
    pub fn send(&mut self, packet: &str) -> String {
        let (side, text) = packet.split_once(' ').expect("a side");
        self.out = self.director.send(side, text).unwrap_or_else(|e| panic!("{e:#}"));
        let mut words: Vec<String> = self.out.iter().map(|o| verdict(o, text)).collect();
        words.dedup();
        if words.is_empty() { "none".into() } else { words.join(", ") }
    }

    /// Several packets' verdicts, one a line as given.
    pub fn expect(&mut self, story: &[(&str, &str)]) {
        for (packet, verdict) in story {
            assert_eq!(self.send(packet), *verdict, "{packet}");
        }
    }

    /// A field of the last packet that came out: `ttl`, `inner.tos`.
    pub fn field(&self, path: &str) -> Value {
        let ip = &self.out.first().expect("a packet").ip;
        path.split('.').fold(ip.clone(), |v, key| v[key].clone())
    }

    /// New connections from ports `from` on, brought up to «established»: the last numbers of the
    /// servers' addresses.
    pub fn flows(&mut self, client: &str, from: u16, count: u16, vip: &str) -> String {
        let mut names = Vec::new();
        for port in from..from + count {
            let six = client.contains(':');
            let end = |a: &str, p: &str| format!("{a}{}{p}", if six { "." } else { ":" });
            let (client, vip) = (end(client, &port.to_string()), vip.to_owned());
            let verdict = self.send(&format!("c tcp {client} > {vip} S"));
            let server = self.out.first().and_then(|o| o.to.clone());
            if let (true, Some(o)) = (verdict.starts_with("nat"), self.out.first()) {
                let back = end(o.ip["dst"].as_str().unwrap_or_default(), &o.ip["dport"].to_string());
                self.send(&format!("s tcp {back} > {client} SA"));
            }
            self.send(&format!("c tcp {client} > {vip} A"));
            let name = server.and_then(|s| s.rsplit(['.', ':']).next().map(str::to_owned));
            names.push(name.unwrap_or_else(|| "-".into()));
        }
        names.join(" ")
    }

    /// What a listing prints.
    pub fn show(&mut self, args: &str) -> String {
        let now = self.director.now();
        let Director { rules, rig, .. } = &mut self.director;
        let (code, out, said) = rules.show(args, now, || rig.run());
        assert_eq!((code, said.as_str()), (0, ""), "{args}");
        out
    }

    /// The connections, without times, sorted: `TCP SYN_RECV 10.1.0.1:1 10.9.0.1:80 10.2.0.11:80`.
    pub fn connections(&mut self) -> Vec<String> {
        let listing = self.show("-Lnc");
        let row = |l: &str| {
            let w: Vec<&str> = l.split_whitespace().collect();
            [&w[..1], &w[2..]].concat().join(" ")
        };
        let mut rows: Vec<String> = listing.lines().skip(2).map(row).collect();
        rows.sort();
        rows
    }

    /// The seconds left of the connection whose row contains a text.
    pub fn seconds_left(&mut self, text: &str) -> u32 {
        let listing = self.show("-Lnc");
        let row = listing.lines().find(|l| l.contains(text)).unwrap_or_else(|| panic!("no {text} in {listing}"));
        let (m, s) = row.split_whitespace().nth(1).and_then(|t| t.split_once(':')).expect("a time");
        m.parse::<u32>().expect("minutes") * 60 + s.parse::<u32>().expect("seconds")
    }

    /// A line of a listing with one blank between words.
    pub fn line(&mut self, args: &str, start: &str) -> String {
        let listing = self.show(args);
        let words = |l: &str| l.split_whitespace().collect::<Vec<_>>().join(" ");
        listing.lines().map(words).find(|l| l.starts_with(start)).unwrap_or_else(|| panic!("no {start} in {listing}"))
    }

    /// How many packets were dropped for each reason, those without any left out.
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        let all = DropReason::ALL.iter().map(|r| (r.name(), self.director.rig.drops(*r)));
        all.filter(|(_, n)| *n > 0).collect()
    }

    /// Lets seconds pass.
    pub fn sleep(&mut self, s: u32) {
        self.director.sleep_ms(s * 1000);
    }
}

fn verdict(o: &Out, sent: &str) -> String {
    let (ip, proto) = (&o.ip, o.ip["proto"].as_str().unwrap_or_default());
    if o.side == "c" {
        let error = matches!(proto, "icmp" | "icmp6") && ip.get("inner").is_some();
        return if error { format!("icmp {}/{}", ip["type"], ip["code"]) } else { "reply".into() };
    }
    let to = o.to.as_deref().unwrap_or("nobody");
    let was = sent.split_whitespace().nth(3).unwrap_or_default();
    let dst = ip["dst"].as_str().unwrap_or_default();
    if ip.get("inner").is_some() && !matches!(proto, "icmp" | "icmp6") {
        format!("tun {to}")
    } else if was.starts_with(dst) {
        format!("dr {to}")
    } else {
        format!("nat {to}:{}", ip["dport"])
    }
}
