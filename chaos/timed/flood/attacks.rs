//! What strangers do to a node. Each attack is a number of tasks that go on until they are stopped; what they are
//! refused is theirs to bear.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clawhub_peer::{Applicant, JoinToken, NodeKey};
use clawhub_types::{Location, Roles};
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

/// The beginning of a ClientHello of 512 bytes, of which no more comes.
const HELLO: &[u8] = &[0x16, 3, 1, 2, 0, 1];

/// Where the strangers go.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) http: String,
    pub(super) peer: String,
    /// What a token says of the cluster. It is no secret: whoever joined once knows it.
    pub(super) ca: [u8; 32],
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
    /// Attempts to join a second.
    joins: u64,
    /// Handshakes with the peer port that are never finished, from each of four addresses.
    half_open: usize,
}

impl Strength {
    pub(super) const FULL: Strength =
        Strength { posts: 2000, manifests: (200, 64), slow: 300, idle: 2000, joins: 200, half_open: 200 };
    pub(super) const SMALL: Strength =
        Strength { posts: 500, manifests: (20, 8), slow: 300, idle: 1500, joins: 100, half_open: 100 };
}

/// A way to flood a node.
#[derive(Clone, Copy, Debug)]
pub(super) enum Attack {
    Uploads,
    Manifests,
    Slow,
    Idle,
    Joins,
    HalfOpen,
}

impl Attack {
    pub(super) const ALL: [Attack; 6] =
        [Attack::Uploads, Attack::Manifests, Attack::Slow, Attack::Idle, Attack::Joins, Attack::HalfOpen];

    fn begin(self, target: &Target, strength: &Strength, tasks: &mut JoinSet<()>, counts: &Arc<Counts>) {
        let http = || target.http.clone();
        match self {
            Attack::Uploads => {
                for _ in 0..TASKS {
                    tasks.spawn(posts(http(), pace(strength.posts), counts.clone()));
                }
            }
            Attack::Manifests => all_manifests(target, strength.manifests, tasks, counts),
            Attack::Slow => {
                for _ in 0..strength.slow {
                    tasks.spawn(slow(http(), counts.clone()));
                }
            }
            Attack::Idle => {
                for _ in 0..strength.idle {
                    tasks.spawn(silent(http(), Ipv4Addr::LOCALHOST, b"", counts.clone(), |counts| {
                        &counts.idle
                    }));
                }
            }
            Attack::Joins => {
                for _ in 0..TASKS {
                    tasks.spawn(joins(target.clone(), pace(strength.joins), counts.clone()));
                }
            }
            Attack::HalfOpen => {
                let from = (2..6).map(|address| Ipv4Addr::new(127, 0, 0, address));
                for from in from.flat_map(|address| std::iter::repeat_n(address, strength.half_open)) {
                    let peer = target.peer.clone();
                    tasks.spawn(silent(peer, from, HELLO, counts.clone(), |counts| &counts.half_open));
                }
            }
        }
    }
}

/// Tasks of an attack that has a rate.
const TASKS: u64 = 20;

/// Between two attempts of one of these tasks.
fn pace(a_second: u64) -> Duration {
    Duration::from_micros(1_000_000 * TASKS / a_second)
}

/// What was done, by attack.
#[derive(Default)]
pub(super) struct Counts {
    posts: AtomicU64,
    manifests: AtomicU64,
    manifests_read: AtomicU64,
    manifests_refused: AtomicU64,
    slow: AtomicU64,
    idle: AtomicU64,
    joins: AtomicU64,
    half_open: AtomicU64,
}

/// Attacks under way.
pub(super) struct Attacks {
    tasks: JoinSet<()>,
    counts: Arc<Counts>,
}

/// Begins these attacks at once.
pub(super) fn start(attacks: &[Attack], target: &Target, strength: &Strength) -> Attacks {
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    for attack in attacks {
        attack.begin(target, strength, &mut tasks, &counts);
    }
    Attacks { tasks, counts }
}

impl Attacks {
    /// Ends all of them, and says what they did.
    pub(super) async fn stop(mut self) -> Arc<Counts> {
        self.tasks.shutdown().await;
        self.counts
    }
}

impl Counts {
    /// How often a node had this done to it.
    pub(super) fn of(&self, attack: Attack) -> u64 {
        let count = match attack {
            Attack::Uploads => &self.posts,
            Attack::Manifests => &self.manifests,
            Attack::Slow => &self.slow,
            Attack::Idle => &self.idle,
            Attack::Joins => &self.joins,
            Attack::HalfOpen => &self.half_open,
        };
        count.load(Ordering::Relaxed)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for attack in Attack::ALL.into_iter().filter(|attack| self.of(*attack) > 0) {
            let count = self.of(attack);
            f.write_str(separator)?;
            separator = ", ";
            match attack {
                Attack::Uploads => write!(f, "{count} uploads opened")?,
                Attack::Manifests => {
                    let read = self.manifests_read.load(Ordering::Relaxed);
                    let refused = self.manifests_refused.load(Ordering::Relaxed);
                    write!(f, "{count} manifests of 4 MiB begun, {read} of them read and {refused} refused")?;
                }
                Attack::Slow => write!(f, "{count} slow connections")?,
                Attack::Idle => write!(f, "{count} silent connections")?,
                Attack::Joins => write!(f, "{count} attempts to join")?,
                Attack::HalfOpen => write!(f, "{count} half-open handshakes")?,
            }
        }
        Ok(())
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

fn all_manifests(
    target: &Target,
    (connections, streams): (usize, usize),
    tasks: &mut JoinSet<()>,
    counts: &Arc<Counts>,
) {
    let manifest = Bytes::from(vec![b' '; MANIFEST]);
    for _ in 0..connections {
        // One client, one connection.
        let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build();
        let Ok(client) = client else { continue };
        for _ in 0..streams {
            tasks.spawn(manifests(client.clone(), target.http.clone(), manifest.clone(), counts.clone()));
        }
    }
}

/// Sends manifests that are refused once they have been read.
async fn manifests(client: reqwest::Client, http: String, manifest: Bytes, counts: Arc<Counts>) {
    let url = format!("http://{http}/v2/flood/manifests/manifests/latest");
    loop {
        count(&counts.manifests);
        let request = client.put(&url).body(manifest.clone()).send();
        match timeout(Duration::from_secs(60), request).await {
            Ok(Ok(answer)) if answer.status() == StatusCode::BAD_REQUEST => count(&counts.manifests_read),
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

/// Asks to become a member, each time with a token that nobody made.
async fn joins(target: Target, every: Duration, counts: Arc<Counts>) {
    let Ok(key) = NodeKey::generate() else { return };
    let mut pace = interval(every);
    loop {
        pace.tick().await;
        let stranger = Applicant {
            name: "stranger".into(),
            location: Location { region: "home".into(), zone: "z".into() },
            roles: Roles { voter: true, storage: true },
            peer_addr: "127.0.0.1:1".into(),
            http_addr: "127.0.0.1:2".into(),
        };
        let token = JoinToken::generate(target.ca);
        let joined = clawhub_peer::join(&target.peer, &token, &key, stranger).await;
        // An attempt that the node has answered. Others did not get through the handshake.
        if joined.is_err_and(|error| error.answer().is_some()) {
            count(&counts.joins);
        }
    }
}

/// Connects, says this and no more, and comes again once it is cut off.
async fn silent(
    to: String,
    from: Ipv4Addr,
    said: &'static [u8],
    counts: Arc<Counts>,
    counter: fn(&Counts) -> &AtomicU64,
) {
    let Ok(to) = to.parse::<SocketAddr>() else { return };
    loop {
        if let Some(mut stream) = connect(from, to).await
            && stream.write_all(said).await.is_ok()
        {
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
