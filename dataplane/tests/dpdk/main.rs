//! DPDK's virtual devices: what goes in comes out, nothing leaks. Needs neither huge pages
//! nor privileges.
//!
//! DPDK starts once per process, so that the tests share one environment and take turns.
#![cfg(feature = "dpdk")]

mod packets;
mod ports;
mod tap;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use dataplane::io::dpdk::{DpdkIo, Eal, Lcore, Mempool, MempoolOptions, Port, PortOptions};
use dataplane::io::{BURST, PacketBuf, PacketIo};
use dataplane::units::{PortId, QueueId};

static TURN: Mutex<()> = Mutex::new(());
static EAL: OnceLock<Eal> = OnceLock::new();

/// The environment, this thread as an lcore of it, and the turn.
struct Rig {
    eal: Eal,
    _lcore: Lcore,
    _turn: MutexGuard<'static, ()>,
}

fn rig() -> Rig {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let args = ["--no-huge", "-m", "256", "--no-pci", "--no-shconf", "--no-telemetry"];
    let eal = EAL.get_or_init(|| Eal::init(&args.map(String::from)).unwrap()).clone();
    let lcore = eal.register_thread().unwrap();
    Rig { eal, _lcore: lcore, _turn: turn }
}

impl Rig {
    fn pool(&self, name: &str) -> Arc<Mempool> {
        Mempool::new(&self.eal, &MempoolOptions::new(name, 4095)).unwrap()
    }

    fn port(&self, index: u16, device: &str, pool: &Arc<Mempool>) -> Arc<Port> {
        Port::open(&self.eal, &PortOptions::new(PortId(index), device), pool).unwrap()
    }
}

fn io(ports: &[Arc<Port>], pool: &Arc<Mempool>) -> DpdkIo {
    DpdkIo::new(QueueId(0), ports, pool).unwrap()
}

type Lanes = [Option<<DpdkIo as PacketIo>::Buf>; BURST];

fn lanes() -> Lanes {
    [const { None }; BURST]
}

/// `n` packets of `len` bytes: their number in the first byte, after that `fill`.
fn make(io: &mut DpdkIo, n: usize, len: usize, fill: u8) -> Lanes {
    let mut out = lanes();
    for (i, lane) in out.iter_mut().take(n).enumerate() {
        let mut buf = io.alloc(len).unwrap();
        buf.data_mut().fill(fill);
        buf.data_mut()[0] = i as u8;
        *lane = Some(buf);
    }
    out
}

fn free_all(io: &mut DpdkIo, lanes: &mut Lanes) {
    for buf in lanes.iter_mut().filter_map(Option::take) {
        io.free(buf);
    }
}

/// A capture file with these frames, in the classic format (microseconds, Ethernet).
fn write_pcap(path: &Path, frames: &[Vec<u8>]) {
    let mut out = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1] {
        out.extend(word.to_ne_bytes());
    }
    for (i, frame) in frames.iter().enumerate() {
        for word in [i as u32, 0, frame.len() as u32, frame.len() as u32] {
            out.extend(word.to_ne_bytes());
        }
        out.extend(frame);
    }
    std::fs::write(path, out).unwrap();
}

/// The frames of a capture file.
fn read_pcap(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let (mut at, mut frames) = (24, Vec::new());
    while at + 16 <= bytes.len() {
        let len = u32::from_ne_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
        frames.push(bytes[at + 16..at + 16 + len].to_vec());
        at += 16 + len;
    }
    frames
}

/// A file name that no other run of the tests uses.
fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("pollux-dpdk-{}-{name}", std::process::id()))
}
