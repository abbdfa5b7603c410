//! Two sides: clients ask, servers answer, and rules change underneath.
//!
//! Whatever the rules and their changes, three things must hold: what leaves has right lengths and
//! checksums; a flow stays with its real server while both live; and what a server answers arrives at
//! the client as the answer to what it sent: addresses, ports, sequence numbers, and what ICMP quotes.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use control::engine::Operation;
use dataplane::snapshot::{GonePolicy, Settings};

use super::bytes::Bytes;
use super::conversation::Flow;
use super::datagram::Datagram;
use super::director::{Director, ENDS, ip, settings};
use super::rules::{EACH, KEYS, Shape};

/// How long an idle flow is certain to live, milliseconds: all time-outs are longer.
const LIVES_MS: u64 = 9_000;
/// The same for SCTP, whose associations may be half open.
const SCTP_LIVES_MS: u64 = 1_900;
/// Most packets in a burst.
const BURST: usize = 8;

/// What happened in a story, so that a test can tell whether it showed anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Flows opened.
    pub flows: u64,
    /// Requests that arrived at their server.
    pub requests: u64,
    /// Replies that arrived at their client.
    pub replies: u64,
    /// ICMP errors translated.
    pub errors: u64,
    /// Datagrams that arrived in pieces.
    pub in_pieces: u64,
    /// Changes of rules accepted, and refused.
    pub changes: (u64, u64),
}

impl std::ops::AddAssign for Told {
    fn add_assign(&mut self, o: Self) {
        self.flows += o.flows;
        self.requests += o.requests;
        self.replies += o.replies;
        self.errors += o.errors;
        self.in_pieces += o.in_pieces;
        self.changes = (self.changes.0 + o.changes.0, self.changes.1 + o.changes.1);
    }
}

/// A packet on its way.
pub(super) struct Expected {
    pub(super) flow: usize,
    pub(super) reply: bool,
    pub(super) sent: Datagram,
}

pub(super) struct Sides {
    pub(super) director: Director,
    pub(super) now: u64,
    pub(super) shapes: Vec<Option<Shape>>,
    pub(super) flows: Vec<Flow>,
    pub(super) used: HashSet<(SocketAddr, usize)>,
    pub(super) waiting: Vec<Expected>,
    pub(super) serial: u32,
    /// A removed server's flows end, or go elsewhere.
    pub(super) leaves_drained: bool,
    pub(super) ends: [IpAddr; 2],
    pub(super) told: Told,
}

/// Plays a story. Panics with what does not hold.
pub fn play(bytes: &[u8]) -> Told {
    let b = &mut Bytes(bytes);
    let head = b.u8();
    let gone =
        [GonePolicy::Drop, GonePolicy::Reset, GonePolicy::Reschedule, GonePolicy::Kernel][usize::from(head >> 1) & 3];
    let settings = Settings { gone, expire_quiescent_template: head & 0x40 != 0, ..settings() };
    let mut s = Sides {
        director: Director::new(1 + usize::from(head & 1), 2048, settings),
        now: 0,
        shapes: (0..KEYS.len()).map(|_| None).collect(),
        flows: Vec::new(),
        used: HashSet::new(),
        waiting: Vec::new(),
        serial: 0,
        leaves_drained: matches!(gone, GonePolicy::Reset | GonePolicy::Reschedule),
        ends: ENDS.map(ip),
        told: Told::default(),
    };
    while !b.is_empty() {
        s.step(b);
    }
    s.settle();
    // Whatever still waits for anything gives up in time, and no buffer is lost.
    s.director.sleep_ms(15_000);
    s.director.rig.take();
    assert_eq!(s.director.rig.wire.live(), 0, "buffers were lost");
    s.told
}

impl Sides {
    fn step(&mut self, b: &mut Bytes) {
        let what = b.u8() % 16;
        if !matches!(what, 0 | 2 | 7..=12) || self.waiting.len() >= BURST {
            self.settle();
        }
        match what {
            0 => self.change(b, |shape, b| shape.reweigh(b)),
            1 => self.add_or_remove(b),
            2 => self.change(b, |shape, b| Some(shape.rearrange(b))),
            3 => self.replace(b),
            4..=6 => self.open(b),
            7..=9 => self.request(b),
            10..=12 => self.reply(b),
            13 if b.u8() & 3 == 0 => self.large_request(b),
            13 => self.error(b),
            14 if b.u8() & 1 == 0 => self.ask_again(b),
            14 => self.request_in_pieces(b),
            _ => {
                let ms = u32::from(b.u8()) * 8;
                self.director.sleep_ms(ms);
                self.now += u64::from(ms);
                assert!(self.director.rig.take().is_empty(), "something was sent by itself");
                let (now, lives) = (self.now, |proto| if proto == 132 { SCTP_LIVES_MS } else { LIVES_MS });
                self.flows.retain(|f| now - f.used < lives(f.proto));
            }
        }
    }

    /// A change that the workers may see between two bursts, or in the middle of a conversation.
    fn change(&mut self, b: &mut Bytes, of: impl Fn(&mut Shape, &mut Bytes) -> Option<Operation>) {
        let index = usize::from(b.u8()) % KEYS.len();
        let Some(shape) = &mut self.shapes[index] else { return };
        let (service, weights) = (shape.service.clone(), shape.servers.clone());
        let Some(operation) = of(shape, b) else { return };
        if self.director.change_unseen(vec![operation]).is_ok() {
            self.told.changes.0 += 1;
        } else {
            (shape.service, shape.servers) = (service, weights);
            self.told.changes.1 += 1;
        }
    }

    /// Forgets the flows whose server is there no more.
    fn forget(&mut self, index: usize) {
        let servers = self.shapes[index].as_ref().map(|s| &s.servers);
        self.flows.retain(|f| f.service != index || servers.is_some_and(|s| s.contains_key(&f.server)));
    }

    fn add_or_remove(&mut self, b: &mut Bytes) {
        let index = usize::from(b.u8()) % KEYS.len();
        let Some(shape) = &mut self.shapes[index] else { return };
        let (i, service) = (b.u8() % EACH, shape.service.address);
        let n = shape.number(i);
        let known = shape.servers.get(&n).cloned();
        let new = shape.server(b, i);
        let operation = match &known {
            Some(server) => Operation::DeleteServer { service, address: server.address },
            None => Operation::AddServer { service, server: new.clone() },
        };
        if self.director.change(vec![operation]).is_err() {
            self.told.changes.1 += 1;
            return;
        }
        self.told.changes.0 += 1;
        match known {
            Some(_) => shape.servers.remove(&n),
            None => shape.servers.insert(n, new),
        };
        self.forget(index);
    }

    /// Replaces a service as a whole: by a new one, by one with some of its servers, or by nothing.
    fn replace(&mut self, b: &mut Bytes) {
        let index = usize::from(b.u8()) % KEYS.len();
        let (kind, old) = (b.u8(), self.shapes[index].take());
        let Some(mut new) = old else {
            let shape = Shape::choose(b, index);
            let made = self.director.change(vec![shape.put()]).is_ok();
            self.told.changes.0 += u64::from(made);
            self.told.changes.1 += u64::from(!made);
            self.shapes[index] = made.then_some(shape);
            return;
        };
        if kind < 16 {
            self.director.change(vec![Operation::DeleteService { address: new.service.address }]).expect("it is there");
            self.told.changes.0 += 1;
            return self.forget(index);
        }
        let (keep, before) = (b.u8(), new.servers.clone());
        new.servers.retain(|n, _| keep & 1 << (n % 10) == 0 || kind & 1 == 0);
        for server in new.servers.values_mut() {
            server.weight = u32::from(b.u8() % 8);
        }
        let made = self.director.change(vec![new.put()]).is_ok();
        if !made {
            new.servers = before;
        }
        self.told.changes.0 += u64::from(made);
        self.told.changes.1 += u64::from(!made);
        self.shapes[index] = Some(new);
        self.forget(index);
    }
}
