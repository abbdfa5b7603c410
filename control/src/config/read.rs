//! The sections of the file, one function each.

use std::path::PathBuf;

use dataplane::flow::state::{State, Timeouts};
use dataplane::snapshot::{GonePolicy, Refusal, Settings};

use super::network::{read_full_nat, read_neighbours, read_ports, read_routes, read_vips};
use super::reader::{Section, Source};
use super::services::read_services;
use super::*;
use crate::model::ForwardingMode;

/// Longest time-out, seconds: 24 days, what the dataplane's clock can express.
const MAX_SECONDS: i64 = 24 * 24 * 3600;

pub fn parse(file: &str, text: &str) -> Result<Config, Vec<ConfigError>> {
    let source = Source::new(file, text);
    let document = match toml_edit::Document::parse(text) {
        Ok(d) => d,
        Err(e) => {
            let message = e.message().lines().map(str::trim).collect::<Vec<_>>().join(", ");
            source.error(e.span(), "", message, Some("this is no TOML; see https://toml.io".into()));
            return Err(source.into_errors());
        }
    };
    let config = read(&Section::root(&source, document.as_table()));
    let errors = source.into_errors();
    if errors.is_empty() { Ok(config) } else { Err(errors) }
}

fn read(root: &Section) -> Config {
    let mut c = Config { state_file: Some("/var/lib/pollux/state.json".into()), ..Config::default() };
    c.dpdk = read_dpdk(root.section("dpdk"));
    if let Some(s) = root.section("workers") {
        read_workers(&s, &mut c.workers);
    }
    if let Some(s) = root.section("limits") {
        read_limits(&s, &mut c.limits);
    }
    read_ports(root, &mut c);
    read_routes(root, &mut c);
    read_neighbours(root, &mut c);
    read_vips(root, &mut c);
    if let Some(s) = root.section("settings") {
        read_settings(&s, &mut c.settings);
    }
    if let Some(s) = root.section("full_nat") {
        read_full_nat(&s, &mut c);
    }
    if let Some(s) = root.section("timeouts") {
        read_timeouts(&s, &mut c.settings.timeouts);
    }
    if let Some(s) = root.section("api") {
        read_api(&s, &mut c.api);
    }
    if let Some(s) = root.section("state") {
        // An empty name switches the state file off.
        if let Some(file) = s.get("file").and_then(|f| f.string()) {
            c.state_file = if file.is_empty() { None } else { Some(PathBuf::from(file)) };
        }
        s.finish();
    }
    if let Some(s) = root.section("log") {
        read_log(&s, &mut c.log);
    }
    c.services = read_services(root, &c.limits);
    root.finish();
    warn(&mut c);
    c
}

pub fn set<T>(target: &mut T, value: Option<T>) {
    if let Some(v) = value {
        *target = v;
    }
}

fn read_dpdk(section: Option<Section>) -> Dpdk {
    let mut d = Dpdk { file_prefix: "pollux".into(), ..Dpdk::default() };
    let Some(s) = section else { return d };
    set(&mut d.no_huge, s.get("no_huge").and_then(|f| f.bool()));
    d.memory_mb = s.get("memory_mb").and_then(|f| f.int(16..=1 << 20));
    d.packet_buffers = s.get("packet_buffers").and_then(|f| f.int(1024..=1 << 26));
    d.buffer_bytes = s.get("buffer_bytes").and_then(|f| f.int(256..=16384));
    if let Some(f) = s.get("file_prefix")
        && let Some(p) = f.string()
    {
        let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if p.is_empty() || p.len() > 64 || !p.chars().all(good) || p.starts_with('.') {
            f.error(format!("`{p}` is no name for files"), "use letters, digits, `-` and `_`");
        }
        d.file_prefix = p.into();
    }
    if let Some(f) = s.get("eal_args") {
        d.eal_args = f.list().iter().filter_map(|a| a.string().map(Into::into)).collect();
    }
    s.finish();
    d
}

fn read_workers(s: &Section, w: &mut Workers) {
    if let Some(f) = s.get("cores") {
        let list = f.list();
        let mut cores: Vec<u32> = Vec::new();
        for e in &list {
            match e.int::<u32>(0..=1023) {
                Some(core) if cores.contains(&core) => {
                    e.error(format!("core {core} is named twice"), "one worker runs on each core");
                }
                Some(core) => cores.push(core),
                None => {}
            }
        }
        if list.is_empty() {
            f.error("no core is named", "name at least one, such as `cores = [1]`");
        } else if list.len() > 64 {
            f.error(format!("{} cores are named", list.len()), "there are at most 64 workers");
        }
        w.cores = cores;
    }
    let idle = [("auto", Idle::Auto), ("spin", Idle::Spin), ("relax", Idle::Relax)];
    set(&mut w.idle, s.get("idle").and_then(|f| f.choice(&idle)));
    let steering = [("auto", Steering::Auto), ("software", Steering::Software), ("rss", Steering::Rss)];
    set(&mut w.steering, s.get("steering").and_then(|f| f.choice(&steering)));
    set(&mut w.flow_capacity, s.get("flow_capacity").and_then(|f| f.int(1024..=1 << 27)));
    s.finish();
}

fn read_limits(s: &Section, l: &mut Limits) {
    set(&mut l.max_services, s.get("max_services").and_then(|f| f.int(1..=1 << 20)));
    set(&mut l.max_real_servers, s.get("max_real_servers").and_then(|f| f.int(1..=1 << 22)));
    set(&mut l.max_servers_per_service, s.get("max_servers_per_service").and_then(|f| f.int(1..=1 << 16)));
    set(&mut l.max_neighbours, s.get("max_neighbours").and_then(|f| f.int(16..=1 << 20)));
    s.finish();
}

fn read_settings(s: &Section, t: &mut Settings) {
    set(&mut t.sloppy_tcp, s.get("sloppy_tcp").and_then(|f| f.bool()));
    set(&mut t.sloppy_sctp, s.get("sloppy_sctp").and_then(|f| f.bool()));
    set(&mut t.dr_decrement_ttl, s.get("dr_decrement_ttl").and_then(|f| f.bool()));
    let refusals = [("answer", Refusal::Answer), ("silent", Refusal::Silent)];
    set(&mut t.refusal, s.get("refusal").and_then(|f| f.choice(&refusals)));
    set(&mut t.answer_rate_limit, s.get("answer_rate_limit").and_then(|f| f.int(0..=1 << 30)));
    use GonePolicy::{Drop, Kernel, Reschedule, Reset};
    let gone = [("drop", Drop), ("kernel", Kernel), ("reset", Reset), ("reschedule", Reschedule)];
    set(&mut t.gone, s.get("removed_server").and_then(|f| f.choice(&gone)));
    set(&mut t.expire_quiescent_template, s.get("expire_quiescent_template").and_then(|f| f.bool()));
    set(&mut t.conn_reuse_mode, s.get("conn_reuse_mode").and_then(|f| f.int(0..=3)));
    set(&mut t.pmtu_disc, s.get("pmtu_disc").and_then(|f| f.bool()));
    set(&mut t.nat_icmp_send, s.get("nat_icmp_send").and_then(|f| f.bool()));
    set(&mut t.routing, s.get("routing").and_then(|f| f.bool()));
    set(&mut t.secure_tcp, s.get("secure_tcp").and_then(|f| f.int(0..=3)));
    if let Some(seconds) = s.get("secure_half_open").and_then(|f| f.int::<u32>(0..=MAX_SECONDS)) {
        t.secure_half_open_ms = seconds * 1000;
    }
    set(&mut t.drop_entry, s.get("drop_entry").and_then(|f| f.int(0..=3)));
    set(&mut t.drop_packet, s.get("drop_packet").and_then(|f| f.int(0..=3)));
    set(&mut t.drop_packet_rate, s.get("drop_packet_rate").and_then(|f| f.int(1..=65535)));
    set(&mut t.overload_percent, s.get("overload_percent").and_then(|f| f.int(1..=100)));
    set(&mut t.schedule_icmp, s.get("schedule_icmp").and_then(|f| f.bool()));
    s.finish();
}

/// The time-outs that can be set, by their names in the file.
pub const TIMEOUT_KEYS: [(&str, State); 11] = [
    ("tcp_established", State::Established),
    ("tcp_syn_sent", State::SynSent),
    ("tcp_syn_recv", State::SynRecv),
    ("tcp_fin_wait", State::FinWait),
    ("tcp_time_wait", State::TimeWait),
    ("tcp_close", State::Close),
    ("tcp_close_wait", State::CloseWait),
    ("tcp_last_ack", State::LastAck),
    ("udp", State::Udp),
    ("sctp_established", State::SctpEstablished),
    ("sctp_closed", State::SctpClosed),
];

fn read_timeouts(s: &Section, t: &mut Timeouts) {
    for (key, state) in TIMEOUT_KEYS {
        if let Some(seconds) = s.get(key).and_then(|f| f.int::<u32>(1..=MAX_SECONDS)) {
            t.set(state, seconds * 1000);
        }
    }
    s.finish();
}

fn read_api(s: &Section, a: &mut Api) {
    if let Some(f) = s.get("socket")
        && let Some(path) = f.string()
    {
        // A socket's address holds 108 bytes, the last one zero.
        if path.is_empty() || path.len() > 107 {
            f.error(format!("a path of {} bytes cannot name a socket", path.len()), "give 1 to 107 bytes");
        }
        a.socket = path.into();
    }
    if let Some(f) = s.get("mode")
        && let Some(text) = f.string()
    {
        match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o777 => a.mode = mode,
            _ => f.error(format!("`{text}` is no file mode"), "write it in octal, such as \"0660\""),
        }
    }
    a.group = s.get("group").and_then(|f| f.string().map(Into::into));
    set(&mut a.max_connections, s.get("max_connections").and_then(|f| f.int(1..=4096)));
    set(&mut a.max_request_bytes, s.get("max_request_bytes").and_then(|f| f.int(1024..=1 << 30)));
    s.finish();
}

fn read_log(s: &Section, l: &mut Log) {
    let levels = ["error", "warn", "info", "debug", "trace"].map(|l| (l, l.to_owned()));
    set(&mut l.level, s.get("level").and_then(|f| f.choice(&levels)));
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    set(&mut l.format, s.get("format").and_then(|f| f.choice(&formats)));
    s.finish();
}

fn warn(c: &mut Config) {
    let mut warnings = Vec::new();
    for s in c.services.iter() {
        if s.servers.is_empty() {
            warnings.push(format!("the service {} has no real server: its clients are refused", s.address));
        }
        for r in &s.servers {
            let ip = r.address.ip;
            let pool = &c.settings.full_nat.addresses;
            if r.mode == ForwardingMode::FullNat && !pool.iter().any(|a| a.is_v4() == ip.is_ipv4()) {
                warnings.push(format!(
                    "[full_nat] has no local address for the real server {} of {}: its clients are not served",
                    r.address, s.address
                ));
            }
            if ip.is_loopback() || c.owns(ip) || c.vips.contains(&ip) || s.address.vip() == Some(ip) {
                warnings.push(format!(
                    "the real server {} of {} is the director itself, where nothing listens",
                    r.address, s.address
                ));
            } else if !c.has_route(ip) {
                warnings.push(format!("there is no route to the real server {} of {}", r.address, s.address));
            }
        }
    }
    for p in &c.ports {
        if p.addresses.is_empty() && p.vlans.iter().all(|v| v.addresses.is_empty()) {
            warnings.push(format!("the port `{}` has no address: it can neither ask for nor be asked", p.name));
        }
    }
    c.warnings = warnings;
}

impl Config {
    /// The networks that ports and VLANs are connected to.
    pub fn interface_networks(&self) -> impl Iterator<Item = &Network> {
        self.ports.iter().flat_map(|p| p.addresses.iter().chain(p.vlans.iter().flat_map(|v| &v.addresses)))
    }
    /// Whether `ip` is an address of a port or VLAN.
    pub fn owns(&self, ip: IpAddr) -> bool {
        self.interface_networks().any(|n| n.ip == ip)
    }
    /// Whether there is a way to `ip`.
    pub fn has_route(&self, ip: IpAddr) -> bool {
        self.interface_networks().chain(self.routes.iter().map(|r| &r.to)).any(|n| n.contains(ip))
    }
}
