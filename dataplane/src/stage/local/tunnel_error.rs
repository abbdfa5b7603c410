//! ICMP errors about our own tunnels: a router on the way to a real server speaks of the
//! outer packet; the client is told about its own.

use crate::burst::Burst;
use crate::counters::DropReason;
use crate::io::{PacketBuf, PacketIo};
use crate::link::Event;
use crate::snapshot::Snapshot;
use crate::stage::answer::{self, Error};
use crate::stage::local::{Examined, icmp_error};
use crate::wire::ipv6;
use crate::worker::{Core, NO_LANE};

/// First byte of the VXLAN header, whose only flag says that there is a network identifier
/// (RFC 7348 section 5). As GUE it would be one with eight words of options, which are not used here.
const VXLAN_FLAGS: u8 = 0x08;

/// An ICMP error sent to an address of the director itself.
pub fn examine<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
    steer: bool,
) -> Examined {
    let lane = burst.lanes[i];
    let Some(buf) = &burst.bufs[i] else { return Examined::Gone };
    let at = usize::from(lane.l4) + 8;
    let data = buf.data();
    let unrelated = Examined::Drop(DropReason::IcmpUnrelated);
    let (Some(icmp), Some(outer)) = (data.get(usize::from(lane.l4)..at), data.get(at..)) else { return unrelated };
    let Some((_, real)) = answer::addresses(outer) else { return unrelated };
    let Some((header, overhead)) = inner_offset(outer) else { return unrelated };
    let l2 = at + header;
    let Some(inner) = data.get(l2..) else { return unrelated };
    // Only for packets that this director may really have wrapped: of a flow, to a real server.
    let v4 = inner.first().is_some_and(|b| b >> 4 == 4);
    let Some(q) = icmp_error::quote(data, l2, v4).filter(|_| s.is_real_address(real)) else { return unrelated };
    let key = q.request();
    let hash = core.secret.hash(key.client, key.client_port, key.proto);
    let owner = hash.owner(core.workers);
    if steer && owner != core.id {
        if let Some(buf) = burst.bufs[i].take() {
            core.hand_off(owner, buf, NO_LANE, io);
        }
        return Examined::Gone;
    }
    if core.flows.lookup_request(hash, &key).is_none() {
        return unrelated;
    }
    let (kind, code) = (icmp[0], icmp[1]);
    let mtu = if lane.v4 {
        u32::from(u16::from_be_bytes([icmp[6], icmp[7]]))
    } else {
        u32::from_be_bytes([icmp[4], icmp[5], icmp[6], icmp[7]])
    };
    let error = match (lane.v4, kind, code) {
        (true, 3, 4) | (false, 2, _) => {
            let mtu = mtu.clamp(68, 65_535) as u16;
            core.tell(Event::PathMtu { ip: real, mtu });
            // Who lets its packets be cut needs not be told.
            let asks = !v4 || inner.get(6).is_some_and(|b| b & 0x40 != 0);
            // No host sends less; what comes is cut on the outside then (`encapsulate`).
            let least = if v4 { 68 } else { ipv6::MIN_MTU };
            asks.then(|| Error::TooBig(mtu.saturating_sub(overhead as u16).max(least)))
        }
        (true, 3 | 4 | 11, _) | (false, 1 | 3, _) if v4 == lane.v4 => Some(Error::Relayed(kind, code)),
        // The families number their errors differently.
        (true, 3, _) | (false, 1, _) => Some(Error::HostUnreachable),
        (true, 11, _) | (false, 3, _) => Some(Error::TimeExceeded),
        _ => return unrelated,
    };
    if let Some(error) = error {
        answer::send_error(s, core, io, buf, l2, error);
        // As the kernel: what came of the wrapped packet counts as well.
        let end = usize::from(lane.l2) + usize::from(lane.ip_len);
        icmp_error::count_one_way(s, core, &q, end.saturating_sub(l2));
    }
    if let Some(buf) = burst.bufs[i].take() {
        io.free(buf);
    }
    Examined::Gone
}

/// Offset of the wrapped packet in the quoted outer one, and how many bytes the tunnel adds.
fn inner_offset(outer: &[u8]) -> Option<(usize, usize)> {
    let (proto, ip) = if outer.first()? >> 4 == 4 {
        (*outer.get(9)?, usize::from(outer[0] & 15) * 4)
    } else if *outer.get(6)? == 44 {
        // The first piece of an outer packet that was cut here (`fragment_out`).
        let fragment = outer.get(40..)?.first_chunk::<8>()?;
        (u16::from_be_bytes([fragment[2], fragment[3]]) < 8).then_some((fragment[0], 48))?
    } else {
        (outer[6], 40)
    };
    let shim = match proto {
        4 | 41 => 0,
        47 => 4 + if outer.get(ip)? & 0x80 != 0 { 4 } else { 0 },
        // VXLAN begins with its flags, GUE with version, control bit and length of its options.
        17 if *outer.get(ip + 8)? == VXLAN_FLAGS => 8 + 8 + 14,
        17 => 8 + 4 + usize::from(outer.get(ip + 8)? & 31) * 4,
        _ => return None,
    };
    Some((ip + shim, ip + shim))
}
