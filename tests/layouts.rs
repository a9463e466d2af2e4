//! The example configurations start as they are: every layout of `cluster-configs/` becomes a cluster that
//! takes a push at one end and serves it at the other.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::cluster::admin;
use clawhub_testkit::content::Rng;
use clawhub_testkit::process::{self, Process};
use clawhub_testkit::{Registry, until};

/// What a test needs to know of a configuration file.
struct Example {
    config: PathBuf,
    data: PathBuf,
    http: String,
    peer: String,
}

fn read(config: PathBuf) -> Result<Example> {
    let text: toml::Table = fs::read_to_string(&config)?.parse()?;
    let value = |section: &str, key: &str| {
        let found = text.get(section).and_then(|table| table.get(key)).and_then(toml::Value::as_str);
        found.map(str::to_owned).with_context(|| format!("{section}.{key} in {}", config.display()))
    };
    let data = config.parent().context("a folder")?.join(value("node", "data")?);
    let peer = value("peer", "advertise").or_else(|_| value("peer", "listen"))?;
    Ok(Example { http: value("http", "listen")?, peer, data, config: config.clone() })
}

/// The layout's files, copied so that the data lands elsewhere, and otherwise as they are.
fn examples(layout: &str, to: &Path) -> Result<Vec<Example>> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster-configs").join(layout);
    let mut paths: Vec<PathBuf> =
        fs::read_dir(from)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|ext| ext == "toml"));
    paths.sort();
    paths
        .iter()
        .map(|path| {
            let copy = to.join(path.file_name().context("a name")?);
            fs::copy(path, &copy)?;
            read(copy)
        })
        .collect()
}

async fn answering(example: &Example, process: &Process) -> Result<()> {
    let what = format!("{} to answer", example.config.display());
    until(&what, Duration::from_secs(30), || async { Ok(admin(&example.data, &["status"]).ok()) })
        .await
        .map(drop)
        .map_err(|error| error.context(process.log_tail()))
}

async fn ready(example: &Example) -> Result<()> {
    let node = Registry::new(&example.http);
    until("the node to be ready", Duration::from_secs(60), || async { Ok(node.ready().await.then_some(())) })
        .await
}

async fn start(layout: &str) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("clawhub-layout-").tempdir()?;
    let examples = examples(layout, dir.path())?;
    ensure!(examples.len() >= 3, "{layout} has {} files", examples.len());
    let mut running = Vec::new();
    for example in &examples {
        let mut command = Command::new(process::clawhub()?);
        command.arg("serve").arg("--config").arg(&example.config);
        running.push(Process::spawn(&mut command, &example.config.with_extension("log"))?);
    }
    for (example, process) in examples.iter().zip(&running) {
        answering(example, process).await?;
    }
    // A witness stores nothing: the first file of each layout is a storage node.
    let first = &examples[0];
    admin(&first.data, &["init"]).context("init")?;
    for example in &examples[1..] {
        let token = admin(&first.data, &["token"])?;
        let file = dir.path().join("token");
        fs::write(&file, token["token"].as_str().context("a token")?)?;
        let file = file.to_str().context("text")?;
        admin(&example.data, &["join", "--peer", &first.peer, "--token-file", file]).context("join")?;
    }
    for example in &examples {
        ready(example).await.with_context(|| example.config.display().to_string())?;
    }
    let (one, other) = (&examples[0], &examples[examples.len() - 1]);
    let repo = Registry::new(&one.http).repo("layouts/image");
    let pushed = repo.push_image("v1", &[Rng::new(3).bytes(400_000).into()]).await?;
    ensure!(repo.on(&Registry::new(&other.http)).pull_image("v1").await? == pushed.digest);
    Ok(())
}

#[tokio::test]
async fn every_example_layout_becomes_a_cluster() -> Result<()> {
    // One after another: they use the same addresses.
    for layout in ["three-zones", "three-regions", "two-regions-and-witness"] {
        start(layout).await.with_context(|| layout.to_owned())?;
    }
    Ok(())
}
