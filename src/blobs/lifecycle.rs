//! A store's life: opening it, what goes with time, and closing it.
//!
//! Owns nothing of its own. What a crash leaves is found and finished here at the next opening, by
//! [`crate::recover`].

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clawhub_durable::task::blocking;
use clawhub_kv::Kv;
use parking_lot::Mutex;

use crate::fetch::Fetches;
use crate::finished::Finished;
use crate::index::Index;
use crate::locks::RootLocks;
use crate::open_files::OpenFiles;
use crate::paths::Paths;
use crate::recover;
use crate::room::Room;
use crate::sessions::Sessions;
use crate::space::Space;
use crate::store::{Shared, StoreConfig, asking};
use crate::uptime::StoreClock;
use crate::{BlobError, BlobStore};

impl BlobStore {
    /// Opens the store, and finishes or rolls back what a crash left:
    ///
    /// - an upload resumes at its durable offset; one without a row, or without its bytes, is dropped;
    /// - a replica whose row was not written yet is hashed: it becomes a replica, or is quarantined;
    /// - a row without its file is dropped (the node then reports the copy as lost);
    /// - a fetch resumes with the groups that were fsynced.
    ///
    /// Lists every directory of `blobs/`.
    ///
    /// # Errors
    /// Whatever the file system or the index say; nothing is guessed.
    pub async fn open(config: StoreConfig, index: Arc<dyn Kv>) -> Result<BlobStore, BlobError> {
        blocking(move || {
            let paths = Paths::open(config.dir.clone()).map_err(BlobError::io("opening the blob store"))?;
            let index = Index::open(index)?;
            let clock = StoreClock::open(&index)?;
            let sessions = Sessions::new(config.node, recover::uploads(&paths, &index, &clock)?);
            recover::fetches(&paths, &index)?;
            recover::replicas(&paths, &index)?;
            let finished = Finished::open(&index, &clock)?;
            let cached = recover::cached(&index)?;
            let space = Space::new(paths.free().map_err(asking())?);
            let shared = Shared {
                config,
                paths,
                index,
                clock,
                sessions: Mutex::new(sessions),
                finished,
                open: OpenFiles::default(),
                cached,
                fetches: Fetches::default(),
                buffers: Arc::default(),
                room: Room::default(),
                locks: RootLocks::default(),
                planned: Mutex::default(),
                space,
                held_back: AtomicBool::new(false),
            };
            let store = BlobStore { shared: Arc::new(shared) };
            store.cache().limit()?;
            Ok(store)
        })
        .await
    }

    /// Cancels the sessions and drops the fetches that nobody touched for `older_than`, or, without a byte, for ten
    /// minutes, of the time in which the store was open, and answers how many. To be called every minute: that time is
    /// written down here. Those in use at this moment are left alone. Also closes files that nobody reads any more.
    pub async fn expire(&self, older_than: Duration) -> usize {
        if let Err(error) = self.shared.clock.keep(&self.shared.index) {
            tracing::warn!(%error, "how long the store has been open is not written down");
        }
        if let Err(error) = self.shared.cached.save_uses(&self.shared.index) {
            tracing::warn!(%error, "when cached copies were last read is not written down");
        }
        let uploads = self.uploads().expire(older_than).await;
        self.uploads().forget_finished();
        self.shared.open.drop_idle();
        uploads + self.partials().expire(older_than).await
    }

    /// Makes every session and fetch durable as far as it got; for an orderly stop. What is not flushed
    /// when the process ends is received again.
    ///
    /// # Errors
    /// The first failure; the others are tried all the same.
    pub async fn close(&self) -> Result<(), BlobError> {
        let clock = self.shared.clock.keep(&self.shared.index);
        let uploads = self.uploads().flush_all().await;
        let fetches = self.partials().save().await;
        clock.and(uploads).and(fetches)
    }
}
