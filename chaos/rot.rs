//! Rot below blobs that are read all the time: bytes change on the disk of a node that sends them again and again.
//! Nothing that rotted is served once the time is over for which a check is good, readers get what was pushed, and
//! the copy heals.
//!
//! `CLAWHUB_ROT_FLIPS` is how many bytes rot; 500 in the full measure.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clawhub_testkit::content::Rng;
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::{Repo, scale, until};
use clawhub_types::Digest;
use reqwest::StatusCode;

/// How long a check is good for here.
const GOOD_FOR: Duration = Duration::from_secs(2);
const SECTIONS: &str = "[storage]\nmin_free = \"16MiB\"\nrecheck = \"2s\"\n";
/// A body that was under way may have been read just before, and takes its time on a busy machine.
const SLACK: Duration = Duration::from_secs(2);
/// Blobs that are read; each is written to by one flip at a time.
const BLOBS: usize = 8;
/// How soon a copy is as it was pushed again.
const HEALED: Duration = Duration::from_secs(60);

/// A blob that is read all the time from a node that holds it.
struct Read {
    repo: Repo,
    digest: Digest,
    bytes: Bytes,
    file: PathBuf,
    began: Instant,
    /// When a byte of the file was flipped last, in milliseconds since the beginning; 0 if none was.
    rotted: AtomicU64,
    wrong: AtomicU64,
    right: AtomicU64,
    broken: AtomicU64,
}

impl Read {
    /// Reads once, and judges what came.
    async fn once(&self) -> Result<()> {
        let began = Instant::now();
        let rotted = self.rotted.load(Ordering::SeqCst);
        let asked = self.repo.registry.get(&self.repo.path(&format!("blobs/{}", self.digest))).await;
        let Ok(answer) = asked else {
            // The end of the connection may overtake the head of the answer.
            self.broken.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        };
        ensure!(answer.status() == StatusCode::OK, "{}", answer.status());
        match answer.bytes().await {
            Err(_) => self.broken.fetch_add(1, Ordering::Relaxed),
            Ok(bytes) if bytes == self.bytes => self.right.fetch_add(1, Ordering::Relaxed),
            Ok(_) => {
                // What was flipped while it was read is none of this.
                if rotted == self.rotted.load(Ordering::SeqCst) {
                    let age = began.saturating_duration_since(self.began + Duration::from_millis(rotted));
                    ensure!(age <= GOOD_FOR + SLACK, "bytes that rotted {age:?} before were served");
                }
                self.wrong.fetch_add(1, Ordering::Relaxed)
            }
        };
        Ok(())
    }

    /// Flips a byte, and waits until the copy on the disk is good again.
    async fn rots(&self, at: usize) -> Result<()> {
        let file = OpenOptions::new().write(true).open(&self.file)?;
        // First: a reader that sees the flip must know of it.
        self.rotted.store(u64::try_from(self.began.elapsed().as_millis())?, Ordering::SeqCst);
        file.write_all_at(&[self.bytes[at] ^ 1], at as u64)?;
        until("the copy to be good again", HEALED, || async {
            let good = std::fs::read(&self.file).is_ok_and(|bytes| bytes == self.bytes);
            Ok(good.then_some(()))
        })
        .await
    }
}

fn file_of(data: &Path, bytes: &[u8]) -> PathBuf {
    let root = blake3::hash(bytes).to_hex().to_string();
    data.join("blobs").join(&root[..2]).join(&root[2..4]).join(format!("{root}.data"))
}

/// Blobs of all kinds of sizes, each with a node that holds it.
async fn pushed(members: &[Member]) -> Result<Vec<Arc<Read>>> {
    let repo = members[0].registry().repo("chaos/rot");
    let mut blobs = Vec::new();
    for (number, len) in [700, 60_000, 70_000, 300_000, 1 << 20, 3 << 20, 200_000, 5 << 20].iter().enumerate()
    {
        let bytes = Bytes::from(Rng::new(number as u64).bytes(*len));
        let digest = repo.push_blob(bytes.clone()).await?;
        let holder = members.iter().find(|member| file_of(&member.data(), &bytes).exists());
        let holder = holder.context("a node that holds it")?;
        blobs.push(Arc::new(Read {
            repo: repo.on(&holder.registry()),
            digest,
            file: file_of(&holder.data(), &bytes),
            bytes,
            began: Instant::now(),
            rotted: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            right: AtomicU64::new(0),
            broken: AtomicU64::new(0),
        }));
    }
    Ok(blobs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rot_in_what_is_always_read_is_served_no_longer_than_a_check_is_good() -> Result<()> {
    let _beside = crate::beside().await;
    let home = tempfile::tempdir()?;
    let specs = (0..3).map(|number| Spec { sections: SECTIONS.into(), ..Spec::zone(number) }).collect();
    let members = fleet::form(home.path(), specs).await?;
    let blobs = pushed(&members).await?;
    ensure!(blobs.len() == BLOBS, "{} blobs", blobs.len());
    let over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = blobs
        .iter()
        .map(|blob| {
            let (blob, over) = (blob.clone(), over.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    blob.once().await.with_context(|| format!("a blob of {} bytes", blob.bytes.len()))?;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Ok::<_, anyhow::Error>(())
            })
        })
        .collect();
    let flips: usize = scale("CLAWHUB_ROT_FLIPS", 16);
    let seed: u64 = scale("CLAWHUB_ROT_SEED", 1);
    let rotting = blobs.iter().zip(seed..).map(|(blob, seed)| async move {
        let mut rng = Rng::new(seed);
        for _ in 0..flips.div_ceil(BLOBS) {
            blob.rots(rng.below(blob.bytes.len())).await?;
        }
        Ok::<_, anyhow::Error>(())
    });
    let rotted = futures::future::try_join_all(rotting).await;
    over.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await??;
    }
    rotted?;
    let count =
        |of: fn(&Read) -> &AtomicU64| blobs.iter().map(|blob| of(blob).load(Ordering::Relaxed)).sum::<u64>();
    let (right, wrong, broken) = (count(|b| &b.right), count(|b| &b.wrong), count(|b| &b.broken));
    crate::seen(
        "rot",
        &format!(
            "{flips} bytes rotted below {BLOBS} blobs: {right} bodies right, {broken} broken off, {wrong} wrong within \
             {GOOD_FOR:?} of the rot, none later"
        ),
    );
    Ok(())
}
