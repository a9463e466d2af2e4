//! Strangers flood a node in every way that they have, one after the other and then all at once: its memory stays below
//! the sum that it printed at its start, its probes are answered, an honest client gets through, and the log holds the
//! honest writes and no more.
//!
//! `CLAWHUB_FLOOD_SECONDS` is how long all of them last together; 600 in the full measure. From 60 on each lasts as long
//! by itself, and everything is at full strength.

mod attacks;
mod probe;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clawhub_peer::JoinToken;
use clawhub_testkit::content::Rng;
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::{Repo, cluster, process, scale};

use attacks::{Attack, Strength, Target};
use probe::Prober;

/// An honest client that is refused for load tries again for so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Entries that an honest push of one image writes, at most: a commit for each blob, holds of further copies, the
/// manifest.
const ENTRIES: u64 = 12;
/// Entries that nobody pushed: sessions of nodes, a change of leader.
const OWN_ENTRIES: u64 = 24;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flood_of_strangers_is_bounded_and_honest_clients_get_through() -> Result<()> {
    let _alone = crate::alone().await;
    let home = tempfile::tempdir()?;
    let trial = Trial::start(home.path()).await?;
    for attack in Attack::ALL {
        trial.round(&[attack], trial.each).await.with_context(|| format!("{attack:?}"))?;
    }
    trial.round(&Attack::ALL, trial.together).await.context("all at once")
}

/// Three nodes, of which the first is flooded.
struct Trial {
    members: Vec<Member>,
    target: Target,
    strength: Strength,
    each: Duration,
    together: Duration,
    /// The p99 of its probes without a flood.
    still: Duration,
}

impl Trial {
    async fn start(home: &Path) -> Result<Trial> {
        let together = Duration::from_secs(scale("CLAWHUB_FLOOD_SECONDS", 5));
        let full = together >= Duration::from_secs(60);
        let members = fleet::form(home, (0..3).map(Spec::zone).collect()).await?;
        process::raise_descriptors();
        let (http, peer) = (members[0].http().to_owned(), members[0].peer().to_owned());
        let token: JoinToken = cluster::token(&members[0].data())?.parse()?;
        let prober = Prober::start(http.clone());
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(Trial {
            members,
            target: Target { http, peer, ca: *token.ca() },
            strength: if full { Strength::FULL } else { Strength::SMALL },
            each: if full { together } else { Duration::from_secs(1) },
            together,
            still: prober.stop()?.p99,
        })
    }

    /// Floods the node with these attacks at once, while an honest client works on it.
    async fn round(&self, attacks: &[Attack], lasts: Duration) -> Result<()> {
        let flooded = &self.members[0];
        let log = last_log(&self.members[1])?;
        let prober = Prober::start(flooded.http().to_owned());
        let flood = attacks::start(attacks, &self.target, &self.strength);
        let name = format!("flood/honest-{}-{}", attacks.len(), attacks[0] as usize);
        let honest = honest(&flooded.registry().repo(&name), lasts).await?;
        let counted = flood.stop().await;
        let under = prober.stop()?;
        let grown = last_log(&self.members[1])? - log;
        let (peaks, bound) = memory(&self.members)?;
        crate::seen(
            "flood",
            &format!(
                "{} s of {counted}: /healthz p99 {:?} and at worst {:?} of {} ({:?} before, {} failed); {} honest pushes \
                 and pulls, {} refused first, slowest {:?}; log grew by {grown}; resident at most {peaks:?} MiB of {bound}",
                lasts.as_secs(),
                under.p99,
                under.worst,
                under.count,
                self.still,
                under.failed,
                honest.done,
                honest.refused,
                honest.slowest,
            ),
        );
        let idle = attacks.iter().find(|attack| attacks.len() == 1 && counted.of(**attack) == 0);
        ensure!(idle.is_none(), "nothing was done: {counted}");
        ensure!(peaks.iter().all(|peak| *peak < bound), "{peaks:?} MiB, but {bound} MiB were printed");
        ensure!(under.failed == 0, "{} probes failed", under.failed);
        let limit = limit(&self.strength);
        ensure!(under.p99 <= limit, "p99 of /healthz was {:?}, {:?} without a flood", under.p99, self.still);
        ensure!(honest.done > 0, "no honest client got through");
        ensure!(grown <= honest.done * ENTRIES + OWN_ENTRIES, "{grown} entries for {} pushes", honest.done);
        Ok(())
    }
}

/// How slow a probe may be. In the small measure a single one decides, and other work may run beside this.
fn limit(strength: &Strength) -> Duration {
    if *strength == Strength::FULL { Duration::from_millis(50) } else { Duration::from_secs(3) }
}

#[derive(Default)]
struct Honest {
    done: u64,
    refused: u64,
    slowest: Duration,
}

/// Pushes and pulls an image again and again. Every one must get through in the end.
async fn honest(repo: &Repo, lasts: Duration) -> Result<Honest> {
    let end = Instant::now() + lasts;
    let mut honest = Honest::default();
    while Instant::now() < end {
        let began = Instant::now();
        let tag = format!("v{}", honest.done);
        let layer = Rng::new(honest.done + 1).bytes(300_000);
        loop {
            let turn = async {
                let pushed = repo.push_image(&tag, &[layer.clone().into()]).await?;
                ensure!(repo.pull_image(&tag).await? == pushed.digest, "another image");
                Ok(())
            };
            match turn.await {
                Ok(()) => break,
                Err(error) => {
                    honest.refused += 1;
                    ensure!(began.elapsed() < PATIENCE, "refused for {PATIENCE:?}: {error:?}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
        honest.done += 1;
        honest.slowest = honest.slowest.max(began.elapsed());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(honest)
}

fn last_log(member: &Member) -> Result<u64> {
    member.admin(&["status"])?["last_log"].as_u64().context("no last_log in the status")
}

/// The most that each node had resident, and what the flooded one printed at its start; both in MiB.
fn memory(members: &[Member]) -> Result<(Vec<u64>, u64)> {
    let peaks = members.iter().map(|member| Ok(process::peak_memory(member.pid()?)? >> 20));
    let printed = |key: &str| figure(&members[0].log(), key);
    let others = members.len() as u64 - 1;
    Ok((peaks.collect::<Result<_>>()?, printed("sum_mib")? + others * printed("per_peer_mib")?))
}

/// A figure of the line that a node prints about its budgets.
fn figure(log: &Path, key: &str) -> Result<u64> {
    let text = std::fs::read_to_string(log)?;
    let line = text.lines().find(|line| line.contains("memory budgets")).context("no budgets in the log")?;
    let line: String = line.chars().filter(|c| !c.is_control()).collect();
    let figure = line.split(&format!("{key}=")).nth(1).context("no such figure")?;
    Ok(figure.chars().take_while(char::is_ascii_digit).collect::<String>().parse()?)
}
