//! A batch: a list of operations, decoded one by one so that every mistake has its place.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::decode::decode;
use super::error::Problem;
use crate::engine::{Change, Operation};
use crate::model::{NewServer, NewService, ServerKey, Service, ServiceKey};

/// Most operations of one batch.
const MOST_OPERATIONS: usize = 200_000;

/// Decodes a batch: `{"operations": […], "wait": false}`.
pub fn decode_change(value: Value, problems: &mut Vec<Problem>) -> Change {
    let Value::Object(mut object) = value else {
        problems.push(
            Problem::new("invalid", "the body is no JSON object").remedy("send `{\"operations\": [{\"op\": …}, …]}`"),
        );
        return Change::default();
    };
    let wait = object.remove("wait").and_then(|w| decode(w, "wait", problems)).unwrap_or(false);
    let mut operations = Vec::new();
    match object.remove("operations") {
        Some(Value::Array(list)) if list.len() <= MOST_OPERATIONS => {
            for (i, v) in list.into_iter().enumerate() {
                let before = problems.len();
                operations.extend(decode_operation(v, &format!("operations[{i}]"), problems));
                problems[before..].iter_mut().for_each(|p| p.operation = Some(i));
            }
        }
        Some(Value::Array(list)) => problems.push(
            Problem::new("too_large", format!("the batch has {} operations", list.len()))
                .remedy(format!("send at most {MOST_OPERATIONS} at once")),
        ),
        Some(other) => {
            problems.push(Problem::new("invalid", "operations: not a list").field("operations", Some(other)));
        }
        None => problems.push(
            Problem::new("invalid", "missing field `operations`").remedy("send `{\"operations\": [{\"op\": …}, …]}`"),
        ),
    }
    no_more(object, "", problems);
    Change { operations, wait }
}

fn no_more(rest: Map<String, Value>, at: &str, problems: &mut Vec<Problem>) {
    for (name, value) in rest {
        let field = if at.is_empty() { name } else { format!("{at}.{name}") };
        problems.push(Problem::new("invalid", format!("{field}: unknown field")).field(field, Some(value)));
    }
}

/// The fields of one operation, taken out one after the other.
struct Fields<'a> {
    object: Map<String, Value>,
    at: &'a str,
    problems: &'a mut Vec<Problem>,
}

impl Fields<'_> {
    fn required<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let at = self.at;
        match self.object.remove(name) {
            Some(v) => decode(v, &format!("{at}.{name}"), self.problems),
            None => {
                self.problems.push(Problem::new("invalid", format!("{at}: missing field `{name}`")).field(at, None));
                None
            }
        }
    }
    fn optional<T: DeserializeOwned + Default>(&mut self, name: &str) -> T {
        let value = self.object.remove(name);
        value.and_then(|v| decode(v, &format!("{}.{name}", self.at), self.problems)).unwrap_or_default()
    }
}

/// Names of operations, for the message that lists them.
const NAMES: &str = "add-service, put-service, set-service, delete-service, add-server, set-server, delete-server, \
                     flush, set-timeouts, zero";

fn decode_operation(value: Value, at: &str, problems: &mut Vec<Problem>) -> Option<Operation> {
    let Value::Object(mut object) = value else {
        problems.push(Problem::new("invalid", format!("{at}: no JSON object")).field(at, Some(value)));
        return None;
    };
    let op = object.remove("op");
    let mut f = Fields { object, at, problems };
    let operation = match op.as_ref().and_then(Value::as_str) {
        Some("add-service") => new_service(&mut f).map(|service| Operation::AddService { service }),
        Some("put-service") => new_service(&mut f).map(|service| Operation::PutService { service }),
        Some("set-service") => {
            f.required("address").zip(f.required("set")).map(|(address, set)| Operation::SetService { address, set })
        }
        Some("delete-service") => f.required("address").map(|address| Operation::DeleteService { address }),
        Some("add-server") => f
            .required::<ServiceKey>("service")
            .zip(f.required::<NewServer>("server"))
            .map(|(service, server)| Operation::AddServer { service, server }),
        Some("set-server") => {
            let (service, address, set) =
                (f.required("service"), f.required::<ServerKey>("address"), f.required("set"));
            service.zip(address).zip(set).map(|((service, address), set)| Operation::SetServer {
                service,
                address,
                set,
            })
        }
        Some("delete-server") => f
            .required("service")
            .zip(f.required("address"))
            .map(|(service, address)| Operation::DeleteServer { service, address }),
        Some("flush") => Some(Operation::Flush),
        Some("set-timeouts") => Some(Operation::SetTimeouts {
            tcp_s: f.optional("tcp_s"),
            tcp_fin_s: f.optional("tcp_fin_s"),
            udp_s: f.optional("udp_s"),
        }),
        Some("zero") => Some(Operation::Zero { service: f.optional("service") }),
        _ => {
            let m = match &op {
                Some(other) => format!("{at}.op: there is no operation {other}"),
                None => format!("{at}: missing field `op`"),
            };
            let p = Problem::new("invalid", m).field(format!("{at}.op"), op).remedy(format!("there are {NAMES}"));
            f.problems.push(p);
            return None;
        }
    };
    no_more(f.object, at, f.problems);
    operation
}

fn new_service(f: &mut Fields) -> Option<NewService> {
    let at = f.at;
    let service: NewService = f.required("service")?;
    validate_service(&service, &format!("{at}.service"), f.problems);
    Some(service)
}

/// Tells every mistake of a new service and of its real servers, not the first one only.
/// What depends on other services (duplicates, limits) is the engine's to find.
pub fn validate_service(new: &NewService, at: &str, problems: &mut Vec<Problem>) {
    let place = |field: &str| if at.is_empty() { field.to_owned() } else { format!("{at}.{field}") };
    let told = |e: crate::model::Error, prefix: &str| {
        let mut p = Problem::from(e);
        p.field = p.field.map(|f| place(&format!("{prefix}{f}")));
        p.object = Some(new.address.to_string());
        p
    };
    let alone = NewService { servers: Vec::new(), ..new.clone() };
    let mut service = match alone.validate() {
        Ok(service) => service,
        Err(e) => {
            problems.push(told(e, ""));
            let NewService {
                address, scheduler, sched_flags, persistence, one_packet, client_address, ftp, rules, ..
            } = alone;
            let servers = Vec::new();
            Service { address, scheduler, sched_flags, persistence, one_packet, client_address, ftp, rules, servers }
        }
    };
    for (i, server) in new.servers.iter().enumerate() {
        if let Err(e) = service.add_server(server) {
            let field = e.field.clone().unwrap_or_else(|| "address".into());
            problems.push(told(crate::model::Error { field: Some(field), ..e }, &format!("servers[{i}].")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_operation_is_decoded_as_the_derived_form_would() {
        let v = json!({"wait": true, "operations": [
            {"op": "add-service", "service": {"address": "tcp:10.9.0.1:80", "servers": [{"address": "10.2.0.1:80"}]}},
            {"op": "put-service", "service": {"address": "fwm:7", "rules": ["any:10.9.0.0/24"]}},
            {"op": "set-service", "address": "tcp:10.9.0.1:80", "set": {"scheduler": "rr", "persistence": null}},
            {"op": "delete-service", "address": "tcp:10.9.0.1:80"},
            {"op": "add-server", "service": "tcp:10.9.0.1:80", "server": {"address": "10.2.0.1", "mode": "nat"}},
            {"op": "set-server", "service": "tcp:10.9.0.1:80", "address": "10.2.0.1:80", "set": {"weight": 0}},
            {"op": "delete-server", "service": "tcp:10.9.0.1:80", "address": "10.2.0.1:80"},
            {"op": "flush"},
            {"op": "set-timeouts", "tcp_s": 900},
            {"op": "zero"},
            {"op": "zero", "service": "fwm:7"},
        ]});
        let mut problems = Vec::new();
        let change = decode_change(v.clone(), &mut problems);
        assert_eq!(problems, []);
        assert_eq!(change, serde_json::from_value::<Change>(v).unwrap());
        let mut problems = Vec::new();
        let again = decode_change(serde_json::to_value(&change).unwrap(), &mut problems);
        assert_eq!((again, problems), (change, vec![]));
    }

    #[test]
    fn all_mistakes_of_a_batch_are_told() {
        let v = json!({"operations": [
            {"op": "add-service", "service": {"address": "tcp:10.9.0.1:0", "servers": [
                {"address": "10.2.0.1:8080"}, {"address": "[2001:db8::1]:0", "mode": "nat"}]}},
            {"op": "add-servers"},
            {"op": "set-server", "service": "tcp:10.9.0.1:80", "set": {"weight": 5_000_000_000_u64}, "extra": 1},
            7,
        ], "dry_run": true});
        let mut problems = Vec::new();
        decode_change(v, &mut problems);
        let told: Vec<(Option<usize>, &str)> =
            problems.iter().map(|p| (p.operation, p.field.as_deref().unwrap_or("-"))).collect();
        assert_eq!(
            told,
            [
                (Some(0), "operations[0].service.address"),
                (Some(0), "operations[0].service.servers[0].address"),
                (Some(0), "operations[0].service.servers[1].address"),
                (Some(1), "operations[1].op"),
                (Some(2), "operations[2]"),
                (Some(2), "operations[2].set.weight"),
                (Some(2), "operations[2].extra"),
                (Some(3), "operations[3]"),
                (None, "dry_run"),
            ],
            "{problems:#?}"
        );
    }
}
