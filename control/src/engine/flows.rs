//! Listing flows: page by page, worker by worker, in slices that each worker does between bursts.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use dataplane::flow::record::{FlowRecord, flags};
use dataplane::flow::state::State;
use dataplane::link::{Answer, Command, FlowFilter, WorkerLink};
use dataplane::units::{Be16, Ip, Protocol, Tick};

use super::report::{FlowPage, FlowView};
use super::request::{FlowQuery, Reply, Response};
use super::run::Ticket;
use crate::ids::Ids;
use crate::model::{Error, ErrorCode, ServerKey, ServiceKey, Services, protocol_name};

/// Port of FTP's control connections.
const FTP: u16 = 21;
/// Listings under way at a time.
const MOST: usize = 16;
/// Rows of one page.
const PAGE: u32 = 4096;
/// Rows of one page when none are asked for.
const DEFAULT_PAGE: u32 = 100;
/// How long a worker may take for its part, milliseconds.
const PATIENCE_MS: u64 = 5000;

#[derive(Debug)]
struct Listing {
    ticket: Ticket,
    query: u64,
    limit: u32,
    filter: FlowFilter,
    worker: usize,
    cursor: u32,
    asked: bool,
    deadline: u64,
    rows: Vec<Row>,
}

/// The listings under way.
#[derive(Debug, Default)]
pub struct Listings {
    open: Vec<Listing>,
    queries: u64,
}

impl Listings {
    /// Whether any is under way.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Starts one.
    pub fn start(
        &mut self,
        q: &FlowQuery,
        services: &Services,
        ids: &Ids,
        ticket: Ticket,
        now: u64,
    ) -> Result<(), Error> {
        if self.open.len() >= MOST {
            return Err(
                Error::new(ErrorCode::Busy, format!("{MOST} listings of flows are under way")).remedy("try again")
            );
        }
        let limit = q.limit.unwrap_or(DEFAULT_PAGE);
        if limit == 0 || limit > PAGE {
            return Err(Error::invalid("limit", format!("a page of {limit} flows is not possible"))
                .remedy(format!("ask for 1 to {PAGE}")));
        }
        let (worker, cursor) = match &q.cursor {
            None => (0, 0),
            Some(text) => parse_cursor(text).ok_or_else(|| {
                Error::invalid("cursor", format!("`{text}` is no cursor")).remedy("give `next` of the page before")
            })?,
        };
        self.queries += 1;
        self.open.push(Listing {
            ticket,
            query: self.queries,
            limit,
            filter: filter(q, services, ids)?,
            worker,
            cursor,
            asked: false,
            deadline: now + PATIENCE_MS,
            rows: Vec::new(),
        });
        Ok(())
    }

    /// Takes an answer of worker `from`.
    pub fn answer(&mut self, from: usize, answer: &Answer, now: u64) {
        let query = match answer {
            Answer::Flow { query, .. } | Answer::Done { query, .. } => *query,
        };
        let Some(l) = self.open.iter_mut().find(|l| l.query == query && l.worker == from) else { return };
        match *answer {
            Answer::Flow { record, local, now, .. } => l.rows.push(Row { worker: from as u16, record, local, now }),
            Answer::Done { cursor, .. } => {
                l.asked = false;
                l.deadline = now + PATIENCE_MS;
                (l.worker, l.cursor) = if cursor == u32::MAX { (l.worker + 1, 0) } else { (l.worker, cursor) };
            }
        }
    }

    /// Asks on, and returns the listings that are done.
    pub fn tick(
        &mut self,
        links: &[Arc<WorkerLink>],
        services: &Services,
        ids: &Ids,
        now: u64,
    ) -> Vec<(Ticket, Reply)> {
        let mut done = Vec::new();
        self.open.retain_mut(|l| {
            let full = l.rows.len() >= l.limit as usize;
            if !l.asked && (full || l.worker >= links.len()) {
                let next = (l.worker < links.len()).then(|| format!("{}-{}", l.worker, l.cursor));
                let flows = view(&l.rows, services, ids);
                done.push((l.ticket, Ok(Response::Flows(FlowPage { flows, next }))));
                return false;
            }
            if now >= l.deadline {
                let m = format!("worker {} did not list its flows within {PATIENCE_MS} ms", l.worker);
                done.push((l.ticket, Err(Error::new(ErrorCode::Timeout, m).remedy("try again with a smaller page"))));
                return false;
            }
            if !l.asked {
                let limit = l.limit - l.rows.len() as u32;
                let ask = Command::ListFlows { query: l.query, cursor: l.cursor, limit, filter: l.filter };
                // A full queue is asked again with the next tick.
                l.asked = links[l.worker].commands.push(ask).is_ok();
            }
            true
        });
        done
    }
}

fn parse_cursor(text: &str) -> Option<(usize, u32)> {
    let (worker, record) = text.split_once('-')?;
    Some((worker.parse().ok()?, record.parse().ok()?))
}

fn filter(q: &FlowQuery, services: &Services, ids: &Ids) -> Result<FlowFilter, Error> {
    let mut f = FlowFilter {
        client: q.client.map(Ip::from),
        vip: q.vip.map(Ip::from),
        proto: q.protocol.map(|p| p as u8),
        ..FlowFilter::default()
    };
    match (&q.service, &q.server) {
        (Some(service), None) => {
            f.service = Some(ids.service(service).ok_or_else(|| Error::no_such_service(service))?);
        }
        (Some(service), Some(server)) => {
            let port = if server.port == 0 { service.port() } else { server.port };
            let server = ServerKey { port, ..*server };
            services.get(service)?;
            f.real = Some(ids.real(service, &server).ok_or_else(|| Error::no_such_server(service, &server))?);
        }
        (None, Some(server)) => {
            return Err(Error::invalid("server", format!("the real server {server} is named without its service"))
                .remedy("name the service as well"));
        }
        (None, None) => {}
    }
    Ok(f)
}

/// A flow as a worker told it.
#[derive(Debug)]
struct Row {
    worker: u16,
    record: FlowRecord,
    local: Option<(Ip, Be16)>,
    now: Tick,
}

fn view(rows: &[Row], services: &Services, ids: &Ids) -> Vec<FlowView> {
    rows.iter().map(|r| row(r, ids.owner(r.record.real), services)).collect()
}

fn row(row: &Row, real: Option<(ServiceKey, ServerKey)>, services: &Services) -> FlowView {
    let r = &row.record;
    let template = r.flags & flags::TEMPLATE != 0;
    let state = match State::from_number(r.state) {
        State::None => "NONE",
        _ if template => "ASSURED",
        other => other.name(),
    };
    // The record's port is that of the packets, which the server's key lacks behind a service of any port.
    let server = real.map(|(service, s)| {
        let port = match r.rport.get() {
            // A template holds for all ports behind a service of any, of FTP, or by mark.
            0 if template && matches!(service.port(), 0 | FTP) => 0,
            0 => s.port,
            port => port,
        };
        ServerKey { port, ..s }
    });
    FlowView {
        protocol: Protocol::from_number(r.proto).map_or_else(|| r.proto.to_string(), |p| protocol_name(p).into()),
        client: r.client.to_std(),
        client_port: r.client_port.get(),
        vip: if template && r.proto == 0 { mark(r) } else { r.vip.ip().to_std() },
        vip_port: r.vport.get(),
        server,
        service: real.map(|(s, _)| s).filter(|s| services.contains(s)),
        state: state.into(),
        mode: mode(r.flags & flags::MODE_MASK).into(),
        expires_ms: r.deadline.ms_left(row.now),
        template,
        local: row.local.map(|(ip, port)| ServerKey { ip: ip.to_std(), port: port.get() }),
        worker: row.worker,
    }
}

fn mode(n: u32) -> &'static str {
    ["nat", "direct-routing", "tunnel", "full-nat"].get(n as usize).copied().unwrap_or("unknown")
}

/// The mark in the place of a template's VIP: the first four bytes of an address, as in the kernel.
fn mark(r: &FlowRecord) -> IpAddr {
    match r.vip.ip().to_std() {
        IpAddr::V4(v4) if !r.client.is_v4() => {
            let [a, b, c, d] = v4.octets();
            Ipv6Addr::from([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).into()
        }
        other => other,
    }
}
