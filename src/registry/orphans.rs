//! Copies here that nobody counts on: what is left of pushes whose commit failed, or whose client left before it.
//!
//! A receipt may be under way for any of them, so one goes only once it was seen so for a long time, and then in this
//! order: the deletion epoch rises, durably here and in the log, so that apply refuses the receipts of before
//! (invariant 13); after a barrier the record is looked at once more (invariant 16); what it still does not name, and
//! no new receipt was made for, is deleted. Copies that came for readers are the cache's business.
//!
//! Owns nothing. Since when a copy has been seen so, the blob store keeps over restarts; a power cut may make it a bit
//! less.

use std::sync::Arc;
use std::time::Duration;

use clawhub_durable::task::blocking;
use clawhub_state::blob::BlobCmd;
use clawhub_state::{Command, View};
use clawhub_types::Root;

use crate::Error;
use crate::core::Core;

/// Copies looked at in one step.
const PAGE: usize = 256;
/// Copies that wait, at most: 3 MiB of memory while they are looked at.
const WAITING: usize = 1 << 16;
/// Copies deleted under one epoch.
const BATCH: usize = 1024;

/// Those copies. Cheap to clone.
#[derive(Clone)]
pub struct Orphans {
    core: Arc<Core>,
}

impl Orphans {
    pub(crate) fn new(core: Arc<Core>) -> Orphans {
        Orphans { core }
    }

    /// Looks at every copy here, and deletes those that have been orphans since `older` ago or before. Answers how
    /// many.
    ///
    /// # Errors
    /// A fault of the state or the store, or 503 if nothing can be recorded: the next call goes on.
    pub async fn sweep(&self, older: Duration) -> Result<usize, Error> {
        let looking = self.clone();
        let old = blocking(move || looking.look(older)).await?;
        if old.is_empty() {
            return Ok(0);
        }
        self.delete(old).await
    }

    /// Blocking. Those that are old enough.
    fn look(&self, older: Duration) -> Result<Vec<Root>, Error> {
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let page = self.core.blobs().inventory(after, PAGE);
            // One page at a time, on the state as it is then: a snapshot keeps files of the store from being removed.
            let state = self.core.snapshot();
            let view = View::new(&*state);
            for (root, _) in &page {
                let room = seen.len() < WAITING;
                if room && !self.core.blobs().cache().contains(root) && !self.is_recorded(&view, root)? {
                    seen.push(*root);
                }
            }
            match page.last() {
                Some((root, _)) if page.len() == PAGE => after = Some(*root),
                _ => break,
            }
        }
        let ages = self.core.blobs().orphaned().note(&seen)?;
        Ok(ages.into_iter().take_while(|(age, _)| *age >= older).take(BATCH).map(|(_, root)| root).collect())
    }

    fn is_recorded(&self, view: &View<'_>, root: &Root) -> Result<bool, Error> {
        let record = view.blob().root(root)?;
        Ok(record.is_some_and(|record| record.holders.contains(&self.core.me())))
    }

    async fn delete(&self, roots: Vec<Root>) -> Result<usize, Error> {
        let node = self.core.me();
        let epoch = self.core.blobs().replicas().plan_removal(&roots).await?;
        self.core.propose_system(Command::Blob(BlobCmd::Epoch { node, epoch })).await??;
        self.core.barrier().await?;
        let mut deleted = 0;
        for root in roots {
            let recorded = {
                let state = self.core.snapshot();
                self.is_recorded(&View::new(&*state), &root)?
            };
            if !recorded && self.core.blobs().replicas().remove(&root).await? {
                tracing::info!(%root, "a copy that nobody counts on was deleted");
                deleted += 1;
            }
        }
        Ok(deleted)
    }
}
