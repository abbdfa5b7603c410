//! What control asks of a worker, done in bounded slices between bursts.

use crate::flow::record::{FlowRecord, flags};
use crate::flow::table::FlowId;
use crate::io::{PacketBuf, PacketIo};
use crate::link::{Answer, Command, FlowFilter};
use crate::snapshot::Snapshot;
use crate::units::RealId;
use crate::worker::Core;

/// Records looked at per poll while a scan runs.
const SLICE: u32 = 256;
/// Injected frames sent per poll.
const INJECT_SLICE: usize = 16;

/// A scan of the flow table that goes on over several polls.
#[derive(Default)]
pub struct Scan {
    job: Option<Job>,
}

struct Job {
    query: u64,
    cursor: u32,
    left: u32,
    filter: FlowFilter,
    /// End the flows that match instead of listing them.
    flush: bool,
}

impl Scan {
    /// Whether there is one under way.
    pub fn active(&self) -> bool {
        self.job.is_some()
    }
}

/// Serves one command, or one slice of the scan under way.
pub fn serve<B>(core: &mut Core<B>, scan: &mut Scan, s: &Snapshot) -> usize {
    if scan.job.is_none() {
        let Some(command) = core.link.commands.pop() else { return 0 };
        let flush = |filter| Job { query: 0, cursor: 0, left: u32::MAX, filter, flush: true };
        scan.job = match command {
            Command::ListFlows { query, cursor, limit, filter } => {
                Some(Job { query, cursor, left: limit, filter, flush: false })
            }
            Command::FlushReal(real) => Some(flush(FlowFilter { real: Some(real), ..FlowFilter::default() })),
            Command::FlushService(id) => Some(flush(FlowFilter { service: Some(id), ..FlowFilter::default() })),
            Command::FlushGone => Some(flush(FlowFilter { gone: true, ..FlowFilter::default() })),
            Command::FlushAll => Some(flush(FlowFilter::default())),
            Command::Ping { query } => {
                let _ = core.link.answers.push(Answer::Done { query, cursor: u32::MAX });
                None
            }
        };
        return 1;
    }
    let Some(mut job) = scan.job.take() else { return 0 };
    if slice(core, &mut job, s) {
        scan.job = Some(job);
    }
    1
}

/// One slice; true when there is more to do.
fn slice<B>(core: &mut Core<B>, job: &mut Job, s: &Snapshot) -> bool {
    let end = job.cursor.saturating_add(SLICE).min(core.flows.capacity());
    while job.cursor < end && job.left > 0 {
        let id = FlowId(job.cursor);
        if let Some(record) = core.flows.try_get_mut(id).copied().filter(|r| matches(&job.filter, r, s)) {
            if job.flush {
                core.end_flow(id);
            } else {
                let extension = core.extensions.get(record.ext).filter(|e| e.flow == id && e.has_local());
                let local = extension.map(|e| (e.local, e.local_port));
                let row = Answer::Flow { query: job.query, record, local, now: core.now };
                if core.link.answers.push(row).is_err() {
                    return true;
                }
            }
            job.left -= 1;
        }
        job.cursor += 1;
    }
    if job.left > 0 && job.cursor < core.flows.capacity() {
        return true;
    }
    let cursor = if job.cursor < core.flows.capacity() { job.cursor } else { u32::MAX };
    !job.flush && core.link.answers.push(Answer::Done { query: job.query, cursor }).is_err()
}

fn matches(f: &FlowFilter, r: &FlowRecord, s: &Snapshot) -> bool {
    f.client.is_none_or(|a| a == r.client)
        && f.vip.is_none_or(|a| a == r.vip.ip())
        && f.real.is_none_or(|id| id == r.real)
        && f.proto.is_none_or(|p| p == r.proto)
        && f.service.is_none_or(|id| s.real(r.real).is_some_and(|real| real.service == id))
        && !(f.gone && s.real(r.real).is_some_and(|real| real.available))
        && (r.flags & flags::LIVE != 0)
        && r.real != RealId::NONE
}

/// Sends frames that control made.
pub fn inject<I: PacketIo>(core: &mut Core<I::Buf>, io: &mut I) -> usize {
    for n in 0..INJECT_SLICE {
        let Some(frame) = core.link.inject.pop() else { return n };
        let len = usize::from(frame.len).min(frame.bytes.len());
        let Some(mut buf) = io.alloc(len) else { return n };
        if let Some(d) = buf.data_mut().get_mut(..len) {
            d.copy_from_slice(&frame.bytes[..len]);
        }
        core.out.push(frame.port, buf, io, &core.link);
    }
    INJECT_SLICE
}
