//! A device that fails below a copy which was checked, over real connections.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod support;

use std::time::Duration;

use clawhub_auth::Authorizer;
use clawhub_testkit::fuse::{Fault, Faulty};
use clawhub_types::Root;
use reqwest::{Client, ClientBuilder};
use support::Cluster;
use tempfile::TempDir;

const SIZE: usize = 3_000_000;

/// A pushed blob on a device that can be made to fail.
struct Case {
    // The store lets go of its files before they are unmounted, and that before the folder goes.
    cluster: Cluster,
    faulty: Faulty,
    root: Root,
    url: String,
}

impl Case {
    /// None, which is said, where nothing can be mounted.
    async fn new() -> Option<Case> {
        if let Some(why) = Faulty::unavailable() {
            println!("skipped: no FUSE here: {why}");
            return None;
        }
        let dir = TempDir::new().unwrap();
        let blobs = dir.path().join("blobs");
        std::fs::create_dir(&blobs).unwrap();
        let faulty = Faulty::mount(&blobs, &blobs).unwrap();
        let cluster = Cluster::start_in(dir, Authorizer::Open, Duration::from_secs(30)).await;
        let bytes: Vec<u8> = (0..SIZE).map(|i| (i % 251) as u8).collect();
        let digest = cluster.client().push_blob("a/b", &bytes).await;
        let root = cluster.blobs.inventory(None, 2)[0].0;
        let url = format!("http://{}/v2/a/b/blobs/{digest}", cluster.listen().await);
        Some(Case { cluster, faulty, root, url })
    }

    /// The length of the body, unless it broke off.
    async fn pull(&self, client: &Client) -> Option<usize> {
        let answer = client.get(&self.url).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.bytes().await.ok().map(|bytes| bytes.len())
    }

    /// Whether a whole GET would be sent straight from the file.
    async fn straight(&self) -> bool {
        let blob = self.cluster.blobs.open_blob(&self.root).await.unwrap().unwrap();
        blob.straight(0..SIZE as u64).is_some()
    }

    fn fail(&self) {
        self.faulty.fail("", Fault::Io);
        self.faulty.uncache("").unwrap();
    }

    fn holds(&self) -> bool {
        self.cluster.blobs.holds(&self.root).is_some()
    }
}

fn client(version: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Client {
    version(Client::builder().no_proxy()).build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_that_the_device_fails_makes_the_next_reader_look() {
    let Some(case) = Case::new().await else { return };
    let client = client(ClientBuilder::http1_only);
    for _ in 0..2 {
        assert_eq!(case.pull(&client).await, Some(SIZE));
        assert!(case.straight().await);
    }
    case.fail();
    assert_eq!(case.pull(&client).await, None);
    assert!(case.holds() && !case.straight().await);
    // There is no other copy that could go on here.
    assert_eq!(case.pull(&client).await, None);
    assert!(!case.holds(), "read with checks, and given up");
}

/// Its framing reads what it sends, which a mapping of the file would not survive.
#[tokio::test(flavor = "multi_thread")]
async fn http2_survives_a_device_that_fails() {
    let Some(case) = Case::new().await else { return };
    let client = client(ClientBuilder::http2_prior_knowledge);
    for _ in 0..2 {
        assert_eq!(case.pull(&client).await, Some(SIZE));
    }
    assert!(case.straight().await);
    case.fail();
    // The reset that ends the answer may overtake its head: what a stream has not sent by then is dropped.
    match client.get(&case.url).send().await {
        Ok(answer) => {
            assert_eq!(answer.status(), 200);
            assert!(answer.bytes().await.is_err(), "a whole body from a device that fails");
        }
        Err(error) => assert!(error.is_request(), "{error:?}"),
    }
    assert!(!case.holds());
}
