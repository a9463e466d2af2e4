//! Proposals: from any node, applied at most once, with an honest outcome.
//!
//! The ingress node gives a request its identity, hands it to whoever leads, one hop, and tries again
//! with the same identity until an answer comes or the caller's time is over. The leader stamps time ([`crate::leader`]).
//! An attempt whose answer did not come may have been applied, and may still be: if no later attempt
//! brings the replicated answer, the outcome is unknown, and said to be.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clawhub_state::cluster::{ClusterCmd, ClusterReply};
use clawhub_state::{Command, Entry, Outcome, Rejected, Reply, RequestRejected, encode_entry};
use clawhub_types::{AccessRevisions, Actor, NodeId, SessionId};
use openraft::Instant;
use openraft::async_runtime::{AsyncRuntime, Select2, WatchReceiver};

use crate::budget::{Budget, OVERHEAD};
use crate::core::Core;
use crate::error::Unavailable;
use crate::leader::{Leader, MAX_ENTRY_BYTES};
use crate::session::{Sessions, Ticket};
use crate::ticks::Ticks;
use crate::transport::{ForwardReply, ForwardRequest, Transport};

/// What the leader's stamps may add to an entry.
const STAMPS: usize = 64;

/// In whose name something is proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// Who asked.
    pub actor: Actor,
    /// The rights it was permitted under.
    pub access: AccessRevisions,
}

impl Who {
    /// The cluster itself.
    pub fn system() -> Who {
        Who { actor: Actor::system(), access: AccessRevisions::default() }
    }

    /// An operator of this node.
    pub fn operator() -> Who {
        Who { actor: Actor::operator(), access: AccessRevisions::default() }
    }
}

/// A command that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its log index.
    pub index: u64,
    /// The replicated answer.
    pub reply: Reply,
}

/// Why a command was not applied, or is not known to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Refused by the state machine, on every node alike.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// Not applied, and it never will be.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// It may have been applied, and may still be.
    #[error("the outcome is unknown")]
    Unknown,
    /// Larger than an entry may be; not proposed.
    #[error("an entry of {bytes} bytes is larger than {MAX_ENTRY_BYTES}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

/// How a series of attempts with one identity ended.
enum End {
    /// With the replicated answer; `doubtful` if an earlier attempt may have been applied too.
    Answer {
        index: u64,
        outcome: Outcome,
        doubtful: bool,
    },
    NotProposed(String),
    Unknown(String),
}

/// Proposes what this node's clients, and the node itself, want to have applied.
pub(crate) struct Proposer<R: AsyncRuntime> {
    core: Arc<Core<R>>,
    ticks: Arc<Ticks<R>>,
    leader: Arc<Leader<R>>,
    transport: Arc<dyn Transport>,
    sessions: Arc<Sessions>,
    budget: Budget,
}

impl<R: AsyncRuntime> Proposer<R> {
    pub(crate) fn new(
        core: Arc<Core<R>>,
        ticks: Arc<Ticks<R>>,
        leader: Arc<Leader<R>>,
        transport: Arc<dyn Transport>,
    ) -> Arc<Proposer<R>> {
        let budget = Budget::new(core.settings.proposal_budget);
        Arc::new(Proposer { core, ticks, leader, transport, sessions: Arc::default(), budget })
    }

    /// Proposes a command and waits for its replicated answer, for at most `wait`.
    ///
    /// # Errors
    /// See [`ProposeError`]. A caller that drops the future does not learn the outcome either; the
    /// command may still be applied, once.
    pub(crate) async fn propose(
        self: &Arc<Self>,
        cmd: Command,
        who: Who,
        wait: Duration,
    ) -> Result<Committed, ProposeError> {
        self.core.takes_part()?;
        let deadline = R::Instant::now() + wait;
        let with_identity = cmd.needs_identity();
        let Who { actor, access } = who;
        let mut entry = Entry { tick: 0, at: 0, actor, access, request: None, deadline: None, cmd };
        let bytes = encode_entry(&entry).len() + STAMPS;
        if bytes > MAX_ENTRY_BYTES {
            return Err(ProposeError::TooLarge { bytes });
        }
        let busy = || self.core.unavailable("too many proposals are under way".to_owned());
        let _reserved = self.budget.take(bytes + OVERHEAD).ok_or_else(busy)?;
        if with_identity {
            return self.once(&mut entry, deadline).await;
        }
        match self.attempts(&mut entry, deadline).await {
            // Refused, perhaps because an earlier attempt was applied.
            End::Answer { outcome: Err(_), doubtful: true, .. } => Err(ProposeError::Unknown),
            end => self.conclude(end),
        }
    }

    /// Proposes under an identity, so that the entry is applied at most once.
    async fn once(
        self: &Arc<Self>,
        entry: &mut Entry,
        deadline: R::Instant,
    ) -> Result<Committed, ProposeError> {
        loop {
            let ticket = self.ticket(deadline).await?;
            entry.request = Some(ticket.id);
            match self.attempts(entry, deadline).await {
                End::Answer {
                    outcome: Err(Rejected::Request(RequestRejected::SessionGone)),
                    doubtful,
                    ..
                } => {
                    self.sessions.gone(ticket.id.session);
                    if doubtful {
                        // An attempt before this one may have been applied while the session lived.
                        return Err(ProposeError::Unknown);
                    }
                }
                end => {
                    drop(ticket);
                    self.raise_floor();
                    return self.conclude(end);
                }
            }
        }
    }

    fn conclude(&self, end: End) -> Result<Committed, ProposeError> {
        match end {
            End::Answer { index, outcome, .. } => Ok(Committed { index, reply: outcome? }),
            End::NotProposed(reason) => Err(self.core.unavailable(reason).into()),
            End::Unknown(reason) => {
                tracing::debug!(reason, "the outcome of a proposal is unknown");
                Err(ProposeError::Unknown)
            }
        }
    }

    /// A fresh identity, opening the session of this boot if need be.
    async fn ticket(&self, deadline: R::Instant) -> Result<Ticket, ProposeError> {
        loop {
            if let Some(ticket) = self.sessions.ticket() {
                return Ok(ticket);
            }
            let turn = Arc::clone(&self.sessions.opening).lock_owned();
            let opening = R::timeout_at(deadline, turn);
            let Ok(_opening) = opening.await else {
                return Err(self.core.unavailable("no session could be opened in time".to_owned()).into());
            };
            // Somebody else may have opened it meanwhile.
            if let Some(ticket) = self.sessions.ticket() {
                return Ok(ticket);
            }
            let id = self.open_session(deadline).await?;
            self.sessions.opened(id);
        }
    }

    async fn open_session(&self, deadline: R::Instant) -> Result<SessionId, ProposeError> {
        let settings = &self.core.settings;
        let open =
            ClusterCmd::SessionOpen { node: settings.node, boot: settings.boot, nonce: settings.nonce };
        match self.attempts(&mut system_entry(open), deadline).await {
            End::Answer { outcome: Ok(Reply::Cluster(ClusterReply::Session(id))), .. } => Ok(id),
            End::Answer { outcome: Err(rejected), .. } => Err(rejected.into()),
            End::Answer { outcome: Ok(other), .. } => {
                Err(self.core.unavailable(format!("opening a session answered {other:?}")).into())
            }
            // Whether or not the session was opened, what the caller wants was not proposed.
            End::NotProposed(reason) | End::Unknown(reason) => Err(self.core.unavailable(reason).into()),
        }
    }

    /// Lets the state forget answers that nobody will ask for, in the background.
    fn raise_floor(self: &Arc<Self>) {
        let Some((session, floor)) = self.sessions.floor() else { return };
        let this = Arc::clone(self);
        drop(R::spawn(async move {
            let deadline = R::Instant::now() + this.core.settings.profile.wait();
            let mut entry = system_entry(ClusterCmd::SessionFloor { session, floor });
            // If it fails, the next floor covers this one.
            let _ = this.attempts(&mut entry, deadline).await;
        }));
    }

    /// Tries until there is a replicated answer or the time is over. All attempts have the deadline of the first that
    /// knew one: none of them is applied after it, whenever it comes to whichever leader.
    async fn attempts(&self, entry: &mut Entry, deadline: R::Instant) -> End {
        let mut encoded = None;
        let mut doubtful = false;
        let mut reason = "there is no leader".to_owned();
        while R::Instant::now() < deadline {
            let leader = self.core.leader();
            if let Some(node) = leader {
                if entry.deadline.is_none() {
                    entry.deadline = self.ticks.deadline_under(node, deadline);
                    encoded = None;
                }
                let encoded = encoded.get_or_insert_with(|| Bytes::from(encode_entry(entry)));
                match self.attempt(node, entry, encoded, deadline).await {
                    ForwardReply::Applied(index, outcome) => return End::Answer { index, outcome, doubtful },
                    ForwardReply::NotLeader(_) => {}
                    ForwardReply::Unavailable(why) => reason = why,
                    ForwardReply::Refused(why) => {
                        tracing::error!(leader = %node, why, "the leader does not take this from this node");
                        return if doubtful { End::Unknown(why) } else { End::NotProposed(why) };
                    }
                    ForwardReply::Unknown(why) => {
                        doubtful = true;
                        reason = why;
                    }
                }
            }
            self.core.pause(leader, deadline).await;
        }
        if doubtful { End::Unknown(reason) } else { End::NotProposed(reason) }
    }

    /// One attempt, given up when its leader ceases to be one.
    async fn attempt(
        &self,
        leader: NodeId,
        entry: &Entry,
        encoded: &Bytes,
        deadline: R::Instant,
    ) -> ForwardReply {
        let ttl = deadline.saturating_duration_since(R::Instant::now());
        let lost = |why: &str| ForwardReply::Unknown(why.to_owned());
        let changed = self.core.leader_other_than(Some(leader));
        if leader == self.core.node() {
            return match R::select2(self.leader.append(entry.clone(), ttl, None), changed).await {
                Select2::First(reply) => reply,
                Select2::Second(_) => lost("this node ceased to lead"),
            };
        }
        let request = ForwardRequest { entry: encoded.clone(), ttl };
        let reply = R::timeout(ttl, self.transport.forward(leader, request));
        match R::select2(reply, changed).await {
            Select2::First(Ok(Ok(reply))) => reply,
            Select2::First(Ok(Err(e))) => lost(&e.to_string()),
            Select2::First(Err(_)) => lost("the leader did not answer in time"),
            Select2::Second(_) => lost("the leader changed"),
        }
    }

    /// Has a command of the cluster itself applied, also if this node takes no part any more: the others are
    /// asked in turn until one of them leads. The command must be one that may be applied twice.
    ///
    /// # Errors
    /// [`ProposeError::Rejected`]; [`ProposeError::Unknown`] if nobody had it applied within `wait`.
    pub(crate) async fn propose_via_peers(
        self: &Arc<Self>,
        cmd: ClusterCmd,
        wait: Duration,
    ) -> Result<(), ProposeError> {
        if self.core.takes_part().is_ok() {
            return self.propose(Command::Cluster(cmd), Who::system(), wait).await.map(drop);
        }
        let deadline = R::Instant::now() + wait;
        let entry = Bytes::from(encode_entry(&system_entry(cmd)));
        let voters: Vec<NodeId> = {
            let metrics = self.core.raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics.membership_config.membership().voter_ids().map(NodeId).collect()
        };
        let mut turns = voters.into_iter().filter(|voter| *voter != self.core.node()).cycle();
        let mut hint = None;
        while R::Instant::now() < deadline {
            let Some(to) = hint.take().or_else(|| turns.next()) else { break };
            let ttl = deadline.saturating_duration_since(R::Instant::now());
            let ttl = ttl.min(self.core.settings.profile.wait());
            let request = ForwardRequest { entry: entry.clone(), ttl };
            let answer = R::timeout(ttl, self.transport.forward(to, request)).await;
            match answer {
                Ok(Ok(ForwardReply::Applied(_, outcome))) => {
                    outcome?;
                    return Ok(());
                }
                Ok(Ok(ForwardReply::NotLeader(leader))) => hint = leader.filter(|l| *l != self.core.node()),
                _ => {}
            }
            R::sleep(self.core.settings.profile.pause()).await;
        }
        Err(ProposeError::Unknown)
    }
}

/// What consensus proposes for itself; idempotent, so without an identity.
pub(crate) fn system_entry(cmd: ClusterCmd) -> Entry {
    let Who { actor, access } = Who::system();
    Entry { tick: 0, at: 0, actor, access, request: None, deadline: None, cmd: Command::Cluster(cmd) }
}
