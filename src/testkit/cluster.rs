//! Real clusters of real processes, through the same commands that a user has: `clawhub dev`,
//! `clawhub serve`, `clawhub cluster …`.
//!
//! A [`Cluster`] owns its processes and, unless it was given a folder, its data. Both go when it is
//! dropped. With `CLAWHUB_NODES=http://host:port,…` in the environment nothing is started and the
//! tests that need no process run against what is there.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};

use crate::process::{self, Process};
use crate::{Registry, until, wan};

/// How long a cluster may take from the first process to every node ready, or one node of it.
const START: Duration = Duration::from_secs(60);

/// One node, as `cluster.json` tells it.
#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its id in the cluster.
    pub id: u64,
    /// Its region.
    pub region: String,
    /// Its zone.
    pub zone: String,
    /// Its process; another one after a restart, none while it is dead.
    #[serde(deserialize_with = "living")]
    pub pid: Option<u32>,
    /// Where clients reach it: `host:port`, with or without a scheme.
    pub http: String,
    /// Where other nodes reach it.
    pub peer: String,
    /// Its data folder.
    pub data: PathBuf,
    /// Its configuration file.
    pub config: PathBuf,
}

/// A dead node's process is `null` or 0.
fn living<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    Ok(Option::<u32>::deserialize(deserializer)?.filter(|pid| *pid != 0))
}

impl Node {
    /// `host:port` of the client side.
    pub fn address(&self) -> &str {
        self.http.trim_start_matches("http://").trim_end_matches('/')
    }

    /// Its process.
    ///
    /// # Errors
    /// If it is dead.
    pub fn process(&self) -> Result<u32> {
        self.pid.with_context(|| format!("{} is dead", self.name))
    }

    /// The file that it logs to.
    pub fn log(&self) -> PathBuf {
        self.data.with_file_name("node.log")
    }

    /// A client of this node.
    pub fn registry(&self) -> Registry {
        Registry::new(self.address())
    }

    /// Whether the blob of this BLAKE3 root lies in the node's store.
    pub fn holds(&self, root_hex: &str) -> bool {
        holds(&self.data, root_hex)
    }
}

#[derive(Deserialize)]
struct ClusterFile {
    nodes: Vec<Node>,
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    nodes: usize,
    data: Option<PathBuf>,
    restart: bool,
    wan: Option<String>,
    env: Vec<(String, String)>,
}

impl Options {
    /// `nodes` nodes in as many regions; as far from each other as [`wan::ASKED`] in the environment says.
    pub fn new(nodes: usize) -> Self {
        Options { nodes, data: None, restart: true, wan: std::env::var(wan::ASKED).ok(), env: Vec::new() }
    }

    /// Puts the nodes this far from each other, in the words of `clawhub dev --wan`.
    pub fn wan(mut self, shape: &str) -> Self {
        self.wan = Some(shape.to_owned());
        self
    }

    /// Keeps the data in `dir`, before and afterwards.
    pub fn data(mut self, dir: &Path) -> Self {
        self.data = Some(dir.to_owned());
        self
    }

    /// Leaves dead nodes dead until the test starts them again.
    pub fn no_restart(mut self) -> Self {
        self.restart = false;
        self
    }

    /// Sets an environment variable for every node.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts `clawhub dev` and waits until every node is ready.
    ///
    /// # Errors
    /// If it ends or is not ready within a minute; with the end of its log.
    pub async fn start(self) -> Result<Cluster> {
        if let Ok(urls) = std::env::var("CLAWHUB_NODES") {
            return Ok(Cluster::external(&urls));
        }
        let scratch = tempfile::Builder::new().prefix("clawhub-test-").tempdir()?;
        let dir = self.data.clone().unwrap_or_else(|| scratch.path().join("data"));
        fs::create_dir_all(&dir)?;
        let mut command = Command::new(process::clawhub()?);
        command.args(["dev", "--http-port", "0", "--nodes", &self.nodes.to_string(), "--data"]).arg(&dir);
        if !self.restart {
            command.arg("--no-restart");
        }
        if let Some(wan) = &self.wan {
            command.args(["--wan", wan]);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        // A cluster.json of an earlier run names processes that are gone.
        let _ = fs::remove_file(dir.join("cluster.json"));
        let dev = Process::spawn(&mut command, &scratch.path().join("dev.log"))?;
        let cluster = Cluster {
            dir,
            nodes: self.nodes,
            external: Vec::new(),
            processes: Mutex::new(Processes { dev: Some(dev), served: Vec::new() }),
            scratch,
        };
        cluster.ready().await.map_err(|error| error.context(cluster.log_tail()))?;
        Ok(cluster)
    }
}

struct Processes {
    dev: Option<Process>,
    served: Vec<Process>,
}

/// A running cluster.
pub struct Cluster {
    // Order matters in the drop: the processes before the folder that they write to.
    processes: Mutex<Processes>,
    external: Vec<Node>,
    dir: PathBuf,
    nodes: usize,
    scratch: TempDir,
}

impl Cluster {
    /// Three nodes in three regions, restarted when they die.
    ///
    /// # Errors
    /// See [`Options::start`].
    pub async fn start() -> Result<Self> {
        Options::new(3).start().await
    }

    /// Three nodes shared by the tests of one executable that run at the same time. Only for tests that leave the nodes
    /// as they found them.
    ///
    /// # Errors
    /// See [`Options::start`].
    pub async fn shared() -> Result<Arc<Self>> {
        static SHARED: Shared = Shared::new();
        SHARED.get().await
    }

    fn external(urls: &str) -> Self {
        let node = |(i, url): (usize, &str)| Node {
            name: format!("node-{}", i + 1),
            id: i as u64 + 1,
            region: String::new(),
            zone: String::new(),
            pid: None,
            http: url.trim().to_owned(),
            peer: String::new(),
            data: PathBuf::new(),
            config: PathBuf::new(),
        };
        let external: Vec<Node> = urls.split(',').enumerate().map(node).collect();
        Cluster {
            processes: Mutex::new(Processes { dev: None, served: Vec::new() }),
            nodes: external.len(),
            external,
            dir: PathBuf::new(),
            scratch: tempfile::tempdir().expect("a temporary folder can be made"),
        }
    }

    /// The folder with `cluster.json` and the nodes' data.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The last lines of what `clawhub dev` and the nodes printed.
    pub fn log_tail(&self) -> String {
        let mut text = process::tail(&self.scratch.path().join("dev.log"), 20);
        for number in 1..=self.nodes {
            let log = self.dir.join(format!("node{number}/node.log"));
            text += &format!("\n--- {} ---\n{}", log.display(), process::tail(&log, 20));
        }
        text
    }

    /// The nodes as they are now; after a restart a node has another process.
    ///
    /// # Errors
    /// If `cluster.json` cannot be read.
    pub fn nodes(&self) -> Result<Vec<Node>> {
        if !self.external.is_empty() {
            return Ok(self.external.clone());
        }
        let path = self.dir.join("cluster.json");
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let file: ClusterFile = serde_json::from_slice(&text).context("cluster.json")?;
        Ok(file.nodes)
    }

    /// A client of each node.
    ///
    /// # Errors
    /// If `cluster.json` cannot be read.
    pub fn registries(&self) -> Result<Vec<Registry>> {
        Ok(self.nodes()?.iter().map(Node::registry).collect())
    }

    /// Waits until every node says that it is ready.
    ///
    /// # Errors
    /// If one is not within a minute, or the process that runs them ended.
    pub async fn ready(&self) -> Result<()> {
        until("every node to be ready", START, || async {
            self.check_running()?;
            let nodes = match self.nodes() {
                Ok(nodes) if nodes.len() >= self.nodes => nodes,
                _ => return Ok(None),
            };
            for node in &nodes {
                if !node.registry().ready().await {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await
    }

    fn check_running(&self) -> Result<()> {
        let mut processes = self.processes.lock().expect("no holder of this lock panics");
        match processes.dev.as_mut().map(Process::ended) {
            Some(Ok(Some(status))) => bail!("clawhub dev ended with {status}"),
            _ => Ok(()),
        }
    }

    /// Starts a node that was killed (`no_restart` clusters) from its own configuration file.
    ///
    /// # Errors
    /// If it cannot be started or is not ready within a minute.
    pub async fn serve(&self, config: &Path, http: &str) -> Result<u32> {
        let number = self.processes.lock().expect("no holder of this lock panics").served.len();
        let log = self.scratch.path().join(format!("serve-{number}.log"));
        let process = process::serve(config, &log)?;
        let pid = process.pid();
        self.processes.lock().expect("no holder of this lock panics").served.push(process);
        ready(&Registry::new(http), &log).await?;
        Ok(pid)
    }

    /// The id of the node that leads, as `node` sees it; `None` while there is no leader.
    ///
    /// # Errors
    /// If the node cannot be asked.
    pub fn leader(&self, node: &Node) -> Result<Option<u64>> {
        let status = admin(&node.data, &["status"])?;
        Ok(status.get("leader").and_then(Value::as_u64).filter(|id| *id != 0))
    }

    /// The term, as the first node sees it.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub fn term(&self) -> Result<u64> {
        let nodes = self.nodes()?;
        let first = nodes.first().context("no node")?;
        admin(&first.data, &["status"])?["term"].as_u64().context("no term")
    }

    /// The node that leads, as the first node that knows it says.
    ///
    /// # Errors
    /// If none is known within 10 s.
    pub async fn leading_node(&self) -> Result<Node> {
        let nodes = self.nodes()?;
        let nodes = &nodes;
        until("a leader", Duration::from_secs(10), || async move {
            let alive = nodes.iter().filter(|node| node.pid.is_some_and(process::alive));
            let seen = alive.filter_map(|node| self.leader(node).ok().flatten()).next();
            Ok(seen.and_then(|id| nodes.iter().find(|node| node.id == id).cloned()))
        })
        .await
    }

    /// A node that does not lead.
    ///
    /// # Errors
    /// If no leader is known within 10 s.
    pub async fn follower(&self) -> Result<Node> {
        if !self.external.is_empty() {
            return Ok(self.external[0].clone());
        }
        let leader = self.leading_node().await?;
        let nodes = self.nodes()?;
        nodes.into_iter().find(|node| node.id != leader.id).context("a cluster of one has no follower")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let nodes = if self.external.is_empty() { self.nodes().unwrap_or_default() } else { Vec::new() };
        let mut processes = self.processes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        processes.served.clear();
        processes.dev = None;
        for node in nodes {
            // A node that outlived the process that started it.
            if let Some(pid) = node.pid.filter(|pid| is_clawhub(*pid)) {
                let _ = process::kill(pid);
            }
        }
        drop(processes);
        if std::thread::panicking() && !self.dir.as_os_str().is_empty() {
            // The only trace of what the nodes did; libtest shows it with the failed test.
            #[expect(clippy::print_stderr, reason = "the log of a failed test belongs to its output")]
            {
                eprintln!("--- end of the logs ---\n{}", self.log_tail());
            }
        }
    }
}

/// A cluster of three nodes for some tests of one executable that run at the same time: the first one starts it, the
/// last one to finish stops it.
#[derive(Default)]
pub struct Shared(tokio::sync::Mutex<Weak<Cluster>>);

impl Shared {
    /// Nobody has asked for it yet.
    pub const fn new() -> Shared {
        Shared(tokio::sync::Mutex::const_new(Weak::new()))
    }

    /// The cluster, which lives as long as somebody has it.
    ///
    /// # Errors
    /// See [`Options::start`].
    pub async fn get(&self) -> Result<Arc<Cluster>> {
        let mut slot = self.0.lock().await;
        if let Some(cluster) = slot.upgrade() {
            return Ok(cluster);
        }
        let cluster = Arc::new(Cluster::start().await?);
        *slot = Arc::downgrade(&cluster);
        Ok(cluster)
    }
}

/// Ids are reused: only a process that runs the program under test is ours to kill.
fn is_clawhub(pid: u32) -> bool {
    let exe = fs::read_link(format!("/proc/{pid}/exe"));
    matches!((exe, process::clawhub()), (Ok(exe), Ok(bin)) if exe.file_name() == bin.file_name())
}

/// Runs `clawhub cluster VERB … --json` against the node of a data folder.
///
/// # Errors
/// If the command fails (with what it printed) or does not print JSON.
pub fn admin(data: &Path, args: &[&str]) -> Result<Value> {
    let mut command = Command::new(process::clawhub()?);
    command.arg("cluster").args(args).arg("--data").arg(data).arg("--json");
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "clawhub cluster {}: {said}", args.join(" "));
    if output.stdout.trim_ascii().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&output.stdout).with_context(|| {
        format!("clawhub cluster {}: {}", args.join(" "), String::from_utf8_lossy(&output.stdout))
    })
}

/// A token that lets one node join, made by the node of this data folder.
///
/// # Errors
/// If that is refused.
pub fn token(member: &Path) -> Result<String> {
    let answer = admin(member, &["token"])?;
    answer["token"].as_str().map(str::to_owned).with_context(|| format!("no token in {answer}"))
}

/// Makes the node of this data folder a member of the cluster that `token` is for; a member of it listens for
/// peers at `peer`. Answers its id. It may take a while to be ready.
///
/// # Errors
/// If that is refused.
pub fn join(data: &Path, token: &str, peer: &str) -> Result<u64> {
    let mut file = NamedTempFile::new()?;
    file.write_all(token.as_bytes())?;
    let path = file.path().to_str().context("the path is text")?;
    let joined = admin(data, &["join", "--peer", peer, "--token-file", path])?;
    joined["node"].as_u64().with_context(|| format!("no id in {joined}"))
}

/// Waits until the administration socket of a node that has been started answers.
///
/// # Errors
/// If it ends or does not answer within a minute; with the end of its log.
pub async fn answering(process: &mut Process, data: &Path) -> Result<()> {
    let answered = until("the node to answer", START, || {
        let ended = process.ended();
        let answer = admin(data, &["status"]);
        // One that has ended need not be waited for.
        async move {
            Ok(match ended? {
                Some(status) => Some(Err(anyhow!("clawhub serve ended with {status}"))),
                None => answer.ok().map(|_| Ok(())),
            })
        }
    });
    answered.await.and_then(|answered| answered).map_err(|error| error.context(process.log_tail()))
}

/// Waits until a node is ready that logs to this file.
///
/// # Errors
/// If it is not within a minute; with the end of its log.
pub async fn ready(node: &Registry, log: &Path) -> Result<()> {
    until("the node to be ready", START, || async { Ok(node.ready().await.then_some(())) })
        .await
        .map_err(|error| error.context(process::tail(log, 30)))
}

/// Waits until so many nodes vote, as the node of this data folder sees it.
///
/// # Errors
/// If that takes more than a minute.
pub async fn voters(data: &Path, count: usize) -> Result<()> {
    until("the votes to be spread", START, || async {
        let voters = admin(data, &["status"])?["voters"].as_array().map_or(0, Vec::len);
        Ok((voters == count).then_some(()))
    })
    .await
}

/// Whether the blob of this BLAKE3 root (64 hex digits) lies in the store of a data folder.
pub fn holds(data: &Path, root_hex: &str) -> bool {
    data.join(format!("blobs/{}/{}/{root_hex}.data", &root_hex[..2], &root_hex[2..4])).exists()
}
