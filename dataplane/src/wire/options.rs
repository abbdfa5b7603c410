//! IPv4 options that a host's answer takes over (RFC 1122 section 3.2.1.8): the record route, as
//! Linux does; what was asked of routers on the way alone (router alert, security) is left out.

use crate::wire::ipv4;

/// Most bytes that options take.
pub const MAX: usize = 40;

/// The options of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echoed {
    bytes: [u8; MAX],
    len: usize,
}

impl Echoed {
    /// The options, their length a multiple of four.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Where the record route is among a header's options: from its first byte on, and how long it is.
/// `header` starts at the IP header and ends where its options do.
pub fn record_route(header: &[u8]) -> Option<(usize, usize)> {
    let mut at = ipv4::LEN;
    loop {
        let kind = *header.get(at)?;
        let len = match kind {
            ipv4::OPTION_END => return None,
            ipv4::OPTION_NOP => 1,
            _ => usize::from(*header.get(at + 1)?).max(2),
        };
        if kind == ipv4::OPTION_RR && len >= 3 {
            return (at + len <= header.len()).then_some((at, len));
        }
        at += len;
    }
}

/// The options that an answer of `own` to the packet with this header has.
pub fn echoed(header: &[u8], own: [u8; 4]) -> Echoed {
    let mut e = Echoed { bytes: [0; MAX], len: 0 };
    let Some((at, len)) = record_route(header).filter(|(_, len)| *len <= MAX) else { return e };
    let Some(route) = e.bytes.get_mut(..len) else { return e };
    route.copy_from_slice(&header[at..at + len]);
    // Who answers is on the way back as well.
    let pointer = usize::from(route[2]);
    if pointer >= 4
        && let Some(free) = route.get_mut(pointer - 1..pointer + 3)
    {
        free.copy_from_slice(&own);
        route[2] += 4;
    }
    e.len = len.next_multiple_of(4);
    e
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(options: &[u8]) -> Vec<u8> {
        let mut h = vec![0; 20];
        h.extend_from_slice(options);
        h
    }

    #[test]
    fn a_route_goes_on_while_there_is_room() {
        let full = header(&[1, 7, 7, 8, 9, 9, 9, 9]);
        assert_eq!(echoed(&full, [1, 2, 3, 4]).bytes(), [7, 7, 8, 9, 9, 9, 9, 0]);
        let room = header(&[7, 11, 8, 9, 9, 9, 9, 0, 0, 0, 0, 0]);
        assert_eq!(echoed(&room, [1, 2, 3, 4]).bytes(), [7, 11, 12, 9, 9, 9, 9, 1, 2, 3, 4, 0]);
        for none in [&[0x94, 4, 0, 0][..], &[1, 1, 1, 1], &[0, 7, 7, 4], &[7, 9, 4, 0], &[]] {
            assert_eq!(echoed(&header(none), [1, 2, 3, 4]).bytes(), [0; 0], "{none:?}");
        }
    }

    #[test]
    fn the_record_route_is_found_behind_other_options() {
        let mut h = header(&[ipv4::OPTION_NOP, 0x94, 4, 0, 0, ipv4::OPTION_RR, 7, 4, 9, 9, 9, 9]);
        assert_eq!(record_route(&h), Some((25, 7)));
        h[26] = 8;
        assert_eq!(record_route(&h), None, "longer than the header");
        h[21] = ipv4::OPTION_END;
        assert_eq!(record_route(&h), None);
    }
}
