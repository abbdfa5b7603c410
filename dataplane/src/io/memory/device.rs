//! What a sending device does to a frame on request.

use crate::io::TxOffload;
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::{checksum, protocol, vlan};

/// The frame as it leaves the device. What was asked for in vain (a header that is not
/// there) is left undone, as hardware would.
pub(super) fn send(mut frame: Vec<u8>, asked: TxOffload, tag: Option<u16>) -> Vec<u8> {
    if let Some(ip) = frame.get_mut(usize::from(asked.l2_len)..) {
        if asked.ip_csum && asked.ipv4 {
            sum_header(ip, usize::from(asked.l3_len));
        }
        if let Some(proto) = asked.l4_csum {
            sum_transport(ip, usize::from(asked.l3_len), proto, asked.ipv4);
        }
    }
    if let Some(tci) = tag {
        frame.splice(0..0, [0; vlan::LEN]);
        vlan::insert(&mut frame, tci);
    }
    frame
}

fn sum_header(ip: &mut [u8], len: usize) {
    if let Some(h) = ip.get_mut(..len).filter(|h| h.len() >= ipv4::LEN) {
        h[10..12].fill(0);
        let sum = !checksum::sum(h);
        h[10..12].copy_from_slice(&sum.to_ne_bytes());
    }
}

/// Sums from the transport header to the packet's end; the field holds the pseudo-header's sum.
fn sum_transport(ip: &mut [u8], l3_len: usize, proto: u8, v4: bool) {
    let end = if v4 {
        Ipv4::first(ip).map(|h| usize::from(h.total_len()))
    } else {
        Ipv6::first(ip).map(|h| ipv6::LEN + usize::from(h.payload_len()))
    };
    let at = if proto == protocol::TCP { 16 } else { 6 };
    let Some(segment) = end.and_then(|end| ip.get_mut(l3_len..end)).filter(|s| s.len() >= at + 2) else { return };
    let sum = !checksum::sum(segment);
    let sum = if sum == 0 && proto == protocol::UDP { 0xffff } else { sum };
    segment[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
}
