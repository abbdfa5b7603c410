//! IPv4 (RFC 791).

use crate::units::{Be16, Ip};
use crate::wire::checksum;

/// Header without options, bytes.
pub const LEN: usize = 20;
/// Longest header, bytes.
pub const LEN_MAX: usize = 60;

/// Don't fragment, in [`Ipv4::fragment_word`].
pub const DF: u16 = 0x4000;
/// More fragments follow.
pub const MF: u16 = 0x2000;
/// The offset, in units of eight bytes.
pub const OFFSET: u16 = 0x1fff;

/// End of the options.
pub const OPTION_END: u8 = 0;
/// One byte of nothing.
pub const OPTION_NOP: u8 = 1;
/// Record route.
pub const OPTION_RR: u8 = 0x07;
/// Loose source and record route (RFC 791 section 3.1).
pub const OPTION_LSRR: u8 = 0x83;
/// Strict source and record route.
pub const OPTION_SSRR: u8 = 0x89;

header! {
    /// The header without its options.
    Ipv4[20] {
        /// Version, and header length in words of four bytes.
        version_ihl, set_version_ihl: u8 = 0..1;
        /// Type of service: DSCP (RFC 2474) and ECN (RFC 3168).
        tos, set_tos: u8 = 1..2;
        /// Length of the packet with this header, bytes.
        total_len, set_total_len: u16 = 2..4;
        /// Identification of the datagram (RFC 6864).
        id, set_id: u16 = 4..6;
        /// [`DF`], [`MF`] and [`OFFSET`].
        fragment_word, set_fragment_word: u16 = 6..8;
        /// Time to live.
        ttl, set_ttl: u8 = 8..9;
        /// What follows (see [`crate::wire::protocol`]).
        protocol, set_protocol: u8 = 9..10;
        /// Header checksum, as it lies in memory.
        checksum, set_checksum: Be16 = 10..12;
        /// Source.
        src, set_src: Ip = 12..16;
        /// Destination.
        dst, set_dst: Ip = 16..20;
    }
}

impl<T: std::borrow::Borrow<[u8; LEN]>> Ipv4<T> {
    /// Length of the header with its options as it claims, bytes.
    #[inline(always)]
    pub fn header_len(&self) -> usize {
        usize::from(self.version_ihl() & 15) * 4
    }
    /// Whether this is a piece of a datagram.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.fragment_word() & (MF | OFFSET) != 0
    }
    /// Both addresses as they stand in the header, for a pseudo-header's sum.
    #[inline(always)]
    pub fn addresses(&self) -> [u8; 8] {
        crate::wire::at::<12, 8, LEN>(self.bytes())
    }
}

impl<T: std::borrow::BorrowMut<[u8; LEN]>> Ipv4<T> {
    /// Lowers the TTL by one and applies `delta`, what else changes in the header, to the
    /// checksum (RFC 1624). False, and nothing changed, when the TTL is used up.
    #[inline(always)]
    pub fn lower_ttl(&mut self, delta: u16) -> bool {
        let ttl = self.ttl();
        if ttl <= 1 {
            return false;
        }
        self.set_ttl(ttl - 1);
        let sum = checksum::apply(self.checksum().raw(), checksum::add(delta, checksum::TTL_DELTA));
        self.set_checksum(Be16(sum.to_ne_bytes()));
        true
    }
    /// Computes the checksum of a header without options.
    #[inline(always)]
    pub fn fill_checksum(&mut self) {
        self.set_checksum(Be16([0; 2]));
        let sum = !checksum::sum_header(self.bytes());
        self.set_checksum(Be16(sum.to_ne_bytes()));
    }
}

/// Computes the checksum of a header with its options anew; `header` is at least [`LEN`] bytes long.
pub fn fill_checksum(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = !checksum::sum(header);
    header[10..12].copy_from_slice(&sum.to_ne_bytes());
}

/// Why a header is none that can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// Shorter than a header.
    Short,
    /// Not version 4.
    Version,
    /// The header's length is below 20 bytes or beyond the data.
    HeaderLength,
    /// The total length is below the header's or beyond the frame.
    TotalLength,
    /// The header checksum is wrong.
    Checksum,
    /// An option that is too short or reaches beyond the header.
    Option,
    /// An option that lets the sender choose the route (RFC 7126 section 4.3: drop).
    SourceRoute,
}

/// A valid header: lengths are consistent, the checksum is right, the options well-formed.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    /// The fixed part.
    pub fixed: Ipv4<&'a [u8; LEN]>,
    /// The options, padding included; often empty.
    pub options: &'a [u8],
}

impl<'a> Header<'a> {
    /// Validates the header at the front of `packet`, a first segment; the whole packet has
    /// `available` bytes (padding of the frame included).
    pub fn new_checked(packet: &'a [u8], available: usize) -> Result<Self, Malformed> {
        let fixed = Ipv4::first(packet).ok_or(Malformed::Short)?;
        if fixed.version_ihl() >> 4 != 4 {
            return Err(Malformed::Version);
        }
        let len = fixed.header_len();
        let whole = packet.get(..len).filter(|_| len >= LEN).ok_or(Malformed::HeaderLength)?;
        let total = usize::from(fixed.total_len());
        if total < len || total > available {
            return Err(Malformed::TotalLength);
        }
        if checksum::sum(whole) != 0xffff {
            return Err(Malformed::Checksum);
        }
        let options = &whole[LEN..];
        for option in Options(options) {
            if matches!(option?.0, OPTION_LSRR | OPTION_SSRR) {
                return Err(Malformed::SourceRoute);
            }
        }
        Ok(Self { fixed, options })
    }
    /// Length with options, bytes.
    pub fn header_len(&self) -> usize {
        LEN + self.options.len()
    }
}

/// The options one by one: kind and content, without padding.
#[derive(Clone, Debug)]
pub struct Options<'a>(pub &'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = Result<(u8, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (kind, rest) = self.0.split_first()?;
            match *kind {
                OPTION_END => self.0 = &[],
                OPTION_NOP => self.0 = rest,
                kind => {
                    // The length counts kind and length.
                    let len = rest.first().map_or(0, |l| usize::from(*l));
                    let Some(content) = self.0.get(2..len) else {
                        self.0 = &[];
                        return Some(Err(Malformed::Option));
                    };
                    self.0 = &self.0[len..];
                    return Some(Ok((kind, content)));
                }
            }
        }
    }
}

/// The fields of a header made here; lengths, version and checksum follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fields {
    /// Type of service.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// Don't fragment.
    pub df: bool,
    /// Time to live.
    pub ttl: u8,
    /// What follows.
    pub protocol: u8,
    /// Source, an IPv4 address.
    pub src: Ip,
    /// Destination, an IPv4 address.
    pub dst: Ip,
}

/// Writes a header without options in front of `payload` bytes; `None` when there is no
/// room or the packet would be longer than 64 KiB.
pub fn write(out: &mut [u8], f: &Fields, payload: usize) -> Option<usize> {
    let total = u16::try_from(LEN + payload).ok()?;
    let mut h = Ipv4::first_mut(out)?;
    h.set_version_ihl(0x45);
    h.set_tos(f.tos);
    h.set_total_len(total);
    h.set_id(f.id);
    h.set_fragment_word(if f.df { DF } else { 0 });
    h.set_ttl(f.ttl);
    h.set_protocol(f.protocol);
    h.set_src(f.src);
    h.set_dst(f.dst);
    h.fill_checksum();
    Some(LEN)
}

/// The outer TOS for an inner one: copied, but "congestion experienced" becomes ECT(0), as
/// the kernel does it; only the outer header's own routers may report congestion on it.
#[inline(always)]
pub const fn outer_tos(inner: u8) -> u8 {
    if inner & 3 == 3 { inner & !1 } else { inner }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIELDS: Fields = Fields {
        tos: 0xba,
        id: 0x1234,
        df: true,
        ttl: 64,
        protocol: 6,
        src: Ip::from_v4([10, 1, 0, 1]),
        dst: Ip::from_v4([10, 9, 0, 1]),
    };

    fn packet(options: &[u8]) -> Vec<u8> {
        let mut p = vec![0; LEN + options.len() + 8];
        write(&mut p, &FIELDS, options.len() + 8).unwrap();
        p[LEN..LEN + options.len()].copy_from_slice(options);
        p[0] = 0x45 + (options.len() / 4) as u8;
        right(&mut p);
        p
    }

    fn right(p: &mut [u8]) {
        let len = usize::from(p[0] & 15) * 4;
        p[10..12].fill(0);
        let sum = !checksum::sum(&p[..len.min(p.len())]);
        p[10..12].copy_from_slice(&sum.to_ne_bytes());
    }

    fn check(p: &[u8]) -> Result<usize, Malformed> {
        Header::new_checked(p, p.len()).map(|h| h.header_len())
    }

    #[test]
    fn a_header_made_here_is_valid_and_reads_back() {
        let p = packet(&[]);
        let h = Header::new_checked(&p, p.len()).unwrap();
        let f = h.fixed;
        assert_eq!((f.tos(), f.id(), f.ttl(), f.protocol(), f.total_len()), (0xba, 0x1234, 64, 6, 28));
        assert_eq!((f.src(), f.dst(), f.fragment_word()), (FIELDS.src, FIELDS.dst, DF));
        assert!(!f.is_fragment() && h.options.is_empty());
        assert!(write(&mut [0; 20], &FIELDS, 65_516).is_none());
        assert!(write(&mut [0; 19], &FIELDS, 0).is_none());
    }

    #[test]
    fn every_lie_has_its_reason() {
        let good = packet(&[]);
        let lie = |at: usize, value: u8| {
            let mut p = good.clone();
            p[at] = value;
            right(&mut p);
            check(&p)
        };
        assert_eq!(check(&good[..19]), Err(Malformed::Short));
        assert_eq!(lie(0, 0x65), Err(Malformed::Version));
        assert_eq!(lie(0, 0x44), Err(Malformed::HeaderLength));
        assert_eq!(lie(0, 0x4f), Err(Malformed::HeaderLength), "longer than the data");
        assert_eq!(lie(3, 19), Err(Malformed::TotalLength));
        assert_eq!(lie(3, 29), Err(Malformed::TotalLength));
        assert!(Header::new_checked(&good[..20], 28).is_ok(), "the rest is in another segment");
        let mut p = good.clone();
        p[8] ^= 1;
        assert_eq!(check(&p), Err(Malformed::Checksum));
    }

    #[test]
    fn options_are_walked() {
        assert_eq!(check(&packet(&[OPTION_NOP, OPTION_RR, 7, 4, 0, 0, 0, 0])), Ok(28));
        assert_eq!(check(&packet(&[OPTION_END, 0x83, 1, 1])), Ok(24), "nothing counts after the end");
        assert_eq!(check(&packet(&[OPTION_LSRR, 3, 4, 0])), Err(Malformed::SourceRoute));
        assert_eq!(check(&packet(&[OPTION_NOP, OPTION_SSRR, 3, 4])), Err(Malformed::SourceRoute));
        for bad in [[OPTION_RR, 0, 0, 0], [OPTION_RR, 1, 0, 0], [OPTION_RR, 5, 0, 0], [1, 1, 1, OPTION_RR]] {
            assert_eq!(check(&packet(&bad)), Err(Malformed::Option), "{bad:?}");
        }
        let p = packet(&[OPTION_RR, 3, 4, OPTION_NOP, 0x44, 4, 5, 0]);
        let kinds: Vec<_> = Options(&p[20..28]).map(|o| o.map(|(k, c)| (k, c.len()))).collect();
        assert_eq!(kinds, [Ok((OPTION_RR, 1)), Ok((0x44, 2))]);
    }

    #[test]
    fn congestion_is_not_copied_outwards() {
        assert_eq!([0xb8, 0xb9, 0xba, 0xbb].map(outer_tos), [0xb8, 0xb9, 0xba, 0xba]);
    }

    proptest! {
        #[test]
        fn the_ttl_runs_down_with_a_right_checksum(ttl in any::<u8>(), id in any::<u16>(), tos in any::<u8>()) {
            let mut p = [0; LEN];
            write(&mut p, &Fields { ttl, id, tos, ..FIELDS }, 0).unwrap();
            let lowered = Ipv4(&mut p).lower_ttl(0);
            prop_assert_eq!(lowered, ttl > 1);
            prop_assert_eq!(p[8], if ttl > 1 { ttl - 1 } else { ttl });
            prop_assert_eq!(check(&p), Ok(20));
        }

        #[test]
        fn whatever_comes_is_judged(p in prop::collection::vec(any::<u8>(), 0..80), first in 0x40u8..0x50) {
            let mut p = p;
            if let Some(b) = p.first_mut() { *b = first; }
            if p.len() >= 20 { right(&mut p); }
            if let Ok(h) = Header::new_checked(&p, p.len()) {
                prop_assert!(h.header_len() <= usize::from(h.fixed.total_len()));
            }
        }
    }
}
