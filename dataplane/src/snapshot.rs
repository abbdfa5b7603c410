//! The configuration as workers read it: compiled once by control, immutable, shared.
//!
//! [`Spec`] is the plain description that control fills in; [`Snapshot::compile`] turns
//! it into lookup tables. Everything that takes more than a constant time is done there,
//! on the control thread. A [`Builder`] is told what has changed since, and makes the next
//! snapshot out of the one before, sharing the parts that are the same. Numbers ([`ServiceId`], [`RealId`], [`NextHopId`], …) are given
//! out by control and are stable from one snapshot to the next.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

mod build;
mod pages;

pub use build::Builder;
pub use pages::Pages;
use pages::Shards;

pub use crate::flow::extension::ClientAddress;
use crate::flow::state::Timeouts;
use crate::sched;
use crate::units::{Be16, Ip, Mac, NextHopId, PortId, RealId, ServiceId};
use crate::wire::checksum;

/// How a packet reaches a real server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum ForwardingMode {
    /// Destination address and port rewritten; replies come back through the director.
    Nat = 0,
    /// The frame is re-addressed, the packet left as it is (gatewaying, DSR).
    #[default]
    DirectRouting = 1,
    /// The packet is wrapped ([`Tunnel`]) and sent to the real server's address.
    Tunnel = 2,
    /// Like NAT, and the client's address is replaced by a local one.
    FullNat = 3,
}

/// The wrapping that a tunnel uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tunnel {
    /// IP in IP, RFC 2003 (and RFC 2473 for IPv6 on either side).
    #[default]
    Ipip,
    /// GRE, RFC 2784.
    Gre {
        /// With the checksum field.
        checksum: bool,
    },
    /// Generic UDP encapsulation, variant 0.
    Gue {
        /// Destination port at the real server.
        port: u16,
        /// What protects the outer packet.
        checksum: GueChecksum,
    },
    /// VXLAN, RFC 7348.
    Vxlan {
        /// Destination port at the real server.
        port: u16,
        /// Network identifier, 24 bits.
        vni: u32,
    },
}

/// Checksum choices of GUE, as ipvsadm's `--tun-nocsum`, `--tun-csum`, `--tun-remcsum`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GueChecksum {
    /// The outer UDP checksum is zero.
    #[default]
    None,
    /// The outer UDP checksum is filled in.
    Udp,
    /// Remote checksum offload.
    Remote,
}

/// What a client gets that reaches a VIP's port without a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// What a host would answer: TCP RST, ICMP port unreachable.
    #[default]
    Answer,
    /// Nothing.
    Silent,
}

/// What happens to a packet of a flow whose real server was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GonePolicy {
    /// Dropped in silence until the flow times out, but for a SYN: that opens a new one.
    #[default]
    Drop,
    /// Dropped in silence, a SYN as well (the kernel's `expire_nodest_conn=0`).
    Kernel,
    /// The flow is ended and the client told (RST): the kernel's `expire_nodest_conn=1`.
    Reset,
    /// The flow is ended and the packet treated as if it had none.
    Reschedule,
}

/// Settings that apply to all services. Names follow the kernel's `net.ipv4.vs.*`
/// where there is one; defaults are the kernel's.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How long a flow lives in each state.
    pub timeouts: Timeouts,
    /// A TCP packet without SYN may open a flow.
    pub sloppy_tcp: bool,
    /// An SCTP packet other than INIT may open a flow.
    pub sloppy_sctp: bool,
    /// Decrement the TTL in direct routing as well (the kernel does).
    pub dr_decrement_ttl: bool,
    /// Answer to packets for ports without a service.
    pub refusal: Refusal,
    /// ICMP errors and TCP resets that a worker may send per second; 0 is no limit.
    pub answer_rate_limit: u32,
    /// Packets of flows whose real server was removed.
    pub gone: GonePolicy,
    /// A template whose real server has weight 0 is not used for new flows.
    pub expire_quiescent_template: bool,
    /// What a SYN on the 4-tuple of an old flow does (kernel: 0 nothing, 1 reschedule
    /// when the old flow is closing and the server gone or weight 0, bit by bit as there).
    pub conn_reuse_mode: u8,
    /// Tunnels: copy DF to the outer header and tell clients of a smaller path MTU.
    pub pmtu_disc: bool,
    /// Tell a real server that its reply belongs to no flow (ICMP 3/3).
    pub nat_icmp_send: bool,
    /// Route packets that belong to no service and no flow, as `ip_forward=1` does.
    pub routing: bool,
    /// Use the stricter TCP state table (kernel's `secure_tcp`): 0 never, 1 and 2 while the
    /// flow table is nearly full, 3 always.
    pub secure_tcp: u8,
    /// With the stricter table, how long a half-open connection may last, milliseconds; 0
    /// leaves the ordinary time-outs, as the kernel does.
    pub secure_half_open_ms: u32,
    /// Evict half-open flows at random (kernel's `drop_entry`), 0–3 as for `secure_tcp`.
    pub drop_entry: u8,
    /// Drop some of the packets that open flows (kernel's `drop_packet`), 0–3.
    pub drop_packet: u8,
    /// With `drop_packet` 3, one of so many (kernel's `am_droprate`); 0 is none.
    pub drop_packet_rate: u16,
    /// From how many percent of the flow table on it counts as nearly full (in the place of
    /// the kernel's `amemthresh`).
    pub overload_percent: u8,
    /// Schedule ICMP to a VIP as well (kernel's `schedule_icmp`).
    pub schedule_icmp: bool,
    /// What full NAT puts in the place of clients' addresses.
    pub full_nat: FullNat,
}

/// The local addresses and ports of full NAT.
#[derive(Clone, Debug, PartialEq)]
pub struct FullNat {
    /// The addresses, of both families; none is a VIP or an interface's own.
    pub addresses: Vec<Ip>,
    /// First and last port, host order.
    pub ports: (u16, u16),
}

impl Default for FullNat {
    fn default() -> Self {
        Self { addresses: Vec::new(), ports: (1024, 65535) }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeouts: Timeouts::default(),
            sloppy_tcp: false,
            sloppy_sctp: false,
            dr_decrement_ttl: true,
            refusal: Refusal::Answer,
            answer_rate_limit: 1000,
            gone: GonePolicy::Drop,
            expire_quiescent_template: false,
            conn_reuse_mode: 1,
            pmtu_disc: true,
            nat_icmp_send: false,
            routing: true,
            secure_tcp: 0,
            secure_half_open_ms: 0,
            drop_entry: 0,
            drop_packet: 0,
            drop_packet_rate: 10,
            overload_percent: 90,
            schedule_icmp: false,
            full_nat: FullNat::default(),
        }
    }
}

/// Index of an interface: a port, or one VLAN of a port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IfaceId(pub u16);

/// Where the director has addresses: a port, or one VLAN of a port.
#[derive(Clone, Debug, PartialEq)]
pub struct InterfaceSpec {
    /// The port.
    pub port: PortId,
    /// The 802.1Q VLAN id (1–4094), or none for untagged frames.
    pub vlan: Option<u16>,
    /// The interface's Ethernet address.
    pub mac: Mac,
    /// Largest IP packet that fits, bytes.
    pub mtu: u16,
    /// The director's own addresses with their prefix lengths (within the family).
    pub addresses: Vec<(Ip, u8)>,
}

/// What a port's device does for the packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceWork {
    /// It takes 802.1Q tags out of the frames it receives, and puts them into those that ask for it.
    pub tags: bool,
    /// It sums up the packets that ask for it (TCP and UDP).
    pub checksums: bool,
}

/// A directly reachable host or gateway, with its Ethernet address once known.
#[derive(Clone, Debug, PartialEq)]
pub struct NextHopSpec {
    /// Its number; stable while anything refers to it.
    pub id: NextHopId,
    /// The interface it is on.
    pub iface: IfaceId,
    /// Its IP address.
    pub ip: Ip,
    /// Its Ethernet address, `None` while unresolved.
    pub mac: Option<Mac>,
}

/// A route. Connected networks follow from the interfaces' addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteSpec {
    /// Destination network.
    pub network: Ip,
    /// Prefix length within the family.
    pub prefix_len: u8,
    /// The gateway.
    pub gateway: NextHopId,
}

/// Traffic that a firewall-mark service takes: the kernel's mark rules, without a firewall.
#[derive(Clone, Debug, PartialEq)]
pub struct MarkRule {
    /// Protocol, or any.
    pub protocol: Option<u8>,
    /// Destination network.
    pub network: Ip,
    /// Its prefix length within the family.
    pub prefix_len: u8,
    /// First destination port, host order.
    pub port_first: u16,
    /// Last destination port, host order.
    pub port_last: u16,
}

/// What packets a service takes.
#[derive(Clone, Debug, PartialEq)]
pub enum Match {
    /// One address and port (0 is any port).
    Address {
        /// IP protocol number.
        protocol: u8,
        /// The VIP.
        vip: Ip,
        /// The port in host order; 0 takes every port that has no service of its own.
        port: u16,
    },
    /// A firewall mark: everything its rules name.
    Mark {
        /// The number that `-f N` names.
        mark: u32,
        /// IPv6 rather than IPv4.
        ipv6: bool,
        /// What it takes.
        rules: Vec<MarkRule>,
    },
}

impl Match {
    /// Whether it takes IPv4 packets, else IPv6.
    pub fn is_v4(&self) -> bool {
        match self {
            Self::Address { vip, .. } => vip.is_v4(),
            Self::Mark { ipv6, .. } => !ipv6,
        }
    }
}

/// Persistence of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// How long a client without flows is remembered, milliseconds.
    pub timeout_ms: u32,
    /// Clients that agree in this many leading bits share a template.
    pub prefix_len: u8,
}

/// A real server of one service.
#[derive(Clone, Debug, PartialEq)]
pub struct RealSpec {
    /// Its number.
    pub id: RealId,
    /// Its service's number (also when removed).
    pub service: ServiceId,
    /// Its address.
    pub addr: Ip,
    /// Its port, host order; 0 keeps the packet's port.
    pub port: u16,
    /// How packets reach it.
    pub mode: ForwardingMode,
    /// The wrapping, with [`ForwardingMode::Tunnel`].
    pub tunnel: Tunnel,
    /// Weight; 0 takes no new flows.
    pub weight: u32,
    /// The last weight other than 0 since the server was added, 0 if there was none: mh
    /// keeps a drained server's share of its table. Read while `weight` is 0 only.
    pub last_weight: u32,
    /// Upper connection threshold; 0 is none.
    pub upper: u32,
    /// Lower connection threshold; 0 means three quarters of the upper one.
    pub lower: u32,
    /// Where frames for it go, [`NextHopId::NONE`] when there is no route. [`NextHopId::HERE`]
    /// for a server that is the director itself, where nothing listens.
    pub next_hop: NextHopId,
    /// The director's address towards it: outer source of tunnels.
    pub source: Ip,
    /// The path MTU towards it where a router reported a smaller one than the link's, bytes; else 0.
    pub path_mtu: u16,
    /// False for a server that was removed while flows refer to it.
    pub available: bool,
    /// For a removed server: the one before it in the list when it went.
    pub predecessor: RealId,
}

/// What a service does for its TCP connections beyond forwarding them. Real servers that
/// replies do not come back from (direct routing, tunnels) have none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Extras {
    /// How real servers are told clients' addresses.
    pub client_address: ClientAddress,
    /// Follow FTP's control connection to its data connections.
    pub ftp: bool,
}

/// A service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceSpec {
    /// Its number.
    pub id: ServiceId,
    /// What it takes.
    pub matches: Match,
    /// The scheduler with its flags and tables.
    pub scheduler: sched::SchedulerKind,
    /// Flags of the scheduler ([`sched::flags`]).
    pub sched_flags: u32,
    /// Persistence, if wanted.
    pub persistence: Option<Persistence>,
    /// Every UDP packet is scheduled by itself.
    pub one_packet: bool,
    /// What is done beyond forwarding.
    pub extras: Extras,
    /// Its real servers in the order in which schedulers try them (newest first).
    pub reals: Vec<RealId>,
}

/// The whole configuration, as control describes it.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// Counts up with every change.
    pub generation: u64,
    /// Global settings.
    pub settings: Settings,
    /// What the ports' devices do, by port; nothing where there is no entry.
    pub devices: Vec<DeviceWork>,
    /// Interfaces by [`IfaceId`].
    pub interfaces: Vec<InterfaceSpec>,
    /// VIPs, with or without a service: answered to ARP and ping. The number is the
    /// prefix length; shorter than a host route only for mark services' networks.
    pub vips: Vec<(Ip, u8)>,
    /// Services in any order.
    pub services: Vec<ServiceSpec>,
    /// Real servers in any order, removed ones that still have flows included.
    pub reals: Vec<RealSpec>,
    /// Next hops in any order, including neighbours learned on connected networks.
    pub next_hops: Vec<NextHopSpec>,
    /// Static routes, the default route among them (prefix length 0).
    pub routes: Vec<RouteSpec>,
}

/// A small, fast, fixed hash for tables whose keys come from the configuration.
#[derive(Default, Clone, Copy)]
pub struct FoldHasher(u64);
impl Hasher for FoldHasher {
    #[inline(always)]
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut w = [0; 8];
            w[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_ne_bytes(w));
        }
    }
    #[inline(always)]
    fn write_u64(&mut self, x: u64) {
        let m = u128::from(self.0 ^ x ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
        self.0 = (m as u64) ^ ((m >> 64) as u64);
    }
    #[inline(always)]
    fn write_u32(&mut self, x: u32) {
        self.write_u64(u64::from(x));
    }
    #[inline(always)]
    fn write_u128(&mut self, x: u128) {
        self.write_u64(x as u64);
        self.write_u64((x >> 64) as u64);
    }
    #[inline(always)]
    fn finish(&self) -> u64 {
        self.0
    }
}
type Map<K, V> = HashMap<K, V, BuildHasherDefault<FoldHasher>>;

/// What an address of the director is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Local {
    /// Its own address, on this interface.
    Own(IfaceId),
    /// A VIP.
    Vip,
    /// A local address of full NAT.
    Pool,
}

/// A next hop as the last stage needs it: the bytes to put in front.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct NextHop {
    /// Destination, source and, with `l2_len` 18, the 802.1Q tag; the Ethernet type follows.
    pub header: [u8; 16],
    /// Length of the whole Ethernet header: 14 or 18.
    pub l2_len: u8,
    /// The 802.1Q tag that the device is to put in; 0: none.
    pub device_tag: u16,
    /// Whether the destination's Ethernet address is known.
    pub resolved: bool,
    /// Where the frame leaves.
    pub port: PortId,
    /// Largest IP packet that fits, bytes.
    pub mtu: u16,
    /// The interface.
    pub iface: IfaceId,
    /// The next hop's address.
    pub ip: Ip,
}

impl NextHop {
    /// Whether a frame with nothing but addresses and type can leave for it.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        self.resolved && self.l2_len == 14 && self.device_tag == 0
    }
}

/// A real server as the stages need it.
#[derive(Clone, Debug, PartialEq)]
#[repr(align(64))]
pub struct Real {
    /// Its address.
    pub addr: Ip,
    /// Its port; 0 keeps the packet's.
    pub port: Be16,
    /// How packets reach it.
    pub mode: ForwardingMode,
    /// False when removed, or never defined.
    pub available: bool,
    /// Its service.
    pub service: ServiceId,
    /// Where its frames go.
    pub next_hop: NextHopId,
    /// Weight.
    pub weight: u32,
    /// The weight that mh shares its table by.
    pub last_weight: u32,
    /// The wrapping.
    pub tunnel: Tunnel,
    /// Outer source of tunnels.
    pub source: Ip,
    /// Reported path MTU, 0 for none.
    pub reported_mtu: u16,
    /// Upper threshold, 0 for none.
    pub upper: u32,
    /// Lower threshold.
    pub lower: u32,
    /// For a removed one: its predecessor in the list.
    pub predecessor: RealId,
}

impl Real {
    /// The largest packet that reaches it over `hop`, bytes.
    #[inline(always)]
    pub fn path_mtu(&self, hop: &NextHop) -> u16 {
        if self.reported_mtu == 0 { hop.mtu } else { self.reported_mtu.min(hop.mtu) }
    }
    pub(crate) const NONE: Self = Self {
        addr: Ip::UNSPECIFIED,
        port: Be16([0; 2]),
        mode: ForwardingMode::Nat,
        available: false,
        service: ServiceId::NONE,
        next_hop: NextHopId::NONE,
        weight: 0,
        last_weight: 0,
        tunnel: Tunnel::Ipip,
        source: Ip::UNSPECIFIED,
        reported_mtu: 0,
        upper: 0,
        lower: 0,
        predecessor: RealId::NONE,
    };
}

/// What the fast stage needs of a real server, in one cache line: its next hop included.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct Forward {
    /// Destination and source Ethernet address.
    pub header: [u8; 12],
    /// Address of the real server.
    pub addr: Ip,
    /// Source address of the tunnel's outer header.
    pub source: [u8; 4],
    /// Sum over both addresses, the first byte and the protocol of that header (RFC 1071).
    pub outer_sum: u16,
    /// Largest IP packet that may come, so that it fits when it is sent, bytes. 0: not for
    /// the fast stage (removed, next hop not resolved or tagged, a tunnel other than IPIP over IPv4).
    pub mtu: u16,
    /// Where the frame leaves and how, in one word: see [`Forward::port`] and [`Forward::mode`].
    pub way: u32,
}

impl Forward {
    /// Direct routing that leaves the TTL as it is.
    pub const DIRECT_AS_IS: u8 = 3;

    /// Where the frame leaves, of a [`way`](Self::way).
    #[inline(always)]
    pub fn port(way: u32) -> PortId {
        PortId(way as u16)
    }

    /// How, of a [`way`](Self::way): the number of a [`ForwardingMode`], or
    /// [`DIRECT_AS_IS`](Self::DIRECT_AS_IS).
    #[inline(always)]
    pub fn mode(way: u32) -> u8 {
        (way >> 16) as u8
    }

    /// The [`ForwardingMode`]'s number, of a [`way`](Self::way): a flow opened before the
    /// server's mode changed keeps its own, and is not for the fast stage.
    #[inline(always)]
    pub fn opens(way: u32) -> u32 {
        way >> 24
    }

    fn new(real: &Real, hop: Option<&NextHop>, settings: &Settings) -> Self {
        let plain_tunnel = real.mode != ForwardingMode::Tunnel || real.tunnel == Tunnel::Ipip;
        let known = matches!(real.mode, ForwardingMode::Nat | ForwardingMode::DirectRouting | ForwardingMode::Tunnel);
        let family = real.addr.is_v4() || real.mode != ForwardingMode::Tunnel;
        let hop = hop.filter(|h| h.is_plain() && known && plain_tunnel && family);
        let mut out =
            Self { header: [0; 12], addr: real.addr, source: real.source.v4_bytes(), outer_sum: 0, mtu: 0, way: 0 };
        if let Some(hop) = hop.filter(|_| real.available) {
            out.header.copy_from_slice(&hop.header[..12]);
            out.mtu = match real.mode {
                ForwardingMode::Tunnel => real.path_mtu(hop).saturating_sub(20),
                _ => hop.mtu,
            };
            let as_is = real.mode == ForwardingMode::DirectRouting && !settings.dr_decrement_ttl;
            let mode = if as_is { Self::DIRECT_AS_IS } else { real.mode as u8 };
            out.way = u32::from(hop.port.0) | u32::from(mode) << 16 | (real.mode as u32) << 24;
            let fixed = [[0x45, 0, 0, 4], out.source, out.addr.v4_bytes()].concat();
            out.outer_sum = checksum::sum(&fixed);
        }
        out
    }
}

/// A service as the stages need it.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its number, [`ServiceId::NONE`] in an unused slot.
    pub id: ServiceId,
    /// 0, or the firewall mark.
    pub mark: u32,
    /// Port of the service (0: any), host order.
    pub port: u16,
    /// Persistence.
    pub persistence: Option<Persistence>,
    /// Every UDP packet by itself.
    pub one_packet: bool,
    /// What is done beyond forwarding.
    pub extras: Extras,
    /// What the scheduler reads.
    pub sched: sched::ServiceSched,
}

/// Where a destination is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hop {
    /// Through this gateway, or this neighbour.
    Via(NextHopId),
    /// On this interface's own network, neighbour not known yet.
    OnLink(IfaceId),
    /// Nowhere.
    None,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct RouteEntry {
    network: u128,
    mask: u128,
    to: Hop,
}

/// The compiled configuration. A copy shares its tables with the original.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its number.
    pub generation: u64,
    /// Global settings.
    pub settings: Settings,
    /// What the ports' devices do, by port.
    pub devices: Arc<[DeviceWork]>,
    /// Whether any of them takes tags out of frames.
    pub strips: bool,
    /// Interfaces by [`IfaceId`].
    pub interfaces: Arc<[InterfaceSpec]>,
    /// Services by [`ServiceId`].
    pub services: Pages<Service>,
    /// Real servers by [`RealId`].
    pub reals: Pages<Real>,
    /// The same servers with their next hops, as the forward stage needs them.
    pub forwards: Arc<[Forward]>,
    /// Next hops by [`NextHopId`].
    pub next_hops: Pages<NextHop>,
    locals: Shards<Ip, Local>,
    vip_networks: Arc<[(Ip, u8)]>,
    by_address: Shards<(Ip, u32), ServiceId>,
    mark_rules: Arc<[(MarkRule, ServiceId)]>,
    /// How many real servers have an address.
    real_addresses: Shards<Ip, u32>,
    routes: Arc<[RouteEntry]>,
    neighbours: Shards<(IfaceId, Ip), NextHopId>,
    macs: Arc<[u64]>,
    /// Interface of untagged frames by port, and of (port, VLAN).
    ifaces: Arc<Map<(u16, u16), IfaceId>>,
    /// Whether there is any service of IPv6 and of IPv4: without one, a family's packets
    /// meet no flows either, as the kernel takes its hooks away with the last service.
    pub serves: [bool; 2],
    /// Services whose lists take a worker so long to take in that it does that before it adopts the snapshot.
    pub long_lists: Arc<[ServiceId]>,
    /// Whether any real server is behind NAT over IPv6 and over IPv4.
    pub translates: [bool; 2],
    /// Whether any service is persistent.
    pub has_persistence: bool,
    /// Whether there is a TCP service on FTP's port.
    has_ftp: bool,
    /// Whether any port has VLANs.
    pub has_vlans: bool,
    /// Full NAT's addresses of IPv6 and of IPv4.
    local_pools: [Arc<[Ip]>; 2],
}

/// FTP's control port.
const FTP: u16 = 21;
/// Port of FTP's active data connections.
const FTP_DATA: u16 = 20;
/// The first port that is not privileged (`ip_unprivileged_port_start`).
const FIRST_UNPRIVILEGED: u16 = 1024;

/// Key of `by_address`: port in the low half, protocol above.
#[inline(always)]
fn port_protocol(port: u16, protocol: u8) -> u32 {
    u32::from(protocol) << 16 | u32::from(port)
}

impl Snapshot {
    /// The empty configuration, generation 0.
    pub fn empty() -> Arc<Self> {
        Arc::new(Self::compile(&Spec::default()))
    }

    /// Builds the tables. Pure: the same description gives the same answers.
    pub fn compile(spec: &Spec) -> Self {
        Builder::new(spec).snapshot(spec.generation)
    }

    /// The first thing in which the answers of two snapshots differ, generations aside. For tests:
    /// it takes a while.
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        let flags = |s: &Self| (s.serves, s.translates, s.strips, s.has_persistence, s.has_ftp, s.has_vlans);
        let unset = Forward::new(&Real::NONE, None, &self.settings);
        let forward = |s: &Self, n: usize| s.forwards.get(n).copied().unwrap_or(unset);
        let forwards = self.forwards.len().max(other.forwards.len());
        [
            ("settings", self.settings == other.settings),
            ("devices", self.devices == other.devices),
            ("interfaces", self.interfaces == other.interfaces && self.ifaces == other.ifaces),
            ("services", self.services.is_like(&other.services)),
            ("real servers", self.reals.is_like(&other.reals)),
            ("forwards", (0..forwards).all(|n| forward(self, n) == forward(other, n))),
            ("next hops", self.next_hops.is_like(&other.next_hops)),
            ("addresses of the director", self.locals.is_like(&other.locals)),
            ("networks of VIPs", self.vip_networks == other.vip_networks),
            ("addresses of services", self.by_address.is_like(&other.by_address)),
            ("rules of marks", self.mark_rules == other.mark_rules),
            ("addresses of real servers", self.real_addresses.is_like(&other.real_addresses)),
            ("routes", self.routes == other.routes),
            ("neighbours", self.neighbours.is_like(&other.neighbours)),
            ("ports' addresses", self.macs == other.macs),
            ("long lists", self.long_lists == other.long_lists),
            ("local addresses of full NAT", self.local_pools == other.local_pools),
            ("flags", flags(self) == flags(other)),
        ]
        .into_iter()
        .find_map(|(what, same)| (!same).then_some(what))
    }

    /// Whether `ip` is the director's, and how.
    #[inline]
    pub fn local(&self, ip: Ip) -> Option<Local> {
        match self.locals.get(&ip) {
            Some(l) => Some(*l),
            None if self.vip_networks.is_empty() => None,
            None => self.vip_networks.iter().any(|(n, len)| ip.masked(*len) == *n).then_some(Local::Vip),
        }
    }

    /// Full NAT's local addresses of one family.
    #[inline]
    pub fn local_pool(&self, v4: bool) -> &[Ip] {
        &self.local_pools[usize::from(v4)]
    }

    /// Whether full NAT has any local address.
    #[inline(always)]
    pub fn has_local_pool(&self) -> bool {
        self.local_pools.iter().any(|p| !p.is_empty())
    }

    /// The service that takes a packet, in the kernel's order: a mark, then the exact port, then
    /// FTP's for unprivileged ports (passive data connections), then any port (port 0).
    #[inline]
    pub fn service_for(&self, protocol: u8, vip: Ip, port: Be16) -> Option<&Service> {
        if !self.mark_rules.is_empty() {
            let hit = self.mark_rules.iter().find(|(r, _)| mark_matches(r, protocol, vip, port.get()));
            if let Some((_, id)) = hit {
                return self.service(*id);
            }
        }
        let id = self
            .by_address
            .get(&(vip, port_protocol(port.get(), protocol)))
            .or_else(|| self.ftp_for(protocol, vip, port))
            .or_else(|| self.by_address.get(&(vip, port_protocol(0, protocol))))?;
        self.service(*id)
    }

    /// The FTP service that a connection to an unprivileged port, or to that of data, may belong to.
    fn ftp_for(&self, protocol: u8, vip: Ip, port: Be16) -> Option<&ServiceId> {
        let data = port.get() >= FIRST_UNPRIVILEGED || port.get() == FTP_DATA;
        if protocol != 6 || !self.has_ftp || !data {
            return None;
        }
        self.by_address.get(&(vip, port_protocol(FTP, protocol)))
    }

    /// A service by number.
    #[inline(always)]
    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.services.get(id.index()).filter(|s| s.id == id)
    }

    /// A real server by number; `None` when the number was never given out.
    #[inline(always)]
    pub fn real(&self, id: RealId) -> Option<&Real> {
        self.reals.get(id.index())
    }

    /// Whether any real server has this address: its packets may be replies.
    #[inline(always)]
    pub fn is_real_address(&self, ip: Ip) -> bool {
        self.real_addresses.contains_key(&ip)
    }

    /// The Ethernet address of a port as the low six bytes of a little-endian word, as
    /// parse compares it; a value that no frame has when the port is unknown.
    #[inline(always)]
    pub fn port_mac(&self, port: PortId) -> u64 {
        self.macs.get(port.index()).copied().unwrap_or(u64::MAX)
    }

    /// Whether some NAT server of a service, or of a mark whatever its protocol, has this address and
    /// port: then a packet from there that belongs to no flow may be a reply gone astray.
    pub fn is_real_endpoint(&self, ip: Ip, port: Be16, protocol: u8) -> bool {
        let of_protocol = |id: ServiceId| {
            let listed = || self.by_address.iter().any(|((_, key), s)| *s == id && key >> 16 == u32::from(protocol));
            self.service(id).is_some_and(|s| s.mark != 0 || listed())
        };
        let rewritten = |r: &Real| matches!(r.mode, ForwardingMode::Nat | ForwardingMode::FullNat);
        let serves = |r: &Real| r.available && r.addr == ip && r.port == port && rewritten(r) && of_protocol(r.service);
        self.reals.iter().any(serves)
    }

    /// The interface of frames that arrive on `port` with VLAN `vlan` (0: untagged).
    #[inline(always)]
    pub fn iface(&self, port: PortId, vlan: u16) -> Option<IfaceId> {
        self.ifaces.get(&(port.0, vlan)).copied()
    }

    /// Longest-prefix match; a destination on a connected network becomes its neighbour
    /// when that one is known.
    #[inline]
    pub fn route(&self, dst: Ip) -> Hop {
        let d = dst.raw();
        let hit = self.routes.iter().find(|r| d & r.mask == r.network);
        match hit.map_or(Hop::None, |r| r.to) {
            Hop::OnLink(iface) => self.neighbours.get(&(iface, dst)).map_or(Hop::OnLink(iface), |n| Hop::Via(*n)),
            other => other,
        }
    }

    /// What is known of a directly reachable host.
    pub fn neighbour(&self, iface: IfaceId, ip: Ip) -> Option<&NextHop> {
        self.next_hop(*self.neighbours.get(&(iface, ip))?)
    }

    /// The MTU of the link towards a destination, bytes.
    pub fn mtu_towards(&self, hop: Hop) -> u16 {
        match hop {
            Hop::Via(id) => self.next_hop(id).map_or(1500, |h| h.mtu),
            Hop::OnLink(iface) => self.interfaces.get(usize::from(iface.0)).map_or(1500, |i| i.mtu),
            Hop::None => 1500,
        }
    }

    /// Whether the director answers ARP and neighbour solicitations for `ip` on `iface`:
    /// for VIPs everywhere, for its own addresses on any interface too, as Linux does.
    pub fn answers_for(&self, ip: Ip, iface: IfaceId) -> bool {
        let _ = iface;
        self.locals.contains_key(&ip)
    }

    /// A next hop by number.
    #[inline(always)]
    pub fn next_hop(&self, id: NextHopId) -> Option<&NextHop> {
        self.next_hops.get(id.index())
    }

    /// What the device of `port` does.
    #[inline]
    pub fn device(&self, port: PortId) -> DeviceWork {
        self.devices.get(port.index()).copied().unwrap_or_default()
    }

    /// The director's own address on an interface, of `like`'s family.
    pub fn own_address(&self, iface: IfaceId, like: Ip) -> Option<Ip> {
        let addresses = &self.interfaces.get(usize::from(iface.0))?.addresses;
        addresses.iter().map(|(a, _)| *a).find(|a| a.is_v4() == like.is_v4())
    }
}

fn mark_matches(r: &MarkRule, protocol: u8, vip: Ip, port: u16) -> bool {
    r.protocol.is_none_or(|p| p == protocol)
        && (r.port_first..=r.port_last).contains(&port)
        && vip.is_v4() == r.network.is_v4()
        && vip.masked(r.prefix_len) == r.network
}
