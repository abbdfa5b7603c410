//! Parse: offsets, addresses, ports and flags of each packet.
//!
//! The ordinary packet (Ethernet without tag, IPv4 without options or IPv6 without
//! extension headers, TCP, UDP or SCTP, not a fragment, for this station) stays `ready`.
//! Everything else becomes `slow`, with no judgement passed yet: `stage::local` looks
//! again, and names the reason if it drops.

use crate::burst::{Burst, Lane, Lanes};
use crate::flow::record::FlowKey;
use crate::io::PacketBuf;
use crate::units::{Be16, Ip};
use crate::wire::at;

/// Ethernet header without tags, bytes.
pub const ETH: usize = 14;

/// Bytes behind an ordinary packet are fewer than this: the padding of a short frame. More is nothing
/// that Ethernet put there, and is cut off by the stages that look at such packets one by one.
pub const TRAILER: usize = 64;

/// Whether a frame holds an IP packet of `ip_len` bytes, and not much besides.
#[inline(always)]
pub fn fits(ip_len: usize, frame_len: usize) -> bool {
    frame_len.wrapping_sub(ip_len + ETH) < TRAILER
}
/// Enough bytes for Ethernet, IPv4 without options and TCP without options.
const V4_HEAD: usize = ETH + 20 + 20;
/// Enough bytes for Ethernet, IPv6 and TCP without options.
const V6_HEAD: usize = ETH + 40 + 20;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// Parses the lanes of `these`. `mac` is the ingress port's address in the low six bytes of a
/// little-endian word; frames for other stations become slow.
#[inline]
pub fn parse<B: PacketBuf>(burst: &mut Burst<B>, these: Lanes, mac: u64) {
    let mut ready = 0;
    for i in these {
        let Some(buf) = &burst.bufs[i] else { continue };
        ready |= u64::from(parse_lane(buf, &mut burst.lanes[i], mac)) << i;
    }
    burst.ready = Lanes(ready);
    burst.slow = Lanes(these.0 & !ready);
    burst.missed = Lanes(0);
    burst.finished = Lanes(0);
}

#[inline(always)]
fn parse_lane<B: PacketBuf>(buf: &B, lane: &mut Lane, mac: u64) -> bool {
    let data = buf.data();
    let Some(h) = data.first_chunk::<V4_HEAD>() else {
        return parse_short(buf, lane, mac);
    };
    if dst_mac(h) != mac {
        return false;
    }
    match u16::from_be_bytes(at::<12, 2, _>(h)) {
        0x0800 => parse_v4(h, buf.total_len(), lane),
        0x86dd => match data.first_chunk::<V6_HEAD>() {
            Some(h) => parse_v6(h, buf.total_len(), lane),
            None => parse_short(buf, lane, mac),
        },
        _ => false,
    }
}

/// A first segment that is shorter than the longest header: the same on a padded copy.
/// What the padding pretends is caught by the length checks, which go by the segment: of
/// a chained packet, the rest of the headers may lie in the next one.
#[inline(never)]
fn parse_short<B: PacketBuf>(buf: &B, lane: &mut Lane, mac: u64) -> bool {
    let mut h = [0; V6_HEAD];
    let data = buf.data();
    let n = data.len().min(V6_HEAD);
    h[..n].copy_from_slice(&data[..n]);
    if n < ETH + 20 || dst_mac(&h) != mac {
        return false;
    }
    match (h[12], h[13], h.first_chunk::<V4_HEAD>()) {
        (0x08, 0x00, Some(h)) => parse_v4(h, data.len(), lane),
        (0x86, 0xdd, _) => parse_v6(&h, data.len(), lane),
        _ => false,
    }
}

/// The first six bytes of a frame as the low bytes of a word.
#[inline(always)]
fn dst_mac<const N: usize>(h: &[u8; N]) -> u64 {
    match h.first_chunk::<8>() {
        Some(w) => u64::from_le_bytes(*w) & 0xffff_ffff_ffff,
        None => 0,
    }
}

#[inline(always)]
fn parse_v4(h: &[u8; V4_HEAD], frame_len: usize, lane: &mut Lane) -> bool {
    let ip_len = u16::from_be_bytes(at::<16, 2, _>(h));
    let fragment = u16::from_ne_bytes(at::<20, 2, _>(h)) & u16::from_ne_bytes([0x3f, 0xff]);
    let proto = h[23];
    let tcp = proto == TCP;
    // No short circuits: every test is cheaper than a branch that is hard to foresee.
    // Addresses that no wire carries are looked for where a flow opens, and where
    // something is routed.
    let plain = (h[14] == 0x45)
        & (fragment == 0)
        & fits(usize::from(ip_len), frame_len)
        & (ip_len >= if tcp { 40 } else { 28 })
        & (tcp | (proto == UDP))
        & v4_checksum_ok(h);
    lane.key = FlowKey {
        client: Ip::from_v4(at::<26, 4, _>(h)),
        vip: Ip::from_v4(at::<30, 4, _>(h)),
        client_port: Be16(at::<34, 2, _>(h)),
        vport: Be16(at::<36, 2, _>(h)),
        proto,
    };
    lane.tcp_flags = if tcp { h[47] } else { 0 };
    lane.ip_len = ip_len;
    lane.l2 = ETH as u8;
    lane.l4 = (ETH + 20) as u16;
    lane.v4 = true;
    lane.later_fragment = false;
    plain
}

/// RFC 1071 over the twenty bytes, in any byte order. As fast as asking the device.
#[inline(always)]
fn v4_checksum_ok(h: &[u8; V4_HEAD]) -> bool {
    let w = |b: [u8; 4]| u64::from(u32::from_ne_bytes(b));
    let s = w(at::<14, 4, _>(h))
        + w(at::<18, 4, _>(h))
        + w(at::<22, 4, _>(h))
        + w(at::<26, 4, _>(h))
        + w(at::<30, 4, _>(h));
    // The sum of the words is a multiple of 0xffff when the header is right. After one
    // fold of 35 bits it is below four times that, and it is never zero.
    let s = (s & 0xffff) + ((s >> 16) & 0xffff) + (s >> 32);
    s == 0xffff || s == 0x1_fffe || s == 0x2_fffd
}

#[inline(always)]
fn parse_v6(h: &[u8; V6_HEAD], frame_len: usize, lane: &mut Lane) -> bool {
    let payload = u16::from_be_bytes(at::<18, 2, _>(h));
    let proto = h[20];
    let least = if proto == TCP { 20 } else { 8 };
    let plain = h[14] >> 4 == 6
        && fits(usize::from(payload) + 40, frame_len)
        && payload >= least
        && payload <= u16::MAX - 40
        && (proto == TCP || proto == UDP || proto == SCTP)
        && h[22] != 0xff
        && h[22] != 0
        && h[38] != 0xff;
    if !plain {
        return false;
    }
    lane.key = FlowKey {
        client: Ip::from_v6(at::<22, 16, _>(h)),
        vip: Ip::from_v6(at::<38, 16, _>(h)),
        client_port: Be16(at::<54, 2, _>(h)),
        vport: Be16(at::<56, 2, _>(h)),
        proto,
    };
    lane.tcp_flags = match proto {
        TCP => h[67],
        SCTP => h[66],
        _ => 0,
    };
    lane.ip_len = payload + 40;
    lane.l2 = ETH as u8;
    lane.l4 = (ETH + 40) as u16;
    lane.v4 = false;
    lane.later_fragment = false;
    proto != TCP || h[66] >= 0x50
}
