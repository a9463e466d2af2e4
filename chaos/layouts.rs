//! Layouts whose majority of votes lies in one zone, or region: under clients that push from the first moment on,
//! nothing is acknowledged until the missing vote is there, nor after it was taken away again; and with it the loss of
//! the heaviest zone, or region, takes nothing that was.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::manifest::{self, Image};
use clawhub_testkit::{Registry, content, until};
use clawhub_types::Digest;
use reqwest::StatusCode;
use tokio::task::JoinSet;

const REPO: &str = "chaos/layouts";
/// How long clients are refused, or taken, before the next thing happens.
const WHILE: Duration = Duration::from_secs(3);
/// How soon a cluster follows.
const SOON: Duration = Duration::from_secs(30);

struct Layout {
    name: &'static str,
    durability: &'static str,
    nodes: &'static [(&'static str, &'static str)],
    /// Where a vote is missing.
    missing: (&'static str, &'static str),
}

const TWO_NODES: Layout =
    Layout { name: "two nodes", durability: "zone", nodes: &[("r", "a"), ("r", "b")], missing: ("r", "c") };
const TWO_ZONES: Layout = Layout {
    name: "three nodes in two zones",
    durability: "zone",
    nodes: &[("r", "a"), ("r", "b"), ("r", "b")],
    missing: ("r", "c"),
};
const TWO_REGIONS: Layout = Layout {
    name: "2 + 2 in two regions",
    durability: "region",
    nodes: &[("e", "a"), ("e", "b"), ("w", "a"), ("w", "b")],
    missing: ("n", "a"),
};

impl Layout {
    fn spec(&self, number: usize, (region, zone): (&str, &str), witness: bool) -> Spec {
        let sections = format!("[storage]\nmin_free = \"16MiB\"\ndurability = \"{}\"\n", self.durability);
        Spec { sections, witness, ..Spec::at(number, region, zone) }
    }

    /// Whether two nodes are lost together.
    fn together(&self, one: &Spec, other: &Spec) -> bool {
        one.region == other.region && (self.durability == "region" || one.zone == other.zone)
    }
}

/// Tags, and the images that they were said to name.
type Acknowledged = Vec<(String, Digest)>;

fn lock(acknowledged: &Mutex<Acknowledged>) -> MutexGuard<'_, Acknowledged> {
    acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client on each node, each of which pushes one image after the other.
struct Pushers {
    acknowledged: Arc<Mutex<Acknowledged>>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Pushers {
    fn start() -> Pushers {
        Pushers { acknowledged: Arc::default(), stop: Arc::default(), tasks: JoinSet::new() }
    }

    fn on(&mut self, node: Registry) {
        let (acknowledged, stop) = (self.acknowledged.clone(), self.stop.clone());
        let id = self.tasks.len();
        self.tasks.spawn(async move {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                let tag = format!("p{id}-{number}");
                number += 1;
                // Any other answer, or none, leaves open whether it happened.
                if let Ok(digest) = push(&node, &tag).await {
                    lock(&acknowledged).push((tag, digest));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }

    fn count(&self) -> usize {
        lock(&self.acknowledged).len()
    }

    /// Waits until so many more are acknowledged than are now.
    async fn go_on(&self, more: usize) -> Result<()> {
        let wanted = self.count() + more;
        until("pushes to be taken", SOON, || async { Ok((self.count() >= wanted).then_some(())) }).await
    }

    async fn stop(&mut self) -> Acknowledged {
        self.stop.store(true, Ordering::Relaxed);
        std::mem::take(&mut self.tasks).join_all().await;
        lock(&self.acknowledged).clone()
    }
}

/// An image of a config and a layer of its own.
async fn push(node: &Registry, tag: &str) -> Result<Digest> {
    let repo = node.repo(REPO);
    let layer = format!("the layer of {tag}");
    let config = repo.push_blob(manifest::CONFIG_BYTES).await?;
    let pushed = repo.push_blob(layer.clone()).await?;
    let image = Image::new(&config, manifest::CONFIG_BYTES.len()).layer(&pushed, layer.len()).bytes();
    let answer = repo.put_manifest(tag, manifest::OCI_MANIFEST, &image).await?;
    ensure!(answer.status() == StatusCode::CREATED, "{}", answer.status());
    Ok(content::sha256(&image))
}

async fn drill(layout: &Layout) -> Result<()> {
    let _beside = crate::beside().await;
    let home = tempfile::tempdir()?;
    let specs = layout.nodes.iter().enumerate().map(|(number, place)| layout.spec(number, *place, false));
    let mut members = Vec::new();
    let mut pushers = Pushers::start();
    for spec in specs {
        let member = Member::new(home.path(), spec)?;
        // Before there is a cluster: no moment of its founding takes a push.
        pushers.on(member.registry());
        members.push(member);
    }
    fleet::gather(&mut members).await?;
    tokio::time::sleep(WHILE).await;
    ensure!(pushers.count() == 0, "acknowledged without the missing vote: {:?}", lock(&pushers.acknowledged));

    let (mut witness, began) = (add(layout, home.path(), &members, 8).await?, Instant::now());
    pushers.go_on(1).await?;
    let took = began.elapsed();
    pushers.go_on(20).await?;
    let gone = witness.admin(&["status"])?["node"].as_u64().context("an id")?;
    members[0].admin(&["remove", "--force", &gone.to_string()])?;
    witness.ended(SOON)?;
    let before = pushers.count();
    tokio::time::sleep(WHILE).await;
    // One for each client whose answer was on its way.
    let (after, clients) = (pushers.count(), members.len());
    ensure!(after <= before + clients, "{} acknowledged after the vote was taken away", after - before);

    let _witness = add(layout, home.path(), &members, 9).await?;
    pushers.go_on(20).await?;
    let heavy = heaviest(layout, &members);
    let (lost, left): (Vec<_>, Vec<_>) = members.iter_mut().partition(|m| layout.together(&m.spec, &heavy));
    for member in lost {
        member.kill()?;
        member.wipe()?;
    }
    tokio::time::sleep(WHILE).await;
    let acknowledged = pushers.stop().await;
    for member in left {
        let repo = member.registry().repo(REPO);
        until("a leader", SOON, || async { Ok(repo.resolve("none").await.map(Some).unwrap_or(None)) })
            .await?;
        for (tag, digest) in &acknowledged {
            let got =
                repo.pull_image(tag).await.with_context(|| format!("{tag} from {}", member.spec.name))?;
            ensure!(got == *digest, "{tag} is {got}, {digest} was acknowledged");
        }
    }
    let figure = format!(
        "{}: nothing acknowledged before the third vote, first push {took:.1?} after it; {} stay without {}/{}",
        layout.name,
        acknowledged.len(),
        heavy.region,
        if layout.durability == "region" { "*" } else { heavy.zone.as_str() }
    );
    crate::seen("layouts", &figure);
    Ok(())
}

/// The missing vote.
async fn add(layout: &Layout, home: &std::path::Path, members: &[Member], number: usize) -> Result<Member> {
    let mut witness = Member::new(home, layout.spec(number, layout.missing, true))?;
    witness.start().await?;
    witness.join(&members[0]).await?;
    Ok(witness)
}

/// A node whose zone, or region, has most nodes.
fn heaviest(layout: &Layout, members: &[Member]) -> Spec {
    let weight = |spec: &Spec| members.iter().filter(|m| layout.together(&m.spec, spec)).count();
    let specs = members.iter().map(|member| member.spec.clone());
    specs.max_by_key(weight).unwrap_or_else(|| Spec::zone(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_acknowledge_nothing_that_one_loss_takes() -> Result<()> {
    drill(&TWO_NODES).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_in_two_zones_acknowledge_nothing_that_one_loss_takes() -> Result<()> {
    drill(&TWO_ZONES).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_regions_acknowledge_nothing_that_one_loss_takes() -> Result<()> {
    drill(&TWO_REGIONS).await
}
