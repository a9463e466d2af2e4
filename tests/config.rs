//! What a node refuses to start with, and that it leaves it as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::content::sha256;
use clawhub_testkit::fleet::{Member, Spec, refused};
use clawhub_testkit::until;

/// The exit code for a configuration with mistakes (sysexits' EX_CONFIG).
const MISTAKES: i32 = 78;

#[test]
fn five_mistakes_are_reported_together_each_with_its_line() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("node.toml");
    fs::write(
        &config,
        "[node]\n\
         name = \"n1\"\n\
         region = \"Not A Label\"\n\
         zone = 7\n\
         data = \"data\"\n\
         [http]\n\
         listen = \"0.0.0.0:5000\"\n\
         insecur = true\n\
         [peer]\n\
         listen = \"127.0.0.1:0\"\n\
         [storage]\n\
         min_free = \"plenty\"\n",
    )?;
    let (code, said) = refused(&config)?;
    ensure!(code == Some(MISTAKES), "exit {code:?}");
    let expected = [
        (3, "node.region"),
        (4, "node.zone"),
        (7, "http.listen"),
        (8, "http.insecur"),
        (12, "storage.min_free"),
    ];
    for (line, key) in expected {
        let found = said.lines().any(|l| l.contains(&format!("line {line}:")) && l.contains(key));
        ensure!(found, "no line {line} for {key} in:\n{said}");
    }
    ensure!(!dir.path().join("data").exists(), "nothing is created before the file is right");
    Ok(())
}

#[test]
fn a_file_that_is_no_toml_or_not_there_is_refused() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("node.toml");
    refused(&config).context("no file")?;
    fs::write(&config, "[node\nname = ")?;
    let (code, _) = refused(&config)?;
    ensure!(code == Some(MISTAKES), "exit {code:?}");
    Ok(())
}

#[test]
fn without_authentication_a_node_listens_on_loopback_only() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("node.toml");
    let text = "[node]\nname = \"n1\"\nregion = \"r1\"\nzone = \"a\"\ndata = \"data\"\n\
                [http]\nlisten = \"0.0.0.0:0\"\n[peer]\nlisten = \"127.0.0.1:0\"\n";
    fs::write(&config, text)?;
    let (_, said) = refused(&config)?;
    ensure!(said.contains("insecure"), "it does not say what to do:\n{said}");
    Ok(())
}

/// Every file of a folder with its bytes: what "untouched" means. Sockets and the lock carry none.
fn contents(dir: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && entry.file_name() != "LOCK" {
                found.insert(entry.path().display().to_string(), fs::read(entry.path())?);
            }
        }
    }
    Ok(found)
}

/// Checks that a folder is what it was.
fn ensure_untouched(dir: &Path, before: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let after = contents(dir)?;
    let names = before.keys().chain(after.keys());
    let changed: BTreeSet<&String> = names.filter(|name| before.get(*name) != after.get(*name)).collect();
    ensure!(changed.is_empty(), "changed, added or removed: {changed:?}");
    Ok(())
}

const BLOB: &[u8] = b"some bytes";

/// A cluster of one.
async fn running(home: &Path, name: &str) -> Result<Member> {
    let mut node = Member::new(home, Spec::alone(name))?;
    node.start().await?;
    node.init().await?;
    Ok(node)
}

/// A node that was a cluster of one and has stopped.
async fn stopped(home: &Path, name: &str) -> Result<Member> {
    let mut node = running(home, name).await?;
    node.registry().repo("config/data").push_blob(BLOB).await?;
    node.stop();
    Ok(node)
}

#[tokio::test]
async fn data_of_a_newer_format_is_refused_untouched() -> Result<()> {
    let home = tempfile::tempdir()?;
    let node = stopped(home.path(), "newer").await?;
    let path = node.data().join("FORMAT");
    let mut format: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
    let known = format["format"].as_u64().context("FORMAT has no number")?;
    format["format"] = (known + 1).into();
    fs::write(&path, format.to_string())?;
    let before = contents(&node.data())?;
    let (_, said) = refused(&node.config())?;
    ensure!(said.contains("format"), "{said}");
    ensure_untouched(&node.data(), &before)
}

#[tokio::test]
async fn data_of_another_cluster_is_refused_unharmed() -> Result<()> {
    let home = tempfile::tempdir()?;
    let (mut one, other) = (stopped(home.path(), "one").await?, stopped(home.path(), "other").await?);
    let format = one.data().join("FORMAT");
    let own = fs::read(&format)?;
    // The one's keys, log and state with the other's name on them.
    fs::copy(other.data().join("FORMAT"), &format)?;
    // The databases rewrite files of their own whenever they are opened; nothing else may change.
    let ours = |files: BTreeMap<String, Vec<u8>>| -> BTreeMap<String, Vec<u8>> {
        let database = |name: &str| ["/raft/", "/state/", "/local/"].iter().any(|part| name.contains(part));
        files.into_iter().filter(|(name, _)| !database(name)).collect()
    };
    let before = ours(contents(&one.data())?);
    refused(&one.config())?;
    ensure!(ours(contents(&one.data())?) == before, "something changed");
    fs::write(&format, own)?;
    one.start().await?;
    one.ready().await?;
    one.registry().repo("config/data").pull_blob(&sha256(BLOB)).await?;
    Ok(())
}

#[tokio::test]
async fn a_member_of_one_cluster_cannot_join_another() -> Result<()> {
    let home = tempfile::tempdir()?;
    let (one, other) = (running(home.path(), "member").await?, running(home.path(), "host").await?);
    let cluster = |node: &Member| Ok::<_, anyhow::Error>(node.admin(&["status"])?["cluster"].clone());
    let before = cluster(&one)?;
    // Nothing else is in the way: the token is good, and the peer answers.
    let joined = one.join(&other).await.map(drop);
    let founded = one.admin(&["init", "--durability", "local"]).map(drop);
    for answer in [joined, founded] {
        let refusal = format!("{:#}", answer.err().context("it changed clusters")?);
        ensure!(refusal.contains("already"), "{refusal}");
    }
    ensure!(cluster(&one)? == before && cluster(&other)? != before);
    Ok(())
}

#[tokio::test]
async fn a_member_says_what_its_file_cannot_change_any_more() -> Result<()> {
    let home = tempfile::tempdir()?;
    let mut node = stopped(home.path(), "moved").await?;
    node.spec.zone = "elsewhere".into();
    node.configure()?;
    node.start().await?;
    node.ready().await?;
    let said = fs::read_to_string(node.log())?;
    ensure!(said.contains("[node] zone is not what"), "{said}");
    ensure!(!said.contains("[node] region"), "{said}");
    let members = node.admin(&["members"])?;
    ensure!(members["members"][0]["zone"] == "a", "{members}");
    Ok(())
}

#[tokio::test]
async fn a_folder_of_something_else_is_refused_untouched() -> Result<()> {
    let home = tempfile::tempdir()?;
    let node = Member::new(home.path(), Spec::alone("foreign"))?;
    fs::write(node.data().join("thesis.txt"), "do not touch")?;
    let before = contents(&node.data())?;
    refused(&node.config())?;
    ensure_untouched(&node.data(), &before)
}

#[tokio::test]
async fn two_processes_cannot_share_a_folder() -> Result<()> {
    let home = tempfile::tempdir()?;
    let node = running(home.path(), "shared").await?;
    refused(&node.config())?;
    let registry = node.registry();
    until("the first to be well", Duration::from_secs(5), || async {
        Ok(registry.ready().await.then_some(()))
    })
    .await
}
