//! What clients and servers say to each other, and what must become of it.

use std::net::{IpAddr, SocketAddr};

use control::model::{ClientAddress, ForwardingMode, ServiceKey};

use super::bytes::Bytes;
use super::check::{self, Packet, Seen};
use super::datagram::{self, Datagram};
use super::director::{GATEWAY, LOCALS, ip, server_mac};
use super::rules::{KEYS, client_ip};
use super::sides::{Expected, Sides};

const SYN: u8 = 2;
const PUSH: u8 = 0x18;

/// A flow as its two ends know it.
pub(super) struct Flow {
    pub(super) service: usize,
    pub(super) proto: u8,
    client: SocketAddr,
    vip: SocketAddr,
    /// The number that its server's Ethernet address shows.
    pub(super) server: u8,
    mode: ForwardingMode,
    /// Source and destination as the server sees them.
    shown: (SocketAddr, SocketAddr),
    /// The client's and the server's next sequence number.
    next: [u32; 2],
    /// What each has heard from the other and acknowledges: the client, the server.
    heard: [u32; 2],
    /// More than SYNs came from the client.
    asked: bool,
    /// The PROXY protocol's header is still to come.
    untold: bool,
    /// The last request as the server saw it, the last reply as the client saw it.
    last: [Vec<u8>; 2],
    pub(super) used: u64,
}

fn later_than(d: &[u8], n: usize) -> u32 {
    d.len() as u32 + n as u32
}

impl Sides {
    fn look(&self, frame: &[u8]) -> Seen {
        check::frame(frame, 1500, &self.ends).unwrap_or_else(|why| panic!("{why}: {}", super::hex(frame)))
    }

    pub(super) fn open(&mut self, b: &mut Bytes) {
        let index = usize::from(b.u8()) % KEYS.len();
        let Some(shape) = &self.shapes[index] else { return };
        let (proto, vip) = shape.target(b);
        let client = SocketAddr::new(client_ip(1 + b.u8() % 4, vip.is_ipv6()), 1024 + u16::from(b.u8() % 64));
        if !self.used.insert((client, index)) {
            return;
        }
        let mut d = Datagram::new(proto, client, vip, if proto == 6 { SYN } else { 1 });
        d.seq = u32::from(b.u16()) << 16 | 0xffff;
        if proto == 17 {
            d.payload = self.body(b);
        }
        let out = self.director.send(0, usize::from(b.u8() & 1), &d.packet());
        assert!(out.len() <= 1, "{} frames for one", out.len());
        let Some((port, frame)) = out.first() else { return };
        let seen = self.look(frame);
        let p = seen.inner().expect("a packet");
        if *port == 0 {
            // No server took it, and the client is told so.
            assert_eq!((p.dst, seen.to, p.residue), (client.ip(), GATEWAY, Some(0)), "{p:?}");
            return;
        }
        let shape = self.shapes[index].as_ref().expect("it was there");
        let server = seen.to[5];
        let real = shape.servers.get(&server).unwrap_or_else(|| panic!("{d:?} went to {:02x?}", seen.to));
        let (tells, one_packet) = (shape.service.client_address, shape.service.one_packet);
        let ports = p.ports.expect("ports");
        let shown = (SocketAddr::new(p.src, ports.0), SocketAddr::new(p.dst, ports.1));
        // Behind a persistent mark every server keeps the packet's port, as in the kernel.
        let keeps = shape.service.persistence.is_some() && matches!(shape.service.address, ServiceKey::Mark { .. });
        let port = if keeps { 0 } else { real.address.port };
        assert_shown(&shown, (client, vip), real.mode, real.address.ip, port);
        if let Some((seq, ..)) = p.tcp {
            assert_eq!(seq, d.seq, "a SYN's sequence number");
        }
        let flow = Flow {
            service: index,
            proto,
            client,
            vip,
            server,
            mode: real.mode,
            shown,
            next: [d.seq.wrapping_add(1), u32::from(b.u16()) << 16 | 0xfff0],
            heard: [0, d.seq.wrapping_add(1)],
            asked: false,
            untold: tells == ClientAddress::Proxy,
            last: [Vec::new(), Vec::new()],
            used: self.now,
        };
        self.told.flows += 1;
        self.flows.push(flow);
        self.arrived(self.flows.len() - 1, false, &d, &seen, frame);
        if one_packet {
            self.flows.pop();
        }
    }

    /// A payload that no other packet has: some bytes, then a number.
    fn body(&mut self, b: &mut Bytes) -> Vec<u8> {
        self.serial += 1;
        let mut body = vec![b.u8(); usize::from(b.u8()) * 5];
        body.extend(self.serial.to_be_bytes());
        body
    }

    fn flow(&self, b: &mut Bytes) -> Option<usize> {
        let n = usize::from(b.u16());
        let i = n.checked_rem(self.flows.len())?;
        // One packet of a flow at a time, as queues may overtake each other.
        self.waiting.iter().all(|w| w.flow != i).then_some(i)
    }

    pub(super) fn request(&mut self, b: &mut Bytes) {
        let Some(i) = self.flow(b) else { return };
        let body = self.body(b);
        let f = &self.flows[i];
        let mut d = Datagram::new(f.proto, f.client, f.vip, if f.proto == 6 { PUSH } else { 0 });
        (d.seq, d.ack, d.payload) = (f.next[0], f.heard[0], body);
        d.unsummed = b.u8() < 32;
        self.director.push(0, usize::from(b.u8() & 1), &d.packet());
        self.waiting.push(Expected { flow: i, reply: false, sent: d });
        if b.u8() & 3 == 0 {
            self.settle();
        }
    }

    pub(super) fn reply(&mut self, b: &mut Bytes) {
        let Some(i) = self.flow(b) else { return };
        let body = self.body(b);
        let f = &self.flows[i];
        if !matches!(f.mode, ForwardingMode::Nat | ForwardingMode::FullNat) {
            return;
        }
        let first = f.last[1].is_empty();
        let flags = match (f.proto, first) {
            (6, true) => SYN | 0x10,
            (6, false) => PUSH,
            (_, true) => 2,
            _ => 0,
        };
        let mut d = Datagram::new(f.proto, f.shown.1, f.shown.0, flags);
        (d.seq, d.ack, d.payload) = (f.next[1], f.heard[1], body);
        if flags == SYN | 0x10 {
            // It is told apart by its number all the same: data on a SYN is allowed.
            d.payload.drain(..d.payload.len() - 4);
        }
        self.director.push(1, usize::from(b.u8() & 1), &d.packet());
        self.waiting.push(Expected { flow: i, reply: true, sent: d });
        if b.u8() & 3 == 0 {
            self.settle();
        }
    }

    /// Lets the director work and looks for everything that was sent.
    pub(super) fn settle(&mut self) {
        self.director.rig.run();
        let mut out: Vec<(usize, Seen, Vec<u8>)> =
            self.director.rig.take().into_iter().map(|(port, f)| (port, self.look(&f), f)).collect();
        for w in std::mem::take(&mut self.waiting) {
            let mark = &w.sent.payload[w.sent.payload.len() - 4..];
            let here = |s: &Seen| s.inner().is_some_and(|p| p.payload.ends_with(mark));
            let Some(n) = out.iter().position(|(_, seen, _)| here(seen)) else {
                let f = &self.flows[w.flow];
                let drops = crate::story::drops(&self.director.rig);
                panic!("{:?} of a flow to server {} ({:?}) was lost: {drops:?}, {out:?}", w.sent, f.server, f.mode);
            };
            let (port, seen, frame) = out.swap_remove(n);
            assert_eq!(port, usize::from(!w.reply), "it left by the wrong port");
            self.arrived(w.flow, w.reply, &w.sent, &seen, &frame);
        }
        assert!(out.is_empty(), "nobody sent {:?}", out[0].1);
    }

    /// What was sent has arrived: as it should?
    fn arrived(&mut self, i: usize, reply: bool, sent: &Datagram, seen: &Seen, frame: &[u8]) {
        let f = &mut self.flows[i];
        let p = seen.inner().expect("a packet");
        let raw = frame[14..].to_vec();
        let ports = p.ports.expect("ports");
        let ends = (SocketAddr::new(p.src, ports.0), SocketAddr::new(p.dst, ports.1));
        assert_eq!((p.ttl, p.residue), (63, Some(0)), "TTL, checksum: {sent:?}: {p:?}");
        if reply {
            assert_eq!((seen.to, seen.packets.len()), (GATEWAY, 1), "{sent:?}: {seen:?}");
            assert_eq!(ends, (f.vip, f.client), "the reply does not invert the request: {sent:?}: {p:?}");
            assert!(p.payload == sent_body(sent), "another payload: {sent:?}: {p:?}");
            if let Some((seq, ack, flags, _)) = &p.tcp {
                assert_eq!((*seq, *ack, *flags), (sent.seq, f.next[0], sent.flags), "{sent:?}");
                f.next[1] = seq.wrapping_add(later_than(&p.payload, usize::from(flags & SYN != 0)));
                f.heard[0] = f.next[1];
            }
            self.told.replies += 1;
        } else {
            assert_eq!(seen.to, server_mac(f.server), "the flow changed its server: {sent:?}");
            assert_eq!(seen.packets.len(), if f.mode == ForwardingMode::Tunnel { 2 } else { 1 }, "{seen:?}");
            assert_eq!(ends, f.shown, "{sent:?}: {p:?}");
            f.request_arrived(sent, p);
            self.told.requests += 1;
        }
        f.last[usize::from(reply)] = raw;
        f.used = self.now;
    }

    /// An ICMP error about the last packet of a flow, from the side that received it.
    pub(super) fn error(&mut self, b: &mut Bytes) {
        let Some(i) = self.flow(b) else { return };
        let from_client = b.u8() & 1 != 0;
        let (f, queue, quote) = (&self.flows[i], usize::from(b.u8() & 1), 64 + usize::from(b.u8()));
        let rewrites = matches!(f.mode, ForwardingMode::Nat | ForwardingMode::FullNat);
        let about = &f.last[usize::from(from_client)];
        if about.is_empty() || !rewrites {
            return;
        }
        let (src, dst) = if from_client { (f.client, f.vip) } else { (f.shown.1, f.shown.0) };
        let (kind, code) =
            if src.is_ipv4() { [(3, 3), (3, 1), (11, 0)] } else { [(1, 4), (1, 3), (3, 0)] }[usize::from(b.u8()) % 3];
        let packet = datagram::error(src.ip(), dst.ip(), kind, code, 0, about, quote);
        let out = self.director.send(usize::from(!from_client), queue, &packet);
        let context = || format!("{src} to {dst}, mode {:?}: {:?}", f.mode, crate::story::drops(&self.director.rig));
        assert_eq!(out.len(), 1, "an ICMP error of {}", context());
        let (port, frame) = &out[0];
        let seen = self.look(frame);
        let p = seen.inner().expect("a packet");
        let (to, sender) = if from_client { (f.shown.1.ip(), None) } else { (f.client.ip(), Some(f.vip.ip())) };
        assert_eq!((*port, p.dst, p.residue), (usize::from(from_client), to, Some(0)), "{}: {p:?}", context());
        assert!(sender.is_none_or(|s| s == p.src), "{}: {p:?}", context());
        let q = check::quoted(p).unwrap_or_else(|why| panic!("{why}: {}: {p:?}", context()));
        let (a, z) = if from_client { (f.shown.1, f.shown.0) } else { (f.client, f.vip) };
        assert_eq!(q, (a.ip(), z.ip(), f.proto, Some((a.port(), z.port()))), "what it quotes: {}", context());
        self.told.errors += 1;
    }

    /// A SYN sent again, as when its answer was lost: the flow is there and has its server.
    pub(super) fn ask_again(&mut self, b: &mut Bytes) {
        let Some(i) = self.flow(b) else { return };
        let f = &self.flows[i];
        if f.proto != 6 || f.asked {
            return;
        }
        // With these policies a SYN leaves a drained server, as with the kernel's expire_nodest_conn.
        let server = self.shapes[f.service].as_ref().and_then(|s| s.servers.get(&f.server));
        if self.leaves_drained && server.is_none_or(|s| s.weight == 0) {
            return;
        }
        let mut d = Datagram::new(6, f.client, f.vip, SYN);
        d.seq = f.next[0].wrapping_sub(1);
        let out = self.director.send(0, usize::from(b.u8() & 1), &d.packet());
        assert_eq!(
            out.len(),
            1,
            "a SYN sent again to server {}: {:?}",
            f.server,
            crate::story::drops(&self.director.rig)
        );
        let seen = self.look(&out[0].1);
        assert_eq!(out[0].0, 1, "a SYN sent again was refused: {seen:?}");
        self.arrived(i, false, &d, &seen, &out[0].1);
    }

    /// A request that nearly fills a frame. Where a tunnel has no room for it, it arrives in pieces of the
    /// tunnel's, or the client is told what would fit.
    pub(super) fn large_request(&mut self, b: &mut Bytes) {
        let Some(i) = self.flow(b) else { return };
        let mut body = vec![b.u8(); 1200 + usize::from(b.u8().min(234))];
        self.serial += 1;
        body.extend(self.serial.to_be_bytes());
        let f = &self.flows[i];
        if f.untold {
            return;
        }
        let mut d = Datagram::new(f.proto, f.client, f.vip, if f.proto == 6 { PUSH } else { 0 });
        (d.seq, d.ack, d.payload) = (f.next[0], f.heard[0], body);
        let packet = d.packet();
        let out = self.director.send(0, usize::from(b.u8() & 1), &packet);
        let seen: Vec<Seen> = out.iter().map(|(_, frame)| self.look(frame)).collect();
        let f = &self.flows[i];
        match (&out[..], &seen[..]) {
            ([(1, frame)], [seen]) => self.arrived(i, false, &d, seen, frame),
            ([(0, _)], [seen]) => {
                let p = seen.inner().expect("a packet");
                let fits = usize::from(u16::from_be_bytes([p.body[6], p.body[7]]));
                let kind: [u8; 2] = if d.src.is_ipv4() { [3, 4] } else { [2, 0] };
                assert_eq!((p.body[..2].to_vec(), p.dst, p.residue), (kind.to_vec(), f.client.ip(), Some(0)), "{p:?}");
                assert!((1280..packet.len()).contains(&fits), "{fits} bytes are said to fit, {} did not", packet.len());
                let q = check::quoted(p).unwrap_or_else(|why| panic!("{why}: {p:?}"));
                assert_eq!(q, (d.src.ip(), d.dst.ip(), f.proto, Some((d.src.port(), d.dst.port()))), "{p:?}");
            }
            ([_, _, ..], pieces) => {
                assert!(pieces.iter().all(|s| s.to == server_mac(f.server)), "pieces of {d:?} went to several servers");
                let outer: Vec<Packet> = pieces.iter().filter_map(|s| s.inner().cloned()).collect();
                let outer = check::reassemble(&outer).unwrap_or_else(|why| panic!("{why}: {outer:?}"));
                let packets = check::unwrap(outer, &self.ends).unwrap_or_else(|why| panic!("{why}: {d:?}"));
                let whole = Seen { packets, ..pieces[0].clone() };
                self.arrived(i, false, &d, &whole, &out[0].1);
            }
            _ => panic!("{d:?} was lost: {:?}", crate::story::drops(&self.director.rig)),
        }
    }

    pub(super) fn request_in_pieces(&mut self, b: &mut Bytes) {
        let Some(i) = self.flow(b) else { return };
        let body = self.body(b);
        let f = &self.flows[i];
        let whole = self.shapes[f.service].as_ref().is_none_or(|s| s.service.client_address != ClientAddress::None);
        if f.proto != 17 || whole {
            return;
        }
        let mut d = Datagram::new(f.proto, f.client, f.vip, 0);
        d.payload = body;
        let size = 64 + 8 * usize::from(b.u8() % 64);
        let mut pieces = d.pieces(self.serial as u16, size);
        if pieces.len() < 2 {
            return;
        }
        let shift = usize::from(b.u8()) % pieces.len();
        pieces.rotate_left(shift);
        let queues = b.u8();
        for (n, piece) in pieces.iter().enumerate() {
            self.director.push(0, usize::from(queues >> (n % 8) & 1), piece);
        }
        self.director.rig.run();
        let out: Vec<Seen> = self.director.rig.take().iter().map(|(_, frame)| self.look(frame)).collect();
        let f = &mut self.flows[i];
        assert_eq!(out.len(), pieces.len(), "pieces of {d:?}");
        assert!(out.iter().all(|s| s.to == server_mac(f.server)), "pieces of {d:?} went to several servers");
        let inner: Vec<Packet> = out.iter().filter_map(|s| s.inner().cloned()).collect();
        let p = check::reassemble(&inner).unwrap_or_else(|why| panic!("{why}: {inner:?}"));
        assert_eq!((p.ttl, p.residue), (63, Some(0)), "{d:?}: {p:?}");
        assert_eq!((p.src, p.dst), (f.shown.0.ip(), f.shown.1.ip()), "{d:?}");
        assert!(p.payload == d.payload, "another payload: {d:?}: {p:?}");
        f.used = self.now;
        self.told.in_pieces += 1;
    }
}

/// The payload as the checker shows it: behind SCTP's common header there is the chunk's.
fn sent_body(d: &Datagram) -> Vec<u8> {
    if d.proto == 132 { d.l4()[12..].to_vec() } else { d.payload.clone() }
}

impl Flow {
    fn request_arrived(&mut self, sent: &Datagram, p: &Packet) {
        let mut body = &p.payload[..];
        if let Some((seq, ack, flags, _)) = &p.tcp {
            assert_eq!(*flags, sent.flags);
            self.asked |= flags & SYN == 0;
            if flags & SYN == 0 {
                assert_eq!((*seq, *ack), (self.heard[1], sent.ack), "the server's stream has a gap: {sent:?}");
            }
            if self.untold && !sent.payload.is_empty() {
                let header = proxy_header(self.client, self.vip);
                body = body.strip_prefix(&header[..]).unwrap_or_else(|| panic!("no PROXY header: {p:?}"));
                self.untold = false;
            }
            let syn = usize::from(flags & SYN != 0);
            self.heard[1] = seq.wrapping_add(later_than(&p.payload, syn));
            self.next[0] = sent.seq.wrapping_add(later_than(&sent.payload, syn));
        }
        assert!(body == sent_body(sent), "another payload: {sent:?}: {p:?}");
    }
}

/// The PROXY protocol, version 2, as HAProxy's document has it (section 2.2), for TCP.
fn proxy_header(client: SocketAddr, vip: SocketAddr) -> Vec<u8> {
    let mut out = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    match (client.ip(), vip.ip()) {
        (IpAddr::V4(a), IpAddr::V4(z)) => {
            out.extend([0x11, 0, 12]);
            out.extend(a.octets());
            out.extend(z.octets());
        }
        (IpAddr::V6(a), IpAddr::V6(z)) => {
            out.extend([0x21, 0, 36]);
            out.extend(a.octets());
            out.extend(z.octets());
        }
        _ => unreachable!("one family"),
    }
    out.extend(client.port().to_be_bytes());
    out.extend(vip.port().to_be_bytes());
    out
}

/// Whether a server sees the addresses that its mode promises.
fn assert_shown(
    shown: &(SocketAddr, SocketAddr),
    sent: (SocketAddr, SocketAddr),
    mode: ForwardingMode,
    server: IpAddr,
    port: u16,
) {
    let at = SocketAddr::new(server, if port == 0 { sent.1.port() } else { port });
    match mode {
        ForwardingMode::DirectRouting | ForwardingMode::Tunnel => assert_eq!(*shown, sent),
        ForwardingMode::Nat => assert_eq!(*shown, (sent.0, at)),
        ForwardingMode::FullNat => {
            assert_eq!(shown.1, at);
            assert!(LOCALS.map(ip).contains(&shown.0.ip()) && shown.0.port() >= 1024, "{shown:?}");
        }
    }
}
