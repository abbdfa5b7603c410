//! Handlers that read.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use super::Api;
use super::decode::{key, query};
use super::error::ApiError;
use super::types::{
    ConfigFormat, ConfigQuery, Health, NeighbourList, PortList, RunningConfig, ServerList, ServiceList, Timeouts,
};
use crate::engine::{FlowPage, FlowQuery, ServerView, ServiceView, Stats, Status, Version};
use crate::model::{Error, NewService, ServerKey, ServiceKey};

type Answer<T> = Result<Json<T>, ApiError>;

/// `GET /v1/healthz`
pub async fn health(State(api): State<Api>) -> Answer<Health> {
    let status = api.engine.status().await?;
    Ok(Json(Health { status: "ok".into(), generation: status.generation }))
}

/// `GET /v1/version`
pub async fn version(State(api): State<Api>) -> Answer<Version> {
    Ok(Json(api.engine.version().await?))
}

/// `GET /v1/status`
pub async fn status(State(api): State<Api>) -> Answer<Status> {
    Ok(Json(api.engine.status().await?))
}

/// `GET /v1/services`
pub async fn services(State(api): State<Api>) -> Answer<ServiceList> {
    Ok(Json(ServiceList { services: api.engine.services().await? }))
}

/// `GET /v1/services/{service}`
pub async fn service(State(api): State<Api>, Path(service): Path<String>) -> Answer<ServiceView> {
    let key: ServiceKey = key("service", &service)?;
    Ok(Json(api.engine.service(key).await.map_err(|e| ApiError::from(e).object(key))?))
}

/// `GET /v1/services/{service}/servers`
pub async fn servers(state: State<Api>, path: Path<String>) -> Answer<ServerList> {
    let Json(service) = service(state, path).await?;
    Ok(Json(ServerList { service: service.address, servers: service.servers }))
}

/// `GET /v1/services/{service}/servers/{server}`
pub async fn server(
    state: State<Api>,
    Path((service_text, server_text)): Path<(String, String)>,
) -> Answer<ServerView> {
    let wanted: ServerKey = key("server", &server_text)?;
    let Json(service) = service(state, Path(service_text)).await?;
    let port = if wanted.port == 0 { service.address.port() } else { wanted.port };
    let wanted = ServerKey { port, ..wanted };
    let found = service.servers.into_iter().find(|s| s.address == wanted);
    found.map(Json).ok_or_else(|| {
        ApiError::from(Error::no_such_server(&service.address, &wanted)).object(format!("{} {wanted}", service.address))
    })
}

/// `GET /v1/stats`
pub async fn stats(State(api): State<Api>) -> Answer<Stats> {
    Ok(Json(api.engine.stats().await?))
}

/// `GET /v1/flows`
pub async fn flows(State(api): State<Api>, uri: Uri) -> Answer<FlowPage> {
    let q: FlowQuery = query(&uri)?;
    Ok(Json(api.engine.flows(q).await?))
}

/// `GET /v1/neighbours`
pub async fn neighbours(State(api): State<Api>) -> Answer<NeighbourList> {
    Ok(Json(NeighbourList { neighbours: api.engine.neighbours().await? }))
}

/// `GET /v1/ports`
pub async fn ports(State(api): State<Api>) -> Answer<PortList> {
    Ok(Json(PortList { ports: api.engine.ports().await? }))
}

/// `GET /v1/timeouts`
pub async fn timeouts(State(api): State<Api>) -> Answer<Timeouts> {
    let (tcp_s, tcp_fin_s, udp_s) = api.engine.timeouts().await?;
    Ok(Json(Timeouts { tcp_s, tcp_fin_s, udp_s }))
}

/// `GET /v1/config`
pub async fn config(State(api): State<Api>, uri: Uri) -> Result<Response, ApiError> {
    let ConfigQuery { format } = query(&uri)?;
    let status = api.engine.status().await?;
    let services: Vec<NewService> = api.engine.services().await?.iter().map(NewService::from).collect();
    let config = RunningConfig { generation: status.generation, config_file: status.config_file, services };
    Ok(match format {
        ConfigFormat::Json => Json(config).into_response(),
        ConfigFormat::Toml => ([(header::CONTENT_TYPE, "application/toml")], services_as_toml(&config)).into_response(),
    })
}

/// `GET /v1/openapi.json`
pub async fn openapi() -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (StatusCode::OK, kind, crate::openapi::text()).into_response()
}

/// The services as the configuration file has them: `[[service]]` with `[[service.server]]`.
pub fn services_as_toml(config: &RunningConfig) -> String {
    let mut out = format!("# The services of generation {}.\n", config.generation);
    for service in &config.services {
        let Ok(Value::Object(mut fields)) = serde_json::to_value(service) else { continue };
        let servers = fields.remove("servers");
        out.push_str("\n[[service]]\n");
        lines(&mut out, &fields);
        for server in servers.as_ref().and_then(Value::as_array).into_iter().flatten() {
            out.push_str("\n[[service.server]]\n");
            server.as_object().into_iter().for_each(|s| lines(&mut out, s));
        }
    }
    out
}

fn lines(out: &mut String, fields: &Map<String, Value>) {
    for (name, value) in in_order(fields) {
        out.push_str(&format!("{name} = {}\n", toml_value(value)));
    }
}

/// What names a thing comes first, the rest in the order of the alphabet.
fn in_order(fields: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    let mut all: Vec<_> = fields.iter().collect();
    all.sort_by_key(|(name, _)| (*name != "address" && *name != "type", *name));
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
