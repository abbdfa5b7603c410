//! Packets that answer packets: ICMP errors and TCP resets. Written into the caller's
//! buffer from the IP header on; the length is returned, 0 when the original is no packet
//! that can be answered.

use crate::units::Ip;
use crate::wire::checksum;

/// IPv4 total length that an ICMP error may reach (RFC 1812 section 4.3.2.3; the kernel too).
const ICMP4_MAX: usize = 576;
/// What an ICMPv6 error may reach (RFC 4443 section 2.4 c).
const ICMP6_MAX: usize = 1280;

/// An ICMP error about `original` (an IPv4 packet), from `from` to its sender.
/// `kind`, `code` and `rest` as in RFC 792; TTL 64, TOS 0xc0 (internetwork control) as the kernel.
pub fn icmp4_error(out: &mut [u8], original: &[u8], from: Ip, kind: u8, code: u8, rest: u32, id: u16) -> usize {
    let Some(h) = original.first_chunk::<20>() else { return 0 };
    let whole = usize::from(u16::from_be_bytes([h[2], h[3]])).min(original.len());
    let quoted = whole.min(ICMP4_MAX - 28);
    let len = 28 + quoted;
    let Some(out) = out.get_mut(..len) else { return 0 };
    out.fill(0);
    out[0] = 0x45;
    out[1] = 0xc0;
    out[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    out[4..6].copy_from_slice(&id.to_be_bytes());
    out[8] = 64;
    out[9] = 1;
    out[12..16].copy_from_slice(&from.v4_bytes());
    out[16..20].copy_from_slice(&h[12..16]);
    let sum = !checksum::sum(&out[..20]);
    out[10..12].copy_from_slice(&sum.to_ne_bytes());
    out[20] = kind;
    out[21] = code;
    out[24..28].copy_from_slice(&rest.to_be_bytes());
    out[28..].copy_from_slice(&original[..quoted]);
    let sum = !checksum::sum(&out[20..]);
    out[22..24].copy_from_slice(&sum.to_ne_bytes());
    len
}

/// Sum of the IPv6 pseudo-header (RFC 8200 section 8.1).
pub fn pseudo6(addresses: &[u8], len: usize, proto: u8) -> u16 {
    let tail = [(len >> 24) as u8, (len >> 16) as u8, (len >> 8) as u8, len as u8, 0, 0, 0, proto];
    checksum::add(checksum::sum(addresses), checksum::sum(&tail))
}

/// Sum of the IPv4 pseudo-header (RFC 9293 section 3.1).
pub fn pseudo4(addresses: &[u8], len: usize, proto: u8) -> u16 {
    checksum::add(checksum::sum(addresses), checksum::sum(&[0, proto, (len >> 8) as u8, len as u8]))
}

/// An ICMPv6 error about `original` (an IPv6 packet), RFC 4443. Hop limit 64.
pub fn icmp6_error(out: &mut [u8], original: &[u8], from: Ip, kind: u8, code: u8, rest: u32) -> usize {
    if original.len() < 40 {
        return 0;
    }
    let whole = (usize::from(u16::from_be_bytes([original[4], original[5]])) + 40).min(original.len());
    let quoted = whole.min(ICMP6_MAX - 48);
    let len = 48 + quoted;
    let Some(out) = out.get_mut(..len) else { return 0 };
    out.fill(0);
    out[0] = 0x60;
    out[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
    out[6] = 58;
    out[7] = 64;
    out[8..24].copy_from_slice(&from.0);
    out[24..40].copy_from_slice(&original[8..24]);
    out[40] = kind;
    out[41] = code;
    out[44..48].copy_from_slice(&rest.to_be_bytes());
    out[48..].copy_from_slice(&original[..quoted]);
    let sum = !checksum::add(pseudo6(&out[8..40], len - 40, 58), checksum::sum(&out[40..]));
    out[42..44].copy_from_slice(&sum.to_ne_bytes());
    len
}

/// The reset that answers a TCP segment (RFC 9293 section 3.10.7.1). `original` starts at
/// the IP header, `l4` is the offset of the TCP header in it. As Linux sends it: DF, id 0, TTL 64.
pub fn tcp_reset(out: &mut [u8], original: &[u8], l4: usize) -> usize {
    let v4 = original.first().is_some_and(|b| b >> 4 == 4);
    let ip_len = match (v4, original.len()) {
        (true, 20..) => usize::from(u16::from_be_bytes([original[2], original[3]])),
        (false, 40..) => usize::from(u16::from_be_bytes([original[4], original[5]])) + 40,
        _ => return 0,
    };
    let Some(t) = original.get(l4..).and_then(|t| t.first_chunk::<20>()) else { return 0 };
    let head = if v4 { 20 } else { 40 };
    let Some(out) = out.get_mut(..head + 20) else { return 0 };
    out.fill(0);
    let addresses = if v4 {
        out[0] = 0x45;
        out[3] = 40;
        out[6] = 0x40;
        out[8] = 64;
        out[9] = 6;
        out[12..16].copy_from_slice(&original[16..20]);
        out[16..20].copy_from_slice(&original[12..16]);
        let sum = !checksum::sum(&out[..20]);
        out[10..12].copy_from_slice(&sum.to_ne_bytes());
        12..20
    } else {
        out[0] = 0x60;
        out[5] = 20;
        out[6] = 6;
        out[7] = 64;
        out[8..24].copy_from_slice(&original[24..40]);
        out[24..40].copy_from_slice(&original[8..24]);
        8..40
    };
    let flags = t[13];
    let data = ip_len.saturating_sub(l4 + usize::from(t[12] >> 4) * 4) as u32;
    let length = data + u32::from(flags & 2 != 0) + u32::from(flags & 1 != 0);
    let pseudo = if v4 { pseudo4(&out[addresses], 20, 6) } else { pseudo6(&out[addresses], 20, 6) };
    let o = &mut out[head..];
    o[..2].copy_from_slice(&t[2..4]);
    o[2..4].copy_from_slice(&t[..2]);
    if flags & 0x10 != 0 {
        o[4..8].copy_from_slice(&t[8..12]);
        o[13] = 0x04;
    } else {
        let seq = u32::from_be_bytes([t[4], t[5], t[6], t[7]]);
        o[8..12].copy_from_slice(&seq.wrapping_add(length).to_be_bytes());
        o[13] = 0x14;
    }
    o[12] = 0x50;
    let sum = !checksum::add(pseudo, checksum::sum(o));
    o[16..18].copy_from_slice(&sum.to_ne_bytes());
    head + 20
}
