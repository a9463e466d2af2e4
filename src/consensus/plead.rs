//! What a node says after it has stopped taking part.
//!
//! A node whose log cannot be written neither votes nor follows, and still has something to tell: that its
//! copies do not count for now. It hands that to the others as any follower would, without knowing who leads.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use clawhub_state::cluster::ClusterCmd;
use clawhub_state::{Command, encode_entry};
use clawhub_types::NodeId;
use openraft::Instant;
use openraft::async_runtime::{AsyncRuntime, WatchReceiver};

use crate::propose::system_entry;
use crate::transport::{ForwardReply, ForwardRequest};
use crate::{Consensus, ProposeError, Unavailable, Who};

impl<R: AsyncRuntime> Consensus<R> {
    /// Whether the node takes part: it has not stopped, for whatever reason, and is not stopping. That may take
    /// for ever where a device does not answer.
    ///
    /// # Errors
    /// [`Unavailable`], at once: there is nothing to wait for.
    pub(crate) fn takes_part(&self) -> Result<(), Unavailable> {
        let runs = self.shared.raft.metrics().borrow_watched().running_state.is_ok();
        if runs && !self.shared.stopping.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(self.unavailable("this node takes no part in the cluster for now".to_owned()))
    }

    /// Whether this node campaigns when nobody leads. It votes and follows all the same.
    pub fn campaign(&self, on: bool) {
        self.shared.raft.runtime_config().elect(on);
    }

    /// Has a command of the cluster itself applied, also if this node takes no part any more: the others are
    /// asked in turn until one of them leads. The command must be one that may be applied twice.
    ///
    /// # Errors
    /// [`ProposeError::Rejected`]; [`ProposeError::Unknown`] if nobody had it applied within `wait`.
    pub async fn plead(&self, cmd: ClusterCmd, wait: Duration) -> Result<(), ProposeError> {
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
