//! Following the members as the state changes: the list of peers for the next start is kept, and what is still open
//! with a removed member is closed.

use std::sync::Arc;
use std::time::Duration;

use clawhub_consensus::{Consensus, Status, Watcher};
use clawhub_peer::{Endpoint, Standing};
use clawhub_state::View;
use clawhub_types::NodeId;

use crate::{ClusterError, Dismissal, Dismissed, MemberDirectory, Seed};

/// Whatever the node's own store says.
type KeepError = Box<dyn std::error::Error + Send + Sync>;
/// Keeps the peers for the next start of the node, durably.
type KeepPeers = Box<dyn Fn(&[Seed]) -> Result<(), KeepError> + Send + Sync>;

/// Keeps the list of peers and the open connections as the members are. A crash loses at most the last change of
/// the list.
pub struct Following {
    consensus: Consensus,
    watcher: Watcher,
    endpoint: Endpoint,
    members: Arc<MemberDirectory>,
    keep: KeepPeers,
    dismissal: Dismissal,
    /// The term and the leader that were told of last.
    followed: Option<(u64, Option<NodeId>)>,
    /// The index that was looked at last, with success.
    applied: Option<u64>,
}

impl Following {
    /// Between two looks at the members, however fast the log grows.
    pub const EVERY: Duration = Duration::from_millis(200);

    /// Follows what `consensus` applies. `keep` makes a list of peers durable, where it differs from the one kept.
    pub fn new(
        consensus: Consensus,
        endpoint: Endpoint,
        members: Arc<MemberDirectory>,
        dismissal: Dismissal,
        keep: impl Fn(&[Seed]) -> Result<(), KeepError> + Send + Sync + 'static,
    ) -> Following {
        Following {
            watcher: consensus.watch(),
            consensus,
            endpoint,
            members,
            keep: Box::new(keep),
            dismissal,
            followed: None,
            applied: None,
        }
    }

    /// Completes when there may be something to follow: `false` if consensus has stopped, and there will be nothing
    /// any more.
    pub async fn wake(&mut self) -> bool {
        match self.watcher.changed().await {
            Some(status) => {
                self.tell_of_leader(&status);
                true
            }
            None => false,
        }
    }

    fn tell_of_leader(&mut self, status: &Status) {
        let leader = (status.term, status.leader);
        if self.followed.replace(leader) != Some(leader) {
            let leader = status.leader.map_or(0, |id| id.0);
            tracing::info!(term = status.term, leader, "who leads has changed; 0 is nobody");
        }
    }

    /// Looks at the members, if anything was applied since the last look that succeeded.
    ///
    /// # Errors
    /// [`ClusterError::State`] if the members cannot be read, [`ClusterError::Internal`] if their list was not kept.
    pub fn pass(&mut self) -> Result<(), ClusterError> {
        let applied = self.consensus.status().applied;
        if self.applied == Some(applied) {
            return Ok(());
        }
        // First: a store that keeps no list must not keep a removed member connected.
        self.disconnect_removed()?;
        self.keep_peers()?;
        // Only now: a look that failed is made again, even where nothing is applied meanwhile.
        self.applied = Some(applied);
        Ok(())
    }

    fn keep_peers(&self) -> Result<(), ClusterError> {
        let now = self.members.current()?;
        // Until the state knows anybody, the peers that the join brought are all there is.
        if !now.is_empty() && now != self.members.seeds() {
            let kept = (self.keep)(&now);
            kept.map_err(|error| ClusterError::internal(format!("the list of peers was not kept: {error}")))?;
            self.members.set_seeds(now);
        }
        Ok(())
    }

    /// Closes what is still open with members that were removed. The directory refuses them from the same
    /// entry on.
    fn disconnect_removed(&self) -> Result<(), ClusterError> {
        let state = self.consensus.state();
        let nodes = View::new(&*state).cluster().nodes()?;
        for member in nodes.into_iter().filter(|member| member.removed) {
            if member.id == self.consensus.node() {
                self.dismissal.tell(Dismissed::Removed);
            } else if self.endpoint.standing(member.id) == Standing::Connected {
                tracing::info!(node = %member.id, "closing connections with a removed node");
                self.endpoint.disconnect(member.id);
            }
        }
        Ok(())
    }
}
