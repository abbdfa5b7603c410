//! From bytes to typed values: the body, the query string, the keys in a path.
//!
//! A JSON text is decoded with all its mistakes told at once: a field that does not fit is
//! noted, taken out, and the rest is tried again.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Query;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

use super::error::{ApiError, Problem};

/// How long a client may take to send a body.
const BODY_TIME: Duration = Duration::from_secs(10);

/// Reads a JSON body of at most `limit` bytes.
pub async fn json_body(headers: &HeaderMap, body: Body, limit: usize) -> Result<Value, ApiError> {
    check_content_type(headers)?;
    let bytes = bytes(headers, body, limit).await?;
    if bytes.trim_ascii().is_empty() {
        let p = Problem::new("bad_json", "the request has no body").remedy("send a JSON object (curl: `--json '{…}'`)");
        return Err(ApiError::new(StatusCode::BAD_REQUEST, p));
    }
    serde_json::from_slice(&bytes).map_err(|e| {
        let mut p = Problem::new("bad_json", format!("the body is no JSON: {e}"));
        (p.line, p.column) = (Some(e.line()), Some(e.column()));
        ApiError::new(StatusCode::BAD_REQUEST, p.remedy("correct the text at that place"))
    })
}

async fn bytes(headers: &HeaderMap, body: Body, limit: usize) -> Result<axum::body::Bytes, ApiError> {
    let too_large = || {
        let p = Problem::new("too_large", format!("the body is larger than {limit} bytes"))
            .remedy("send less at once; POST /v1/batch takes the largest bodies");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, p)
    };
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|n| n > limit as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIME, to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(e)) if is_length_limit(&e) => Err(too_large()),
        Ok(Err(e)) => {
            let p = Problem::new("bad_body", format!("the body could not be read: {e}"));
            Err(ApiError::new(StatusCode::BAD_REQUEST, p.remedy("send the whole body")))
        }
        Err(_) => {
            let p = Problem::new("request_timeout", format!("the body did not come within {} s", BODY_TIME.as_secs()));
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, p.remedy("send the whole body at once")))
        }
    }
}

fn is_length_limit(e: &axum::Error) -> bool {
    let mut source = std::error::Error::source(e);
    while let Some(e) = source {
        if e.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        source = e.source();
    }
    false
}

/// JSON under its own name, a merge patch (RFC 7396), no name at all, and the name that
/// `curl -d` sends when it is told none.
fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
    let kind = text.split(';').next().unwrap_or_default().trim();
    let known = ["application/json", "application/merge-patch+json", "application/x-www-form-urlencoded"];
    if known.contains(&kind) {
        return Ok(());
    }
    let p = Problem::new("unsupported_media_type", format!("the body is of type `{kind}`"))
        .remedy("send JSON with `content-type: application/json`");
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, p))
}

/// What a query string asks for.
pub fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    Query::<T>::try_from_uri(uri).map(|Query(q)| q).map_err(|e| {
        let why = std::error::Error::source(&e).map_or_else(|| e.body_text(), ToString::to_string);
        let p = Problem::new("bad_query", format!("the query string `{}` is wrong: {why}", uri.query().unwrap_or("")));
        ApiError::new(StatusCode::BAD_REQUEST, p.remedy("GET /v1/openapi.json names the parameters of every path"))
    })
}

/// A key that stands in a path.
pub fn key<T: FromStr<Err = crate::model::ParseError>>(what: &str, text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|e: crate::model::ParseError| {
        ApiError::new(StatusCode::BAD_REQUEST, Problem::new("invalid", e.0).field(what, Some(text.into())))
    })
}

/// Decodes `value`, whose place in the request is `at` (empty at the top). Mistakes go to
/// `problems`; what is left without them is decoded all the same, so that its other
/// mistakes can be found too.
pub fn decode<T: DeserializeOwned>(mut value: Value, at: &str, problems: &mut Vec<Problem>) -> Option<T> {
    /// More mistakes than this are not told.
    const MOST: usize = 100;
    if value.is_array() {
        // Serde would take it as the fields in their order, which is no part of the API.
        let name = if at.is_empty() { "the body" } else { at };
        problems.push(Problem::new("invalid", format!("{name}: a list where an object belongs")));
        return None;
    }
    let mut removed = Removed::default();
    for _ in 0..MOST {
        let mut track = serde_path_to_error::Track::new();
        let e = match T::deserialize(serde_path_to_error::Deserializer::new(&value, &mut track)) {
            Ok(v) => return Some(v),
            Err(e) => e.to_string(),
        };
        let path: Vec<Segment> = track.path().iter().cloned().collect();
        let found = removed.take(&mut value, &path);
        let mut p = Problem::new("invalid", e);
        let name = removed.last_name(&path, at);
        if !name.is_empty() {
            p.message = format!("{name}: {}", p.message);
            p = p.field(name, found.clone());
        }
        problems.push(p);
        found?;
    }
    None
}

/// What was taken out of a value: indices of arrays shift with every element removed.
#[derive(Default)]
struct Removed {
    /// By the array's path as it was first: the original indices taken out.
    arrays: HashMap<String, Vec<usize>>,
    /// Original path of the value taken out last.
    last: String,
}

impl Removed {
    /// Takes out what `path` leads to, or the deepest part of it that exists.
    fn take(&mut self, value: &mut Value, path: &[Segment]) -> Option<Value> {
        self.last.clear();
        let mut value = value;
        for (i, segment) in path.iter().enumerate() {
            let last = i + 1 == path.len() || !leads_on(value, segment, &path[i + 1]);
            match (segment, value) {
                (Segment::Map { key }, Value::Object(map)) => {
                    push_key(&mut self.last, key);
                    if last {
                        return map.remove(key);
                    }
                    value = map.get_mut(key)?;
                }
                (Segment::Seq { index }, Value::Array(array)) => {
                    let gone = self.arrays.entry(self.last.clone()).or_default();
                    let original = gone.iter().fold(*index, |i, g| if *g <= i { i + 1 } else { i });
                    self.last.push_str(&format!("[{original}]"));
                    if last {
                        gone.push(original);
                        gone.sort_unstable();
                        return (*index < array.len()).then(|| array.remove(*index));
                    }
                    value = array.get_mut(*index)?;
                }
                _ => return None,
            }
        }
        None
    }

    fn last_name(&self, path: &[Segment], at: &str) -> String {
        // A field that is missing at the top has no path; its name is in the message.
        match (at.is_empty(), path.is_empty() || self.last.is_empty()) {
            (_, true) => at.into(),
            (true, false) => self.last.clone(),
            (false, false) if self.last.starts_with('[') => format!("{at}{}", self.last),
            (false, false) => format!("{at}.{}", self.last),
        }
    }
}

/// Whether `next` names a part of what `segment` leads to. An enumeration's variant does not.
fn leads_on(value: &Value, segment: &Segment, next: &Segment) -> bool {
    let inner = match segment {
        Segment::Map { key } => value.get(key),
        Segment::Seq { index } => value.get(index),
        _ => None,
    };
    match (inner, next) {
        (Some(Value::Object(map)), Segment::Map { key }) => map.contains_key(key),
        (Some(Value::Array(array)), Segment::Seq { index }) => *index < array.len(),
        _ => false,
    }
}

fn push_key(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
}

/// What stands at `path` (`servers[0].weight`) in a value, to be told in an error.
pub fn value_at<'a>(mut value: &'a Value, path: &str) -> Option<&'a Value> {
    for part in path.split('.') {
        let (name, indices) = part.split_once('[').map_or((part, ""), |(n, i)| (n, i));
        if !name.is_empty() {
            value = value.get(name)?;
        }
        for index in indices.split(['[', ']']).filter(|i| !i.is_empty()) {
            value = value.get(index.parse::<usize>().ok()?)?;
        }
    }
    Some(value)
}

/// Options of requests that change something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeQuery {
    /// Answer only when every worker works with the change.
    pub wait: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NewService, ServicePatch};
    use serde_json::json;

    fn problems<T: DeserializeOwned>(value: Value, at: &str) -> Vec<(String, String, Value)> {
        let mut out = Vec::new();
        let _ = decode::<T>(value, at, &mut out);
        out.into_iter().map(|p| (p.field.unwrap_or_default(), p.message, p.value.unwrap_or_default())).collect()
    }

    #[test]
    fn every_wrong_field_is_told_with_its_place() {
        let v = json!({
            "address": "tcp:10.9.0.1:80", "sheduler": "rr", "scheduler": "best", "one_packet": "yes",
            "servers": [
                {"address": "10.2.0.11:80", "weight": 5_000_000_000_u64},
                {"address": "10.2.0.300:80"},
                {"weight": 1},
                {"address": "10.2.0.14:80", "weight": -1},
            ],
        });
        let found = problems::<NewService>(v, "");
        let fields: Vec<&str> = found.iter().map(|(f, ..)| f.as_str()).collect();
        let mut sorted = fields.clone();
        sorted.sort_unstable();
        assert_eq!(
            sorted,
            [
                "one_packet",
                "scheduler",
                "servers[0].weight",
                "servers[1].address",
                "servers[1]",
                "servers[2]",
                "servers[3].weight",
                "sheduler"
            ]
            .iter()
            .copied()
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>(),
            "{found:#?}"
        );
        let weight = found.iter().find(|(f, ..)| f == "servers[0].weight").unwrap();
        assert_eq!(weight.2, 5_000_000_000_u64);
        assert!(weight.1.contains("5000000000"), "{}", weight.1);
    }

    #[test]
    fn a_value_of_another_kind_ends_the_search() {
        assert_eq!(problems::<NewService>(json!([1, 2]), "").len(), 1);
        assert_eq!(problems::<NewService>(json!("x"), "operations[1].service")[0].0, "operations[1].service");
        let missing = problems::<NewService>(json!({"scheduler": "rr"}), "");
        assert!(missing[0].1.contains("missing field `address`"), "{missing:?}");
        assert!(problems::<ServicePatch>(json!({"persistence": null}), "").is_empty());
    }

    #[test]
    fn values_are_found_by_path() {
        let v = json!({"a": [{"b": 1}, {"b": [2, 3]}]});
        assert_eq!(value_at(&v, "a[1].b[1]"), Some(&json!(3)));
        assert_eq!(value_at(&v, "a[2].b"), None);
        assert_eq!(value_at(&v, ""), Some(&v));
    }
}
