//! Sequences recorded from Linux 6.1.

use super::super::SchedulerKind::*;
use super::*;

const W123: &[(u8, u32)] = &[(11, 1), (12, 2), (13, 3)];
const W1230: &[(u8, u32)] = &[(11, 1), (12, 2), (13, 3), (14, 0)];

/// The kernel's edits: (edit, then twelve flows), six times.
fn edits(kind: SchedulerKind, want: [&str; 6]) {
    let mut b = Bench::new(kind, W123);
    let steps: [fn(&mut Bench); 6] =
        [|_| {}, |b| b.edit(11, 5), |b| b.add(14, 2), |b| b.del(12), |b| b.edit(13, 0), |b| b.add(12, 2)];
    for (n, (step, want)) in steps.iter().zip(want).enumerate() {
        step(&mut b);
        assert_eq!(b.flows(12), want, "{kind} after step {n}");
    }
}

#[test]
fn rr() {
    assert_eq!(Bench::new(Rr, W1230).flows(8), "13 12 11 13 12 11 13 12");
    edits(
        Rr,
        [
            "13 12 11 13 12 11 13 12 11 13 12 11",
            "13 12 11 13 12 11 13 12 11 13 12 11",
            "14 13 12 11 14 13 12 11 14 13 12 11",
            "14 13 11 14 13 11 14 13 11 14 13 11",
            "14 11 14 11 14 11 14 11 14 11 14 11",
            "12 14 11 12 14 11 12 14 11 12 14 11",
        ],
    );
}

/// Removing the current server steps back; a scheduler bound anew starts at the head.
#[test]
fn rr_order() {
    let mut b = Bench::new(Rr, &[(13, 2), (11, 3), (12, 1)]);
    assert_eq!(b.flows(8), "12 11 13 12 11 13 12 11");
    b.del(11);
    assert_eq!(b.flows(4), "13 12 13 12");
    b.add(11, 3);
    assert_eq!(b.flows(8), "13 11 12 13 11 12 13 11");
    b.edit(12, 2);
    assert_eq!(b.flows(8), "12 13 11 12 13 11 12 13");
    b.switch(Lc);
    assert_eq!(b.flows(4), "11 11 11 12");
    b.switch(Rr);
    assert_eq!(b.flows(8), "11 12 13 11 12 13 11 12");
    b.add(10, 1);
    assert_eq!(b.flows(8), "13 10 11 12 13 10 11 12");
}

#[test]
fn wrr() {
    assert_eq!(Bench::new(Wrr, W1230).flows(12), "13 12 11 13 13 12 13 12 11 13 13 12");
    let flows = |servers: &[(u8, u32)]| Bench::new(Wrr, servers).flows(16);
    assert_eq!(flows(&[(11, 5), (12, 1), (13, 1)]), "13 12 11 11 11 11 11 13 12 11 11 11 11 11 13 12");
    assert_eq!(flows(&[(11, 100), (12, 50), (13, 25)]), "13 12 11 11 11 12 11 13 12 11 11 11 12 11 13 12");
    assert_eq!(flows(&[(11, 0), (12, 0)]), ["-"; 16].join(" "));
    assert_eq!(flows(&[]), ["-"; 16].join(" "));
    edits(
        Wrr,
        [
            "13 12 11 13 13 12 13 12 11 13 13 12",
            "13 12 11 13 12 11 11 11 13 11 13 12",
            "14 13 12 11 14 13 12 11 11 11 13 11",
            "13 11 14 13 11 14 13 11 11 11 13 11",
            "11 14 11 14 11 11 11 11 14 11 14 11",
            "12 14 11 11 11 11 12 14 11 12 14 11",
        ],
    );
}

#[test]
fn wrr_order() {
    let mut b = Bench::new(Wrr, &[(13, 2), (11, 3), (12, 1)]);
    assert_eq!(b.flows(8), "12 11 13 11 11 13 12 11");
    b.del(11);
    assert_eq!(b.flows(4), "12 13 13 12");
    b.add(11, 3);
    assert_eq!(b.flows(8), "11 12 13 11 11 13 11 12");
    b.edit(12, 2);
    assert_eq!(b.flows(8), "11 12 13 11 11 12 13 11");
    b.switch(Lc);
    assert_eq!(b.flows(4), "12 13 12 13");
    b.switch(Wrr);
    assert_eq!(b.flows(8), "11 11 12 13 11 12 13 11");
    b.add(10, 1);
    assert_eq!(b.flows(8), "11 11 12 13 10 11 12 13");
}

/// Where the kernel's search ends when every server is overloaded: in the last pass it
/// stays at the server chosen last, in any other it goes back to the head.
#[test]
fn wrr_goes_on_after_a_refusal() {
    let mut b = Bench::new(Wrr, &[(10, 1), (11, 2), (12, 1), (13, 3)]);
    b.threshold(1, 0);
    let fill = |b: &mut Bench| {
        for name in [10, 11, 12] {
            let id = b.id(name);
            b.core.opened(&b.counts, id, true);
        }
    };
    fill(&mut b);
    assert_eq!(b.flows(2), "13 -");
    [10, 11, 12].into_iter().for_each(|name| b.close(name));
    assert_eq!(b.flows(4), "12 11 10 -");
    // Now the pass is the one from the head, of the largest weight.
    [13, 12, 11, 10].into_iter().for_each(|name| b.close(name));
    assert_eq!(b.flows(5), "13 11 12 10 -");
}

#[test]
fn lc() {
    assert_eq!(Bench::new(Lc, W1230).flows(8), "13 12 11 13 12 11 13 12");
    edits(
        Lc,
        [
            "13 12 11 13 12 11 13 12 11 13 12 11",
            "13 12 11 13 12 11 13 12 11 13 12 11",
            "14 14 14 14 14 14 14 14 14 13 12 11",
            "14 13 11 14 13 11 14 13 11 14 13 11",
            "14 11 14 11 14 11 14 11 14 11 14 11",
            "12 12 12 12 12 12 12 12 12 12 12 14",
        ],
    );
}

#[test]
fn wlc() {
    assert_eq!(Bench::new(Wlc, W1230).flows(12), "13 12 11 13 12 13 13 12 11 13 12 13");
    assert_eq!(Bench::new(Wlc, W1230).flows_as(12, false), "13 12 11 13 12 13 13 12 11 13 12 13");
    edits(
        Wlc,
        [
            "13 12 11 13 12 13 13 12 11 13 12 13",
            "11 11 11 11 11 11 11 11 13 12 11 11",
            "14 14 14 14 14 13 11 14 12 11 13 11",
            "14 13 11 11 13 11 14 11 13 11 14 13",
            "11 11 11 14 11 11 14 11 11 11 14 11",
            "12 12 12 12 12 12 11 12 14 11 11 11",
        ],
    );
}

#[test]
fn sed() {
    assert_eq!(Bench::new(Sed, W1230).flows(12), "13 12 13 13 12 11 13 12 13 13 12 11");
    let flows = Bench::new(Sed, &[(11, 100), (12, 50), (13, 25)]).flows(16);
    assert_eq!(flows, "11 12 11 11 13 12 11 11 12 11 11 13 12 11 11 12");
    edits(
        Sed,
        [
            "13 12 13 13 12 11 13 12 13 13 12 11",
            "11 11 11 11 11 11 11 11 11 13 11 12",
            "14 14 14 14 14 11 13 11 14 13 12 11",
            "11 13 11 14 11 13 11 14 13 11 11 13",
            "11 14 11 11 14 11 11 11 14 11 11 14",
            "12 12 12 12 12 12 11 11 11 12 14 11",
        ],
    );
}

#[test]
fn nq() {
    assert_eq!(Bench::new(Nq, W1230).flows(12), "13 12 11 13 13 12 13 12 13 13 12 11");
    assert_eq!(Bench::new(Nq, &[(11, 5), (12, 1), (13, 1)]).flows(13), "13 12 11 11 11 11 11 11 11 11 11 13 12");
    // Inactive connections leave a server idle.
    assert_eq!(Bench::new(Nq, W1230).flows_as(4, false), "13 13 13 13");
    edits(
        Nq,
        [
            "13 12 11 13 13 12 13 12 13 13 12 11",
            "11 11 11 11 11 11 11 11 11 13 11 12",
            "14 14 14 14 14 11 13 11 14 13 12 11",
            "11 13 11 14 11 13 11 14 13 11 11 13",
            "11 14 11 11 14 11 11 11 14 11 11 14",
            "12 12 12 12 12 12 11 11 11 12 14 11",
        ],
    );
}

#[test]
fn fo() {
    assert_eq!(Bench::new(Fo, W1230).flows(3), "13 13 13");
    assert_eq!(Bench::new(Fo, &[(11, 2), (12, 2)]).flows(3), "12 12 12");
    assert_eq!(Bench::new(Fo, &[(11, 0)]).flows(1), "-");
    let [thirteen, eleven] = [["13"; 12].join(" "), ["11"; 12].join(" ")];
    edits(Fo, [&thirteen, &eleven, &eleven, &eleven, &eleven, &eleven]);
}

#[test]
fn ovf() {
    let none = ["-"; 12].join(" ");
    edits(
        Ovf,
        [
            "13 13 13 13 12 12 12 11 11 - - -",
            "11 11 11 11 - - - - - - - -",
            "14 14 14 - - - - - - - - -",
            &none,
            &none,
            &none,
        ],
    );
    assert_eq!(Bench::new(Ovf, &[(11, 5), (12, 1), (13, 1)]).flows(11), "11 11 11 11 11 11 13 13 12 12 -");
}

#[test]
fn lblc() {
    let one = "13 13 13 13 12 12 12 11 11 11 11 11";
    assert_eq!(Bench::new(Lblc, W1230).flows(12), one);
    assert_eq!(Bench::new(Lblc, &[(11, 5), (12, 1), (13, 1)]).flows(7), "13 13 12 12 11 11 11");
    let mut big = Bench::new(Lblc, &[(11, 100), (12, 50), (13, 25)]);
    assert_eq!(big.flows(30), [["13"; 26].join(" "), ["12"; 4].join(" ")].join(" "));
    assert_eq!(Bench::new(Lblc, &[(11, 0)]).flows(1), "-");
}

#[test]
fn lblcr() {
    let flows = Bench::new(Lblcr, W1230).flows(24);
    assert_eq!(flows, "13 13 13 13 12 12 12 11 11 13 12 13 11 12 13 13 12 13 11 12 13 13 12 13");
    let flows = Bench::new(Lblcr, &[(11, 5), (12, 1), (13, 1)]).flows(24);
    assert_eq!(flows, "13 13 12 12 11 11 11 11 11 11 11 11 11 11 11 12 13 11 11 11 11 11 12 13");
    let mut b = Bench::new(Lblcr, &[(11, 1), (12, 1), (13, 1)]);
    assert_eq!(b.destinations(), "13 12 11 13 12 11");
    assert_eq!(b.flows(12), ["12"; 12].join(" "));
    b.edit(11, 0);
    assert_eq!(b.destinations(), "13 12 13 13 12 13");
    b.del(12);
    assert_eq!(b.destinations(), "13 13 13 13 13 13");
}

/// After a day without change the most loaded server leaves a destination's set.
#[test]
fn lblcr_shrinks() {
    let mut b = Bench::new(Lblcr, &[(11, 1), (12, 1), (13, 1)]);
    // The set of the one destination: 11 with three connections, 12 and 13 with two.
    assert_eq!(b.flows(7), "13 13 12 12 11 11 11");
    let members = |b: &mut Bench| {
        let instance = b.core.services[SERVICE.index()].live().instance;
        let place = locality::Place { service: SERVICE, instance, destination: Ip::from_v4([10, 9, 0, 1]) };
        let entry = b.core.locality.get(&place, b.now).unwrap();
        let members = b.core.locality.members(entry).map(|id| b.name(Some(id)));
        members.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(members(&mut b), "11 12 13");
    for (hours, want) in [(23, "11 12 13"), (25, "12 13"), (48, "12 13"), (50, "13")] {
        b.now = Tick(hours * 3_600_000);
        let id = b.choose([10, 1, 0, 1], 40_000, [10, 9, 0, 1]);
        // The choice is made before one leaves.
        assert_eq!(b.name(id), "12");
        assert_eq!(members(&mut b), want, "after {hours} hours");
    }
}

#[test]
fn twos_draws_by_weight_and_spares_the_loaded() {
    let mut b = Bench::new(Twos, &[(11, 1), (12, 2), (13, 3), (14, 0)]);
    for _ in 0..6000 {
        let id = b.choose([10, 1, 0, 1], 1, [10, 9, 0, 1]).unwrap();
        b.core.opened(&b.counts, id, true);
    }
    // Two choices keep the loads closer together than chance would.
    for (name, want) in [(11, 1000), (12, 2000), (13, 3000), (14, 0)] {
        let got = b.counts.active(b.id(name));
        assert!(got.abs_diff(want) < 60, "{name}: {got} of {want}");
    }
    b.threshold(6000, 0);
    b.edit(13, 0);
    b.edit(12, 0);
    assert_eq!(b.flows(3), "11 11 11");
    b.edit(11, 0);
    assert_eq!(b.flows(1), "-");
}

/// `-x 3 -y 1`: blocked from three connections on, until there is none.
#[test]
fn thresholds() {
    for (kind, want) in [
        (Rr, "13 12 11 13 12 11 13 12 11 - - -"),
        (Wrr, "13 12 11 13 13 12 12 11 11 - - -"),
        (Lc, "13 12 11 13 12 11 13 12 11 - - -"),
        (Wlc, "13 12 11 13 12 13 12 11 11 - - -"),
        (Sed, "13 12 13 13 12 11 12 11 11 - - -"),
        (Nq, "13 12 11 13 13 12 12 11 11 - - -"),
        (Fo, "13 13 13 12 12 12 11 11 11 - - -"),
    ] {
        let mut b = Bench::new(kind, W123);
        b.threshold(3, 1);
        assert_eq!(b.flows(12), want, "{kind}");
        b.close(12);
        b.close(12);
        assert_eq!(b.flows(1), "-", "{kind}");
        b.close(12);
        assert_eq!(b.flows(4), "12 12 12 -", "{kind}");
        // Raised: open again at once. Taken away: no limit.
        b.threshold(4, 1);
        assert_eq!(b.flows(4).matches('-').count(), 1, "{kind}");
        b.threshold(0, 0);
        assert_eq!(b.flows(9).matches('-').count(), 0, "{kind}");
        // Set below what is there: takes effect with the next connection.
        b.threshold(1, 0);
        assert_eq!(b.flows(4).matches('-').count(), 1, "{kind}");
    }
}

/// Without a lower threshold it is three quarters of the upper one.
#[test]
fn threshold_without_a_lower_one() {
    let mut b = Bench::new(Wlc, &[(11, 1)]);
    b.threshold(4, 0);
    assert_eq!(b.flows(5), "11 11 11 11 -");
    b.close(11);
    assert_eq!(b.flows(1), "-");
    b.close(11);
    assert_eq!(b.flows(3), "11 11 -");
}

/// A server removed and added again has its connections still.
#[test]
fn counts_come_back() {
    let mut b = Bench::new(Lc, &[(11, 1), (12, 1)]);
    assert_eq!(b.flows(6), "12 11 12 11 12 11");
    b.del(12);
    assert_eq!(b.flows(2), "11 11");
    b.close(12);
    b.add(12, 1);
    assert_eq!(b.flows(4), "12 12 12 12");
}

/// The kernel takes a changed forwarding mode for an edit: wrr goes back to the head.
#[test]
fn wrr_restarts_with_any_edit() {
    let mut b = Bench::new(Wrr, &[(11, 1), (12, 1), (13, 1)]);
    assert_eq!(b.flows(1), "13");
    b.set_mode(11, ForwardingMode::Tunnel);
    assert_eq!(b.flows(3), "13 12 11");
}
