//! A node whose state is not the others'. While nobody can tell which is right all say so and go on; once a majority can,
//! the one that strayed stops, says so, and is replaced by the commands that it names.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clawhub_testkit::content::Rng;
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::{process, rows, until};

use super::replace;

const REPO: &str = "chaos/agreement";
const TAG: &str = "the-one-that-is-forgotten";
const SOON: Duration = Duration::from_secs(60);
/// Images that move the log past an index at which all look at their states.
const IMAGES: u64 = 150;

/// What a node's status says of the members' states; nothing if they are the same.
fn said(member: &Member) -> Result<String> {
    Ok(member.admin(&["status"])?["agreement"].as_str().unwrap_or_default().to_owned())
}

async fn push(member: &Member, images: std::ops::Range<u64>) -> Result<()> {
    let repo = member.registry().repo(REPO);
    for seed in images {
        repo.push_image(TAG, &[Bytes::from(Rng::new(seed).bytes(1_000))]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_state_strays_stops_when_a_majority_says_so() -> Result<()> {
    let _beside = crate::beside().await;
    let home = tempfile::tempdir()?;
    let mut members = fleet::form(home.path(), (0..3).map(Spec::zone).collect()).await?;
    push(&members[0], 0..2).await?;

    // What says that the manifest has this tag. Nothing misses it before the tag moves, and the state's hash still
    // speaks of it.
    members[2].stop();
    let state = members[2].data().join("state");
    let current = fs::read_to_string(state.join("CURRENT"))?;
    rows::lose(&state.join(current.trim()), TAG.as_bytes())?;
    members[2].start().await?;
    members[2].ready().await?;
    members[1].stop();
    push(&members[0], 2..IMAGES).await.context("with two of three")?;
    for at in [0, 2] {
        until("it to be said", SOON, || async {
            Ok(said(&members[at])?.contains("no majority tells").then_some(()))
        })
        .await
        .with_context(|| members[at].spec.name.clone())?;
        ensure!(process::alive(members[at].pid()?), "{} stopped", members[at].spec.name);
    }

    members[1].start().await?;
    let log = members[2].ended(SOON).context("the one that strayed")?;
    ensure!(log.contains("differs from that of most voters"), "{log}");
    until("the others to agree on it", SOON, || async {
        let told = said(&members[0])?;
        Ok((told.is_empty() || told.contains("replace it")).then_some(()))
    })
    .await?;
    push(&members[0], IMAGES..IMAGES + 2).await.context("without it")?;
    replace(&mut members, 2, 0).await?;
    push(&members[2], IMAGES + 2..2 * IMAGES).await.context("through the one that replaces it")?;
    for member in &members {
        ensure!(said(member)?.is_empty(), "{}: {}", member.spec.name, said(member)?);
    }
    crate::seen("damage", "a state that differs: told without a majority, stopped with one, replaced");
    Ok(())
}
