//! How long after the death of the leader the next write is acknowledged, and how long with three nodes of
//! etcd on the same machine in the same run.
//!
//! `CLAWHUB_FAILOVER_KILLS=30` is the full measure. Without a program `etcd` its half is not run.

mod clawhub;
mod etcd;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clawhub_testkit::{scale, until};

/// How long one attempt to write may take.
const ATTEMPT: Duration = Duration::from_millis(300);
/// Between an attempt that failed and the next: the nodes need the processor for their election.
const PAUSE: Duration = Duration::from_millis(5);
/// No write for so long is no failover any more.
const LIMIT: Duration = Duration::from_secs(30);
/// After a death writes go on within this: an election, a second one where the votes were split, and the
/// same again for a machine that does other things too.
const MEDIAN: Duration = Duration::from_secs(3);

/// Three nodes, one of which leads.
trait Trio {
    /// Which one leads, once all of them agree.
    async fn leader(&self) -> Result<Option<usize>>;
    /// One attempt to write through a node; whether it was acknowledged.
    async fn write(&self, node: usize, value: u64) -> bool;
    /// `kill -9`.
    fn kill(&self, node: usize) -> Result<()>;
    /// Starts a node that was killed and waits until it takes part.
    async fn revive(&mut self, node: usize) -> Result<()>;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failover_takes_an_election() -> Result<()> {
    let _alone = crate::alone().await;
    let kills = scale("CLAWHUB_FAILOVER_KILLS", 2).max(1);
    let ours = {
        let home = tempfile::tempdir()?;
        rounds(&mut clawhub::Nodes::form(home.path()).await?, kills).await?
    };
    let theirs = match etcd::program() {
        Some(program) => {
            let home = tempfile::tempdir()?;
            let mut nodes = etcd::Nodes::form(&program, home.path()).await?;
            format!("; etcd, default settings: {}", figure(&rounds(&mut nodes, kills).await?))
        }
        None => String::new(),
    };
    crate::seen("failover", &format!("clawhub, profile lan: {}{theirs}", figure(&ours)));
    ensure!(median(&ours) <= MEDIAN, "the median of {ours:?}");
    if theirs.is_empty() {
        crate::skipped("failover", "etcd is not installed")?;
    }
    Ok(())
}

/// Kills the leader so often; each time it comes back before the next time.
async fn rounds(trio: &mut impl Trio, kills: u64) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    for round in 1..=kills {
        let leader = settled(trio, round).await.context("before a kill")?;
        took.push(failover(trio, leader, round).await?);
        trio.revive(leader).await.context("after a kill")?;
    }
    took.sort_unstable();
    Ok(took)
}

/// The leader, once every node takes writes. The client has its connections then.
async fn settled(trio: &impl Trio, value: u64) -> Result<usize> {
    for node in 0..3 {
        let written = || async { Ok(trio.write(node, value).await.then_some(())) };
        until("a write through every node", LIMIT, written).await?;
    }
    until("one leader", LIMIT, || trio.leader()).await
}

/// From the kill to the first acknowledgement through either of the others.
async fn failover(trio: &impl Trio, leader: usize, value: u64) -> Result<Duration> {
    let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let killed = Instant::now();
    trio.kill(leader)?;
    tokio::select! {
        () = written(trio, one, value) => {}
        () = written(trio, other, value) => {}
        () = tokio::time::sleep(LIMIT) => bail!("no write for {LIMIT:?}"),
    }
    Ok(killed.elapsed())
}

async fn written(trio: &impl Trio, node: usize, value: u64) {
    while !trio.write(node, value).await {
        tokio::time::sleep(PAUSE).await;
    }
}

fn median(sorted: &[Duration]) -> Duration {
    let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    (low + high) / 2
}

fn figure(sorted: &[Duration]) -> String {
    let longest = sorted.last().copied().unwrap_or_default();
    let (median, kills) = (median(sorted).as_millis(), sorted.len());
    format!("median {median} ms, max {} ms of {kills} kills", longest.as_millis())
}
