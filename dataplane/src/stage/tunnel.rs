//! Tunnels: the packet in one more header, sent to the real server's own address.
//!
//! IPIP as RFC 2003 has it and the kernel does it: the inner TTL is lowered first and
//! copied to the outer header, DF and TOS are copied (CE becomes ECT(0), RFC 6040's
//! compatibility mode), the identification is 0 with DF and counts without.

use crate::burst::Lane;
use crate::io::PacketBuf;
use crate::snapshot::{NextHop, Real, Snapshot, Tunnel};
use crate::stage::rewrite::{Outcome, lower_ttl};
use crate::wire::checksum;
use crate::worker::Core;

/// IPv4's don't-fragment bit in the first byte of flags and offset.
const DF: u8 = 0x40;

/// TOS of the outer header: the inner one's, congestion experienced becoming ECT(0) (RFC 6040's
/// compatibility mode).
#[inline(always)]
pub(super) fn outer_tos(tos: u8) -> u8 {
    if tos & 3 == 3 { tos & !1 } else { tos }
}

/// Wraps a request for its real server.
#[inline]
pub fn wrap<B: PacketBuf>(
    s: &Snapshot,
    core: &mut Core<B>,
    lane: &mut Lane,
    buf: &mut B,
    real: &Real,
    hop: &NextHop,
) -> Outcome {
    if !lower_ttl(lane, buf, 0) {
        return Outcome::TtlExceeded;
    }
    match real.tunnel {
        Tunnel::Ipip if lane.v4 && real.addr.is_v4() => ipip4(s, core, lane, buf, real, hop),
        _ => super::encapsulate::wrap(s, core, lane, buf, real, hop),
    }
}

#[inline(always)]
fn ipip4<B: PacketBuf>(
    s: &Snapshot,
    core: &mut Core<B>,
    lane: &mut Lane,
    buf: &mut B,
    real: &Real,
    hop: &NextHop,
) -> Outcome {
    let l2 = usize::from(lane.l2);
    let Some(inner) = buf.data().get(l2..).and_then(|d| d.first_chunk::<20>()) else { return Outcome::NoHeadroom };
    let (tos, ttl, df) = (inner[1], inner[8], inner[6] & DF);
    let room = real.path_mtu(hop).saturating_sub(20);
    if lane.ip_len > room && df != 0 && s.settings.pmtu_disc {
        return Outcome::TooBig(room);
    }
    // A padded frame would carry its padding into the tunnel.
    let whole = l2 + usize::from(lane.ip_len);
    if buf.total_len() > whole {
        buf.truncate(whole);
    }
    if !buf.prepend(20) {
        return Outcome::NoHeadroom;
    }
    let df = if s.settings.pmtu_disc { df } else { 0 };
    let id = if df == 0 { core.next_ip_id() } else { 0 };
    let len = lane.ip_len + 20;
    let Some(outer) = buf.data_mut().get_mut(l2..).and_then(|d| d.first_chunk_mut::<20>()) else {
        return Outcome::NoHeadroom;
    };
    let tos = outer_tos(tos);
    let [l0, l1] = len.to_be_bytes();
    let [i0, i1] = id.to_be_bytes();
    let [s0, s1, s2, s3] = real.source.v4_bytes();
    let [d0, d1, d2, d3] = real.addr.v4_bytes();
    *outer = [0x45, tos, l0, l1, i0, i1, df, 0, ttl, 4, 0, 0, s0, s1, s2, s3, d0, d1, d2, d3];
    let sum = !checksum::sum(outer);
    [outer[10], outer[11]] = sum.to_ne_bytes();
    lane.ip_len = len;
    let mtu = real.path_mtu(hop);
    if len > mtu { Outcome::Fragment(mtu) } else { Outcome::Send }
}
