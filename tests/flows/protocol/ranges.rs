//! Parts of blobs: one range, many, none that fit; through a node that has to fetch them first.

use std::ops::Range;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clawhub_testkit::content::Rng;
use clawhub_testkit::oci::{expect, header};
use clawhub_testkit::{Cluster, Registry};
use reqwest::{Method, Response, StatusCode};

/// Three groups of 64 KiB and a short one.
const LEN: usize = 3 * 65_536 + 1000;

struct Blob {
    _cluster: std::sync::Arc<Cluster>,
    nodes: Vec<Registry>,
    path: String,
    digest: String,
    bytes: Bytes,
}

async fn blob(name: &str, len: usize) -> Result<Blob> {
    let cluster = Cluster::shared().await?;
    let nodes = cluster.registries()?;
    let repo = nodes[0].repo(name);
    let bytes = Bytes::from(Rng::new(len as u64).bytes(len));
    let digest = repo.push_blob(bytes.clone()).await?.to_string();
    Ok(Blob { _cluster: cluster, nodes, path: repo.path(&format!("blobs/{digest}")), digest, bytes })
}

async fn get(node: &Registry, blob: &Blob, range: &str) -> Result<Response> {
    Ok(node.request(Method::GET, &blob.path).header("range", range).send().await?)
}

#[tokio::test]
async fn one_range_is_one_part() -> Result<()> {
    let blob = blob("ranges/one", LEN).await?;
    let end = LEN - 1;
    let cases: Vec<(String, Range<usize>)> = vec![
        ("bytes=0-0".into(), 0..1),
        ("bytes=0-65535".into(), 0..65_536),
        ("bytes=65535-65536".into(), 65_535..65_537),
        (format!("bytes=100-{}", LEN * 9), 100..LEN),
        ("bytes=131073-".into(), 131_073..LEN),
        ("bytes=-1".into(), end..LEN),
        (format!("bytes=-{}", LEN * 9), 0..LEN),
        (format!("bytes={end}-{end}"), end..LEN),
        ("bytes=0-".into(), 0..LEN),
    ];
    for node in &blob.nodes {
        for (range, expected) in &cases {
            let answer = expect(get(node, &blob, range).await?, StatusCode::PARTIAL_CONTENT).await?;
            let told = format!("bytes {}-{}/{LEN}", expected.start, expected.end - 1);
            ensure!(header(&answer, "content-range") == Some(told), "{range}");
            ensure!(header(&answer, "content-length") == Some(expected.len().to_string()), "{range}");
            ensure!(answer.bytes().await? == blob.bytes[expected.clone()], "{range}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_range_that_does_not_fit_is_416() -> Result<()> {
    let blob = blob("ranges/unfit", LEN).await?;
    for node in &blob.nodes {
        for range in
            ["bytes=500-0", &format!("bytes={LEN}-"), "bytes=-0", &format!("bytes={LEN}-{}", LEN + 5)]
        {
            let answer = get(node, &blob, range).await?;
            ensure!(answer.status() == StatusCode::RANGE_NOT_SATISFIABLE, "{range}: {}", answer.status());
            ensure!(header(&answer, "content-range") == Some(format!("bytes */{LEN}")), "{range}");
        }
        // Another unit is not a range of bytes: the whole is the answer.
        let answer = expect(get(node, &blob, "lines=1-2").await?, StatusCode::OK).await?;
        ensure!(answer.bytes().await? == blob.bytes);
    }
    Ok(())
}

/// The parts of a `multipart/byteranges` answer: where each says it lies, and its bytes.
async fn parts(answer: Response) -> Result<Vec<(String, Bytes)>> {
    let media_type = header(&answer, "content-type").unwrap_or_default();
    let boundary = media_type.strip_prefix("multipart/byteranges; boundary=").context(media_type.clone())?;
    let delimiter = format!("--{}", boundary.trim_matches('"'));
    let length = answer.content_length();
    let body = answer.bytes().await?;
    ensure!(length == Some(body.len() as u64), "Content-Length {length:?} of {}", body.len());
    let find = |from: usize, what: &[u8]| {
        body[from..].windows(what.len()).position(|w| w == what).map(|at| from + at)
    };
    let mut found = Vec::new();
    let mut at = find(0, delimiter.as_bytes()).context("no first part")? + delimiter.len();
    while !body[at..].starts_with(b"--") {
        let head_end = find(at, b"\r\n\r\n").context("a part without an end of its head")?;
        let head = String::from_utf8_lossy(&body[at..head_end]).to_lowercase();
        let place = head.lines().find_map(|line| line.strip_prefix("content-range: bytes "));
        let place = place.with_context(|| format!("no Content-Range in {head}"))?.to_owned();
        let (start, end) = place.split('/').next().and_then(|p| p.split_once('-')).context("a range")?;
        let len = end.parse::<usize>()? + 1 - start.parse::<usize>()?;
        let from = head_end + 4;
        found.push((place, body.slice(from..from + len)));
        let tail = format!("\r\n{delimiter}");
        ensure!(body[from + len..].starts_with(tail.as_bytes()), "no delimiter after a part");
        at = from + len + tail.len();
    }
    Ok(found)
}

async fn check(blob: &Blob, ranges: &[Range<usize>]) -> Result<()> {
    let text: Vec<String> = ranges.iter().map(|r| format!("{}-{}", r.start, r.end - 1)).collect();
    let header = format!("bytes={}", text.join(","));
    for node in &blob.nodes {
        let answer = expect(get(node, blob, &header).await?, StatusCode::PARTIAL_CONTENT).await?;
        let parts = parts(answer).await?;
        ensure!(parts.len() == ranges.len(), "{} parts for {} ranges", parts.len(), ranges.len());
        for ((place, bytes), range) in parts.iter().zip(ranges) {
            ensure!(*place == format!("{}-{}/{}", range.start, range.end - 1, blob.bytes.len()), "{place}");
            ensure!(*bytes == blob.bytes[range.clone()], "{place}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn several_ranges_are_as_many_parts_in_the_order_asked() -> Result<()> {
    let blob = blob("ranges/many", LEN).await?;
    check(&blob, &[0..10, 20..30]).await?;
    check(&blob, &[131_000..131_200, 5..6, 65_530..65_540, LEN - 3..LEN]).await?;
    // Neighbours and overlaps stay apart: clients count the parts.
    check(&blob, &[0..100, 100..200, 50..150]).await?;
    Ok(())
}

#[tokio::test]
async fn as_many_ranges_as_a_chunked_image_needs() -> Result<()> {
    let blob = blob("ranges/thousand", 1 << 20).await?;
    // podman asks for up to 1,024 at once.
    let ranges: Vec<Range<usize>> = (0..1024).map(|i| i * 1024..i * 1024 + 700).collect();
    check(&blob, &ranges).await
}

#[tokio::test]
async fn what_does_not_fit_among_several_is_left_out() -> Result<()> {
    let blob = blob("ranges/mixed", LEN).await?;
    for node in &blob.nodes {
        let mixed = format!("bytes=0-9,{LEN}-,20-29");
        let answer = expect(get(node, &blob, &mixed).await?, StatusCode::PARTIAL_CONTENT).await?;
        let places: Vec<String> = parts(answer).await?.into_iter().map(|(place, _)| place).collect();
        ensure!(places == [format!("0-9/{LEN}"), format!("20-29/{LEN}")], "{places:?}");
        let none = format!("bytes={LEN}-,{}-", LEN + 1);
        let answer = get(node, &blob, &none).await?;
        ensure!(answer.status() == StatusCode::RANGE_NOT_SATISFIABLE);
    }
    Ok(())
}

#[tokio::test]
async fn a_head_tells_what_a_get_would_send() -> Result<()> {
    for len in [0, 1, LEN] {
        let blob = blob(&format!("ranges/head-{len}"), len).await?;
        for node in &blob.nodes {
            let answer = expect(node.head(&blob.path).await?, StatusCode::OK).await?;
            for (name, value) in [
                ("content-length", len.to_string()),
                ("docker-content-digest", blob.digest.clone()),
                ("content-type", "application/octet-stream".to_owned()),
                ("accept-ranges", "bytes".to_owned()),
                ("etag", format!("\"{}\"", blob.digest)),
            ] {
                ensure!(header(&answer, name) == Some(value), "{name} of {len} bytes: {answer:?}");
            }
            for known in [format!("\"{}\"", blob.digest), blob.digest.clone()] {
                let request = node.request(Method::GET, &blob.path).header("if-none-match", known);
                ensure!(request.send().await?.status() == StatusCode::NOT_MODIFIED);
            }
        }
    }
    Ok(())
}
