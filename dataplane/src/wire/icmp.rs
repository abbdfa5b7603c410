//! ICMP (RFC 792).

use crate::units::Be16;
use crate::wire::checksum;

/// Header, bytes.
pub const LEN: usize = 8;

/// Echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Source quench (deprecated, RFC 6633).
pub const SOURCE_QUENCH: u8 = 4;
/// Redirect.
pub const REDIRECT: u8 = 5;
/// Echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;
/// Code of [`UNREACHABLE`]: fragmentation needed; the word's low half is the MTU (RFC 1191).
pub const FRAGMENTATION_NEEDED: u8 = 4;

header! {
    /// The header that all messages share.
    Icmp[8] {
        /// Type.
        kind, set_kind: u8 = 0..1;
        /// Code.
        code, set_code: u8 = 1..2;
        /// Checksum of the whole message, as it lies in memory.
        checksum, set_checksum: Be16 = 2..4;
        /// Identifier and sequence number, MTU, gateway or nothing, by type.
        rest, set_rest: u32 = 4..8;
    }
}

/// Whether messages of this type quote the packet they are about (RFC 1122 section 3.2.2).
#[inline]
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM)
}

/// Fills in the checksum of a whole message; nothing happens to less than a header.
pub fn fill_checksum(message: &mut [u8]) {
    if let Some(mut h) = Icmp::first_mut(message) {
        h.set_checksum(Be16([0; 2]));
        let sum = !checksum::sum(message);
        message[2..4].copy_from_slice(&sum.to_ne_bytes());
    }
}

/// Turns an echo request into its reply (RFC 792); a wrong checksum stays wrong. False when
/// it is no echo request.
pub fn answer_in_place(message: &mut [u8]) -> bool {
    let Some(mut h) = Icmp::first_mut(message) else { return false };
    if (h.kind(), h.code()) != (ECHO_REQUEST, 0) {
        return false;
    }
    h.set_kind(ECHO_REPLY);
    let delta = checksum::delta(&[ECHO_REQUEST, 0], &[ECHO_REPLY, 0]);
    h.set_checksum(Be16(checksum::apply(h.checksum().raw(), delta).to_ne_bytes()));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_answered_with_its_data() {
        let mut m: Vec<u8> = (0..99).collect();
        m[..2].copy_from_slice(&[ECHO_REQUEST, 0]);
        fill_checksum(&mut m);
        assert_eq!(checksum::sum(&m), 0xffff);
        let before = m.clone();
        assert!(answer_in_place(&mut m));
        assert_eq!(Icmp::first(&m).unwrap().kind(), ECHO_REPLY);
        assert_eq!(checksum::sum(&m), 0xffff);
        assert_eq!(m[4..], before[4..]);
        assert!(!answer_in_place(&mut m), "a reply is not answered");
        assert!(!answer_in_place(&mut [8, 0, 0]));
        let mut bad = before;
        bad[50] ^= 1;
        assert!(answer_in_place(&mut bad));
        assert_ne!(checksum::sum(&bad), 0xffff);
    }

    #[test]
    fn errors_are_told_from_questions() {
        let errors: Vec<u8> = (0..=255).filter(|k| is_error(*k)).collect();
        assert_eq!(errors, [3, 4, 5, 11, 12]);
    }
}
