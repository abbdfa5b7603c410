//! STUB
use crate::units::{Be16, Ip, WorkerId};
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct FlowHash(pub u64);
#[derive(Clone, Copy, Debug)]
pub struct Secret(pub [u64; 4]);
fn fm(a: u64, b: u64) -> u64 {
    let m = u128::from(a) * u128::from(b);
    m as u64 ^ (m >> 64) as u64
}
impl Secret {
    pub fn fixed() -> Self {
        Self([0x9e3779b97f4a7c15, 0xd6e8feb86659fd93, 0xa0761d6478bd642f, 0xe7037ed1a0b428db])
    }
    #[inline(always)]
    pub fn hash(&self, client: Ip, port: Be16, proto: u8) -> FlowHash {
        let a = fm(client.lo() ^ self.0[0], client.hi() ^ self.0[1]);
        FlowHash(fm(a ^ self.0[2], (u64::from(port.raw()) << 8 | u64::from(proto)) ^ self.0[3]))
    }
}
impl FlowHash {
    #[inline(always)]
    pub fn owner(self, workers: u16) -> WorkerId {
        WorkerId(((self.0 >> 48) * u64::from(workers) >> 16) as u16)
    }
}
