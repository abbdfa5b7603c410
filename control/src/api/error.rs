//! How a request is refused: a status, and an object that programs and people can read.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{Error, ErrorCode};

/// The body of every answer that is no success.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: Problem,
}

/// One mistake.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// What kind of mistake. The names are stable: `no_such_service`, `no_such_server`,
    /// `service_exists`, `server_exists`, `invalid`, `bad_json`, `limit_reached`, `busy`, …
    pub code: String,
    /// One sentence that names the object and the value.
    pub message: String,
    /// The service or real server that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The field of the request that is wrong, such as `servers[0].weight`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What the field held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// In a batch: the number of the operation, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<usize>,
    /// For text that is no JSON: the line, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// For text that is no JSON: the column, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Where a request has several mistakes: all of them, the first one included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

impl Problem {
    /// A mistake without any detail.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), ..Self::default() }
    }
    /// The same with what to do next.
    #[must_use]
    pub fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }
    /// The same with the field and what it held.
    #[must_use]
    pub fn field(self, field: impl Into<String>, value: Option<Value>) -> Self {
        Self { field: Some(field.into()), value, ..self }
    }
}

/// A refusal: status and body.
#[derive(Clone, PartialEq, Debug)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// What went wrong. Boxed, since it travels in every handler's result.
    pub problem: Box<Problem>,
}

impl ApiError {
    /// A refusal with one mistake.
    pub fn new(status: StatusCode, problem: Problem) -> Self {
        Self { status, problem: Box::new(problem) }
    }

    /// A refusal because of all of `problems`, of which there is at least one.
    pub fn of_problems(mut problems: Vec<Problem>) -> Self {
        const SHOWN: usize = 100;
        let n = problems.len();
        if n == 1 {
            return Self::new(StatusCode::BAD_REQUEST, problems.remove(0));
        }
        problems.truncate(SHOWN);
        let first = problems.first().cloned().unwrap_or_default();
        let mut problem = Problem { problems, ..first };
        problem.message = format!("the request has {n} mistakes; the first: {}", problem.message);
        Self::new(StatusCode::BAD_REQUEST, problem)
    }

    /// The same, about this service or real server.
    #[must_use]
    pub fn object(mut self, object: impl ToString) -> Self {
        self.problem.object.get_or_insert_with(|| object.to_string());
        self
    }
}

/// The status that a code of the engine comes with.
fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::NoSuchService | ErrorCode::NoSuchServer => StatusCode::NOT_FOUND,
        ErrorCode::ServiceExists | ErrorCode::ServerExists | ErrorCode::LimitReached | ErrorCode::NeedsRestart => {
            StatusCode::CONFLICT
        }
        ErrorCode::Invalid => StatusCode::BAD_REQUEST,
        ErrorCode::Busy | ErrorCode::Timeout | ErrorCode::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::NotPersisted | ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A code as it stands in JSON.
pub fn code_name(code: ErrorCode) -> String {
    match serde_json::to_value(code) {
        Ok(Value::String(s)) => s,
        _ => "internal".into(),
    }
}

impl From<Error> for Problem {
    fn from(e: Error) -> Self {
        Self {
            code: code_name(e.code),
            message: e.message,
            field: e.field,
            operation: e.operation,
            remedy: e.remedy,
            ..Self::default()
        }
    }
}

impl From<Error> for ApiError {
    fn from(e: Error) -> Self {
        Self::new(status_of(e.code), e.into())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(ErrorBody { error: *self.problem })).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        response
    }
}
