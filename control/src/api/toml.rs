//! The running configuration as the text of a configuration file.

use serde_json::{Map, Value};

use crate::engine::RunningConfig;

/// The text. Reading it gives the configuration again.
pub fn config_as_toml(config: &RunningConfig) -> String {
    let mut out = format!("# The configuration of generation {}.\n", config.generation);
    let Ok(Value::Object(mut all)) = serde_json::to_value(config) else { return out };
    let services = all.remove("services");
    for comment in ["generation", "config_file"] {
        all.remove(comment);
    }
    // Keys of the file's top come before all sections.
    if let Some(vips) = all.remove("vips") {
        out.push_str(&format!("vips = {}\n", toml_value(&vips)));
    }
    for name in ["dpdk", "workers", "limits"] {
        section(&mut out, name, all.remove(name));
    }
    for (list, name) in [("ports", "port"), ("routes", "route"), ("neighbours", "neighbour")] {
        tables(&mut out, name, all.remove(list));
    }
    for (name, rest) in all {
        section(&mut out, &name, Some(rest));
    }
    for service in services.as_ref().and_then(Value::as_array).into_iter().flatten() {
        let Value::Object(mut fields) = service.clone() else { continue };
        let servers = fields.remove("servers");
        tables(&mut out, "service", Some(Value::Array(vec![Value::Object(fields)])));
        tables(&mut out, "service.server", servers);
    }
    out
}

fn section(out: &mut String, name: &str, fields: Option<Value>) {
    if let Some(Value::Object(fields)) = fields {
        out.push_str(&format!("\n[{name}]\n"));
        lines(out, &fields);
    }
}

fn tables(out: &mut String, name: &str, list: Option<Value>) {
    for fields in list.as_ref().and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object) {
        out.push_str(&format!("\n[[{name}]]\n"));
        lines(out, fields);
    }
}

fn lines(out: &mut String, fields: &Map<String, Value>) {
    for (name, value) in in_order(fields) {
        out.push_str(&format!("{name} = {}\n", toml_value(value)));
    }
}

/// What names a thing comes first, the rest in the order of the alphabet.
fn in_order(fields: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    let mut all: Vec<_> = fields.iter().collect();
    all.sort_by_key(|(name, _)| (!matches!(name.as_str(), "address" | "type" | "name" | "id"), *name));
    all.into_iter()
}

fn toml_value(value: &Value) -> String {
    match value {
        // JSON's strings are TOML's basic strings: every escape that serde_json writes is one there.
        Value::Null => "\"\"".into(),
        Value::Array(items) => format!("[{}]", items.iter().map(toml_value).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let fields: Vec<String> = in_order(fields).map(|(k, v)| format!("{k} = {}", toml_value(v))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        other => other.to_string(),
    }
}
