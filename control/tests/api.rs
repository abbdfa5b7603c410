//! The API over a real socket, as `curl --unix-socket` would use it.

mod common;

use common::{CONFIG, Daemon};
use serde_json::{Value, json};

const KEY: &str = "tcp:10.9.0.1:80";

fn add(d: &Daemon) {
    let body = json!({"address": KEY, "scheduler": "rr", "servers": [{"address": "10.2.0.11:8080", "mode": "nat"}]});
    assert_eq!(d.call("POST", "/v1/services", &body.to_string()).0, 201);
}

#[test]
fn a_service_lives_from_post_to_delete() {
    let d = Daemon::start("api-life");
    let body = json!({"address": KEY, "servers": [{"address": "10.2.0.11:8080", "mode": "nat", "weight": 2}]});
    let (status, head, text) =
        d.call_with("POST", "/v1/services", "content-type: application/json\r\n", &body.to_string());
    assert_eq!(status, 201, "{text}");
    assert!(head.contains("location: /v1/services/tcp:10.9.0.1:80"), "{head}");
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["generation"], 1);

    let (status, s) = d.call("GET", "/v1/services/tcp:10.9.0.1:80", "");
    assert_eq!((status, &s["scheduler"], &s["servers"][0]["weight"]), (200, &json!("wlc"), &json!(2)));
    let (_, l) = d.call("GET", "/v1/services", "");
    assert_eq!(l["services"][0]["address"], KEY);

    let (status, a) = d.call("PATCH", "/v1/services/tcp:10.9.0.1:80", r#"{"scheduler": "lc"}"#);
    assert_eq!((status, &a["generation"]), (200, &json!(2)));
    let (status, _) = d.call("POST", "/v1/services/tcp:10.9.0.1:80/servers", r#"{"address":"10.2.0.12","mode":"nat"}"#);
    assert_eq!(status, 201);
    let server = "/v1/services/tcp:10.9.0.1:80/servers/10.2.0.12:80";
    assert_eq!(d.call("PATCH", server, r#"{"weight": 0}"#).0, 200);
    assert_eq!(d.call("GET", server, "").1["weight"], 0);
    assert_eq!(d.call("PUT", server, r#"{"mode": "nat", "weight": 7}"#).0, 200);
    assert_eq!(d.call("GET", server, "").1["weight"], 7);
    assert_eq!(d.call("DELETE", server, "").0, 200);
    assert_eq!(d.call("PUT", server, r#"{"mode": "nat"}"#).0, 200, "PUT adds what is not there");
    let (_, l) = d.call("GET", "/v1/services/tcp:10.9.0.1:80/servers", "");
    assert_eq!(l["servers"].as_array().unwrap().len(), 2);

    assert_eq!(d.call("PUT", "/v1/services/tcp:10.9.0.1:80", r#"{"scheduler": "sh"}"#).0, 200);
    assert_eq!(d.call("GET", "/v1/services/tcp:10.9.0.1:80", "").1["servers"], json!([]));
    let (status, a) = d.call("DELETE", "/v1/services/tcp:10.9.0.1:80", "");
    assert_eq!(status, 200);
    assert!(a["generation"].as_u64().unwrap() >= 9, "{a}");
    assert_eq!(d.call("GET", "/v1/services/tcp:10.9.0.1:80", "").0, 404);
}

#[test]
fn keys_in_paths_may_be_percent_encoded_or_not() {
    let d = Daemon::start("api-keys");
    let body = json!({"address": "udp:[2001:db8::1]:53", "servers": [{"address": "[2001:db8:2::11]:53"}]});
    assert_eq!(d.call("POST", "/v1/services", &body.to_string()).0, 201);
    for path in [
        "/v1/services/udp:[2001:db8::1]:53/servers/[2001:db8:2::11]:53",
        "/v1/services/udp%3A%5B2001%3Adb8%3A%3A1%5D%3A53/servers/%5B2001:db8:2::11%5D:53",
    ] {
        let (status, s) = d.call("GET", path, "");
        assert_eq!((status, &s["address"]), (200, &json!("[2001:db8:2::11]:53")), "{path}");
    }
}

#[test]
fn refusals_have_status_code_object_and_remedy() {
    let d = Daemon::start("api-refusals");
    add(&d);
    let server = "/v1/services/tcp:10.9.0.1:80/servers/10.2.0.11:8080";
    let cases = [
        ("GET", "/v1/services/tcp:10.9.0.2:80", "", 404, "no_such_service", "tcp:10.9.0.2:80"),
        ("DELETE", "/v1/services/fwm:7", "", 404, "no_such_service", "fwm:7"),
        (
            "GET",
            "/v1/services/tcp:10.9.0.1:80/servers/10.2.0.99",
            "",
            404,
            "no_such_server",
            "tcp:10.9.0.1:80 10.2.0.99:80",
        ),
        (
            "PATCH",
            "/v1/services/tcp:10.9.0.1:80/servers/10.2.0.99:80",
            "{}",
            404,
            "no_such_server",
            "tcp:10.9.0.1:80 10.2.0.99:80",
        ),
        ("POST", "/v1/services", r#"{"address": "tcp:10.9.0.1:80"}"#, 409, "service_exists", KEY),
        (
            "POST",
            "/v1/services/tcp:10.9.0.1:80/servers",
            r#"{"address": "10.2.0.11:8080", "mode": "nat"}"#,
            409,
            "server_exists",
            "tcp:10.9.0.1:80 10.2.0.11:8080",
        ),
        ("PATCH", server, r#"{"mode": "direct-routing"}"#, 400, "invalid", "tcp:10.9.0.1:80 10.2.0.11:8080"),
    ];
    for (method, path, body, status, code, object) in cases {
        let (got, v) = d.call(method, path, body);
        let e = &v["error"];
        assert_eq!((got, e["code"].as_str(), e["object"].as_str()), (status, Some(code), Some(object)), "{v}");
        assert!(e["message"].as_str().unwrap().len() > 10 && e["remedy"].is_string(), "{v}");
    }
    let cases = [
        ("GET", "/v1/service", 404, "no_such_path"),
        ("GET", "/", 404, "no_such_path"),
        ("PUT", "/v1/services", 405, "method_not_allowed"),
        ("DELETE", "/v1/stats", 405, "method_not_allowed"),
        ("GET", "/v1/services/tcp:10.9.0.1", 400, "invalid"),
        ("GET", "/v1/flows?limit=many", 400, "bad_query"),
        ("GET", "/v1/flows?colour=red", 400, "bad_query"),
        ("GET", "/v1/flows?cursor=bad", 400, "invalid"),
        ("POST", "/v1/services", 400, "bad_json"),
    ];
    for (method, path, status, code) in cases {
        let (got, v) = d.call(method, path, "");
        assert_eq!((got, v["error"]["code"].as_str()), (status, Some(code)), "{method} {path}: {v}");
    }
    let (_, head, _) = d.call_with("PUT", "/v1/services", "", "");
    assert!(head.contains("allow: ") && head.contains("get") && head.contains("post"), "{head}");
}

#[test]
fn wrong_json_is_told_with_its_place() {
    let d = Daemon::start("api-json");
    let (status, v) = d.call("POST", "/v1/services", "{\n  \"address\": \"tcp:10.9.0.1:80\",\n  \"scheduler\": rr\n}");
    let e = &v["error"];
    assert_eq!((status, &e["code"], &e["line"], &e["column"]), (400, &json!("bad_json"), &json!(3), &json!(16)), "{v}");

    let body = json!({"address": KEY, "sheduler": "rr", "persistence": {"timeout_s": 0},
        "servers": [{"address": "10.2.0.11:8080", "weight": 5_000_000_000_u64}, {"address": "10.2.0.12:8080"}]});
    let (status, v) = d.call("POST", "/v1/services", &body.to_string());
    assert_eq!(status, 400);
    let found: Vec<(&str, &Value)> = v["error"]["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (p["field"].as_str().unwrap(), &p["value"]))
        .collect();
    let (w, a) = (json!(5_000_000_000_u64), json!("10.2.0.12:8080"));
    for expected in [("sheduler", &json!("rr")), ("servers[0].weight", &w), ("servers[1].address", &a)] {
        assert!(found.contains(&expected), "{expected:?} in {v:#}");
    }
    assert!(found.iter().any(|(f, _)| *f == "persistence"), "{v:#}");
    assert_eq!(d.call("GET", "/v1/services", "").1["services"], json!([]), "nothing was made of it");
}

#[test]
fn media_types_and_sizes_are_checked() {
    let d = Daemon::start("api-media");
    let body = format!("{{\"address\": \"{KEY}\"}}");
    for (kind, status) in [
        ("text/plain", 415),
        ("application/xml", 415),
        ("application/json; charset=utf-8", 201),
        ("application/x-www-form-urlencoded", 409),
    ] {
        let (got, _, text) = d.call_with("POST", "/v1/services", &format!("content-type: {kind}\r\n"), &body);
        assert_eq!(got, status, "{kind}: {text}");
    }
    let large = format!("{{\"address\": \"{}\"}}", "x".repeat(2 << 20));
    let (status, v) = d.call("POST", "/v1/services", &large);
    assert_eq!((status, &v["error"]["code"]), (413, &json!("too_large")));
    // Without a length it is noticed on the way.
    let text = d.raw(
        format!(
            "POST /v1/services HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n",
            large.len()
        )
        .as_bytes(),
    );
    assert!(text.starts_with("HTTP/1.1 413"), "{}", &text[..text.len().min(200)]);
}

#[test]
fn a_batch_is_made_as_a_whole_or_not_at_all() {
    let d = Daemon::start("api-batch");
    let good = json!({"operations": [
        {"op": "add-service", "service": {"address": KEY}},
        {"op": "add-server", "service": KEY, "server": {"address": "10.2.0.11:80"}},
    ]});
    let (status, a) = d.call("POST", "/v1/batch?wait=true", &good.to_string());
    assert_eq!((status, &a["generation"]), (200, &json!(1)), "{a}");

    let bad = json!({"operations": [
        {"op": "delete-service", "address": KEY},
        {"op": "delete-server", "service": KEY, "address": "10.2.0.11:80"},
    ]});
    let (status, v) = d.call("POST", "/v1/batch", &bad.to_string());
    let e = &v["error"];
    assert_eq!((status, &e["operation"], &e["code"]), (404, &json!(1), &json!("no_such_service")), "{v}");
    assert_eq!(d.call("GET", "/v1/services", "").1["services"].as_array().unwrap().len(), 1);

    // Far above the bound of other requests.
    let many: Vec<Value> = (0..60_000)
        .map(|i| json!({"op": "set-service", "address": KEY, "set": {"persistence": {"timeout_s": 300 + i % 7}}}))
        .collect();
    let (status, a) = d.call("POST", "/v1/batch", &json!({"operations": many}).to_string());
    assert_eq!((status, &a["generation"]), (200, &json!(2)), "{a}");
}

#[test]
fn everything_can_be_read() {
    let d = Daemon::start("api-read");
    add(&d);
    for path in
        ["healthz", "version", "status", "stats", "flows", "neighbours", "ports", "timeouts", "config", "openapi.json"]
    {
        let (status, v) = d.call("GET", &format!("/v1/{path}"), "");
        assert!(status == 200 && v.is_object(), "{path}: {v}");
    }
    let (_, v) = d.call("GET", "/v1/flows?limit=200&service=tcp:10.9.0.1:80&protocol=tcp&client=10.1.0.1", "");
    assert_eq!(v["flows"].as_array().unwrap().len(), 200);
    let (_, v) = d.call("GET", &format!("/v1/flows?cursor={}", v["next"].as_str().unwrap()), "");
    assert_eq!((v["flows"].as_array().unwrap().len(), &v["next"]), (50, &Value::Null));
    assert_eq!(d.call("POST", "/v1/stats/zero?service=tcp:10.9.0.1:80", "").0, 200);
    assert_eq!(d.call("POST", "/v1/stats/zero?service=fwm:9", "").0, 404);
    assert_eq!(d.call("DELETE", "/v1/flows?service=tcp:10.9.0.1:80&server=10.2.0.11:8080", "").0, 200);
    assert_eq!(d.call("DELETE", "/v1/flows?service=fwm:9", "").1["error"]["object"], "fwm:9");
    assert_eq!(d.call("PATCH", "/v1/timeouts", r#"{"tcp_s": 600}"#).0, 200);
    assert_eq!(d.call("POST", "/v1/reload", "").0, 200);
}

#[test]
fn the_running_configuration_can_be_given_to_a_daemon_again() {
    let d = Daemon::start("api-config");
    let services = json!([
        {"address": "fwm:7", "rules": ["tcp:10.9.0.0/24:80-90", "any:10.9.1.1"], "persistence": {"timeout_s": 300, "prefix_len": 24},
         "servers": [{"address": "10.2.0.11", "mode": "nat", "weight": 0}]},
        {"address": "tcp:10.9.0.1:80", "scheduler": "mh", "sched_flags": ["fallback", "port"], "servers": [
            {"address": "10.2.0.11:80", "mode": "tunnel", "tunnel": {"type": "gue", "port": 6080, "checksum": "remote"}},
            {"address": "10.2.0.12:80", "upper_threshold": 100, "lower_threshold": 50}]},
        {"address": "udp:[2001:db8::1]:53", "one_packet": true, "servers": [{"address": "[2001:db8:2::11]:53"}]},
    ]);
    let all: Vec<Value> =
        services.as_array().unwrap().iter().map(|s| json!({"op": "put-service", "service": s})).collect();
    assert_eq!(d.call("POST", "/v1/batch", &json!({"operations": all}).to_string()).0, 200);

    let (_, before) = d.call("GET", "/v1/config", "");
    let (status, head, toml) = d.call_with("GET", "/v1/config?format=toml", "", "");
    assert!(status == 200 && head.contains("content-type: application/toml"), "{head}");
    let config = control::config::parse("running.toml", &toml)
        .unwrap_or_else(|e| panic!("{}\n{toml}", control::config::render(&e)));
    let mut same = control::config::parse("same.toml", CONFIG).unwrap();
    (same.services, same.warnings) = (config.services.clone(), config.warnings.clone());
    assert_eq!(config, same, "{toml}");
    assert_eq!(before["ports"][1]["mtu"], 9000);
    assert_eq!(before["timeouts"]["udp"], 250);
    assert_eq!(
        before["neighbours"][0],
        json!({"address": "10.10.0.7", "mac": "02:00:00:00:02:0b", "port": "front", "vlan": 10})
    );
    let read: Vec<Value> = config.services.iter().map(|s| serde_json::to_value(&**s).unwrap()).collect();
    for (a, b) in read.iter().zip(before["services"].as_array().unwrap()) {
        for (name, value) in b.as_object().unwrap() {
            assert_eq!(&a[name], value, "{name} of {toml}");
        }
    }
    assert_eq!(read.len(), 3);
}
