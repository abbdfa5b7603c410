//! TCP segments whose bytes change: the client's address is put in, sequence numbers,
//! acknowledgements and SACK blocks follow (RFC 9293, RFC 2018).

use crate::burst::{Lane, tcp_flags};
use crate::flow::extension::{ClientAddress, Extension};
use crate::flow::record::FlowRecord;
use crate::flow::sequence::{Shift, after};
use crate::io::PacketBuf;
use crate::stage::rewrite::Outcome;
use crate::wire::{checksum, client};

/// Longest TCP header, bytes.
const MOST: usize = 60;
const URG: u8 = 0x20;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;
const OPTION_SACK: u8 = 5;
/// Smallest segment size that is announced to a client, bytes.
const LEAST_MSS: u16 = 256;

/// A segment's header, to be changed, and what is to be put in.
pub struct Segment {
    old: [u8; MOST],
    new: [u8; MOST],
    header: usize,
    payload: usize,
    put: [u8; client::MOST],
    put_len: usize,
    /// Where it is put, from the start of the TCP header, bytes.
    put_at: usize,
}

fn word(b: &[u8; MOST], at: usize) -> u32 {
    u32::from_be_bytes([b[at & 31], b[(at & 31) + 1], b[(at & 31) + 2], b[(at & 31) + 3]])
}

impl Segment {
    /// Reads the header of the segment in `lane`; `None` when it is not all in the first
    /// part of the packet.
    pub fn read<B: PacketBuf>(lane: &Lane, buf: &B) -> Option<Self> {
        let t = buf.data().get(usize::from(lane.l4)..)?;
        let header = usize::from(t.get(12)? >> 4) * 4;
        let payload = (usize::from(lane.l2) + usize::from(lane.ip_len)).checked_sub(usize::from(lane.l4) + header)?;
        let mut old = [0; MOST];
        old.get_mut(..header)?.copy_from_slice(t.get(..header)?);
        let put = [0; client::MOST];
        (header >= 20).then_some(Self { old, new: old, header, payload, put, put_len: 0, put_at: 0 })
    }

    /// The sequence number as it came.
    pub fn seq(&self) -> u32 {
        word(&self.old, 4)
    }
    /// Bytes of data.
    pub fn payload_len(&self) -> usize {
        self.payload
    }
    /// Where the data begins, from the start of the TCP header, bytes.
    pub fn header_len(&self) -> usize {
        self.header
    }
    /// How many bytes will be put in.
    pub fn put_len(&self) -> u16 {
        self.put_len as u16
    }
    fn set(&mut self, at: usize, value: u32) {
        self.new[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    /// Sequence number by `ours`, acknowledgement and SACK by the other direction's `theirs`.
    pub fn shift(&mut self, flags: u8, ours: &Shift, theirs: &Shift) {
        if !ours.is_none() {
            self.set(4, ours.forward(self.seq()));
        }
        if !theirs.is_none() && flags & tcp_flags::ACK != 0 {
            self.set(8, theirs.back(word(&self.old, 8)));
            self.each_option(|kind, value| {
                if kind == OPTION_SACK {
                    for edge in value.chunks_exact_mut(4) {
                        let e = u32::from_be_bytes([edge[0], edge[1], edge[2], edge[3]]);
                        edge.copy_from_slice(&theirs.back(e).to_be_bytes());
                    }
                }
            });
        }
    }

    /// Announces `by` bytes less as largest segment, so that what is put in still fits.
    pub fn lower_mss(&mut self, by: u16) {
        self.each_option(|kind, value| {
            if let (OPTION_MSS, [a, b]) = (kind, value) {
                let mss = u16::from_be_bytes([*a, *b]);
                [*a, *b] = mss.saturating_sub(by).max(LEAST_MSS.min(mss)).to_be_bytes();
            }
        });
    }

    fn each_option(&mut self, mut f: impl FnMut(u8, &mut [u8])) {
        let mut rest = self.new.get_mut(20..self.header).unwrap_or_default();
        loop {
            match rest {
                [] | [OPTION_END, ..] => return,
                [OPTION_NOP, tail @ ..] => rest = tail,
                [kind, len, tail @ ..] => {
                    let n = usize::from(*len).wrapping_sub(2);
                    if n > tail.len() {
                        return;
                    }
                    let (value, tail) = tail.split_at_mut(n);
                    f(*kind, value);
                    rest = tail;
                }
                [_] => return,
            }
        }
    }

    /// Puts the client's address into the first data segment, or into those that open the
    /// connection; and remembers what that does to the sequence numbers.
    pub fn tell(&mut self, e: &mut Extension, record: &FlowRecord, flags: u8) {
        let seq = self.seq();
        if flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN {
            // A new connection, or its first segment again.
            if !e.started || e.isn != seq {
                (e.started, e.isn) = (true, seq);
                (e.to_server, e.to_client) = (Shift::NONE, Shift::NONE);
            }
        }
        if !e.started {
            return;
        }
        let first = e.isn.wrapping_add(1);
        let data = seq.wrapping_add(u32::from(flags & tcp_flags::SYN != 0));
        let v4 = record.client.is_v4();
        match e.tells {
            ClientAddress::Proxy if self.payload > 0 && (data == first || after(data, first)) => {
                let len = client::proxy_len(v4);
                e.to_server.grow(first, len as i32);
                if data == first {
                    let vip = (record.vip.ip(), record.vport);
                    self.put(client::proxy((record.client, record.client_port), vip), len, self.header);
                    if flags & URG != 0 {
                        let urgent = u16::from_be_bytes([self.old[18], self.old[19]]).saturating_add(len as u16);
                        self.new[18..20].copy_from_slice(&urgent.to_be_bytes());
                    }
                }
            }
            ClientAddress::Toa
                if flags & (tcp_flags::SYN | tcp_flags::RST | tcp_flags::ACK) == tcp_flags::ACK && data == first =>
            {
                let len = client::toa_len(v4);
                // Where other options leave no room, the connection goes on without.
                if self.header + len <= MOST {
                    self.put(client::toa((record.client, record.client_port)), len, 20);
                    self.new[12] += (len as u8 / 4) << 4;
                }
            }
            _ => {}
        }
    }

    fn put(&mut self, bytes: [u8; client::MOST], len: usize, at: usize) {
        (self.put, self.put_len, self.put_at) = (bytes, len, at);
    }

    /// Writes header and insertion into the packet, with lengths and checksums.
    pub fn write<B: PacketBuf>(&self, lane: &mut Lane, buf: &mut B) -> Outcome {
        let (l2, l4) = (usize::from(lane.l2), usize::from(lane.l4));
        let mut delta = checksum::delta(&self.old, &self.new);
        if let (Some(new), Some(h)) = (self.new.get(..self.header), buf.data_mut().get_mut(l4..l4 + self.header)) {
            h.copy_from_slice(new);
        }
        if self.put_len > 0 {
            let n = self.put_len;
            if is_fragment(lane, buf) {
                return Outcome::NotInsertable;
            }
            let Some(len) = lane.ip_len.checked_add(n as u16) else { return Outcome::NotInsertable };
            if !buf.prepend(n) {
                return Outcome::NoHeadroom;
            }
            let (data, at) = (buf.data_mut(), l4 + self.put_at);
            if data.len() < at + n {
                return Outcome::NotInsertable;
            }
            data.copy_within(n..n + at, 0);
            let put = self.put.get(..n).unwrap_or_default();
            if let Some(gap) = data.get_mut(at..at + n) {
                gap.copy_from_slice(put);
            }
            let tcp_len = |ip_len: u16| (usize::from(ip_len) + l2 - l4) as u16;
            let longer = checksum::delta(&tcp_len(lane.ip_len).to_be_bytes(), &tcp_len(len).to_be_bytes());
            delta = checksum::add(delta, checksum::add(longer, checksum::sum(put)));
            set_ip_len(lane, data, len);
        }
        if let Some(c) = buf.data_mut().get_mut(l4 + 16..l4 + 18) {
            let sum = checksum::apply(u16::from_ne_bytes([c[0], c[1]]), delta);
            c.copy_from_slice(&sum.to_ne_bytes());
        }
        Outcome::Send
    }
}

/// Whether the packet is the first piece of several.
pub fn is_fragment<B: PacketBuf>(lane: &Lane, buf: &B) -> bool {
    let at = usize::from(lane.l2) + 6;
    let h = buf.data();
    // Of IPv6 only what follows the fixed header at once can be anything else.
    if lane.v4 { h.get(at).is_none_or(|b| b & 0x3f != 0) } else { h.get(at) != Some(&lane.key.proto) }
}

/// Writes the packet's length into its IP header.
pub fn set_ip_len(lane: &mut Lane, data: &mut [u8], len: u16) {
    lane.ip_len = len;
    let Some(h) = data.get_mut(usize::from(lane.l2)..) else { return };
    if !lane.v4 {
        if let Some(l) = h.get_mut(4..6) {
            l.copy_from_slice(&len.saturating_sub(40).to_be_bytes());
        }
    } else if let Some(h) = h.first_chunk_mut::<20>() {
        let delta = checksum::delta(&h[2..4], &len.to_be_bytes());
        h[2..4].copy_from_slice(&len.to_be_bytes());
        let sum = checksum::apply(u16::from_ne_bytes([h[10], h[11]]), delta);
        h[10..12].copy_from_slice(&sum.to_ne_bytes());
    }
}
