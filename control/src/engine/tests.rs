use std::path::PathBuf;

use dataplane::link::{Answer, Command};
use dataplane::snapshot::Snapshot;
use dataplane::units::{RealId, Tick};
use proptest::prelude::*;

use super::*;
use crate::config;
use crate::model::*;
use crate::state::StateFile;

mod tables;

const FILE: &str = "[[port]]\nname = \"cli\"\ndevice = \"a\"\naddresses = [\"10.3.0.1/24\"]\n\
    [[port]]\nname = \"srv\"\ndevice = \"b\"\naddresses = [\"10.2.0.254/24\"]\n\
    [[service]]\naddress = \"tcp:10.9.0.1:80\"\nscheduler = \"rr\"\n\
    [[service.server]]\naddress = \"10.2.0.11:8080\"\nmode = \"nat\"\n\
    [[service.server]]\naddress = \"10.2.0.12:8080\"\nmode = \"nat\"\n";

/// A worker as control sees it, with nothing behind.
struct Worker {
    link: Arc<WorkerLink>,
    snapshot: Arc<Snapshot>,
}

struct World {
    engine: Engine,
    workers: Vec<Worker>,
    now: u64,
}

struct Dir(PathBuf);
impl Dir {
    fn new(name: &str) -> Self {
        let d = std::env::temp_dir().join(format!("pollux-engine-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&d);
        std::fs::create_dir_all(&d).unwrap();
        Self(d)
    }
    fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }
}
impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

use std::sync::Arc;

use dataplane::link::WorkerLink;

fn facts(name: &str, n: u8) -> PortFacts {
    PortFacts { name: name.into(), mac: format!("02:00:00:00:00:{n:02x}"), ..PortFacts::default() }
}

fn try_world(config: config::Config, workers: usize) -> Result<World, EngineError> {
    let slots = config.limits.real_slots() as usize;
    let workers: Vec<Worker> =
        (0..workers).map(|_| Worker { link: WorkerLink::new(slots, 2), snapshot: Snapshot::empty() }).collect();
    let setup = Setup {
        config,
        links: workers.iter().map(|w| w.link.clone()).collect(),
        ports: vec![facts("cli", 1), facts("srv", 2)],
        build: Default::default(),
        announce: false,
    };
    Ok(World { engine: Engine::new(setup, 0)?, workers, now: 0 })
}

fn world(text: &str, state: Option<PathBuf>, workers: usize) -> World {
    let mut config = config::parse("t", text).unwrap();
    config.state_file = state;
    try_world(config, workers).unwrap()
}

impl World {
    fn adopt(&mut self) {
        for w in &mut self.workers {
            if let Some(new) = w.link.newer(w.snapshot.generation) {
                w.link.adopted(new.generation, std::mem::replace(&mut w.snapshot, new));
            }
        }
    }
    fn tick(&mut self, ms: u64) -> Vec<(Ticket, Reply)> {
        let mut ready = Vec::new();
        for _ in 0..ms.div_ceil(10) {
            self.now += 10;
            ready.extend(self.engine.tick(self.now));
            self.adopt();
        }
        ready
    }
    fn change(&mut self, operations: Vec<Operation>) -> Result<Accepted, Error> {
        match self.engine.handle(Request::Change(Change { operations, wait: false }), self.now)? {
            Response::Accepted(a) => Ok(a),
            other => panic!("{other:?}"),
        }
    }
    fn service(&mut self, key: &str) -> ServiceView {
        match self.engine.handle(Request::Service(key.parse().unwrap()), self.now).unwrap() {
            Response::Service(s) => *s,
            other => panic!("{other:?}"),
        }
    }
    fn status(&mut self) -> Status {
        match self.engine.handle(Request::Status, self.now).unwrap() {
            Response::Status(s) => *s,
            other => panic!("{other:?}"),
        }
    }
    fn snapshot(&mut self) -> &Snapshot {
        self.adopt();
        &self.workers[0].snapshot
    }
    fn real(&self, server: &str) -> RealId {
        self.engine.ids.real(&VIP.parse().unwrap(), &server.parse().unwrap()).unwrap()
    }
}

const VIP: &str = "tcp:10.9.0.1:80";

fn delete(server: &str) -> Operation {
    Operation::DeleteServer { service: VIP.parse().unwrap(), address: server.parse().unwrap() }
}
fn add(server: &str) -> Operation {
    let mut r = RealServer::new(server.parse().unwrap());
    r.mode = ForwardingMode::Nat;
    Operation::AddServer { service: VIP.parse().unwrap(), server: r }
}
fn add_service(key: &str) -> Operation {
    Operation::AddService { service: NewService::new(key.parse().unwrap()) }
}

#[test]
fn the_first_snapshot_holds_the_file() {
    let mut w = world(FILE, None, 2);
    w.adopt();
    assert_eq!(w.status().adopted, [1, 1]);
    let s = w.snapshot();
    let service = s.service_for(6, "10.9.0.1".parse::<std::net::IpAddr>().unwrap().into(), 80.into()).unwrap();
    let order: Vec<String> = service.sched.reals.iter().map(|r| s.real(r.id).unwrap().addr.to_string()).collect();
    assert_eq!(order, ["10.2.0.12", "10.2.0.11"], "the newest is tried first");
}

#[test]
fn a_change_is_all_or_nothing() {
    let mut w = world(FILE, None, 1);
    let before = w.engine.services.clone();
    let e = w.change(vec![delete("10.2.0.11:8080"), add("10.2.0.13:8080"), delete("10.2.0.99:8080")]).unwrap_err();
    assert_eq!((e.code, e.operation), (ErrorCode::NoSuchServer, Some(2)));
    assert_eq!(e.message, "the service tcp:10.9.0.1:80 has no real server 10.2.0.99:8080");
    assert_eq!((w.engine.services.clone(), w.engine.generation), (before, 1));
    assert_eq!(w.change(vec![delete("10.2.0.11:8080"), add("10.2.0.13:8080")]).unwrap().generation, 2);
}

#[test]
fn a_removed_server_keeps_its_slot_while_it_has_flows() {
    let mut w = world(FILE, None, 2);
    w.adopt();
    let id = w.real("10.2.0.12:8080");
    // Any count on any worker holds the slot; a template is one.
    w.workers[1].link.counts.persistent_opened(id);
    w.change(vec![delete("10.2.0.12:8080")]).unwrap();
    w.tick(5000);
    let real = w.snapshot().real(id).unwrap();
    assert!(!real.available);
    assert_eq!(real.predecessor, RealId::NONE, "it was the head of the list");
    w.change(vec![add("10.2.0.12:8080")]).unwrap();
    assert_eq!(w.real("10.2.0.12:8080"), id);
    assert!(w.snapshot().real(id).unwrap().available);
    // Gone again, and the flow ends: the slot is free after a while, not before.
    w.change(vec![delete("10.2.0.12:8080")]).unwrap();
    w.tick(3000);
    assert_eq!(w.engine.ids.removed(), 1);
    w.workers[1].link.counts.persistent_closed(id);
    w.tick(119_000);
    assert_eq!(w.engine.ids.removed(), 1);
    w.tick(3000);
    assert_eq!(w.engine.ids.removed(), 0);
}

#[test]
fn many_removed_servers_are_soon_forgotten() {
    let mut w = world(FILE, None, 1);
    w.adopt();
    let names: Vec<String> = (1..=33).map(|n| format!("10.2.7.{n}:8080")).collect();
    w.change(names.iter().map(|n| add(n)).collect()).unwrap();
    w.tick(100);
    w.change(names.iter().map(|n| delete(n)).collect()).unwrap();
    w.tick(500);
    assert_eq!(w.engine.ids.removed(), 33);
    w.tick(3000);
    assert_eq!(w.engine.ids.removed(), 0);
}

#[test]
fn a_slot_waits_for_the_slowest_worker() {
    let mut w = world(FILE, None, 2);
    w.adopt();
    w.change(vec![delete("10.2.0.12:8080")]).unwrap();
    let slow = w.workers.remove(1);
    w.tick(10_000);
    assert_eq!(w.engine.ids.removed(), 1, "one worker may still send new flows there");
    w.workers.push(slow);
    w.tick(122_000);
    assert_eq!(w.engine.ids.removed(), 0);
}

#[test]
fn the_predecessor_is_the_next_newer_server() {
    let mut w = world(FILE, None, 1);
    w.workers[0].link.counts.persistent_opened(w.real("10.2.0.11:8080"));
    w.change(vec![delete("10.2.0.11:8080")]).unwrap();
    let (gone, newer) = (w.real("10.2.0.11:8080"), w.real("10.2.0.12:8080"));
    assert_eq!(w.snapshot().real(gone).unwrap().predecessor, newer);
}

#[test]
fn statistics_outlive_servers_and_start_at_zero_when_asked() {
    let mut w = world(FILE, None, 2);
    w.adopt();
    let id = w.real("10.2.0.12:8080");
    w.workers.iter().for_each(|x| x.link.counters.real(id).in_packets.add(10));
    w.change(vec![delete("10.2.0.12:8080")]).unwrap();
    assert_eq!(w.service(VIP).traffic.in_packets, 20);
    w.tick(122_000);
    assert_eq!((w.engine.ids.removed(), w.service(VIP).traffic.in_packets), (0, 20));
    // All other numbers are taken first, then this one comes back: to a server that counted nothing.
    let slots = w.engine.config.limits.real_slots();
    for n in 0..slots {
        let server = format!("10.{}.{}.{}:1", 20 + n / 60_000, n / 250 % 250, n % 250 + 1);
        if w.change(vec![add(&server)]).is_err() {
            break;
        }
        if w.real(&server) == id {
            let view = w.service(VIP);
            assert_eq!(view.servers.last().unwrap().traffic.in_packets, 0);
        }
        w.change(vec![delete(&server)]).unwrap();
        w.tick(1500);
        if n > 20 {
            break;
        }
    }
    assert_eq!(w.service(VIP).traffic.in_packets, 20);
    w.change(vec![Operation::Zero { service: Some(VIP.parse().unwrap()) }]).unwrap();
    assert_eq!(w.service(VIP).traffic.in_packets, 0);
    let Response::Stats(stats) = w.engine.handle(Request::Stats, w.now).unwrap() else { panic!() };
    assert_eq!(stats.traffic.in_packets, 20, "one service at zero leaves the total");
    w.change(vec![Operation::Zero { service: None }]).unwrap();
    let Response::Stats(stats) = w.engine.handle(Request::Stats, w.now).unwrap() else { panic!() };
    assert_eq!(stats.traffic.in_packets, 0);
}

#[test]
fn rates_move_a_quarter_of_the_way() {
    let mut w = world(FILE, None, 1);
    let id = w.real("10.2.0.12:8080");
    w.workers[0].link.counters.real(id).connections.add(800);
    w.tick(2000);
    assert_eq!(w.service(VIP).rates.connections, 100.0);
    w.tick(2000);
    assert_eq!(w.service(VIP).rates.connections, 75.0);
}

#[test]
fn a_change_may_wait_for_the_workers() {
    let mut w = world(FILE, None, 2);
    let change = Change { operations: vec![delete("10.2.0.12:8080")], wait: true };
    let Progress::Pending(ticket) = w.engine.start(Request::Change(change.clone()), w.now) else { panic!() };
    assert!(w.engine.tick(5).is_empty());
    w.adopt();
    let ready = w.engine.tick(10);
    assert!(matches!(&ready[..], [(t, Ok(Response::Accepted(a)))] if *t == ticket && a.adopted == [2, 2]), "{ready:?}");
    let change = Change { operations: vec![add("10.2.0.12:8080")], ..change };
    let Progress::Pending(_) = w.engine.start(Request::Change(change), 20) else { panic!() };
    assert!(w.engine.tick(2000).is_empty());
    let ready = w.engine.tick(2030);
    assert!(matches!(&ready[..], [(_, Err(e))] if e.code == ErrorCode::Timeout), "{ready:?}");
}

#[test]
fn accepted_changes_survive_and_the_edited_file_wins() {
    let dir = Dir::new("survive");
    let mut w = world(FILE, Some(dir.state()), 1);
    assert!(!dir.state().exists(), "what the file says is not written twice");
    w.change(vec![add("10.2.0.13:8080"), Operation::SetTimeouts { tcp_s: 100, tcp_fin_s: 0, udp_s: 0 }]).unwrap();
    assert!(w.status().changed_by_api);
    // Killed here. The same file again: the state is used.
    let mut w = world(FILE, Some(dir.state()), 1);
    assert_eq!((w.service(VIP).servers.len(), w.status().services_from.as_str()), (3, "state"));
    assert_eq!(w.engine.handle(Request::Timeouts, 0).unwrap(), Response::Timeouts(100, 120, 300));
    // A comment or another setting changes nothing; an edited service does.
    let mut w = world(&format!("# hello\n{FILE}\n[settings]\nsloppy_tcp = true"), Some(dir.state()), 1);
    assert_eq!(w.service(VIP).servers.len(), 3);
    let mut w = world(&FILE.replace("\"rr\"", "\"wlc\""), Some(dir.state()), 1);
    let status = w.status();
    assert_eq!((w.service(VIP).servers.len(), status.services_from.as_str()), (2, "file"));
    assert!(status.warnings[0].contains("real server 10.2.0.13:8080 of tcp:10.9.0.1:80 was added"), "{status:?}");
    assert!(dir.0.join("state.json.superseded").exists());
    assert_eq!(w.engine.handle(Request::Timeouts, 0).unwrap(), Response::Timeouts(100, 120, 300));
}

#[test]
fn a_change_that_cannot_be_written_is_not_made() {
    let dir = Dir::new("unwritten");
    let mut w = world(FILE, Some(dir.state()), 1);
    std::fs::create_dir(dir.0.join("state.json.tmp")).unwrap();
    let e = w.change(vec![delete("10.2.0.12:8080")]).unwrap_err();
    assert_eq!(e.code, ErrorCode::NotPersisted);
    assert_eq!((w.engine.generation, w.service(VIP).servers.len()), (1, 2));
}

#[test]
fn a_damaged_state_stops_the_start() {
    let dir = Dir::new("damaged");
    std::fs::write(dir.state(), "{\"format\": 1, ").unwrap();
    let mut config = config::parse("t", FILE).unwrap();
    config.state_file = Some(dir.state());
    let e = try_world(config, 1).err().unwrap().to_string();
    assert!(e.contains("is damaged: EOF while parsing"), "{e}");
}

#[test]
fn reloading_takes_what_can_change_and_names_the_rest() {
    let dir = Dir::new("reload");
    let path = dir.0.join("pollux.toml");
    std::fs::write(&path, FILE).unwrap();
    let mut config = config::load(&path).unwrap();
    config.state_file = Some(dir.state());
    let mut w = try_world(config, 1).unwrap();
    w.change(vec![add("10.2.0.13:8080")]).unwrap();
    let state = format!("[state]\nfile = \"{}\"\n", dir.state().display());
    let reload = |w: &mut World, text: String| {
        std::fs::write(&path, text).unwrap();
        match w.engine.handle(Request::Reload, w.now)? {
            Response::Accepted(a) => Ok(a.notes),
            other => panic!("{other:?}"),
        }
    };
    // Services unchanged in the file: those of the API stay, settings change.
    let notes =
        reload(&mut w, format!("{state}[workers]\ncores = [1, 2]\n[settings]\nsloppy_tcp = true\n{FILE}")).unwrap();
    assert_eq!(notes, ["needs a restart: [workers]"]);
    assert_eq!(w.service(VIP).servers.len(), 3);
    assert!(w.snapshot().settings.sloppy_tcp);
    // A mistake changes nothing.
    let generation = w.engine.generation;
    let e: Error = reload(&mut w, format!("{state}{FILE}[settings]\nslopy_tcp = false\n")).unwrap_err();
    assert!(e.message.contains("did you mean `sloppy_tcp`?"), "{e}");
    assert_eq!(w.engine.generation, generation);
    // Services edited in the file: the file wins.
    reload(&mut w, format!("{state}{}", FILE.replace("\"rr\"", "\"wlc\""))).unwrap();
    assert_eq!(w.service(VIP).servers.len(), 2);
    assert!(!dir.state().exists());
    w.change(vec![add("10.2.0.14:8080")]).unwrap();
    assert!(StateFile::new(dir.state()).load().unwrap().is_some());
}

#[test]
fn flows_come_in_pages_over_all_workers() {
    let mut w = world(FILE, None, 2);
    let real = w.real("10.2.0.11:8080");
    let query = FlowQuery { limit: Some(3), ..FlowQuery::default() };
    let Progress::Pending(ticket) = w.engine.start(Request::Flows(query), 0) else { panic!() };
    let mut page = None;
    for now in 1..50 {
        for (n, worker) in w.workers.iter().enumerate() {
            let Some(Command::ListFlows { query, cursor, limit, .. }) = worker.link.commands.pop() else { continue };
            // Each worker has two flows.
            let rows = (2 - cursor.min(2)).min(limit);
            for i in 0..rows {
                let record = record(real, n as u16 * 100 + i as u16);
                worker.link.answers.push(Answer::Flow { query, record, local: None, now: Tick(500) }).unwrap();
            }
            let cursor = if cursor + rows >= 2 { u32::MAX } else { cursor + rows };
            worker.link.answers.push(Answer::Done { query, cursor }).unwrap();
        }
        if let Some((t, reply)) = w.engine.tick(now).pop() {
            assert_eq!(t, ticket);
            let Ok(Response::Flows(p)) = reply else { panic!("{reply:?}") };
            page = Some(p);
        }
    }
    let page = page.unwrap();
    let ports: Vec<u16> = page.flows.iter().map(|f| f.client_port).collect();
    assert_eq!((ports, page.next.as_deref()), (vec![0, 1, 100], Some("1-1")));
    let f = &page.flows[0];
    assert_eq!((f.state.as_str(), f.mode.as_str(), f.expires_ms), ("ESTABLISHED", "nat", 500));
    assert_eq!(f.service, Some(VIP.parse().unwrap()));
    // A worker that does not answer is not waited for for ever.
    let Progress::Pending(_) = w.engine.start(Request::Flows(FlowQuery::default()), 100) else { panic!() };
    let ready: Vec<_> = (0..600).flat_map(|n| w.engine.tick(100 + n * 10)).collect();
    assert!(matches!(&ready[..], [(_, Err(e))] if e.code == ErrorCode::Timeout), "{ready:?}");
}

fn record(real: RealId, port: u16) -> dataplane::flow::record::FlowRecord {
    dataplane::flow::record::FlowRecord {
        client: dataplane::units::Ip::from_v4([10, 1, 0, 1]),
        vip: dataplane::units::Ip::from_v4([10, 9, 0, 1]).into(),
        client_port: port.into(),
        vport: 80.into(),
        rport: 8080.into(),
        proto: 6,
        state: 1,
        real,
        peer: 0,
        deadline: Tick(1000),
        flags: 0,
        l3_delta: 0,
        l4_delta: 0,
        ext: u32::MAX,
    }
}

#[test]
fn limits_hold() {
    let text = format!("{FILE}[limits]\nmax_services = 2\nmax_real_servers = 3\n");
    let mut w = world(&text, None, 1);
    w.change(vec![add_service("tcp:10.9.0.2:80")]).unwrap();
    let e = w.change(vec![add_service("tcp:10.9.0.3:80")]).unwrap_err();
    assert_eq!(e.code, ErrorCode::LimitReached);
    w.change(vec![add("10.2.0.13:1")]).unwrap();
    let e = w.change(vec![add("10.2.0.14:1")]).unwrap_err();
    assert_eq!(e.code, ErrorCode::LimitReached);
    assert!(e.remedy.unwrap().contains("max_real_servers"));
}

#[test]
fn slots_that_removed_servers_hold_are_counted() {
    let text = format!("{FILE}[limits]\nmax_real_servers = 2\n");
    let mut w = world(&text, None, 1);
    w.workers.clear();
    let mut last = Ok(());
    for n in 0..200 {
        let server = format!("10.2.0.{}:{}", n % 50 + 100, n + 1);
        w.change(vec![delete("10.2.0.12:8080")]).ok();
        last = w.change(vec![add(&server)]).map(|_| ());
        if last.is_err() {
            break;
        }
        w.change(vec![delete(&server)]).unwrap();
    }
    let e = last.unwrap_err();
    assert_eq!(e.code, ErrorCode::LimitReached);
    assert!(e.message.contains("removed ones still have flows"), "{e}");
}

/// Keys, so few that operations meet.
fn arb_key() -> impl Strategy<Value = ServiceKey> {
    prop::sample::select(vec![
        "tcp:10.9.0.1:80",
        "udp:10.9.0.1:53",
        "tcp:[2001:db8:9::1]:80",
        "fwm:7",
        "tcp:10.9.0.2:0",
    ])
    .prop_map(|s| s.parse().unwrap())
}
fn arb_server() -> impl Strategy<Value = ServerKey> {
    prop::sample::select(vec!["10.2.0.11:80", "10.2.0.12", "10.2.0.13:8080", "[2001:db8:2::11]:80", "192.0.2.1:80"])
        .prop_map(|s| s.parse().unwrap())
}
fn arb_real() -> impl Strategy<Value = RealServer> {
    (arb_server(), prop::sample::select(ForwardingMode::ALL.to_vec()), 0..1u32 << 31, 0..9u32, 0..9u32).prop_map(
        |(address, mode, weight, upper_threshold, lower_threshold)| RealServer {
            address,
            mode,
            tunnel: Tunnel::Ipip,
            weight,
            upper_threshold,
            lower_threshold,
        },
    )
}
fn arb_new() -> impl Strategy<Value = NewService> {
    let persistence = prop::option::of((0..400u32).prop_map(|timeout_s| Persistence { timeout_s, prefix_len: None }));
    (
        arb_key(),
        prop::sample::select(Scheduler::ALL.to_vec()),
        persistence,
        any::<bool>(),
        prop::collection::vec(arb_real(), 0..3),
    )
        .prop_map(|(address, scheduler, persistence, one_packet, servers)| NewService {
            scheduler,
            persistence,
            one_packet,
            servers,
            ..NewService::new(address)
        })
}
fn arb_operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => arb_new().prop_map(|service| Operation::AddService { service }),
        1 => arb_new().prop_map(|service| Operation::PutService { service }),
        2 => (arb_key(), any::<bool>()).prop_map(|(address, one)| Operation::SetService {
            address,
            set: ServicePatch { one_packet: Some(one), persistence: Some(None), ..ServicePatch::default() },
        }),
        1 => arb_key().prop_map(|address| Operation::DeleteService { address }),
        6 => (arb_key(), arb_real()).prop_map(|(service, server)| Operation::AddServer { service, server }),
        3 => (arb_key(), arb_server(), 0..1u32 << 31).prop_map(|(service, address, w)| Operation::SetServer {
            service,
            address,
            set: ServerPatch { weight: Some(w), ..ServerPatch::default() },
        }),
        4 => (arb_key(), arb_server()).prop_map(|(service, address)| Operation::DeleteServer { service, address }),
        1 => Just(Operation::Flush),
        1 => (0..3_000_000u32).prop_map(|s| Operation::SetTimeouts { tcp_s: s, tcp_fin_s: 0, udp_s: 5 }),
        1 => prop::option::of(arb_key()).prop_map(|service| Operation::Zero { service }),
    ]
}

fn check_invariants(w: &World) {
    let e = &w.engine;
    let mut numbers = std::collections::HashSet::new();
    for (service, server, slot) in e.ids.slots() {
        assert!(numbers.insert(slot.id), "a number was given out twice");
        assert!(slot.id.0 < e.config.limits.real_slots());
        let lives = e.services.get(service).is_ok_and(|s| s.server(server).is_some());
        assert_eq!(lives, slot.removed.is_none(), "{service} {server}");
    }
    let mut services = std::collections::HashSet::new();
    for s in e.services.iter() {
        assert!(services.insert(e.ids.service(&s.address).unwrap()));
        assert!(s.servers.iter().all(|r| e.ids.real(&s.address, &r.address).is_some()));
        NewService::from(&**s).validate().unwrap();
    }
    let count: usize = e.services.iter().map(|s| s.servers.len()).sum();
    assert_eq!(count, e.services.server_count());
    assert_eq!(e.ids.slots().filter(|(.., s)| s.removed.is_some()).count(), e.ids.removed());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_operations_keeps_the_model_whole(
        batches in prop::collection::vec((prop::collection::vec(arb_operation(), 1..4), 0..3000u64), 1..25),
        seed in any::<u64>(),
    ) {
        let dir = Dir::new(&format!("prop-{seed}"));
        let mut w = world(FILE, Some(dir.state()), 2);
        // Half of them with a journal, however little there is to write.
        if seed % 2 == 0 {
            w.engine.state.as_mut().unwrap().journal_from(0);
        }
        for (operations, pause) in batches {
            let (before, generation) = (w.engine.services.clone(), w.engine.generation);
            match w.change(operations) {
                Ok(a) => prop_assert!(a.generation >= generation),
                Err(_) => {
                    prop_assert_eq!(&w.engine.services, &before);
                    prop_assert_eq!(w.engine.generation, generation);
                }
            }
            check_invariants(&w);
            w.tick(pause);
            check_invariants(&w);
            // Killed now, the next start finds the same services.
            let again = world(FILE, Some(dir.state()), 1);
            prop_assert_eq!(&again.engine.services, &w.engine.services);
            prop_assert_eq!(again.engine.three_timeouts(), w.engine.three_timeouts());
        }
    }
}

#[test]
fn ending_flows_is_told_to_every_worker_and_must_say_which() {
    let mut w = world(FILE, None, 2);
    let mut end = |service: Option<&str>, server: Option<&str>, all| {
        let (service, server) = (service.map(|s| s.parse().unwrap()), server.map(|s| s.parse().unwrap()));
        w.engine.handle(Request::EndFlows(EndFlows { service, server, all }), 0)
    };
    end(None, None, true).unwrap();
    end(Some(VIP), None, false).unwrap();
    end(Some(VIP), Some("10.2.0.12:8080"), false).unwrap();
    let code = |r: Reply| r.unwrap_err().code;
    assert_eq!(code(end(None, None, false)), ErrorCode::Invalid);
    assert_eq!(code(end(None, Some("10.2.0.12:8080"), false)), ErrorCode::Invalid);
    assert_eq!(code(end(Some(VIP), None, true)), ErrorCode::Invalid);
    assert_eq!(code(end(Some("fwm:7"), None, false)), ErrorCode::NoSuchService);
    assert_eq!(code(end(Some(VIP), Some("10.2.0.99:1"), false)), ErrorCode::NoSuchServer);
    let (real, service) = (w.real("10.2.0.12:8080"), w.engine.ids.service(&VIP.parse().unwrap()).unwrap());
    for worker in &w.workers {
        let told: Vec<Command> = std::iter::from_fn(|| worker.link.commands.pop()).collect();
        assert_eq!(told, [Command::FlushAll, Command::FlushService(service), Command::FlushReal(real)]);
    }
}

/// `cargo test -p pollux-control --release -- --ignored --nocapture scale`
#[test]
#[ignore = "a measurement"]
fn a_change_at_scale() {
    let dir = Dir::new("scale");
    let mut config = config::parse("t", FILE).unwrap();
    config.limits = Limits { max_services: 20_000, max_real_servers: 200_000, ..Limits::default() };
    config.state_file = Some(dir.state());
    let mut w = try_world(config, 2).unwrap();
    let service = |n: u32| {
        let mut s =
            NewService::new(format!("tcp:10.{}.{}.{}:80", 100 + n / 65_536, n / 256 % 256, n % 256).parse().unwrap());
        s.servers = (1..=10)
            .map(|i| format!("10.2.{}.{}:80", n % 250, n / 250 % 20 * 10 + i).parse().unwrap())
            .map(RealServer::new)
            .collect();
        Operation::AddService { service: s }
    };
    for (what, from, to) in [("10,000 services with 100,000 real servers", 256, 10_256), ("one more", 10_256, 10_257)] {
        let start = std::time::Instant::now();
        w.change((from..to).map(service).collect()).unwrap();
        println!("{what}: {:?}", start.elapsed());
    }
    let state = w.engine.state.take();
    let server = |n: u32| format!("10.2.250.{n}:80").parse().unwrap();
    let of = |n: u32| format!("tcp:10.100.{}.7:80", 2 + n).parse().unwrap();
    let start = std::time::Instant::now();
    for n in 1..31 {
        w.change(vec![Operation::AddServer { service: of(n), server: RealServer::new(server(n)) }]).unwrap();
        w.adopt();
        w.change(vec![Operation::DeleteServer { service: of(n), address: server(n) }]).unwrap();
        w.adopt();
    }
    println!("a change without a state file: {:?}", start.elapsed() / 60);
    let start = std::time::Instant::now();
    for _ in 0..3 {
        w.engine.handle(Request::Stats, 0).unwrap();
    }
    println!("all statistics, not written out: {:?}", start.elapsed() / 3);
    let Ok(Response::Stats(stats)) = w.engine.handle(Request::Stats, 0) else { panic!() };
    let start = std::time::Instant::now();
    let bytes = (0..3).map(|_| serde_json::to_vec(&stats).unwrap().len()).max().unwrap();
    println!("and {bytes} bytes of JSON: {:?}", start.elapsed() / 3);
    w.engine.state = state;
    let start = std::time::Instant::now();
    w.engine.publish();
    println!("a snapshot: {:?}", start.elapsed());
    let start = std::time::Instant::now();
    let state = crate::state::State::new(w.engine.base.clone(), &w.engine.services, None);
    w.engine.state.as_mut().unwrap().save(&state).unwrap();
    println!("the state file, {} bytes: {:?}", std::fs::metadata(dir.state()).unwrap().len(), start.elapsed());
    let start = std::time::Instant::now();
    w.engine.rebuild(0);
    println!("neighbours and a snapshot: {:?}", start.elapsed());
    let start = std::time::Instant::now();
    w.tick(1000);
    println!("a second of ticks: {:?}", start.elapsed());
}

#[test]
fn an_empty_pool_of_local_ports_is_warned_of() {
    let mut w = world(FILE, None, 2);
    w.tick(2_000);
    let warned = |w: &mut World| w.status().warnings.iter().filter(|m| m.contains("local ports")).count();
    assert_eq!(warned(&mut w), 0);
    w.workers[1].link.counters.drop(dataplane::counters::DropReason::LocalPoolEmpty).add(3);
    w.tick(1_100);
    assert_eq!(warned(&mut w), 1);
}
