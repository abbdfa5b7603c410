//! Packets on their way to the worker that owns their flow.
//!
//! They are collected during a poll and put on the ring in one go: a ring's ends lie in
//! lines that both cores read, and each time one of them writes there the other has to
//! wait for the line.

use arrayvec::ArrayVec;

use crate::counters::{CoreCounters, DropReason};
use crate::io::{BURST, PacketIo};

/// The way to one other worker.
pub struct ToOther<B> {
    ring: rtrb::Producer<B>,
    collected: ArrayVec<B, BURST>,
}

impl<B> ToOther<B> {
    /// Over this ring.
    pub fn new(ring: rtrb::Producer<B>) -> Self {
        Self { ring, collected: ArrayVec::new() }
    }

    /// Takes a packet; what is collected goes on the ring when it is a burst.
    #[inline]
    pub fn push<I: PacketIo<Buf = B>>(&mut self, buf: B, io: &mut I, counters: &CoreCounters) {
        self.collected.push(buf);
        if self.collected.is_full() {
            self.flush(io, counters);
        }
    }

    /// Puts what is collected on the ring. What finds no room is dropped.
    #[inline]
    pub fn flush<I: PacketIo<Buf = B>>(&mut self, io: &mut I, counters: &CoreCounters) {
        let mut left = self.collected.drain(..);
        let wanted = left.len();
        let room = self.ring.slots().min(wanted);
        let put = self.ring.write_chunk_uninit(room).map_or(0, |chunk| chunk.fill_from_iter(&mut left));
        counters.worker.handed_off.add(put as u64);
        if put < wanted {
            counters.drop(DropReason::HandoffFull).add((wanted - put) as u64);
            left.for_each(|buf| io.free(buf));
        }
    }
}

/// Takes up to a burst off a ring into the front of `bufs`, whose entries are `None`;
/// returns how many.
#[inline]
pub fn take<B>(ring: &mut rtrb::Consumer<B>, bufs: &mut [Option<B>; BURST]) -> usize {
    let n = ring.slots().min(BURST);
    if n == 0 {
        return 0;
    }
    let Ok(chunk) = ring.read_chunk(n) else { return 0 };
    for (slot, buf) in bufs.iter_mut().zip(chunk) {
        *slot = Some(buf);
    }
    n
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::PacketBuf;
    use crate::io::memory::{MemoryIo, Wire};

    fn counts(c: &CoreCounters) -> [u64; 2] {
        [c.worker.handed_off.get(), c.drop(DropReason::HandoffFull).get()]
    }

    #[test]
    fn packets_arrive_in_order_after_a_flush_or_a_whole_burst() {
        let wire = Wire::new(1, 1);
        let (mut io, counters) = (MemoryIo::new(&wire, 0), CoreCounters::new(1, 1));
        let (ring, mut from) = rtrb::RingBuffer::new(128);
        let mut to = ToOther::new(ring);
        let mut bufs = [const { None }; BURST];
        let mut next = 1..;
        let mut push = |to: &mut ToOther<_>, io: &mut MemoryIo, n: usize| {
            for mark in next.by_ref().take(n) {
                let mut buf = io.alloc(60).unwrap();
                buf.set_mark(mark);
                to.push(buf, io, &counters);
            }
        };
        push(&mut to, &mut io, BURST - 1);
        assert_eq!(take(&mut from, &mut bufs), 0, "nothing is on the ring before");
        push(&mut to, &mut io, 3);
        assert_eq!(take(&mut from, &mut bufs), BURST);
        to.flush(&mut io, &counters);
        let mut marks: Vec<_> = bufs.iter_mut().filter_map(Option::take).map(|b| (b.mark(), io.free(b)).0).collect();
        assert_eq!(take(&mut from, &mut bufs), 2);
        marks.extend(bufs.iter_mut().filter_map(Option::take).map(|b| (b.mark(), io.free(b)).0));
        assert_eq!(marks, (1..=66).collect::<Vec<_>>());
        assert_eq!((counts(&counters), wire.live()), ([66, 0], 0));
    }

    #[test]
    fn what_finds_no_room_is_counted_and_freed() {
        let wire = Wire::new(1, 1);
        let (mut io, counters) = (MemoryIo::new(&wire, 0), CoreCounters::new(1, 1));
        let (ring, mut from) = rtrb::RingBuffer::new(4);
        let mut to = ToOther::new(ring);
        for _ in 0..10 {
            let buf = io.alloc(60).unwrap();
            to.push(buf, &mut io, &counters);
        }
        to.flush(&mut io, &counters);
        to.flush(&mut io, &counters);
        assert_eq!((counts(&counters), wire.live()), ([4, 6], 4));
        let mut bufs = [const { None }; BURST];
        assert_eq!(take(&mut from, &mut bufs), 4);
        bufs.iter_mut().filter_map(Option::take).for_each(|b| io.free(b));
        assert_eq!(wire.live(), 0);
    }
}
