//! Snapshots: a node that was away for longer than the log remembers comes back by one, although its
//! transfer is cut short twice; so does a newcomer while pushes go on at full rate.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::content::Rng;
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::manifest::{self, Image};
use clawhub_testkit::{Repo, scale, until};
use clawhub_types::Digest;
use futures::stream::{self, StreamExt, TryStreamExt};

const REPO: &str = "chaos/snapshots";
/// Requests under way at once.
const PARALLEL: usize = 32;
/// How long a transfer may take to begin.
const BEGINS: Duration = Duration::from_secs(60);
/// How long a node may take to have it all.
const CATCHES_UP: Duration = Duration::from_secs(300);
/// How often its transfer is cut short.
const INTERRUPTIONS: usize = 2;

fn tag(number: usize) -> String {
    format!("t{number}")
}

/// Manifests that differ, of one config blob.
struct Source {
    config: Digest,
}

impl Source {
    fn bytes(&self, number: usize) -> Vec<u8> {
        let image = Image::new(&self.config, manifest::CONFIG_BYTES.len());
        // Text that does not compress: a snapshot must be large enough to be cut short.
        let text: String = Rng::new(number as u64).bytes(500).iter().map(|b| format!("{b:02x}")).collect();
        image.annotation("number", &text).bytes()
    }

    fn digest(&self, number: usize) -> Digest {
        clawhub_testkit::content::sha256(&self.bytes(number))
    }

    async fn push(&self, repo: &Repo, number: usize) -> Result<()> {
        repo.push_manifest(&tag(number), manifest::OCI_MANIFEST, &self.bytes(number)).await.map(drop)
    }

    /// Whether a node has every one of these tags as it was pushed.
    async fn check(&self, member: &Member, numbers: std::ops::Range<usize>) -> Result<()> {
        let repo = member.registry().repo(REPO);
        let wrong = stream::iter(numbers).map(|number| {
            let repo = repo.clone();
            async move {
                let found = repo.resolve(&tag(number)).await?;
                ensure!(found == Some(self.digest(number)), "tag {number} is {found:?}");
                Ok(())
            }
        });
        wrong.buffer_unordered(PARALLEL).try_collect::<()>().await
    }
}

/// A cluster that makes snapshots often and sends them slowly.
fn specs(manifests: usize) -> Vec<Spec> {
    let entries = (manifests / 4).max(200);
    // A transfer must last long enough to be cut short: the state of these manifests in a few seconds.
    let rate = (manifests as u64 * 250).max(64 << 10);
    let sections = format!(
        "snapshot_entries = {entries}\nsnapshot_rate = \"{rate}B\"\n\n[storage]\nmin_free = \"16MiB\"\n"
    );
    (0..3).map(|number| Spec { sections: sections.clone(), ..Spec::zone(number) }).collect()
}

async fn metric(member: &Member, name: &str) -> Result<u64> {
    let text = member.registry().get("/metrics").await?.text().await?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.with_context(|| name.to_owned())?.trim().parse()?)
}

/// How many snapshots of others have replaced a node's state.
async fn installed(member: &Member) -> Result<u64> {
    metric(member, "clawhub_raft_snapshots_installed").await
}

/// Waits until nobody's log reaches back to `index` any more. Writes go on: logs are purged beside them,
/// once the last attempt to send the absent node their entries has failed.
async fn purged(members: &[&Member], source: &Source, repo: &Repo, index: u64) -> Result<()> {
    until("the log to be purged", BEGINS, || async {
        source.push(repo, 0).await?;
        for member in members {
            if metric(member, "clawhub_raft_purged_index").await? <= index {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

/// Something of a snapshot has arrived and not all of it.
fn arriving(data: &Path) -> bool {
    data.join("state/incoming/part").exists()
}

/// Starts a node and kills it in the middle of its snapshot.
async fn interrupt(member: &mut Member) -> Result<()> {
    member.launch()?;
    let data = member.data();
    until("a snapshot to arrive", BEGINS, || async { Ok(arriving(&data).then_some(())) }).await?;
    member.kill()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_away_for_too_long_gets_a_snapshot() -> Result<()> {
    let _beside = crate::beside().await;
    let manifests: usize = scale("CLAWHUB_SNAPSHOT_MANIFESTS", 1_200);
    let home = tempfile::tempdir()?;
    let mut members = fleet::form(home.path(), specs(manifests)).await?;
    let away = if members[0].leader()? == Some(3) { 1 } else { 2 };
    let last = metric(&members[away], "clawhub_raft_log_index").await?;
    members[away].kill()?;
    let repo = members[0].registry().repo(REPO);
    let source = Arc::new(Source { config: repo.push_blob(manifest::CONFIG_BYTES).await? });
    let began = Instant::now();
    let pushes = stream::iter(0..manifests).map(|number| {
        let (source, repo) = (source.clone(), repo.clone());
        async move { source.push(&repo, number).await }
    });
    pushes.buffer_unordered(PARALLEL).try_collect::<()>().await?;
    let pushed = began.elapsed();
    let others: Vec<&Member> = (0..3).filter(|at| *at != away).map(|at| &members[at]).collect();
    purged(&others, &source, &repo, last).await?;

    for number in 0..INTERRUPTIONS {
        interrupt(&mut members[away]).await.with_context(|| format!("interruption {number}"))?;
    }
    let began = Instant::now();
    members[away].start().await?;
    until("the node to catch up", CATCHES_UP, || async {
        Ok(members[away].registry().ready().await.then_some(()))
    })
    .await?;
    let caught_up = began.elapsed();
    let count = installed(&members[away]).await?;
    ensure!(count >= 1, "it caught up without a snapshot");
    source.check(&members[away], 0..manifests).await.context("the node that was away")?;

    let newcomer = join_under_load(home.path(), &members, &source, manifests).await.context("a newcomer")?;
    let figure = format!(
        "{manifests} manifests in {pushed:.1?}; back after {INTERRUPTIONS} interruptions in {caught_up:.1?}, \
         {count} installed; newcomer ready in {newcomer:.1?} under load"
    );
    crate::seen("snapshots", &figure);
    Ok(())
}

/// A fourth node joins while others push as fast as they can; how long it took.
async fn join_under_load(
    home: &Path,
    members: &[Member],
    source: &Arc<Source>,
    manifests: usize,
) -> Result<Duration> {
    let stop = Arc::new(AtomicBool::new(false));
    let repo = members[0].registry().repo(REPO);
    let load = tokio::spawn(keep_pushing(source.clone(), repo, manifests, stop.clone()));
    let sections = specs(manifests).swap_remove(0).sections;
    let mut newcomer = Member::new(home, Spec { sections, ..Spec::zone(3) })?;
    newcomer.start().await?;
    let began = Instant::now();
    newcomer.join(&members[0]).await?;
    let took = began.elapsed();
    stop.store(true, Ordering::Relaxed);
    let end = load.await??;
    ensure!(installed(&newcomer).await? >= 1, "the newcomer had no snapshot");
    source.check(&newcomer, 0..end).await?;
    Ok(took)
}

/// Pushes from `next` on until it is told to stop; where it ended.
async fn keep_pushing(source: Arc<Source>, repo: Repo, next: usize, stop: Arc<AtomicBool>) -> Result<usize> {
    let mut next = next;
    while !stop.load(Ordering::Relaxed) {
        let batch = stream::iter(next..next + PARALLEL).map(|number| source.push(&repo, number));
        batch.buffer_unordered(PARALLEL).try_collect::<()>().await?;
        next += PARALLEL;
    }
    Ok(next)
}
