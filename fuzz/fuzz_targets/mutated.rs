//! Well-formed packets of clients and servers, some with bytes overwritten, at two workers with every
//! mode of forwarding, in any order, rules changing underneath.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pollux_tests::story::wild;

fuzz_target!(|data: &[u8]| {
    wild::play(wild::Kind::Mutated, data);
});
