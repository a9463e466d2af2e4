//! Upload sessions: every step may go through another node, a broken one is taken up again, and a
//! wrong one changes nothing.

mod lost;
mod mirrors;
mod repeated;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clawhub_testkit::content::{Content, Rng, sha256};
use clawhub_testkit::oci::{Upload, chunk_range, expect, expect_error, header};
use clawhub_testkit::{Cluster, Registry, Repo, until};
use clawhub_types::Digest;
use reqwest::{Method, Response, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The nodes of the shared cluster, and it: it stops when the last test lets go of it.
async fn nodes() -> Result<(std::sync::Arc<Cluster>, Vec<Registry>)> {
    let cluster = Cluster::shared().await?;
    let nodes = cluster.registries()?;
    Ok((cluster, nodes))
}

/// What a status or chunk answer says has arrived: `Range: 0-<last>` as a count of bytes. Zero bytes and
/// one byte read the same (`0-0`), so the count is known only from two on.
fn arrived(answer: &Response) -> Result<u64> {
    let range = header(answer, "range").context("no Range")?;
    let last: u64 = range.strip_prefix("0-").with_context(|| range.clone())?.parse()?;
    Ok(if last == 0 { 0 } else { last + 1 })
}

async fn status(node: &Registry, upload: &Upload) -> Result<u64> {
    let answer = expect(node.get(&upload.location).await?, StatusCode::NO_CONTENT).await?;
    Upload::of(&answer)?;
    arrived(&answer)
}

#[tokio::test]
async fn each_step_of_an_upload_goes_through_another_node() -> Result<()> {
    let (_cluster, nodes) = nodes().await?;
    let mut turn = nodes.iter().cycle();
    let mut next = move || turn.next().expect("a cycle does not end");
    let bytes = Bytes::from(Rng::new(1).bytes(3_000_000));
    let digest = sha256(&bytes);
    let repo = next().repo("uploads/steps");
    let answer = repo.registry.request(Method::POST, &repo.path("blobs/uploads/")).send().await?;
    let answer = expect(answer, StatusCode::ACCEPTED).await?;
    ensure!(header(&answer, "range").as_deref() == Some("0-0"), "no bytes yet");
    ensure!(header(&answer, "docker-upload-uuid").is_some(), "no Docker-Upload-UUID");
    let mut upload = Upload::of(&answer)?;
    ensure!(upload.location.starts_with("/v2/uploads/steps/blobs/uploads/"), "{upload:?}");
    let mut sent = 0;
    for (i, len) in [1, 65_535, 65_536, 700_001, 1_234_567].into_iter().enumerate() {
        let chunk = bytes.slice(sent..sent + len);
        // Some clients say where a chunk belongs, most do not.
        let start = (i % 2 == 0).then_some(sent as u64);
        let answer = expect(upload.patch(next(), start, chunk).await?, StatusCode::ACCEPTED).await?;
        sent += len;
        ensure!(header(&answer, "range") == Some(format!("0-{}", sent - 1)), "{answer:?}");
        upload = Upload::of(&answer)?;
        if sent > 1 {
            ensure!(status(next(), &upload).await? == sent as u64);
        }
    }
    let answer = upload.put(next(), &digest, bytes.slice(sent..)).await?;
    let answer = expect(answer, StatusCode::CREATED).await?;
    let location = header(&answer, "location").context("no Location")?;
    for node in &nodes {
        ensure!(expect(node.get(&location).await?, StatusCode::OK).await?.bytes().await? == bytes);
        let answer = node.get(&upload.location).await?;
        ensure!(expect_error(answer, StatusCode::NOT_FOUND).await? == ["BLOB_UPLOAD_UNKNOWN"]);
    }
    Ok(())
}

#[tokio::test]
async fn one_request_is_enough_for_a_blob() -> Result<()> {
    let (_cluster, nodes) = nodes().await?;
    let repo = nodes[0].repo("uploads/single");
    for len in [0, 1, 100_000] {
        let bytes = Rng::new(2).bytes(len);
        let digest = sha256(&bytes);
        let path = repo.path(&format!("blobs/uploads/?digest={digest}"));
        let answer = nodes[0].request(Method::POST, &path).body(bytes.clone()).send().await?;
        expect(answer, StatusCode::CREATED).await?;
        for node in &nodes {
            ensure!(repo.on(node).pull_blob(&digest).await? == bytes, "{len} bytes");
        }
    }
    Ok(())
}

#[tokio::test]
async fn two_uploads_of_the_same_bytes_both_succeed() -> Result<()> {
    let (_cluster, nodes) = nodes().await?;
    let repo = nodes[0].repo("uploads/twins");
    let bytes = Bytes::from(Rng::new(3).bytes(2_000_000));
    let pushes = nodes.iter().chain(&nodes).map(|node| {
        let (repo, bytes) = (repo.on(node), bytes.clone());
        async move { repo.push_blob(bytes).await }
    });
    let digests = futures::future::try_join_all(pushes).await?;
    ensure!(digests.iter().all(|digest| *digest == sha256(&bytes)));
    ensure!(repo.pull_blob(&digests[0]).await? == bytes);
    Ok(())
}

/// Sends the head of a PATCH and `bytes` of the `announced` body, then goes away without a word.
async fn break_off(node: &Registry, upload: &Upload, announced: u64, bytes: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(node.address()).await?;
    let head = format!(
        "PATCH {} HTTP/1.1\r\nHost: {}\r\nContent-Length: {announced}\r\n\r\n",
        upload.location,
        node.address()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(bytes).await?;
    stream.flush().await?;
    drop(stream);
    Ok(())
}

#[tokio::test]
async fn an_upload_that_broke_off_is_taken_up_through_another_node() -> Result<()> {
    let (_cluster, nodes) = nodes().await?;
    let content = Content { seed: 4, len: 24 << 20 };
    let repo = nodes[0].repo("uploads/resumed");
    let upload = repo.open().await?;
    break_off(&nodes[0], &upload, content.len, &content.at(0, 16 << 20)).await?;
    let other = &nodes[nodes.len() - 1];
    // The node keeps what it had when the client went: it says how much, and stays with it.
    let offset = until("the session to be free", Duration::from_secs(20), || async {
        let answer = other.get(&upload.location).await?;
        (answer.status() == StatusCode::NO_CONTENT).then(|| arrived(&answer)).transpose()
    })
    .await?;
    ensure!(offset <= 16 << 20, "more than was sent: {offset}");
    // The broken request may still be ending; a chunk at the wrong place says so and changes nothing.
    let closed = until("the rest to be taken", Duration::from_secs(20), || async {
        let offset = status(other, &upload).await?;
        let rest = content.bytes().slice(usize::try_from(offset)?..);
        let answer = upload.patch(other, Some(offset), rest).await?;
        Ok((answer.status() == StatusCode::ACCEPTED).then_some(answer))
    })
    .await?;
    ensure!(arrived(&closed)? == content.len);
    let digest = content.digest();
    expect(upload.put(&nodes[0], &digest, Bytes::new()).await?, StatusCode::CREATED).await?;
    for node in &nodes {
        repo.on(node).pull_blob(&digest).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_stalls_holds_up_nobody_else() -> Result<()> {
    let (_cluster, nodes) = nodes().await?;
    let repo = nodes[0].repo("uploads/stalled");
    let upload = repo.open().await?;
    let mut stalled = TcpStream::connect(nodes[0].address()).await?;
    let path = &upload.location;
    let head = format!("PATCH {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf");
    stalled.write_all(head.as_bytes()).await?;
    for node in &nodes {
        let there = repo.on(node);
        let push = there.push_blob(Rng::new(5).bytes(100_000));
        tokio::time::timeout(Duration::from_secs(10), push).await.context("stalled")??;
    }
    Ok(())
}

async fn open_with(repo: &Repo, bytes: &[u8]) -> Result<Upload> {
    let upload = repo.open().await?;
    let answer = upload.patch(&repo.registry, None, Bytes::copy_from_slice(bytes)).await?;
    Upload::of(&expect(answer, StatusCode::ACCEPTED).await?)
}

#[tokio::test]
async fn a_chunk_out_of_order_changes_nothing() -> Result<()> {
    let (_cluster, nodes) = nodes().await?;
    let repo = nodes[0].repo("uploads/order");
    let other = &nodes[nodes.len() - 1];
    let bytes = Bytes::from(Rng::new(6).bytes(1000));
    let upload = open_with(&repo, &bytes[..100]).await?;
    let codes = |answer| expect_error(answer, StatusCode::RANGE_NOT_SATISFIABLE);
    for start in [0, 50, 101, 500] {
        let answer = upload.patch(other, Some(start), bytes.slice(100..200)).await?;
        ensure!(codes(answer).await? == ["BLOB_UPLOAD_INVALID"], "start {start}");
        ensure!(status(other, &upload).await? == 100);
    }
    let digest = sha256(&bytes);
    let put = other.request(Method::PUT, &upload.closing(&digest));
    let put = put.header("content-range", chunk_range(300, 700)).body(bytes.slice(300..)).send().await?;
    ensure!(codes(put).await? == ["BLOB_UPLOAD_INVALID"]);
    // A status request with a digest left over from a failed close is still a status request.
    let left_over = Upload { location: upload.closing(&digest) };
    ensure!(status(other, &left_over).await? == 100);
    expect(upload.put(other, &digest, bytes.slice(100..)).await?, StatusCode::CREATED).await?;
    Ok(())
}

#[tokio::test]
async fn malformed_chunks_are_refused_and_the_session_lives() -> Result<()> {
    let (_cluster, nodes) = nodes().await?;
    let repo = nodes[0].repo("uploads/malformed");
    let other = &nodes[nodes.len() - 1];
    let bytes = Bytes::from(Rng::new(7).bytes(1000));
    let upload = open_with(&repo, &bytes[..100]).await?;
    for range in ["bytes 100-199", "100-199/1000", "100", "100-", "-199", "199-100", "a-b", "100-200"] {
        for method in [Method::PATCH, Method::PUT] {
            let location =
                if method == Method::PUT { upload.closing(&sha256(&bytes)) } else { upload.location.clone() };
            let request = other.request(method, &location).header("content-range", range);
            let answer = request.body(bytes.slice(100..200)).send().await?;
            ensure!(answer.status().is_client_error(), "{range}: {}", answer.status());
            let code = answer.status();
            expect_error(answer, code).await.with_context(|| range.to_owned())?;
            ensure!(status(&nodes[0], &upload).await? == 100, "{range}");
        }
    }
    // One byte short of what the range says.
    let request = other.request(Method::PATCH, &upload.location).header("content-range", "100-200");
    let answer = request.body(bytes.slice(100..200)).send().await?;
    ensure!(expect_error(answer, StatusCode::BAD_REQUEST).await? == ["SIZE_INVALID"]);
    expect(upload.put(&nodes[0], &sha256(&bytes), bytes.slice(100..)).await?, StatusCode::CREATED).await?;
    Ok(())
}

#[tokio::test]
async fn a_blob_that_is_not_what_it_was_said_to_be_is_refused() -> Result<()> {
    let (_cluster, nodes) = nodes().await?;
    let repo = nodes[0].repo("uploads/mismatch");
    let wrong = sha256(b"something else");
    let bad = |answer| expect_error(answer, StatusCode::BAD_REQUEST);
    let upload = open_with(&repo, b"these bytes").await?;
    ensure!(bad(upload.put(&nodes[0], &wrong, Bytes::new()).await?).await? == ["DIGEST_INVALID"]);
    let path = repo.path(&format!("blobs/uploads/?digest={wrong}"));
    let answer = nodes[0].request(Method::POST, &path).body("these bytes").send().await?;
    ensure!(bad(answer).await? == ["DIGEST_INVALID"]);
    for query in ["", "?digest=", "?digest=sha256:abc", "?digest=md5:d41d8cd98f00b204e9800998ecf8427e"] {
        let upload = open_with(&repo, b"these bytes").await?;
        let separator =
            if upload.location.contains('?') { query.replace('?', "&") } else { query.to_owned() };
        let path = format!("{}{separator}", upload.location);
        let answer = nodes[0].request(Method::PUT, &path).send().await?;
        ensure!(bad(answer).await? == ["DIGEST_INVALID"], "{query:?}");
    }
    for node in &nodes {
        let answer = node.get(&repo.path(&format!("blobs/{wrong}"))).await?;
        expect_error(answer, StatusCode::NOT_FOUND).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_upload_is_cancelled_through_any_node() -> Result<()> {
    let (_cluster, nodes) = nodes().await?;
    let repo = nodes[0].repo("uploads/cancelled");
    let upload = open_with(&repo, b"some bytes").await?;
    let other = &nodes[nodes.len() - 1];
    expect(other.delete(&upload.location).await?, StatusCode::NO_CONTENT).await?;
    let unknown = |answer| expect_error(answer, StatusCode::NOT_FOUND);
    for node in &nodes {
        let digest: Digest = sha256(b"some bytes");
        let put = upload.put(node, &digest, Bytes::new()).await?;
        ensure!(unknown(put).await? == ["BLOB_UPLOAD_UNKNOWN"]);
        let patch = upload.patch(node, None, Bytes::from_static(b"more")).await?;
        ensure!(unknown(patch).await? == ["BLOB_UPLOAD_UNKNOWN"]);
        ensure!(unknown(node.get(&upload.location).await?).await? == ["BLOB_UPLOAD_UNKNOWN"]);
        ensure!(unknown(node.delete(&upload.location).await?).await? == ["BLOB_UPLOAD_UNKNOWN"]);
    }
    Ok(())
}

#[tokio::test]
async fn a_session_belongs_to_its_repository() -> Result<()> {
    let (_cluster, nodes) = nodes().await?;
    let upload = open_with(&nodes[0].repo("uploads/owner"), b"bytes").await?;
    let elsewhere = upload.location.replace("uploads/owner", "uploads/thief");
    for node in &nodes {
        let answer = node.get(&elsewhere).await?;
        ensure!(expect_error(answer, StatusCode::NOT_FOUND).await? == ["BLOB_UPLOAD_UNKNOWN"]);
    }
    Ok(())
}

#[tokio::test]
async fn a_client_may_wait_to_be_asked_for_the_body() -> Result<()> {
    let (_cluster, nodes) = nodes().await?;
    let repo = nodes[0].repo("uploads/expect");
    let upload = repo.open().await?;
    let mut stream = TcpStream::connect(nodes[0].address()).await?;
    let head = format!(
        "PATCH {} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
        upload.location
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = [0; 25];
    tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut answer)).await??;
    ensure!(answer.starts_with(b"HTTP/1.1 100 "), "{}", String::from_utf8_lossy(&answer));
    stream.write_all(b"body").await?;
    let mut answer = [0; 12];
    tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut answer)).await??;
    ensure!(&answer == b"HTTP/1.1 202", "{}", String::from_utf8_lossy(&answer));
    Ok(())
}
