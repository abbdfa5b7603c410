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
        base.replace("10.3.0.1", "10.3.0.2") + "mtu = 1400\n[workers]\ncores = [1, 2]\n[settings]\nsloppy_tcp = true\n";
    let (next, waits) = old.reloaded(config::parse("t", &text).unwrap());
    assert_eq!(waits, ["[workers]", "[[port]]: devices, names, MTUs, queues and VLANs"]);
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
