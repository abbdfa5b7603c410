//! Callbacks that somebody hung on a queue (as a packet capture does) are called, although
//! bursts go to the driver directly. Here, not among the integration tests, as hanging them
//! takes unsafe calls.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};

use dpdk_sys as sys;

use super::{DpdkIo, Eal, Mempool, MempoolOptions, Port, PortOptions};
use crate::io::{BURST, PacketIo};
use crate::units::{PortId, QueueId};

static RECEIVED: AtomicU64 = AtomicU64::new(0);
static SENT: AtomicU64 = AtomicU64::new(0);

/// Counts the packets that were received.
unsafe extern "C" fn on_rx(
    _port: u16,
    _queue: u16,
    _pkts: *mut *mut sys::rte_mbuf,
    n: u16,
    _room: u16,
    _user: *mut c_void,
) -> u16 {
    RECEIVED.fetch_add(u64::from(n), Ordering::Relaxed);
    n
}

/// Counts the packets that are to be sent.
unsafe extern "C" fn on_tx(_port: u16, _queue: u16, _pkts: *mut *mut sys::rte_mbuf, n: u16, _user: *mut c_void) -> u16 {
    SENT.fetch_add(u64::from(n), Ordering::Relaxed);
    n
}

#[test]
fn callbacks_on_a_queue_are_called() {
    let args = ["--no-huge", "-m", "64", "--no-pci", "--no-shconf", "--no-telemetry"];
    let eal = Eal::init(&args.map(String::from)).unwrap();
    let _lcore = eal.register_thread().unwrap();
    let pool = Mempool::new(&eal, &MempoolOptions::new("callbacks", 1023)).unwrap();
    let port = Port::open(&eal, &PortOptions::new(PortId(0), "net_null_callbacks"), &pool).unwrap();
    let id = port.device_id();
    let mut io = DpdkIo::new(QueueId(0), &[port], &pool).unwrap();
    let mut round = || {
        let mut burst = [const { None }; BURST];
        let n = io.rx(PortId(0), &mut burst);
        assert_eq!(io.tx(PortId(0), &mut burst, n), n);
        (RECEIVED.load(Ordering::Relaxed), SENT.load(Ordering::Relaxed))
    };
    assert_eq!(round(), (0, 0), "nothing is hung up yet");
    // SAFETY: an open port's queue; the functions live for ever and ignore the pointer.
    let rx = unsafe { sys::rte_eth_add_rx_callback(id, 0, Some(on_rx), std::ptr::null_mut()) };
    // SAFETY: as above.
    let tx = unsafe { sys::rte_eth_add_tx_callback(id, 0, Some(on_tx), std::ptr::null_mut()) };
    assert!(!rx.is_null() && !tx.is_null());
    assert_eq!(round(), (64, 64));
    // SAFETY: the callback that was hung there.
    unsafe { sys::rte_eth_remove_rx_callback(id, 0, rx) };
    // SAFETY: as above.
    unsafe { sys::rte_eth_remove_tx_callback(id, 0, tx) };
    assert_eq!(round(), (64, 64), "and none is there any more");
}
