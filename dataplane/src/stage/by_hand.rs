//! Packets of the flows that plain NAT is not enough for: full NAT, the client's address told
//! to the real server, shifted sequence numbers.
//!
//! The same steps as in [`super::rewrite`], with what the flow's extension says. Apart from
//! there, so that the ordinary packet's way stays short.

use crate::burst::{Lane, tcp_flags};
use crate::flow::extension::{ClientAddress, Extension};
use crate::flow::record::{FlowRecord, flags};
use crate::io::PacketBuf;
use crate::snapshot::{ForwardingMode, Hop, NextHop, Real, Snapshot};
use crate::stage::rewrite::{self, Outcome};
use crate::stage::segment::Segment;
use crate::stage::{ftp, full_nat};
use crate::units::NextHopId;
use crate::wire::client;
use crate::worker::Core;

const TCP: u8 = 6;

/// A packet from a client, whose flow has been moved on and counted.
#[cold]
pub fn request<B: PacketBuf>(
    s: &Snapshot,
    core: &mut Core<B>,
    lane: &mut Lane,
    buf: &mut B,
    real: &Real,
    hop: &NextHop,
) -> Outcome {
    let record = core.flows.get_mut(lane.flow);
    if is_full_nat(record) {
        full_nat::hold(record, core.now);
    }
    let record = *record;
    let Some(e) = core.extensions.get_mut(record.ext) else { return Outcome::Gone };
    let mut segment = None;
    if edits(e, lane) {
        let Some(mut t) = Segment::read(lane, buf) else { return Outcome::NotInsertable };
        t.tell(e, &record, lane.tcp_flags);
        t.shift(lane.tcp_flags, &e.to_server, &e.to_client);
        segment = Some(t);
    }
    let e = *e;
    if let (true, Some(t)) = (e.ftp, &segment) {
        ftp::request(s, core, lane, buf, t.header_len(), &record);
    }
    if !rewrite::lower_ttl(lane, buf, record.l3_delta) {
        return Outcome::TtlExceeded;
    }
    let mtu = hop.mtu.saturating_sub(segment.as_ref().map_or(0, Segment::put_len));
    let fit = rewrite::fits(lane, buf, mtu);
    if let Outcome::TooBig(_) = fit {
        // The quoted packet must be the one the client sent, but for its TTL.
        rewrite::undo_l3(lane, buf, record.l3_delta);
        return fit;
    }
    if let Some(segment) = segment {
        let written = segment.write(lane, buf);
        if written != Outcome::Send {
            return written;
        }
    }
    // The whole difference goes with the second port; the first one is written as it is.
    if e.has_local() {
        rewrite::write_source(lane, buf, e.local, e.local_port.0, 0);
    }
    rewrite::write_destination(lane, buf, real.addr, record.rport.0, record.l4_delta);
    match fit {
        Outcome::Fragment(_) => Outcome::Fragment(hop.mtu),
        other => other,
    }
}

/// A packet from a real server to its client, or to the local address that stands for it.
#[cold]
pub fn reply<B: PacketBuf>(s: &Snapshot, core: &mut Core<B>, lane: &mut Lane, buf: &mut B) -> Outcome {
    let record = *core.flows.get(lane.flow);
    let (id, mtu) = match s.route(record.client) {
        Hop::Via(id) => (id, s.next_hop(id).map_or(1500, |h| h.mtu)),
        Hop::OnLink(iface) => (NextHopId::NONE, s.interfaces.get(usize::from(iface.0)).map_or(1500, |i| i.mtu)),
        Hop::None => return Outcome::NoRoute,
    };
    lane.next_hop = id;
    let (l3, l4) = (!record.l3_delta, !record.l4_delta);
    if !rewrite::lower_ttl(lane, buf, l3) {
        return Outcome::TtlExceeded;
    }
    let fit = rewrite::fits(lane, buf, mtu);
    if let Outcome::TooBig(_) = fit {
        rewrite::undo_l3(lane, buf, l3);
        rewrite::raise_ttl(lane, buf);
        return fit;
    }
    move_on(s, core, lane, &record);
    let Some(e) = core.extensions.get(record.ext).copied() else { return Outcome::Gone };
    if edits(&e, lane) {
        let Some(mut t) = Segment::read(lane, buf) else { return Outcome::NotInsertable };
        t.shift(lane.tcp_flags, &e.to_client, &e.to_server);
        if lane.tcp_flags & tcp_flags::SYN != 0 {
            t.lower_mss(told_len(&e, &record));
        }
        let written = t.write(lane, buf);
        if written != Outcome::Send {
            return written;
        }
        if e.ftp && t.payload_len() > 0 {
            let by = ftp::reply(core, lane, buf, (t.header_len(), mtu), &record);
            if let (true, Some(e)) = (by != 0, core.extensions.get_mut(record.ext)) {
                e.to_client.grow(t.seq(), by);
            }
        }
    }
    if e.has_local() {
        rewrite::write_destination(lane, buf, record.client, record.client_port.0, 0);
    }
    rewrite::write_source(lane, buf, record.vip.ip(), record.vport.0, l4);
    // From here on the packet is one for the client.
    lane.key.client = record.client;
    fit
}

fn is_full_nat(record: &FlowRecord) -> bool {
    record.flags & flags::MODE_MASK == ForwardingMode::FullNat as u32
}

fn edits(e: &Extension, lane: &Lane) -> bool {
    lane.key.proto == TCP && !lane.later_fragment && e.edits()
}

/// How many bytes the client's address takes at most in one segment.
fn told_len(e: &Extension, record: &FlowRecord) -> u16 {
    let v4 = record.client.is_v4();
    match e.tells {
        ClientAddress::None => 0,
        ClientAddress::Proxy => client::proxy_len(v4) as u16,
        ClientAddress::Toa => client::toa_len(v4) as u16,
    }
}

/// State, time-out and counters.
fn move_on<B>(s: &Snapshot, core: &mut Core<B>, lane: &Lane, record: &FlowRecord) {
    let moved = core.flows.get_mut(lane.flow);
    let turned = rewrite::touch(s, moved, lane, core.now, core.defence.secure);
    if is_full_nat(record) {
        full_nat::hold(moved, core.now);
    }
    if turned {
        core.turned(lane.flow);
    }
    let counters = core.link.counters.real(record.real);
    let (packets, bytes) = rewrite::counted(lane);
    counters.out_packets.add(packets);
    counters.out_bytes.add(bytes);
}
