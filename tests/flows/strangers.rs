//! Strangers that take what they can of a node, in one way each: everybody else is served.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::cluster::{Node, Shared};
use clawhub_testkit::content::Rng;
use clawhub_testkit::{Cluster, process};
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
