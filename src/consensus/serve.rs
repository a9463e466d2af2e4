//! What other members ask of this node. Entries, votes and the transfer of leadership go to openraft from here; all else
//! is answered by the part that it is about.
//!
//! Owns nothing: what must outlive a crash is in the log, the state and the snapshot that arrives.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use clawhub_types::NodeId;
use futures::stream::{self, BoxStream, StreamExt};
use openraft::Instant;
use openraft::async_runtime::AsyncRuntime;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, TransferLeaderRequest};
use parking_lot::Mutex;

use crate::Shared;
use crate::error::ServeError;
use crate::record::{self, RecordError};
use crate::transport::{
    AppendAnswer, AppendReply, AppendRequest, Change, ChangeReply, ForwardReply, ForwardRequest,
    ReadIndexReply, ReadIndexRequest, SnapshotPart, SnapshotReply, TransferRequest, VoteReply, VoteRequest,
    WireEntry,
};
use crate::types::{self, RaftEntry, Types};

fn entry(wire: &WireEntry) -> Result<RaftEntry, RecordError> {
    let payload = record::decode_payload(&wire.payload)?;
    Ok(RaftEntry { log_id: types::log_id(wire.pos), payload })
}

fn append_request<R: AsyncRuntime>(
    request: &AppendRequest,
) -> Result<AppendEntriesRequest<Types<R>>, RecordError> {
    Ok(AppendEntriesRequest {
        vote: types::vote(request.vote),
        prev_log_id: request.prev.map(types::log_id),
        entries: request.entries.iter().map(entry).collect::<Result<_, _>>()?,
        leader_commit: request.committed.map(types::log_id),
    })
}

/// The messages of other members, to be answered here: what [`crate::grpc`] and the simulation call.
pub struct Rpc<'a, R: AsyncRuntime> {
    pub(crate) shared: &'a Shared<R>,
}

impl<R: AsyncRuntime> Rpc<'_, R> {
    /// A node that stopped says so itself: its peers go on asking, and openraft would log each question.
    fn serving(&self) -> Result<(), ServeError> {
        self.shared.core.takes_part().map_err(|unavailable| ServeError::Stopped(unavailable.reason))
    }

    /// Appends a leader's entries, several requests at a time, answered in order. The stream ends with
    /// the requests, at the first answer that is not a match, or when the node stops. `member` tells whether the
    /// state here knows the sender as a member, which may change while the stream lasts.
    pub fn append(
        self,
        requests: BoxStream<'static, AppendRequest>,
        member: impl Fn() -> bool + Send + 'static,
    ) -> BoxStream<'static, Result<AppendAnswer, ServeError>> {
        if let Err(stopped) = self.serving() {
            return stream::iter([Err(stopped)]).boxed();
        }
        // A record this version cannot read ends the stream; the leader goes on trying.
        let ticks = Arc::new(Mutex::new(VecDeque::new()));
        let told = Arc::clone(&ticks);
        let requests = requests.inspect(move |r| {
            told.lock().push_back((types::vote(r.vote).leader_id, r.tick, R::Instant::now()));
        });
        let requests = requests.map(|r| append_request::<R>(&r)).scan((), |(), r| async {
            r.inspect_err(|e| tracing::error!(error = %e, "a leader sent what cannot be read")).ok()
        });
        let clock = Arc::clone(&self.shared.ticks);
        let heard = Arc::clone(&self.shared.heard);
        let boot = self.shared.core.settings.boot;
        let replies = self.shared.core.raft.stream_append(requests).map(move |reply| {
            let told = ticks.lock().pop_front();
            let reply = match reply.map_err(|e| ServeError::Stopped(e.to_string()))? {
                Ok(id) => AppendReply::Matched(id.as_ref().map(types::log_pos)),
                Err(StreamAppendError::Conflict(id)) => AppendReply::Conflict(types::log_pos(&id)),
                Err(StreamAppendError::HigherVote(vote)) => {
                    return Ok(AppendAnswer { boot, reply: AppendReply::HigherVote(types::ballot(&vote)) });
                }
            };
            // Whoever sent this leads: its vote is not below ours.
            if let Some((leader, Some(tick), at)) = told {
                clock.heard(leader, tick, at);
            }
            heard.lock().spoke(member());
            Ok(AppendAnswer { boot, reply })
        });
        replies.boxed()
    }

    /// Decides about a vote, or (`pre`) says how it would.
    ///
    /// # Errors
    /// [`ServeError::Stopped`].
    pub async fn vote(self, request: VoteRequest, pre: bool) -> Result<VoteReply, ServeError> {
        self.serving()?;
        let mut rpc = openraft::raft::VoteRequest::<Types<R>>::new(
            types::vote(request.vote),
            request.last_log.map(types::log_id),
        );
        rpc.leadership_transfer = request.transfer;
        let raft = &self.shared.core.raft;
        let answer = if pre { raft.pre_vote(rpc).await } else { raft.vote(rpc).await };
        let answer = answer.map_err(|e| ServeError::Stopped(e.to_string()))?;
        let last_log = answer.last_log_id.as_ref().map(types::log_pos);
        Ok(VoteReply { vote: types::ballot(&answer.vote), granted: answer.vote_granted, last_log })
    }

    /// Takes note that leadership moves; campaigns if it moves here. Answers whether it did.
    ///
    /// # Errors
    /// [`ServeError::Stopped`].
    pub async fn transfer(self, request: TransferRequest) -> Result<bool, ServeError> {
        self.serving()?;
        let TransferRequest { from, to, last_log } = request;
        let rpc = TransferLeaderRequest::new(types::vote(from), to.0, last_log.map(types::log_id));
        let answer = self.shared.core.raft.handle_transfer_leader(rpc).await;
        Ok(answer.map_err(|e| ServeError::Stopped(e.to_string()))?.is_ok())
    }

    /// Says what this node has of a snapshot, or takes it in and installs it. One at a time.
    ///
    /// # Errors
    /// [`ServeError`]; what has arrived is kept for the next attempt.
    pub async fn snapshot(
        self,
        parts: BoxStream<'static, SnapshotPart>,
    ) -> Result<SnapshotReply, ServeError> {
        self.serving()?;
        self.shared.arrivals.answer(parts).await
    }

    /// As leader: the position a read must wait for, confirmed by a quorum after the reads began that
    /// `from` asks for.
    pub async fn read_index(self, from: NodeId, request: ReadIndexRequest) -> ReadIndexReply {
        self.shared.barrier.read_index(from, request).await
    }

    /// As leader: takes a proposal that the member `from` has forwarded, if it is one for it to make. It goes no
    /// further.
    pub async fn forward(self, from: NodeId, request: ForwardRequest) -> ForwardReply {
        self.shared.leader.take(from, request).await
    }

    /// As leader: makes a change, after the one before it has ended.
    pub async fn change(self, change: Change, ttl: Duration) -> ChangeReply {
        self.shared.membership.make(change, ttl).await
    }
}
