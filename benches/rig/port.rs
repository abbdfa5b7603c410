//! The generator port: makes packets where a device would receive them, and swallows what
//! is sent.
//!
//! A fixed number of buffers goes round, last in first out, as in the cache of a DPDK pool.
//! Each time round a buffer gets a whole new header, so that nothing is left of what the
//! director did to it. What a packet costs here is the same for every pipeline behind.

use std::sync::{Arc, Mutex};

use dataplane::burst::Lanes;
use dataplane::flow::memory::prefetch_near;
use dataplane::io::{BURST, PacketBuf, PacketIo, RxInfo, TxOffload};
use dataplane::units::PortId;
use dataplane::worker::tsc;

use super::clock::Histogram;
use super::traffic::Traffic;

/// Bytes in front of a received frame: room for an outer header.
pub const HEADROOM: usize = 64;
/// Bytes of a buffer. More than two bytes can say, so that no slice of it is ever checked.
pub const ROOM: usize = 512;

/// A buffer's bytes, the frame at the beginning of the second cache line.
#[repr(C, align(64))]
pub struct Bytes(pub [u8; ROOM]);

/// A packet buffer: what is known of the packet in the first line, the frame behind.
#[repr(C, align(64))]
pub struct Slot {
    head: u8,
    /// Length of the frame, bytes.
    pub len: u8,
    ingress: PortId,
    /// What the generator wants to know when the packet is sent.
    pub note: u32,
    mark: u64,
    /// When the packet came, TSC.
    arrived: u64,
    tx: TxOffload,
    /// The headroom and the frame.
    pub bytes: Bytes,
}

/// One packet.
pub struct GenBuf(Box<Slot>);

impl GenBuf {
    /// An empty packet.
    pub fn new() -> Self {
        Self(Box::new(Slot {
            head: HEADROOM as u8,
            len: 0,
            ingress: PortId(0),
            note: 0,
            mark: 0,
            arrived: 0,
            tx: TxOffload::default(),
            bytes: Bytes([0; ROOM]),
        }))
    }
    /// The buffer, for a frame that begins where received ones do.
    #[inline(always)]
    pub fn fresh(&mut self) -> &mut Slot {
        self.0.head = HEADROOM as u8;
        &mut self.0
    }
    fn end(&self) -> usize {
        usize::from(self.0.head) + usize::from(self.0.len)
    }
}

impl PacketBuf for GenBuf {
    #[inline(always)]
    fn data(&self) -> &[u8] {
        &self.0.bytes.0[usize::from(self.0.head)..self.end()]
    }
    #[inline(always)]
    fn data_mut(&mut self) -> &mut [u8] {
        let range = usize::from(self.0.head)..self.end();
        &mut self.0.bytes.0[range]
    }
    #[inline(always)]
    fn prefetch(&self) {
        // The frame's line, as DPDK's buffers do: worth something when another core wrote it.
        prefetch_near(&raw const self.0.bytes.0[HEADROOM]);
    }
    #[inline(always)]
    fn prefetch_whole(&self) {
        prefetch_near(&raw const *self.0);
        self.prefetch();
    }
    #[inline(always)]
    fn total_len(&self) -> usize {
        usize::from(self.0.len)
    }
    #[inline(always)]
    fn prepend(&mut self, n: usize) -> bool {
        let fits = n <= usize::from(self.0.head) && n + usize::from(self.0.len) <= 255;
        if fits {
            self.0.head -= n as u8;
            self.0.len += n as u8;
        }
        fits
    }
    #[inline(always)]
    fn trim_front(&mut self, n: usize) -> bool {
        let fits = n <= usize::from(self.0.len);
        if fits {
            self.0.head += n as u8;
            self.0.len -= n as u8;
        }
        fits
    }
    fn truncate(&mut self, len: usize) -> bool {
        let fits = len <= usize::from(self.0.len);
        if fits {
            self.0.len = len as u8;
        }
        fits
    }
    fn extend(&mut self, n: usize) -> bool {
        let fits = n + usize::from(self.0.len) <= 255;
        if fits {
            self.0.len += n as u8;
        }
        fits
    }
    fn copy_out(&self, offset: usize, out: &mut [u8]) -> usize {
        let from = self.data().get(offset..).unwrap_or(&[]);
        let n = from.len().min(out.len());
        out[..n].copy_from_slice(&from[..n]);
        n
    }
    fn is_chained(&self) -> bool {
        false
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
        RxInfo::default()
    }
    fn set_tx_offload(&mut self, offload: TxOffload) {
        self.0.tx = offload;
    }
    fn set_tx_tag(&mut self, _: u16) {}
    #[inline(always)]
    fn mark(&self) -> u64 {
        self.0.mark
    }
    fn set_mark(&mut self, mark: u64) {
        self.0.mark = mark;
    }
}

/// Packets that come at a rate, not as fast as they are taken. Those that find more than
/// `ring` others waiting are lost, as with a device.
pub struct Pace {
    next: u64,
    /// TSC cycles between packets, 16 more bits behind the point.
    interval: u64,
    fraction: u64,
    ring: u64,
    /// Lost for want of room.
    pub missed: u64,
}

impl Pace {
    /// A packet every `cycles` of the TSC, from now on.
    pub fn new(cycles: f64, ring: u64) -> Self {
        Self { next: tsc(), interval: (cycles * 65536.0) as u64, fraction: 0, ring, missed: 0 }
    }
    /// How many are there at `now`, at most a burst.
    fn due(&mut self, now: u64) -> usize {
        let late = now.saturating_sub(self.next);
        let mut waiting = (late << 16) / self.interval;
        if waiting > self.ring {
            let lost = waiting - self.ring;
            self.missed += lost;
            self.next += (lost * self.interval) >> 16;
            waiting = self.ring;
        }
        waiting.min(BURST as u64) as usize
    }
    /// When the next one came.
    fn take(&mut self) -> u64 {
        let at = self.next;
        let step = self.interval + self.fraction;
        self.fraction = step & 0xffff;
        self.next += step >> 16;
        at
    }
}

/// Buffers that no port needs now: as with a pool of DPDK's, who has too many gives some back, and who
/// has too few takes some, many at a time.
pub type Depot = Arc<Mutex<Vec<GenBuf>>>;

/// One worker's generator port.
pub struct GenIo {
    free: Vec<GenBuf>,
    /// Where buffers go that have piled up here; none with a single port.
    pub depot: Option<Depot>,
    /// What comes.
    pub traffic: Traffic,
    /// Packets of one receive call.
    pub burst: usize,
    /// When they come; `None`: as soon as they are taken.
    pub pace: Option<Pace>,
    /// Time from arrival to sending, TSC cycles; recorded while there is one.
    pub delays: Option<Box<Histogram>>,
    /// TSC cycles spent in here; counted when there is a count.
    pub own: Option<u64>,
    /// Packets sent.
    pub sent: u64,
    /// Packets received.
    pub received: u64,
}

/// Buffers of a port: fewer than a hand-off ring holds, so that two workers never fill one.
const POOL: usize = 1024;
/// Buffers beyond which some go to the depot.
const PLENTY: usize = POOL + POOL / 4;
/// Buffers that go there or come from there at a time.
const LOAD: usize = POOL / 4;

impl GenIo {
    /// A port with this traffic.
    pub fn new(traffic: Traffic) -> Self {
        let free = (0..POOL).map(|_| GenBuf::new()).collect();
        Self { free, depot: None, traffic, burst: BURST, pace: None, delays: None, own: None, sent: 0, received: 0 }
    }

    /// Counts what a call took, unless the core was away meanwhile, or nothing was done.
    #[inline(always)]
    fn account(&mut self, begin: u64, n: usize) {
        const AWAY: u64 = 100_000;
        if let Some(own) = &mut self.own {
            let spent = tsc() - begin;
            *own += if n > 0 && spent < AWAY { spent } else { 0 };
        }
    }

    /// Fetches buffers, or brings some back.
    #[cold]
    fn visit(&mut self) {
        let Some(mut depot) = self.depot.as_ref().and_then(|d| d.lock().ok()) else { return };
        if self.free.len() > PLENTY {
            depot.extend(self.free.drain(..LOAD));
        } else {
            let from = depot.len().saturating_sub(LOAD);
            self.free.extend(depot.drain(from..));
        }
    }

    #[cold]
    fn record(&mut self, bufs: &[Option<GenBuf>]) {
        let now = tsc();
        if let Some(h) = &mut self.delays {
            for buf in bufs.iter().flatten() {
                h.add(now.saturating_sub(buf.0.arrived));
            }
        }
    }
}

impl PacketIo for GenIo {
    type Buf = GenBuf;

    fn ports(&self) -> usize {
        1
    }
    #[inline(always)]
    fn has_rx(&self, port: PortId) -> bool {
        port.0 == 0
    }
    #[inline(always)]
    fn has_tx(&self, port: PortId) -> bool {
        port.0 == 0
    }
    #[inline]
    fn rx(&mut self, _: PortId, out: &mut [Option<GenBuf>; BURST]) -> usize {
        let begin = if self.own.is_some() { tsc() } else { 0 };
        if self.free.len() < BURST && self.depot.is_some() {
            self.visit();
        }
        let mut n = self.burst.min(self.free.len());
        // Where buffers are with another worker who is away, packets would come one by one, and cost as much
        // as a burst: they wait.
        if self.own.is_some() && n < self.burst {
            n = 0;
        }
        if let Some(pace) = &mut self.pace {
            n = n.min(pace.due(tsc()));
        }
        let n = self.traffic.fill(n, &mut self.free, out);
        if let Some(pace) = &mut self.pace {
            for buf in out[..n].iter_mut().flatten() {
                buf.0.arrived = pace.take();
            }
        }
        self.received += n as u64;
        self.account(begin, n);
        n
    }
    #[inline]
    fn tx(&mut self, _: PortId, bufs: &mut [Option<GenBuf>], n: usize) -> usize {
        let begin = if self.own.is_some() { tsc() } else { 0 };
        if self.delays.is_some() {
            self.record(&bufs[..n]);
        }
        if self.traffic.watches() {
            for buf in bufs[..n].iter().flatten() {
                self.traffic.watch(buf.0.note, buf.data());
            }
        }
        self.free.extend(bufs[..n].iter_mut().filter_map(Option::take));
        if self.free.len() > PLENTY {
            self.visit();
        }
        self.sent += n as u64;
        self.account(begin, n);
        n
    }
    fn alloc(&mut self, len: usize) -> Option<GenBuf> {
        let mut buf = self.free.pop().filter(|_| len <= 255)?;
        (buf.0.head, buf.0.len) = (HEADROOM as u8, len as u8);
        Some(buf)
    }
    fn free(&mut self, buf: GenBuf) {
        self.free.push(buf);
    }
    fn copy(&mut self, _: &GenBuf) -> Option<GenBuf> {
        None
    }
}

/// Gives ports one depot.
pub fn share<'a>(ports: impl Iterator<Item = &'a mut GenIo>) {
    let depot = Depot::default();
    ports.for_each(|io| io.depot = Some(depot.clone()));
}

/// The pipelines that the director is measured against.
pub struct Bare {
    /// The port.
    pub io: GenIo,
    bufs: Box<[Option<GenBuf>; BURST]>,
}

impl Bare {
    /// A port with nothing behind.
    pub fn new(traffic: Traffic) -> Self {
        Self { io: GenIo::new(traffic), bufs: Box::new([const { None }; BURST]) }
    }
    /// Sends what came, as testpmd's `io` does.
    #[inline(never)]
    pub fn empty(&mut self) -> usize {
        let n = self.io.rx(PortId(0), &mut self.bufs);
        self.io.tx(PortId(0), &mut self.bufs[..], n)
    }
    /// The same with the Ethernet addresses exchanged, as testpmd's `macswap` does.
    #[inline(never)]
    pub fn macswap(&mut self) -> usize {
        let n = self.io.rx(PortId(0), &mut self.bufs);
        for buf in self.bufs[..n].iter_mut().flatten() {
            swap(buf);
        }
        self.io.tx(PortId(0), &mut self.bufs[..], n)
    }
}

#[inline(always)]
fn swap(buf: &mut GenBuf) {
    if let Some(macs) = buf.data_mut().first_chunk_mut::<12>() {
        let (a, b) = macs.split_at_mut(6);
        a.swap_with_slice(b);
    }
}

/// One of two workers that exchange the Ethernet addresses of their packets, and do nothing else but
/// hand some of them to each other: what travelling costs.
pub struct Ferry {
    /// The port.
    pub io: GenIo,
    /// Which packets of the sequence travel.
    pub foreign: Vec<bool>,
    bufs: Box<[Option<GenBuf>; BURST]>,
    collected: Vec<GenBuf>,
    to: rtrb::Producer<GenBuf>,
    from: rtrb::Consumer<GenBuf>,
}

impl Ferry {
    /// Two of them, connected.
    pub fn pair() -> Vec<Self> {
        let ((to_b, from_a), (to_a, from_b)) = (rtrb::RingBuffer::new(2048), rtrb::RingBuffer::new(2048));
        let made = |to, from| Self {
            io: GenIo::new(Traffic::Silence),
            foreign: Vec::new(),
            bufs: Box::new([const { None }; BURST]),
            collected: Vec::with_capacity(2 * BURST),
            to,
            from,
        };
        let mut pair = vec![made(to_b, from_b), made(to_a, from_a)];
        share(pair.iter_mut().map(|f| &mut f.io));
        pair
    }

    /// Receives, hands over, takes over, sends. Returns how many packets it met.
    #[inline(never)]
    pub fn poll(&mut self) -> usize {
        let n = self.io.rx(PortId(0), &mut self.bufs);
        let is_foreign = |b: &GenBuf| u64::from(self.foreign[b.0.note as usize]);
        let foreign = self.bufs[..n].iter().rev().flatten().fold(0, |all, b| all << 1 | is_foreign(b));
        self.collected.extend(Lanes(foreign).filter_map(|i| self.bufs[i].take()));
        let mut own = 0;
        for i in Lanes(Lanes::first(n).0 & !foreign) {
            self.bufs.swap(own, i);
            own += 1;
        }
        self.send(own);
        if self.collected.len() >= BURST / 2 || n == 0 {
            let many = self.collected.len();
            if let Ok(chunk) = self.to.write_chunk_uninit(many) {
                chunk.fill_from_iter(self.collected.drain(..));
            }
        }
        let taken = self.from.slots().min(BURST);
        if let (Ok(chunk), true) = (self.from.read_chunk(taken), taken > 0) {
            for (slot, buf) in self.bufs.iter_mut().zip(chunk) {
                buf.prefetch_whole();
                *slot = Some(buf);
            }
            self.send(taken);
        }
        n + taken
    }

    fn send(&mut self, n: usize) {
        self.bufs[..n].iter_mut().flatten().for_each(swap);
        self.io.tx(PortId(0), &mut self.bufs[..], n);
    }
}
