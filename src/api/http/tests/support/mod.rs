//! A server on a free port, and a client that shows every byte.

#![allow(dead_code, reason = "each test file uses its part of this")]

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use clawhub_api_http::{Drained, Limits, Protocol, Site, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything here takes; what waits for it fails instead of hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of the large one of the node's own pages: more than the system takes for a client that does not read.
pub(crate) const LARGE: usize = 16 << 20;

/// What the listener serves in the node, too.
static PROTOCOLS: &[&Protocol] = &[&clawhub_api_oci::PROTOCOL];

pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Drained>,
}

impl Server {
    pub(crate) async fn start(api: Router, limits: Limits) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let own = Router::new()
            .route("/healthz", get(async || "ok"))
            .route("/large", get(async || "x".repeat(LARGE)));
        let site = Site::new(PROTOCOLS, api, own);
        let serving = tokio::spawn(serve(listener, site, limits, shutdown));
        Server { addr, stop, serving }
    }

    pub(crate) async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.addr).await.unwrap())
    }

    /// From another address of this machine's.
    pub(crate) async fn connect_from(&self, last: u8) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
        Client(socket.connect(self.addr).await.unwrap())
    }

    /// Begins the drain; the handle yields how it ended.
    pub(crate) fn drain(self) -> JoinHandle<Drained> {
        self.stop.send(()).unwrap();
        self.serving
    }
}

/// An HTTP/1.1 client that sends and receives text.
pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    pub(crate) async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// One answer, its body read by Content-Length.
    pub(crate) async fn answer(&mut self) -> String {
        let mut got = Vec::new();
        timeout(PATIENCE, async {
            loop {
                let text = String::from_utf8_lossy(&got).into_owned();
                if let Some((head, body)) = text.split_once("\r\n\r\n") {
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    if body.len() >= length.map_or(0, |n| n.parse().unwrap()) {
                        return text;
                    }
                }
                let byte = self.0.read_u8().await.expect("an answer before the end of the connection");
                got.push(byte);
            }
        })
        .await
        .expect("an answer in time")
    }

    /// Everything until the server closes, and whether it did so without a reset.
    pub(crate) async fn rest(&mut self) -> (String, bool) {
        let mut got = Vec::new();
        let clean = timeout(PATIENCE, self.0.read_to_end(&mut got)).await.expect("the server closes").is_ok();
        (String::from_utf8_lossy(&got).into_owned(), clean)
    }
}
