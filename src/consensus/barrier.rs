//! Linearizable reads on any node.
//!
//! A round asks the leader for the position that a read must wait for; the leader answers only after a
//! quorum confirmed, later than the reads began, that it still leads. Who comes while a round runs joins the next
//! one, together with everybody else who came: the answer to a question asked earlier says nothing about writes
//! acknowledged since. Over a long way rounds overlap, up to four of them, so that who comes late waits for little
//! more than one.
//!
//! The question carries the asker's vote. A voter that has promised itself to nobody above the leader
//! confirms by asking what it would by answering a heartbeat, so where it and the leader are a quorum
//! (three voters) the leader answers at once (ADR 4). Otherwise it sends heartbeats first (ReadIndex:
//! Ongaro's thesis, section 6.4).

use std::time::Duration;

use clawhub_mutant::Mutant;
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
/// Who waits for one round.
type Waiting = Vec<oneshot::Sender<Answer>>;

/// So many rounds of one node are under way at most.
const ROUNDS: u32 = 4;
/// A round that is shorter is waited for: the next one, with everybody who came, is as soon.
const SHORT: Duration = Duration::from_millis(8);

/// Who waits for the next round, and which are under way. `I` is an instant.
pub(crate) struct Barrier<I> {
    rounds: Mutex<Rounds<I>>,
}

struct Rounds<I> {
    running: u32,
    /// When the youngest of them began.
    began: Option<I>,
    /// How long the last one took that was answered.
    took: Duration,
    waiting: Waiting,
    /// Somebody looks again when the next one may begin.
    alarmed: bool,
}

/// What there is to do now.
enum Next<I> {
    /// Begin a round for these.
    Begin(Waiting),
    /// Look again then.
    Look(I),
    Nothing,
}

impl<I> Default for Barrier<I> {
    fn default() -> Self {
        let waiting = Vec::new();
        let rounds = Rounds { running: 0, began: None, took: Duration::ZERO, waiting, alarmed: false };
        Barrier { rounds: Mutex::new(rounds) }
    }
}

impl<I: Instant> Barrier<I> {
    /// Joins the next round; the second value is what the caller has to see to.
    fn join(&self, now: I) -> (oneshot::Receiver<Answer>, Next<I>) {
        let (tell, told) = oneshot::channel();
        let mut rounds = self.rounds.lock();
        rounds.waiting.push(tell);
        (told, rounds.next(now))
    }

    /// A round that was answered took so long; one that was not says nothing.
    fn ended(&self, took: Option<Duration>, now: I) -> Next<I> {
        let mut rounds = self.rounds.lock();
        rounds.running -= 1;
        rounds.took = took.unwrap_or(rounds.took);
        rounds.next(now)
    }

    fn look(&self, now: I) -> Next<I> {
        let mut rounds = self.rounds.lock();
        rounds.alarmed = false;
        rounds.next(now)
    }
}

impl<I: Instant> Rounds<I> {
    /// The first round begins at once, another one a quarter of a round after the last began: then four are under
    /// way at most, and nobody waits for a whole one that came too early. What has not been measured is taken to be
    /// short.
    fn next(&mut self, now: I) -> Next<I> {
        // Who gave up does not keep the rounds going.
        self.waiting.retain(|tell| !tell.is_canceled());
        if self.waiting.is_empty() || self.running >= ROUNDS {
            return Next::Nothing;
        }
        let from = self.began.map_or(now, |began| began + self.took / ROUNDS);
        let overlap = self.took >= SHORT;
        if self.running == 0 || (overlap && from <= now) {
            self.running += 1;
            self.began = Some(now);
            return Next::Begin(std::mem::take(&mut self.waiting));
        }
        if !overlap || std::mem::replace(&mut self.alarmed, true) {
            return Next::Nothing;
        }
        Next::Look(from)
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
    /// The mutant `local-reads` returns at once without asking anybody.
    pub async fn barrier(&self) -> Result<u64, Unavailable> {
        if Mutant::LocalReads.breaks() {
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
        let (told, next) = self.shared.barrier.join(R::Instant::now());
        if !matches!(next, Next::Nothing) {
            drop(R::spawn(self.clone().rounds(next)));
        }
        let index = told.await.map_err(|_| "the node is stopping".to_owned())??;
        self.applied(index).await.ok_or_else(|| "the node is stopping".to_owned())
    }

    /// Runs rounds, one after the other, until nobody waits whom another of these tasks does not see to.
    async fn rounds(self, mut next: Next<R::Instant>) {
        let barrier = &self.shared.barrier;
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
                    barrier.ended(took, R::Instant::now())
                }
                Next::Look(at) => {
                    R::sleep_until(at).await;
                    barrier.look(R::Instant::now())
                }
                Next::Nothing => return,
            };
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

    /// The cluster's clock now, if this node leads.
    pub fn leading_tick(&self) -> Option<u64> {
        self.leading().and_then(|leader| self.shared.clock.now(leader))
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
