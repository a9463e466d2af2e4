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
use clawhub_testkit::oci::{expect, header};
use clawhub_testkit::{Repo, process, scale, until};
use clawhub_types::Digest;
use reqwest::StatusCode;

const REPO: &str = "chaos/disks";
/// Images besides those of the rounds, whose layers are used again in the end.
const OLD: u64 = 4;
/// After a refusal, until the same is asked again.
const AGAIN: Duration = Duration::from_millis(50);
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
        until("the node to be let in", REPAIRED, async || match self.run("join", at, self.ids[at]) {
            Ok(_) => Ok(Some(())),
            // The keys are being replaced, since a node was removed: a new token works in a moment, as is told.
            Err(error) if error.to_string().contains("join again in a moment") => Ok(None),
            Err(error) => Err(error),
        })
        .await?;
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
        for (round, digest) in pushed.iter().enumerate() {
            self.pull(&format!("round-{round}"), digest).await?;
        }
        Ok(())
    }

    /// This image pulls whole from every node.
    async fn pull(&self, tag: &str, digest: &Digest) -> Result<()> {
        for member in &self.members {
            let got = member.registry().repo(REPO).pull_image(tag).await;
            let got = got.with_context(|| format!("{tag} from {}", member.spec.name))?;
            ensure!(got == *digest, "{tag} is {got} on {}, not {digest}", member.spec.name);
        }
        Ok(())
    }

    /// Two images, each of one of these old layers, asked for while that layer had one holder. Nobody may have
    /// pulled the layers before: who did has the bytes.
    async fn reuse_two(&mut self, mut old: Vec<Bytes>) -> Result<Vec<(String, Digest)>> {
        let mut taken = Vec::new();
        while taken.len() < 2 {
            let two = old.iter().position(|bytes| self.holders(bytes).len() == 2);
            let bytes = old.swap_remove(two.context("no old layer with two holders is left")?);
            let tag = format!("again-{}", old.len());
            let (short, digest) = self.reuse(&tag, &bytes).await?;
            // Otherwise its copy was made anew before the image could ask for it: the next one may be faster.
            if short {
                taken.push((tag, digest));
            }
        }
        Ok(taken)
    }

    /// A holder of an old layer is lost and removed by force, and at once an image names that layer: it is
    /// acknowledged only once enough nodes have it again. Whether too few had when it was asked for.
    async fn reuse(&mut self, tag: &str, bytes: &[u8]) -> Result<(bool, Digest)> {
        let victim = *self.holders(bytes).first().context("a holder")?;
        let config = content::sha256(&manifest::CONFIG_BYTES);
        let image = Image::new(&config, manifest::CONFIG_BYTES.len())
            .layer(&content::sha256(bytes), bytes.len())
            .annotation("again", tag)
            .bytes();
        self.lose(victim)?;
        let removed = self.run("force", victim, self.ids[victim])?;
        ensure!(!removed.contains("no copy left"), "{removed}");
        let short = self.holders(bytes).len() < 2;
        taken(&self.other_than(victim).registry().repo(REPO), tag, &image).await?;
        let holders = self.holders(bytes);
        ensure!(holders.len() >= 2, "acknowledged while {} nodes had the layer", holders.len());
        self.enter(victim).await?;
        repaired(self.other_than(victim)).await?;
        fleet::voters(self.other_than(victim), 3).await?;
        Ok((short, content::sha256(&image)))
    }
}

/// Puts an image until it is taken. Nothing else than "later" may be said before: until the leader has noticed a
/// death there may be no quorum.
async fn taken(repo: &Repo, tag: &str, image: &[u8]) -> Result<()> {
    let began = Instant::now();
    loop {
        let answer = repo.put_manifest(tag, manifest::OCI_MANIFEST, image).await?;
        if answer.status() != StatusCode::SERVICE_UNAVAILABLE || began.elapsed() > REPAIRED {
            return expect(answer, StatusCode::CREATED).await.map(drop);
        }
        ensure!(header(&answer, "retry-after").is_some(), "a 503 without Retry-After");
        tokio::time::sleep(AGAIN).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_are_lost_one_after_another_and_nothing_with_them() -> Result<()> {
    let _beside = crate::beside().await;
    let rounds: u64 = scale("CLAWHUB_DISK_ROUNDS", 2);
    let home = tempfile::tempdir()?;
    let members = fleet::form(home.path(), (0..3).map(Spec::zone).collect()).await?;
    // With a node removed by force the others must still have votes in three zones, or they would take no push.
    let mut witness = Member::new(home.path(), Spec { witness: true, ..Spec::zone(3) })?;
    witness.start().await?;
    witness.join(&members[0]).await?;
    let mut cluster = Cluster { members, ids: vec![1, 2, 3] };
    let mut rng = Rng::new(rounds);
    let (mut pushed, mut slowest) = (Vec::new(), Duration::ZERO);
    let repo = cluster.members[0].registry().repo(REPO);
    for number in rounds..rounds + OLD {
        repo.push_image(&format!("old-{number}"), &[layer(number)]).await?;
    }
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
        repaired(cluster.other_than(victim)).await.with_context(|| format!("round {round}"))?;
    }
    let old = (0..rounds + OLD).map(layer).collect();
    let again = cluster.reuse_two(old).await.context("old layers in new images")?;
    cluster.check(&pushed).await?;
    for (tag, digest) in &again {
        cluster.pull(tag, digest).await?;
    }
    let figure = format!(
        "{rounds} disks lost and replaced, {} images whole on every node; slowest {slowest:.1?}; {} more of layers \
         that had one holder left",
        pushed.len(),
        again.len()
    );
    crate::seen("lost disks", &figure);
    Ok(())
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
