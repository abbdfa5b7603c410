//! SCTP (RFC 9260 section 3).

use crate::units::Be16;
use crate::wire::checksum::Crc32c;

/// Common header, bytes.
pub const LEN: usize = 12;
/// Chunk header, bytes.
pub const CHUNK_LEN: usize = 4;

/// Chunk type: user data.
pub const DATA: u8 = 0;
/// Chunk type: opens an association.
pub const INIT: u8 = 1;
/// Chunk type: ends an association at once.
pub const ABORT: u8 = 6;
/// Chunk type: the opener proves that it can be reached.
pub const COOKIE_ECHO: u8 = 10;
/// Chunk type: the association stands.
pub const COOKIE_ACK: u8 = 11;

header! {
    /// The common header.
    Sctp[12] {
        /// Source port.
        src_port, set_src_port: Be16 = 0..2;
        /// Destination port.
        dst_port, set_dst_port: Be16 = 2..4;
        /// Verification tag.
        tag, set_tag: u32 = 4..8;
    }
}

header! {
    /// A chunk's header.
    Chunk[4] {
        /// Type.
        kind, set_kind: u8 = 0..1;
        /// Flags.
        flags, set_flags: u8 = 1..2;
        /// Length with this header, without padding, bytes.
        length, set_length: u16 = 2..4;
    }
}

/// What a packet (from the common header on, as far as it lies in the first segment) means
/// to the state machine: the type of its first chunk, but ABORT where that is bundled
/// behind a COOKIE ECHO or COOKIE ACK, as the kernel looks. `None` without a whole chunk
/// header.
pub fn event(packet: &[u8]) -> Option<u8> {
    let chunk = |at: usize| packet.get(at..).and_then(Chunk::first);
    let first = chunk(LEN)?;
    if matches!(first.kind(), COOKIE_ECHO | COOKIE_ACK) && usize::from(first.length()) >= CHUNK_LEN {
        let next = LEN + usize::from(first.length()).next_multiple_of(4);
        if chunk(next).is_some_and(|c| c.kind() == ABORT) {
            return Some(ABORT);
        }
    }
    Some(first.kind())
}

/// The checksum of a whole packet, its own field taken as zero (RFC 9260 section 6.8), as
/// the four bytes of the field.
pub fn checksum(packet: &[u8]) -> Option<[u8; 4]> {
    let (head, rest) = packet.split_first_chunk::<LEN>()?;
    let mut crc = Crc32c::new();
    crc.update(&head[..8]);
    crc.update(&[0; 4]);
    crc.update(rest);
    Some(crc.finish().to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abort_behind_a_cookie_counts() {
        let mut p = vec![0; LEN];
        assert_eq!(event(&p), None);
        p.extend([INIT, 0, 0, 20]);
        assert_eq!(event(&p), Some(INIT));
        assert_eq!(event(&p[..15]), None);
        for cookie in [COOKIE_ECHO, COOKIE_ACK] {
            p.truncate(LEN);
            // Five bytes are padded to eight.
            p.extend([cookie, 0, 0, 5, 1, 0, 0, 0, ABORT, 0, 0, 4]);
            assert_eq!(event(&p), Some(ABORT));
            p[LEN + 3] = 3;
            assert_eq!(event(&p), Some(cookie), "a length that lies");
        }
        p[LEN] = DATA;
        p[LEN + 3] = 5;
        assert_eq!(event(&p), Some(DATA), "data bundles no abort");
    }

    #[test]
    fn the_checksum_leaves_itself_out() {
        let mut p: Vec<u8> = (0..40).collect();
        let sum = checksum(&p).unwrap();
        p[8..12].copy_from_slice(&sum);
        assert_eq!(checksum(&p), Some(sum));
        p[30] ^= 1;
        assert_ne!(checksum(&p), Some(sum));
        assert_eq!(checksum(&p[..11]), None);
    }
}
