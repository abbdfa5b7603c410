//! Bursts and packets: the contract, segments, pools.

use dataplane::io::contract::packet_buf_contract;
use dataplane::io::dpdk::{Mempool, MempoolOptions};
use dataplane::io::{BURST, PacketBuf, PacketIo};
use dataplane::units::PortId;
use std::sync::Arc;

use super::{free_all, io, lanes, make, read_pcap, rig, scratch, write_pcap};

#[test]
fn packets_keep_the_contract() {
    let rig = rig();
    let pool = rig.pool("contract");
    let port = rig.port(0, "net_null_contract", &pool);
    let before = pool.in_use();
    let mut io = io(&[port], &pool);
    packet_buf_contract(&mut io);
    io.release();
    assert_eq!(pool.in_use(), before, "the contract's packets are all back");
}

#[test]
fn null_ports_receive_and_send_without_a_leak() {
    let rig = rig();
    let pool = rig.pool("null");
    let port = rig.port(0, "net_null0,size=60", &pool);
    let before = pool.in_use();
    {
        let mut io = io(&[Arc::clone(&port)], &pool);
        for _ in 0..1000 {
            let mut burst = lanes();
            let n = io.rx(PortId(0), &mut burst);
            assert_eq!(n, BURST);
            assert!(burst.iter().all(Option::is_some));
            let buf = burst[0].as_ref().unwrap();
            assert_eq!((buf.data().len(), buf.ingress(), buf.mark()), (60, PortId(0), 0));
            // Half is sent, half freed by hand.
            assert_eq!(io.tx(PortId(0), &mut burst[..32], 32), 32);
            assert!(burst[..32].iter().all(Option::is_none));
            free_all(&mut io, &mut burst);
        }
    }
    assert_eq!(pool.in_use(), before);
    let stats = port.stats();
    assert_eq!((stats.rx_packets, stats.tx_packets), (64_000, 32_000));
}

#[test]
fn a_burst_with_gaps_is_sent_without_them() {
    let rig = rig();
    let pool = rig.pool("gaps");
    let port = rig.port(0, "net_ring_gaps", &pool);
    let mut io = io(&[port], &pool);
    let mut burst = make(&mut io, 8, 60, 1);
    for gap in [0, 3, 7] {
        let buf = burst[gap].take().unwrap();
        io.free(buf);
    }
    assert_eq!(io.tx(PortId(0), &mut burst, 8), 5);
    let mut back = lanes();
    assert_eq!(io.rx(PortId(0), &mut back), 5);
    let first: Vec<u8> = back.iter().flatten().map(|b| b.data()[0]).collect();
    assert_eq!(first, [1, 2, 4, 5, 6]);
    free_all(&mut io, &mut back);
    io.release();
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_ring_gives_back_what_was_sent_as_if_it_had_just_arrived() {
    let rig = rig();
    let pool = rig.pool("ring");
    // The index differs from DPDK's number of the port: the null port comes first there.
    let null = rig.port(1, "net_null_ring", &pool);
    let ring = rig.port(0, "net_ring0", &pool);
    assert_ne!(ring.info().dpdk_port, 0);
    let mut io = io(&[ring, null], &pool);
    let mut burst = make(&mut io, BURST, 100, 0x5a);
    for buf in burst.iter_mut().flatten() {
        buf.set_mark(9);
        buf.set_ingress(PortId(1));
    }
    assert_eq!(io.tx(PortId(0), &mut burst, BURST), BURST);
    let mut back = lanes();
    assert_eq!(io.rx(PortId(0), &mut back), BURST);
    for (i, buf) in back.iter().flatten().enumerate() {
        assert_eq!((buf.data()[0], buf.data()[1], buf.total_len()), (i as u8, 0x5a, 100));
        assert_eq!((buf.mark(), buf.ingress()), (0, PortId(0)));
    }
    // A null port's packets arrive on index 1.
    let mut from_null = lanes();
    assert_eq!(io.rx(PortId(1), &mut from_null), BURST);
    assert!(from_null.iter().flatten().all(|b| b.ingress() == PortId(1)));
    free_all(&mut io, &mut back);
    free_all(&mut io, &mut from_null);
}

#[test]
fn what_the_device_does_not_take_is_freed() {
    let rig = rig();
    let pool = rig.pool("full");
    let ring = rig.port(0, "net_ring_full", &pool);
    let mut io = io(&[ring], &pool);
    // Rings of this device hold 1,024 packets less one.
    let mut taken = 0;
    for _ in 0..20 {
        let mut burst = make(&mut io, BURST, 60, 0);
        taken += io.tx(PortId(0), &mut burst, BURST);
        assert!(burst.iter().all(Option::is_none));
    }
    assert!((1000..1280).contains(&taken), "the ring is full at {taken}");
    io.release();
    assert_eq!(pool.in_use() as usize, taken, "the others are back in the pool");
    let mut burst = lanes();
    while io.rx(PortId(0), &mut burst) != 0 {
        free_all(&mut io, &mut burst);
    }
    io.release();
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn captures_go_in_and_come_out() {
    let rig = rig();
    let pool = rig.pool("pcap");
    let (input, output) = (scratch("in.pcap"), scratch("out.pcap"));
    let frames: Vec<Vec<u8>> = (0..100u8).map(|i| (0..60 + i).map(|b| b ^ i).collect()).collect();
    write_pcap(&input, &frames);
    let device = format!("net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display());
    let port = rig.port(0, &device, &pool);
    let mut seen = 0;
    {
        let mut io = io(&[port], &pool);
        let mut burst = lanes();
        loop {
            let n = io.rx(PortId(0), &mut burst);
            if n == 0 {
                break;
            }
            for buf in burst.iter_mut().flatten() {
                assert_eq!(buf.data(), frames[seen]);
                buf.data_mut()[0] = 0xff;
                seen += 1;
            }
            assert_eq!(io.tx(PortId(0), &mut burst, n), n);
        }
    }
    // The file is complete when the port is closed, as it was with the last handle.
    assert_eq!(seen, frames.len());
    let sent = read_pcap(&output);
    assert_eq!(sent.len(), frames.len());
    for (sent, frame) in sent.iter().zip(&frames) {
        assert_eq!((sent[0], &sent[1..]), (0xff, &frame[1..]));
    }
    let _ = (std::fs::remove_file(input), std::fs::remove_file(output));
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_long_frame_arrives_in_segments() {
    let rig = rig();
    let pool = Mempool::new(&rig.eal, &MempoolOptions { data_room: 128 + 256, ..MempoolOptions::new("small", 1023) });
    let pool = pool.unwrap();
    let input = scratch("long.pcap");
    let frame: Vec<u8> = (0..1400u32).map(|i| (i % 251) as u8).collect();
    write_pcap(&input, std::slice::from_ref(&frame));
    let port = rig.port(0, &format!("net_pcap_long,rx_pcap={}", input.display()), &pool);
    assert!(port.info().notes.iter().any(|n| n.contains("256 bytes")), "{:?}", port.info().notes);
    let mut io = io(&[port], &pool);
    let mut burst = lanes();
    assert_eq!(io.rx(PortId(0), &mut burst), 1);
    let mut buf = burst[0].take().unwrap();
    assert!(buf.is_chained());
    assert_eq!((buf.total_len(), buf.data().len()), (1400, 256));
    let mut bytes = vec![0; 1500];
    assert_eq!(buf.copy_out(0, &mut bytes), 1400);
    assert_eq!(bytes[..1400], frame);
    assert_eq!(buf.copy_out(250, &mut bytes[..20]), 20, "across the border of two segments");
    assert_eq!(bytes[..20], frame[250..270]);

    let copy = io.copy(&buf).unwrap();
    assert_eq!(copy.total_len(), 1400);
    io.free(copy);

    // Both ends of a chain.
    assert!(buf.prepend(20));
    assert!(buf.trim_front(20));
    assert!(!buf.trim_front(257), "longer than the first segment");
    // The driver leaves no headroom in further segments: 1400 = 256 + 384 + 384 + 376.
    assert!(!buf.extend(9), "the last segment has room for eight bytes");
    assert!(buf.extend(8));
    assert_eq!(buf.total_len(), 1408);
    assert!(buf.truncate(1400));
    assert!(buf.truncate(300), "in the second segment");
    assert_eq!((buf.total_len(), buf.is_chained()), (300, true));
    assert_eq!(buf.copy_out(0, &mut bytes), 300);
    assert!(buf.truncate(256), "exactly the first");
    assert!(!buf.is_chained());
    assert_eq!(buf.data(), &frame[..256]);
    io.free(buf);
    io.release();
    assert_eq!(pool.in_use(), 0, "cut segments are back");
    let _ = std::fs::remove_file(input);
}

#[test]
fn packets_of_two_pools_find_home() {
    let rig = rig();
    let (own, other) = (rig.pool("own"), rig.pool("foreign"));
    let port = rig.port(0, "net_null_home", &other);
    let mut io = io(&[port], &own);
    let mut foreign = lanes();
    assert_eq!(io.rx(PortId(0), &mut foreign), BURST);
    for mut buf in foreign.into_iter().flatten() {
        let mine = io.alloc(60).unwrap();
        io.free(mine);
        assert!(buf.trim_front(1));
        io.free(buf);
    }
    io.release();
    assert_eq!((own.in_use(), other.in_use()), (0, 0));
}

#[test]
fn an_empty_pool_yields_no_packet_and_no_crash() {
    let rig = rig();
    let pool = Mempool::new(&rig.eal, &MempoolOptions { cache: 0, ..MempoolOptions::new("tiny", 63) }).unwrap();
    let other = rig.pool("other");
    let port = rig.port(0, "net_null_tiny", &other);
    let mut io = io(&[port], &pool);
    let mut held = Vec::new();
    while let Some(buf) = io.alloc(60) {
        held.push(buf);
    }
    assert_eq!(held.len(), 63, "the last odd packets are had as well");
    assert!(io.copy(&held[0]).is_none());
    for buf in held {
        io.free(buf);
    }
    let again = io.alloc(60).expect("freed packets are found again");
    io.free(again);
    io.release();
    assert_eq!(pool.in_use(), 0);
}
