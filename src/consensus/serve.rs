//! What other members ask of this node: entries, votes and leadership; snapshots in [`crate::arrival`]. What they ask of
//! a leader stands with what it is about: read positions in [`crate::barrier`], proposals in [`crate::propose`], changes
//! in [`crate::membership`].
//!
//! Owns nothing: what must outlive a crash is in the log, the state and the snapshot that arrives.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt};
use openraft::Instant;
use openraft::async_runtime::AsyncRuntime;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, TransferLeaderRequest};
use parking_lot::Mutex;

use crate::Consensus;
use crate::record::{self, RecordError};
use crate::transport::{
    AppendAnswer, AppendReply, AppendRequest, TransferRequest, VoteReply, VoteRequest, WireEntry,
};
use crate::types::{self, RaftEntry, Types};

/// This node did not handle a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServeError {
    /// It has stopped, or is about to.
    #[error("the node has stopped: {0}")]
    Stopped(String),
    /// The message cannot be accepted.
    #[error("{0}")]
    Refused(String),
}

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
    pub(crate) consensus: &'a Consensus<R>,
}

impl<R: AsyncRuntime> Consensus<R> {
    /// Answers a message of another member.
    pub fn rpc(&self) -> Rpc<'_, R> {
        Rpc { consensus: self }
    }
}

impl<R: AsyncRuntime> Rpc<'_, R> {
    /// A node that stopped says so itself: its peers go on asking, and openraft would log each question.
    pub(crate) fn serving(&self) -> Result<(), ServeError> {
        self.consensus.takes_part().map_err(|unavailable| ServeError::Stopped(unavailable.reason))
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
        let shared = Arc::clone(&self.consensus.shared);
        let replies = self.consensus.shared.raft.stream_append(requests).map(move |reply| {
            let told = ticks.lock().pop_front();
            let reply = match reply.map_err(|e| ServeError::Stopped(e.to_string()))? {
                Ok(id) => AppendReply::Matched(id.as_ref().map(types::log_pos)),
                Err(StreamAppendError::Conflict(id)) => AppendReply::Conflict(types::log_pos(&id)),
                Err(StreamAppendError::HigherVote(vote)) => {
                    let reply = AppendReply::HigherVote(types::ballot(&vote));
                    return Ok(AppendAnswer { boot: shared.settings.boot, reply });
                }
            };
            // Whoever sent this leads: its vote is not below ours.
            if let Some((leader, Some(tick), at)) = told {
                shared.clock.heard(leader, tick, at);
            }
            shared.heard.lock().spoke(member());
            Ok(AppendAnswer { boot: shared.settings.boot, reply })
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
        let raft = &self.consensus.shared.raft;
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
        let answer = self.consensus.shared.raft.handle_transfer_leader(rpc).await;
        Ok(answer.map_err(|e| ServeError::Stopped(e.to_string()))?.is_ok())
    }
}
