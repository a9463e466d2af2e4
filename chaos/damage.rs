//! Folders of databases that are not there, and databases that are damaged, while their node is down. It says so
//! and what to do. Without its folder it changes nothing and goes on once that is back; with damaged data it never
//! starts again, not even once it is whole. The others do not notice. [`strays`] has one that opens well and is not what
//! the others have.

mod strays;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clawhub_testkit::content::{Rng, sha256};
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::oci::expect;
use clawhub_testkit::{Repo, process};
use reqwest::StatusCode;

const ENDS: Duration = Duration::from_secs(30);
/// The folders that may be devices of their own.
const FOLDERS: [&str; 3] = ["raft", "state", "local"];

fn bytes(seed: u64) -> Bytes {
    Bytes::from(Rng::new(seed).bytes(10_000))
}

async fn cluster(home: &Path) -> Result<Vec<Member>> {
    fleet::form(home, (0..3).map(Spec::zone).collect()).await
}

/// Starts a node that must end by itself; what it says.
fn refused(member: &mut Member) -> Result<String> {
    member.launch()?;
    member.ended(ENDS)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_without_its_device_costs_nothing() -> Result<()> {
    let _beside = crate::beside().await;
    let home = tempfile::tempdir()?;
    let mut members = cluster(home.path()).await?;
    let repo = |member: &Member| member.registry().repo("chaos/unmounted");
    let (first, second) = (bytes(1), bytes(2));
    let upload = repo(&members[2]).open().await?;
    expect(upload.patch(&members[2].registry(), Some(0), first.clone()).await?, StatusCode::ACCEPTED).await?;

    let victim = &mut members[2];
    victim.stop();
    for folder in FOLDERS {
        let (place, aside) = (victim.data().join(folder), home.path().join(folder));
        fs::rename(&place, &aside)?;
        fs::create_dir(&place)?;
        for _ in 0..2 {
            let said = refused(victim)?;
            ensure!(said.contains("is its device mounted?"), "without {folder}: {said}");
        }
        fs::remove_dir_all(&place)?;
        fs::rename(&aside, &place)?;
    }
    victim.launch()?;
    victim.ready().await.context("with everything mounted again")?;
    // What was confirmed is still there: the upload goes on from its first half.
    let whole = [first, second.clone()].concat();
    let ended = upload.put(&victim.registry(), &sha256(&whole), second).await?;
    expect(ended, StatusCode::CREATED).await?;
    ensure!(repo(&members[0]).pull_blob(&sha256(&whole)).await? == whole, "other bytes");
    crate::seen("damage", "raft/, state/ and local/ without their devices: refused, and nothing lost");
    Ok(())
}

/// The file that RocksDB reads first, which `CURRENT` names.
fn manifest(db: &Path) -> Result<PathBuf> {
    let name = fs::read_to_string(db.join("CURRENT"))?;
    Ok(db.join(name.trim()))
}

/// The commands in what a node says, in their order.
fn commands(said: &str) -> Vec<String> {
    said.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Runs a command as an operator does who has read what the placeholders stand for.
fn run(command: &str, survivor: &Member) -> Result<()> {
    let data = survivor.data();
    let command = command.replace("--data DATA", &format!("--data '{}'", data.display()));
    let command = command.replace("ADDRESS", survivor.peer());
    let script = format!("clawhub() {{ \"$PROGRAM\" \"$@\"; }}\n{command}");
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", &script]).env("PROGRAM", process::clawhub()?);
    let output = tokio::task::block_in_place(|| bash.output())?;
    ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Damages the database at `db`: refused at once, refused for ever, replaced by the commands that it gives.
async fn damage(members: &mut [Member], db: &str, repo: &Repo) -> Result<()> {
    let [.., victim] = members else { anyhow::bail!("too few nodes") };
    victim.stop();
    let file = manifest(&victim.data().join(db))?;
    let whole = fs::read(&file)?;
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x40;
    fs::write(&file, &damaged)?;
    let said = refused(victim)?;
    ensure!(said.contains("corrupt") && said.contains(db), "{said}");
    ensure!(fs::read(&file)? == damaged, "the damaged file was changed");

    fs::write(&file, &whole)?;
    let again = refused(victim)?;
    ensure!(again == refused(victim)?, "it says more every time: {again}");
    ensure!(again.matches("in quarantine").count() == 1, "{again}");
    repo.push_image("meanwhile", &[bytes(7)]).await.context("without it")?;

    replace(members, 2, 0).await
}

/// Replaces a member whose data is in quarantine by the commands that its refusal names, run at a survivor.
pub(crate) async fn replace(members: &mut [Member], victim: usize, survivor: usize) -> Result<()> {
    let said = refused(&mut members[victim])?;
    let commands = commands(&said);
    let [drain, join, wait, remove] = &commands[..] else {
        anyhow::bail!("commands: {commands:?} in {said}")
    };
    run(drain, &members[survivor])?;
    let aside = members[victim].data().with_extension("damaged");
    fs::rename(members[victim].data(), &aside)?;
    members[victim].start().await?;
    run(join, &members[survivor])?;
    members[victim].ready().await?;
    run(wait, &members[survivor])?;
    run(remove, &members[survivor])?;
    fs::remove_dir_all(&aside)?;
    fleet::voters(&members[survivor], 3).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_data_is_never_started_with_again() -> Result<()> {
    let _beside = crate::beside().await;
    let home = tempfile::tempdir()?;
    let mut members = cluster(home.path()).await?;
    let repo = members[0].registry().repo("chaos/damage");
    let image = repo.push_image("v1", &[bytes(1)]).await?;
    for db in ["raft", "state/1", "local"] {
        damage(&mut members, db, &repo).await.with_context(|| format!("{db} damaged"))?;
        let here = members[2].registry().repo("chaos/damage");
        ensure!(here.pull_image("v1").await? == image.digest, "another image after {db} was damaged");
    }
    crate::seen("damage", "raft, state and local damaged: quarantined, replaced by the commands it names");
    Ok(())
}
