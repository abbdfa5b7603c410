//! Two sides, requests and replies, with services and real servers that come, go and change.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pollux_tests::story::sides;

fuzz_target!(|data: &[u8]| {
    sides::play(data);
});
