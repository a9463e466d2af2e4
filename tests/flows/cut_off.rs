//! A node that starts while the others are away has heard of nobody, however often it starts: what it holds may have
//! been forbidden since, so it serves none of it until a leader speaks.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::oci::header;
use clawhub_testkit::{Repo, until};
use clawhub_types::Digest;
use reqwest::{Response, StatusCode};

const SOON: Duration = Duration::from_secs(30);
/// How long a node is looked at: several elections.
const WHILE: Duration = Duration::from_secs(3);

/// By digest: the image and its config, which the node holds.
async fn by_digest(repo: &Repo, image: &Digest, config: &Digest) -> Result<[Response; 2]> {
    let manifest = repo.registry.get(&repo.path(&format!("manifests/{image}"))).await?;
    let blob = repo.registry.get(&repo.path(&format!("blobs/{config}"))).await?;
    Ok([manifest, blob])
}

/// Both are refused for now, for the reason that is meant.
async fn refused(answers: [Response; 2]) -> Result<bool> {
    let mut meant = true;
    for answer in answers {
        ensure!(answer.status() == StatusCode::SERVICE_UNAVAILABLE, "{}", answer.status());
        ensure!(header(&answer, "retry-after").is_some(), "a 503 without Retry-After");
        meant &= answer.text().await?.contains("has not heard from the cluster");
    }
    Ok(meant)
}

async fn serves_nothing(member: &Member, image: &Digest, config: &Digest) -> Result<()> {
    let repo = member.registry().repo("cut/off");
    until("the node to be there", SOON, || async {
        Ok(refused(by_digest(&repo, image, config).await?).await?.then_some(()))
    })
    .await?;
    let begun = Instant::now();
    while begun.elapsed() < WHILE {
        ensure!(refused(by_digest(&repo, image, config).await?).await?, "another reason");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_alone_serves_nothing() -> Result<()> {
    let home = tempfile::tempdir()?;
    let mut members = fleet::form(home.path(), (0..3).map(Spec::zone).collect()).await?;
    let repo = members[0].registry().repo("cut/off");
    let image = repo.push_image("v1", &[]).await?.digest;
    let config = repo.push_blob(clawhub_testkit::manifest::CONFIG_BYTES).await?;
    for member in &mut members[1..] {
        member.kill()?;
    }
    until("a warning", SOON, || async {
        let [manifest, blob] = by_digest(&repo, &image, &config).await?;
        ensure!(manifest.status() == StatusCode::OK && blob.status() == StatusCode::OK, "cut off too soon");
        Ok(header(&manifest, "warning").and(header(&blob, "warning")))
    })
    .await
    .context("a node that is cut off serves what it holds")?;

    for _ in 0..2 {
        members[0].kill()?;
        members[0].start().await?;
        serves_nothing(&members[0], &image, &config).await?;
    }
    members[1].start().await?;
    until("the first word", SOON, || async {
        let [manifest, blob] = by_digest(&repo, &image, &config).await?;
        Ok((manifest.status() == StatusCode::OK && blob.status() == StatusCode::OK).then_some(()))
    })
    .await
}
