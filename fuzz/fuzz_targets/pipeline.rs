//! The whole pipeline, two workers, on ports in memory: any bytes, any order, rules that
//! change underneath. Nothing may panic, every frame that leaves has right lengths and
//! header checksums, and every buffer finds its way back.
#![no_main]

use dataplane::counters::DropReason;
use libfuzzer_sys::fuzz_target;
use pollux_fuzz::input::{Bytes, Step};
use pollux_fuzz::{check, world};
use pollux_tests::rig::Rig;

/// Flows per worker: few, so that the table fills.
const FLOWS: u32 = 64;
/// Steps in a story.
const STEPS: usize = 256;

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    let mut rig = Rig::with_flows(2, FLOWS);
    let mut generation = 1;
    rig.publish(&world::world(generation, bytes.u8()));
    rig.run();
    for _ in 0..STEPS {
        match bytes.step() {
            None => break,
            Some(Step::Frame { on, bytes, cut: 0 }) => rig.wire.push(on.0, on.1, &bytes),
            Some(Step::Frame { on, bytes, cut }) => rig.wire.push_chained(on.0, on.1, &bytes, cut.min(bytes.len())),
            Some(Step::Sleep(ms)) => rig.sleep_ms(ms),
            Some(Step::Change(variant)) => {
                generation += 1;
                rig.publish(&world::world(generation, variant));
            }
        }
        rig.run();
        for (_, frame) in rig.take() {
            check::frame(&frame);
        }
    }
    // What waits for a neighbour or for the rest of a datagram gives up in time.
    rig.sleep_ms(65_000);
    for (_, frame) in rig.take() {
        check::frame(&frame);
    }
    assert_eq!(rig.wire.live(), 0, "buffers were lost: {:?}", counted(&rig));
});

/// What the director counted, for the message of a failure.
fn counted(rig: &Rig) -> Vec<(&'static str, u64)> {
    let drops = DropReason::ALL.iter().map(|r| (r.name(), rig.drops(*r)));
    let events = rig.links.iter().flat_map(|l| l.counters.worker.each());
    drops.chain(events).filter(|(_, n)| *n > 0).collect()
}
