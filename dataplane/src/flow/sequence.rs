//! Sequence numbers of a connection in which the director puts in or takes out bytes.

/// Whether `a` comes after `b` (RFC 9293 section 3.4: numbers wrap).
#[inline]
pub fn after(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) < 0
}

/// How the numbers of one direction differ on the receiver's side. The last change and the
/// one before are remembered, as in the kernel's `ip_vs_seq`: segments from before the last
/// change may still be sent again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shift {
    /// What comes after this number (the sender's) is shifted by `delta`, the rest by `before`.
    from: u32,
    delta: i32,
    before: i32,
}

impl Shift {
    /// No difference.
    pub const NONE: Self = Self { from: 0, delta: 0, before: 0 };

    /// Whether numbers are the same on both sides.
    #[inline]
    pub fn is_none(&self) -> bool {
        self.delta | self.before == 0
    }

    /// What the receiver knows the sender's number `seq` as.
    #[inline]
    pub fn forward(&self, seq: u32) -> u32 {
        seq.wrapping_add_signed(if after(seq, self.from) { self.delta } else { self.before })
    }

    /// The sender's number for the receiver's `ack`. Bytes that were put in are acknowledged
    /// as nothing.
    #[inline]
    pub fn back(&self, ack: u32) -> u32 {
        let early = ack.wrapping_sub(self.before as u32);
        if !after(early, self.from) {
            return early;
        }
        let late = ack.wrapping_sub(self.delta as u32);
        if after(late, self.from) { late } else { self.from }
    }

    /// The segment that begins at `seq` became longer by `by` bytes. Said again for a
    /// segment that is sent again, it changes nothing.
    pub fn grow(&mut self, seq: u32, by: i32) {
        if self.is_none() || after(seq, self.from) {
            *self = Self { from: seq, delta: self.delta.wrapping_add(by), before: self.delta };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_shifts_what_follows_and_is_acknowledged_as_nothing() {
        for isn in [1000, u32::MAX - 10, u32::MAX] {
            let n = |x: u32| x.wrapping_add(isn);
            let mut s = Shift::NONE;
            assert!(s.is_none());
            s.grow(n(1), 28);
            for (here, there) in [(n(0), n(0)), (n(1), n(1)), (n(2), n(30)), (n(500), n(528))] {
                assert_eq!((s.forward(here), s.back(there)), (there, here));
            }
            assert_eq!([n(5), n(28), n(29)].map(|a| s.back(a)), [n(1); 3]);
            // The same segment again.
            s.grow(n(1), 28);
            assert_eq!(s.forward(n(2)), n(30));
            // A second change: what was sent between the two keeps its shift.
            s.grow(n(100), -5);
            for (here, there) in [(n(50), n(78)), (n(100), n(128)), (n(120), n(143))] {
                assert_eq!((s.forward(here), s.back(there)), (there, here));
            }
        }
    }
}
