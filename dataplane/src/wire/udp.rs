//! UDP (RFC 768).

use crate::units::Be16;

/// Header, bytes.
pub const LEN: usize = 8;

header! {
    /// The header.
    Udp[8] {
        /// Source port; 0 when no answer is wanted.
        src_port, set_src_port: Be16 = 0..2;
        /// Destination port.
        dst_port, set_dst_port: Be16 = 2..4;
        /// Length of header and data, bytes.
        length, set_length: u16 = 4..6;
        /// Checksum with pseudo-header, as it lies in memory; 0 means none.
        checksum, set_checksum: Be16 = 6..8;
    }
}

/// Writes a header without a checksum in front of `payload` bytes; `None` when there is no
/// room or the datagram would be longer than 64 KiB.
pub fn write(out: &mut [u8], src_port: u16, dst_port: u16, payload: usize) -> Option<usize> {
    let len = u16::try_from(LEN + payload).ok()?;
    let mut h = Udp::first_mut(out)?;
    h.set_src_port(Be16::new(src_port));
    h.set_dst_port(Be16::new(dst_port));
    h.set_length(len);
    h.set_checksum(Be16([0; 2]));
    Some(LEN)
}

/// The checksum field for a sum over pseudo-header, header and data: never the zero that
/// means there is none.
#[inline(always)]
pub fn checksum_field(sum: u16) -> Be16 {
    let field = !sum;
    Be16(if field == 0 { [0xff; 2] } else { field.to_ne_bytes() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back() {
        let mut out = [0xee; 8];
        assert_eq!(write(&mut out, 0xbb7, 6080, 44), Some(8));
        assert_eq!(out, [0x0b, 0xb7, 0x17, 0xc0, 0, 52, 0, 0]);
        assert_eq!(write(&mut out, 1, 2, 65_528), None);
        assert_eq!(checksum_field(0xffff), Be16([0xff; 2]));
        assert_eq!(checksum_field(0), Be16([0xff; 2]));
    }
}
