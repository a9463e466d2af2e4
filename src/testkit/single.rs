//! Nodes outside of `clawhub dev`: one alone with a configuration of the test's own, or one more for a
//! cluster that runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::cluster::{admin, free_port};
use crate::process::{self, Process};
use crate::{Registry, until};

/// How long a node may take to be ready.
const START: Duration = Duration::from_secs(60);

/// A node and its folder.
pub struct Single {
    // Order matters in the drop: the process before the folder.
    process: Option<Process>,
    dir: TempDir,
    name: String,
    http: String,
    peer: String,
}

impl Single {
    /// A node called `name`, not started yet, in this region and zone.
    ///
    /// # Errors
    /// If no port or folder can be had.
    pub fn new(name: &str, region: &str, zone: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("clawhub-node-").tempdir()?;
        let (http, peer) = (format!("127.0.0.1:{}", free_port()?), format!("127.0.0.1:{}", free_port()?));
        let node = Single { process: None, dir, name: name.to_owned(), http, peer };
        node.configure(&format!("region = \"{region}\"\nzone = \"{zone}\"\n"), "min_free = \"64MiB\"\n")?;
        Ok(node)
    }

    /// Writes the configuration file: these lines of `[node]` and of `[storage]`, the rest as before.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn configure(&self, node: &str, storage: &str) -> Result<()> {
        let Self { name, http, peer, .. } = self;
        let text = format!(
            "[node]\nname = \"{name}\"\ndata = \"data\"\n{node}\n[http]\nlisten = \"{http}\"\n\n\
             [peer]\nlisten = \"{peer}\"\n\n[raft]\nprofile = \"lan\"\n\n[storage]\n{storage}"
        );
        Ok(fs::write(self.config(), text)?)
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// What it has printed.
    pub fn log(&self) -> PathBuf {
        self.dir.path().join("node.log")
    }

    /// A client of it.
    pub fn registry(&self) -> Registry {
        Registry::new(&self.http)
    }

    /// Its process.
    ///
    /// # Errors
    /// If it was not started.
    pub fn pid(&self) -> Result<u32> {
        self.process.as_ref().map(Process::pid).context("not started")
    }

    /// Starts it and waits until its administration socket answers.
    ///
    /// # Errors
    /// If it ends or does not answer within a minute; with the end of its log.
    pub async fn start(&mut self) -> Result<()> {
        let mut command = Command::new(process::clawhub()?);
        command.arg("serve").arg("--config").arg(self.config());
        let (data, log) = (self.data(), self.log());
        let process = self.process.insert(Process::spawn(&mut command, &log)?);
        let answered = until("the node to answer", START, || {
            let ended = process.ended();
            let answer = admin(&data, &["status"]);
            async move {
                match ended? {
                    Some(status) => bail!("clawhub serve ended with {status}"),
                    None => Ok(answer.ok()),
                }
            }
        });
        answered.await.map_err(|error| error.context(process::tail(&log, 30)))?;
        Ok(())
    }

    /// Makes it a cluster of its own, with one copy of everything.
    ///
    /// # Errors
    /// If that is refused or it is not ready within a minute.
    pub async fn init(&self) -> Result<()> {
        admin(&self.data(), &["init", "--durability", "local"])?;
        self.ready().await
    }

    /// Makes it a member of the cluster of the node with this data folder.
    ///
    /// # Errors
    /// If that is refused or it is not ready within a minute.
    pub async fn join(&self, member: &Path, peer: &str) -> Result<()> {
        let token = admin(member, &["token"])?;
        let token = token["token"].as_str().context("no token in the answer")?;
        let file = self.dir.path().join("token");
        fs::write(&file, token)?;
        let file = file.to_str().context("the path is text")?;
        admin(&self.data(), &["join", "--peer", peer, "--token-file", file])?;
        self.ready().await
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// If it is not within a minute; with the end of its log.
    pub async fn ready(&self) -> Result<()> {
        let registry = self.registry();
        until("the node to be ready", START, || async { Ok(registry.ready().await.then_some(())) })
            .await
            .map_err(|error| error.context(process::tail(&self.log(), 30)))
    }

    /// Stops it as an operator does.
    pub fn stop(&mut self) {
        self.process = None;
    }
}

/// Runs `clawhub serve` with a configuration that it must refuse.
///
/// # Errors
/// If it does not end within 20 s, or ends well.
pub fn refused(config: &Path) -> Result<Output> {
    let log = config.with_extension("refused.log");
    let mut command = Command::new(process::clawhub()?);
    command.arg("serve").arg("--config").arg(config);
    let mut process = Process::spawn(&mut command, &log)?;
    let status = process.wait(Duration::from_secs(20))?;
    let said = fs::read(&log)?;
    ensure!(!status.success(), "it started: {}", String::from_utf8_lossy(&said));
    Ok(Output { status, stdout: Vec::new(), stderr: said })
}
