//! The table of routes. The router is made from it, and so is the OpenAPI description:
//! what one has the other has too.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, MethodRouter, on};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::decode::ChangeQuery;
use super::types::{
    ConfigQuery, Health, NeighbourList, PortList, ServerList, ServiceList, Timeouts, TimeoutsPatch, ZeroQuery,
};
use super::{Api, change, read};
use crate::engine::{
    Accepted, Change, EndFlows, FlowPage, FlowQuery, RunningConfig, ServerView, ServiceView, Stats, Status, Version,
};
use crate::model::{NewServer, NewService, ServerPatch, ServicePatch};

/// Makes the schema of one type.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// One method of one path.
pub struct Route {
    /// `GET`, `POST`, …
    pub method: Method,
    /// The path with its parameters in braces.
    pub path: &'static str,
    /// What it does, in one sentence.
    pub summary: &'static str,
    /// Name of the operation for client generators.
    pub id: &'static str,
    /// The query string.
    pub query: Option<SchemaOf>,
    /// The request's body.
    pub body: Option<SchemaOf>,
    /// The status of success.
    pub status: u16,
    /// The answer's body; `None` is any JSON.
    pub answer: Option<SchemaOf>,
    /// Statuses of refusals, apart from those that every path has.
    pub errors: &'static [u16],
    handler: MethodRouter<Api>,
}

fn schema_of<T: JsonSchema>() -> SchemaOf {
    |generator| generator.subschema_for::<T>()
}

impl Route {
    fn new<H, T>(method: &str, path: &'static str, id: &'static str, summary: &'static str, handler: H) -> Self
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        let (method, filter) = match method {
            "POST" => (Method::POST, MethodFilter::POST),
            "PUT" => (Method::PUT, MethodFilter::PUT),
            "PATCH" => (Method::PATCH, MethodFilter::PATCH),
            "DELETE" => (Method::DELETE, MethodFilter::DELETE),
            _ => (Method::GET, MethodFilter::GET),
        };
        let handler = on(filter, handler);
        Self { method, path, summary, id, query: None, body: None, status: 200, answer: None, errors: &[], handler }
    }
    fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(schema_of::<T>());
        self.error_statuses()
    }
    fn body<T: JsonSchema>(mut self) -> Self {
        self.body = Some(schema_of::<T>());
        self.error_statuses()
    }
    fn answers<T: JsonSchema>(mut self) -> Self {
        self.answer = Some(schema_of::<T>());
        self.error_statuses()
    }
    fn creates<T: JsonSchema>(mut self) -> Self {
        self.status = 201;
        self.answers::<T>()
    }
    /// Which refusals there can be follows from what the route takes.
    fn error_statuses(mut self) -> Self {
        let named = self.path.contains('{');
        self.errors = match (&self.body, named, &self.query, self.method == Method::GET) {
            (Some(_), true, ..) => &[400, 404, 408, 409, 413, 415],
            (Some(_), false, ..) => &[400, 404, 408, 409, 413, 415],
            (None, true, _, true) => &[400, 404],
            (None, true, _, false) => &[400, 404, 409],
            (None, false, Some(_), true) => &[400],
            (None, false, Some(_), false) => &[400, 404],
            (None, false, None, true) => &[],
            (None, false, None, false) => &[400, 409],
        };
        self
    }
}

/// Every route of the API.
pub fn routes() -> Vec<Route> {
    let mut all = reading();
    all.extend(changing());
    all
}

fn reading() -> Vec<Route> {
    const SERVICE: &str = "/v1/services/{service}";
    vec![
        Route::new("GET", "/v1/healthz", "health", "Whether the daemon answers.", read::health).answers::<Health>(),
        Route::new("GET", "/v1/version", "version", "What the daemon is.", read::version).answers::<Version>(),
        Route::new("GET", "/v1/status", "status", "How the daemon is.", read::status).answers::<Status>(),
        Route::new(
            "GET",
            "/v1/services",
            "listServices",
            "All services with real servers and numbers.",
            read::services,
        )
        .answers::<ServiceList>(),
        Route::new("GET", SERVICE, "getService", "One service.", read::service).answers::<ServiceView>(),
        Route::new(
            "GET",
            "/v1/services/{service}/servers",
            "listServers",
            "The real servers of a service.",
            read::servers,
        )
        .answers::<ServerList>(),
        Route::new("GET", "/v1/services/{service}/servers/{server}", "getServer", "One real server.", read::server)
            .answers::<ServerView>(),
        Route::new("GET", "/v1/stats", "stats", "All statistics at one moment.", read::stats).answers::<Stats>(),
        Route::new("GET", "/v1/flows", "listFlows", "A page of flows, in no particular order.", read::flows)
            .query::<FlowQuery>()
            .answers::<FlowPage>(),
        Route::new(
            "GET",
            "/v1/neighbours",
            "listNeighbours",
            "Neighbours and their Ethernet addresses.",
            read::neighbours,
        )
        .answers::<NeighbourList>(),
        Route::new("GET", "/v1/ports", "listPorts", "Ports with their counters.", read::ports).answers::<PortList>(),
        Route::new("GET", "/v1/timeouts", "timeouts", "The time-outs of TCP and UDP flows.", read::timeouts)
            .answers::<Timeouts>(),
        Route::new(
            "GET",
            "/v1/config",
            "config",
            "The running configuration, to be given to a daemon again.",
            read::config,
        )
        .query::<ConfigQuery>()
        .answers::<RunningConfig>(),
        Route::new("GET", "/v1/openapi.json", "openapi", "This description.", read::openapi),
    ]
}

fn changing() -> Vec<Route> {
    const SERVICE: &str = "/v1/services/{service}";
    const SERVERS: &str = "/v1/services/{service}/servers";
    const SERVER: &str = "/v1/services/{service}/servers/{server}";
    let all = vec![
        Route::new("POST", "/v1/services", "addService", "Adds a service.", change::add_service)
            .body::<NewService>()
            .creates::<Accepted>(),
        Route::new("PUT", SERVICE, "putService", "Adds a service or replaces it as a whole.", change::put_service)
            .body::<NewService>(),
        Route::new("PATCH", SERVICE, "setService", "Changes a service.", change::set_service).body::<ServicePatch>(),
        Route::new("DELETE", SERVICE, "deleteService", "Removes a service with its servers.", change::delete_service),
        Route::new("POST", SERVERS, "addServer", "Adds a real server.", change::add_server)
            .body::<NewServer>()
            .creates::<Accepted>(),
        Route::new("PUT", SERVER, "putServer", "Adds a real server, or sets all of its fields.", change::put_server)
            .body::<NewServer>(),
        Route::new("PATCH", SERVER, "setServer", "Changes a real server.", change::set_server).body::<ServerPatch>(),
        Route::new("DELETE", SERVER, "deleteServer", "Removes a real server.", change::delete_server),
        Route::new("POST", "/v1/batch", "batch", "Makes a list of changes, all or none.", change::batch)
            .body::<Change>(),
        Route::new("PATCH", "/v1/timeouts", "setTimeouts", "Sets time-outs of flows.", change::set_timeouts)
            .body::<TimeoutsPatch>(),
    ];
    let mut all: Vec<Route> =
        all.into_iter()
            .map(|r| {
                if r.answer.is_none() {
                    r.query::<ChangeQuery>().answers::<Accepted>()
                } else {
                    r.query::<ChangeQuery>()
                }
            })
            .collect();
    all.push(
        Route::new("POST", "/v1/stats/zero", "zeroStats", "Starts statistics at zero again.", change::zero)
            .query::<ZeroQuery>()
            .answers::<Accepted>(),
    );
    all.push(
        Route::new("DELETE", "/v1/flows", "endFlows", "Ends flows before their time.", change::end_flows)
            .query::<EndFlows>()
            .answers::<Accepted>(),
    );
    all.push(
        Route::new("POST", "/v1/reload", "reload", "Reads the configuration file again.", change::reload)
            .answers::<Accepted>(),
    );
    all
}

/// A router of all routes.
pub fn router() -> Router<Api> {
    routes().into_iter().fold(Router::new(), |router, r| router.route(r.path, r.handler))
}
