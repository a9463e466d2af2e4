//! Strangers that take what they can of a node, in one way each: everybody else is served.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::cluster::{Node, Shared};
use clawhub_testkit::content::{Rng, sha256};
use clawhub_testkit::oci::{Upload, chunk_range, expect, header};
use clawhub_testkit::{Cluster, Registry, process};
use futures::future::try_join_all;
use reqwest::{Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;

/// Longer than what is served takes, shorter than what would hold it up.
const SOON: Duration = Duration::from_secs(15);

/// Nobody else's: a flooded node answers others with 503.
static NODES: Shared = Shared::new();
/// The tests take a node's connections, each all of them.
static TURN: Mutex<()> = Mutex::const_new(());

/// A node, the right to flood it, and the cluster.
async fn flooded(number: usize) -> Result<(Node, MutexGuard<'static, ()>, Arc<Cluster>)> {
    process::raise_descriptors();
    let cluster = NODES.get().await?;
    let turn = TURN.lock().await;
    let node = cluster.nodes()?.into_iter().nth(number).context("no such node")?;
    Ok((node, turn, cluster))
}

/// Opens connections that each send this much of a request.
async fn strangers(node: &Node, count: usize, said: &str) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(node.address()).await?;
        stream.write_all(said.as_bytes()).await?;
        streams.push(stream);
    }
    Ok(streams)
}

/// The answer to a request on a connection of its own.
async fn ask(node: &Node, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(node.address()).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    timeout(SOON, stream.read_to_string(&mut answer)).await.context(format!("no answer from {path}"))??;
    Ok(answer)
}

async fn push_and_pull(node: &Node, name: &str) -> Result<()> {
    let repo = node.registry().repo(name);
    let work = async {
        let pushed = repo.push_image("v1", &[Rng::new(1).bytes(2_000_000).into()]).await?;
        ensure!(repo.pull_image("v1").await? == pushed.digest);
        Ok(())
    };
    timeout(SOON, work).await.context("held up")?
}

#[tokio::test]
async fn idle_connections_shut_nobody_out() -> Result<()> {
    let (node, _turn, _cluster) = flooded(0).await?;
    let _idle = strangers(&node, 1100, "").await?;
    ensure!(ask(&node, "/healthz").await?.starts_with("HTTP/1.1 200 "));
    push_and_pull(&node, "strangers/idle").await
}

#[tokio::test]
async fn slow_uploads_hold_up_no_other() -> Result<()> {
    let (node, _turn, _cluster) = flooded(1).await?;
    let digest = "0".repeat(64);
    let said = format!(
        "POST /v2/strangers/slow/blobs/uploads/?digest=sha256:{digest} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nx"
    );
    let _slow = strangers(&node, 300, &said).await?;
    // All of them have been looked at once a later request is answered.
    ask(&node, "/v2/").await?;
    push_and_pull(&node, "strangers/honest").await
}

/// Half of a body that is announced whole.
const HALF: usize = 300_000;

/// Opens an upload, sends half of a chunk, and falls silent.
async fn stall(node: &Registry, bytes: &[u8]) -> Result<(Upload, TcpStream)> {
    let upload = node.repo("strangers/stalled").open().await?;
    let mut stream = TcpStream::connect(node.address()).await?;
    let head =
        format!("PATCH {} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", upload.location, bytes.len());
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&bytes[..HALF]).await?;
    Ok((upload, stream))
}

/// The stalled request is told that it is over.
async fn is_over(mut stalled: TcpStream) -> Result<()> {
    let mut answer = [0; 12];
    timeout(SOON, stalled.read_exact(&mut answer)).await.context("the stalled request goes on")??;
    ensure!(&answer == b"HTTP/1.1 400", "{}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// More than the steps that a node once had places for.
#[tokio::test]
async fn stalled_chunks_hold_up_nobody_and_give_way_to_a_newer_request() -> Result<()> {
    let (node, _turn, _cluster) = flooded(1).await?;
    let (node, registry) = (&node, node.registry());
    let bytes = Rng::new(280).bytes(2 * HALF);
    let mut stalled = Vec::new();
    for _ in 0..280 / 20 {
        stalled.extend(try_join_all((0..20).map(|_| stall(&registry, &bytes))).await?);
    }
    push_and_pull(node, "strangers/beside").await?;

    let mut stalled = stalled.into_iter();
    let mut next = || stalled.next().context("a stalled upload");
    for method in [Method::GET, Method::HEAD] {
        let (upload, stream) = next()?;
        let answer = timeout(SOON, registry.request(method, &upload.location).send()).await??;
        expect(answer, StatusCode::NO_CONTENT).await.context("a question")?;
        is_over(stream).await?;
    }
    // The whole chunk again, and the end at once.
    for method in [Method::PATCH, Method::PUT] {
        let (upload, stream) = next()?;
        let digest = sha256(&bytes);
        let path = if method == Method::PUT { upload.closing(&digest) } else { upload.location.clone() };
        let again = registry.request(method.clone(), &path).body(bytes.clone());
        let answer = timeout(SOON, again.send()).await.context("held up")??;
        is_over(stream).await?;
        if method == Method::PATCH {
            expect(answer, StatusCode::ACCEPTED).await.context("the chunk again")?;
            expect(upload.put(&registry, &digest, Default::default()).await?, StatusCode::CREATED).await?;
        } else {
            expect(answer, StatusCode::CREATED).await.context("the end")?;
        }
    }
    // And what a client sends that knows what has arrived.
    let (upload, stream) = next()?;
    let asked = timeout(SOON, registry.get(&upload.location)).await.context("held up")??;
    let arrived = expect(asked, StatusCode::NO_CONTENT).await?;
    let range = header(&arrived, "range").context("no Range")?;
    let offset: usize = range.trim_start_matches("0-").parse::<usize>()? + 1;
    ensure!(offset <= HALF, "{offset} of {HALF} bytes are kept");
    is_over(stream).await?;
    let rest = registry.request(Method::PUT, &upload.closing(&sha256(&bytes)));
    let rest = rest.header("content-range", chunk_range(offset as u64, bytes.len() - offset));
    let answer = rest.body(bytes[offset..].to_vec()).send().await?;
    expect(answer, StatusCode::CREATED).await.context("the rest")?;
    Ok(())
}

#[tokio::test]
async fn while_every_connection_is_at_work_probes_are_answered_and_others_told_to_come_back() -> Result<()> {
    let (node, _turn, _cluster) = flooded(2).await?;
    let said = "PUT /v2/strangers/busy/manifests/x HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{";
    let _busy = strangers(&node, 1100, said).await?;
    for path in ["/healthz", "/readyz", "/metrics"] {
        let answer = ask(&node, path).await?;
        ensure!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    }
    let answer = ask(&node, "/v2/_catalog").await?;
    ensure!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: "), "{answer}");
    ensure!(answer.contains(r#"{"errors":[{"code":"UNAVAILABLE""#), "{answer}");
    Ok(())
}
