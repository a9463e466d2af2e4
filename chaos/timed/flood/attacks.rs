//! What strangers do to a node. Each attack is a number of tasks that go on until they are stopped; what they are
//! refused is theirs to bear.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

const UPLOADS: &str = "/v2/flood/uploads/blobs/uploads/";
/// A manifest as large as one may be, which says nothing.
const MANIFEST: usize = 4 << 20;
/// Between two tries of a stranger that was cut off.
const AGAIN: Duration = Duration::from_millis(200);

/// Where the strangers go.
pub(super) struct Target {
    pub(super) http: String,
    pub(super) peer: String,
}

/// How many there are of each.
#[derive(PartialEq, Eq)]
pub(super) struct Strength {
    /// New uploads a second.
    posts: u64,
    /// Connections of HTTP/2 that send manifests, and streams on each.
    manifests: (usize, usize),
    /// Clients that send a byte a minute.
    slow: usize,
    /// Connections that say nothing.
    idle: usize,
    /// Handshakes with the peer port that are never finished, from each of four addresses.
    half_open: usize,
}

impl Strength {
    pub(super) const FULL: Strength =
        Strength { posts: 2000, manifests: (200, 64), slow: 300, idle: 2000, half_open: 200 };
    pub(super) const SMALL: Strength =
        Strength { posts: 500, manifests: (20, 8), slow: 300, idle: 1500, half_open: 100 };
}

/// What was done, by attack.
#[derive(Default)]
struct Counts {
    posts: AtomicU64,
    manifests: AtomicU64,
    manifests_refused: AtomicU64,
    slow: AtomicU64,
    idle: AtomicU64,
    half_open: AtomicU64,
}

/// Attacks under way.
pub(super) struct Attacks {
    tasks: JoinSet<()>,
    counts: Arc<Counts>,
}

/// Begins all of them at once. Further kinds, such as attempts to join with random tokens, are further loops here.
pub(super) fn start(target: &Target, strength: &Strength) -> Attacks {
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    let http = || target.http.clone();
    const POSTERS: u64 = 20;
    for _ in 0..POSTERS {
        let every = Duration::from_micros(1_000_000 * POSTERS / strength.posts);
        tasks.spawn(posts(http(), every, counts.clone()));
    }
    let (connections, streams) = strength.manifests;
    let manifest = Bytes::from(vec![b' '; MANIFEST]);
    for _ in 0..connections {
        // One client, one connection.
        let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build();
        let Ok(client) = client else { continue };
        for _ in 0..streams {
            tasks.spawn(manifests(client.clone(), http(), manifest.clone(), counts.clone()));
        }
    }
    for _ in 0..strength.slow {
        tasks.spawn(slow(http(), counts.clone()));
    }
    for _ in 0..strength.idle {
        tasks.spawn(silent(http(), Ipv4Addr::LOCALHOST, counts.clone(), |counts| &counts.idle));
    }
    for address in 2..6 {
        for _ in 0..strength.half_open {
            let from = Ipv4Addr::new(127, 0, 0, address);
            tasks.spawn(silent(target.peer.clone(), from, counts.clone(), |counts| &counts.half_open));
        }
    }
    Attacks { tasks, counts }
}

impl Attacks {
    /// Ends all of them, and says what they did.
    pub(super) async fn stop(mut self) -> String {
        self.tasks.shutdown().await;
        self.counts.to_string()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        write!(
            f,
            "{} uploads opened, {} manifests of 4 MiB ({} more refused), {} slow and {} silent connections, {} \
             half-open handshakes",
            of(&self.posts),
            of(&self.manifests),
            of(&self.manifests_refused),
            of(&self.slow),
            of(&self.idle),
            of(&self.half_open)
        )
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Opens uploads and never comes back to them.
async fn posts(http: String, every: Duration, counts: Arc<Counts>) {
    let mut pace = interval(every);
    let request = format!("POST {UPLOADS} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
    loop {
        if let Ok(mut stream) = TcpStream::connect(&http).await {
            while let Some(202) = ask(&mut stream, &request).await {
                count(&counts.posts);
                pace.tick().await;
            }
        }
        sleep(AGAIN).await;
    }
}

/// The status of an answer without a body.
async fn ask(stream: &mut TcpStream, request: &str) -> Option<u16> {
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    while !answer.ends_with(b"\r\n\r\n") {
        let length = stream.read(&mut piece).await.ok().filter(|length| *length > 0)?;
        answer.extend_from_slice(&piece[..length]);
    }
    std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()
}

/// Sends manifests that are refused once they have been read.
async fn manifests(client: reqwest::Client, http: String, manifest: Bytes, counts: Arc<Counts>) {
    let url = format!("http://{http}/v2/flood/manifests/manifests/latest");
    loop {
        let request = client.put(&url).body(manifest.clone()).send();
        match timeout(Duration::from_secs(60), request).await {
            Ok(Ok(answer)) if answer.status() == StatusCode::BAD_REQUEST => count(&counts.manifests),
            _ => {
                count(&counts.manifests_refused);
                sleep(AGAIN).await;
            }
        }
    }
}

/// Sends a byte of an upload a minute.
async fn slow(http: String, counts: Arc<Counts>) {
    let head = format!("POST {UPLOADS}?digest=sha256:{} HTTP/1.1\r\nhost: x\r\n", "0".repeat(64));
    let head = format!("{head}content-length: 1000000\r\n\r\nx");
    loop {
        if let Ok(mut stream) = TcpStream::connect(&http).await
            && stream.write_all(head.as_bytes()).await.is_ok()
        {
            count(&counts.slow);
            let mut minute = interval(Duration::from_secs(60));
            minute.tick().await;
            loop {
                let mut answer = [0; 1024];
                tokio::select! {
                    said = stream.read(&mut answer) => if said.is_err() || said.is_ok_and(|length| length == 0) { break },
                    _ = minute.tick() => if stream.write_all(b"x").await.is_err() { break },
                }
            }
        }
        sleep(AGAIN).await;
    }
}

/// Connects, says nothing, and comes again once it is cut off.
async fn silent(to: String, from: Ipv4Addr, counts: Arc<Counts>, counter: fn(&Counts) -> &AtomicU64) {
    let Ok(to) = to.parse::<SocketAddr>() else { return };
    loop {
        if let Some(mut stream) = connect(from, to).await {
            count(counter(&counts));
            let _ = stream.read(&mut [0]).await;
        }
        sleep(5 * AGAIN).await;
    }
}

async fn connect(from: Ipv4Addr, to: SocketAddr) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind((from, 0).into()).ok()?;
    socket.connect(to).await.ok()
}
