//! The Internet checksum (RFC 1071), its incremental update (RFC 1624), and CRC32c (RFC 9260).
//!
//! Sums here are one's-complement sums of 16-bit words *as they lie in memory*: the sum is
//! the same in either byte order (RFC 1071 section 2 B), so nothing is swapped. A checksum
//! field is the complement of such a sum, likewise as it lies in memory.

/// One's-complement sum of `data`, an odd last byte padded with zero.
#[inline]
pub fn sum(data: &[u8]) -> u16 {
    let mut total: u64 = 0;
    let mut words = data.chunks_exact(8);
    for w in &mut words {
        let w = u64::from_ne_bytes([w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]]);
        total += (w & 0xffff_ffff) + (w >> 32);
    }
    for w in words.remainder().chunks(2) {
        total += u64::from(u16::from_ne_bytes([w[0], w.get(1).copied().unwrap_or(0)]));
    }
    fold(total)
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

/// CRC32c, fed in pieces.
pub struct Crc32c(u32);

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut c = i as u32;
        let mut bit = 0;
        while bit < 8 {
            c = if c & 1 != 0 { (c >> 1) ^ 0x82f6_3b78 } else { c >> 1 };
            bit += 1;
        }
        table[i] = c;
        i += 1;
    }
    table
};

impl Crc32c {
    /// Of nothing yet.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self(u32::MAX)
    }
    /// Adds data.
    pub fn update(&mut self, data: &[u8]) {
        for b in data {
            self.0 = (self.0 >> 8) ^ CRC_TABLE[usize::from(self.0 as u8 ^ b)];
        }
    }
    /// The checksum as a number; SCTP sends it least significant byte first.
    pub fn finish(self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn incremental_equals_full(mut data in prop::collection::vec(any::<u8>(), 12..60), at in 0usize..5, new in any::<[u8; 2]>()) {
            let field = !sum(&data);
            let o = at * 2;
            let old = u16::from_ne_bytes([data[o], data[o + 1]]);
            let delta = add(!old, u16::from_ne_bytes(new));
            data[o..o + 2].copy_from_slice(&new);
            let full = !sum(&data);
            let updated = apply(field, delta);
            // The two zeros of one's complement are the same number.
            prop_assert!(updated == full || (updated ^ full == 0xffff && (updated == 0 || full == 0)));
            prop_assert_eq!(apply(updated, !delta), field);
        }
    }
}
