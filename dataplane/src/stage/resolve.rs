//! Resolve: the Ethernet header of the next hop, and out.
//!
//! A frame whose next hop has no known Ethernet address waits, bounded in number and
//! time, while control asks for it; the snapshot that brings the address lets it go.

use std::collections::VecDeque;

use crate::burst::{Burst, Lane};
use crate::counters::DropReason;
use crate::io::{BURST, PacketBuf, PacketIo};
use crate::link::{Event, WorkerLink};
use crate::snapshot::{Hop, IfaceId, InterfaceSpec, NextHop, Snapshot};
use crate::units::{Ip, NextHopId, PortId, Tick};
use crate::worker::Core;

/// Frames that wait for an Ethernet address, at most, per worker.
pub const WAITING_MAX: usize = 512;
/// Frames that wait for the same neighbour, at most.
pub const WAITING_PER_NEIGHBOUR: usize = 16;
/// How long a frame waits: three requests, one a second, as RFC 4861 section 7.2.2 has it.
pub const WAITING_MS: u32 = 3_000;

/// Frames on their way out, collected by port.
pub struct Outbox<B> {
    ports: Box<[Batch<B>]>,
}

struct Batch<B> {
    bufs: [Option<B>; BURST],
    n: usize,
    bytes: u64,
    /// Who sends for this worker when it has no transmit queue of its own.
    relay: Option<rtrb::Producer<B>>,
}

impl<B: PacketBuf> Outbox<B> {
    /// For `ports` ports.
    pub fn new(ports: usize) -> Self {
        Self {
            ports: (0..ports).map(|_| Batch { bufs: [const { None }; BURST], n: 0, bytes: 0, relay: None }).collect(),
        }
    }

    /// Frames for `port` go over `ring` to the worker that has a transmit queue there.
    pub fn relay(&mut self, port: PortId, ring: rtrb::Producer<B>) {
        if let Some(batch) = self.ports.get_mut(port.index()) {
            batch.relay = Some(ring);
        }
    }

    /// Adds a finished frame.
    #[inline(always)]
    pub fn push<I: PacketIo<Buf = B>>(&mut self, port: PortId, buf: B, io: &mut I, link: &WorkerLink) {
        let Some(batch) = self.ports.get_mut(port.index()) else {
            link.counters.drop(DropReason::NoRoute).add(1);
            io.free(buf);
            return;
        };
        batch.bytes += buf.total_len() as u64;
        batch.bufs[batch.n & (BURST - 1)] = Some(buf);
        batch.n += 1;
        if batch.n == BURST {
            batch.flush(port, io, link);
        }
    }

    /// Sends the first `n` of `bufs`, `bytes` long in all, at once, after what is collected.
    #[inline]
    pub fn send_all<I: PacketIo<Buf = B>>(
        &mut self,
        port: PortId,
        bufs: &mut [Option<B>; BURST],
        (n, bytes): (usize, u64),
        io: &mut I,
        link: &WorkerLink,
    ) {
        match self.ports.get_mut(port.index()) {
            Some(batch) if batch.relay.is_none() => {
                if batch.n > 0 {
                    batch.flush(port, io, link);
                }
                transmit(port, bufs, (n, bytes), io, link);
            }
            _ => {
                for buf in bufs.iter_mut().take(n).filter_map(Option::take) {
                    self.push(port, buf, io, link);
                }
            }
        }
    }

    /// Sends everything collected.
    #[inline]
    pub fn flush<I: PacketIo<Buf = B>>(&mut self, io: &mut I, link: &WorkerLink) {
        for (i, batch) in self.ports.iter_mut().enumerate() {
            if batch.n > 0 {
                batch.flush(PortId(i as u16), io, link);
            }
        }
    }
}

impl<B: PacketBuf> Batch<B> {
    #[inline(never)]
    fn flush<I: PacketIo<Buf = B>>(&mut self, port: PortId, io: &mut I, link: &WorkerLink) {
        let n = std::mem::take(&mut self.n).min(BURST);
        if let Some(ring) = &mut self.relay {
            for mut buf in self.bufs[..n].iter_mut().filter_map(Option::take) {
                buf.set_ingress(port);
                if let Err(rtrb::PushError::Full(buf)) = ring.push(buf) {
                    link.counters.drop(DropReason::HandoffFull).add(1);
                    io.free(buf);
                }
            }
            return;
        }
        let bytes = std::mem::take(&mut self.bytes);
        transmit(port, &mut self.bufs, (n, bytes), io, link);
    }
}

/// Sends the first `n` of `bufs`, `bytes` long in all.
#[inline(always)]
fn transmit<I: PacketIo>(
    port: PortId,
    bufs: &mut [Option<I::Buf>; BURST],
    (n, bytes): (usize, u64),
    io: &mut I,
    link: &WorkerLink,
) {
    let sent = io.tx(port, bufs, n);
    let counters = link.counters.port(port);
    counters.tx_packets.add(sent as u64);
    counters.tx_bytes.add(bytes);
    if sent < n {
        link.counters.drop(DropReason::TxFull).add((n - sent) as u64);
    }
}

/// Puts the Ethernet header on the ready lanes and collects the frames by port.
#[inline]
pub fn resolve<I: PacketIo>(s: &Snapshot, core: &mut Core<I::Buf>, io: &mut I, burst: &mut Burst<I::Buf>) {
    for i in burst.ready {
        let Some(buf) = burst.bufs[i].take() else { continue };
        let lane = burst.lanes[i];
        forward(s, core, io, buf, &lane);
    }
}

/// Sends one packet to its lane's next hop.
#[inline(always)]
pub fn forward<I: PacketIo>(s: &Snapshot, core: &mut Core<I::Buf>, io: &mut I, buf: I::Buf, lane: &Lane) {
    match s.next_hop(lane.next_hop).filter(|h| h.resolved) {
        Some(hop) => send_via(core, io, buf, lane.l2, lane.v4, hop),
        None => wait(s, core, io, buf, lane.l2, lane.v4, lane.next_hop, lane.key.client),
    }
}

/// Sends a packet whose Ethernet header takes `l2` bytes to a resolved next hop.
#[inline(always)]
pub fn send_via<I: PacketIo>(core: &mut Core<I::Buf>, io: &mut I, mut buf: I::Buf, l2: u8, v4: bool, hop: &NextHop) {
    if l2 != hop.l2_len && !resize(&mut buf, l2, hop.l2_len) {
        core.link.counters.drop(DropReason::NoHeadroom).add(1);
        io.free(buf);
        return;
    }
    write_header(&mut buf, hop, v4);
    core.out.push(hop.port, buf, io, &core.link);
}

/// Sends a whole frame on an interface. Its tag is in the frame, unless the device puts tags in.
#[cold]
pub fn send_on<I: PacketIo>(s: &Snapshot, core: &mut Core<I::Buf>, io: &mut I, mut buf: I::Buf, iface: &InterfaceSpec) {
    if let Some(vlan) = iface.vlan.filter(|_| s.device(iface.port).tags) {
        buf.set_tx_tag(vlan);
    }
    core.out.push(iface.port, buf, io, &core.link);
}

#[inline(always)]
fn write_header<B: PacketBuf>(buf: &mut B, hop: &NextHop, v4: bool) {
    let ethertype: [u8; 2] = if v4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    let data = buf.data_mut();
    if hop.l2_len == 14 {
        if let Some(h) = data.first_chunk_mut::<14>() {
            h[..12].copy_from_slice(&hop.header[..12]);
            h[12..14].copy_from_slice(&ethertype);
        }
        if hop.device_tag != 0 {
            buf.set_tx_tag(hop.device_tag);
        }
    } else if let Some(h) = data.first_chunk_mut::<18>() {
        h[..16].copy_from_slice(&hop.header);
        h[16..18].copy_from_slice(&ethertype);
    }
}

#[cold]
fn resize<B: PacketBuf>(buf: &mut B, from: u8, to: u8) -> bool {
    if from < to { buf.prepend(usize::from(to - from)) } else { buf.trim_front(usize::from(from - to)) }
}

/// Sends an IP packet made here (or not bound to a flow) where the routes say.
/// `l2` bytes in front are for the Ethernet header.
pub fn send_routed<I: PacketIo>(s: &Snapshot, core: &mut Core<I::Buf>, io: &mut I, buf: I::Buf, l2: u8, dst: Ip) {
    match s.route(dst) {
        Hop::Via(id) => match s.next_hop(id).filter(|h| h.resolved) {
            Some(hop) => send_via(core, io, buf, l2, dst.is_v4(), hop),
            None => wait(s, core, io, buf, l2, dst.is_v4(), id, dst),
        },
        Hop::OnLink(_) => wait(s, core, io, buf, l2, dst.is_v4(), NextHopId::NONE, dst),
        Hop::None => {
            core.link.counters.drop(DropReason::NoRoute).add(1);
            io.free(buf);
        }
    }
}

/// Lets a frame wait for its next hop's Ethernet address.
#[cold]
#[allow(clippy::too_many_arguments)]
fn wait<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    buf: I::Buf,
    l2: u8,
    v4: bool,
    next_hop: NextHopId,
    dst: Ip,
) {
    let target = match s.next_hop(next_hop) {
        Some(h) => Some((h.iface, h.ip)),
        None => match s.route(dst) {
            Hop::OnLink(iface) => Some((iface, dst)),
            _ => None,
        },
    };
    let Some((iface, ip)) = target else {
        core.link.counters.drop(DropReason::NoRoute).add(1);
        io.free(buf);
        return;
    };
    let entry = Entry { buf, l2, v4, iface, ip, until: core.now.after_ms(WAITING_MS) };
    if let Err(entry) = core.waiting.push(entry, &core.link) {
        core.link.counters.drop(DropReason::NeighbourQueueFull).add(1);
        io.free(entry.buf);
    }
}

struct Entry<B> {
    buf: B,
    l2: u8,
    v4: bool,
    iface: IfaceId,
    ip: Ip,
    until: Tick,
}

/// The frames that wait. Room for [`WAITING_MAX`] is made once.
pub struct Waiting<B> {
    queue: VecDeque<Entry<B>>,
}

impl<B: PacketBuf> Waiting<B> {
    /// An empty queue.
    pub fn new() -> Self {
        Self { queue: VecDeque::with_capacity(WAITING_MAX) }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    fn push(&mut self, entry: Entry<B>, link: &WorkerLink) -> Result<(), Entry<B>> {
        let same = self.queue.iter().filter(|e| e.ip == entry.ip && e.iface == entry.iface).count();
        if same >= WAITING_PER_NEIGHBOUR || self.queue.len() >= WAITING_MAX {
            return Err(entry);
        }
        let wanted = Event::NeighbourWanted { iface: entry.iface, ip: entry.ip };
        if same == 0 && link.events.push(wanted).is_err() {
            link.counters.worker.events_lost.add(1);
        }
        self.queue.push_back(entry);
        Ok(())
    }

    /// Sends what the new snapshot has addresses for, in order.
    pub fn retry<I: PacketIo<Buf = B>>(&mut self, s: &Snapshot, out: &mut Outbox<B>, io: &mut I, link: &WorkerLink) {
        for _ in 0..self.queue.len() {
            let Some(mut e) = self.queue.pop_front() else { return };
            let Some(hop) = s.neighbour(e.iface, e.ip).filter(|h| h.resolved) else {
                self.queue.push_back(e);
                continue;
            };
            if e.l2 != hop.l2_len && !resize(&mut e.buf, e.l2, hop.l2_len) {
                link.counters.drop(DropReason::NoHeadroom).add(1);
                io.free(e.buf);
                continue;
            }
            write_header(&mut e.buf, hop, e.v4);
            out.push(hop.port, e.buf, io, link);
        }
    }

    /// Gives everything back, at the end.
    pub fn drain<I: PacketIo<Buf = B>>(&mut self, io: &mut I) {
        for e in self.queue.drain(..) {
            io.free(e.buf);
        }
    }

    /// Drops what waited too long; the oldest are in front.
    pub fn age<I: PacketIo<Buf = B>>(&mut self, now: Tick, io: &mut I, link: &WorkerLink) {
        while self.queue.front().is_some_and(|e| e.until.reached(now)) {
            if let Some(e) = self.queue.pop_front() {
                link.counters.drop(DropReason::NeighbourUnresolved).add(1);
                io.free(e.buf);
            }
        }
    }
}

impl<B: PacketBuf> Default for Waiting<B> {
    fn default() -> Self {
        Self::new()
    }
}
