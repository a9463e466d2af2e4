//! Makes the running nodes one cluster: the first is initialised, the others join one by one.
//!
//! Every step looks before it acts, so that a bootstrap that was interrupted anywhere is finished by
//! the next start of the same folder.

use std::time::Duration;

use clawhub_types::Durability;
use clawhub_wire::admin::{
    InitRequest, JoinRequest, MembersRequest, StatusReply, StatusRequest, TokenCreateRequest,
};
use tokio::time::{Instant, sleep};

use super::layout::{Node, durability};
use crate::{Failure, admin};

/// How long a node may take to answer, or the cluster to become ready. Replaying a long log counts.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a token for one node is good, seconds; longer than patience.
const TOKEN_TTL: u64 = 600;
const PAUSE: Duration = Duration::from_millis(100);

/// A cluster that takes pushes.
pub(super) struct Cluster {
    /// The nodes' ids, in their order.
    pub(super) ids: Vec<u64>,
    /// How durable a push is.
    pub(super) durability: Durability,
}

/// Brings the cluster up.
pub(super) async fn run(nodes: &[Node]) -> Result<Cluster, Failure> {
    let Some((first, others)) = nodes.split_first() else { return Err(Failure::usage("no nodes")) };
    let durability = durability(nodes.len());
    make_member(first, async || init(first, durability).await).await?;
    for node in others {
        // One token for all attempts: with it, a join whose answer was lost gets the same answer again.
        let mut token = None;
        make_member(node, async || join(first, node, &mut token).await).await?;
    }
    same_cluster(nodes).await?;
    let mut ids = Vec::new();
    for node in nodes {
        ids.push(until(node, async || ready(node, nodes.len()).await).await?);
    }
    // The folder may be older than this start, and hold fewer nodes then.
    let durability = status(first).await?.durability.parse();
    let durability = durability.map_err(|_| Failure::failed("the cluster has no durability"))?;
    Ok(Cluster { ids, durability })
}

/// Refuses a folder into which data of another cluster was put.
async fn same_cluster(nodes: &[Node]) -> Result<(), Failure> {
    let mut first = None;
    for node in nodes {
        let cluster = answering(node).await?.cluster;
        if *first.get_or_insert_with(|| cluster.clone()) != cluster {
            return Err(Failure::failed(format!("{} has the data of another cluster, {cluster}", node.name)));
        }
    }
    Ok(())
}

/// Calls `call` until the node is a member. A node between two states, or a cluster between two
/// leaders, is no failure until patience ends; a refusal is one at once.
async fn make_member(node: &Node, mut call: impl AsyncFnMut() -> Result<(), Failure>) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    while answering(node).await?.cluster.is_empty() {
        match call().await {
            Ok(()) => return Ok(()),
            Err(failure) if failure.is_unavailable() && Instant::now() < deadline => sleep(PAUSE).await,
            Err(failure) => return Err(named(node, &failure)),
        }
    }
    Ok(())
}

async fn init(node: &Node, durability: Durability) -> Result<(), Failure> {
    let mut client = admin::connect(&node.socket()).await?;
    client.init(InitRequest { durability: durability.to_string() }).await?;
    Ok(())
}

async fn join(first: &Node, node: &Node, token: &mut Option<String>) -> Result<(), Failure> {
    let token = match token {
        Some(token) => token,
        None => {
            let mut client = admin::connect(&first.socket()).await?;
            let reply = client.token_create(TokenCreateRequest { ttl_seconds: TOKEN_TTL }).await?;
            token.insert(reply.into_inner().token)
        }
    };
    let request = JoinRequest { addresses: vec![first.peer.to_string()], token: token.clone() };
    admin::connect(&node.socket()).await?.join(request).await?;
    Ok(())
}

fn named(node: &Node, failure: &Failure) -> Failure {
    Failure::failed(format!("{}: {failure}", node.name))
}

/// Waits until the node answers on its socket.
async fn answering(node: &Node) -> Result<StatusReply, Failure> {
    until(node, async || status(node).await).await
}

/// The node's id, if it serves, sees every other one, and as many vote as shall: from here on the cluster
/// takes pushes, and stands the loss of what it was laid out to lose.
async fn ready(node: &Node, nodes: usize) -> Result<u64, Failure> {
    let status = status(node).await?;
    if !status.not_ready.is_empty() {
        return Err(Failure::unavailable(status.not_ready));
    }
    if !status.warnings.is_empty() {
        return Err(Failure::unavailable(status.warnings.join("; ")));
    }
    let voting = status.voters.len();
    let wanted = voters(nodes);
    if voting != wanted {
        return Err(Failure::unavailable(format!("{voting} of {wanted} voters vote yet")));
    }
    let mut client = admin::connect(&node.socket()).await?;
    let members = client.members(MembersRequest {}).await?.into_inner().members;
    match members.iter().find(|member| !member.reachable) {
        Some(member) => Err(Failure::unavailable(format!("{} is not reachable yet", member.name))),
        None => Ok(status.node),
    }
}

/// How many of so many nodes vote: an odd number, five at most.
fn voters(nodes: usize) -> usize {
    match nodes {
        0..=2 => 1,
        3 | 4 => 3,
        _ => 5,
    }
}

/// Looks until it works or patience ends.
async fn until<T>(node: &Node, look: impl AsyncFn() -> Result<T, Failure>) -> Result<T, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(seen) => return Ok(seen),
            Err(failure) if Instant::now() >= deadline => return Err(named(node, &failure)),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

async fn status(node: &Node) -> Result<StatusReply, Failure> {
    let mut client = admin::connect(&node.socket()).await?;
    Ok(client.status(StatusRequest {}).await?.into_inner())
}
