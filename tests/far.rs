//! Three nodes with 300 ms between any two: what a client does at each takes its way and nothing more.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::cluster::Options;
use clawhub_testkit::content::sha256;
use clawhub_testkit::manifest::{self, version};
use clawhub_testkit::oci::expect;
use reqwest::StatusCode;

const WAY: &str = "300ms";

/// The first chunk of the first upload needs a partner, and so a connection that nobody has made yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_upload_in_chunks_finds_a_partner() -> Result<()> {
    let cluster = Options::new(3).wan(WAY).start().await?;
    let bytes = vec![7; 100_000];
    for node in cluster.registries()? {
        let repo = node.repo("far/chunks");
        let start = Instant::now();
        let upload = repo.open().await?;
        let (one, rest) = bytes.split_at(50_000);
        let answer = upload.patch(&node, Some(0), one.to_vec().into()).await?;
        expect(answer, StatusCode::ACCEPTED).await.context("the first chunk")?;
        let answer = upload.put(&node, &sha256(&bytes), rest.to_vec().into()).await?;
        expect(answer, StatusCode::CREATED).await.context("the end")?;
        ensure!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_is_ready_and_reads_what_another_wrote() -> Result<()> {
    let cluster = Options::new(3).wan(WAY).start().await?;
    let nodes = cluster.registries()?;
    nodes[0].repo("far/tags").push_blob(manifest::CONFIG_BYTES).await?;
    let term = cluster.term()?;
    let start = Instant::now();
    for round in 0..6 {
        let (writer, reader) = (&nodes[round % 3], &nodes[(round + 1) % 3]);
        let bytes = version(format!("{round}"));
        writer.repo("far/tags").push_manifest("v", manifest::OCI_MANIFEST, &bytes).await?;
        ensure!(reader.repo("far/tags").resolve("v").await? == Some(sha256(&bytes)), "round {round}");
        for node in &nodes {
            ensure!(node.ready().await, "{} is not ready in round {round}", node.address());
        }
    }
    ensure!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    ensure!(cluster.term()? == term, "an election without a fault");
    Ok(())
}
