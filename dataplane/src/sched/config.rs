//! What control compiles for the schedulers: immutable, part of the snapshot.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::cost::{Divisor, MAX_WEIGHT, fraction_bits};
use super::tables;
use super::twos::Draw;
use crate::snapshot::Real;
use crate::units::{Be16, Ip, RealId};

/// The schedulers, by the names that ipvsadm has for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum SchedulerKind {
    /// Round robin.
    Rr,
    /// Weighted round robin.
    Wrr,
    /// Least connection.
    Lc,
    /// Weighted least connection.
    #[default]
    Wlc,
    /// Shortest expected delay.
    Sed,
    /// Never queue.
    Nq,
    /// Destination hashing.
    Dh,
    /// Source hashing.
    Sh,
    /// Maglev hashing.
    Mh,
    /// Locality-based least connection.
    Lblc,
    /// Locality-based least connection with replication.
    Lblcr,
    /// Weighted fail-over.
    Fo,
    /// Weighted overflow.
    Ovf,
    /// Power of two choices.
    Twos,
}

impl SchedulerKind {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Rr,
        Self::Wrr,
        Self::Lc,
        Self::Wlc,
        Self::Sed,
        Self::Nq,
        Self::Dh,
        Self::Sh,
        Self::Mh,
        Self::Lblc,
        Self::Lblcr,
        Self::Fo,
        Self::Ovf,
        Self::Twos,
    ];
    /// The name as ipvsadm prints it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rr => "rr",
            Self::Wrr => "wrr",
            Self::Lc => "lc",
            Self::Wlc => "wlc",
            Self::Sed => "sed",
            Self::Nq => "nq",
            Self::Dh => "dh",
            Self::Sh => "sh",
            Self::Mh => "mh",
            Self::Lblc => "lblc",
            Self::Lblcr => "lblcr",
            Self::Fo => "fo",
            Self::Ovf => "ovf",
            Self::Twos => "twos",
        }
    }
}

impl fmt::Display for SchedulerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no scheduler's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no scheduler `{0}`; there are rr wrr lc wlc sed nq dh sh mh lblc lblcr fo ovf twos")]
pub struct UnknownScheduler(pub String);

impl FromStr for SchedulerKind {
    type Err = UnknownScheduler;
    fn from_str(s: &str) -> Result<Self, UnknownScheduler> {
        Self::ALL.into_iter().find(|k| k.name() == s).ok_or_else(|| UnknownScheduler(s.to_string()))
    }
}

/// Flags of a scheduler, with the kernel's numbers (`IP_VS_SVC_F_SCHED1` and so on).
pub mod flags {
    use super::super::tables::PRIMES;
    use super::SchedulerKind;

    /// sh, mh: an unusable server's clients go to another one instead of being refused.
    pub const FALLBACK: u32 = 0x0008;
    /// sh, mh: the client's port is hashed as well.
    pub const PORT: u32 = 0x0010;

    /// mh: which table size, 0 for the kernel's 4,093 slots, else 1 to 10 for 251, 509, 1,021
    /// and so on up to 131,071. Larger ones share more evenly among many servers.
    pub const MH_TABLE_MASK: u32 = 0xf << MH_TABLE_SHIFT;
    /// Where those bits begin.
    pub const MH_TABLE_SHIFT: u32 = 24;

    /// The flag bits for a table of mh of this many slots, if there is one.
    pub fn mh_table(slots: u32) -> Option<u32> {
        PRIMES.iter().position(|p| *p == slots).map(|n| (n as u32 + 1) << MH_TABLE_SHIFT)
    }

    /// The flags of a scheduler with ipvsadm's names for them.
    pub fn of(kind: SchedulerKind) -> &'static [(&'static str, u32)] {
        match kind {
            SchedulerKind::Sh => &[("sh-fallback", FALLBACK), ("sh-port", PORT)],
            SchedulerKind::Mh => &[("mh-fallback", FALLBACK), ("mh-port", PORT)],
            _ => &[],
        }
    }
    /// The flag that ipvsadm calls so, whatever the scheduler.
    pub fn by_name(name: &str) -> Option<u32> {
        [SchedulerKind::Sh, SchedulerKind::Mh].into_iter().flat_map(of).find(|(n, _)| *n == name).map(|(_, f)| *f)
    }
}

/// A real server in its service's list.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedReal {
    /// Its number.
    pub id: RealId,
    /// Its weight as the schedulers count with it, at most [`MAX_WEIGHT`] (see [`Scale`]).
    pub weight: u32,
    /// Its weight as it was given.
    pub(super) given_weight: u32,
    /// Upper threshold, 0 for none.
    pub upper: u32,
    /// Lower threshold; 0 means three quarters of the upper one.
    pub lower: u32,
    /// Its address.
    pub addr: Ip,
    /// Its port.
    pub port: Be16,
    /// Divides a cost by its weight.
    pub(super) by_weight: Divisor,
    /// The largest weight from here to the end of the list.
    pub(super) tail_max: u32,
    /// The common divisor of the weights from here to the end of the list; 0 if all are 0.
    pub(super) tail_divisor: u32,
}

/// What a scheduler reads of a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceSched {
    /// The scheduler.
    pub kind: SchedulerKind,
    /// Its [`flags`].
    pub flags: u32,
    /// The real servers in the order in which they are tried: the newest first.
    pub reals: Arc<[SchedReal]>,
    /// sh, dh, mh: real servers' numbers by slot.
    pub(super) table: Option<Arc<[u32]>>,
    /// twos: what random numbers mean.
    pub(super) draw: Option<Arc<Draw>>,
    /// Tells this list from any other one, so that a worker sees that it has changed. Not 0,
    /// except in an unused slot.
    pub(super) fingerprint: u64,
    /// Bits after the point of a cost divided by a weight.
    pub(super) fraction: u32,
}

impl ServiceSched {
    /// Compiles a service's scheduler for its real servers in list order, the newest first.
    /// Pure. Takes microseconds for most schedulers, under a millisecond for mh.
    pub fn compile<'a>(kind: SchedulerKind, flags: u32, members: impl Iterator<Item = (RealId, &'a Real)>) -> Self {
        let mut fingerprint = mix(0, kind as u64);
        let mut last_weights = Vec::new();
        let members: Vec<_> = members.collect();
        let scale = Scale::new(kind, members.iter().map(|(_, r)| r.weight));
        let mut reals: Vec<SchedReal> = members
            .into_iter()
            .map(|(id, r)| {
                for word in [u64::from(id.0) << 32 | u64::from(r.weight), u64::from(r.upper) << 32 | u64::from(r.lower)]
                {
                    fingerprint = mix(fingerprint, word);
                }
                // The forwarding mode plays no part, but the kernel takes its change for an edit.
                let place = r.addr.hi() ^ r.addr.lo().rotate_left(24) ^ u64::from(r.port.raw()) << 8 ^ r.mode as u64;
                fingerprint = mix(fingerprint, place);
                last_weights.push(if r.weight > 0 { r.weight } else { r.last_weight });
                SchedReal {
                    id,
                    weight: scale.apply(r.weight),
                    given_weight: r.weight,
                    upper: r.upper,
                    lower: r.lower,
                    addr: r.addr,
                    port: r.port,
                    by_weight: Divisor::ZERO,
                    tail_max: 0,
                    tail_divisor: 0,
                }
            })
            .collect();
        let fraction = prepare_weights(&mut reals);
        let table = tables::build(kind, flags, &reals, &last_weights);
        let draw = if kind == SchedulerKind::Twos { Draw::new(&reals) } else { None };
        Self { kind, flags, reals: reals.into(), table, draw, fingerprint: fingerprint | 1, fraction }
    }
}

/// How weights beyond [`MAX_WEIGHT`] are brought below it (the kernel takes 31 bits). Where only
/// their ratio counts all of a service's are divided, first by their common divisor; no server
/// is divided down to 0. Where connections are compared with a weight itself, one beyond
/// counts as the largest. Services without such weights are left as they are.
#[derive(Clone, Copy, Debug)]
struct Scale {
    divisor: u32,
    shift: u32,
}

impl Scale {
    fn new(kind: SchedulerKind, weights: impl Iterator<Item = u32> + Clone) -> Self {
        let max = weights.clone().max().unwrap_or(0);
        let absolute = matches!(kind, SchedulerKind::Ovf | SchedulerKind::Lblc | SchedulerKind::Lblcr);
        if max <= MAX_WEIGHT || absolute {
            return Self { divisor: 1, shift: 0 };
        }
        let divisor = weights.fold(0, gcd).max(1);
        Self { divisor, shift: (max / divisor).ilog2().saturating_sub(MAX_WEIGHT.ilog2()) }
    }
    fn apply(self, weight: u32) -> u32 {
        ((weight / self.divisor) >> self.shift).clamp(weight.min(1), MAX_WEIGHT)
    }
}

/// Fills in what follows from the weights; returns the bits after the point.
fn prepare_weights(reals: &mut [SchedReal]) -> u32 {
    let (mut max, mut divisor) = (0, 0);
    for r in reals.iter_mut().rev() {
        max = r.weight.max(max);
        divisor = gcd(divisor, r.weight);
        (r.tail_max, r.tail_divisor) = (max, divisor);
    }
    let divisor = divisor.max(1);
    let second = reals.iter().map(|r| r.weight).filter(|w| *w != max).max().unwrap_or(0);
    let fraction = fraction_bits(max / divisor, (second / divisor).max(1));
    for r in reals.iter_mut().filter(|r| r.weight > 0) {
        r.by_weight = Divisor::new(r.weight / divisor, fraction);
    }
    fraction
}

pub(super) fn gcd(a: u32, b: u32) -> u32 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn mix(state: u64, word: u64) -> u64 {
    let x = (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^ x.rotate_right(29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ipvsadms() {
        for kind in SchedulerKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
        }
        assert!("wrrr".parse::<SchedulerKind>().is_err());
    }

    #[test]
    fn large_weights_keep_their_ratio() {
        let scaled = |kind, weights: &[u32]| {
            let scale = Scale::new(kind, weights.iter().copied());
            weights.iter().map(|w| scale.apply(*w)).collect::<Vec<_>>()
        };
        use SchedulerKind::{Ovf, Wlc};
        assert_eq!(scaled(Wlc, &[65_535, 0, 2]), [65_535, 0, 2]);
        assert_eq!(scaled(Wlc, &[100_000, 50_000, 0]), [2, 1, 0]);
        assert_eq!(scaled(Wlc, &[2_147_483_647, 1, 1_073_741_823]), [65_535, 1, 32_767]);
        assert_eq!(scaled(Wlc, &[131_071, 65_537]), [65_535, 32_768]);
        assert_eq!(scaled(Ovf, &[100_000, 5, 0]), [65_535, 5, 0]);
    }
}
