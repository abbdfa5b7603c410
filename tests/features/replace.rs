//! The servers of a service replaced as a whole, while traffic runs.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use control::engine::{Change, Operation, Request};
use control::model::{ForwardingMode, NewService, RealServer};
use pollux_tests::story::check;
use pollux_tests::story::datagram::Datagram;
use pollux_tests::story::director::{Director, PORTS, server_ip, settings};

const KEY: &str = "tcp:10.9.0.1:80";
/// Server 20 is in both sets: its connections must not notice anything.
const SETS: [[u8; 3]; 2] = [[11, 12, 20], [13, 14, 20]];
const SYN: u8 = 2;
const ACK: u8 = 16;
/// Packets in a burst: a worker sees all of them with one snapshot.
const BURST: u16 = 32;

fn put(set: usize) -> Request {
    let mut service = NewService::new(KEY.parse().expect("a key"));
    service.scheduler = control::model::Scheduler::Rr;
    service.servers = SETS[set]
        .iter()
        .map(|n| {
            let address = format!("{}:8080", server_ip(*n, false)).parse().expect("an address");
            RealServer { mode: ForwardingMode::Nat, ..RealServer::new(address) }
        })
        .collect();
    Request::Change(Change { operations: vec![Operation::PutService { service }], wait: false })
}

/// A packet of the client with this port to the service.
fn frame(port: u16, flags: u8) -> Vec<u8> {
    let client = SocketAddr::from(([10, 1, 0, (port >> 14) as u8 + 1], 1024 + (port & 0x3fff)));
    let packet = Datagram::new(6, client, SocketAddr::from(([10, 9, 0, 1], 80)), flags).packet();
    [&PORTS[0][..], &[2, 9, 9, 9, 9, 9, 8, 0], &packet].concat()
}

/// The server that a frame is for.
fn server(port: usize, frame: &[u8]) -> u8 {
    let seen = check::frame(frame, 1500, &[]).unwrap_or_else(|why| panic!("{why}"));
    let p = seen.inner().expect("a packet");
    assert_eq!((port, p.residue), (1, Some(0)), "a client was refused: {p:?}");
    seen.to[5]
}

/// Ends the other thread even where this one panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn a_burst_sees_the_old_servers_or_the_new_ones_and_kept_connections_see_nothing() {
    let (mut rig, mut engine) = Director::new(1, 65_536, settings()).into_parts();
    engine.handle(put(0), 1000).expect("a right service");
    rig.run();
    // Connections of the server that stays.
    let mut kept = Vec::new();
    for port in 0..60 {
        let out = rig.send(0, &frame(port, SYN));
        if server(out[0].0, &out[0].1) == 20 {
            kept.push(port);
        }
    }
    assert_eq!(kept.len(), 20);
    let (stop, changes) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut seen = [0; 2];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1.. {
                if stop.load(Relaxed) {
                    return;
                }
                engine.handle(put(n % 2), 1000).expect("a right service");
                engine.tick(1000);
                changes.fetch_add(1, Relaxed);
            }
        });
        let _stop = Stop(&stop);
        let mut next = 60;
        while next < 45_000 {
            for port in next..next + BURST {
                rig.wire.push(0, 0, &frame(port, SYN));
            }
            rig.run();
            let servers: Vec<u8> = rig.take().iter().map(|(port, f)| server(*port, f)).collect();
            assert_eq!(servers.len(), usize::from(BURST), "new connections were lost");
            let set = usize::from(!servers.contains(&11) && !servers.contains(&12));
            assert!(servers.iter().all(|s| SETS[set].contains(s)), "of two sets at a time: {servers:?}");
            assert!(SETS[set].iter().all(|s| servers.contains(s)), "not of all servers: {servers:?}");
            seen[set] += 1;
            next += BURST;
            for port in &kept {
                let out = rig.send(0, &frame(*port, ACK));
                assert_eq!(server(out[0].0, &out[0].1), 20, "a kept connection changed its server");
            }
        }
    });
    // Both sets were seen, many changes fell between bursts.
    assert!(seen.iter().all(|n| *n > 20) && changes.load(Relaxed) > 100, "{seen:?}, {changes:?}");
}
