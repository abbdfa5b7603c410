//! ARP (RFC 826): answers for our addresses, and tells control who is who.

use crate::burst::Burst;
use crate::counters::DropReason;
use crate::io::{PacketBuf, PacketIo};
use crate::link::Event;
use crate::snapshot::{IfaceId, Snapshot};
use crate::stage::local::Examined;
use crate::stage::resolve;
use crate::units::{Ip, Mac};
use crate::worker::Core;

/// Length of an ARP packet for IPv4 over Ethernet, bytes.
const LEN: usize = 28;
/// Hardware Ethernet, protocol IPv4, address lengths 6 and 4.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// Examines an ARP frame whose packet starts at `l2`.
pub fn examine<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
    iface: IfaceId,
    l2: usize,
) -> Examined {
    let Some(buf) = &burst.bufs[i] else { return Examined::Gone };
    let data = buf.data();
    let (Some(arp), Some(from)) = (data.get(l2..).and_then(|d| d.first_chunk::<LEN>()), data.get(6..12)) else {
        return Examined::Drop(DropReason::BadArp);
    };
    let operation = u16::from_be_bytes([arp[6], arp[7]]);
    let mac = Mac([arp[8], arp[9], arp[10], arp[11], arp[12], arp[13]]);
    let sender = Ip::from_v4([arp[14], arp[15], arp[16], arp[17]]);
    let target = Ip::from_v4([arp[24], arp[25], arp[26], arp[27]]);
    if arp[..6] != ETHERNET_IPV4 || !(1..=2).contains(&operation) || mac.is_multicast() || from != mac.0 {
        return Examined::Drop(DropReason::BadArp);
    }
    let probe = sender == Ip::from_v4([0; 4]);
    let Some(here) = s.interfaces.get(usize::from(iface.0)) else {
        return Examined::Drop(DropReason::BadArp);
    };
    let own = here.mac;
    if s.local(sender).is_some() {
        if mac != own {
            core.tell(Event::DuplicateAddress { iface, ip: sender, mac });
            return Examined::Drop(DropReason::DuplicateAddress);
        }
        return Examined::Drop(DropReason::NotForUs);
    }
    let ours = s.answers_for(target, iface);
    let known = s.neighbour(iface, sender).is_some();
    if !probe && (ours || known) {
        core.tell(Event::NeighbourSeen { iface, ip: sender, mac, solicited: operation == 2 && ours });
    }
    if operation != 1 || !ours {
        return consume(core, io, burst, i);
    }
    core.link.counters.worker.neighbour_replies_sent.add(1);
    if let Some(mut buf) = burst.bufs[i].take() {
        if let Some(frame) = buf.data_mut().get_mut(..l2 + LEN) {
            answer(frame, l2, own, mac, sender, target);
        }
        buf.truncate(l2 + LEN);
        resolve::send_on(s, core, io, buf, here);
    }
    Examined::Gone
}

/// An ARP packet that needs no answer is not a drop: it has done its work.
fn consume<I: PacketIo>(core: &mut Core<I::Buf>, io: &mut I, burst: &mut Burst<I::Buf>, i: usize) -> Examined {
    let _ = core;
    if let Some(buf) = burst.bufs[i].take() {
        io.free(buf);
    }
    Examined::Gone
}

/// Turns the request into its reply, in place.
fn answer(frame: &mut [u8], l2: usize, own: Mac, mac: Mac, sender: Ip, target: Ip) {
    frame[..6].copy_from_slice(&mac.0);
    frame[6..12].copy_from_slice(&own.0);
    let arp = &mut frame[l2..];
    arp[6..8].copy_from_slice(&[0, 2]);
    arp[8..14].copy_from_slice(&own.0);
    arp[14..18].copy_from_slice(&target.v4_bytes());
    arp[18..24].copy_from_slice(&mac.0);
    arp[24..28].copy_from_slice(&sender.v4_bytes());
}
