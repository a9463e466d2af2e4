//! A node without its cluster: what it holds is served by digest for a while, with a warning, and then no more.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use clawhub_types::MediaType;
use serde_json::json;
use support::{Answer, Client, Cluster, sha256};

/// For so long after the last word of a majority.
const BOUND: Duration = Duration::from_secs(5);
/// Longer than anything here may take.
const SOON: Duration = Duration::from_secs(60);

/// How old the state is, as the answer's warning says; `None` if it has none.
fn age(answer: &Answer) -> Option<Duration> {
    let warning = answer.headers.get("warning")?.to_str().unwrap();
    assert!(warning.starts_with("299 - \"this node is cut off"), "{warning}");
    let seconds = warning.strip_suffix(" s old\"").and_then(|text| text.rsplit(' ').next());
    Some(Duration::from_secs(seconds.unwrap().parse().unwrap()))
}

/// Asks until the node refuses; whether it warned before, each time within the bound.
async fn until_refused(client: &Client, path: &str, body: &[u8]) -> bool {
    let (begun, mut warned) = (Instant::now(), false);
    loop {
        let answer = client.get(path).await;
        if answer.status != 200 {
            answer.refused(503, "UNAVAILABLE");
            assert!(String::from_utf8_lossy(&answer.body).contains("cut off"), "{answer:?}");
            answer.header("retry-after");
            return warned;
        }
        assert_eq!(answer.body, body);
        match age(&answer) {
            Some(age) => assert!(age <= BOUND, "{answer:?}"),
            None => assert!(!warned, "{answer:?}"),
        }
        warned |= age(&answer).is_some();
        assert!(begun.elapsed() < SOON, "still served: {answer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_off_node_serves_by_digest_with_a_warning_until_its_bound() {
    let cluster = Cluster::start_bounded(BOUND).await;
    let client = cluster.client();
    let config = client.push_blob("a/b", b"{}").await;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config.to_string(), "size": 2},
        "layers": [],
    });
    assert_eq!(client.put_manifest("a/b", "v1", &[], &manifest).await.status, 201);
    let manifest = manifest.to_string().into_bytes();
    let blob = format!("/v2/a/b/blobs/{config}");
    let by_digest = format!("/v2/a/b/manifests/{}", sha256(&manifest));
    let second = cluster.second().await;
    for path in [&blob, &by_digest] {
        assert_eq!(age(&client.expect("GET", path, 200).await), None);
    }

    second.stop().await;
    let (blob, manifest) =
        tokio::join!(until_refused(&client, &blob, b"{}"), until_refused(&client, &by_digest, &manifest));
    assert!(blob && manifest, "refused without a warning before");
}
