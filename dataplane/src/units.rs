//! One newtype for every index and unit, so that no two can be swapped.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

macro_rules! index {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        #[repr(transparent)]
        pub struct $name(pub $inner);
        impl $name {
            /// The index as the machine's word, for array access.
            #[inline(always)]
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

index!(
    /// Index of a port in the order of the configuration (not DPDK's port number,
    /// although the two agree when `polluxd` created every port).
    PortId(u16)
);
index!(
    /// Index of a port's receive or transmit queue.
    QueueId(u16)
);
index!(
    /// Index of a poll worker, 0 to the number of workers − 1.
    WorkerId(u16)
);
index!(
    /// A virtual service. The number stays with the service while it lives and is
    /// not given to another one while a flow still refers to it.
    ServiceId(u32)
);
index!(
    /// A real server *of one service*: the same address behind two services has two
    /// numbers. Stays with (service, address, port) for as long as a flow refers to it,
    /// so that a server removed and added again finds its flows and counts.
    RealId(u32)
);
index!(
    /// Index of a next hop (a gateway or a directly connected host) in the snapshot.
    NextHopId(u32)
);

impl RealId {
    /// No real server.
    pub const NONE: Self = Self(u32::MAX);
}
impl ServiceId {
    /// No service.
    pub const NONE: Self = Self(u32::MAX);
}
impl NextHopId {
    /// No next hop.
    pub const NONE: Self = Self(u32::MAX);
    /// The director itself: packets go no further.
    pub const HERE: Self = Self(u32::MAX - 1);
    /// The director's loopback, which takes nothing that came from outside.
    pub const LOOPBACK: Self = Self(u32::MAX - 2);
}

/// A point in time: milliseconds since the daemon's epoch, wrapping after 49.7 days.
/// Compare with [`Tick::reached`], never with `<`: the difference is taken as signed,
/// so spans must stay below 24.8 days.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Tick(pub u32);

impl Tick {
    /// This point plus `ms` milliseconds.
    #[inline(always)]
    #[must_use]
    pub fn after_ms(self, ms: u32) -> Self {
        Self(self.0.wrapping_add(ms))
    }
    /// Whether `self` (a deadline) is at or before `now`.
    #[inline(always)]
    pub fn reached(self, now: Self) -> bool {
        now.0.wrapping_sub(self.0) as i32 >= 0
    }
    /// Milliseconds from `now` until `self`, 0 if it has passed.
    #[inline(always)]
    pub fn ms_left(self, now: Self) -> u32 {
        (self.0.wrapping_sub(now.0) as i32).max(0) as u32
    }
    /// Milliseconds from `earlier` to `self`, 0 if `earlier` is later.
    #[inline(always)]
    pub fn ms_since(self, earlier: Self) -> u32 {
        (self.0.wrapping_sub(earlier.0) as i32).max(0) as u32
    }
}

/// A 16-bit number in network byte order, as it stands in a packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Be16(pub [u8; 2]);

impl Be16 {
    /// From host order.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be_bytes())
    }
    /// In host order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be_bytes(self.0)
    }
    /// The two bytes as a machine word, for hashing, comparing and checksums.
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        u16::from_ne_bytes(self.0)
    }
}
impl fmt::Debug for Be16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}
impl fmt::Display for Be16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}
impl From<u16> for Be16 {
    fn from(host: u16) -> Self {
        Self::new(host)
    }
}

/// An IPv4 or IPv6 address: sixteen bytes in network order, IPv4 as `::ffff:a.b.c.d`
/// (RFC 4291 section 2.5.5.2), so that tables and records have one layout for both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(C, align(8))]
pub struct Ip(pub [u8; 16]);

/// As two words: an array would be hashed with its length.
impl std::hash::Hash for Ip {
    #[inline(always)]
    fn hash<H: std::hash::Hasher>(&self, to: &mut H) {
        to.write_u64(self.hi());
        to.write_u64(self.lo());
    }
}

impl Ip {
    /// The unspecified IPv6 address, also used for "none".
    pub const UNSPECIFIED: Self = Self([0; 16]);

    /// From the four bytes of an IPv4 header's address field.
    #[inline(always)]
    pub const fn from_v4(b: [u8; 4]) -> Self {
        // Made of machine words, which compiles to two stores.
        const PREFIX: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
        let (a, p) = (u32::from_ne_bytes(b) as u128, PREFIX as u128);
        Self(if cfg!(target_endian = "little") { a << 96 | p << 64 } else { p << 32 | a }.to_ne_bytes())
    }
    /// From the sixteen bytes of an IPv6 header's address field.
    #[inline(always)]
    pub const fn from_v6(b: [u8; 16]) -> Self {
        Self(b)
    }
    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub fn is_v4(self) -> bool {
        self.hi() == 0 && self.0[8..12] == [0, 0, 0xff, 0xff]
    }
    /// The four bytes of an IPv4 address (the last four of an IPv6 one).
    #[inline(always)]
    pub const fn v4_bytes(self) -> [u8; 4] {
        [self.0[12], self.0[13], self.0[14], self.0[15]]
    }
    /// The first eight bytes as a machine word.
    #[inline(always)]
    pub fn hi(self) -> u64 {
        let b = self.0;
        u64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
    }
    /// The last eight bytes as a machine word.
    #[inline(always)]
    pub fn lo(self) -> u64 {
        let b = self.0;
        u64::from_ne_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]])
    }
    /// All sixteen bytes as one machine word.
    #[inline(always)]
    pub fn raw(self) -> u128 {
        u128::from_ne_bytes(self.0)
    }
    /// As the standard library's type; a mapped address becomes IPv4.
    pub fn to_std(self) -> IpAddr {
        if self.is_v4() { IpAddr::V4(Ipv4Addr::from(self.v4_bytes())) } else { IpAddr::V6(Ipv6Addr::from(self.0)) }
    }
    /// This address with all but the first `len` bits cleared; `len` counts within
    /// the address's own family (0–32 or 0–128).
    #[must_use]
    pub fn masked(self, len: u8) -> Self {
        let len = if self.is_v4() { 96 + u32::from(len.min(32)) } else { u32::from(len.min(128)) };
        let bits = u128::from_be_bytes(self.0);
        let mask = if len == 0 { 0 } else { u128::MAX << (128 - len) };
        Self((bits & mask).to_be_bytes())
    }
}
impl From<IpAddr> for Ip {
    fn from(a: IpAddr) -> Self {
        match a {
            IpAddr::V4(a) => Self::from_v4(a.octets()),
            IpAddr::V6(a) => Self(a.octets()),
        }
    }
}
impl fmt::Debug for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_std().fmt(f)
    }
}
impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_std().fmt(f)
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// Whether the group bit is set (broadcast included).
    #[inline(always)]
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }
}
impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let b = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", b[0], b[1], b[2], b[3], b[4], b[5])
    }
}
impl std::str::FromStr for Mac {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let mut out = [0u8; 6];
        let mut parts = s.split(':');
        for b in &mut out {
            let part = parts.next().filter(|p| p.len() == 2);
            *b = part
                .and_then(|p| u8::from_str_radix(p, 16).ok())
                .ok_or_else(|| format!("`{s}` is not an Ethernet address like 02:00:00:00:00:01"))?;
        }
        if parts.next().is_some() {
            return Err(format!("`{s}` is not an Ethernet address like 02:00:00:00:00:01"));
        }
        Ok(Self(out))
    }
}

/// Transport protocol numbers (IANA) that a service can have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Protocol {
    /// Transmission Control Protocol, RFC 9293.
    Tcp = 6,
    /// User Datagram Protocol, RFC 768.
    Udp = 17,
    /// Stream Control Transmission Protocol, RFC 9260.
    Sctp = 132,
}

impl Protocol {
    /// From the number in an IP header.
    pub fn from_number(n: u8) -> Option<Self> {
        match n {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_compare_across_the_wrap() {
        let now = Tick(u32::MAX - 5);
        let later = now.after_ms(10);
        assert!(!later.reached(now));
        assert_eq!(later.ms_left(now), 10);
        assert_eq!(later.ms_since(now), 10);
        assert!(now.reached(later));
    }

    #[test]
    fn masks_count_within_the_family() {
        let a: Ip = "10.1.2.3".parse::<IpAddr>().unwrap().into();
        assert_eq!(a.masked(24).to_string(), "10.1.2.0");
        assert_eq!(a.masked(0).to_string(), "0.0.0.0");
        let b: Ip = "2001:db8:1:2::3".parse::<IpAddr>().unwrap().into();
        assert_eq!(b.masked(48).to_string(), "2001:db8:1::");
    }
}
