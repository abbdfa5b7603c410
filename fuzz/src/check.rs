//! What must be true of every frame that leaves the director, whatever came in.

use crate::input::internet_checksum;

/// Panics with what is wrong with an emitted frame.
///
/// Transport checksums are not looked at: a packet that arrived with a wrong one leaves
/// with a wrong one, as from any router.
pub fn frame(bytes: &[u8]) {
    assert!(bytes.len() >= 14, "frame of {} bytes", bytes.len());
    assert!(bytes[..6] != [0; 6], "frame to the zero address: {bytes:02x?}");
    assert!(bytes[6] & 1 == 0, "frame from a group address: {bytes:02x?}");
    match [bytes[12], bytes[13]] {
        [8, 0] => ipv4(&bytes[14..], bytes),
        [0x86, 0xdd] => ipv6(&bytes[14..], bytes),
        [8, 6] => assert!(bytes.len() >= 42, "short ARP: {bytes:02x?}"),
        other => panic!("Ethernet type {other:02x?}: {bytes:02x?}"),
    }
}

fn ipv4(ip: &[u8], frame: &[u8]) {
    assert!(ip.len() >= 20, "short IPv4 packet: {frame:02x?}");
    let header = usize::from(ip[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    assert!(ip[0] >> 4 == 4 && header >= 20 && header <= total, "IPv4 lengths: {frame:02x?}");
    assert!(total <= ip.len(), "total length {total} of {}: {frame:02x?}", ip.len());
    assert!(total <= 1500, "{total} bytes on a link of 1500: {frame:02x?}");
    assert_eq!(internet_checksum(&[&ip[..header]]), 0, "IPv4 header checksum: {frame:02x?}");
    assert!(ip[8] > 0, "TTL of zero: {frame:02x?}");
    // Beyond the packet there is only the padding of a minimal frame.
    assert!(ip.len() == total || frame.len() <= 60 || ip.len() - total < 64, "trailing bytes: {frame:02x?}");
    let first = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff == 0;
    // IPIP is made here only, so what it holds is as good as what else we send.
    if first && ip[9] == 4 && ip[12..16] == [10, 2, 0, 254] {
        let inner = &ip[header..total];
        assert!(inner.len() >= 20, "short inner packet: {frame:02x?}");
        let inner_header = usize::from(inner[0] & 15) * 4;
        assert_eq!(internet_checksum(&[&inner[..inner_header]]), 0, "inner header checksum: {frame:02x?}");
        assert_eq!(usize::from(u16::from_be_bytes([inner[2], inner[3]])), inner.len(), "inner length: {frame:02x?}");
    }
}

fn ipv6(ip: &[u8], frame: &[u8]) {
    assert!(ip.len() >= 40 && ip[0] >> 4 == 6, "short IPv6 packet: {frame:02x?}");
    let payload = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    assert!(payload + 40 <= ip.len(), "payload length {payload} of {}: {frame:02x?}", ip.len() - 40);
    assert!(payload + 40 <= 1500, "{payload} bytes of payload on a link of 1500: {frame:02x?}");
    assert!(ip[7] > 0, "hop limit of zero: {frame:02x?}");
}
