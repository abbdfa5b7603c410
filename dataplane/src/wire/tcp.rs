//! TCP (RFC 9293 section 3.1).

use crate::units::Be16;

/// Header without options, bytes.
pub const LEN: usize = 20;

/// No more data from the sender.
pub const FIN: u8 = 0x01;
/// Synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// Reset.
pub const RST: u8 = 0x04;
/// Push.
pub const PSH: u8 = 0x08;
/// The acknowledgement field counts.
pub const ACK: u8 = 0x10;

header! {
    /// The header without its options.
    Tcp[20] {
        /// Source port.
        src_port, set_src_port: Be16 = 0..2;
        /// Destination port.
        dst_port, set_dst_port: Be16 = 2..4;
        /// Sequence number.
        seq, set_seq: u32 = 4..8;
        /// Acknowledgement number, if [`ACK`] is set.
        ack, set_ack: u32 = 8..12;
        /// Header length in words of four bytes, in the high half.
        offset, set_offset: u8 = 12..13;
        /// [`FIN`] to [`ACK`], urgent, and ECN's two.
        flags, set_flags: u8 = 13..14;
        /// Window.
        window, set_window: u16 = 14..16;
        /// Checksum with pseudo-header, as it lies in memory.
        checksum, set_checksum: Be16 = 16..18;
        /// Urgent pointer.
        urgent, set_urgent: u16 = 18..20;
    }
}

impl<'a> Tcp<&'a [u8; LEN]> {
    /// Validates the header at the front of `segment`, which has `len` bytes by the IP
    /// header: the header must fit. `None` otherwise.
    #[inline]
    pub fn new_checked(segment: &'a [u8], len: usize) -> Option<Self> {
        Self::first(segment).filter(|t| (LEN..=len).contains(&t.header_len()))
    }
}

impl<T: std::borrow::Borrow<[u8; LEN]>> Tcp<T> {
    /// Length of the header with its options as it claims, bytes.
    #[inline(always)]
    pub fn header_len(&self) -> usize {
        usize::from(self.offset() >> 4) * 4
    }
    /// How many sequence numbers a segment of `len` bytes takes: data, SYN and FIN.
    #[inline]
    pub fn sequence_len(&self, len: usize) -> u32 {
        let flags = self.flags();
        len.saturating_sub(self.header_len()) as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_lengths() {
        let mut t = Tcp::<[u8; LEN]>::ZERO;
        t.set_src_port(Be16::new(40000));
        t.set_dst_port(Be16::new(80));
        t.set_seq(1000);
        t.set_offset(0x60);
        t.set_flags(SYN | FIN);
        assert_eq!(t.bytes()[..8], [0x9c, 0x40, 0, 80, 0, 0, 3, 0xe8]);
        assert_eq!(t.sequence_len(30), 8);
        let mut segment = t.bytes().to_vec();
        segment.extend([0; 10]);
        assert!(Tcp::new_checked(&segment, 30).is_some());
        assert!(Tcp::new_checked(&segment, 23).is_none(), "options beyond the packet");
        assert!(Tcp::new_checked(&segment[..19], 30).is_none());
        segment[12] = 0x40;
        assert!(Tcp::new_checked(&segment, 30).is_none());
    }
}
