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
    /// Alignment of four of them.
    type Align: Copy + std::fmt::Debug;
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
    type Align = Align32;
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
    type Align = Align64;
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

/// Four siblings: half a cache line, or a whole one where nodes are wide.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Group<N: Node>([N; 4], [N::Align; 0]);

/// Nothing, aligned so that a group of narrow nodes stays in one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub(super) struct Align32;

/// The same for wide nodes.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Align64;

const _: () = assert!(align_of::<Group<u64>>() == 32 && size_of::<Group<u64>>() == 32);
const _: () = assert!(align_of::<Group<u128>>() == 64 && size_of::<Group<u128>>() == 64);

impl<N: Node> Group<N> {
    /// Nothing eligible.
    pub const NONE: Self = Self([N::NONE; 4], []);

    #[inline(always)]
    fn min(&self) -> N {
        let [a, b, c, d] = self.0;
        a.min(b).min(c.min(d))
    }
}

/// Most leaves of a tree.
pub(super) const MAX_LEAVES: usize = 1 << 20;

/// Four to the tenth is [`MAX_LEAVES`].
const LEVELS: usize = 11;

/// Where the levels of a tree are in its groups.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// The first group of each level, leaves first; the root is the first node of level `top`.
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

    /// The shape of a tree for at least `leaves` leaves, with some room to grow where that
    /// takes no further level.
    pub fn new(leaves: usize) -> Self {
        let leaves = leaves.clamp(1, MAX_LEAVES).next_multiple_of(4);
        let level_full = 1usize << leaves.next_power_of_two().trailing_zeros().next_multiple_of(2);
        let leaves = (leaves + leaves / 4).next_multiple_of(4).min(level_full.max(4));
        let mut shape = Self { leaves: leaves as u32, bits: (leaves - 1).ilog2() + 1, ..Self::EMPTY };
        let (mut at, mut width, mut level) = (0, leaves, 0);
        while width > 1 {
            shape.start[level] = at as u32;
            width = width.div_ceil(4);
            at += width;
            level += 1;
        }
        shape.start[level] = at as u32;
        shape.top = level as u32;
        shape
    }
    /// How many groups the tree takes.
    pub fn groups(&self) -> usize {
        self.start[self.top as usize] as usize + 1
    }
    /// How many leaves there is room for.
    pub fn leaves(&self) -> usize {
        self.leaves as usize
    }
    /// The smallest number of all.
    #[inline(always)]
    pub fn min<N: Node>(&self, groups: &[Group<N>]) -> N {
        groups[self.root()].0[0]
    }
    #[inline(always)]
    fn root(&self) -> usize {
        self.start.get(self.top as usize).map_or(0, |s| *s as usize)
    }
    /// Sets a leaf and everything above it.
    #[inline(always)]
    pub fn set<N: Node>(&self, groups: &mut [Group<N>], position: usize, value: N) {
        let (mut p, mut value) = (position, value);
        for start in self.start.iter().take(self.top as usize) {
            let Group(g, _) = &mut groups[*start as usize + (p >> 2)];
            let i = p & 3;
            // The three siblings are loaded without waiting for `value`.
            let others = g[i ^ 1].min(g[i ^ 2]).min(g[i ^ 3]);
            g[i] = value;
            value = value.min(others);
            p >>= 2;
        }
        groups[self.root()].0[0] = value;
    }
    /// Sets a leaf, and nothing above it: for a tree that is built.
    #[inline(always)]
    pub fn put<N: Node>(&self, groups: &mut [Group<N>], position: usize, value: N) {
        groups[position >> 2].0[position & 3] = value;
    }
    /// How many groups stand above the leaves.
    pub fn above(&self) -> usize {
        self.groups() - self.start[1] as usize
    }
    /// Fills groups above the leaves from what is below them, `from` to `to` counted from the lowest
    /// on. A tree is built by setting all leaves and then filling all these in order; leaves may
    /// change meanwhile.
    pub fn raise<N: Node>(&self, groups: &mut [Group<N>], from: usize, to: usize) {
        let first = self.start[1] as usize;
        let mut level = 1;
        for at in first + from..(first + to).min(self.groups()) {
            while level < self.top as usize && at >= self.start[level + 1] as usize {
                level += 1;
            }
            let (low, here) = (self.start[level - 1] as usize, self.start[level] as usize);
            let (below, above) = groups.split_at_mut(here);
            let mut mins = below[low..].iter().skip(4 * (at - here)).map(Group::min);
            above[at - here].0.fill_with(|| mins.next().unwrap_or(N::NONE));
        }
    }
    /// Fills the tree from the leaves' values; missing ones are [`Node::NONE`].
    #[cfg(test)]
    pub fn build<N: Node>(&self, groups: &mut [Group<N>], leaves: impl Iterator<Item = N>) {
        let mut leaves = leaves;
        (0..self.leaves()).for_each(|p| self.put(groups, p, leaves.next().unwrap_or(N::NONE)));
        // In pieces, as it is done where time is short.
        (0..self.above()).for_each(|at| self.raise(groups, at, at + 1));
    }
    /// The first position from `from` on whose number is at most `limit`.
    #[inline]
    pub fn next<N: Node>(&self, groups: &[Group<N>], from: usize, limit: N) -> Option<usize> {
        let mut p = from;
        for level in 0..self.top as usize {
            let group = self.start[level] as usize + (p >> 2);
            if group >= self.start[level + 1] as usize {
                return None;
            }
            let siblings = &groups[group].0;
            if let Some(i) = (p & 3..4).find(|i| siblings[*i] <= limit) {
                return Some(self.descend(groups, level, (p & !3) + i, limit));
            }
            p = (p >> 2) + 1;
        }
        None
    }
    #[inline]
    fn descend<N: Node>(&self, groups: &[Group<N>], level: usize, position: usize, limit: N) -> usize {
        let mut p = position;
        for level in (0..level).rev() {
            let Group(g, _) = &groups[self.start[level] as usize + p];
            // One of the four fits, or the node above would not have.
            p = 4 * p + g.iter().position(|n| *n <= limit).unwrap_or(0);
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
        let mut nodes = vec![Group::<N>::NONE; shape.groups()];
        let leaf = |k: u64, p| if k == u64::MAX { N::NONE } else { N::new(k, p, shape.bits) };
        shape.build(&mut nodes, (0..n).map(|_| N::NONE));
        for (i, (p, key, limit)) in changes.iter().enumerate() {
            let p = p % n;
            keys[p] = *key;
            shape.set(&mut nodes, p, leaf(*key, p));
            if i % 8 == 7 {
                let before = nodes.clone();
                shape.build(&mut nodes, keys.iter().enumerate().map(|(p, k)| leaf(*k, p)));
                assert!(before.iter().zip(&nodes).all(|(a, b)| a.0 == b.0));
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
