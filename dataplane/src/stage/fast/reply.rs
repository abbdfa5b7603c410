//! The way back: packets of known NAT flows from real servers to clients, over IPv4 and IPv6.
//!
//! As for requests no list is asked: a flow whose real server the sender is says so. Where
//! the client is to be found is asked once for packets to the same client in a row.

use super::foreign::{self, Kind};
use super::rewrite::apply_l4;
use super::{Books, HEAD, Own, Quick, TCP, guess_some, read_plain, six};
use crate::burst::{Burst, Lanes};
use crate::flow::hash::{FlowHash, Secret};
use crate::flow::record::FlowRecord;
use crate::flow::table::FlowTable;
use crate::front::Front;
use crate::io::{BURST, PacketBuf, PacketIo};
use crate::snapshot::{Hop, NextHop, Snapshot};
use crate::units::{Be16, Ip, PortId};
use crate::wire::{at, checksum};
use crate::worker::Core;

/// The lanes that are replies, rewritten, and where all of them leave, if that is one port.
#[derive(Default)]
pub struct Back {
    pub ready: Lanes,
    pub port: Option<PortId>,
}

impl Back {
    /// These and others.
    fn and(self, other: Self) -> Self {
        if self.ready.is_empty() {
            return other;
        }
        let same = other.ready.is_empty() || self.port == other.port;
        Self { ready: Lanes(self.ready.0 | other.ready.0), port: self.port.filter(|_| same) }
    }
}

/// Finds replies among `lanes`, rewrites them, and writes into `ports` where each leaves.
#[inline(never)]
pub fn reply<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    mut lanes: Lanes,
    station: (u64, Option<Own>),
    ports: &mut [PortId; BURST],
) -> Back {
    let mut back = Back::default();
    if s.translates[1] {
        back = among::<_, V4, HEAD>(s, core, io, burst, &mut lanes, station, ports);
    }
    let mut rest = Lanes(lanes.0 & !back.ready.0);
    if s.translates[0] && !rest.is_empty() {
        back = back.and(among::<_, V6, { six::HEAD }>(s, core, io, burst, &mut rest, station, ports));
    }
    back
}

/// The same for plain packets that another worker has read: over IPv4 and over IPv6.
#[inline(never)]
pub fn taken<B: PacketBuf>(
    s: &Snapshot,
    core: &mut Core<B>,
    burst: &mut Burst<B>,
    [v4, v6]: [Lanes; 2],
    ports: &mut [PortId; BURST],
) -> Back {
    let back = settle::<_, V4, HEAD>(s, core, burst, v4, ports);
    back.and(settle::<_, V6, { six::HEAD }>(s, core, burst, v6, ports))
}

/// What differs between the families. `HEAD` is the length of the headers of a plain packet, bytes.
trait Family<const HEAD: usize> {
    /// A client, as it is compared with the one before.
    type Client: Copy + PartialEq + Default;
    /// What it is when it is handed over.
    const KIND: Kind;
    /// Reads a plain packet, and hashes its destination: in a reply that is the client's side.
    fn read(secret: &Secret, h: &[u8; HEAD], len: usize, mac: u64, q: &mut Quick) -> Option<FlowHash>;
    /// Whether a packet is a reply of this flow, its sender's address left aside where
    /// [`is_from`](Self::is_from) compares it.
    fn is_reply(record: &FlowRecord, h: &[u8; HEAD], q: &Quick) -> bool;
    /// Who sent it.
    fn sender(h: &[u8; HEAD]) -> Ip;
    /// Whether the flow's real server sent it.
    fn is_from(to: &Front, h: &[u8; HEAD]) -> bool;
    fn client(h: &[u8; HEAD], q: &Quick) -> Self::Client;
    fn ip(client: Self::Client) -> Ip;
    /// Writes the new headers.
    fn translate(h: &mut [u8; HEAD], hop: &NextHop, record: &FlowRecord);
}

#[inline(never)]
fn among<I: PacketIo, F: Family<N>, const N: usize>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    lanes: &mut Lanes,
    station: (u64, Option<Own>),
    ports: &mut [PortId; BURST],
) -> Back {
    let plain = match station {
        (mac, None) => look::<_, F, N>(core, burst, *lanes, mac, |_, _| true),
        (mac, Some(own)) => look_steering::<_, F, N>(s, core, io, burst, lanes, mac, own),
    };
    guess_some(s, core, burst, plain);
    settle::<_, F, N>(s, core, burst, plain, ports)
}

/// As [`look`], and hands replies that others own to them.
#[inline(never)]
fn look_steering<I: PacketIo, F: Family<N>, const N: usize>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    lanes: &mut Lanes,
    mac: u64,
    own: Own,
) -> Lanes {
    let mut foreign = Lanes(0);
    let plain = look::<_, F, N>(core, burst, *lanes, mac, foreign::noting(own, &mut foreign));
    let mut last = (F::Client::default(), Ip::UNSPECIFIED, false);
    foreign::hand_over(core, io, burst, foreign, own.0, F::KIND, |buf, q| {
        let Some(h) = buf.data().first_chunk::<N>() else { return false };
        let (client, from) = (F::client(h, q), F::sender(h));
        if (client, from) != (last.0, last.1) {
            last = (client, from, foreign::is_reply(s, from, F::ip(client)));
        }
        last.2
    });
    if burst.away == 0 || *lanes != Lanes::first(burst.n) {
        return plain;
    }
    let moved = foreign::close_up(burst, *lanes, plain);
    *lanes = Lanes::first(burst.n);
    moved
}

/// The plain packets among `lanes` for which `is_own` says yes.
#[inline(always)]
fn look<B: PacketBuf, F: Family<N>, const N: usize>(
    core: &Core<B>,
    burst: &mut Burst<B>,
    lanes: Lanes,
    mac: u64,
    mut is_own: impl FnMut(usize, FlowHash) -> bool,
) -> Lanes {
    let Burst { bufs, quick, .. } = burst;
    let mut plain = Lanes(0);
    for i in lanes {
        let (Some(buf), q) = (&bufs[i & (BURST - 1)], &mut quick[i & (BURST - 1)]) else { continue };
        let Some(h) = buf.data().first_chunk::<N>() else { continue };
        let Some(hash) = F::read(&core.secret, h, buf.total_len(), mac, q) else { continue };
        q.hash = hash;
        if !is_own(i, hash) {
            continue;
        }
        core.flows.prefetch_home(hash);
        plain.insert(i);
    }
    plain
}

#[inline(always)]
fn settle<B: PacketBuf, F: Family<N>, const N: usize>(
    s: &Snapshot,
    core: &mut Core<B>,
    burst: &mut Burst<B>,
    lanes: Lanes,
    ports: &mut [PortId; BURST],
) -> Back {
    let Core { flows, link, now, .. } = core;
    let Burst { bufs, quick, .. } = burst;
    let books = Books::new(s, &link.counters, *now);
    let (mut back, mut same, mut route) = (Back::default(), true, (F::Client::default(), None));
    for i in lanes {
        let i = i & (BURST - 1);
        let q = &mut quick[i];
        let Some(h) = bufs[i].as_mut().and_then(|b| b.data_mut().first_chunk_mut::<N>()) else { continue };
        if !F::is_reply(flows.get(q.flow), h, q) && !search::<F, N>(flows, h, q) {
            continue;
        }
        let record = flows.get_mut(q.flow);
        let client = F::client(h, q);
        if client != route.0 || route.1.is_none() {
            route = (client, way(s, F::ip(client)));
        }
        let (Some(hop), Some((to, counts))) = (route.1.filter(|hop| q.ip_len <= hop.mtu), books.serving(record)) else {
            continue;
        };
        if !F::is_from(to, h) {
            continue;
        }
        record.deadline = books.deadlines[usize::from(record.proto & 1)];
        counts.out_packets.add(1);
        counts.out_bytes.add(u64::from(q.ip_len));
        F::translate(h, hop, record);
        same &= *back.port.get_or_insert(hop.port) == hop.port;
        ports[i] = hop.port;
        back.ready.insert(i);
    }
    Back { port: back.port.filter(|_| same), ..back }
}

/// Looks further for the flow of a packet whose guess was wrong.
#[cold]
#[inline(never)]
fn search<F: Family<N>, const N: usize>(flows: &FlowTable, h: &[u8; N], q: &mut Quick) -> bool {
    let found = flows.guess_again(q.hash, |r| F::is_reply(r, h, q));
    found.map(|id| q.flow = id).is_some()
}

/// The next hop towards a client, if a frame can leave for it as it is.
#[inline(never)]
fn way(s: &Snapshot, to: Ip) -> Option<&NextHop> {
    let Hop::Via(id) = s.route(to) else { return None };
    s.next_hop(id).filter(|hop| hop.is_plain())
}

/// Over IPv4. The addresses are carried along as they were read.
struct V4;

impl Family<HEAD> for V4 {
    type Client = u32;
    const KIND: Kind = Kind::Reply;

    #[inline(always)]
    fn read(secret: &Secret, h: &[u8; HEAD], len: usize, mac: u64, q: &mut Quick) -> Option<FlowHash> {
        read_plain(h, len, mac, q)?;
        let (to, port) = (u64::from_le(q.request.addresses) >> 32, u32::from_le(q.request.ports) >> 16);
        Some(secret.hash_v4(to << 32 | u64::from(port) << 16 | u64::from(h[23]) << 8))
    }
    #[inline(always)]
    fn is_reply(record: &FlowRecord, _: &[u8; HEAD], q: &Quick) -> bool {
        record.is_steady_reply(&q.request)
    }
    #[inline(always)]
    fn sender(h: &[u8; HEAD]) -> Ip {
        Ip::from_v4(at::<26, 4, _>(h))
    }
    #[inline(always)]
    fn is_from(_: &Front, _: &[u8; HEAD]) -> bool {
        true
    }
    #[inline(always)]
    fn client(_: &[u8; HEAD], q: &Quick) -> u32 {
        (u64::from_le(q.request.addresses) >> 32) as u32
    }
    #[inline(always)]
    fn ip(client: u32) -> Ip {
        Ip::from_v4(client.to_le_bytes())
    }
    #[inline(always)]
    fn translate(h: &mut [u8; HEAD], hop: &NextHop, record: &FlowRecord) {
        h[22] = h[22].wrapping_sub(1);
        let sum = u16::from_ne_bytes([h[24], h[25]]);
        let sum = checksum::apply(sum, checksum::add(!record.l3_delta, checksum::TTL_DELTA));
        [h[24], h[25]] = sum.to_ne_bytes();
        h[..12].copy_from_slice(&hop.header[..12]);
        h[26..30].copy_from_slice(&record.vip.v4_bytes());
        h[34..36].copy_from_slice(&record.vport.0);
        apply_l4::<34, HEAD>(h, h[23] == TCP, !record.l4_delta);
    }
}

/// Over IPv6. Addresses are read again where they are compared, as in [`six`].
struct V6;

impl Family<{ six::HEAD }> for V6 {
    type Client = Ip;
    const KIND: Kind = Kind::Reply6;

    #[inline(always)]
    fn read(secret: &Secret, h: &[u8; six::HEAD], len: usize, mac: u64, q: &mut Quick) -> Option<FlowHash> {
        (q.ip_len, q.request.proto_state) = six::read_plain(h, len, mac)?;
        Some(secret.hash_v6(Self::client(h, q), Be16(at::<56, 2, _>(h)), h[20]))
    }
    #[inline(always)]
    fn is_reply(record: &FlowRecord, h: &[u8; six::HEAD], q: &Quick) -> bool {
        record.is_steady_reply_v6(Self::client(h, q), at::<54, 4, _>(h), q.request.proto_state)
    }
    #[inline(always)]
    fn sender(h: &[u8; six::HEAD]) -> Ip {
        Ip(at::<22, 16, _>(h))
    }
    /// The record has a fold of the address only.
    #[inline(always)]
    fn is_from(to: &Front, h: &[u8; six::HEAD]) -> bool {
        to.has_addr(Self::sender(h))
    }
    #[inline(always)]
    fn client(h: &[u8; six::HEAD], _: &Quick) -> Ip {
        Ip(at::<38, 16, _>(h))
    }
    #[inline(always)]
    fn ip(client: Ip) -> Ip {
        client
    }
    #[inline(always)]
    fn translate(h: &mut [u8; six::HEAD], hop: &NextHop, record: &FlowRecord) {
        h[21] = h[21].wrapping_sub(1);
        h[..12].copy_from_slice(&hop.header[..12]);
        h[22..38].copy_from_slice(&record.vip.ip().0);
        h[54..56].copy_from_slice(&record.vport.0);
        apply_l4::<54, { six::HEAD }>(h, h[20] == TCP, !record.l4_delta);
    }
}
