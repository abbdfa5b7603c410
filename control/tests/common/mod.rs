//! A daemon for tests: the real server, router and model, with made-up numbers instead of
//! workers.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use control::api::{self, ApiLimits};
use control::engine::{
    Accepted, DropView, EngineHandle, Envelope, FlowPage, FlowView, NeighbourState, NeighbourView, Operation,
    PortFacts, PortView, Rates, Reply, Request, Response, RunningConfig, ServerView, ServiceView, Stats, Status,
    Traffic, Version, WorkerView,
};
use control::model::{Error, Limits, Service, Services};
use control::server::{self, ServeLimits};
use tokio::sync::{mpsc, oneshot};

/// The configuration that the daemon claims to run with, apart from services.
pub const CONFIG: &str = r#"
vips = ["10.9.0.7"]

[workers]
cores = [2, 3]

[[port]]
name = "front"
device = "net_tap0,iface=plx0"
addresses = ["10.3.0.1/24", "2001:db8:3::1/64"]
vlans = [{ id = 10, addresses = ["10.10.0.1/24"] }]

[[port]]
name = "back"
device = "0000:03:00.0"
addresses = ["10.2.0.254/24"]
mtu = 9000

[[route]]
to = "default"
via = "10.3.0.254"

[[neighbour]]
address = "10.10.0.7"
mac = "02:00:00:00:02:0b"
port = "front"
vlan = 10

[timeouts]
udp = 250
"#;

/// A directory that goes when the test ends.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("pollux-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}
impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running daemon. Stops when dropped.
pub struct Daemon {
    pub socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _dir: Dir,
}

impl Daemon {
    pub fn start(name: &str) -> Self {
        Self::with_limits(name, ServeLimits::default())
    }

    pub fn with_limits(name: &str, limits: ServeLimits) -> Self {
        let dir = Dir::new(name);
        let socket = dir.0.join("pollux.sock");
        let listener = server::bind(&socket, 0o660, None).unwrap();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let (handle, requests) = EngineHandle::new();
                tokio::spawn(Engine::default().run(requests));
                let router = api::router(handle, ApiLimits::default());
                let stopped = async { drop(stopped.await) };
                server::serve(listener, router, limits, stopped).await.unwrap();
            });
        });
        Self { socket, stop: Some(stop), thread: Some(thread), _dir: dir }
    }

    /// Sends bytes, closes the sending side, and returns everything that comes back.
    pub fn raw(&self, bytes: &[u8]) -> String {
        raw(&self.socket, bytes)
    }

    /// One request; status and body.
    pub fn call(&self, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
        let (status, _, body) = self.call_with(method, path, "content-type: application/json\r\n", body);
        (status, serde_json::from_str(&body).unwrap_or_else(|e| panic!("{method} {path}: {e}: {body}")))
    }

    /// One request with more header lines; status, headers and body.
    pub fn call_with(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String, String) {
        let length = body.len();
        let text = self.raw(
            format!(
                "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
            )
            .as_bytes(),
        );
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        (status, head.to_ascii_lowercase(), body.to_owned())
    }
}

pub fn raw(socket: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut out = Vec::new();
    let _ = stream.read_to_end(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        assert!(!self.socket.exists(), "the socket is removed at a clean stop");
    }
}

/// Answers as the engine does, from the model alone.
#[derive(Default)]
pub struct Engine {
    services: Services,
    generation: u64,
}

impl Engine {
    async fn run(mut self, mut requests: mpsc::Receiver<Envelope>) {
        while let Some(Envelope { request, reply }) = requests.recv().await {
            let _ = reply.send(self.answer(request));
        }
    }

    fn answer(&mut self, request: Request) -> Reply {
        Ok(match request {
            Request::Change(change) => {
                let mut services = self.services.clone();
                for (i, operation) in change.operations.iter().enumerate() {
                    apply(&mut services, operation).map_err(|e| Error { operation: Some(i), ..e })?;
                }
                self.services = services;
                self.generation += 1;
                Response::Accepted(self.accepted())
            }
            Request::Reload => Response::Accepted(self.accepted()),
            Request::Services => Response::Services(self.services.iter().map(|s| view(s)).collect()),
            Request::Service(key) => Response::Service(Box::new(view(self.services.get(&key)?))),
            Request::Stats => Response::Stats(Box::new(self.stats())),
            Request::Flows(q) if q.cursor.as_deref() == Some("bad") => {
                return Err(Error::invalid("cursor", "the cursor `bad` is none of ours"));
            }
            Request::Flows(q) => Response::Flows(flows(q.limit.unwrap_or(100), q.cursor.as_deref())),
            Request::EndFlows(which) => {
                if let Some(key) = which.service {
                    self.services.get(&key)?;
                }
                Response::Accepted(self.accepted())
            }
            Request::Neighbours => Response::Neighbours(neighbours()),
            Request::Ports => Response::Ports(ports()),
            Request::Version => Response::Version(Version {
                name: "pollux".into(),
                version: "0.1.0".into(),
                api: vec!["v1".into()],
                build: BTreeMap::from([("DPDK".into(), "22.11.4".into())]),
            }),
            Request::Status => Response::Status(Box::new(self.status())),
            Request::Timeouts => Response::Timeouts(900, 120, 300),
            Request::Config => {
                let mut c = control::config::parse("running.toml", CONFIG).expect("a right configuration");
                c.services = self.services.clone();
                let generation = self.generation;
                Response::Config(Box::new(RunningConfig { generation, ..RunningConfig::of(&c, &c.settings) }))
            }
        })
    }

    fn accepted(&self) -> Accepted {
        Accepted { generation: self.generation, adopted: vec![self.generation; 2], notes: Vec::new() }
    }

    fn status(&self) -> Status {
        Status {
            generation: self.generation,
            adopted: vec![self.generation; 2],
            uptime_s: 3725,
            config_file: Some("/etc/pollux/pollux.toml".into()),
            state_file: Some("/var/lib/pollux/state.json".into()),
            services_from: "file".into(),
            changed_by_api: self.generation > 0,
            services: self.services.len() as u64,
            servers: self.services.server_count() as u64,
            warnings: vec!["huge pages are off: more TLB misses".into()],
            needs_restart: vec![],
        }
    }

    fn stats(&self) -> Stats {
        let services: Vec<ServiceView> = self.services.iter().map(|s| view(s)).collect();
        Stats {
            traffic: traffic(3),
            rates: rates(3.0),
            flows: 123_456,
            services,
            ports: ports(),
            workers: (0..2).map(worker).collect(),
            drops: vec![
                drop_view("no_service", "No service at this address and port of a VIP.", 12),
                drop_view("martian", "The source or destination address cannot occur on a wire.", 0),
                drop_view("bad_ip_checksum", "The IPv4 header checksum is wrong.", 345_678),
            ],
        }
    }
}

fn apply(services: &mut Services, operation: &Operation) -> Result<(), Error> {
    let limits = Limits::default();
    match operation {
        Operation::AddService { service } => services.add(service, &limits),
        Operation::PutService { service } => services.replace(service, &limits),
        Operation::SetService { address, set } => services.set(address, set, &limits),
        Operation::DeleteService { address } => services.delete(address),
        Operation::AddServer { service, server } => services.add_server(service, server, &limits),
        Operation::SetServer { service, address, set } => services.set_server(service, address, set),
        Operation::DeleteServer { service, address } => services.delete_server(service, address),
        Operation::Flush => {
            services.flush();
            Ok(())
        }
        Operation::SetTimeouts { .. } => Ok(()),
        Operation::Zero { service: Some(key) } => services.get(key).map(drop),
        Operation::Zero { service: None } => Ok(()),
    }
}

fn traffic(n: u64) -> Traffic {
    Traffic {
        connections: 1_200 * n,
        in_packets: 45_000 * n,
        out_packets: 43_210 * n,
        in_bytes: 4_800_000 * n,
        out_bytes: 987_654_321 * n,
    }
}

fn rates(x: f64) -> Rates {
    Rates {
        connections: 12.3 * x,
        in_packets: 1_400.0 * x,
        out_packets: 1_350.5 * x,
        in_bytes: 151_000.0 * x,
        out_bytes: 31_250_000.0 * x,
    }
}

pub fn view(s: &Service) -> ServiceView {
    ServiceView {
        address: s.address,
        scheduler: s.scheduler,
        sched_flags: s.sched_flags.clone(),
        persistence: s.persistence,
        one_packet: s.one_packet,
        client_address: control::model::ClientAddress::None,
        ftp: false,
        rules: s.rules.clone(),
        traffic: traffic(s.servers.len() as u64),
        rates: rates(s.servers.len() as f64),
        servers: s
            .servers
            .iter()
            .map(|r| ServerView {
                address: r.address,
                mode: r.mode,
                tunnel: (r.mode == control::model::ForwardingMode::Tunnel).then_some(r.tunnel),
                weight: r.weight,
                upper_threshold: r.upper_threshold,
                lower_threshold: r.lower_threshold,
                active_connections: 40,
                inactive_connections: 7,
                persistent_connections: 0,
                resolved: true,
                traffic: traffic(1),
                rates: rates(1.0),
            })
            .collect(),
    }
}

fn drop_view(reason: &str, description: &str, packets: u64) -> DropView {
    DropView { reason: reason.into(), description: description.into(), packets }
}

fn worker(n: u16) -> WorkerView {
    let counters = [
        ("polls", 91_234_567),
        ("idle_polls", 90_000_000),
        ("flows_live", 61_728),
        ("sampled_packets", 38_574),
        ("cycles_receive", 1_080_072),
        ("cycles_fast", 1_388_664),
        ("cycles_general", 385_740),
        ("cycles_housekeeping", 77_148),
        ("cycles_send", 154_296),
    ];
    WorkerView {
        worker: n,
        core: Some(u32::from(n) + 1),
        generation: 1,
        busy: 0.0234,
        counters: counters.iter().map(|(k, v)| ((*k).into(), *v)).collect(),
        drops: if n == 0 { BTreeMap::from([("no_service".into(), 12)]) } else { BTreeMap::new() },
    }
}

/// 250 flows in pages.
fn flows(limit: u32, cursor: Option<&str>) -> FlowPage {
    const ALL: u32 = 250;
    let from: u32 = cursor.map_or(0, |c| c.parse().unwrap());
    let to = (from + limit).min(ALL);
    let flow = |i: u32| FlowView {
        protocol: "tcp".into(),
        client: "10.1.0.1".parse().unwrap(),
        client_port: 40_000 + i as u16,
        vip: "10.9.0.1".parse().unwrap(),
        vip_port: 80,
        server: "10.2.0.11:8080".parse().ok(),
        service: "tcp:10.9.0.1:80".parse().ok(),
        state: "ESTABLISHED".into(),
        mode: "nat".into(),
        expires_ms: 899_500,
        template: false,
        local: None,
        worker: (i % 2) as u16,
    };
    FlowPage { flows: (from..to).map(flow).collect(), next: (to < ALL).then(|| to.to_string()) }
}

fn neighbours() -> Vec<NeighbourView> {
    let n = |address: &str, mac: Option<&str>, state, role: &str, age_s| NeighbourView {
        address: address.parse().unwrap(),
        mac: mac.map(Into::into),
        port: "p1".into(),
        vlan: None,
        state,
        role: role.into(),
        age_s,
    };
    vec![
        n("10.2.0.11", Some("02:00:00:00:02:0b"), NeighbourState::Reachable, "server", Some(12)),
        n("10.2.0.12", None, NeighbourState::Incomplete, "server", None),
    ]
}

fn ports() -> Vec<PortView> {
    let port = |name: &str, address: &str| PortView {
        facts: PortFacts {
            name: name.into(),
            device: format!("net_tap_{name}"),
            driver: "net_tap".into(),
            mac: "02:00:00:00:01:01".into(),
            mtu: 1500,
            link_up: Some(true),
            rx_queues: 2,
            tx_queues: 2,
            steering: "software".into(),
            offloads: vec!["ipv4-checksum".into()],
            work: Default::default(),
            details: BTreeMap::from([("idle".into(), "relax".into())]),
        },
        addresses: vec![address.into()],
        rx_packets: 1_234_567,
        rx_bytes: 99_000,
        tx_packets: 17,
        tx_bytes: 1_900_000_000,
    };
    vec![port("p0", "10.3.0.2/24"), port("p1", "10.2.0.1/24")]
}
