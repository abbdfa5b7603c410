//! One tracked flow: one cache line for both directions.

use crate::units::{Be16, Ip, RealId, Tick};

/// What names a flow, seen from the client: the same for both directions of NAT.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct FlowKey {
    /// The client's address (for a persistence template: masked).
    pub client: Ip,
    /// The virtual address the client sent to.
    pub vip: Ip,
    /// The client's port (0 in a template).
    pub client_port: Be16,
    /// The virtual port the client sent to (0 in a template of an any-port service).
    pub vport: Be16,
    /// IP protocol number (0 in a template of a firewall-mark service).
    pub proto: u8,
}

/// What a real server's reply shows of its flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct ReplyKey {
    /// The client's address: the reply's destination.
    pub client: Ip,
    /// The real server's address: the reply's source.
    pub real: Ip,
    /// The client's port: the reply's destination port.
    pub client_port: Be16,
    /// The real server's port: the reply's source port.
    pub rport: Be16,
    /// IP protocol number.
    pub proto: u8,
}

/// The record. Written by the owning worker alone. Holds indices, no pointers, so that
/// the table may live in a mapped file. Forty bytes of key and state, then what the
/// rewrite needs, so that a packet touches this one line only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct FlowRecord {
    /// As in [`FlowKey`].
    pub client: Ip,
    /// As in [`FlowKey`].
    pub vip: Ip,
    /// As in [`FlowKey`].
    pub client_port: Be16,
    /// As in [`FlowKey`].
    pub vport: Be16,
    /// The port at the real server.
    pub rport: Be16,
    /// IP protocol number.
    pub proto: u8,
    /// State of the protocol's machine (`flow::state::State` as a number).
    pub state: u8,
    /// The real server; it implies the service.
    pub real: RealId,
    /// [`peer_word`] of the real server's address, to tell replies apart.
    pub peer: u32,
    /// When the flow ends unless a packet comes. A packet moves it; the wheel finds out later.
    pub deadline: Tick,
    /// [`flags`].
    pub flags: u32,
    /// One's-complement difference that NAT makes to a sum over the addresses (RFC 1624), request direction.
    pub l3_delta: u16,
    /// The same over addresses and ports.
    pub l4_delta: u16,
    /// Index of the flow's extension (full NAT, sequence adjustment), or `u32::MAX`;
    /// for a template: how many live flows it controls.
    pub ext: u32,
}

const _: () = assert!(size_of::<FlowRecord>() == 64);

/// Bits of [`FlowRecord::flags`].
pub mod flags {
    /// Low three bits: the forwarding mode the flow was opened with.
    pub const MODE_MASK: u32 = 0b111;
    /// The flow counts as inactive at its real server.
    pub const INACTIVE: u32 = 1 << 3;
    /// A persistence template, not a flow.
    pub const TEMPLATE: u32 = 1 << 4;
    /// The packet that opened it was seen from the client only (direct routing, tunnels).
    pub const NO_OUTPUT: u32 = 1 << 5;
    /// For one packet only (one-packet scheduling).
    pub const ONE_PACKET: u32 = 1 << 6;
    /// The flow belongs to a template, which is found by the client's masked address.
    pub const CONTROLLED: u32 = 1 << 7;
    /// Every packet needs more than the fast stage does.
    pub const BY_HAND: u32 = 1 << 8;
    /// [`FlowRecord::ext`](super::FlowRecord::ext) is the number of the flow's extension. Such a
    /// flow is `BY_HAND` as well.
    pub const EXTENDED: u32 = 1 << 9;
    /// The record is in use. Set and cleared by the table.
    pub const LIVE: u32 = 1 << 31;
}

/// A 32-bit word that tells real servers' addresses apart: an IPv4 address itself, an
/// IPv6 one folded (then the caller compares the whole address as well).
#[inline(always)]
pub fn peer_word(a: Ip) -> u32 {
    let x = a.hi() ^ a.lo();
    if a.is_v4() { u32::from_ne_bytes(a.v4_bytes()) } else { (x ^ (x >> 32)) as u32 }
}

impl FlowRecord {
    /// The key of the request direction.
    #[inline(always)]
    pub fn key(&self) -> FlowKey {
        FlowKey {
            client: self.client,
            vip: self.vip,
            client_port: self.client_port,
            vport: self.vport,
            proto: self.proto,
        }
    }
}
