//! The description of the API: as written down, complete, and true.

use std::collections::BTreeSet;

use control::{api, openapi};
use serde_json::Value;

/// Set this variable to write the file anew after a change of the API.
const BLESS: &str = "POLLUX_BLESS";

#[test]
fn the_file_in_docs_is_what_the_daemon_serves() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    if std::env::var_os(BLESS).is_some() {
        std::fs::write(path, openapi::text()).unwrap();
    }
    // Compared as values: the order of keys depends on how serde_json was built.
    let written: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap_or_default()).unwrap_or_default();
    assert!(
        written == openapi::document(),
        "docs/openapi.json is out of date; run {BLESS}=1 cargo test -p pollux-control --test openapi"
    );
}

#[test]
fn every_route_is_described_and_every_description_routed() {
    let document = openapi::document();
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(move |m| (path.clone(), m.to_ascii_uppercase()))
        })
        .collect();
    let routed: BTreeSet<_> = api::routes().iter().map(|r| (r.path.to_owned(), r.method.to_string())).collect();
    assert_eq!(described, routed);
    let ids: BTreeSet<_> = api::routes().iter().map(|r| r.id).collect();
    assert_eq!(ids.len(), routed.len(), "operation ids are distinct");
}

#[test]
fn every_reference_leads_somewhere() {
    fn references<'a>(v: &'a Value, out: &mut Vec<&'a str>) {
        match v {
            Value::Object(map) => {
                for (k, v) in map {
                    match v {
                        Value::String(s) if k == "$ref" => out.push(s),
                        _ => references(v, out),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|v| references(v, out)),
            _ => {}
        }
    }
    let document = openapi::document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 20);
    for r in found {
        let pointer = r.strip_prefix('#').unwrap_or_else(|| panic!("{r} leads outside"));
        assert!(document.pointer(pointer).is_some(), "{r} leads nowhere");
    }
}

#[test]
fn every_field_is_described() {
    let document = openapi::document();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        assert!(schema.get("description").is_some(), "{name} has no description");
        for (field, property) in schema["properties"].as_object().into_iter().flatten() {
            assert!(property.get("description").is_some(), "{name}.{field} has no description");
        }
    }
}
