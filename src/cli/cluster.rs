//! `clawhub cluster`: one call to the administration socket per command, then JSON or a table.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use clawhub_config::Config;
use clawhub_types::Durability;
use clawhub_wire::admin::admin_client::AdminClient;
use clawhub_wire::admin::{
    DrainRequest, InitRequest, JoinRequest, MembersRequest, RemoveRequest, RotateKeysRequest, StatusRequest,
    TokenCreateRequest, TransferLeaderRequest,
};
use serde::Serialize;
use tonic::transport::Channel;

use crate::{Failure, admin, answers, runtime};

/// No token is longer: what stdin or a file holds beyond it is not one.
const MAX_TOKEN: u64 = 4096;
/// The longest that one may be good for, seconds: 30 days.
const MAX_TOKEN_TTL: u64 = 30 * 86_400;
/// Between two looks at what is still to be copied.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    target: Target,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

/// Which node to talk to.
#[derive(Debug, Args)]
struct Target {
    /// The node's data directory, which holds its socket.
    #[arg(long, global = true, value_name = "DIR", conflicts_with_all = ["config", "socket"])]
    data: Option<PathBuf>,
    /// The node's configuration file, which names its data directory.
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "socket")]
    config: Option<PathBuf>,
    /// The node's administration socket.
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the node the first of a new cluster.
    Init {
        /// Copies before a push is acknowledged, where a project says nothing else: local (one, the only
        /// choice for a cluster of one zone), zone (two, in two zones) or region (two, in two regions).
        #[arg(long, value_name = "POLICY")]
        durability: Option<Durability>,
    },
    /// Make a token with which one node can join, and print it.
    Token {
        /// How long it is good for, seconds; 30 days at most.
        #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
        #[arg(value_parser = clap::value_parser!(u64).range(1..=MAX_TOKEN_TTL))]
        ttl: u64,
    },
    /// Make the node a member of an existing cluster. The token is read from standard input.
    Join {
        /// Where a member listens for peers; may be given several times.
        #[arg(long = "peer", value_name = "HOST:PORT", required = true, value_parser = host_and_port)]
        peers: Vec<String>,
        /// Read the token from this file instead.
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
    /// Show what the node sees of the cluster.
    Status,
    /// List the members.
    Members,
    /// Have the others make up for a member's copies, so that it can be removed. It goes on serving.
    Drain {
        /// The member's id.
        node: u64,
        /// Call it off.
        #[arg(long)]
        undo: bool,
        /// Return once no blob has too few copies.
        #[arg(long, conflicts_with = "undo")]
        wait: bool,
    },
    /// Remove a member for good. Its id is never used again.
    Remove {
        /// The member's id.
        node: u64,
        /// Also where copies or a majority are lost by it.
        #[arg(long)]
        force: bool,
    },
    /// Replace the cluster key, the CA, and the key and certificate of every member, while all of them serve; returns
    /// when the old ones are refused. Members that are away are waited for, and then left behind.
    RotateKeys {
        /// How long they are waited for, seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 600)]
        wait: u64,
    },
    /// Move leadership to another voter.
    TransferLeader {
        /// The new leader's id; the cluster chooses if it is left out.
        node: Option<u64>,
    },
}

impl Target {
    fn socket(self) -> Result<PathBuf, Failure> {
        match (self.socket, self.data, self.config) {
            (Some(socket), _, _) => Ok(socket),
            (_, Some(data), _) => Ok(data.join("admin.sock")),
            (_, _, Some(config)) => Ok(Config::load(&config)?.node.data.join("admin.sock")),
            _ => Err(Failure::usage("say which node: --data DIR, --config FILE or --socket PATH")),
        }
    }
}

/// Runs one command against the node.
pub(crate) fn run(args: ClusterArgs) -> Result<(), Failure> {
    let ClusterArgs { command, target, json } = args;
    let socket = target.socket()?;
    // Before anything is contacted: a prompt that waits for a token should not hold a connection.
    let token = match &command {
        Command::Join { token_file, .. } => Some(read_token(token_file.as_deref())?),
        _ => None,
    };
    runtime()?.block_on(async {
        let client = admin::connect(&socket).await?;
        print!("{}", call(client, command, token, json).await?);
        Ok(())
    })
}

/// Makes the call and renders its answer.
async fn call(
    mut client: AdminClient<Channel>,
    command: Command,
    token: Option<String>,
    json: bool,
) -> Result<String, Failure> {
    match command {
        Command::Init { durability } => init(&mut client, durability, json).await,
        Command::Token { ttl } => {
            let reply = client.token_create(TokenCreateRequest { ttl_seconds: ttl }).await?.into_inner();
            // Nothing else on standard output, so that it can be piped into `join`.
            show(json, &reply, |r| format!("{}\n", r.token))
        }
        Command::Join { peers, .. } => join(&mut client, peers, token, json).await,
        Command::Status => {
            let reply = client.status(StatusRequest {}).await?.into_inner();
            show(json, &reply, answers::status)
        }
        Command::Members => {
            let reply = client.members(MembersRequest {}).await?.into_inner();
            show(json, &reply, |r| answers::members(&r.members))
        }
        Command::Drain { node, undo, wait } => drain(&mut client, node, undo, wait, json).await,
        Command::Remove { node, force } => {
            let reply = client.remove(RemoveRequest { node, force }).await?.into_inner();
            show(json, &reply, |r| answers::removed(node, r))
        }
        Command::RotateKeys { wait } => rotate_keys(&mut client, wait, json).await,
        Command::TransferLeader { node } => {
            let reply = client.transfer_leader(TransferLeaderRequest { to: node }).await?.into_inner();
            show(json, &reply, |r| format!("node {} leads\n", r.leader))
        }
    }
}

/// Founds a cluster.
async fn init(
    client: &mut AdminClient<Channel>,
    durability: Option<Durability>,
    json: bool,
) -> Result<String, Failure> {
    let durability = durability.map(|d| d.to_string()).unwrap_or_default();
    let reply = client.init(InitRequest { durability }).await?.into_inner();
    warn(&reply.warning);
    show(json, &reply, |r| format!("cluster {} initialised, this is node {}\n", r.cluster, r.node))
}

/// Has the node join a cluster.
async fn join(
    client: &mut AdminClient<Channel>,
    peers: Vec<String>,
    token: Option<String>,
    json: bool,
) -> Result<String, Failure> {
    let request = JoinRequest { addresses: peers, token: token.unwrap_or_default() };
    let reply = client.join(request).await?.into_inner();
    warn(&reply.warning);
    show(json, &reply, |r| format!("joined cluster {} as node {}\n", r.cluster, r.node))
}

/// Begins or calls off the leaving of a member.
async fn drain(
    client: &mut AdminClient<Channel>,
    node: u64,
    undo: bool,
    wait: bool,
    json: bool,
) -> Result<String, Failure> {
    let reply = client.drain(DrainRequest { node, undo }).await?.into_inner();
    if wait {
        drained(client, reply.index).await?;
    }
    let now = if undo { "no longer drains" } else { "drains" };
    let done = if wait { ": no blob needs its copies any more" } else { "" };
    show(json, &reply, |_| format!("node {node} {now}{done}\n"))
}

/// Has the keys replaced, and waits for it.
async fn rotate_keys(client: &mut AdminClient<Channel>, wait: u64, json: bool) -> Result<String, Failure> {
    let request = RotateKeysRequest { wait_seconds: Some(wait) };
    let reply = client.rotate_keys(request).await?.into_inner();
    let left = rotated(client, reply.generation).await?;
    show(json, &reply, |r| answers::rotation_done(r.generation, &left))
}

/// For people: standard output stays for the answer.
fn warn(warning: &str) {
    if !warning.is_empty() {
        eprintln!("clawhub: {warning}");
    }
}

fn show<T: Serialize>(json: bool, reply: &T, text: impl Fn(&T) -> String) -> Result<String, Failure> {
    if !json {
        return Ok(text(reply));
    }
    let mut out = serde_json::to_string_pretty(reply).map_err(|e| Failure::failed(e.to_string()))?;
    out.push('\n');
    Ok(out)
}

/// Waits until the node has counted, from `index` on, that no blob has too few copies.
async fn drained(client: &mut AdminClient<Channel>, index: u64) -> Result<(), Failure> {
    let mut told = None;
    loop {
        let status = client.status(StatusRequest {}).await?.into_inner();
        let short = status.under_target.filter(|_| status.counted_at >= index);
        if short == Some(0) {
            return Ok(());
        }
        if short.is_some() && short != told {
            // Progress is for people; standard output stays for the answer.
            eprintln!("{} blobs have too few copies", short.unwrap_or_default());
            told = short;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until the keys of this generation are in force. Answers who was left behind.
async fn rotated(client: &mut AdminClient<Channel>, generation: u64) -> Result<Vec<u64>, Failure> {
    let mut told = String::new();
    loop {
        let status = client.status(StatusRequest {}).await?.into_inner();
        if status.keys_generation >= generation {
            return Ok(status.keys_left_behind);
        }
        let progress = answers::keys(&status);
        if progress != told {
            eprintln!("{progress}");
            told = progress;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Checks the form only: whether somebody is there shows when the node asks.
fn host_and_port(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match parts.and_then(|(_, port)| port.parse::<u16>().ok()).filter(|port| *port != 0) {
        Some(_) => Ok(text.to_owned()),
        None => Err("a host and a port are expected, as in node1.example:7000".to_owned()),
    }
}

/// Reads a token from a file or standard input; it never stands in an argument, where every user of the
/// machine could read it.
fn read_token(file: Option<&std::path::Path>) -> Result<String, Failure> {
    let source: Box<dyn Read> = match file {
        Some(path) => Box::new(
            std::fs::File::open(path).map_err(|e| Failure::failed(format!("{}: {e}", path.display())))?,
        ),
        None => Box::new(std::io::stdin().lock()),
    };
    let mut text = String::new();
    source.take(MAX_TOKEN + 1).read_to_string(&mut text)?;
    let token = text.trim();
    if token.is_empty() || text.len() as u64 > MAX_TOKEN {
        return Err(Failure::usage("a join token is expected on standard input or in --token-file"));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_from_files_trimmed_and_bounded() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "  chj_abc\n").unwrap();
        assert_eq!(read_token(Some(file.path())).unwrap(), "chj_abc");
        std::fs::write(file.path(), "\n").unwrap();
        assert!(read_token(Some(file.path())).is_err());
        std::fs::write(file.path(), "x".repeat(5000)).unwrap();
        assert!(read_token(Some(file.path())).is_err());
    }

    #[test]
    fn a_member_is_named_by_host_and_port() {
        for good in ["node1.example:7000", "127.0.0.1:1", "[::1]:7000"] {
            assert_eq!(host_and_port(good).as_deref(), Ok(good));
        }
        for bad in ["node1", "node1:", ":7000", "node1:0", "node1:70000", ""] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }
}
