//! One step of bringing copies to where they belong. The loop that calls it lives in `jobs`.

use clawhub_policy::needs_copy_here;
use clawhub_replicate::Wanted;
use clawhub_state::blob::BlobCmd;
use clawhub_state::{Command, View};
use clawhub_types::{Receipt, Root};
use futures::StreamExt;
use futures::stream;

use crate::{Error, Registry};

/// Roots read from the state in one step.
const PAGE: usize = 256;
/// Copies made at the same time.
const PARALLEL: usize = 2;

/// How far one step came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconciled {
    /// Where the next step goes on; `None` when every root has been looked at.
    pub next: Option<Root>,
    /// Copies made and recorded.
    pub copied: usize,
    /// Copies that could not be made; the next pass tries again.
    pub failed: usize,
}

impl Registry {
    /// Looks at the next roots after `after` and copies those of which this node should have a replica.
    ///
    /// # Errors
    /// A fault of the state, or 503 if the new holders cannot be recorded: the copies are kept, and the
    /// next pass records them.
    pub async fn reconcile(&self, after: Option<Root>) -> Result<Reconciled, Error> {
        let (missing, next) = self.missing_here(after)?;
        let copies: Vec<Option<Receipt>> = stream::iter(missing)
            .map(|wanted| async move {
                let root = wanted.root;
                match self.inner.replicate.copy_here(wanted).await {
                    Ok(receipt) => Some(receipt),
                    Err(error) => {
                        tracing::warn!(%root, %error, "a replica could not be made yet");
                        None
                    }
                }
            })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        let failed = copies.iter().filter(|copy| copy.is_none()).count();
        let receipts: Vec<Receipt> = copies.into_iter().flatten().collect();
        let copied = receipts.len();
        if copied > 0 {
            self.propose_system(Command::Blob(BlobCmd::Hold { receipts })).await?;
        }
        Ok(Reconciled { next, copied, failed })
    }

    /// The log index this node has applied; moves whenever there may be something new to reconcile.
    pub fn applied(&self) -> u64 {
        self.inner.consensus.status().applied
    }

    /// Forgets uploads that nobody has touched for `idle`.
    pub async fn expire_uploads(&self, idle: std::time::Duration) -> usize {
        self.blobs().expire(idle).await
    }

    fn missing_here(&self, after: Option<Root>) -> Result<(Vec<Wanted>, Option<Root>), Error> {
        let state = self.state();
        let view = View::new(&*state);
        let layout = view.layout()?;
        let roots = view.roots(after, PAGE)?;
        let next = (roots.len() == PAGE).then(|| roots.last().map(|(root, _)| *root)).flatten();
        let mut missing = Vec::new();
        for (root, record) in roots {
            let policies = view.root_policies(&root)?;
            if needs_copy_here(&policies, &layout, &root, &record.holders, self.me()) {
                missing.push(Wanted {
                    root,
                    size: record.size,
                    generation: record.generation,
                    digests: record.digests,
                    holders: record.holders,
                });
            }
        }
        Ok((missing, next))
    }
}
