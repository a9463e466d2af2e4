//! Linearizable reads on any node.
//!
//! A round asks the leader for the position that a read must wait for; the leader answers only after a
//! quorum confirmed, later than the reads began, that it still leads. Who comes while a round runs joins the next
//! one, together with everybody else who came: the answer to a question asked earlier says nothing about writes
//! acknowledged since ([`crate::rounds`]).
//!
//! The question carries the asker's vote. A voter that has promised itself to nobody above the leader
//! confirms by asking what it would by answering a heartbeat, so where it and the leader are a quorum
//! (three voters) the leader answers at once (ADR 4). Otherwise it sends heartbeats first (ReadIndex:
//! Ongaro's thesis, section 6.4).

use std::sync::Arc;
use std::time::Duration;

use clawhub_mutant::Mutant;
use clawhub_types::NodeId;
use openraft::Instant;
use openraft::async_runtime::{AsyncRuntime, Select2};
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{LinearizerOption, RaftState, ServerState};
use parking_lot::Mutex;

use crate::core::Core;
use crate::error::Unavailable;
use crate::log::LogStore;
use crate::rounds::{Answer, Next, Rounds};
use crate::ticks::Ticks;
use crate::transport::{ReadIndexReply, ReadIndexRequest, Transport};
use crate::types::{self, LogId, Types, Vote};

/// See the module.
pub(crate) struct Barrier<R: AsyncRuntime> {
    core: Arc<Core<R>>,
    log: LogStore,
    ticks: Arc<Ticks<R>>,
    transport: Arc<dyn Transport>,
    rounds: Mutex<Rounds<R::Instant>>,
}

impl<R: AsyncRuntime> Barrier<R> {
    pub(crate) fn new(
        core: Arc<Core<R>>,
        log: LogStore,
        ticks: Arc<Ticks<R>>,
        transport: Arc<dyn Transport>,
    ) -> Arc<Barrier<R>> {
        Arc::new(Barrier { core, log, ticks, transport, rounds: Mutex::default() })
    }

    /// Waits until this node has applied every write that was acknowledged, anywhere, before the call.
    /// Returns the index applied. The mutant `local-reads` returns at once without asking anybody.
    ///
    /// # Errors
    /// [`Unavailable`] if there is no quorum, or this node is too far behind, for as long as the profile
    /// waits.
    pub(crate) async fn wait(self: &Arc<Self>) -> Result<u64, Unavailable> {
        if Mutant::LocalReads.breaks() {
            return Ok(self.core.applied());
        }
        self.core.takes_part()?;
        let wait = self.core.settings.profile.wait();
        match R::timeout(wait, self.confirmed()).await {
            Ok(Ok(index)) => Ok(index),
            Ok(Err(reason)) => Err(self.core.unavailable(reason)),
            Err(_) => Err(self.core.unavailable("no leader confirmed a read position in time".to_owned())),
        }
    }

    async fn confirmed(self: &Arc<Self>) -> Result<u64, String> {
        let (told, next) = self.rounds.lock().join(R::Instant::now());
        if !matches!(next, Next::Nothing) {
            drop(R::spawn(Arc::clone(self).run(next)));
        }
        let index = told.await.map_err(|_| "the node is stopping".to_owned())??;
        self.core.reached(index).await.ok_or_else(|| "the node is stopping".to_owned())
    }

    /// Runs rounds, one after the other, until nobody waits whom another of these tasks does not see to.
    async fn run(self: Arc<Self>, mut next: Next<R::Instant>) {
        loop {
            next = match next {
                Next::Begin(waiting) => {
                    let began = R::Instant::now();
                    let answer = self.round().await;
                    let took = answer.is_ok().then(|| began.elapsed());
                    for tell in waiting {
                        // Who waited may have given up.
                        let _ = tell.send(answer.clone());
                    }
                    self.rounds.lock().ended(took, R::Instant::now())
                }
                Next::Look(at) => {
                    R::sleep_until(at).await;
                    self.rounds.lock().look(R::Instant::now())
                }
                Next::Nothing => return,
            };
        }
    }

    /// Asks whoever leads until an answer comes, or until nobody can wait for it any more.
    async fn round(&self) -> Answer {
        let deadline = R::Instant::now() + self.core.settings.profile.wait();
        let mut reason = "there is no leader".to_owned();
        while R::Instant::now() < deadline {
            let leader = self.core.leader();
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
            self.core.pause(leader, deadline).await;
        }
        Err(reason)
    }

    /// Asks the leader, until it ceases to be the leader.
    async fn ask(&self, node: NodeId, ttl: Duration) -> Result<ReadIndexReply, String> {
        let vote = self.log.vote().as_ref().map(types::ballot);
        let request = ReadIndexRequest { vote, ttl };
        if node == self.core.node() {
            return Ok(self.read_index(node, request).await);
        }
        let asked = R::timeout(ttl, self.transport.read_index(node, request));
        match R::select2(asked, self.core.leader_other_than(Some(node))).await {
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
        let me = self.core.node().0;
        let look = move |state: &RaftState<Types<R>>| {
            let mine = state.vote_ref();
            let leads = state.server_state == ServerState::Leader && mine.committed;
            let same = mine.leader_id == vote.leader_id || Mutant::AnyLeader.breaks();
            let agreed = mine.leader_id.node_id == me && same;
            let configs = state.membership_state.effective().get_joint_config();
            let quorum = configs.iter().all(|voters| {
                let confirmed = voters.iter().filter(|id| **id == me || **id == from.0).count();
                confirmed > voters.len() / 2
            });
            let committed = *state.local_committed()?;
            (leads && agreed && quorum && committed.leader_id == mine.leader_id).then_some(committed)
        };
        self.core.raft.with_raft_state(look).await.ok().flatten()
    }

    /// As leader: the position a read must wait for, confirmed by a quorum after the reads began that
    /// `from` asks for.
    pub(crate) async fn read_index(&self, from: NodeId, request: ReadIndexRequest) -> ReadIndexReply {
        if let Some(vote) = request.vote
            && let Some(id) = self.confirmed_by(from, types::vote(vote)).await
        {
            return self.ready(&id);
        }
        let ttl = request.ttl.min(self.core.settings.profile.wait());
        let option = LinearizerOption::new(Some(Duration::ZERO), true).with_wait_timeout(ttl);
        match self.core.raft.get_read_log_id(option).await {
            Ok((read, _)) => self.ready(read.log_id()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
                ReadIndexReply::NotLeader(to.leader_id.map(NodeId))
            }
            Err(e) => ReadIndexReply::Unavailable(e.to_string()),
        }
    }

    fn ready(&self, id: &LogId) -> ReadIndexReply {
        ReadIndexReply::Ready { pos: types::log_pos(id), tick: self.ticks.now().unwrap_or_default() }
    }
}
