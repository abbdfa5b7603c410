//! Packets on their way to the worker that owns their flow.
//!
//! They are collected over some polls and put on the ring in one go: a ring's ends lie in
//! lines that both cores read, and each time one of them writes there the other has to
//! wait for the line. What little comes waits for nothing.

use arrayvec::ArrayVec;

use crate::burst::{Burst, Lanes};
use crate::counters::{CoreCounters, DropReason};
use crate::flow::table::FlowTable;
use crate::io::{BURST, PacketBuf, PacketIo};
use crate::stage::fast::Learnt;

/// Packets that are worth a visit to the ring.
const ENOUGH: usize = BURST / 2;
/// Room for what was not enough, and a burst.
const ROOM: usize = ENOUGH + BURST;
/// Busy polls until what is collected goes on the ring however little it is.
const PATIENCE: u8 = 8;
/// A packet that is handed over without a lane: after those that have one.
pub const NO_LANE: u8 = BURST as u8;

/// A packet on its way, half a cache line.
#[repr(align(32))]
pub struct Handed<B> {
    buf: B,
    learnt: Learnt,
}

/// The way to one other worker.
pub struct ToOther<B> {
    ring: rtrb::Producer<Handed<B>>,
    collected: ArrayVec<Handed<B>, ROOM>,
    /// The lane of each.
    lanes: ArrayVec<u8, ROOM>,
    /// How many are of bursts before.
    before: usize,
}

impl<B> ToOther<B> {
    /// Over this ring.
    pub fn new(ring: rtrb::Producer<Handed<B>>) -> Self {
        Self { ring, collected: ArrayVec::new(), lanes: ArrayVec::new(), before: 0 }
    }

    /// Takes a packet that came in this lane of its burst; what is collected goes on the ring when there
    /// is no more room.
    #[inline]
    pub fn push<I: PacketIo<Buf = B>>(
        &mut self,
        (buf, learnt): (B, Learnt),
        lane: u8,
        io: &mut I,
        counters: &CoreCounters,
    ) {
        if self.collected.is_full() {
            self.end_burst();
            self.flush(io, counters);
        }
        self.collected.push(Handed { buf, learnt });
        self.lanes.push(lane);
    }

    /// No more of this burst comes: restores the order in which its packets came. Returns
    /// whether enough has come for the ring.
    #[inline]
    pub fn end_burst(&mut self) -> bool {
        // The fast stage has found its packets before the others found theirs.
        if self.lanes.get(self.before..).is_some_and(|new| !new.is_sorted()) {
            self.sort();
        }
        self.before = self.collected.len();
        self.before >= ENOUGH
    }

    #[cold]
    fn sort(&mut self) {
        for end in self.before + 1..self.lanes.len() {
            let mut at = end;
            while at > self.before && self.lanes[at - 1] > self.lanes[at] {
                self.lanes.swap(at - 1, at);
                self.collected.swap(at - 1, at);
                at -= 1;
            }
        }
    }

    /// Puts what is collected on the ring. What finds no room is dropped. Returns whether there was
    /// anything.
    #[inline]
    pub fn flush<I: PacketIo<Buf = B>>(&mut self, io: &mut I, counters: &CoreCounters) -> bool {
        (self.before, _) = (0, self.lanes.clear());
        let wanted = self.collected.len();
        let mut left = self.collected.drain(..);
        // The other's end is looked at only where the last look left no room.
        let room = wanted.min(if self.ring.cached_slots() < wanted { self.ring.slots() } else { wanted });
        let put = self.ring.write_chunk_uninit(room).map_or(0, |chunk| chunk.fill_from_iter(&mut left));
        counters.worker.handed_off.add(put as u64);
        if put < wanted {
            counters.drop(DropReason::HandoffFull).add((wanted - put) as u64);
            left.for_each(|handed| io.free(handed.buf));
        }
        wanted > 0
    }
}

/// The ways to all others, and when they are taken.
pub struct ToOthers<B> {
    ways: Vec<Option<ToOther<B>>>,
    /// Whether anything is collected.
    any: bool,
    /// Polls since something was.
    polls: u8,
}

impl<B> ToOthers<B> {
    /// By the others' numbers.
    pub fn new(rings: Vec<Option<rtrb::Producer<Handed<B>>>>) -> Self {
        Self { ways: rings.into_iter().map(|r| r.map(ToOther::new)).collect(), any: false, polls: 0 }
    }

    /// The way to this worker.
    #[inline(always)]
    pub fn get(&mut self, worker: usize) -> Option<&mut ToOther<B>> {
        let way = self.ways.get_mut(worker)?.as_mut()?;
        self.any = true;
        Some(way)
    }

    /// No more of this burst comes.
    #[inline]
    pub fn end_burst<I: PacketIo<Buf = B>>(&mut self, io: &mut I, counters: &CoreCounters) {
        if self.any {
            for way in self.ways.iter_mut().flatten() {
                if way.end_burst() {
                    way.flush(io, counters);
                }
            }
        }
    }

    /// At the end of a poll: what was collected goes on the rings, unless the worker is `busy` and more is
    /// to be expected. Returns whether something of an earlier poll went.
    #[inline]
    pub fn end_poll<I: PacketIo<Buf = B>>(&mut self, busy: bool, io: &mut I, counters: &CoreCounters) -> bool {
        if !self.any {
            return false;
        }
        self.polls += 1;
        if busy && self.polls < PATIENCE {
            return false;
        }
        self.flush(io, counters)
    }

    /// Puts everything on the rings. Returns whether there was anything.
    pub fn flush<I: PacketIo<Buf = B>>(&mut self, io: &mut I, counters: &CoreCounters) -> bool {
        (self.any, self.polls) = (false, 0);
        let mut any = false;
        for way in self.ways.iter_mut().flatten() {
            way.end_burst();
            any |= way.flush(io, counters);
        }
        any
    }
}

/// Takes what comes off a ring into the free lanes of a burst; returns which of them hold
/// anything but requests over IPv4.
#[inline]
pub fn take<B: PacketBuf>(ring: &mut rtrb::Consumer<Handed<B>>, burst: &mut Burst<B>, flows: &FlowTable) -> Lanes {
    let mut odd = Lanes(0);
    let n = ring.slots().min(BURST - burst.n.min(BURST));
    let Some(chunk) = ring.read_chunk(n).ok().filter(|_| n > 0) else { return odd };
    for Handed { buf, learnt } in chunk {
        buf.prefetch_whole();
        let lane = burst.n & (BURST - 1);
        let (hash, is_odd) = burst.quick[lane].learn(learnt);
        flows.prefetch_home(hash);
        burst.bufs[lane] = Some(buf);
        odd.0 |= u64::from(is_odd) << lane;
        burst.n += 1;
    }
    odd
}

/// Gives back what is on a ring.
pub fn drain<I: PacketIo>(ring: &mut rtrb::Consumer<Handed<I::Buf>>, io: &mut I) {
    while let Ok(handed) = ring.pop() {
        io.free(handed.buf);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::hash::Secret;
    use crate::io::memory::{MemBuf, MemoryIo, Wire};
    use std::sync::Arc;

    type Consumer = rtrb::Consumer<Handed<MemBuf>>;

    struct Rig {
        wire: Arc<Wire>,
        io: MemoryIo,
        counters: CoreCounters,
        to: ToOthers<MemBuf>,
        from: Consumer,
        next: u64,
    }

    impl Rig {
        fn new(room: usize) -> Self {
            let wire = Wire::new(1, 1);
            let (ring, from) = rtrb::RingBuffer::new(room);
            let (io, counters) = (MemoryIo::new(&wire, 0), CoreCounters::new(1, 1));
            Self { wire, io, counters, to: ToOthers::new(vec![None, Some(ring)]), from, next: 1 }
        }
        /// Packets in these lanes, marked in the order of this call.
        fn push(&mut self, lanes: impl IntoIterator<Item = u8>) {
            for lane in lanes {
                let mut buf = self.io.alloc(60).unwrap();
                buf.set_mark(self.next);
                self.next += 1;
                let way = self.to.get(1).unwrap();
                way.push((buf, Learnt::default()), lane, &mut self.io, &self.counters);
            }
        }
        fn end_burst(&mut self) {
            self.to.end_burst(&mut self.io, &self.counters);
        }
        fn end_poll(&mut self, busy: bool) -> bool {
            self.to.end_poll(busy, &mut self.io, &self.counters)
        }
        /// Marks of what has arrived, at most a burst.
        fn take(&mut self) -> Vec<u64> {
            let flows = FlowTable::new(64, Secret::fixed()).unwrap();
            let mut burst = Burst::new();
            let odd = take(&mut self.from, &mut burst, &flows);
            assert_eq!(odd, Lanes::first(burst.n), "nothing is known of them");
            burst.bufs.iter_mut().filter_map(Option::take).map(|b| (b.mark(), self.io.free(b)).0).collect()
        }
        fn counts(&self) -> [u64; 2] {
            [self.counters.worker.handed_off.get(), self.counters.drop(DropReason::HandoffFull).get()]
        }
    }

    #[test]
    fn a_packet_on_its_way_is_half_a_line() {
        assert_eq!(size_of::<Handed<&u8>>(), 32);
    }

    #[test]
    fn enough_goes_at_once_and_the_rest_when_nothing_more_is_to_be_expected() {
        let mut rig = Rig::new(256);
        rig.push(0..31);
        rig.end_burst();
        assert!(!rig.end_poll(true));
        assert!(rig.take().is_empty(), "it waits for more");
        rig.push(0..2);
        rig.end_burst();
        assert_eq!(rig.take(), (1..=33).collect::<Vec<_>>());
        rig.push(0..1);
        rig.end_burst();
        assert!(rig.end_poll(false));
        assert_eq!(rig.take(), [34]);
        assert!(!rig.end_poll(false));
        assert_eq!((rig.counts(), rig.wire.live()), ([34, 0], 0));
    }

    #[test]
    fn a_busy_worker_does_not_keep_packets_for_long() {
        let mut rig = Rig::new(256);
        rig.push(0..1);
        rig.end_burst();
        let polls = (1..100).find(|_| rig.end_poll(true)).unwrap();
        assert_eq!(polls, i32::from(PATIENCE));
        assert_eq!(rig.take(), [1]);
    }

    #[test]
    fn a_burst_goes_in_the_order_in_which_it_came() {
        let mut rig = Rig::new(256);
        rig.push([9]);
        rig.end_burst();
        // The fast stage's, then those of the others.
        rig.push([1, 4, 6, NO_LANE, 0, 4, 5, NO_LANE]);
        rig.end_burst();
        rig.push([2]);
        rig.to.flush(&mut rig.io, &rig.counters);
        assert_eq!(rig.take(), [1, 6, 2, 3, 7, 8, 4, 5, 9, 10]);
    }

    #[test]
    fn more_than_there_is_room_for_goes_in_order() {
        let mut rig = Rig::new(256);
        rig.push((0..200).map(|_| NO_LANE));
        rig.to.flush(&mut rig.io, &rig.counters);
        let all: Vec<_> = (0..4).flat_map(|_| rig.take()).collect();
        assert_eq!(all, (1..=200).collect::<Vec<_>>());
        assert_eq!((rig.counts(), rig.wire.live()), ([200, 0], 0));
    }

    #[test]
    fn what_finds_no_room_is_counted_and_freed() {
        let mut rig = Rig::new(4);
        rig.push(0..10);
        assert!(rig.end_poll(false));
        assert_eq!((rig.counts(), rig.wire.live()), ([4, 6], 4));
        assert_eq!(rig.take().len(), 4);
        // The cached view of the ring is out of date now.
        rig.push(0..3);
        assert!(rig.end_poll(false));
        assert_eq!((rig.counts(), rig.wire.live()), ([7, 6], 3));
        drain(&mut rig.from, &mut rig.io);
        assert_eq!(rig.wire.live(), 0);
    }
}
