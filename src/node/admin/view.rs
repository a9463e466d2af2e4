//! What an operator is shown.

use std::time::Duration;

use clawhub_consensus::Consensus;
use clawhub_registry::Leaving;
use clawhub_state::View;
use clawhub_types::NodeId;
use clawhub_wire::admin::{LostBlob, Member, RemoveReply, StatusReply};
use tokio::time::timeout;
use tonic::Status;

use crate::node::Node;
use crate::stack::Stack;
use crate::{health, refusal};

/// How long this node may take to hear of a new leader.
const HEARSAY: Duration = Duration::from_secs(5);

/// This node's view of the cluster.
pub(super) async fn status(node: &Node) -> Result<StatusReply, Status> {
    let mut reply = StatusReply {
        name: node.config.node.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        not_ready: health::not_ready(node).await.join("; "),
        storage: storage(node),
        ..StatusReply::default()
    };
    if let Some(owner) = node.owner() {
        reply.cluster = owner.cluster.to_string();
        reply.node = owner.node.0;
    }
    let Some(stack) = node.stack() else { return Ok(reply) };
    let status = stack.consensus.status();
    let state = stack.consensus.state();
    // The hash belongs to the index read with it.
    let snapshot = state.snapshot();
    let view = View::new(&*snapshot);
    let (applied, hash) = view.state_hash().map_err(refusal::fault)?;
    reply.epoch = view.cluster().record().map_err(refusal::fault)?.map_or(0, |cluster| cluster.epoch);
    reply.leader = status.leader.map(|id| id.0);
    reply.term = status.term;
    reply.last_log = status.last_log.unwrap_or(0);
    reply.committed = status.committed.unwrap_or(0);
    reply.applied = applied;
    reply.voters = status.voters.iter().map(|id| id.0).collect();
    reply.learners = status.learners.iter().map(|id| id.0).collect();
    reply.quorum_age_ms = status.cut_off.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    reply.state_hash = hex::encode(hash);
    reply.tick = view.cluster().tick().map_err(refusal::fault)?;
    if let Some(census) = stack.registry.census() {
        (reply.under_target, reply.counted_at) = (Some(census.short), census.index);
    }
    Ok(reply)
}

/// What is wrong with the node's storage; `sound` if nothing is.
fn storage(node: &Node) -> String {
    let condition = node.storage.condition();
    let full = node.stack().is_some_and(|stack| condition.is_sound() && !stack.blobs.accepts());
    if full { "below min_free: uploads are refused".to_owned() } else { condition.summary() }
}

/// What a removal cost.
pub(super) fn removed(leaving: Leaving) -> RemoveReply {
    let lost = leaving.lost.into_iter();
    RemoveReply {
        lost: lost.map(|blob| LostBlob { digest: blob.digest.to_string(), size: blob.size }).collect(),
        lost_count: leaving.lost_count,
        under_target: leaving.short,
    }
}

/// Every member.
pub(super) fn members(stack: &Stack) -> Result<Vec<Member>, Status> {
    let status = stack.consensus.status();
    let state = stack.consensus.state();
    let nodes = View::new(&*state).cluster().nodes().map_err(refusal::fault)?;
    let standing = |id: NodeId| match () {
        () if status.leader == Some(id) => "leader",
        () if status.voters.contains(&id) => "voter",
        () if status.learners.contains(&id) => "learner",
        () => "joining",
    };
    let member = |node: clawhub_state::cluster::NodeRecord| Member {
        id: node.id.0,
        standing: standing(node.id).to_owned(),
        failing: node.is_failing(),
        reachable: stack.liveness.is_reachable(node.id),
        name: node.spec.name,
        region: node.spec.location.region,
        zone: node.spec.location.zone,
        voter: node.spec.roles.voter,
        storage: node.spec.roles.storage,
        peer_addr: node.spec.peer_addr,
        http_addr: node.spec.http_addr,
        boot: node.boot,
        draining: node.draining,
    };
    Ok(nodes.into_iter().filter(|node| !node.removed).map(member).collect())
}

/// Waits until a removed node takes no part in consensus any more.
///
/// # Errors
/// If that takes longer than an operator waits; the node is removed all the same.
pub(super) async fn without(consensus: &Consensus, node: NodeId) -> Result<(), Status> {
    let mut watcher = consensus.watch();
    let gone = async {
        while let Some(status) = watcher.changed().await {
            let takes_part = status.voters.contains(&node) || status.learners.contains(&node);
            if !takes_part && !status.changing {
                return;
            }
        }
    };
    timeout(refusal::PATIENCE, gone).await.map_err(|_| {
        Status::unavailable(format!(
            "node {node} is removed, but still counts where the others vote; see status"
        ))
    })
}

/// Who leads, once this node knows; `wanted`, if somebody in particular was to.
pub(super) async fn leader(consensus: &Consensus, wanted: Option<NodeId>) -> Option<NodeId> {
    let mut watcher = consensus.watch();
    let known = async {
        while let Some(status) = watcher.changed().await {
            if status.leader.is_some() && (wanted.is_none() || status.leader == wanted) {
                return status.leader;
            }
        }
        None
    };
    let heard = timeout(HEARSAY, known).await.ok().flatten();
    heard.or_else(|| consensus.status().leader)
}
