//! Which copies came for readers, and when each was last read: what [`crate::cache`] decides by.
//!
//! A copy is one of these as long as a row says so, which means that no receipt was ever made for it: what a receipt
//! may cover goes only by way of [`crate::Replicas::plan_removal`]. Making a receipt deletes the row, durably.
//!
//! Owns the table of these copies, in memory, and their rows. The times of reading are written down every few minutes at
//! most: a crash makes what was read since look older than it is.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clawhub_kv::Batch;
use clawhub_types::Root;
use parking_lot::Mutex;

use crate::BlobError;
use crate::cache_usage::CacheUsage;
use crate::index::{CachedRow, Index, delete_cached, put_cached};

/// Most copies that are kept, however small.
const COPIES: usize = 1 << 17;
/// What one takes of memory, at most, in bytes.
const COPY_MEMORY: usize = 128;
/// Memory for all of them, in bytes.
pub const CACHE_MEMORY: u64 = (COPIES * COPY_MEMORY) as u64;
/// A last use is written down once it is so much later than the one that is.
const SAVE: Duration = Duration::from_secs(600);
/// So many last uses are written down at once.
const SAVES: usize = 4096;

/// Whether the cluster's record says that this node holds a root; nothing if it cannot be read.
pub(crate) type Recorded = Box<dyn Fn(&Root) -> Option<bool> + Send + Sync>;

#[derive(Default)]
pub(crate) struct CachedCopies {
    table: Mutex<Table>,
    recorded: OnceLock<Recorded>,
    /// Most bytes there may be, as of the last look at the device.
    limit: AtomicU64,
    /// Held by who evicts.
    evicting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Table {
    copies: HashMap<Root, Copy>,
    bytes: u64,
    evicted: u64,
    evicted_bytes: u64,
}

/// Times are the store's clock's.
struct Copy {
    size: u64,
    used: u64,
    saved: u64,
}

impl CachedCopies {
    /// Those that there were at the last stop.
    pub(crate) fn new(rows: Vec<(Root, CachedRow)>) -> CachedCopies {
        let cached = CachedCopies::default();
        {
            let mut table = cached.table.lock();
            for (root, CachedRow { size, used }) in rows {
                table.insert(root, size, used);
            }
        }
        cached
    }

    pub(crate) fn contains(&self, root: &Root) -> bool {
        self.table.lock().copies.contains_key(root)
    }

    pub(crate) fn insert(&self, root: Root, size: u64, now: u64) {
        self.table.lock().insert(root, size, now);
    }

    pub(crate) fn remove(&self, root: &Root) {
        self.table.lock().remove(root);
    }

    /// Notes that a copy is read, if it is one of these.
    pub(crate) fn touch(&self, root: &Root, now: u64) {
        if let Some(copy) = self.table.lock().copies.get_mut(root) {
            copy.used = copy.used.max(now);
        }
    }

    /// Says how to look at the cluster's record. Only the first call counts.
    pub(crate) fn decide_by(&self, recorded: Recorded) {
        let _ = self.recorded.set(recorded);
    }

    /// Whether it is known how to look at the cluster's record: nothing is evicted before.
    pub(crate) fn may_evict(&self) -> bool {
        self.recorded.get().is_some()
    }

    /// Bytes of all of them.
    pub(crate) fn bytes(&self) -> u64 {
        self.table.lock().bytes
    }

    /// Bytes that could make way.
    pub(crate) fn evictable(&self) -> u64 {
        if self.may_evict() { self.bytes() } else { 0 }
    }

    /// Whether there are more than may be kept, however small.
    pub(crate) fn are_too_many(&self) -> bool {
        self.table.lock().copies.len() > COPIES
    }

    /// Notes how large the cache may be.
    pub(crate) fn set_limit(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// What there is and was.
    pub(crate) fn usage(&self) -> CacheUsage {
        let limit = self.limit.load(Ordering::Relaxed);
        let Table { copies, bytes, evicted, evicted_bytes } = &*self.table.lock();
        let copies = copies.len() as u64;
        CacheUsage { copies, bytes: *bytes, limit, evicted: *evicted, evicted_bytes: *evicted_bytes }
    }

    /// Who evicts, evicts alone: two would delete twice as much as is needed.
    pub(crate) async fn alone(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.evicting.lock().await
    }

    /// Notes that a copy of this size was deleted for others.
    pub(crate) fn evicted(&self, size: u64) {
        let mut table = self.table.lock();
        table.evicted += 1;
        table.evicted_bytes += size;
    }

    /// Makes a cached copy one that counts, durably. Under the root's lock.
    pub(crate) async fn promote(&self, index: &Index, root: &Root) -> Result<(), BlobError> {
        if self.contains(root) {
            let mut batch = Batch::default();
            delete_cached(&mut batch, root);
            index.commit(batch).await?;
            self.remove(root);
        }
        Ok(())
    }

    /// Writes down when copies were last read, as far as that has changed much.
    pub(crate) fn save_uses(&self, index: &Index) -> Result<(), BlobError> {
        let mut batch = Batch::default();
        for (root, row) in self.unsaved() {
            put_cached(&mut batch, &root, &row);
        }
        if batch.is_empty() { Ok(()) } else { index.write(batch) }
    }

    pub(crate) fn is_recorded(&self, root: &Root) -> Option<bool> {
        self.recorded.get()?(root)
    }

    /// The copies that were not read for longest, as many as it takes to have `bytes` and to be no more than there
    /// may be.
    pub(crate) fn oldest(&self, bytes: u64) -> Vec<Root> {
        let table = self.table.lock();
        let mut all: Vec<_> = table.copies.iter().map(|(root, copy)| (copy.used, *root, copy.size)).collect();
        all.sort_unstable();
        let surplus = all.len().saturating_sub(COPIES);
        let mut found = 0u64;
        let enough = |(number, (_, _, size)): &(usize, (u64, Root, u64))| {
            let needed = *number < surplus || found < bytes;
            found = found.saturating_add(*size);
            needed
        };
        all.into_iter().enumerate().take_while(enough).map(|(_, (_, root, _))| root).collect()
    }

    /// The next copies whose last use is to be written down, as if it were.
    fn unsaved(&self) -> Vec<(Root, CachedRow)> {
        let mut table = self.table.lock();
        let late = |copy: &Copy| u128::from(copy.used - copy.saved) >= SAVE.as_millis();
        let late = table.copies.iter_mut().filter(|(_, copy)| late(copy)).take(SAVES);
        late.map(|(root, copy)| {
            copy.saved = copy.used;
            (*root, CachedRow { size: copy.size, used: copy.used })
        })
        .collect()
    }
}

impl Table {
    fn insert(&mut self, root: Root, size: u64, used: u64) {
        self.remove(&root);
        self.copies.insert(root, Copy { size, used, saved: used });
        self.bytes += size;
    }

    fn remove(&mut self, root: &Root) -> Option<u64> {
        let size = self.copies.remove(root)?.size;
        self.bytes -= size;
        Some(size)
    }
}
