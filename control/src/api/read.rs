//! Handlers that read.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Api;
use super::decode::{key, query};
use super::error::ApiError;
use super::toml::config_as_toml;
use super::types::{ConfigFormat, ConfigQuery, Health, NeighbourList, PortList, ServerList, ServiceList, Timeouts};
use crate::engine::{FlowPage, FlowQuery, ServerView, ServiceView, Status, Version};
use crate::model::{Error, ErrorCode, ServerKey, ServiceKey};

type Answer<T> = Result<Json<T>, ApiError>;

/// An answer that may be tens of megabytes: written to a plain vector, which grows by far more cheaply than
/// what [`Json`] writes to.
fn long(value: &impl Serialize) -> Result<Response, ApiError> {
    let text = serde_json::to_vec(value).map_err(|e| Error::new(ErrorCode::Internal, e.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

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
pub async fn services(State(api): State<Api>) -> Result<Response, ApiError> {
    long(&ServiceList { services: api.engine.services().await? })
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
pub async fn stats(State(api): State<Api>) -> Result<Response, ApiError> {
    long(&api.engine.stats().await?)
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
    let config = api.engine.config().await?;
    Ok(match format {
        ConfigFormat::Json => Json(config).into_response(),
        ConfigFormat::Toml => ([(header::CONTENT_TYPE, "application/toml")], config_as_toml(&config)).into_response(),
    })
}

/// `GET /v1/openapi.json`
pub async fn openapi() -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (StatusCode::OK, kind, crate::openapi::text()).into_response()
}
