//! A client's address in a form that its connection carries to the server: the PROXY
//! protocol's version 2 (HAProxy, `proxy-protocol.txt` section 2.2), or a TCP option (TOA)
//! as full-NAT directors insert it and the `toa` kernel module reads it.

use crate::units::{Be16, Ip};

/// Longest of all, bytes: PROXY protocol over IPv6.
pub const MOST: usize = 52;
/// Kind of the TCP option (RFC 6994 keeps 253 and 254 for experiments).
pub const TOA_KIND: u8 = 254;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Length of the PROXY protocol's header, bytes.
pub const fn proxy_len(v4: bool) -> usize {
    if v4 { 28 } else { 52 }
}

/// Length of the TCP option, bytes; a multiple of four.
pub const fn toa_len(v4: bool) -> usize {
    if v4 { 8 } else { 20 }
}

fn put(out: &mut [u8; MOST], at: &mut usize, bytes: &[u8]) {
    if let Some(o) = out.get_mut(*at..*at + bytes.len()) {
        o.copy_from_slice(bytes);
    }
    *at += bytes.len();
}

fn put_ip(out: &mut [u8; MOST], at: &mut usize, ip: Ip) {
    if ip.is_v4() { put(out, at, &ip.v4_bytes()) } else { put(out, at, &ip.0) }
}

/// The PROXY protocol's header for a TCP connection; the first [`proxy_len`] bytes count.
pub fn proxy(client: (Ip, Be16), vip: (Ip, Be16)) -> [u8; MOST] {
    let v4 = client.0.is_v4();
    let (mut out, mut at) = ([0; MOST], 0);
    put(&mut out, &mut at, &SIGNATURE);
    // Version 2, command PROXY; the family, over a stream; the length of what follows.
    put(&mut out, &mut at, &[0x21, if v4 { 0x11 } else { 0x21 }, 0, if v4 { 12 } else { 36 }]);
    put_ip(&mut out, &mut at, client.0);
    put_ip(&mut out, &mut at, vip.0);
    put(&mut out, &mut at, &client.1.0);
    put(&mut out, &mut at, &vip.1.0);
    out
}

/// The TCP option; the first [`toa_len`] bytes count.
pub fn toa(client: (Ip, Be16)) -> [u8; MOST] {
    let (mut out, mut at) = ([0; MOST], 0);
    put(&mut out, &mut at, &[TOA_KIND, toa_len(client.0.is_v4()) as u8]);
    put(&mut out, &mut at, &client.1.0);
    put_ip(&mut out, &mut at, client.0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn ip(s: &str) -> Ip {
        s.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn forms() {
        let (client, vip) = ((ip("10.1.0.1"), Be16::new(40000)), (ip("10.9.0.1"), Be16::new(80)));
        let h = proxy(client, vip);
        assert_eq!(h[..12], [0x0d, 0x0a, 0x0d, 0x0a, 0, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a]);
        assert_eq!(h[12..28], [0x21, 0x11, 0, 12, 10, 1, 0, 1, 10, 9, 0, 1, 0x9c, 0x40, 0, 80]);
        assert_eq!(toa(client)[..8], [254, 8, 0x9c, 0x40, 10, 1, 0, 1]);
        let client = (ip("2001:db8::1"), Be16::new(40000));
        let h = proxy(client, (ip("2001:db8::2"), Be16::new(80)));
        assert_eq!((h[13], h[15], &h[48..]), (0x21, 36, &[0x9c, 0x40, 0, 80][..]));
        assert_eq!((toa(client)[1], toa(client)[19]), (20, 1));
    }
}
