//! One function per request of `admin.proto`: check what was sent, call one use case, answer.

use std::time::Duration;

use clawhub_cluster::BootstrapRequest;
use clawhub_peer::JoinToken;
use clawhub_types::NodeId;
use clawhub_wire::admin::admin_server::Admin;
use clawhub_wire::admin::{
    DrainReply, DrainRequest, InitReply, InitRequest, JoinReply, JoinRequest, MembersReply, MembersRequest,
    RemoveReply, RemoveRequest, RotateKeysReply, RotateKeysRequest, StatusReply, StatusRequest,
    TokenCreateReply, TokenCreateRequest, TransferLeaderReply, TransferLeaderRequest,
};
use tonic::{Request, Response, Status};

use crate::{Member, NodeHandle, view};

/// How long a token is good for where the request does not say, seconds.
const TOKEN_TTL: u64 = 3600;
/// How long it may be good for at most, seconds: 30 days.
const MAX_TOKEN_TTL: u64 = 30 * 86_400;
/// How long members that are away are waited for where the request does not say, and at most, seconds.
const ROTATION_WAIT: u64 = 600;
const MAX_ROTATION_WAIT: u64 = 7 * 86_400;
/// Addresses tried by one join.
const MAX_ADDRESSES: usize = 64;

pub(crate) struct Operator {
    node: NodeHandle,
}

impl Operator {
    pub(crate) fn new(node: NodeHandle) -> Operator {
        Operator { node }
    }

    fn member(&self) -> Result<&Member, Status> {
        let outside = || match self.node.bootstrap.owner() {
            None => Status::failed_precondition("this node is not a member of a cluster yet: init or join"),
            Some(_) => Status::unavailable("this node is starting"),
        };
        self.node.member.get().ok_or_else(outside)
    }

    /// What an operator who makes a node a member should know; empty if nothing. It is no part of that, so that a
    /// node that does not know it yet says nothing.
    async fn warning(&self) -> String {
        let lacks = match self.node.member.get() {
            Some(member) => member.cluster.lacks().await.ok().flatten(),
            None => None,
        };
        lacks.map(|uncovered| format!("no push is taken yet: {uncovered}")).unwrap_or_default()
    }
}

#[tonic::async_trait]
impl Admin for Operator {
    async fn init(&self, request: Request<InitRequest>) -> Result<Response<InitReply>, Status> {
        let durability = match request.into_inner().durability.as_str() {
            "" => self.node.durability,
            named => named.parse().map_err(view::invalid)?,
        };
        let init = BootstrapRequest::Init(durability);
        let owner = self.node.bootstrap.ask(init).await.map_err(view::failed)?;
        let warning = self.warning().await;
        Ok(Response::new(InitReply { cluster: owner.cluster.to_string(), node: owner.node.0, warning }))
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
        let token =
            self.member()?.cluster.create_token(Duration::from_secs(ttl)).await.map_err(view::failed)?;
        Ok(Response::new(TokenCreateReply { token: token.to_string(), ttl_seconds: ttl }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let JoinRequest { addresses, token } = request.into_inner();
        let token: JoinToken = token.parse().map_err(view::invalid)?;
        if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
            return Err(Status::invalid_argument(format!("1 to {MAX_ADDRESSES} addresses are expected")));
        }
        let join = BootstrapRequest::Join { addresses, token };
        let owner = self.node.bootstrap.ask(join).await.map_err(view::failed)?;
        let warning = self.warning().await;
        Ok(Response::new(JoinReply { cluster: owner.cluster.to_string(), node: owner.node.0, warning }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        view::status(&self.node).await.map(Response::new)
    }

    async fn members(&self, _: Request<MembersRequest>) -> Result<Response<MembersReply>, Status> {
        let members = self.member()?.cluster.members().map_err(view::failed)?;
        Ok(Response::new(MembersReply { members: members.into_iter().map(view::member).collect() }))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainReply>, Status> {
        let DrainRequest { node, undo } = request.into_inner();
        let index = self.member()?.cluster.drain(NodeId(node), !undo).await.map_err(view::failed)?;
        Ok(Response::new(DrainReply { index }))
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Result<Response<RemoveReply>, Status> {
        let RemoveRequest { node, force } = request.into_inner();
        let impact = self.member()?.cluster.remove(NodeId(node), force).await.map_err(view::failed)?;
        Ok(Response::new(view::removed(impact)))
    }

    async fn rotate_keys(
        &self,
        request: Request<RotateKeysRequest>,
    ) -> Result<Response<RotateKeysReply>, Status> {
        let wait = request.into_inner().wait_seconds.unwrap_or(ROTATION_WAIT);
        if wait > MAX_ROTATION_WAIT {
            return Err(Status::invalid_argument("members are waited for 7 days at most"));
        }
        let wait = Duration::from_secs(wait);
        let generation = self.member()?.cluster.rotate_keys(wait).await.map_err(view::failed)?;
        Ok(Response::new(RotateKeysReply { generation }))
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderReply>, Status> {
        let to = request.into_inner().to.map(NodeId);
        let leader = self.member()?.cluster.transfer_leader(to).await.map_err(view::failed)?;
        Ok(Response::new(TransferLeaderReply { leader: leader.0 }))
    }
}
