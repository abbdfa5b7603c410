//! From the configuration to a plan for the dataplane: DPDK's options, memory, ports.

use std::collections::BTreeMap;

use ::dataplane::counters::BYTES_A_REAL;
use ::dataplane::flow::extension::Extension;
use ::dataplane::flow::table::FlowTable;
use ::dataplane::io::dpdk::{Delivery, Offloads, PortOptions, Rss};
use ::dataplane::snapshot::DeviceWork;
use ::dataplane::units::PortId;
use control::config::{Config, Idle, Offload, Steering};
use control::engine::PortFacts;
use control::model::Tunnel;

use crate::workers::{Dataplane, Plan};

/// Bytes in front of a received frame: DPDK's headroom.
const HEADROOM: usize = 128;
/// Ethernet header with two tags, and what devices add at the end.
const FRAME_EXTRA: usize = 14 + 8 + 4;
/// Bytes for a frame below which drivers fall back to slower ways, or refuse: NICs count a buffer in
/// kilobytes, and `net_af_packet` wants room for its ring's frames (`RTE_MBUF_DEFAULT_DATAROOM`).
const LEAST_BUFFER: usize = 2048;
/// Smallest packet a buffer must hold: an ICMPv6 error (RFC 4443 section 2.4).
const LEAST_PACKET: usize = 1280;
/// What DPDK keeps besides the data of each buffer: `rte_mbuf`, pool header, cache lines.
const BUFFER_OVERHEAD: usize = 128 + 64 + 64;
/// DPDK's own needs, and room for rings and drivers, megabytes.
const BASE_MB: usize = 64;
/// Buffers that a worker may keep: bursts, caches, rings to others, waiting packets, fragments.
const PER_WORKER: usize = 512 + 256 + 512 + 1088 + 2048;
/// The program, its libraries and control's own memory.
const CONTROL: usize = 35_000_000;
/// What control keeps for each real server of the configuration: model, listing, two snapshots.
const CONTROL_PER_SERVER: usize = 2_300;
/// What a worker keeps for each real server: its scheduler's state, counters, connection counts.
const PER_REAL: usize = 340 + BYTES_A_REAL + 12;
/// And for each service.
const PER_SERVICE: usize = 1100;
/// And for its schedulers whatever there is to schedule.
const SCHEDULERS: usize = 1_300_000;

/// The plan for a configuration.
pub fn plan(config: &Config) -> Plan {
    let workers = config.workers.cores.len();
    let mtu = config.ports.iter().map(|p| usize::from(p.mtu)).max().unwrap_or(1500).max(LEAST_PACKET);
    let data_room = config
        .dpdk
        .buffer_bytes
        .map_or_else(|| (HEADROOM + (mtu + FRAME_EXTRA).max(LEAST_BUFFER)).next_multiple_of(64), usize::from);
    let rings: usize = config
        .ports
        .iter()
        .map(|p| {
            let queues = p.queues.map_or(workers, usize::from).max(1);
            queues * (usize::from(p.rx_descriptors) + usize::from(p.tx_descriptors))
        })
        .sum();
    let computed = rings + workers * PER_WORKER;
    let packets = config.dpdk.packet_buffers.map_or(computed, |n| n as usize).max(1024);
    // A pool uses its memory best with a power of two minus one.
    let packets = if config.dpdk.packet_buffers.is_some() { packets } else { packets.next_power_of_two() - 1 };
    let memory_mb = config
        .dpdk
        .memory_mb
        .map_or_else(|| BASE_MB + packets * (data_room + BUFFER_OVERHEAD) / 1_000_000, |m| m as usize);
    Plan {
        eal_args: eal_args(config, memory_mb),
        packets: packets as u32,
        data_room: data_room as u16,
        ports: config.ports.iter().enumerate().map(|(n, _)| port_options(config, n, workers)).collect(),
        cores: config.workers.cores.iter().map(|c| *c as usize).collect(),
        idle: match config.workers.idle {
            Idle::Auto => None,
            Idle::Spin => Some(::dataplane::worker::Idle::Spin),
            Idle::Relax => Some(::dataplane::worker::Idle::Relax),
        },
        software_steering: match config.workers.steering {
            Steering::Auto => None,
            Steering::Software => Some(true),
            Steering::Rss => Some(false),
        },
        flow_capacity: config.workers.flow_capacity,
        flow_aliases: if config.settings.full_nat.addresses.is_empty() { 0 } else { config.workers.flow_capacity },
        // Every number that control may give out: removed ones keep theirs while they have flows.
        max_services: config.limits.service_slots() as usize,
        max_reals: config.limits.real_slots() as usize,
        memory_mb,
        configured_servers: config.services.server_count(),
    }
}

fn is_pci(device: &str) -> bool {
    let address = device.split(',').next().unwrap_or(device);
    address.contains(':') && address.contains('.') && address.chars().all(|c| c.is_ascii_hexdigit() || ":.".contains(c))
}

fn eal_args(config: &Config, memory_mb: usize) -> Vec<String> {
    let d = &config.dpdk;
    let mut args: Vec<String> = vec!["-m".into(), memory_mb.to_string()];
    if d.no_huge {
        args.extend(["--no-huge".into(), "--no-shconf".into()]);
    } else {
        args.push("--in-memory".into());
    }
    if !d.file_prefix.is_empty() {
        args.push(format!("--file-prefix={}", d.file_prefix));
    }
    let pci: Vec<_> = config.ports.iter().map(|p| p.device.as_str()).filter(|d| is_pci(d)).collect();
    if pci.is_empty() {
        args.push("--no-pci".into());
    }
    for device in pci {
        args.extend(["-a".into(), device.to_owned()]);
    }
    if !d.eal_args.iter().any(|a| a == "--telemetry") {
        args.push("--no-telemetry".into());
    }
    args.extend(d.eal_args.iter().filter(|a| !["--no-pci", "--no-telemetry"].contains(&a.as_str())).cloned());
    args
}

fn port_options(config: &Config, n: usize, workers: usize) -> PortOptions {
    let p = &config.ports[n];
    let mut o = PortOptions::new(PortId(n as u16), &p.device);
    // A memif's queues are those that both ends have, and most ends have one: what is sent on
    // another would be lost.
    let usual = if p.device.starts_with("net_memif") { 1 } else { workers as u16 };
    o.queues = p.queues.unwrap_or(usual);
    o.mtu = (p.mtu != 1500).then_some(p.mtu);
    o.rx_ring = p.rx_descriptors;
    o.tx_ring = p.tx_descriptors;
    o.promiscuous = p.promiscuous;
    // Neighbour discovery asks group addresses.
    o.all_multicast = true;
    let asked = p.offloads != Offload::Off;
    o.offloads = Offloads {
        // The one header checksum that is looked at takes as few instructions as asking the device.
        rx_csum: false,
        // Many drivers have a faster way to send for a port that never asks for a sum.
        tx_csum: p.offloads == Offload::On || asked && has_udp_tunnels(config),
        vlan: asked && !p.vlans.is_empty(),
        segments: true,
        fast_free: asked,
        by_software: p.offloads == Offload::On,
    };
    o.rss = if workers > 1 { Rss::FiveTuple } else { Rss::Off };
    o
}

/// Whether a real server of the file is reached by a tunnel whose datagrams may have checksums.
fn has_udp_tunnels(config: &Config) -> bool {
    let by_udp = |t: &Tunnel| matches!(t, Tunnel::Gue { .. } | Tunnel::Vxlan { .. });
    config.services.iter().any(|s| s.servers.iter().any(|r| by_udp(&r.tunnel)))
}

/// What the plan needs, computed before anything is taken: for the log and `--check`.
pub fn memory_summary(plan: &Plan) -> String {
    let workers = plan.cores.len();
    let tables = FlowTable::bytes_with_aliases(plan.flow_capacity, plan.flow_aliases) * workers;
    let state = (plan.max_reals * PER_REAL + plan.max_services * PER_SERVICE + SCHEDULERS) * workers;
    let control = CONTROL + plan.configured_servers * CONTROL_PER_SERVER;
    // Full NAT, FTP and told client addresses: taken as such flows come.
    let extensions = plan.flow_capacity as usize * (size_of::<Extension>() + size_of::<u32>()) * workers;
    let mb = |bytes: usize| bytes.div_ceil(1_000_000);
    format!(
        "memory: {} MB for DPDK with {} packet buffers of {} bytes, {} MB for {} flow tables of {} flows each, {} MB for \
         counters and schedulers of up to {} real servers and {} services, {} MB for control with {} real servers, \
         {} MB in all; up to {} MB more if every flow has an extension",
        plan.memory_mb,
        plan.packets,
        plan.data_room,
        mb(tables),
        workers,
        plan.flow_capacity,
        mb(state),
        plan.max_reals,
        plan.max_services,
        mb(control),
        plan.configured_servers,
        plan.memory_mb + mb(tables) + mb(state) + mb(control),
        mb(extensions),
    )
}

/// What the ports turned out to be, as the API shows them.
pub fn port_facts(config: &Config, dataplane: &Dataplane) -> Vec<PortFacts> {
    let workers = dataplane.links.len();
    dataplane
        .ports
        .iter()
        .map(|port| {
            let i = port.info();
            let steering = match (&i.delivery, workers) {
                (_, 1) => "single",
                _ if dataplane.software_steering => "software",
                _ => "rss",
            };
            let mut details = BTreeMap::new();
            if let (Delivery::HandOff { why }, true) = (&i.delivery, workers > 1) {
                details.insert("why_software".to_owned(), why.clone());
            }
            for (n, note) in i.notes.iter().enumerate() {
                details.insert(format!("note_{}", n + 1), note.clone());
            }
            details.insert("idle".to_owned(), format!("{:?}", dataplane.idle).to_lowercase());
            let o = i.offloads;
            let offloads =
                [(o.tx_csum, "tx-checksum"), (o.vlan, "vlan"), (o.segments, "segments"), (o.fast_free, "fast-free")];
            PortFacts {
                name: config.ports.get(i.port.index()).map_or_else(String::new, |p| p.name.clone()),
                device: i.device.clone(),
                driver: i.driver.clone(),
                mac: i.mac.to_string(),
                mtu: i.mtu,
                link_up: port.link().map(|l| l.up),
                rx_queues: i.rx_queues,
                tx_queues: i.tx_queues,
                steering: steering.into(),
                offloads: offloads.iter().filter(|(on, _)| *on).map(|(_, n)| (*n).to_owned()).collect(),
                details,
                work: DeviceWork { tags: o.vlan, checksums: o.tx_csum },
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers are given out again only after all others: each needs its place in the dataplane.
    #[test]
    fn every_number_that_control_gives_out_has_a_place() {
        for (services, servers) in [(1, 1), (4, 10), (1024, 8192), (10_000, 100_000)] {
            let text = format!(
                "[workers]\ncores = [0]\n[[port]]\nname = \"p\"\ndevice = \"net_null0\"\naddresses = [\"10.0.0.1/24\"]\n\
                 [limits]\nmax_services = {services}\nmax_real_servers = {servers}\n"
            );
            let config =
                control::config::parse("test", &text).unwrap_or_else(|e| panic!("{}", control::config::render(&e)));
            let plan = plan(&config);
            let (numbers, limits) = ((plan.max_services, plan.max_reals), &config.limits);
            assert_eq!(numbers, (limits.service_slots() as usize, limits.real_slots() as usize));
            assert!(numbers.0 > services && numbers.1 > servers, "removed ones rest");
        }
    }
}
