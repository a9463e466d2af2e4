//! Tables of the leader's state rot where nobody reads them, and a node needs a snapshot. None of the rot gets there: the
//! leader finds it, stops, says so, and is replaced by the commands that it names, and another one's snapshot serves.
//!
//! In full: `CLAWHUB_SNAPSHOT_FLIPS=500`.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::content::Rng;
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::{Repo, manifest, scale, until};

use super::{CATCHES_UP, REPO, Source, metric, purged};
use crate::damage;

/// Flips in one round: they hit several tables.
const AT_ONCE: usize = 25;
const ENTRIES: usize = 200;
const AWAY: usize = 3 * ENTRIES;
const ENDS: Duration = Duration::from_secs(120);

/// The tables of a node's live state.
fn tables(data: &Path) -> Result<Vec<PathBuf>> {
    let current = fs::read_to_string(data.join("state/CURRENT"))?;
    let mut tables = Vec::new();
    for entry in fs::read_dir(data.join("state").join(current.trim()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "sst") {
            tables.push(path);
        }
    }
    tables.sort();
    ensure!(!tables.is_empty(), "the state has no table");
    Ok(tables)
}

/// Flips a bit somewhere in the tables, in place, as a device does.
fn flip(tables: &[PathBuf], rng: &mut Rng) -> Result<()> {
    let path = rng.pick(tables);
    let file = fs::File::options().read(true).write(true).open(path)?;
    let at = rng.below(usize::try_from(file.metadata()?.len())?) as u64;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    byte[0] ^= 1 << rng.below(8);
    Ok(file.write_all_at(&byte, at)?)
}

struct Trial {
    members: Vec<Member>,
    source: Arc<Source>,
    next: usize,
    rng: Rng,
}

impl Trial {
    fn repo(&self, at: usize) -> Repo {
        self.members[at].registry().repo(REPO)
    }

    /// One node falls behind, the leader rots, the node comes back. The leader's place.
    async fn round(&mut self) -> Result<()> {
        let leader = self.members[0].leader()?.context("a leader")?;
        let ids: Vec<u64> = self.members.iter().map(id).collect::<Result<_>>()?;
        let leader = ids.iter().position(|id| *id == leader).context("the leader is one of them")?;
        let (away, other) = ((leader + 1) % 3, (leader + 2) % 3);
        let last = metric(&self.members[leader], "clawhub_raft_log_index").await?;
        self.members[away].kill()?;
        let end = self.next + AWAY;
        self.source.push_all(&self.repo(other), self.next..end).await?;
        self.next = end;
        let both = [&self.members[leader], &self.members[other]];
        purged(&both, &self.source, &self.repo(other), last).await?;

        let tables = tables(&self.members[leader].data())?;
        for _ in 0..AT_ONCE {
            flip(&tables, &mut self.rng)?;
        }
        self.members[away].launch()?;
        let said = self.members[leader].ended(ENDS).context("the leader to stop")?;
        ensure!(said.contains("is damaged") || said.contains("corrupt"), "{said}");
        let back = &self.members[away];
        until("the node to get ready", CATCHES_UP, || async {
            Ok(back.registry().ready().await.then_some(()))
        })
        .await?;
        self.source.check(back, 0..self.next).await.context("the node that was away")?;
        damage::replace(&mut self.members, leader, other).await?;
        self.source
            .check(&self.members[leader], 0..self.next)
            .await
            .context("the one that replaces the leader")
    }
}

/// The id that a node has in its cluster.
fn id(member: &Member) -> Result<u64> {
    member.admin(&["status"])?["node"].as_u64().context("a node's id")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rot_of_the_leaders_tables_reaches_nobody() -> Result<()> {
    let _beside = crate::beside().await;
    let flips: usize = scale("CLAWHUB_SNAPSHOT_FLIPS", AT_ONCE);
    let home = tempfile::tempdir()?;
    let sections = format!("snapshot_entries = {ENTRIES}\n\n[storage]\nmin_free = \"16MiB\"\n");
    let specs = (0..3).map(|number| Spec { sections: sections.clone(), ..Spec::zone(number) });
    let members = fleet::form(home.path(), specs.collect()).await?;
    let config = members[0].registry().repo(REPO).push_blob(manifest::CONFIG_BYTES).await?;
    let rng = Rng::new(scale("CLAWHUB_SNAPSHOT_SEED", u64::from(std::process::id())));
    let mut trial = Trial { members, source: Arc::new(Source { config }), next: 0, rng };
    let mut proved = Ok(());
    let rounds = flips.div_ceil(AT_ONCE);
    for round in 0..rounds {
        proved = trial.round().await.with_context(|| format!("round {round}"));
        if proved.is_err() {
            break;
        }
    }
    let manifests = trial.next;
    drop(trial);
    proved.with_context(|| format!("the nodes' folders are kept in {}", home.keep().display()))?;
    let flips = rounds * AT_ONCE;
    crate::seen(
        "snapshots",
        &format!("{flips} flips in tables of {rounds} leaders: all found, {manifests} manifests whole"),
    );
    Ok(())
}
