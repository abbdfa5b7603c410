//! Counters: one set a worker, one writer each, read by control at any time.
//!
//! A counter is a relaxed atomic that only its worker writes, with a plain load and
//! store: no locked instruction on the packet's way, and no torn read on the other side.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::flow::memory::HugeArray;
use crate::front::Front;
use crate::units::{PortId, RealId};

/// A monotonic count with one writer.
#[derive(Default, Debug)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call this.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }
    /// The value now.
    #[inline(always)]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
    /// Overwrites the value (gauges). Only the owning worker may call this.
    #[inline(always)]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// Why a packet went no further. Each has a counter per worker and a name in the API.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ $name,)+ }
        impl DropReason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)+];
            /// The name in statistics: lower case with underscores.
            pub fn name(self) -> &'static str {
                match self { $(DropReason::$name => $text,)+ }
            }
            /// One sentence for people.
            pub fn describe(self) -> &'static str {
                match self { $(DropReason::$name => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

drop_reasons! {
    /// The frame is shorter than the headers it announces.
    TooShort = "too_short",
    /// The Ethernet type is none that the director handles.
    UnknownEthertype = "unknown_ethertype",
    /// The frame is addressed to another station.
    NotForUs = "not_for_us",
    /// The frame carries an 802.1Q tag for which the port has no VLAN.
    UnknownVlan = "unknown_vlan",
    /// The frame carries a second 802.1Q tag, or a provider's (802.1ad).
    DoubleTagged = "double_tagged",
    /// The IP version does not match the Ethernet type.
    BadIpVersion = "bad_ip_version",
    /// The IPv4 header length is below 20 bytes or beyond the packet.
    BadHeaderLength = "bad_header_length",
    /// The IP total length is below the header's or beyond the frame.
    BadTotalLength = "bad_total_length",
    /// The IPv4 header checksum is wrong.
    BadIpChecksum = "bad_ip_checksum",
    /// An IPv4 option is malformed.
    BadIpOption = "bad_ip_option",
    /// The packet asks for source routing (RFC 7126, section 4.3; RFC 5095).
    SourceRouted = "source_routed",
    /// The source or destination address cannot occur on a wire (RFC 1812, section 5.3.7).
    Martian = "martian",
    /// The packet is addressed to a multicast or broadcast address nobody here listens to.
    Multicast = "multicast",
    /// The transport header is cut off.
    BadL4Header = "bad_l4_header",
    /// The transport checksum is wrong and the packet was meant for the director itself.
    BadL4Checksum = "bad_l4_checksum",
    /// An ARP packet is malformed or lies about its sender.
    BadArp = "bad_arp",
    /// A neighbour discovery message is malformed (RFC 4861, sections 7.1.1 and 7.1.2).
    BadNd = "bad_nd",
    /// An ICMP message is malformed or its checksum is wrong.
    BadIcmp = "bad_icmp",
    /// An ICMP error quotes no flow that is known.
    IcmpUnrelated = "icmp_unrelated",
    /// A fragment overlaps another one of its datagram (RFC 5722, RFC 3128).
    FragmentOverlap = "fragment_overlap",
    /// A fragment is malformed or too small to hold its transport header (RFC 1858).
    BadFragment = "bad_fragment",
    /// There was no room for one more fragment or datagram.
    FragmentNoRoom = "fragment_no_room",
    /// Fragments waited too long for the rest of their datagram.
    FragmentTimeout = "fragment_timeout",
    /// The TTL or hop limit ran out; the sender was told where the rate limit allowed.
    TtlExceeded = "ttl_exceeded",
    /// The packet does not fit the next link and must not be fragmented.
    TooBig = "too_big",
    /// No service at this address and port of a VIP.
    NoService = "no_service",
    /// The service has no usable real server.
    NoRealServer = "no_real_server",
    /// A TCP packet without SYN that belongs to no flow.
    NoFlow = "no_flow",
    /// The flow's real server was removed.
    RealServerGone = "real_server_gone",
    /// The flow table is full and nothing in it may be evicted.
    FlowTableFull = "flow_table_full",
    /// Dropped on purpose by the overload defence `drop_packet`.
    Overload = "overload",
    /// No route to the destination.
    NoRoute = "no_route",
    /// Routing between networks is off and the packet is for nobody here.
    NotRouted = "not_routed",
    /// The next hop's Ethernet address could not be found in time.
    NeighbourUnresolved = "neighbour_unresolved",
    /// Too many packets were waiting for Ethernet addresses.
    NeighbourQueueFull = "neighbour_queue_full",
    /// Another worker's ring was full.
    HandoffFull = "handoff_full",
    /// No packet buffer was free.
    NoBuffer = "no_buffer",
    /// The headroom was too small for one more header.
    NoHeadroom = "no_headroom",
    /// The client's address could not be put in: a fragment, or a header in pieces.
    NotInsertable = "not_insertable",
    /// The device's transmit queue was full.
    TxFull = "tx_full",
    /// A ping that was not answered, as answers are limited in rate.
    AnswerSuppressed = "answer_suppressed",
    /// An address of the director itself was reached, and nothing listens there.
    LocalNoListener = "local_no_listener",
    /// The full-NAT pool has no free local address and port.
    LocalPoolEmpty = "local_pool_empty",
    /// A second VIP answer: somebody else uses our address.
    DuplicateAddress = "duplicate_address",
}

/// Number of drop reasons.
pub const DROP_REASONS: usize = DropReason::ALL.len();

/// Traffic of one real server on one worker. Bytes are IP total lengths, as the kernel counts.
#[derive(Clone, Copy, Debug)]
pub struct RealCounters<'a> {
    /// Flows opened.
    pub connections: &'a Counter,
    /// Packets from clients.
    pub in_packets: &'a Counter,
    /// Bytes from clients.
    pub in_bytes: &'a Counter,
    /// Packets from the real server.
    pub out_packets: &'a Counter,
    /// Bytes from the real server.
    pub out_bytes: &'a Counter,
}

/// What is counted of a real server besides the packets from clients, which are in its [`Front`].
#[derive(Default, Debug)]
#[repr(C, align(32))]
pub struct Back {
    /// Flows opened.
    pub connections: Counter,
    /// Packets from the real server.
    pub out_packets: Counter,
    /// Bytes from the real server.
    pub out_bytes: Counter,
}

/// Bytes of one real server's counters on one worker.
pub const BYTES_A_REAL: usize = size_of::<Front>() + size_of::<Back>();

/// Traffic of one port on one worker.
#[derive(Default, Debug)]
#[repr(C, align(64))]
pub struct PortCounters {
    /// Packets received.
    pub rx_packets: Counter,
    /// Bytes received, Ethernet headers included.
    pub rx_bytes: Counter,
    /// Packets sent.
    pub tx_packets: Counter,
    /// Bytes sent, Ethernet headers included.
    pub tx_bytes: Counter,
}

macro_rules! events {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Countable things that happen to a worker and are no drops.
        #[derive(Default, Debug)]
        #[repr(C, align(64))]
        pub struct WorkerCounters { $($(#[doc = $doc])+ pub $name: Counter,)+ }
        impl WorkerCounters {
            /// Every counter with its name.
            pub fn each(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)+]
            }
        }
    };
}

events! {
    /// Polls made.
    polls,
    /// Polls that received nothing.
    idle_polls,
    /// TSC cycles in polls that received something.
    busy_cycles,
    /// TSC cycles in all polls and sleeps.
    total_cycles,
    /// Packets in the polls whose stages were timed: one in 1,024 of those that received some.
    sampled_packets,
    /// TSC cycles of the timed polls in the receive function of the devices.
    cycles_receive,
    /// The same in the fast stage, a whole burst's sending included.
    cycles_fast,
    /// The same in the general stages.
    cycles_general,
    /// The same in time-outs, commands and all else that is no received packet.
    cycles_housekeeping,
    /// The same in sending what was collected.
    cycles_send,
    /// Packets handed to their owner worker.
    handed_off,
    /// Packets taken over from other workers.
    taken_over,
    /// Flows opened.
    flows_opened,
    /// Flows ended by time-out.
    flows_expired,
    /// Flows evicted to make room.
    flows_evicted,
    /// Half-open flows ended by the overload defence `drop_entry`.
    flows_dropped,
    /// Whether `drop_entry` is at work (a gauge).
    defence_drop_entry,
    /// Whether `drop_packet` is at work (a gauge).
    defence_drop_packet,
    /// Whether `secure_tcp` is at work (a gauge).
    defence_secure_tcp,
    /// Flows live now (a gauge).
    flows_live,
    /// Flows with an extension: full NAT and shifted sequence numbers (a gauge).
    flows_extended,
    /// Announced data connections of FTP for which there was no room.
    expectations_lost,
    /// Snapshots adopted.
    snapshots_adopted,
    /// TCP resets sent.
    resets_sent,
    /// ICMP errors sent.
    icmp_errors_sent,
    /// ICMP errors and TCP resets not sent, by the limit of their rate or for want of a buffer.
    answers_suppressed,
    /// ICMP echo requests answered.
    echo_replies_sent,
    /// ARP and neighbour solicitations answered.
    neighbour_replies_sent,
    /// Packets routed unchanged (no flow, not ours).
    routed,
    /// Events for control that found their queue full.
    events_lost,
}

/// All counters of one worker.
#[derive(Debug)]
pub struct CoreCounters {
    /// What happened in general.
    pub worker: WorkerCounters,
    drops: Box<[Counter; DROP_REASONS]>,
    fronts: HugeArray<Front>,
    backs: Box<[Back]>,
    ports: Box<[PortCounters]>,
}

fn zeroed<T: Default>(n: usize) -> Box<[T]> {
    (0..n).map(|_| T::default()).collect()
}

/// All zero. With many servers they take more ordinary pages than a processor remembers.
fn fronts(max_reals: usize) -> HugeArray<Front> {
    let len = max_reals.max(1);
    HugeArray::joined(len).unwrap_or_else(|_| {
        // As for any other memory that the system does not have.
        std::alloc::handle_alloc_error(
            std::alloc::Layout::array::<Front>(len).unwrap_or(std::alloc::Layout::new::<Front>()),
        )
    })
}

impl CoreCounters {
    /// Counters for up to `max_reals` real servers and `ports` ports, all zero.
    pub fn new(max_reals: usize, ports: usize) -> Self {
        Self {
            worker: WorkerCounters::default(),
            drops: Box::new(std::array::from_fn(|_| Counter::default())),
            fronts: fronts(max_reals),
            backs: zeroed(max_reals.max(1)),
            ports: zeroed(ports.max(1)),
        }
    }
    /// The counter of a drop reason.
    #[inline(always)]
    pub fn drop(&self, reason: DropReason) -> &Counter {
        &self.drops[reason as usize]
    }
    /// A real server's counters (the last one's, should the number be out of range).
    #[inline(always)]
    pub fn real(&self, id: RealId) -> RealCounters<'_> {
        let at = id.index().min(self.backs.len() - 1);
        Self::join(self.fronts.at(at), &self.backs[at])
    }
    /// All real servers' counters, by number.
    pub fn reals(&self) -> impl Iterator<Item = RealCounters<'_>> {
        self.fronts().iter().zip(&self.backs).map(|(front, back)| Self::join(front, back))
    }
    #[inline(always)]
    fn join<'a>(front: &'a Front, back: &'a Back) -> RealCounters<'a> {
        RealCounters {
            connections: &back.connections,
            in_packets: &front.in_packets,
            in_bytes: &front.in_bytes,
            out_packets: &back.out_packets,
            out_bytes: &back.out_bytes,
        }
    }
    /// What the fast stage needs of real servers, by number.
    #[inline(always)]
    pub fn fronts(&self) -> &[Front] {
        self.fronts.all()
    }
    /// What replies are counted in, by real server's number.
    #[inline(always)]
    pub fn backs(&self) -> &[Back] {
        &self.backs
    }
    /// A port's counters.
    #[inline(always)]
    pub fn port(&self, id: PortId) -> &PortCounters {
        &self.ports[id.index().min(self.ports.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_distinct_names_and_sentences() {
        let names: std::collections::HashSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DROP_REASONS);
        for (i, r) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*r as usize, i);
            assert!(r.describe().ends_with('.'), "{r:?}");
        }
    }
}
