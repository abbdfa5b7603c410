//! Random bytes behind an Ethernet header, at two workers with every mode of forwarding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pollux_tests::story::wild;

fuzz_target!(|data: &[u8]| {
    wild::play(wild::Kind::Random, data);
});
