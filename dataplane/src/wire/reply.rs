//! Packets that answer packets: ICMP errors and TCP resets. Written into the caller's
//! buffer from the IP header on; the length is returned, 0 when the original is no packet
//! that can be answered.

use crate::units::{Be16, Ip};
use crate::wire::icmp::{self, Icmp};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::options::{self, Echoed};
use crate::wire::tcp::{self, Tcp};
use crate::wire::{checksum, icmpv6, protocol};

pub use crate::wire::checksum::{pseudo4, pseudo6};

/// IPv4 total length that an ICMP error may reach (RFC 1812 section 4.3.2.3; the kernel too).
const ICMP4_MAX: usize = 576;
/// What an ICMPv6 error may reach (RFC 4443 section 2.4 c).
const ICMP6_MAX: usize = 1280;
/// TTL and hop limit of what is sent from here.
const TTL: u8 = 64;
/// Internetwork control (RFC 1812 section 4.3.2.5).
const CONTROL: u8 = 0xc0;
/// The type of service (RFC 1349) that an ICMP error takes over from what it is about.
const TOS_MASK: u8 = 0x1e;
/// All but congestion notification, which a reset does not take over (RFC 3168 section 6.1.2).
const NOT_ECN: u8 = 0xfc;

/// An ICMP error about `original` (an IPv4 packet), from `from` to its sender.
/// `kind`, `code` and `rest` as in RFC 792; TTL 64, precedence of control and the sender's type of
/// service as the kernel.
pub fn icmp4_error(out: &mut [u8], original: &[u8], from: Ip, kind: u8, code: u8, rest: u32, id: u16) -> usize {
    let Some(h) = Ipv4::first(original) else { return 0 };
    let whole = usize::from(h.total_len()).min(original.len());
    let options = echoed(original, from.v4_bytes());
    let quoted = whole.min(ICMP4_MAX - ipv4::LEN - options.bytes().len() - icmp::LEN);
    let len = ipv4::LEN + options.bytes().len() + icmp::LEN + quoted;
    let Some(out) = out.get_mut(..len) else { return 0 };
    let tos = CONTROL | (original[1] & TOS_MASK);
    let f = ipv4::Fields { tos, id, df: false, ttl: TTL, protocol: protocol::ICMP, src: from, dst: h.src() };
    let Some(at) = write4(out, &f, &options, icmp::LEN + quoted) else { return 0 };
    let Some(message) = out.get_mut(at..) else { return 0 };
    error_message(message, kind, code, rest, &original[..quoted]);
    icmp::fill_checksum(message);
    len
}

/// What of an IPv4 packet's options its answer has.
fn echoed(original: &[u8], own: [u8; 4]) -> Echoed {
    let ihl = original.first().map_or(0, |b| usize::from(b & 15) * 4);
    options::echoed(original.get(..ihl).unwrap_or_default(), own)
}

/// An IPv4 header with options in front of `payload` bytes; returns its length.
fn write4(out: &mut [u8], f: &ipv4::Fields, options: &Echoed, payload: usize) -> Option<usize> {
    let options = options.bytes();
    let at = ipv4::LEN + options.len();
    ipv4::write(out, f, options.len() + payload)?;
    if !options.is_empty() {
        let header = out.get_mut(..at)?;
        header[0] = 0x40 | (at / 4) as u8;
        header[ipv4::LEN..].copy_from_slice(options);
        ipv4::fill_checksum(header);
    }
    Some(at)
}

/// An ICMPv6 error about `original` (an IPv6 packet), RFC 4443. Hop limit 64.
pub fn icmp6_error(out: &mut [u8], original: &[u8], from: Ip, kind: u8, code: u8, rest: u32) -> usize {
    let Some(h) = Ipv6::first(original) else { return 0 };
    let whole = (ipv6::LEN + usize::from(h.payload_len())).min(original.len());
    let quoted = whole.min(ICMP6_MAX - ipv6::LEN - icmp::LEN);
    let len = ipv6::LEN + icmp::LEN + quoted;
    let Some(out) = out.get_mut(..len) else { return 0 };
    let f = ipv6::Fields { class: 0, label: 0, hop_limit: TTL, protocol: protocol::ICMPV6, src: from, dst: h.src() };
    if ipv6::write(out, &f, icmp::LEN + quoted).is_none() {
        return 0;
    }
    let Some((head, message)) = out.split_first_chunk_mut::<{ ipv6::LEN }>() else { return 0 };
    error_message(message, kind, code, rest, &original[..quoted]);
    icmpv6::fill_checksum(&Ipv6(head).addresses(), message);
    len
}

/// Header and quoted packet, without checksum. `message` is as long as both.
fn error_message(message: &mut [u8], kind: u8, code: u8, rest: u32, quote: &[u8]) {
    let Some((head, body)) = message.split_first_chunk_mut::<{ icmp::LEN }>() else { return };
    let mut h = Icmp(head);
    h.set_kind(kind);
    h.set_code(code);
    h.set_rest(rest);
    body.copy_from_slice(quote);
}

/// The reset that answers a TCP segment (RFC 9293 section 3.10.7.1). `original` starts at
/// the IP header, `l4` is the offset of the TCP header in it. As Linux sends it: DF, id 0,
/// TTL 64, the sender's type of service. A reset is never answered.
pub fn tcp_reset(out: &mut [u8], original: &[u8], l4: usize) -> usize {
    let Some(t) = original.get(l4..).and_then(Tcp::first).filter(|t| t.flags() & tcp::RST == 0) else { return 0 };
    let v4 = original.first().is_some_and(|b| b >> 4 == 4);
    let (written, pseudo, end) = if v4 {
        let Some(h) = Ipv4::first(original) else { return 0 };
        let (src, dst) = (h.dst(), h.src());
        let tos = original[1] & NOT_ECN;
        let f = ipv4::Fields { tos, id: 0, df: true, ttl: TTL, protocol: protocol::TCP, src, dst };
        let pseudo = pseudo4(&h.addresses(), tcp::LEN, protocol::TCP);
        let options = echoed(original, src.v4_bytes());
        (write4(out, &f, &options, tcp::LEN), pseudo, usize::from(h.total_len()))
    } else {
        let Some(h) = Ipv6::first(original) else { return 0 };
        let (src, dst) = (h.dst(), h.src());
        let class = (original[0] << 4 | original[1] >> 4) & NOT_ECN;
        let f = ipv6::Fields { class, label: 0, hop_limit: TTL, protocol: protocol::TCP, src, dst };
        let pseudo = pseudo6(&h.addresses(), tcp::LEN, protocol::TCP);
        (ipv6::write(out, &f, tcp::LEN), pseudo, ipv6::LEN + usize::from(h.payload_len()))
    };
    let mut reset = Tcp::<[u8; tcp::LEN]>::ZERO;
    reset.set_src_port(t.dst_port());
    reset.set_dst_port(t.src_port());
    reset.set_offset((tcp::LEN as u8 / 4) << 4);
    if t.flags() & tcp::ACK != 0 {
        // The number that the sender expects next.
        reset.set_seq(t.ack());
        reset.set_flags(tcp::RST);
    } else {
        reset.set_ack(t.seq().wrapping_add(t.sequence_len(end.saturating_sub(l4))));
        reset.set_flags(tcp::RST | tcp::ACK);
    }
    // Swapped addresses have the same sum.
    let sum = !checksum::add(pseudo, checksum::sum(reset.bytes()));
    reset.set_checksum(Be16(sum.to_ne_bytes()));
    let room = written.and_then(|at| out.get_mut(at..at + tcp::LEN));
    let Some(room) = room else { return 0 };
    room.copy_from_slice(reset.bytes());
    written.unwrap_or(0) + tcp::LEN
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ipv4::Header;

    const CLIENT: Ip = Ip::from_v4([10, 1, 0, 1]);
    const VIP: Ip = Ip::from_v4([10, 9, 0, 1]);
    const CLIENT6: Ip = Ip([0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    const VIP6: Ip = Ip([0x20, 1, 0xd, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

    fn segment(flags: u8, seq: u32, ack: u32, data: usize) -> Vec<u8> {
        let mut t = Tcp::<[u8; 20]>::ZERO;
        t.set_src_port(Be16::new(40000));
        t.set_dst_port(Be16::new(80));
        t.set_offset(0x50);
        t.set_flags(flags);
        t.set_seq(seq);
        t.set_ack(ack);
        let mut out = t.bytes().to_vec();
        out.resize(20 + data, 0x5a);
        out
    }
    fn packet4(payload: &[u8]) -> Vec<u8> {
        let mut p = vec![0; 20];
        let f = ipv4::Fields { tos: 0, id: 5, df: false, ttl: 1, protocol: 6, src: CLIENT, dst: VIP };
        ipv4::write(&mut p, &f, payload.len()).unwrap();
        p.extend_from_slice(payload);
        p
    }
    fn packet6(payload: &[u8]) -> Vec<u8> {
        let mut p = vec![0; 40];
        let f = ipv6::Fields { class: 0, label: 0, hop_limit: 1, protocol: 6, src: CLIENT6, dst: VIP6 };
        ipv6::write(&mut p, &f, payload.len()).unwrap();
        p.extend_from_slice(payload);
        p
    }

    #[test]
    fn a_time_exceeded_as_recorded_from_the_kernel() {
        // Type 11, code 0 about the 46 bytes of a segment with TTL 1; the kernel's id was 0xd963.
        let original = [
            0x45, 0, 0, 0x2e, 0, 5, 0, 0, 1, 6, 0xa5, 0xba, 0x0a, 1, 0, 1, 0x0a, 9, 0, 1, 0x9c, 0x40, 0, 0x50, 0, 0, 3,
            0xe8, 0, 0, 0, 0, 0x50, 0x18, 0x20, 0, 0x11, 0x76, 0, 0, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46,
        ];
        let mut out = [0xee; 600];
        let n = icmp4_error(&mut out, &original, VIP, 11, 0, 0, 0xd963);
        let head = [
            0x45, 0xc0, 0, 0x4a, 0xd9, 0x63, 0, 0, 0x40, 1, 0x8c, 0x84, 0x0a, 9, 0, 1, 0x0a, 1, 0, 1, 0x0b, 0, 9, 0x2c,
            0, 0, 0, 0,
        ];
        assert_eq!(out[..28], head);
        assert_eq!(out[28..n], original);
    }

    #[test]
    fn errors_quote_as_much_as_they_may() {
        let mut out = [0; 2000];
        let big = packet4(&[7; 1400]);
        assert_eq!(icmp4_error(&mut out, &big, VIP, 3, 4, 1400, 1), 576);
        assert_eq!(Header::new_checked(&out, 576).unwrap().fixed.dst(), CLIENT);
        assert_eq!(checksum::sum(&out[20..576]), 0xffff);
        assert_eq!(Icmp::first(&out[20..]).unwrap().rest(), 1400);
        assert_eq!(out[28..576], big[..548]);
        // The frame's padding is not part of the packet.
        let mut padded = packet4(&[7; 8]);
        padded.resize(46, 0);
        assert_eq!(icmp4_error(&mut out, &padded, VIP, 3, 3, 0, 1), 56);
        assert_eq!(icmp4_error(&mut out[..55], &padded, VIP, 3, 3, 0, 1), 0, "no room");
        assert_eq!(icmp4_error(&mut out, &padded[..19], VIP, 3, 3, 0, 1), 0);
        let big = packet6(&[7; 1400]);
        assert_eq!(icmp6_error(&mut out, &big, VIP6, 2, 0, 1300), 1280);
        let h = Ipv6::first(&out).unwrap();
        assert_eq!((h.src(), h.dst(), h.hop_limit(), h.payload_len()), (VIP6, CLIENT6, 64, 1240));
        assert_eq!(icmpv6::sum(&h.addresses(), &out[40..1280]), 0xffff);
        assert_eq!(icmp6_error(&mut out, &big[..39], VIP6, 2, 0, 1300), 0);
    }

    #[test]
    fn a_segment_with_ack_is_reset_where_it_expects_data() {
        let mut out = [0xee; 80];
        assert_eq!(tcp_reset(&mut out, &packet4(&segment(tcp::ACK, 1000, 77, 5)), 20), 40);
        let h = Header::new_checked(&out, 40).unwrap().fixed;
        assert_eq!((h.src(), h.dst(), h.id(), h.ttl(), h.fragment_word()), (VIP, CLIENT, 0, 64, ipv4::DF));
        let t = Tcp::new_checked(&out[20..], 20).unwrap();
        assert_eq!((t.seq(), t.ack(), t.flags(), t.window()), (77, 0, tcp::RST, 0));
        assert_eq!((t.src_port().get(), t.dst_port().get()), (80, 40000));
        assert_eq!(checksum::add(pseudo4(&h.addresses(), 20, 6), checksum::sum(&out[20..40])), 0xffff);
    }

    #[test]
    fn a_segment_without_ack_is_acknowledged_by_its_reset() {
        let mut out = [0xee; 80];
        for (flags, data, expected) in [(tcp::SYN, 0, 1001), (tcp::SYN | tcp::FIN, 4, 1006), (0, 9, 1009)] {
            assert_eq!(tcp_reset(&mut out, &packet6(&segment(flags, 1000, 0, data)), 40), 60);
            let h = ipv6::Header::new_checked(&out, 60).unwrap().fixed;
            let t = Tcp::new_checked(&out[40..], 20).unwrap();
            assert_eq!((t.seq(), t.ack(), t.flags()), (0, expected, tcp::RST | tcp::ACK));
            assert_eq!(checksum::add(pseudo6(&h.addresses(), 20, 6), checksum::sum(&out[40..60])), 0xffff);
            assert_eq!((h.src(), h.dst(), h.hop_limit()), (VIP6, CLIENT6, 64));
        }
        assert_eq!(tcp_reset(&mut out, &packet4(&segment(tcp::RST, 1, 0, 0)), 20), 0, "no answer to a reset");
        assert_eq!(tcp_reset(&mut out, &packet4(&segment(0, 1, 0, 0))[..39], 20), 0);
        assert_eq!(tcp_reset(&mut out[..59], &packet6(&segment(0, 1, 0, 0)), 40), 0);
    }
}
