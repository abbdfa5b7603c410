//! The API: paths under `/v1`, JSON in and out, every refusal an object with a remedy.
//!
//! [`router`] answers with an [`EngineHandle`] behind it; [`crate::server`] puts it on a
//! socket. `docs/api.md` tells the same to users.

mod change;
mod decode;
mod error;
mod operation;
mod read;
mod routes;
mod toml;
mod types;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;

pub use self::toml::config_as_toml;
pub use error::{ApiError, ErrorBody, Problem};
pub use routes::{Route, SchemaOf, routes};
pub use types::{Health, NeighbourList, PortList, ServerList, ServiceList, Timeouts, TimeoutsPatch};

use crate::engine::EngineHandle;

/// Bounds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiLimits {
    /// Largest body of a batch, bytes.
    pub batch_bytes: usize,
    /// Largest body of any other request, bytes.
    pub request_bytes: usize,
    /// Longest time that a request may take.
    pub time: Duration,
}

impl Default for ApiLimits {
    fn default() -> Self {
        Self { batch_bytes: 16 << 20, request_bytes: 1 << 20, time: Duration::from_secs(20) }
    }
}

impl ApiLimits {
    /// The limits with a largest body as configured (`max_request_bytes`).
    #[must_use]
    pub fn with_largest(largest: usize) -> Self {
        let d = Self::default();
        Self { batch_bytes: largest, request_bytes: d.request_bytes.min(largest), ..d }
    }
}

/// Batches under way at a time.
const BATCHES: usize = 2;

/// What handlers share.
#[derive(Clone)]
pub struct Api {
    engine: EngineHandle,
    limits: ApiLimits,
    batches: Arc<Semaphore>,
}

/// The API in front of an engine.
pub fn router(engine: EngineHandle, limits: ApiLimits) -> Router {
    let api = Api { engine, limits, batches: Arc::new(Semaphore::new(BATCHES)) };
    routes::router()
        .fallback(no_such_path)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn(move |request, next| within(limits.time, request, next)))
        .with_state(api)
}

async fn no_such_path(uri: Uri) -> ApiError {
    let p = Problem::new("no_such_path", format!("there is nothing at `{}`", uri.path()))
        .remedy("GET /v1/openapi.json describes every path; a key in a path may need percent-encoding");
    ApiError::new(StatusCode::NOT_FOUND, p)
}

async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    let p = Problem::new("method_not_allowed", format!("`{}` does not take {method}", uri.path()))
        .remedy("the header `allow` names the methods that it takes");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, p)
}

/// Bounds the time of a request. A change that was handed to the engine already is made
/// all the same; the refusal says so.
async fn within(time: Duration, request: Request, next: Next) -> Response {
    match tokio::time::timeout(time, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let p = Problem::new("timeout", format!("the daemon did not answer within {} s", time.as_secs()))
                .remedy("look at GET /v1/status and at the log; a change may have been made all the same");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, p).into_response()
        }
    }
}
