//! Layouts in which the loss of one zone, or region, takes the majority of the votes: nothing is acknowledged there, each
//! answer says what to add, and with that the loss takes nothing.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::content::{Rng, sha256};
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::oci::{expect, header};
use clawhub_testkit::process::{self, Process};
use clawhub_testkit::{Registry, Repo, manifest, until};
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;

/// How soon a cluster follows a change of its members, or a loss.
const SOON: Duration = Duration::from_secs(30);

/// Where nodes stand, what a push is to outlive, and where a vote is missing.
struct Layout {
    durability: &'static str,
    nodes: &'static [(&'static str, &'static str)],
    missing: (&'static str, &'static str),
}

const TWO_NODES: Layout =
    Layout { durability: "zone", nodes: &[("home", "a"), ("home", "b")], missing: ("home", "c") };
const TWO_ZONES: Layout = Layout {
    durability: "zone",
    nodes: &[("home", "a"), ("home", "a"), ("home", "b")],
    missing: ("home", "c"),
};
const TWO_REGIONS: Layout = Layout {
    durability: "region",
    nodes: &[("east", "a"), ("east", "b"), ("west", "a"), ("west", "b")],
    missing: ("north", "a"),
};

impl Layout {
    fn spec(&self, number: usize, (region, zone): (&str, &str), witness: bool) -> Spec {
        let sections = format!("[storage]\nmin_free = \"16MiB\"\ndurability = \"{}\"\n", self.durability);
        Spec { sections, witness, ..Spec::at(number, region, zone) }
    }

    /// What every refusal says.
    fn wanted(&self) -> String {
        format!("add voters in 1 more {}", self.durability)
    }

    /// Whether a node is lost with the founder's zone, or region.
    fn is_lost(&self, spec: &Spec) -> bool {
        let (region, zone) = self.nodes[0];
        spec.region == region && (self.durability == "region" || spec.zone == zone)
    }
}

/// A push is refused for now, with the reason.
async fn refused(answer: Response, wanted: &str) -> Result<()> {
    let retry = header(&answer, "retry-after");
    let answer = expect(answer, StatusCode::SERVICE_UNAVAILABLE).await?;
    ensure!(retry.is_some(), "a 503 without Retry-After");
    let body = answer.text().await?;
    ensure!(body.contains(wanted), "a refusal that does not say {wanted:?}: {body}");
    Ok(())
}

async fn readiness(node: &Registry) -> Result<(StatusCode, Value)> {
    let answer = node.get("/readyz").await?;
    Ok((answer.status(), answer.json().await?))
}

/// No way of pushing is open, and everything that tells of the node says why, although it is ready.
async fn takes_nothing(member: &Member, wanted: &str) -> Result<()> {
    let repo = member.registry().repo("votes/image");
    let uploads = repo.path("blobs/uploads/");
    let digest = sha256(&manifest::EMPTY_BYTES);
    for query in ["".to_owned(), format!("?digest={digest}"), format!("?mount={digest}&from=votes/other")] {
        let post = repo.registry.request(Method::POST, &format!("{uploads}{query}"));
        let post =
            post.body(if query.contains("?digest") { manifest::EMPTY_BYTES } else { Default::default() });
        refused(post.send().await?, wanted).await.with_context(|| format!("POST {query}"))?;
    }
    let index = manifest::index(&[]);
    refused(repo.put_manifest("v1", manifest::OCI_INDEX, &index).await?, wanted)
        .await
        .context("a manifest")?;

    let (status, said) = readiness(&repo.registry).await?;
    ensure!(status == StatusCode::OK && said["ready"] == true, "{said}");
    ensure!(said["warnings"][0].as_str().is_some_and(|text| text.contains(wanted)), "{said}");
    let status = member.admin(&["status"])?;
    ensure!(status["warnings"][0].as_str().is_some_and(|text| text.contains(wanted)), "{status}");
    Ok(())
}

/// An image is taken by this node, at the first attempt: votes that move are waited for.
async fn takes(repo: &Repo, tag: &str, seed: u64) -> Result<()> {
    repo.push_image(tag, &[Rng::new(seed).bytes(100_000).into()]).await?;
    Ok(())
}

async fn try_out(layout: &Layout) -> Result<()> {
    let home = tempfile::tempdir()?;
    let wanted = layout.wanted();
    let specs = layout.nodes.iter().enumerate().map(|(number, place)| layout.spec(number, *place, false));
    let mut members = fleet::form(home.path(), specs.collect()).await?;
    for member in &members {
        takes_nothing(member, &wanted).await.with_context(|| member.spec.name.clone())?;
    }

    let mut witness = Member::new(home.path(), layout.spec(members.len(), layout.missing, true))?;
    witness.start().await?;
    witness.join(&members[0]).await?;
    until("the warnings to go", SOON, || async {
        let (_, said) = readiness(&witness.registry()).await?;
        Ok(said["warnings"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })
    .await?;
    members.push(witness);
    for (number, member) in members.iter().enumerate() {
        let repo = member.registry().repo("votes/image");
        takes(&repo, &format!("v{number}"), number as u64).await.with_context(|| member.spec.name.clone())?;
    }

    // Whole disks, the leader's among them.
    for member in members.iter_mut().filter(|member| layout.is_lost(&member.spec)) {
        member.kill()?;
        member.wipe()?;
    }
    let left: Vec<_> = members.iter().filter(|member| !layout.is_lost(&member.spec)).collect();
    let (_, bytes) = until("an old tag to be read", SOON, || async {
        Ok(Some(left[0].registry().repo("votes/image").pull_manifest("v0").await?))
    })
    .await?;
    for member in left {
        let repo = member.registry().repo("votes/image");
        for number in 0..members.len() {
            repo.pull_image(&format!("v{number}")).await.with_context(|| member.spec.name.clone())?;
        }
        let answer = repo.put_manifest("after", manifest::OCI_MANIFEST, &bytes).await?;
        expect(answer, StatusCode::CREATED).await.context("a tag after the loss")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_acknowledge_nothing_that_one_loss_would_take() -> Result<()> {
    try_out(&TWO_NODES).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_in_two_zones_acknowledge_nothing_that_one_loss_would_take() -> Result<()> {
    try_out(&TWO_ZONES).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_regions_acknowledge_nothing_that_one_loss_would_take() -> Result<()> {
    try_out(&TWO_REGIONS).await
}

/// Who founds a cluster, or adds to it, is told what it still lacks, until it lacks nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_adds_nodes_is_told_what_is_missing() -> Result<()> {
    let home = tempfile::tempdir()?;
    let mut members = Vec::new();
    for number in 0..3 {
        let mut member = Member::new(home.path(), Spec::zone(number))?;
        member.start().await?;
        members.push(member);
    }
    let said = |answer: &Value| answer["warning"].as_str().unwrap_or_default().to_owned();
    let founded = said(&members[0].admin(&["init"])?);
    ensure!(founded.contains("home/a only: add voters in 2 more zones"), "{founded}");
    for (number, expected) in [(1, "add voters in 1 more zone"), (2, "")] {
        let token = tempfile::NamedTempFile::new()?;
        std::fs::write(&token, clawhub_testkit::cluster::token(&members[0].data())?)?;
        let file = token.path().to_str().context("the path is text")?;
        let joined = members[number].admin(&["join", "--peer", members[0].peer(), "--token-file", file])?;
        let told = said(&joined);
        ensure!(told.contains(expected) && told.is_empty() == expected.is_empty(), "{told}");
    }
    Ok(())
}

/// `clawhub dev` picks what its nodes can keep, says what that is, and takes pushes once it says that it is ready.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_development_cluster_promises_what_it_keeps() -> Result<()> {
    for (nodes, durability) in [("1", "local"), ("2", "local"), ("3", "zone")] {
        let home = tempfile::tempdir()?;
        let mut command = std::process::Command::new(process::clawhub()?);
        command.args(["dev", "--http-port", "0", "--nodes", nodes, "--data"]).arg(home.path());
        let log = home.path().join("dev.log");
        let dev = Process::spawn(&mut command, &log)?;
        until("it to be ready", SOON * 2, || async {
            Ok(std::fs::read_to_string(&log)?.contains("\nready; ").then_some(()))
        })
        .await
        .map_err(|error| error.context(process::tail(&log, 20)))?;
        let said = std::fs::read_to_string(&log)?;
        ensure!(said.contains(&format!("\ndurability {durability}: ")), "{nodes} nodes: {said}");
        let file: Value = serde_json::from_slice(&std::fs::read(home.path().join("cluster.json"))?)?;
        let last = file["nodes"].as_array().and_then(|nodes| nodes.last()).context("a node")?;
        let last = Registry::new(last["http"].as_str().context("an address")?);
        takes(&last.repo("votes/image"), "v1", 1).await.with_context(|| format!("{nodes} nodes"))?;
        drop(dev);
    }
    Ok(())
}
