//! ICMPv6 (RFC 4443). Its messages have the layout of [`crate::wire::icmp::Icmp`]; their
//! checksum covers a pseudo-header.

use crate::units::Be16;
use crate::wire::icmp::Icmp;
use crate::wire::{checksum, protocol};

/// Destination unreachable.
pub const UNREACHABLE: u8 = 1;
/// Packet too big; the word is the MTU.
pub const TOO_BIG: u8 = 2;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 3;
/// Parameter problem; the word points at what is wrong.
pub const PARAMETER_PROBLEM: u8 = 4;
/// Echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Echo reply.
pub const ECHO_REPLY: u8 = 129;

/// Whether messages of this type quote the packet they are about (section 2.1).
#[inline]
pub const fn is_error(kind: u8) -> bool {
    kind < 128
}

/// Sum over pseudo-header and message: 0xffff when the checksum is right. `addresses` are
/// source and destination as they stand in the IPv6 header.
pub fn sum(addresses: &[u8; 32], message: &[u8]) -> u16 {
    checksum::add(checksum::pseudo6(addresses, message.len(), protocol::ICMPV6), checksum::sum(message))
}

/// Fills in the checksum of a whole message; nothing happens to less than a header.
pub fn fill_checksum(addresses: &[u8; 32], message: &mut [u8]) {
    if let Some(mut h) = Icmp::first_mut(message) {
        h.set_checksum(Be16([0; 2]));
        let sum = !sum(addresses, message);
        message[2..4].copy_from_slice(&sum.to_ne_bytes());
    }
}

/// Turns an echo request into its reply (section 4.2); a wrong checksum stays wrong. The
/// addresses change places in the IPv6 header, which leaves the sum as it is. False when
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
        let addresses: [u8; 32] = std::array::from_fn(|i| i as u8 * 7);
        let mut m: Vec<u8> = (0..77).collect();
        m[..2].copy_from_slice(&[ECHO_REQUEST, 0]);
        fill_checksum(&addresses, &mut m);
        assert_eq!(sum(&addresses, &m), 0xffff);
        assert!(answer_in_place(&mut m));
        let mut swapped = addresses;
        swapped.rotate_left(16);
        assert_eq!(sum(&swapped, &m), 0xffff);
        assert_eq!(m[0], ECHO_REPLY);
        assert!(!answer_in_place(&mut m));
    }
}
