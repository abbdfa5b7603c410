//! Fragmentation of what does not fit the next link and may be cut: IPv4 without DF (RFC 791
//! section 3.2), and tunnels over IPv6 that carry such (RFC 2473 section 7.2).

use crate::burst::Burst;
use crate::counters::DropReason;
use crate::io::{PacketBuf, PacketIo};
use crate::snapshot::Snapshot;
use crate::stage::{parse::ETH, resolve};
use crate::wire::ipv4;
use crate::worker::Core;

/// Longest IPv4 header, bytes.
const HEADER_MAX: usize = 60;
/// IPv6 header, and the fragment header behind it (RFC 8200 section 4.5), bytes.
const V6: usize = 40;
const V6_FRAGMENT: usize = 8;

/// Sends the lane's packet, already rewritten, in pieces that fit `mtu`.
#[cold]
pub fn send<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
    mtu: u16,
) {
    let lane = burst.lanes[i];
    let Some(buf) = burst.bufs[i].take() else { return };
    let l2 = usize::from(lane.l2);
    let mut header = [0; HEADER_MAX];
    let got = buf.copy_out(l2, &mut header);
    // What the packet has in front of its data, and what a piece has.
    let (old, new) = if lane.v4 {
        let ihl = usize::from(header[0] & 15) * 4;
        (ihl, ihl)
    } else {
        (V6, V6 + V6_FRAGMENT)
    };
    let room = usize::from(mtu).saturating_sub(new) / 8 * 8;
    if got < old || old < 20 || room == 0 {
        core.link.counters.drop(DropReason::TooBig).add(1);
        io.free(buf);
        return;
    }
    let total = usize::from(lane.ip_len) - old;
    let word = u16::from_be_bytes([header[6], header[7]]);
    // A piece of a fragment keeps its place in the whole; DF has been overruled by now.
    let (base, more_after) = if lane.v4 { (usize::from(word & 0x1fff) * 8, word & 0x2000 != 0) } else { (0, false) };
    // The clock makes 32 bits of the 16 that IPv4 has.
    let id = if lane.v4 { 0 } else { core.now.0 << 16 | u32::from(core.next_ip_id()) };
    let mut at = 0;
    while at < total {
        let n = room.min(total - at);
        let Some(mut piece) = io.alloc(ETH + new + n) else {
            core.link.counters.drop(DropReason::NoBuffer).add(1);
            break;
        };
        if let Some(out) = piece.data_mut().get_mut(ETH..ETH + new + n) {
            let more = more_after || at + n < total;
            if lane.v4 {
                fill4(out, &header[..old], (base + at) / 8, more);
            } else {
                fill6(out, &header[..old], at, more, id);
            }
            buf.copy_out(l2 + old + at, &mut out[new..]);
        }
        let mut piece_lane = lane;
        piece_lane.l2 = ETH as u8;
        resolve::forward(s, core, io, piece, &piece_lane);
        at += n;
    }
    io.free(buf);
}

/// Offset in units of eight bytes.
fn fill4(out: &mut [u8], header: &[u8], offset: usize, more: bool) {
    let len = (out.len() as u16).to_be_bytes();
    let ihl = header.len();
    out[..ihl].copy_from_slice(header);
    out[2..4].copy_from_slice(&len);
    let word = offset as u16 | if more { 0x2000 } else { 0 };
    out[6..8].copy_from_slice(&word.to_be_bytes());
    ipv4::fill_checksum(&mut out[..ihl]);
}

/// Offset in bytes, a multiple of eight.
fn fill6(out: &mut [u8], header: &[u8], offset: usize, more: bool, id: u32) {
    let len = ((out.len() - V6) as u16).to_be_bytes();
    let (h, f) = out.split_at_mut(V6);
    h.copy_from_slice(header);
    h[4..6].copy_from_slice(&len);
    h[6] = 44;
    f[..2].copy_from_slice(&[header[6], 0]);
    f[2..4].copy_from_slice(&(offset as u16 | u16::from(more)).to_be_bytes());
    f[4..8].copy_from_slice(&id.to_be_bytes());
}
