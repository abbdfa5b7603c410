//! ICMP errors about flows, translated in both directions.
//!
//! An error from the client's side quotes a packet that the VIP seems to have sent; it
//! goes to the real server, quoting what that one really sent. An error from the real
//! server's side quotes what the director sent; it goes to the client, quoting what the
//! client sent, from the VIP. Unlike the kernel's, the quoted transport checksum is
//! brought up to date as well where it was quoted.

use crate::burst::{Burst, Direction, Lane};
use crate::counters::DropReason;
use crate::flow::extension::Extension;
use crate::flow::record::{FlowKey, FlowRecord, flags};
use crate::flow::table::FlowId;
use crate::io::{PacketBuf, PacketIo};
use crate::snapshot::{ForwardingMode, Local, Snapshot};
use crate::stage::local::{Examined, icmp, nd};
use crate::stage::schedule::{self, Refused};
use crate::stage::{answer, resolve, rewrite, track, tunnel};
use crate::units::{Be16, Ip};
use crate::wire::{checksum, protocol};
use crate::worker::{Core, NO_LANE};

/// What a flow gets that no packet has moved yet (`ip_vs_conn_new`).
const NEW_FLOW_MS: u32 = 3000;

/// The quoted packet: addresses, ports, and where things are (offsets from the frame's start).
pub(crate) struct Quote {
    src: Ip,
    dst: Ip,
    ports: [[u8; 2]; 2],
    proto: u8,
    ip: usize,
    l4: usize,
}

impl Quote {
    /// The flow's key if it is a client that sent the packet.
    pub(crate) fn request(&self) -> FlowKey {
        FlowKey {
            client: self.src,
            vip: self.dst,
            client_port: Be16(self.ports[0]),
            vport: Be16(self.ports[1]),
            proto: self.proto,
        }
    }
}

/// Reads the packet at `at`, as far as it is there.
pub(crate) fn quote(data: &[u8], at: usize, v4: bool) -> Option<Quote> {
    let packet = data.get(at..)?;
    let (src, dst) = answer::addresses(packet)?;
    let (proto, header) = if v4 {
        let ihl = usize::from(packet[0] & 15) * 4;
        let first = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff == 0;
        (packet[9], (packet[0] >> 4 == 4 && ihl >= 20 && first).then_some(ihl)?)
    } else {
        (packet[0] >> 4 == 6).then_some(())?;
        // Routers speak of fragments, too: only the first shows the ports.
        let walked = nd::walk(packet, packet.len(), packet[6]).ok()?;
        walked.fragment.is_none_or(|f| f.offset == 0).then_some((walked.proto, walked.offset))?
    };
    let p = packet.get(header..)?.first_chunk::<4>()?;
    matches!(proto, 6 | 17 | 132).then_some(())?;
    Some(Quote { src, dst, ports: [[p[0], p[1]], [p[2], p[3]]], proto, ip: at, l4: at + header })
}

/// Examines an ICMP error. One whose checksum is not `sound` is not translated; those that only pass
/// by are for their receiver to check.
pub fn examine<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
    steer: bool,
    sound: bool,
) -> Examined {
    let lane = burst.lanes[i];
    let Some(buf) = &burst.bufs[i] else { return Examined::Gone };
    let local = s.local(lane.key.vip);
    if matches!(local, Some(Local::Own(_))) {
        return super::tunnel_error::examine(s, core, io, burst, i, steer);
    }
    let unrelated = if local.is_some() { Examined::Drop(DropReason::IcmpUnrelated) } else { Examined::Deliver };
    let Some(q) = quote(buf.data(), usize::from(lane.l4) + 8, lane.v4) else { return unrelated };
    // What a client has sent is quoted by an error that goes back to the client. Seen here, it
    // comes from the way to a real server that answers clients itself.
    if s.local(q.dst) == Some(Local::Vip) && s.local(q.src).is_none() {
        return about_one_way(s, core, io, burst, i, &q, steer).unwrap_or(unrelated);
    }
    // The quoted packet went the other way.
    let from_client = local.is_some() && local != Some(Local::Pool);
    let (direction, client, other, client_port, other_port) = if from_client {
        (Direction::Request, q.dst, q.src, q.ports[1], q.ports[0])
    } else {
        (Direction::Reply, q.src, q.dst, q.ports[0], q.ports[1])
    };
    let mut about = Lane { direction, v4: lane.v4, l2: lane.l2, l4: lane.l4, ip_len: lane.ip_len, ..Lane::default() };
    about.key = FlowKey { client, vip: other, client_port: Be16(client_port), vport: Be16(other_port), proto: q.proto };
    about.hash = core.secret.hash(client, about.key.client_port, q.proto);
    let owner = about.hash.owner(core.workers);
    if steer && owner != core.id {
        if let Some(buf) = burst.bufs[i].take() {
            core.hand_off(owner, buf, NO_LANE, io);
        }
        return Examined::Gone;
    }
    let candidates = core.flows.probe(about.hash);
    let id = match track::find(s, core, &about, candidates) {
        Some(id) => id,
        None if direction == Direction::Request && s.settings.schedule_icmp => match scheduled(s, core, &about) {
            Ok(id) => id,
            Err(Refused::NoService) => return unrelated,
            Err(_) => return Examined::Drop(DropReason::IcmpUnrelated),
        },
        None => return unrelated,
    };
    let record = *core.flows.get(id);
    match direction {
        Direction::Request => {
            let done = to_real(s, core, io, burst, i, &q, &record);
            if record.flags & flags::ONE_PACKET != 0 {
                core.end_flow(id);
            }
            done
        }
        Direction::Reply if rewrites(&record) && !sound => Examined::Drop(DropReason::BadIcmp),
        Direction::Reply if rewrites(&record) => to_client(s, core, io, burst, i, &q, &record),
        Direction::Reply => unrelated,
    }
}

/// Opens a flow for an error about a packet of none (the kernel's `schedule_icmp`): it goes where the
/// client's packets would, and the flow ends soon if they do not come.
#[cold]
fn scheduled<B>(s: &Snapshot, core: &mut Core<B>, about: &Lane) -> Result<FlowId, Refused> {
    let id = schedule::open(s, core, about, true)?;
    core.flows.get_mut(id).deadline = core.now.after_ms(NEW_FLOW_MS);
    core.flows.rearm(id, core.now.after_ms(NEW_FLOW_MS));
    Ok(id)
}

/// An error that quotes a client's packet as it was sent: counted, where direct routing or a
/// tunnel has passed that packet on, and left alone. `None`: nothing more to do here.
fn about_one_way<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
    q: &Quote,
    steer: bool,
) -> Option<Examined> {
    let owner = core.secret.hash(q.src, Be16(q.ports[0]), q.proto).owner(core.workers);
    if steer && owner != core.id {
        if let Some(buf) = burst.bufs[i].take() {
            core.hand_off(owner, buf, NO_LANE, io);
        }
        return Some(Examined::Gone);
    }
    count_one_way(s, core, q, usize::from(burst.lanes[i].ip_len));
    None
}

/// Counts an ICMP error about a client's packet among what its real server sends, if
/// replies of the flow do not come this way. The kernel does so with its own errors, and with those of others
/// (`handle_response_icmp`: it looks replies of direct routing and tunnels up by the VIP).
pub(crate) fn count_one_way<B>(s: &Snapshot, core: &Core<B>, q: &Quote, bytes: usize) -> bool {
    let key = q.request();
    let hash = core.secret.hash(key.client, key.client_port, key.proto);
    let Some(id) = core.flows.lookup_request(hash, &key) else { return false };
    let record = core.flows.get(id);
    if rewrites(record) || s.real(record.real).is_none() {
        return false;
    }
    let c = core.link.counters.real(record.real);
    c.out_packets.add(1);
    c.out_bytes.add(bytes as u64);
    true
}

/// Whether the flow's packets have other addresses on the other side.
pub(crate) fn rewrites(record: &FlowRecord) -> bool {
    let mode = record.flags & flags::MODE_MASK;
    mode == ForwardingMode::Nat as u32 || mode == ForwardingMode::FullNat as u32
}

/// An error from the client's side.
fn to_real<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
    q: &Quote,
    record: &FlowRecord,
) -> Examined {
    let lane = &mut burst.lanes[i];
    let (Some(real), Some(buf)) = (s.real(record.real), burst.bufs[i].as_mut()) else {
        return Examined::Drop(DropReason::IcmpUnrelated);
    };
    let Some(hop) = s.next_hop(real.next_hop) else { return Examined::Drop(DropReason::NoRoute) };
    count(core, record, lane, Direction::Request);
    lane.next_hop = real.next_hop;
    let mode = record.flags & flags::MODE_MASK;
    let outcome = if mode == ForwardingMode::Tunnel as u32 {
        tunnel::wrap(s, core, lane, buf, real, hop)
    } else if !rewrite::lower_ttl(lane, buf, 0) {
        rewrite::Outcome::TtlExceeded
    } else {
        if rewrites(record) {
            set_address(buf.data_mut(), usize::from(lane.l2), lane.v4, false, real.addr);
            translate_quote(buf.data_mut(), q, lane.v4, true, real.addr, record.rport.0);
            if let Some(e) = extension(core, record) {
                // To the server this is where the client is; networks that check sources let
                // no client's address in from here.
                set_address(buf.data_mut(), usize::from(lane.l2), lane.v4, true, e.local);
                translate_quote(buf.data_mut(), q, lane.v4, false, e.local, e.local_port.0);
            }
            fix_icmp(buf, lane, record.vip.ip(), real.addr);
        }
        rewrite::fits(lane, buf, hop.mtu)
    };
    finish(s, core, io, burst, i, outcome)
}

/// An error from the real server's side, about a NAT flow.
fn to_client<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
    q: &Quote,
    record: &FlowRecord,
) -> Examined {
    let lane = &mut burst.lanes[i];
    let Some(buf) = burst.bufs[i].as_mut() else { return Examined::Gone };
    let old_src = lane.key.client;
    if !rewrite::lower_ttl(lane, buf, 0) {
        return finish(s, core, io, burst, i, rewrite::Outcome::TtlExceeded);
    }
    count(core, record, lane, Direction::Reply);
    set_address(buf.data_mut(), usize::from(lane.l2), lane.v4, true, record.vip.ip());
    translate_quote(buf.data_mut(), q, lane.v4, false, record.vip.ip(), record.vport.0);
    if extension(core, record).is_some() {
        set_address(buf.data_mut(), usize::from(lane.l2), lane.v4, false, record.client);
        translate_quote(buf.data_mut(), q, lane.v4, true, record.client, record.client_port.0);
    }
    fix_icmp(buf, lane, old_src, record.vip.ip());
    if let Some(buf) = burst.bufs[i].take() {
        resolve::send_routed(s, core, io, buf, lane.l2, record.client);
    }
    Examined::Gone
}

/// The extension of a full-NAT flow.
fn extension<'a, B>(core: &'a Core<B>, record: &FlowRecord) -> Option<&'a Extension> {
    let full = record.flags & flags::MODE_MASK == ForwardingMode::FullNat as u32;
    core.extensions.get(record.ext).filter(|_| full && record.flags & flags::EXTENDED != 0)
}

fn count<B>(core: &Core<B>, record: &FlowRecord, lane: &Lane, direction: Direction) {
    let c = core.link.counters.real(record.real);
    let (packets, bytes) = match direction {
        Direction::Request => (c.in_packets, c.in_bytes),
        Direction::Reply => (c.out_packets, c.out_bytes),
    };
    packets.add(1);
    bytes.add(u64::from(lane.ip_len));
}

fn finish<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
    outcome: rewrite::Outcome,
) -> Examined {
    if outcome != rewrite::Outcome::Send {
        answer::outcome(s, core, io, burst, i, outcome);
        return Examined::Gone;
    }
    let lane = burst.lanes[i];
    if let Some(buf) = burst.bufs[i].take() {
        resolve::forward(s, core, io, buf, &lane);
    }
    Examined::Gone
}

/// Writes the source or destination of the IP header at `at`; fixes an IPv4 header checksum.
fn set_address(data: &mut [u8], at: usize, v4: bool, source: bool, to: Ip) {
    let Some(h) = data.get_mut(at..) else { return };
    if v4 {
        let o = if source { 12 } else { 16 };
        let Some(h) = h.first_chunk_mut::<20>() else { return };
        let delta = checksum::add(!checksum::sum(&h[o..o + 4]), checksum::sum(&to.v4_bytes()));
        h[o..o + 4].copy_from_slice(&to.v4_bytes());
        let sum = checksum::apply(u16::from_ne_bytes([h[10], h[11]]), delta);
        [h[10], h[11]] = sum.to_ne_bytes();
    } else if let Some(h) = h.first_chunk_mut::<40>() {
        let o = if source { 8 } else { 24 };
        h[o..o + 16].copy_from_slice(&to.0);
    }
}

/// Rewrites the quoted packet's source (or destination) address and port.
fn translate_quote(data: &mut [u8], q: &Quote, v4: bool, source: bool, addr: Ip, port: [u8; 2]) {
    let (old_addr, old_port) = if source { (q.src, q.ports[0]) } else { (q.dst, q.ports[1]) };
    let (_, delta) = rewrite::deltas(old_addr, old_port, addr, port);
    set_address(data, q.ip, v4, source, addr);
    let o = q.l4 + if source { 0 } else { 2 };
    if let Some(p) = data.get_mut(o..o + 2) {
        p.copy_from_slice(&port);
    }
    let at = q.l4 + if q.proto == 6 { 16 } else { 6 };
    if q.proto == 132 {
        return;
    }
    if let Some(c) = data.get_mut(at..at + 2) {
        let old = u16::from_ne_bytes([c[0], c[1]]);
        if q.proto == 6 || old != 0 {
            let new = if q.proto == 6 { checksum::apply(old, delta) } else { checksum::apply_udp(old, delta) };
            c.copy_from_slice(&new.to_ne_bytes());
        }
    }
}

/// Computes the ICMP checksum anew: the quote changed in several places. For ICMPv6 the
/// address change is part of the sum.
fn fix_icmp<B: PacketBuf>(buf: &mut B, lane: &Lane, _old: Ip, _new: Ip) {
    let (l2, l4) = (usize::from(lane.l2), usize::from(lane.l4));
    let end = l2 + usize::from(lane.ip_len);
    if let Some(c) = buf.data_mut().get_mut(l4 + 2..l4 + 4) {
        c.fill(0);
    }
    let sum = match lane.v4 {
        true => icmp::sum_range(buf, l4, end),
        false => icmp::transport_sum(buf, lane, protocol::ICMPV6),
    };
    if let Some(c) = buf.data_mut().get_mut(l4 + 2..l4 + 4) {
        c.copy_from_slice(&(!sum).to_ne_bytes());
    }
}
