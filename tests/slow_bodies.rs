//! Clients of one address that take what is shared and give nothing back: those of another are served.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::cluster::Node;
use clawhub_testkit::content::Rng;
use clawhub_testkit::{Cluster, process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Longer than what is served takes on a busy machine, shorter than what would hold it up.
const SOON: Duration = Duration::from_secs(20);
/// Another address than the one that everything else here has.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

async fn node(number: usize) -> Result<(Arc<Cluster>, Node)> {
    process::raise_descriptors();
    let cluster = Cluster::shared().await?;
    let node = cluster.nodes()?.into_iter().nth(number).context("no such node")?;
    Ok((cluster, node))
}

/// Opens connections from elsewhere that each send this much of a request.
async fn strangers(node: &Node, count: usize, said: &str) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::new();
    let address: SocketAddr = node.address().to_string().parse()?;
    for _ in 0..count {
        let socket = TcpSocket::new_v4()?;
        socket.bind((ELSEWHERE, 0).into())?;
        let mut stream = socket.connect(address).await?;
        stream.write_all(said.as_bytes()).await?;
        streams.push(stream);
    }
    Ok(streams)
}

async fn ask(node: &Node, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(node.address()).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    timeout(SOON, stream.read_to_string(&mut answer)).await.context(format!("no answer from {path}"))??;
    Ok(answer)
}

/// Manifests that announce their size, and others that do not: each kind has a memory of its own.
#[tokio::test]
async fn slow_manifests_of_one_address_leave_memory_to_others() -> Result<()> {
    let (_cluster, node) = node(0).await?;
    let said =
        |length: &str| format!("PUT /v2/strangers/whole/manifests/x HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n");
    // More than all of the memory for small bodies, and for large ones.
    let mut slow = strangers(&node, 600, &(said("content-length: 65536") + "{")).await?;
    slow.extend(strangers(&node, 40, &(said("transfer-encoding: chunked") + "1\r\n{\r\n")).await?);
    // All of them have been looked at once a later request is answered.
    ask(&node, "/v2/").await?;
    let repo = node.registry().repo("strangers/others");
    let work = async {
        let pushed = repo.push_image("v1", &[Rng::new(1).bytes(100_000).into()]).await?;
        ensure!(repo.pull_image("v1").await? == pushed.digest);
        Ok(())
    };
    timeout(SOON, work).await.context("held up")??;

    // And none has its part of it for long.
    let late = timeout(Duration::from_secs(60), slow[0].read_u8()).await;
    ensure!(late.context("it is still waited for")?.is_ok(), "it is told why");
    Ok(())
}
