//! The parse stage alone: what it takes for an ordinary packet must be one by a second,
//! slow and literal reading of the RFCs, and the offsets it reports must be the right ones.
#![no_main]

use dataplane::burst::{Burst, Lanes};
use dataplane::io::memory::{MemBuf, MemoryIo, Wire};
use dataplane::io::{BURST, PacketIo};
use dataplane::stage::parse::parse;
use dataplane::units::PortId;
use libfuzzer_sys::fuzz_target;
use pollux_tests::story::bytes::Bytes;
use pollux_tests::story::check::ones_sum;
use pollux_tests::story::frames::Step;
use pollux_tests::story::world::PORT_MACS;

fuzz_target!(|data: &[u8]| {
    let wire = Wire::new(2, 1);
    let mut io = MemoryIo::new(&wire, 0);
    let mut frames = Vec::new();
    let mut bytes = Bytes(data);
    while let Some(step) = bytes.step() {
        if let Step::Frame { bytes, cut, .. } = step
            && frames.len() < BURST
        {
            wire.push_chained(0, 0, &bytes, if cut == 0 { bytes.len() } else { cut });
            frames.push((bytes, cut));
        }
    }
    let mut burst = Burst::<MemBuf>::new();
    burst.n = io.rx(PortId(0), &mut burst.bufs);
    assert_eq!(burst.n, frames.len());
    let [a, b, c, d, e, f] = PORT_MACS[0];
    let all = Lanes::first(burst.n);
    parse(&mut burst, all, u64::from_le_bytes([a, b, c, d, e, f, 0, 0]));

    let (mut ready, mut slow) = (burst.ready, burst.slow);
    let (ready, slow): (Vec<_>, Vec<_>) = (ready.by_ref().collect(), slow.by_ref().collect());
    assert_eq!(ready.len() + slow.len(), frames.len(), "a lane was forgotten");
    for lane in ready {
        let seen = &burst.lanes[lane];
        let ip_len = usize::from(seen.ip_len);
        let (l4, proto, first) = ordinary(&frames[lane].0).unwrap_or_else(|why| panic!("{why}: {:02x?}", frames[lane]));
        assert_eq!((usize::from(seen.l4), usize::from(seen.l2)), (l4, 14), "{:02x?}", frames[lane]);
        assert_eq!(seen.key.client_port.0, first[..2], "{:02x?}", frames[lane]);
        assert_eq!(seen.key.vport.0, first[2..4], "{:02x?}", frames[lane]);
        assert!(14 + ip_len <= frames[lane].0.len(), "{:02x?}", frames[lane]);
        if proto == 6 {
            assert_eq!(seen.tcp_flags & 0x17, first[13] & 0x17, "{:02x?}", frames[lane]);
        }
    }
    for buf in burst.bufs.iter_mut().filter_map(Option::take) {
        io.free(buf);
    }
    assert_eq!(wire.live(), 0);
});

/// Offset of the transport header, protocol, and the transport header's bytes, of a
/// packet that is whole, well-formed and without options; else what is wrong with it.
fn ordinary(frame: &[u8]) -> Result<(usize, u8, &[u8]), &'static str> {
    if frame.len() < 14 + 20 || frame[..6] != PORT_MACS[0] {
        return Err("short, or for another station");
    }
    let ip = &frame[14..];
    let (l3, proto, packet) = match (frame[12], frame[13]) {
        (8, 0) => {
            let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
            if ip[0] != 0x45 || total > ip.len() || total < 20 {
                return Err("IPv4 lengths");
            }
            if u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0 {
                return Err("a fragment");
            }
            if ones_sum(&[&ip[..20]]) != 0xffff {
                return Err("header checksum");
            }
            if ip[12] == 0 || ip[12] == 127 || ip[12] >= 224 {
                return Err("martian source");
            }
            (20, ip[9], &ip[..total])
        }
        (0x86, 0xdd) if ip.len() >= 40 && ip[0] >> 4 == 6 => {
            let payload = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
            if 40 + payload > ip.len() {
                return Err("IPv6 payload length");
            }
            if ip[8] == 0xff {
                return Err("multicast source");
            }
            (40, ip[6], &ip[..40 + payload])
        }
        _ => return Err("no IP"),
    };
    let least = match proto {
        6 => 20,
        17 => 8,
        132 => 8,
        _ => return Err("another protocol"),
    };
    let l4 = packet.get(l3..).filter(|l4| l4.len() >= least).ok_or("short transport header")?;
    Ok((14 + l3, proto, l4))
}
