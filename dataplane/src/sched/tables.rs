//! Hashing schedulers: tables that control builds, and the look into them.
//!
//! sh and dh spread 256 slots over the list; mh fills a table of prime size by Maglev
//! hashing (Eisenbud et al., NSDI 2016, section 3.4), with the kernel's hash and keys, so
//! that a kernel director and this one send a client to the same server.

use std::sync::Arc;

use siphasher::sip::SipHasher13;

use super::SchedKey;
use super::config::{SchedReal, SchedulerKind, ServiceSched, flags, gcd};
use crate::units::{Be16, Ip, RealId};

/// Slots of sh and dh, as the kernel's `IP_VS_SH_TAB_BITS` 8 gives.
const SLOTS: usize = 256;

/// Sizes of mh's table, for the kernel's `IP_VS_MH_TAB_INDEX` 8 to 17.
pub(super) const PRIMES: [u32; 10] = [251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_521, 131_071];

/// The kernel's default, `IP_VS_MH_TAB_INDEX` 12.
const DEFAULT_PRIME: usize = 4;

/// Most other slots that a fallback tries: all of the kernel's default table.
const TRIES: u32 = PRIMES[DEFAULT_PRIME];

/// Builds the table that a hashing scheduler needs, of real servers' numbers; `None` for
/// the others. `last_weights` is for mh, in list order. A pure function.
pub(super) fn build(
    kind: SchedulerKind,
    flag_bits: u32,
    reals: &[SchedReal],
    last_weights: &[u32],
) -> Option<Arc<[u32]>> {
    match kind {
        SchedulerKind::Dh => Some(in_turn(reals, |_| 1)),
        // A server of weight 0 has one slot, which is refused.
        SchedulerKind::Sh => Some(in_turn(reals, |r| r.given_weight.max(1))),
        SchedulerKind::Mh => Some(maglev(prime(flag_bits, reals.len()), reals, last_weights)),
        _ => None,
    }
}

/// Slots given in list order, each server `share` in a row, over and over.
fn in_turn(reals: &[SchedReal], share: impl Fn(&SchedReal) -> u32) -> Arc<[u32]> {
    if reals.is_empty() {
        return Arc::new([RealId::NONE.0; SLOTS]);
    }
    let all = reals.iter().flat_map(|r| std::iter::repeat_n(r.id.0, share(r) as usize));
    all.cycle().take(SLOTS).collect()
}

/// Which of [`PRIMES`] the flags ask for, or a larger one that holds all servers (the
/// kernel refuses to add more servers than its table has slots).
fn prime(flag_bits: u32, servers: usize) -> usize {
    let wanted = match (flag_bits & flags::MH_TABLE_MASK) >> flags::MH_TABLE_SHIFT {
        0 => DEFAULT_PRIME,
        n => (n as usize - 1).min(PRIMES.len() - 1),
    };
    (wanted..PRIMES.len()).find(|n| PRIMES[*n] as usize >= servers).unwrap_or(PRIMES.len() - 1)
}

/// One server's way through the table.
struct Turn {
    id: u32,
    at: u32,
    skip: u32,
    /// Slots in a row.
    share: u32,
}

/// Fills a table of [`PRIMES`]`[prime]` slots. Each server in turn takes the next free
/// slots of its own permutation, as many as its share.
fn maglev(prime: usize, reals: &[SchedReal], weights: &[u32]) -> Arc<[u32]> {
    let size = PRIMES[prime];
    let weight = |n: usize| weights.get(n).copied().unwrap_or(0);
    let divisor = (0..reals.len()).map(weight).fold(0, gcd);
    let mut table = vec![RealId::NONE.0; size as usize];
    if divisor == 0 {
        return table.into();
    }
    // Shares beyond half of the table's bits are shifted down.
    let largest = (0..reals.len()).map(weight).max().unwrap_or(0) / divisor;
    let shift = (largest.ilog2() + 1).saturating_sub((prime as u32 + 8) / 2);
    let mut turns: Vec<Turn> = (0..reals.len())
        .filter(|n| weight(*n) > 0)
        .map(|n| {
            let r = &reals[n];
            Turn {
                id: r.id.0,
                at: mh_hash(r.addr, r.port, FIRST_KEY, 0) % size,
                skip: mh_hash(r.addr, r.port, SECOND_KEY, 0) % (size - 1) + 1,
                share: ((weight(n) / divisor) >> shift).max(1),
            }
        })
        .collect();
    let mut free = size;
    loop {
        for t in &mut turns {
            for _ in 0..t.share {
                while table[t.at as usize] != RealId::NONE.0 {
                    t.at += t.skip;
                    t.at -= if t.at >= size { size } else { 0 };
                }
                table[t.at as usize] = t.id;
                free -= 1;
                if free == 0 {
                    return table.into();
                }
            }
        }
    }
}

const FIRST_KEY: u64 = 2_654_435_761;
const SECOND_KEY: u64 = 2_654_446_892;

/// The address's last (for IPv6: all, xored) 32 bits, host order.
#[inline(always)]
fn fold(a: Ip) -> u32 {
    let word = |n: usize| u32::from_be_bytes([a.0[n], a.0[n + 1], a.0[n + 2], a.0[n + 3]]);
    if a.is_v4() { word(12) } else { word(0) ^ word(4) ^ word(8) ^ word(12) }
}

/// The kernel's `hash_32` to eight bits.
#[inline(always)]
fn hash_32(value: u32) -> u32 {
    value.wrapping_mul(0x61C8_8647) >> 24
}

/// The kernel's `hsiphash` on a 64-bit machine: SipHash-1-3 cut to 32 bits.
#[inline(always)]
fn mh_hash(addr: Ip, port: Be16, key: u64, offset: u32) -> u32 {
    let value = offset.wrapping_add(u32::from(port.get())).wrapping_add(fold(addr));
    SipHasher13::new_with_keys(key, key).hash(&value.to_le_bytes()) as u32
}

/// The server that a hashing scheduler has for a packet. `usable` says whether a server may
/// be chosen; without fallback an unusable one means none.
#[inline]
pub(super) fn look_up(sched: &ServiceSched, key: &SchedKey, usable: impl Fn(RealId) -> bool) -> Option<RealId> {
    let table = sched.table.as_deref()?;
    let size = table.len() as u32;
    let port = if sched.flags & flags::PORT != 0 { key.client_port } else { Be16::new(0) };
    let slot = |offset: u32| match sched.kind {
        SchedulerKind::Dh => hash_32(fold(key.vip)),
        SchedulerKind::Sh => {
            let hash = hash_32(u32::from(port.get()).wrapping_add(fold(key.client)));
            offset.wrapping_add(hash) & (SLOTS as u32 - 1)
        }
        _ => mh_hash(key.client, port, FIRST_KEY, offset) % size,
    };
    let server = |slot: u32| table.get(slot as usize).map(|id| RealId(*id)).filter(|id| *id != RealId::NONE);
    let first = slot(0);
    let id = server(first)?;
    if usable(id) {
        return Some(id);
    }
    if sched.flags & flags::FALLBACK == 0 || sched.kind == SchedulerKind::Dh {
        return None;
    }
    (0..size.min(TRIES)).map(|n| (first + n) % size).map_while(|offset| server(slot(offset))).find(|id| usable(*id))
}
