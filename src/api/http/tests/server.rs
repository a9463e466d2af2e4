//! The listener over real sockets: what every answer carries, what clients may take, and how they are
//! treated when they take too much.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::{any, get, post};
use clawhub_api_http::{BodyMemory, Limits, Partial, body_stream, read_whole};
use futures::StreamExt;
use http::StatusCode;
use support::{PATIENCE, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Answers what became of the body.
async fn measure(body: Body) -> String {
    match read_whole(body, 1 << 20, &BodyMemory::default()).await {
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
async fn a_body_may_be_only_so_slow() {
    let limits = Limits { idle: Duration::from_millis(400), min_rate: 1000, ..Limits::default() };
    let server = Server::start(router(), limits).await;
    let mut thin = server.connect().await;
    thin.send("POST /measure HTTP/1.1\r\nhost: x\r\ncontent-length: 10000\r\n\r\n").await;
    for _ in 0..20 {
        thin.send(&"x".repeat(500)).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(thin.answer().await.ends_with("10000 bytes"), "ten times as fast as it must be");

    let mut trickle = server.connect().await;
    trickle.send("POST /measure HTTP/1.1\r\nhost: x\r\ncontent-length: 10000\r\n\r\n").await;
    let mut sent = 0;
    // Never silent for as long as a period.
    while timeout(Duration::from_millis(50), trickle.0.readable()).await.is_err() {
        trickle.send("x").await;
        sent += 1;
        assert!(sent < 100, "a byte now and then keeps a connection");
    }
    assert!(trickle.answer().await.ends_with("Idle"));
}

/// A client of small buffers that reads as fast as it is told to.
async fn reader(addr: SocketAddr, chunk: usize, pause: Duration) -> usize {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let mut stream = socket.connect(addr).await.unwrap();
    stream.write_all(b"GET /long HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let (mut got, mut piece) = (0, vec![0; chunk]);
    loop {
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return got,
            Ok(n) => got += n,
        }
        tokio::time::sleep(pause).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_may_be_taken_only_so_slowly() {
    const LONG: usize = 8 << 20;
    let long = || async { "x".repeat(LONG) };
    let limits = Limits { idle: Duration::from_secs(1), min_rate: 100_000, ..Limits::default() };
    let server = Server::start(Router::new().route("/long", get(long)), limits).await;
    // The system takes megabytes at once and then nothing for seconds: what it delivers meanwhile is what counts.
    let thin = reader(server.addr, 50_000, Duration::from_millis(50));
    let trickle = reader(server.addr, 1000, Duration::from_millis(100));
    let (thin, trickle) = tokio::join!(thin, timeout(PATIENCE, trickle));
    assert!(thin >= LONG, "{thin}");
    assert!(trickle.expect("it is given up") < LONG);
}

const REQUEST: &str = "GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test]
async fn at_the_limit_the_quietest_connection_gives_way() {
    let server = Server::start(router(), Limits { connections: 3, ..Limits::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = server.connect().await;
        client.send(REQUEST).await;
        client.answer().await;
        clients.push(client);
    }
    // The first is not the quietest any more.
    clients[0].send(REQUEST).await;
    clients[0].answer().await;
    let mut newcomer = server.connect().await;
    newcomer.send(REQUEST).await;
    assert!(newcomer.answer().await.starts_with("HTTP/1.1 200 "));
    let (said, clean) = clients[1].rest().await;
    assert!(said.is_empty() && clean, "closed as RFC 9112 has it");
    for kept in [0, 2] {
        clients[kept].send(REQUEST).await;
        assert!(clients[kept].answer().await.starts_with("HTTP/1.1 200 "));
    }
}

#[tokio::test]
async fn while_all_are_at_work_a_request_waits_and_a_probe_does_not() {
    let server = Server::start(router(), Limits { connections: 1, ..Limits::default() }).await;
    let mut busy = server.connect().await;
    let head = "POST /measure HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
    busy.send(head).await;
    // One that has said nothing yet would give way.
    assert!(busy.answer().await.starts_with("HTTP/1.1 100 "));
    busy.send("ab").await;
    let mut waiting = server.connect().await;
    waiting.send(REQUEST).await;
    // More than may wait: those that say nothing give way to those that come after.
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(server.connect().await);
    }
    let mut probe = server.connect().await;
    probe.send("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(probe.answer().await.ends_with("ok"));
    assert!(probe.rest().await.1, "one question a connection");
    let mut patient = server.connect().await;
    patient.send(REQUEST).await;
    let early = timeout(Duration::from_millis(300), patient.0.read_u8()).await;
    assert!(early.is_err(), "served beside the only one that may be");
    busy.send("c").await;
    drop(silent);
    assert!(busy.answer().await.ends_with("3 bytes"));
    assert!(patient.answer().await.starts_with("HTTP/1.1 200 "));
    assert!(waiting.answer().await.starts_with("HTTP/1.1 200 "), "it had asked, and kept its seat");
}

#[tokio::test]
async fn answers_that_nobody_reads_are_few_and_end_soon() {
    let server = Server::start(router(), Limits { connections: 1, ..Limits::default() }).await;
    let mut busy = server.connect().await;
    busy.send("POST /measure HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n").await;
    assert!(busy.answer().await.starts_with("HTTP/1.1 100 "));
    let mut unread = Vec::new();
    for _ in 0..70 {
        let mut client = server.connect().await;
        client.send("GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await;
        client.0.peek(&mut [0]).await.unwrap();
        unread.push(client);
    }
    // Those that were answered first made room for the last ones, with a reset: nothing more of theirs is sent.
    for client in &mut unread[..6] {
        let cut = timeout(Duration::from_secs(2), client.0.ready(tokio::io::Interest::ERROR)).await;
        assert!(cut.expect("it gave way").unwrap().is_error());
    }
    let still = timeout(Duration::from_millis(100), unread[69].0.ready(tokio::io::Interest::ERROR)).await;
    assert!(still.is_err(), "it has a moment to read its answer");
    let mut probe = server.connect().await;
    probe.send("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(probe.answer().await.ends_with("ok"));
    for client in &mut unread[6..] {
        let cut = timeout(Duration::from_secs(10), client.0.ready(tokio::io::Interest::ERROR)).await;
        assert!(cut.expect("it had five seconds").unwrap().is_error());
    }
}

#[tokio::test]
async fn one_network_leaves_places_to_others() {
    let server = Server::start(router(), Limits { connections: 5, ..Limits::default() }).await;
    let head = "POST /measure HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n";
    let at_work = async |from: u8| {
        let mut client = server.connect_from(from).await;
        client.send(head).await;
        assert!(client.answer().await.starts_with("HTTP/1.1 100 "));
        client
    };
    let mut busy = Vec::new();
    for from in [2, 2, 2, 2, 3] {
        busy.push(at_work(from).await);
    }
    // As many as may wait, but for one, from a network that has its share.
    let mut patient = Vec::new();
    for _ in 0..255 {
        let mut client = server.connect_from(2).await;
        client.send(REQUEST).await;
        patient.push(client);
    }
    let mut honest = server.connect_from(4).await;
    honest.send(REQUEST).await;
    assert!(timeout(Duration::from_millis(500), honest.0.readable()).await.is_err());
    // Its connection ends with it.
    busy.pop();
    let mut answer = vec![0; 12];
    let answered = timeout(Duration::from_secs(2), honest.0.read_exact(&mut answer)).await;
    answered.expect("a free place is not for those who have their share").unwrap();
    assert_eq!(answer, b"HTTP/1.1 200");
}

#[tokio::test]
async fn only_so_many_connections_speak_http2() {
    let server = Server::start(router(), Limits::default()).await;
    let mut clients = Vec::new();
    for _ in 0..66 {
        let mut client = server.connect().await;
        client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        // Its preface is read once the server's settings come.
        client.0.peek(&mut [0]).await.unwrap();
        clients.push(client);
    }
    // Idle ones give way.
    for (number, client) in clients.iter_mut().enumerate() {
        let closed = number < 2;
        let wait = if closed { PATIENCE } else { Duration::from_millis(5) };
        let mut rest = Vec::new();
        let ended = timeout(wait, client.0.read_to_end(&mut rest));
        assert_eq!(ended.await.is_ok(), closed, "{number}");
    }
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
    // As blobs are answered: a stream that does not know its end, and its length beside it.
    let streamed = || async {
        let pieces = futures::stream::iter([Ok::<_, std::io::Error>("123"), Ok("45")]);
        let mut response = Response::new(Body::from_stream(pieces));
        response.headers_mut().insert(http::header::CONTENT_LENGTH, 5.into());
        response
    };
    let routes = Router::new().route("/part", get(partial)).route("/stream", get(streamed));
    let server = Server::start(routes, Limits::default()).await;
    let mut client = server.connect().await;
    client.send("GET /part?secret=1 HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let answer = client.answer().await;
    let id = answer.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap().to_owned();
    client.send("HEAD /part HTTP/1.1\r\nhost: x\r\n\r\n").await;
    client.send("GET /stream HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    client.rest().await;
    let lines = log.lines();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[2].contains("bytes=5") && lines[2].contains("complete=true"), "{}", lines[2]);
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
