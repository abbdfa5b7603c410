//! Connections that another one has announced: FTP's data connections.
//!
//! Nobody knows which worker will own such a connection before its first packet has come, so
//! every worker is told ([`WorkerLink::expected`](crate::link::WorkerLink)) and keeps it for
//! a minute. Bounded, and no memory is asked for after the start.

use std::hash::BuildHasherDefault;

use hashbrown::HashMap;

use crate::snapshot::FoldHasher;
use crate::units::{Be16, Ip, RealId, Tick};

/// Most connections expected at a time by one worker.
pub const MOST: usize = 1024;
/// How long one is expected, milliseconds.
const PATIENCE_MS: u32 = 60_000;

/// What is known of the connection beforehand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Announced {
    /// The client.
    pub client: Ip,
    /// Its port where it listens, 0 where it connects.
    pub client_port: Be16,
    /// The VIP where the client connects to it; the real server's address where that connects.
    pub other: Ip,
    /// The port there, 0 where the real server connects.
    pub other_port: Be16,
}

/// An announced connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expected {
    /// How it is told.
    pub announced: Announced,
    /// The VIP.
    pub vip: Ip,
    /// The port that the client sees.
    pub vport: Be16,
    /// The real server.
    pub real: RealId,
}

/// What one worker expects.
#[derive(Debug)]
pub struct Expectations {
    by_key: HashMap<Announced, (Expected, Tick), BuildHasherDefault<FoldHasher>>,
}

impl Expectations {
    /// Nothing yet.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        // Twice the room, so that the table never grows.
        Self { by_key: HashMap::with_capacity_and_hasher(2 * MOST, BuildHasherDefault::default()) }
    }

    /// Whether nothing is expected.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Expects a connection; false when too many are expected already.
    pub fn add(&mut self, e: Expected, now: Tick) -> bool {
        if self.by_key.len() >= MOST && !self.by_key.contains_key(&e.announced) {
            self.by_key.retain(|_, (_, until)| !until.reached(now));
            if self.by_key.len() >= MOST {
                return false;
            }
        }
        self.by_key.insert(e.announced, (e, now.after_ms(PATIENCE_MS)));
        true
    }

    /// The connection that was announced so, which is expected no more.
    pub fn take(&mut self, key: &Announced, now: Tick) -> Option<Expected> {
        let (e, until) = self.by_key.remove(key)?;
        (!until.reached(now)).then_some(e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(n: u16) -> Expected {
        let client = Ip::from_v4([10, 1, 0, 1]);
        let (vip, vport) = (Ip::from_v4([10, 9, 0, 1]), Be16::new(20));
        let announced = Announced { client, client_port: Be16::new(n), other: vip, other_port: Be16::default() };
        Expected { announced, vip, vport, real: RealId(0) }
    }

    #[test]
    fn each_is_taken_once_in_its_time_and_there_is_a_bound() {
        let mut all = Expectations::new();
        let now = Tick(u32::MAX - 10);
        for n in 0..MOST as u16 {
            assert!(all.add(expected(n), now));
        }
        assert!(!all.add(expected(5000), now));
        assert!(all.add(expected(3), now.after_ms(30_000)), "known already");
        assert_eq!(all.take(&expected(2).announced, now.after_ms(1)), Some(expected(2)));
        assert_eq!(all.take(&expected(2).announced, now.after_ms(1)), None);
        assert_eq!(all.take(&expected(4).announced, now.after_ms(60_001)), None, "too late");
        assert!(all.add(expected(5000), now.after_ms(60_001)));
        assert!(all.take(&expected(3).announced, now.after_ms(60_001)).is_some());
    }
}
