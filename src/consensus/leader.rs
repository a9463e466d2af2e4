//! Proposals at the leader: stamped with its time, appended, and answered when they are applied here.
//!
//! Owns nothing but a budget for what other members hand over; what is appended is in the log.

use std::sync::Arc;
use std::time::Duration;

use clawhub_state::cluster::ClusterCmd;
use clawhub_state::{Command, Entry, View, decode_entry, encode_entry, may_forward};
use clawhub_types::NodeId;
use openraft::Instant;
use openraft::async_runtime::AsyncRuntime;
use openraft::errors::{ClientWriteError, RaftError};

use crate::acknowledged::LogMarks;
use crate::budget::{Budget, OVERHEAD};
use crate::clock::millis;
use crate::core::Core;
use crate::store::StateStore;
use crate::ticks::Ticks;
use crate::transport::{ForwardReply, ForwardRequest};
use crate::types::Proposal;

/// The largest encoded entry.
pub const MAX_ENTRY_BYTES: usize = 128 << 10;

/// See the module.
pub(crate) struct Leader<R: AsyncRuntime> {
    core: Arc<Core<R>>,
    ticks: Arc<Ticks<R>>,
    store: StateStore,
    marks: Arc<LogMarks<R>>,
    /// For proposals that others forward to this node.
    forwarded: Budget,
}

impl<R: AsyncRuntime> Leader<R> {
    pub(crate) fn new(
        core: Arc<Core<R>>,
        ticks: Arc<Ticks<R>>,
        store: StateStore,
        marks: Arc<LogMarks<R>>,
    ) -> Arc<Leader<R>> {
        let forwarded = Budget::new(core.settings.proposal_budget);
        Arc::new(Leader { core, ticks, store, marks, forwarded })
    }

    /// Takes a proposal that the member `from` has forwarded, if it is one for it to make. It goes no further.
    pub(crate) async fn take(&self, from: NodeId, request: ForwardRequest) -> ForwardReply {
        let Some(_reserved) = self.forwarded.take(request.entry.len() + OVERHEAD) else {
            return ForwardReply::Unavailable("the leader has too many proposals under way".to_owned());
        };
        match decode_entry(&request.entry) {
            Ok(entry) => self.append(entry, request.ttl, Some(from)).await,
            Err(e) => ForwardReply::Unavailable(format!("the leader cannot read the entry: {e}")),
        }
    }

    /// Stamps an entry with time, and a start with what earlier ones acknowledged, appends it, and waits
    /// until it is applied here. `from` is the member that handed it over, if it is not this node's own.
    pub(crate) async fn append(&self, mut entry: Entry, ttl: Duration, from: Option<NodeId>) -> ForwardReply {
        let deadline = R::Instant::now() + ttl;
        let Some(tick) = self.ticks.stamp(deadline).await else {
            return ForwardReply::NotLeader(self.core.other_leader());
        };
        // Not before: by now everything that earlier leaders acknowledged is applied here, sessions too.
        if let Some(Err(reply)) = from.map(|from| self.vouched(from, &entry)) {
            return reply;
        }
        entry.tick = tick;
        entry.at = (self.core.settings.wall)();
        if let Command::Cluster(ClusterCmd::Boot { node, boot, acknowledged, .. }) = &mut entry.cmd {
            *acknowledged = self.marks.before(*node, *boot);
        }
        // Its own is kept, however late it comes: apply rejects it then.
        let left = deadline.saturating_duration_since(R::Instant::now());
        entry.deadline.get_or_insert(tick.saturating_add(millis(left)));
        let bytes = encode_entry(&entry);
        if bytes.len() > MAX_ENTRY_BYTES {
            return ForwardReply::Unavailable("the stamped entry is too large".to_owned());
        }
        let write = self.core.raft.client_write(Proposal(bytes.into()));
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
        let state = self.store.kv();
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
}
