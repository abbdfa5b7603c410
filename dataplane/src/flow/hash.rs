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
        let [a, b, c, d] = self.0;
        let x = fold_multiply(client.lo() ^ a, client.hi() ^ b);
        FlowHash(fold_multiply(x ^ c, (u64::from(port.raw()) << 8 | u64::from(proto)) ^ d))
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
        ((u64::from(self.0 as u32) * u64::from(buckets)) >> 32) as u32
    }
    /// The tag in the bucket, never 0.
    #[inline(always)]
    pub fn tag(self) -> u8 {
        ((self.0 >> 40) as u8).max(1)
    }
}
