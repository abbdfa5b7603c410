//! Handlers that change something. Each answers with the generation that holds the change.

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Api;
use super::decode::{ChangeQuery, decode, json_body, key, query, value_at};
use super::error::{ApiError, Problem};
use super::operation::{decode_change, validate_service};
use super::types::{TimeoutsPatch, ZeroQuery};
use crate::engine::{Accepted, Change, EndFlows, Operation};
use crate::model::{ErrorCode, NewServer, NewService, ServerKey, ServerPatch, ServiceKey};
use crate::server::Peer;

type Answer = Result<Json<Accepted>, ApiError>;

/// The parts of a request that changes something.
struct Asked {
    headers: HeaderMap,
    uri: Uri,
    peer: Option<Peer>,
    body: Body,
}

impl Asked {
    fn new(request: Request) -> Self {
        let (parts, body) = request.into_parts();
        let peer = parts.extensions.get::<Peer>().copied();
        Self { headers: parts.headers, uri: parts.uri, peer, body }
    }
}

impl Api {
    /// Makes changes, and logs who asked for them.
    async fn change(&self, peer: Option<Peer>, change: Change) -> Answer {
        let (n, alone) = (change.operations.len(), change.operations.len() == 1);
        let what = change.operations.first().map(summary).unwrap_or_default();
        let (uid, pid) = (peer.map(|p| p.uid), peer.and_then(|p| p.pid));
        match self.engine.change(change).await {
            Ok(accepted) => {
                let generation = accepted.generation;
                tracing::info!(uid, pid, generation, operations = n, first = what, "changed by the API");
                Ok(Json(accepted))
            }
            Err(mut e) => {
                tracing::info!(uid, pid, code = ?e.code, error = %e, operations = n, "a change by the API was refused");
                // The number of the operation helps only where there are several.
                e.operation = e.operation.filter(|_| !alone);
                Err(e.into())
            }
        }
    }

    async fn apply(&self, peer: Option<Peer>, uri: &Uri, operation: Operation) -> Answer {
        let ChangeQuery { wait } = query(uri)?;
        self.change(peer, Change { operations: vec![operation], wait }).await
    }

    /// A JSON body as a typed value, with everything that is wrong about it.
    async fn body<T: DeserializeOwned>(
        &self,
        headers: &HeaderMap,
        body: Body,
        amend: impl FnOnce(&mut Value, &mut Vec<Problem>),
        check: impl FnOnce(&T, &mut Vec<Problem>),
    ) -> Result<(T, Value), ApiError> {
        let mut value = json_body(headers, body, self.limits.request_bytes).await?;
        let mut problems = Vec::new();
        amend(&mut value, &mut problems);
        let typed = decode::<T>(value.clone(), "", &mut problems);
        if let Some(typed) = &typed {
            check(typed, &mut problems);
        }
        for p in &mut problems {
            p.value = p.value.take().or_else(|| value_at(&value, p.field.as_deref()?).cloned());
        }
        match typed {
            Some(typed) if problems.is_empty() => Ok((typed, value)),
            _ => Err(ApiError::of_problems(problems)),
        }
    }
}

fn nothing<T>(_: &T, _: &mut Vec<Problem>) {}
fn as_it_is(_: &mut Value, _: &mut Vec<Problem>) {}

/// The same refusal with what the request held in the field that is wrong.
fn with_value(mut e: ApiError, body: &Value) -> ApiError {
    if let (None, Some(field)) = (&e.problem.value, &e.problem.field) {
        e.problem.value = value_at(body, field).cloned();
    }
    e
}

/// Puts the key of the path into the body, which may leave it out but not differ.
fn key_from_path<'a>(
    key: &'a str,
    same: impl Fn(&str) -> bool + 'a,
) -> impl FnOnce(&mut Value, &mut Vec<Problem>) + 'a {
    move |body, problems| {
        let Value::Object(object) = body else { return };
        match object.get("address") {
            Some(Value::String(s)) if !same(s) => {
                let m = format!("the body's address `{s}` is not that of the path, `{key}`");
                problems.push(Problem::new("invalid", m).field("address", None).remedy("leave `address` out"));
            }
            Some(_) => {}
            None => {
                object.insert("address".into(), key.into());
            }
        }
    }
}

/// `POST /v1/services`
pub async fn add_service(State(api): State<Api>, request: Request) -> Result<Response, ApiError> {
    let r = Asked::new(request);
    let check = |s: &NewService, problems: &mut Vec<Problem>| validate_service(s, "", problems);
    let (service, body) = api.body::<NewService>(&r.headers, r.body, as_it_is, check).await?;
    let address = service.address;
    let answer = api.apply(r.peer, &r.uri, Operation::AddService { service }).await;
    let accepted = answer.map_err(|e| with_value(e.object(address), &body))?;
    Ok(created(&format!("/v1/services/{address}"), accepted))
}

/// `PUT /v1/services/{service}`
pub async fn put_service(State(api): State<Api>, Path(service): Path<String>, request: Request) -> Answer {
    let address: ServiceKey = key("service", &service)?;
    let r = Asked::new(request);
    let check = |s: &NewService, problems: &mut Vec<Problem>| validate_service(s, "", problems);
    let amend = key_from_path(&service, |s| s.parse() == Ok(address));
    let (service, body) = api.body::<NewService>(&r.headers, r.body, amend, check).await?;
    let answer = api.apply(r.peer, &r.uri, Operation::PutService { service }).await;
    answer.map_err(|e| with_value(e.object(address), &body))
}

/// `PATCH /v1/services/{service}`
pub async fn set_service(State(api): State<Api>, Path(service): Path<String>, request: Request) -> Answer {
    let address: ServiceKey = key("service", &service)?;
    let r = Asked::new(request);
    let (set, body) = api.body(&r.headers, r.body, as_it_is, nothing).await?;
    let answer = api.apply(r.peer, &r.uri, Operation::SetService { address, set }).await;
    answer.map_err(|e| with_value(e.object(address), &body))
}

/// `DELETE /v1/services/{service}`
pub async fn delete_service(State(api): State<Api>, Path(service): Path<String>, request: Request) -> Answer {
    let address: ServiceKey = key("service", &service)?;
    let r = Asked::new(request);
    let answer = api.apply(r.peer, &r.uri, Operation::DeleteService { address }).await;
    answer.map_err(|e| e.object(address))
}

/// `POST /v1/services/{service}/servers`
pub async fn add_server(
    State(api): State<Api>,
    Path(service): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let service: ServiceKey = key("service", &service)?;
    let r = Asked::new(request);
    let (server, body) = api.body::<NewServer>(&r.headers, r.body, as_it_is, nothing).await?;
    let address = server.address;
    let answer = api.apply(r.peer, &r.uri, Operation::AddServer { service, server }).await;
    let accepted = answer.map_err(|e| server_error(e, service, address, &body))?;
    let port = if address.port == 0 { service.port() } else { address.port };
    Ok(created(&format!("/v1/services/{service}/servers/{}", ServerKey { port, ..address }), accepted))
}

/// `PUT /v1/services/{service}/servers/{server}`
pub async fn put_server(
    State(api): State<Api>,
    Path((service, server)): Path<(String, String)>,
    request: Request,
) -> Answer {
    let (service, address): (ServiceKey, ServerKey) = (key("service", &service)?, key("server", &server)?);
    let r = Asked::new(request);
    let key_text = server.clone();
    let amend = key_from_path(&key_text, |s| s.parse() == Ok(address));
    let (server, body) = api.body::<NewServer>(&r.headers, r.body, amend, nothing).await?;
    // A server that is there keeps its flows and counts, so it is changed rather than replaced.
    let set = ServerPatch {
        mode: Some(server.mode),
        tunnel: Some(server.tunnel),
        weight: Some(server.weight),
        upper_threshold: Some(server.upper_threshold),
        lower_threshold: Some(server.lower_threshold),
    };
    let mut answer = api.apply(r.peer, &r.uri, Operation::SetServer { service, address, set }).await;
    let missing = super::error::code_name(ErrorCode::NoSuchServer);
    if answer.as_ref().is_err_and(|e| e.problem.code == missing) {
        answer = api.apply(r.peer, &r.uri, Operation::AddServer { service, server }).await;
    }
    answer.map_err(|e| server_error(e, service, address, &body))
}

/// `PATCH /v1/services/{service}/servers/{server}`
pub async fn set_server(
    State(api): State<Api>,
    Path((service, server)): Path<(String, String)>,
    request: Request,
) -> Answer {
    let (service, address): (ServiceKey, ServerKey) = (key("service", &service)?, key("server", &server)?);
    let r = Asked::new(request);
    let (set, body) = api.body(&r.headers, r.body, as_it_is, nothing).await?;
    let answer = api.apply(r.peer, &r.uri, Operation::SetServer { service, address, set }).await;
    answer.map_err(|e| server_error(e, service, address, &body))
}

/// `DELETE /v1/services/{service}/servers/{server}`
pub async fn delete_server(
    State(api): State<Api>,
    Path((service, server)): Path<(String, String)>,
    request: Request,
) -> Answer {
    let (service, address): (ServiceKey, ServerKey) = (key("service", &service)?, key("server", &server)?);
    let r = Asked::new(request);
    let answer = api.apply(r.peer, &r.uri, Operation::DeleteServer { service, address }).await;
    answer.map_err(|e| server_error(e, service, address, &Value::Null))
}

/// `POST /v1/batch`
pub async fn batch(State(api): State<Api>, request: Request) -> Answer {
    let r = Asked::new(request);
    // Few at a time, since each may hold the largest body there can be, several times over.
    let Ok(_place) = api.batches.acquire().await else {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, Problem::new("stopping", "the daemon is stopping")));
    };
    let value = json_body(&r.headers, r.body, api.limits.batch_bytes).await?;
    let mut problems = Vec::new();
    let mut change = decode_change(value, &mut problems);
    if !problems.is_empty() {
        return Err(ApiError::of_problems(problems));
    }
    change.wait |= query::<ChangeQuery>(&r.uri)?.wait;
    let objects: Vec<Option<String>> = change.operations.iter().map(object).collect();
    let answer = api.change(r.peer, change).await;
    answer.map_err(|e| match objects.into_iter().nth(e.problem.operation.unwrap_or(0)).flatten() {
        Some(object) => e.object(object),
        None => e,
    })
}

/// `POST /v1/stats/zero`
pub async fn zero(State(api): State<Api>, peer: Option<Extension<Peer>>, uri: Uri) -> Answer {
    let ZeroQuery { service } = query(&uri)?;
    let change = Change { operations: vec![Operation::Zero { service }], wait: false };
    api.change(peer.map(|p| p.0), change).await.map_err(|e| match service {
        Some(key) => e.object(key),
        None => e,
    })
}

/// `DELETE /v1/flows`
pub async fn end_flows(State(api): State<Api>, peer: Option<Extension<Peer>>, uri: Uri) -> Answer {
    let which: EndFlows = query(&uri)?;
    let object = match (which.service, which.server) {
        (Some(service), Some(server)) => Some(format!("{service} {server}")),
        (service, _) => service.map(|s| s.to_string()),
    };
    match api.engine.end_flows(which).await {
        Ok(accepted) => {
            let peer = peer.map(|p| p.0);
            tracing::info!(
                uid = peer.map(|p| p.uid),
                of = object.as_deref().unwrap_or("all"),
                "flows ended by the API"
            );
            Ok(Json(accepted))
        }
        Err(e) => Err(match object {
            Some(object) => ApiError::from(e).object(object),
            None => e.into(),
        }),
    }
}

/// `PATCH /v1/timeouts`
pub async fn set_timeouts(State(api): State<Api>, request: Request) -> Answer {
    let r = Asked::new(request);
    let (TimeoutsPatch { tcp_s, tcp_fin_s, udp_s }, body) = api.body(&r.headers, r.body, as_it_is, nothing).await?;
    let answer = api.apply(r.peer, &r.uri, Operation::SetTimeouts { tcp_s, tcp_fin_s, udp_s }).await;
    answer.map_err(|e| with_value(e, &body))
}

/// `POST /v1/reload`
pub async fn reload(State(api): State<Api>, peer: Option<Extension<Peer>>) -> Answer {
    let accepted = api.engine.reload().await?;
    tracing::info!(uid = peer.map(|p| p.0.uid), generation = accepted.generation, "configuration file read again");
    Ok(Json(accepted))
}

fn created(location: &str, accepted: Json<Accepted>) -> Response {
    let mut response = (StatusCode::CREATED, accepted).into_response();
    if let Ok(value) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

/// The refusal's object: the server, or the service where that is what is missing.
fn server_error(e: ApiError, service: ServiceKey, server: ServerKey, body: &Value) -> ApiError {
    let missing = e.problem.code == super::error::code_name(ErrorCode::NoSuchService);
    let e = if missing { e.object(service) } else { e.object(format!("{service} {server}")) };
    with_value(e, body)
}

/// What an operation is about, as refusals name it.
fn object(operation: &Operation) -> Option<String> {
    match operation {
        Operation::AddService { service } | Operation::PutService { service } => Some(service.address.to_string()),
        Operation::SetService { address, .. } | Operation::DeleteService { address } => Some(address.to_string()),
        Operation::AddServer { service, server } => Some(format!("{service} {}", server.address)),
        Operation::SetServer { service, address, .. } | Operation::DeleteServer { service, address } => {
            Some(format!("{service} {address}"))
        }
        Operation::Zero { service } => service.map(|s| s.to_string()),
        Operation::Flush | Operation::SetTimeouts { .. } => None,
    }
}

/// One operation in the log.
fn summary(operation: &Operation) -> String {
    let name = match operation {
        Operation::AddService { .. } => "add-service",
        Operation::PutService { .. } => "put-service",
        Operation::SetService { .. } => "set-service",
        Operation::DeleteService { .. } => "delete-service",
        Operation::AddServer { .. } => "add-server",
        Operation::SetServer { .. } => "set-server",
        Operation::DeleteServer { .. } => "delete-server",
        Operation::Flush => "flush",
        Operation::SetTimeouts { .. } => "set-timeouts",
        Operation::Zero { .. } => "zero",
    };
    match object(operation) {
        Some(object) => format!("{name} {object}"),
        None => name.into(),
    }
}
