//! sh, dh and mh: servers recorded from Linux 6.1, and what tables must hold.

use proptest::prelude::*;

use super::super::SchedulerKind::*;
use super::*;

const W1230: &[(u8, u32)] = &[(11, 1), (12, 2), (13, 3), (14, 0)];

#[test]
fn sh() {
    let mut b = Bench::new(Sh, W1230);
    let want = "11 13 13 13 12 13 13 11 11 13 13 13 12 12 - 11 11 13 13 13 12 12 - -";
    assert_eq!(b.hashes(24, 1, 20_000, Vary::Client), want);
    b.flags = flags::PORT;
    b.compile();
    let want = "- 11 11 13 13 13 12 12 - - 11 13 13 13 12 12 - - - 13 13 12 12 12";
    assert_eq!(b.hashes(24, 1, 20_000, Vary::Port), want);
    b.flags = flags::FALLBACK;
    b.compile();
    let want = "11 13 13 13 12 13 13 11 11 13 13 13 12 12 13 11 11 13 13 13 12 12 13 13";
    assert_eq!(b.hashes(24, 1, 20_000, Vary::Client), want);
    b.edit(13, 0);
    let want = "11 12 12 12 12 11 12 12 12 12 12 11 12 11 12 11 12 11 12 11 12 11 12 11";
    assert_eq!(b.hashes(24, 1, 30_000, Vary::Client), want);
    b.flags = flags::FALLBACK | flags::PORT;
    b.compile();
    let want = "11 12 12 12 12 11 12 12 12 12 12 11 12 11 12 11 12 11 12 11 12 11 12 11";
    assert_eq!(b.hashes(24, 1, 30_000, Vary::Port), want);
}

#[test]
fn sh_edits() {
    let mut b = Bench::new(Sh, &W1230[..3]);
    assert_eq!(b.hashes(12, 5, 20_100, Vary::Client), "13 13 13 13 12 12 11 13 11 13 13 13");
    b.edit(11, 4);
    assert_eq!(b.hashes(12, 5, 20_200, Vary::Client), "12 11 13 11 13 12 11 12 13 11 13 11");
    b.add(14, 2);
    assert_eq!(b.hashes(12, 5, 20_300, Vary::Client), "11 11 12 12 13 13 13 14 13 13 14 14");
    b.del(12);
    assert_eq!(b.hashes(12, 5, 20_400, Vary::Client), "13 11 14 11 14 13 11 13 13 11 14 11");
    b.add(12, 2);
    assert_eq!(b.hashes(12, 5, 20_500, Vary::Client), "11 11 13 13 13 14 14 12 14 14 12 12");
    b.edit(13, 0);
    assert_eq!(b.hashes(12, 5, 20_600, Vary::Client), "14 11 12 11 12 - 11 14 14 11 12 11");
}

#[test]
fn dh() {
    let mut b = Bench::new(Dh, W1230);
    let want = "12 - 12 11 13 11 13 12 - 12 - 12 11 13 11 13 11 - 12 - 12 11 13 11";
    assert_eq!(b.hashes(24, 1, 20_000, Vary::Vip), want);
    assert_eq!(Bench::new(Dh, &[(11, 5), (12, 1), (13, 1)]).hashes(3, 1, 20_000, Vary::Client), "11 11 11");
    assert_eq!(Bench::new(Dh, &[]).hashes(1, 1, 20_000, Vary::Vip), "-");
}

#[test]
fn mh() {
    let mut b = Bench::new(Mh, W1230);
    let want = "11 11 12 13 13 13 12 11 11 12 11 12 12 12 13 13 11 12 13 12 12 13 13 12";
    assert_eq!(b.hashes(24, 1, 20_000, Vary::Client), want);
    b.flags = flags::FALLBACK | flags::PORT;
    b.compile();
    let want = "13 12 11 13 13 13 12 13 13 13 11 13 13 13 12 12 13 13 11 12 13 13 13 12";
    assert_eq!(b.hashes(24, 1, 20_000, Vary::Port), want);
    b.edit(13, 0);
    let want = "11 12 12 12 11 12 12 12 11 12 12 12 11 12 12 11 12 11 12 11 12 11 12 11";
    assert_eq!(b.hashes(24, 1, 30_000, Vary::Port), want);
    let mut b = Bench::new(Mh, &[(11, 100), (12, 50), (13, 25)]);
    assert_eq!(b.hashes(16, 1, 1, Vary::Client), "11 11 12 11 13 11 12 11 11 12 11 12 12 12 11 12");
    assert_eq!(Bench::new(Mh, &[(11, 0)]).hashes(1, 1, 1, Vary::Client), "-");
}

/// Shares are shifted down to six bits, but not to nothing: 200 : 1 becomes 50 : 1.
#[test]
fn mh_gives_small_weights_a_share() {
    let b = Bench::new(Mh, &[(11, 1), (12, 200)]);
    let table = b.sched.table.as_deref().unwrap();
    let small = table.iter().filter(|id| **id == b.id(11).0).count();
    assert!(small.abs_diff(4_093 / 51) <= 1, "{small}");
}

/// More servers than the kernel's table holds get a larger one.
#[test]
fn mh_holds_many_servers() {
    let real = crate::snapshot::Real { weight: 1, last_weight: 1, ..Real::NONE };
    let reals: Vec<Real> =
        (0..5000u32).map(|n| Real { addr: Ip::from_v4((n + 1).to_be_bytes()), ..real.clone() }).collect();
    let members = reals.iter().enumerate().map(|(n, r)| (RealId(n as u32), r));
    let sched = ServiceSched::compile(Mh, 0, members);
    let table = sched.table.as_deref().unwrap();
    assert_eq!(table.len(), 8_191);
    let used: std::collections::HashSet<_> = table.iter().collect();
    assert_eq!(used.len(), 5000);
}

/// A drained server keeps its slots; one added with weight 0 has none.
#[test]
fn mh_edits() {
    let mut b = Bench::new(Mh, &W1230[..3]);
    assert_eq!(b.hashes(12, 5, 1, Vary::Client), "11 13 11 13 12 11 13 13 12 11 13 13");
    b.edit(11, 4);
    assert_eq!(b.hashes(12, 5, 1, Vary::Client), "11 11 11 13 12 11 13 11 11 11 11 13");
    b.add(14, 2);
    assert_eq!(b.hashes(12, 5, 1, Vary::Client), "11 11 11 14 12 11 13 11 14 11 11 14");
    b.del(12);
    assert_eq!(b.hashes(12, 5, 1, Vary::Client), "11 13 11 14 11 11 13 11 14 11 11 14");
    b.add(12, 2);
    b.edit(13, 0);
    assert_eq!(b.hashes(12, 5, 1, Vary::Client), "11 - 11 14 12 11 - 11 14 11 11 14");
    b.flags = flags::FALLBACK;
    b.compile();
    assert_eq!(b.hashes(12, 5, 1, Vary::Client), "11 14 11 14 12 11 11 11 14 11 11 14");
}

/// IPv6 addresses are folded into 32 bits.
#[test]
fn ipv6() {
    let address = |s: &str| Ip::from(s.parse::<std::net::IpAddr>().unwrap());
    for (kind, want) in [(Sh, "12 13 12 13 12 11 12 13 13 13 13 12"), (Mh, "13 11 12 12 12 13 12 13 13 11 12 13")] {
        let mut b = Bench::new(kind, &[]);
        for (name, weight) in [(0x11, 1), (0x12, 2), (0x13, 3)] {
            b.add(name, weight);
            let id = b.id(name);
            b.reals[id.index()].addr = address(&format!("2001:db8:2::{name:x}"));
            b.reals[id.index()].port = Be16::new(if kind == Sh { 80 } else { 81 });
            b.compile();
        }
        let mut names = Vec::new();
        for client in 1..=12 {
            let key = SchedKey {
                client: address(&format!("2001:db8:1::{client:x}")),
                client_port: Be16::new(40_000),
                vip: address("2001:db8:9::1"),
                vport: Be16::new(80),
            };
            let id = b.core.choose(SERVICE, &b.sched, &b.counts, &key, b.now).unwrap();
            names.push(format!("{:x}", b.reals[id.index()].addr.0[15]));
        }
        assert_eq!(names.join(" "), want, "{kind}");
    }
}

#[test]
fn overloaded_servers_are_refused_or_avoided() {
    for kind in [Sh, Mh] {
        let mut b = Bench::new(kind, &[(11, 1), (12, 1)]);
        b.threshold(1, 0);
        let first = b.choose([10, 1, 0, 1], 1, [10, 9, 0, 1]).unwrap();
        b.core.opened(&b.counts, first, true);
        assert_eq!(b.choose([10, 1, 0, 1], 1, [10, 9, 0, 1]), None, "{kind}");
        b.flags = flags::FALLBACK;
        b.compile();
        let second = b.choose([10, 1, 0, 1], 1, [10, 9, 0, 1]).unwrap();
        assert_ne!(first, second);
        b.core.opened(&b.counts, second, true);
        assert_eq!(b.choose([10, 1, 0, 1], 1, [10, 9, 0, 1]), None, "{kind}");
        b.core.closed(&b.counts, first, true);
        assert_eq!(b.choose([10, 1, 0, 1], 1, [10, 9, 0, 1]), Some(first), "{kind}");
    }
}

/// How many slots of a table differ.
fn moved(a: &ServiceSched, b: &ServiceSched) -> usize {
    let (a, b) = (a.table.as_deref().unwrap(), b.table.as_deref().unwrap());
    a.iter().zip(b).filter(|(a, b)| a != b).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Maglev's promises: every slot taken, shares as the weights, few slots moved by a removal.
    #[test]
    fn mh_is_even_and_stable(weights in proptest::collection::vec(1u32..9, 2..40), large in any::<bool>()) {
        let servers: Vec<_> = weights.iter().enumerate().map(|(n, w)| (n as u8 + 1, *w)).collect();
        let mut b = Bench::new(Mh, &[]);
        b.flags = if large { flags::mh_table(65_521).unwrap() } else { 0 };
        for (name, weight) in &servers {
            b.add(*name, *weight);
        }
        let before = b.sched.clone();
        let table = before.table.as_deref().unwrap();
        let size = table.len();
        prop_assert_eq!(size, if large { 65_521 } else { 4_093 });
        let total: u32 = weights.iter().sum();
        for (name, weight) in &servers {
            let got = table.iter().filter(|id| **id == b.id(*name).0).count();
            let want = size as f64 * f64::from(*weight) / f64::from(total);
            prop_assert!((got as f64 - want).abs() <= f64::from(*weight) + 1.0, "{got} of {want}");
        }
        b.del(1);
        let lost = table.iter().filter(|id| **id == b.id(1).0).count();
        prop_assert!(moved(&before, &b.sched) <= lost + size / 3);
    }
}
