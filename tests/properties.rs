//! What must hold whatever comes: random rules, changes and packets, both sides.

use std::cell::RefCell;
use std::ops::AddAssign;

use pollux_tests::story::{hex, sides, wild};
use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};

/// Plays random stories of up to `len` bytes, as many as `CASES` says or `cases`; the sum of what they told.
fn stories<T: AddAssign + Default>(cases: u32, len: usize, play: impl Fn(&[u8]) -> T) -> T {
    let cases = std::env::var("CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(cases);
    let config = ProptestConfig { cases, max_shrink_iters: 3000, failure_persistence: None, ..Default::default() };
    let told = RefCell::new(T::default());
    let played = TestRunner::new(config).run(&prop::collection::vec(any::<u8>(), 0..len), |story| {
        *told.borrow_mut() += play(&story);
        Ok(())
    });
    match played {
        Ok(()) => told.into_inner(),
        // To be kept in fuzz/corpus.
        Err(TestError::Fail(why, story)) => panic!("{why}\nthe story: {}", hex(&story)),
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn flows_stay_and_replies_invert_requests_whatever_the_rules() {
    let told = stories(64, 6000, sides::play);
    println!("{told:?}");
    // The stories told something.
    assert!(told.flows > 1000 && told.requests > told.flows && told.replies > 500, "{told:?}");
    assert!(told.errors > 100 && told.in_pieces > 50 && told.changes.0 > 1000, "{told:?}");
}

#[test]
fn what_leaves_is_well_formed_whatever_mutated_packets_arrive() {
    let told = stories(256, 4000, |story| wild::play(wild::Kind::Mutated, story));
    println!("{told:?}");
    assert!(told.left > told.arrived / 10 && told.summed > told.left / 4, "{told:?}");
}

#[test]
fn what_leaves_is_well_formed_whatever_bytes_arrive() {
    let told = stories(256, 4000, |story| wild::play(wild::Kind::Random, story));
    println!("{told:?}");
    assert!(told.arrived > 100, "{told:?}");
}

/// What fuzzing found once, and what it needs to find its way again.
#[test]
fn every_kept_story_ends_well() {
    for kind in ["random", "mutated", "sides"] {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(kind);
        let mut played = 0;
        for entry in std::fs::read_dir(&dir).expect("a corpus").flatten() {
            let story = std::fs::read(entry.path()).expect("a story");
            let ended = std::panic::catch_unwind(|| play(kind, &story));
            assert!(ended.is_ok(), "{}", entry.path().display());
            played += 1;
        }
        assert!(played > 0, "{} is empty", dir.display());
    }
}

/// Plays one story: `STORY=<hex> KIND=sides cargo test -p pollux-tests --test properties one_story`.
#[test]
fn one_story() {
    let Ok(text) = std::env::var("STORY") else { return };
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    let story: Vec<u8> = digits.chunks_exact(2).map(|d| (d[0] << 4 | d[1]) as u8).collect();
    play(&std::env::var("KIND").unwrap_or_default(), &story);
}

fn play(kind: &str, story: &[u8]) {
    match kind {
        "random" => println!("{:?}", wild::play(wild::Kind::Random, story)),
        "mutated" => println!("{:?}", wild::play(wild::Kind::Mutated, story)),
        _ => println!("{:?}", sides::play(story)),
    }
}
