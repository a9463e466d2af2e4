//! Becoming a member: founding a cluster, or joining one. Also going on with it after a crash.
//!
//! Order makes it safe to be interrupted: keys, certificate and (when founding) the first command are
//! durable before `FORMAT` names the owner, and `FORMAT` before anything runs. Cut off earlier, the node
//! is still nobody and begins again; later, its next start goes on. A join asked for again with the same
//! token and key gets the same id, so an answer that was lost costs nothing.

use std::sync::Arc;

use clawhub_consensus::Who;
use clawhub_peer::{Applicant, Ca, ClusterKey, Csr, JoinToken, Joined, NodeKey, PeerError};
use clawhub_state::cluster::{ClusterCmd, NodeSpec};
use clawhub_state::{Command, View};
use clawhub_types::{ClusterId, Durability, NodeId};
use tonic::Status;

use crate::data_dir::Owner;
use crate::error::NodeError;
use crate::facts::Seed;
use crate::node::Node;
use crate::stack::Stack;
use crate::{refusal, upkeep};

/// The first node of a cluster has this id.
const FIRST: NodeId = NodeId(1);
/// The epoch of a cluster that was never recovered by force.
const FIRST_EPOCH: u64 = 1;

/// Makes the node the first of a new cluster and starts it.
///
/// # Errors
/// `FAILED_PRECONDITION` if it is a member already, `INTERNAL` if it cannot be made one.
pub(crate) async fn found(node: &Arc<Node>, durability: Durability) -> Result<Owner, Status> {
    let becoming = node.becoming.lock().await;
    refuse_member(node)?;
    let owner = Owner { cluster: ClusterId(rand::random()), node: FIRST };
    prepare_cluster(node, owner, durability).map_err(refusal::internal)?;
    tracing::info!(cluster = %owner.cluster, %durability, "founding a cluster");
    start(node, owner).await?;
    drop(becoming);
    Ok(owner)
}

/// Makes the node a member of an existing cluster and starts it.
///
/// # Errors
/// `FAILED_PRECONDITION` if it is a member already, the members' refusal, `UNAVAILABLE` if none of
/// `addresses` answers.
pub(crate) async fn join(node: &Arc<Node>, addresses: &[String], token: &JoinToken) -> Result<Owner, Status> {
    let becoming = node.becoming.lock().await;
    refuse_member(node)?;
    let key = node.with_dir(|dir| dir.node_key());
    let key = NodeKey::load_or_create(&key).map_err(refusal::internal)?;
    let joined = ask(node, addresses, token, &key).await?;
    let owner = Owner { cluster: joined.cluster, node: joined.node };
    keep_joined(node, owner, joined).map_err(refusal::internal)?;
    tracing::info!(cluster = %owner.cluster, node = %owner.node, "joined a cluster");
    start(node, owner).await?;
    drop(becoming);
    Ok(owner)
}

/// Starts a node that became a member before.
///
/// # Errors
/// [`NodeError`] if it cannot run.
pub(crate) async fn resume(node: &Arc<Node>, owner: Owner) -> Result<(), NodeError> {
    let _becoming = node.becoming.lock().await;
    run(node, owner).await
}

fn refuse_member(node: &Node) -> Result<(), Status> {
    match node.owner() {
        Some(owner) => Err(Status::failed_precondition(format!("this is {owner} already"))),
        None => Ok(()),
    }
}

/// Starts a new member. It cannot be nobody again: what fails here ends this life, and the next one
/// tries again.
async fn start(node: &Arc<Node>, owner: Owner) -> Result<(), Status> {
    run(node, owner).await.map_err(|error| {
        match error.is_damage() {
            true => node.stop.damaged(error.to_string()),
            false => node.stop.fault(error.to_string()),
        }
        refusal::internal(error)
    })
}

async fn run(node: &Arc<Node>, owner: Owner) -> Result<(), NodeError> {
    let stack = Stack::start(node, owner).await?;
    finish_founding(node, &stack).await?;
    node.set_stack(stack);
    upkeep::start(node);
    Ok(())
}

/// Makes everything that the first start of the cluster's first node needs, durably.
fn prepare_cluster(node: &Node, owner: Owner, durability: Durability) -> Result<(), NodeError> {
    let (key, cluster_key_path) = node.with_dir(|dir| (dir.node_key(), dir.cluster_key()));
    let (key, cluster_key) = (NodeKey::load_or_create(&key)?, ClusterKey::generate());
    let ca = Ca::create(owner.cluster)?;
    let certificate = ca.issue(Csr::parse(&key.csr()?)?, owner.node)?;
    cluster_key.save(&cluster_key_path)?;
    let ca_cert = ca.cert_der().to_vec();
    node.with_dir(|dir| dir.save_certificates(&certificate, &ca_cert))?;
    node.facts.set_epoch(FIRST_EPOCH)?;
    node.facts.set_pending_init(Some(&ClusterCmd::Init {
        cluster: owner.cluster,
        ca_cert,
        ca_key_sealed: ca.seal_key(&cluster_key),
        durability,
        node: spec(node, key.spki_sha256()),
    }))?;
    Ok(node.with_dir(|dir| dir.claim(owner))?)
}

fn spec(node: &Node, spki: [u8; 32]) -> NodeSpec {
    NodeSpec {
        name: node.config.node.name.clone(),
        location: node.config.node.location.clone(),
        roles: node.config.node.roles,
        peer_addr: node.peer_addr(),
        http_addr: node.http_addr.clone(),
        spki,
    }
}

/// Proposes the first command of a cluster, unless it is in the log already.
async fn finish_founding(node: &Node, stack: &Stack) -> Result<(), NodeError> {
    let Some(init) = node.facts.pending_init()? else { return Ok(()) };
    stack.consensus.initialize().await?;
    loop {
        let proposed =
            stack.consensus.propose(Command::Cluster(init.clone()), Who::system(), refusal::PATIENCE);
        let refused = proposed.await.err();
        let state = stack.consensus.state();
        // Whatever the answer: an attempt before a crash may have done it.
        if View::new(&*state).cluster().record()?.is_some_and(|cluster| cluster.id == stack.cluster) {
            return Ok(node.facts.set_pending_init(None)?);
        }
        match refused {
            Some(clawhub_consensus::ProposeError::Rejected(rejected)) => {
                return Err(NodeError::Fault(format!("the cluster cannot be founded: {rejected}")));
            }
            _ if node.stop.is_told() => return Err(NodeError::Fault("stopped while founding".into())),
            Some(error) => tracing::warn!(%error, "founding the cluster takes another attempt"),
            None => (),
        }
    }
}

/// Asks one member after the other. A refusal is the cluster's and ends it; anything else may be that
/// member's alone.
async fn ask(node: &Node, addresses: &[String], token: &JoinToken, key: &NodeKey) -> Result<Joined, Status> {
    let mut last = Status::invalid_argument("no address to join at");
    for addr in addresses {
        let applicant = Applicant {
            name: node.config.node.name.clone(),
            location: node.config.node.location.clone(),
            roles: node.config.node.roles,
            peer_addr: node.peer_addr(),
            http_addr: node.http_addr.clone(),
        };
        match clawhub_peer::join(addr, token, key, applicant).await {
            Ok(joined) => return Ok(joined),
            Err(PeerError::Call(status)) if status.code() != tonic::Code::Unavailable => return Err(*status),
            Err(error) => last = Status::unavailable(format!("{addr}: {error}")),
        }
    }
    Err(last)
}

fn keep_joined(node: &Node, owner: Owner, joined: Joined) -> Result<(), NodeError> {
    joined.cluster_key.save(&node.with_dir(|dir| dir.cluster_key()))?;
    let peers = joined.peers.into_iter().filter(|(id, _)| *id != owner.node);
    let seeds: Vec<_> = peers.map(|(id, info)| Seed { node: id, addr: info.addr, spki: info.spki }).collect();
    node.facts.set_peers(&seeds)?;
    node.facts.set_epoch(joined.epoch)?;
    node.with_dir(|dir| {
        dir.save_certificates(&joined.cert, &joined.ca_cert)?;
        Ok(dir.claim(owner)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::DataDir;

    #[test]
    fn a_real_certificate_is_recognised_in_the_data_directory() {
        for node in [1, 10, u64::MAX] {
            let owner = Owner { cluster: ClusterId([0xab; 16]), node: NodeId(node) };
            let ca = Ca::create(owner.cluster).unwrap();
            let csr = Csr::parse(&NodeKey::generate().unwrap().csr().unwrap()).unwrap();
            let certificate = ca.issue(csr, owner.node).unwrap();
            let temp = tempfile::tempdir().unwrap();
            let mut dir = DataDir::open(temp.path()).unwrap();
            dir.save_certificates(&certificate, ca.cert_der()).unwrap();
            dir.claim(owner).unwrap();
            drop(dir);
            assert_eq!(DataDir::open(temp.path()).unwrap().owner(), Some(owner));
        }
    }
}
