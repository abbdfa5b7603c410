//! The protocols' state machines, as the kernel's IPVS has them.
//!
//! Each has three faces: what the client sends and what the real server sends where both
//! are seen (NAT), and what the client sends where nothing else is seen (direct routing,
//! tunnels). TCP has them twice, the second time for the secure mode of an attack.

mod tables;
#[cfg(test)]
mod tests;

use crate::flow::record::{FlowRecord, flags};

/// States of all protocols. The numbers are stored in flow records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum State {
    /// No state yet; templates stay here.
    None = 0,
    /// Data flows.
    Established,
    /// SYN seen from the real server's side.
    SynSent,
    /// SYN seen from the client.
    SynRecv,
    /// FIN seen from the real server (NAT), or from the client (one-way).
    FinWait,
    /// Both sides have closed.
    TimeWait,
    /// Reset.
    Close,
    /// FIN seen from the client (NAT).
    CloseWait,
    /// The last acknowledgement is due.
    LastAck,
    /// Listening.
    Listen,
    /// SYN+ACK, in the secure table.
    Synack,
    /// UDP.
    Udp,
    /// SCTP, as the real server sees itself: the client's first INIT.
    SctpInit1,
    /// SCTP: INIT sent again; the server's INIT ACK is due.
    SctpInit,
    /// SCTP: INIT ACK sent; the client's COOKIE ECHO is due.
    SctpCookieSent,
    /// SCTP: COOKIE ECHO received; the server's COOKIE ACK is due.
    SctpCookieReplied,
    /// SCTP: INIT sent by the server; the client's INIT ACK is due.
    SctpCookieWait,
    /// SCTP: INIT ACK received by the server, whose COOKIE ECHO is due.
    SctpCookie,
    /// SCTP: COOKIE ECHO sent by the server; the client's COOKIE ACK is due.
    SctpCookieEchoed,
    /// SCTP: data flows.
    SctpEstablished,
    /// SCTP: SHUTDOWN sent.
    SctpShutdownSent,
    /// SCTP: SHUTDOWN received.
    SctpShutdownReceived,
    /// SCTP: SHUTDOWN ACK sent.
    SctpShutdownAckSent,
    /// SCTP: INIT answered with ABORT.
    SctpRejected,
    /// SCTP: over.
    SctpClosed,
}

/// Number of states.
pub const STATES: usize = State::SctpClosed as usize + 1;

use State::*;

impl State {
    /// All states, by number.
    pub const ALL: [State; STATES] = [
        None,
        Established,
        SynSent,
        SynRecv,
        FinWait,
        TimeWait,
        Close,
        CloseWait,
        LastAck,
        Listen,
        Synack,
        Udp,
        SctpInit1,
        SctpInit,
        SctpCookieSent,
        SctpCookieReplied,
        SctpCookieWait,
        SctpCookie,
        SctpCookieEchoed,
        SctpEstablished,
        SctpShutdownSent,
        SctpShutdownReceived,
        SctpShutdownAckSent,
        SctpRejected,
        SctpClosed,
    ];

    /// From the number in a record.
    pub fn from_number(n: u8) -> State {
        Self::ALL.get(usize::from(n)).copied().unwrap_or(None)
    }

    /// The name as `ipvsadm -Lnc` prints it.
    pub fn name(self) -> &'static str {
        match self {
            None => "NONE",
            Established | SctpEstablished => "ESTABLISHED",
            SynSent => "SYN_SENT",
            SynRecv => "SYN_RECV",
            FinWait => "FIN_WAIT",
            TimeWait => "TIME_WAIT",
            Close => "CLOSE",
            CloseWait => "CLOSE_WAIT",
            LastAck => "LAST_ACK",
            Listen => "LISTEN",
            Synack => "SYNACK",
            Udp => "UDP",
            SctpInit1 => "INIT1",
            SctpInit => "INIT",
            SctpCookieSent => "C-SENT",
            SctpCookieReplied => "C-REPLIED",
            SctpCookieWait => "C-WAIT",
            SctpCookie => "COOKIE",
            SctpCookieEchoed => "C-ECHOED",
            SctpShutdownSent => "S-SENT",
            SctpShutdownReceived => "S-RECEIVED",
            SctpShutdownAckSent => "S-ACK-SENT",
            SctpRejected => "REJECTED",
            SctpClosed => "CLOSED",
        }
    }
}

/// The SCTP chunk type INIT, as the lane carries it.
pub const SCTP_INIT: u8 = 1;
/// The SCTP chunk type ABORT.
pub const SCTP_ABORT: u8 = 6;

/// How long a flow lives in each state, milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    ms: [u32; STATES],
}

impl Default for Timeouts {
    /// The kernel's defaults. The states of SCTP in which a side waits for a chunk last one
    /// retransmission time-out at its largest (60 s, RFC 9260 section 16) and a second.
    fn default() -> Self {
        let mut t = Self { ms: [61_000; STATES] };
        for (state, seconds) in [
            (None, 2),
            (Established, 900),
            (SynSent, 120),
            (SynRecv, 60),
            (FinWait, 120),
            (TimeWait, 120),
            (Close, 10),
            (CloseWait, 60),
            (LastAck, 30),
            (Listen, 120),
            (Synack, 120),
            (Udp, 300),
            (SctpInit1, 4),
            (SctpEstablished, 900),
            (SctpRejected, 4),
        ] {
            t.set(state, seconds * 1000);
        }
        t
    }
}

impl Timeouts {
    /// The time-out of a state given by number, milliseconds.
    #[inline(always)]
    pub fn of(&self, state: u8) -> u32 {
        self.ms[usize::from(state).min(STATES - 1)]
    }
    /// The time-out of a state, milliseconds.
    pub fn get(&self, state: State) -> u32 {
        self.ms[state as usize]
    }
    /// Changes the time-out of a state, milliseconds.
    pub fn set(&mut self, state: State, ms: u32) {
        self.ms[state as usize] = ms;
    }
}

/// Which of a protocol's machines a packet drives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Direction {
    /// From the client, of a flow whose both sides are seen.
    Input = 0,
    /// From the real server.
    Output = 1,
    /// From the client, of a flow whose client side alone is seen.
    InputOnly = 2,
}

/// Chunk types told apart; those above count like the last of them, as data.
const CHUNK_EVENTS: usize = 16;

const TCP: u8 = 6;
const SCTP: u8 = 132;

/// The state after a packet. `event` is TCP's flags byte or the type of SCTP's first chunk
/// (see `wire::sctp::event`); other protocols have one state. One load.
#[inline(always)]
pub fn next(proto: u8, state: u8, event: u8, direction: Direction, secure: bool) -> u8 {
    let machine = direction as usize;
    match proto {
        TCP => {
            let machine = machine + if secure { 3 } else { 0 };
            tables::TCP[machine & 7][usize::from(event & 31)][usize::from(state & 15)]
        }
        SCTP => tables::SCTP[machine & 3][usize::from(event).min(CHUNK_EVENTS - 1)][usize::from(state & 31)],
        _ => state,
    }
}

/// Moves a record's state on for one packet and returns the new state's number. `event` is
/// as for [`next`].
#[inline(always)]
pub fn advance(record: &mut FlowRecord, event: u8, reply: bool, secure: bool) -> u8 {
    // Nearly every packet: data on an established flow, or a datagram. No other protocol
    // than TCP is ever in this state.
    let plain = event & 0x17 == 0x10 && record.state == Established as u8;
    if plain || record.state == Udp as u8 {
        return record.state;
    }
    advance_slowly(record, event, reply, secure)
}

#[inline(never)]
fn advance_slowly(record: &mut FlowRecord, event: u8, reply: bool, secure: bool) -> u8 {
    let direction = if reply {
        // Both sides are seen after all.
        record.flags &= !flags::NO_OUTPUT;
        Direction::Output
    } else if record.flags & flags::NO_OUTPUT != 0 {
        Direction::InputOnly
    } else {
        Direction::Input
    };
    record.state = next(record.proto, record.state, event, direction, secure);
    record.state
}

/// The state a flow is created in, before its first packet moves it.
pub fn initial(proto: u8) -> State {
    match proto {
        17 => Udp,
        _ => None,
    }
}

/// Whether flows in this state count as active at their real server. As in the kernel a
/// datagram's flow never does, and one of SCTP only while data flows. A flow without a
/// state yet is about to be moved by the packet that opened it, nearly always to SYN_RECV,
/// and counts like that already, so that the next lane of the burst sees it.
#[inline(always)]
pub fn is_active(state: u8) -> bool {
    const ACTIVE: u32 = 1 << None as u32
        | 1 << Established as u32
        | 1 << SynSent as u32
        | 1 << SynRecv as u32
        | 1 << Synack as u32
        | 1 << SctpEstablished as u32;
    ACTIVE >> (state & 31) & 1 != 0
}

/// Whether a connection in this state is still being opened: what a flood of SYNs leaves.
#[inline(always)]
pub fn is_half_open(state: u8) -> bool {
    const HALF_OPEN: u32 =
        1 << SynSent as u32 | 1 << SynRecv as u32 | 1 << Synack as u32 | 1 << SctpInit1 as u32 | 1 << SctpInit as u32;
    HALF_OPEN >> (state & 31) & 1 != 0
}

/// Whether evicting a flow in this state would cut somebody off.
#[inline(always)]
pub fn is_established(state: u8) -> bool {
    const ESTABLISHED: u32 = 1 << Established as u32 | 1 << SctpEstablished as u32 | 1 << Udp as u32;
    ESTABLISHED >> (state & 31) & 1 != 0
}

const _: () = assert!(STATES <= 32);
