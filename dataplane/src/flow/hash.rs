//! The flow hash: over the client's side only, so that both directions of NAT share it.
//!
//! Two folded multiplications with secret keys. A CRC would be as fast, but it is linear:
//! who knows it can make flows collide whatever the seed.

use crate::units::{Be16, Ip, WorkerId};

/// A flow's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct FlowHash(pub u64);

/// The keys of the hash, the same for all workers.
#[derive(Clone, Copy)]
pub struct Secret([u64; 4]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

#[inline(always)]
fn fold_multiply(a: u64, b: u64) -> u64 {
    let m = u128::from(a) * u128::from(b);
    m as u64 ^ (m >> 64) as u64
}

impl Secret {
    /// Random keys.
    ///
    /// # Errors
    /// When the kernel gives no random numbers.
    pub fn random() -> std::io::Result<Self> {
        use std::io::Read;
        let mut bytes = [0; 32];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let mut keys = [0; 4];
        for (k, b) in keys.iter_mut().zip(bytes.chunks_exact(8)) {
            // Odd, so that no key makes everything zero.
            *k = b.iter().fold(0, |x, b| x << 8 | u64::from(*b)) | 1;
        }
        Ok(Self(keys))
    }

    /// Keys that are always the same, for tests.
    pub fn fixed() -> Self {
        Self([0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93, 0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db])
    }

    /// Hash of a client's address and port, and the protocol.
    #[inline(always)]
    pub fn hash(&self, client: Ip, port: Be16, proto: u8) -> FlowHash {
        if client.is_v4() {
            let ([a, b, c, d], [p, q]) = (client.v4_bytes(), port.0);
            return self.hash_v4(u64::from_le_bytes([0, proto, p, q, a, b, c, d]));
        }
        self.hash_v6(client, port, proto)
    }

    /// The same for a client's address that is known to be no IPv4 one.
    #[inline(always)]
    pub fn hash_v6(&self, client: Ip, port: Be16, proto: u8) -> FlowHash {
        let [a, b, c, d] = self.0;
        let x = fold_multiply(client.lo() ^ a, client.hi() ^ b);
        FlowHash(fold_multiply(x ^ c, (u64::from(port.raw()) << 8 | u64::from(proto)) ^ d))
    }

    /// The same for a client's IPv4 address, in the order in which an IPv4 header has it:
    /// from the least significant byte on zero, the protocol, the port, the address.
    #[inline(always)]
    pub fn hash_v4(&self, word: u64) -> FlowHash {
        let [a, b, _, d] = self.0;
        FlowHash(fold_multiply(fold_multiply(word ^ a, b), d))
    }
}

impl FlowHash {
    /// The worker that owns the flow, from bits that place nothing else.
    #[inline(always)]
    pub fn owner(self, workers: u16) -> WorkerId {
        WorkerId((((self.0 >> 48) * u64::from(workers)) >> 16) as u16)
    }
    /// The home bucket among `buckets`.
    #[inline(always)]
    pub fn bucket(self, buckets: u32) -> u32 {
        super::memory::share(self.0 as u32, u64::from(buckets)) as u32
    }
    /// How far apart the buckets are where the flow may lie, 1 to `buckets` − 1: from all
    /// bits, so that flows of one home part ways. At least two buckets.
    #[inline(always)]
    pub fn stride(self, buckets: u32) -> u32 {
        let mixed = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        1 + ((mixed * u64::from(buckets - 1)) >> 32) as u32
    }
    /// The tag in the bucket, never 0.
    #[inline(always)]
    pub fn tag(self) -> u8 {
        ((self.0 >> 40) as u8).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients as they come: a few neighbours in one network, ports one after the other.
    fn hashes() -> Vec<FlowHash> {
        let secret = Secret::fixed();
        let client = |n: u32| Ip::from_v4((0x0a00_0000 + n).to_be_bytes());
        (0..1000).flat_map(|n| (0..64).map(move |p| secret.hash(client(n), Be16::new(1024 + p), 6))).collect()
    }

    /// Chi-square of the counts, divided by the degrees of freedom: near 1 for chance,
    /// above for clusters, below for a pattern.
    fn unevenness(cells: usize, places: impl Iterator<Item = usize>) -> f64 {
        let mut counts = vec![0u32; cells];
        let mut n = 0;
        for p in places {
            counts[p] += 1;
            n += 1;
        }
        let mean = f64::from(n) / cells as f64;
        counts.iter().map(|c| (f64::from(*c) - mean).powi(2) / mean).sum::<f64>() / (cells - 1) as f64
    }

    #[test]
    fn places_are_as_random_as_they_should_be() {
        let all = hashes();
        for (what, u) in [
            ("bucket", unevenness(10_007, all.iter().map(|h| h.bucket(10_007) as usize))),
            ("stride", unevenness(10_006, all.iter().map(|h| h.stride(10_007) as usize - 1))),
            ("owner", unevenness(1000, all.iter().map(|h| h.owner(1000).index()))),
            ("tag within a bucket", unevenness(254, all.iter().filter(|h| h.tag() > 1).map(|h| h.tag() as usize - 2))),
        ] {
            assert!((0.7..1.3).contains(&u), "{what}: {u}");
        }
    }

    #[test]
    fn tag_owner_and_bucket_do_not_depend_on_each_other() {
        let all = hashes();
        let pair = |h: &FlowHash| h.bucket(16) as usize * 16 + h.owner(16).index();
        let tagged = |h: &FlowHash| h.bucket(16) as usize * 16 + h.tag() as usize / 16;
        let fine = |h: &FlowHash| (h.bucket(4096) % 16 * 16) as usize + h.tag() as usize % 16;
        let strides = |h: &FlowHash| h.bucket(16) as usize * 16 + h.stride(17) as usize - 1;
        for (what, u) in [
            ("bucket and owner", unevenness(256, all.iter().map(pair))),
            ("bucket and tag", unevenness(256, all.iter().map(tagged))),
            ("low bits of the bucket and the tag", unevenness(256, all.iter().map(fine))),
            ("bucket and stride", unevenness(256, all.iter().map(strides))),
        ] {
            assert!((0.6..1.4).contains(&u), "{what}: {u}");
        }
    }

    #[test]
    fn each_input_bit_changes_half_of_the_output() {
        let secret = Secret::fixed();
        let mut changed = 0;
        for bit in 0..152 {
            let at = |ip: u128, port: u16, proto: u8| secret.hash(Ip(ip.to_be_bytes()), Be16::new(port), proto).0;
            let base = at(0x2001_0db8 << 96 | 7, 443, 6);
            let flipped = match bit {
                0..128 => at((0x2001_0db8 << 96 | 7) ^ 1 << bit, 443, 6),
                128..144 => at(0x2001_0db8 << 96 | 7, 443 ^ 1 << (bit - 128), 6),
                _ => at(0x2001_0db8 << 96 | 7, 443, 6 ^ 1 << (bit - 144)),
            };
            let n = (base ^ flipped).count_ones();
            assert!((10..=54).contains(&n), "bit {bit} changes {n} of 64");
            changed += n;
        }
        assert!((30 * 152..34 * 152).contains(&changed), "{changed}");
    }

    #[test]
    fn each_bit_of_an_ipv4_client_changes_half_of_the_output() {
        let secret = Secret::fixed();
        let at = |w: u64| secret.hash_v4(w & !0xff).0;
        let base = 0x0a01_0203_1234_0600;
        let counts: Vec<_> = (8..64).map(|bit| (at(base) ^ at(base ^ 1 << bit)).count_ones()).collect();
        assert!(counts.iter().all(|n| (10..=54).contains(n)), "{counts:?}");
        assert!((30 * 56..34 * 56).contains(&counts.iter().sum::<u32>()), "{counts:?}");
    }

    #[test]
    fn random_secrets_differ_and_say_nothing() {
        let (a, b) = (Secret::random().unwrap(), Secret::random().unwrap());
        assert_ne!(a.0, b.0);
        assert!(a.0.iter().all(|k| k % 2 == 1));
        assert_eq!(format!("{a:?}"), "Secret");
    }
}
