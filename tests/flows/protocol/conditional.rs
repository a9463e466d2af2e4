//! Conditional tag writes: whoever names the state that is there wins, exactly one of two.

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::content::sha256;
use clawhub_testkit::manifest::{self, version};
use clawhub_testkit::oci::expect_error;
use clawhub_testkit::{Cluster, Repo, scale};
use reqwest::{Method, Response, StatusCode};

async fn put(repo: &Repo, tag: &str, bytes: &[u8], name: &str, value: &str) -> Result<Response> {
    let request = repo.registry.request(Method::PUT, &repo.path(&format!("manifests/{tag}")));
    let request = request.header("content-type", manifest::OCI_MANIFEST).header(name, value);
    Ok(request.body(bytes.to_vec()).send().await?)
}

fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", sha256(bytes))
}

#[tokio::test]
async fn a_tag_is_created_replaced_and_deleted_under_its_condition() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let nodes = cluster.registries()?;
    let repo = nodes[0].repo("conditional/one");
    repo.push_blob(manifest::CONFIG_BYTES).await?;
    let other = repo.on(&nodes[nodes.len() - 1]);
    let (one, two) = (version(1), version(2));
    let failed = |answer| expect_error(answer, StatusCode::PRECONDITION_FAILED);
    failed(put(&repo, "v", &one, "if-match", &etag(&one)).await?).await.context("nothing to match")?;
    failed(put(&repo, "v", &one, "if-match", "*").await?).await.context("nothing at all")?;
    ensure!(put(&repo, "v", &one, "if-none-match", "*").await?.status() == StatusCode::CREATED);
    failed(put(&other, "v", &two, "if-none-match", "*").await?).await.context("it exists")?;
    failed(put(&other, "v", &two, "if-match", &etag(&two)).await?).await.context("another digest")?;
    ensure!(other.resolve("v").await? == Some(sha256(&one)));
    ensure!(put(&other, "v", &two, "if-match", &etag(&one)).await?.status() == StatusCode::CREATED);
    ensure!(repo.resolve("v").await? == Some(sha256(&two)));
    let delete = |repo: &Repo, tag: &str| {
        let request = repo.registry.request(Method::DELETE, &repo.path("manifests/v"));
        request.header("if-match", tag).send()
    };
    failed(delete(&repo, &etag(&one)).await?).await.context("deleting another")?;
    ensure!(repo.resolve("v").await? == Some(sha256(&two)));
    ensure!(delete(&repo, &etag(&two)).await?.status() == StatusCode::ACCEPTED);
    ensure!(other.resolve("v").await?.is_none());
    Ok(())
}

/// `CLAWHUB_CONDITIONAL_ROUNDS` sets how often; 1,000 is the full measure.
#[tokio::test]
async fn of_two_writers_exactly_one_wins() -> Result<()> {
    let rounds = scale("CLAWHUB_CONDITIONAL_ROUNDS", 100);
    let cluster = Cluster::shared().await?;
    let nodes = cluster.registries()?;
    let repo = nodes[0].repo("conditional/race");
    repo.push_blob(manifest::CONFIG_BYTES).await?;
    let mut current = version(0);
    repo.push_manifest("race", manifest::OCI_MANIFEST, &current).await?;
    for round in 0..rounds {
        let sides = [round % nodes.len(), (round + 1) % nodes.len()].map(|i| repo.on(&nodes[i]));
        let bytes = [version(2 * round + 1), version(2 * round + 2)];
        let condition = etag(&current);
        let (a, b) = tokio::try_join!(
            put(&sides[0], "race", &bytes[0], "if-match", &condition),
            put(&sides[1], "race", &bytes[1], "if-match", &condition),
        )?;
        let winner = match (a.status(), b.status()) {
            (StatusCode::CREATED, StatusCode::PRECONDITION_FAILED) => 0,
            (StatusCode::PRECONDITION_FAILED, StatusCode::CREATED) => 1,
            statuses => anyhow::bail!("round {round}: {statuses:?}"),
        };
        current = bytes[winner].clone();
        for node in &nodes {
            ensure!(repo.on(node).resolve("race").await? == Some(sha256(&current)), "round {round}");
        }
    }
    Ok(())
}
