//! The frames that the neighbour cache sends: ARP (RFC 826) and neighbour discovery (RFC 4861).

use dataplane::link::{INJECT_MAX, InjectFrame};
use dataplane::snapshot::InterfaceSpec;
use dataplane::units::{Ip, Mac};
use dataplane::wire::checksum;
use dataplane::wire::reply::pseudo6;

/// Shortest Ethernet frame without its check sequence (IEEE 802.3).
const SHORTEST: usize = 60;
const ARP_REQUEST: u16 = 1;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

struct Writer {
    frame: InjectFrame,
}

impl Writer {
    fn new(iface: &InterfaceSpec, to: Mac, ether_type: u16) -> Self {
        let frame = InjectFrame { port: iface.port, len: 0, bytes: [0; INJECT_MAX] };
        let mut w = Self { frame };
        w.put(&to.0);
        w.put(&iface.mac.0);
        if let Some(vlan) = iface.vlan {
            w.put(&0x8100u16.to_be_bytes());
            w.put(&vlan.to_be_bytes());
        }
        w.put(&ether_type.to_be_bytes());
        w
    }
    fn put(&mut self, bytes: &[u8]) {
        let at = usize::from(self.frame.len);
        if let Some(to) = self.frame.bytes.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
            self.frame.len += bytes.len() as u16;
        }
    }
    fn finish(mut self) -> InjectFrame {
        self.frame.len = self.frame.len.max(SHORTEST as u16);
        self.frame
    }
}

/// Asks who has `target`; `source` is the own address on the interface. With `to` the
/// question goes to that station alone, to confirm what is known.
pub fn question(iface: &InterfaceSpec, source: Ip, target: Ip, to: Option<Mac>) -> InjectFrame {
    if target.is_v4() {
        return arp(iface, to.unwrap_or(Mac::BROADCAST), source, target);
    }
    let t = target.0;
    // Solicited-node multicast address (RFC 4291 section 2.7.1) and its Ethernet form.
    let group = Ip([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, t[13], t[14], t[15]]);
    let (mac, ip) = match to {
        Some(mac) => (mac, target),
        None => (Mac([0x33, 0x33, 0xff, t[13], t[14], t[15]]), group),
    };
    discovery(iface, mac, source, ip, SOLICITATION, 0, target, 1)
}

/// Tells everybody on the interface that `ip` is here.
pub fn announcement(iface: &InterfaceSpec, ip: Ip) -> InjectFrame {
    if ip.is_v4() {
        // A question about oneself (RFC 5227 section 2.3).
        return arp(iface, Mac::BROADCAST, ip, ip);
    }
    let all_nodes = Ip([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    // The override flag alone: unsolicited (RFC 4861 section 7.2.6).
    discovery(iface, Mac([0x33, 0x33, 0, 0, 0, 1]), ip, all_nodes, ADVERTISEMENT, 0x2000_0000, ip, 2)
}

fn arp(iface: &InterfaceSpec, to: Mac, sender: Ip, target: Ip) -> InjectFrame {
    let mut w = Writer::new(iface, to, 0x0806);
    w.put(&[0, 1, 8, 0, 6, 4]);
    w.put(&ARP_REQUEST.to_be_bytes());
    w.put(&iface.mac.0);
    w.put(&sender.v4_bytes());
    w.put(&[0; 6]);
    w.put(&target.v4_bytes());
    w.finish()
}

#[allow(clippy::too_many_arguments, reason = "the fields of one message, each of its own type or meaning")]
fn discovery(
    iface: &InterfaceSpec,
    to: Mac,
    source: Ip,
    destination: Ip,
    kind: u8,
    word: u32,
    target: Ip,
    option: u8,
) -> InjectFrame {
    let mut message = [0u8; 32];
    message[0] = kind;
    message[4..8].copy_from_slice(&word.to_be_bytes());
    message[8..24].copy_from_slice(&target.0);
    // Link-layer address option, in units of eight bytes (RFC 4861 section 4.6.1).
    message[24] = option;
    message[25] = 1;
    message[26..32].copy_from_slice(&iface.mac.0);
    let mut addresses = [0u8; 32];
    addresses[..16].copy_from_slice(&source.0);
    addresses[16..].copy_from_slice(&destination.0);
    let sum = !checksum::add(pseudo6(&addresses, message.len(), 58), checksum::sum(&message));
    message[2..4].copy_from_slice(&sum.to_ne_bytes());
    let mut w = Writer::new(iface, to, 0x86dd);
    // Hop limit 255 shows that the packet was never forwarded (RFC 4861 section 7.1).
    w.put(&[0x60, 0, 0, 0, 0, message.len() as u8, 58, 255]);
    w.put(&addresses);
    w.put(&message);
    w.finish()
}

#[cfg(test)]
mod tests {
    use dataplane::units::PortId;

    use super::*;

    fn iface(vlan: Option<u16>) -> InterfaceSpec {
        InterfaceSpec { port: PortId(1), vlan, mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500, addresses: vec![] }
    }
    fn ip(s: &str) -> Ip {
        s.parse::<std::net::IpAddr>().unwrap().into()
    }

    #[test]
    fn an_arp_question_has_every_field() {
        let f = question(&iface(None), ip("10.2.0.254"), ip("10.2.0.11"), None);
        assert_eq!((f.port, f.len), (PortId(1), 60));
        let wanted = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10,
            2, 0, 254, 0, 0, 0, 0, 0, 0, 10, 2, 0, 11,
        ];
        assert_eq!(f.bytes[..42], wanted);
    }

    #[test]
    fn a_vlan_tag_comes_after_the_addresses() {
        let f = announcement(&iface(Some(10)), ip("10.9.0.1"));
        assert_eq!(f.bytes[12..18], [0x81, 0, 0, 10, 8, 6]);
        assert_eq!(f.bytes[32..36], [10, 9, 0, 1]);
        assert_eq!(f.bytes[42..46], [10, 9, 0, 1]);
    }

    #[test]
    fn discovery_sums_to_zero() {
        for f in [
            question(&iface(None), ip("2001:db8::1"), ip("2001:db8::11"), None),
            question(&iface(None), ip("2001:db8::1"), ip("2001:db8::11"), Some(Mac([2; 6]))),
            announcement(&iface(None), ip("2001:db8:9::1")),
        ] {
            let packet = &f.bytes[14..usize::from(f.len)];
            let sum = checksum::add(pseudo6(&packet[8..40], 32, 58), checksum::sum(&packet[40..72]));
            assert_eq!(sum, 0xffff);
            assert_eq!(packet[7], 255);
        }
        let f = question(&iface(None), ip("2001:db8::1"), ip("2001:db8::1:2:3"), None);
        assert_eq!(f.bytes[..6], [0x33, 0x33, 0xff, 2, 0, 3]);
    }
}
