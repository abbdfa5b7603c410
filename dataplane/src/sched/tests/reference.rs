//! The deterministic schedulers against plain scans of the list, over random histories.

use proptest::prelude::*;

use super::super::SchedulerKind::*;
use super::*;

/// A server as the scan sees it.
#[derive(Clone, Copy, Debug)]
struct Plain {
    id: RealId,
    weight: u64,
    c: Connections,
    overloaded: bool,
}

impl Plain {
    fn usable(&self) -> bool {
        self.weight > 0 && !self.overloaded
    }
    fn overhead(&self) -> u64 {
        u64::from(self.c.active) * 256 + u64::from(self.c.inactive)
    }
}

/// The first server that costs strictly less than all before it.
fn first_least(list: &[Plain], cost: impl Fn(&Plain) -> u64, weighted: bool) -> Option<RealId> {
    let mut least: Option<&Plain> = None;
    for p in list.iter().filter(|p| p.usable()) {
        let weight = |p: &Plain| if weighted { p.weight } else { 1 };
        if least.is_none_or(|l| cost(l) * weight(p) > cost(p) * weight(l)) {
            least = Some(p);
        }
    }
    least.map(|p| p.id)
}

/// Weighted round robin, pass by pass: position and pass, then the choice.
fn scan_wrr(list: &[Plain], at: &mut Option<usize>, pass: &mut u64) -> Option<RealId> {
    let max = list.iter().map(|p| p.weight).max().unwrap_or(0);
    let step = list.iter().fold(0, |g, p| super::super::config::gcd(g, p.weight as u32)).max(1) as u64;
    let top = max.saturating_sub(step - 1);
    if top == 0 || !list.iter().any(Plain::usable) {
        return None;
    }
    loop {
        let from = at.map_or(0, |a| a + 1);
        if let Some(n) = (from..list.len()).find(|n| list[*n].usable() && list[*n].weight >= *pass) {
            *at = Some(n);
            return Some(list[n].id);
        }
        *at = None;
        *pass = if *pass > step { *pass - step } else { top };
    }
}

#[derive(Clone, Debug)]
enum Step {
    Flow,
    Turn(u8, bool),
    Close(u8, bool),
    Edit(u8, u32),
    Del(u8),
    Add(u8, u32),
    Limit(u32, u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = 1u8..24;
    let weight = prop_oneof![0u32..6, Just(100), Just(65_535), 1u32..2000];
    let step = prop_oneof![
        20 => Just(Step::Flow),
        3 => (name.clone(), any::<bool>()).prop_map(|(n, a)| Step::Turn(n, a)),
        6 => (name.clone(), any::<bool>()).prop_map(|(n, a)| Step::Close(n, a)),
        1 => (name.clone(), weight.clone()).prop_map(|(n, w)| Step::Edit(n, w)),
        1 => name.clone().prop_map(Step::Del),
        2 => (name, weight).prop_map(|(n, w)| Step::Add(n, w)),
        1 => (0u32..8, 0u32..4).prop_map(|(u, l)| Step::Limit(u, l)),
    ];
    proptest::collection::vec(step, 1..250)
}

/// Applies a step that is no flow; says whether the list changed.
fn apply(b: &mut Bench, step: &Step) -> bool {
    let listed = |b: &Bench, n: u8| b.list.iter().copied().find(|id| b.reals[id.index()].addr.0[15] == n);
    match *step {
        Step::Turn(n, active) => {
            let Some(id) = listed(b, n) else { return false };
            let c = b.counts.connections(id);
            if (if active { c.inactive } else { c.active }) > 0 {
                b.core.turned(&b.counts, id, active);
            }
            false
        }
        Step::Close(n, active) => {
            // Flows of removed servers end as well.
            let Some(id) = b.reals.iter().position(|r| r.addr.0[15] == n) else { return false };
            let c = b.counts.connections(RealId(id as u32));
            if (if active { c.active } else { c.inactive }) > 0 {
                b.core.closed(&b.counts, RealId(id as u32), active);
            }
            false
        }
        Step::Edit(n, w) if listed(b, n).is_some() => {
            b.edit(n, w);
            true
        }
        Step::Del(n) if listed(b, n).is_some() => {
            b.del(n);
            true
        }
        Step::Add(n, w) if listed(b, n).is_none() => {
            b.add(n, w);
            true
        }
        Step::Limit(upper, lower) => {
            b.threshold(upper, lower.min(upper));
            true
        }
        _ => false,
    }
}

/// What a scan of the list chooses; `after` is the server chosen last, or the one before it.
fn scan(kind: SchedulerKind, list: &[Plain], after: Option<RealId>) -> Option<RealId> {
    let delay = |p: &Plain| u64::from(p.c.active) + 1;
    let lightness = |p: &Plain| u64::from(MAX_WEIGHT) - p.weight;
    match kind {
        Lc => first_least(list, Plain::overhead, false),
        Wlc => first_least(list, Plain::overhead, true),
        Sed => first_least(list, delay, true),
        Nq => match list.iter().find(|p| p.usable() && p.c.active == 0) {
            Some(idle) => Some(idle.id),
            None => first_least(list, delay, true),
        },
        Fo => first_least(list, lightness, false),
        Ovf => {
            let open: Vec<Plain> = list.iter().copied().filter(|p| u64::from(p.c.active) <= p.weight).collect();
            first_least(&open, lightness, false)
        }
        _ => {
            let from = after.and_then(|l| list.iter().position(|p| p.id == l)).map_or(0, |n| n + 1);
            list[from..].iter().chain(&list[..from]).find(|p| p.usable()).map(|p| p.id)
        }
    }
}

fn play(kind: SchedulerKind, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut b = Bench::new(kind, &[(1, 1), (2, 2), (3, 3)]);
    let (mut last, mut at, mut pass) = (None::<RealId>, None, 0);
    for step in std::iter::once(&Step::Limit(0, 0)).chain(steps) {
        let before = b.list.clone();
        let changed = apply(&mut b, step);
        if !changed && !matches!(step, Step::Flow) {
            continue;
        }
        // Round robin's pointer steps back from a removed server.
        if let Some(gone) = last.filter(|l| !b.list.contains(l)) {
            last = before.iter().take_while(|id| **id != gone).last().copied();
        }
        // The worker sees each edit by itself, as the kernel does.
        let got = b.choose([10, 1, 0, 1], 1, [10, 9, 0, 1]);
        let plain = |id: &RealId| Plain {
            id: *id,
            weight: u64::from(b.reals[id.index()].weight),
            c: b.counts.connections(*id),
            overloaded: b.core.overloaded(*id),
        };
        let list: Vec<Plain> = b.list.iter().map(plain).collect();
        let want = match kind {
            // Where the kernel goes on after an edit or a refusal is recorded (`sequences`);
            // here the passes are followed from wherever the rotation stands.
            Wrr if changed || !list.iter().any(Plain::usable) => {
                let rotation = b.core.services[SERVICE.index()].live().rotation;
                at = (rotation.at != u32::MAX).then_some(rotation.at as usize);
                pass = rotation.pass.into();
                got.filter(|_| list.iter().any(Plain::usable))
            }
            Wrr => scan_wrr(&list, &mut at, &mut pass),
            _ => scan(kind, &list, last),
        };
        prop_assert_eq!(got, want, "{} {:?}", kind, list);
        if let Some(id) = got {
            last = Some(id);
            b.core.opened(&b.counts, id, true);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn choices_equal_a_scan(steps in steps()) {
        for kind in [Rr, Wrr, Lc, Wlc, Sed, Nq, Fo, Ovf] {
            play(kind, &steps)?;
        }
    }
}
