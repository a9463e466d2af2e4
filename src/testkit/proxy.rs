//! A reverse proxy that sends each request to the next node in turn: what a client sees that has no
//! idea that there is more than one node. No retries, no buffering, `Host` kept, bodies streamed both
//! ways; one connection to the node per request, so that nothing sticks to a node.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

type Body = BoxBody<Bytes, hyper::Error>;

struct Shared {
    upstreams: Vec<String>,
    next: AtomicUsize,
    served: Vec<AtomicU64>,
    log: Option<Mutex<File>>,
}

/// A running proxy; it stops when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of this machine and forwards to `upstreams` (`host:port`) in turn.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn start(upstreams: Vec<String>) -> Result<Self> {
        Self::serve(upstreams, None).await
    }

    /// The same, with a line for every answer in the file `log`: node, method, path, status, type.
    ///
    /// # Errors
    /// If no port can be had or the file cannot be written.
    pub async fn start_logged(upstreams: Vec<String>, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
        Self::serve(upstreams, Some(Mutex::new(file))).await
    }

    async fn serve(upstreams: Vec<String>, log: Option<Mutex<File>>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let served = upstreams.iter().map(|_| AtomicU64::new(0)).collect();
        let shared = Arc::new(Shared { upstreams, next: AtomicUsize::new(0), served, log });
        let task = tokio::spawn(accept(listener, shared.clone()));
        Ok(Proxy { address, shared, task })
    }

    /// `host:port` to send requests to.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// How many requests each node was sent.
    pub fn served(&self) -> Vec<u64> {
        self.shared.served.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else { continue };
        // Small answers go out at once.
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| forward(request, shared.clone()));
            let http = hyper::server::conn::http1::Builder::new();
            // A client that goes away in the middle is its own business.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn forward(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Body>, std::convert::Infallible> {
    let turn = shared.next.fetch_add(1, Ordering::Relaxed) % shared.upstreams.len();
    shared.served[turn].fetch_add(1, Ordering::Relaxed);
    let asked = format!("{} {} {}", shared.upstreams[turn], request.method(), request.uri());
    let answer = send(request, &shared.upstreams[turn]).await.unwrap_or_else(|error| {
        let text = format!("{}: {error:#}\n", shared.upstreams[turn]);
        let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed();
        let mut answer = Response::new(body);
        *answer.status_mut() = StatusCode::BAD_GATEWAY;
        answer
    });
    shared.note(&asked, &answer);
    Ok(answer)
}

impl Shared {
    fn note(&self, asked: &str, answer: &Response<Body>) {
        let Some(log) = &self.log else { return };
        let media_type = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let line = format!("{asked} {} {}\n", answer.status().as_u16(), media_type.unwrap_or("-"));
        let mut file = log.lock().expect("no holder of this lock panics");
        // The answer matters more than its line.
        let _ = file.write_all(line.as_bytes());
    }
}

async fn send(request: Request<Incoming>, upstream: &str) -> Result<Response<Body>> {
    let stream = TcpStream::connect(upstream).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut answer = sender.send_request(request).await?;
    // Each side manages its own connection.
    answer.headers_mut().remove(CONNECTION);
    Ok(answer.map(BodyExt::boxed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Registry;

    async fn upstream(name: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = service_fn(move |request: Request<Incoming>| async move {
                    let host = request.headers()["host"].to_str().unwrap().to_owned();
                    let body = request.into_body().collect().await?.to_bytes();
                    let text = format!("{name} {host} {}", body.len());
                    Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(text))))
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        address
    }

    #[tokio::test]
    async fn each_request_goes_to_the_next_node_and_keeps_its_host() {
        let proxy = Proxy::start(vec![upstream("a").await, upstream("b").await]).await.unwrap();
        let client = Registry::new(&proxy.address());
        let mut seen = Vec::new();
        for len in [0, 1, 3 << 20, 5] {
            let request = client.request(reqwest::Method::PUT, "/x").body(vec![7; len]);
            seen.push(request.send().await.unwrap().text().await.unwrap());
        }
        let host = proxy.address();
        let expected = [("a", 0), ("b", 1), ("a", 3 << 20), ("b", 5)];
        assert_eq!(seen, expected.map(|(name, len)| format!("{name} {host} {len}")));
        assert_eq!(proxy.served(), [2, 2]);
    }

    #[tokio::test]
    async fn a_dead_node_is_a_bad_gateway_and_not_retried() {
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let proxy = Proxy::start(vec![dead, upstream("b").await]).await.unwrap();
        let client = Registry::new(&proxy.address());
        assert_eq!(client.get("/").await.unwrap().status(), 502);
        assert_eq!(client.get("/").await.unwrap().status(), 200);
    }
}
