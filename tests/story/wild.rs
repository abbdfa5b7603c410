//! Anything at all arrives, in any order: nothing may panic, what leaves must be well formed, and
//! every buffer must find its way back.

use std::collections::HashSet;
use std::net::IpAddr;

use super::bytes::Bytes;
use super::check::{self, Seen};
use super::director::{ENDS, ip};
use super::frames::Step;
use super::{drops, world};
use crate::rig::Rig;

/// Flows per worker: few, so that the table fills.
const FLOWS: u32 = 64;
/// Steps in a story.
const STEPS: usize = 256;

/// What arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Random bytes.
    Random,
    /// Well-formed packets, some of them with bytes overwritten.
    Mutated,
}

/// How many frames of a story arrived, and how many left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Frames that arrived.
    pub arrived: u64,
    /// Frames that left.
    pub left: u64,
    /// Of those, packets whose transport checksum could be checked and was right.
    pub summed: u64,
}

impl std::ops::AddAssign for Told {
    fn add_assign(&mut self, o: Self) {
        self.arrived += o.arrived;
        self.left += o.left;
        self.summed += o.summed;
    }
}

struct Wild {
    rig: Rig,
    ends: [IpAddr; 2],
    /// How far the checksums of what arrived were off. A packet that arrives with a wrong checksum leaves
    /// with one that is wrong by as much: a director neither repairs nor hides what others broke.
    off: HashSet<Option<u16>>,
    told: Told,
}

/// Plays a story. Panics with what does not hold.
pub fn play(kind: Kind, data: &[u8]) -> Told {
    let mut bytes = Bytes(data);
    let mut w = Wild {
        rig: Rig::with_flows(2, FLOWS),
        ends: ENDS.map(ip),
        off: HashSet::from([Some(0)]),
        told: Told::default(),
    };
    let mut generation = 1;
    w.rig.publish(&world::world(generation, bytes.u8()));
    w.rig.run();
    for _ in 0..STEPS {
        let step = if kind == Kind::Random { bytes.random_step() } else { bytes.step() };
        match step {
            None => break,
            Some(Step::Frame { on, bytes, cut }) => w.arrive(on, &bytes, cut),
            Some(Step::Sleep(ms)) => w.rig.sleep_ms(ms),
            Some(Step::Change(variant)) => {
                generation += 1;
                w.rig.publish(&world::world(generation, variant));
            }
        }
        w.rig.run();
        w.look();
    }
    // What waits for a neighbour or for the rest of a datagram gives up in time.
    w.rig.sleep_ms(65_000);
    w.look();
    assert_eq!(w.rig.wire.live(), 0, "buffers were lost: {:?}", drops(&w.rig));
    w.told
}

impl Wild {
    fn arrive(&mut self, on: (usize, usize), bytes: &[u8], cut: usize) {
        if let Ok(seen) = check::ethernet(bytes, &[]) {
            self.off.extend(seen.packets.iter().map(|p| p.residue));
        }
        self.told.arrived += 1;
        match cut {
            0 => self.rig.wire.push(on.0, on.1, bytes),
            _ => self.rig.wire.push_chained(on.0, on.1, bytes, cut.min(bytes.len())),
        }
    }

    /// Looks at everything that left.
    fn look(&mut self) {
        for (_, frame) in self.rig.take() {
            let seen =
                check::frame(&frame, 1500, &self.ends).unwrap_or_else(|why| panic!("{why}: {}", super::hex(&frame)));
            self.told.left += 1;
            self.sums(&seen, &frame);
        }
    }

    fn sums(&mut self, seen: &Seen, frame: &[u8]) {
        let Some(p) = seen.inner() else { return };
        assert!(
            p.piece.is_some() || self.off.contains(&p.residue),
            "a checksum off by {:?}, which none was that arrived: {p:?}: {}",
            p.residue,
            super::hex(frame)
        );
        self.told.summed += u64::from(p.residue == Some(0));
    }
}
