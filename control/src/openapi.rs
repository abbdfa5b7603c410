//! The API's OpenAPI 3.1 description, generated from the table of routes and the types.
//!
//! `docs/openapi.json` is this text; a test compares the two.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::api::{ErrorBody, Route, SchemaOf, routes};

/// The description as JSON text, ending with a newline.
pub fn text() -> String {
    let mut text = serde_json::to_string_pretty(&document()).unwrap_or_default();
    text.push('\n');
    text
}

/// The description.
pub fn document() -> Value {
    // OpenAPI 3.1 takes JSON Schema 2020-12 as it is, definitions under another name.
    let settings = SchemaSettings::draft2020_12().with(|s| {
        s.definitions_path = "/components/schemas".into();
        s.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for route in routes() {
        let operation = operation(&route, &mut generator);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation;
    }
    let _ = generator.subschema_for::<ErrorBody>();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Pollux",
            "summary": "Control of a layer-4 load balancer",
            "description": "HTTP/1.1 on a Unix socket, by default /run/pollux/pollux.sock. Keys of services and real \
                servers stand in paths percent-encoded where they hold `[`, `]` or `%`. Every change is atomic, and its \
                answer carries the generation of the configuration that holds it.",
            "version": "1",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "http://pollux", "description": "The host is ignored." }],
        "paths": paths,
        "components": { "schemas": generator.take_definitions(true) },
    })
}

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let mut parameters = path_parameters(route.path);
    parameters.extend(route.query.map(query_parameters).unwrap_or_default());
    let mut responses = Map::new();
    responses.insert(route.status.to_string(), success(route, generator));
    for status in route.errors.iter().copied().chain([503]) {
        responses.insert(status.to_string(), refusal(status));
    }
    let mut operation = json!({
        "operationId": route.id,
        "summary": route.summary,
        "responses": responses,
    });
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(body) = route.body {
        let content = json!({ "application/json": { "schema": body(generator) } });
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    operation
}

fn success(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let schema = route.answer.map_or_else(|| json!({}), |answer| answer(generator).into());
    let mut content = json!({ "application/json": { "schema": schema } });
    if route.id == "config" {
        content["application/toml"] = json!({ "schema": { "type": "string" } });
    }
    let mut response =
        json!({ "description": if route.status == 201 { "Made." } else { "Done." }, "content": content });
    if route.status == 201 {
        response["headers"] =
            json!({ "location": { "description": "Path of what was added.", "schema": { "type": "string" } } });
    }
    response
}

fn refusal(status: u16) -> Value {
    let description = match status {
        400 => "The request is wrong: `problems` lists every mistake.",
        404 => "There is no such service or real server.",
        408 => "The body did not come in time.",
        409 => "It exists already, a limit is reached, or only a restart can do it.",
        413 => "The body is too large.",
        415 => "The body is not JSON.",
        _ => "Too many requests or connections at a time, or the daemon is stopping: try again.",
    };
    let schema = json!({ "$ref": "#/components/schemas/ErrorBody" });
    json!({ "description": description, "content": { "application/json": { "schema": schema } } })
}

fn path_parameters(path: &str) -> Vec<Value> {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    names
        .map(|name| {
            let (description, example) = match name {
                "service" => ("Key of the service.", "tcp:10.9.0.1:80"),
                _ => ("Address and port of the real server.", "10.2.0.11:8080"),
            };
            json!({
                "name": name, "in": "path", "required": true, "description": description,
                "schema": { "type": "string" }, "example": example,
            })
        })
        .collect()
}

/// The properties of the query's type, one parameter each.
fn query_parameters(query: SchemaOf) -> Vec<Value> {
    // The type's own schema is no component: nothing refers to it.
    let mut local = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true).into_generator();
    let schema: Value = query(&mut local).into();
    let required = |name: &str| schema["required"].as_array().is_some_and(|r| r.iter().any(|n| n == name));
    let Some(properties) = schema["properties"].as_object() else { return Vec::new() };
    properties
        .iter()
        .map(|(name, property)| {
            let mut schema = property.clone();
            let description = schema.as_object_mut().and_then(|s| s.remove("description")).unwrap_or_default();
            json!({
                "name": name, "in": "query", "required": required(name),
                "description": description, "schema": schema,
            })
        })
        .collect()
}
