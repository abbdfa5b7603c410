//! VLAN tags (IEEE 802.1Q): what stands between Ethernet's addresses and the ethertype.

use crate::wire::ethernet;

/// A tag, bytes.
pub const LEN: usize = 4;
/// Identifier of a customer's tag, 802.1Q.
pub const CUSTOMER: u16 = 0x8100;
/// Identifier of a service provider's tag, 802.1ad ("QinQ").
pub const SERVICE: u16 = 0x88a8;

header! {
    /// What follows the identifier of a tag, which stands in Ethernet's ethertype field.
    Tag[4] {
        /// Tag control information: priority (3 bits), drop eligible (1), VLAN (12).
        tci, set_tci: u16 = 0..2;
        /// What follows the tag.
        ethertype, set_ethertype: u16 = 2..4;
    }
}

/// The VLAN of a tag control information, 0–4095; 0 means priority alone, no VLAN.
#[inline(always)]
pub const fn vlan_of(tci: u16) -> u16 {
    tci & 0xfff
}

/// What a frame shows behind its addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layer2 {
    /// Tag control information of the one tag.
    pub tci: Option<u16>,
    /// The ethertype behind the tag.
    pub ethertype: u16,
    /// Where the network header starts, bytes.
    pub len: usize,
}

/// Reads the header of a frame with one tag of 802.1Q or none. A second tag, or a
/// provider's, is left as the ethertype: such frames are passed by.
pub fn parse(frame: &[u8]) -> Option<Layer2> {
    let h = ethernet::Ethernet::first(frame)?;
    if h.ethertype() != CUSTOMER {
        return Some(Layer2 { tci: None, ethertype: h.ethertype(), len: ethernet::LEN });
    }
    let tag = Tag::first(&frame[ethernet::LEN..])?;
    Some(Layer2 { tci: Some(tag.tci()), ethertype: tag.ethertype(), len: ethernet::LEN + LEN })
}

/// Puts a tag into a frame whose first four bytes are new room: the addresses move to the
/// front. `None` when the frame is too short.
pub fn insert(frame: &mut [u8], tci: u16) -> Option<()> {
    let h = frame.first_chunk_mut::<{ ethernet::LEN + LEN }>()?;
    h.copy_within(LEN..LEN + 12, 0);
    h[12..14].copy_from_slice(&CUSTOMER.to_be_bytes());
    h[14..16].copy_from_slice(&tci.to_be_bytes());
    Some(())
}

/// Takes the tag out: the addresses move four bytes to the back, the first four bytes
/// are to be cut off. Returns the tag control information; `None` when there is no tag.
pub fn remove(frame: &mut [u8]) -> Option<u16> {
    let h = frame.first_chunk_mut::<{ ethernet::LEN + LEN }>()?;
    if h[12..14] != CUSTOMER.to_be_bytes() {
        return None;
    }
    let tci = u16::from_be_bytes([h[14], h[15]]);
    h.copy_within(0..12, LEN);
    Some(tci)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_put_in_is_taken_out() {
        let mut frame: Vec<u8> = (0..40).collect();
        frame[16..18].copy_from_slice(&[8, 0]);
        let before = frame[4..].to_vec();
        insert(&mut frame, 0x600a).unwrap();
        assert_eq!(frame[..12], before[..12]);
        assert_eq!(frame[12..18], [0x81, 0, 0x60, 10, 8, 0]);
        let l2 = parse(&frame).unwrap();
        assert_eq!(l2, Layer2 { tci: Some(0x600a), ethertype: ethernet::IPV4, len: 18 });
        assert_eq!(vlan_of(0x600a), 10);
        assert_eq!(remove(&mut frame), Some(0x600a));
        assert_eq!(frame[4..], before);
        assert_eq!(parse(&before).unwrap().len, 14);
    }

    #[test]
    fn short_and_foreign_frames_are_told_apart() {
        let mut frame = [0; 18];
        frame[12..14].copy_from_slice(&SERVICE.to_be_bytes());
        assert_eq!(parse(&frame).unwrap(), Layer2 { tci: None, ethertype: SERVICE, len: 14 });
        assert_eq!(remove(&mut frame), None);
        frame[12..14].copy_from_slice(&CUSTOMER.to_be_bytes());
        assert!(parse(&frame[..17]).is_none());
        assert!(parse(&frame[..13]).is_none());
        assert!(insert(&mut frame[..17], 1).is_none());
    }
}
