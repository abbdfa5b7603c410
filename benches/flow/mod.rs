//! What the flow table's benches share: flows, and the same look-ups by three tables.
//!
//! A fair race: all three get the hash with the key, as the parse stage computes it once;
//! all three hold the same number of flows with room for as many; each is asked a burst
//! at a time, and prefetches as well as it can (hashbrown cannot).
#![allow(dead_code, reason = "two benches share it")]

#[cfg(feature = "dpdk")]
pub mod rte;

use dataplane::flow::hash::{FlowHash, Secret};
use dataplane::flow::memory::HugeArray;
use dataplane::flow::record::{FlowKey, FlowRecord, peer_word};
use dataplane::flow::table::{Candidates, FlowTable};
use dataplane::units::{Be16, Ip, RealId, Tick};
use hashbrown::HashTable;

/// Lanes of a burst.
pub const BURST: usize = 64;

/// A packet as the tables see it: one cache line, the same for all contestants.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Packet {
    /// What `rte_hash` takes for a key when it holds both families: 48 bytes, the hash
    /// and no padding.
    pub wide: [u64; 5],
    /// Hash of the client's side.
    pub hash: FlowHash,
    /// IPv4 only: the shortest key there is.
    pub narrow: [u32; 4],
}

const _: () = assert!(size_of::<Packet>() == 64 && size_of::<FlowKey>() == 40);

impl Packet {
    /// The flow it belongs to.
    #[inline(always)]
    #[allow(unsafe_code, reason = "the wide key is a FlowKey with its padding made zero")]
    pub fn key(&self) -> &FlowKey {
        // SAFETY: as large and as aligned as a FlowKey, which is made of numbers.
        unsafe { &*self.wide.as_ptr().cast() }
    }
}

/// Flow `n` of a busy service: 64 ports of each client.
pub fn packet(secret: &Secret, n: u32) -> Packet {
    let client = Ip::from_v4((0x0a00_0000 + n / 64).to_be_bytes());
    let vip = Ip::from_v4([192, 0, 2, 1]);
    let (client_port, vport, proto) = (Be16::new(32_768 + (n % 64) as u16), Be16::new(443), 6u8);
    let ([a, b], [c, d]) = (client_port.0, vport.0);
    let ports = u64::from_ne_bytes([a, b, c, d, proto, 0, 0, 0]);
    let word = |ip: Ip| u32::from_ne_bytes(ip.v4_bytes());
    let p = Packet {
        wide: [client.hi(), client.lo(), vip.hi(), vip.lo(), ports],
        hash: secret.hash(client, client_port, proto),
        narrow: [word(client), word(vip), u32::from_ne_bytes([a, b, c, d]), u32::from(proto)],
    };
    assert_eq!(*p.key(), FlowKey { client, vip, client_port, vport, proto });
    p
}

/// Its record.
pub fn record(p: &Packet) -> FlowRecord {
    let k = p.key();
    FlowRecord {
        client: k.client,
        vip: k.vip.into(),
        client_port: k.client_port,
        vport: k.vport,
        rport: k.vport,
        proto: k.proto,
        state: 3,
        real: RealId(1),
        peer: peer_word(Ip::from_v4([198, 51, 100, 1])),
        deadline: Tick(900_000),
        flags: 0,
        l3_delta: 0,
        l4_delta: 0,
        ext: u32::MAX,
    }
}

/// Packets of flows `first..first + n` in order.
pub fn packets(secret: &Secret, first: u32, n: u32) -> Vec<Packet> {
    (first..first + n).map(|i| packet(secret, i)).collect()
}

/// Puts them in random order, always the same one.
pub fn shuffle(packets: &mut [Packet]) {
    let mut x = 0x2545_f491_4f6c_dd1du64;
    for i in (1..packets.len()).rev() {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        packets.swap(i, (x % (i as u64 + 1)) as usize);
    }
}

/// Our table with these flows, and room for one burst more.
pub fn ours(secret: Secret, flows: &[Packet]) -> FlowTable {
    let mut t = FlowTable::new((flows.len() + BURST) as u32, secret).expect("memory for the table");
    for p in flows {
        t.insert(p.hash, record(p), Tick(0)).expect("room for the flow");
    }
    t
}

/// hashbrown's table of the same records, asked with the same hashes: its low bits are the
/// place, its top seven the tag.
pub struct Brown {
    table: HashTable<FlowRecord>,
    secret: Secret,
}

/// With these flows.
pub fn brown(secret: &Secret, flows: &[Packet]) -> Brown {
    // Room for one burst more, so that it does not grow under the clock.
    let mut t = Brown { table: HashTable::with_capacity(flows.len() + BURST), secret: *secret };
    for p in flows {
        t.insert(p);
    }
    t
}

impl Brown {
    /// Adds a flow.
    pub fn insert(&mut self, p: &Packet) {
        let secret = self.secret;
        self.table.insert_unique(p.hash.0, record(p), |r| secret.hash(r.client, r.client_port, r.proto).0);
    }
    /// Takes a flow out; whether it was there.
    pub fn remove(&mut self, p: &Packet) -> bool {
        self.table.find_entry(p.hash.0, |r| same(r, p.key())).map(|e| e.remove()).is_ok()
    }
}

/// A burst through our table as the stages do it; returns the hits.
#[inline(never)]
pub fn find_ours(t: &FlowTable, burst: &[Packet]) -> usize {
    let mut candidates = [Candidates::default(); BURST];
    for p in burst {
        t.prefetch_bucket(p.hash);
    }
    for (c, p) in candidates.iter_mut().zip(burst) {
        *c = t.probe(p.hash);
    }
    burst.iter().zip(&candidates).filter(|(p, c)| t.find_request(p.hash, p.key(), **c).is_some()).count()
}

fn same(r: &FlowRecord, k: &FlowKey) -> bool {
    r.client == k.client
        && r.client_port == k.client_port
        && r.vip.ip() == k.vip
        && r.vport == k.vport
        && r.proto == k.proto
}

/// A burst through hashbrown's.
#[inline(never)]
pub fn find_brown(t: &Brown, burst: &[Packet]) -> usize {
    burst.iter().filter(|p| t.table.find(p.hash.0, |r| same(r, p.key())).is_some()).count()
}

/// What no table with an index and records apart can beat here: for each packet one line
/// of an index and one of a record, at random, prefetched, and nothing compared.
pub struct TwoLines {
    index: HugeArray<u32>,
    records: HugeArray<u32>,
    lines: (u32, u32),
}

impl TwoLines {
    /// As large as our table for `n` flows.
    pub fn new(n: u32) -> Self {
        let lines = (n.div_ceil(6).max(2), n);
        let array = |n: u32| HugeArray::new(n as usize * 16).expect("memory");
        Self { index: array(lines.0), records: array(lines.1), lines }
    }

    /// A burst; "finds" all.
    #[inline(never)]
    pub fn find(&self, burst: &[Packet]) -> usize {
        // From the hash; bits of their own for the record.
        let line = |h: u64, n: u32| (((h & 0xffff_ffff) * u64::from(n)) >> 32) as usize * 16;
        let mut sum = 0;
        for p in burst {
            self.index.prefetch(line(p.hash.0, self.lines.0));
        }
        let mut records = [0; BURST];
        for (r, p) in records.iter_mut().zip(burst) {
            // The line holds 0; the record is known when it has come, as in a table.
            let told = *self.index.at(line(p.hash.0, self.lines.0)) as usize;
            *r = line(p.hash.0 >> 32, self.lines.1) + told;
            self.records.prefetch(*r);
        }
        for r in records.iter().take(burst.len()) {
            sum |= self.records.at(*r);
        }
        burst.len() + sum as usize
    }
}
