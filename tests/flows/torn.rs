//! A tag that is moved and whose old manifest is deleted at once, again and again: whoever reads the tag, or the
//! referrers that come and go with it, through any node sees one state of the registry and never half of two.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::manifest::{Descriptor, EMPTY_BYTES, Image, OCI_MANIFEST};
use clawhub_testkit::oci::{Repo, expect};
use clawhub_testkit::{Cluster, manifest, scale};
use reqwest::StatusCode;
use tokio::task::JoinSet;

const READERS: usize = 16;
/// Referrers that stay: with them a page takes the node many reads.
const STANDING: usize = 200;
const KIND: &str = "application/vnd.example.signature";

/// A manifest that refers to `subject`, another one for every label.
fn referrer(subject: &Descriptor, label: &str) -> Vec<u8> {
    Image::artifact(KIND).subject(subject).annotation("version", label).bytes()
}

/// What one reader does until it is told to stop; how often it did it.
async fn read(repo: Repo, subject: Descriptor, what: usize, stop: Arc<AtomicBool>) -> Result<u64> {
    let mut reads = 0;
    while !stop.load(Ordering::Relaxed) {
        match what % 3 {
            0 => {
                repo.pull_manifest("v").await.context("GET of the tag")?;
            }
            1 => {
                repo.resolve("v").await?.context("HEAD of the tag: 404")?;
            }
            _ => {
                let page = repo.referrers(&subject.digest, "").await.context("referrers")?;
                let listed = page["manifests"].as_array().map_or(0, Vec::len);
                ensure!(
                    listed > STANDING,
                    "{listed} referrers, of which {STANDING} stay and one is always there"
                );
            }
        }
        reads += 1;
    }
    Ok(reads)
}

/// Moves the tag to a new manifest and deletes the one before, at first `before`, through one node after the
/// other, for as long as every reader goes on.
async fn retag(
    repos: &[Repo],
    subject: &Descriptor,
    mut before: Descriptor,
    until: Instant,
    readers: &mut JoinSet<Result<u64>>,
) -> Result<u64> {
    let mut moves = 0;
    while Instant::now() < until {
        let repo = &repos[usize::try_from(moves)? % repos.len()];
        let now = repo.push_manifest("v", OCI_MANIFEST, &referrer(subject, &moves.to_string())).await?;
        let old = std::mem::replace(&mut before, now);
        let deleted = repo.registry.delete(&repo.path(&format!("manifests/{}", old.digest))).await?;
        expect(deleted, StatusCode::ACCEPTED).await?;
        moves += 1;
        // A reader ends early only with what this test looks for.
        if let Some(ended) = readers.try_join_next() {
            ended??;
        }
    }
    Ok(moves)
}

/// `CLAWHUB_TORN_SECONDS` sets how long; 60 is the full measure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_one_state() -> Result<()> {
    let cluster = Cluster::start().await?;
    let repos: Vec<Repo> = cluster.registries()?.iter().map(|node| node.repo("torn/tag")).collect();
    repos[0].push_blob(EMPTY_BYTES).await?;
    repos[0].push_blob(manifest::CONFIG_BYTES).await?;
    let subject = repos[0].push_manifest("subject", OCI_MANIFEST, &manifest::version("subject")).await?;
    for n in 0..STANDING {
        let bytes = referrer(&subject, &format!("standing {n}"));
        let digest = clawhub_testkit::content::sha256(&bytes).to_string();
        repos[0].push_manifest(&digest, OCI_MANIFEST, &bytes).await?;
    }
    let first = repos[0].push_manifest("v", OCI_MANIFEST, &referrer(&subject, "first")).await?;

    let stop = Arc::new(AtomicBool::new(false));
    let mut readers = JoinSet::new();
    for n in 0..READERS {
        // Every node has readers of each kind.
        let repo = repos[n / 3 % repos.len()].clone();
        readers.spawn(read(repo, subject.clone(), n, stop.clone()));
    }
    let until = Instant::now() + Duration::from_secs(scale("CLAWHUB_TORN_SECONDS", 5));
    let moved = retag(&repos, &subject, first, until, &mut readers).await;
    stop.store(true, Ordering::Relaxed);
    let moves = moved?;
    let mut reads = 0;
    while let Some(ended) = readers.join_next().await {
        reads += ended??;
    }
    ensure!(moves > 10 && reads > moves, "{moves} moves and {reads} reads show nothing");
    println!(
        "seen | torn-reads | {moves} moves, {reads} reads of {READERS} readers through three nodes, none torn"
    );
    Ok(())
}
