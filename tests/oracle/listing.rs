//! Compares what ipvsadm printed: line by line, connections in any order.

use std::collections::HashMap;

use crate::oracle::purpose::{Known, Purpose};

/// A difference in words, and the purpose it serves if it is meant.
pub type Finding = (String, Option<Purpose>);

/// Entries that had at most this many seconds to live are not compared.
const DYING_S: i64 = 2;

/// Compares listings of one scenario.
#[derive(Default)]
pub struct Listings {
    /// How long the scenario has run, seconds.
    pub elapsed_s: i64,
    /// Entries about to expire, by real server, that only one side still had.
    dying: HashMap<String, i64>,
}

fn seconds(entry: &str) -> Option<i64> {
    let (m, s) = entry.get(4..9)?.split_once(':')?;
    Some(m.parse::<i64>().ok()? * 60 + s.parse::<i64>().ok()?)
}

/// Whether the words ask for numbers: names come from the DNS.
pub fn is_numeric(args: &str) -> bool {
    args.split_whitespace().any(|w| w == "--numeric" || (w.starts_with('-') && !w.starts_with("--") && w.contains('n')))
}

impl Listings {
    /// All differences between two listings.
    pub fn compare(&mut self, args: &str, got: &str, want: &str, known: &Known) -> Vec<Finding> {
        if want.starts_with("IPVS connection entries") {
            return self.connections(got, want);
        }
        let want = without_refused(want, known);
        let (got, want): (Vec<_>, Vec<_>) = (got.lines().collect(), want.iter().map(String::as_str).collect());
        if got.len() != want.len() {
            return vec![(format!("{} lines instead of {}: {}", got.len(), want.len(), unequal(&got, &want)), None)];
        }
        let differ = got.iter().zip(&want).filter(|(g, w)| g != w && !self.died(g, w));
        differ.map(|(g, w)| (format!("{g:?} instead of {w:?}"), line(args, g, w, known))).collect()
    }

    fn connections(&mut self, got: &str, want: &str) -> Vec<Finding> {
        let mut found = Vec::new();
        let (mut ours, theirs): (Vec<&str>, Vec<&str>) = (got.lines().collect(), want.lines().collect());
        self.dying.clear();
        // The kernel arms a template anew for 60 s as long as connections live, and its
        // timer wheel rounds every one of these up by as much as two seconds.
        let elapsed = self.elapsed_s;
        let leeway = |entry: &str| match entry.split_whitespace().nth(3) {
            Some(client) if client.ends_with(":0") => 2 + 2 * (elapsed / 60),
            _ => 2,
        };
        for w in theirs {
            let alike = |g: &&str| {
                **g == *w
                    || g.get(..4) == w.get(..4)
                        && g.get(11..) == w.get(11..)
                        && seconds(g).zip(seconds(w)).is_some_and(|(a, b)| (a - b).abs() <= leeway(w))
            };
            if let Some(n) = ours.iter().position(alike) {
                ours.swap_remove(n);
            } else if !self.is_dying(w) {
                found.push((format!("nothing instead of {w:?}"), None));
            }
        }
        for g in ours {
            if !self.is_dying(g) {
                found.push((format!("{g:?} instead of nothing"), None));
            }
        }
        found
    }

    fn is_dying(&mut self, entry: &str) -> bool {
        let dying = seconds(entry).is_some_and(|s| s <= DYING_S);
        if let (true, Some(server)) = (dying, entry.split_whitespace().last()) {
            *self.dying.entry(server.to_owned()).or_default() += 1;
        }
        dying
    }

    /// Whether a server's line differs only by entries that were about to expire.
    fn died(&self, got: &str, want: &str) -> bool {
        let (g, w): (Vec<&str>, Vec<&str>) = (got.split_whitespace().collect(), want.split_whitespace().collect());
        let Some(allowed) = g.get(1).and_then(|s| self.dying.get(*s)) else { return false };
        let n = g.len();
        n == w.len()
            && n > 4
            && g[..n - 2] == w[..n - 2]
            && (n - 2..n).all(|i| {
                g[i].parse::<i64>().ok().zip(w[i].parse::<i64>().ok()).is_some_and(|(a, b)| (a - b).abs() <= *allowed)
            })
    }
}

fn unequal(got: &[&str], want: &[&str]) -> String {
    let n = (0..got.len().max(want.len())).find(|n| got.get(*n) != want.get(*n)).unwrap_or(0);
    format!("{:?} instead of {:?}", got.get(n).unwrap_or(&""), want.get(n).unwrap_or(&""))
}

/// The kernel's listing without the services that Pollux refused on purpose.
fn without_refused(want: &str, known: &Known) -> Vec<String> {
    let mut skip = false;
    let mut out = Vec::new();
    for l in want.lines() {
        let words: Vec<&str> = l.split_whitespace().collect();
        if let Some(at) = words.iter().position(|w| matches!(*w, "-t" | "-u" | "-f")) {
            skip = words.get(at + 1).is_some_and(|s| known.refused.contains(*s));
        } else if !l.starts_with("  ->") {
            skip = words.get(1).is_some_and(|s| known.refused.contains(*s));
        }
        if !skip {
            out.push(l.to_owned());
        }
    }
    out
}

/// What a differing line may mean.
fn line(args: &str, got: &str, want: &str, known: &Known) -> Option<Purpose> {
    let (g, w): (Vec<&str>, Vec<&str>) = (got.split_whitespace().collect(), want.split_whitespace().collect());
    if w.len() < g.len() && g[..w.len()] == w[..] && matches!(g[w.len()], "-x" | "-y") {
        return Some(Purpose::SavedThresholds);
    }
    if g.len() != w.len() {
        return None;
    }
    let differ: Vec<usize> = (0..g.len()).filter(|i| g[*i] != w[*i]).collect();
    let mask = |i: &usize| *i > 0 && matches!(w[i - 1], "mask" | "-M") && w[*i].starts_with("0.0.0.");
    if differ.iter().all(mask) {
        return Some(Purpose::Netmask);
    }
    let n = g.len();
    if !args.contains("--stats") || n < 6 || !differ.iter().all(|i| *i == n - 1 || *i == n - 3) {
        return None;
    }
    let over = |i: usize| Some(w[i].parse::<i64>().ok()? - g[i].parse::<i64>().ok()?);
    let (packets, bytes) = (over(n - 3)?, over(n - 1)?);
    let translated = known.translated;
    (packets == -translated.0 && bytes == -translated.1 && packets != 0).then_some(Purpose::Icmpv6FromServer)
}
