//! The protocols' state machines, as the kernel's IPVS has them: for TCP the full machine
//! of NAT (both directions seen) and the half-connection one of direct routing and
//! tunnels (only the client's side is seen).

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
    /// SCTP: INIT seen from the client.
    SctpInit1,
    /// SCTP: INIT seen from the server.
    SctpInit,
    /// SCTP: COOKIE ECHO sent.
    SctpCookieSent,
    /// SCTP: COOKIE ECHO answered.
    SctpCookieReplied,
    /// SCTP: COOKIE ACK wait.
    SctpCookieWait,
    /// SCTP: COOKIE.
    SctpCookie,
    /// SCTP: COOKIE ECHOED.
    SctpCookieEchoed,
    /// SCTP: established.
    SctpEstablished,
    /// SCTP: SHUTDOWN sent.
    SctpShutdownSent,
    /// SCTP: SHUTDOWN received.
    SctpShutdownReceived,
    /// SCTP: SHUTDOWN ACK sent.
    SctpShutdownAckSent,
    /// SCTP: rejected.
    SctpRejected,
    /// SCTP: closed.
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
            SctpShutdownAckSent => "S-ACK_SENT",
            SctpRejected => "REJECTED",
            SctpClosed => "CLOSED",
        }
    }
}

/// The SCTP chunk type INIT, as the lane carries it.
pub const SCTP_INIT: u8 = 1;

/// How long a flow lives in each state, milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    ms: [u32; STATES],
}

impl Default for Timeouts {
    /// The kernel's defaults.
    fn default() -> Self {
        let mut t = Self { ms: [60_000; STATES] };
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
            (SctpInit1, 3),
            (SctpInit, 3),
            (SctpCookieSent, 3),
            (SctpCookieReplied, 3),
            (SctpCookieWait, 3),
            (SctpCookie, 3),
            (SctpCookieEchoed, 3),
            (SctpEstablished, 900),
            (SctpShutdownSent, 3),
            (SctpShutdownReceived, 3),
            (SctpShutdownAckSent, 3),
            (SctpRejected, 10),
            (SctpClosed, 10),
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

const TCP_STATES: usize = 11;
type Row = [State; TCP_STATES];
/// Rows by event: SYN, FIN, ACK, RST.
type Machine = [Row; 4];

const INPUT: Machine = [
    [SynRecv, Established, Established, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv],
    [Close, CloseWait, SynSent, TimeWait, TimeWait, TimeWait, Close, CloseWait, LastAck, Listen, TimeWait],
    [Established, Established, SynSent, Established, FinWait, TimeWait, Close, CloseWait, Close, Listen, Established],
    [Close, Close, Close, SynRecv, Close, Close, Close, Close, LastAck, Listen, SynRecv],
];
const OUTPUT: Machine = [
    [SynSent, Established, SynSent, SynRecv, SynSent, SynSent, SynSent, SynSent, SynSent, Listen, SynRecv],
    [TimeWait, FinWait, SynSent, TimeWait, FinWait, TimeWait, Close, TimeWait, LastAck, Listen, TimeWait],
    [
        Established,
        Established,
        SynSent,
        Established,
        FinWait,
        TimeWait,
        Close,
        CloseWait,
        LastAck,
        Established,
        Established,
    ],
    [Close, Close, SynSent, Close, Close, TimeWait, Close, Close, Close, Close, Close],
];
const INPUT_ONLY: Machine = [
    [SynRecv, Established, Established, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv],
    [Close, FinWait, SynSent, TimeWait, FinWait, TimeWait, Close, CloseWait, LastAck, Listen, TimeWait],
    [Established, Established, SynSent, Established, FinWait, TimeWait, Close, CloseWait, Close, Listen, Established],
    [Close, Close, Close, SynRecv, Close, Close, Close, Close, LastAck, Listen, Close],
];
const SECURE_INPUT: Machine = [
    [SynRecv, Established, Established, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, Synack],
    [Close, CloseWait, SynSent, TimeWait, TimeWait, TimeWait, Close, CloseWait, LastAck, Listen, Synack],
    [Established, Established, SynSent, SynRecv, FinWait, TimeWait, Close, CloseWait, Close, Listen, Synack],
    [Close, Close, Close, SynRecv, Close, Close, Close, Close, LastAck, Listen, Close],
];
const SECURE_OUTPUT: Machine = [
    [SynSent, Established, SynSent, Synack, SynSent, SynSent, SynSent, SynSent, SynSent, Listen, Synack],
    [TimeWait, FinWait, SynSent, TimeWait, FinWait, TimeWait, Close, TimeWait, LastAck, Listen, TimeWait],
    [
        Established,
        Established,
        SynSent,
        Established,
        FinWait,
        TimeWait,
        Close,
        CloseWait,
        LastAck,
        Established,
        Established,
    ],
    [Close, Close, SynSent, Close, Close, TimeWait, Close, Close, Close, Close, Close],
];
const SECURE_INPUT_ONLY: Machine = [
    [Synack, Established, Established, SynRecv, Synack, Synack, Synack, Synack, Synack, Synack, Synack],
    [Close, FinWait, SynSent, TimeWait, FinWait, TimeWait, Close, CloseWait, LastAck, Listen, TimeWait],
    [Established, Established, SynSent, Established, FinWait, TimeWait, Close, CloseWait, Close, Listen, Established],
    [Close, Close, Close, SynRecv, Close, Close, Close, Close, LastAck, Listen, Close],
];

/// Indexed by secure (3) + direction (0–2), event, state.
static TCP: [[[u8; 16]; 4]; 8] = {
    let machines = [INPUT, OUTPUT, INPUT_ONLY, SECURE_INPUT, SECURE_OUTPUT, SECURE_INPUT_ONLY];
    let mut out = [[[0; 16]; 4]; 8];
    let mut m = 0;
    while m < 6 {
        let mut e = 0;
        while e < 4 {
            let mut s = 0;
            while s < TCP_STATES {
                out[m][e][s] = machines[m][e][s] as u8;
                s += 1;
            }
            e += 1;
        }
        m += 1;
    }
    out
};

/// Which event a segment is: by RST, SYN, FIN, ACK in the kernel's order of precedence;
/// 4 for a segment with none of them, which changes nothing.
static EVENT: [u8; 32] = {
    let mut out = [4; 32];
    let mut f = 0;
    while f < 32 {
        // The kernel asks for RST first, then SYN, FIN, ACK.
        out[f] = if f & 0x04 != 0 {
            3
        } else if f & 0x02 != 0 {
            0
        } else if f & 0x01 != 0 {
            1
        } else if f & 0x10 != 0 {
            2
        } else {
            4
        };
        f += 1;
    }
    out
};

/// Moves a record's state on for one packet and returns the new state's number.
#[inline(always)]
pub fn advance(record: &mut FlowRecord, tcp_flags: u8, reply: bool, secure: bool) -> u8 {
    // Nearly every packet: data on an established flow, or a datagram.
    let plain = tcp_flags & 0x17 == 0x10 && record.state == Established as u8;
    if plain || record.state == Udp as u8 {
        return record.state;
    }
    advance_slowly(record, tcp_flags, reply, secure)
}

#[inline(never)]
fn advance_slowly(record: &mut FlowRecord, tcp_flags: u8, reply: bool, secure: bool) -> u8 {
    if record.proto == 6 {
        let event = EVENT[usize::from(tcp_flags & 31)];
        let no_output = record.flags & flags::NO_OUTPUT != 0;
        let machine = if reply {
            1
        } else if no_output {
            2
        } else {
            0
        } + if secure { 3 } else { 0 };
        if event < 4 {
            record.state = TCP[machine & 7][usize::from(event & 3)][usize::from(record.state & 15)];
        }
    } else if record.proto == 132 {
        record.state = sctp(record.state, tcp_flags, reply, record.flags & flags::NO_OUTPUT != 0);
    }
    record.state
}

/// The state a flow is created in, before its first packet moves it.
pub fn initial(proto: u8) -> State {
    match proto {
        17 => Udp,
        _ => None,
    }
}

/// Whether flows in this state count as active at their real server (kernel 6.1:
/// `tcp_state_active_table`; every UDP flow; SCTP when established).
#[inline(always)]
pub fn is_active(state: u8) -> bool {
    matches!(State::from_number(state), None | Established | SynSent | SynRecv | Synack | Udp | SctpEstablished)
}

/// Whether evicting a flow in this state would cut somebody off.
#[inline(always)]
pub fn is_established(state: u8) -> bool {
    matches!(State::from_number(state), Established | SctpEstablished | Udp)
}

/// SCTP, by the type of the first chunk.
fn sctp(state: u8, chunk: u8, reply: bool, no_output: bool) -> u8 {
    let _ = no_output;
    let now = State::from_number(state);
    let next = match (chunk, reply, now) {
        (1, false, _) => SctpInit1,
        (1, true, _) => SctpInit,
        (2, _, _) => SctpCookieSent,
        (10, _, _) => SctpCookieReplied,
        (11, _, _) => SctpEstablished,
        (6, _, _) => SctpClosed,
        (7, false, _) => SctpShutdownSent,
        (7, true, _) => SctpShutdownReceived,
        (8, _, _) => SctpShutdownAckSent,
        (14, _, _) => SctpClosed,
        (_, _, now) => now,
    };
    next as u8
}
