//! Ports in memory: for tests, fuzzing and instruction counts. Safe code throughout.
//!
//! [`Wire`] is what lies outside: tests put frames on a port's receive queues and take
//! what was sent. [`MemoryIo`] is one worker's view of it. In steady state buffers are
//! recycled and nothing is allocated; [`MemoryIo::replay`] makes a port hand out copies of
//! a fixed set of frames without end, and swallow what is sent. What a packet asks of the
//! sending device (checksums, a VLAN tag) is done before the frame counts as sent.

mod device;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::io::{BURST, PacketBuf, PacketIo, RxInfo, TxOffload};
use crate::units::PortId;
use crate::wire::vlan;

/// Bytes in front of a received frame, as DPDK's `RTE_PKTMBUF_HEADROOM`.
pub const HEADROOM: usize = 128;

/// Bytes one segment takes at most, headroom included.
const ROOM: usize = 1 << 16;

/// One packet. One segment unless made by [`MemBuf::chained`].
pub struct MemBuf(Box<Inner>);

#[derive(Default)]
struct Inner {
    bytes: Vec<u8>,
    head: usize,
    /// What does not fit the first segment.
    tail: Vec<u8>,
    ingress: PortId,
    mark: u64,
    rx: RxInfo,
    tx: TxOffload,
    tx_tag: Option<u16>,
}

impl MemBuf {
    fn fill(&mut self, frame: &[u8], ingress: PortId) {
        let b = &mut *self.0;
        // A recycled buffer is that long already.
        b.bytes.resize(HEADROOM, 0);
        b.bytes.extend_from_slice(frame);
        b.head = HEADROOM;
        b.tail.clear();
        b.ingress = ingress;
        b.mark = 0;
        b.rx = RxInfo::default();
        b.tx = TxOffload::default();
        b.tx_tag = None;
    }
    fn whole(&self) -> Vec<u8> {
        [&self.0.bytes[self.0.head..], &self.0.tail[..]].concat()
    }
    /// What the sending side was asked to do.
    pub fn tx_offload(&self) -> TxOffload {
        self.0.tx
    }
}

impl PacketBuf for MemBuf {
    #[inline(always)]
    fn data(&self) -> &[u8] {
        &self.0.bytes[self.0.head..]
    }
    #[inline(always)]
    fn data_mut(&mut self) -> &mut [u8] {
        let head = self.0.head;
        &mut self.0.bytes[head..]
    }
    #[inline(always)]
    fn total_len(&self) -> usize {
        self.0.bytes.len() - self.0.head + self.0.tail.len()
    }
    fn prepend(&mut self, n: usize) -> bool {
        let fits = n <= self.0.head;
        if fits {
            self.0.head -= n;
        }
        fits
    }
    fn trim_front(&mut self, n: usize) -> bool {
        let fits = n <= self.data().len();
        if fits {
            self.0.head += n;
        }
        fits
    }
    fn truncate(&mut self, len: usize) -> bool {
        if len > self.total_len() {
            return false;
        }
        let first = self.data().len();
        if len >= first {
            self.0.tail.truncate(len - first);
        } else {
            self.0.tail.clear();
            let end = self.0.head + len;
            self.0.bytes.truncate(end);
        }
        true
    }
    fn extend(&mut self, n: usize) -> bool {
        let b = &mut *self.0;
        let last = if b.tail.is_empty() { &mut b.bytes } else { &mut b.tail };
        let fits = n <= ROOM.saturating_sub(last.len());
        if fits {
            last.resize(last.len() + n, 0);
        }
        fits
    }
    fn copy_out(&self, offset: usize, out: &mut [u8]) -> usize {
        let first = self.data();
        let a = first.get(offset..).unwrap_or(&[]);
        let n = a.len().min(out.len());
        out[..n].copy_from_slice(&a[..n]);
        let b = self.0.tail.get(offset.saturating_sub(first.len())..).unwrap_or(&[]);
        let m = b.len().min(out.len() - n);
        out[n..n + m].copy_from_slice(&b[..m]);
        n + m
    }
    fn is_chained(&self) -> bool {
        !self.0.tail.is_empty()
    }
    #[inline(always)]
    fn ingress(&self) -> PortId {
        self.0.ingress
    }
    fn set_ingress(&mut self, port: PortId) {
        self.0.ingress = port;
    }
    #[inline(always)]
    fn rx_info(&self) -> RxInfo {
        self.0.rx
    }
    fn set_tx_offload(&mut self, offload: TxOffload) {
        self.0.tx = offload;
    }
    fn set_tx_tag(&mut self, tci: u16) {
        self.0.tx_tag = Some(tci);
    }
    #[inline(always)]
    fn mark(&self) -> u64 {
        self.0.mark
    }
    fn set_mark(&mut self, mark: u64) {
        self.0.mark = mark;
    }
}

/// A frame that waits to be received.
struct Arrival {
    bytes: Vec<u8>,
    /// Bytes in its first segment.
    first: usize,
    rx: RxInfo,
}

impl Arrival {
    fn strip(&mut self) {
        if let Some(tci) = vlan::remove(&mut self.bytes) {
            self.bytes.drain(..vlan::LEN);
            self.first = self.first.saturating_sub(vlan::LEN);
            self.rx.vlan_tci = Some(tci);
        }
    }
}

#[derive(Default)]
struct Queues {
    rx: Vec<VecDeque<Arrival>>,
    sent: Vec<Vec<u8>>,
}

/// What lies outside the ports.
pub struct Wire {
    ports: Vec<Mutex<Queues>>,
    /// Receive queues of each port.
    queues: usize,
    /// Whether the devices take tags out of the frames that arrive.
    strips: AtomicBool,
    /// Frames whose checksum the devices were asked for.
    summed: AtomicU64,
    live: AtomicIsize,
    swallowed: AtomicU64,
}

impl Wire {
    /// `ports` ports with `queues` receive queues each.
    pub fn new(ports: usize, queues: usize) -> Arc<Self> {
        let port = || Mutex::new(Queues { rx: (0..queues).map(|_| VecDeque::new()).collect(), sent: Vec::new() });
        Arc::new(Self {
            ports: (0..ports).map(|_| port()).collect(),
            queues,
            strips: AtomicBool::new(false),
            summed: AtomicU64::new(0),
            live: AtomicIsize::new(0),
            swallowed: AtomicU64::new(0),
        })
    }

    fn with<T>(&self, port: usize, f: impl FnOnce(&mut Queues) -> T) -> T {
        f(&mut self.ports[port].lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a frame on a receive queue. One that does not exist takes nothing.
    pub fn push(&self, port: usize, queue: usize, frame: &[u8]) {
        self.arrive(port, queue, frame, frame.len(), RxInfo::default());
    }

    /// Puts a frame on a receive queue whose first segment holds `first` bytes.
    pub fn push_chained(&self, port: usize, queue: usize, frame: &[u8], first: usize) {
        self.arrive(port, queue, frame, first.min(frame.len()), RxInfo::default());
    }

    /// Puts a frame on a receive queue of a device that found something out about it: that
    /// checksums are right or wrong, or a tag, which it took out of `frame`.
    pub fn push_seen(&self, port: usize, queue: usize, frame: &[u8], rx: RxInfo) {
        self.arrive(port, queue, frame, frame.len(), rx);
    }

    /// From now on the devices take 802.1Q tags out of the frames that arrive.
    pub fn strip_tags(&self) {
        self.strips.store(true, Relaxed);
    }

    fn arrive(&self, port: usize, queue: usize, frame: &[u8], first: usize, rx: RxInfo) {
        let mut arrival = Arrival { bytes: frame.to_vec(), first, rx };
        if self.strips.load(Relaxed) {
            arrival.strip();
        }
        self.with(port, |q| {
            if let Some(q) = q.rx.get_mut(queue) {
                q.push_back(arrival);
            }
        });
    }

    /// Frames that wait on a receive queue.
    pub fn waiting(&self, port: usize, queue: usize) -> usize {
        self.with(port, |q| q.rx.get(queue).map_or(0, VecDeque::len))
    }

    /// Takes everything sent on a port.
    pub fn sent(&self, port: usize) -> Vec<Vec<u8>> {
        self.with(port, |q| std::mem::take(&mut q.sent))
    }

    /// Packets that are neither free nor sent: kept by a worker, or leaked.
    pub fn live(&self) -> isize {
        self.live.load(Relaxed)
    }

    /// Frames whose checksum the devices were asked for.
    pub fn summed(&self) -> u64 {
        self.summed.load(Relaxed)
    }

    /// Packets sent by replaying views.
    pub fn swallowed(&self) -> u64 {
        self.swallowed.load(Relaxed)
    }
}

/// One worker's view of the ports.
pub struct MemoryIo {
    wire: Arc<Wire>,
    queue: usize,
    free: Vec<MemBuf>,
    replay: Option<Replay>,
    /// Buffers that may still be taken; tests lower it to see a pool run dry.
    pub pool_left: isize,
}

struct Replay {
    frames: Vec<Vec<u8>>,
    next: usize,
    burst: usize,
}

impl MemoryIo {
    /// The view of the worker that owns receive queue `queue` of every port.
    pub fn new(wire: &Arc<Wire>, queue: usize) -> Self {
        Self { wire: wire.clone(), queue, free: Vec::new(), replay: None, pool_left: isize::MAX }
    }

    /// From now on port 0 hands out copies of `frames`, round and round, `burst` at a time,
    /// and every port swallows what is sent.
    pub fn replay(&mut self, frames: Vec<Vec<u8>>, burst: usize) {
        self.replay = (!frames.is_empty()).then_some(Replay { frames, next: 0, burst: burst.clamp(1, BURST) });
    }

    fn take(&mut self) -> Option<MemBuf> {
        let buf = self.draw()?;
        self.wire.live.fetch_add(1, Relaxed);
        Some(buf)
    }
    /// Takes a buffer which the caller counts as live.
    fn draw(&mut self) -> Option<MemBuf> {
        if self.pool_left <= 0 {
            return None;
        }
        self.pool_left -= 1;
        Some(self.free.pop().unwrap_or_else(|| MemBuf(Box::default())))
    }
    fn give(&mut self, buf: MemBuf) {
        self.wire.live.fetch_sub(1, Relaxed);
        self.put(buf);
    }
    /// Gives back a buffer which the caller no longer counts as live.
    fn put(&mut self, mut buf: MemBuf) {
        self.pool_left = self.pool_left.saturating_add(1);
        buf.0.bytes.truncate(HEADROOM);
        self.free.push(buf);
    }

    fn rx_replay(&mut self, port: PortId, out: &mut [Option<MemBuf>; BURST], replay: &mut Replay) -> usize {
        let mut n = 0;
        for slot in out.iter_mut().take(replay.burst) {
            let Some(mut buf) = self.draw() else { break };
            buf.fill(&replay.frames[replay.next], port);
            replay.next = if replay.next + 1 == replay.frames.len() { 0 } else { replay.next + 1 };
            *slot = Some(buf);
            n += 1;
        }
        n
    }

    fn rx_wire(&mut self, port: PortId, out: &mut [Option<MemBuf>; BURST]) -> usize {
        let (queue, wire) = (self.queue, self.wire.clone());
        wire.with(port.index(), |q| {
            let Some(q) = q.rx.get_mut(queue) else { return 0 };
            let mut n = 0;
            // Without a buffer the frames stay where they are.
            while n < BURST && !q.is_empty() {
                let Some(mut buf) = self.draw() else { break };
                if let Some(a) = q.pop_front() {
                    buf.fill(&a.bytes[..a.first], port);
                    buf.0.tail.extend_from_slice(&a.bytes[a.first..]);
                    buf.0.rx = a.rx;
                }
                out[n] = Some(buf);
                n += 1;
            }
            n
        })
    }
}

impl PacketIo for MemoryIo {
    type Buf = MemBuf;

    fn ports(&self) -> usize {
        self.wire.ports.len()
    }
    fn has_rx(&self, port: PortId) -> bool {
        match self.replay {
            Some(_) => port.0 == 0 && self.ports() > 0,
            None => port.index() < self.ports() && self.queue < self.wire.queues,
        }
    }
    fn has_tx(&self, port: PortId) -> bool {
        port.index() < self.ports()
    }
    fn rx(&mut self, port: PortId, out: &mut [Option<MemBuf>; BURST]) -> usize {
        if !self.has_rx(port) {
            return 0;
        }
        let n = match self.replay.take() {
            Some(mut replay) => {
                let n = self.rx_replay(port, out, &mut replay);
                self.replay = Some(replay);
                n
            }
            None => self.rx_wire(port, out),
        };
        self.wire.live.fetch_add(n as isize, Relaxed);
        n
    }
    fn tx(&mut self, port: PortId, bufs: &mut [Option<MemBuf>], n: usize) -> usize {
        let absent = !self.has_tx(port);
        let mut taken = 0;
        for buf in bufs[..n].iter_mut().filter_map(Option::take) {
            // Where there is no device to take it, it is freed.
            if !absent && self.replay.is_none() {
                let asked = buf.0.tx;
                self.wire.summed.fetch_add(u64::from(asked.l4_csum.is_some()), Relaxed);
                self.wire.with(port.index(), |q| q.sent.push(device::send(buf.whole(), asked, buf.0.tx_tag)));
            }
            self.put(buf);
            taken += 1;
        }
        self.wire.live.fetch_sub(taken as isize, Relaxed);
        if absent {
            return 0;
        }
        if self.replay.is_some() {
            self.wire.swallowed.fetch_add(taken, Relaxed);
        }
        n
    }
    fn alloc(&mut self, len: usize) -> Option<MemBuf> {
        if len > ROOM - HEADROOM {
            return None;
        }
        let mut buf = self.take()?;
        buf.fill(&[], PortId(0));
        buf.0.bytes.resize(HEADROOM + len, 0);
        Some(buf)
    }
    fn free(&mut self, buf: MemBuf) {
        self.give(buf);
    }
    fn copy(&mut self, buf: &MemBuf) -> Option<MemBuf> {
        let mut new = self.take()?;
        new.fill(buf.data(), buf.ingress());
        new.0.tail.extend_from_slice(&buf.0.tail);
        new.0.mark = buf.0.mark;
        new.0.rx = buf.0.rx;
        new.0.tx = buf.0.tx;
        Some(new)
    }
}
