//! A leader that stands still and comes back, not knowing that it was replaced: it serves nothing stale, and
//! what was on its way through it is not applied a second time, however late.
//!
//! `CLAWHUB_PAUSE_TAGS=10000` is the full measure: so many tags written and read in ten pauses, and so many
//! writes between a request and its late copy.

mod tags;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clawhub_testkit::content::sha256;
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::manifest::{self, version};
use clawhub_testkit::oci::expect;
use clawhub_testkit::{Repo, process, scale, until};
use futures::future::try_join_all;
use reqwest::StatusCode;
use tags::{Answer, Tag};
use tokio::sync::watch;

use super::cutoff::world::{World, put};
use crate::clients::{self, Clients};
use crate::lead::leader;

/// How long the leader stands still: several elections.
const PAUSE: Duration = Duration::from_secs(2);
/// How long the others may take to elect, or a node to come back.
const SOON: Duration = Duration::from_secs(20);
/// The shortest election time-out (profile `lan`): who was answered sooner asked no new leader.
const ELECTION: Duration = Duration::from_millis(350);
/// For how long others write before the leader is lost: an election fits into what is left of 3 s.
const LATER: Duration = Duration::from_millis(600);
/// Writers, each with a tag of its own.
const WRITERS: usize = 4;
const REPO: &str = "pauses/tags";
/// Where clients of all kinds are at work beside them.
const OTHERS: &str = "pauses/images";

/// A node that stands still until this is dropped.
struct Paused(u32);

impl Paused {
    fn new(member: &Member) -> Result<Paused> {
        let pid = member.pid()?;
        process::pause(pid)?;
        Ok(Paused(pid))
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        // It may have been killed; then there is nothing to wake.
        let _ = process::resume(self.0);
    }
}

async fn form(home: &tempfile::TempDir) -> Result<(Vec<Member>, Vec<Repo>)> {
    let members = fleet::form(home.path(), (0..3).map(Spec::zone).collect()).await?;
    let repos: Vec<Repo> = members.iter().map(|member| member.registry().repo(REPO)).collect();
    repos[0].push_blob(manifest::CONFIG_BYTES).await?;
    Ok((members, repos))
}

/// What the pauses showed.
#[derive(Default)]
struct Shown {
    pauses: usize,
    /// Reads sent to the leader while it stood still: answered with what holds, or not at all.
    fresh: usize,
    refused: usize,
}

/// Pauses whoever leads, while others go on writing and readers queue up at its door.
async fn pause(members: &[Member], tags: &[Arc<Tag>], shown: &mut Shown) -> Result<()> {
    let old = leader(members).await?;
    let repo = members[old].registry().repo(REPO);
    let paused = Paused::new(&members[old])?;
    let until_when = Instant::now() + PAUSE;
    let mut reads = Vec::new();
    while Instant::now() < until_when {
        for tag in tags {
            let (tag, repo) = (tag.clone(), repo.clone());
            reads.push(tokio::spawn(async move { tag.read(&repo, PAUSE + SOON).await }));
        }
        tokio::time::sleep(PAUSE / 20).await;
    }
    // The one that stands still would not answer.
    let new = leader([(old + 1) % 3, (old + 2) % 3].map(|node| &members[node])).await?;
    ensure!(new != old, "nobody else was elected in {PAUSE:?}");
    drop(paused);
    for read in reads {
        match read.await?.context("at the leader that stood still")? {
            Answer::Fresh => shown.fresh += 1,
            Answer::None => shown.refused += 1,
        }
    }
    shown.pauses += 1;
    members[old].ready().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stood_still_serves_nothing_stale() -> Result<()> {
    let _alone = crate::alone().await;
    let goal = scale("CLAWHUB_PAUSE_TAGS", 300);
    let pauses = if goal < 10_000 { 2 } else { 10 };
    let home = tempfile::tempdir()?;
    let (members, repos) = form(&home).await?;
    let tags: Vec<_> = (0..WRITERS).map(|number| Arc::new(Tag::new(number))).collect();
    let (stop, told) = watch::channel(false);
    let (count, mut counted) = watch::channel(0);
    let writers: Vec<_> = tags
        .iter()
        .map(|tag| tokio::spawn(tag.clone().work(repos.clone(), told.clone(), count.clone())))
        .collect();
    drop(count);
    let mut clients = Clients::start(&members, OTHERS);
    let mut shown = Shown::default();
    for number in 0..pauses {
        // If a writer has failed, its own error is the one to show.
        let _ = counted.wait_for(|count| *count >= goal * number / pauses).await;
        pause(&members, &tags, &mut shown).await?;
    }
    let _ = counted.wait_for(|count| *count >= goal).await;
    stop.send(true)?;
    clients.stop().await;
    let doubtful: usize = try_join_all(writers).await?.into_iter().sum::<Result<usize>>()?;
    clients.read_back().await?;
    clients.truthful()?;
    let Shown { pauses, fresh, refused } = shown;
    let written = *counted.borrow();
    let figures = format!(
        "{written} tags written and read elsewhere in {pauses} pauses of the leader, {doubtful} more writes without an \
         answer, none stale; {} reads waited at the paused leader: {fresh} fresh, {refused} refused; beside them {}",
        fresh + refused,
        clients::figures(&clients.history().events())
    );
    crate::seen("pauses", &figures);
    Ok(())
}

/// Moves the tag `v` through these nodes in turn, so many times or for so long. The last one.
async fn move_on(repos: [&Repo; 2], times: usize, until_when: Option<Instant>) -> Result<(usize, Vec<u8>)> {
    let mut bytes = Vec::new();
    for number in 1..=times {
        bytes = version(format!("later {number}"));
        expect(put(repos[number % 2], "v", &bytes).await?, StatusCode::CREATED).await?;
        if until_when.is_some_and(|limit| Instant::now() > limit) {
            return Ok((number, bytes));
        }
    }
    Ok((times, bytes))
}

async fn all_say(repos: &[Repo], bytes: &[u8]) -> Result<()> {
    for repo in repos {
        let got = repo.resolve("v").await?;
        ensure!(got == Some(sha256(bytes)), "moved back: {} says {got:?}", repo.registry.address());
    }
    Ok(())
}

/// A follower forwards a write to a leader that stands still, repeats it at the next one, and the first copy
/// arrives when the old leader wakes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_waited_at_a_paused_leader_does_not_move_a_tag_back() -> Result<()> {
    let _alone = crate::alone().await;
    let later = scale("CLAWHUB_PAUSE_TAGS", 300);
    let home = tempfile::tempdir()?;
    let (members, repos) = form(&home).await?;
    let old = leader(&members).await?;
    let awake = [(old + 1) % 3, (old + 2) % 3];
    let [ingress, other] = awake.map(|node| &repos[node]);
    move_on([ingress, other], 2, None).await?;

    let paused = Paused::new(&members[old])?;
    let asked = Instant::now();
    let answer = put(ingress, "v", &version("early")).await?;
    let took = asked.elapsed();
    expect(answer, StatusCode::CREATED).await?;
    ensure!(took > ELECTION, "answered in {took:?}: it never went to the leader that stands still");
    let (moves, last) = move_on([ingress, other], later, None).await?;
    let stood = asked.elapsed();
    drop(paused);
    members[old].ready().await?;
    all_say(&repos, &last).await?;
    let figures = format!(
        "a write answered by the second leader after {took:.1?}; its first copy lay at the paused one for \
         {stood:.1?} and {moves} later writes, and changed nothing"
    );
    crate::seen("pauses", &figures);
    Ok(())
}

/// A write whose first copy is applied and its answer lost; then later writes, then the repetition, which
/// the next leader commits. The number of later writes and when the answer came; `None` if it came too late
/// for the follower's patience.
async fn twice(world: &World) -> Result<Option<(usize, Duration)>> {
    let old = leader(&world.members).await?;
    let [ingress, other] = World::others(old).map(|host| world.repo(host));
    // A connection that is open carries the request; for a new one both must hear each other.
    move_on([&ingress, &other], 2, None).await?;
    // From here on the follower asks and hears no answer; the leader commits with the other one.
    world.deafen(World::others(old)[0], old)?;
    let asked = Instant::now();
    let early = version(format!("early, not heard by {old}"));
    let answer = tokio::spawn({
        let (repo, bytes) = (ingress.clone(), early.clone());
        async move { put(&repo, "v", &bytes).await }
    });
    until("the first copy to be applied", Duration::from_secs(1), || async {
        Ok((other.resolve("v").await? == Some(sha256(&early))).then_some(()))
    })
    .await?;
    let (moves, last) = move_on([&other, &other], usize::MAX, Some(asked + LATER)).await?;
    world.isolate(old)?;
    let status = answer.await??.status();
    let took = asked.elapsed();
    world.heal()?;
    let after = world.settle().await?;
    ensure!(after.leader != u64::try_from(old)? + 1, "nobody else was elected");
    all_say(&[world.repo(0), world.repo(1), world.repo(2)], &last).await?;
    match status {
        StatusCode::CREATED => Ok(Some((moves, took))),
        StatusCode::SERVICE_UNAVAILABLE => Ok(None),
        status => bail!("the repetition: {status}"),
    }
}

/// The same, decided in the log. One identity applies once, so the tag stays where the later writes put it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_in_the_log_twice_is_applied_once() -> Result<()> {
    let _alone = crate::alone().await;
    let Some(world) = World::start().await? else { return Ok(()) };
    for _ in 0..5 {
        if let Some((moves, took)) = twice(&world).await? {
            let figures = format!(
                "a write applied, its answer lost, {moves} later writes, and committed again by the next \
                 leader: acknowledged after {took:.1?}, applied once"
            );
            crate::seen("pauses", &figures);
            return Ok(());
        }
    }
    bail!("five elections took too long for a write to be repeated")
}
