//! Tables that snapshots share: in pages by number, in shards by key.
//!
//! A copy of a table is a copy of its pages' addresses. A change copies the page that it is in, unless nobody
//! else holds that, and leaves the others to both: so control changes its table while workers read the
//! one that they were given, and the change costs what it changes rather than what there is.

use std::hash::{BuildHasher, BuildHasherDefault, Hash};
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::FoldHasher;

/// Entries of a page.
const PAGE: usize = 128;
/// Entries of a shard, on average and at most.
const SHARD: usize = 512;

/// A table by number. Numbers that were never set have the default.
#[derive(Clone, Debug)]
pub struct Pages<T> {
    pages: Vec<Arc<[T; PAGE]>>,
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self { pages: Vec::new() }
    }
}

impl<T> Pages<T> {
    /// The entry of a number, if the table reaches that far.
    #[inline(always)]
    pub fn get(&self, index: usize) -> Option<&T> {
        Some(&self.pages.get(index / PAGE)?[index % PAGE])
    }
    /// All entries, those that were never set and lie before or just after others included.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.pages.iter().flat_map(|p| p.iter())
    }
}

impl<T: Clone + Default> Pages<T> {
    /// Sets an entry.
    pub(super) fn set(&mut self, index: usize, value: T) {
        while self.pages.len() <= index / PAGE {
            self.pages.push(Arc::new(std::array::from_fn(|_| T::default())));
        }
        Arc::make_mut(&mut self.pages[index / PAGE])[index % PAGE] = value;
    }
}

impl<T: PartialEq + Default> Pages<T> {
    /// Whether both have the same entries; how far they reach does not matter.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let unset = T::default();
        let n = self.pages.len().max(other.pages.len()) * PAGE;
        (0..n).all(|i| self.get(i).unwrap_or(&unset) == other.get(i).unwrap_or(&unset))
    }
}

/// A table by key.
#[derive(Clone, Debug)]
pub(super) struct Shards<K, V> {
    /// A power of two of them.
    shards: Vec<Arc<HashTable<(K, V)>>>,
    len: usize,
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        Self { shards: vec![Arc::new(HashTable::new())], len: 0 }
    }
}

#[inline(always)]
fn hash<K: Hash>(key: &K) -> u64 {
    BuildHasherDefault::<FoldHasher>::default().hash_one(key)
}

impl<K: Hash + Eq, V> Shards<K, V> {
    /// The shard of a hash: by bits that the shard itself does not look at.
    #[inline(always)]
    fn shard(&self, hash: u64) -> usize {
        (hash >> 40) as usize & (self.shards.len() - 1)
    }
    /// The entry of a key.
    #[inline(always)]
    pub fn get(&self, key: &K) -> Option<&V> {
        let hash = hash(key);
        self.shards.get(self.shard(hash))?.find(hash, |(k, _)| k == key).map(|(_, v)| v)
    }
    /// Whether there is an entry of this key.
    #[inline(always)]
    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }
    /// All entries in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.shards.iter().flat_map(|s| s.iter())
    }
}

impl<K: Hash + Eq + Copy, V: Copy + PartialEq> Shards<K, V> {
    /// Sets an entry; returns what it was.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let old = self.get(&key).copied();
        if old == Some(value) {
            return old;
        }
        if old.is_none() && self.len >= self.shards.len() * SHARD {
            self.grow();
        }
        let hash = hash(&key);
        let n = self.shard(hash);
        match Arc::make_mut(&mut self.shards[n]).entry(hash, |(k, _)| *k == key, |(k, _)| self::hash(k)) {
            Entry::Occupied(mut e) => e.get_mut().1 = value,
            Entry::Vacant(e) => drop(e.insert((key, value))),
        }
        self.len += usize::from(old.is_none());
        old
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let old = *self.get(key)?;
        let hash = hash(key);
        let n = self.shard(hash);
        if let Ok(e) = Arc::make_mut(&mut self.shards[n]).find_entry(hash, |(k, _)| k == key) {
            e.remove();
            self.len -= 1;
        }
        Some(old)
    }

    /// Twice as many shards.
    fn grow(&mut self) {
        let n = self.shards.len() * 2;
        let mut tables: Vec<HashTable<(K, V)>> = (0..n).map(|_| HashTable::with_capacity(SHARD)).collect();
        for (key, value) in self.iter() {
            let hash = hash(key);
            tables[(hash >> 40) as usize & (n - 1)].insert_unique(hash, (*key, *value), |(k, _)| self::hash(k));
        }
        self.shards = tables.into_iter().map(Arc::new).collect();
    }

    /// Whether both have the same entries.
    pub fn is_like(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().all(|(k, v)| other.get(k) == Some(v))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A shared copy stays as it was, whatever is done to the other.
        #[test]
        fn tables_are_as_their_plain_models(
            edits in prop::collection::vec((0u16..700, prop::option::of(0u32..9)), 0..3000), at in 0usize..3000
        ) {
            let (mut shards, mut pages) = (Shards::default(), Pages::default());
            let mut model = HashMap::new();
            let mut kept = None;
            for (n, (key, value)) in edits.into_iter().enumerate() {
                if n == at {
                    kept = Some((shards.clone(), pages.clone(), model.clone()));
                }
                pages.set(usize::from(key), value.unwrap_or(0));
                match value {
                    Some(v) => prop_assert_eq!(shards.insert(key, v), model.insert(key, v)),
                    None => prop_assert_eq!(shards.remove(&key), model.remove(&key)),
                }
            }
            for (shards, pages, model) in [Some((shards, pages, model)), kept].into_iter().flatten() {
                prop_assert_eq!(shards.iter().count(), model.len());
                for key in 0u16..800 {
                    prop_assert_eq!(shards.get(&key), model.get(&key));
                    let in_page = pages.get(usize::from(key)).copied().unwrap_or(0);
                    prop_assert_eq!(in_page, model.get(&key).copied().unwrap_or(0));
                }
                let mut again = Shards::default();
                for (k, v) in &model {
                    again.insert(*k, *v);
                }
                prop_assert!(shards.is_like(&again));
                again.insert(999, 1);
                prop_assert!(!shards.is_like(&again));
            }
        }
    }
}
