//! A database is damaged while its node is down: the node says so and what to do, never starts with that data
//! again, not even once it is whole, and the others do not notice.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clawhub_testkit::content::Rng;
use clawhub_testkit::fleet::{self, Spec};

const ENDS: Duration = Duration::from_secs(30);

/// The file that RocksDB reads first, which `CURRENT` names.
fn manifest(db: &Path) -> Result<PathBuf> {
    let name = fs::read_to_string(db.join("CURRENT"))?;
    Ok(db.join(name.trim()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_data_is_never_started_with_again() -> Result<()> {
    let _beside = crate::beside().await;
    let home = tempfile::tempdir()?;
    let mut members = fleet::form(home.path(), (0..3).map(Spec::zone).collect()).await?;
    let repo = members[0].registry().repo("chaos/damage");
    repo.push_image("v1", &[Bytes::from(Rng::new(1).bytes(10_000))]).await?;

    let victim = &mut members[2];
    victim.stop();
    let file = manifest(&victim.data().join("raft"))?;
    let whole = fs::read(&file)?;
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x40;
    fs::write(&file, &damaged)?;
    victim.launch()?;
    let said = victim.ended(ENDS)?;
    for part in ["raft", "corrupt", "quarantine", "clawhub cluster join", "clawhub cluster remove 3"] {
        ensure!(said.contains(part), "nothing of {part:?} in: {said}");
    }
    ensure!(fs::read(&file)? == damaged, "the damaged file was changed");

    fs::write(&file, &whole)?;
    victim.launch()?;
    let said = victim.ended(ENDS)?;
    ensure!(said.contains("in quarantine"), "{said}");
    repo.push_image("v2", &[Bytes::from(Rng::new(2).bytes(10_000))]).await.context("without it")?;
    crate::seen("rollback", "a damaged database: quarantined with the commands that replace the node");
    Ok(())
}
