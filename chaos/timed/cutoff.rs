//! Links between nodes are cut: whole, one way, one of three. A minority says so and accepts nothing, the
//! majority does not notice, and who comes back catches up without disturbing anybody.

mod minority;
mod partial;
pub(crate) mod world;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::content::sha256;
use clawhub_testkit::manifest::version;
use clawhub_testkit::oci::expect;
use clawhub_testkit::wan::{allowed, asked_for};
use clawhub_testkit::{Repo, scale};
use futures::future::try_join_all;
use reqwest::StatusCode;
use tokio::sync::watch;

use minority::{Held, is_a_minority, returns};
use world::{Turn, World, put};

use crate::lead::leader;

/// How long a cut that leaves a majority connected may stop those who can go on.
const RESUMED: Duration = Duration::from_secs(5);
/// How soon writes go on where a leader is lost.
const SOON: Duration = Duration::from_secs(3);
/// Commits before the cut and after it, unless `CLAWHUB_CUTOFF_SAMPLES` says otherwise.
const SAMPLES: usize = 600;
/// The same where each takes a round trip.
const FAR_SAMPLES: usize = 40;

/// Writes through a node until it says 201; from then on every write and read there succeeds. When the
/// first one did, after `cut`.
async fn goes_on(repo: Repo, host: usize, cut: Instant) -> Result<Duration> {
    let tag = format!("through-{host}");
    let first = version(format!("{tag} after {:?}", cut.elapsed()));
    let resumed = loop {
        let answer = put(&repo, &tag, &first).await?;
        if answer.status() == StatusCode::CREATED {
            break cut.elapsed();
        }
        let last = answer.text().await?;
        ensure!(cut.elapsed() < allowed(RESUMED), "no write through host {host}; last: {last}");
    };
    for number in 0..20 {
        let bytes = version(format!("{tag} {number} after {resumed:?}"));
        expect(put(&repo, &tag, &bytes).await?, StatusCode::CREATED).await?;
        let got = repo.resolve(&tag).await?;
        ensure!(got == Some(sha256(&bytes)), "host {host} read {got:?} after write {number}");
    }
    Ok(resumed)
}

/// Moves a tag of this node's own, reads it through the other, pushes a blob now and then, until told to
/// stop. Any answer but success ends it. When each commit began, and how long it took.
async fn load(
    (repo, other): (Repo, Repo),
    told: watch::Receiver<bool>,
    count: watch::Sender<usize>,
) -> Result<Vec<(Instant, Duration)>> {
    let tag = repo.registry.address().replace([':', '.'], "-");
    let mut commits = Vec::new();
    while !*told.borrow() {
        let bytes = version(format!("{tag} {}", commits.len()));
        let start = Instant::now();
        let answer = put(&repo, &tag, &bytes).await?;
        commits.push((start, start.elapsed()));
        expect(answer, StatusCode::CREATED).await?;
        let got = other.resolve(&tag).await?;
        ensure!(got == Some(sha256(&bytes)), "read {got:?} after commit {}", commits.len());
        if commits.len() % 20 == 0 {
            repo.push_blob(bytes).await.context("a blob")?;
        }
        count.send_modify(|count| *count += 1);
    }
    Ok(commits)
}

fn p99(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    times.get((times.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
}

/// Cuts a follower off under load: so many commits before, so many since. The p99 of each.
async fn cut_under_load(world: &World, leader: usize, samples: usize) -> Result<[Duration; 2]> {
    let [follower, witness] = World::others(leader);
    let held = Held::push(&world.repo(follower)).await?;
    let before = world.settle().await?;

    let (stop, told) = watch::channel(false);
    let (count, mut counted) = watch::channel(0);
    let (one, two) = (world.repo(leader), world.repo(witness));
    let loads = [(one.clone(), two.clone()), (two, one)]
        .map(|pair| tokio::spawn(load(pair, told.clone(), count.clone())));
    drop(count);
    counted.wait_for(|count| *count >= samples).await.context("load before the cut")?;
    world.isolate(follower)?;
    let cut = Instant::now();
    let goal = *counted.borrow() + samples;
    let slowest = is_a_minority(world, follower, &held, cut).await?;
    // If the load has failed, its own error is the one to show.
    let _ = counted.wait_for(|count| *count >= goal).await;
    stop.send(true)?;
    let mut commits = Vec::new();
    for load in loads {
        commits.extend(load.await??);
    }
    let part = |since: bool| commits.iter().filter(move |(start, _)| (*start >= cut) == since);
    let times = [false, true].map(|since| p99(part(since).map(|(_, took)| *took)));

    let (caught_up, after) = returns(world, follower, &held).await?;
    ensure!(
        (after.term, after.leader) == (before.term, before.leader),
        "its return disturbed the others: {before:?}, {after:?}"
    );
    let figures = format!(
        "a follower: refused within {slowest:.1?}; {} commits before, p99 {:.1?}; {} since, p99 {:.1?}; \
         term {} as before; like the others {caught_up:.1?} after its return",
        part(false).count(),
        times[0],
        part(true).count(),
        times[1],
        after.term
    );
    crate::seen("cutoff", &figures);
    Ok(times)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_off_follower_refuses_and_the_others_do_not_notice() -> Result<()> {
    let turn = Turn::wait().await;
    let Some(world) = turn.world().await? else { return Ok(()) };
    let default = if asked_for().is_some() { FAR_SAMPLES } else { SAMPLES };
    let samples = scale("CLAWHUB_CUTOFF_SAMPLES", default);
    let leader = leader(&world.members).await?;
    let mut times = cut_under_load(world, leader, samples).await?;
    if times[1] > 2 * times[0] {
        // Another program's burst looks the same, but not twice.
        times = cut_under_load(world, leader, samples).await?;
    }
    ensure!(times[1] <= 2 * times[0], "commit p99 went from {:?} to {:?}", times[0], times[1]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_off_leader_refuses_and_the_others_go_on_soon() -> Result<()> {
    let turn = Turn::wait().await;
    let Some(world) = turn.world().await? else { return Ok(()) };
    let leader = leader(&world.members).await?;
    let held = Held::push(&world.repo(leader)).await?;
    let before = world.settle().await?;
    world.isolate(leader)?;
    let cut = Instant::now();
    let others = World::others(leader).map(|host| goes_on(world.repo(host), host, cut));
    let resumed = try_join_all(others).await?.into_iter().max().unwrap_or_default();
    ensure!(resumed <= allowed(SOON), "writes came back after {resumed:?} only");
    let slowest = is_a_minority(world, leader, &held, cut).await?;
    let (caught_up, after) = returns(world, leader, &held).await?;
    ensure!(after.leader != before.leader, "the others elected nobody: {after:?}");
    let figures = format!(
        "the leader: writes elsewhere resumed after {resumed:.1?}; it refused within {slowest:.1?}; term {} to {}; \
         like the others {caught_up:.1?} after its return",
        before.term, after.term
    );
    crate::seen("cutoff", &figures);
    Ok(())
}
