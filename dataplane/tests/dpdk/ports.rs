//! Opening ports, sharing queues, refusals.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::io::PacketIo;
use dataplane::io::dpdk::{
    Delivery, DpdkIo, Eal, EalError, Mempool, MempoolOptions, Offloads, Port, PortError, PortOptions, QueueError, Rss,
};
use dataplane::units::{PortId, QueueId};

use super::{lanes, rig, scratch, write_pcap};

#[test]
fn the_environment_starts_once() {
    let _rig = rig();
    assert!(matches!(Eal::init(&["--no-huge".into()]), Err(EalError::Running)));
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
fn several_queues_are_spread_by_a_known_rule_or_handed_off() {
    let rig = rig();
    let pool = rig.pool("spread");
    let open = |name: &str, rss| {
        let options = PortOptions { queues: 2, rss, ..PortOptions::new(PortId(0), name) };
        Port::open(&rig.eal, &options, &pool).unwrap()
    };
    // This device takes a key and a table, but cannot hash one end only.
    let port = open("net_null_spread", Rss::FiveTuple);
    let info = port.info();
    assert_eq!((info.rx_queues, info.tx_queues), (2, 2));
    let Delivery::Rss { fields: Rss::FiveTuple, key, table } = &info.delivery else { panic!("{:?}", info.delivery) };
    assert_eq!(key.len(), 40);
    assert!(table.len().is_power_of_two() && table.iter().enumerate().all(|(i, q)| usize::from(*q) == i % 2));

    let port = open("net_null_side", Rss::Source);
    assert!(matches!(&port.info().delivery, Delivery::HandOff { why } if why.contains("one end")));
    assert!(port.info().notes.iter().any(|n| n.contains("in software")), "{:?}", port.info().notes);
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
