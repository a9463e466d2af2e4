//! A tag written through one node and read at once through another is never the old one, while
//! leadership moves.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clawhub_testkit::cluster::{Node, admin};
use clawhub_testkit::content::sha256;
use clawhub_testkit::manifest;
use clawhub_testkit::oci::header;
use clawhub_testkit::{Cluster, Repo, scale};
use reqwest::StatusCode;

/// How long a node may answer 503 before that is a failure of its own.
const PATIENCE: Duration = Duration::from_secs(20);

/// Writes the tag; a 503 says that nothing is known yet, so it is written again.
async fn write(repo: &Repo, bytes: &[u8]) -> Result<()> {
    let start = Instant::now();
    loop {
        let answer = repo.put_manifest("v", manifest::OCI_MANIFEST, bytes).await?;
        match answer.status() {
            StatusCode::CREATED => return Ok(()),
            StatusCode::SERVICE_UNAVAILABLE if start.elapsed() < PATIENCE => {
                ensure!(header(&answer, "retry-after").is_some(), "a 503 without Retry-After");
            }
            status => bail!("PUT: {status}: {}", answer.text().await?),
        }
    }
}

/// Reads the tag by GET or HEAD: the digest that the node names.
async fn read(repo: &Repo, with_body: bool) -> Result<String> {
    let start = Instant::now();
    let path = repo.path("manifests/v");
    loop {
        let node = &repo.registry;
        let answer = if with_body { node.get(&path).await? } else { node.head(&path).await? };
        match answer.status() {
            StatusCode::OK => return header(&answer, "docker-content-digest").context("no digest"),
            StatusCode::SERVICE_UNAVAILABLE if start.elapsed() < PATIENCE => {}
            status => bail!("read: {status}"),
        }
    }
}

/// Moves leadership in the background; a transfer that finds no leader is no failure of this test.
fn transfer(nodes: &[Node]) {
    let data = nodes[0].data.clone();
    tokio::task::spawn_blocking(move || admin(&data, &["transfer-leader"]));
}

/// `CLAWHUB_STALE_ROUNDS` sets how often; 10,000 is the full measure. Leadership moves ten times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_read_elsewhere_at_once_is_never_stale() -> Result<()> {
    let rounds = scale("CLAWHUB_STALE_ROUNDS", 500);
    let cluster = Cluster::start().await?;
    let nodes = cluster.nodes()?;
    let repos: Vec<Repo> = nodes.iter().map(|node| node.registry().repo("stale/tag")).collect();
    repos[0].push_blob(manifest::CONFIG_BYTES).await?;
    let mut leaders = std::collections::BTreeSet::new();
    for round in 0..rounds {
        if round % (rounds / 10).max(1) == 0 {
            leaders.extend(cluster.leader(&nodes[0]).ok().flatten());
            transfer(&nodes);
        }
        let bytes = manifest::version(round);
        let writer = round % repos.len();
        let reader = (writer + 1 + (round / repos.len()) % (repos.len() - 1)) % repos.len();
        write(&repos[writer], &bytes).await.with_context(|| format!("round {round}"))?;
        let got = read(&repos[reader], round % 2 == 0).await.with_context(|| format!("round {round}"))?;
        let wanted = sha256(&bytes).to_string();
        ensure!(got == wanted, "round {round}: wrote {wanted} at {writer}, read {got} at {reader}");
    }
    ensure!(leaders.len() > 1, "leadership never moved: {leaders:?}");
    println!(
        "seen | stale | {rounds} tags written and read elsewhere at once, none old; {} nodes led",
        leaders.len()
    );
    Ok(())
}
