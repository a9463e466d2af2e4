//! This node's calls to other members over gRPC, one connection per kind of traffic.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use clawhub_peer::{Class, Endpoint};
use clawhub_types::NodeId;
use clawhub_wire::peer;
use clawhub_wire::peer::raft_client::RaftClient;
use futures::future::FutureExt;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use tonic::transport::Channel as GrpcChannel;
use tonic::{Code, Status};

use super::convert;
use crate::transport::{
    AppendAnswer, AppendRequest, Change, ChangeReply, Channel, ForwardReply, ForwardRequest, ReadIndexReply,
    ReadIndexRequest, Reply, SnapshotPart, SnapshotReply, TransferRequest, Transport, TransportError,
    VoteReply, VoteRequest,
};

/// Gives the connection to a node for a channel of ours. It connects when it is used and again when it broke.
pub type Channels = dyn Fn(NodeId, Channel) -> GrpcChannel + Send + Sync;

/// Carries messages over gRPC.
#[derive(Clone)]
pub struct GrpcTransport {
    channels: Arc<Channels>,
}

impl GrpcTransport {
    /// Over a member's endpoint.
    pub fn new(endpoint: Endpoint) -> Self {
        GrpcTransport::over(move |node, channel| {
            let class = match channel {
                Channel::Control => Class::Control,
                Channel::Log => Class::Foreground,
                Channel::Snapshot => Class::Background,
            };
            endpoint.channel_of(node, class)
        })
    }

    /// Over channels of any origin.
    pub fn over(channels: impl Fn(NodeId, Channel) -> GrpcChannel + Send + Sync + 'static) -> Self {
        GrpcTransport { channels: Arc::new(channels) }
    }

    fn client(&self, to: NodeId, channel: Channel) -> RaftClient<GrpcChannel> {
        RaftClient::new((self.channels)(to, channel)).max_decoding_message_size(clawhub_wire::MESSAGE_LIMIT)
    }
}

/// A stream of messages under a name of its own: the compiler cannot prove the future of a call `Send`
/// where the stream is a bare trait object.
struct Messages<M>(BoxStream<'static, M>);

impl<M> Stream for Messages<M> {
    type Item = M;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<M>> {
        self.0.poll_next_unpin(cx)
    }
}

fn failed(status: Status) -> TransportError {
    let text = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::Unavailable => TransportError::Unreachable(text),
        _ => TransportError::Broken(text),
    }
}

fn invalid(e: clawhub_wire::Invalid) -> TransportError {
    TransportError::Broken(e.to_string())
}

impl Transport for GrpcTransport {
    fn append(
        &self,
        to: NodeId,
        channel: Channel,
        requests: BoxStream<'static, AppendRequest>,
    ) -> BoxStream<'static, Result<AppendAnswer, TransportError>> {
        let mut client = self.client(to, channel);
        let requests = Messages(requests.map(peer::AppendRequest::from).boxed());
        let answers = async move {
            match client.append(requests).await {
                Ok(answers) => answers.into_inner().map(|a| a.map_err(failed)).boxed(),
                Err(status) => stream::once(async { Err(failed(status)) }).boxed(),
            }
        };
        let answers = answers.into_stream().flatten();
        answers.map(|a| a.and_then(|a| AppendAnswer::try_from(a).map_err(invalid))).boxed()
    }

    fn vote(&self, to: NodeId, request: VoteRequest, pre: bool) -> Reply<VoteReply> {
        let mut client = self.client(to, Channel::Control);
        let request = peer::VoteRequest::from(request);
        async move {
            let answer = if pre { client.pre_vote(request).await } else { client.vote(request).await };
            VoteReply::try_from(answer.map_err(failed)?.into_inner()).map_err(invalid)
        }
        .boxed()
    }

    fn transfer(&self, to: NodeId, request: TransferRequest) -> Reply<bool> {
        let mut client = self.client(to, Channel::Control);
        async move {
            let answer = client.transfer_leader(peer::TransferLeaderRequest::from(request)).await;
            Ok(answer.map_err(failed)?.into_inner().accepted)
        }
        .boxed()
    }

    fn snapshot(&self, to: NodeId, parts: BoxStream<'static, SnapshotPart>) -> Reply<SnapshotReply> {
        let mut client = self.client(to, Channel::Snapshot);
        let parts = Messages(parts.map(peer::SnapshotChunk::from).boxed());
        async move {
            let answer = client.install_snapshot(parts).await;
            convert::snapshot_reply(answer.map_err(failed)?.into_inner()).map_err(invalid)
        }
        .boxed()
    }

    fn forward(&self, to: NodeId, request: ForwardRequest) -> Reply<ForwardReply> {
        let mut client = self.client(to, Channel::Log);
        async move {
            let answer = client.propose(peer::ProposeRequest::from(request)).await;
            convert::forward_reply(answer.map_err(failed)?.into_inner()).map_err(invalid)
        }
        .boxed()
    }

    fn read_index(&self, to: NodeId, request: ReadIndexRequest) -> Reply<ReadIndexReply> {
        let mut client = self.client(to, Channel::Control);
        async move {
            let answer = client.read_index(peer::ReadIndexRequest::from(request)).await;
            convert::read_index_reply(answer.map_err(failed)?.into_inner()).map_err(invalid)
        }
        .boxed()
    }

    fn change(&self, to: NodeId, change: Change, ttl: Duration) -> Reply<ChangeReply> {
        let mut client = self.client(to, Channel::Control);
        async move {
            let answer = client.change_membership(convert::change_request(change, ttl)).await;
            convert::change_reply(answer.map_err(failed)?.into_inner()).map_err(invalid)
        }
        .boxed()
    }
}
