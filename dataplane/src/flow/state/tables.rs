//! The machines as tables: for every way of seeing the flow, every event and every state
//! the next state. The transitions are those of the kernel (`ip_vs_proto_tcp.c` and
//! `ip_vs_proto_sctp.c` of Linux 6.1); they are laid out so that a look-up is one load.

use super::{CHUNK_EVENTS, State};

const TCP_STATES: usize = State::Synack as usize + 1;
/// A row for each event (SYN, FIN, ACK, RST), a column for each state.
type TcpMachine = [[State; TCP_STATES]; 4];

/// Which machines there are: three directions, then the same in secure mode.
const TCP_MACHINES: [TcpMachine; 6] = {
    use State::{
        Close as CL, CloseWait as CW, Established as ES, FinWait as FW, LastAck as LA, Listen as LI, SynRecv as SR,
        SynSent as SS, Synack as SA, TimeWait as TW,
    };
    [
        // NONE ES  SS  SR  FW  TW  CL  CW  LA  LI  SA; from the client.
        [
            [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
            [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW],
            [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
            [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR],
        ],
        // From the real server.
        [
            [SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR],
            [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW],
            [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES],
            [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL],
        ],
        // From the client, whose side is all that is seen.
        [
            [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
            [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW],
            [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
            [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
        ],
        // Secure: the client's acknowledgement alone establishes nothing.
        [
            [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SA],
            [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, SA],
            [ES, ES, SS, SR, FW, TW, CL, CW, CL, LI, SA],
            [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
        ],
        [
            [SS, ES, SS, SA, SS, SS, SS, SS, SS, LI, SA],
            [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW],
            [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES],
            [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL],
        ],
        [
            [SA, ES, ES, SR, SA, SA, SA, SA, SA, SA, SA],
            [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW],
            [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
            [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
        ],
    ]
};

/// The row of [`TcpMachine`] for a segment's low five flags. RST outranks SYN, then FIN,
/// then ACK; a segment with none of them closes the flow, as in the kernel.
const fn tcp_row(flags: usize) -> Option<usize> {
    match flags {
        f if f & 0x04 != 0 => Some(3),
        f if f & 0x02 != 0 => Some(0),
        f if f & 0x01 != 0 => Some(1),
        f if f & 0x10 != 0 => Some(2),
        _ => None,
    }
}

/// By machine (the direction, plus 3 in secure mode), flags (the low five bits) and state.
/// Eight machines and sixteen states, so that masking the indices makes them safe.
pub(super) static TCP: [[[u8; 16]; 32]; 8] = {
    let mut out = [[[State::None as u8; 16]; 32]; 8];
    let mut machine = 0;
    while machine < TCP_MACHINES.len() {
        let mut flags = 0;
        while flags < 32 {
            let mut state = 0;
            while state < TCP_STATES {
                out[machine][flags][state] = match tcp_row(flags) {
                    Some(row) => TCP_MACHINES[machine][row][state] as u8,
                    None => State::Close as u8,
                };
                state += 1;
            }
            flags += 1;
        }
        machine += 1;
    }
    out
};

const SCTP_FIRST: usize = State::SctpInit1 as usize;
/// NONE and the thirteen states of SCTP.
const SCTP_STATES: usize = State::SctpClosed as usize - SCTP_FIRST + 2;
/// A row for each event, a column for each state.
type SctpMachine = [[State; SCTP_STATES]; 10];

/// The row of [`SctpMachine`] for each chunk type (RFC 9260 section 3.2); what carries
/// data, asks for life signs or is unknown counts as data.
const SCTP_ROW: [usize; CHUNK_EVENTS] = [0, 1, 2, 0, 0, 0, 9, 5, 6, 8, 3, 4, 0, 0, 7, 0];

/// Rows: data, INIT, INIT ACK, COOKIE ECHO, COOKIE ACK, SHUTDOWN, SHUTDOWN ACK, SHUTDOWN
/// COMPLETE, ERROR, ABORT.
const SCTP_MACHINES: [SctpMachine; 3] = {
    use State::{
        SctpClosed as CL, SctpCookie as CO, SctpCookieEchoed as CE, SctpCookieReplied as CR, SctpCookieSent as CS,
        SctpCookieWait as CW, SctpEstablished as ES, SctpInit as IN, SctpInit1 as I1, SctpRejected as RJ,
        SctpShutdownAckSent as SA, SctpShutdownReceived as SR, SctpShutdownSent as SS,
    };
    [
        // NONE I1  IN  CS  CR  CW  CO  CE  ES  SS  SR  SA  RJ  CL; from the client.
        [
            [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
            [I1, IN, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, IN, IN],
            [CW, CW, CW, CS, CR, CO, CO, CE, ES, SS, SR, SA, RJ, CL],
            [CR, IN, IN, CR, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
            [ES, I1, IN, CS, CR, CW, CO, ES, ES, SS, SR, SA, RJ, CL],
            [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL],
            [CL, IN, IN, CS, CR, CW, CO, CE, ES, CL, SR, CL, RJ, CL],
            [CL, CL, CL, CS, CR, CW, CO, CE, ES, SS, SR, CL, RJ, CL],
            [CL, I1, IN, CS, CR, CW, CO, CL, ES, SS, SR, SA, RJ, CL],
            [CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL],
        ],
        // From the real server.
        [
            [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
            [CW, CW, CW, CW, CW, CW, CW, CW, ES, CW, CW, CW, CW, CW],
            [CS, CS, CS, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
            [CE, CE, CE, CE, CE, CE, CE, CE, ES, SS, SR, SA, RJ, CL],
            [ES, ES, ES, ES, ES, ES, ES, ES, ES, SS, SR, SA, RJ, CL],
            [SS, SS, SS, SS, SS, SS, SS, SS, SS, SS, SR, SA, RJ, CL],
            [SA, SA, SA, SA, SA, CW, CO, CE, ES, SA, SA, SA, RJ, CL],
            [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
            [CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
            [CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL],
        ],
        // From the client, whose side is all that is seen.
        [
            [ES, I1, IN, CS, CR, ES, CO, CE, ES, SS, SR, SA, RJ, CL],
            [I1, IN, IN, IN, IN, IN, CO, CE, ES, SS, SR, SA, IN, IN],
            [CE, CE, CE, CE, CE, CE, CO, CE, ES, SS, SR, SA, RJ, CL],
            [ES, ES, ES, ES, ES, ES, CO, CE, ES, SS, SR, SA, RJ, CL],
            [ES, I1, IN, ES, ES, CW, ES, ES, ES, SS, SR, SA, RJ, CL],
            [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL],
            [CL, IN, IN, CS, CR, CW, CO, CE, CL, CL, SR, CL, RJ, CL],
            [CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, CL, CL, RJ, CL],
            [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
            [CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL],
        ],
    ]
};

/// By direction, chunk type (15 for all above) and state.
pub(super) static SCTP: [[[u8; 32]; CHUNK_EVENTS]; 4] = {
    let mut out = [[[State::None as u8; 32]; CHUNK_EVENTS]; 4];
    let mut machine = 0;
    while machine < SCTP_MACHINES.len() {
        let mut chunk = 0;
        while chunk < CHUNK_EVENTS {
            let row = &SCTP_MACHINES[machine][SCTP_ROW[chunk]];
            out[machine][chunk][0] = row[0] as u8;
            let mut state = 1;
            while state < SCTP_STATES {
                out[machine][chunk][SCTP_FIRST - 1 + state] = row[state] as u8;
                state += 1;
            }
            chunk += 1;
        }
        machine += 1;
    }
    out
};
