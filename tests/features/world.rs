//! A world of both families: clients behind a gateway, servers on a network of their own;
//! and segments to send into it.

use std::net::IpAddr;

use dataplane::counters::DropReason;
use dataplane::sched::SchedulerKind;
use dataplane::snapshot::*;
use dataplane::units::*;
use pollux_tests::packet::fold;
use pollux_tests::rig::Rig;

/// Port 0's address.
pub const CLI: [u8; 6] = [2, 0, 0, 0, 1, 0];
/// Port 1's address.
pub const SRV: [u8; 6] = [2, 0, 0, 0, 2, 0];
/// The gateway towards the clients.
pub const GATEWAY: [u8; 6] = [2, 0, 0, 0, 3, 2];

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

pub fn ip(s: &str) -> Ip {
    s.parse::<IpAddr>().expect("address").into()
}

pub fn server_mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 2, n]
}

/// One service on 10.9.0.1:80 and one on [2001:db8:9::1]:80, each with `servers` real servers
/// 10.2.0.11… and 2001:db8:2::11… (RealId 0… and 100…).
pub fn world(mode: ForwardingMode, servers: u8) -> Spec {
    let iface = |port, mac, addrs: [(&str, u8); 2]| InterfaceSpec {
        port: PortId(port),
        vlan: None,
        mac: Mac(mac),
        mtu: 1500,
        addresses: addrs.iter().map(|(a, len)| (ip(a), *len)).collect(),
    };
    let hop = |id, iface, addr: &str, mac| NextHopSpec {
        id: NextHopId(id),
        iface: IfaceId(iface),
        ip: ip(addr),
        mac: Some(Mac(mac)),
    };
    let route = |net: &str, hop| RouteSpec { network: ip(net), prefix_len: 0, gateway: NextHopId(hop) };
    let service = |id: u32, vip: &str| ServiceSpec {
        id: ServiceId(id),
        matches: Match::Address { protocol: 6, vip: ip(vip), port: 80 },
        scheduler: SchedulerKind::Rr,
        sched_flags: 0,
        persistence: None,
        one_packet: false,
        extras: Default::default(),
        reals: (0..servers).rev().map(|n| RealId(id * 100 + u32::from(n))).collect(),
    };
    let mut spec = Spec {
        generation: 1,
        interfaces: vec![
            iface(0, CLI, [("10.3.0.1", 24), ("2001:db8:3::1", 64)]),
            iface(1, SRV, [("10.2.0.254", 24), ("2001:db8:2::fe", 64)]),
        ],
        vips: vec![(ip("10.9.0.1"), 32), (ip("2001:db8:9::1"), 128)],
        next_hops: vec![hop(0, 0, "10.3.0.2", GATEWAY), hop(1, 0, "2001:db8:3::2", GATEWAY)],
        routes: vec![route("0.0.0.0", 0), route("::", 1)],
        services: vec![service(0, "10.9.0.1"), service(1, "2001:db8:9::1")],
        ..Spec::default()
    };
    for family in 0..2u32 {
        for n in 0..servers {
            let (addr, source) = match family {
                0 => (format!("10.2.0.{}", 11 + n), "10.2.0.254"),
                _ => (format!("2001:db8:2::{}", 11 + n), "2001:db8:2::fe"),
            };
            let id = 10 + family * 100 + u32::from(n);
            spec.next_hops.push(hop(id, 1, &addr, server_mac(11 + n)));
            spec.reals.push(RealSpec {
                id: RealId(family * 100 + u32::from(n)),
                service: ServiceId(family),
                addr: ip(&addr),
                port: 8080,
                mode,
                tunnel: Tunnel::Ipip,
                weight: 1,
                last_weight: 1,
                upper: 0,
                lower: 0,
                next_hop: NextHopId(id),
                source: ip(source),
                path_mtu: 0,
                available: true,
                predecessor: RealId::NONE,
            });
        }
    }
    spec
}

/// A rig with this configuration.
pub fn rig(spec: &Spec, workers: usize) -> Rig {
    let mut rig = Rig::new(workers);
    rig.publish(spec);
    rig.run();
    rig
}

/// The drop counters that are not zero.
pub fn drops(rig: &Rig) -> Vec<(&'static str, u64)> {
    DropReason::ALL.iter().map(|r| (r.name(), rig.drops(*r))).filter(|(_, n)| *n > 0).collect()
}

/// A TCP segment or UDP datagram over either family, as sent and as seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub src: (IpAddr, u16),
    pub dst: (IpAddr, u16),
    pub proto: u8,
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

fn endpoint(s: &str) -> (IpAddr, u16) {
    let a: std::net::SocketAddr = s.parse().expect("address:port");
    (a.ip(), a.port())
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

impl Segment {
    pub fn tcp(src: &str, dst: &str, flags: u8) -> Self {
        let (src, dst) = (endpoint(src), endpoint(dst));
        Self { src, dst, proto: 6, flags, seq: 1000, ack: 0, options: Vec::new(), payload: Vec::new() }
    }
    pub fn udp(src: &str, dst: &str) -> Self {
        Self { proto: 17, ..Self::tcp(src, dst, 0) }
    }
    pub fn at(mut self, seq: u32, ack: u32) -> Self {
        (self.seq, self.ack) = (seq, ack);
        self
    }
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }
    /// The answer's direction.
    pub fn back(&self, flags: u8) -> Self {
        Self { src: self.dst, dst: self.src, flags, options: Vec::new(), payload: Vec::new(), ..self.clone() }
    }

    fn pseudo(&self, l4: &[u8]) -> Vec<u8> {
        let mut p = [octets(self.src.0), octets(self.dst.0)].concat();
        p.extend((l4.len() as u32).to_be_bytes());
        p.extend([0, 0, 0, self.proto]);
        p.extend(l4);
        p
    }

    /// The frame for the station `to`.
    pub fn frame(&self, to: [u8; 6]) -> Vec<u8> {
        let mut l4 = [self.src.1.to_be_bytes(), self.dst.1.to_be_bytes()].concat();
        let at = if self.proto == 6 {
            l4.extend(self.seq.to_be_bytes());
            l4.extend(self.ack.to_be_bytes());
            l4.extend([((20 + self.options.len()) * 4) as u8, self.flags, 0x20, 0, 0, 0, 0, 0]);
            l4.extend(&self.options);
            16
        } else {
            l4.extend((8 + self.payload.len() as u16).to_be_bytes());
            l4.extend([0, 0]);
            6
        };
        l4.extend(&self.payload);
        let sum = fold(&self.pseudo(&l4)).to_be_bytes();
        l4[at..at + 2].copy_from_slice(&sum);
        let mut out = [&to[..], &[2, 9, 9, 9, 9, 9]].concat();
        if self.src.0.is_ipv4() {
            let mut h = vec![0x45, 0];
            h.extend((20 + l4.len() as u16).to_be_bytes());
            h.extend([0, 7, 0x40, 0, 64, self.proto, 0, 0]);
            h.extend(octets(self.src.0));
            h.extend(octets(self.dst.0));
            let sum = fold(&h).to_be_bytes();
            h[10..12].copy_from_slice(&sum);
            out.extend([8, 0]);
            out.extend(h);
        } else {
            out.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            out.extend((l4.len() as u16).to_be_bytes());
            out.extend([self.proto, 64]);
            out.extend(octets(self.src.0));
            out.extend(octets(self.dst.0));
        }
        out.extend(l4);
        out
    }

    /// What a frame carries; checksums, lengths and the TTL (one hop less than sent) are asserted.
    pub fn see(frame: &[u8]) -> Self {
        let ip = &frame[14..];
        let v4 = ip[0] >> 4 == 4;
        let addr = |from: usize| -> IpAddr {
            if v4 {
                IpAddr::from(<[u8; 4]>::try_from(&ip[from..from + 4]).unwrap())
            } else {
                IpAddr::from(<[u8; 16]>::try_from(&ip[from..from + 16]).unwrap())
            }
        };
        let word = |b: &[u8], o: usize| u16::from_be_bytes([b[o], b[o + 1]]);
        let long = |b: &[u8], o: usize| u32::from_be_bytes([b[o], b[o + 1], b[o + 2], b[o + 3]]);
        let (src, dst, proto, ttl, header, end) = if v4 {
            assert_eq!(fold(&ip[..20]), 0, "IPv4 header checksum");
            (addr(12), addr(16), ip[9], ip[8], 20, usize::from(word(ip, 2)))
        } else {
            (addr(8), addr(24), ip[6], ip[7], 40, 40 + usize::from(word(ip, 4)))
        };
        assert_eq!((ttl, end), (63, ip.len()), "TTL and length");
        let l4 = &ip[header..end];
        let ports = (word(l4, 0), word(l4, 2));
        let mut s = Self {
            src: (src, ports.0),
            dst: (dst, ports.1),
            proto,
            flags: 0,
            seq: 1000,
            ack: 0,
            options: Vec::new(),
            payload: l4[8..].to_vec(),
        };
        if proto == 6 {
            let data = usize::from(l4[12] >> 4) * 4;
            (s.flags, s.seq, s.ack) = (l4[13], long(l4, 4), long(l4, 8));
            (s.options, s.payload) = (l4[20..data].to_vec(), l4[data..].to_vec());
        }
        assert_eq!(fold(&s.pseudo(l4)), 0, "transport checksum");
        s
    }
}

/// Sends a segment into a port and returns the one that comes out, with its port.
pub fn pass(rig: &mut Rig, port: usize, segment: &Segment) -> (usize, Segment) {
    pass_on(rig, port, 0, segment)
}

/// The same into a queue.
pub fn pass_on(rig: &mut Rig, port: usize, queue: usize, segment: &Segment) -> (usize, Segment) {
    let out = rig.send_on(port, queue, &segment.frame(if port == 0 { CLI } else { SRV }));
    assert_eq!(out.len(), 1, "one packet out for {segment:?}; dropped: {:?}", drops(rig));
    (out[0].0, Segment::see(&out[0].1))
}
