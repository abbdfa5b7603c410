//! The packets of one receive call: arrays with one lane a packet.
//!
//! Sets of lanes are bit masks ([`Lanes`]). A lane is in exactly one of them at a time:
//! `ready` lanes go down the straight way; `slow` ones are looked at one by one
//! (`stage::local`); `missed` ones wait for a scheduler; a lane in none of them has its
//! packet sent, dropped or handed on.

use crate::counters::{CoreCounters, DropReason};
use crate::flow::hash::FlowHash;
use crate::flow::record::FlowKey;
use crate::flow::table::FlowId;
use crate::io::{BURST, PacketBuf, PacketIo};
use crate::stage::fast::Quick;
use crate::units::NextHopId;

/// A set of lanes, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lanes(pub u64);

impl Lanes {
    /// The lanes `0..n`.
    #[inline(always)]
    pub fn first(n: usize) -> Self {
        Self(if n >= 64 { u64::MAX } else { (1 << n) - 1 })
    }
    /// Adds a lane.
    #[inline(always)]
    pub fn insert(&mut self, lane: usize) {
        self.0 |= 1 << (lane & 63);
    }
    /// Whether the lane is one of them.
    #[inline(always)]
    pub fn has(self, lane: usize) -> bool {
        self.0 >> (lane & 63) & 1 != 0
    }
    /// Whether there is none.
    #[inline(always)]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl Iterator for Lanes {
    type Item = usize;
    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let lane = self.0.trailing_zeros() as usize & 63;
        self.0 &= self.0 - 1;
        Some(lane)
    }
}

const _: () = assert!(BURST == 64);

/// Which side of a flow a packet comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Direction {
    /// From a client to a VIP.
    #[default]
    Request,
    /// From a real server, possibly a reply of a NAT flow.
    Reply,
}

/// Bits of [`Lane::tcp_flags`], RFC 9293 section 3.1.
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// The acknowledgement field counts.
    pub const ACK: u8 = 0x10;
}

/// What parse and classify found out about one packet.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Lane {
    /// For a request the flow's key. For a reply `vip` and `vport` hold the real
    /// server's address and port (the packet's source).
    pub key: FlowKey,
    /// Hash of the client's side.
    pub hash: FlowHash,
    /// The flow, once found.
    pub flow: FlowId,
    /// Where the frame goes.
    pub next_hop: NextHopId,
    /// Offset of the transport header from the start of the frame, bytes.
    pub l4: u16,
    /// Length of the IP packet, bytes.
    pub ip_len: u16,
    /// TCP's flags; 0 for other protocols.
    pub tcp_flags: u8,
    /// Offset of the IP header from the start of the frame, bytes.
    pub l2: u8,
    /// IPv4, else IPv6.
    pub v4: bool,
    /// Which side it comes from.
    pub direction: Direction,
    /// A fragment without a transport header: its ports come from the first one.
    pub later_fragment: bool,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            key: FlowKey::default(),
            hash: FlowHash(0),
            flow: FlowId::NONE,
            next_hop: NextHopId::NONE,
            l4: 0,
            ip_len: 0,
            tcp_flags: 0,
            l2: 14,
            v4: true,
            direction: Direction::Request,
            later_fragment: false,
        }
    }
}

/// Each lane's number.
const NUMBERS: [u8; BURST] = {
    let (mut numbers, mut i) = ([0; BURST], 0);
    while i < BURST {
        numbers[i] = i as u8;
        i += 1;
    }
    numbers
};

/// The packets of one receive call.
pub struct Burst<B> {
    /// How many lanes are used.
    pub n: usize,
    /// The packets. `None` once a packet has left.
    pub bufs: [Option<B>; BURST],
    /// What the fast stage knows of them.
    pub quick: [Quick; BURST],
    /// What is known of them.
    pub lanes: [Lane; BURST],
    /// Lanes on the straight way.
    pub ready: Lanes,
    /// Lanes that need a look of their own.
    pub slow: Lanes,
    /// Lanes without a flow.
    pub missed: Lanes,
    /// Lanes that are rewritten already (one-packet scheduling).
    pub finished: Lanes,
    /// Where packets are handed to their owners: the lane that each came in.
    pub came: [u8; BURST],
    /// Lanes that the fast stage has handed over, and that no other has moved up to.
    pub gone: Lanes,
    /// The length of the frames that it has handed over, bytes.
    pub away: u64,
}

impl<B: PacketBuf> Burst<B> {
    /// An empty burst.
    pub fn new() -> Self {
        Self {
            n: 0,
            bufs: [const { None }; BURST],
            quick: [Quick::default(); BURST],
            lanes: [Lane::default(); BURST],
            ready: Lanes(0),
            slow: Lanes(0),
            missed: Lanes(0),
            finished: Lanes(0),
            came: NUMBERS,
            gone: Lanes(0),
            away: 0,
        }
    }

    /// Begins with a burst whose packets may have to be handed over.
    #[inline(always)]
    pub fn number(&mut self) {
        (self.came, self.gone, self.away) = (NUMBERS, Lanes(0), 0);
    }

    /// The length of all frames, bytes.
    #[inline(always)]
    pub fn bytes(&self) -> u64 {
        self.bufs[..self.n.min(BURST)].iter().flatten().map(|b| b.total_len() as u64).sum()
    }

    /// The lanes of frames whose 802.1Q tag the device took out.
    #[cold]
    pub fn tagged(&self) -> Lanes {
        let mut out = Lanes(0);
        for (i, buf) in self.bufs[..self.n.min(BURST)].iter().enumerate() {
            if buf.as_ref().is_some_and(|b| b.rx_info().vlan_tci.is_some()) {
                out.insert(i);
            }
        }
        out
    }

    /// Ends a lane: frees the packet and counts why.
    #[inline]
    pub fn drop_lane<I: PacketIo<Buf = B>>(
        &mut self,
        lane: usize,
        why: DropReason,
        io: &mut I,
        counters: &CoreCounters,
    ) {
        counters.drop(why).add(1);
        if let Some(buf) = self.bufs[lane & (BURST - 1)].take() {
            io.free(buf);
        }
    }
}

impl<B: PacketBuf> Default for Burst<B> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_iterate_in_order_and_take_all_64() {
        let mut l = Lanes(0);
        for lane in [3, 0, 63] {
            l.insert(lane);
        }
        assert_eq!(l.collect::<Vec<_>>(), [0, 3, 63]);
        assert_eq!(Lanes::first(64).count(), 64);
        assert_eq!(Lanes::first(5).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_lane_is_one_cache_line() {
        assert_eq!(size_of::<Lane>(), 128);
    }
}
