//! A node that needs a snapshot is killed, or its device runs full, at any moment of the transfer and of what comes after
//! it. It gets ready by itself: in every second round while nobody writes, so that no newer snapshot helps it out, and
//! in the others while somebody does.
//!
//! In full: `CLAWHUB_SNAPSHOT_KILLS=200 CLAWHUB_SNAPSHOT_FULL=50`. `CLAWHUB_SNAPSHOT_SEED` repeats the moments.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::content::Rng;
use clawhub_testkit::disk::Disk;
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::{Repo, manifest, process, scale, until};
use tokio::task::JoinHandle;

use super::{BEGINS, CATCHES_UP, REPO, Source, installed, metric, purged};

const MIB: u64 = 1 << 20;
/// The device of the node that suffers.
const DEVICE: u64 = 512 * MIB;
const FILLER: &str = "filler";
/// Entries between snapshots, and what is pushed while a node is away: more than the log keeps.
const ENTRIES: usize = 200;
const AWAY: usize = 3 * ENTRIES;
/// Kills before the node is left alone and must get ready.
const IN_A_ROW: usize = 4;
/// What the log and a start take, beside the transfer, at most.
const LATEST_MS: usize = 2_500;
/// Between two writes of a round with writes.
const PACE: Duration = Duration::from_millis(100);
/// Who suffers; the third of those that are formed.
const VICTIM: usize = 2;

/// When it happens.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after the start.
    Start(Duration),
    /// So long after the first bytes are there.
    Arriving(Duration),
    /// So long after the new state is beside the old one.
    Installing(Duration),
}

impl Moment {
    fn any(rng: &mut Rng) -> Moment {
        let mut ms = |most: usize| Duration::from_millis(rng.below(most) as u64);
        let (start, arriving, installing) = (ms(LATEST_MS), ms(1_000), ms(60));
        match rng.below(3) {
            0 => Moment::Start(start),
            1 => Moment::Arriving(arriving),
            _ => Moment::Installing(installing),
        }
    }

    /// Waits for it, or until the node needs no snapshot any more.
    async fn comes(self, member: &Member) -> Result<()> {
        let state = member.data().join("state");
        let began = Instant::now();
        let (Moment::Start(then) | Moment::Arriving(then) | Moment::Installing(then)) = self;
        loop {
            let come = match self {
                Moment::Start(_) => true,
                Moment::Arriving(_) => state.join("incoming").exists(),
                Moment::Installing(_) => Found::in_state(&state).is_installing,
            };
            if come {
                break;
            }
            ensure!(began.elapsed() < BEGINS, "{self:?} does not come");
            if member.registry().ready().await {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(then).await;
        Ok(())
    }
}

/// What a cut left.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    is_arriving: bool,
    is_installing: bool,
}

impl Found {
    fn in_state(state: &Path) -> Found {
        let current = fs::read_to_string(state.join("CURRENT")).unwrap_or_default();
        let names = fs::read_dir(state).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let numbers = names.filter_map(|name| name.to_str()?.parse::<u64>().ok());
        let is_installing = numbers.into_iter().any(|number| current.trim() != number.to_string());
        Found { is_arriving: state.join("incoming").exists(), is_installing }
    }
}

#[derive(Default)]
struct Figures {
    cuts: usize,
    arriving: usize,
    installing: usize,
    /// Rounds while nobody wrote, and while somebody did.
    rounds: [usize; 2],
    /// Starts that a full device ended.
    ended: usize,
    slowest: Duration,
}

impl Figures {
    fn note(&mut self, found: Found) {
        self.cuts += 1;
        self.arriving += usize::from(found.is_arriving);
        self.installing += usize::from(found.is_installing);
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { cuts, arriving, installing, rounds: [quiet, busy], ended, slowest } = self;
        write!(
            f,
            "{cuts}, {arriving} with files arrived, {installing} with the new state begun; {quiet} times on a quiet \
             cluster and {busy} under writes ready within {slowest:.1?}, {ended} times after another start"
        )
    }
}

/// Somebody who goes on writing.
struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<usize>>,
}

impl Writer {
    fn start(source: Arc<Source>, repo: Repo, mut next: usize) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let task = tokio::spawn(async move {
            while !told.load(Ordering::Relaxed) {
                source.push(&repo, next).await?;
                next += 1;
                tokio::time::sleep(PACE).await;
            }
            Ok(next)
        });
        Writer { stop, task }
    }

    /// What would be written next.
    async fn stop(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

/// Two nodes that write, and one that is behind them.
struct Trial {
    /// Before the device below: its node must have stopped when that goes.
    members: Vec<Member>,
    disk: Option<Disk>,
    source: Arc<Source>,
    repo: Repo,
    next: usize,
    rng: Rng,
}

impl Trial {
    async fn start(home: &Path, disk: bool, ballast: u64, rounds: usize, seed: u64) -> Result<Trial> {
        // The state grows with each round, and a transfer must last long enough to be cut.
        let rate = (96 * rounds).max(192);
        let sections = format!(
            "snapshot_entries = {ENTRIES}\nsnapshot_rate = \"{rate}KiB\"\nballast = \"{ballast}MiB\"\n\n[storage]\nmin_free = \"16MiB\"\n"
        );
        let spec = |number| Spec { sections: sections.clone(), ..Spec::zone(number) };
        let mut members: Vec<_> = (0..3).map(|n| Member::new(home, spec(n))).collect::<Result<_>>()?;
        let device = || Disk::new(&home.join("device.ext4"), DEVICE, &members[VICTIM].data());
        let disk = disk.then(device).transpose()?;
        fleet::gather(&mut members).await?;
        let repo = members[0].registry().repo(REPO);
        let source = Arc::new(Source { config: repo.push_blob(manifest::CONFIG_BYTES).await? });
        Ok(Trial { members, disk, source, repo, next: 0, rng: Rng::new(seed) })
    }

    /// Has the node fall behind. In every second round others write from then on.
    async fn begin(&mut self, figures: &mut Figures) -> Result<Option<Writer>> {
        self.fall_behind().await?;
        let is_busy = figures.rounds.iter().sum::<usize>() % 2 == 1;
        figures.rounds[usize::from(is_busy)] += 1;
        Ok(is_busy.then(|| Writer::start(self.source.clone(), self.repo.clone(), self.next)))
    }

    /// The node gets over it. How long that took.
    async fn end(&mut self, writer: Option<Writer>) -> Result<Duration> {
        let took = self.recovers().await?;
        if let Some(writer) = writer {
            self.next = writer.stop().await.context("a write beside it")?;
        }
        Ok(took)
    }

    /// Has the node miss more than the log remembers, and everybody come to rest.
    async fn fall_behind(&mut self) -> Result<()> {
        let last = metric(&self.members[0], "clawhub_raft_log_index").await?;
        self.members[VICTIM].kill()?;
        let end = self.next + AWAY;
        self.source.push_all(&self.repo, self.next..end).await?;
        self.next = end;
        let others: Vec<&Member> = self.members[..VICTIM].iter().collect();
        purged(&others, &self.source, &self.repo, last).await
    }

    /// The node gets ready by itself, has it all, and keeps nothing that it does not need.
    async fn recovers(&mut self) -> Result<Duration> {
        let began = Instant::now();
        let victim = &self.members[VICTIM];
        let is_ready = until("the node to get ready by itself", CATCHES_UP, || async {
            let is_over = !process::alive(victim.pid()?);
            Ok((is_over || victim.registry().ready().await).then_some(!is_over))
        })
        .await?;
        ensure!(is_ready, "it ended: {}", process::tail(&victim.log(), 30));
        let took = began.elapsed();
        let newest = self.next.saturating_sub(AWAY);
        self.source.check(victim, newest..self.next).await?;
        let state = victim.data().join("state");
        until("what is not needed to go", BEGINS, || async {
            let Found { is_arriving, is_installing } = Found::in_state(&state);
            Ok((!is_arriving && !is_installing).then_some(()))
        })
        .await?;
        Ok(took)
    }

    async fn kills(&mut self, count: usize) -> Result<Figures> {
        let mut figures = Figures::default();
        while figures.cuts < count {
            let writer = self.begin(&mut figures).await?;
            for _ in 0..IN_A_ROW.min(count - figures.cuts) {
                let moment = Moment::any(&mut self.rng);
                let victim = &mut self.members[VICTIM];
                victim.launch()?;
                moment.comes(victim).await?;
                victim.kill()?;
                figures.note(Found::in_state(&victim.data().join("state")));
            }
            self.members[VICTIM].launch()?;
            figures.slowest = figures.slowest.max(self.end(writer).await?);
        }
        Ok(figures)
    }

    /// A node that finds not one free byte when it opens its stores ends, and whoever runs it starts it again. Whether it
    /// was so.
    async fn starts_again(&mut self) -> Result<bool> {
        let victim = &mut self.members[VICTIM];
        let is_over = until("a start, or the end of one", BEGINS, || async {
            let is_over = !process::alive(victim.pid()?);
            Ok((is_over || victim.admin(&["status"]).is_ok()).then_some(is_over))
        })
        .await?;
        if is_over {
            let said = victim.ended(BEGINS)?;
            ensure!(said.contains("No space left on device"), "{said}");
            victim.launch()?;
        }
        Ok(is_over)
    }

    async fn full(&mut self, count: usize) -> Result<Figures> {
        let mut figures = Figures::default();
        for _ in 0..count {
            let writer = self.begin(&mut figures).await?;
            let moment = Moment::any(&mut self.rng);
            let lasts = Duration::from_millis(self.rng.below(3_000) as u64);
            let victim = &mut self.members[VICTIM];
            victim.launch()?;
            moment.comes(victim).await?;
            let disk = self.disk.as_ref().context("a disk")?;
            figures.note(Found::in_state(&victim.data().join("state")));
            // Whoever else writes may take the last block first.
            let filled = disk.fill(FILLER, 0);
            tokio::time::sleep(lasts).await;
            disk.empty(&[FILLER])?;
            figures.ended += usize::from(self.starts_again().await?);
            let took =
                self.end(writer).await.with_context(|| format!("{moment:?} for {lasts:?}, {filled:?}"));
            figures.slowest = figures.slowest.max(took?);
        }
        Ok(figures)
    }
}

fn seed() -> u64 {
    scale("CLAWHUB_SNAPSHOT_SEED", u64::from(std::process::id()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_moment_of_a_snapshot_is_got_over() -> Result<()> {
    let _beside = crate::beside().await;
    let count: usize = scale("CLAWHUB_SNAPSHOT_KILLS", 4);
    let seed = seed();
    let home = tempfile::tempdir()?;
    let mut trial = Trial::start(home.path(), false, 32, count.div_ceil(IN_A_ROW), seed).await?;
    let figures = trial.kills(count).await;
    drop(trial);
    let figures = figures.with_context(|| format!("seed {seed}, in {}", home.keep().display()))?;
    crate::seen("snapshots", &format!("kills at any moment: {figures}"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_device_at_any_moment_of_a_snapshot_is_got_over() -> Result<()> {
    let _beside = crate::beside().await;
    if let Some(why) = Disk::unavailable() {
        return crate::skipped("snapshots", &format!("no devices can be made here: {why}"));
    }
    let (count, seed) = (scale("CLAWHUB_SNAPSHOT_FULL", 2), seed());
    let home = tempfile::tempdir()?;
    let mut trial = Trial::start(home.path(), true, 32, count, seed).await?;
    let figures = trial.full(count).await;
    drop(trial);
    let figures = figures.with_context(|| format!("seed {seed}, in {}", home.keep().display()))?;
    crate::seen("snapshots", &format!("devices full at any moment: {figures}"));
    Ok(())
}

/// A node without room for a snapshot takes none of it, says so, and gets it as soon as there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_does_not_fit_is_refused_before_it_is_sent() -> Result<()> {
    let _beside = crate::beside().await;
    if let Some(why) = Disk::unavailable() {
        return crate::skipped("snapshots", &format!("no devices can be made here: {why}"));
    }
    let home = tempfile::tempdir()?;
    let mut trial = Trial::start(home.path(), true, 160, 1, 1).await?;
    trial.fall_behind().await?;
    let disk = trial.disk.as_ref().context("a disk")?;
    // Less than one ballast: room for the node as it is, not for a snapshot beside it.
    disk.fill(FILLER, 80 * MIB)?;
    let victim = &mut trial.members[VICTIM];
    let before = installed_on_disk(victim)?;
    victim.launch()?;
    until("the refusal", BEGINS, || async {
        let log = fs::read_to_string(victim.log())?;
        Ok(log.contains("there is no room for the leader's snapshot").then_some(()))
    })
    .await?;
    let state = victim.data().join("state");
    ensure!(!Found::in_state(&state).is_arriving, "it began all the same");
    trial.disk.as_ref().context("a disk")?.empty(&[FILLER])?;
    trial.recovers().await?;
    ensure!(installed(&trial.members[VICTIM]).await? > before, "it caught up without a snapshot");
    Ok(())
}

/// How many snapshots a node that does not run has installed.
fn installed_on_disk(member: &Member) -> Result<u64> {
    let current = fs::read_to_string(member.data().join("state/CURRENT"))?;
    Ok(current.trim().parse::<u64>()? - 1)
}
