//! The scenarios' packet language: one line of text to the bytes of an IP packet (or of
//! several, where it asks for fragments).
//!
//! `tcp 10.1.0.1:40000 > 10.9.0.1:80 S ttl=64 tos=0 id=7 df len=100`

use std::collections::HashMap;
use std::net::IpAddr;

use dataplane::wire::checksum::Crc32c;

use crate::packet::fold;

const FLAGS: &str = "FSRPAUEC";

struct Line<'a> {
    kind: &'a str,
    src: (IpAddr, u16),
    dst: (IpAddr, u16),
    flags: u8,
    options: HashMap<&'a str, &'a str>,
}

impl<'a> Line<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let kind = words.next()?;
        let src = endpoint(words.next()?)?;
        (words.next()? == ">").then_some(())?;
        let dst = endpoint(words.next()?)?;
        let mut rest: Vec<&str> = words.collect();
        let mut flags = 0;
        if kind == "tcp" && rest.first().is_some_and(|w| w.chars().all(|c| FLAGS.contains(c))) {
            flags = rest.remove(0).chars().filter_map(|c| FLAGS.find(c)).fold(0, |f, bit| f | 1 << bit);
        }
        let options = rest.iter().map(|w| w.split_once('=').unwrap_or((w, ""))).collect();
        Some(Self { kind, src, dst, flags, options })
    }
    fn has(&self, key: &str) -> bool {
        self.options.contains_key(key)
    }
    fn number(&self, key: &str, default: u64) -> u64 {
        let Some(v) = self.options.get(key) else { return default };
        match v.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).unwrap_or(default),
            None => v.parse().unwrap_or(default),
        }
    }
    fn payload(&self) -> Vec<u8> {
        match self.options.get("data") {
            Some(text) => text.as_bytes().to_vec(),
            None => (0..self.number("len", 0)).map(|i| 0x41 + (i % 26) as u8).collect(),
        }
    }
}

/// `1.2.3.4:80`, `2001:db8::1.80`, or a bare address.
fn endpoint(text: &str) -> Option<(IpAddr, u16)> {
    let separator = if text.matches(':').count() > 1 { '.' } else { ':' };
    let (addr, port) = text.split_once(separator).unwrap_or((text, "0"));
    Some((addr.parse().ok()?, port.parse().ok()?))
}

fn octets(a: IpAddr) -> Vec<u8> {
    match a {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn pseudo(line: &Line, proto: u8, len: usize) -> Vec<u8> {
    let mut p = [octets(line.src.0), octets(line.dst.0)].concat();
    if line.src.0.is_ipv4() {
        p.extend([0, proto]);
        p.extend((len as u16).to_be_bytes());
    } else {
        p.extend((len as u32).to_be_bytes());
        p.extend([0, 0, 0, proto]);
    }
    p
}

fn with_sum(line: &Line, proto: u8, mut h: Vec<u8>, at: usize, pseudo_header: bool) -> Vec<u8> {
    let mut all = if pseudo_header { pseudo(line, proto, h.len()) } else { Vec::new() };
    all.extend(&h);
    let mut sum = fold(&all);
    if proto == 17 {
        sum = if line.has("nosum") {
            0
        } else if sum == 0 {
            0xffff
        } else {
            sum
        };
    }
    if line.has("badsum") {
        sum ^= 0x0101;
    }
    h[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    h
}

fn transport(line: &Line, inner: Option<&[u8]>) -> Option<(u8, Vec<u8>)> {
    let body = line.payload();
    let ports = [line.src.1.to_be_bytes(), line.dst.1.to_be_bytes()].concat();
    Some(match line.kind {
        "tcp" => {
            let mut options = Vec::new();
            if line.has("mss") {
                options.extend([2, 4]);
                options.extend((line.number("mss", 0) as u16).to_be_bytes());
            }
            let mut h = ports;
            h.extend((line.number("seq", 1000) as u32).to_be_bytes());
            h.extend((line.number("ack", 0) as u32).to_be_bytes());
            h.extend([((5 + options.len() / 4) << 4) as u8, line.flags]);
            h.extend((line.number("win", 8192) as u16).to_be_bytes());
            h.extend([0; 4]);
            h.extend(options);
            h.extend(body);
            (6, with_sum(line, 6, h, 16, true))
        }
        "udp" => {
            let mut h = ports;
            h.extend((8 + body.len() as u16).to_be_bytes());
            h.extend([0, 0]);
            h.extend(body);
            (17, with_sum(line, 17, h, 6, true))
        }
        "sctp" => (132, sctp(line, ports, body)),
        "icmp" | "icmp6" => {
            let v6 = line.kind == "icmp6";
            let kind = line.number("type", if v6 { 128 } else { 8 }) as u8;
            let rest = line.number("rest", line.number("mtu", 0)) as u32;
            let body = match inner {
                Some(p) => p[..p.len().min(line.number("quote", 548) as usize)].to_vec(),
                None => body,
            };
            let mut h = vec![kind, line.number("code", 0) as u8, 0, 0];
            h.extend(rest.to_be_bytes());
            h.extend(body);
            let proto = if v6 { 58 } else { 1 };
            (proto, with_sum(line, proto, h, 2, v6))
        }
        "ipip" => (4, body),
        "ipv6" => (41, body),
        "gre" => (47, body),
        _ => (line.options.get("proto")?.parse().ok()?, body),
    })
}

fn sctp(line: &Line, ports: Vec<u8>, body: Vec<u8>) -> Vec<u8> {
    let chunk = line.number("chunk", 1) as u8;
    let value = if chunk == 1 || chunk == 2 {
        [&1u32.to_be_bytes()[..], &65535u32.to_be_bytes(), &[0, 1, 0, 1], &1u32.to_be_bytes()].concat()
    } else {
        body
    };
    let mut h = ports;
    h.extend((line.number("vtag", 0) as u32).to_be_bytes());
    h.extend([0; 4]);
    h.extend([chunk, 0]);
    h.extend((4 + value.len() as u16).to_be_bytes());
    h.extend(&value);
    while !(h.len() - 12).is_multiple_of(4) {
        h.push(0);
    }
    let mut crc = Crc32c::new();
    crc.update(&h);
    h[8..12].copy_from_slice(&crc.finish().to_le_bytes());
    h
}

fn ip_packet(line: &Line, proto: u8, payload: &[u8], fragment: Option<(usize, bool)>) -> Vec<u8> {
    let (src, dst) = (octets(line.src.0), octets(line.dst.0));
    let (tos, ttl) = (line.number("tos", 0), line.number("ttl", 64) as u8);
    let mut h;
    if line.src.0.is_ipv4() {
        let options = line.options.get("ipopt").map_or(Vec::new(), |t| unhex(t));
        let (off, mf) = fragment.unwrap_or((line.number("off", 0) as usize, line.has("mf")));
        let word = (off / 8) as u16 | if line.has("df") { 0x4000 } else { 0 } | if mf { 0x2000 } else { 0 };
        h = vec![0x45 + (options.len() / 4) as u8, tos as u8];
        h.extend((20 + options.len() as u16 + payload.len() as u16).to_be_bytes());
        h.extend((line.number("id", 0) as u16).to_be_bytes());
        h.extend(word.to_be_bytes());
        h.extend([ttl, proto, 0, 0]);
        h.extend(src);
        h.extend(dst);
        h.extend(options);
        let sum = fold(&h).to_be_bytes();
        h[10..12].copy_from_slice(&sum);
    } else {
        h = (6u32 << 28 | (tos as u32) << 20 | line.number("flow", 0) as u32).to_be_bytes().to_vec();
        h.extend((payload.len() as u16).to_be_bytes());
        h.extend([proto, ttl]);
        h.extend(src);
        h.extend(dst);
    }
    h.extend(payload);
    h
}

/// Hexadecimal text to bytes.
pub fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).filter_map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()).collect()
}

/// Whether the line quotes an earlier packet, and which: the value of `inner=`.
pub fn quotes(text: &str) -> Option<&str> {
    text.split_whitespace().find_map(|w| w.strip_prefix("inner="))
}

/// The packets that a line describes; `None` when it is not understood.
pub fn build(text: &str, inner: Option<&[u8]>) -> Option<Vec<Vec<u8>>> {
    let line = Line::parse(text)?;
    let (proto, payload) = transport(&line, inner)?;
    if !line.has("frag") {
        return Some(vec![ip_packet(&line, proto, &payload, None)]);
    }
    let step = (line.number("frag", 8) / 8 * 8) as usize;
    let mut out = Vec::new();
    for off in (0..payload.len()).step_by(step.max(8)) {
        let end = (off + step).min(payload.len());
        out.push(ip_packet(&line, proto, &payload[off..end], Some((off, end < payload.len()))));
    }
    if line.has("reverse") {
        out.reverse();
    }
    Some(out)
}
