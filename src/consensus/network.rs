//! openraft's network on a [`Transport`]: one client per peer and channel.

use std::collections::VecDeque;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use clawhub_types::NodeId;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use futures::{FutureExt, Stream, stream};
use openraft::async_runtime::{AsyncRuntime, Select2};
use openraft::errors::{NetworkError, ReplicationClosed, StreamingError, Timeout};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use openraft::{EmptyNode, Instant};
use parking_lot::Mutex;

use crate::acknowledged::Acknowledged;
use crate::answers::{Answers, RpcError, error};
use crate::clock::Clock;
use crate::doubt::Doubt;
use crate::purge::Transfers;
use crate::record;
use crate::send::{self, Pace, SendError};
use crate::snapshot::SnapshotFiles;
use crate::transport::{
    self, AppendAnswer, AppendRequest, Ballot, Channel, SnapshotRefusal, SnapshotReply, Transport,
    TransportError, WireEntry,
};
use crate::types::{self, LeaderId, RaftEntry, Types, Vote};
use crate::window::{Lessons, PIECE, Window};
use crate::{Execution, Profile};

/// How long a peer that could not take a snapshot is left alone: asking costs it little.
const SNAPSHOT_PAUSE: Duration = Duration::from_secs(5);

pub(crate) struct Factory<R: AsyncRuntime> {
    pub(crate) acknowledged: Arc<Acknowledged>,
    pub(crate) clock: Arc<Clock<R>>,
    pub(crate) doubt: Arc<Doubt>,
    pub(crate) transfers: Arc<Transfers<R::Instant>>,
    pub(crate) node: NodeId,
    pub(crate) profile: Profile,
    pub(crate) execution: Execution,
    pub(crate) snapshot_rate: u64,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) runtime: PhantomData<fn() -> R>,
}

impl<R: AsyncRuntime> Factory<R> {
    fn client(&self, target: u64, channel: Channel) -> Client<R> {
        Client {
            acknowledged: Arc::clone(&self.acknowledged),
            clock: Arc::clone(&self.clock),
            doubt: Arc::clone(&self.doubt),
            transfers: Arc::clone(&self.transfers),
            node: self.node,
            target: NodeId(target),
            channel,
            patience: self.profile.append_patience(),
            lessons: Lessons::new(),
            execution: self.execution,
            snapshot_rate: self.snapshot_rate,
            transport: Arc::clone(&self.transport),
            runtime: PhantomData,
        }
    }
}

impl<R: AsyncRuntime> RaftNetworkFactory<Types<R>> for Factory<R> {
    type Network = Client<R>;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> Client<R> {
        self.client(target, Channel::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, _: &EmptyNode) -> Client<R> {
        self.client(target, Channel::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, _: &EmptyNode) -> Client<R> {
        self.client(target, Channel::Snapshot)
    }
}

/// Speaks to one peer on one channel.
pub(crate) struct Client<R: AsyncRuntime> {
    acknowledged: Arc<Acknowledged>,
    clock: Arc<Clock<R>>,
    doubt: Arc<Doubt>,
    transfers: Arc<Transfers<R::Instant>>,
    node: NodeId,
    target: NodeId,
    channel: Channel,
    patience: Duration,
    lessons: Lessons,
    execution: Execution,
    snapshot_rate: u64,
    transport: Arc<dyn Transport>,
    runtime: PhantomData<fn() -> R>,
}

pub(crate) fn wire_entry(entry: &RaftEntry) -> WireEntry {
    let payload = record::encode_payload(&entry.payload).into();
    WireEntry { pos: types::log_pos(&entry.log_id), payload }
}

/// A batch as it is sent: in pieces, each of which follows on the one before. Their ticks are told when they leave.
fn pieces<R: AsyncRuntime>(rpc: &AppendEntriesRequest<Types<R>>) -> VecDeque<AppendRequest> {
    let mut pieces = VecDeque::new();
    let mut piece = AppendRequest {
        tick: None,
        vote: types::ballot(&rpc.vote),
        prev: rpc.prev_log_id.as_ref().map(types::log_pos),
        entries: Vec::new(),
        committed: rpc.leader_commit.as_ref().map(types::log_pos),
    };
    let mut bytes = 0;
    for entry in rpc.entries.iter().map(wire_entry) {
        if bytes > 0 && bytes + entry.payload.len() > PIECE {
            let prev = piece.entries.last().map(|entry| entry.pos);
            let next = AppendRequest { prev, entries: Vec::new(), ..piece };
            pieces.push_back(std::mem::replace(&mut piece, next));
            bytes = 0;
        }
        bytes += entry.payload.len();
        piece.entries.push(entry);
    }
    pieces.push_back(piece);
    pieces
}

impl<R: AsyncRuntime> Client<R> {
    fn timed_out(&self, action: RPCTypes, timeout: Duration) -> Timeout<Types<R>> {
        Timeout { action, id: self.node.0, target: self.target.0, timeout }
    }

    /// Waits for an answer, but not beyond the time openraft gives it.
    async fn bounded<T: Send + 'static>(
        &self,
        action: RPCTypes,
        option: &RPCOption,
        reply: transport::Reply<T>,
    ) -> Result<T, RpcError<R>> {
        match R::timeout(option.hard_ttl(), reply).await {
            Ok(reply) => reply.map_err(error),
            Err(_) => Err(self.timed_out(action, option.hard_ttl()).into()),
        }
    }

    async fn ask_vote(
        &self,
        rpc: VoteRequest<Types<R>>,
        option: RPCOption,
        pre: bool,
    ) -> Result<VoteResponse<Types<R>>, RpcError<R>> {
        let request = transport::VoteRequest {
            vote: types::ballot(&rpc.vote),
            last_log: rpc.last_log_id.as_ref().map(types::log_pos),
            transfer: rpc.leadership_transfer,
        };
        let reply = self.transport.vote(self.target, request, pre);
        let reply = self.bounded(RPCTypes::Vote, &option, reply).await?;
        let last = reply.last_log.map(types::log_id);
        Ok(VoteResponse::new(types::vote(reply.vote), last, reply.granted))
    }

    /// Sends a snapshot. A peer that cannot take it for now, and a snapshot in doubt, are left alone for a while.
    async fn send_snapshot(
        &self,
        vote: Vote,
        files: Arc<SnapshotFiles>,
    ) -> Result<SnapshotReply, TransportError> {
        let unreachable = |why: &dyn std::fmt::Display| TransportError::Unreachable(why.to_string());
        if self.doubt.is_raised() {
            R::sleep(SNAPSHOT_PAUSE).await;
            return Err(unreachable(&"the state here is being examined"));
        }
        let pace = Pace { execution: self.execution, rate: self.snapshot_rate };
        let sent = {
            let _kept = self.transfers.begin(files.manifest().last.map_or(0, |pos| pos.index));
            send::snapshot::<R>(Arc::clone(&self.transport), self.target, vote, files, pace).await
        };
        let peer = self.target;
        match sent {
            Ok(reply) => return Ok(reply),
            Err(SendError::Transport(e)) => return Err(e),
            Err(SendError::Refused(SnapshotRefusal::Busy)) => {}
            Err(SendError::Refused(SnapshotRefusal::NoRoom { needed, room })) => {
                tracing::warn!(%peer, needed, room, "has no room for the snapshot that it needs");
            }
            Err(SendError::Refused(SnapshotRefusal::Damaged)) => {
                tracing::error!(%peer, "found a snapshot of this node's state to be damaged");
                self.doubt.raise();
            }
            Err(SendError::Unreadable(error)) => {
                tracing::error!(%error, "a snapshot of this node's state cannot be read");
                self.doubt.raise();
            }
        }
        R::sleep(SNAPSHOT_PAUSE).await;
        Err(unreachable(&"the peer could not take the snapshot"))
    }

    /// Batches in pieces, as the window opens for them; each notes the vote that it is sent under.
    fn requests(
        &self,
        input: impl Stream<Item = AppendEntriesRequest<Types<R>>> + Send + Unpin + 'static,
        window: Arc<Window<R::Instant>>,
        vote: Arc<Mutex<Option<Ballot>>>,
    ) -> BoxStream<'static, AppendRequest> {
        let clock = Arc::clone(&self.clock);
        let mut batch = VecDeque::new();
        let mut input = Some(input);
        stream::poll_fn(move |cx| {
            // The transport may keep an abandoned stream for long. Until the source is dropped it has what the next
            // stream to this peer waits for: openraft's state of the replication, locked while it waits for entries.
            if !ready!(window.poll_open(cx)) {
                input = None;
                batch.clear();
            }
            let Some(input) = &mut input else { return Poll::Ready(None) };
            if batch.is_empty() {
                let Some(rpc) = ready!(input.poll_next_unpin(cx)) else { return Poll::Ready(None) };
                batch = pieces::<R>(&rpc);
            }
            Poll::Ready(batch.pop_front().map(|piece| {
                let leader = types::vote(piece.vote).leader_id;
                *vote.lock() = Some(piece.vote);
                let bytes = piece.entries.iter().map(|e| e.payload.len()).sum();
                window.sent(R::Instant::now(), bytes, batch.is_empty());
                AppendRequest { tick: clock.now(leader), ..piece }
            }))
        })
        .boxed()
    }

    /// Batches out, in pieces; answers in. So many bytes are under way, and there is a limit on how long the next
    /// answer may take: a stream with nothing to send is not late. A batch is answered once, as openraft expects it, with
    /// the answer to its last piece; what was answered of one that breaks off is told before the error.
    fn pipeline(
        &self,
        input: impl Stream<Item = AppendEntriesRequest<Types<R>>> + Send + Unpin + 'static,
    ) -> BoxStream<'static, Result<StreamAppendResult<Types<R>>, RpcError<R>>> {
        let window = Arc::new(Window::<R::Instant>::new(self.lessons.clone()));
        let vote = Arc::new(Mutex::new(None));
        let requests = self.requests(input, Arc::clone(&window), Arc::clone(&vote));
        let replies = self.transport.append(self.target, self.channel, requests);
        let acknowledged = Arc::clone(&self.acknowledged);
        let peer = self.target;
        let keeps = move |answer: &AppendAnswer| {
            let vote = *vote.lock();
            vote.map_or(Ok(()), |vote| acknowledged.note(peer, vote, answer))
        };
        let answers = Answers {
            replies,
            window,
            patience: self.patience,
            late: self.timed_out(RPCTypes::AppendEntries, self.patience),
            keeps: Box::new(keeps),
            peer,
        };
        stream::unfold((Some(answers), VecDeque::new()), |(answers, mut told)| async move {
            if let Some(next) = told.pop_front() {
                return Some((next, (answers, told)));
            }
            let mut answers = answers?;
            let (next, then) = answers.batch().await?;
            told.extend(then);
            let goes_on = matches!(next, Ok(Ok(_))) && told.is_empty();
            Some((next, (goes_on.then_some(answers), told)))
        })
        .boxed()
    }
}

impl<R: AsyncRuntime> RaftNetworkV2<Types<R>> for Client<R> {
    type SnapshotData = Arc<SnapshotFiles>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<R>>, RpcError<R>> {
        let mut replies = self.pipeline(Box::pin(stream::once(async { rpc })));
        match R::timeout(option.hard_ttl(), replies.next()).await {
            Ok(Some(reply)) => reply.map(AppendEntriesResponse::from),
            Ok(None) => Err(NetworkError::from_string("the peer did not answer").into()),
            Err(_) => Err(self.timed_out(RPCTypes::AppendEntries, option.hard_ttl()).into()),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types<R>>, RpcError<R>>>, RpcError<R>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types<R>>> + Send + Unpin + 'static,
    {
        async move {
            // The back-off of an unreachable peer sleeps inside `input`. A connection that fails before it
            // asks for the first request would skip that sleep, and be tried again at once, for ever.
            let (first, rest) = input.into_future().await;
            let replies: BoxStream<'s, _> = match first {
                Some(first) => self.pipeline(stream::iter([first]).chain(rest)),
                None => stream::empty().boxed(),
            };
            Ok(replies)
        }
        .boxed()
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RpcError<R>> {
        self.ask_vote(rpc, option, false).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RpcError<R>> {
        self.ask_vote(rpc, option, true).await
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types<R>>, RpcError<R>> {
        let request = transport::TransferRequest {
            from: types::ballot(req.from_leader()),
            to: NodeId(*req.to_node_id()),
            last_log: req.last_log_id().map(types::log_pos),
        };
        let reply = self.transport.transfer(self.target, request);
        match self.bounded(RPCTypes::TransferLeader, &option, reply).await? {
            true => Ok(Ok(())),
            false => Err(NetworkError::from_string("the peer refused the transfer of leadership").into()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<LeaderId, u64, EmptyNode, Arc<SnapshotFiles>>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types<R>>, StreamingError<Types<R>>> {
        let sending = self.send_snapshot(vote, snapshot.snapshot);
        let limited = R::timeout(option.hard_ttl(), sending);
        match R::select2(cancel, limited).await {
            Select2::First(closed) => Err(StreamingError::Closed(closed)),
            Select2::Second(Ok(Ok(SnapshotReply { vote, .. }))) => {
                Ok(SnapshotResponse::new(types::vote(vote)))
            }
            Select2::Second(Ok(Err(e))) => Err(error::<R>(e).into()),
            Select2::Second(Err(_)) => {
                Err(self.timed_out(RPCTypes::InstallSnapshot, option.hard_ttl()).into())
            }
        }
    }
}
