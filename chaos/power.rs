//! Power cuts: nodes on devices of their own, cut at random moments while clients push. What was
//! acknowledged before, during and after is there afterwards, byte for byte, through every node.
//!
//! Half of the cuts hit every node at once: of one node alone the others still have everything, so only
//! then does it show who answered before the fsync. Both mistakes that this is about can be made on purpose,
//! by the mutants `no-fsync` and `early-receipts`, and the run must then fail. The second is the subtle one: Raft's fsync of the log commits the file system's journal, which has the names
//! of all new files, though nobody has fsynced them. Not their bytes: ext4 gives a file its blocks when it
//! writes it back, five to thirty seconds later, and until then the journal knows of an empty file. So what
//! was pushed shortly before a cut tells, and the load never pauses. What was written past the page cache
//! is a file with a hole in front: its first 8 MiB were not.
//!
//! `CLAWHUB_POWER_CUTS=30` is the full measure; `CLAWHUB_POWER_SEED` repeats the choices of a run.

mod load;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use clawhub_testkit::cluster::holds;
use clawhub_testkit::content::Rng;
use clawhub_testkit::disk::Disk;
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::{Registry, scale, until};
use futures::StreamExt as _;
use load::{Load, Object, Running, Tag};
use reqwest::StatusCode;

/// Each in a region of its own, and so each in the end with a copy of everything.
const NODES: usize = 3;
/// Space on each device: for the cluster itself, and for what is pushed around one cut.
const BASE: u64 = 1 << 30;
const PER_CUT: u64 = 256 << 20;
/// A cut comes after this many acknowledged images, and up to this much later.
const ANSWERS: usize = 12;
const CALM: Duration = Duration::from_millis(2500);
/// How long a node that is back may leave open what it has.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the copies in all regions may take to be complete.
const COPIES: Duration = Duration::from_secs(120);
/// What is read at the same time.
const READERS: usize = 6;
/// Nobody looks for more once so many things are lost at one node; a failure names the first few.
const ENOUGH: usize = 40;
const NAMED: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_takes_nothing_that_was_acknowledged() -> Result<()> {
    let _beside = crate::beside().await;
    if let Some(why) = Disk::unavailable() {
        return crate::skipped("power", &format!("no devices can be made here: {why}"));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let seed = scale("CLAWHUB_POWER_SEED", u64::from(now.subsec_nanos()));
    let cuts = scale("CLAWHUB_POWER_CUTS", 2);
    let home = tempfile::tempdir()?;
    let mut run = Run::start(home.path(), cuts, seed).await?;
    let outcome = run.all(cuts).await;
    crate::seen("power", &run.figures());
    outcome.with_context(|| format!("CLAWHUB_POWER_SEED={seed}"))
}

/// One run.
struct Run {
    /// Before their disks: they must have stopped when those go.
    members: Vec<Member>,
    disks: Vec<Disk>,
    load: Load,
    rng: Rng,
    /// Cuts of one node, of two, …
    cuts: [usize; NODES],
    slowest: Duration,
    read: usize,
}

impl Run {
    async fn start(home: &Path, cuts: usize, seed: u64) -> Result<Run> {
        let (mut members, mut disks) = (Vec::new(), Vec::new());
        for number in 0..NODES {
            let spec = Spec { region: format!("r{}", number + 1), ..Spec::zone(number) };
            let member = Member::new(home, spec)?;
            let image = home.join(format!("{number}.ext4"));
            disks.push(Disk::new(&image, BASE + cuts as u64 * PER_CUT, &member.data())?);
            members.push(member);
        }
        let registries: Vec<Registry> = members.iter().map(Member::registry).collect();
        let (load, rng) = (Load::new(&registries, seed), Rng::new(seed));
        let (cuts, slowest, read) = ([0; NODES], Duration::ZERO, 0);
        let mut run = Run { members, disks, load, rng, cuts, slowest, read };
        fleet::gather(&mut run.members).await?;
        Ok(run)
    }

    async fn all(&mut self, cuts: usize) -> Result<()> {
        for number in 0..cuts {
            let count = [NODES, 1, NODES, 2][number % 4];
            let told = format!("cut {}, of {count} nodes", number + 1);
            let before = self.load.objects().len();
            let back = self.round(count).await;
            let new: Vec<Arc<Object>> = self.load.objects()[before..].to_vec();
            // Also when not every node came back: what the others still have tells what that means.
            match (back, self.check(&new).await) {
                (Err(late), Err(lost)) => bail!("{told}: {lost:#}\nand not every node came back: {late:#}"),
                (back, there) => back.and(there).context(told)?,
            }
        }
        let all = self.load.objects().to_vec();
        self.check(&all).await.context("everything, in the end")?;
        self.wait_for_copies(&all).await?;
        self.each_alone(&all).await
    }

    /// The power goes and comes back, under load.
    async fn round(&mut self, count: usize) -> Result<()> {
        let running = self.load.start();
        let back = self.cut(&running, count).await;
        self.load.stop(running).await.and(back)
    }

    /// The power of so many nodes goes at a random moment, and comes back.
    async fn cut(&mut self, running: &Running, count: usize) -> Result<()> {
        running.answers(ANSWERS).await?;
        // The random moment; nothing is waited for.
        let calm = self.rng.below(CALM.as_millis() as usize);
        tokio::time::sleep(Duration::from_millis(calm as u64)).await;

        let victims = self.victims(count);
        for &victim in &victims {
            self.disks[victim].cut()?;
        }
        let dark = Instant::now();
        self.cuts[count - 1] += 1;
        for &victim in &victims {
            self.members[victim].kill()?;
        }
        if count == 1 {
            // The others are a majority.
            running.answers(ANSWERS).await.context("with one node of three without power")?;
        }
        let mut back = Ok(());
        for &victim in &victims {
            back = back.and(self.power_on(victim).await);
        }
        back?;
        self.ready().await?;
        self.slowest = self.slowest.max(dark.elapsed());
        Ok(())
    }

    async fn power_on(&mut self, victim: usize) -> Result<()> {
        self.disks[victim].restore()?;
        self.members[victim].start().await
    }

    fn victims(&mut self, count: usize) -> BTreeSet<usize> {
        let mut victims: BTreeSet<usize> = (0..NODES).collect();
        while victims.len() > count {
            victims.remove(&self.rng.below(NODES));
        }
        victims
    }

    async fn ready(&self) -> Result<()> {
        for member in &self.members {
            member.ready().await?;
        }
        Ok(())
    }

    /// Reads these things through every node, and every tag.
    async fn check(&mut self, objects: &[Arc<Object>]) -> Result<()> {
        let mut lost = Vec::new();
        for member in &self.members {
            let (registry, patience) = (member.registry(), Instant::now() + PATIENCE);
            for tag in self.load.tags() {
                lost.extend(follow(&registry, tag, patience).await.err());
            }
            lost.extend(missing(&registry, objects).await);
        }
        self.judge(&lost, objects.len() * NODES)
    }

    /// Waits until every region has its copy of all but the small manifests, which are in the log.
    async fn wait_for_copies(&self, objects: &[Arc<Object>]) -> Result<()> {
        let roots: Vec<String> = objects.iter().filter_map(|object| object.root()).collect();
        let copied = until("a copy of everything in each region", COPIES, || async {
            for member in &self.members {
                let missing = roots.iter().filter(|root| !holds(&member.data(), root)).count();
                ensure!(missing == 0, "{} lacks {missing} of {}", member.spec.name, roots.len());
            }
            Ok(Some(()))
        });
        copied.await
    }

    /// Every copy is a good one: each node serves everything while the others are stopped.
    async fn each_alone(&mut self, objects: &[Arc<Object>]) -> Result<()> {
        for number in 0..NODES {
            for other in (0..NODES).filter(|other| *other != number) {
                self.members[other].stop();
            }
            let lost = missing(&self.members[number].registry(), objects).await;
            let told = format!("{} alone", self.members[number].spec.name);
            self.judge(&lost, objects.len()).context(told)?;
            for other in (0..NODES).filter(|other| *other != number) {
                self.members[other].start().await?;
            }
            self.ready().await?;
        }
        Ok(())
    }

    fn judge(&mut self, lost: &[anyhow::Error], read: usize) -> Result<()> {
        self.read += read;
        if lost.is_empty() {
            return Ok(());
        }
        let named: Vec<String> = lost.iter().take(NAMED).map(|error| format!("\n  {error:#}")).collect();
        bail!("LOST: at least {} of {read} reads of what was acknowledged:{}", lost.len(), named.concat())
    }

    fn figures(&self) -> String {
        let [one, two, all] = self.cuts;
        let (images, mib, unknown) = self.load.figures();
        format!(
            "{} cuts under load ({all} of all nodes, {two} of two, {one} of one); {images} images, {mib} MiB \
             acknowledged; {unknown} outcomes unknown; all ready again after at most {:.1} s; {} reads compared",
            one + two + all,
            self.slowest.as_secs_f64(),
            self.read
        )
    }
}

/// What of these things a node does not have.
async fn missing(registry: &Registry, objects: &[Arc<Object>]) -> Vec<anyhow::Error> {
    let patience = Instant::now() + PATIENCE;
    let reads = objects.iter().map(|object| compare(registry, object, patience));
    let reads = futures::stream::iter(reads).buffer_unordered(READERS);
    reads.filter_map(|read| async { read.err() }).take(ENOUGH).collect().await
}

/// Reads a thing and compares it. Only an answer that leaves it open is asked for again.
async fn compare(registry: &Registry, object: &Object, patience: Instant) -> Result<()> {
    let path = registry.repo(&object.repo).path(&object.path);
    let told = || format!("{}{path}", registry.address());
    let (status, bytes) =
        patiently(patience, async || get(registry, &path).await).await.with_context(told)?;
    ensure!(status == StatusCode::OK, "{}: {status}", told());
    ensure!(bytes == object.bytes(), "{}: other bytes than were pushed", told());
    Ok(())
}

/// Status and bytes; an error if the answer says that it may be another one later, or breaks off.
async fn get(registry: &Registry, path: &str) -> Result<(StatusCode, Bytes)> {
    let answer = registry.get(path).await?;
    let status = answer.status();
    let bytes = answer.bytes().await?;
    ensure!(status != StatusCode::SERVICE_UNAVAILABLE, "503: {}", String::from_utf8_lossy(&bytes));
    Ok((status, bytes))
}

/// Looks where a tag points.
async fn follow(registry: &Registry, tag: &Tag, patience: Instant) -> Result<()> {
    let repo = registry.repo(&tag.repo);
    let found = patiently(patience, async || repo.resolve(&tag.name).await).await;
    found.and_then(|found| tag.check(&found)).with_context(|| registry.address().to_owned())
}

/// Asks once, and until some time again if that is no answer.
async fn patiently<T>(until_then: Instant, ask: impl AsyncFn() -> Result<T>) -> Result<T> {
    if let Ok(answer) = ask().await {
        return Ok(answer);
    }
    let left = until_then.saturating_duration_since(Instant::now());
    until("an answer", left, || async { ask().await.map(Some) }).await
}
