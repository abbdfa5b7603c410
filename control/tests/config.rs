//! Every mistake at once, at its place, in words that are compared letter by letter.
//!
//! `control/tests/fixtures/config/NAME.toml` is read, and what is said about it compared
//! with `NAME.txt`. `UPDATE_GOLDEN=1 cargo test` writes the texts anew, to be read over.

use std::path::{Path, PathBuf};

use control::config;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config")
}

#[test]
fn mistakes_are_told_as_written_down() {
    let mut seen = 0;
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        seen += 1;
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let said = match config::parse(name, &text) {
            Ok(c) => c.warnings.iter().map(|w| format!("warning: {w}\n")).collect(),
            Err(errors) => config::render(&errors),
        };
        let golden = path.with_extension("txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &said).unwrap();
        }
        let wanted = std::fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(said, wanted, "{name}");
    }
    assert!(seen >= 4, "fixtures are missing");
}

#[test]
fn a_file_that_is_not_there_is_an_error_without_a_place() {
    let (text, good) = config::check(Path::new("/nonexistent/pollux.toml"));
    assert!(!good);
    assert!(text.starts_with("/nonexistent/pollux.toml: cannot read the file: "), "{text}");
}

#[test]
fn what_cannot_change_live_is_named() {
    let base = "[[port]]\nname = \"a\"\ndevice = \"net_tap0\"\naddresses = [\"10.3.0.1/24\"]\n";
    let old = config::parse("t", base).unwrap();
    let text =
        base.replace("10.3.0.1", "10.3.0.2") + "mtu = 9000\n[workers]\ncores = [1, 2]\n[settings]\nsloppy_tcp = true\n";
    let (next, waits) = old.reloaded(config::parse("t", &text).unwrap());
    assert_eq!(waits, ["[workers]", "[[port]]: devices, names, higher MTUs, queues and VLANs"]);
    assert_eq!((next.ports, next.workers), (old.ports.clone(), old.workers.clone()));
    assert!(next.settings.sloppy_tcp);
    let (next, waits) = old.reloaded(config::parse("t", &base.replace("10.3.0.1", "10.3.0.2")).unwrap());
    assert!(waits.is_empty());
    assert_eq!(next.ports[0].addresses[0].to_string(), "10.3.0.2/24");
}

fn examples() -> Vec<(String, String)> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
    let files = std::fs::read_dir(docs).unwrap().map(|e| e.unwrap().path());
    let toml = files.filter(|p| p.extension().is_some_and(|e| e == "toml"));
    toml.map(|p| (p.display().to_string(), std::fs::read_to_string(&p).unwrap())).collect()
}

#[test]
fn the_examples_are_right_and_raise_no_warning() {
    let examples = examples();
    assert!(examples.len() >= 3);
    for (name, text) in examples {
        let c = config::parse(&name, &text).unwrap_or_else(|e| panic!("{}", config::render(&e)));
        assert_eq!(c.warnings, Vec::<String>::new(), "{name}");
    }
}

#[test]
fn the_first_configuration_of_the_readme_is_right() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let text = readme.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let c = config::parse("README.md", text).unwrap_or_else(|e| panic!("{}", config::render(&e)));
    assert_eq!(c.services.server_count(), 2);
}

#[test]
fn every_key_is_documented() {
    let docs = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md")).unwrap();
    // Asking for a key that is not there makes every section tell the keys it knows.
    let sections = ["dpdk", "workers", "limits", "settings", "timeouts", "api", "state", "log"];
    let mut text: String = sections.iter().map(|s| format!("[{s}]\nqqqqqqqqq = 1\n")).collect();
    for list in ["port", "route", "neighbour", "service", "service.server"] {
        text.push_str(&format!("[[{list}]]\nqqqqqqqqq = 1\n"));
    }
    let errors = config::parse("t", &text).unwrap_err();
    let remedies: Vec<String> = errors.into_iter().filter_map(|e| e.remedy).collect();
    let mut keys = 0;
    for list in remedies.iter().filter_map(|r| r.strip_prefix("the known keys are ")) {
        for key in list.split(", ").map(|k| k.trim_matches('`')) {
            keys += 1;
            let shown = docs.contains(&format!("`{key}`"))
                || docs.contains(&format!(".{key}`"))
                || docs.contains(&format!("{key} = "))
                || docs.contains(&format!("{key}]"));
            assert!(shown, "`{key}` is missing in docs/configuration.md");
        }
    }
    assert!(keys > 60, "{keys}");
}

/// Every key of the file with a value that is not its default.
const EVERYTHING: &str = r#"
vips = ["10.9.0.7", "2001:db8:9::7"]

[dpdk]
no_huge = true
memory_mb = 512
packet_buffers = 65536
buffer_bytes = 2048
file_prefix = "second"
eal_args = ["--log-level=pmd,8", "-a \"x\""]

[workers]
cores = [3, 1]
idle = "relax"
steering = "software"
flow_capacity = 4096

[limits]
max_services = 10
max_real_servers = 20
max_servers_per_service = 5
max_neighbours = 64

[[port]]
name = "front"
device = "net_tap0,iface=plx0"
addresses = ["10.3.0.1/24", "2001:db8:3::1/64"]
mtu = 9000
queues = 2
rx_descriptors = 512
tx_descriptors = 256
promiscuous = true
vlans = [{ id = 10, addresses = ["10.10.0.1/24"] }, { id = 20 }]

[[port]]
name = "back"
device = "0000:03:00.0"
addresses = ["10.2.0.254/24"]

[[route]]
to = "default"
via = "10.3.0.254"

[[route]]
to = "2001:db8:7::/48"
via = "2001:db8:3::2"

[[neighbour]]
address = "10.10.0.7"
mac = "02:00:00:00:02:0b"
port = "front"
vlan = 10

[settings]
sloppy_tcp = true
sloppy_sctp = true
dr_decrement_ttl = false
refusal = "silent"
answer_rate_limit = 7
removed_server = "reschedule"
expire_quiescent_template = true
conn_reuse_mode = 2
pmtu_disc = false
nat_icmp_send = true
routing = false
secure_tcp = 3
secure_half_open = 9
drop_entry = 1
drop_packet = 2
drop_packet_rate = 77
overload_percent = 55
schedule_icmp = true

[full_nat]
addresses = ["10.2.0.200", "2001:db8:2::c8"]
ports = "2000-3000"

[timeouts]
tcp_established = 901
tcp_syn_sent = 121
tcp_syn_recv = 61
tcp_fin_wait = 122
tcp_time_wait = 119
tcp_close = 11
tcp_close_wait = 62
tcp_last_ack = 31
udp = 301
sctp_established = 902
sctp_closed = 12

[api]
socket = "/tmp/pollux \"two\".sock"
mode = "0600"
group = "adm"
max_connections = 5
max_request_bytes = 2048

[state]
file = ""

[log]
level = "debug"
format = "json"

[[service]]
address = "fwm:7"
rules = ["tcp:10.9.0.0/24:80-90"]
persistence = { timeout_s = 300, prefix_len = 24 }

[[service.server]]
address = "10.2.0.11"
mode = "nat"
weight = 0

[[service]]
address = "tcp:10.9.0.1:80"
scheduler = "mh"
sched_flags = ["fallback", "port"]

[[service.server]]
address = "10.2.0.11:80"
mode = "tunnel"
tunnel = { type = "gue", port = 6080, checksum = "remote" }
upper_threshold = 100
lower_threshold = 50
"#;

#[test]
fn what_runs_is_told_as_a_file_that_gives_the_same() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
    let mut texts: Vec<String> =
        std::fs::read_dir(examples).unwrap().filter_map(|e| std::fs::read_to_string(e.unwrap().path()).ok()).collect();
    assert!(texts.len() >= 3);
    texts.push(EVERYTHING.into());
    for text in texts {
        let read = |text: &str| config::parse("t", text).unwrap_or_else(|e| panic!("{}\n{text}", config::render(&e)));
        let config = read(&text);
        let told = control::api::config_as_toml(&control::engine::RunningConfig::of(&config, &config.settings));
        assert_eq!(read(&told), config, "{told}");
    }
    // Nothing that a file can say is left out.
    let config = config::parse("t", EVERYTHING).unwrap();
    let told = control::api::config_as_toml(&control::engine::RunningConfig::of(&config, &config.settings));
    let sections = ["dpdk", "workers", "limits", "settings", "full_nat", "timeouts", "api", "state", "log"];
    let mut asking: String = sections.iter().map(|s| format!("[{s}]\nqqqqqqqqq = 1\n")).collect();
    for list in ["port", "route", "neighbour"] {
        asking.push_str(&format!("[[{list}]]\nqqqqqqqqq = 1\n"));
    }
    let remedies: Vec<String> = config::parse("t", &asking).unwrap_err().into_iter().filter_map(|e| e.remedy).collect();
    let lists = remedies.iter().filter_map(|r| r.strip_prefix("the known keys are "));
    let keys: Vec<&str> = lists.flat_map(|l| l.split(", ")).map(|k| k.trim_matches('`')).collect();
    assert!(keys.len() > 60, "{keys:?}");
    for key in keys {
        assert!(told.lines().any(|l| l.starts_with(&format!("{key} = "))), "`{key}` is missing in\n{told}");
    }
}
