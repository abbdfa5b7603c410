//! Instructions per packet, counted by callgrind on ports in memory: `scripts/bench.sh
//! --instructions` runs it twice with different numbers of polls and takes the difference.
//!
//! `instructions MODE FLOWS POLLS`, MODE being `nat`, `dr`, `ipip`, `nat6` and `dr6` (over
//! IPv6), `back` and `back6` (the replies of NAT), or `empty` (the ports alone), with `-miss` behind for packets that open a flow each.

use std::net::IpAddr;
use std::sync::Arc;

use dataplane::flow::hash::Secret;
use dataplane::flow::record::FlowRecord;
use dataplane::flow::table::{FlowId, FlowTable};
use dataplane::io::memory::{MemoryIo, Wire};
use dataplane::io::{BURST, PacketBuf, PacketIo};
use dataplane::link::WorkerLink;
use dataplane::sched::{SchedCore, SchedulerKind};
use dataplane::snapshot::*;
use dataplane::units::*;
use dataplane::wire::{checksum, reply};
use dataplane::worker::{Relays, Rings, Setup, Worker};

const MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const VIP6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

fn ip(s: &str) -> Ip {
    s.parse::<IpAddr>().expect("address").into()
}

/// A 54-byte TCP segment of client `n`.
fn frame(n: u32, flags: u8) -> Vec<u8> {
    let mut f = vec![0; 54];
    f[..6].copy_from_slice(&MAC);
    f[12..14].copy_from_slice(&[8, 0]);
    f[14..24].copy_from_slice(&[0x45, 0, 0, 40, 0, 7, 0, 0, 64, 6]);
    f[26..30].copy_from_slice(&(0x0a01_0000 + n / 16).to_be_bytes());
    f[30..34].copy_from_slice(&[10, 9, 0, 1]);
    f[34..38].copy_from_slice(&[4, (n % 16) as u8, 0, 80]);
    f[46..48].copy_from_slice(&[0x50, flags]);
    seal(&mut f);
    f
}

/// Both checksums.
fn seal(f: &mut [u8]) {
    f[24..26].fill(0);
    f[50..52].fill(0);
    let sum = !checksum::sum(&f[14..34]);
    f[24..26].copy_from_slice(&sum.to_ne_bytes());
    let sum = !checksum::add(reply::pseudo4(&f[26..34], 20, 6), checksum::sum(&f[34..54]));
    f[50..52].copy_from_slice(&sum.to_ne_bytes());
}

/// The same over IPv6: 74 bytes.
fn frame6(n: u32, flags: u8) -> Vec<u8> {
    let four = frame(n, flags);
    let mut f = vec![0; 74];
    f[..6].copy_from_slice(&MAC);
    f[12..22].copy_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
    f[22..28].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8, 0, 1]);
    f[34..38].copy_from_slice(&four[26..30]);
    f[38..54].copy_from_slice(&VIP6);
    f[54..].copy_from_slice(&four[34..]);
    seal6(&mut f);
    f
}

/// TCP's checksum over IPv6.
fn seal6(f: &mut [u8]) {
    f[70..72].fill(0);
    let sum = !checksum::add(checksum::pseudo6(&f[22..54], 20, 6), checksum::sum(&f[54..]));
    f[70..72].copy_from_slice(&sum.to_ne_bytes());
}

fn spec(mode: ForwardingMode, six: bool) -> Spec {
    let vip = if six { Ip(VIP6) } else { ip("10.9.0.1") };
    let own = if six { (ip("2001:db8:2::fe"), 64) } else { (ip("10.2.0.254"), 24) };
    let mut spec = Spec {
        generation: 1,
        interfaces: vec![InterfaceSpec { port: PortId(0), vlan: None, mac: Mac(MAC), mtu: 1500, addresses: vec![own] }],
        vips: vec![(vip, if six { 128 } else { 32 })],
        ..Spec::default()
    };
    spec.settings.sloppy_tcp = true;
    // Towards the clients.
    let (gateway, mac) = (NextHopId(9), Some(Mac([2, 0, 0, 0, 2, 9])));
    let router = if six { ip("2001:db8:2::1") } else { ip("10.2.0.1") };
    spec.next_hops.push(NextHopSpec { id: gateway, iface: IfaceId(0), ip: router, mac });
    let network = if six { Ip::UNSPECIFIED } else { ip("0.0.0.0") };
    spec.routes.push(RouteSpec { network, prefix_len: 0, gateway });
    for n in 0..4u8 {
        let addr = if six { ip(&format!("2001:db8:2::{}", 11 + n)) } else { Ip::from_v4([10, 2, 0, 11 + n]) };
        let id = u32::from(n);
        spec.next_hops.push(NextHopSpec {
            id: NextHopId(id),
            iface: IfaceId(0),
            ip: addr,
            mac: Some(Mac([2, 0, 0, 0, 2, n])),
        });
        spec.reals.push(RealSpec {
            id: RealId(id),
            service: ServiceId(0),
            addr,
            port: if mode == ForwardingMode::Nat { 8080 } else { 80 },
            mode,
            tunnel: Tunnel::Ipip,
            weight: 1,
            last_weight: 1,
            upper: 0,
            lower: 0,
            next_hop: NextHopId(id),
            source: own.0,
            path_mtu: 0,
            available: true,
            predecessor: RealId::NONE,
        });
    }
    spec.services.push(ServiceSpec {
        id: ServiceId(0),
        matches: Match::Address { protocol: 6, vip, port: 80 },
        scheduler: SchedulerKind::Wlc,
        sched_flags: 0,
        persistence: None,
        one_packet: false,
        extras: Default::default(),
        reals: (0..4).map(RealId).collect(),
    });
    spec
}

fn worker(spec: &Spec, capacity: u32, frames: Vec<Vec<u8>>) -> Worker<MemoryIo> {
    let wire = Wire::new(1, 1);
    let mut io = MemoryIo::new(&wire, 0);
    io.replay(frames, BURST);
    let link = WorkerLink::new(16, 1);
    link.publish(Arc::new(Snapshot::compile(spec)));
    Worker::new(Setup {
        id: WorkerId(0),
        io,
        flows: FlowTable::new(capacity, Secret::fixed()).expect("memory"),
        sched: SchedCore::new(16, 16),
        secret: Secret::fixed(),
        links: vec![link],
        rings: Rings::mesh(1).remove(0),
        relays: Relays::default(),
        software_steering: false,
    })
}

/// The replies of a worker's NAT flows, as their real servers send them.
fn replies(w: &mut Worker<MemoryIo>, flows: u32, six: bool) -> Vec<Vec<u8>> {
    let records: Vec<FlowRecord> = (0..flows).filter_map(|i| w.core().flows.try_get_mut(FlowId(i)).copied()).collect();
    let s = w.snapshot().clone();
    let to_frame = |r: FlowRecord| {
        let real = s.real(r.real).map_or(Ip::UNSPECIFIED, |r| r.addr);
        let mut f = if six { frame6(0, 16) } else { frame(0, 16) };
        let l4 = f.len() - 20;
        if six {
            f[22..38].copy_from_slice(&real.0);
            f[38..54].copy_from_slice(&r.client.0);
        } else {
            f[26..30].copy_from_slice(&real.v4_bytes());
            f[30..34].copy_from_slice(&r.client.v4_bytes());
        }
        f[l4..l4 + 2].copy_from_slice(&r.rport.0);
        f[l4 + 2..l4 + 4].copy_from_slice(&r.client_port.0);
        if six {
            seal6(&mut f)
        } else {
            seal(&mut f)
        }
        f
    };
    records.into_iter().map(to_frame).collect()
}

/// What the ports alone cost: receive, and send what was received.
fn empty(frames: Vec<Vec<u8>>, polls: u32) {
    let wire = Wire::new(1, 1);
    let mut io = MemoryIo::new(&wire, 0);
    io.replay(frames, BURST);
    let mut bufs = [const { None }; BURST];
    let mut bytes = 0;
    for _ in 0..polls {
        let n = io.rx(PortId(0), &mut bufs);
        bytes += bufs.iter().flatten().map(PacketBuf::total_len).sum::<usize>();
        io.tx(PortId(0), &mut bufs, n);
    }
    println!("{} packets {bytes} bytes", wire.swallowed());
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [mode, flows, polls] = &args[..] else {
        println!("usage: instructions nat|dr|ipip|nat6|dr6|back|back6|empty[-miss] FLOWS POLLS");
        return;
    };
    let (flows, polls): (u32, u32) = (flows.parse().expect("flows"), polls.parse().expect("polls"));
    let (mode, miss) = mode.strip_suffix("-miss").map_or((mode.as_str(), false), |m| (m, true));
    let n = if miss { polls * BURST as u32 } else { flows };
    let (mode, six) = mode.strip_suffix('6').map_or((mode, false), |m| (m, true));
    let make = if six { frame6 } else { frame };
    let frames: Vec<_> = (0..n.max(flows)).map(|n| make(n, if miss { 2 } else { 16 })).collect();
    let back = mode == "back";
    let mode = match mode {
        "back" => ForwardingMode::Nat,
        "dr" => ForwardingMode::DirectRouting,
        "ipip" => ForwardingMode::Tunnel,
        "nat" => ForwardingMode::Nat,
        _ => return empty(frames, polls),
    };
    let mut w = worker(&spec(mode, six), n.max(flows) * 2, frames);
    if back {
        for _ in 0..flows.div_ceil(BURST as u32) {
            w.poll(Tick(1));
        }
        let frames = replies(&mut w, flows * 2, six);
        assert_eq!(frames.len(), flows as usize, "every flow has replies");
        w.io().replay(frames, BURST);
    }
    for _ in 0..polls {
        w.poll(Tick(1));
    }
    let c = w.core().link.counters.port(PortId(0)).tx_packets.get();
    println!("{c} packets {} flows", w.core().flows.len());
}
