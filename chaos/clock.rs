//! Time: a node whose wall clock is two days ahead is made the leader, and a node starts again with such a clock.
//! Nothing that has a time to live ends by it, and the leader hands over by itself.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clawhub_testkit::content::{self, Rng};
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::until;

const REPO: &str = "chaos/clock";
/// Where Debian's `libfaketime` lies.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
/// How long the node may lead before it knows better.
const HANDS_OVER: Duration = Duration::from_secs(15);

/// Two days ahead for people; the monotonic clock, by which everything is timed, as it is.
fn ahead(mut spec: Spec) -> Spec {
    let env = [("LD_PRELOAD", LIBRARY), ("FAKETIME", "+2d"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    spec.env.extend(env.map(|(name, value)| (name.to_owned(), value.to_owned())));
    spec
}

async fn hands_over(member: &Member, from: u64) -> Result<u64> {
    until("another leader", HANDS_OVER, || async { Ok(member.leader()?.filter(|leader| *leader != from)) })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_from_the_day_after_tomorrow_ends_nothing_and_hands_over() -> Result<()> {
    let _beside = crate::beside().await;
    if !Path::new(LIBRARY).exists() {
        return crate::skipped("time", &format!("{LIBRARY} is not there"));
    }
    let home = tempfile::tempdir()?;
    let specs = vec![Spec::zone(0), Spec::zone(1), ahead(Spec::zone(2))];
    let members = fleet::form(home.path(), specs).await?;
    let (here, off) = (&members[1], &members[2]);

    // Whatever has a time to live: an upload, a blob that only its lease keeps, a token.
    let repo = here.registry().repo(REPO);
    let (half, rest) = (Bytes::from(Rng::new(1).bytes(50_000)), Bytes::from(Rng::new(2).bytes(50_000)));
    let upload = repo.open().await?;
    let answer = upload.patch(&here.registry(), Some(0), half.clone()).await?;
    ensure!(answer.status() == 202, "{}", answer.status());
    let leased = repo.push_blob(Rng::new(3).bytes(10_000)).await?;
    let image = repo.push_image("v1", &[Bytes::from(Rng::new(4).bytes(10_000))]).await?;
    let token = here.admin(&["token", "--ttl", "3600"])?;
    let tick = here.admin(&["status"])?["tick"].as_u64().context("a tick")?;

    let moved = here.admin(&["transfer-leader", "3"])?;
    ensure!(moved["leader"].as_u64() == Some(3), "{moved}");
    let led = Instant::now();
    repo.push_image("v2", &[Bytes::from(Rng::new(5).bytes(10_000))]).await.context("while it leads")?;
    let next = hands_over(here, 3).await?;
    let took = led.elapsed();
    ensure!(clawhub_testkit::process::tail(&off.log(), 1000).contains("handing over"), "it says why");

    let later = here.admin(&["status"])?["tick"].as_u64().context("a tick")?;
    ensure!(later >= tick && later - tick < 3_600_000, "the cluster's clock went from {tick} to {later}");
    let whole = [half, rest.clone()].concat();
    let answer = upload.put(&here.registry(), &content::sha256(&whole), rest).await?;
    ensure!(answer.status() == 201, "the upload goes on: {}", answer.status());
    for member in &members {
        let repo = member.registry().repo(REPO);
        repo.pull_blob(&leased).await.context("the leased blob")?;
        ensure!(repo.pull_image("v1").await? == image.digest);
        repo.pull_image("v2").await.context("what was pushed meanwhile")?;
    }
    joins_with(home.path(), &token["token"], &members[0]).await.context("the token")?;
    crate::seen("time", &format!("two days ahead, led for {took:.1?}, then node {next}; nothing expired"));
    Ok(())
}

/// A machine whose clock is not set yet when its services start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_the_day_after_tomorrow_ends_no_upload() -> Result<()> {
    let _beside = crate::beside().await;
    if !Path::new(LIBRARY).exists() {
        return crate::skipped("time", &format!("{LIBRARY} is not there"));
    }
    let home = tempfile::tempdir()?;
    let mut members = fleet::form(home.path(), (0..3).map(Spec::zone).collect()).await?;
    let repo = members[1].registry().repo(REPO);
    let (half, rest) = (Bytes::from(Rng::new(6).bytes(50_000)), Bytes::from(Rng::new(7).bytes(50_000)));
    let upload = repo.open().await?;
    let answer = upload.patch(&members[1].registry(), Some(0), half.clone()).await?;
    ensure!(answer.status() == 202, "{}", answer.status());
    members[1].stop();
    members[1].spec = ahead(members[1].spec.clone());
    members[1].start().await?;
    members[1].ready().await?;
    // The first look at what is left over comes at once.
    for member in &members {
        let answer = member.registry().get(&upload.location).await?;
        ensure!(answer.status() == 204, "the upload is asked for: {}", answer.status());
    }
    let whole = [half, rest.clone()].concat();
    let answer = upload.put(&members[0].registry(), &content::sha256(&whole), rest).await?;
    ensure!(answer.status() == 201, "the upload goes on: {}", answer.status());
    crate::seen("time", "started again two days ahead: an upload goes on");
    Ok(())
}

/// A token that was made before is still good.
async fn joins_with(home: &Path, token: &serde_json::Value, member: &Member) -> Result<()> {
    let mut newcomer = Member::new(home, Spec::zone(3))?;
    newcomer.start().await?;
    let file = home.join("early-token");
    std::fs::write(&file, token.as_str().context("a token")?)?;
    let file = file.to_str().context("the path is text")?;
    newcomer.admin(&["join", "--peer", member.peer(), "--token-file", file])?;
    newcomer.ready().await
}
