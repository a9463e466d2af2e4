//! Cuts that leave everybody somebody to talk to: one of three links, and links that carry one way.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clawhub_testkit::wan::{allowed, wait};
use clawhub_testkit::{scale, until};
use futures::future::{try_join, try_join_all};
use reqwest::{Method, RequestBuilder, StatusCode};

use super::minority::{answers, is_refusal};
use super::world::{Turn, World};
use super::{SAMPLES, goes_on};
use crate::lead::lead;

/// How long the one who reaches everybody may take to lead.
const BRIDGED: Duration = Duration::from_secs(20);
/// A tag that is never written.
const NOBODYS: &str = "nobodys";

/// Who does not hear whom.
struct Cut {
    name: String,
    deaf: Vec<(usize, usize)>,
}

impl Cut {
    fn new(name: &str, deaf: impl Into<Vec<(usize, usize)>>) -> Cut {
        Cut { name: name.to_owned(), deaf: deaf.into() }
    }

    /// Every way up to the names of the followers; without `full` those that stand for the others.
    fn all(leader: usize, full: bool) -> Vec<Cut> {
        let [one, two] = World::others(leader);
        let both = |a: usize, b: usize| [(a, b), (b, a)];
        let from = |host: usize| World::others(host).map(|other| (other, host));
        let to = |host: usize| World::others(host).map(|other| (host, other));
        let mut cuts = vec![
            Cut::new("the leader between two followers", both(one, two)),
            Cut::new("a follower between the leader and the other", both(leader, two)),
            Cut::new("the leader hears nobody", to(leader)),
        ];
        if full {
            cuts.extend([
                Cut::new("the leader does not hear a follower", [(leader, one)]),
                Cut::new("a follower does not hear the leader", [(one, leader)]),
                Cut::new("nobody hears the leader", from(leader)),
                Cut::new("the other follower between", both(leader, one)),
                Cut::new("a follower does not hear the other", [(one, two)]),
                Cut::new("a follower hears nobody", to(one)),
                Cut::new("nobody hears a follower", from(one)),
            ]);
        }
        cuts
    }

    /// An answer goes the other way: a link that is cut one way carries no conversation.
    fn links(&self, one: usize, other: usize) -> bool {
        !self.deaf.contains(&(one, other)) && !self.deaf.contains(&(other, one))
    }

    /// Whether the leader can go on leading.
    fn leads(&self, leader: usize) -> bool {
        World::others(leader).iter().any(|other| self.links(leader, *other))
    }

    /// Who takes writes: the leader and whom it reaches; the other two if it reaches nobody.
    fn goes_on(&self, leader: usize) -> Vec<usize> {
        match self.leads(leader) {
            true => (0..3).filter(|host| *host == leader || self.links(leader, *host)).collect(),
            false => World::others(leader).into(),
        }
    }

    /// The follower that reaches everybody where the leader does not: it leads before long.
    fn bridge(&self, leader: usize) -> Option<usize> {
        let [one, two] = World::others(leader);
        let pairs = [(one, two), (two, one)];
        let bridges = |(one, two): &(usize, usize)| {
            self.links(leader, *one) && self.links(*one, *two) && !self.links(leader, *two)
        };
        pairs.into_iter().find(bridges).map(|(one, _)| one)
    }
}

/// A node that does not reach the leader says so, or the `truth` if there may be another one by then.
async fn refuses_unless(truth: Option<StatusCode>, what: String, request: RequestBuilder) -> Result<()> {
    let answer = answers(&what, request, wait()).await?;
    match truth {
        Some(truth) if answer.status() == truth => Ok(()),
        _ => is_refusal(&what, answer).await,
    }
}

/// How long a cut stopped those who could go on, and, where somebody bridges it, everybody.
struct Survived {
    some: Duration,
    all: Option<Duration>,
}

/// Makes a cut and heals it; how long it stopped those who can go on. `None` if a leader that kept its
/// quorum was replaced meanwhile: who can go on was then another question than the one asked.
async fn survives(world: &World, cut: &Cut) -> Result<Option<Survived>> {
    let before = world.settle().await?;
    let leader = usize::try_from(before.leader)? - 1;
    let on = cut.goes_on(leader);
    for (host, from) in &cut.deaf {
        world.deafen(*host, *from)?;
    }
    let since = Instant::now();
    let bridge = cut.bridge(leader);
    // Whoever bridges the cut may lead before the question is given up, and then it has an answer.
    let truth = bridge.map(|_| StatusCode::NOT_FOUND);
    let others = (0..3).filter(|host| !on.contains(host)).map(|host| {
        let repo = world.repo(host);
        let request = repo.registry.request(Method::HEAD, &repo.path(&format!("manifests/{NOBODYS}")));
        refuses_unless(truth, format!("HEAD through host {host}"), request)
    });
    let going = on.iter().map(|host| goes_on(world.repo(*host), *host, since));
    let asked = try_join(try_join_all(going), try_join_all(others)).await;
    let all = match bridge {
        Some(bridge) if asked.is_ok() => Some(bridged(world, bridge, since).await),
        _ => None,
    };
    world.heal()?;
    let all = all.transpose()?;
    let after = world.settle().await?;
    let keeps = cut.leads(leader) && bridge.is_none();
    if keeps && (after.term, after.leader) != (before.term, before.leader) {
        return Ok(None);
    }
    let (resumed, _) = asked?;
    let some = resumed.into_iter().max().context("nobody goes on")?;
    Ok(Some(Survived { some, all }))
}

/// Waits until the one who reaches everybody leads, and everybody takes writes again, the cut notwithstanding.
async fn bridged(world: &World, bridge: usize, since: Instant) -> Result<Duration> {
    until("the bridge to lead", allowed(BRIDGED), || async {
        Ok((world.standing(bridge)?.leader == bridge as u64 + 1).then_some(()))
    })
    .await?;
    let going = (0..3).map(|host| goes_on(world.repo(host), host, Instant::now()));
    try_join_all(going).await?;
    Ok(since.elapsed())
}

/// Once more, if an election came in between: a busy machine may hold up a heartbeat. Not three times.
async fn survives_led(world: &World, cut: &Cut, leader: usize) -> Result<Survived> {
    for _ in 0..3 {
        lead(&world.members, leader).await?;
        if let Some(stopped) = survives(world, cut).await? {
            return Ok(stopped);
        }
    }
    bail!("a leader that a majority hears loses its office again and again")
}

/// A node that reaches a majority but not the leader is refused at first, like one that reaches nobody: elections
/// are not held against a leader whom a majority hears, and writes go one hop. Then the leader hands over to who
/// reaches both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bridges_and_one_way_links_do_not_stop_the_cluster() -> Result<()> {
    let turn = Turn::wait().await;
    let Some(world) = turn.world().await? else { return Ok(()) };
    let full = scale("CLAWHUB_CUTOFF_SAMPLES", SAMPLES) > SAMPLES;
    for leader in 0..if full { 3 } else { 1 } {
        let mut figures = Vec::new();
        for cut in Cut::all(leader, full) {
            let stopped = survives_led(world, &cut, leader).await;
            let Survived { some, all } =
                stopped.with_context(|| format!("{}, which is node {}", cut.name, leader + 1))?;
            let all = all.map_or(String::new(), |all| format!(" (through every node after {all:.1?})"));
            figures.push(format!("{} {some:.1?}{all}", cut.name));
        }
        crate::seen("cutoff", &format!("node {} leads; writes resumed: {}", leader + 1, figures.join(", ")));
    }
    Ok(())
}
