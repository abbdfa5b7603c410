//! The Internet checksum (RFC 1071), its incremental update (RFC 1624), and CRC32c (RFC 9260).
//!
//! Sums here are one's-complement sums of 16-bit words *as they lie in memory*: the sum is
//! the same in either byte order (RFC 1071 section 2 B), so nothing is swapped. A checksum
//! field is the complement of such a sum, likewise as it lies in memory.

use crate::wire::at;

/// From this length on, bytes, summing in several lanes pays.
const LONG: usize = 128;

/// One's-complement sum of `data`, an odd last byte padded with zero.
#[inline]
pub fn sum(data: &[u8]) -> u16 {
    if data.len() < LONG {
        return fold(short(data));
    }
    fold(long(data))
}

#[inline(always)]
fn short(data: &[u8]) -> u64 {
    let mut total: u64 = 0;
    let mut words = data.chunks_exact(8);
    for w in &mut words {
        let w = u64::from_ne_bytes([w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]]);
        total += (w & 0xffff_ffff) + (w >> 32);
    }
    for w in words.remainder().chunks(2) {
        total += u64::from(u16::from_ne_bytes([w[0], w.get(1).copied().unwrap_or(0)]));
    }
    total
}

/// Eight lanes of 64 bits, each adding 32-bit words: the compiler makes vectors of them.
/// No packet is long enough to overflow a lane.
#[inline(never)]
fn long(data: &[u8]) -> u64 {
    let mut lanes = [0u64; 8];
    let mut blocks = data.chunks_exact(32);
    for block in &mut blocks {
        for (lane, w) in lanes.iter_mut().zip(block.chunks_exact(4)) {
            *lane += u64::from(u32::from_ne_bytes([w[0], w[1], w[2], w[3]]));
        }
    }
    let tail = short(blocks.remainder());
    lanes.iter().map(|l| (l & 0xffff_ffff) + (l >> 32)).sum::<u64>() + tail
}

/// The sum of an IPv4 header without options: five words, no branch.
#[inline(always)]
pub fn sum_header(h: &[u8; 20]) -> u16 {
    let word = |bytes| u64::from(u32::from_ne_bytes(bytes));
    fold(
        word(at::<0, 4, 20>(h))
            + word(at::<4, 4, 20>(h))
            + word(at::<8, 4, 20>(h))
            + word(at::<12, 4, 20>(h))
            + word(at::<16, 4, 20>(h)),
    )
}

/// Folds a wide sum to 16 bits.
#[inline(always)]
fn fold(total: u64) -> u16 {
    let t = (total & 0xffff_ffff) + (total >> 32);
    let t = (t & 0xffff) + (t >> 16);
    let t = (t & 0xffff) + (t >> 16);
    let t = (t & 0xffff) + (t >> 16);
    t as u16
}

/// Adds two sums.
#[inline(always)]
pub fn add(a: u16, b: u16) -> u16 {
    let (s, carry) = a.overflowing_add(b);
    s + u16::from(carry)
}

/// What replacing `old` by `new` changes in a sum over them: computed once per flow, applied
/// to each of its packets. Both start at an even offset of what is summed; they need not be
/// equally long (a pseudo-header's addresses may change family). The difference of the
/// reverse change is the complement, `!delta`.
#[inline]
pub fn delta(old: &[u8], new: &[u8]) -> u16 {
    add(!sum(old), sum(new))
}

/// RFC 1624, equation 3: the checksum field after the data's sum changed by `delta`, which
/// is `add(!old, new)` over the words that changed. The delta of the reverse change is `!delta`.
#[inline(always)]
pub fn apply(field: u16, delta: u16) -> u16 {
    !add(!field, delta)
}

/// The same for UDP over IPv4 and IPv6: a result of zero is sent as all ones (RFC 768).
/// The caller has seen that the field is not zero ("no checksum").
#[inline(always)]
pub fn apply_udp(field: u16, delta: u16) -> u16 {
    let new = apply(field, delta);
    if new == 0 { 0xffff } else { new }
}

/// The same for a field that may say "no checksum", which stays so.
#[inline(always)]
pub fn apply_udp_optional(field: u16, delta: u16) -> u16 {
    if field == 0 { 0 } else { apply_udp(field, delta) }
}

/// The difference of a TTL lowered by one: the word of TTL and protocol loses 0x0100.
pub const TTL_DELTA: u16 = u16::from_ne_bytes([0xfe, 0xff]);

/// Sum of the IPv4 pseudo-header (RFC 9293 section 3.1). `addresses` are the eight bytes of
/// both, as they stand in the header, `len` is that of the transport header and data.
pub fn pseudo4(addresses: &[u8], len: usize, proto: u8) -> u16 {
    add(sum(addresses), sum(&[0, proto, (len >> 8) as u8, len as u8]))
}

/// Sum of the IPv6 pseudo-header (RFC 8200 section 8.1); `addresses` are 32 bytes.
pub fn pseudo6(addresses: &[u8], len: usize, proto: u8) -> u16 {
    let tail = [(len >> 24) as u8, (len >> 16) as u8, (len >> 8) as u8, len as u8, 0, 0, 0, proto];
    add(sum(addresses), sum(&tail))
}

/// CRC32c, fed in pieces; by the processor's own instruction where it has one.
pub struct Crc32c(u32);

impl Crc32c {
    /// Of nothing yet.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self(0)
    }
    /// Adds data.
    pub fn update(&mut self, data: &[u8]) {
        self.0 = crc32c::crc32c_append(self.0, data);
    }
    /// The checksum as a number; SCTP sends it least significant byte first.
    pub fn finish(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 to the letter: words in network order, carries added at the end.
    fn plain(data: &[u8]) -> u16 {
        let word = |w: &[u8]| u32::from(w[0]) << 8 | u32::from(w.get(1).copied().unwrap_or(0));
        let mut total: u32 = data.chunks(2).map(word).sum();
        while total >> 16 != 0 {
            total = (total & 0xffff) + (total >> 16);
        }
        u16::from_ne_bytes((total as u16).to_be_bytes())
    }

    /// CRC32c bit by bit (RFC 9260 appendix A).
    fn plain_crc(data: &[u8]) -> u32 {
        !data.iter().fold(u32::MAX, |crc, b| {
            (0..8).fold(crc ^ u32::from(*b), |c, _| if c & 1 != 0 { (c >> 1) ^ 0x82f6_3b78 } else { c >> 1 })
        })
    }

    /// The two zeros of one's complement are the same number.
    fn same(a: u16, b: u16) -> bool {
        a == b || (a ^ b == 0xffff && (a == 0 || b == 0))
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let s = sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(s.to_ne_bytes(), [0xdd, 0xf2]);
    }

    #[test]
    fn crc32c_of_the_usual_digits() {
        let mut c = Crc32c::new();
        c.update(b"1234");
        c.update(b"56789");
        assert_eq!(c.finish(), 0xe306_9283);
    }

    #[test]
    fn udp_never_sends_the_zero_that_means_no_checksum() {
        assert_eq!(apply_udp_optional(0, 0x1234), 0);
        for field in [1, 0x1234, 0xfffe, 0xffff] {
            // The difference that takes this field to zero.
            assert_eq!(apply_udp(field, field), 0xffff);
            assert_eq!(apply_udp_optional(field, field), 0xffff);
        }
    }

    #[test]
    fn the_longest_packet_overflows_no_lane() {
        assert_eq!(sum(&[0xff; 65_535]), plain(&[0xff; 65_535]));
    }

    proptest! {
        #[test]
        fn any_length_sums_as_the_rfc_says(data in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert_eq!(sum(&data), plain(&data));
            if let Some(h) = data.first_chunk() {
                prop_assert_eq!(sum_header(h), plain(h));
            }
        }

        #[test]
        fn crc_in_pieces_is_that_of_the_whole(data in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            let cut = cut.min(data.len());
            let mut c = Crc32c::new();
            c.update(&data[..cut]);
            c.update(&data[cut..]);
            prop_assert_eq!(c.finish(), plain_crc(&data));
        }

        #[test]
        fn incremental_equals_full_and_the_complement_goes_back(
            mut data in prop::collection::vec(any::<u8>(), 24..80),
            at in 0usize..4,
            new in prop::collection::vec(any::<u8>(), 12),
        ) {
            let field = !sum(&data);
            let range = at * 2..at * 2 + new.len();
            let d = delta(&data[range.clone()], &new);
            data[range].copy_from_slice(&new);
            prop_assert!(same(apply(field, d), !sum(&data)));
            prop_assert!(same(apply(apply(field, d), !d), field));
        }

        #[test]
        fn a_lower_ttl_is_a_difference_too(mut h in any::<[u8; 20]>(), ttl in 1u8..) {
            h[8] = ttl;
            h[10..12].fill(0);
            let field = !sum_header(&h);
            h[8] -= 1;
            prop_assert!(same(apply(field, TTL_DELTA), !sum_header(&h)));
        }

        #[test]
        fn a_wrong_checksum_stays_wrong(data in prop::collection::vec(any::<u8>(), 12..60), new in any::<[u8; 2]>(), error in 1u16..0xffff) {
            let right = !sum(&data);
            let wrong = add(right, error);
            prop_assume!(!same(wrong, right));
            let d = delta(&data[..2], &new);
            prop_assert!(!same(apply(wrong, d), apply(right, d)));
        }
    }
}
