//! The listener over real sockets: what every answer carries, what clients may take, and how they are
//! treated when they take too much.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::{any, get, post};
use clawhub_api_http::{Limits, Partial, body_stream, read_whole};
use futures::StreamExt;
use http::StatusCode;
use support::{PATIENCE, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Answers what became of the body.
async fn measure(body: Body) -> String {
    match read_whole(body, 1 << 30).await {
        Ok(whole) => format!("{} bytes", whole.unwrap().len()),
        Err(error) => format!("{error:?}"),
    }
}

fn router() -> Router {
    Router::new()
        .route("/v2/", get(|| async { "{}" }))
        .route("/measure", post(measure))
        .route("/refuse", post(|| async { (StatusCode::FORBIDDEN, "no") }))
}

#[tokio::test]
async fn every_answer_says_what_it_is() {
    let server = Server::start(router(), Limits::default()).await;
    let mut client = server.connect().await;
    client.send("GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let answer = client.answer().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    for header in
        ["docker-distribution-api-version: registry/2.0", "x-content-type-options: nosniff", "x-request-id: "]
    {
        assert!(answer.contains(header), "{header} in {answer}");
    }
    client.send("GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let answer = client.answer().await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(answer.contains("content-type: application/json") && answer.contains(r#"{"errors":[{"code":"#));
    assert!(!answer.contains("docker-distribution-api-version"), "{answer}");
    client.send("GET /measure HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let answer = client.answer().await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains(r#""code":"UNSUPPORTED""#), "{answer}");
}

#[tokio::test]
async fn bodies_arrive_by_length_and_in_chunks() {
    let server = Server::start(router(), Limits::default()).await;
    let mut client = server.connect().await;
    client.send("POST /measure HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello").await;
    assert!(client.answer().await.ends_with("5 bytes"));
    client.send("POST /measure HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await;
    client.send("3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n").await;
    assert!(client.answer().await.ends_with("7 bytes"));
}

#[tokio::test]
async fn headers_have_a_limit() {
    let server = Server::start(router(), Limits::default()).await;
    for (size, status) in [(60_000, "200"), (70_000, "431"), (300_000, "431")] {
        let mut client = server.connect().await;
        client.send(&format!("GET /v2/ HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(size))).await;
        let answer = client.answer().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{size}: {answer}");
    }
}

#[tokio::test]
async fn a_client_that_is_refused_early_reads_why() {
    let server = Server::start(router(), Limits::default()).await;
    let half = vec![b'x'; 400_000];
    // Many times: whether a reset overtakes the answer is a race.
    for _ in 0..20 {
        let mut client = server.connect().await;
        client.send("POST /refuse HTTP/1.1\r\nhost: x\r\ncontent-length: 800000\r\n\r\n").await;
        client.0.write_all(&half).await.unwrap();
        // The answer is here, and the client has not looked at it: it goes on sending.
        timeout(PATIENCE, client.0.peek(&mut [0])).await.unwrap().unwrap();
        for piece in half.chunks(50_000) {
            tokio::task::yield_now().await;
            client.0.write_all(piece).await.expect("the server reads on");
        }
        client.0.shutdown().await.unwrap();
        let (answer, clean) = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && clean, "{answer}, clean: {clean}");
    }
}

#[tokio::test]
async fn a_client_that_asks_first_need_not_send() {
    let server = Server::start(router(), Limits::default()).await;
    let mut client = server.connect().await;
    client
        .send("POST /refuse HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let mut client = server.connect().await;
    client
        .send("POST /measure HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n")
        .await;
    assert!(client.answer().await.starts_with("HTTP/1.1 100 "));
    client.send("123456789").await;
    assert!(client.answer().await.ends_with("9 bytes"));
}

#[tokio::test]
async fn a_body_may_stand_still_only_so_long() {
    let limits = Limits { idle: Duration::from_millis(300), ..Limits::default() };
    let server = Server::start(router(), limits.clone()).await;
    let mut client = server.connect().await;
    client.send("POST /measure HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc").await;
    assert!(client.answer().await.ends_with("Idle"));
}

#[tokio::test]
async fn a_slow_handler_is_not_an_idle_client() {
    let limits = Limits { idle: Duration::from_millis(200), ..Limits::default() };
    let slow = |body: Body| async {
        let mut body = body_stream(body);
        let first = body.next().await.unwrap().unwrap();
        // Longer than the idle limit, with the rest of the body in flight.
        tokio::time::sleep(Duration::from_millis(600)).await;
        let rest = body.next().await;
        format!("{}, {rest:?}", first.len())
    };
    let server = Server::start(Router::new().route("/slow", post(slow)), limits).await;
    let mut client = server.connect().await;
    client.send("POST /slow HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
    client.send("2\r\nde\r\n0\r\n\r\n").await;
    let answer = client.answer().await;
    assert!(answer.ends_with("3, Some(Ok(b\"de\"))"), "{answer}");
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let quiet = Duration::from_millis(300);
    let limits = Limits { quiet, ..Limits::default() };
    let server = Server::start(router(), limits).await;
    let preface = "PRI * HTTP/2.0\r\n";
    for opening in ["", "GET /v2/ HT", preface, "GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let started = Instant::now();
        let mut client = server.connect().await;
        client.send(opening).await;
        let (_, _) = client.rest().await;
        assert!(started.elapsed() >= quiet, "{opening:?}");
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let server = Server::start(router(), Limits { connections: 1, ..Limits::default() }).await;
    let request = "GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut first = server.connect().await;
    first.send(request).await;
    first.answer().await;
    let mut second = server.connect().await;
    second.send(request).await;
    let early = timeout(Duration::from_millis(300), second.0.read_u8()).await;
    assert!(early.is_err(), "the second connection was served beside the first");
    drop(first);
    assert!(second.0.read_u8().await.is_ok());
}

#[tokio::test]
async fn a_change_is_finished_although_its_client_left() {
    let (begun, mut has_begun) = mpsc::channel(1);
    let (done, mut is_done) = mpsc::channel(1);
    let change = move || {
        let (begun, done) = (begun.clone(), done.clone());
        async move {
            begun.send(()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
            done.send(()).await.unwrap();
        }
    };
    let server = Server::start(Router::new().route("/change", any(change)), Limits::default()).await;
    let mut client = server.connect().await;
    client.send("DELETE /change HTTP/1.1\r\nhost: x\r\n\r\n").await;
    timeout(PATIENCE, has_begun.recv()).await.unwrap().unwrap();
    drop(client);
    timeout(PATIENCE, is_done.recv()).await.expect("the change to be finished").unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn the_access_log_has_a_line_per_request() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let partial = || async {
        let mut response = Response::new(Body::from("12345"));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        response.extensions_mut().insert(Partial::Multipart);
        response
    };
    let server = Server::start(Router::new().route("/part", get(partial)), Limits::default()).await;
    let mut client = server.connect().await;
    client.send("GET /part?secret=1 HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let answer = client.answer().await;
    let id = answer.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap().to_owned();
    client.send("HEAD /part HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    client.rest().await;
    let lines = log.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for part in
        ["method=GET", "path=/part ", "status=206", "bytes=5", "partial=\"multipart\"", "complete=true", &id]
    {
        assert!(lines[0].contains(part), "{part} in {}", lines[0]);
    }
    assert!(lines[1].contains("method=HEAD") && lines[1].contains("bytes=0"), "{}", lines[1]);
}

#[derive(Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl Log {
    fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines().filter(|line| line.contains("clawhub::access")).map(str::to_owned).collect()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Log {
    type Writer = Log;
    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}
