//! The server under clients that are many, slow, large or mad.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::Daemon;
use control::client::{Client, ClientError};
use control::server::ServeLimits;

fn quick() -> ServeLimits {
    let ms = Duration::from_millis;
    ServeLimits { max_connections: 8, header_timeout: ms(300), max_age: ms(1500), grace: ms(700) }
}

fn read_all(mut s: &UnixStream) -> String {
    s.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut out = Vec::new();
    let _ = s.read_to_end(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn hundreds_of_requests_one_after_the_other_on_one_connection() {
    let d = Daemon::start("server-keepalive");
    let mut s = UnixStream::connect(&d.socket).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    for _ in 0..500 {
        s.write_all(b"GET /v1/version HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut got = Vec::new();
        while !got.ends_with(b"}}") {
            let mut buffer = [0; 1024];
            let n = s.read(&mut buffer).unwrap();
            assert_ne!(n, 0, "the connection stays open");
            got.extend_from_slice(&buffer[..n]);
        }
        assert!(got.starts_with(b"HTTP/1.1 200"));
    }
}

#[test]
fn many_clients_at_once_are_all_answered() {
    let d = Daemon::start("server-parallel");
    std::thread::scope(|scope| {
        for t in 0..32 {
            let d = &d;
            scope.spawn(move || {
                let client = Client::new(&d.socket, Duration::from_secs(20));
                for i in 0..20 {
                    let body = format!("{{\"address\": \"tcp:10.9.{t}.{i}:80\"}}");
                    client.request("POST", "/v1/services", Some(body.into())).unwrap();
                    client.get("/v1/status").unwrap();
                }
            });
        }
    });
    let (_, status) = d.call("GET", "/v1/status", "");
    assert_eq!((&status["services"], &status["generation"]), (&640.into(), &640.into()));
}

#[test]
fn one_connection_too_many_is_told_so_and_the_others_live_on() {
    let d = Daemon::with_limits("server-full", ServeLimits { header_timeout: Duration::from_secs(5), ..quick() });
    let held: Vec<UnixStream> = (0..8).map(|_| UnixStream::connect(&d.socket).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    let e = Client::new(&d.socket, Duration::from_secs(5)).get("/v1/version").unwrap_err();
    assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
    match e {
        ClientError::Refused { status: 503, problem, .. } => assert_eq!(problem.code, "too_many_connections"),
        other => panic!("{other}"),
    }
    for mut s in held {
        s.write_all(b"GET /v1/version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        assert!(read_all(&s).starts_with("HTTP/1.1 200"));
    }
    Client::new(&d.socket, Duration::from_secs(5)).get("/v1/version").unwrap();
}

#[test]
fn clients_that_drip_their_header_or_say_nothing_are_dropped() {
    let d = Daemon::with_limits("server-slow", quick());
    let silent = UnixStream::connect(&d.socket).unwrap();
    let start = Instant::now();
    let mut drip = UnixStream::connect(&d.socket).unwrap();
    let header = b"GET /v1/version HTTP/1.1\r\nhost: x\r\nx-a: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n";
    let mut sent = 0;
    for b in header {
        if drip.write_all(&[*b]).is_err() {
            break;
        }
        sent += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(sent < header.len(), "the drip was cut off");
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(read_all(&silent), "");
    Client::new(&d.socket, Duration::from_secs(5)).get("/v1/version").unwrap();
}

#[test]
fn clients_that_drip_their_body_hold_their_place_only_so_long() {
    let d = Daemon::with_limits("server-drip", quick());
    let mut streams: Vec<UnixStream> = (0..8)
        .map(|_| {
            let mut s = UnixStream::connect(&d.socket).unwrap();
            s.write_all(b"POST /v1/services HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{").unwrap();
            s
        })
        .collect();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        streams.iter_mut().for_each(|s| drop(s.write_all(b" ")));
        std::thread::sleep(Duration::from_millis(100));
    }
    Client::new(&d.socket, Duration::from_secs(5)).get("/v1/version").unwrap();
}

#[test]
fn a_client_that_does_not_read_its_answers_holds_nobody_up() {
    let d = Daemon::with_limits("server-deaf", quick());
    let mut deaf = UnixStream::connect(&d.socket).unwrap();
    deaf.set_nonblocking(true).unwrap();
    // Answers of 100 kB each fill the socket long before the last request.
    for _ in 0..1000 {
        if deaf.write(b"GET /v1/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n").is_err() {
            break;
        }
    }
    let client = Client::new(&d.socket, Duration::from_secs(5));
    for _ in 0..20 {
        let start = Instant::now();
        client.get("/v1/openapi.json").unwrap();
        assert!(start.elapsed() < Duration::from_secs(1));
    }
}

#[test]
fn garbage_ends_its_own_connection_only() {
    let d = Daemon::start("server-garbage");
    // A small generator, so that a failure can be repeated.
    let mut seed = 0x1234_5678_9abc_def1_u64;
    let mut byte = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as u8
    };
    let mut inputs: Vec<Vec<u8>> = (1..200).map(|n| (0..n * 7).map(|_| byte()).collect()).collect();
    inputs.extend(
        [
            "\r\n\r\n",
            "GET\r\n\r\n",
            "GET / HTTP/9.9\r\n\r\n",
            "GET /v1/version HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
            "POST /v1/services HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            "POST /v1/services HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n{}",
            "GET /v1/services/%ff%fe HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            "GET /v1/services/%zz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ]
        .map(|s| s.as_bytes().to_vec()),
    );
    inputs.push(format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000)).into_bytes());
    inputs.push(format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(5000)).into_bytes());
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    inputs.push(
        format!(
            "POST /v1/batch HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{nested}",
            nested.len()
        )
        .into_bytes(),
    );
    for input in &inputs {
        let answer = d.raw(input);
        let shown = String::from_utf8_lossy(&input[..input.len().min(60)]);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{shown:?}: {answer}");
    }
    Client::new(&d.socket, Duration::from_secs(5)).get("/v1/version").unwrap();
}

#[test]
fn a_request_under_way_is_finished_when_the_server_stops() {
    let d = Daemon::with_limits("server-stop", quick());
    let socket = d.socket.clone();
    let mut s = UnixStream::connect(&socket).unwrap();
    s.write_all(b"POST /v1/services HTTP/1.1\r\nhost: x\r\ncontent-length: 29\r\n\r\n{\"address\":").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let stopper = std::thread::spawn(move || drop(d));
    std::thread::sleep(Duration::from_millis(100));
    assert!(UnixStream::connect(&socket).is_err(), "no new connection");
    s.write_all(b"\"tcp:10.9.0.1:80\"}").unwrap();
    assert!(read_all(&s).starts_with("HTTP/1.1 201"));
    stopper.join().unwrap();
}
