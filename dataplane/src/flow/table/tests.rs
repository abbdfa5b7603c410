use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::flow::index::{REACH, WAYS};
use crate::units::{Be16, RealId};

fn record(n: u32, deadline: Tick) -> FlowRecord {
    let client = Ip::from_v4((0x0a00_0000 + n / 4).to_be_bytes());
    FlowRecord {
        client,
        vip: Ip::from_v4([10, 9, 0, (n % 4) as u8]).into(),
        client_port: Be16::new(1000),
        vport: Be16::new(80),
        rport: Be16::new(8080 + (n % 4) as u16),
        proto: 6,
        state: 0,
        real: RealId(n),
        peer: peer_word(Ip::from_v4([10, 2, 0, 11])),
        deadline,
        flags: 0,
        l3_delta: 0,
        l4_delta: 0,
        ext: u32::MAX,
    }
}

fn hash(t: &FlowTable, r: &FlowRecord) -> FlowHash {
    t.secret.hash(r.client, r.client_port, r.proto)
}

fn lookup(t: &FlowTable, r: &FlowRecord) -> Option<FlowId> {
    t.lookup_request(hash(t, r), &r.key())
}

fn table(capacity: u32) -> FlowTable {
    FlowTable::new(capacity, Secret::fixed()).unwrap()
}

#[test]
fn both_directions_find_the_record() {
    let mut t = table(64);
    let r = record(5, Tick(100));
    let id = t.insert(hash(&t, &r), r, Tick(0)).unwrap();
    assert_eq!(lookup(&t, &r), Some(id));
    let key = ReplyKey {
        client: r.client,
        real: Ip::from_v4([10, 2, 0, 11]),
        client_port: r.client_port,
        rport: r.rport,
        proto: 6,
    };
    assert_eq!(t.find_reply(hash(&t, &r), &key, t.probe(hash(&t, &r))), Some(id));
    let wrong = ReplyKey { rport: Be16::new(1), ..key };
    assert_eq!(t.find_reply(hash(&t, &r), &wrong, t.probe(hash(&t, &r))), None);
}

#[test]
fn where_the_guess_was_wrong_the_flow_is_found_all_the_same() {
    let mut t = table(1000);
    // Four of one hash each, and buckets that are too full for some.
    for n in 0..1000 {
        let r = record(n, Tick(1000));
        t.insert(hash(&t, &r), r, Tick(0)).unwrap();
    }
    let mut wrong = 0;
    for n in 0..1000 {
        let h = hash(&t, &record(n, Tick(0)));
        wrong += u32::from(t.get(t.guess(h)).real != RealId(n));
        let id = t.guess_again(h, |r| r.real == RealId(n)).unwrap();
        assert_eq!(t.get(id).real, RealId(n));
        assert_eq!(t.guess_again(h, |r| r.real == RealId(5000)), None);
    }
    assert!(wrong >= 750, "{wrong}");
}

#[test]
fn it_holds_as_many_as_promised_and_then_refuses() {
    let mut t = table(1000);
    for n in 0..1000 {
        let r = record(n * 4, Tick(1000));
        t.insert(hash(&t, &r), r, Tick(0)).unwrap();
    }
    let r = record(99_999, Tick(1000));
    assert_eq!(t.insert(hash(&t, &r), r, Tick(0)), Err(Full));
    assert!((0..1000).all(|n| lookup(&t, &record(n * 4, Tick(0))).is_some()));
    let gone = t.evict(hash(&t, &r), |r| r.real.0 % 8 == 4).unwrap();
    assert_eq!(gone.real.0 % 8, 4);
    t.insert(hash(&t, &r), r, Tick(0)).unwrap();
    assert_eq!((t.len(), lookup(&t, &gone)), (1000, None));
}

#[test]
fn one_client_port_with_many_vips_fills_its_reach_only() {
    let mut t = table(10_000);
    let mut kept = 0;
    for n in 0..400u32 {
        let mut r = record(0, Tick(1000));
        r.vip = Ip::from_v4(n.to_be_bytes()).into();
        kept += u32::from(t.insert(hash(&t, &r), r, Tick(0)).is_ok());
    }
    assert_eq!(kept, WAYS as u32 * REACH);
    let r = record(400, Tick(1000));
    assert!(t.insert(hash(&t, &r), r, Tick(0)).is_ok());
}

#[test]
fn flows_end_on_time_and_packets_lengthen_them() {
    let mut t = table(64);
    let start = Tick(u32::MAX - 5_000);
    let (a, b) = (record(1, start.after_ms(10_000)), record(9, start.after_ms(900_000)));
    let ia = t.insert(hash(&t, &a), a, start).unwrap();
    let ib = t.insert(hash(&t, &b), b, start).unwrap();
    t.get_mut(ia).deadline = start.after_ms(30_000);
    let run = |t: &mut FlowTable, ms| t.expire(start.after_ms(ms), 10_000, |_, _| Fate::Remove);
    assert_eq!(run(&mut t, 29_000), 0);
    assert_eq!(run(&mut t, 30_600), 1);
    t.get_mut(ib).deadline = start.after_ms(40_000);
    t.rearm(ib, start.after_ms(40_000));
    assert_eq!(run(&mut t, 39_000), 0);
    assert_eq!(run(&mut t, 40_600), 1);
    assert!(t.is_empty());
}

#[test]
fn a_search_finds_nothing_of_a_flow_that_ended() {
    let mut t = table(64);
    let r = record(5, Tick(100));
    let id = t.insert(hash(&t, &r), r, Tick(0)).unwrap();
    let stale = t.probe(hash(&t, &r));
    assert_eq!(t.remove(id).map(|r| r.real), Some(RealId(5)));
    assert_eq!(t.find_request(hash(&t, &r), &r.key(), stale), None);
    assert_eq!((t.remove(id), t.len()), (None, 0));
    assert_eq!(t.try_get_mut(id), None);
    assert_eq!(t.remove(FlowId::NONE), None);
    t.rearm(id, Tick(0));
    assert_eq!(t.expire(Tick(10_000), 100, |_, _| Fate::Remove), 0);
}

#[test]
fn an_alias_finds_the_same_record() {
    let mut t = FlowTable::with_aliases(1000, 1000, Secret::fixed()).unwrap();
    let local = |n: u32| t_hash(Ip::from_v4((0x0a63_0000 + n / 100).to_be_bytes()), Be16::new((n % 100) as u16));
    for n in 0..1000 {
        let r = record(n * 4, Tick(1000));
        let id = t.insert(hash(&t, &r), r, Tick(0)).unwrap();
        t.insert_alias(local(n), id).unwrap();
    }
    let by_alias = |t: &FlowTable, n: u32| t.find(local(n), t.probe(local(n)), |r| r.real == RealId(n * 4));
    for n in 0..1000 {
        let id = by_alias(&t, n).unwrap();
        assert_eq!(Some(id), lookup(&t, &record(n * 4, Tick(0))));
        assert!(t.remove_alias(local(n), id));
        assert!(!t.remove_alias(local(n), id));
        assert_eq!(by_alias(&t, n), None);
    }
    assert_eq!(t.len(), 1000);
}

fn t_hash(a: Ip, port: Be16) -> FlowHash {
    Secret::fixed().hash(a, port, 6)
}

/// A full table: flow `n` (as `RealId`) ends at `n` seconds.
fn full(capacity: u32) -> FlowTable {
    let mut t = table(capacity);
    for n in 0..capacity {
        let mut r = record(n * 4, Tick(n * 1000));
        r.real = RealId(n);
        t.insert(hash(&t, &r), r, Tick(0)).unwrap();
    }
    t
}

#[test]
fn the_flow_nearest_to_its_end_is_evicted() {
    let mut t = full(100);
    let any = FlowHash(1);
    assert_eq!(t.evict(any, |_| true).map(|r| r.real), Some(RealId(0)));
    // Room again; fill it, so that the next one has to go.
    let r = record(4000, Tick(900_000));
    t.insert(hash(&t, &r), r, Tick(0)).unwrap();
    assert_eq!(t.evict(any, |r| r.real.0 % 2 == 0).map(|r| r.real), Some(RealId(2)));
    t.insert(hash(&t, &r), FlowRecord { vip: Ip::UNSPECIFIED.into(), ..r }, Tick(0)).unwrap();
    // Beyond what the wheel shows first: by the sweep.
    assert_eq!(t.evict(any, |r| r.real == RealId(60)).map(|r| r.real), Some(RealId(60)));
}

#[test]
fn searches_in_vain_are_spared_more_and_more() {
    let mut t = full(1000);
    let searched = std::cell::Cell::new(0);
    let mut calls = 0;
    let never = |_: &FlowRecord| {
        searched.set(searched.get() + 1);
        false
    };
    for _ in 0..10_000 {
        assert_eq!(t.evict(FlowHash(1), never), None);
        calls += 1;
    }
    assert!(searched.get() <= calls / 64 * 80 + 600, "{} records looked at", searched.get());
    assert!(searched.get() >= 16 + 64);
    // One that may go is found in the end, wherever it is.
    let found = (0..10_000).find_map(|_| t.evict(FlowHash(1), |r| r.real == RealId(777)));
    assert_eq!(found.map(|r| r.real), Some(RealId(777)));
}

#[test]
fn a_full_reach_evicts_in_its_reach() {
    // The ticks wrap in between: the nearest deadline is not the smallest number.
    let start = Tick(u32::MAX - 50_000);
    let mut t = table(10_000);
    let mut n = 0;
    let full = loop {
        let mut r = record(0, start.after_ms(n * 1000));
        (r.vip, r.real) = (Ip::from_v4(n.to_be_bytes()).into(), RealId(n));
        if t.insert(hash(&t, &r), r, start).is_err() {
            break r;
        }
        n += 1;
    };
    let gone = t.evict(hash(&t, &full), |r| r.real.0 >= 30).unwrap();
    assert_eq!(gone.real, RealId(30));
    assert!(t.insert(hash(&t, &full), full, start).is_ok());
}

#[test]
fn expiry_keeps_to_its_budget() {
    let mut t = table(1000);
    for n in 0..1000 {
        let r = record(n * 4, Tick(100));
        t.insert(hash(&t, &r), r, Tick(0)).unwrap();
    }
    let mut met = 0;
    assert_eq!(t.expire(Tick(400), 33, |_, _| Fate::Remove), 33);
    assert_eq!(t.len(), 967);
    // What is kept costs as much as what goes.
    let ended = t.expire(Tick(500), 100, |_, r| {
        met += 1;
        r.deadline = Tick(2000);
        if met % 2 == 0 { Fate::Remove } else { Fate::Keep }
    });
    assert_eq!((met, ended), (100, 50));
    assert_eq!(t.expire(Tick(600), 10_000, |_, _| Fate::Remove), 867);
    assert_eq!(t.expire(Tick(1999), 10_000, |_, _| Fate::Remove), 0);
    assert_eq!(t.expire(Tick(2400), 10_000, |_, _| Fate::Remove), 50);
    assert!(t.is_empty());
}

#[test]
fn what_is_kept_as_it_is_comes_up_once_a_slot() {
    let mut t = full(100);
    let mut met = 0;
    let mut ask = |t: &mut FlowTable, now| {
        t.expire(now, 1_000_000, |_, _| {
            met += 1;
            Fate::Keep
        });
        std::mem::take(&mut met)
    };
    // The wheel is a minute and a half behind.
    assert_eq!(ask(&mut t, Tick(100_000)), 100);
    assert_eq!(ask(&mut t, Tick(100_000)), 0);
    assert_eq!(ask(&mut t, Tick(100_256)), 100);
}

#[test]
fn a_million_flows_find_room_and_their_records() {
    let mut t = table(1_000_000);
    for n in 0..1_000_000 {
        let r = record(n, Tick(1000));
        assert!(t.insert(hash(&t, &r), r, Tick(0)).is_ok(), "flow {n}");
    }
    assert!((0..1_000_000).step_by(7).all(|n| lookup(&t, &record(n, Tick(0))) == Some(FlowId(n))));
    let r = record(1_000_000, Tick(1000));
    assert_eq!(t.insert(hash(&t, &r), r, Tick(0)), Err(Full));
}

#[test]
fn the_smallest_table_works() {
    let mut t = table(0);
    assert_eq!(t.capacity(), 16);
    let mut ids = Vec::new();
    // All of one hash, too.
    for n in 0..16u32 {
        let mut r = record(0, Tick(1000));
        r.vip = Ip::from_v4(n.to_be_bytes()).into();
        ids.push(t.insert(hash(&t, &r), r, Tick(0)).unwrap());
    }
    assert!(ids.into_iter().all(|id| t.remove(id).is_some()));
    assert!(t.is_empty());
}

#[test]
fn a_flow_takes_at_most_88_bytes() {
    let t = table(300_000);
    let pages = 3 * (2 << 20) + 4 * 4096;
    assert!((FlowTable::bytes_for(300_000)..FlowTable::bytes_for(300_000) + pages).contains(&t.bytes()));
    assert!(FlowTable::bytes_for(1_000_000) <= 88_000_000, "{}", FlowTable::bytes_for(1_000_000));
}

#[derive(Clone, Debug)]
enum Op {
    Insert(u32, u32),
    /// Inserts, evicting an even-numbered flow if need be.
    Force(u32, u32),
    Remove(u32),
    Touch(u32, u32),
    Pass(u32),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..300u32, 0..2_000_000u32).prop_map(|(n, t)| Op::Insert(n, t)),
        (0..300u32, 0..2_000_000u32).prop_map(|(n, t)| Op::Force(n, t)),
        (0..300u32).prop_map(Op::Remove),
        (0..300u32, 0..2_000_000u32).prop_map(|(n, t)| Op::Touch(n, t)),
        (0..400_000u32).prop_map(Op::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn it_agrees_with_a_map(start: u32, ops in prop::collection::vec(op(), 1..400)) {
        let mut t = table(64);
        let mut model: HashMap<u32, Tick> = HashMap::new();
        let mut now = Tick(start);
        t.expire(now, 10, |_, _| Fate::Remove);
        for op in ops {
            match op {
                Op::Insert(n, ms) if !model.contains_key(&n) => {
                    let r = record(n, now.after_ms(ms));
                    if t.insert(hash(&t, &r), r, now).is_ok() {
                        model.insert(n, r.deadline);
                    } else {
                        prop_assert_eq!(model.len(), 64);
                    }
                }
                Op::Force(n, ms) if !model.contains_key(&n) => {
                    let r = record(n, now.after_ms(ms));
                    if t.insert(hash(&t, &r), r, now).is_err() {
                        prop_assert_eq!(model.len(), 64);
                        let Some(gone) = t.evict(hash(&t, &r), |r| r.real.0 % 2 == 0) else { continue };
                        prop_assert_eq!(gone.real.0 % 2, 0);
                        prop_assert!(model.remove(&gone.real.0).is_some());
                        prop_assert!(t.insert(hash(&t, &r), r, now).is_ok());
                    }
                    model.insert(n, r.deadline);
                }
                Op::Remove(n) => {
                    let id = lookup(&t, &record(n, now));
                    prop_assert_eq!(id.is_some(), model.remove(&n).is_some());
                    if let Some(id) = id {
                        prop_assert_eq!(t.remove(id).unwrap().real, RealId(n));
                    }
                }
                Op::Touch(n, ms) => if let Some(id) = lookup(&t, &record(n, now)) {
                    let deadline = now.after_ms(ms);
                    t.get_mut(id).deadline = deadline;
                    t.rearm(id, deadline);
                    model.insert(n, deadline);
                },
                Op::Pass(ms) => {
                    now = now.after_ms(ms);
                    let mut ended = Vec::new();
                    while t.expire(now, 50, |_, r| { ended.push(r.real.0); Fate::Remove }) > 0 {}
                    for _ in 0..200 { t.expire(now, 50, |_, r| { ended.push(r.real.0); Fate::Remove }); }
                    for n in ended {
                        prop_assert!(model.remove(&n).unwrap().reached(now));
                    }
                    // Nothing stays longer than a slot beyond its time.
                    prop_assert!(model.values().all(|d| !d.after_ms(600).reached(now)));
                }
                Op::Insert(..) | Op::Force(..) => {}
            }
            prop_assert_eq!(t.len() as usize, model.len());
        }
        for n in 0..300 {
            prop_assert_eq!(lookup(&t, &record(n, now)).is_some(), model.contains_key(&n));
        }
    }
}
