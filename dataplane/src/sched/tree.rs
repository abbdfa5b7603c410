//! A minimum tree with four children a node over the positions of a service's list.
//!
//! A leaf holds (key, position) in one number, so that the smaller number is the smaller
//! key and, among equals, the smaller position: the kernel's «first strict minimum in
//! list order» in one comparison. A node holds the smallest number below it.
//!
//! Changing a leaf costs three comparisons a level for the siblings, which do not wait
//! for each other, and one for the way up: 1,000 servers have five levels. The minimum
//! is one load. Two widths exist, because exact comparison of `cost / weight` takes up
//! to 64 bits when weights are large and mixed ([`super::cost`]).

use super::cost::INELIGIBLE;

/// What a node holds.
pub(super) trait Node: Copy + Ord {
    /// Nothing eligible.
    const NONE: Self;
    /// From a key and a position of at most `bits` bits.
    fn new(key: u64, position: usize, bits: u32) -> Self;
    /// A leaf: [`Node::NONE`] for the key of a server that must not be chosen.
    #[inline(always)]
    fn leaf(key: u64, position: usize, shape: &Shape) -> Self {
        if key == INELIGIBLE { Self::NONE } else { Self::new(key, position, shape.bits) }
    }
    /// The largest number with this key.
    fn limit(key: u64, bits: u32) -> Self;
    /// The position.
    fn position(self, bits: u32) -> usize;
    /// The key.
    fn key(self, bits: u32) -> u64;
}

impl Node for u64 {
    const NONE: Self = u64::MAX;
    #[inline(always)]
    fn new(key: u64, position: usize, bits: u32) -> Self {
        key << bits | position as u64
    }
    #[inline(always)]
    fn limit(key: u64, bits: u32) -> Self {
        Self::new(key, (1 << bits) - 1, bits)
    }
    #[inline(always)]
    fn position(self, bits: u32) -> usize {
        (self & ((1 << bits) - 1)) as usize
    }
    #[inline(always)]
    fn key(self, bits: u32) -> u64 {
        self >> bits
    }
}

impl Node for u128 {
    const NONE: Self = u128::MAX;
    #[inline(always)]
    fn new(key: u64, position: usize, _bits: u32) -> Self {
        u128::from(key) << 32 | position as u128
    }
    #[inline(always)]
    fn limit(key: u64, bits: u32) -> Self {
        Self::new(key, u32::MAX as usize, bits)
    }
    #[inline(always)]
    fn position(self, _bits: u32) -> usize {
        self as u32 as usize
    }
    #[inline(always)]
    fn key(self, _bits: u32) -> u64 {
        (self >> 32) as u64
    }
}

/// Enough levels for four to the tenth, a million leaves.
const LEVELS: usize = 11;

/// Where the levels of a tree are in its slice of nodes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Start of each level, leaves first; the root is alone on level `top`.
    start: [u32; LEVELS],
    top: u32,
    /// How many leaves there is room for, a multiple of four.
    leaves: u32,
    /// Bits that a position takes.
    pub bits: u32,
}

impl Shape {
    /// No tree.
    pub const EMPTY: Self = Self { start: [0; LEVELS], top: 0, leaves: 0, bits: 0 };

    /// The shape of a tree for at least `leaves` leaves.
    pub fn new(leaves: usize) -> Self {
        let leaves = leaves.clamp(1, 1 << 20).next_multiple_of(4);
        let mut shape = Self { leaves: leaves as u32, bits: (leaves - 1).ilog2() + 1, ..Self::EMPTY };
        let (mut at, mut width, mut level) = (0, leaves, 0);
        while width > 1 {
            shape.start[level] = at as u32;
            at += width.next_multiple_of(4);
            width = width.div_ceil(4);
            level += 1;
        }
        shape.start[level] = at as u32;
        shape.top = level as u32;
        shape
    }
    /// How many nodes the tree takes.
    pub fn nodes(&self) -> usize {
        self.start[self.top as usize] as usize + 1
    }
    /// How many leaves there is room for.
    pub fn leaves(&self) -> usize {
        self.leaves as usize
    }
    /// The smallest number of all.
    #[inline(always)]
    pub fn min<N: Node>(&self, nodes: &[N]) -> N {
        nodes[self.start[self.top as usize & 15] as usize]
    }
    /// Sets a leaf and everything above it.
    #[inline(always)]
    pub fn set<N: Node>(&self, nodes: &mut [N], position: usize, value: N) {
        let (mut p, mut value) = (position, value);
        let mut start = 0;
        for level in 1..=self.top as usize {
            let group = &mut nodes[start + (p & !3)..][..4];
            group[p & 3] = value;
            // The three siblings are loaded without waiting for `value`.
            let others = group[(p + 1) & 3].min(group[(p + 2) & 3]).min(group[(p + 3) & 3]);
            value = value.min(others);
            p >>= 2;
            start = self.start[level] as usize;
        }
        nodes[start] = value;
    }
    /// Fills the tree from the leaves' values; missing ones are [`Node::NONE`].
    pub fn build<N: Node>(&self, nodes: &mut [N], leaves: impl Iterator<Item = N>) {
        let mut n = 0;
        for (slot, leaf) in nodes[..self.leaves()].iter_mut().zip(leaves) {
            *slot = leaf;
            n += 1;
        }
        nodes[n..self.start[1] as usize].fill(N::NONE);
        for level in 1..=self.top as usize {
            let (below, here) = nodes.split_at_mut(self.start[level] as usize);
            let below = &below[self.start[level - 1] as usize..];
            let mut groups = below.chunks_exact(4).map(|g| g[0].min(g[1]).min(g[2]).min(g[3]));
            let width =
                if level == self.top as usize { 1 } else { (self.start[level + 1] - self.start[level]) as usize };
            here[..width].fill_with(|| groups.next().unwrap_or(N::NONE));
        }
    }
    /// The first position from `from` on whose number is at most `limit`.
    #[inline]
    pub fn next<N: Node>(&self, nodes: &[N], from: usize, limit: N) -> Option<usize> {
        let mut p = from;
        for level in 0..self.top as usize {
            let (start, end) = (self.start[level] as usize, self.start[level + 1] as usize);
            if start + p >= end {
                return None;
            }
            let last = p | 3;
            while p <= last {
                if nodes[start + p] <= limit {
                    return Some(self.descend(nodes, level, p, limit));
                }
                p += 1;
            }
            p >>= 2;
        }
        (p == 0 && self.min(nodes) <= limit).then(|| self.descend(nodes, self.top as usize, 0, limit))
    }
    #[inline]
    fn descend<N: Node>(&self, nodes: &[N], level: usize, position: usize, limit: N) -> usize {
        let mut p = position;
        for level in (0..level).rev() {
            let group = &nodes[self.start[level] as usize + 4 * p..][..4];
            // One of the four fits, or the node above would not have.
            p = 4 * p + group.iter().position(|n| *n <= limit).unwrap_or(0);
        }
        p
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check<N: Node + std::fmt::Debug>(n: usize, changes: &[(usize, u64, u64)]) {
        let shape = Shape::new(n);
        let mut keys = vec![u64::MAX; n];
        let mut nodes = vec![N::NONE; shape.nodes()];
        let leaf = |k: u64, p| if k == u64::MAX { N::NONE } else { N::new(k, p, shape.bits) };
        shape.build(&mut nodes, (0..n).map(|_| N::NONE));
        for (i, (p, key, limit)) in changes.iter().enumerate() {
            let p = p % n;
            keys[p] = *key;
            shape.set(&mut nodes, p, leaf(*key, p));
            if i % 8 == 7 {
                let before = nodes.clone();
                shape.build(&mut nodes, keys.iter().enumerate().map(|(p, k)| leaf(*k, p)));
                assert_eq!(before, nodes);
            }
            let min = shape.min(&nodes);
            let want = (0..n).filter(|p| keys[*p] != u64::MAX).min_by_key(|p| (keys[*p], *p));
            assert_eq!(want, (min != N::NONE).then(|| min.position(shape.bits)));
            assert!(want.is_none_or(|w| min.key(shape.bits) == keys[w]));
            let next = shape.next(&nodes, p, N::limit(*limit, shape.bits));
            assert_eq!(next, (p..n).find(|q| keys[*q] <= *limit));
        }
    }

    proptest! {
        #[test]
        fn equals_a_scan(n in 1usize..300, changes in proptest::collection::vec((0usize..300, 0u64..9, 0u64..9), 1..60)) {
            check::<u64>(n, &changes);
            check::<u128>(n, &changes);
        }
    }

    #[test]
    fn holds_ten_thousand_leaves() {
        let changes: Vec<_> = (0..2000).map(|i: usize| (i * 7919, (i as u64 * 31) % 97, i as u64 % 97)).collect();
        check::<u64>(10_000, &changes);
        check::<u128>(1_025, &changes);
    }
}
