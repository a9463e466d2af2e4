//! Structure-aware random bytes at every listener: no process ends, nothing is answered with 500, and the
//! cluster serves as before.
//!
//! `CLAWHUB_HOSTILE_SECONDS` sets how long (all listeners at once, so each gets all of it) and
//! `CLAWHUB_HOSTILE_SEED` repeats a run.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use clawhub_testkit::cluster::Node;
use clawhub_testkit::content::Rng;
use clawhub_testkit::{Cluster, process, scale};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket, UnixStream};

const METHODS: [&str; 8] = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "BREW"];
const PIECES: [&str; 26] = [
    "/v2/",
    "/v2",
    "a",
    "a/b",
    "..",
    "%2e%2e",
    "%00",
    "%ff",
    "//",
    "?",
    "&",
    "=",
    "#",
    "ü",
    "Blobs",
    "blobs/",
    "manifests/",
    "tags/list",
    "referrers/",
    "uploads/",
    "_catalog",
    "n=",
    "last=",
    "digest=",
    "mount=",
    "from=",
];
const NUMBERS: [&str; 10] = [
    "0",
    "1",
    "-1",
    "65536",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "99999999999999999999",
    "1e9",
    "0x10",
];
const HEADERS: [&str; 18] = [
    "Content-Length",
    "Transfer-Encoding",
    "Content-Range",
    "Range",
    "If-Match",
    "If-None-Match",
    "If-Range",
    "Content-Type",
    "Accept",
    "Expect",
    "Host",
    "Connection",
    "Upgrade",
    "Authorization",
    "Digest",
    "Cookie",
    "Docker-Content-Digest",
    "OCI-Tag",
];
const VALUES: [&str; 16] = [
    "bytes=0-",
    "bytes=-",
    "bytes=5-2,0-0,,1-",
    "0-0",
    "5-2",
    "chunked",
    "chunked, chunked",
    "*",
    "\"x\"",
    "W/\"",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json; x",
    "100-continue",
    "h2c",
    "close",
    "a/b;c",
];
const BODIES: [&str; 7] = [
    r#"{"schemaVersion":2,"config":{"digest":"sha256:00","size":-1},"layers":[]}"#,
    r#"{"schemaVersion":2,"manifests":[{"digest":7,"size":18446744073709551615}]}"#,
    r#"{"schemaVersion":2,"layers":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["#,
    r#"{"schemaVersion":1,"fsLayers":[],"signatures":null}"#,
    "ffffffffffffffff\r\n",
    "5\r\nhello\r\n0\r\n\r\n",
    "-1\r\n",
];

fn digest(rng: &mut Rng) -> String {
    let kind = *rng.pick(&["sha256", "sha512", "md5", "sha256+b64", ""]);
    let len = *rng.pick(&[0, 1, 63, 64, 65, 128, 5000]);
    let alphabet: Vec<char> = rng.pick(&["0123456789abcdef", "0123456789ABCDEFg"]).chars().collect();
    format!("{kind}:{}", (0..len).map(|_| *rng.pick(&alphabet)).collect::<String>())
}

fn target(rng: &mut Rng) -> String {
    let mut path = (*rng.pick(&["/v2/", "/v2/hostile/", "/", "", "/healthz", "http://x/v2/"])).to_owned();
    for _ in 0..rng.below(8) {
        match rng.below(6) {
            0 => path += &digest(rng),
            1 => path += *rng.pick(&NUMBERS),
            2 => path += &"x".repeat(*rng.pick(&[1, 128, 300, 9000])),
            _ => path += *rng.pick(&PIECES),
        }
    }
    path
}

/// One HTTP/1 request, nearly right.
fn request(rng: &mut Rng) -> Vec<u8> {
    let version = *rng.pick(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/9.9", ""]);
    let mut text = format!("{} {} {version}\r\n", rng.pick(&METHODS), target(rng));
    if rng.below(8) > 0 {
        text += "Host: x\r\n";
    }
    for _ in 0..rng.below(6) {
        let value = match rng.below(4) {
            0 => (*rng.pick(&NUMBERS)).to_owned(),
            1 => digest(rng),
            2 => format!("bytes={}", (0..rng.below(1500)).map(|i| format!("{i}-{i},")).collect::<String>()),
            _ => (*rng.pick(&VALUES)).to_owned(),
        };
        text += &format!("{}: {value}\r\n", rng.pick(&HEADERS));
    }
    let body = *rng.pick(&BODIES);
    if rng.below(2) == 0 {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    text += "\r\n";
    let mut bytes = text.into_bytes();
    if rng.below(2) == 0 {
        bytes.extend_from_slice(body.as_bytes());
    }
    spoil(rng, bytes)
}

/// Now and then flips, cuts or repeats something.
fn spoil(rng: &mut Rng, mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.is_empty() || rng.below(4) > 0 {
        return bytes;
    }
    let at = rng.below(bytes.len());
    match rng.below(3) {
        0 => bytes[at] ^= 1 << rng.below(8),
        1 => bytes.truncate(at),
        _ => bytes.extend_from_within(at..),
    }
    bytes
}

/// The start of an HTTP/2 connection and some frames of it.
fn frames(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    for _ in 0..rng.below(20) {
        let payload_len = *rng.pick(&[0, 1, 4, 5, 8, 64, 1000]);
        let payload = rng.bytes(payload_len);
        let claimed = if rng.below(6) == 0 { rng.below(1 << 24) } else { payload.len() };
        let claimed = u32::try_from(claimed).unwrap_or(0).to_be_bytes();
        let stream = u32::try_from(rng.below(9)).unwrap_or(0).to_be_bytes();
        bytes.extend([claimed[1], claimed[2], claimed[3], rng.below(12) as u8, rng.next_u64() as u8]);
        bytes.extend(stream);
        bytes.extend(payload);
    }
    spoil(rng, bytes)
}

/// TLS records, mostly hellos with extensions of odd lengths.
fn records(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..=rng.below(4) {
        let mut hello = vec![3, 3];
        hello.extend(rng.bytes(32));
        let session = rng.below(33);
        hello.push(session as u8);
        hello.extend(rng.bytes(session));
        hello.extend([0, 6, 0x13, 0x01, 0x13, 0x02, 0x13, 0x03, 1, 0]);
        let mut extensions = Vec::new();
        for _ in 0..rng.below(8) {
            let kind = *rng.pick(&[0_u16, 10, 13, 16, 41, 43, 44, 45, 51, 57, 0xfe0d, 0xffff]);
            let len = *rng.pick(&[0, 2, 3, 33, 200]);
            extensions.extend(kind.to_be_bytes());
            let claimed = if rng.below(5) == 0 { rng.below(65_536) } else { len };
            extensions.extend((claimed as u16).to_be_bytes());
            extensions.extend(rng.bytes(len));
        }
        hello.extend((extensions.len() as u16).to_be_bytes());
        hello.extend(extensions);
        let length = (hello.len() as u32).to_be_bytes();
        let mut handshake = vec![*rng.pick(&[1, 2, 11, 20, 24]), length[1], length[2], length[3]];
        handshake.extend(hello);
        bytes.extend([*rng.pick(&[20, 21, 22, 22, 22, 23, 99]), 3, *rng.pick(&[0, 1, 3, 4])]);
        bytes.extend((handshake.len() as u16).to_be_bytes());
        bytes.extend(handshake);
    }
    spoil(rng, bytes)
}

/// A QUIC packet: long or short header, real and unreal versions, lengths that lie.
fn packet(rng: &mut Rng) -> Vec<u8> {
    let first = rng.next_u64() as u8;
    if rng.below(4) == 0 {
        let mut short = vec![first & 0x7f];
        let len = rng.below(1400);
        short.extend(rng.bytes(len));
        return short;
    }
    let version = *rng.pick(&[0_u32, 1, 1, 1, 0x6b33_43cf, 0xff00_001d, 0x0a0a_0a0a]);
    let mut bytes = vec![first | 0xc0];
    bytes.extend(version.to_be_bytes());
    for _ in 0..2 {
        let len = *rng.pick(&[0, 1, 8, 20, 21, 255]);
        bytes.push(len as u8);
        bytes.extend(rng.bytes(len.min(30)));
    }
    bytes.push(rng.below(64) as u8);
    let claimed = *rng.pick(&[0_u16, 1, 1200, 0x3fff]);
    bytes.extend((claimed | 0x4000).to_be_bytes());
    // Below 1,200 bytes an initial packet is dropped unread.
    let fill = rng.below(64) + 1200;
    bytes.extend(rng.bytes(fill));
    bytes
}

/// Sends, reads a little of what comes back, goes away.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, bytes: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    let talk = async {
        // The other side may hang up at any point: that is its right.
        if stream.write_all(bytes).await.is_ok() {
            let _ = (&mut stream).take(4096).read_to_end(&mut answer).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(30), talk).await;
    answer
}

/// Where the bytes go.
enum Listener {
    Http(String),
    PeerTcp(String),
    PeerUdp(String),
    Admin(PathBuf),
}

impl Listener {
    async fn once(&self, rng: &mut Rng) -> Result<()> {
        match self {
            Listener::Http(address) => {
                let bytes = match rng.below(8) {
                    0 => frames(rng),
                    1 => (0..rng.below(5)).flat_map(|_| request(rng)).collect(),
                    _ => request(rng),
                };
                let stream = TcpStream::connect(address).await.context("the HTTP listener is gone")?;
                let answer = exchange(stream, &bytes).await;
                let answer = String::from_utf8_lossy(&answer);
                if answer.contains("HTTP/1.1 500") {
                    bail!("500 for {:?}: {answer}", String::from_utf8_lossy(&bytes));
                }
            }
            Listener::PeerTcp(address) => {
                let bytes = if rng.below(5) == 0 { frames(rng) } else { records(rng) };
                let stream = TcpStream::connect(address).await.context("the peer listener is gone")?;
                exchange(stream, &bytes).await;
            }
            Listener::PeerUdp(address) => {
                let socket = UdpSocket::bind("127.0.0.1:0").await?;
                socket.connect(address).await?;
                for _ in 0..20 {
                    // Nobody may be listening for a moment; that shows in the end.
                    let _ = socket.send(&packet(rng)).await;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Listener::Admin(path) => {
                let bytes = if rng.below(4) == 0 { request(rng) } else { frames(rng) };
                let stream = UnixStream::connect(path).await.context("the admin socket is gone")?;
                exchange(stream, &bytes).await;
            }
        }
        Ok(())
    }
}

async fn attack(listener: Listener, seed: u64, end: Instant) -> Result<u64> {
    let mut rng = Rng::new(seed);
    let mut count = 0;
    while Instant::now() < end {
        listener.once(&mut rng).await.with_context(|| format!("after {count} tries"))?;
        count += 1;
    }
    Ok(count)
}

fn pids(cluster: &Cluster) -> Result<Vec<u32>> {
    cluster.nodes()?.iter().map(Node::process).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_bytes_bring_a_node_down() -> Result<()> {
    let seconds = scale("CLAWHUB_HOSTILE_SECONDS", 20);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let seed: u64 = scale("CLAWHUB_HOSTILE_SEED", now);
    println!("CLAWHUB_HOSTILE_SEED={seed}");
    let cluster = Cluster::start().await?;
    let before = pids(&cluster)?;
    let nodes = cluster.nodes()?;
    let repo = nodes[0].registry().repo("hostile/good");
    let pushed = repo.push_image("v1", &[Rng::new(1).bytes(100_000).into()]).await?;

    let end = Instant::now() + Duration::from_secs(seconds);
    let node = &nodes[nodes.len() - 1];
    let listeners = [
        ("HTTP", Listener::Http(node.address().to_owned())),
        ("peer TCP", Listener::PeerTcp(node.peer.clone())),
        ("peer UDP", Listener::PeerUdp(node.peer.clone())),
        ("admin", Listener::Admin(node.data.join("admin.sock"))),
    ];
    let mut attacks = tokio::task::JoinSet::new();
    let mut tries = String::new();
    for (i, (name, listener)) in (1..).zip(listeners) {
        attacks.spawn(async move { (name, attack(listener, seed.wrapping_mul(i), end).await) });
    }
    while let Some(done) = attacks.join_next().await {
        let (name, count) = done?;
        let count = count.with_context(|| format!("{name}, CLAWHUB_HOSTILE_SEED={seed}"))?;
        tries += &format!(", {name} {count}");
    }

    ensure!(pids(&cluster)? == before, "a node was restarted, CLAWHUB_HOSTILE_SEED={seed}");
    cluster.ready().await?;
    for node in &nodes {
        let there = repo.on(&node.registry());
        ensure!(there.pull_image("v1").await? == pushed.digest);
        there.push_image("again", &[Rng::new(2).bytes(50_000).into()]).await?;
        let peak = process::peak_memory(node.process()?)?;
        ensure!(peak < 512 << 20, "{} took {} MiB", node.name, peak >> 20);
    }
    println!(
        "seen | hostile | {seconds} s of random bytes, in tries{tries}: no node ended, all serve as before"
    );
    Ok(())
}
