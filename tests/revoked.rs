//! A member that was removed, and whoever has its disk: it opens the CA, issues itself what it likes, and is refused
//! everywhere, by nodes too that cannot know who joined since.

#[path = "revoked/attacker.rs"]
mod attacker;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use attacker::{Attacker, Disk};
use clawhub_testkit::content::Rng;
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::until;
use tokio::time::Instant;

/// How long after the answer to a removal its node may still be heard somewhere.
const BOUND: Duration = Duration::from_millis(100);
/// Longer than anything that is waited for.
const LONG: Duration = Duration::from_secs(60);

/// Copies a data directory, all of it but its socket.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()? {
            kind if kind.is_dir() => copy(&entry.path(), &target)?,
            kind if kind.is_file() => drop(fs::copy(entry.path(), target)?),
            _ => {}
        }
    }
    Ok(())
}

async fn push(member: &Member, name: &str) -> Result<()> {
    let layer = Rng::new(7).bytes(64 << 10);
    member.registry().repo(name).push_image("latest", &[layer.into()]).await.map(drop)
}

fn term(member: &Member) -> Result<u64> {
    member.admin(&["status"])?["term"].as_u64().context("a term")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_of_a_removed_member_is_worth_nothing() -> Result<()> {
    let home = tempfile::tempdir()?;
    let mut members = fleet::form(home.path(), (0..4).map(Spec::zone).collect()).await?;
    for (number, member) in members.iter().enumerate() {
        push(member, &format!("before/removal-{number}")).await?;
    }
    let mut gone = members.pop().context("four members")?;
    gone.stop();
    let disk = home.path().join("stolen");
    copy(&gone.data(), &disk)?;
    let disk = Disk::read(&disk, 4)?;

    // Until it is removed it is a member, whoever runs it; and the attacks are real.
    let itself = disk.itself().await?;
    for at in 1..=3 {
        ensure!(itself.is_member_at(at).await, "node {at} does not know its member");
    }
    ensure!(itself.fetch(itself.holder()?).await, "a member gets a blob");
    let attackers = [itself, disk.forged(1000).await?, disk.forged(5).await?, disk.forged(4).await?];
    let before = term(&members[0])?;

    members[0].admin(&["remove", "4", "--force"])?;
    tokio::time::sleep_until(Instant::now() + BOUND).await;
    let attacks = members.iter().zip(1..).flat_map(|(member, at)| {
        attackers.iter().map(move |attacker: &Attacker| attacker.attack(at, member.peer()))
    });
    futures::future::try_join_all(attacks).await?;
    // The members' own names, with keys that are not theirs.
    for (at, member) in (1..=3).zip(&members) {
        let other = at % 3 + 1;
        disk.forged(other).await?.attack(at, member.peer()).await?;
    }

    ensure!(term(&members[0])? == before, "somebody was heard: the term has moved");
    for (number, member) in members.iter().enumerate() {
        push(member, &format!("after/removal-{number}")).await?;
    }
    ensure!(members[1].admin(&["members"])?["members"].as_array().is_some_and(|all| all.len() == 3));

    // The removal replaced the keys, so that not even a node that is behind believes the disk.
    rotated(&members, 2).await?;
    for member in &mut members {
        member.stop();
    }
    members[0].start().await?;
    for attacker in [disk.forged(1000).await?, disk.forged(5).await?, disk.forged(2).await?] {
        attacker.attack(1, members[0].peer()).await?;
    }
    ensure!(term(&members[0])? < 1 << 30, "somebody was heard: the term has moved");
    for member in &mut members[1..] {
        member.start().await?;
    }
    for member in &members {
        member.ready().await?;
    }
    // The first node may not have noticed yet that the others are back.
    until("a push after all started again", LONG, async || push(&members[0], "after/all").await.map(Some))
        .await
}

/// Waits until all of these have keys of this generation.
async fn rotated(members: &[Member], wanted: u64) -> Result<()> {
    for member in members {
        until("the keys to be replaced", LONG, || async {
            let generation = member.admin(&["status"])?["keys_generation"].as_u64();
            let left = |name: &str| member.data().join(name).exists();
            Ok((generation == Some(wanted) && !left("keys.next") && !left("keys.now")).then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_of_a_member_copied_before_its_keys_were_replaced_is_worth_nothing() -> Result<()> {
    let home = tempfile::tempdir()?;
    let mut members = fleet::form(home.path(), (0..3).map(Spec::zone).collect()).await?;
    for (number, member) in members.iter().enumerate() {
        push(member, &format!("before/rotation-{number}")).await?;
    }
    members[2].stop();
    let copied = home.path().join("copied");
    copy(&members[2].data(), &copied)?;
    let disk = Disk::read(&copied, 3)?;
    // Until then the copy is the member, and what the members say to each other is open to it.
    let itself = disk.next_start().await?;
    ensure!(itself.is_member_at(1).await && itself.is_member_at(2).await, "the attacks are real");
    drop(itself);
    members[2].start().await?;
    members[2].ready().await?;
    members[0].admin(&["rotate-keys"])?;
    rotated(&members, 2).await?;
    let before = term(&members[0])?;
    let attackers =
        [disk.itself().await?, disk.forged(1000).await?, disk.forged(4).await?, disk.forged(3).await?];
    let attacks = members.iter().zip(1..).flat_map(|(member, at)| {
        attackers.iter().map(move |attacker: &Attacker| attacker.attack(at, member.peer()))
    });
    futures::future::try_join_all(attacks).await?;
    for (at, member) in (1..=3).zip(&members) {
        disk.forged(at % 3 + 1).await?.attack(at, member.peer()).await?;
    }
    ensure!(term(&members[0])? == before, "somebody was heard: the term has moved");
    for (number, member) in members.iter().enumerate() {
        push(member, &format!("after/rotation-{number}")).await?;
    }
    Ok(())
}

/// A node that is behind hears from a leader of which it has not heard, and not from whoever has the CA's key.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_behind_believes_those_alone_for_whom_members_vouch() -> Result<()> {
    let home = tempfile::tempdir()?;
    let mut members = fleet::form(home.path(), (0..4).map(Spec::zone).collect()).await?;
    push(&members[0], "before/all").await?;
    let mut away = members.pop().context("four members")?;
    away.stop();
    let disk = home.path().join("stolen");
    copy(&away.data(), &disk)?;
    let disk = Disk::read(&disk, 4)?;

    // While it is away another one takes a member's place, and leads.
    let mut newcomer = Member::new(home.path(), Spec::zone(4))?;
    newcomer.start().await?;
    newcomer.join(&members[0]).await?;
    members.pop().context("three members")?.admin(&["remove", "3", "--force"])?;
    until("the newcomer to lead", LONG, async || {
        // It cannot before it votes.
        drop(members[0].admin(&["transfer-leader", "5"]));
        Ok((members[0].leader()? == Some(5)).then_some(()))
    })
    .await?;
    let before = term(&members[0])?;

    let strangers = [disk.forged(1000).await?, disk.forged(6).await?, disk.forged(5).await?];
    away.start().await?;
    let led = async {
        loop {
            for stranger in &strangers {
                ensure!(!stranger.leads(4).await, "a stranger led a node that is behind");
            }
        }
    };
    tokio::select! {
        led = led => led,
        ready = away.ready() => ready,
    }?;

    members.push(newcomer);
    members.iter_mut().for_each(Member::stop);
    until("the node to be cut off", LONG, async || {
        Ok(away.admin(&["status"])?["quorum_age_ms"].as_u64().map(drop))
    })
    .await?;
    for stranger in &strangers {
        ensure!(!stranger.leads(4).await, "a stranger led a node that is cut off");
    }
    for member in &mut members {
        member.start().await?;
    }
    away.ready().await?;
    ensure!(term(&away)? < before + 100, "somebody was heard: the term has jumped");
    push(&away, "after/all").await
}
