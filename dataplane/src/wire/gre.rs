//! GRE (RFC 2784), with its checksum if wanted; no key or sequence number (RFC 2890).

use crate::wire::checksum;

/// Checksum present, in the first word.
const CHECKSUM: u16 = 0x8000;

/// Length of the header, bytes.
pub const fn len(with_checksum: bool) -> usize {
    if with_checksum { 8 } else { 4 }
}

/// Writes the header of a packet with this ethertype. With `payload_sum`, the
/// one's-complement sum of the packet, the header has a checksum. `None` when there is no room.
pub fn write(out: &mut [u8], ethertype: u16, payload_sum: Option<u16>) -> Option<usize> {
    let out = out.get_mut(..len(payload_sum.is_some()))?;
    let flags = if payload_sum.is_some() { CHECKSUM } else { 0 };
    out.fill(0);
    out[..2].copy_from_slice(&flags.to_be_bytes());
    out[2..4].copy_from_slice(&ethertype.to_be_bytes());
    if let Some(sum) = payload_sum {
        let field = !checksum::add(checksum::sum(out), sum);
        out[4..6].copy_from_slice(&field.to_ne_bytes());
    }
    Some(out.len())
}

/// Reads a header: the ethertype and the header's length. `None` when it is cut short, of
/// another version, or has what is not written here.
pub fn parse(data: &[u8]) -> Option<(u16, usize)> {
    let h = data.first_chunk::<4>()?;
    let flags = u16::from_be_bytes([h[0], h[1]]);
    let len = len(flags & CHECKSUM != 0);
    (flags & !CHECKSUM == 0 && data.len() >= len).then_some((u16::from_be_bytes([h[2], h[3]]), len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ethernet;

    #[test]
    fn headers_as_the_kernel_writes_them() {
        let mut out = [0xee; 8];
        assert_eq!(write(&mut out, ethernet::IPV4, None), Some(4));
        assert_eq!(out[..4], [0, 0, 8, 0]);
        // A recorded packet: 40 bytes of TCP over IPv4 with checksum 8c25.
        let inner: [u8; 40] = [
            0x45, 0, 0, 0x28, 0, 1, 0, 0, 0x3f, 6, 0x67, 0xc4, 0x0a, 1, 0, 1, 0x0a, 9, 0, 1, 0x9c, 0x40, 0, 0x50, 0, 0,
            3, 0xe8, 0, 0, 0, 0, 0x50, 2, 0x20, 0, 0xdb, 0x5e, 0, 0,
        ];
        assert_eq!(write(&mut out, ethernet::IPV4, Some(checksum::sum(&inner))), Some(8));
        assert_eq!(out, [0x80, 0, 8, 0, 0x8c, 0x25, 0, 0]);
        assert_eq!(parse(&out), Some((ethernet::IPV4, 8)));
        assert_eq!(parse(&out[..7]), None);
        assert_eq!(parse(&[0x20, 0, 8, 0, 0, 0, 0, 0]), None, "a key");
        assert_eq!(write(&mut out[..7], ethernet::IPV4, Some(0)), None);
    }
}
