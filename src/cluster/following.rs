//! Following the members as the state changes: the list of peers for the next start is kept, and the connections that
//! the members' directory would not let in any more are closed.

use std::sync::Arc;
use std::time::Duration;

use clawhub_consensus::{Consensus, Status, Watcher};
use clawhub_peer::Endpoint;
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
    /// The index that was looked at last, with success, and whether this node was behind then.
    looked: Option<(u64, bool)>,
}

impl Following {
    /// Between two looks at the members, however fast the log grows. For so long, at most, is a removed member that had
    /// a connection still heard here.
    pub const EVERY: Duration = Duration::from_millis(50);

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
            looked: None,
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

    /// Looks at the members, if anything was applied or this node caught up since the last look that succeeded.
    ///
    /// # Errors
    /// [`ClusterError::State`] if the members cannot be read, [`ClusterError::Internal`] if their list was not kept.
    pub fn pass(&mut self) -> Result<(), ClusterError> {
        let now = (self.consensus.status().applied, self.members.is_behind());
        if self.looked == Some(now) {
            return Ok(());
        }
        // First: a store that keeps no list must not keep a removed member connected.
        self.endpoint.review();
        self.notice_removal()?;
        self.keep_peers()?;
        // Only now: a look that failed is made again, even where nothing is applied meanwhile.
        self.looked = Some(now);
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

    /// Ends this node if it was removed.
    fn notice_removal(&self) -> Result<(), ClusterError> {
        let state = self.consensus.state();
        let own = View::new(&*state).cluster().node(self.consensus.node())?;
        if own.is_some_and(|own| own.removed) {
            self.dismissal.tell(Dismissed::Removed);
        }
        Ok(())
    }
}
