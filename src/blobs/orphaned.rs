//! Since when copies here are known to be orphans: copies that nobody counts on.
//!
//! A row in the index for each, so that a restart does not begin the wait for their end anew. It goes with the copy,
//! with a new receipt for it, and when the copy is no orphan any more. The rows are not synced by themselves: a power cut
//! may make an orphan look younger than it is. The age is the time for which the store has been open since, as that of
//! everything here that ends for want of use.

use std::collections::HashSet;
use std::time::Duration;

use clawhub_kv::Batch;
use clawhub_types::Root;

use crate::index::{OrphanRow, delete_orphan, put_orphan};
use crate::{BlobError, BlobStore};

/// The orphans of a store, as a handle.
#[derive(Clone, Copy)]
pub struct Orphaned<'a> {
    store: &'a BlobStore,
}

impl BlobStore {
    /// The copies here that were said to be orphans.
    pub fn orphaned(&self) -> Orphaned<'_> {
        Orphaned { store: self }
    }
}

impl Orphaned<'_> {
    /// Blocking. Says that these copies are orphans now, and no others. Answers for how long that has been said of each,
    /// the longest first.
    ///
    /// # Errors
    /// [`BlobError::Index`].
    pub fn note(self, orphans: &[Root]) -> Result<Vec<(Duration, Root)>, BlobError> {
        let index = &self.store.shared.index;
        let now = self.store.shared.clock.now();
        let mut new: HashSet<Root> = orphans.iter().copied().collect();
        let mut ages = Vec::new();
        let mut batch = Batch::default();
        for (root, OrphanRow { since }) in index.orphans()? {
            if new.remove(&root) {
                ages.push((Duration::from_millis(now.saturating_sub(since)), root));
            } else {
                delete_orphan(&mut batch, &root);
            }
        }
        for root in new {
            put_orphan(&mut batch, &root, OrphanRow { since: now });
            ages.push((Duration::ZERO, root));
        }
        if !batch.is_empty() {
            index.write(batch)?;
        }
        ages.sort_unstable_by(|a, b| b.cmp(a));
        Ok(ages)
    }
}
