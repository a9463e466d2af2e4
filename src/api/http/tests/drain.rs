//! Stopping a listener that is in use: over HTTP/1.1 and HTTP/2, nothing that has begun is lost.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use bytes::Bytes;
use clawhub_api_http::{Drained, Limits, body_stream};
use futures::StreamExt;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::{PATIENCE, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

/// A router whose `/upload` counts the bytes it is sent and tells when the first have come.
fn uploads() -> (Router, mpsc::Receiver<()>) {
    let (begun, has_begun) = mpsc::channel(8);
    let upload = move |body: Body| {
        let begun = begun.clone();
        async move {
            let mut body = body_stream(body);
            let mut total = 0;
            while let Some(chunk) = body.next().await {
                match chunk {
                    Ok(chunk) => total += chunk.len(),
                    Err(error) => return format!("after {total}: {error}"),
                }
                let _ = begun.try_send(());
            }
            format!("{total} bytes")
        }
    };
    (Router::new().route("/upload", post(upload)).route("/", get(|| async { "hi" })), has_begun)
}

async fn ended(drained: JoinHandle<Drained>) -> Drained {
    timeout(PATIENCE, drained).await.expect("the drain to end").unwrap()
}

#[tokio::test]
async fn idle_connections_close_and_an_upload_finishes() {
    let (router, mut begun) = uploads();
    let server = Server::start(router, Limits::default()).await;
    let addr = server.addr;
    let mut unused = server.connect().await;
    let mut idle = server.connect().await;
    idle.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    idle.answer().await;
    let mut upload = server.connect().await;
    upload.send("POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc").await;
    begun.recv().await.unwrap();

    let drained = server.drain();
    assert_eq!(idle.rest().await, (String::new(), true));
    assert_eq!(unused.rest().await, (String::new(), true));
    assert!(TcpStream::connect(addr).await.is_err(), "the listener is closed");
    assert!(!drained.is_finished(), "the upload is still running");
    upload.send("def").await;
    let answer = upload.answer().await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("6 bytes"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(ended(drained).await, Drained { cut: 0 });
}

/// Passes bytes between a client and the server, and keeps what the server said.
async fn overheard(server: SocketAddr) -> (DuplexStream, Arc<Mutex<Vec<u8>>>) {
    let (client, near) = duplex(64 * 1024);
    let (mut up, mut down) = tokio::io::split(near);
    let (mut from, mut to) = TcpStream::connect(server).await.unwrap().into_split();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let keep = heard.clone();
    tokio::spawn(async move { tokio::io::copy(&mut up, &mut to).await });
    tokio::spawn(async move {
        let mut buf = vec![0; 16 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buf).await {
            keep.lock().unwrap().extend_from_slice(&buf[..n]);
            down.write_all(&buf[..n]).await.unwrap();
        }
    });
    (client, heard)
}

/// The types of the HTTP/2 frames in `bytes` (RFC 9113, section 4.1).
fn frame_types(mut bytes: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let [a, b, c, kind, ..] = *bytes {
        types.push(kind);
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        bytes = bytes.get(9 + length..).unwrap_or_default();
    }
    types
}

const GOAWAY: u8 = 7;

#[tokio::test]
async fn an_upload_over_http2_is_not_told_to_go_away() {
    let (router, mut begun) = uploads();
    let server = Server::start(router, Limits::default()).await;
    let (stream, heard) = overheard(server.addr).await;
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let (chunks, body) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let request = Request::post("http://x/upload").body(StreamBody::new(ReceiverStream::new(body))).unwrap();
    let answer = tokio::spawn(client.send_request(request));
    let chunk = || Ok(Frame::data(Bytes::from("abc")));
    chunks.send(chunk()).await.unwrap();
    begun.recv().await.unwrap();

    let addr = server.addr;
    let drained = server.drain();
    timeout(PATIENCE, async { while TcpStream::connect(addr).await.is_ok() {} }).await.unwrap();
    for _ in 0..3 {
        chunks.send(chunk()).await.unwrap();
        begun.recv().await.unwrap();
    }
    let so_far = frame_types(&heard.lock().unwrap());
    assert!(!so_far.is_empty() && !so_far.contains(&GOAWAY), "{so_far:?}");
    drop(chunks);
    let answer = timeout(PATIENCE, answer).await.unwrap().unwrap().unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "12 bytes");
    assert_eq!(ended(drained).await, Drained { cut: 0 });
    assert!(frame_types(&heard.lock().unwrap()).contains(&GOAWAY), "it is told once it is idle");
    drop(client);
    timeout(PATIENCE, connection).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn what_outlasts_the_drain_is_cut_and_counted() {
    let (router, mut begun) = uploads();
    let limit = Duration::from_millis(300);
    let server = Server::start(router, Limits { drain: limit, ..Limits::default() }).await;
    let mut upload = server.connect().await;
    upload.send("POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc").await;
    begun.recv().await.unwrap();
    let started = Instant::now();
    assert_eq!(ended(server.drain()).await, Drained { cut: 1 });
    assert!(started.elapsed() >= limit);
    upload.rest().await;
}
