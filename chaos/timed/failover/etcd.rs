//! Three nodes of etcd with its default settings (heartbeat 100 ms, election time-out 1000 ms), spoken to
//! over its HTTP gateway.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clawhub_testkit::ports::free_port;
use clawhub_testkit::process::{self, Process};
use clawhub_testkit::{Registry, until};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// How long it may take to start.
const START: Duration = Duration::from_secs(30);

/// The installed program.
pub(super) fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("etcd")).find(|program| program.is_file())
}

/// The nodes, and an HTTP client of each.
pub(super) struct Nodes {
    program: PathBuf,
    home: PathBuf,
    peers: Vec<String>,
    clients: Vec<Registry>,
    processes: Vec<Process>,
    starts: usize,
}

impl Nodes {
    pub(super) async fn form(program: &Path, home: &Path) -> Result<Nodes> {
        let address = || Ok(format!("127.0.0.1:{}", free_port()?));
        let addresses = || (0..3).map(|_| address()).collect::<Result<Vec<String>>>();
        let clients = addresses()?.iter().map(|address| Registry::new(address)).collect();
        let (program, home, peers) = (program.to_owned(), home.to_owned(), addresses()?);
        let mut nodes = Nodes { program, home, peers, clients, processes: Vec::new(), starts: 0 };
        for node in 0..3 {
            let process = nodes.start(node)?;
            nodes.processes.push(process);
        }
        for node in 0..3 {
            nodes.healthy(node).await?;
        }
        Ok(nodes)
    }

    fn start(&mut self, node: usize) -> Result<Process> {
        let members = (0..3).map(|other| format!("node{other}=http://{}", self.peers[other]));
        let client = format!("http://{}", self.clients[node].address());
        let peer = format!("http://{}", self.peers[node]);
        let mut command = Command::new(&self.program);
        command.args(["--name", &format!("node{node}"), "--log-level", "warn"]);
        command.arg("--data-dir").arg(self.home.join(format!("node{node}")));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &members.collect::<Vec<_>>().join(",")]);
        self.starts += 1;
        Process::spawn(&mut command, &self.home.join(format!("etcd-{}.log", self.starts)))
    }

    /// Waits until a node answers linearizable reads.
    async fn healthy(&self, node: usize) -> Result<()> {
        let healthy = until("etcd to be healthy", START, || async {
            let answer = self.clients[node].get("/health").await?;
            Ok((answer.status() == StatusCode::OK).then_some(()))
        });
        healthy.await.map_err(|error| error.context(self.processes[node].log_tail()))
    }

    /// What a node says of itself: its id, and the leader's.
    async fn status(&self, node: usize) -> Result<(Value, Value)> {
        let request = self.clients[node].request(Method::POST, "/v3/maintenance/status");
        let status: Value = request.json(&json!({})).send().await?.json().await?;
        Ok((status["header"]["member_id"].clone(), status["leader"].clone()))
    }
}

impl super::Trio for Nodes {
    async fn leader(&self) -> Result<Option<usize>> {
        let mut leading = Vec::new();
        let mut ids = Vec::new();
        for node in 0..3 {
            let (id, leader) = self.status(node).await.context("maintenance/status")?;
            ids.push(id);
            leading.push(leader);
        }
        leading.dedup();
        Ok(match &leading[..] {
            [one] => ids.iter().position(|id| id == one),
            _ => None,
        })
    }

    async fn write(&self, node: usize, value: u64) -> bool {
        // Keys and values are base64 here; four or eight digits are already.
        let body = json!({"key": "lead", "value": format!("{value:08}")});
        let request = self.clients[node].request(Method::POST, "/v3/kv/put").timeout(super::ATTEMPT);
        match request.json(&body).send().await {
            Ok(answer) => answer.status() == StatusCode::OK,
            Err(_) => false,
        }
    }

    fn kill(&self, node: usize) -> Result<()> {
        process::kill(self.processes[node].pid())
    }

    async fn revive(&mut self, node: usize) -> Result<()> {
        // It is dead already; this waits for it.
        self.processes[node].wait(START)?;
        self.processes[node] = self.start(node)?;
        self.healthy(node).await
    }
}
