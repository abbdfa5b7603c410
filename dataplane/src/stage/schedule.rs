//! Schedule: a packet without a flow opens one, or is refused; a SYN on an old flow and
//! a packet for a removed real server are judged here as well.
//!
//! Follows the kernel's `ip_vs_in`, `ip_vs_schedule` and `ip_vs_sched_persist`.

use crate::burst::{Burst, Direction, Lane, tcp_flags};
use crate::counters::DropReason;
use crate::flow::extension::Extension;
use crate::flow::hash::FlowHash;
use crate::flow::record::{FlowKey, FlowRecord, ReplyKey, flags, peer_word};
use crate::flow::state::{self, State};
use crate::flow::table::FlowId;
use crate::io::PacketIo;
use crate::sched::SchedKey;
use crate::snapshot::{Extras, ForwardingMode, GonePolicy, Local, Persistence, Real, Service, Snapshot};
use crate::stage::{answer, ftp, full_nat, local, rewrite, track};
use crate::units::{Be16, Ip, RealId};
use crate::worker::Core;

/// How many real servers are tried that turn out to be full.
const ADMISSIONS: usize = 64;
/// Port of FTP's control connections.
const FTP: u16 = 21;
/// Port that FTP's active data connections come from.
const FTP_DATA: u16 = 20;
/// Port under which a template is kept that is of no use any more.
pub(crate) const RETIRED: u16 = 65_535;

/// Why no flow was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Nobody serves this port: what a host's own stack would answer.
    NoService,
    /// A mid-stream packet.
    NoFlow,
    /// An address of the director itself, where nothing listens.
    NotListening,
    /// The service has no usable real server.
    NoRealServer,
    /// Dropped without an answer.
    Drop(DropReason),
}

/// Gives every missed lane a flow, and makes it ready, or refuses it.
#[inline]
pub fn schedule<I: PacketIo>(s: &Snapshot, core: &mut Core<I::Buf>, io: &mut I, burst: &mut Burst<I::Buf>) {
    // What `track` did not find has been opened by an earlier lane since, or is not there: one bit for the hashes
    // of those.
    let mut opened = 0_u64;
    for i in burst.missed {
        let lane = &burst.lanes[i];
        let bit = 1 << (lane.hash.0 & 63);
        let is_new = lane.flow == FlowId::NONE && opened & bit == 0;
        opened |= bit;
        match if is_new { open(s, core, lane, false) } else { open_or_find(s, core, lane) } {
            Ok(id) => {
                burst.lanes[i].flow = id;
                if core.flows.get(id).flags & flags::ONE_PACKET == 0 {
                    burst.ready.insert(i);
                } else {
                    send_one_packet(s, core, io, burst, i);
                }
            }
            Err(why) => answer::refuse(s, core, io, burst, i, why),
        }
    }
}

/// A packet of a flow whose real server was removed, after track.
#[cold]
pub fn gone<I: PacketIo>(s: &Snapshot, core: &mut Core<I::Buf>, io: &mut I, burst: &mut Burst<I::Buf>, i: usize) {
    match open_or_find(s, core, &burst.lanes[i]) {
        Ok(id) => {
            let lane = &mut burst.lanes[i];
            lane.flow = id;
            let Some(buf) = burst.bufs[i].as_mut() else { return };
            match rewrite::request(s, core, lane, buf) {
                rewrite::Outcome::Send => burst.finished.insert(i),
                // It was judged and still has no server: nothing more can be done.
                rewrite::Outcome::Gone => burst.drop_lane(i, DropReason::RealServerGone, io, &core.link.counters),
                other => answer::outcome(s, core, io, burst, i, other),
            }
        }
        Err(why) => answer::refuse(s, core, io, burst, i, why),
    }
}

/// Sends a packet whose flow is gone again at once, so that the next one is scheduled anew.
#[cold]
fn send_one_packet<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
) {
    let lane = &mut burst.lanes[i];
    let id = lane.flow;
    let Some(buf) = burst.bufs[i].as_mut() else { return };
    let outcome = rewrite::request(s, core, lane, buf);
    core.end_flow(id);
    if outcome == rewrite::Outcome::Send {
        burst.finished.insert(i);
    } else {
        answer::outcome(s, core, io, burst, i, outcome);
    }
}

/// The lane's flow: found (an earlier lane of this burst may have opened it), or opened.
fn open_or_find<B>(s: &Snapshot, core: &mut Core<B>, lane: &Lane) -> Result<FlowId, Refused> {
    let candidates = core.flows.probe(lane.hash);
    if let Some(id) = track::find(s, core, lane, candidates) {
        match judge(s, core, lane, id) {
            Judgement::Keep => return Ok(id),
            Judgement::Drop => return Err(Refused::Drop(DropReason::RealServerGone)),
            Judgement::End => core.end_flow(id),
            Judgement::EndAndReopen => {
                core.end_flow(id);
                return open(s, core, lane, true);
            }
        }
    }
    open(s, core, lane, false)
}

enum Judgement {
    Keep,
    Drop,
    End,
    EndAndReopen,
}

/// What a packet means for the flow it matches: the checks of `ip_vs_in` between the
/// look-up and the forwarding.
fn judge<B>(s: &Snapshot, core: &Core<B>, lane: &Lane, id: FlowId) -> Judgement {
    let record = core.flows.get(id);
    let real = s.real(record.real);
    if track::is_new(lane) && reopens(s, record, real) {
        return Judgement::End;
    }
    if real.is_some_and(|r| r.available) {
        return Judgement::Keep;
    }
    match s.settings.gone {
        GonePolicy::Drop | GonePolicy::Kernel => Judgement::Drop,
        GonePolicy::Reset => Judgement::End,
        GonePolicy::Reschedule => Judgement::EndAndReopen,
    }
}

/// Whether a SYN on this flow starts a new one (the kernel's `conn_reuse_mode`).
fn reopens(s: &Snapshot, record: &FlowRecord, real: Option<&Real>) -> bool {
    let mode = s.settings.conn_reuse_mode;
    let removed = !real.is_some_and(|r| r.available);
    let drained = real.is_some_and(|r| r.weight == 0);
    let unusable = match s.settings.gone {
        GonePolicy::Kernel => false,
        GonePolicy::Drop => removed,
        GonePolicy::Reset | GonePolicy::Reschedule => removed || drained,
    };
    if unusable {
        return true;
    }
    if record.flags & flags::CONTROLLED != 0 {
        return false;
    }
    let state = record.state;
    (mode != 0 && (state == State::TimeWait as u8 || state == State::Close as u8 || state == State::SctpClosed as u8))
        || (mode & 2 != 0 && state == State::FinWait as u8 && record.flags & flags::NO_OUTPUT != 0)
}

/// Opens a flow for the lane. `any` lets a mid-stream packet do so.
#[inline]
pub(crate) fn open<B>(s: &Snapshot, core: &mut Core<B>, lane: &Lane, any: bool) -> Result<FlowId, Refused> {
    if core.expects()
        && let Some(id) = ftp::open(s, core, lane)
    {
        return Ok(id);
    }
    let key = &lane.key;
    let Some(service) = s.service_for(key.proto, key.vip, key.vport) else { return Err(Refused::NoService) };
    if !any && !opens(s, lane) {
        return Err(Refused::NoFlow);
    }
    if core.defence.drops() {
        return Err(Refused::Drop(DropReason::Overload));
    }
    // As Linux: nobody else sends from the director's addresses. For IPv6 it does not look.
    let own = |l| key.client.is_v4() || matches!(l, Local::Vip | Local::Pool);
    if s.local(key.client).is_some_and(own) || local::is_martian(key.client) {
        return Err(Refused::Drop(DropReason::Martian));
    }
    // Active FTP's data connections come from real servers, whoever seems to send them.
    if key.client_port.get() == FTP_DATA {
        return Err(Refused::NoService);
    }
    let other_port = service.mark == 0 && service.port != key.vport.get();
    match &service.persistence {
        Some(p) => admit(core, |core| open_persistent(s, core, lane, service, p)).map_err(|why| match why {
            // A persistent FTP service gets other ports as well, but does not refuse them.
            Refused::NoRealServer if other_port && service.port == FTP => Refused::NoService,
            other => other,
        }),
        None if other_port => Err(Refused::NoService),
        None => admit(core, |core| {
            let real = choose(core, lane, service)?;
            let flow = insert(s, core, lane, service, real, one_packet(service, lane))?;
            Ok(Opened { flow, chosen: true, template: FlowId::NONE })
        }),
    }
}

/// Whether the flow is for this packet only, as a flag.
fn one_packet(service: &Service, lane: &Lane) -> u32 {
    if service.one_packet && lane.key.proto == 17 { flags::ONE_PACKET } else { 0 }
}

/// Whether the packet may open a flow.
fn opens(s: &Snapshot, lane: &Lane) -> bool {
    match lane.key.proto {
        6 => lane.tcp_flags & tcp_flags::RST == 0 && (lane.tcp_flags & tcp_flags::SYN != 0 || s.settings.sloppy_tcp),
        132 => lane.tcp_flags == state::SCTP_INIT || (s.settings.sloppy_sctp && lane.tcp_flags != state::SCTP_ABORT),
        _ => true,
    }
}

/// A flow that was opened.
struct Opened {
    flow: FlowId,
    /// The scheduler chose its real server, which must not have been full: a template's may be.
    chosen: bool,
    /// The template that was made for it.
    template: FlowId,
}

/// Opens a flow, and another one instead while other workers have filled its real server at
/// the same time.
#[inline(always)]
fn admit<B>(core: &mut Core<B>, open: impl Fn(&mut Core<B>) -> Result<Opened, Refused>) -> Result<FlowId, Refused> {
    if core.workers == 1 {
        return open(core).map(|opened| opened.flow);
    }
    // Every try finds a server full that did not look so before; more than a few at once mean
    // that there is no room anywhere.
    for _ in 0..ADMISSIONS {
        let opened = open(core)?;
        let real = core.flows.get(opened.flow).real;
        if !opened.chosen || core.sched.admits(real, &core.peers, core.id) {
            return Ok(opened.flow);
        }
        core.end_flow(opened.flow);
        if opened.template != FlowId::NONE {
            core.end_flow(opened.template);
        }
    }
    Err(Refused::NoRealServer)
}

fn choose<B>(core: &mut Core<B>, lane: &Lane, service: &Service) -> Result<RealId, Refused> {
    let key = SchedKey {
        client: lane.key.client,
        client_port: lane.key.client_port,
        vip: lane.key.vip,
        vport: lane.key.vport,
    };
    core.sched.choose(service.id, &service.sched, &core.link.counts, &key, core.now).ok_or(Refused::NoRealServer)
}

/// The port at the real server: its own, or the packet's when it has none, or when that is not
/// the service's (of a persistent mark's service no port is).
fn real_port(real: &Real, service: &Service, lane: &Lane) -> Be16 {
    // Behind a mark the kernel notes the server's port, which these modes do not write.
    let forced = matches!(real.mode, ForwardingMode::DirectRouting | ForwardingMode::Tunnel) && service.mark == 0;
    let other = match service.mark {
        0 => service.port != lane.key.vport.get() || service.port == 0,
        _ => service.persistence.is_some(),
    };
    if forced || real.port.get() == 0 || other { lane.key.vport } else { real.port }
}

fn insert<B>(
    s: &Snapshot,
    core: &mut Core<B>,
    lane: &Lane,
    service: &Service,
    id: RealId,
    extra: u32,
) -> Result<FlowId, Refused> {
    let Some(real) = s.real(id) else { return Err(Refused::NoRealServer) };
    let rport = real_port(real, service, lane);
    let local = match real.mode {
        ForwardingMode::FullNat => Some(
            full_nat::choose(s, core, real, rport, lane.key.proto).ok_or(Refused::Drop(DropReason::LocalPoolEmpty))?,
        ),
        _ => None,
    };
    let (l3_delta, l4_delta) = match (real.mode, &local) {
        (ForwardingMode::Nat, _) => rewrite::deltas(lane.key.vip, lane.key.vport.0, real.addr, rport.0),
        (ForwardingMode::FullNat, Some(local)) => full_nat::deltas(lane, local, real, rport),
        _ => (0, 0),
    };
    let both_ways = matches!(real.mode, ForwardingMode::Nat | ForwardingMode::FullNat);
    let one_way = if both_ways { 0 } else { flags::NO_OUTPUT };
    let first = state::initial(lane.key.proto);
    let mut record = FlowRecord {
        client: lane.key.client,
        vip: lane.key.vip.into(),
        client_port: lane.key.client_port,
        vport: lane.key.vport,
        rport,
        proto: lane.key.proto,
        state: first as u8,
        real: id,
        peer: peer_word(real.addr),
        deadline: core.now.after_ms(s.settings.timeouts.of(first as u8)),
        flags: real.mode as u32 | one_way | extra,
        l3_delta,
        l4_delta,
        ext: u32::MAX,
    };
    if real.mode == ForwardingMode::Nat && extra & flags::ONE_PACKET == 0 {
        take_replies(s, core, lane, real.addr, &mut record);
    }
    let edits = both_ways && lane.key.proto == 6 && service.extras != Extras::default();
    if local.is_none() && !edits {
        return core.open_flow(lane.hash, record).ok_or_else(|| not_opened(core, &record));
    }
    let Extras { client_address: tells, ftp } = service.extras;
    let mut with = Extension { tells, ftp, ..Extension::EMPTY };
    if let Some(local) = &local {
        (with.local, with.local_port) = (local.addr, local.port);
    }
    open_extended(core, lane, record, with, local.map(|l| l.hash))
}

/// A client that uses one port for two VIPs may have two flows whose replies look alike: as in the
/// kernel the newer one takes them all. Its service may have just begun, the older one linger.
#[inline]
fn take_replies<B>(s: &Snapshot, core: &mut Core<B>, lane: &Lane, real: Ip, record: &mut FlowRecord) {
    let key = ReplyKey {
        client: record.client,
        real,
        client_port: record.client_port,
        rport: record.rport,
        proto: record.proto,
    };
    if let Some(id) = core.flows.lookup_reply(lane.hash, &key) {
        let older = core.flows.get_mut(id);
        if s.real(older.real).is_some_and(|r| r.addr == real) {
            older.flags |= flags::SHADOWED | flags::BY_HAND;
            record.flags |= flags::SHADOWS;
        }
    }
}

/// There is no room: an older flow keeps its replies.
#[cold]
fn not_opened<B>(core: &mut Core<B>, record: &FlowRecord) -> Refused {
    if record.flags & flags::SHADOWS != 0 {
        core.flows.unshadow(record);
    }
    Refused::Drop(DropReason::FlowTableFull)
}

/// Opens a flow with an extension; one of full NAT is known under its local address and
/// port as well.
#[cold]
fn open_extended<B>(
    core: &mut Core<B>,
    lane: &Lane,
    mut record: FlowRecord,
    with: Extension,
    alias: Option<FlowHash>,
) -> Result<FlowId, Refused> {
    let full = Refused::Drop(DropReason::FlowTableFull);
    let Some(ext) = core.extensions.take(with) else { return Err(not_opened(core, &record)) };
    record.ext = ext;
    record.flags |= flags::EXTENDED | flags::BY_HAND;
    let Some(id) = core.open_flow(lane.hash, record) else {
        core.extensions.give(record.ext);
        return Err(not_opened(core, &record));
    };
    if let Some(e) = core.extensions.get_mut(record.ext) {
        e.flow = id;
    }
    core.link.counters.worker.flows_extended.set(core.extensions.len() as u64);
    if alias.is_some_and(|hash| core.flows.insert_alias(hash, id).is_err()) {
        core.end_flow(id);
        return Err(full);
    }
    Ok(id)
}

/// The kernel's `ip_vs_sched_persist`: a template remembers the client's real server.
fn open_persistent<B>(
    s: &Snapshot,
    core: &mut Core<B>,
    lane: &Lane,
    service: &Service,
    p: &Persistence,
) -> Result<Opened, Refused> {
    let key = template_key(lane, service, p);
    let hash = core.secret.hash(key.client, key.client_port, key.proto);
    let usable = |real: RealId| template_usable(s, service, real);
    let found = core.flows.lookup_request(hash, &key);
    let own = found.map(|id| core.flows.get(id).real).filter(|real| usable(*real));
    let known = core.agreed(&key).filter(|real| usable(*real)).or(own);
    let fresh = known.is_none();
    let real = match known {
        Some(real) => real,
        None => {
            if let Some(id) = found {
                retire(core, id);
            }
            choose(core, lane, service)?
        }
    };
    let real = core.agree(&key, real, p.timeout_ms, usable);
    let template = match found.filter(|_| own == Some(real)) {
        Some(id) => id,
        None => {
            if let Some(id) = found.filter(|_| !fresh) {
                retire(core, id);
            }
            let addr = s.real(real).map_or(Ip::UNSPECIFIED, |r| r.addr);
            let mut record = FlowRecord {
                client: key.client,
                vip: key.vip.into(),
                client_port: key.client_port,
                vport: key.vport,
                rport: Be16::new(0),
                proto: key.proto,
                state: State::None as u8,
                real,
                peer: peer_word(addr),
                deadline: core.now.after_ms(p.timeout_ms),
                flags: flags::TEMPLATE,
                l3_delta: 0,
                l4_delta: 0,
                ext: 0,
            };
            record.set_template_timeout_ms(p.timeout_ms);
            core.open_flow(hash, record).ok_or(Refused::Drop(DropReason::FlowTableFull))?
        }
    };
    let flow = insert(s, core, lane, service, real, flags::CONTROLLED | one_packet(service, lane))?;
    core.control(flow, template);
    Ok(Opened { flow, chosen: fresh, template: if fresh { template } else { FlowId::NONE } })
}

/// A template whose real server cannot be used is kept until its time is up, for the flows that
/// count on it, under a port where no client finds it (the kernel's `ip_vs_check_template`).
fn retire<B>(core: &mut Core<B>, id: FlowId) {
    let record = core.flows.get_mut(id);
    if record.vport.get() == RETIRED {
        return core.end_flow(id);
    }
    (record.vport, record.rport) = (Be16::new(RETIRED), Be16::new(RETIRED));
}

/// Under which key a client's template is kept.
pub fn template_key(lane: &Lane, service: &Service, p: &Persistence) -> FlowKey {
    let client = lane.key.client.masked(p.prefix_len);
    if service.mark != 0 {
        let vip = Ip::from_v4(service.mark.to_be_bytes());
        return FlowKey { client, vip, client_port: Be16::new(0), vport: Be16::new(0), proto: 0 };
    }
    // FTP's template is for all ports: the data connections of the passive mode follow.
    let vport = Be16::new(if service.port == FTP { 0 } else { service.port });
    FlowKey { client, vip: lane.key.vip, client_port: Be16::new(0), vport, proto: lane.key.proto }
}

/// The kernel's `ip_vs_check_template`.
fn template_usable(s: &Snapshot, service: &Service, real: RealId) -> bool {
    let kept = |r: &Real| r.available && !(s.settings.expire_quiescent_template && r.weight == 0);
    s.real(real).is_some_and(|r| r.service == service.id && kept(r))
}

/// Whether a lane goes towards a real server; for the other stages' assertions.
pub fn is_request(lane: &Lane) -> bool {
    lane.direction == Direction::Request
}
