//! ARP for IPv4 over Ethernet (RFC 826).

use crate::units::{Ip, Mac};
use crate::wire::ethernet;

/// A packet, bytes.
pub const LEN: usize = 28;
/// Who has the target's address?
pub const REQUEST: u16 = 1;
/// The sender has it.
pub const REPLY: u16 = 2;

header! {
    /// The packet.
    Arp[28] {
        /// Hardware type; 1 is Ethernet.
        hardware, set_hardware: u16 = 0..2;
        /// Protocol type, an ethertype.
        protocol, set_protocol: u16 = 2..4;
        /// Lengths of the two kinds of addresses, bytes.
        lengths, set_lengths: u16 = 4..6;
        /// [`REQUEST`] or [`REPLY`].
        operation, set_operation: u16 = 6..8;
        /// The sender's Ethernet address.
        sender_mac, set_sender_mac: Mac = 8..14;
        /// The sender's IPv4 address; 0.0.0.0 in a probe (RFC 5227 section 1.1).
        sender, set_sender: Ip = 14..18;
        /// The target's Ethernet address.
        target_mac, set_target_mac: Mac = 18..24;
        /// The target's IPv4 address.
        target, set_target: Ip = 24..28;
    }
}

/// Why a packet is none that can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// Shorter than [`LEN`].
    Short,
    /// Not about IPv4 over Ethernet, or no known operation.
    Kind,
    /// The sender's address is a group's.
    Sender,
}

impl<'a> Arp<&'a [u8; LEN]> {
    /// Validates the packet at the front of `data`.
    pub fn new_checked(data: &'a [u8]) -> Result<Self, Malformed> {
        let p = Self::first(data).ok_or(Malformed::Short)?;
        if (p.hardware(), p.protocol(), p.lengths()) != (1, ethernet::IPV4, 0x0604)
            || !(REQUEST..=REPLY).contains(&p.operation())
        {
            return Err(Malformed::Kind);
        }
        if p.sender_mac().is_multicast() {
            return Err(Malformed::Sender);
        }
        Ok(p)
    }
}

/// Writes a packet; `None` when there is no room.
pub fn write(out: &mut [u8], operation: u16, sender: (Mac, Ip), target: (Mac, Ip)) -> Option<usize> {
    let mut p = Arp::first_mut(out)?;
    p.set_hardware(1);
    p.set_protocol(ethernet::IPV4);
    p.set_lengths(0x0604);
    p.set_operation(operation);
    p.set_sender_mac(sender.0);
    p.set_sender(sender.1);
    p.set_target_mac(target.0);
    p.set_target(target.1);
    Some(LEN)
}

/// Asks who has `target`.
pub fn write_request(out: &mut [u8], sender: (Mac, Ip), target: Ip) -> Option<usize> {
    write(out, REQUEST, sender, (Mac([0; 6]), target))
}

/// Announces an own address: a question about oneself (RFC 5227 section 2.3).
pub fn write_announcement(out: &mut [u8], own: (Mac, Ip)) -> Option<usize> {
    write_request(out, own, own.1)
}

/// Turns the request whose packet starts at `l2` of `frame` into the reply that says
/// `own` has the target's address. `None` when the frame is too short.
pub fn answer_in_place(frame: &mut [u8], l2: usize, own: Mac) -> Option<()> {
    let (head, packet) = frame.split_at_mut_checked(l2)?;
    let mut e = head.first_chunk_mut::<{ ethernet::LEN }>().map(ethernet::Ethernet)?;
    let asked = *Arp::first(packet)?.0;
    let asked = Arp(asked);
    write(packet, REPLY, (own, asked.target()), (asked.sender_mac(), asked.sender()))?;
    e.set_dst(asked.sender_mac());
    e.set_src(own);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: (Mac, Ip) = (Mac([2, 0, 0, 0, 0, 1]), Ip::from_v4([10, 0, 0, 1]));
    const PEER: (Mac, Ip) = (Mac([2, 0, 0, 0, 0, 2]), Ip::from_v4([10, 0, 0, 2]));

    #[test]
    fn a_request_becomes_its_reply() {
        let mut frame = [0; 60];
        ethernet::write(&mut frame, Mac::BROADCAST, PEER.0, ethernet::ARP).unwrap();
        write_request(&mut frame[14..], PEER, OWN.1).unwrap();
        assert_eq!(Arp::new_checked(&frame[14..]).unwrap().operation(), REQUEST);
        answer_in_place(&mut frame, 14, OWN.0).unwrap();
        let p = Arp::new_checked(&frame[14..]).unwrap();
        assert_eq!((p.operation(), p.sender_mac(), p.sender()), (REPLY, OWN.0, OWN.1));
        assert_eq!((p.target_mac(), p.target()), PEER);
        assert_eq!(frame[..12], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
        assert!(answer_in_place(&mut frame[..41], 14, OWN.0).is_none());
    }

    #[test]
    fn what_is_no_arp_for_ipv4_is_refused() {
        let mut p = [0; LEN];
        write_announcement(&mut p, OWN).unwrap();
        assert_eq!(Arp::new_checked(&p).unwrap().target(), OWN.1);
        assert_eq!(Arp::new_checked(&p[..27]), Err(Malformed::Short));
        for (at, value) in [(1, 6), (2, 0), (4, 8), (5, 16), (7, 0), (7, 3)] {
            let mut bad = p;
            bad[at] = value;
            assert_eq!(Arp::new_checked(&bad), Err(Malformed::Kind), "byte {at}");
        }
        p[8] = 1;
        assert_eq!(Arp::new_checked(&p), Err(Malformed::Sender));
    }
}
