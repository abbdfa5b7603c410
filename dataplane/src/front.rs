//! What the fast stage needs of a real server on one worker, in one cache line: how its packets
//! are sent, and the count of them.
//!
//! With many real servers each such line comes from far. The [`Forward`] of a snapshot belongs to all
//! workers and to that snapshot, the counts to one worker and to all snapshots; so the worker keeps a copy of
//! the first beside the second, and takes a fresh one when the first packet after an adoption comes.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::counters::Counter;
use crate::snapshot::Forward;
use crate::units::Ip;

/// The line. The worker writes; control reads the counts.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Front {
    /// Packets from clients.
    pub in_packets: Counter,
    /// Bytes from clients.
    pub in_bytes: Counter,
    /// Number of the adoption that the copy was taken after, 0 for none.
    adoption: Counter,
    // The copy, in pieces as they are read.
    way: AtomicU32,
    mtu: AtomicU16,
    outer_sum: AtomicU16,
    header_8: AtomicU64,
    header_4: AtomicU32,
    source: AtomicU32,
    addr_8: AtomicU64,
    addr_4: AtomicU32,
    /// Over IPv4 the address itself.
    addr_last_4: AtomicU32,
}

const _: () = assert!(size_of::<Front>() == 64);

impl Front {
    /// Whether the copy was taken after this adoption.
    #[inline(always)]
    pub fn is_of(&self, adoption: u64) -> bool {
        self.adoption.get() == adoption
    }

    /// Takes a copy.
    pub fn renew(&self, to: &Forward, adoption: u64) {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = to.header;
        let [.., m, n, o, p] = to.addr.0;
        self.way.store(to.way, Relaxed);
        self.mtu.store(to.mtu, Relaxed);
        self.outer_sum.store(to.outer_sum, Relaxed);
        self.header_8.store(u64::from_ne_bytes([a, b, c, d, e, f, g, h]), Relaxed);
        self.header_4.store(u32::from_ne_bytes([i, j, k, l]), Relaxed);
        self.source.store(u32::from_ne_bytes(to.source), Relaxed);
        self.addr_8.store(to.addr.hi(), Relaxed);
        self.addr_4.store(third(to.addr), Relaxed);
        self.addr_last_4.store(u32::from_ne_bytes([m, n, o, p]), Relaxed);
        self.adoption.set(adoption);
    }

    /// As [`Forward::way`].
    #[inline(always)]
    pub fn way(&self) -> u32 {
        self.way.load(Relaxed)
    }
    /// As [`Forward::mtu`].
    #[inline(always)]
    pub fn mtu(&self) -> u16 {
        self.mtu.load(Relaxed)
    }
    /// As [`Forward::outer_sum`].
    #[inline(always)]
    pub fn outer_sum(&self) -> u16 {
        self.outer_sum.load(Relaxed)
    }
    /// As [`Forward::header`], at the beginning of a frame.
    #[inline(always)]
    pub fn write_header<const N: usize>(&self, frame: &mut [u8; N]) {
        const { assert!(N >= 12) };
        frame[..8].copy_from_slice(&self.header_8.load(Relaxed).to_ne_bytes());
        frame[8..12].copy_from_slice(&self.header_4.load(Relaxed).to_ne_bytes());
    }
    /// As [`Forward::source`].
    #[inline(always)]
    pub fn source(&self) -> [u8; 4] {
        self.source.load(Relaxed).to_ne_bytes()
    }
    /// The four bytes of [`Forward::addr`], over IPv4.
    #[inline(always)]
    pub fn addr_v4(&self) -> [u8; 4] {
        self.addr_last_4.load(Relaxed).to_ne_bytes()
    }
    /// As [`Forward::addr`].
    #[inline(always)]
    pub fn addr(&self) -> Ip {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.addr_8.load(Relaxed).to_ne_bytes());
        out[8..12].copy_from_slice(&self.addr_4.load(Relaxed).to_ne_bytes());
        out[12..].copy_from_slice(&self.addr_last_4.load(Relaxed).to_ne_bytes());
        Ip(out)
    }
    /// Whether [`Forward::addr`] is this one.
    #[inline(always)]
    pub fn has_addr(&self, ip: Ip) -> bool {
        let low = u64::from(self.addr_4.load(Relaxed) ^ third(ip));
        let last = u64::from(self.addr_last_4.load(Relaxed) ^ u32::from_ne_bytes(ip.v4_bytes()));
        (self.addr_8.load(Relaxed) ^ ip.hi()) | low | last == 0
    }
}

/// The third of an address's four words.
#[inline(always)]
fn third(ip: Ip) -> u32 {
    u32::from_ne_bytes([ip.0[8], ip.0[9], ip.0[10], ip.0[11]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_copied_comes_out() {
        let to = Forward {
            header: std::array::from_fn(|i| i as u8 + 1),
            addr: Ip(std::array::from_fn(|i| i as u8 + 100)),
            source: [21, 22, 23, 24],
            outer_sum: 0x1234,
            mtu: 1480,
            way: 0x0102_0003,
        };
        let front = Front::default();
        front.in_bytes.add(7);
        assert!(!front.is_of(3));
        front.renew(&to, 3);
        assert!(front.is_of(3));
        assert_eq!((front.way(), front.mtu(), front.outer_sum()), (to.way, to.mtu, to.outer_sum));
        let mut frame = [0; 14];
        front.write_header(&mut frame);
        assert_eq!((&frame[..12], front.source()), (&to.header[..], to.source));
        assert_eq!((front.addr(), front.addr_v4()), (to.addr, to.addr.v4_bytes()));
        assert!(front.has_addr(to.addr));
        for i in 0..16 {
            let mut other = to.addr;
            other.0[i] ^= 1;
            assert!(!front.has_addr(other));
        }
        assert_eq!((front.in_packets.get(), front.in_bytes.get()), (0, 7));
    }
}
