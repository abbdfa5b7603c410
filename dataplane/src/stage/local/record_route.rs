//! IPv4's record route (RFC 791 section 3.1): every router on the way enters an address of its
//! own. Here it is the VIP, for packets to it and for the replies that leave in its name, else the
//! address towards the next hop, as with Linux.

use crate::burst::Lane;
use crate::io::PacketBuf;
use crate::snapshot::{Hop, Snapshot};
use crate::units::Ip;
use crate::wire::{ipv4, options};

/// Enters an address into a packet's record route, if it has one with room. `l2` is where the IPv4
/// header starts, `header_len` what it is long; its options are well-formed.
#[cold]
#[inline(never)]
pub fn enter<B: PacketBuf>(s: &Snapshot, buf: &mut B, l2: usize, header_len: usize, dst: Ip) {
    let own = if s.local(dst).is_some() { Some(dst) } else { towards(s, dst) };
    let header = buf.data_mut().get_mut(l2..l2 + header_len);
    let (Some(own), Some(header)) = (own, header) else { return };
    let Some(route) = recorded(header) else { return };
    let (len, at) = (route.len(), usize::from(route[2]));
    // The pointer counts from 1, from the option's first byte on.
    if at < 4 || at + 3 > len {
        return;
    }
    route[at - 1..at + 3].copy_from_slice(&own.v4_bytes());
    route[2] += 4;
    ipv4::fill_checksum(header);
}

/// A reply leaves as the VIP's: so does the address that was entered for it.
#[cold]
#[inline(never)]
pub fn leave_as<B: PacketBuf>(s: &Snapshot, lane: &Lane, buf: &mut B, vip: Ip) {
    let (l2, l4) = (usize::from(lane.l2), usize::from(lane.l4));
    let Some(header) = buf.data_mut().get_mut(l2..l4) else { return };
    let Some(own) = towards(s, lane.key.client) else { return };
    let Some(route) = recorded(header) else { return };
    let at = usize::from(route[2]);
    let entered = at.checked_sub(5).and_then(|from| route.get_mut(from..from + 4));
    let Some(entered) = entered.filter(|e| **e == own.v4_bytes()) else { return };
    entered.copy_from_slice(&vip.v4_bytes());
    ipv4::fill_checksum(header);
}

/// The address of the director's own on the way to a destination.
fn towards(s: &Snapshot, dst: Ip) -> Option<Ip> {
    let iface = match s.route(dst) {
        Hop::Via(id) => s.next_hop(id)?.iface,
        Hop::OnLink(iface) => iface,
        Hop::None => return None,
    };
    s.own_address(iface, dst)
}

/// The record route among a header's options, with type, length and pointer.
fn recorded(header: &mut [u8]) -> Option<&mut [u8]> {
    let (at, len) = options::record_route(header)?;
    header.get_mut(at..at + len)
}
