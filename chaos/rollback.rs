//! A node on an old copy of its disk, and a second process with a copy of a living node's: the log knows
//! each node's last start, so neither gets in, both say why and end, and what was acknowledged stays. The same for a
//! copy that was made while the node ran, as of a volume, with no start since: the leader knows what the node has
//! acknowledged to it, and the log knows enough of it for the next leader.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::manifest;
use clawhub_testkit::{Repo, process, until};
use clawhub_types::Digest;
use tempfile::TempDir;

use crate::lead::lead;

/// A start that is not to be ends itself within this.
const SOON: Duration = Duration::from_secs(30);
/// Why, as it says itself and its peers say.
const WHY: &str = "an old copy of its data";
/// What its peers log with it.
const REFUSED: &str = "a peer was refused: boot";
/// The node that is copied.
const COPIED: usize = 2;

/// Three nodes and what was acknowledged.
struct World {
    members: Vec<Member>,
    home: TempDir,
    written: Vec<Digest>,
    /// The processes of those that are not copied.
    pids: Vec<u32>,
}

impl World {
    async fn start() -> Result<World> {
        let home = tempfile::tempdir()?;
        let members = fleet::form(home.path(), (0..3).map(Spec::zone).collect()).await?;
        let pids = members[..COPIED].iter().map(Member::pid).collect::<Result<_>>()?;
        let mut world = World { members, home, written: Vec::new(), pids };
        world.repo(0).push_blob(manifest::CONFIG_BYTES).await?;
        world.write().await?;
        Ok(world)
    }

    fn repo(&self, node: usize) -> Repo {
        self.members[node].registry().repo("rollback/image")
    }

    fn copied(&mut self) -> &mut Member {
        &mut self.members[COPIED]
    }

    /// Moves the tag, through each of the nodes that are not copied.
    async fn write(&mut self) -> Result<()> {
        for node in 0..COPIED {
            let bytes = manifest::version(self.written.len());
            let pushed = self.repo(node).push_manifest("v", manifest::OCI_MANIFEST, &bytes).await?;
            self.written.push(pushed.digest);
        }
        Ok(())
    }

    /// Everything that was acknowledged is there, through so many of the nodes.
    async fn check(&self, nodes: usize) -> Result<()> {
        for node in 0..nodes {
            let repo = self.repo(node);
            let last = self.written.last();
            ensure!(
                repo.resolve("v").await?.as_ref() == last,
                "node {}: the tag is not at {last:?}",
                node + 1
            );
            for digest in &self.written {
                repo.pull_manifest(&digest.to_string())
                    .await
                    .with_context(|| format!("node {}", node + 1))?;
            }
        }
        Ok(())
    }

    /// Stops the node, copies its disk, and has it start so many times since.
    async fn copy(&mut self, starts: usize) -> Result<PathBuf> {
        let to = self.home.path().join("copy");
        self.copied().stop();
        clone(&self.copied().data(), &to)?;
        for _ in 0..starts {
            self.copied().stop();
            self.copied().start().await?;
            self.copied().ready().await?;
        }
        self.write().await?;
        self.check(3).await?;
        Ok(to)
    }

    /// Copies the disk of the running node at one moment, as a snapshot of its volume does.
    async fn copy_running(&mut self) -> Result<PathBuf> {
        let to = self.home.path().join("copy");
        let pid = self.copied().pid()?;
        process::pause(pid)?;
        let copied = clone(&self.copied().data(), &to);
        process::resume(pid)?;
        copied?;
        // It has not ended by that, and is no other process.
        self.copied().ready().await?;
        ensure!(self.copied().pid()? == pid, "it was started again");
        Ok(to)
    }

    /// The copied node, which is dead, starts on this copy of its disk.
    fn set_back(&mut self, copy: &Path) -> Result<Duration> {
        let data = self.copied().data();
        fs::remove_dir_all(&data)?;
        fs::rename(copy, &data)?;
        ends(self.copied())
    }

    /// Waits until the log knows that the copied node has this entry.
    async fn noted(&self, index: u64) -> Result<()> {
        until("the log to know what the node acknowledged", SOON, || async {
            let members = self.members[0].admin(&["members"])?;
            let known = members["members"][COPIED]["acknowledged"].as_u64().context("an index")?;
            Ok((known >= index).then_some(()))
        })
        .await
    }

    /// The others run on as they did, take writes, and have everything.
    async fn unharmed(&mut self) -> Result<()> {
        for (member, pid) in self.members.iter().zip(&self.pids) {
            ensure!(process::alive(*pid), "{} died: {}", member.spec.name, process::tail(&member.log(), 20));
        }
        self.write().await?;
        self.check(COPIED).await
    }

    /// Each of the others says whom it refused, and why.
    async fn refused_by_all(&self) -> Result<()> {
        for member in &self.members[..COPIED] {
            // Lines are written in batches.
            until("the reason in the log of a peer", SOON, || async {
                let log = fs::read_to_string(member.log())?;
                Ok(log.lines().any(|line| line.contains(REFUSED) && line.contains(WHY)).then_some(()))
            })
            .await
            .with_context(|| member.spec.name.clone())?;
        }
        Ok(())
    }
}

/// A copy with its permissions: keys that others may read are refused.
fn clone(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(copied.success(), "cp -a {} {}: {copied}", from.display(), to.display());
    Ok(())
}

/// It ends by itself and says why. After how long.
fn ends(member: &mut Member) -> Result<Duration> {
    let started = Instant::now();
    member.launch()?;
    let log = member.log();
    let said = member.ended(SOON).with_context(|| process::tail(&log, 20))?;
    let last = said.lines().last().unwrap_or_default();
    ensure!(last.starts_with("clawhub: ") && last.contains(WHY), "{} ended with: {last}", member.spec.name);
    Ok(started.elapsed())
}

/// The disk as it was so many starts ago is refused; today's goes on.
async fn roll_back(starts: usize) -> Result<(World, Duration)> {
    let mut world = World::start().await?;
    let yesterday = world.copy(starts).await?;
    world.copied().stop();
    let data = world.copied().data();
    let today = data.with_file_name("today");
    fs::rename(&data, &today)?;
    fs::rename(&yesterday, &data)?;
    let ended = ends(world.copied())?;
    world.unharmed().await?;

    fs::remove_dir_all(&data)?;
    fs::rename(&today, &data)?;
    world.copied().start().await?;
    world.copied().ready().await?;
    world.write().await?;
    world.check(3).await?;
    Ok((world, ended))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn yesterdays_disk_is_refused() -> Result<()> {
    let _beside = crate::beside().await;
    let (world, ended) = roll_back(2).await?;
    world.refused_by_all().await?;
    let figures = format!(
        "yesterday's disk: refused by both peers, ended by itself after {ended:.1?}; {} writes stay; today's disk \
         is taken",
        world.written.len()
    );
    crate::seen("rollback", &figures);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_one_start_old_is_refused() -> Result<()> {
    let _beside = crate::beside().await;
    let (world, ended) = roll_back(1).await?;
    world.refused_by_all().await?;
    let figures = format!("a disk one start old: refused by both peers, ended by itself after {ended:.1?}");
    crate::seen("rollback", &figures);
    Ok(())
}

/// The leader that the node acknowledged to holds it against the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_copied_while_it_ran_is_refused_by_the_leader() -> Result<()> {
    let _beside = crate::beside().await;
    let mut world = World::start().await?;
    lead(&world.members, 0).await?;
    let copy = world.copy_running().await?;
    world.write().await?;
    // Read through the copied node, so that it has the entries.
    world.check(3).await?;
    world.copied().kill()?;
    let ended = world.set_back(&copy)?;
    world.unharmed().await?;
    let figures = format!("a disk copied while it ran, no start since: ended by itself after {ended:.1?}");
    crate::seen("rollback", &figures);
    Ok(())
}

/// So does one that it acknowledged nothing to, by what the log says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_copied_while_it_ran_is_refused_by_the_next_leader() -> Result<()> {
    let _beside = crate::beside().await;
    let mut world = World::start().await?;
    lead(&world.members, 0).await?;
    let copy = world.copy_running().await?;
    world.write().await?;
    world.check(3).await?;
    // Another one leads, the node votes and acknowledges there, and then leadership is back without the node.
    let wrote = world.members[0].admin(&["status"])?["last_log"].as_u64().context("an index")?;
    lead(&world.members, 1).await?;
    world.noted(wrote).await?;
    world.copied().kill()?;
    lead(&world.members[..COPIED], 0).await?;
    let ended = world.set_back(&copy)?;
    world.unharmed().await?;
    let figures = format!("the same under another leader: ended by itself after {ended:.1?}");
    crate::seen("rollback", &figures);
    Ok(())
}

/// The log knows the original's later start, so the copy is the one that goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_twin_is_refused_and_the_original_goes_on() -> Result<()> {
    let _beside = crate::beside().await;
    let mut world = World::start().await?;
    let copy = world.copy(2).await?;
    let spec = Spec { name: "twin".into(), ..world.members[COPIED].spec.clone() };
    let mut twin = Member::new(world.home.path(), spec)?;
    fs::remove_dir(twin.data())?;
    fs::rename(&copy, twin.data())?;
    let original = world.copied().pid()?;
    let ended = ends(&mut twin)?;
    world.refused_by_all().await?;
    ensure!(process::alive(original), "the original died");
    world.copied().ready().await?;
    world.unharmed().await?;
    world.check(3).await?;
    crate::seen("rollback", &format!("a twin: refused by both peers, ended by itself after {ended:.1?}"));
    Ok(())
}
