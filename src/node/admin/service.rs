//! One function per request: check, call, answer.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clawhub_consensus::Who;
use clawhub_peer::{Ca, JoinToken};
use clawhub_registry::Leaving;
use clawhub_state::cluster::ClusterCmd;
use clawhub_state::{Command, View};
use clawhub_types::{AccessRevisions, Actor, Durability, NodeId};
use clawhub_wire::admin::admin_server::Admin;
use clawhub_wire::admin::{
    DrainReply, DrainRequest, InitReply, InitRequest, JoinReply, JoinRequest, MembersReply, MembersRequest,
    RemoveReply, RemoveRequest, StatusReply, StatusRequest, TokenCreateReply, TokenCreateRequest,
    TransferLeaderReply, TransferLeaderRequest,
};
use tonic::{Request, Response, Status};

use super::view;
use crate::data_dir::Owner;
use crate::node::Node;
use crate::stack::Stack;
use crate::{becoming, membership, refusal};

/// How long a token is good for where the request does not say, seconds.
const TOKEN_TTL: u64 = 3600;
/// How long it may be good for at most, seconds: 30 days.
const MAX_TOKEN_TTL: u64 = 30 * 86_400;
/// Between two attempts of what an operator waits for.
const AGAIN: Duration = Duration::from_millis(250);
/// Addresses tried by one join.
const MAX_ADDRESSES: usize = 64;

/// The service.
pub(super) struct Operator {
    node: Arc<Node>,
}

impl Operator {
    pub(super) fn new(node: Arc<Node>) -> Operator {
        Operator { node }
    }

    fn stack(&self) -> Result<&Stack, Status> {
        let outside = || match self.node.owner() {
            None => Status::failed_precondition("this node is not a member of a cluster yet: init or join"),
            Some(_) => Status::unavailable("this node is starting"),
        };
        self.node.stack().ok_or_else(outside)
    }

    /// Proposes in the operator's name; the log index.
    async fn propose(&self, cmd: ClusterCmd) -> Result<u64, Status> {
        let who = Who { actor: Actor::Operator, access: AccessRevisions::default() };
        let proposed = self.stack()?.consensus.propose(Command::Cluster(cmd), who, refusal::PATIENCE);
        proposed.await.map(|committed| committed.index).map_err(refusal::proposal)
    }
}

/// Tries until it works, for as long as an operator waits: who removes a dead node often finds the others
/// in the middle of an election.
async fn patiently<T, F>(attempt: impl Fn() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<T, clawhub_registry::Error>>,
{
    let deadline = Instant::now() + refusal::PATIENCE;
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() >= deadline => return Err(refusal::unavailable(error)),
            Err(error) => tracing::debug!(error = error.message, "trying again"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Whether a member may go without force.
fn may_remove(stack: &Stack, node: NodeId, leaving: &Leaving) -> Result<(), Status> {
    let state = stack.consensus.state();
    let view = View::new(&*state);
    let cluster = view.cluster().record().map_err(refusal::fault)?;
    let layout = view.cluster().layout().map_err(refusal::fault)?;
    let durability = cluster.map_or(Durability::Zone, |cluster| cluster.durability);
    membership::may_remove(&layout, durability, node).map_err(Status::failed_precondition)?;
    match leaving.lost_count + leaving.short {
        0 => Ok(()),
        short => Err(Status::failed_precondition(format!(
            "{short} blobs would have too few copies without node {node}: `clawhub cluster drain {node} \
             --wait` makes more elsewhere; --force removes it all the same and lists what is lost"
        ))),
    }
}

/// Says what a removal that failed half-way leaves behind.
fn still_draining(failed: &Status, node: NodeId) -> Status {
    let said = failed.message();
    let left = format!("{said}; node {node} drains now: remove it again, or `cluster drain {node} --undo`");
    Status::new(failed.code(), left)
}

/// Runs a change to its end, also where the operator does not wait for it.
async fn to_the_end(
    work: impl Future<Output = Result<Owner, Status>> + Send + 'static,
) -> Result<Owner, Status> {
    tokio::spawn(work).await.map_err(refusal::internal)?
}

#[tonic::async_trait]
impl Admin for Operator {
    async fn init(&self, request: Request<InitRequest>) -> Result<Response<InitReply>, Status> {
        let durability = match request.into_inner().durability.as_str() {
            "" => self.node.config.storage.durability.unwrap_or(Durability::Zone),
            named => named.parse().map_err(refusal::invalid)?,
        };
        let node = self.node.clone();
        let owner = to_the_end(async move { becoming::found(&node, durability).await }).await?;
        Ok(Response::new(InitReply { cluster: owner.cluster.to_string(), node: owner.node.0 }))
    }

    async fn token_create(
        &self,
        request: Request<TokenCreateRequest>,
    ) -> Result<Response<TokenCreateReply>, Status> {
        let ttl = match request.into_inner().ttl_seconds {
            0 => TOKEN_TTL,
            seconds if seconds <= MAX_TOKEN_TTL => seconds,
            _ => return Err(Status::invalid_argument("a token is good for 30 days at most")),
        };
        let stack = self.stack()?;
        let ca = {
            let state = stack.consensus.state();
            let cluster = View::new(&*state).cluster().record().map_err(refusal::fault)?;
            let cluster = cluster.ok_or_else(|| Status::unavailable("this node is catching up"))?;
            Ca::open(&cluster.ca_cert, &cluster.ca_key_sealed, &stack.cluster_key)
        };
        let token = JoinToken::generate(ca.map_err(refusal::internal)?.spki_sha256());
        self.propose(ClusterCmd::TokenCreate { hash: token.hash(), ttl: ttl * 1000 }).await?;
        Ok(Response::new(TokenCreateReply { token: token.to_string(), ttl_seconds: ttl }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let JoinRequest { addresses, token } = request.into_inner();
        let token: JoinToken = token.parse().map_err(refusal::invalid)?;
        if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
            return Err(Status::invalid_argument(format!("1 to {MAX_ADDRESSES} addresses are expected")));
        }
        let node = self.node.clone();
        let owner = to_the_end(async move { becoming::join(&node, &addresses, &token).await }).await?;
        Ok(Response::new(JoinReply { cluster: owner.cluster.to_string(), node: owner.node.0 }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        view::status(&self.node).await.map(Response::new)
    }

    async fn members(&self, _: Request<MembersRequest>) -> Result<Response<MembersReply>, Status> {
        let members = view::members(self.stack()?)?;
        Ok(Response::new(MembersReply { members }))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainReply>, Status> {
        let DrainRequest { node, undo } = request.into_inner();
        let index = self.propose(ClusterCmd::Drain { node: NodeId(node), on: !undo }).await?;
        Ok(Response::new(DrainReply { index }))
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Result<Response<RemoveReply>, Status> {
        let RemoveRequest { node, force } = request.into_inner();
        let (node, stack) = (NodeId(node), self.stack()?);
        let leaving = patiently(|| stack.registry.leaving(node)).await?;
        if !force {
            may_remove(stack, node, &leaving)?;
            // From here on nobody relies on its copies, so that they can be given up.
            self.propose(ClusterCmd::Drain { node, on: true }).await?;
        }
        if stack.consensus.status().leader == Some(node) {
            // Spares the cluster an election time-out; it goes on without if there is nobody else.
            let handed = stack.consensus.transfer_leader(None, refusal::PATIENCE).await;
            if let Err(error) = handed {
                tracing::info!(%error, "the leader is removed while it leads");
            }
        }
        let removed = async {
            patiently(|| stack.registry.give_up_copies(node, force)).await?;
            self.propose(ClusterCmd::Remove { node, force }).await
        };
        removed.await.map_err(|failed| if force { failed } else { still_draining(&failed, node) })?;
        // Until then one more loss may be one too many, and the operator is free to go on.
        view::without(&stack.consensus, node).await?;
        Ok(Response::new(view::removed(leaving)))
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderReply>, Status> {
        let to = request.into_inner().to.map(NodeId);
        let consensus = &self.stack()?.consensus;
        consensus.transfer_leader(to, refusal::PATIENCE).await.map_err(refusal::change)?;
        // This node may learn of it a heartbeat later than the leader that answered.
        let leader = view::leader(consensus, to).await;
        leader
            .map(|leader| Response::new(TransferLeaderReply { leader: leader.0 }))
            .ok_or_else(|| Status::unavailable("leadership moved, and this node knows no leader yet"))
    }
}
