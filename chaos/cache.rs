//! A node that everything is read through, on a small device: what it keeps for readers stays within its limit and
//! makes way for what counts; when there is no room at all, its clients' uploads go to other nodes.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clawhub_testkit::content::Rng;
use clawhub_testkit::disk::Disk;
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::{scale, until};
use clawhub_types::Digest;

const MIB: u64 = 1 << 20;
const DEVICE: u64 = 1024 * MIB;
const MIN_FREE: u64 = 128 * MIB;
const SECTIONS: &str = "[storage]\nmin_free = \"128MiB\"\ncache = \"48MiB\"\n";
const LIMIT: u64 = 48 * MIB;
/// What takes the room on the small device.
const FILLER: &str = "filler";
const LEN: usize = 4 << 20;
const REPO: &str = "chaos/cache";
const SOON: Duration = Duration::from_secs(30);
/// What is written between two looks at the device, by whoever writes.
const SOFT: u64 = 16 * MIB;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_through_a_node_makes_way_for_what_counts() -> Result<()> {
    let _beside = crate::beside().await;
    if let Some(why) = Disk::unavailable() {
        return crate::skipped("cache", &format!("no devices can be made here: {why}"));
    }
    let home = tempfile::tempdir()?;
    let mut members = Vec::new();
    for number in 0..3 {
        let sections = if number == 2 { SECTIONS.into() } else { Spec::zone(number).sections };
        members.push(Member::new(home.path(), Spec { sections, ..Spec::zone(number) })?);
    }
    let disk = Disk::new(&home.path().join("small.ext4"), DEVICE, &members[2].data())?;
    let trial = Trial::start(members).await;
    let proved = match &trial {
        Ok(trial) => trial.all(&disk).await,
        Err(error) => Err(anyhow::anyhow!("{error:#}")),
    };
    // The nodes first, then the device below one of them.
    drop(trial);
    drop(disk);
    proved
}

struct Trial {
    members: Vec<Member>,
    blobs: Vec<(Digest, Bytes)>,
}

impl Trial {
    async fn start(mut members: Vec<Member>) -> Result<Trial> {
        fleet::gather(&mut members).await?;
        let mut blobs = Vec::new();
        for seed in 0..scale("CLAWHUB_CACHE_BLOBS", 40) {
            let bytes = Bytes::from(Rng::new(seed).bytes(LEN));
            blobs.push((members[0].registry().repo(REPO).push_blob(bytes.clone()).await?, bytes));
        }
        Ok(Trial { members, blobs })
    }

    fn small(&self) -> &Member {
        &self.members[2]
    }

    async fn all(&self, disk: &Disk) -> Result<()> {
        self.everything_is_read().await.context("read through it")?;
        // What a node says of its cache is a moment old.
        let (bytes, _) = until("the cache to be seen, full", SOON, || async {
            Ok(Some(self.cache()?).filter(|(bytes, evicted)| *bytes > LEN as u64 && *evicted > 0))
        })
        .await?;
        ensure!(self.pushed(100).await? == 3, "it takes uploads itself");

        // Room for what counts, if what was only read goes.
        disk.fill(FILLER, MIN_FREE + SOFT)?;
        for seed in 101..106 {
            self.pushed(seed).await.context("while there is little room")?;
            ensure!(free(&self.small().data())? + SOFT >= MIN_FREE, "it went below what must stay free");
        }
        until("the cache to make way", SOON, || async {
            Ok((self.cache()?.0 < bytes && free(&self.small().data())? >= MIN_FREE).then_some(()))
        })
        .await?;
        self.everything_is_read().await.context("with little room")?;

        // No room at all.
        disk.fill(FILLER, MIN_FREE / 2)?;
        until("nothing to be cached any more", SOON, || async { Ok((self.cache()?.0 == 0).then_some(())) })
            .await?;
        for seed in 200..203 {
            ensure!(self.pushed(seed).await? != 3, "a node without room took an upload");
        }
        self.small().registry().repo(REPO).push_image("full", &[Rng::new(204).bytes(LEN).into()]).await?;
        for member in &self.members {
            member.registry().repo(REPO).pull_image("full").await.context("pushed through a full node")?;
        }
        self.everything_is_read().await.context("without room")?;
        ensure!(self.cache()?.0 == 0, "it was kept without room");

        disk.empty(&[FILLER])?;
        until("it to take uploads itself again", SOON, || async {
            Ok((self.pushed(300).await? == 3).then_some(()))
        })
        .await?;
        let (bytes, evicted) = self.cache()?;
        crate::seen(
            "cache",
            &format!(
                "{} MiB read three times through a node that keeps {} MiB: {} MiB made way, {} MiB are there; pushes \
                 through it when full went to others",
                (self.blobs.len() * LEN) >> 20,
                LIMIT / MIB,
                evicted / MIB,
                bytes / MIB
            ),
        );
        Ok(())
    }

    /// Everything comes through the small node as it was pushed, and it keeps to its limits.
    async fn everything_is_read(&self) -> Result<()> {
        let repo = self.small().registry().repo(REPO);
        let before = free(&self.small().data())?;
        for (digest, bytes) in &self.blobs {
            ensure!(repo.pull_blob(digest).await? == *bytes, "other bytes than were pushed");
            let left = free(&self.small().data())?;
            ensure!(left + SOFT >= MIN_FREE.min(before), "{left} bytes are free");
        }
        until("the cache to be within its limit", SOON, || async {
            Ok((self.cache()?.0 <= LIMIT).then_some(()))
        })
        .await
    }

    /// Pushes a blob through the small node, reads it there, and answers which node took it.
    async fn pushed(&self, seed: u64) -> Result<u64> {
        let repo = self.small().registry().repo(REPO);
        let upload = repo.open().await?;
        let id = upload.location.rsplit('/').next().unwrap_or_default();
        let owner = id.split('-').next().unwrap_or_default().parse().context("an upload's node")?;
        let bytes = Bytes::from(Rng::new(seed).bytes(LEN));
        let digest = clawhub_testkit::content::sha256(&bytes);
        let answer = upload.put(&self.small().registry(), &digest, bytes.clone()).await?;
        ensure!(answer.status() == 201, "{}", answer.status());
        ensure!(repo.pull_blob(&digest).await? == bytes, "other bytes than were pushed");
        Ok(owner)
    }

    /// Bytes that the small node keeps for readers, and that have made way.
    fn cache(&self) -> Result<(u64, u64)> {
        let status = self.small().admin(&["status"])?;
        let number = |name: &str| status[name].as_u64().with_context(|| format!("{name} in {status}"));
        Ok((number("cache_bytes")?, number("cache_evicted_bytes")?))
    }
}

fn free(data: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(data)?;
    Ok(stat.f_bavail * stat.f_frsize)
}
