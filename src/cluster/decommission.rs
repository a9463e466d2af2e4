//! A member leaves for good: what that costs, the release of its copies, and its removal.
//!
//! Copies are released page by page, so that no log entry grows with what a node holds. Each step may be repeated; a
//! removal that was cut off is asked for again.

use std::time::Duration;

use clawhub_consensus::Consensus;
use clawhub_peer::CallCode;
use clawhub_policy::complete;
use clawhub_state::blob::BlobCmd;
use clawhub_state::cluster::{ClusterCmd, ClusterRejected};
use clawhub_state::{Fault, LifecycleCmd, View};
use clawhub_types::{Digest, Durability, NodeId, Root};
use tokio::time::{Instant, sleep, timeout};

use crate::proposal::{PATIENCE, propose};
use crate::{ClusterError, membership};

/// Roots looked at, or given up by one entry, at a time: 16 KiB of an entry's 128.
const PAGE: usize = 512;
/// Blobs that are named; all are counted.
const NAMED: usize = 1000;
/// Between two attempts of what an operator waits for.
const AGAIN: Duration = Duration::from_millis(250);

/// What the cluster lacks once a node is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemovalImpact {
    /// Blobs that no other member holds; the first thousand by name.
    pub lost: Vec<LostBlob>,
    /// How many those are in all.
    pub lost_count: u64,
    /// Blobs that others hold, but with fewer copies than their projects ask for.
    pub under_replicated: u64,
}

/// A blob without a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostBlob {
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

pub(crate) async fn remove(
    consensus: &Consensus,
    node: NodeId,
    force: bool,
) -> Result<RemovalImpact, ClusterError> {
    let impact = patiently(|| removal_impact(consensus, node)).await?;
    if !force {
        may_remove(consensus, node, &impact)?;
        // From here on no push counts its copies, so that what was just checked stays true.
        propose(consensus, ClusterCmd::Drain { node, on: true }).await?;
    }
    if consensus.status().leader == Some(node) {
        // Spares the cluster an election time-out; it goes on without if there is nobody else.
        let handed = consensus.membership().transfer_leader(None, PATIENCE).await;
        if let Err(error) = handed {
            tracing::info!(%error, "the leader is removed while it leads");
        }
    }
    let removed = async {
        patiently(|| release_copies(consensus, node, force)).await?;
        propose(consensus, LifecycleCmd::RemoveNode { node, force }).await
    };
    removed.await.map_err(|cause| match force {
        true => cause,
        false => ClusterError::StillDraining { cause: Box::new(cause), node },
    })?;
    // Until then one more loss may be one too many, and the operator is free to go on.
    votes_without(consensus, node).await?;
    Ok(impact)
}

/// Whether a member may go without force.
fn may_remove(consensus: &Consensus, node: NodeId, impact: &RemovalImpact) -> Result<(), ClusterError> {
    let state = consensus.state();
    // The layout and the policy that it is judged by are of one index.
    let snapshot = state.snapshot();
    let view = View::new(&*snapshot).cluster();
    let layout = view.layout()?;
    if layout.without(node).nodes.is_empty() {
        return Err(ClusterError::Rejected(ClusterRejected::LastMember.into()));
    }
    let durability = view.record()?.map_or(Durability::Zone, |cluster| cluster.durability);
    membership::may_remove(&layout, durability, node).map_err(ClusterError::Precondition)?;
    match impact.lost_count + impact.under_replicated {
        0 => Ok(()),
        short => Err(ClusterError::Precondition(format!(
            "{short} blobs would have too few copies without node {node}: `clawhub cluster drain {node} \
             --wait` makes more elsewhere; --force removes it all the same and lists what is lost"
        ))),
    }
}

/// What would be missing without `node`, as of everything acknowledged before the call.
async fn removal_impact(consensus: &Consensus, node: NodeId) -> Result<RemovalImpact, ClusterError> {
    consensus.barrier().await?;
    let state = consensus.state();
    let count = move || count(&View::new(&*state.snapshot()), node);
    let counted = tokio::task::spawn_blocking(count).await;
    Ok(counted.map_err(|_| ClusterError::internal("the node is stopping"))??)
}

/// Records in the log that `node` no longer holds anything. Without `force` a copy is only released where
/// the others are enough by the decision of apply; what is left is for the removal itself to decide. What was
/// released before an error stays so.
async fn release_copies(consensus: &Consensus, node: NodeId, force: bool) -> Result<(), ClusterError> {
    let mut after = None;
    loop {
        // Asked for anew with each page: a snapshot that is installed meanwhile brings another store.
        let roots = {
            let state = consensus.state();
            View::new(&*state.snapshot()).blob().held_by(node, after, PAGE)?
        };
        let Some(last) = roots.last().copied() else { return Ok(()) };
        let cmd = match force {
            true => BlobCmd::Lost { node, roots },
            false => BlobCmd::Release { node, roots },
        };
        propose(consensus, cmd).await?;
        after = Some(last);
    }
}

/// Waits until a removed node takes no part in consensus any more.
async fn votes_without(consensus: &Consensus, node: NodeId) -> Result<(), ClusterError> {
    let mut watcher = consensus.watch();
    let gone = async {
        while let Some(status) = watcher.changed().await {
            let takes_part = status.voters.contains(&node) || status.learners.contains(&node);
            if !takes_part && !status.changing {
                return;
            }
        }
    };
    timeout(PATIENCE, gone).await.map_err(|_| {
        ClusterError::Unavailable(format!(
            "node {node} is removed, but still counts where the others vote; see status"
        ))
    })
}

/// Tries while the cluster is unavailable, for as long as an operator waits: who removes a dead node often finds
/// the others in the middle of an election. Any other error is a decision or a fault, which no wait changes.
async fn patiently<T, F>(attempt: impl Fn() -> F) -> Result<T, ClusterError>
where
    F: Future<Output = Result<T, ClusterError>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if error.code() == CallCode::Unavailable && Instant::now() < deadline => {
                tracing::debug!(%error, "trying again");
            }
            Err(error) => return Err(error),
        }
        sleep(AGAIN).await;
    }
}

fn count(view: &View<'_>, node: NodeId) -> Result<RemovalImpact, Fault> {
    let layout = view.cluster().layout()?.without(node);
    let mut impact = RemovalImpact::default();
    let mut after: Option<Root> = None;
    loop {
        let page = view.blob().held_by(node, after, PAGE)?;
        for root in &page {
            let Some(record) = view.blob().root(root)?.filter(|record| record.links > 0) else { continue };
            let others: Vec<NodeId> = record.holders.iter().copied().filter(|id| *id != node).collect();
            if others.is_empty() {
                impact.lost_count += 1;
                if impact.lost.len() < NAMED {
                    let digest = Digest::Sha256(record.digests.sha256);
                    impact.lost.push(LostBlob { digest, size: record.size });
                }
            } else if !complete(&view.blob().policies(root)?, &layout, &others) {
                impact.under_replicated += 1;
            }
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(*last),
            _ => return Ok(impact),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use clawhub_state::Rejected;

    use super::*;

    /// Fails with `error` so many times; what came of it, and the attempts made.
    async fn tried(error: impl Fn() -> ClusterError, failures: u32) -> (Result<(), ClusterError>, u32) {
        let attempts = Cell::new(0);
        let done = patiently(|| {
            attempts.set(attempts.get() + 1);
            let failed = attempts.get() <= failures;
            let error = error();
            async move { if failed { Err(error) } else { Ok(()) } }
        });
        let done = done.await;
        (done, attempts.get())
    }

    #[tokio::test]
    async fn what_no_wait_changes_is_answered_at_once_as_what_it_is() {
        let refused = || ClusterError::Rejected(Rejected::Cluster(ClusterRejected::NodeUnknown(NodeId(3))));
        let (done, attempts) = tried(refused, u32::MAX).await;
        assert!(matches!(done, Err(ClusterError::Rejected(_))), "{done:?}");
        assert_eq!(attempts, 1);
        let (done, attempts) = tried(|| ClusterError::internal("the node is stopping"), u32::MAX).await;
        assert!(matches!(done, Err(ClusterError::Internal(_))), "{done:?}");
        assert_eq!(attempts, 1);
    }

    #[tokio::test]
    async fn an_election_is_waited_for() {
        let (done, attempts) = tried(|| ClusterError::Unavailable("no leader".to_owned()), 2).await;
        assert!(done.is_ok(), "{done:?}");
        assert_eq!(attempts, 3);
    }
}
