//! IPv6 (RFC 8200) and its extension headers.

use crate::units::Ip;

/// Fixed header, bytes.
pub const LEN: usize = 40;
/// What every link carries at least, bytes (RFC 8200 section 5).
pub const MIN_MTU: u16 = 1280;
/// Extension headers walked at most; more of them is taken for an attack.
pub const EXTENSIONS_MAX: usize = 8;

/// Hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Routing.
pub const ROUTING: u8 = 43;
/// Fragment.
pub const FRAGMENT: u8 = 44;
/// Authentication (RFC 4302).
pub const AUTHENTICATION: u8 = 51;
/// Destination options.
pub const DESTINATION: u8 = 60;

/// All nodes of the link, ff02::1 (RFC 4291 section 2.7.1).
pub const ALL_NODES: Ip = Ip([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// The solicited-node group of an address (RFC 4291 section 2.7.1).
pub const fn solicited_node(a: Ip) -> Ip {
    let a = a.0;
    Ip([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a[13], a[14], a[15]])
}

header! {
    /// The fixed header.
    Ipv6[40] {
        /// Version (4 bits), traffic class (8), flow label (20).
        version_class_label, set_version_class_label: u32 = 0..4;
        /// Length of what follows this header, extension headers included, bytes.
        payload_len, set_payload_len: u16 = 4..6;
        /// What follows: an extension header or an upper layer.
        next_header, set_next_header: u8 = 6..7;
        /// Hop limit.
        hop_limit, set_hop_limit: u8 = 7..8;
        /// Source.
        src, set_src: Ip = 8..24;
        /// Destination.
        dst, set_dst: Ip = 24..40;
    }
}

impl<T: std::borrow::Borrow<[u8; LEN]>> Ipv6<T> {
    /// Traffic class: what IPv4 calls type of service.
    #[inline(always)]
    pub fn class(&self) -> u8 {
        (self.version_class_label() >> 20) as u8
    }
    /// Both addresses as they stand in the header, for a pseudo-header's sum.
    #[inline(always)]
    pub fn addresses(&self) -> [u8; 32] {
        crate::wire::at::<8, 32, LEN>(self.bytes())
    }
}

impl<T: std::borrow::BorrowMut<[u8; LEN]>> Ipv6<T> {
    /// Lowers the hop limit by one; false, and nothing changed, when it is used up.
    #[inline(always)]
    pub fn lower_hop_limit(&mut self) -> bool {
        let left = self.hop_limit();
        if left > 1 {
            self.set_hop_limit(left - 1);
        }
        left > 1
    }
}

/// Why a packet is none that can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// Shorter than a header.
    Short,
    /// Not version 6.
    Version,
    /// The payload length reaches beyond the frame (a jumbogram's zero cannot be told from
    /// an empty packet and is taken for one).
    TotalLength,
    /// An extension header is cut short, or there are too many.
    Extension,
    /// A routing header of type 0 with segments left (RFC 5095).
    SourceRoute,
}

/// A piece of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// Where it belongs, in units of eight bytes.
    pub offset: u16,
    /// More follow.
    pub more: bool,
    /// Identification of the datagram.
    pub id: u32,
}

/// A valid packet: lengths are consistent, the extension headers well-formed.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    /// The fixed part.
    pub fixed: Ipv6<&'a [u8; LEN]>,
    /// The upper layer, or for a later fragment what its header names.
    pub protocol: u8,
    /// Where that starts, bytes from the fixed header's start.
    pub offset: usize,
    /// Set when the packet is a fragment. An atomic one (RFC 6946) is a whole packet.
    pub fragment: Option<Fragment>,
}

impl<'a> Header<'a> {
    /// Validates the packet whose first segment is `packet` and which has `available` bytes
    /// in all (padding of the frame included). The extension headers must be in the first
    /// segment.
    pub fn new_checked(packet: &'a [u8], available: usize) -> Result<Self, Malformed> {
        let fixed = Ipv6::first(packet).ok_or(Malformed::Short)?;
        if fixed.version_class_label() >> 28 != 6 {
            return Err(Malformed::Version);
        }
        let total = LEN + usize::from(fixed.payload_len());
        if total > available {
            return Err(Malformed::TotalLength);
        }
        let packet = &packet[..packet.len().min(total)];
        let (mut protocol, mut offset, mut fragment) = (fixed.next_header(), LEN, None);
        for _ in 0..EXTENSIONS_MAX {
            let data = packet.get(offset..).unwrap_or(&[]);
            if !matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION) {
                return Ok(Self { fixed, protocol, offset, fragment });
            }
            let h = data.first_chunk::<8>().ok_or(Malformed::Extension)?;
            let len = match protocol {
                FRAGMENT => 8,
                AUTHENTICATION => (usize::from(h[1]) + 2) * 4,
                _ => (usize::from(h[1]) + 1) * 8,
            };
            if len > data.len() {
                return Err(Malformed::Extension);
            }
            if protocol == ROUTING && h[2] == 0 && h[3] != 0 {
                return Err(Malformed::SourceRoute);
            }
            if protocol == FRAGMENT {
                let word = u16::from_be_bytes([h[2], h[3]]);
                let f = Fragment {
                    offset: word >> 3,
                    more: word & 1 != 0,
                    id: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
                };
                if f.offset != 0 || f.more {
                    fragment = Some(f);
                }
            }
            (protocol, offset) = (h[0], offset + len);
            if fragment.is_some_and(|f| f.offset != 0) {
                // What follows is somewhere in the middle of the datagram.
                return Ok(Self { fixed, protocol, offset, fragment });
            }
        }
        Err(Malformed::Extension)
    }
}

/// The fields of a header made here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fields {
    /// Traffic class.
    pub class: u8,
    /// Flow label, 20 bits (RFC 6437).
    pub label: u32,
    /// Hop limit.
    pub hop_limit: u8,
    /// What follows.
    pub protocol: u8,
    /// Source.
    pub src: Ip,
    /// Destination.
    pub dst: Ip,
}

/// Writes a header in front of `payload` bytes; `None` when there is no room or the
/// payload is longer than 64 KiB.
pub fn write(out: &mut [u8], f: &Fields, payload: usize) -> Option<usize> {
    let len = u16::try_from(payload).ok()?;
    let mut h = Ipv6::first_mut(out)?;
    h.set_version_class_label(6 << 28 | u32::from(f.class) << 20 | f.label & 0xf_ffff);
    h.set_payload_len(len);
    h.set_next_header(f.protocol);
    h.set_hop_limit(f.hop_limit);
    h.set_src(f.src);
    h.set_dst(f.dst);
    Some(LEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIELDS: Fields = Fields {
        class: 0xba,
        label: 0x12345,
        hop_limit: 64,
        protocol: 6,
        src: Ip([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        dst: Ip([0x20, 1, 0xd, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]),
    };

    fn packet(first: u8, rest: &[u8]) -> Vec<u8> {
        let mut p = vec![0; LEN];
        write(&mut p, &Fields { protocol: first, ..FIELDS }, rest.len()).unwrap();
        p.extend_from_slice(rest);
        p
    }
    fn check(p: &[u8]) -> Result<(u8, usize, Option<Fragment>), Malformed> {
        Header::new_checked(p, p.len()).map(|h| (h.protocol, h.offset, h.fragment))
    }

    #[test]
    fn a_header_made_here_is_valid_and_reads_back() {
        let p = packet(6, &[0; 20]);
        let h = Header::new_checked(&p, p.len() + 6).unwrap().fixed;
        assert_eq!(p[..4], [0x6b, 0xa1, 0x23, 0x45]);
        assert_eq!((h.class(), h.payload_len(), h.next_header(), h.hop_limit()), (0xba, 20, 6, 64));
        assert_eq!((h.src(), h.dst()), (FIELDS.src, FIELDS.dst));
        assert_eq!(check(&p), Ok((6, 40, None)));
    }

    #[test]
    fn every_lie_has_its_reason() {
        let p = packet(6, &[0; 20]);
        assert_eq!(check(&p[..39]), Err(Malformed::Short));
        assert_eq!(check(&p[..59]), Err(Malformed::TotalLength));
        assert!(Header::new_checked(&p[..40], 60).is_ok(), "the rest is in another segment");
        let mut q = p.clone();
        q[0] = 0x45;
        assert_eq!(check(&q), Err(Malformed::Version));
        assert_eq!(check(&packet(HOP_BY_HOP, &[6, 0, 0, 0, 0, 0, 0])), Err(Malformed::Extension));
        assert_eq!(check(&packet(HOP_BY_HOP, &[6, 1, 0, 0, 0, 0, 0, 0])), Err(Malformed::Extension));
        assert_eq!(check(&packet(ROUTING, &[6, 0, 0, 1, 0, 0, 0, 0])), Err(Malformed::SourceRoute));
        let chain = [[DESTINATION, 0, 0, 0, 0, 0, 0, 0]; 9].concat();
        assert_eq!(check(&packet(DESTINATION, &chain)), Err(Malformed::Extension));
    }

    #[test]
    fn extension_headers_are_walked() {
        let mut rest = vec![DESTINATION, 1];
        rest.extend([0; 14]);
        rest.extend([AUTHENTICATION, 0, 0, 0, 0, 0, 0, 0]);
        rest.extend([17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(check(&packet(HOP_BY_HOP, &rest)), Ok((17, 40 + 16 + 8 + 12, None)));
        // A routing header that has been followed to its end is harmless.
        assert_eq!(check(&packet(ROUTING, &[6, 0, 0, 0, 0, 0, 0, 0])), Ok((6, 48, None)));
    }

    #[test]
    fn fragments_are_told_from_whole_packets() {
        let f = |word: u16| {
            let [a, b] = word.to_be_bytes();
            check(&packet(FRAGMENT, &[DESTINATION, 0, a, b, 0, 0, 0, 7, 17, 0, 0, 0, 0, 0, 0, 0])).unwrap()
        };
        assert_eq!(f(0), (17, 56, None), "atomic");
        assert_eq!(f(1), (17, 56, Some(Fragment { offset: 0, more: true, id: 7 })));
        assert_eq!(f(2 << 3), (DESTINATION, 48, Some(Fragment { offset: 2, more: false, id: 7 })));
    }

    #[test]
    fn a_group_for_each_address() {
        assert_eq!(solicited_node(FIELDS.dst).to_string(), "ff02::1:ff00:2");
    }

    #[test]
    fn the_hop_limit_runs_down() {
        let mut p = packet(6, &[]);
        for (before, after, ok) in [(64, 63, true), (2, 1, true), (1, 1, false), (0, 0, false)] {
            p[7] = before;
            let mut h = Ipv6::first_mut(&mut p).unwrap();
            assert_eq!((h.lower_hop_limit(), h.hop_limit()), (ok, after));
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_judged(rest in prop::collection::vec(any::<u8>(), 0..120), first in prop::sample::select(vec![0u8, 43, 44, 51, 60])) {
            let p = packet(first, &rest);
            if let Ok((_, offset, _)) = check(&p) {
                prop_assert!(offset <= p.len());
            }
        }
    }
}
