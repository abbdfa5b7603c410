//! Overload defences: what a worker does while its flow table is nearly full.
//!
//! The kernel's `drop_entry`, `drop_packet` and `secure_tcp` (`update_defense_level` in
//! `ip_vs_ctl.c`), each off (0), automatic (1 and 2) or always on (3). What is memory left
//! there is room in the flow table here: automatic ones are at work while less is free than
//! the setting says. Levels follow the table from poll to poll rather than once a second.

use crate::flow::record::flags;
use crate::flow::state;
use crate::flow::table::FlowId;
use crate::snapshot::Settings;
use crate::units::Tick;
use crate::worker::Core;

/// Share of the table that `drop_entry` looks at every second: one in so many.
const EVICT_SHARE: u32 = 32;
/// Records it looks at per poll at most, so that a burst waits a microsecond at most.
const EVICT_SLICE: u32 = 16;

/// The defences of one worker.
#[derive(Debug)]
pub struct Defence {
    /// The stricter TCP state table is in use.
    pub secure: bool,
    /// One of so many packets that would open a flow is dropped; 0 for none.
    drop_rate: u32,
    until_drop: u32,
    evicting: bool,
    left: u32,
    refill: Tick,
    random: u64,
}

impl Defence {
    /// Nothing to defend against yet; `seed` makes workers differ.
    pub fn new(seed: u64) -> Self {
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let refill = Tick(0);
        Self { secure: false, drop_rate: 0, until_drop: 0, evicting: false, left: 0, refill, random }
    }

    /// Sets the levels by how many of `capacity` flows there are.
    #[inline]
    pub fn update(&mut self, s: &Settings, flows: u32, capacity: u32) {
        let reserve = u64::from(capacity) * (100 - u64::from(s.overload_percent.min(100))) / 100;
        let free = u64::from(capacity.saturating_sub(flows));
        let short = free < reserve || free == 0;
        let on = |level: u8| level == 3 || (level > 0 && short);
        self.secure = on(s.secure_tcp);
        self.evicting = on(s.drop_entry);
        self.drop_rate = match s.drop_packet {
            3 => u32::from(s.drop_packet_rate),
            // The kernel's rule: from a few packets dropped to all as the reserve runs out.
            1 | 2 if short => (reserve / (reserve - free).max(1)).max(1) as u32,
            _ => 0,
        };
    }

    /// Whether this packet, which would open a flow, is to be dropped.
    pub fn drops(&mut self) -> bool {
        if self.drop_rate == 0 {
            self.until_drop = 0;
            return false;
        }
        // The rate may have become sharper since the last one.
        self.until_drop = self.until_drop.min(self.drop_rate);
        if self.until_drop > 1 {
            self.until_drop -= 1;
            return false;
        }
        self.until_drop = self.drop_rate;
        true
    }

    /// Which defences are at work: drop_entry, drop_packet, secure_tcp.
    pub fn at_work(&self) -> [bool; 3] {
        [self.evicting, self.drop_rate > 0, self.secure]
    }

    fn next(&mut self) -> u64 {
        // Xorshift (Marsaglia 2003): enough to hit flows at random.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// Updates the levels, and ends a slice of half-open flows where that is asked for.
#[inline]
pub fn tend<B>(core: &mut Core<B>, s: &Settings) {
    // Nearly always: nothing is asked for, and nothing is left to be switched off.
    let asked = s.drop_entry | s.drop_packet | s.secure_tcp != 0;
    if asked || core.defence.at_work() != [false; 3] {
        act(core, s);
    }
}

#[inline(never)]
fn act<B>(core: &mut Core<B>, s: &Settings) {
    core.defence.update(s, core.flows.len(), core.flows.capacity());
    let [evicting, dropping, secure] = core.defence.at_work();
    let w = &core.link.counters.worker;
    w.defence_drop_entry.set(u64::from(evicting));
    w.defence_drop_packet.set(u64::from(dropping));
    w.defence_secure_tcp.set(u64::from(secure));
    if evicting {
        evict(core);
    }
}

/// Looks at a few records at random and ends those of half-open connections.
#[cold]
fn evict<B>(core: &mut Core<B>) {
    let capacity = core.flows.capacity();
    if core.defence.refill.reached(core.now) {
        core.defence.refill = core.now.after_ms(1000);
        core.defence.left = capacity.div_ceil(EVICT_SHARE);
    }
    let slice = core.defence.left.min(EVICT_SLICE);
    core.defence.left -= slice;
    for _ in 0..slice {
        let id = FlowId((((core.defence.next() >> 32) * u64::from(capacity)) >> 32) as u32);
        if core.flows.try_get_mut(id).is_some_and(|r| r.flags & flags::TEMPLATE == 0 && state::is_half_open(r.state)) {
            core.end_flow(id);
            core.link.counters.worker.flows_dropped.add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(level: u8) -> Settings {
        Settings { drop_entry: level, drop_packet: level, secure_tcp: level, ..Settings::default() }
    }

    #[test]
    fn automatic_defences_come_and_go_with_the_table() {
        let mut d = Defence::new(1);
        for (level, flows, on) in
            [(0, 1000, false), (1, 899, false), (1, 901, true), (2, 901, true), (2, 10, false), (3, 0, true)]
        {
            d.update(&settings(level), flows, 1000);
            assert_eq!(d.at_work(), [on; 3], "level {level} with {flows} flows");
        }
    }

    #[test]
    fn packets_are_dropped_one_in_ten_when_fixed_and_ever_more_as_room_runs_out() {
        let mut d = Defence::new(1);
        let mut share = |s: &Settings, flows| {
            d.update(s, flows, 1000);
            (0..1000).filter(|_| d.drops()).count()
        };
        assert!((100..=101).contains(&share(&settings(3), 0)));
        assert_eq!(share(&settings(1), 500), 0);
        // Of the reserve of 100, 50 are left: one in two; none left: all.
        assert!((19..=21).contains(&share(&settings(1), 902)));
        assert!((500..=501).contains(&share(&settings(1), 950)));
        assert_eq!(share(&settings(1), 1000), 1000);
    }
}
