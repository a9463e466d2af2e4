//! Blobs over the API: pushed in every way, read whole, in parts and on conditions.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod support;

use axum::body::Body;
use bytes::Bytes;
use clawhub_auth::Authorizer;
use futures::stream;
use support::{Answer, Client, Cluster, sha256};

/// A body that does not say how long it is.
fn chunked(bytes: &[u8]) -> Body {
    let chunks: Vec<_> =
        bytes.chunks(4).map(|c| Ok::<_, std::io::Error>(Bytes::copy_from_slice(c))).collect();
    Body::from_stream(stream::iter(chunks))
}

/// Opens an upload session and returns its location.
async fn open(client: &Client, repo: &str) -> String {
    let answer = client.expect("POST", &format!("/v2/{repo}/blobs/uploads/"), 202).await;
    session(&answer, 0);
    assert_eq!(answer.header("content-length"), "0");
    let location = answer.header("location").to_owned();
    assert!(
        location.starts_with(&format!("/v2/{repo}/blobs/uploads/")) && !location.contains('?'),
        "{location}"
    );
    location
}

/// Checks what an answer says about a session that goes on.
fn session(answer: &Answer, offset: usize) {
    assert_eq!(answer.header("range"), format!("0-{}", offset.saturating_sub(1)));
    assert!(answer.header("location").ends_with(answer.header("docker-upload-uuid")), "{answer:?}");
}

fn created(answer: &Answer, location: &str) {
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.header("location"), location);
    assert!(location.ends_with(answer.header("docker-content-digest")), "{answer:?}");
}

#[tokio::test]
async fn a_blob_can_be_pushed_in_every_way() {
    let cluster = Cluster::start(Authorizer::Open).await;
    let client = cluster.client();
    let repo = "ways/of/pushing";
    for (way, bytes) in
        [b"monolithic".as_slice(), b"streamed in one", b"chunk by chunk", b""].iter().enumerate()
    {
        let digest = sha256(bytes);
        let location = open(&client, repo).await;
        let put = format!("{location}?digest={digest}");
        let answer = match way {
            0 => client.send("PUT", &put, &[("content-type", "application/json")], bytes.to_vec()).await,
            1 => {
                session(&client.send("PATCH", &location, &[], chunked(bytes)).await, bytes.len());
                client.send("PUT", &put, &[], Body::empty()).await
            }
            2 => {
                let first =
                    client.send("PATCH", &location, &[("content-range", "0-4")], bytes[..5].to_vec()).await;
                session(&first, 5);
                client.send("PUT", &put, &[("content-range", "5-13")], chunked(&bytes[5..])).await
            }
            _ => client.send("PUT", &put, &[], Body::empty()).await,
        };
        let blob = format!("/v2/{repo}/blobs/{digest}");
        created(&answer, &blob);
        let read = client.expect("GET", &blob, 200).await;
        assert_eq!(read.body, *bytes);
        let head = client.expect("HEAD", &blob, 200).await;
        for answer in [read, head] {
            assert_eq!(answer.header("content-length"), bytes.len().to_string());
            assert_eq!(answer.header("content-type"), "application/octet-stream");
            assert_eq!(answer.header("docker-content-digest"), digest.to_string());
            assert_eq!(answer.header("etag"), format!("\"{digest}\""));
            assert_eq!(answer.header("accept-ranges"), "bytes");
        }
        client.get(&location).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
        client.expect("DELETE", &blob, 202).await;
        client.get(&blob).await.refused(404, "BLOB_UNKNOWN");
    }
}

#[tokio::test]
async fn both_algorithms_push_in_one_request() {
    let cluster = Cluster::start(Authorizer::Open).await;
    let client = cluster.client();
    let sha512 = "sha512:ee26b0dd4af7e749aa1a8ee3c10ae9923f618980772e473f8819a5d4940e0db27ac185f8a0e1d5f84f88bc8\
                  87fd67b143732c304cc5fa9ad8e6f57f50028a8ff";
    for digest in [sha256(b"test").to_string(), sha512.to_owned()] {
        let answer = client.send("POST", &format!("/v2/a/blobs/uploads?digest={digest}"), &[], "test").await;
        created(&answer, &format!("/v2/a/blobs/{digest}"));
        assert_eq!(client.get(&format!("/v2/a/blobs/{digest}")).await.body, "test");
        let bad = client.send("POST", &format!("/v2/a/blobs/uploads?digest={digest}"), &[], "tests").await;
        bad.refused(400, "DIGEST_INVALID");
    }
    client.expect("POST", "/v2/a/blobs/uploads/?digest-algorithm=sha512", 202).await;
    for query in ["digest-algorithm=md5", "digest=sha256:abc", "digest=", "mount=sha256:abc&from=a"] {
        let path = format!("/v2/a/blobs/uploads/?{query}");
        client.send("POST", &path, &[], Body::empty()).await.refused(400, "DIGEST_INVALID");
    }
}

#[tokio::test]
async fn a_bad_chunk_changes_nothing() {
    let cluster = Cluster::start(Authorizer::Open).await;
    let client = cluster.client();
    let location = open(&client, "a/b").await;
    let patch = |range: &'static str, body: &'static str| {
        let (client, location) = (client.clone(), location.clone());
        async move { client.send("PATCH", &location, &[("content-range", range)], body).await }
    };
    session(&patch("0-3", "abcd").await, 4);
    for (range, body) in [("0-3", "abcd"), ("8-11", "abcd"), ("3-6", "abcd")] {
        let answer = patch(range, body).await;
        answer.refused(416, "BLOB_UPLOAD_INVALID");
        session(&answer, 4);
    }
    patch("4-7", "abc").await.refused(400, "SIZE_INVALID");
    patch("bytes 4-7/8", "abcd").await.refused(400, "BLOB_UPLOAD_INVALID");
    let digest = sha256(b"abcdefgh");
    let put = format!("{location}?digest={digest}");
    client.send("PUT", &put, &[("content-range", "5-8")], "efgh").await.refused(416, "BLOB_UPLOAD_INVALID");
    client.send("PUT", &location, &[], "efgh").await.refused(400, "DIGEST_INVALID");
    client
        .send("PUT", &format!("{location}?digest=sha256:1"), &[], "efgh")
        .await
        .refused(400, "DIGEST_INVALID");
    // A status with a left-over digest is still a status.
    session(&client.expect("GET", &put, 204).await, 4);
    session(&patch("4-7", "efgh").await, 8);
    let wrong = format!("{location}?digest={}", sha256(b"something else"));
    client.send("PUT", &wrong, &[], Body::empty()).await.refused(400, "DIGEST_INVALID");
    created(
        &client.send("PUT", &format!("{wrong}&digest={digest}"), &[], "").await,
        &format!("/v2/a/b/blobs/{digest}"),
    );
}

#[tokio::test]
async fn a_session_can_be_cancelled_and_is_its_repositorys_own() {
    let cluster = Cluster::start(Authorizer::Open).await;
    let client = cluster.client();
    let location = open(&client, "a/b").await;
    let elsewhere = location.replace("/v2/a/b/", "/v2/a/c/");
    for method in ["GET", "PATCH", "DELETE"] {
        client.send(method, &elsewhere, &[], "x").await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    }
    client.expect("DELETE", &format!("{location}/"), 204).await;
    for method in ["GET", "PATCH", "DELETE"] {
        client.send(method, &location, &[], "x").await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    }
    client.get("/v2/a/b/blobs/uploads/nonsense").await.refused(404, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn a_mount_that_fails_opens_a_session() {
    let cluster = Cluster::start(Authorizer::Open).await;
    let client = cluster.client();
    let digest = client.push_blob("source/a", b"shared").await;
    let mount = |query: String| {
        let client = client.clone();
        async move {
            client.send("POST", &format!("/v2/target/b/blobs/uploads/?{query}"), &[], Body::empty()).await
        }
    };
    for query in [
        format!("mount={}&from=source/a", sha256(b"absent")),
        format!("mount={digest}&from=source/absent"),
        format!("mount={digest}&from=Not%20A%20Name"),
        format!("mount={digest}&from="),
    ] {
        let answer = mount(query.clone()).await;
        assert_eq!(answer.status, 202, "{query}: {answer:?}");
        session(&answer, 0);
    }
    let blob = format!("/v2/target/b/blobs/{digest}");
    client.expect("HEAD", &blob, 404).await;
    created(&mount(format!("mount={digest}&from=source%2Fa")).await, &blob);
    assert_eq!(client.get(&blob).await.body, "shared");
}

#[tokio::test]
async fn ranges_are_sent_as_asked() {
    let cluster = Cluster::start(Authorizer::Open).await;
    let client = cluster.client();
    let bytes: Vec<u8> = (0..200_000u32).flat_map(|n| n.to_be_bytes()).collect();
    let digest = client.push_blob("a/b", &bytes).await;
    let blob = format!("/v2/a/b/blobs/{digest}");
    let size = bytes.len();
    let get = |headers: Vec<(&'static str, String)>| {
        let (client, blob) = (client.clone(), blob.clone());
        async move {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            client.send("GET", &blob, &headers, Body::empty()).await
        }
    };
    for (range, start, end) in [
        ("bytes=0-0".to_owned(), 0, 1),
        ("bytes=65535-65536".into(), 65535, 65537),
        (format!("bytes={}-", size - 10), size - 10, size),
        ("bytes=-10".into(), size - 10, size),
        (format!("bytes=5-{}", size + 5), 5, size),
    ] {
        let answer = get(vec![("range", range.clone())]).await;
        assert_eq!(answer.status, 206, "{range}: {answer:?}");
        assert_eq!(answer.header("content-range"), format!("bytes {start}-{}/{size}", end - 1));
        assert_eq!(answer.header("content-length"), (end - start).to_string());
        assert_eq!(answer.body, bytes[start..end], "{range}");
    }
    let several = get(vec![("range", "bytes=100000-100003,0-1,-2".into())]).await;
    assert_eq!(several.status, 206);
    assert_eq!(several.header("content-length"), several.body.len().to_string());
    let boundary =
        several.header("content-type").strip_prefix("multipart/byteranges; boundary=").unwrap().to_owned();
    let mut expected = Vec::new();
    for (start, end) in [(100_000, 100_004), (0, 2), (size - 2, size)] {
        let head = format!(
            "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {start}-{}/{size}\r\n\r\n",
            end - 1
        );
        expected.extend_from_slice(head.as_bytes());
        expected.extend_from_slice(&bytes[start..end]);
    }
    expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert_eq!(several.body, expected);

    for range in [format!("bytes={size}-"), "bytes=500-0".into(), "bytes=x".into()] {
        let answer = get(vec![("range", range)]).await;
        answer.refused(416, "SIZE_INVALID");
        assert_eq!(answer.header("content-range"), format!("bytes */{size}"));
    }
    get(vec![("range", "bytes=0-,0-,0-".into())]).await.refused(400, "SIZE_INVALID");
    for (if_range, status) in [(format!("\"{digest}\""), 206), ("\"other\"".into(), 200)] {
        assert_eq!(get(vec![("range", "bytes=0-0".into()), ("if-range", if_range)]).await.status, status);
    }
    let head = client.send("HEAD", &blob, &[("range", "bytes=0-0")], Body::empty()).await;
    assert_eq!((head.status.as_u16(), head.header("content-length")), (200, size.to_string().as_str()));
}

#[tokio::test]
async fn what_the_client_holds_is_not_sent() {
    let cluster = Cluster::start(Authorizer::Open).await;
    let client = cluster.client();
    let digest = client.push_blob("a/b", b"bytes").await;
    let absent = sha256(b"absent");
    for method in ["GET", "HEAD"] {
        let ask = |digest: String, name: &'static str, value: String| {
            let client = client.clone();
            async move {
                client
                    .send(method, &format!("/v2/a/b/blobs/{digest}"), &[(name, &value)], Body::empty())
                    .await
            }
        };
        for value in [format!("\"{digest}\""), digest.to_string(), format!("W/\"{digest}\""), "*".into()] {
            let answer = ask(digest.to_string(), "if-none-match", value).await;
            assert_eq!((answer.status.as_u16(), answer.body.len()), (304, 0), "{method} {answer:?}");
            assert_eq!(answer.header("etag"), format!("\"{digest}\""));
        }
        assert_eq!(ask(digest.to_string(), "if-none-match", "\"other\"".into()).await.status, 200);
        assert_eq!(ask(digest.to_string(), "if-match", "\"other\"".into()).await.status, 412);
        // Knowing a digest is not having access to the blob.
        ask(absent.to_string(), "if-none-match", format!("\"{absent}\"")).await.refused(404, "BLOB_UNKNOWN");
    }
}
