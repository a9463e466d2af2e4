//! Answers the gRPC calls of other members: each message is converted, its sender compared with the connection's
//! peer, and handed to [`crate::Rpc`].
//!
//! Entries, votes and snapshots are taken from nodes too that this one, being behind, cannot know yet: how else would
//! it learn of them. Everything else is for members.

use std::future;

use clawhub_peer::{Admission, caller, log_caller};
use clawhub_types::NodeId;
use clawhub_wire::peer::raft_server::{Raft, RaftServer};
use clawhub_wire::{Invalid, peer};
use futures::stream::{BoxStream, StreamExt};
use openraft::async_runtime::AsyncRuntime;
use openraft_rt_tokio::TokioRuntime;
use tonic::{Request, Response, Status, Streaming};

use super::convert;
use crate::transport::{AppendRequest, Ballot, ForwardRequest, SnapshotPart, TransferRequest, VoteRequest};
use crate::{Consensus, ServeError};

/// The service for members' connections.
pub fn service<R: AsyncRuntime>(consensus: Consensus<R>) -> RaftServer<Service<R>> {
    RaftServer::new(Service { consensus }).max_decoding_message_size(clawhub_wire::MESSAGE_LIMIT)
}

/// Answers members' calls; see [`service`].
pub struct Service<R: AsyncRuntime = TokioRuntime> {
    consensus: Consensus<R>,
}

/// A message that came in, in the crate's own words.
fn accept<T>(message: impl TryInto<T, Error = Invalid>) -> Result<T, Status> {
    message.try_into().map_err(Status::from)
}

/// Nobody speaks for another node.
fn own(vote: &Ballot, caller: NodeId) -> Result<(), Status> {
    if vote.node == caller.0 {
        return Ok(());
    }
    Err(Status::permission_denied(format!("node {caller} sent the vote of node {}", vote.node)))
}

fn refused(e: ServeError) -> Status {
    match e {
        ServeError::Stopped(_) => Status::unavailable(e.to_string()),
        ServeError::Refused(_) => Status::failed_precondition(e.to_string()),
    }
}

/// The messages of a stream until the first that is broken or unacceptable.
fn incoming<M, T>(
    messages: Streaming<M>,
    mut check: impl FnMut(&T) -> Result<(), Status> + Send + 'static,
) -> BoxStream<'static, T>
where
    M: TryInto<T, Error = Invalid> + Send + 'static,
    T: Send + 'static,
{
    let accepted = messages.map(move |m| {
        let message = accept(m?)?;
        check(&message).map(|()| message)
    });
    let until = accepted.scan((), |(), m: Result<T, Status>| {
        // The end of a connection is no news; a message that does not convert is.
        let m = m.inspect_err(|e| tracing::debug!(error = %e, "a stream from a member ended"));
        future::ready(m.ok())
    });
    until.boxed()
}

#[tonic::async_trait]
impl<R: AsyncRuntime> Raft for Service<R> {
    type AppendStream = BoxStream<'static, Result<peer::AppendResponse, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<peer::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let sender = log_caller(&request)?;
        let from = sender.node();
        let requests = incoming(request.into_inner(), move |r: &AppendRequest| own(&r.vote, from));
        let member = move || sender.admission() == Admission::Member;
        let replies = self.consensus.rpc().append(requests, member);
        Ok(Response::new(replies.map(|r| r.map(Into::into).map_err(refused)).boxed()))
    }

    async fn vote(
        &self,
        request: Request<peer::VoteRequest>,
    ) -> Result<Response<peer::VoteResponse>, Status> {
        self.decide(request, false).await
    }

    async fn pre_vote(
        &self,
        request: Request<peer::VoteRequest>,
    ) -> Result<Response<peer::VoteResponse>, Status> {
        self.decide(request, true).await
    }

    async fn transfer_leader(
        &self,
        request: Request<peer::TransferLeaderRequest>,
    ) -> Result<Response<peer::TransferLeaderResponse>, Status> {
        let from = caller(&request)?;
        let transfer: TransferRequest = accept(request.into_inner())?;
        own(&transfer.from, from)?;
        let accepted = self.consensus.rpc().transfer(transfer).await.map_err(refused)?;
        Ok(Response::new(peer::TransferLeaderResponse { accepted }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<peer::SnapshotChunk>>,
    ) -> Result<Response<peer::SnapshotReply>, Status> {
        let from = log_caller(&request)?.node();
        let parts = incoming(request.into_inner(), move |part: &SnapshotPart| match part {
            SnapshotPart::Header(header) => own(&header.vote, from),
            SnapshotPart::Data { .. } => Ok(()),
        });
        let reply = self.consensus.rpc().snapshot(parts).await.map_err(refused)?;
        Ok(Response::new(reply.into()))
    }

    async fn read_index(
        &self,
        request: Request<peer::ReadIndexRequest>,
    ) -> Result<Response<peer::ReadIndexReply>, Status> {
        let from = caller(&request)?;
        let request = request.into_inner().into();
        Ok(Response::new(self.consensus.rpc().read_index(from, request).await.into()))
    }

    async fn propose(
        &self,
        request: Request<peer::ProposeRequest>,
    ) -> Result<Response<peer::ProposeReply>, Status> {
        let from = caller(&request)?;
        let request = ForwardRequest::from(request.into_inner());
        let reply = self.consensus.rpc().forward(from, request).await;
        Ok(Response::new(reply.into()))
    }

    async fn change_membership(
        &self,
        request: Request<peer::ChangeMembershipRequest>,
    ) -> Result<Response<peer::ChangeMembershipReply>, Status> {
        caller(&request)?;
        let (change, ttl) = convert::change(request.into_inner())?;
        Ok(Response::new(self.consensus.rpc().change(change, ttl).await.into()))
    }
}

impl<R: AsyncRuntime> Service<R> {
    async fn decide(
        &self,
        request: Request<peer::VoteRequest>,
        pre: bool,
    ) -> Result<Response<peer::VoteResponse>, Status> {
        let from = log_caller(&request)?.node();
        let vote: VoteRequest = accept(request.into_inner())?;
        own(&vote.vote, from)?;
        let reply = self.consensus.rpc().vote(vote, pre).await.map_err(refused)?;
        Ok(Response::new(reply.into()))
    }
}
