//! The sections of the file, one function each.

use std::net::IpAddr;
use std::path::PathBuf;

use dataplane::flow::state::{State, Timeouts};
use dataplane::snapshot::{GonePolicy, Refusal, Settings};
use dataplane::units::Mac;

use super::reader::{Field, Section, Source};
use super::services::read_services;
use super::*;

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

fn set<T>(target: &mut T, value: Option<T>) {
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

fn read_ports(root: &Section, c: &mut Config) {
    let tables = root.sections("port");
    if tables.is_empty() && root.get("port").is_none() {
        let remedy = "add [[port]] with `name`, `device` and `addresses`";
        root.error("no port is configured: without one nothing can arrive".into(), remedy);
    }
    let mut seen: Vec<IpAddr> = Vec::new();
    for s in &tables {
        let name = s.required("name", "give the port a short name, such as `name = \"front\"`");
        let device = s.required("device", "name a PCI address or a virtual device, such as `net_tap0,iface=plx0`");
        let mut p = Port::new("", "");
        if let Some(f) = name
            && let Some(n) = f.string()
        {
            let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if n.is_empty() || n.len() > 32 || !n.chars().all(good) {
                f.error(format!("`{n}` is no name for a port"), "use 1 to 32 letters, digits, `-`, `_` and `.`");
            }
            if c.ports.iter().any(|p| p.name == n) {
                f.error(format!("two ports are named `{n}`"), "give each port its own name");
            }
            p.name = n.into();
        }
        if let Some(f) = device
            && let Some(d) = f.string()
        {
            if d.trim().is_empty() {
                f.error("the device is empty", "name a PCI address or a virtual device, such as `net_tap0,iface=plx0`");
            } else if c.ports.iter().any(|p| p.device == d) {
                f.error(format!("two ports use the device `{d}`"), "use each device once");
            }
            p.device = d.trim().into();
        }
        p.addresses = read_addresses(s, &mut seen);
        set(&mut p.mtu, s.get("mtu").and_then(|f| f.int(576..=9600)));
        p.queues = s.get("queues").and_then(|f| f.int(1..=64));
        set(&mut p.rx_descriptors, s.get("rx_descriptors").and_then(|f| f.int(64..=32768)));
        set(&mut p.tx_descriptors, s.get("tx_descriptors").and_then(|f| f.int(64..=32768)));
        set(&mut p.promiscuous, s.get("promiscuous").and_then(|f| f.bool()));
        for v in s.sections("vlans") {
            read_vlan(&v, &mut p, &mut seen);
        }
        let has_v6 = p.addresses.iter().chain(p.vlans.iter().flat_map(|v| &v.addresses)).any(|a| a.ip.is_ipv6());
        if has_v6 && p.mtu < 1280 {
            s.error_at("mtu", format!("{} is too small for IPv6", p.mtu), Some("IPv6 needs at least 1280".into()));
        }
        s.finish();
        c.ports.push(p);
    }
}

fn read_vlan(s: &Section, p: &mut Port, seen: &mut Vec<IpAddr>) {
    let field = s.required("id", "give the VLAN's id, 1 to 4094");
    let id = field.as_ref().and_then(|f| f.int::<u16>(1..=4094));
    let addresses = read_addresses(s, seen);
    s.finish();
    let (Some(f), Some(id)) = (field, id) else { return };
    if p.vlans.iter().any(|v| v.id == id) {
        f.error(format!("VLAN {id} is configured twice on this port"), "put all its addresses in one entry");
        return;
    }
    p.vlans.push(Vlan { id, addresses });
}

fn read_addresses(s: &Section, seen: &mut Vec<IpAddr>) -> Vec<Network> {
    let Some(f) = s.get("addresses") else { return Vec::new() };
    let mut out = Vec::new();
    for e in f.list() {
        let Some(n) = e.parse::<Network>("write address and prefix length, such as `10.3.0.1/24`") else { continue };
        if !e.string().unwrap_or_default().contains('/') {
            e.error(format!("the prefix length of `{}` is missing", n.ip), format!("write `{}/24`, say", n.ip));
        } else if n.ip.is_unspecified() || n.ip.is_multicast() || n.prefix_len == 0 {
            e.error(
                format!("`{n}` is no address of an interface"),
                "write the director's own address, such as `10.3.0.1/24`",
            );
        } else if is_network_or_broadcast(&n) {
            e.error(
                format!("`{n}` names the network, not the director's address in it"),
                "write the director's own address, such as `10.3.0.1/24`",
            );
        } else if seen.contains(&n.ip) {
            e.error(format!("the address {} is configured twice", n.ip), "give each address to one port or VLAN");
        }
        seen.push(n.ip);
        out.push(n);
    }
    out
}

fn is_network_or_broadcast(n: &Network) -> bool {
    match n.ip {
        IpAddr::V4(ip) if n.prefix_len < 31 => {
            let host = u32::from(ip) & (u32::MAX >> n.prefix_len);
            host == 0 || host == u32::MAX >> n.prefix_len
        }
        _ => false,
    }
}

fn read_routes(root: &Section, c: &mut Config) {
    for s in root.sections("route") {
        let to_field = s.required("to", "name the destination, such as `10.0.0.0/8`, or `default`");
        let via_field = s.required("via", "name the gateway's address");
        let via =
            via_field.as_ref().and_then(|f| f.parse::<IpAddr>("name the gateway's address, such as `10.3.0.254`"));
        s.finish();
        let (Some(to_field), Some(via_field), Some(via)) = (to_field, via_field, via) else { continue };
        let Some(to) = route_target(&to_field, via) else { continue };
        if to.ip.is_ipv4() != via.is_ipv4() {
            via_field
                .error(format!("the gateway {via} is of another family than `{to}`"), "route each family by itself");
        } else if !c.interface_networks().any(|n| n.contains(via)) {
            let networks: Vec<String> = c.interface_networks().map(|n| n.to_string()).collect();
            let remedy = format!("the gateway must be in one of the ports' networks: {}", networks.join(", "));
            via_field.error(format!("the gateway {via} is on no connected network"), remedy);
        } else if c.owns(via) {
            via_field.error(format!("the gateway {via} is the director's own address"), "name another host");
        } else if c.routes.iter().any(|r| r.to == to) {
            to_field.error(format!("there are two routes to `{to}`"), "keep one");
        } else {
            c.routes.push(Route { to, via });
        }
    }
}

fn route_target(f: &Field, via: IpAddr) -> Option<Network> {
    if f.string()? == "default" {
        let ip = if via.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0u8; 16]) };
        return Some(Network { ip, prefix_len: 0 });
    }
    let to: Network = f.parse("write a network such as `10.0.0.0/8`, or `default`")?;
    if to.has_host_bits() {
        let masked = dataplane::units::Ip::from(to.ip).masked(to.prefix_len);
        f.error(format!("`{to}` has bits set beyond its prefix"), format!("write `{masked}/{}`", to.prefix_len));
        return None;
    }
    Some(to)
}

fn read_neighbours(root: &Section, c: &mut Config) {
    for s in root.sections("neighbour") {
        let address = s.required("address", "name the neighbour's address");
        let address = address.and_then(|f| f.parse::<IpAddr>("write an address such as `10.2.0.11`"));
        let mac_field = s.required("mac", "give the Ethernet address, such as `02:00:00:00:02:0b`");
        let mac =
            mac_field.as_ref().and_then(|f| f.parse::<Mac>("write six pairs of digits, such as `02:00:00:00:02:0b`"));
        let port_field = s.required("port", "name the port it is on");
        let port = port_field.as_ref().and_then(|f| {
            let names: Vec<(&str, usize)> = c.ports.iter().enumerate().map(|(n, p)| (p.name.as_str(), n)).collect();
            f.choice(&names)
        });
        let vlan_field = s.get("vlan");
        let vlan = vlan_field.as_ref().and_then(|f| f.int::<u16>(1..=4094));
        s.finish();
        let (Some(address), Some(mac), Some(port)) = (address, mac, port) else { continue };
        if mac.is_multicast() || mac == Mac::default() {
            s.error_at("mac", format!("`{mac}` is not the address of one station"), None);
        } else if let Some(f) = &vlan_field
            && !c.ports[port].vlans.iter().any(|v| Some(v.id) == vlan)
        {
            f.error("the port has no such VLAN", "add it to the port's `vlans`");
        } else if c.neighbours.iter().any(|n| (n.address, n.port, n.vlan) == (address, port, vlan)) {
            s.error_at("address", format!("the neighbour {address} is configured twice"), Some("keep one".into()));
        } else {
            c.neighbours.push(StaticNeighbour { address, mac, port, vlan });
        }
    }
}

fn read_vips(root: &Section, c: &mut Config) {
    let Some(f) = root.get("vips") else { return };
    for e in f.list() {
        let Some(ip) = e.parse::<IpAddr>("write an address without prefix length, such as `10.9.0.1`") else {
            continue;
        };
        if ip.is_unspecified() || ip.is_multicast() {
            e.error(format!("`{ip}` is not the address of one host"), "write the VIP's address");
        } else if c.owns(ip) {
            e.error(
                format!("{ip} is an address of a port already"),
                "leave it out: the director answers for it anyway",
            );
        } else if c.vips.contains(&ip) {
            e.error(format!("the VIP {ip} is listed twice"), "keep one");
        } else {
            c.vips.push(ip);
        }
    }
}

fn read_settings(s: &Section, t: &mut Settings) {
    set(&mut t.sloppy_tcp, s.get("sloppy_tcp").and_then(|f| f.bool()));
    set(&mut t.sloppy_sctp, s.get("sloppy_sctp").and_then(|f| f.bool()));
    set(&mut t.dr_decrement_ttl, s.get("dr_decrement_ttl").and_then(|f| f.bool()));
    let refusals = [("answer", Refusal::Answer), ("silent", Refusal::Silent)];
    set(&mut t.refusal, s.get("refusal").and_then(|f| f.choice(&refusals)));
    set(&mut t.answer_rate_limit, s.get("answer_rate_limit").and_then(|f| f.int(0..=1 << 30)));
    let gone = [("drop", GonePolicy::Drop), ("reset", GonePolicy::Reset), ("reschedule", GonePolicy::Reschedule)];
    set(&mut t.gone, s.get("removed_server").and_then(|f| f.choice(&gone)));
    set(&mut t.expire_quiescent_template, s.get("expire_quiescent_template").and_then(|f| f.bool()));
    set(&mut t.conn_reuse_mode, s.get("conn_reuse_mode").and_then(|f| f.int(0..=3)));
    set(&mut t.pmtu_disc, s.get("pmtu_disc").and_then(|f| f.bool()));
    set(&mut t.nat_icmp_send, s.get("nat_icmp_send").and_then(|f| f.bool()));
    set(&mut t.routing, s.get("routing").and_then(|f| f.bool()));
    set(&mut t.secure_tcp, s.get("secure_tcp").and_then(|f| f.bool()));
    set(&mut t.drop_entry, s.get("drop_entry").and_then(|f| f.int(0..=3)));
    set(&mut t.drop_packet, s.get("drop_packet").and_then(|f| f.int(0..=3)));
    set(&mut t.schedule_icmp, s.get("schedule_icmp").and_then(|f| f.bool()));
    s.finish();
}

fn read_timeouts(s: &Section, t: &mut Timeouts) {
    for (key, state) in [
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
    ] {
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
