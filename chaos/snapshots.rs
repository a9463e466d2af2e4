//! Snapshots: a node that was away for longer than the log remembers comes back by one, although its
//! transfer is cut short twice, each time between two files; so does a newcomer while pushes go on at full rate.
//! [`cuts`] cuts it short at any moment, [`rot`] has the sender's tables rot.

mod cuts;
mod rot;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

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

    async fn push_all(&self, repo: &Repo, numbers: std::ops::Range<usize>) -> Result<()> {
        let pushes = stream::iter(numbers).map(|number| self.push(repo, number));
        pushes.buffer_unordered(PARALLEL).try_collect::<()>().await
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
    // Each leaves the state one more file, which the fourth would merge: a transfer is to have several.
    let entries = (manifests / 3).max(200);
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

/// What has arrived of a snapshot.
#[derive(Debug)]
struct Arrived {
    /// The files that are complete: inode and time tell one that was sent again.
    complete: BTreeMap<String, (u64, SystemTime)>,
    /// The one under way. A new transfer begins it anew.
    part: Option<(u64, SystemTime)>,
}

impl Arrived {
    fn at(data: &Path) -> Arrived {
        let incoming = data.join("state/incoming");
        let files = fs::read_dir(incoming.join("data")).into_iter().flatten().flatten();
        let known = |file: fs::DirEntry| {
            let meta = file.metadata().ok()?;
            Some((file.file_name().into_string().ok()?, (meta.ino(), meta.modified().ok()?)))
        };
        let part = fs::metadata(incoming.join("part")).ok();
        let part = part.and_then(|meta| Some((meta.len(), meta.modified().ok()?)));
        Arrived { complete: files.filter_map(known).collect(), part }
    }

    /// Whether more has come since `before`, a file is complete, and another one is not.
    fn is_between(&self, before: &Arrived) -> bool {
        let part = self.part.filter(|(bytes, _)| *bytes > 0);
        !self.complete.is_empty() && part.is_some() && part != before.part
    }
}

/// Starts a node that has this much of a snapshot, and waits until more of it comes. No file comes a second time.
async fn goes_on(member: &mut Member) -> Result<Arrived> {
    let before = Arrived::at(&member.data());
    member.launch()?;
    let data = member.data();
    let now = until("more of the snapshot", BEGINS, || async {
        let now = Arrived::at(&data);
        Ok(now.is_between(&before).then_some(now))
    })
    .await?;
    let kept = before.complete.iter().all(|(name, file)| now.complete.get(name) == Some(file));
    ensure!(kept, "files came again: there were {before:?}, there are {now:?}");
    Ok(now)
}

/// Kills the node in the middle of its snapshot, twice, and has it go on. How many files it did not ask for again.
async fn interrupted(member: &mut Member) -> Result<usize> {
    for number in 0..INTERRUPTIONS {
        goes_on(member).await.with_context(|| format!("interruption {number}"))?;
        member.kill()?;
    }
    let kept = Arrived::at(&member.data()).complete.len();
    goes_on(member).await.context("after the interruptions")?;
    Ok(kept)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_away_for_too_long_gets_a_snapshot() -> Result<()> {
    let _beside = crate::beside().await;
    let manifests: usize = scale("CLAWHUB_SNAPSHOT_MANIFESTS", 1_200);
    let home = tempfile::tempdir()?;
    let mut members = fleet::form(home.path(), specs(manifests)).await?;
    let away = if members[0].leader()? == Some(3) { 1 } else { 2 };
    let last = metric(&members[away], "clawhub_raft_log_index").await?;
    let before = installed(&members[away]).await?;
    members[away].kill()?;
    let repo = members[0].registry().repo(REPO);
    let source = Arc::new(Source { config: repo.push_blob(manifest::CONFIG_BYTES).await? });
    let began = Instant::now();
    source.push_all(&repo, 0..manifests).await?;
    let pushed = began.elapsed();
    let others: Vec<&Member> = (0..3).filter(|at| *at != away).map(|at| &members[at]).collect();
    purged(&others, &source, &repo, last).await?;

    let kept = interrupted(&mut members[away]).await?;
    let began = Instant::now();
    until("the node to catch up", CATCHES_UP, || async {
        Ok(members[away].registry().ready().await.then_some(()))
    })
    .await?;
    let caught_up = began.elapsed();
    let count = installed(&members[away]).await? - before;
    ensure!(count >= 1, "it caught up without a snapshot");
    source.check(&members[away], 0..manifests).await.context("the node that was away")?;

    let newcomer = join_under_load(home.path(), &members, &source, manifests).await.context("a newcomer")?;
    let figure = format!(
        "{manifests} manifests in {pushed:.1?}; back after {INTERRUPTIONS} interruptions in {caught_up:.1?}, \
         {kept} files kept over them, {count} snapshot installed; newcomer ready in {newcomer:.1?} under load"
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
        source.push_all(&repo, next..next + PARALLEL).await?;
        next += PARALLEL;
    }
    Ok(next)
}
