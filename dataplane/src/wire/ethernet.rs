//! Ethernet II frames (IEEE 802.3).

use crate::units::Mac;

/// Header without tags, bytes.
pub const LEN: usize = 14;
/// Shortest frame without its check sequence; a shorter one is padded.
pub const SHORTEST: usize = 60;

/// IPv4.
pub const IPV4: u16 = 0x0800;
/// ARP.
pub const ARP: u16 = 0x0806;
/// IPv6.
pub const IPV6: u16 = 0x86dd;
/// Transparent Ethernet bridging: what GRE and GUE call a whole frame.
pub const BRIDGING: u16 = 0x6558;

header! {
    /// The header of a frame without tags.
    Ethernet[14] {
        /// Destination.
        dst, set_dst: Mac = 0..6;
        /// Source.
        src, set_src: Mac = 6..12;
        /// What follows; a tag's identifier if a tag does (see [`crate::wire::vlan`]).
        ethertype, set_ethertype: u16 = 12..14;
    }
}

/// The Ethernet address of an IPv6 multicast group (RFC 2464 section 7).
pub fn multicast_v6(group: [u8; 16]) -> Mac {
    Mac([0x33, 0x33, group[12], group[13], group[14], group[15]])
}

/// Writes a header without tags; `None` when there is no room.
pub fn write(out: &mut [u8], dst: Mac, src: Mac, ethertype: u16) -> Option<usize> {
    let mut h = Ethernet::first_mut(out)?;
    h.set_dst(dst);
    h.set_src(src);
    h.set_ethertype(ethertype);
    Some(LEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_they_belong() {
        let mut frame = [0; 16];
        let (a, b) = (Mac([1, 2, 3, 4, 5, 6]), Mac([7, 8, 9, 10, 11, 12]));
        assert_eq!(write(&mut frame, a, b, IPV6), Some(14));
        assert_eq!(frame, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x86, 0xdd, 0, 0]);
        let h = Ethernet::first(&frame).unwrap();
        assert_eq!((h.dst(), h.src(), h.ethertype()), (a, b, IPV6));
        assert!(Ethernet::first(&frame[..13]).is_none());
        assert_eq!(write(&mut frame[..13], a, b, IPV6), None);
    }
}
