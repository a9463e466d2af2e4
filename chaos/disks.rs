//! Lost disks: a node dies with everything it kept, and is replaced by the commands of
//! `docs/operations/nodes.md`. Nothing that was acknowledged is gone, round after round, although in the
//! end no disk is left of those that took the first pushes.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clawhub_testkit::cluster::holds;
use clawhub_testkit::content::{self, Rng};
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::manifest::{self, Image};
use clawhub_testkit::{process, scale, until};
use clawhub_types::Digest;

const REPO: &str = "chaos/disks";
/// How long copies may take to be made after a disk was lost.
const REPAIRED: Duration = Duration::from_secs(60);

fn layer(round: u64) -> Bytes {
    Bytes::from(Rng::new(round).bytes(300_000))
}

fn root(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// A block of `docs/operations/nodes.md`, by the word after its language.
fn documented(block: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations/nodes.md");
    let text = fs::read_to_string(path)?;
    let (_, rest) = text.split_once(&format!("```sh {block}\n")).with_context(|| format!("block {block}"))?;
    Ok(rest.split("```").next().unwrap_or_default().to_owned())
}

/// The nodes, and which ids they have at the moment.
struct Cluster {
    members: Vec<Member>,
    ids: Vec<u64>,
}

impl Cluster {
    fn holders(&self, bytes: &[u8]) -> Vec<usize> {
        let root = root(bytes);
        (0..self.members.len()).filter(|at| holds(&self.members[*at].data(), &root)).collect()
    }

    fn other_than(&self, at: usize) -> &Member {
        &self.members[(at + 1) % self.members.len()]
    }

    /// The disk of a node is gone, and the node with it.
    fn lose(&mut self, at: usize) -> Result<()> {
        self.members[at].kill()?;
        self.members[at].wipe()
    }

    /// Its place is taken by an empty node of the same name: as documented for a dead node.
    async fn replace(&mut self, at: usize) -> Result<()> {
        let gone = self.ids[at];
        self.run("drain", at, gone)?;
        self.enter(at).await?;
        self.run("remove", at, gone)?;
        fleet::voters(self.other_than(at), 3).await
    }

    /// Starts the empty node and has it join.
    async fn enter(&mut self, at: usize) -> Result<()> {
        self.members[at].start().await?;
        self.run("join", at, self.ids[at])?;
        self.members[at].ready().await?;
        let status = self.members[at].admin(&["status"])?;
        self.ids[at] = status["node"].as_u64().context("an id")?;
        Ok(())
    }

    /// Runs a block of the documentation about the node at `at`, whose id is or was `id`.
    fn run(&self, block: &str, at: usize, id: u64) -> Result<String> {
        let survivor = self.other_than(at);
        // "clawhub" is on an operator's path; here it is the program under test.
        let script = format!("clawhub() {{ \"$PROGRAM\" \"$@\"; }}\n{}", documented(block)?);
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &script]).env("PROGRAM", process::clawhub()?);
        command.env("DEAD", id.to_string()).env("DATA", survivor.data()).env("PEER", survivor.peer());
        command.env("NEW", self.members[at].data());
        let output = tokio::task::block_in_place(|| command.output())?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the documented block {block:?}: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Every image of the rounds so far pulls whole from every node.
    async fn check(&self, pushed: &[Digest]) -> Result<()> {
        for member in &self.members {
            let repo = member.registry().repo(REPO);
            for (round, digest) in pushed.iter().enumerate() {
                let got = repo.pull_image(&format!("round-{round}")).await;
                let got = got.with_context(|| format!("round {round} from {}", member.spec.name))?;
                ensure!(got == *digest, "round {round} is {got} on {}, not {digest}", member.spec.name);
            }
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_are_lost_one_after_another_and_nothing_with_them() -> Result<()> {
    let _beside = crate::beside().await;
    let rounds: u64 = scale("CLAWHUB_DISK_ROUNDS", 2);
    let home = tempfile::tempdir()?;
    let members = fleet::form(home.path(), (0..3).map(Spec::zone).collect()).await?;
    let mut cluster = Cluster { members, ids: vec![1, 2, 3] };
    let mut rng = Rng::new(rounds);
    let (mut pushed, mut slowest) = (Vec::new(), Duration::ZERO);
    for round in 0..rounds {
        let bytes = layer(round);
        let ingress = cluster.members[rng.below(3)].registry().repo(REPO);
        let image = ingress.push_image(&format!("round-{round}"), std::slice::from_ref(&bytes)).await?;
        pushed.push(image.digest);
        // The moment of the 201: who has the bytes is what a lost disk may cost one of.
        let holders = cluster.holders(&bytes);
        ensure!(holders.len() >= 2, "round {round} was acknowledged with {} copies", holders.len());
        let victim = *rng.pick(&holders);
        let lost = Instant::now();
        cluster.lose(victim)?;
        cluster.replace(victim).await.with_context(|| format!("round {round}"))?;
        slowest = slowest.max(lost.elapsed());
        ensure!(cluster.holders(&bytes).len() >= 2, "round {round} was not repaired");
    }
    cluster.check(&pushed).await?;
    for (round, bytes) in (0..2).map(|round| (round, layer(round))) {
        reuse(&mut cluster, round, &bytes).await.context("an old layer in a new image")?;
    }
    let figure = format!(
        "{rounds} disks lost and replaced, {} images whole on every node; slowest {slowest:.1?}",
        pushed.len()
    );
    crate::seen("lost disks", &figure);
    Ok(())
}

/// A holder of an old layer is lost and removed by force, and at once an image names that layer: it is
/// acknowledged only once enough nodes have it again.
async fn reuse(cluster: &mut Cluster, round: u64, bytes: &[u8]) -> Result<()> {
    let victim = *cluster.holders(bytes).first().context("a holder")?;
    cluster.lose(victim)?;
    let removed = cluster.run("force", victim, cluster.ids[victim])?;
    ensure!(!removed.contains("no copy left"), "{removed}");
    let repo = cluster.other_than(victim).registry().repo(REPO);
    let digest = content::sha256(bytes);
    let config = repo.push_blob(manifest::CONFIG_BYTES).await?;
    let image = Image::new(&config, manifest::CONFIG_BYTES.len()).layer(&digest, bytes.len());
    let image = image.annotation("round", &round.to_string()).bytes();
    until("the image to be taken", REPAIRED, || async {
        let answer = repo.put_manifest(&format!("again-{round}"), manifest::OCI_MANIFEST, &image).await?;
        // Until the leader has noticed the death there may be no quorum.
        Ok((answer.status() == 201).then_some(()))
    })
    .await?;
    let holders = cluster.holders(bytes);
    ensure!(holders.len() >= 2, "acknowledged while {} nodes had the layer", holders.len());
    cluster.enter(victim).await?;
    repaired(cluster.other_than(victim)).await?;
    fleet::voters(cluster.other_than(victim), 3).await
}

/// Waits until a node has counted everything up to now and found no blob short of copies.
async fn repaired(member: &Member) -> Result<()> {
    let now = member.admin(&["status"])?["applied"].as_u64().context("an index")?;
    until("the copies to be made", REPAIRED, || async {
        let status = member.admin(&["status"])?;
        let counted = status["counted_at"].as_u64().is_some_and(|index| index >= now);
        Ok((counted && status["under_target"].as_u64() == Some(0)).then_some(()))
    })
    .await
}
