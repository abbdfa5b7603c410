//! Connections: accepted up to a number, served within bounds of time.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

use super::Listener;

/// Bounds of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServeLimits {
    /// Connections at a time; one more is answered with 503 and closed.
    pub max_connections: usize,
    /// Time to send a request's header. Also how long a connection may be idle.
    pub header_timeout: Duration,
    /// A connection of this age is closed after the request that it carries.
    pub max_age: Duration,
    /// How long a request under way may take when the connection is too old. A client that
    /// does not read its answer is cut off then.
    pub grace: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            max_connections: 64,
            header_timeout: Duration::from_secs(10),
            max_age: Duration::from_secs(60),
            grace: Duration::from_secs(15),
        }
    }
}

/// The process at the other end of the socket, as the kernel tells it (`SO_PEERCRED`).
/// Handlers find it among the request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its process id, where known.
    pub pid: Option<i32>,
}

/// Largest header block of a request, bytes.
const HEADER_BYTES: usize = 16 * 1024;
/// Longest wait for requests under way when the server stops.
const STOP_TIME: Duration = Duration::from_secs(3);
/// Refusals under way at a time; beyond that an excess connection is just closed.
const REFUSALS: usize = 64;
/// How long an excess connection waits for a place before it is refused: clients that come
/// and go leave connections that are closed, but not yet seen to be.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long a refused client has to take its answer.
const REFUSAL_TIME: Duration = Duration::from_millis(500);

/// Answers on `listener` until `shutdown` completes; then requests under way are
/// finished, within three seconds, and the socket is removed at once.
///
/// Must run in a tokio runtime with its I/O and time drivers; one thread is enough.
pub async fn serve(
    listener: Listener,
    router: Router,
    limits: ServeLimits,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let socket = tokio::net::UnixListener::from_std(listener.socket.try_clone()?)?;
    let places = Arc::new(Semaphore::new(limits.max_connections));
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    let (stop, stopping) = watch::channel(());
    let mut tasks = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = tasks.join_next() => {}
            accepted = socket.accept() => match accepted {
                Ok((stream, _)) => {
                    if let Ok(place) = places.clone().try_acquire_owned() {
                        let (router, stopping) = (router.clone(), stopping.clone());
                        tasks.spawn(async move {
                            connection(stream, router, limits, stopping).await;
                            drop(place);
                        });
                    } else if let Ok(place) = refusals.clone().try_acquire_owned() {
                        let (router, stopping, places) = (router.clone(), stopping.clone(), places.clone());
                        tasks.spawn(async move {
                            match timeout(PATIENCE, places.acquire_owned()).await {
                                Ok(Ok(_place)) => {
                                    drop(place);
                                    connection(stream, router, limits, stopping).await;
                                }
                                _ => drop(timeout(REFUSAL_TIME, refuse(stream, limits.max_connections)).await),
                            }
                        });
                    }
                }
                Err(e) => {
                    // Out of descriptors, most likely: let some connections end.
                    tracing::warn!(error = %e, "cannot accept a connection to the API");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
    drop(listener);
    drop(socket);
    drop(stop);
    let _ = timeout(limits.grace.min(STOP_TIME), async { while tasks.join_next().await.is_some() {} }).await;
    Ok(())
}

/// Serves one connection from its first request to its end.
async fn connection(stream: UnixStream, router: Router, limits: ServeLimits, mut stopping: watch::Receiver<()>) {
    let peer = stream.peer_cred().ok().map(|c| Peer { uid: c.uid(), pid: c.pid() });
    let service = service_fn(move |mut request: Request<Incoming>| {
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let router = router.clone();
        async move { Ok::<_, Infallible>(answer(router, request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        // A client may close its sending side and wait for the answer, as `nc` does.
        .half_close(true)
        .max_buf_size(HEADER_BYTES);
    let mut conn = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        end = &mut conn => return log_end(end),
        () = sleep(limits.max_age) => {}
        _ = stopping.changed() => {}
    }
    conn.as_mut().graceful_shutdown();
    match timeout(limits.grace, conn).await {
        Ok(end) => log_end(end),
        Err(_) => tracing::debug!("a client of the API did not take its answer in time"),
    }
}

async fn answer(router: Router, request: Request<Incoming>) -> axum::response::Response {
    match router.oneshot(request.map(Body::new)).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn log_end(end: Result<(), hyper::Error>) {
    if let Err(e) = end {
        tracing::debug!(error = %e, "a connection to the API ended early");
    }
}

/// Says that there are too many connections. The request is read first, as far as it has
/// come, since closing on unread bytes would make the client miss the answer.
async fn refuse(mut stream: UnixStream, most: usize) -> std::io::Result<()> {
    let body = format!(
        "{{\"error\":{{\"code\":\"too_many_connections\",\"message\":\"{most} connections to the API are open, the limit\",\
         \"remedy\":\"try again in a moment, close idle connections, or raise `max_connections` in [api]\"}}}}\n"
    );
    let mut request = [0; 4096];
    let _ = timeout(REFUSAL_TIME / 2, stream.read(&mut request)).await;
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         retry-after: 1\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}
