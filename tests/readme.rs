//! What the README shows must be right.

use std::path::Path;

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The fenced blocks of one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let open = format!("```{language}\n");
    text.split(&open).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn its_configuration_is_correct_and_without_warnings() {
    let examples = blocks(&readme(), "toml");
    assert_eq!(examples.len(), 1);
    let config =
        control::config::parse("README.md", &examples[0]).unwrap_or_else(|e| panic!("{}", control::config::render(&e)));
    assert_eq!(config.warnings, Vec::<String>::new());
    assert_eq!(config.ports.len(), 2);
    assert_eq!(config.services.server_count(), 2);
}

#[test]
fn its_links_lead_to_files() {
    let text = readme();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let targets: Vec<_> =
        text.split("](").skip(1).filter_map(|r| r.split(')').next()).filter(|t| !t.contains("://")).collect();
    assert!(!targets.is_empty());
    for target in targets {
        // To a heading of its own, or to a file.
        let there = match target.strip_prefix('#') {
            Some(heading) => text.to_lowercase().replace(' ', "-").contains(&format!("\n##-{heading}\n")),
            None => root.join(target).exists(),
        };
        assert!(there, "the README links to {target}, which is not there");
    }
}
