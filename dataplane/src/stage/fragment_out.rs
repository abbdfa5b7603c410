//! Fragmentation of what does not fit the next link and may be cut (RFC 791 section 3.2).

use crate::burst::Burst;
use crate::counters::DropReason;
use crate::io::{PacketBuf, PacketIo};
use crate::snapshot::Snapshot;
use crate::stage::{parse::ETH, resolve};
use crate::wire::checksum;
use crate::worker::Core;

/// Longest IPv4 header, bytes.
const HEADER_MAX: usize = 60;

/// Sends the lane's IPv4 packet, already rewritten, in pieces that fit `mtu`.
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
    let ihl = usize::from(header[0] & 15) * 4;
    let room = usize::from(mtu).saturating_sub(ihl) / 8 * 8;
    if got < ihl || ihl < 20 || room == 0 {
        core.link.counters.drop(DropReason::TooBig).add(1);
        io.free(buf);
        return;
    }
    let total = usize::from(lane.ip_len) - ihl;
    let word = u16::from_be_bytes([header[6], header[7]]);
    // A piece of a fragment keeps its place in the whole; DF has been overruled by now.
    let (base, more_after) = (usize::from(word & 0x1fff) * 8, word & 0x2000 != 0);
    let mut at = 0;
    while at < total {
        let n = room.min(total - at);
        let Some(mut piece) = io.alloc(ETH + ihl + n) else {
            core.link.counters.drop(DropReason::NoBuffer).add(1);
            break;
        };
        if let Some(out) = piece.data_mut().get_mut(ETH..ETH + ihl + n) {
            let more = more_after || at + n < total;
            fill(out, &header[..ihl], (base + at) / 8, more);
            buf.copy_out(l2 + ihl + at, &mut out[ihl..]);
        }
        let mut piece_lane = lane;
        piece_lane.l2 = ETH as u8;
        resolve::forward(s, core, io, piece, &piece_lane);
        at += n;
    }
    io.free(buf);
}

fn fill(out: &mut [u8], header: &[u8], offset: usize, more: bool) {
    let len = (out.len() as u16).to_be_bytes();
    let ihl = header.len();
    out[..ihl].copy_from_slice(header);
    out[2..4].copy_from_slice(&len);
    let word = offset as u16 | if more { 0x2000 } else { 0 };
    out[6..8].copy_from_slice(&word.to_be_bytes());
    out[10..12].fill(0);
    let sum = !checksum::sum(&out[..ihl]);
    out[10..12].copy_from_slice(&sum.to_ne_bytes());
}
