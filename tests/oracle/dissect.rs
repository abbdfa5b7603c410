//! IP packet bytes to the fields that the recordings have, as JSON.

use std::net::{Ipv4Addr, Ipv6Addr};

use dataplane::wire::checksum::Crc32c;
use serde_json::{Map, Value, json};

use crate::packet::fold;

fn name(proto: u8) -> String {
    match proto {
        1 => "icmp".into(),
        4 => "ipip".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        41 => "ipv6".into(),
        47 => "gre".into(),
        58 => "icmp6".into(),
        132 => "sctp".into(),
        n => n.to_string(),
    }
}

fn hex(b: &[u8]) -> String {
    b.iter().map(|b| format!("{b:02x}")).collect()
}

fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

fn be32(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn pseudo(addresses: &[u8], proto: u8, body: &[u8]) -> Vec<u8> {
    let mut p = addresses.to_vec();
    if addresses.len() == 8 {
        p.extend([0, proto]);
        p.extend((body.len() as u16).to_be_bytes());
    } else {
        p.extend((body.len() as u32).to_be_bytes());
        p.extend([0, 0, 0, proto]);
    }
    p.extend(body);
    p
}

/// Takes a packet apart; `quoted` for what an ICMP error brings back.
pub fn dissect(p: &[u8], quoted: bool) -> Value {
    let mut d = Map::new();
    let Some(first) = p.first() else { return Value::Null };
    let (addresses, body, proto, whole, complete);
    if first >> 4 == 4 && p.len() >= 20 {
        let ihl = (usize::from(first & 15) * 4).min(p.len());
        let (len, word) = (usize::from(be16(p, 2)), be16(p, 6));
        d.insert("v".into(), json!(4));
        d.insert("src".into(), json!(Ipv4Addr::new(p[12], p[13], p[14], p[15]).to_string()));
        d.insert("dst".into(), json!(Ipv4Addr::new(p[16], p[17], p[18], p[19]).to_string()));
        for (k, v) in [("ttl", p[8].into()), ("tos", p[1].into()), ("id", be16(p, 4)), ("len", be16(p, 2))] {
            d.insert(k.into(), json!(v));
        }
        d.insert("df".into(), json!(word & 0x4000 != 0));
        if ihl > 20 {
            d.insert("ipopt".into(), json!(hex(&p[20..ihl])));
        }
        if word & 0x2000 != 0 {
            d.insert("mf".into(), json!(true));
        }
        if word & 0x1fff != 0 {
            d.insert("off".into(), json!((word & 0x1fff) * 8));
        }
        d.insert("ip_ok".into(), json!(fold(&p[..ihl]) == 0));
        whole = word & 0x3fff == 0;
        complete = p.len() >= len;
        let end = if quoted { p.len() } else { len.min(p.len()) };
        addresses = p[12..20].to_vec();
        body = &p[ihl.min(end)..end];
        proto = p[9];
    } else if first >> 4 == 6 && p.len() >= 40 {
        let len = usize::from(be16(p, 4));
        let a = |o: usize| {
            let mut b = [0; 16];
            b.copy_from_slice(&p[o..o + 16]);
            Ipv6Addr::from(b).to_string()
        };
        d.insert("v".into(), json!(6));
        d.insert("src".into(), json!(a(8)));
        d.insert("dst".into(), json!(a(24)));
        d.insert("ttl".into(), json!(p[7]));
        d.insert("tos".into(), json!((be32(p, 0) >> 20) & 255));
        d.insert("flow".into(), json!(be32(p, 0) & 0xf_ffff));
        d.insert("len".into(), json!(len));
        complete = p.len() >= 40 + len;
        addresses = p[8..40].to_vec();
        let rest = &p[40..(40 + len).min(p.len())];
        if p[6] == 44 && rest.len() >= 8 {
            // Fragment header: next header, reserved, offset and more-bit, identification.
            let word = be16(rest, 2);
            d.insert("off".into(), json!(word & 0xfff8));
            d.insert("mf".into(), json!(word & 1 != 0));
            d.insert("id".into(), json!(be32(rest, 4)));
            (whole, proto, body) = (word & 0xfff9 == 0, rest[0], &rest[8..]);
        } else {
            (whole, proto, body) = (true, p[6], rest);
        }
    } else {
        return Value::Null;
    }
    d.insert("proto".into(), json!(name(proto)));
    if d.get("off").is_some_and(|o| o != 0) {
        d.insert("payload".into(), json!(body.len()));
        return Value::Object(d);
    }
    upper(&mut d, proto, &addresses, body, whole && complete, quoted);
    Value::Object(d)
}

fn upper(d: &mut Map<String, Value>, proto: u8, addresses: &[u8], body: &[u8], check: bool, quoted: bool) {
    match proto {
        6 if body.len() >= 8 => tcp(d, addresses, body, check),
        17 if body.len() >= 8 => udp(d, addresses, body, check, quoted),
        132 if body.len() >= 12 => {
            d.insert("sport".into(), json!(be16(body, 0)));
            d.insert("dport".into(), json!(be16(body, 2)));
            if check {
                let mut crc = Crc32c::new();
                crc.update(&body[..8]);
                crc.update(&[0; 4]);
                crc.update(&body[12..]);
                d.insert("l4_ok".into(), json!(crc.finish().to_le_bytes() == body[8..12]));
            }
        }
        1 | 58 if body.len() >= 8 => {
            d.insert("type".into(), json!(body[0]));
            d.insert("code".into(), json!(body[1]));
            d.insert("rest".into(), json!(be32(body, 4)));
            if check {
                let all = if proto == 58 { pseudo(addresses, 58, body) } else { body.to_vec() };
                d.insert("l4_ok".into(), json!(fold(&all) == 0));
            }
            let error = if proto == 1 { matches!(body[0], 3 | 4 | 5 | 11 | 12) } else { body[0] < 128 };
            if error && body.len() >= 28 {
                d.insert("quote_len".into(), json!(body.len() - 8));
                d.insert("inner".into(), dissect(&body[8..], true));
            }
        }
        4 | 41 if body.len() >= 20 => {
            d.insert("inner".into(), dissect(body, quoted));
        }
        47 if body.len() >= 4 => {
            let (flags, ethertype) = (be16(body, 0), be16(body, 2));
            let bit = |m: u16| if flags & m != 0 { 4 } else { 0 };
            let len = (4 + bit(0x8000) + bit(0x2000) + bit(0x1000)).min(body.len());
            let mut g = json!({"flags": flags, "ethertype": ethertype, "head": hex(&body[..len])});
            if flags & 0x8000 != 0 {
                g["csum_ok"] = json!(fold(body) == 0);
            }
            d.insert("gre".into(), g);
            if matches!(ethertype, 0x0800 | 0x86dd) {
                d.insert("inner".into(), dissect(&body[len..], quoted));
            }
        }
        _ => {
            d.insert("payload".into(), json!(body.len()));
        }
    }
}

fn tcp(d: &mut Map<String, Value>, addresses: &[u8], body: &[u8], check: bool) {
    d.insert("sport".into(), json!(be16(body, 0)));
    d.insert("dport".into(), json!(be16(body, 2)));
    d.insert("seq".into(), json!(be32(body, 4)));
    if body.len() >= 20 {
        let header = usize::from(body[12] >> 4) * 4;
        d.insert("ack".into(), json!(be32(body, 8)));
        d.insert("win".into(), json!(be16(body, 14)));
        let flags: String =
            "FSRPAUEC".chars().enumerate().filter(|(i, _)| body[13] >> i & 1 != 0).map(|(_, c)| c).collect();
        d.insert("flags".into(), json!(flags));
        let options = body.get(20..header).unwrap_or(&[]);
        if options.starts_with(&[2, 4]) && options.len() >= 4 {
            d.insert("mss".into(), json!(be16(options, 2)));
        }
        d.insert("payload".into(), json!(body.len() as i64 - header as i64));
    }
    if check {
        d.insert("l4_ok".into(), json!(fold(&pseudo(addresses, 6, body)) == 0));
    }
}

fn udp(d: &mut Map<String, Value>, addresses: &[u8], body: &[u8], check: bool, quoted: bool) {
    let port = be16(body, 2);
    d.insert("sport".into(), json!(be16(body, 0)));
    d.insert("dport".into(), json!(port));
    d.insert("payload".into(), json!(body.len() - 8));
    if be16(body, 6) == 0 {
        d.insert("l4_ok".into(), json!("none"));
    } else if check {
        d.insert("l4_ok".into(), json!(fold(&pseudo(addresses, 17, body)) == 0));
    }
    if matches!(port, 6080 | 9999) && body.len() > 12 && !quoted {
        let len = (4 + usize::from(body[8] & 31) * 4).min(body.len() - 8);
        d.insert(
            "gue".into(),
            json!({"hlen": body[8] & 31, "proto": body[9], "flags": be16(body, 10), "head": hex(&body[8..8 + len])}),
        );
        d.insert("inner".into(), dissect(&body[8 + len..], false));
    }
}
