//! The answers to a stream of appends: each waited for as long as it may take, noted, and put together to what openraft
//! expects, one answer for each batch that it sent.

use std::sync::Arc;
use std::time::Duration;

use clawhub_types::NodeId;
use futures::stream::{BoxStream, StreamExt};
use openraft::Instant;
use openraft::async_runtime::AsyncRuntime;
use openraft::errors::{NetworkError, RPCError, Timeout, Unreachable};
use openraft::raft::{StreamAppendError, StreamAppendResult};

use crate::transport::{AppendAnswer, AppendReply, TransportError};
use crate::types::{self, Types};
use crate::window::Window;

pub(crate) type RpcError<R> = RPCError<Types<R>>;

pub(crate) fn error<R: AsyncRuntime>(e: TransportError) -> RpcError<R> {
    match e {
        TransportError::Unreachable(why) => Unreachable::from_string(why).into(),
        TransportError::Broken(why) => NetworkError::from_string(why).into(),
    }
}

fn append_result<R: AsyncRuntime>(reply: AppendReply) -> StreamAppendResult<Types<R>> {
    match reply {
        AppendReply::Matched(pos) => Ok(pos.map(types::log_id)),
        AppendReply::Conflict(pos) => Err(StreamAppendError::Conflict(types::log_id(pos))),
        AppendReply::HigherVote(ballot) => Err(StreamAppendError::HigherVote(types::vote(ballot))),
    }
}

pub(crate) type Answer<R> = Result<StreamAppendResult<Types<R>>, RpcError<R>>;

/// Notes an answer, unless the peer lacks what it acknowledged: then the index of that.
pub(crate) type Keeps = dyn Fn(&AppendAnswer) -> Result<(), u64> + Send + Sync;

/// The answers to the pieces of one stream.
pub(crate) struct Answers<R: AsyncRuntime> {
    pub(crate) replies: BoxStream<'static, Result<AppendAnswer, TransportError>>,
    pub(crate) window: Arc<Window<R::Instant>>,
    pub(crate) patience: Duration,
    pub(crate) late: Timeout<Types<R>>,
    pub(crate) keeps: Box<Keeps>,
    pub(crate) peer: NodeId,
}

impl<R: AsyncRuntime> Drop for Answers<R> {
    fn drop(&mut self) {
        self.window.close();
    }
}

impl<R: AsyncRuntime> Answers<R> {
    /// The answer to a batch; where it breaks off, to the pieces before, and the error after that. `None` at the end of
    /// the stream.
    pub(crate) async fn batch(&mut self) -> Option<(Answer<R>, Option<Answer<R>>)> {
        let mut matched = None;
        let end = loop {
            match self.piece().await {
                Some((Ok(Ok(answer)), last)) if last => return Some((Ok(Ok(answer)), None)),
                Some((Ok(Ok(answer)), _)) => matched = Some(Ok(Ok(answer))),
                Some((other, _)) => break Some(other),
                None => break None,
            }
        };
        match matched {
            Some(matched) => Some((matched, end)),
            None => end.map(|end| (end, None)),
        }
    }

    /// The answer to a piece, and whether its batch ends with it.
    async fn piece(&mut self) -> Option<(Answer<R>, bool)> {
        let Some(reply) = self.next().await else {
            self.window.give_up();
            return Some((Err(self.late.clone().into()), true));
        };
        let answer = match reply? {
            Ok(answer) => answer,
            Err(e) => return Some((Err(error(e)), true)),
        };
        let last = self.window.answered(R::Instant::now());
        if let Err(index) = (self.keeps)(&answer) {
            return Some((Err(forgetful::<R>(self.peer, index)), true));
        }
        Some((Ok(append_result::<R>(answer.reply)), last))
    }

    /// What comes next; `None` if that takes too long.
    async fn next(&mut self) -> Option<Option<Result<AppendAnswer, TransportError>>> {
        loop {
            let (since, more) = self.window.waits().unwrap_or((R::Instant::now(), Duration::ZERO));
            if let Ok(reply) = R::timeout_at(since + self.patience + more, self.replies.next()).await {
                return Some(reply);
            }
            let late = |(since, more): (R::Instant, Duration)| since.elapsed() >= self.patience + more;
            if self.window.waits().is_some_and(late) {
                return None;
            }
        }
    }
}

/// What is said of a peer that lacks what it acknowledged. It gets no entries from this leader any more.
fn forgetful<R: AsyncRuntime>(peer: NodeId, index: u64) -> RpcError<R> {
    tracing::error!(%peer, index, "lacks a log entry that it acknowledged: its device lost it; replace the node");
    NetworkError::from_string("the peer lacks a log entry that it acknowledged").into()
}
