//! A member leaves: what that costs, and giving up its copies page by page, so that no log entry grows
//! with what a node holds.

use clawhub_policy::complete;
use clawhub_state::blob::BlobCmd;
use clawhub_state::{Command, Fault, View};
use clawhub_types::{Digest, NodeId, Root};

use crate::{Error, Registry};

/// Roots looked at, or given up by one entry, at a time: 16 KiB of an entry's 128.
const PAGE: usize = 512;
/// Blobs that are named; all are counted.
const NAMED: usize = 1000;

/// What the cluster lacks once a node is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaving {
    /// Blobs that no other member holds; the first thousand by name.
    pub lost: Vec<LostBlob>,
    /// How many those are in all.
    pub lost_count: u64,
    /// Blobs that others hold, but with fewer copies than their projects ask for.
    pub short: u64,
}

/// A blob without a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostBlob {
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

impl Registry {
    /// What would be missing without `node`, as of everything acknowledged before the call.
    ///
    /// # Errors
    /// 503, or a fault of the state.
    pub async fn leaving(&self, node: NodeId) -> Result<Leaving, Error> {
        self.barrier().await?;
        let state = self.state();
        let count = move || count(&View::new(&*state.snapshot()), node);
        let counted = tokio::task::spawn_blocking(count).await;
        Ok(counted.map_err(|_| Error::internal("the node is stopping"))??)
    }

    /// Has the log say that `node` no longer holds anything. Without `force` a copy is only given up where
    /// the others are enough by the decision of apply; what is left is for the removal itself to decide.
    ///
    /// # Errors
    /// 503; what was given up by then stays so.
    pub async fn give_up_copies(&self, node: NodeId, force: bool) -> Result<(), Error> {
        let mut after = None;
        loop {
            let roots = {
                let state = self.state();
                View::new(&*state).blob().held_by(node, after, PAGE)?
            };
            let Some(last) = roots.last().copied() else { return Ok(()) };
            let cmd = match force {
                true => BlobCmd::Lost { node, roots },
                false => BlobCmd::Release { node, roots },
            };
            self.propose_system(Command::Blob(cmd)).await?;
            after = Some(last);
        }
    }
}

fn count(view: &View<'_>, node: NodeId) -> Result<Leaving, Fault> {
    let layout = view.cluster().layout()?.without(node);
    let mut leaving = Leaving::default();
    let mut after: Option<Root> = None;
    loop {
        let page = view.blob().held_by(node, after, PAGE)?;
        for root in &page {
            let Some(record) = view.blob().root(root)?.filter(|record| record.links > 0) else { continue };
            let others: Vec<NodeId> = record.holders.iter().copied().filter(|id| *id != node).collect();
            if others.is_empty() {
                leaving.lost_count += 1;
                if leaving.lost.len() < NAMED {
                    let digest = Digest::Sha256(record.digests.sha256);
                    leaving.lost.push(LostBlob { digest, size: record.size });
                }
            } else if !complete(&view.blob().policies(root)?, &layout, &others) {
                leaving.short += 1;
            }
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(*last),
            _ => return Ok(leaving),
        }
    }
}
