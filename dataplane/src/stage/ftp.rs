//! FTP through NAT (RFC 959, RFC 2428), as LVS's application module does it.
//!
//! The control connection is read for the four ways to announce a data connection. Only the
//! answer to PASV names an address of the server's, which becomes the VIP; its length may
//! change, and then the sequence numbers after it. The port stays: it is the real server's,
//! and reached at the VIP while it is expected. With PORT and EPRT the real server connects
//! to the client; on its way out it becomes the VIP, at the port before the control port's.
//!
//! Like the kernel this reads commands that stand at the beginning of a segment, which is
//! where clients and servers put them.

use arrayvec::ArrayVec;

use crate::burst::{Burst, Direction, Lane, tcp_flags};
use crate::flow::expected::{Announced, Expected};
use crate::flow::record::{FlowRecord, flags, peer_word};
use crate::flow::state;
use crate::flow::table::FlowId;
use crate::io::{PacketBuf, PacketIo};
use crate::snapshot::{ForwardingMode, Real, Snapshot};
use crate::stage::rewrite::{self, Outcome};
use crate::stage::{answer, segment};
use crate::units::{Be16, Ip};
use crate::wire::checksum;
use crate::worker::Core;

/// Longest line that is read, bytes.
const LINE: usize = 256;
/// `255,255,255,255,255,255`.
const ADDRESS: usize = 23;

/// A data connection that a line announces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Announcement {
    /// The port that is listened on.
    pub port: u16,
    /// The address beside it, where there is one.
    pub ip: Option<Ip>,
    /// Where address and port stand in the line, as PASV and PORT have them.
    pub span: (usize, usize),
}

/// What a real server's line announces: the answers to PASV (227) and EPSV (229).
pub fn from_server(line: &[u8]) -> Option<Announcement> {
    if let Some(rest) = line.strip_prefix(b"227 ") {
        let start = 4 + rest.iter().position(u8::is_ascii_digit)?;
        return six_numbers(line, start);
    }
    let rest = line.strip_prefix(b"229 ")?;
    let open = rest.iter().position(|b| *b == b'(')?;
    let [d, d2, d3, digits @ ..] = rest.get(open + 1..)? else { return None };
    let port = (d == d2 && d == d3).then(|| number(digits, *d))??;
    Some(Announcement { port, ip: None, span: (0, 0) })
}

/// What a client's line announces: the commands PORT and EPRT.
pub fn from_client(line: &[u8]) -> Option<Announcement> {
    let (word, rest) = line.split_at_checked(5)?;
    if word.eq_ignore_ascii_case(b"PORT ") {
        return six_numbers(line, 5 + rest.iter().position(u8::is_ascii_digit)?);
    }
    let [d, family, d2, rest @ ..] = rest else { return None };
    if !word.eq_ignore_ascii_case(b"EPRT ") || d != d2 || !d.is_ascii_graphic() {
        return None;
    }
    let end = rest.iter().position(|b| b == d)?;
    let text = std::str::from_utf8(rest.get(..end)?).ok()?;
    let ip: std::net::IpAddr = text.parse().ok()?;
    if ip.is_ipv6() != (*family == b'2') {
        return None;
    }
    let port = number(rest.get(end + 1..)?, *d)?;
    Some(Announcement { port, ip: Some(ip.into()), span: (0, 0) })
}

/// A port, ended by `end`.
fn number(digits: &[u8], end: u8) -> Option<u16> {
    let n = digits.iter().take(6).position(|b| *b == end)?;
    std::str::from_utf8(&digits[..n]).ok()?.parse().ok().filter(|p| *p > 0)
}

/// `h1,h2,h3,h4,p1,p2` from `start` on.
fn six_numbers(line: &[u8], start: usize) -> Option<Announcement> {
    let mut numbers = ArrayVec::<u8, 6>::new();
    let (mut value, mut digits, mut end) = (0u16, 0, start);
    for b in line.get(start..)? {
        match b {
            b'0'..=b'9' if digits < 3 => {
                value = value * 10 + u16::from(b - b'0');
                digits += 1;
            }
            b',' if digits > 0 && numbers.len() < 5 => {
                numbers.push(u8::try_from(value).ok()?);
                (value, digits) = (0, 0);
            }
            // A line that ends in the middle of a number may go on in the next segment.
            b'\r' | b'\n' | b')' | b' ' | b'.' if digits > 0 && numbers.len() == 5 => {
                numbers.push(u8::try_from(value).ok()?);
                break;
            }
            _ => return None,
        }
        end += 1;
    }
    let [a, b, c, d, p1, p2] = numbers.into_inner().ok()?;
    let port = u16::from_be_bytes([p1, p2]);
    (port > 0).then_some(Announcement { port, ip: Some(Ip::from_v4([a, b, c, d])), span: (start, end) })
}

/// Address and port as PASV's answer has them.
fn written(ip: [u8; 4], port: u16) -> ArrayVec<u8, ADDRESS> {
    let mut out = ArrayVec::new();
    let [p1, p2] = port.to_be_bytes();
    for (i, n) in [ip[0], ip[1], ip[2], ip[3], p1, p2].into_iter().enumerate() {
        let digits = [n / 100, n / 10 % 10, n % 10];
        let skip = digits.iter().take(2).take_while(|d| **d == 0).count();
        let comma = (i > 0).then_some(b',');
        out.extend(comma.into_iter().chain(digits.into_iter().skip(skip).map(|d| b'0' + d)));
    }
    out
}

/// The line at the beginning of a segment's data.
fn line<B: PacketBuf>(lane: &Lane, buf: &B, header: usize) -> ArrayVec<u8, LINE> {
    let from = usize::from(lane.l4) + header;
    let end = usize::from(lane.l2) + usize::from(lane.ip_len);
    let data = buf.data().get(from..end.min(buf.data().len())).unwrap_or_default();
    data.iter().copied().take(LINE).collect()
}

/// Reads a client's segment.
pub fn request<B: PacketBuf>(s: &Snapshot, core: &mut Core<B>, lane: &Lane, buf: &B, header: usize, r: &FlowRecord) {
    let Some(a) = from_client(&line(lane, buf, header)) else { return };
    // A client may have itself connected to, and nobody else (RFC 2577 section 3).
    let Some(real) = s.real(r.real).filter(|_| a.ip == Some(r.client)) else { return };
    let announced =
        Announced { client: r.client, client_port: Be16::new(a.port), other: real.addr, other_port: Be16::default() };
    let vport = Be16::new(r.vport.get().wrapping_sub(1));
    tell(core, Expected { announced, vip: r.vip.ip(), vport, real: r.real });
}

/// Reads a real server's segment, and puts the VIP into it as long as it stays within `mtu`;
/// returns how many bytes longer it has become.
pub fn reply<B: PacketBuf>(
    core: &mut Core<B>,
    lane: &mut Lane,
    buf: &mut B,
    (header, mtu): (usize, u16),
    r: &FlowRecord,
) -> i32 {
    let vip = r.vip.ip();
    let Some(a) = from_server(&line(lane, buf, header)) else { return 0 };
    let announced =
        Announced { client: r.client, client_port: Be16::default(), other: vip, other_port: Be16::new(a.port) };
    tell(core, Expected { announced, vip, vport: Be16::new(a.port), real: r.real });
    if a.ip.is_none() || !vip.is_v4() || buf.is_chained() || segment::is_fragment(lane, buf) {
        return 0;
    }
    let text = written(vip.v4_bytes(), a.port);
    let longer = text.len().saturating_sub(a.span.1 - a.span.0);
    if usize::from(lane.ip_len) + longer > usize::from(mtu) {
        return 0;
    }
    splice(lane, buf, header, a.span, &text)
}

/// Every worker expects the connection, this one at once.
fn tell<B>(core: &mut Core<B>, e: Expected) {
    for (n, link) in core.peers.iter().enumerate() {
        if n != core.id.index() && link.expected.push(e).is_err() {
            core.link.counters.worker.expectations_lost.add(1);
        }
    }
    if !core.expected.add(e, core.now) {
        core.link.counters.worker.expectations_lost.add(1);
    }
}

/// Replaces a part of a segment's data, in a packet of one piece.
fn splice<B: PacketBuf>(lane: &mut Lane, buf: &mut B, header: usize, (from, to): (usize, usize), new: &[u8]) -> i32 {
    let (l2, l4) = (usize::from(lane.l2), usize::from(lane.l4));
    let payload = l4 + header;
    let (from, to) = (payload + from, payload + to);
    let end = l2 + usize::from(lane.ip_len);
    let by = new.len() as i32 - (to - from) as i32;
    let Some(len) = lane.ip_len.checked_add_signed(by as i16) else { return 0 };
    let before = checksum::sum(buf.data().get(payload..end).unwrap_or_default());
    let tcp_len = |ip_len: u16| ((usize::from(ip_len) + l2 - l4) as u16).to_be_bytes();
    let lengths = checksum::delta(&tcp_len(lane.ip_len), &tcp_len(len));
    // What stands before the part moves towards the front, or away from it.
    if by > 0 {
        if !buf.prepend(by as usize) {
            return 0;
        }
        buf.data_mut().copy_within(by as usize..by as usize + from, 0);
    } else if by < 0 {
        let n = by.unsigned_abs() as usize;
        buf.data_mut().copy_within(..from, n);
        if !buf.trim_front(n) {
            return 0;
        }
    }
    let data = buf.data_mut();
    if let Some(part) = data.get_mut(from..from + new.len()) {
        part.copy_from_slice(new);
    }
    segment::set_ip_len(lane, data, len);
    let after = checksum::sum(data.get(payload..l2 + usize::from(len)).unwrap_or_default());
    if let Some(c) = data.get_mut(l4 + 16..l4 + 18) {
        let delta = checksum::add(lengths, checksum::add(!before, after));
        let sum = checksum::apply(u16::from_ne_bytes([c[0], c[1]]), delta);
        c.copy_from_slice(&sum.to_ne_bytes());
    }
    by
}

/// The flow of a connection that was announced, if the lane's packet opens one.
#[cold]
pub fn open<B>(s: &Snapshot, core: &mut Core<B>, lane: &Lane) -> Option<FlowId> {
    core.learn_expected();
    let syn = lane.tcp_flags & (tcp_flags::SYN | tcp_flags::RST | tcp_flags::ACK) == tcp_flags::SYN;
    if core.expected.is_empty() || lane.key.proto != 6 || !syn {
        return None;
    }
    let key = &lane.key;
    let announced = match lane.direction {
        Direction::Request => {
            Announced { client: key.client, client_port: Be16::default(), other: key.vip, other_port: key.vport }
        }
        Direction::Reply => {
            Announced { client: key.client, client_port: key.client_port, other: key.vip, other_port: Be16::default() }
        }
    };
    let e = core.expected.take(&announced, core.now)?;
    let real = s.real(e.real).filter(|r| r.available && r.mode == ForwardingMode::Nat)?;
    let rport = if lane.direction == Direction::Request { e.vport } else { key.vport };
    core.open_flow(lane.hash, record(s, core, lane, &e, real, rport))
}

fn record<B>(s: &Snapshot, core: &Core<B>, lane: &Lane, e: &Expected, real: &Real, rport: Be16) -> FlowRecord {
    let (l3_delta, l4_delta) = rewrite::deltas(e.vip, e.vport.0, real.addr, rport.0);
    let first = state::initial(lane.key.proto);
    FlowRecord {
        client: lane.key.client,
        vip: e.vip.into(),
        client_port: lane.key.client_port,
        vport: e.vport,
        rport,
        proto: lane.key.proto,
        state: first as u8,
        real: e.real,
        peer: peer_word(real.addr),
        deadline: core.now.after_ms(s.settings.timeouts.of(first as u8)),
        flags: ForwardingMode::Nat as u32 & flags::MODE_MASK,
        l3_delta,
        l4_delta,
        ext: u32::MAX,
    }
}

/// A packet from a real server without a flow: a connection to a client that was announced.
/// True when the lane has been dealt with.
#[cold]
pub fn from_real<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
) -> bool {
    let Some(id) = open(s, core, &burst.lanes[i]) else { return false };
    let lane = &mut burst.lanes[i];
    lane.flow = id;
    let Some(buf) = burst.bufs[i].as_mut() else { return true };
    match rewrite::reply(s, core, lane, buf, &mut (Ip::UNSPECIFIED, crate::snapshot::Hop::None)) {
        Outcome::Send => burst.ready.insert(i),
        other => answer::outcome(s, core, io, burst, i, other),
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(s: &str) -> Option<Ip> {
        Some(s.parse::<std::net::IpAddr>().unwrap().into())
    }

    #[test]
    fn what_servers_announce() {
        let a = from_server(b"227 Entering Passive Mode (10,2,0,11,195,80).\r\n").unwrap();
        assert_eq!((a.ip, a.port, a.span), (ip("10.2.0.11"), 50_000, (27, 43)));
        let a = from_server(b"227 =10,2,0,11,0,80\r\n").unwrap();
        assert_eq!((a.port, a.span), (80, (5, 19)));
        let a = from_server(b"229 Entering Extended Passive Mode (|||50000|)\r\n").unwrap();
        assert_eq!((a.ip, a.port), (None, 50_000));
        for bad in [
            "227 Entering Passive Mode (10,2,0,11,195)\r\n",
            "227 Entering Passive Mode (10,2,0,256,195,80)\r\n",
            "227 Entering Passive Mode (10,2,0,11,0,0)\r\n",
            "227 Entering Passive Mode (10,2,0,11,195,8",
            "227 none\r\n",
            "229 (||50000|)\r\n",
            "229 (|||70000|)\r\n",
            "229 (|||0|)\r\n",
            "229 (|||",
            "226 (10,2,0,11,195,80)\r\n",
            "",
        ] {
            assert_eq!(from_server(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn what_clients_announce() {
        let a = from_client(b"PORT 10,1,0,1,4,1\r\n").unwrap();
        assert_eq!((a.ip, a.port), (ip("10.1.0.1"), 1025));
        assert_eq!(from_client(b"port 10,1,0,1,4,1\r\n").unwrap().port, 1025);
        let a = from_client(b"EPRT |1|10.1.0.1|1025|\r\n").unwrap();
        assert_eq!((a.ip, a.port), (ip("10.1.0.1"), 1025));
        assert_eq!(from_client(b"eprt !2!2001:db8::1!1025!\r\n").unwrap().ip, ip("2001:db8::1"));
        for bad in
            ["PORT 10,1,0,1,4", "EPRT |2|10.1.0.1|1025|\r\n", "EPRT |1|10.1.0.1|\r\n", "EPRT |1", "LIST\r\n", "PORT "]
        {
            assert_eq!(from_client(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn an_address_is_written_as_it_was_read() {
        for (text, ip, port) in [("10,9,0,1,195,80", [10, 9, 0, 1], 50_000), ("255,100,0,9,0,7", [255, 100, 0, 9], 7)] {
            assert_eq!(&written(ip, port)[..], text.as_bytes());
        }
    }
}
