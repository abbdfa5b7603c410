//! SCTP's checksum covers the whole packet with CRC32c (RFC 9260 section 6.8): it cannot
//! be updated by a difference.

use crate::burst::Lane;
use crate::io::PacketBuf;
use crate::wire::checksum::Crc32c;

/// Writes one port and computes the checksum anew; a wrong one stays wrong.
#[cold]
pub fn write_port<B: PacketBuf>(lane: &Lane, buf: &mut B, port_offset: usize, port: [u8; 2]) {
    let l4 = usize::from(lane.l4);
    let end = usize::from(lane.l2) + usize::from(lane.ip_len);
    let before = crc(buf, l4, end);
    let Some(h) = buf.data_mut().get_mut(l4..l4 + 12) else { return };
    let right = h[8..12] == before;
    h[port_offset..port_offset + 2].copy_from_slice(&port);
    let after = crc(buf, l4, end);
    if let (true, Some(c)) = (right, buf.data_mut().get_mut(l4 + 8..l4 + 12)) {
        c.copy_from_slice(&after);
    }
}

/// The checksum with its own field taken as zero, as it stands in the packet.
fn crc<B: PacketBuf>(buf: &B, from: usize, to: usize) -> [u8; 4] {
    let mut sum = Crc32c::new();
    let mut chunk = [0; 1024];
    let mut at = from;
    while at < to {
        let want = (to - at).min(chunk.len());
        let got = buf.copy_out(at, &mut chunk[..want]);
        if got == 0 {
            break;
        }
        if at == from {
            chunk[8.min(got)..12.min(got)].fill(0);
        }
        sum.update(&chunk[..got]);
        at += got;
    }
    sum.finish().to_le_bytes()
}
