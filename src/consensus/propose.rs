//! Proposals: from any node, applied at most once, with an honest outcome.
//!
//! The ingress node gives a request its identity, hands it to whoever leads, one hop, and tries again
//! with the same identity until an answer comes or the caller's time is over. The leader stamps time.
//! An attempt whose answer did not come may have been applied, and may still be: if no later attempt
//! brings the replicated answer, the outcome is unknown, and said to be.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clawhub_state::cluster::{ClusterCmd, ClusterReply};
use clawhub_state::{
    Command, Entry, Outcome, Rejected, Reply, RequestRejected, View, decode_entry, encode_entry, may_forward,
};
use clawhub_types::{AccessRevisions, Actor, NodeId, SessionId};
use openraft::Instant;
use openraft::async_runtime::{AsyncRuntime, Select2, WatchReceiver};
use openraft::errors::{ClientWriteError, RaftError};

use crate::session::Ticket;
use crate::transport::{ForwardReply, ForwardRequest};
use crate::types::{LeaderId, Proposal};
use crate::{Consensus, Rpc, Unavailable, clock};

/// The largest encoded entry.
pub const MAX_ENTRY_BYTES: usize = 128 << 10;
/// What the leader's stamps may add to an entry.
const STAMPS: usize = 64;
/// What an entry costs of the proposal budget besides its bytes.
const OVERHEAD: usize = 512;

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

impl<R: AsyncRuntime> Consensus<R> {
    /// Proposes a command and waits for its replicated answer, for at most `wait`.
    ///
    /// # Errors
    /// See [`ProposeError`]. A caller that drops the future does not learn the outcome either; the
    /// command may still be applied, once.
    pub async fn propose(&self, cmd: Command, who: Who, wait: Duration) -> Result<Committed, ProposeError> {
        self.takes_part()?;
        let deadline = R::Instant::now() + wait;
        let with_identity = cmd.needs_identity();
        let Who { actor, access } = who;
        let mut entry = Entry { tick: 0, at: 0, actor, access, request: None, deadline: None, cmd };
        let bytes = encode_entry(&entry).len() + STAMPS;
        if bytes > MAX_ENTRY_BYTES {
            return Err(ProposeError::TooLarge { bytes });
        }
        let busy = || self.unavailable("too many proposals are under way".to_owned());
        let _reserved = self.shared.budget.take(bytes + OVERHEAD).ok_or_else(busy)?;
        if !with_identity {
            return match self.attempts(&mut entry, deadline).await {
                // Refused, perhaps because an earlier attempt was applied.
                End::Answer { outcome: Err(_), doubtful: true, .. } => Err(ProposeError::Unknown),
                end => self.conclude(end),
            };
        }
        loop {
            let ticket = self.ticket(deadline).await?;
            entry.request = Some(ticket.id);
            match self.attempts(&mut entry, deadline).await {
                End::Answer {
                    outcome: Err(Rejected::Request(RequestRejected::SessionGone)),
                    doubtful,
                    ..
                } => {
                    self.shared.sessions.gone(ticket.id.session);
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
            End::NotProposed(reason) => Err(self.unavailable(reason).into()),
            End::Unknown(reason) => {
                tracing::debug!(reason, "the outcome of a proposal is unknown");
                Err(ProposeError::Unknown)
            }
        }
    }

    /// A fresh identity, opening the session of this boot if need be.
    async fn ticket(&self, deadline: R::Instant) -> Result<Ticket, ProposeError> {
        loop {
            if let Some(ticket) = self.shared.sessions.ticket() {
                return Ok(ticket);
            }
            let turn = Arc::clone(&self.shared.sessions.opening).lock_owned();
            let opening = R::timeout_at(deadline, turn);
            let Ok(_opening) = opening.await else {
                return Err(self.unavailable("no session could be opened in time".to_owned()).into());
            };
            // Somebody else may have opened it meanwhile.
            if let Some(ticket) = self.shared.sessions.ticket() {
                return Ok(ticket);
            }
            let id = self.open_session(deadline).await?;
            self.shared.sessions.opened(id);
        }
    }

    async fn open_session(&self, deadline: R::Instant) -> Result<SessionId, ProposeError> {
        let settings = &self.shared.settings;
        let open =
            ClusterCmd::SessionOpen { node: settings.node, boot: settings.boot, nonce: settings.nonce };
        match self.attempts(&mut system_entry(open), deadline).await {
            End::Answer { outcome: Ok(Reply::Cluster(ClusterReply::Session(id))), .. } => Ok(id),
            End::Answer { outcome: Err(rejected), .. } => Err(rejected.into()),
            End::Answer { outcome: Ok(other), .. } => {
                Err(self.unavailable(format!("opening a session answered {other:?}")).into())
            }
            // Whether or not the session was opened, what the caller wants was not proposed.
            End::NotProposed(reason) | End::Unknown(reason) => Err(self.unavailable(reason).into()),
        }
    }

    /// Lets the state forget answers that nobody will ask for, in the background.
    fn raise_floor(&self) {
        let Some((session, floor)) = self.shared.sessions.floor() else { return };
        let this = self.clone();
        drop(R::spawn(async move {
            let deadline = R::Instant::now() + this.shared.settings.profile.wait();
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
            let leader = self.leader();
            if let Some(node) = leader {
                if entry.deadline.is_none() {
                    entry.deadline = self.deadline_under(node, deadline);
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
            self.pause(leader, deadline).await;
        }
        if doubtful { End::Unknown(reason) } else { End::NotProposed(reason) }
    }

    /// The tick under this leader at which a caller gives up; `None` as long as the leader has not told its tick.
    fn deadline_under(&self, leader: NodeId, deadline: R::Instant) -> Option<u64> {
        let clock = &self.shared.clock;
        let own = self.leading().filter(|_| leader == self.node());
        let tick = own.map_or_else(|| clock.followed(leader), |own| clock.now(own))?;
        Some(tick.saturating_add(clock::millis(deadline.saturating_duration_since(R::Instant::now()))))
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
        let changed = self.leader_other_than(Some(leader));
        if leader == self.node() {
            return match R::select2(self.lead(entry.clone(), ttl, None), changed).await {
                Select2::First(reply) => reply,
                Select2::Second(_) => lost("this node ceased to lead"),
            };
        }
        let request = ForwardRequest { entry: encoded.clone(), ttl };
        let reply = R::timeout(ttl, self.shared.transport.forward(leader, request));
        match R::select2(reply, changed).await {
            Select2::First(Ok(Ok(reply))) => reply,
            Select2::First(Ok(Err(e))) => lost(&e.to_string()),
            Select2::First(Err(_)) => lost("the leader did not answer in time"),
            Select2::Second(_) => lost("the leader changed"),
        }
    }

    /// As leader: stamps an entry with time, and a start with what earlier ones acknowledged, appends it, and waits
    /// until it is applied here. `from` is the member that handed it over, if it is not this node's own.
    async fn lead(&self, mut entry: Entry, ttl: Duration, from: Option<NodeId>) -> ForwardReply {
        let deadline = R::Instant::now() + ttl;
        let Some(tick) = self.stamp(deadline).await else {
            return ForwardReply::NotLeader(self.leader().filter(|l| *l != self.node()));
        };
        // Not before: by now everything that earlier leaders acknowledged is applied here, sessions too.
        if let Some(Err(reply)) = from.map(|from| self.vouched(from, &entry)) {
            return reply;
        }
        entry.tick = tick;
        entry.at = (self.shared.settings.wall)();
        if let Command::Cluster(ClusterCmd::Boot { node, boot, acknowledged, .. }) = &mut entry.cmd {
            *acknowledged = self.acknowledged_before(*node, *boot);
        }
        // Its own is kept, however late it comes: apply rejects it then.
        let left = deadline.saturating_duration_since(R::Instant::now());
        entry.deadline.get_or_insert(tick.saturating_add(clock::millis(left)));
        let bytes = encode_entry(&entry);
        if bytes.len() > MAX_ENTRY_BYTES {
            return ForwardReply::Unavailable("the stamped entry is too large".to_owned());
        }
        let write = self.shared.raft.client_write(Proposal(bytes.into()));
        match R::timeout_at(deadline, write).await {
            Err(_) => ForwardReply::Unknown("the entry was not committed in time".to_owned()),
            Ok(Ok(done)) => match done.data.0 {
                Some(outcome) => ForwardReply::Applied(done.log_id.index, outcome),
                None => ForwardReply::Unknown("the entry was applied without an answer".to_owned()),
            },
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => match to.leader_id {
                Some(leader) => ForwardReply::NotLeader(Some(NodeId(leader))),
                None => ForwardReply::Unavailable("the leader has no quorum".to_owned()),
            },
            Ok(Err(e)) => ForwardReply::Unknown(e.to_string()),
        }
    }

    /// Whether a member may say what it has forwarded.
    fn vouched(&self, from: NodeId, entry: &Entry) -> Result<(), ForwardReply> {
        let state = self.state();
        match may_forward(&View::new(&*state), from, entry) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(forbidden)) => {
                tracing::warn!(node = %from, actor = %entry.actor, "a forwarded proposal is refused: {forbidden}");
                Err(ForwardReply::Refused(forbidden.to_string()))
            }
            Err(fault) => {
                tracing::error!(%fault, "the state cannot be read");
                Err(ForwardReply::Unavailable("the leader cannot read its state".to_owned()))
            }
        }
    }

    /// As a new leader: gets to know its tick, so that the others hear of it before they propose.
    pub(crate) async fn tell_ticks(self) {
        let deadline = R::Instant::now() + self.shared.settings.profile.wait();
        let _ = self.stamp(deadline).await;
    }

    /// The tick for an entry proposed now; `None` if this node does not lead, or does not get to know in
    /// time what the last leader's tick was.
    pub(crate) async fn stamp(&self, deadline: R::Instant) -> Option<u64> {
        let leader = self.leading()?;
        if let Some(tick) = self.shared.clock.now(leader) {
            return Some(tick);
        }
        // Once this leader's first entry is applied, so are all ticks before it.
        R::timeout_at(deadline, self.first_applied(leader)).await.ok()??;
        let state = self.state();
        let last = View::new(&*state).cluster().tick().ok()?;
        self.shared.clock.set(leader, last);
        self.shared.clock.now(leader)
    }

    async fn first_applied(&self, leader: LeaderId) -> Option<()> {
        let mut metrics = self.shared.raft.metrics();
        loop {
            {
                let now = metrics.borrow_and_update();
                if now.last_applied.is_some_and(|id| id.leader_id == leader) {
                    return Some(());
                }
                if now.vote.leader_id != leader {
                    return None;
                }
            }
            metrics.changed().await.ok()?;
        }
    }
}

impl<R: AsyncRuntime> Rpc<'_, R> {
    /// As leader: takes a proposal that the member `from` has forwarded, if it is one for it to make. It goes no
    /// further.
    pub async fn forward(self, from: NodeId, request: ForwardRequest) -> ForwardReply {
        let Some(_reserved) = self.consensus.shared.forwarded.take(request.entry.len() + OVERHEAD) else {
            return ForwardReply::Unavailable("the leader has too many proposals under way".to_owned());
        };
        match decode_entry(&request.entry) {
            Ok(entry) => self.consensus.lead(entry, request.ttl, Some(from)).await,
            Err(e) => ForwardReply::Unavailable(format!("the leader cannot read the entry: {e}")),
        }
    }
}

impl<R: AsyncRuntime> Consensus<R> {
    /// Has a command of the cluster itself applied, also if this node takes no part any more: the others are
    /// asked in turn until one of them leads. The command must be one that may be applied twice.
    ///
    /// # Errors
    /// [`ProposeError::Rejected`]; [`ProposeError::Unknown`] if nobody had it applied within `wait`.
    pub async fn propose_via_peers(&self, cmd: ClusterCmd, wait: Duration) -> Result<(), ProposeError> {
        if self.takes_part().is_ok() {
            return self.propose(Command::Cluster(cmd), Who::system(), wait).await.map(drop);
        }
        let deadline = R::Instant::now() + wait;
        let entry = Bytes::from(encode_entry(&system_entry(cmd)));
        let voters = self.status().voters;
        let others: Vec<NodeId> = voters.into_iter().filter(|voter| *voter != self.node()).collect();
        let mut turns = others.iter().copied().cycle();
        let mut hint = None;
        while R::Instant::now() < deadline {
            let Some(to) = hint.take().or_else(|| turns.next()) else { break };
            let ttl = deadline.saturating_duration_since(R::Instant::now());
            let ttl = ttl.min(self.shared.settings.profile.wait());
            let request = ForwardRequest { entry: entry.clone(), ttl };
            let answer = R::timeout(ttl, self.shared.transport.forward(to, request)).await;
            match answer {
                Ok(Ok(ForwardReply::Applied(_, outcome))) => {
                    outcome?;
                    return Ok(());
                }
                Ok(Ok(ForwardReply::NotLeader(leader))) => hint = leader.filter(|l| *l != self.node()),
                _ => {}
            }
            R::sleep(self.shared.settings.profile.pause()).await;
        }
        Err(ProposeError::Unknown)
    }
}

/// What consensus proposes for itself; idempotent, so without an identity.
pub(crate) fn system_entry(cmd: ClusterCmd) -> Entry {
    let Who { actor, access } = Who::system();
    Entry { tick: 0, at: 0, actor, access, request: None, deadline: None, cmd: Command::Cluster(cmd) }
}
