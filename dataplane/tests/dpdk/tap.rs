//! A TAP port and the kernel behind it.

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::io::dpdk::{Delivery, DpdkIo, Mempool, MempoolOptions, Offloads, Port, PortOptions};
use dataplane::io::{PacketBuf, PacketIo};
use dataplane::units::{PortId, QueueId};

use super::{lanes, rig};

/// Runs [`tap_in_a_namespace`] in a network namespace of its own, which goes with it.
#[test]
fn tap_ports_talk_to_the_kernel() {
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    // Root needs no user namespace, which a chroot does not give.
    let kinds = if root { "-n" } else { "-rn" };
    let unshare = |args: &[&str]| Command::new("unshare").arg(kinds).args(args).output();
    if !unshare(&["true"]).is_ok_and(|o| o.status.success()) || !Path::new("/dev/net/tun").exists() {
        // Root has both, or the machine is not fit for what is tested here.
        assert!(!root, "no network namespace or no /dev/net/tun here: modprobe tun, or run on a machine that has them");
        eprintln!("not run: without privileges this machine gives no network namespace");
        return;
    }
    let me = std::env::current_exe().unwrap();
    let run =
        unshare(&[me.to_str().unwrap(), "--exact", "tap::tap_in_a_namespace", "--ignored", "--nocapture"]).unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "changes the network: run in a namespace by tap_ports_talk_to_the_kernel"]
fn tap_in_a_namespace() {
    let rig = rig();
    // Small buffers, so that a large datagram comes and goes in segments.
    let small = MempoolOptions { data_room: 128 + 512, ..MempoolOptions::new("tap", 8191) };
    let pool = Mempool::new(&rig.eal, &small).unwrap();
    let offloads = Offloads { segments: true, ..Offloads::default() };
    let device = "net_tap0,iface=dpt0,mac=02:00:00:00:00:09";
    let options = PortOptions { queues: 2, mtu: Some(1400), offloads, ..PortOptions::new(PortId(0), device) };
    let port = Port::open(&rig.eal, &options, &pool).unwrap();
    let info = port.info().clone();
    assert_eq!((info.rx_queues, info.tx_queues, info.mtu), (2, 2, 1400));
    assert_eq!(info.offloads, offloads);
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
    let mut queues = [0, 1].map(|q| DpdkIo::new(QueueId(q), &[Arc::clone(&port)], &pool).unwrap());
    for len in [20, 400, 1300] {
        let sent: Vec<u8> = (0..len).map(|i| (i % 253) as u8).collect();
        socket.send(&sent).unwrap();
        let segments = answer(&mut queues);
        assert_eq!(segments, len > 512, "{len} bytes");
        let mut back = [0; 1500];
        let n = socket.recv(&mut back).expect("the answer reaches the kernel");
        assert!(back[..n] == sent, "{len} bytes come back as they were");
    }
    assert!(port.link().unwrap().up);
    assert!(port.stats().tx_packets == 3 && port.stats().rx_packets >= 3);
    assert!(port.extended_stats().iter().any(|(name, value)| name == "tx_good_packets" && *value == 3));
    drop(queues);
    drop(port);
    assert_eq!(pool.in_use(), 0, "the driver gave its packets back");
    assert!(!Command::new("ip").args(["link", "show", "dpt0"]).output().unwrap().status.success(), "dpt0 is gone");
}

/// Waits for a UDP datagram and sends it back; says whether it had several segments.
fn answer(queues: &mut [DpdkIo]) -> bool {
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        for io in queues.iter_mut() {
            let mut burst = lanes();
            io.rx(PortId(0), &mut burst);
            let mut answered = None;
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
                answered = Some(buf.is_chained());
                assert_eq!(io.tx(PortId(0), &mut [Some(buf)], 1), 1);
            }
            if let Some(segments) = answered {
                return segments;
            }
        }
    }
    panic!("the datagram did not arrive");
}
