use super::*;
use crate::units::{Be16, Ip, RealId, Tick};

const RECORDED: &str = include_str!("../../../tests/fixtures/flow-states.txt");

fn record(proto: u8, one_way: bool) -> FlowRecord {
    FlowRecord {
        client: Ip::UNSPECIFIED,
        vip: Ip::UNSPECIFIED.into(),
        client_port: Be16::new(0),
        vport: Be16::new(0),
        rport: Be16::new(0),
        proto,
        state: initial(proto) as u8,
        real: RealId::NONE,
        peer: 0,
        deadline: Tick(0),
        flags: if one_way { flags::NO_OUTPUT } else { 0 },
        l3_delta: 0,
        l4_delta: 0,
        ext: u32::MAX,
    }
}

fn event(text: &str) -> u8 {
    let flag = |c| match c {
        'F' => 1,
        'S' => 2,
        'R' => 4,
        'P' => 8,
        'A' => 16,
        _ => 0,
    };
    text.parse().unwrap_or_else(|_| text.chars().map(flag).sum())
}

/// Plays one flow's packets; nothing when none of them opens it.
fn play(kind: &str, packets: &[&str]) -> Option<FlowRecord> {
    let proto = if kind.contains("tcp") {
        TCP
    } else if kind.contains("udp") {
        17
    } else {
        SCTP
    };
    let mut flow: Option<FlowRecord> = Option::None;
    for p in packets {
        let (side, event) = (&p[..1], event(&p[1..]));
        let opens = match proto {
            TCP => event & 6 == 2,
            SCTP => event == SCTP_INIT,
            _ => true,
        };
        if flow.is_none() && side == "c" && opens {
            flow = Some(record(proto, kind.contains("dr")));
        }
        if let Some(f) = &mut flow {
            advance(f, event, side == "s", kind.contains("secure"));
        }
    }
    flow
}

#[test]
fn flows_end_in_the_states_that_the_kernel_recorded() {
    let timeouts = Timeouts::default();
    let (mut flows, mut active, mut inactive, mut block_over) = (0, 0, 0, false);
    for line in RECORDED.lines() {
        if line.starts_with('#') {
            block_over = true;
            continue;
        }
        let words: Vec<&str> = line.split(' ').collect();
        if let ["=", a, i] = words[..] {
            assert_eq!((active, inactive), (a.parse().unwrap(), i.parse().unwrap()), "counts before {line}");
            block_over = true;
            continue;
        }
        if block_over {
            (active, inactive, block_over) = (0, 0, false);
        }
        if words.last() == Some(&"-") {
            assert!(play(words[0], &words[1..words.len() - 1]).is_none(), "{line}");
            continue;
        }
        let [kind, packets @ .., state, seconds] = &words[..] else { panic!("{line}") };
        let flow = play(kind, packets).unwrap_or_else(|| panic!("no flow: {line}"));
        assert_eq!(State::from_number(flow.state).name(), *state, "{line}");
        let left: u32 = seconds.parse().unwrap();
        assert!((timeouts.of(flow.state) / 1000).abs_diff(left) <= 1, "{line}");
        flows += 1;
        if is_active(flow.state) { active += 1 } else { inactive += 1 }
    }
    assert!(flows > 120, "{flows} flows recorded");
}

#[test]
fn every_transition_leads_to_a_state_of_its_own_protocol() {
    for direction in [Direction::Input, Direction::Output, Direction::InputOnly] {
        for event in 0..=255 {
            for secure in [false, true] {
                for state in State::None as u8..=State::Synack as u8 {
                    let next = next(TCP, state, event, direction, secure);
                    assert!((State::Established as u8..=State::Synack as u8).contains(&next));
                }
            }
            for state in std::iter::once(0).chain(State::SctpInit1 as u8..=State::SctpClosed as u8) {
                let next = next(SCTP, state, event, direction, false);
                assert!((State::SctpInit1 as u8..=State::SctpClosed as u8).contains(&next));
            }
            assert_eq!(next(17, State::Udp as u8, event, direction, false), State::Udp as u8);
        }
    }
    // Whatever a mapped file may hold, nothing panics.
    for state in 0..=255 {
        next(TCP, state, 2, Direction::Input, true);
        next(SCTP, state, 255, Direction::InputOnly, true);
        is_active(state);
        is_established(state);
        State::from_number(state);
    }
}

#[test]
fn an_association_is_set_up_and_shut_down() {
    let walk = |kind, packets: &[&str], expected: &[&str]| {
        for n in 1..=packets.len() {
            let flow = play(kind, &packets[..n]).unwrap();
            assert_eq!(State::from_number(flow.state).name(), expected[n - 1], "{kind} {:?}", &packets[..n]);
            assert_eq!(is_active(flow.state), expected[n - 1] == "ESTABLISHED");
        }
    };
    walk(
        "sctp-nat",
        &["c1", "c1", "s2", "c10", "s11", "c0", "s3", "c4", "c7", "s8", "c14"],
        &[
            "INIT1",
            "INIT",
            "C-SENT",
            "C-REPLIED",
            "ESTABLISHED",
            "ESTABLISHED",
            "ESTABLISHED",
            "ESTABLISHED",
            "S-RECEIVED",
            "S-ACK-SENT",
            "CLOSED",
        ],
    );
    walk("sctp-nat", &["c1", "s6", "c1"], &["INIT1", "REJECTED", "INIT"]);
    walk("sctp-dr", &["c1", "c10", "c0", "c8"], &["INIT1", "ESTABLISHED", "ESTABLISHED", "CLOSED"]);
}

#[test]
fn a_segment_without_flags_closes() {
    let f = play("tcp-nat", &["cS", "cA", "c0"]).unwrap();
    assert_eq!(f.state, State::Close as u8);
}

#[test]
fn a_reply_tells_that_both_sides_are_seen() {
    let f = play("tcp-dr", &["cS", "cA", "sFA"]).unwrap();
    assert_eq!((f.state, f.flags & flags::NO_OUTPUT), (State::FinWait as u8, 0));
}

#[test]
fn states_keep_their_numbers_and_names() {
    for (i, s) in State::ALL.iter().enumerate() {
        assert_eq!(*s as usize, i);
        assert_eq!(State::from_number(i as u8), *s);
    }
    assert_eq!(State::from_number(200), State::None);
    assert_eq!(State::SctpShutdownAckSent.name(), "S-ACK-SENT");
}
