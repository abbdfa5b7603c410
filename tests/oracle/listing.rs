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
    /// The shortest persistence of any service, seconds: no template was armed anew before.
    pub least_persistence_s: i64,
    /// Entries about to expire, by real server, that only one side still had.
    dying: HashMap<String, i64>,
}

fn seconds(entry: &str) -> Option<i64> {
    let (m, s) = entry.get(4..9)?.split_once(':')?;
    Some(m.parse::<i64>().ok()? * 60 + s.parse::<i64>().ok()?)
}

/// Whether a listing can be compared: names come from the DNS, and rates depend on when the
/// kernel's timer ran.
pub fn is_comparable(args: &str) -> bool {
    let short = |w: &str| w.starts_with('-') && !w.starts_with("--") && w.contains('n');
    let numeric = args.split_whitespace().any(|w| w == "--numeric" || short(w));
    (numeric || args.contains("--timeout") || args.contains("--daemon")) && !args.contains("--rate")
}

/// The blocks of a listing, a service with its real servers each, sorted: their order is the
/// kernel's hash table's.
fn blocks(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for l in text.lines() {
        match out.last_mut() {
            Some(last) if l.starts_with("  ->") && !l.starts_with("  -> Remote") => last.push_str(&format!("\n{l}")),
            _ => out.push(l.to_owned()),
        }
    }
    out.sort();
    out
}

impl Listings {
    /// All differences between two listings.
    pub fn compare(&mut self, args: &str, got: &str, want: &str, known: &Known) -> Vec<Finding> {
        if want.starts_with("IPVS connection entries") {
            return self.connections(got, want);
        }
        let unsorted = args.contains("--nosort");
        let (got, want) = match unsorted {
            true => (blocks(got).join("\n"), blocks(want).join("\n")),
            false => (got.to_owned(), want.to_owned()),
        };
        let want = without_refused(&want, known);
        let (got, want): (Vec<&str>, Vec<&str>) = (got.lines().collect(), want.iter().map(String::as_str).collect());
        if got.len() != want.len() {
            return vec![(format!("{} lines instead of {}: {}", got.len(), want.len(), unequal(&got, &want)), None)];
        }
        let differ = got.iter().zip(&want).filter(|(g, w)| g != w && !self.died(g, w));
        differ.map(|(g, w)| (format!("{g:?} instead of {w:?}"), known.line(args, g, w))).collect()
    }

    fn connections(&mut self, got: &str, want: &str) -> Vec<Finding> {
        let mut found = Vec::new();
        let (mut ours, theirs): (Vec<&str>, Vec<&str>) = (got.lines().collect(), want.lines().collect());
        self.dying.clear();
        // The kernel arms a template anew for 60 s when its time is up and connections live, and its
        // timer wheel rounds every one of these up by as much as two seconds.
        let armed_anew = (self.elapsed_s - self.least_persistence_s + 59).max(0) / 60;
        let leeway = |entry: &str| match entry.split_whitespace().nth(3) {
            Some(client) if client.ends_with(":0") => 2 + 2 * armed_anew,
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
        if !l.starts_with("  ->") {
            skip = known.is_of_refused(l);
        }
        if !skip {
            out.push(l.to_owned());
        }
    }
    out
}
