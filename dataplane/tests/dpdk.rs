//! DPDK's virtual devices: what goes in comes out, nothing leaks. Needs neither huge pages
//! nor privileges.
//!
//! DPDK starts once per process, so that the tests share one environment and take turns.
#![cfg(feature = "dpdk")]

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use dataplane::io::contract::packet_buf_contract;
use dataplane::io::dpdk::{
    Delivery, DpdkIo, Eal, EalError, Lcore, Mempool, MempoolOptions, Offloads, Port, PortError, PortOptions,
    QueueError, Rss,
};
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

#[test]
fn packets_keep_the_contract() {
    let rig = rig();
    let pool = rig.pool("contract");
    let port = rig.port(0, "net_null_contract", &pool);
    let before = pool.in_use();
    let mut io = io(&[port], &pool);
    packet_buf_contract(&mut io);
    io.release();
    assert_eq!(pool.in_use(), before, "the contract's packets are all back");
}

#[test]
fn the_environment_starts_once() {
    let _rig = rig();
    assert!(matches!(Eal::init(&["--no-huge".into()]), Err(EalError::Running)));
}

#[test]
fn null_ports_receive_and_send_without_a_leak() {
    let rig = rig();
    let pool = rig.pool("null");
    let port = rig.port(0, "net_null0,size=60", &pool);
    let before = pool.in_use();
    {
        let mut io = io(&[Arc::clone(&port)], &pool);
        for _ in 0..1000 {
            let mut burst = lanes();
            let n = io.rx(PortId(0), &mut burst);
            assert_eq!(n, BURST);
            assert!(burst.iter().all(Option::is_some));
            let buf = burst[0].as_ref().unwrap();
            assert_eq!((buf.data().len(), buf.ingress(), buf.mark()), (60, PortId(0), 0));
            // Half is sent, half freed by hand.
            assert_eq!(io.tx(PortId(0), &mut burst[..32], 32), 32);
            assert!(burst[..32].iter().all(Option::is_none));
            free_all(&mut io, &mut burst);
        }
    }
    assert_eq!(pool.in_use(), before);
    let stats = port.stats();
    assert_eq!((stats.rx_packets, stats.tx_packets), (64_000, 32_000));
}

#[test]
fn a_burst_with_gaps_is_sent_without_them() {
    let rig = rig();
    let pool = rig.pool("gaps");
    let port = rig.port(0, "net_ring_gaps", &pool);
    let mut io = io(&[port], &pool);
    let mut burst = make(&mut io, 8, 60, 1);
    for gap in [0, 3, 7] {
        let buf = burst[gap].take().unwrap();
        io.free(buf);
    }
    assert_eq!(io.tx(PortId(0), &mut burst, 8), 5);
    let mut back = lanes();
    assert_eq!(io.rx(PortId(0), &mut back), 5);
    let first: Vec<u8> = back.iter().flatten().map(|b| b.data()[0]).collect();
    assert_eq!(first, [1, 2, 4, 5, 6]);
    free_all(&mut io, &mut back);
    io.release();
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_ring_gives_back_what_was_sent_as_if_it_had_just_arrived() {
    let rig = rig();
    let pool = rig.pool("ring");
    // The index differs from DPDK's number of the port: the null port comes first there.
    let null = rig.port(1, "net_null_ring", &pool);
    let ring = rig.port(0, "net_ring0", &pool);
    assert_ne!(ring.info().dpdk_port, 0);
    let mut io = io(&[ring, null], &pool);
    let mut burst = make(&mut io, BURST, 100, 0x5a);
    for buf in burst.iter_mut().flatten() {
        buf.set_mark(9);
        buf.set_ingress(PortId(1));
    }
    assert_eq!(io.tx(PortId(0), &mut burst, BURST), BURST);
    let mut back = lanes();
    assert_eq!(io.rx(PortId(0), &mut back), BURST);
    for (i, buf) in back.iter().flatten().enumerate() {
        assert_eq!((buf.data()[0], buf.data()[1], buf.total_len()), (i as u8, 0x5a, 100));
        assert_eq!((buf.mark(), buf.ingress()), (0, PortId(0)));
    }
    // A null port's packets arrive on index 1.
    let mut from_null = lanes();
    assert_eq!(io.rx(PortId(1), &mut from_null), BURST);
    assert!(from_null.iter().flatten().all(|b| b.ingress() == PortId(1)));
    free_all(&mut io, &mut back);
    free_all(&mut io, &mut from_null);
}

#[test]
fn what_the_device_does_not_take_is_freed() {
    let rig = rig();
    let pool = rig.pool("full");
    let ring = rig.port(0, "net_ring_full", &pool);
    let mut io = io(&[ring], &pool);
    // Rings of this device hold 1,024 packets less one.
    let mut taken = 0;
    for _ in 0..20 {
        let mut burst = make(&mut io, BURST, 60, 0);
        taken += io.tx(PortId(0), &mut burst, BURST);
        assert!(burst.iter().all(Option::is_none));
    }
    assert!((1000..1280).contains(&taken), "the ring is full at {taken}");
    io.release();
    assert_eq!(pool.in_use() as usize, taken, "the others are back in the pool");
    let mut burst = lanes();
    while io.rx(PortId(0), &mut burst) != 0 {
        free_all(&mut io, &mut burst);
    }
    io.release();
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn captures_go_in_and_come_out() {
    let rig = rig();
    let pool = rig.pool("pcap");
    let (input, output) = (scratch("in.pcap"), scratch("out.pcap"));
    let frames: Vec<Vec<u8>> = (0..100u8).map(|i| (0..60 + i).map(|b| b ^ i).collect()).collect();
    write_pcap(&input, &frames);
    let device = format!("net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display());
    let port = rig.port(0, &device, &pool);
    let mut seen = 0;
    {
        let mut io = io(&[port], &pool);
        let mut burst = lanes();
        loop {
            let n = io.rx(PortId(0), &mut burst);
            if n == 0 {
                break;
            }
            for buf in burst.iter_mut().flatten() {
                assert_eq!(buf.data(), frames[seen]);
                buf.data_mut()[0] = 0xff;
                seen += 1;
            }
            assert_eq!(io.tx(PortId(0), &mut burst, n), n);
        }
    }
    // The file is complete when the port is closed, as it was with the last handle.
    assert_eq!(seen, frames.len());
    let sent = read_pcap(&output);
    assert_eq!(sent.len(), frames.len());
    for (sent, frame) in sent.iter().zip(&frames) {
        assert_eq!((sent[0], &sent[1..]), (0xff, &frame[1..]));
    }
    let _ = (std::fs::remove_file(input), std::fs::remove_file(output));
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_long_frame_arrives_in_segments() {
    let rig = rig();
    let pool = Mempool::new(&rig.eal, &MempoolOptions { data_room: 128 + 256, ..MempoolOptions::new("small", 1023) });
    let pool = pool.unwrap();
    let input = scratch("long.pcap");
    let frame: Vec<u8> = (0..1400u32).map(|i| (i % 251) as u8).collect();
    write_pcap(&input, std::slice::from_ref(&frame));
    let port = rig.port(0, &format!("net_pcap_long,rx_pcap={}", input.display()), &pool);
    assert!(port.info().notes.iter().any(|n| n.contains("256 bytes")), "{:?}", port.info().notes);
    let mut io = io(&[port], &pool);
    let mut burst = lanes();
    assert_eq!(io.rx(PortId(0), &mut burst), 1);
    let mut buf = burst[0].take().unwrap();
    assert!(buf.is_chained());
    assert_eq!((buf.total_len(), buf.data().len()), (1400, 256));
    let mut bytes = vec![0; 1500];
    assert_eq!(buf.copy_out(0, &mut bytes), 1400);
    assert_eq!(bytes[..1400], frame);
    assert_eq!(buf.copy_out(250, &mut bytes[..20]), 20, "across the border of two segments");
    assert_eq!(bytes[..20], frame[250..270]);

    let copy = io.copy(&buf).unwrap();
    assert_eq!(copy.total_len(), 1400);
    io.free(copy);

    // Both ends of a chain.
    assert!(buf.prepend(20));
    assert!(buf.trim_front(20));
    assert!(!buf.trim_front(257), "longer than the first segment");
    // The driver leaves no headroom in further segments: 1400 = 256 + 384 + 384 + 376.
    assert!(!buf.extend(9), "the last segment has room for eight bytes");
    assert!(buf.extend(8));
    assert_eq!(buf.total_len(), 1408);
    assert!(buf.truncate(1400));
    assert!(buf.truncate(300), "in the second segment");
    assert_eq!((buf.total_len(), buf.is_chained()), (300, true));
    assert_eq!(buf.copy_out(0, &mut bytes), 300);
    assert!(buf.truncate(256), "exactly the first");
    assert!(!buf.is_chained());
    assert_eq!(buf.data(), &frame[..256]);
    io.free(buf);
    io.release();
    assert_eq!(pool.in_use(), 0, "cut segments are back");
    let _ = std::fs::remove_file(input);
}

#[test]
fn packets_of_two_pools_find_home() {
    let rig = rig();
    let (own, other) = (rig.pool("own"), rig.pool("foreign"));
    let port = rig.port(0, "net_null_home", &other);
    let mut io = io(&[port], &own);
    let mut foreign = lanes();
    assert_eq!(io.rx(PortId(0), &mut foreign), BURST);
    for mut buf in foreign.into_iter().flatten() {
        let mine = io.alloc(60).unwrap();
        io.free(mine);
        assert!(buf.trim_front(1));
        io.free(buf);
    }
    io.release();
    assert_eq!((own.in_use(), other.in_use()), (0, 0));
}

#[test]
fn an_empty_pool_yields_no_packet_and_no_crash() {
    let rig = rig();
    let pool = Mempool::new(&rig.eal, &MempoolOptions { cache: 0, ..MempoolOptions::new("tiny", 63) }).unwrap();
    let other = rig.pool("other");
    let port = rig.port(0, "net_null_tiny", &other);
    let mut io = io(&[port], &pool);
    let mut held = Vec::new();
    while let Some(buf) = io.alloc(60) {
        held.push(buf);
    }
    assert_eq!(held.len(), 63, "the last odd packets are had as well");
    assert!(io.copy(&held[0]).is_none());
    for buf in held {
        io.free(buf);
    }
    let again = io.alloc(60).expect("freed packets are found again");
    io.free(again);
    io.release();
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn queues_follow_the_offer_and_have_one_owner() {
    let rig = rig();
    let pool = rig.pool("queues");
    let input = scratch("queues.pcap");
    write_pcap(&input, &[vec![0; 60]]);
    let device = format!("net_pcap_queues,rx_pcap={}", input.display());
    let options = PortOptions { queues: 4, rss: Rss::Source, ..PortOptions::new(PortId(0), &device) };
    let port = Port::open(&rig.eal, &options, &pool).unwrap();
    let info = port.info();
    assert_eq!((info.rx_queues, info.driver.as_str()), (1, "net_pcap"));
    assert_eq!(info.delivery, Delivery::OneQueue);
    assert!(info.notes.iter().any(|n| n.contains("3 workers have none")), "{:?}", info.notes);

    let first = DpdkIo::new(QueueId(0), &[Arc::clone(&port)], &pool).unwrap();
    assert!(first.has_rx(PortId(0)));
    let taken = DpdkIo::new(QueueId(0), &[Arc::clone(&port)], &pool);
    assert!(matches!(taken, Err(QueueError::Taken { .. })));
    let second = DpdkIo::new(QueueId(1), &[Arc::clone(&port)], &pool).unwrap();
    assert!(!second.has_rx(PortId(0)));
    drop(first);
    drop(second);
    drop(DpdkIo::new(QueueId(0), &[port], &pool).expect("a queue is free again"));
    let _ = std::fs::remove_file(input);
}

#[test]
fn several_queues_without_a_known_rule_are_handed_off() {
    let rig = rig();
    let pool = rig.pool("handoff");
    let options = PortOptions { queues: 2, rss: Rss::Source, ..PortOptions::new(PortId(0), "net_null_handoff") };
    let port = Port::open(&rig.eal, &options, &pool).unwrap();
    assert_eq!((port.info().rx_queues, port.info().tx_queues), (2, 2));
    assert!(matches!(&port.info().delivery, Delivery::HandOff { why } if why.contains("net_null")));
    let json = serde_json::to_value(port.info()).unwrap();
    assert_eq!(json["delivery"]["kind"], "hand_off");
    assert_eq!(json["mac"].as_str().unwrap().len(), 17);
}

#[test]
fn two_threads_share_a_pool() {
    let rig = rig();
    let pool = rig.pool("threads");
    let options = PortOptions { queues: 2, ..PortOptions::new(PortId(0), "net_null_threads") };
    let port = Port::open(&rig.eal, &options, &pool).unwrap();
    std::thread::scope(|scope| {
        for queue in [0, 1].map(QueueId) {
            let mut io = DpdkIo::new(queue, &[Arc::clone(&port)], &pool).unwrap();
            let eal = rig.eal.clone();
            scope.spawn(move || {
                let _lcore = eal.register_thread().unwrap();
                let end = Instant::now() + Duration::from_millis(50);
                while Instant::now() < end {
                    let mut burst = lanes();
                    let n = io.rx(PortId(0), &mut burst);
                    io.tx(PortId(0), &mut burst, n);
                }
            });
        }
    });
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn errors_name_the_device_and_the_reason() {
    let rig = rig();
    let pool = rig.pool("errors");
    let open = |device: &str| Port::open(&rig.eal, &PortOptions::new(PortId(0), device), &pool);
    assert!(matches!(open(""), Err(PortError::Name(_))));
    assert!(matches!(open("net_null\0"), Err(PortError::Name(_))));
    let missing = open("net_nonsense0").unwrap_err().to_string();
    assert!(missing.contains("net_nonsense0"), "{missing}");
    let no_file = open("net_pcap_missing,rx_pcap=/nonexistent.pcap").unwrap_err().to_string();
    assert!(no_file.contains("/nonexistent.pcap"), "{no_file}");
    let first = open("net_null_twice").unwrap();
    assert!(matches!(open("net_null_twice"), Err(PortError::Open(_))));
    drop(first);
    open("net_null_twice").expect("a closed device can be opened again");
    let jumbo = PortOptions { mtu: Some(9000), ..PortOptions::new(PortId(0), "net_null_jumbo") };
    assert!(matches!(Port::open(&rig.eal, &jumbo, &pool), Err(PortError::Mtu { .. })));
    let same_name = Mempool::new(&rig.eal, &MempoolOptions::new("errors", 1023)).unwrap_err().to_string();
    assert!(same_name.contains("errors"), "{same_name}");
}

#[test]
fn fast_free_wants_one_pool() {
    let rig = rig();
    let (pool, other) = (rig.pool("fast"), rig.pool("fast-other"));
    let offloads = Offloads { fast_free: true, ..Offloads::default() };
    let options = PortOptions { offloads, ..PortOptions::new(PortId(0), "net_null_fast") };
    let port = Port::open(&rig.eal, &options, &pool).unwrap();
    if port.info().offloads.fast_free {
        assert!(matches!(DpdkIo::new(QueueId(0), &[Arc::clone(&port)], &other), Err(QueueError::Pool { .. })));
    }
    assert!(DpdkIo::new(QueueId(0), &[port], &pool).is_ok());
}

/// Runs [`tap_in_a_namespace`] in a network namespace of its own, which goes with it.
#[test]
fn tap_ports_talk_to_the_kernel() {
    let unshare = |args: &[&str]| Command::new("unshare").arg("-rn").args(args).output();
    if !unshare(&["true"]).is_ok_and(|o| o.status.success()) || !Path::new("/dev/net/tun").exists() {
        eprintln!("skipped: no network namespace or no /dev/net/tun here");
        return;
    }
    let me = std::env::current_exe().unwrap();
    let run = unshare(&[me.to_str().unwrap(), "--exact", "tap_in_a_namespace", "--ignored", "--nocapture"]).unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "changes the network: run in a namespace by tap_ports_talk_to_the_kernel"]
fn tap_in_a_namespace() {
    let rig = rig();
    let pool = rig.pool("tap");
    let options = PortOptions {
        queues: 2,
        mtu: Some(1400),
        ..PortOptions::new(PortId(0), "net_tap0,iface=dpt0,mac=02:00:00:00:00:09")
    };
    let port = Port::open(&rig.eal, &options, &pool).unwrap();
    let info = port.info().clone();
    assert_eq!((info.rx_queues, info.tx_queues, info.mtu), (2, 2, 1400));
    assert!(matches!(info.delivery, Delivery::HandOff { .. }));
    for command in [
        "address add 192.0.2.1/24 dev dpt0",
        "link set dpt0 up",
        "neighbour add 192.0.2.2 lladdr 02:00:00:00:00:02 dev dpt0",
    ] {
        let done = Command::new("ip").args(command.split(' ')).status().unwrap();
        assert!(done.success(), "ip {command}");
    }
    let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket.connect("192.0.2.2:9").unwrap();
    socket.send(b"there and back again").unwrap();

    let mut queues = [0, 1].map(|q| DpdkIo::new(QueueId(q), &[Arc::clone(&port)], &pool).unwrap());
    let end = Instant::now() + Duration::from_secs(2);
    let mut answered = false;
    while !answered && Instant::now() < end {
        for io in &mut queues {
            let mut burst = lanes();
            io.rx(PortId(0), &mut burst);
            for mut buf in burst.iter_mut().filter_map(Option::take) {
                // Among what the kernel says by itself: IPv4, UDP.
                if buf.data()[12..14] != [8, 0] || buf.data()[23] != 17 {
                    io.free(buf);
                    continue;
                }
                let d = buf.data_mut();
                let (dst, src) = d.split_at_mut(6);
                dst.swap_with_slice(&mut src[..6]);
                // Swapping the ends leaves both checksums right.
                for (a, b, len) in [(26, 30, 4), (34, 36, 2)] {
                    (0..len).for_each(|i| d.swap(a + i, b + i));
                }
                assert_eq!(io.tx(PortId(0), &mut [Some(buf)], 1), 1);
                answered = true;
            }
        }
    }
    assert!(answered, "the datagram did not arrive");
    let mut back = [0; 64];
    let n = socket.recv(&mut back).expect("the answer reaches the kernel");
    assert_eq!(&back[..n], b"there and back again");
    assert!(port.link().unwrap().up);
    assert!(port.stats().tx_packets == 1 && port.stats().rx_packets >= 1);
    drop(queues);
    drop(port);
    assert_eq!(pool.in_use(), 0, "the driver gave its packets back");
    assert!(!Command::new("ip").args(["link", "show", "dpt0"]).output().unwrap().status.success(), "dpt0 is gone");
}
