//! What every [`PacketIo`] and its packets must do: one test, run on each implementation.
//!
//! Panics where the contract is broken. For tests only.

use super::{Csum, PacketBuf, PacketIo, TxOffload};
use crate::units::PortId;

/// Runs the contract of packets and of the pool behind `io`, which must be able to hand
/// out eight packets of 1,000 bytes. Every packet is given back.
pub fn packet_buf_contract<I: PacketIo>(io: &mut I) {
    fresh(io);
    both_ends(io);
    refusals(io);
    offset_copies(io);
    metadata(io);
    copies(io);
    absent_ports(io);
    recycling(io);
}

/// A packet whose bytes count up from `first`.
fn counted<I: PacketIo>(io: &mut I, len: usize, first: u8) -> I::Buf {
    let mut buf = io.alloc(len).expect("the pool has packets");
    for (i, b) in buf.data_mut().iter_mut().enumerate() {
        *b = first.wrapping_add(i as u8);
    }
    buf
}

fn fresh<I: PacketIo>(io: &mut I) {
    for len in [0, 1, 60, 1000] {
        let buf = io.alloc(len).expect("the pool has packets");
        assert_eq!(buf.data().len(), len);
        assert_eq!(buf.total_len(), len);
        assert!(!buf.is_chained());
        assert_eq!(buf.mark(), 0, "a new packet carries no mark");
        assert_eq!(buf.rx_info().l3, Csum::Unknown);
        assert_eq!(buf.rx_info().vlan_tci, None);
        io.free(buf);
    }
    assert!(io.alloc(usize::MAX).is_none(), "no buffer is that long");
    assert!(io.alloc(1 << 20).is_none(), "no buffer is that long");
}

fn both_ends<I: PacketIo>(io: &mut I) {
    let mut buf = counted(io, 100, 0);
    assert!(buf.prepend(64), "the usual headroom takes an outer header");
    assert_eq!((buf.data().len(), buf.total_len()), (164, 164));
    assert_eq!(buf.data()[64], 0, "the old bytes stand behind the new ones");
    buf.data_mut()[..64].fill(0xee);
    assert!(buf.trim_front(64));
    assert_eq!(buf.data()[..3], [0, 1, 2]);
    assert!(buf.extend(28));
    assert_eq!((buf.data().len(), buf.total_len()), (128, 128));
    assert_eq!(buf.data()[99], 99, "the old bytes stand before the new ones");
    buf.data_mut()[100..].fill(7);
    assert!(buf.truncate(100));
    assert_eq!(buf.data().len(), 100);
    assert!(buf.trim_front(10));
    assert_eq!(buf.data()[0], 10);
    assert_eq!(buf.total_len(), 90);
    assert!(buf.truncate(0) && buf.data().is_empty());
    io.free(buf);
}

fn refusals<I: PacketIo>(io: &mut I) {
    let mut buf = counted(io, 50, 3);
    assert!(!buf.prepend(1 << 17), "more than any headroom");
    assert!(!buf.trim_front(51));
    assert!(!buf.truncate(51));
    assert!(!buf.extend(1 << 17), "more than any tailroom");
    assert_eq!((buf.data().len(), buf.total_len()), (50, 50), "a refusal changes nothing");
    assert!(buf.data().iter().enumerate().all(|(i, b)| usize::from(*b) == i + 3));
    // Headroom ends somewhere, and what was taken can be given back.
    let mut taken = 0;
    while buf.prepend(16) {
        taken += 16;
        assert!(taken < 1 << 16, "headroom without an end");
    }
    assert!(taken >= 64);
    assert!(buf.trim_front(taken));
    assert_eq!(buf.data()[0], 3);
    io.free(buf);
}

fn offset_copies<I: PacketIo>(io: &mut I) {
    let buf = counted(io, 40, 0);
    let mut out = [0xaa; 16];
    assert_eq!(buf.copy_out(0, &mut out), 16);
    assert_eq!(out[15], 15);
    assert_eq!(buf.copy_out(30, &mut out), 10, "only what there is");
    assert_eq!((out[0], out[9], out[10]), (30, 39, 10));
    assert_eq!(buf.copy_out(40, &mut out), 0);
    assert_eq!(buf.copy_out(4000, &mut out), 0);
    assert_eq!(buf.copy_out(0, &mut []), 0);
    io.free(buf);
}

fn metadata<I: PacketIo>(io: &mut I) {
    let mut buf = counted(io, 60, 0);
    for port in [0, 1, 31] {
        buf.set_ingress(PortId(port));
        assert_eq!(buf.ingress(), PortId(port));
    }
    for mark in [1, u64::MAX, 0x0123_4567_89ab_cdef, 0] {
        buf.set_mark(mark);
        assert_eq!(buf.mark(), mark);
    }
    buf.set_mark(5);
    let all = TxOffload { l2_len: 14, l3_len: 20, ip_csum: true, l4_csum: Some(6), ipv4: true };
    for offload in [TxOffload::default(), all, TxOffload::default()] {
        buf.set_tx_offload(offload);
        buf.set_tx_tag(7);
    }
    assert_eq!(buf.rx_info().vlan_tci, None, "a tag to be put in is not one that was taken out");
    assert_eq!((buf.mark(), buf.ingress()), (5, PortId(31)), "requests to the device change nothing else");
    assert_eq!(buf.data()[59], 59);
    io.free(buf);
}

fn copies<I: PacketIo>(io: &mut I) {
    let mut buf = counted(io, 300, 9);
    buf.set_ingress(PortId(3));
    buf.set_mark(77);
    let mut copy = io.copy(&buf).expect("the pool has packets");
    assert_eq!(copy.total_len(), 300);
    assert_eq!((copy.ingress(), copy.mark()), (PortId(3), 77));
    let mut bytes = [0; 300];
    assert_eq!(copy.copy_out(0, &mut bytes), 300);
    assert_eq!(bytes[..], buf.data()[..300]);
    copy.data_mut()[0] = 0xff;
    copy.set_mark(1);
    assert_eq!((buf.data()[0], buf.mark()), (9, 77), "the two share nothing");
    io.free(copy);
    assert_eq!(buf.data()[299], 9u8.wrapping_add(299u32 as u8), "freeing one leaves the other");
    io.free(buf);
}

fn absent_ports<I: PacketIo>(io: &mut I) {
    let absent = PortId(io.ports() as u16);
    assert!(!io.has_rx(absent) && !io.has_tx(absent));
    let mut out = [const { None }; super::BURST];
    assert_eq!(io.rx(absent, &mut out), 0);
    assert!(out.iter().all(Option::is_none));
    let mut bufs = [Some(counted(io, 60, 0)), Some(counted(io, 60, 0))];
    assert_eq!(io.tx(absent, &mut bufs, 2), 0, "no such port takes a packet");
    assert!(bufs.iter().all(Option::is_none), "they are freed all the same");
}

/// A packet that comes back from the pool is as good as new.
fn recycling<I: PacketIo>(io: &mut I) {
    for _ in 0..1000 {
        let mut buf = io.alloc(200).expect("freed packets return to the pool");
        assert_eq!(buf.mark(), 0, "the mark of a former life");
        assert_eq!(buf.rx_info(), super::RxInfo::default());
        assert!(buf.prepend(64), "the headroom is there again");
        buf.set_mark(u64::MAX);
        io.free(buf);
    }
}

#[cfg(test)]
mod tests {
    use crate::io::memory::{MemoryIo, Wire};

    #[test]
    fn ports_in_memory_keep_the_contract() {
        let wire = Wire::new(2, 1);
        super::packet_buf_contract(&mut MemoryIo::new(&wire, 0));
        assert_eq!(wire.live(), 0, "every packet is back");
    }
}
