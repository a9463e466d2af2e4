//! Taking a node out of service, and the change of mind.

use std::path::Path;
use std::process::Command;
use std::slice::from_ref;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clawhub_testkit::cluster::holds;
use clawhub_testkit::content::Rng;
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::process;

/// Which members drain, as `member` sees it.
fn draining(member: &Member) -> Result<Vec<u64>> {
    let answer = member.admin(&["members"])?;
    let members = answer["members"].as_array().with_context(|| format!("no members in {answer}"))?;
    let drain = members.iter().filter(|member| member["draining"].as_bool() == Some(true));
    Ok(drain.filter_map(|member| member["id"].as_u64()).collect())
}

fn keeps(member: &Member, bytes: &[u8]) -> bool {
    holds(&member.data(), blake3::hash(bytes).to_hex().as_str())
}

/// `clawhub cluster drain` as an operator types it, and what is printed then.
fn drain(data: &Path, words: &[&str]) -> Result<String> {
    let mut command = Command::new(process::clawhub()?);
    process::tool(command.args(["cluster", "drain"]).args(words).arg("--data").arg(data))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_that_is_called_off_leaves_a_node_like_any_other() -> Result<()> {
    let home = tempfile::tempdir()?;
    let members = fleet::form(home.path(), (0..3).map(Spec::zone).collect()).await?;
    let data = members[0].data();
    let layer = Bytes::from(Rng::new(1).bytes(300_000));
    let repo = members[0].registry().repo("drain/image");
    let image = repo.push_image("v1", from_ref(&layer)).await?;
    let holder = members[1..].iter().position(|member| keeps(member, &layer));
    let leaving = holder.context("a second copy")? + 1;
    let (id, other) = ((leaving + 1).to_string(), (4 - leaving).to_string());

    drain(&data, &[&id, "--wait"])?;
    ensure!(draining(&members[0])? == [leaving as u64 + 1]);
    let copies = members.iter().filter(|member| keeps(member, &layer)).count();
    ensure!(copies == 3, "{copies} copies, of which one is to go");
    ensure!(repo.on(&members[leaving].registry()).pull_image("v1").await? == image.digest, "it serves");
    // Two zones are left to keep copies in: the next one may not go as well.
    let refused = drain(&data, &[&other]).err().context("nobody could keep a second copy")?;
    ensure!(format!("{refused:#}").contains("zone"), "{refused:#}");

    let said = drain(&data, &[&id, "--undo"])?;
    ensure!(said.contains("no longer drains"), "{said}");
    ensure!(draining(&members[0])?.is_empty());
    // Its zone counts again, with what it holds and what it takes.
    drain(&data, &[&other, "--wait"])?;
    let layer = Bytes::from(Rng::new(2).bytes(300_000));
    repo.push_image("v2", from_ref(&layer)).await?;
    ensure!(keeps(&members[leaving], &layer), "it takes no copies");
    Ok(())
}
