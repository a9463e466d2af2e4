//! Compares the copies that should be on this node with those that are, one page of roots at a time, makes what is
//! missing, and reports what is gone.
//!
//! When a page is looked at is decided by a reconciler in `jobs`. Nothing is kept: a crash loses a page, and the
//! next pass looks at it again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clawhub_durable::task::blocking;
use clawhub_peer::Class;
use clawhub_policy::{complete, needs_copy_here};
use clawhub_replicate::ReplicaSpec;
use clawhub_state::blob::BlobCmd;
use clawhub_state::{Command, Reply, View};
use clawhub_types::{Receipt, Root};
use futures::StreamExt;
use futures::stream;

use crate::Error;
use crate::core::Core;

/// Roots read from the state in one step.
const PAGE: usize = 256;
/// Copies made at the same time.
const PARALLEL: usize = 2;

/// How far one page came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Where the next step goes on; `None` when every root has been looked at.
    pub next: Option<Root>,
    /// Copies made and recorded.
    pub copied: usize,
    /// Copies that could not be made; the next pass tries again.
    pub failed: usize,
    /// Linked roots with fewer copies than their projects ask for, as they were found.
    pub under_replicated: u64,
    /// How long reading them took.
    pub reading: Duration,
}

/// What should be here, compared with what is. Cheap to clone.
#[derive(Clone)]
pub struct Inventory {
    core: Arc<Core>,
}

impl Inventory {
    pub(crate) fn new(core: Arc<Core>) -> Inventory {
        Inventory { core }
    }

    /// Looks at the next roots after `after`, copies those of which this node should have a replica, and has
    /// the log know of those that it is said to hold and does not (invariants 7 and 13), or holds although
    /// nobody says so, where copies are short.
    ///
    /// # Errors
    /// A fault of the state, or 503 if the new holders cannot be recorded: the copies are kept, and the
    /// next pass records them.
    pub async fn copy_missing(&self, after: Option<Root>) -> Result<Copied, Error> {
        let began = Instant::now();
        let Found { missing, gone, misjudged, next, under_replicated } =
            self.reading(move |this| this.look(after)).await?;
        let reading = began.elapsed();
        self.report_gone(gone).await?;
        self.review(misjudged).await;
        let copies: Vec<Option<Receipt>> = stream::iter(missing)
            .map(|wanted| async move {
                let root = wanted.root;
                match self.core.replicate.copy_here(wanted, Class::Background).await {
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
            self.propose(Command::Blob(BlobCmd::Hold { receipts })).await?;
        }
        Ok(Copied { next, copied, failed, under_replicated, reading })
    }

    /// Reports to the log the next copies after `after` that this node is said to hold and does not: all of
    /// them, before any is made anew, so that none counts for longer than it takes to look. Answers where to go
    /// on.
    ///
    /// # Errors
    /// A fault of the state, or 503 if it cannot be recorded.
    pub async fn verify(&self, after: Option<Root>) -> Result<Option<Root>, Error> {
        let (gone, next) = self.reading(move |this| this.check(after)).await?;
        self.report_gone(gone).await?;
        Ok(next)
    }

    /// Runs what reads many rows where it holds up nobody else.
    async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Inventory) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let this = self.clone();
        blocking(move || read(&this)).await
    }

    async fn report_gone(&self, gone: Vec<Root>) -> Result<(), Error> {
        if gone.is_empty() {
            return Ok(());
        }
        tracing::error!(copies = gone.len(), "copies that the log says are here are not");
        self.propose(Command::Blob(BlobCmd::Lost { node: self.core.me(), roots: gone })).await?;
        Ok(())
    }

    /// Asks apply to look anew at roots whose row under target is not what this node finds: the layout or a policy
    /// changed since it was written. Every node finds the same, so that only the leader asks. What is not asked now
    /// is found by the next pass, and copying does not wait for it.
    async fn review(&self, roots: Vec<Root>) {
        let leads = self.core.consensus.status().leader == Some(self.core.me());
        if roots.is_empty() || !leads {
            return;
        }
        if let Err(error) = self.propose(Command::Blob(BlobCmd::Review { roots })).await {
            tracing::debug!(%error, "roots under target are looked at by a later pass");
        }
    }

    async fn propose(&self, cmd: Command) -> Result<Reply, Error> {
        Ok(self.core.propose_system(cmd).await??)
    }

    /// Blocking. Of the next roots that this node is said to hold, those that it does not, and where to go on.
    fn check(&self, after: Option<Root>) -> Result<(Vec<Root>, Option<Root>), Error> {
        let state = self.core.snapshot();
        let held = View::new(&*state).blob().held_by(self.core.me(), after, PAGE)?;
        let next = (held.len() == PAGE).then(|| held.last().copied()).flatten();
        let mut gone = Vec::new();
        // A store whose device fails as a whole says nothing about one copy.
        if !self.core.blobs().is_held_back() {
            for root in held {
                if !self.core.blobs().has(&root)? {
                    gone.push(root);
                }
            }
        }
        Ok((gone, next))
    }

    /// Blocking.
    fn look(&self, after: Option<Root>) -> Result<Found, Error> {
        let state = self.core.snapshot();
        let view = View::new(&*state);
        let layout = view.cluster().layout()?;
        let roots = view.blob().roots(after, PAGE)?;
        let next = (roots.len() == PAGE).then(|| roots.last().map(|(root, _)| *root)).flatten();
        let mut missing = Vec::new();
        let mut gone = Vec::new();
        let mut misjudged = Vec::new();
        let mut under_replicated = 0;
        // A store whose device fails as a whole says nothing about one copy.
        let sound = !self.core.blobs().is_held_back();
        for (root, record) in roots {
            let policies = view.blob().policies(&root)?;
            let enough = complete(&policies, &layout, &record.holders);
            under_replicated += u64::from(!enough);
            let lacks = record.links > 0 && !enough;
            if lacks != record.short_since.is_some() {
                misjudged.push(root);
            }
            let recorded = record.holders.contains(&self.core.me());
            if sound && recorded && !self.core.blobs().has(&root)? {
                gone.push(root);
            }
            // One that came for a reader, or was given up and can be read again since: with few others, it counts,
            // and may be the only one, wherever copies of the root belong.
            let found = sound
                && !(enough || recorded)
                && layout
                    .node(self.core.me())
                    .is_some_and(|me| policies.iter().any(|policy| policy.admits(me)))
                && self.core.blobs().holds(&root).is_some();
            if found || needs_copy_here(&policies, &layout, &root, &record.holders, self.core.me()) {
                missing.push(ReplicaSpec {
                    root,
                    size: record.size,
                    generation: record.generation,
                    digests: record.digests,
                    holders: record.holders,
                });
            }
        }
        Ok(Found { missing, gone, misjudged, next, under_replicated })
    }
}

/// What one page of roots shows.
struct Found {
    /// Copies that should be here and are not, or are and nobody knows.
    missing: Vec<ReplicaSpec>,
    /// Copies that this node is said to hold and does not.
    gone: Vec<Root>,
    /// Roots that the state lists among those under target and should not, or the other way round.
    misjudged: Vec<Root>,
    next: Option<Root>,
    under_replicated: u64,
}
