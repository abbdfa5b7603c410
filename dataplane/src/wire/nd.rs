//! Neighbour discovery (RFC 4861): solicitations and advertisements, in whole IPv6 packets.

use crate::units::{Ip, Mac};
use crate::wire::{icmpv6, ipv6, protocol};

/// Solicitation: who has the target?
pub const SOLICITATION: u8 = 135;
/// Advertisement: the target is here.
pub const ADVERTISEMENT: u8 = 136;
/// The fixed part of both, bytes.
pub const LEN: usize = 24;
/// What is written here: IPv6 header, message, one option, bytes.
pub const PACKET_LEN: usize = ipv6::LEN + LEN + 8;
/// The hop limit that shows that no router forwarded the message.
pub const HOP_LIMIT: u8 = 255;

/// Advertisement: the answer to a solicitation (section 4.4).
pub const SOLICITED: u32 = 0x4000_0000;
/// Advertisement: replaces what is known.
pub const OVERRIDE: u32 = 0x2000_0000;

const SOURCE_MAC: u8 = 1;
const TARGET_MAC: u8 = 2;

header! {
    /// The part before the options.
    Message[24] {
        /// Type.
        kind, set_kind: u8 = 0..1;
        /// Code; 0.
        code, set_code: u8 = 1..2;
        /// [`SOLICITED`] and [`OVERRIDE`] in an advertisement.
        flags, set_flags: u32 = 4..8;
        /// Whose neighbour is sought or told.
        target, set_target: Ip = 8..24;
    }
}

/// What a valid message says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// [`SOLICITATION`] or [`ADVERTISEMENT`].
    pub kind: u8,
    /// [`SOLICITED`] and [`OVERRIDE`]; 0 in a solicitation.
    pub flags: u32,
    /// Whose neighbour is sought or told.
    pub target: Ip,
    /// The sender's (solicitation) or target's (advertisement) Ethernet address, if given.
    pub mac: Option<Mac>,
}

/// Why a message must be ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// Shorter than [`LEN`].
    Short,
    /// Neither a solicitation nor an advertisement.
    Kind,
    /// It fails a check of sections 7.1.1 and 7.1.2: hop limit, code, target, options, or
    /// what the two addresses of the packet demand.
    Invalid,
}

/// Validates a message whose checksum is right; `ip` is the packet's fixed header.
pub fn new_checked(ip: &ipv6::Ipv6<&[u8; ipv6::LEN]>, message: &[u8]) -> Result<Neighbour, Malformed> {
    let m = Message::first(message).ok_or(Malformed::Short)?;
    let kind = m.kind();
    if kind != SOLICITATION && kind != ADVERTISEMENT {
        return Err(Malformed::Kind);
    }
    let (multicast_target, to_group) = (m.target().0[0] == 0xff, ip.dst().0[0] == 0xff);
    if ip.hop_limit() != HOP_LIMIT || m.code() != 0 || multicast_target {
        return Err(Malformed::Invalid);
    }
    let wanted = if kind == SOLICITATION { SOURCE_MAC } else { TARGET_MAC };
    let mac = link_address(&message[LEN..], wanted).ok_or(Malformed::Invalid)?;
    let flags = if kind == ADVERTISEMENT { m.flags() } else { 0 };
    let detection = kind == SOLICITATION && ip.src() == Ip::UNSPECIFIED;
    if detection && (mac.is_some() || ip.dst() != ipv6::solicited_node(m.target())) {
        return Err(Malformed::Invalid);
    }
    if to_group && flags & SOLICITED != 0 {
        return Err(Malformed::Invalid);
    }
    Ok(Neighbour { kind, flags, target: m.target(), mac })
}

/// The wanted link-layer address among the options (section 4.6.1); `None` when an option
/// is empty or cut short.
fn link_address(mut options: &[u8], wanted: u8) -> Option<Option<Mac>> {
    let mut found = None;
    while let Some(kind) = options.first() {
        let len = usize::from(*options.get(1)?) * 8;
        let option = options.get(..len).filter(|o| !o.is_empty())?;
        if *kind == wanted {
            found = option[2..].first_chunk().map(|m| Mac(*m)).filter(|m| !m.is_multicast());
        }
        options = &options[len..];
    }
    Some(found)
}

/// Asks who has `target`: by default its solicited-node group, or to confirm what is known
/// the target alone (`unicast`). Writes a whole packet; `None` when there is no room. The
/// frame goes to the target's known Ethernet address, else to
/// [`crate::wire::ethernet::multicast_v6`] of the packet's destination.
pub fn write_solicitation(out: &mut [u8], own: (Mac, Ip), target: Ip, unicast: bool) -> Option<usize> {
    let dst = if unicast { target } else { ipv6::solicited_node(target) };
    write(out, own.1, dst, (SOLICITATION, 0), target, (SOURCE_MAC, own.0))
}

/// Answers a solicitation from `asker`. One from nowhere asks whether an address is taken:
/// then all nodes hear the answer (section 7.2.4).
pub fn write_answer(out: &mut [u8], own: (Mac, Ip), asker: Ip) -> Option<usize> {
    let (dst, flags) =
        if asker == Ip::UNSPECIFIED { (ipv6::ALL_NODES, OVERRIDE) } else { (asker, SOLICITED | OVERRIDE) };
    write(out, own.1, dst, (ADVERTISEMENT, flags), own.1, (TARGET_MAC, own.0))
}

/// Tells all nodes that an own address is here (section 7.2.6).
pub fn write_announcement(out: &mut [u8], own: (Mac, Ip)) -> Option<usize> {
    write_answer(out, own, Ip::UNSPECIFIED)
}

fn write(out: &mut [u8], src: Ip, dst: Ip, kind: (u8, u32), target: Ip, option: (u8, Mac)) -> Option<usize> {
    let out = out.get_mut(..PACKET_LEN)?;
    let f = ipv6::Fields { class: 0, label: 0, hop_limit: HOP_LIMIT, protocol: protocol::ICMPV6, src, dst };
    let at = ipv6::write(out, &f, LEN + 8)?;
    let addresses = ipv6::Ipv6::first(out)?.addresses();
    let message = &mut out[at..];
    let mut m = Message::first_mut(message)?;
    m.set_kind(kind.0);
    m.set_code(0);
    m.set_flags(kind.1);
    m.set_target(target);
    message[LEN..LEN + 2].copy_from_slice(&[option.0, 1]);
    message[LEN + 2..].copy_from_slice(&option.1.0);
    icmpv6::fill_checksum(&addresses, message);
    Some(PACKET_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ipv6::Ipv6;

    const OWN: (Mac, Ip) = (Mac([2, 0, 0, 0, 0, 1]), ip(1));
    const fn ip(last: u8) -> Ip {
        Ip([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
    }
    fn read(p: &[u8]) -> Result<Neighbour, Malformed> {
        let h = Ipv6::first(p).unwrap();
        assert_eq!(icmpv6::sum(&h.addresses(), &p[40..]), 0xffff);
        new_checked(&h, &p[40..])
    }
    /// A solicitation from `own`, changed, with a right checksum again.
    fn changed(change: impl FnOnce(&mut [u8])) -> Result<Neighbour, Malformed> {
        let mut p = [0xee; PACKET_LEN];
        write_solicitation(&mut p, OWN, ip(2), false).unwrap();
        change(&mut p);
        let addresses = Ipv6::first(&p).unwrap().addresses();
        icmpv6::fill_checksum(&addresses, &mut p[40..]);
        read(&p)
    }

    #[test]
    fn questions_and_answers_read_back() {
        let mut p = [0xee; PACKET_LEN + 6];
        assert_eq!(write_solicitation(&mut p, OWN, ip(2), false), Some(PACKET_LEN));
        let p = &mut p[..PACKET_LEN];
        assert_eq!(read(p), Ok(Neighbour { kind: SOLICITATION, flags: 0, target: ip(2), mac: Some(OWN.0) }));
        assert_eq!(Ipv6::first(p).unwrap().dst().to_string(), "ff02::1:ff00:2");
        write_solicitation(p, OWN, ip(2), true).unwrap();
        assert_eq!(Ipv6::first(p).unwrap().dst(), ip(2));
        write_answer(p, OWN, ip(2)).unwrap();
        let answer = Neighbour { kind: ADVERTISEMENT, flags: SOLICITED | OVERRIDE, target: OWN.1, mac: Some(OWN.0) };
        assert_eq!(read(p), Ok(answer));
        write_announcement(p, OWN).unwrap();
        assert_eq!(read(p), Ok(Neighbour { flags: OVERRIDE, ..answer }));
        assert_eq!(Ipv6::first(p).unwrap().dst(), ipv6::ALL_NODES);
        assert_eq!(write_announcement(&mut p[..71], OWN), None);
    }

    #[test]
    fn what_the_rfc_forbids_is_refused() {
        assert!(changed(|_| ()).is_ok());
        assert_eq!(changed(|p| p[7] = 254), Err(Malformed::Invalid), "forwarded");
        assert_eq!(changed(|p| p[41] = 1), Err(Malformed::Invalid), "code");
        assert_eq!(changed(|p| p[48] = 0xff), Err(Malformed::Invalid), "a group as target");
        assert_eq!(changed(|p| p[65] = 0), Err(Malformed::Invalid), "an empty option");
        assert_eq!(changed(|p| p[65] = 2), Err(Malformed::Invalid), "an option cut short");
        assert_eq!(changed(|p| p[40] = 134), Err(Malformed::Kind));
        assert_eq!(changed(|p| p[8..24].fill(0)), Err(Malformed::Invalid), "from nowhere with an address");
        assert_eq!(changed(|p| p[66] = 1).unwrap().mac, None, "a group's address is none");
        let solicited = |p: &mut [u8]| (p[40], p[44]) = (ADVERTISEMENT, 0x60);
        assert_eq!(changed(solicited), Err(Malformed::Invalid), "solicited, to a group");
        let mut p = [0; PACKET_LEN];
        write_solicitation(&mut p, OWN, ip(2), false).unwrap();
        assert_eq!(new_checked(&Ipv6::first(&p).unwrap(), &p[40..63]), Err(Malformed::Short));
    }

    #[test]
    fn detection_of_duplicates_asks_from_nowhere() {
        let mut p = [0; PACKET_LEN];
        write_solicitation(&mut p, (OWN.0, Ip::UNSPECIFIED), ip(2), false).unwrap();
        let n = new_checked(&Ipv6::first(&p).unwrap(), &p[40..64]).unwrap();
        assert_eq!((n.target, n.mac), (ip(2), None));
    }
}
