//! VXLAN (RFC 7348): a whole frame in UDP.

/// Header, bytes.
pub const LEN: usize = 8;
/// The port assigned to it.
pub const PORT: u16 = 4789;
/// The network identifier is valid.
const VALID: u32 = 0x0800_0000;

header! {
    /// The header.
    Vxlan[8] {
        /// Flags, in the highest byte.
        flags, set_flags: u32 = 0..4;
        /// Network identifier in the high 24 bits.
        vni_word, set_vni_word: u32 = 4..8;
    }
}

/// Writes the header of a frame of network `vni` (24 bits); `None` when there is no room.
pub fn write(out: &mut [u8], vni: u32) -> Option<usize> {
    let mut h = Vxlan::first_mut(out)?;
    h.set_flags(VALID);
    h.set_vni_word(vni << 8);
    Some(LEN)
}

/// Reads the network identifier; `None` when the header is cut short or has none.
pub fn parse(data: &[u8]) -> Option<u32> {
    let h = Vxlan::first(data)?;
    (h.flags() & VALID != 0).then(|| h.vni_word() >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_reads_back() {
        let mut out = [0xee; 8];
        assert_eq!(write(&mut out, 0x12_3456), Some(8));
        assert_eq!(out, [8, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
        assert_eq!(parse(&out), Some(0x12_3456));
        out[0] = 0;
        assert_eq!(parse(&out), None);
        assert_eq!(parse(&out[..7]), None);
    }
}
