//! What is kept up to date bit by bit is what is made anew: `Engine::publish` compares the two in tests, all
//! tables of the snapshot, the neighbours that must be known and the addresses announced. Here random
//! sequences of everything that can change them.

use dataplane::link::Event;
use dataplane::snapshot::IfaceId;
use dataplane::units::{Ip, Mac};

use super::*;

const PORTS: &str = "[[port]]\nname = \"cli\"\ndevice = \"a\"\naddresses = [\"10.3.0.1/24\", \"2001:db8:3::1/64\"]\n\
    [[port]]\nname = \"srv\"\ndevice = \"b\"\naddresses = [\"10.2.0.254/24\", \"2001:db8:2::1/64\"]\n\
    [[route]]\nto = \"10.50.0.0/16\"\nvia = \"10.2.0.12\"\n";
const SERVICE: &str = "[[service]]\naddress = \"tcp:10.9.0.1:80\"\n[[service.server]]\naddress = \"10.2.0.11:80\"\n";
/// What the file may be changed to while the daemon runs.
const MORE: [&str; 4] = [
    "",
    "[[neighbour]]\naddress = \"10.2.0.13\"\nmac = \"02:00:00:00:02:0b\"\nport = \"srv\"\n",
    "[[route]]\nto = \"default\"\nvia = \"10.2.0.11\"\n[full_nat]\naddresses = [\"10.3.0.77\", \"10.2.0.15\"]\n",
    "[[route]]\nto = \"10.50.0.0/24\"\nvia = \"10.3.0.9\"\n[settings]\ndr_decrement_ttl = false\n",
];

/// Addresses that are a client's, a VIP's, a gateway's and a real server's at the same time, and others.
const SERVERS: [&str; 12] = [
    "10.2.0.11",
    "10.2.0.12",
    "10.2.0.13",
    "10.2.0.14",
    "10.2.0.15",
    "10.50.0.1",
    "10.50.1.1",
    "192.0.2.1",
    "10.3.0.1",
    "127.0.0.1",
    "2001:db8:2::11",
    "2001:db8:9::1",
];
const KEYS: [&str; 8] = [
    "tcp:10.9.0.1:80",
    "udp:10.9.0.1:80",
    "tcp:10.2.0.14:80",
    "tcp:10.3.0.77:21",
    "tcp:[2001:db8:9::1]:80",
    "fwm:7",
    "fwm:2",
    "fwm6:7",
];

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    Change(Vec<Operation>),
    Seen(usize, u8),
    Wanted(usize),
    PathMtu(usize, u16),
    /// A server has a flow, or none any more.
    Flow(u32, bool),
    Reconfigure(usize, bool),
    Wait(u64),
    WaitLong,
}

fn key(n: usize) -> ServiceKey {
    KEYS[n].parse().unwrap()
}

fn ip(n: usize) -> std::net::IpAddr {
    SERVERS[n].parse().unwrap()
}

fn server(n: usize, service: ServiceKey, mode: usize, weight: u32) -> NewServer {
    let mode = ForwardingMode::ALL[mode];
    let rewrites = matches!(mode, ForwardingMode::Nat | ForwardingMode::FullNat);
    let port = if rewrites && weight % 2 == 1 { 8080 } else { service.port() };
    let mut new = RealServer::new(ServerKey { ip: ip(n), port });
    (new.mode, new.weight) = (mode, weight);
    new
}

fn arb_service() -> impl Strategy<Value = NewService> {
    let server_of = (0..SERVERS.len(), 0..4usize, 0..4u32);
    (
        0..KEYS.len(),
        prop::sample::select(Scheduler::ALL.to_vec()),
        any::<bool>(),
        prop::collection::vec(server_of, 0..6),
        0..24u8,
    )
        .prop_map(|(k, scheduler, persistent, servers, many)| {
            let address = key(k);
            let mut new = NewService { scheduler, ..NewService::new(address) };
            new.persistence = persistent.then_some(Persistence { timeout_s: 50, prefix_len: None });
            for (n, mode, weight) in servers {
                let s = server(n, address, mode, weight);
                let fits = s.address.ip.is_ipv6() == address.is_ipv6() || s.mode == ForwardingMode::Tunnel;
                if fits && new.servers.iter().all(|other| other.address != s.address) {
                    new.servers.push(s);
                }
            }
            // Sometimes a list that workers take in before they adopt the snapshot.
            if many > 18 && !address.is_ipv6() {
                for n in 0..many {
                    let s = ServerKey { ip: [10, 2, 0, 100 + n].into(), port: address.port() };
                    new.servers.push(RealServer::new(s));
                }
            }
            if matches!(address, ServiceKey::Mark { ipv6: false, .. }) {
                new.rules = vec!["tcp:10.2.0.14:1-9".parse().unwrap(), "any:10.2.0.8/29".parse().unwrap()];
            }
            new
        })
}

fn arb_one() -> impl Strategy<Value = Operation> {
    let k = 0..KEYS.len();
    let n = 0..SERVERS.len();
    prop_oneof![
        4 => arb_service().prop_map(|service| Operation::AddService { service }),
        2 => arb_service().prop_map(|service| Operation::PutService { service }),
        2 => (k.clone(), prop::sample::select(Scheduler::ALL.to_vec()), any::<bool>()).prop_map(|(k, s, p)| {
            let persistence = Some(p.then_some(Persistence { timeout_s: 9, prefix_len: None }));
            let set = ServicePatch { scheduler: Some(s), persistence, ..ServicePatch::default() };
            Operation::SetService { address: key(k), set }
        }),
        2 => k.clone().prop_map(|k| Operation::DeleteService { address: key(k) }),
        8 => (k.clone(), n.clone(), 0..4usize, 0..4u32).prop_map(|(k, n, mode, weight)| {
            Operation::AddServer { service: key(k), server: server(n, key(k), mode, weight) }
        }),
        4 => (k.clone(), n.clone(), prop::option::of(0..4usize), 0..3u32).prop_map(|(k, n, mode, weight)| {
            let mode = mode.map(|m| ForwardingMode::ALL[m]);
            let set = ServerPatch { mode, weight: Some(weight), ..ServerPatch::default() };
            Operation::SetServer { service: key(k), address: ServerKey { ip: ip(n), port: 0 }, set }
        }),
        5 => (k, n).prop_map(|(k, n)| {
            Operation::DeleteServer { service: key(k), address: ServerKey { ip: ip(n), port: 0 } }
        }),
        1 => Just(Operation::Flush),
        1 => (1..90u32).prop_map(|tcp_s| Operation::SetTimeouts { tcp_s, tcp_fin_s: 0, udp_s: 0 }),
    ]
}

fn arb_step() -> impl Strategy<Value = Step> {
    let n = 0..SERVERS.len();
    prop_oneof![
        12 => prop::collection::vec(arb_one(), 1..4).prop_map(Step::Change),
        3 => (n.clone(), 1..4u8).prop_map(|(n, mac)| Step::Seen(n, mac)),
        1 => n.clone().prop_map(Step::Wanted),
        2 => (n, 1000..1400u16).prop_map(|(n, mtu)| Step::PathMtu(n, mtu)),
        3 => (0..12u32, any::<bool>()).prop_map(|(id, open)| Step::Flow(id, open)),
        1 => (0..MORE.len(), any::<bool>()).prop_map(|(more, service)| Step::Reconfigure(more, service)),
        4 => (10..2000u64).prop_map(Step::Wait),
        1 => Just(Step::WaitLong),
    ]
}

impl World {
    /// A worker says something.
    fn say(&mut self, event: Event) {
        self.workers[0].link.events.push(event).unwrap();
    }

    fn step(&mut self, step: Step) {
        // On the interface of real servers, or of clients.
        let iface = |ip: Ip| IfaceId(u16::from(!ip.to_std().to_string().starts_with("10.3")));
        match step {
            // What is refused must leave everything as it was.
            Step::Change(operations) => drop(self.change(operations)),
            Step::Seen(n, mac) => {
                let (ip, mac) = (Ip::from(ip(n)), Mac([2, 0, 0, 0, 9, mac]));
                self.say(Event::NeighbourSeen { iface: iface(ip), ip, mac, solicited: mac.0[5] == 1 });
            }
            Step::Wanted(n) => self.say(Event::NeighbourWanted { iface: iface(ip(n).into()), ip: ip(n).into() }),
            Step::PathMtu(n, mtu) => self.say(Event::PathMtu { ip: ip(n).into(), mtu }),
            Step::Flow(id, open) => {
                let counts = &self.workers[0].link.counts;
                match (open, counts.persistent(RealId(id)) > 0) {
                    (true, _) => counts.persistent_opened(RealId(id)),
                    (false, true) => counts.persistent_closed(RealId(id)),
                    (false, false) => {}
                }
            }
            Step::Reconfigure(more, service) => {
                let text = [PORTS, MORE[more], if service { SERVICE } else { "" }].concat();
                let mut config = config::parse("t", &text).unwrap();
                config.state_file = self.engine.config.state_file.clone();
                self.engine.reconfigure(config, self.now).unwrap();
            }
            Step::Wait(ms) => drop(self.tick(ms)),
            Step::WaitLong => {
                self.now += 700_000;
                self.tick(20);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_is_kept_up_to_date_is_what_is_made_anew(steps in prop::collection::vec(arb_step(), 1..40)) {
        let mut w = world(&[PORTS, SERVICE].concat(), None, 2);
        for step in steps {
            w.step(step);
            check_invariants(&w);
            // Compares, whether there was anything to tell the workers or not.
            w.engine.publish();
        }
    }
}

#[test]
fn what_a_change_does_not_touch_is_shared() {
    let mut w = world(&[PORTS, SERVICE].concat(), None, 1);
    let service = |n: u8| {
        let mut s = NewService::new(format!("tcp:10.9.1.{n}:80").parse().unwrap());
        s.servers = (0..4).map(|i| RealServer::new(format!("10.2.0.{}:80", 20 + i).parse().unwrap())).collect();
        Operation::AddService { service: s }
    };
    w.change((0..200).map(service).collect()).unwrap();
    w.adopt();
    let before = w.workers[0].snapshot.clone();
    let set = ServerPatch { weight: Some(7), ..ServerPatch::default() };
    let (service, address) = ("tcp:10.9.1.9:80".parse().unwrap(), "10.2.0.21:80".parse().unwrap());
    w.change(vec![Operation::SetServer { service, address, set }]).unwrap();
    let after = w.snapshot();
    let at = |s: &Snapshot, n: u32| std::ptr::from_ref(s.real(RealId(n)).unwrap());
    let moved: Vec<u32> = (0..800).filter(|n| at(&before, *n) != at(after, *n)).collect();
    let changed = (0..800).find(|n| before.real(RealId(*n)).unwrap().weight != after.real(RealId(*n)).unwrap().weight);
    assert!(moved.contains(&changed.unwrap()));
    assert!(moved.len() <= 128, "one page, not {} entries", moved.len());
    assert!(Arc::ptr_eq(&before.forwards, &after.forwards), "a weight plays no part there");
}
