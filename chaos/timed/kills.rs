//! `kill -9` of the leader or of any node, again and again, while clients push, move, delete and read:
//! nothing acknowledged is lost, and no answer is untrue.
//!
//! `CLAWHUB_KILL_SECONDS=300 CLAWHUB_KILL_EVERY_SECONDS=10` is the full measure.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::content::Rng;
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::history::{Events, History};
use clawhub_testkit::wan::{allowed, asked_for};
use clawhub_testkit::{process, scale};

use crate::clients::{self, Clients};
use crate::lead::leader;

/// How soon after a death writes are acknowledged again.
const RESUME: Duration = Duration::from_secs(3);

/// How long, and how often.
struct Measure {
    seconds: u64,
    every: u64,
}

impl Measure {
    fn asked_for() -> Measure {
        let every = scale("CLAWHUB_KILL_EVERY_SECONDS", 4).max(2);
        Measure { seconds: scale("CLAWHUB_KILL_SECONDS", 14), every }
    }

    /// 30 in the full measure.
    fn kills(&self) -> usize {
        usize::try_from(self.seconds / self.every).unwrap_or(usize::MAX)
    }

    /// One a second: 300 in the full measure. Far apart each takes several round trips.
    fn pushes(&self) -> usize {
        let takes = if asked_for().is_some() { 3 } else { 1 };
        usize::try_from(self.seconds / takes).unwrap_or(usize::MAX)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn kills_lose_nothing_and_no_answer_is_untrue() -> Result<()> {
    let _alone = crate::alone().await;
    let home = tempfile::tempdir()?;
    let proved = prove(home.path(), &Measure::asked_for()).await;
    // What the nodes wrote is the only trace of how it came to this.
    proved.with_context(|| format!("the nodes' folders are kept in {}", home.keep().display()))
}

async fn prove(home: &Path, measure: &Measure) -> Result<()> {
    let mut members = fleet::form(home, (0..3).map(Spec::zone).collect()).await?;
    let mut clients = Clients::start(&members, "kills/images");
    let bystander = tokio::task::spawn_blocking({
        let (file, stop) = (home.join("bystander"), clients.told());
        move || slowest_fsync(&file, &stop)
    });
    let leaders = kill_again_and_again(&mut members, clients.history(), measure).await;
    clients.stop().await;
    let (leaders, fsync) = (leaders?, bystander.await??);

    let there = clients.read_back().await;
    let events = clients.history().events();
    let disk = format!("the slowest fsync of a bystander took {} ms", fsync.as_millis());
    crate::seen("kills", &format!("{}; {disk}", figures(&events, leaders)));
    there?;
    clients.truthful()?;
    enough(&events, measure).context(disk)
}

/// How long the disk alone has made somebody wait: an election waits for it too, whoever shares it.
fn slowest_fsync(path: &Path, stop: &AtomicBool) -> Result<Duration> {
    const PAUSE: Duration = Duration::from_millis(100);
    let mut file = File::create(path)?;
    let mut slowest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        file.write_all(b"one line\n")?;
        file.sync_data()?;
        slowest = slowest.max(start.elapsed());
        std::thread::sleep(PAUSE);
    }
    Ok(slowest)
}

/// Kills until the time is over and there were enough; each node is back before the next one dies. Answers
/// how many led.
async fn kill_again_and_again(members: &mut [Member], history: &History, measure: &Measure) -> Result<usize> {
    let start = Instant::now();
    let every = Duration::from_secs(measure.every);
    let mut rng = Rng::new(1);
    let (mut kills, mut leaders) = (0, 0);
    while kills < measure.kills() || start.elapsed() < Duration::from_secs(measure.seconds) {
        let next = tokio::time::Instant::now() + every;
        all_alive(members)?;
        let leader = leader(&*members).await?;
        let other = (leader + 1 + rng.below(members.len() - 1)) % members.len();
        // In turn: a draw of 30 may well have spared the leader.
        let victim = if kills % 2 == 0 { leader } else { other };
        leaders += usize::from(victim == leader);
        kills += 1;
        // A quarter to a half of the time.
        let dead = every * u32::try_from(25 + rng.below(25))? / 100;
        kill(&mut members[victim], victim, history, dead).await?;
        tokio::time::sleep_until(next).await;
    }
    Ok(leaders)
}

/// None has died by itself.
fn all_alive(members: &[Member]) -> Result<()> {
    for member in members {
        let name = &member.spec.name;
        ensure!(process::alive(member.pid()?), "{name} died: {}", process::tail(&member.log(), 30));
    }
    Ok(())
}

async fn kill(member: &mut Member, number: usize, history: &History, dead: Duration) -> Result<()> {
    history.killed(number);
    member.kill()?;
    // The others go on without it for a while.
    tokio::time::sleep(dead).await;
    member.start().await?;
    member.ready().await
}

fn enough(events: &Events, measure: &Measure) -> Result<()> {
    let (kills, pushes) = (events.kills.len(), events.pushes());
    ensure!(kills >= measure.kills(), "{kills} kills");
    ensure!(pushes >= measure.pushes(), "{pushes} pushes acknowledged");
    for (kill, resumed) in events.kills.iter().zip(events.resumed()) {
        let took = resumed.with_context(|| format!("no write after {kill:?}"))?;
        ensure!(took <= allowed(RESUME), "after {kill:?} the first write took {took:?}");
    }
    Ok(())
}

fn figures(events: &Events, leaders: usize) -> String {
    let (kills, answers) = (events.kills.len(), clients::figures(events));
    let mut resumed: Vec<Duration> = events.resumed().into_iter().flatten().collect();
    resumed.sort_unstable();
    let middle = resumed.get(resumed.len() / 2).copied().unwrap_or_default().as_millis();
    let slowest = resumed.last().copied().unwrap_or_default().as_millis();
    format!(
        "{kills} kills, {leaders} of them of the leader; {answers}; writes resumed after {middle} ms in the \
         middle, {slowest} ms at most"
    )
}
