//! Limits: of bodies, headers, connections, time, and of the queue.

use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::support::{Answer, Running, picture, request};

/// A while in which nothing of a test happens by itself.
const LONG: Duration = Duration::from_secs(600);

/// Waits until as many pictures have a place in the queue.
fn wait_for(server: &Running, waiting: u64) {
    let start = Instant::now();
    while server.get("/v1/models").json()["models"][0]["waiting"] != waiting {
        assert!(start.elapsed() < Duration::from_secs(60), "{waiting} pictures never waited");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_full_queue_is_a_429_and_stopping_computes_what_waits() {
    let server = Running::start(|options| {
        options.batching.max_delay = LONG;
        options.batching.max_queue = 2;
        options.limits.time = LONG;
    });
    let rgb = picture("rgb.png");
    let mut first = server.connect();
    first.write_all(&request("POST", "/v1/models/small:classify", "", &rgb)).unwrap();
    wait_for(&server, 1);
    let two = json!([STANDARD.encode(&rgb), STANDARD.encode(&rgb)]).to_string();
    let list = |body: &str| {
        server.post("/v1/models/small:classify", "Content-Type: application/json\r\n", body.as_bytes())
    };
    let answer = list(&two);
    answer.refused(429, "the queue of 2 pictures is full");
    assert_eq!(answer.header("retry-after"), Some("1"));
    let three = json!([STANDARD.encode(&rgb), STANDARD.encode(&rgb), STANDARD.encode(&rgb)]).to_string();
    list(&three).refused(413, "the queue holds 2");
    server.stop();
    assert_eq!(Answer::read(&mut first).status, 200);
    server.join();
}

#[test]
fn a_client_that_went_away_leaves_the_queue() {
    let server = Running::start(|options| {
        options.batching.max_delay = LONG;
        options.batching.max_queue = 1;
        options.limits.time = LONG;
    });
    let mut client = server.connect();
    client.write_all(&request("POST", "/v1/models/small:classify", "", &picture("rgb.png"))).unwrap();
    wait_for(&server, 1);
    drop(client);
    wait_for(&server, 0);
}

#[test]
fn a_request_that_takes_too_long_is_a_408() {
    let server = Running::start(|options| {
        options.batching.max_delay = LONG;
        options.limits.time = Duration::from_millis(300);
    });
    server.classify(&picture("rgb.png")).refused(408, "longer than the limit of 0.3 s");
    // So is one whose body never comes.
    let head = b"POST /v1/models/small:classify HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 9\r\n\r\nabc";
    server.raw(head).refused(408, "longer than");
}

#[test]
fn bodies_have_a_limit_whether_or_not_they_say_their_length() {
    let server = Running::start(|options| options.limits.body_bytes = 10_000);
    server.classify(&vec![0; 10_001]).refused(413, "more than the limit of 10000 bytes");
    server.classify(&vec![0; 10_000]).refused(415, "not a picture");
    let head = "POST /v1/models/small:classify HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    let chunked =
        format!("{head}Transfer-Encoding: chunked\r\n\r\n2711\r\n{}\r\n0\r\n\r\n", "x".repeat(10_001));
    server.raw(chunked.as_bytes()).refused(413, "more than the limit");
    let huge = format!("{head}Content-Length: 18446744073709551615\r\n\r\n");
    assert_eq!(server.raw(huge.as_bytes()).status / 100, 4);
    let damaged = format!("{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n");
    server.raw(damaged.as_bytes()).refused(400, "the body cannot be read");
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn headers_have_a_limit() {
    let server = Running::start(|_| ());
    let long = format!("X-Long: {}\r\n", "x".repeat(20_000));
    assert_eq!(server.raw(&request("GET", "/healthz", &long, b"")).status, 431);
    let many: String = (0..200).map(|i| format!("X-{i}: 1\r\n")).collect();
    assert_eq!(server.raw(&request("GET", "/healthz", &many, b"")).status, 431);
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn connections_have_a_limit() {
    let server = Running::start(|options| options.limits.connections = 2);
    let held = [server.connect(), server.connect()];
    let answer = server.get("/healthz");
    answer.refused(429, "2 connections are open");
    assert_eq!(answer.header("retry-after"), Some("1"));
    drop(held);
    let start = Instant::now();
    while server.get("/healthz").status != 200 {
        assert!(start.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(5));
    }
}
