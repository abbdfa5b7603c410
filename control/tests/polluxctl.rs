//! `polluxctl` against a daemon: what operators see, word by word, in
//! `golden/polluxctl.txt`, and what programs rely on.

mod common;

use std::path::Path;

use common::{Daemon, Dir};
use control::ctl;
use serde_json::Value;

/// Exit status, standard output, standard error.
fn run(socket: &Path, line: &str) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut words: Vec<String> = vec!["polluxctl".into(), "--socket".into(), socket.display().to_string()];
    words.extend(line.split_whitespace().map(Into::into));
    let status = ctl::run(words, &mut out, &mut err, false);
    (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// The transcript's commands. A `#` line is kept as it is.
const SESSION: &str = "\
# Services and real servers
service list
service add tcp:10.9.0.1:80 --scheduler wlc
server list tcp:10.9.0.1:80
server add tcp:10.9.0.1:80 10.2.0.11:8080 --mode nat --weight 2
server add tcp:10.9.0.1:80 10.2.0.12:8080 --mode nat --upper 100
server add tcp:10.9.0.1:80 10.2.0.13 -m dr
service add udp:[2001:db8::1]:53 -s sh --flag fallback,port --one-packet
service add fwm:7 --rule tcp:10.9.0.0/24:80-90 --rule any:10.9.1.1 -p
server add udp:[2001:db8::1]:53 10.2.0.14:53 --tunnel gue --tunnel-port 6080
service list
service show tcp:10.9.0.1:80
service show fwm:7
server list
server list udp:[2001:db8::1]:53
service set fwm:7 --persistence 7200 --persistence-prefix 24
service set fwm:7 --no-persistence --wait
server set tcp:10.9.0.1:80 10.2.0.11:8080 --weight 5
server drain tcp:10.9.0.1:80 10.2.0.12:8080
server list tcp:10.9.0.1:80
server del tcp:10.9.0.1:80 10.2.0.13:80
service del fwm:7
# What runs
stats
stats tcp:10.9.0.1:80
stats --rates
stats --exact
stats --workers
stats --cycles
stats --zero
drops
drops --all
flows --limit 3
flows --limit 2 --cursor 248
flows --end --service tcp:10.9.0.1:80 --server 10.2.0.11:8080
neighbours
ports
status
version
timeouts
timeouts --tcp 600
config show
reload
# Programs
service show tcp:10.9.0.1:80 --json
service del tcp:10.9.0.2:80 --json
server drain tcp:10.9.0.1:80 10.2.0.11:8080 --json
# Refusals
service add tcp:10.9.0.1:80
service show tcp:10.9.0.2:80
service del fwm:9
stats tcp:10.9.0.2:80
server add tcp:10.9.0.1:80 10.2.0.11:8080
server add tcp:10.9.0.1:80 10.2.0.15:8080
server add tcp:10.9.0.1:80 10.2.0.15:80 --mode tunnel --upper 10 --lower 20
server del tcp:10.9.0.1:80 10.2.0.99:80
service add tcp:10.9.0.3:0
# Wrong usage
service add 10.9.0.1:80
service add tcp:10.9.0.1
service add tcp:10.9.0.1:80 --scheduler best
server add tcp:10.9.0.1:80 10.2.0.300:80
server add tcp:10.9.0.1:80 10.2.0.11:80 --weight 2147483648
server add tcp:10.9.0.1:80 10.2.0.11:80 --tunnel vxlan
server add tcp:10.9.0.1:80 10.2.0.11:80 --tunnel ipip --tunnel-port 1
server set tcp:10.9.0.1:80 10.2.0.11:80
service lisst
flows --limit 0
flows --end
";

fn transcript(socket: &Path) -> String {
    let mut text = String::new();
    for line in SESSION.lines() {
        if line.starts_with('#') {
            text.push_str(&format!("{line}\n\n"));
            continue;
        }
        let (status, out, err) = run(socket, line);
        text.push_str(&format!("$ polluxctl {line}\n{out}{err}"));
        if status != 0 {
            text.push_str(&format!("[exit {status}]\n"));
        }
        text.push('\n');
    }
    text.replace(&socket.display().to_string(), "SOCKET")
}

#[test]
fn operators_see_what_is_written_down() {
    let d = Daemon::start("ctl-golden");
    let text = transcript(&d.socket);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/polluxctl.txt");
    if std::env::var_os("POLLUX_BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap_or_default();
    let differing = text.lines().zip(golden.lines()).find(|(a, b)| a != b);
    assert!(
        text == golden,
        "the first line that differs: {differing:?}; after a change on purpose run\n\
         POLLUX_BLESS=1 cargo test -p pollux-control --test polluxctl, and read the file"
    );
    assert!(!text.contains('\x1b'), "no colour where there is no terminal");
    assert!(text.lines().all(|l| !l.ends_with(' ')), "no spaces at ends of lines");
}

#[test]
fn json_is_the_apis_own() {
    let d = Daemon::start("ctl-json");
    run(&d.socket, "service add tcp:10.9.0.1:80");
    for (line, path) in [
        ("service list", "/v1/services"),
        ("service show tcp:10.9.0.1:80", "/v1/services/tcp:10.9.0.1:80"),
        ("server list tcp:10.9.0.1:80", "/v1/services/tcp:10.9.0.1:80/servers"),
        ("stats", "/v1/stats"),
        ("drops", "/v1/stats"),
        ("flows", "/v1/flows?limit=100"),
        ("neighbours", "/v1/neighbours"),
        ("ports", "/v1/ports"),
        ("status", "/v1/status"),
        ("version", "/v1/version"),
        ("timeouts", "/v1/timeouts"),
        ("config show", "/v1/config"),
    ] {
        let (status, out, _) = run(&d.socket, &format!("--json {line}"));
        let (_, _, body) = d.call_with("GET", path, "", "");
        assert_eq!((status, out.trim_end()), (0, body.trim_end()), "{line}");
    }
    let (status, out, err) = run(&d.socket, "service del fwm:9 --json");
    let e: Value = serde_json::from_str(&err).unwrap();
    assert_eq!((status, out.as_str(), e["error"]["code"].as_str()), (1, "", Some("no_such_service")));
}

#[test]
fn all_flows_come_page_by_page() {
    let d = Daemon::start("ctl-flows");
    let (_, out, _) = run(&d.socket, "flows --all");
    assert_eq!(out.lines().count(), 251);
    let (_, out, _) = run(&d.socket, "flows --all --json");
    let rows: usize =
        out.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["flows"].as_array().unwrap().len()).sum();
    assert_eq!(rows, 250);
}

#[test]
fn without_a_daemon_the_error_says_what_to_do() {
    let dir = Dir::new("ctl-none");
    let socket = dir.0.join("none.sock");
    let (status, out, err) = run(&socket, "service list");
    assert_eq!((status, out.as_str()), (1, ""));
    for part in ["polluxd", socket.to_str().unwrap(), "--socket", "POLLUX_SOCKET"] {
        assert!(err.contains(part), "{part} in {err}");
    }
    let (status, _, err) = run(&socket, "service list --json");
    let e: Value = serde_json::from_str(&err).unwrap();
    assert_eq!((status, e["error"]["code"].as_str()), (1, Some("not_running")), "{e}");
    assert_eq!(run(&socket, "service lst x").0, 2);
    assert_eq!(run(&socket, "").0, 2);
    let (status, out, _) = run(&socket, "--help");
    assert!(status == 0 && out.contains("Examples:"));
    let (status, out, _) = run(&socket, "completions bash");
    assert!(status == 0 && out.contains("complete -F"));
}

#[test]
fn files_are_checked_and_batches_made() {
    let d = Daemon::start("ctl-files");
    let dir = Dir::new("ctl-files-dir");
    let file = dir.0.join("batch.json");
    std::fs::write(
        &file,
        r#"{"operations": [{"op": "add-service", "service": {"address": "tcp:10.9.0.1:80"}},
            {"op": "add-server", "service": "tcp:10.9.0.1:80", "server": {"address": "10.2.0.11"}}]}"#,
    )
    .unwrap();
    let (status, out, err) = run(&d.socket, &format!("batch {}", file.display()));
    assert_eq!((status, out.as_str()), (0, "all changes made (generation 1)\n"), "{err}");
    std::fs::write(&file, r#"{"operations": [{"op": "zap"}, {"op": "delete-service"}]}"#).unwrap();
    let (status, _, err) = run(&d.socket, &format!("batch {}", file.display()));
    assert!(
        status == 1 && err.contains("there is no operation \"zap\"") && err.contains("missing field `address`"),
        "{err}"
    );

    let config = dir.0.join("pollux.toml");
    std::fs::write(&config, "[[port]]\nname = \"p0\"\ndevice = \"net_null0\"\nadresses = [\"10.3.0.2/24\"]\n").unwrap();
    let (status, _, err) = run(Path::new("/nowhere"), &format!("config check {}", config.display()));
    assert!(status == 1 && err.contains("adresses"), "{err}");
    let (status, _, err) = run(Path::new("/nowhere"), "config check /no/such/file.toml");
    assert!(status == 1 && err.contains("/no/such/file.toml"), "{err}");
}

/// Fails as the writing end of a pipe does whose reader went away.
struct Closed;
impl std::io::Write for Closed {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_has_enough_is_no_mistake() {
    let d = Daemon::start("ctl-pipe");
    let mut err = Vec::new();
    let socket = d.socket.display().to_string();
    let status = ctl::run(["polluxctl", "--socket", &socket, "flows"], &mut Closed, &mut err, false);
    assert_eq!((status, err.len()), (0, 0));
}
