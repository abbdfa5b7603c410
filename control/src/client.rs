//! A blocking client of the API on its Unix socket: one connection, one request, one answer.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use nix::unistd::{Gid, Group, Uid, User};
use serde::de::DeserializeOwned;

use crate::api::{ErrorBody, Problem};

/// Where the daemon's socket is if nothing else is said.
pub const DEFAULT_SOCKET: &str = "/run/pollux/pollux.sock";
/// The variable that names another socket.
pub const SOCKET_VARIABLE: &str = "POLLUX_SOCKET";

/// Largest answer that is read, bytes: far more than any listing.
const MAX_ANSWER: usize = 1 << 30;

/// Why there is no answer, or one that refuses.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no socket at the path.
    #[error("polluxd does not run here, or listens elsewhere: there is no socket `{}`", path.display())]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// The socket is there, but nobody listens.
    #[error("polluxd does not run: nobody listens on `{}`", path.display())]
    NobodyListens {
        /// The path.
        path: PathBuf,
    },
    /// The file system's permissions forbid it.
    #[error("no permission to use `{}`{}", path.display(), whose.as_deref().unwrap_or_default())]
    Forbidden {
        /// The path.
        path: PathBuf,
        /// Whose the socket is, in words.
        whose: Option<String>,
        /// Its group, where joining that would help.
        group: Option<String>,
    },
    /// The socket could not be used for another reason.
    #[error("cannot connect to `{}`: {source}", path.display())]
    Connect {
        /// The path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The daemon did not answer in time.
    #[error("polluxd did not answer on `{}` within {} s", path.display(), after.as_secs_f32())]
    Timeout {
        /// The path.
        path: PathBuf,
        /// The time that was waited.
        after: Duration,
    },
    /// What came back is not what the API sends.
    #[error("the answer on `{}` is not that of polluxd: {why}", path.display())]
    Garbled {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The daemon refused.
    #[error("{}", problem.message)]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Why, and what to do.
        problem: Box<Problem>,
        /// The answer's body as it came.
        body: Bytes,
    },
}

impl ClientError {
    /// What to do next.
    pub fn remedy(&self) -> Option<String> {
        let elsewhere = format!("name another socket with --socket PATH or {SOCKET_VARIABLE}");
        match self {
            Self::NoSocket { .. } => Some(format!("start polluxd (systemctl start polluxd), or {elsewhere}")),
            Self::NobodyListens { .. } => Some(format!("start polluxd, or {elsewhere}; its log tells why it ended")),
            Self::Forbidden { group: Some(g), .. } => {
                Some(format!("run this as root, or join the group: usermod -aG {g} USER, then log in again"))
            }
            Self::Forbidden { .. } => Some("run this as root, or set `group` in [api] and join that group".into()),
            Self::Connect { .. } => Some(elsewhere),
            Self::Timeout { .. } => Some("look at polluxd's log; wait longer with --timeout SECONDS".into()),
            Self::Garbled { .. } => Some(format!("{elsewhere}: another program listens on this one")),
            Self::Refused { problem, .. } => problem.remedy.clone(),
        }
    }
    /// A stable name, that of the API where the daemon refused.
    pub fn code(&self) -> &str {
        match self {
            Self::NoSocket { .. } | Self::NobodyListens { .. } => "not_running",
            Self::Forbidden { .. } => "forbidden",
            Self::Connect { .. } => "unreachable",
            Self::Timeout { .. } => "timeout",
            Self::Garbled { .. } => "garbled",
            Self::Refused { problem, .. } => &problem.code,
        }
    }
}

/// An answer of success.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body as it came.
    pub body: Bytes,
    path: PathBuf,
}

impl Answer {
    /// The body as a value.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body)
            .map_err(|e| ClientError::Garbled { path: self.path.clone(), why: e.to_string() })
    }
}

/// Asks the daemon behind one socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

impl Client {
    /// A client of the daemon at `socket` that waits at most `timeout` for each answer.
    pub fn new(socket: impl Into<PathBuf>, timeout: Duration) -> Self {
        Self { socket: socket.into(), timeout }
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Reads what is at `path`, the query string included.
    pub fn get(&self, path: &str) -> Result<Answer, ClientError> {
        self.request("GET", path, None)
    }

    /// Makes one request; `body` is JSON. Blocks until the answer is there.
    pub fn request(&self, method: &str, path: &str, body: Option<Vec<u8>>) -> Result<Answer, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| ClientError::Connect { path: self.socket.clone(), source })?;
        let all = async {
            match tokio::time::timeout(self.timeout, self.exchange(method, path, body)).await {
                Ok(result) => result,
                Err(_) => Err(ClientError::Timeout { path: self.socket.clone(), after: self.timeout }),
            }
        };
        runtime.block_on(all)
    }

    async fn exchange(&self, method: &str, path: &str, body: Option<Vec<u8>>) -> Result<Answer, ClientError> {
        let stream = tokio::net::UnixStream::connect(&self.socket).await.map_err(|e| self.not_connected(e))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.garbled(&e))?;
        // Ends by itself when the answer is there or the connection breaks.
        let connection = tokio::spawn(connection);
        let request = request(method, path, body).map_err(|e| self.garbled(&e))?;
        let response = sender.send_request(request).await.map_err(|e| self.garbled(&e))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|e| self.garbled(e.as_ref()))?.to_bytes();
        connection.abort();
        self.judge(status, body)
    }

    fn judge(&self, status: StatusCode, body: Bytes) -> Result<Answer, ClientError> {
        if status.is_success() {
            return Ok(Answer { status: status.as_u16(), body, path: self.socket.clone() });
        }
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(ErrorBody { error }) => {
                Err(ClientError::Refused { status: status.as_u16(), problem: Box::new(error), body })
            }
            Err(_) => Err(ClientError::Garbled {
                path: self.socket.clone(),
                why: format!("status {status} without a reason"),
            }),
        }
    }

    fn garbled(&self, e: &(dyn std::error::Error + 'static)) -> ClientError {
        let mut why = e.to_string();
        if let Some(source) = e.source() {
            why = format!("{why}: {source}");
        }
        ClientError::Garbled { path: self.socket.clone(), why }
    }

    fn not_connected(&self, source: io::Error) -> ClientError {
        let path = self.socket.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ClientError::NoSocket { path },
            io::ErrorKind::ConnectionRefused => ClientError::NobodyListens { path },
            io::ErrorKind::PermissionDenied => {
                let (whose, group) = owner(&path).unzip();
                ClientError::Forbidden { path, whose, group: group.flatten() }
            }
            _ => ClientError::Connect { path, source },
        }
    }
}

fn request(method: &str, path: &str, body: Option<Vec<u8>>) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let method = Method::from_bytes(method.as_bytes())?;
    let builder = Request::builder().method(method).uri(path).header(header::HOST, "pollux");
    // One request a connection: the server gives the place back as soon as it has answered.
    let builder = builder.header(header::CONNECTION, "close");
    match body {
        Some(b) => builder.header(header::CONTENT_TYPE, "application/json").body(Full::new(b.into())),
        None => builder.body(Full::default()),
    }
}

/// Whose a socket is, in words, and its group where that may write.
fn owner(path: &Path) -> Option<(String, Option<String>)> {
    let m = std::fs::metadata(path).ok()?;
    let user = User::from_uid(Uid::from_raw(m.uid())).ok().flatten().map_or(m.uid().to_string(), |u| u.name);
    let group = Group::from_gid(Gid::from_raw(m.gid())).ok().flatten().map_or(m.gid().to_string(), |g| g.name);
    let mode = m.mode() & 0o777;
    let words = format!(": it belongs to user {user}, group {group}, mode {mode:04o}");
    // Membership in root's group is nothing to advise.
    Some((words, (mode & 0o020 != 0 && m.gid() != 0).then_some(group)))
}

/// `text` with everything escaped that may not stand in one part of a path or query.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b':' => out.push(b as char),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(path: &Path) -> ClientError {
        Client::new(path, Duration::from_millis(200)).get("/v1/version").unwrap_err()
    }

    #[test]
    fn a_missing_and_a_dead_socket_are_told_apart() {
        let dir = std::env::temp_dir().join(format!("pollux-client-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let e = error_of(&dir.join("none.sock"));
        assert!(matches!(e, ClientError::NoSocket { .. }) && e.remedy().unwrap().contains("POLLUX_SOCKET"), "{e}");

        let path = dir.join("dead.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(matches!(error_of(&path), ClientError::NobodyListens { .. }));

        let path = dir.join("silent.sock");
        let _silent = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(error_of(&path), ClientError::Timeout { .. }));

        let path = dir.join("other.sock");
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let talker = std::thread::spawn(move || {
            use std::io::Write;
            other.accept().unwrap().0.write_all(b"220 mail.example ESMTP\r\n").unwrap();
        });
        let e = error_of(&path);
        assert!(matches!(e, ClientError::Garbled { .. }), "{e}");
        talker.join().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn keys_are_escaped() {
        assert_eq!(escape("tcp:[2001:db8::1]:80"), "tcp:%5B2001:db8::1%5D:80");
        assert_eq!(escape("a/b?c&d=é"), "a%2Fb%3Fc%26d%3D%C3%A9");
    }
}
