//! One tracked flow: one cache line for both directions.

use crate::snapshot::ForwardingMode;
use crate::units::{Be16, Ip, RealId, Tick};

const NAT: u32 = ForwardingMode::Nat as u32;

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

/// An address with its last four bytes first, so that an IPv4 one lies beside its neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(C, align(8))]
pub struct TailFirst([u8; 16]);

impl TailFirst {
    /// By how much the word in memory is rotated.
    const BITS: u32 = if cfg!(target_endian = "little") { 32 } else { 96 };

    /// The address.
    #[inline(always)]
    pub fn ip(self) -> Ip {
        Ip(self.raw().rotate_right(Self::BITS).to_ne_bytes())
    }
    /// All sixteen bytes as one machine word, the last four of the address first.
    #[inline(always)]
    pub fn raw(self) -> u128 {
        u128::from_ne_bytes(self.0)
    }
    /// The last four bytes of the address.
    #[inline(always)]
    pub fn v4_bytes(self) -> [u8; 4] {
        [self.0[0], self.0[1], self.0[2], self.0[3]]
    }
}

impl From<Ip> for TailFirst {
    #[inline(always)]
    fn from(ip: Ip) -> Self {
        Self(ip.raw().rotate_left(Self::BITS).to_ne_bytes())
    }
}

impl std::fmt::Debug for TailFirst {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.ip(), f)
    }
}

/// The record. Written by the owning worker alone. Holds indices, no pointers, so that
/// the table may live in a mapped file. A packet touches this one line only. What the fast
/// stage compares lies together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct FlowRecord {
    /// As in [`FlowKey`].
    pub client: Ip,
    /// As in [`FlowKey`].
    pub vip: TailFirst,
    /// As in [`FlowKey`].
    pub client_port: Be16,
    /// As in [`FlowKey`].
    pub vport: Be16,
    /// [`flags`].
    pub flags: u32,
    /// IP protocol number.
    pub proto: u8,
    /// State of the protocol's machine (`flow::state::State` as a number).
    pub state: u8,
    /// The port at the real server.
    pub rport: Be16,
    /// One's-complement difference that NAT makes to a sum over the addresses (RFC 1624), request direction.
    /// For a template see [`FlowRecord::template_timeout_ms`].
    pub l3_delta: u16,
    /// The same over addresses and ports.
    pub l4_delta: u16,
    /// The real server; it implies the service.
    pub real: RealId,
    /// [`peer_word`] of the real server's address, to tell replies apart.
    pub peer: u32,
    /// When the flow ends unless a packet comes. A packet moves it; the wheel finds out later.
    pub deadline: Tick,
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
    /// Client and VIP have IPv4 addresses. Set by the table.
    pub const V4: u32 = 1 << 10;
    /// A newer flow's replies look the same (another VIP, the same client's end and the same
    /// real server's end), and it takes them all. Such a flow is `BY_HAND` as well.
    pub const SHADOWED: u32 = 1 << 11;
    /// Takes the replies of an older flow, which gets them back when this one ends.
    pub const SHADOWS: u32 = 1 << 12;
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

/// A packet from a client as the fast stage compares it with a record, as words of memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestV4 {
    /// The client's address, then the virtual one, as an IPv4 header has them.
    pub addresses: u64,
    /// The client's port, then the virtual one, as a TCP header has them.
    pub ports: u32,
    /// Protocol, then the state that the flow is in when such a packet changes nothing.
    pub proto_state: u16,
}

impl FlowRecord {
    /// Whether the packet is one of this flow's, and the flow one that the fast stage serves.
    /// All in one comparison, as the answer is nearly always yes.
    #[inline(always)]
    pub fn is_steady(&self, p: &RequestV4) -> bool {
        const MASK: u64 = (flags::V4 | flags::BY_HAND | flags::TEMPLATE) as u64;
        const WANTED: u64 = flags::V4 as u64;
        let ([a, b, c, d], [e, f, g, h]) = (self.client.v4_bytes(), self.vip.v4_bytes());
        let addresses = u64::from_ne_bytes([a, b, c, d, e, f, g, h]) ^ p.addresses;
        let ([a, b], [c, d]) = (self.client_port.0, self.vport.0);
        let ports = u32::from_ne_bytes([a, b, c, d]) ^ p.ports;
        let flags = (u64::from(self.flags) & MASK) ^ WANTED;
        let proto_state = u16::from_ne_bytes([self.proto, self.state]) ^ p.proto_state;
        addresses | (u64::from(ports) | flags << 32) | u64::from(proto_state) == 0
    }

    /// A live flow's record as it would stand in `state` with nothing that keeps it from the fast stage: to ask whether
    /// a packet is one of the flow's, whatever has become of that. None of a template.
    pub fn as_steady(&self, state: u8) -> Option<Self> {
        let is_flow = self.flags & (flags::LIVE | flags::TEMPLATE) == flags::LIVE;
        is_flow.then_some(Self { state, flags: self.flags & flags::V4, ..*self })
    }

    /// For a template: for how long a new flow keeps it, milliseconds. It stands where other
    /// records have their checksum differences.
    pub fn template_timeout_ms(&self) -> u32 {
        u32::from(self.l3_delta) << 16 | u32::from(self.l4_delta)
    }

    /// Sets what [`template_timeout_ms`](Self::template_timeout_ms) gives.
    pub fn set_template_timeout_ms(&mut self, ms: u32) {
        (self.l3_delta, self.l4_delta) = ((ms >> 16) as u16, ms as u16);
    }

    /// The same for a packet from the flow's real server: `p` has its addresses and ports as they
    /// stand, the server's first.
    #[inline(always)]
    pub fn is_steady_reply(&self, p: &RequestV4) -> bool {
        // A template learns from the first answer to a datagram.
        let datagram = if self.proto == 17 { flags::CONTROLLED } else { 0 };
        let mask = flags::V4 | flags::BY_HAND | flags::TEMPLATE | flags::MODE_MASK | datagram;
        let ([a, b, c, d], [e, f, g, h]) = (self.peer.to_ne_bytes(), self.client.v4_bytes());
        let addresses = u64::from_ne_bytes([a, b, c, d, e, f, g, h]) ^ p.addresses;
        let ([a, b], [c, d]) = (self.rport.0, self.client_port.0);
        let ports = u32::from_ne_bytes([a, b, c, d]) ^ p.ports;
        let flags = (self.flags & mask) ^ (flags::V4 | NAT);
        let proto_state = u16::from_ne_bytes([self.proto, self.state]) ^ p.proto_state;
        addresses | u64::from(ports | flags | u32::from(proto_state)) == 0
    }

    /// The same over IPv6: `client` and `ports` as they stand in the packet. The sender's address is left
    /// to the caller, who has the real server's.
    #[inline(always)]
    pub fn is_steady_reply_v6(&self, client: Ip, ports: [u8; 4], proto_state: u16) -> bool {
        // A template learns from the first answer to a datagram.
        let datagram = if self.proto == 17 { flags::CONTROLLED } else { 0 };
        let mask = flags::V4 | flags::BY_HAND | flags::TEMPLATE | flags::MODE_MASK | datagram;
        let ([a, b], [c, d]) = (self.rport.0, self.client_port.0);
        let ports = u32::from_ne_bytes([a, b, c, d]) ^ u32::from_ne_bytes(ports);
        let flags = (self.flags & mask) ^ NAT;
        let state = u16::from_ne_bytes([self.proto, self.state]) ^ proto_state;
        (self.client.raw() ^ client.raw()) | u128::from(ports | flags | u32::from(state)) == 0
    }

    /// The key of the request direction.
    #[inline(always)]
    pub fn key(&self) -> FlowKey {
        FlowKey {
            client: self.client,
            vip: self.vip.ip(),
            client_port: self.client_port,
            vport: self.vport,
            proto: self.proto,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_and_its_tail_is_first() {
        let ip = Ip(std::array::from_fn(|i| i as u8));
        let tail = TailFirst::from(ip);
        assert_eq!((tail.ip(), tail.v4_bytes()), (ip, [12, 13, 14, 15]));
        assert_eq!(TailFirst::from(Ip::from_v4([10, 9, 0, 1])).v4_bytes(), [10, 9, 0, 1]);
    }
}
