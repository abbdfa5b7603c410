//! The far end of a tunnel, for kernels that have no tunnel devices.
//!
//! Runs in a real server's network namespace, takes the outer header off every packet
//! that a director wrapped, and gives the inner packet to that namespace's own stack,
//! which has the VIP on its loopback. Understood are IPIP and 6in4 (RFC 2003, RFC 4213:
//! IP protocols 4 and 41) over IPv4 and IPv6, GRE (RFC 2784, protocol 47), GUE
//! (UDP; draft-ietf-intarea-gue, data messages without extensions of variable length), and
//! VXLAN (RFC 7348), whose inner frame may be for any station.
//!
//! The inner packet goes out by a raw socket that includes the header; since the VIP is
//! local, the kernel loops it back in. It recomputes the inner header's checksum on the
//! way, so that checksum is verified here, where a wrong one would otherwise be healed.
//!
//! Prints `ready` when all sockets are open, one line for each packet refused, and the
//! number of packets so far, `packets N`, whenever it has been idle for a second.

use std::io::{self, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use socket2::{Domain, Protocol, Socket, Type};

const IPIP: u8 = 4;
const SIX_IN_FOUR: u8 = 41;
const GRE: u8 = 47;

/// Takes tunnel headers off and hands the inner packets to the local stack.
#[derive(Parser)]
struct Options {
    /// UDP port of GUE.
    #[arg(long, default_value_t = 6080)]
    gue_port: u16,
    /// UDP port of VXLAN.
    #[arg(long, default_value_t = 4789)]
    vxlan_port: u16,
}

/// Where the inner packets go.
struct Inner {
    v4: Socket,
    v6: Socket,
    delivered: AtomicU64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let v4 = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).context("a raw socket needs root")?;
    v4.set_header_included_v4(true)?;
    let v6 = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(255)))?;
    v6.set_header_included_v6(true)?;
    let inner = Arc::new(Inner { v4, v6, delivered: AtomicU64::new(0) });
    let (report, reports) = mpsc::channel();

    for proto in [IPIP, SIX_IN_FOUR, GRE] {
        for domain in [Domain::IPV4, Domain::IPV6] {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(proto))))?;
            serve(socket, inner.clone(), report.clone(), move |packet| {
                // A raw IPv4 socket gives the outer header, a raw IPv6 one does not.
                let payload = if domain == Domain::IPV4 { after_ipv4_header(packet)? } else { packet };
                if proto == GRE { after_gre(payload) } else { Ok(payload) }
            });
        }
    }
    serve(datagrams(options.gue_port)?, inner.clone(), report.clone(), after_gue);
    serve(datagrams(options.vxlan_port)?, inner.clone(), report, after_vxlan);

    println!("ready");
    let mut said = 0;
    loop {
        match reports.recv_timeout(Duration::from_secs(1)) {
            Ok(line) => println!("{line}"),
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let now = inner.delivered.load(Relaxed);
                if now != said {
                    println!("packets {now}");
                    said = now;
                }
            }
        }
    }
}

/// A socket for tunnels in UDP of both families. The kernel takes none without a checksum over IPv6.
fn datagrams(port: u16) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
    socket.set_only_v6(false)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    Ok(socket)
}

/// Receives from `socket` on a thread of its own, for ever.
fn serve(
    mut socket: Socket,
    inner: Arc<Inner>,
    report: mpsc::Sender<String>,
    strip: impl Fn(&[u8]) -> Result<&[u8], String> + Send + 'static,
) {
    // A burst of a whole TCP window must not be lost for want of a buffer.
    let _ = socket.set_recv_buffer_size(4 << 20);
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        loop {
            let outcome = match socket.read(&mut buffer) {
                Ok(n) => strip(&buffer[..n]).and_then(|packet| inner.deliver(packet)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => Err(format!("receive: {e}")),
            };
            if let Err(why) = outcome {
                let _ = report.send(format!("refused: {why}"));
            }
        }
    });
}

impl Inner {
    fn deliver(&self, packet: &[u8]) -> Result<(), String> {
        let sent = match packet.first().map(|b| b >> 4) {
            Some(4) => {
                let header = &packet[..packet.len().min(20)];
                if packet.len() < 20 || internet_checksum(&packet[..header_len(header)?]) != 0 {
                    return Err(format!("inner IPv4 header is short or its checksum is wrong: {header:02x?}"));
                }
                if usize::from(u16::from_be_bytes([packet[2], packet[3]])) != packet.len() {
                    return Err(format!("inner total length differs from {} bytes: {header:02x?}", packet.len()));
                }
                let to = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
                self.v4.send_to(packet, &SocketAddr::from((to, 0)).into())
            }
            Some(6) if packet.len() >= 40 => {
                if usize::from(u16::from_be_bytes([packet[4], packet[5]])) + 40 != packet.len() {
                    return Err(format!("inner payload length differs from {} bytes", packet.len()));
                }
                let to: [u8; 16] = packet[24..40].try_into().map_err(|_| "short")?;
                self.v6.send_to(packet, &SocketAddrV6::new(to.into(), 0, 0, 0).into())
            }
            _ => return Err(format!("inner packet is no IP: {:02x?}", &packet[..packet.len().min(20)])),
        };
        sent.map_err(|e| format!("deliver: {e}"))?;
        self.delivered.fetch_add(1, Relaxed);
        Ok(())
    }
}

/// Length of the IPv4 header, bytes.
fn header_len(packet: &[u8]) -> Result<usize, String> {
    let len = usize::from(packet.first().ok_or("empty packet")? & 15) * 4;
    if len < 20 || len > packet.len() { Err(format!("IPv4 header length {len}")) } else { Ok(len) }
}

fn after_ipv4_header(packet: &[u8]) -> Result<&[u8], String> {
    Ok(&packet[header_len(packet)?..])
}

/// RFC 2784, section 2, and the key and sequence fields of RFC 2890.
fn after_gre(packet: &[u8]) -> Result<&[u8], String> {
    let &[flags, version, _, _, ..] = packet else { return Err("short GRE header".into()) };
    if version & 7 != 0 || flags & 0x40 != 0 {
        return Err(format!("GRE flags {flags:02x}{version:02x}"));
    }
    if flags & 0x80 != 0 && internet_checksum(packet) != 0 {
        return Err("GRE checksum is wrong".into());
    }
    let optional = (flags & 0xb0).count_ones() as usize * 4;
    packet.get(4 + optional..).ok_or_else(|| "short GRE header".into())
}

/// Version 0 is a header of `4 + 4 * hlen` bytes with the inner protocol in its second
/// byte; version 1 is the inner packet itself, its IP version in the same bits.
fn after_gue(packet: &[u8]) -> Result<&[u8], String> {
    let &[first, proto, ..] = packet else { return Err("short GUE header".into()) };
    match first >> 6 {
        0 if first & 0x20 != 0 => Err("GUE control message".into()),
        0 if proto == IPIP || proto == SIX_IN_FOUR => {
            packet.get(4 + usize::from(first & 31) * 4..).ok_or_else(|| "short GUE header".into())
        }
        0 => Err(format!("GUE protocol {proto}")),
        1 => Ok(packet),
        version => Err(format!("GUE version {version}")),
    }
}

/// The header has one flag that must be set, and the network's number; then a whole frame.
fn after_vxlan(packet: &[u8]) -> Result<&[u8], String> {
    let &[flags, _, _, _, _, _, _, reserved, ref frame @ ..] = packet else { return Err("short VXLAN header".into()) };
    if flags != 0x08 || reserved != 0 {
        return Err(format!("VXLAN header {:02x?}", &packet[..8]));
    }
    let version = match frame.get(12..14) {
        Some([0x08, 0x00]) => 4,
        Some([0x86, 0xdd]) => 6,
        other => return Err(format!("VXLAN ethertype {other:02x?}")),
    };
    let inner = frame.get(14..).unwrap_or_default();
    let right = inner.first().is_some_and(|b| b >> 4 == version);
    if right { Ok(inner) } else { Err("VXLAN ethertype of the other family".into()) }
}

/// RFC 1071; zero over bytes that contain a right checksum.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], *c.get(1).unwrap_or(&0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
