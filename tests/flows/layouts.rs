//! The example configurations start as they are: every layout of `cluster-configs/` becomes a cluster whose
//! nodes all vote and all serve, and that goes on without what its README says it survives.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clawhub_testkit::cluster::{admin, answering, join, ready, token, voters};
use clawhub_testkit::content::Rng;
use clawhub_testkit::process::{self, Process};
use clawhub_testkit::{Registry, Repo, manifest, until};
use clawhub_types::Digest;
use reqwest::{Method, StatusCode};
use tempfile::TempDir;

/// Each layout, which of its files belong to the domain that is lost, and whether uploads are taken without it:
/// where the first file asks for two regions, one is not enough.
const LAYOUTS: [(&str, &str, bool); 3] = [
    ("three-zones", "zone-c", true),
    ("three-regions", "west", true),
    ("two-regions-and-witness", "south", false),
];

/// How soon after a loss the others know of it and go on, with time-outs made for distant regions.
const GOES_ON: Duration = Duration::from_secs(30);

/// What a test needs to know of a configuration file.
struct Example {
    config: PathBuf,
    data: PathBuf,
    http: String,
    peer: String,
    /// Whether it keeps blobs.
    storage: bool,
}

impl Example {
    fn read(config: PathBuf) -> Result<Example> {
        let text: toml::Table = fs::read_to_string(&config)?.parse()?;
        let found = |section: &str, key: &str| {
            let value = text.get(section).and_then(|table| table.get(key));
            value.with_context(|| format!("{section}.{key} in {}", config.display()))
        };
        let value = |section: &str, key: &str| {
            found(section, key)?.as_str().map(str::to_owned).with_context(|| format!("{section}.{key}"))
        };
        let roles = found("node", "roles")?.as_array().context("a list of roles")?;
        Ok(Example {
            data: config.parent().context("a folder")?.join(value("node", "data")?),
            http: value("http", "listen")?,
            peer: value("peer", "advertise").or_else(|_| value("peer", "listen"))?,
            storage: roles.iter().any(|role| role.as_str() == Some("storage")),
            config: config.clone(),
        })
    }

    fn registry(&self) -> Registry {
        Registry::new(&self.http)
    }

    /// How many blobs it keeps.
    fn blobs(&self) -> Result<usize> {
        let (mut count, mut folders) = (0, vec![self.data.join("blobs")]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else if entry.path().extension().is_some_and(|kind| kind == "data") {
                    count += 1;
                }
            }
        }
        Ok(count)
    }
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
            Example::read(copy)
        })
        .collect()
}

/// The nodes of a layout.
struct Layout {
    // Order matters in the drop: the processes before the folder that they write to.
    nodes: Vec<(Example, Process)>,
    _dir: TempDir,
}

impl Layout {
    /// Starts the nodes and makes them a cluster, which the first one founds.
    async fn start(layout: &str) -> Result<Layout> {
        let dir = tempfile::Builder::new().prefix("clawhub-layout-").tempdir()?;
        let examples = examples(layout, dir.path())?;
        ensure!(examples.len() >= 3, "{layout} has {} files", examples.len());
        let mut nodes = Vec::new();
        for example in examples {
            let process = process::serve(&example.config, &example.config.with_extension("log"))?;
            nodes.push((example, process));
        }
        for (example, process) in &mut nodes {
            answering(process, &example.data).await?;
        }
        // A witness stores nothing: the first file of each layout is a storage node.
        let (first, others) = nodes.split_first().context("a node")?;
        admin(&first.0.data, &["init"]).context("init")?;
        for (example, _) in others {
            join(&example.data, &token(&first.0.data)?, &first.0.peer).context("join")?;
        }
        for (example, process) in &nodes {
            ready(&example.registry(), process.log()).await?;
        }
        voters(&first.0.data, nodes.len()).await.context("every node of an example votes")?;
        Ok(Layout { nodes, _dir: dir })
    }

    fn examples(&self) -> impl DoubleEndedIterator<Item = &Example> {
        self.nodes.iter().map(|(example, _)| example)
    }

    /// An image is pulled whole from every node.
    async fn serves(&self, repo: &Repo, tag: &str, digest: &Digest) -> Result<()> {
        for example in self.examples() {
            let got = repo.on(&example.registry()).pull_image(tag).await;
            let got = got.with_context(|| example.config.display().to_string())?;
            ensure!(got == *digest, "{tag} is {got} at {}", example.http);
        }
        Ok(())
    }

    /// The nodes whose files are called so die.
    fn lose(&mut self, name: &str) -> Result<()> {
        let lost = |example: &Example| {
            let stem = example.config.file_stem().and_then(OsStr::to_str);
            stem.is_some_and(|stem| stem.starts_with(name))
        };
        for (_, process) in self.nodes.iter().filter(|(example, _)| lost(example)) {
            process::kill(process.pid())?;
        }
        self.nodes.retain(|(example, _)| !lost(example));
        Ok(())
    }
}

/// Waits until an upload through this repository's node is taken to its end, or refused from its beginning.
async fn takes_uploads(repo: &Repo, expected: bool) -> Result<()> {
    let layer = Rng::new(5).bytes(100_000);
    until(&format!("uploads to be taken: {expected}"), GOES_ON, || async {
        if expected {
            return repo.push_blob(layer.clone()).await.map(|_| Some(()));
        }
        let answer = repo.registry.request(Method::POST, &repo.path("blobs/uploads/")).send().await?;
        Ok((answer.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(()))
    })
    .await
}

async fn try_out(layout: &str, lost: &str, uploads: bool) -> Result<()> {
    let mut layout = Layout::start(layout).await?;
    let (first, last) = (layout.examples().next(), layout.examples().next_back());
    let (first, last) = (first.context("a node")?.registry(), last.context("a node")?.registry());
    let repo = first.repo("layouts/image");
    for (seed, tag, node) in [(1, "v1", &first), (2, "v2", &last)] {
        let layer = Rng::new(seed).bytes(400_000);
        let pushed = repo.on(node).push_image(tag, &[layer.into()]).await?;
        layout.serves(&repo, tag, &pushed.digest).await?;
    }
    let (digest, bytes) = repo.pull_manifest("v1").await?;
    layout.lose(lost)?;
    until("a tag to be taken", GOES_ON, || async {
        let answer = repo.put_manifest("v3", manifest::OCI_MANIFEST, &bytes).await?;
        Ok((answer.status() == StatusCode::CREATED).then_some(()))
    })
    .await?;
    layout.serves(&repo, "v3", &digest).await.context("without what was lost")?;
    takes_uploads(&repo, uploads).await?;
    for example in layout.examples() {
        let blobs = example.blobs()?;
        ensure!((blobs > 0) == example.storage, "{} keeps {blobs} blobs", example.config.display());
    }
    Ok(())
}

#[tokio::test]
async fn every_example_layout_becomes_a_cluster_and_survives_a_loss() -> Result<()> {
    // One after another: they use the same addresses.
    for (layout, lost, uploads) in LAYOUTS {
        try_out(layout, lost, uploads).await.with_context(|| layout.to_owned())?;
    }
    Ok(())
}
