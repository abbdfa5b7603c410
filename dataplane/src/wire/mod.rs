//! Bytes <-> typed fields.
//!
//! A header is a view over an array of its fixed length: `header!` names the fields once,
//! with their places. The one length check is where the array is taken from a slice
//! (`first`, `first_mut`); every access after that is at a constant offset into an array,
//! which needs no check. What depends on the bytes (lengths, versions, options) is
//! validated by a module's `new_checked`. Numbers are in host order, addresses are typed,
//! checksums stay as they lie in memory ([`Be16`]).

use crate::units::{Be16, Ip, Mac};

/// A type that stands in `N` bytes of a header.
pub trait Field<const N: usize> {
    /// From network order.
    fn read(bytes: [u8; N]) -> Self;
    /// To network order.
    fn write(self) -> [u8; N];
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Field<{ size_of::<$type>() }> for $type {
            #[inline(always)]
            fn read(bytes: [u8; size_of::<$type>()]) -> Self {
                <$type>::from_be_bytes(bytes)
            }
            #[inline(always)]
            fn write(self) -> [u8; size_of::<$type>()] {
                self.to_be_bytes()
            }
        }
    )*};
}
number!(u8, u16, u32);

macro_rules! bytes {
    ($($type:ident[$len:literal]),*) => {$(
        impl Field<$len> for $type {
            #[inline(always)]
            fn read(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }
            #[inline(always)]
            fn write(self) -> [u8; $len] {
                self.0
            }
        }
    )*};
}
bytes!(Be16[2], Mac[6], Ip[16]);

impl Field<4> for Ip {
    #[inline(always)]
    fn read(bytes: [u8; 4]) -> Self {
        Self::from_v4(bytes)
    }
    #[inline(always)]
    fn write(self) -> [u8; 4] {
        self.v4_bytes()
    }
}

/// `N` bytes at offset `O` of an array; that they are inside it is checked at compile time.
#[inline(always)]
pub fn at<const O: usize, const N: usize, const L: usize>(bytes: &[u8; L]) -> [u8; N] {
    const { assert!(O + N <= L) };
    let mut out = [0; N];
    out.copy_from_slice(&bytes[O..O + N]);
    out
}

/// Writes `N` bytes at offset `O`; likewise.
#[inline(always)]
pub fn put<const O: usize, const N: usize, const L: usize>(bytes: &mut [u8; L], value: [u8; N]) {
    const { assert!(O + N <= L) };
    bytes[O..O + N].copy_from_slice(&value);
}

/// Declares a header: a view over an array, borrowed or owned, with a getter and a setter
/// for each field at its range of bytes.
macro_rules! header {
    ($(#[$doc:meta])* $name:ident[$len:literal] {
        $($(#[$fdoc:meta])* $get:ident, $set:ident: $type:ty = $from:literal .. $to:literal;)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(transparent)]
        pub struct $name<T>(pub T);

        impl<'a> $name<&'a [u8; $len]> {
            /// The header at the front of `data`; none when that is shorter.
            #[inline(always)]
            pub fn first(data: &'a [u8]) -> Option<Self> {
                data.first_chunk().map(Self)
            }
        }
        impl<'a> $name<&'a mut [u8; $len]> {
            /// The same, to be changed.
            #[inline(always)]
            pub fn first_mut(data: &'a mut [u8]) -> Option<Self> {
                data.first_chunk_mut().map(Self)
            }
        }
        impl $name<[u8; $len]> {
            /// All bytes zero.
            pub const ZERO: Self = Self([0; $len]);
        }
        impl<T: std::borrow::Borrow<[u8; $len]>> $name<T> {
            /// Length, bytes.
            pub const LEN: usize = $len;
            /// The header's bytes.
            #[inline(always)]
            pub fn bytes(&self) -> &[u8; $len] {
                self.0.borrow()
            }
            $(
                $(#[$fdoc])*
                #[inline(always)]
                pub fn $get(&self) -> $type {
                    <$type as $crate::wire::Field<{ $to - $from }>>::read(
                        $crate::wire::at::<$from, { $to - $from }, $len>(self.0.borrow()),
                    )
                }
            )*
        }
        impl<T: std::borrow::BorrowMut<[u8; $len]>> $name<T> {
            $(
                #[doc = concat!("Writes what [`Self::", stringify!($get), "`] reads.")]
                #[inline(always)]
                pub fn $set(&mut self, value: $type) {
                    $crate::wire::put::<$from, { $to - $from }, $len>(
                        self.0.borrow_mut(),
                        <$type as $crate::wire::Field<{ $to - $from }>>::write(value),
                    );
                }
            )*
        }
    };
}

pub mod arp;
pub mod checksum;
pub mod client;
pub mod ethernet;
pub mod gre;
pub mod gue;
pub mod icmp;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod nd;
pub mod options;
pub mod reply;
pub mod sctp;
pub mod tcp;
pub mod udp;
pub mod vlan;
pub mod vxlan;

/// Numbers of protocols in IPv4's protocol and IPv6's next-header field (IANA).
pub mod protocol {
    /// ICMP, RFC 792.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP, RFC 2003.
    pub const IPV4: u8 = 4;
    /// TCP, RFC 9293.
    pub const TCP: u8 = 6;
    /// UDP, RFC 768.
    pub const UDP: u8 = 17;
    /// IPv6 in IP, RFC 2473 and RFC 4213.
    pub const IPV6: u8 = 41;
    /// GRE, RFC 2784.
    pub const GRE: u8 = 47;
    /// ICMPv6, RFC 4443.
    pub const ICMPV6: u8 = 58;
    /// SCTP, RFC 9260.
    pub const SCTP: u8 = 132;
}
