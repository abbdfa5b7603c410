//! Datagrams in pieces: held until all are there, then sent on piece by piece.
//!
//! Nothing is glued together: once a datagram is complete and no piece overlaps another,
//! its pieces go down the straight way in order, each marked with the ports that only the
//! first one shows. All pieces of a datagram meet at one worker, chosen by addresses and
//! identification; the marks then lead them to the flow's owner. Number, size and time
//! are bounded, so that a flood costs others nothing but the room set aside here.

use std::collections::VecDeque;

use arrayvec::ArrayVec;

use crate::burst::{Burst, Lane};
use crate::counters::DropReason;
use crate::io::{PacketBuf, PacketIo};
use crate::link::WorkerLink;
use crate::snapshot::Snapshot;
use crate::stage::local::{Examined, nd};
use crate::units::{Be16, Ip, Tick};
use crate::wire::ipv4;
use crate::worker::{Core, NO_LANE};

/// Incomplete datagrams held at most, per worker.
pub const DATAGRAMS_MAX: usize = 128;
/// Pieces of one datagram: 64 KiB in pieces of 1,480 bytes.
pub const PIECES_MAX: usize = 45;
/// Pieces held at most, per worker.
pub const HELD_MAX: usize = 1024;
/// How long a datagram may take to become complete; the kernel allows 30 s, which lets
/// a flood hold its room three times as long.
pub const TIMEOUT_MS: u32 = 10_000;

/// Set in the mark of a piece that has been through here; ports below.
const MARKED: u64 = 1 << 63;
/// Set for every piece but the first.
const LATER: u64 = 1 << 62;

/// Whether a piece has been through here.
#[inline]
pub fn is_marked<B: PacketBuf>(buf: &B) -> bool {
    buf.mark() & MARKED != 0
}

/// Puts what the mark says into the lane; true for a piece without a transport header.
pub fn unmark<B: PacketBuf>(buf: &B, lane: &mut Lane) -> bool {
    let mark = buf.mark();
    lane.key.client_port = Be16::new((mark >> 16) as u16);
    lane.key.vport = Be16::new(mark as u16);
    lane.later_fragment = mark & LATER != 0;
    lane.later_fragment
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct DatagramKey {
    src: Ip,
    dst: Ip,
    id: u32,
    proto: u8,
}

struct Piece<B> {
    buf: B,
    /// Where its data begin in the buffer.
    l4: u16,
    /// Whether it forbids to be cut.
    df: bool,
    first: u32,
    /// One past the last byte.
    end: u32,
    last: bool,
}

struct Datagram<B> {
    key: DatagramKey,
    until: Tick,
    ports: Option<u64>,
    pieces: ArrayVec<Piece<B>, PIECES_MAX>,
}

/// Bytes of a datagram that an ICMP error may quote behind the IP header (RFC 1812 section 4.3.2.3).
const QUOTE: usize = 576 - 20 - 8 - 20;

/// The beginning of the datagram that was completed last, for answers to it.
struct Whole {
    key: Option<DatagramKey>,
    data: [u8; QUOTE],
    len: usize,
    /// Bytes behind the IP header in all.
    total: u16,
    df: bool,
}

impl Whole {
    /// The largest pieces say whether the whole may be cut, as with Linux.
    fn take<B: PacketBuf>(&mut self, key: DatagramKey, pieces: &[Piece<B>]) {
        let largest = pieces.iter().map(|p| p.end - p.first).max();
        self.df = pieces.iter().filter(|p| p.df).map(|p| p.end - p.first).max() == largest;
        self.total = pieces.last().map_or(0, |p| p.end as u16);
        self.len = 0;
        for p in pieces {
            let n = ((p.end - p.first) as usize).min(QUOTE - self.len);
            self.len += p.buf.copy_out(usize::from(p.l4), &mut self.data[self.len..self.len + n]);
        }
        self.key = Some(key);
    }
}

/// The pieces that wait, and the complete datagrams that are about to go on.
pub struct Fragments<B> {
    datagrams: Vec<Datagram<B>>,
    held: usize,
    ready: VecDeque<B>,
    whole: Whole,
}

impl<B: PacketBuf> Fragments<B> {
    /// Nothing held; all room made.
    pub fn new() -> Self {
        Self {
            datagrams: Vec::with_capacity(DATAGRAMS_MAX),
            held: 0,
            ready: VecDeque::with_capacity(HELD_MAX + PIECES_MAX),
            whole: Whole { key: None, data: [0; QUOTE], len: 0, total: 0, df: false },
        }
    }

    /// The datagram that an IPv4 packet is the first piece of, as an answer to it quotes it: written to
    /// `out` with the piece's header, as far as is known. Its length; `None` when this is not the
    /// datagram that was completed last, which another worker may have done.
    #[cold]
    pub fn whole(&self, first: &[u8], out: &mut [u8]) -> Option<usize> {
        let h = ipv4::Ipv4::first(first)?;
        let (key, header) = (self.whole.key?, first.get(..usize::from(first[0] & 15) * 4)?);
        let same = (h.src(), h.dst(), u32::from(h.id()), h.protocol()) == (key.src, key.dst, key.id, key.proto);
        let is_first = h.fragment_word() & (ipv4::MF | ipv4::OFFSET) == ipv4::MF;
        let total = u16::try_from(header.len()).ok()?.checked_add(self.whole.total)?;
        if !same || !is_first {
            return None;
        }
        let n = header.len() + self.whole.len;
        let (head, data) = out.get_mut(..n)?.split_at_mut(header.len());
        head.copy_from_slice(header);
        head[2..4].copy_from_slice(&total.to_be_bytes());
        head[6..8].copy_from_slice(&(if self.whole.df { ipv4::DF } else { 0 }).to_be_bytes());
        ipv4::fill_checksum(head);
        data.copy_from_slice(&self.whole.data[..self.whole.len]);
        Some(n)
    }

    /// The next piece of a complete datagram.
    #[inline]
    pub fn pop(&mut self) -> Option<B> {
        self.ready.pop_front()
    }

    /// Gives up on datagrams that took too long.
    #[inline]
    pub fn age<I: PacketIo<Buf = B>>(&mut self, now: Tick, io: &mut I, link: &WorkerLink) {
        if !self.datagrams.is_empty() {
            self.age_all(now, io, link);
        }
    }

    #[cold]
    fn age_all<I: PacketIo<Buf = B>>(&mut self, now: Tick, io: &mut I, link: &WorkerLink) {
        let mut i = 0;
        while i < self.datagrams.len() {
            if self.datagrams[i].until.reached(now) {
                self.give_up(i, DropReason::FragmentTimeout, io, link);
            } else {
                i += 1;
            }
        }
    }

    /// Gives everything back, at the end.
    pub fn drain<I: PacketIo<Buf = B>>(&mut self, io: &mut I) {
        self.held = 0;
        for buf in self.ready.drain(..).chain(self.datagrams.drain(..).flat_map(|d| d.pieces).map(|p| p.buf)) {
            io.free(buf);
        }
    }

    fn give_up<I: PacketIo<Buf = B>>(&mut self, i: usize, why: DropReason, io: &mut I, link: &WorkerLink) {
        let datagram = self.datagrams.swap_remove(i);
        self.held -= datagram.pieces.len();
        for piece in datagram.pieces {
            link.counters.drop(why).add(1);
            io.free(piece.buf);
        }
    }

    /// Adds a piece; moves the datagram to the ready ones when it is complete.
    fn add(
        &mut self,
        key: DatagramKey,
        piece: Piece<B>,
        ports: Option<u64>,
        now: Tick,
    ) -> Result<(), (B, DropReason, Option<usize>)> {
        let at = match self.datagrams.iter().position(|d| d.key == key) {
            Some(at) => at,
            None if self.datagrams.len() >= DATAGRAMS_MAX || self.held >= HELD_MAX => {
                return Err((piece.buf, DropReason::FragmentNoRoom, None));
            }
            None => {
                let until = now.after_ms(TIMEOUT_MS);
                self.datagrams.push(Datagram { key, until, ports: None, pieces: ArrayVec::new() });
                self.datagrams.len() - 1
            }
        };
        let d = &mut self.datagrams[at];
        // An exact copy is a duplicate, anything else that touches twice is an attack (RFC 5722).
        if d.pieces.iter().any(|p| p.first < piece.end && piece.first < p.end) {
            let same = d.pieces.iter().any(|p| p.first == piece.first && p.end == piece.end);
            return Err((piece.buf, DropReason::FragmentOverlap, (!same).then_some(at)));
        }
        let past_end = d.pieces.iter().any(|p| p.last && (piece.last || piece.end > p.end));
        let early_end = piece.last && d.pieces.iter().any(|p| p.end > piece.end);
        if past_end || early_end {
            return Err((piece.buf, DropReason::BadFragment, Some(at)));
        }
        if self.held >= HELD_MAX || d.pieces.is_full() {
            return Err((piece.buf, DropReason::FragmentNoRoom, Some(at)));
        }
        let slot = d.pieces.iter().position(|p| p.first > piece.first).unwrap_or(d.pieces.len());
        d.pieces.insert(slot, piece);
        d.ports = d.ports.or(ports);
        self.held += 1;
        if complete(&d.pieces) {
            self.release(at);
        }
        Ok(())
    }

    fn release(&mut self, at: usize) {
        let d = self.datagrams.swap_remove(at);
        self.held -= d.pieces.len();
        let ports = d.ports.unwrap_or(0);
        if d.key.dst.is_v4() {
            self.whole.take(d.key, &d.pieces);
        }
        for mut piece in d.pieces {
            piece.buf.set_mark(MARKED | ports | if piece.first > 0 { LATER } else { 0 });
            self.ready.push_back(piece.buf);
        }
    }
}

impl<B: PacketBuf> Default for Fragments<B> {
    fn default() -> Self {
        Self::new()
    }
}

fn complete<B>(pieces: &[Piece<B>]) -> bool {
    let mut next = 0;
    for p in pieces {
        if p.first != next {
            return false;
        }
        next = p.end;
    }
    pieces.last().is_some_and(|p| p.last)
}

/// Takes a fragment out of its lane, whose addresses and offsets are filled in.
pub(super) fn keep<I: PacketIo>(
    s: &Snapshot,
    core: &mut Core<I::Buf>,
    io: &mut I,
    burst: &mut Burst<I::Buf>,
    i: usize,
    steer: bool,
) -> Examined {
    let _ = s;
    let lane = burst.lanes[i];
    let Some(mut buf) = burst.bufs[i].take() else { return Examined::Gone };
    let Some((key, first, end, last)) = span(&buf, &lane) else {
        core.link.counters.drop(DropReason::BadFragment).add(1);
        io.free(buf);
        return Examined::Gone;
    };
    let owner = core.secret.hash(key.src, Be16::new(key.id as u16), key.proto).owner(core.workers);
    if steer && owner != core.id {
        core.hand_off(owner, buf, NO_LANE, io);
        return Examined::Gone;
    }
    // Padding behind the packet would look like one more piece's worth of data.
    let whole = usize::from(lane.l2) + usize::from(lane.ip_len);
    if buf.total_len() > whole {
        buf.truncate(whole);
    }
    let ports = if first == 0 {
        match first_ports(&buf, &lane) {
            Some(p) => Some(p),
            None => {
                core.link.counters.drop(DropReason::BadFragment).add(1);
                io.free(buf);
                return Examined::Gone;
            }
        }
    } else {
        None
    };
    let df = lane.v4 && buf.data().get(usize::from(lane.l2) + 6).is_some_and(|b| b & 0x40 != 0);
    let piece = Piece { buf, l4: lane.l4, df, first, end, last };
    if let Err((buf, why, spoilt)) = core.fragments.add(key, piece, ports, core.now) {
        core.link.counters.drop(why).add(1);
        io.free(buf);
        if let Some(at) = spoilt {
            let link = core.link.clone();
            core.fragments.give_up(at, why, io, &link);
        }
    }
    Examined::Gone
}

/// Which bytes of its datagram a piece holds, and whether it is the last.
fn span<B: PacketBuf>(buf: &B, lane: &Lane) -> Option<(DatagramKey, u32, u32, bool)> {
    let (l2, l4) = (usize::from(lane.l2), usize::from(lane.l4));
    let packet = buf.data().get(l2..)?;
    let (word, id) = if lane.v4 {
        let h = packet.first_chunk::<20>()?;
        let word = u16::from_be_bytes([h[6], h[7]]);
        ((word & 0x1fff, word & 0x2000 != 0), u32::from(u16::from_be_bytes([h[4], h[5]])))
    } else {
        let f = nd::walk(packet, usize::from(lane.ip_len), *packet.get(6)?).ok()?.fragment?;
        ((f.offset, f.more), f.id)
    };
    let len = (l2 + usize::from(lane.ip_len)).checked_sub(l4)? as u32;
    let (first, more) = (u32::from(word.0) * 8, word.1);
    let end = first + len;
    // All pieces but the last are multiples of eight bytes; none reaches beyond 64 KiB.
    if len == 0 || (more && !len.is_multiple_of(8)) || end > 65_535 - 20 {
        return None;
    }
    let key = DatagramKey { src: lane.key.client, dst: lane.key.vip, id, proto: lane.key.proto };
    Some((key, first, end, !more))
}

/// The ports that the first piece shows; it must hold the whole fixed header (RFC 1858). Of
/// ICMP they are type and code, and the checksum.
fn first_ports<B: PacketBuf>(buf: &B, lane: &Lane) -> Option<u64> {
    let l4 = usize::from(lane.l4);
    let end = usize::from(lane.l2) + usize::from(lane.ip_len);
    let need = match lane.key.proto {
        6 => 20,
        1 | 17 | 58 => 8,
        132 => 12,
        _ => return Some(0),
    };
    if end < l4 + need {
        return None;
    }
    let p = buf.data().get(l4..l4 + need)?;
    Some(u64::from(u16::from_be_bytes([p[0], p[1]])) << 16 | u64::from(u16::from_be_bytes([p[2], p[3]])))
}
