//! Requests of an upload that a client or a proxy sends again because their answers were lost or never came.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clawhub_testkit::cluster::Options;
use clawhub_testkit::content::{Rng, sha256};
use clawhub_testkit::oci::{Upload, expect, expect_error};
use clawhub_testkit::{Registry, Repo, process, until};
use futures::future::{join, try_join_all};
use reqwest::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::{arrived, nodes, status};

const LEN: usize = 5_000_000;

/// Sends the head of a request and the first of its `LEN` bytes.
async fn begin(node: &Registry, method: &str, path: &str, bytes: &[u8]) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(node.address()).await?;
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {LEN}\r\n\r\n", node.address());
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(bytes).await?;
    stream.flush().await?;
    Ok(stream)
}

/// Every node serves the blob whole.
async fn is_whole(repo: &Repo, nodes: &[Registry], bytes: &Bytes) -> Result<()> {
    for node in nodes {
        ensure!(repo.on(node).pull_blob(&sha256(bytes)).await? == bytes, "through {}", node.address());
    }
    Ok(())
}

#[tokio::test]
async fn a_whole_body_that_broke_off_is_sent_again_to_the_same_address() -> Result<()> {
    let (_cluster, nodes) = nodes().await?;
    let repo = nodes[0].repo("uploads/again");
    let mut seed = 100;
    for (before, after) in [(0, 0), (0, 1), (1, 0), (1, 2)] {
        let (before, after) = (&nodes[before % nodes.len()], &nodes[after % nodes.len()]);
        for method in ["PUT", "PATCH"] {
            seed += 1;
            let bytes = Bytes::from(Rng::new(seed).bytes(LEN));
            let digest = sha256(&bytes);
            let upload = repo.open().await?;
            let path = if method == "PUT" { upload.closing(&digest) } else { upload.location.clone() };
            drop(begin(before, method, &path, &bytes[..3_100_000]).await?);
            // A connection that dies without a word, and a second try that breaks off too.
            let silent = begin(before, method, &path, &bytes[..1_000_000]).await?;
            let what = format!("{method} through {} and {}", before.address(), after.address());
            let answer = if method == "PUT" {
                upload.put(after, &digest, bytes.clone()).await?
            } else {
                let patched = upload.patch(after, None, bytes.clone()).await?;
                let patched = expect(patched, StatusCode::ACCEPTED).await.with_context(|| what.clone())?;
                ensure!(arrived(&patched)? == LEN as u64, "{what}: {patched:?}");
                upload.put(before, &digest, Bytes::new()).await?
            };
            expect(answer, StatusCode::CREATED).await.with_context(|| what.clone())?;
            drop(silent);
            is_whole(&repo, &nodes, &bytes).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_falls_silent_holds_up_no_newer_request_of_its_upload() -> Result<()> {
    let (_cluster, nodes) = nodes().await?;
    let repo = nodes[0].repo("uploads/silent");
    for (seed, node) in (200..).zip(&nodes) {
        let bytes = Bytes::from(Rng::new(seed).bytes(LEN));
        let upload = repo.open().await?;
        let mut stalled = begin(&nodes[0], "PATCH", &upload.location, &bytes[..LEN / 2]).await?;
        // It has begun: a question that comes before it would be no test of this.
        sleep(Duration::from_millis(300)).await;
        let asked = Instant::now();
        let offset = usize::try_from(status(node, &upload).await?)?;
        ensure!(asked.elapsed() < Duration::from_secs(5), "{:?} for a question", asked.elapsed());
        ensure!(offset > 0 && offset <= LEN / 2, "{offset} of {} bytes are kept", LEN / 2);
        let rest = upload.patch(node, Some(offset as u64), bytes.slice(offset..)).await?;
        expect(rest, StatusCode::ACCEPTED).await?;
        let mut answer = [0; 12];
        timeout(Duration::from_secs(10), stalled.read_exact(&mut answer)).await??;
        ensure!(&answer == b"HTTP/1.1 400", "{}", String::from_utf8_lossy(&answer));
        let answer = upload.put(node, &sha256(&bytes), Bytes::new()).await?;
        expect(answer, StatusCode::CREATED).await?;
        is_whole(&repo, &nodes, &bytes).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_closing_request_that_comes_twice_succeeds_twice() -> Result<()> {
    let (_cluster, nodes) = nodes().await?;
    let repo = nodes[0].repo("uploads/twice");
    for round in 0..6 {
        let bytes = Bytes::from(Rng::new(300 + round).bytes(LEN));
        let digest = sha256(&bytes);
        let upload = repo.open().await?;
        let chunked = round % 2 == 0;
        if chunked {
            expect(upload.patch(&nodes[0], None, bytes.clone()).await?, StatusCode::ACCEPTED).await?;
        }
        let last = || if chunked { Bytes::new() } else { bytes.clone() };
        let other = &nodes[round as usize % nodes.len()];
        let later = async {
            sleep(Duration::from_millis(2)).await;
            upload.put(other, &digest, last()).await
        };
        let (one, two) = join(upload.put(&nodes[0], &digest, last()), later).await;
        for answer in [one?, two?, upload.put(other, &digest, last()).await?] {
            expect(answer, StatusCode::CREATED).await.with_context(|| format!("round {round}"))?;
        }
        is_whole(&repo, &nodes, &bytes).await?;
        let unknown = upload.put(other, &sha256(b"other"), Bytes::new()).await?;
        ensure!(expect_error(unknown, StatusCode::NOT_FOUND).await? == ["BLOB_UPLOAD_UNKNOWN"]);
        let question = other.get(&upload.location).await?;
        ensure!(expect_error(question, StatusCode::NOT_FOUND).await? == ["BLOB_UPLOAD_UNKNOWN"]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closing_request_is_repeated_after_every_node_has_restarted() -> Result<()> {
    let cluster = Options::new(3).no_restart().start().await?;
    let nodes = cluster.nodes()?;
    let repo = nodes[0].registry().repo("uploads/restarted");
    let bytes = Bytes::from(Rng::new(400).bytes(LEN));
    let digest = sha256(&bytes);
    let (closed, broken) = (repo.open().await?, repo.open().await?);
    expect(closed.put(&nodes[0].registry(), &digest, bytes.clone()).await?, StatusCode::CREATED).await?;
    drop(begin(&nodes[0].registry(), "PATCH", &broken.location, &bytes[..LEN / 2]).await?);
    // The node has noticed that the client left, and has kept what had come.
    sleep(Duration::from_secs(1)).await;
    let pids = nodes.iter().map(|node| node.process()).collect::<Result<Vec<_>>>()?;
    for pid in &pids {
        process::kill(*pid)?;
    }
    until("every node to have ended", Duration::from_secs(20), || async {
        Ok((!pids.iter().any(|pid| process::alive(*pid))).then_some(()))
    })
    .await?;
    // None of them is ready without another.
    try_join_all(nodes.iter().map(|node| cluster.serve(&node.config, node.address()))).await?;
    cluster.ready().await?;
    for node in &nodes {
        let node = node.registry();
        for last in [Bytes::new(), bytes.clone()] {
            let again = closed.put(&node, &digest, last).await?;
            expect(again, StatusCode::CREATED).await.with_context(|| node.address().to_owned())?;
        }
    }
    // What broke off before is sent again whole, too.
    let node = nodes[1].registry();
    expect(broken.patch(&node, None, bytes.clone()).await?, StatusCode::ACCEPTED).await?;
    expect(broken.put(&node, &digest, Bytes::new()).await?, StatusCode::CREATED).await?;
    Ok(())
}

/// An answer to a question tells the client what has arrived; without one it sends everything again.
#[tokio::test]
async fn a_chunk_without_a_place_follows_what_its_client_was_told() -> Result<()> {
    let (_cluster, nodes) = nodes().await?;
    let repo = nodes[0].repo("uploads/told");
    let other = &nodes[nodes.len() - 1];
    let bytes = Bytes::from(Rng::new(500).bytes(LEN));
    let half = LEN / 2;
    let upload = repo.open().await?;
    drop(begin(&nodes[0], "PATCH", &upload.location, &bytes[..half]).await?);
    let offset = usize::try_from(status(other, &upload).await?)?;
    ensure!(offset <= half);
    let answer = upload.patch(other, None, bytes.slice(offset..half)).await?;
    ensure!(arrived(&expect(answer, StatusCode::ACCEPTED).await?)? == half as u64);
    // This one breaks off, and is sent again whole: what the last answer named stays.
    drop(begin(other, "PATCH", &upload.location, &bytes[half..half + 2_000_000]).await?);
    let upload = Upload { location: upload.location };
    let answer = upload.put(&nodes[0], &sha256(&bytes), bytes.slice(half..)).await?;
    expect(answer, StatusCode::CREATED).await?;
    is_whole(&repo, &nodes, &bytes).await
}
