//! Linearizable reads on any node.
//!
//! A round asks the leader for the position that a read must wait for; the leader answers only after a
//! quorum confirmed, later than the reads began, that it still leads. One round is under way per node.
//! Who comes while it runs joins the next one, together with everybody else who came: the answer to a
//! question asked earlier says nothing about writes acknowledged since.
//!
//! The question carries the asker's vote. A voter that has promised itself to nobody above the leader
//! confirms by asking what it would by answering a heartbeat, so where it and the leader are a quorum
//! (three voters) the leader answers at once (ADR 4). Otherwise it sends heartbeats first (ReadIndex:
//! Ongaro's thesis, section 6.4).

use std::time::Duration;

use clawhub_state::View;
use clawhub_types::NodeId;
use futures::channel::oneshot;
use openraft::Instant;
use openraft::async_runtime::{AsyncRuntime, Select2, WatchReceiver};
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{LinearizerOption, RaftState, ServerState};
use parking_lot::Mutex;

use crate::transport::{ReadIndexReply, ReadIndexRequest};
use crate::types::{self, LeaderId, LogId, Types, Vote};
use crate::{Consensus, Rpc, Unavailable};

type Answer = Result<u64, String>;

/// Who waits for the next round, and whether one runs.
#[derive(Default)]
pub(crate) struct Barrier {
    state: Mutex<Rounds>,
}

#[derive(Default)]
struct Rounds {
    running: bool,
    waiting: Vec<oneshot::Sender<Answer>>,
}

impl Barrier {
    /// Joins the next round; the second value says whether the caller must start one.
    fn join(&self) -> (oneshot::Receiver<Answer>, bool) {
        let (tell, told) = oneshot::channel();
        let mut state = self.state.lock();
        state.waiting.push(tell);
        let start = !std::mem::replace(&mut state.running, true);
        (told, start)
    }

    /// Those who wait for the round that starts now; `None` ends the rounds.
    fn next(&self) -> Option<Vec<oneshot::Sender<Answer>>> {
        let mut state = self.state.lock();
        let waiting = std::mem::take(&mut state.waiting);
        // Who gave up does not keep the rounds going.
        let waiting: Vec<_> = waiting.into_iter().filter(|tell| !tell.is_canceled()).collect();
        state.running = !waiting.is_empty();
        state.running.then_some(waiting)
    }
}

impl<R: AsyncRuntime> Consensus<R> {
    /// Waits until this node has applied every write that was acknowledged, anywhere, before the call.
    /// Returns the index applied.
    ///
    /// # Errors
    /// [`Unavailable`] if there is no quorum, or this node is too far behind, for as long as the profile
    /// waits.
    ///
    /// A build with the feature `unsafe-local-reads` returns at once without asking anybody: what is
    /// read then may be stale. It exists to show that tests for stale reads can fail.
    pub async fn barrier(&self) -> Result<u64, Unavailable> {
        if cfg!(feature = "unsafe-local-reads") {
            return Ok(self.status().applied);
        }
        self.takes_part()?;
        let wait = self.shared.settings.profile.wait();
        match R::timeout(wait, self.confirmed()).await {
            Ok(Ok(index)) => Ok(index),
            Ok(Err(reason)) => Err(self.unavailable(reason)),
            Err(_) => Err(self.unavailable("no leader confirmed a read position in time".to_owned())),
        }
    }

    async fn confirmed(&self) -> Result<u64, String> {
        let (told, start) = self.shared.barrier.join();
        if start {
            let rounds = self.clone().rounds();
            drop(R::spawn(rounds));
        }
        let index = told.await.map_err(|_| "the node is stopping".to_owned())??;
        self.applied(index).await.ok_or_else(|| "the node is stopping".to_owned())
    }

    /// Runs rounds until nobody waits.
    async fn rounds(self) {
        while let Some(waiting) = self.shared.barrier.next() {
            let answer = self.round().await;
            for tell in waiting {
                // Who waited may have given up.
                let _ = tell.send(answer.clone());
            }
        }
    }

    /// Asks whoever leads until an answer comes, or until nobody can wait for it any more.
    async fn round(&self) -> Answer {
        let deadline = R::Instant::now() + self.shared.settings.profile.wait();
        let mut reason = "there is no leader".to_owned();
        while R::Instant::now() < deadline {
            let leader = self.leader();
            let remaining = deadline.saturating_duration_since(R::Instant::now());
            let reply = match leader {
                None => Ok(ReadIndexReply::NotLeader(None)),
                Some(node) => self.ask(node, remaining).await,
            };
            match reply {
                Ok(ReadIndexReply::Ready { pos, .. }) => return Ok(pos.index),
                Ok(ReadIndexReply::NotLeader(_)) => {}
                Ok(ReadIndexReply::Unavailable(why)) | Err(why) => reason = why,
            }
            self.pause(leader, deadline).await;
        }
        Err(reason)
    }

    /// Asks the leader, until it ceases to be the leader.
    async fn ask(&self, node: NodeId, ttl: Duration) -> Result<ReadIndexReply, String> {
        let vote = self.shared.log.vote().as_ref().map(types::ballot);
        let request = ReadIndexRequest { vote, ttl };
        if node == self.node() {
            return Ok(self.rpc().read_index(node, request).await);
        }
        let asked = R::timeout(ttl, self.shared.transport.read_index(node, request));
        match R::select2(asked, self.leader_other_than(Some(node))).await {
            Select2::First(Ok(reply)) => reply.map_err(|e| e.to_string()),
            Select2::First(Err(_)) => Err("the leader does not answer".to_owned()),
            Select2::Second(_) => Err("the leader changed".to_owned()),
        }
    }

    /// The position to read at if this node leads and the asker's vote already says that nobody else does:
    /// any later leader needs the vote of one of a quorum, and neither of these two has given it.
    ///
    /// `None` if that is not enough, or if nothing of this node's own term is committed yet: then entries
    /// of earlier terms may be committed that it does not know to be (Raft, section 8).
    async fn confirmed_by(&self, from: NodeId, vote: Vote) -> Option<LogId> {
        let me = self.node().0;
        let look = move |state: &RaftState<Types<R>>| {
            let mine = state.vote_ref();
            let leads = state.server_state == ServerState::Leader && mine.committed;
            let agreed = mine.leader_id.node_id == me && mine.leader_id == vote.leader_id;
            let configs = state.membership_state.effective().get_joint_config();
            let quorum = configs.iter().all(|voters| {
                let confirmed = voters.iter().filter(|id| **id == me || **id == from.0).count();
                confirmed > voters.len() / 2
            });
            let committed = *state.local_committed()?;
            (leads && agreed && quorum && committed.leader_id == mine.leader_id).then_some(committed)
        };
        self.shared.raft.with_raft_state(look).await.ok().flatten()
    }

    /// The leader's tick, or the last one applied.
    fn tick(&self) -> Option<u64> {
        let leader = self.leading().and_then(|leader: LeaderId| self.shared.clock.now(leader));
        leader.or_else(|| {
            let state = self.state();
            View::new(&*state).cluster().tick().ok()
        })
    }

    /// The term in which this node leads, with its id, if it does.
    pub(crate) fn leading(&self) -> Option<LeaderId> {
        let metrics = self.shared.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        (metrics.state == ServerState::Leader && metrics.vote.committed).then_some(metrics.vote.leader_id)
    }

    /// Waits until an index is applied here and returns the one that is; `None` if the node stops.
    pub(crate) async fn applied(&self, index: u64) -> Option<u64> {
        let mut progress = self.shared.raft.watch_apply_progress();
        let reached = progress.wait_until(|id: &Option<types::LogId>| id.is_some_and(|id| id.index >= index));
        reached.await.ok().flatten().map(|id| id.index)
    }
}

impl<R: AsyncRuntime> Rpc<'_, R> {
    /// As leader: the position a read must wait for, confirmed by a quorum after the reads began that
    /// `from` asks for.
    pub async fn read_index(self, from: NodeId, request: ReadIndexRequest) -> ReadIndexReply {
        if let Some(vote) = request.vote
            && let Some(id) = self.consensus.confirmed_by(from, types::vote(vote)).await
        {
            let pos = types::log_pos(&id);
            return ReadIndexReply::Ready { pos, tick: self.consensus.tick().unwrap_or_default() };
        }
        let ttl = request.ttl.min(self.consensus.shared.settings.profile.wait());
        let option = LinearizerOption::new(Some(Duration::ZERO), true).with_wait_timeout(ttl);
        match self.consensus.shared.raft.get_read_log_id(option).await {
            Ok((read, _)) => {
                let id = *read.log_id();
                ReadIndexReply::Ready {
                    pos: types::log_pos(&id),
                    tick: self.consensus.tick().unwrap_or_default(),
                }
            }
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
                ReadIndexReply::NotLeader(to.leader_id.map(NodeId))
            }
            Err(e) => ReadIndexReply::Unavailable(e.to_string()),
        }
    }
}
