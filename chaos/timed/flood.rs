//! Strangers flood a node in every way that they have, all at once: its memory stays below the sum that it printed at
//! its start, its probes are answered, an honest client gets through, and the log holds the honest writes and no more.
//!
//! `CLAWHUB_FLOOD_SECONDS` is how long; 600 in the full measure, with everything at full strength from 60 on.

mod attacks;
mod probe;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::content::Rng;
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::{Repo, process, scale};

use attacks::{Strength, Target};
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
    let lasts = Duration::from_secs(scale("CLAWHUB_FLOOD_SECONDS", 10));
    let strength = if lasts >= Duration::from_secs(60) { Strength::FULL } else { Strength::SMALL };
    let home = tempfile::tempdir()?;
    let members = fleet::form(home.path(), (0..3).map(Spec::zone).collect()).await?;
    let flooded = &members[0];
    process::raise_descriptors();

    let log = last_log(&members[1])?;
    let still = Prober::start(flooded.http().to_owned());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let still = still.stop()?;
    let prober = Prober::start(flooded.http().to_owned());
    let target = Target { http: flooded.http().to_owned(), peer: flooded.peer().to_owned() };
    let attacks = attacks::start(&target, &strength);
    let honest = honest(&flooded.registry().repo("flood/honest"), lasts).await?;
    let counted = attacks.stop().await;
    let under = prober.stop()?;

    let grown = last_log(&members[1])? - log;
    let (peaks, bound) = memory(&members)?;
    crate::seen(
        "flood",
        &format!(
            "{} s of {counted}; /healthz p99 {:?} and at worst {:?} of {} ({:?} before, {} failed); {} honest pushes and \
             pulls, {} refused first, slowest {:?}; log grew by {grown}; resident at most {peaks:?} MiB of {bound}",
            lasts.as_secs(),
            under.p99,
            under.worst,
            under.count,
            still.p99,
            under.failed,
            honest.done,
            honest.refused,
            honest.slowest,
        ),
    );
    ensure!(peaks.iter().all(|peak| *peak < bound), "{peaks:?} MiB, but {bound} MiB were printed");
    ensure!(under.failed == 0, "{} probes failed", under.failed);
    ensure!(
        under.p99 <= limit(&strength),
        "p99 of /healthz was {:?}, {:?} without a flood",
        under.p99,
        still.p99
    );
    ensure!(honest.done > 0, "no honest client got through");
    ensure!(grown <= honest.done * ENTRIES + OWN_ENTRIES, "{grown} entries for {} pushes", honest.done);
    Ok(())
}

/// How slow a probe may be. In the small measure other tests run beside this one.
fn limit(strength: &Strength) -> Duration {
    if *strength == Strength::FULL { Duration::from_millis(50) } else { Duration::from_secs(1) }
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
