use super::*;
use crate::io::Csum;
use crate::units::Ip;
use crate::wire::{checksum, ethernet, ipv4, ipv6, udp, vlan};

type Slots = [Option<MemBuf>; BURST];

fn none() -> Slots {
    [const { None }; BURST]
}

fn received(io: &mut MemoryIo, port: u16) -> (usize, Slots) {
    let mut out = none();
    let n = io.rx(PortId(port), &mut out);
    assert!(out.iter().enumerate().all(|(i, b)| b.is_some() == (i < n)), "filled from the front");
    (n, out)
}

#[test]
fn frames_come_in_order_to_the_queue_they_were_put_on() {
    let wire = Wire::new(2, 2);
    let (mut a, mut b) = (MemoryIo::new(&wire, 0), MemoryIo::new(&wire, 1));
    for n in 0..70 {
        wire.push(1, 0, &[n; 60]);
    }
    wire.push(1, 1, &[99; 60]);
    wire.push(1, 2, &[0; 60]);
    assert_eq!(received(&mut a, 0).0, 0);
    let (n, mut bufs) = received(&mut a, 1);
    assert_eq!(n, BURST);
    for (i, buf) in bufs.iter().flatten().enumerate() {
        assert_eq!((buf.data()[59], buf.ingress(), buf.mark()), (i as u8, PortId(1), 0));
    }
    assert_eq!(a.tx(PortId(0), &mut bufs, n), n);
    assert!(bufs.iter().all(Option::is_none));
    assert_eq!(wire.sent(0).iter().map(|f| f[0]).collect::<Vec<_>>(), (0..64).collect::<Vec<_>>());
    assert!(wire.sent(0).is_empty() && wire.sent(1).is_empty());
    assert_eq!((wire.waiting(1, 0), wire.waiting(1, 1)), (6, 1));
    let (n, bufs) = received(&mut b, 1);
    assert_eq!((n, bufs[0].as_ref().unwrap().data()[0]), (1, 99));
    bufs.into_iter().flatten().for_each(|buf| b.free(buf));
    assert_eq!(wire.live(), 0);
}

#[test]
fn a_packet_travels_between_workers_and_a_lost_one_is_noticed() {
    let wire = Wire::new(1, 1);
    wire.push(0, 0, &[1; 60]);
    wire.push(0, 0, &[2; 60]);
    let mut a = MemoryIo::new(&wire, 0);
    let (_, mut bufs) = received(&mut a, 0);
    let (first, second) = (bufs[0].take().unwrap(), bufs[1].take().unwrap());
    let mut b = MemoryIo::new(&wire, 7);
    assert!(!b.has_rx(PortId(0)) && b.has_tx(PortId(0)));
    assert_eq!(received(&mut b, 0).0, 0, "a worker without a queue");
    std::thread::spawn(move || b.tx(PortId(0), &mut [Some(first)], 1)).join().unwrap();
    assert_eq!((wire.sent(0), wire.live()), (vec![vec![1; 60]], 1));
    drop(second);
    assert_eq!(wire.live(), 1, "dropped, not given back");
}

#[test]
fn segments_are_one_packet() {
    let wire = Wire::new(1, 1);
    let frame: Vec<u8> = (0..100).collect();
    wire.push_chained(0, 0, &frame, 30);
    let mut io = MemoryIo::new(&wire, 0);
    let (_, mut bufs) = received(&mut io, 0);
    let mut buf = bufs[0].take().unwrap();
    assert!(buf.is_chained());
    assert_eq!((buf.data().len(), buf.total_len()), (30, 100));
    let mut out = [0; 50];
    assert_eq!(buf.copy_out(10, &mut out), 50);
    assert_eq!(out[..], frame[10..60]);
    assert_eq!(buf.copy_out(80, &mut out), 20);
    assert!(buf.prepend(10) && buf.extend(10) && buf.truncate(110));
    assert_eq!((buf.data().len(), buf.total_len()), (40, 110));
    assert!(buf.trim_front(10) && !buf.trim_front(31));
    let copy = io.copy(&buf).unwrap();
    assert!(copy.is_chained());
    io.free(copy);
    let mut short = io.copy(&buf).unwrap();
    assert!(short.truncate(30) && !short.is_chained());
    io.free(short);
    io.tx(PortId(0), &mut [Some(buf)], 1);
    assert_eq!((wire.sent(0), wire.live()), (vec![frame], 0));
}

#[test]
fn a_dry_pool_leaves_the_frames_waiting() {
    let wire = Wire::new(1, 1);
    (0..3).for_each(|n| wire.push(0, 0, &[n; 60]));
    let mut io = MemoryIo::new(&wire, 0);
    io.pool_left = 2;
    let (n, bufs) = received(&mut io, 0);
    assert_eq!((n, wire.waiting(0, 0)), (2, 1));
    assert!(io.alloc(60).is_none());
    let mut held = bufs.into_iter().flatten();
    let one = held.next().unwrap();
    assert!(io.copy(&one).is_none());
    io.free(one);
    assert_eq!(received(&mut io, 0).1[0].as_ref().unwrap().data()[0], 2);
    assert_eq!(wire.live(), 2);
}

#[test]
fn a_replay_recycles_its_buffers() {
    let wire = Wire::new(1, 1);
    let mut io = MemoryIo::new(&wire, 0);
    io.replay(vec![vec![1; 60], vec![2; 90], vec![3; 60]], 8);
    let mut seen = std::collections::HashSet::new();
    let mut frames = Vec::new();
    for _ in 0..100 {
        let (n, mut bufs) = received(&mut io, 0);
        assert_eq!((n, wire.live()), (8, 8));
        for buf in bufs.iter_mut().flatten() {
            seen.insert(buf.data().as_ptr());
            frames.push((buf.data()[0], buf.data().len()));
            // What the last life left behind must not show.
            buf.set_mark(9);
            buf.prepend(20);
        }
        assert_eq!(io.tx(PortId(0), &mut bufs, n), n);
    }
    assert_eq!(frames[..4], [(1, 60), (2, 90), (3, 60), (1, 60)]);
    // A buffer grows once, from the short frames to the long one.
    assert!(seen.len() <= 16, "{} places in memory for 800 packets", seen.len());
    assert_eq!((wire.swallowed(), wire.live(), wire.sent(0).len()), (800, 0, 0));
}

#[test]
fn what_the_device_saw_comes_with_the_packet() {
    let wire = Wire::new(1, 1);
    let rx = RxInfo { l3: Csum::Good, l4: Csum::Bad, vlan_tci: Some(7) };
    wire.push_seen(0, 0, &[0; 60], rx);
    wire.push(0, 0, &[0; 60]);
    let mut io = MemoryIo::new(&wire, 0);
    let (_, bufs) = received(&mut io, 0);
    let seen: Vec<RxInfo> = bufs.iter().flatten().map(PacketBuf::rx_info).collect();
    assert_eq!(seen, [rx, RxInfo::default()]);
}

/// A datagram whose checksums are left to the device, padded to the shortest frame.
fn unsummed(v4: bool) -> (Vec<u8>, TxOffload) {
    let (src, dst) = (Ip::from_v4([10, 0, 0, 1]), Ip::from_v4([10, 0, 0, 2]));
    let l3 = if v4 { ipv4::LEN } else { ipv6::LEN };
    let mut f = vec![0; 14 + l3 + 8 + 5];
    let pseudo = if v4 {
        let fields = ipv4::Fields { tos: 0, id: 1, df: false, ttl: 9, protocol: 17, src, dst };
        ipv4::write(&mut f[14..], &fields, 13).unwrap();
        f[24..26].fill(0xee);
        checksum::pseudo4(&f[26..34], 13, 17)
    } else {
        let fields = ipv6::Fields { class: 0, label: 0, hop_limit: 9, protocol: 17, src, dst };
        ipv6::write(&mut f[14..], &fields, 13).unwrap();
        checksum::pseudo6(&f[22..54], 13, 17)
    };
    f[12..14].copy_from_slice(&if v4 { ethernet::IPV4 } else { ethernet::IPV6 }.to_be_bytes());
    udp::write(&mut f[14 + l3..], 1, 2, 5).unwrap();
    f[14 + l3 + 6..14 + l3 + 8].copy_from_slice(&pseudo.to_ne_bytes());
    f[14 + l3 + 8..].copy_from_slice(b"hello");
    f.resize(f.len() + 3, 0x55);
    let asked = TxOffload { l2_len: 14, l3_len: l3 as u16, ip_csum: v4, l4_csum: Some(17), ipv4: v4 };
    (f, asked)
}

#[test]
fn what_was_asked_of_the_device_is_done() {
    for v4 in [true, false] {
        let (frame, asked) = unsummed(v4);
        let sent = device::send(frame.clone(), asked, Some(0x2003));
        let l2 = vlan::parse(&sent).unwrap();
        assert_eq!((l2.tci, l2.len, sent.len()), (Some(0x2003), 18, frame.len() + 4));
        let packet = &sent[18..];
        let (pseudo, l3) = if v4 {
            ipv4::Header::new_checked(packet, packet.len()).unwrap();
            (checksum::pseudo4(&packet[12..20], 13, 17), 20)
        } else {
            (checksum::pseudo6(&packet[8..40], 13, 17), 40)
        };
        assert_eq!(checksum::add(pseudo, checksum::sum(&packet[l3..l3 + 13])), 0xffff);
        assert_eq!(sent[sent.len() - 3..], [0x55; 3]);
        assert_eq!(device::send(frame.clone(), TxOffload::default(), None), frame);
    }
    // Nothing to sum, nothing done, nothing breaks.
    for len in 0..60 {
        let (frame, asked) = unsummed(true);
        device::send(frame[..len.min(frame.len())].to_vec(), asked, Some(0x2003));
    }
}
