//! Copies that came for readers: a cache. They are kept within a limit, the longest unread go first, and they go
//! before an upload is refused for want of room.
//!
//! A copy is one of these as long as a row says so, which means that no receipt was ever made for it: what a receipt
//! may cover goes only by way of [`crate::Replicas::plan_removal`]. Making a receipt deletes the row, durably. So
//! deleting one of these needs nobody's leave; all the same the owner looks at the cluster's record before
//! ([`Cache::decide_by`]), since a copy of before may stand in it.
//!
//! Owns the table of these copies and when each was last read, in memory, and their rows. The times are written down
//! every few minutes at most: a crash makes what was read since look older than it is.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

use clawhub_durable::task::{blocking, detached};
use clawhub_kv::Batch;
use clawhub_types::Root;
use futures::{StreamExt, stream};
use parking_lot::Mutex;

use crate::index::{CachedRow, delete_cached, put_cached};
use crate::{BlobError, BlobStore};

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
/// Copies deleted at the same time: each waits for an fsync or two.
const PARALLEL: usize = 16;

/// How many bytes of copies the cache may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheLimit {
    /// So many.
    Bytes(u64),
    /// So many percent of the device.
    Share(u8),
}

impl CacheLimit {
    fn of(self, device: u64) -> u64 {
        match self {
            CacheLimit::Bytes(bytes) => bytes,
            CacheLimit::Share(percent) => device / 100 * u64::from(percent.min(100)),
        }
    }
}

/// What the cache has and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheUsage {
    /// Copies.
    pub copies: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Most bytes that it may have.
    pub limit: u64,
    /// Copies that were deleted for others or for want of room, since the start.
    pub evicted: u64,
    /// Their bytes.
    pub evicted_bytes: u64,
}

/// Whether the cluster's record says that this node holds a root; nothing if it cannot be read.
type Recorded = Box<dyn Fn(&Root) -> Option<bool> + Send + Sync>;

#[derive(Default)]
pub(crate) struct CachedCopies {
    table: Mutex<Table>,
    recorded: OnceLock<Recorded>,
    /// Who evicts, evicts alone: two would delete twice as much as is needed.
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

    fn bytes(&self) -> u64 {
        self.table.lock().bytes
    }

    /// Bytes that could make way.
    pub(crate) fn evictable(&self) -> u64 {
        if self.recorded.get().is_some() { self.bytes() } else { 0 }
    }

    fn is_recorded(&self, root: &Root) -> Option<bool> {
        self.recorded.get()?(root)
    }

    /// The copies that were not read for longest, as many as it takes to have `bytes` and to be no more than there
    /// may be.
    fn oldest(&self, bytes: u64) -> Vec<Root> {
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

/// The cache of a store, as a handle.
#[derive(Clone, Copy)]
pub struct Cache<'a> {
    store: &'a BlobStore,
}

impl BlobStore {
    /// The copies here that came for readers.
    pub fn cache(&self) -> Cache<'_> {
        Cache { store: self }
    }
}

impl Cache<'_> {
    /// Says how to look at the cluster's record: whether it names this node as a holder of a root; nothing if it cannot
    /// be read. It may block. Nothing is evicted before this is called, and only the first call counts.
    pub fn decide_by(self, recorded: impl Fn(&Root) -> Option<bool> + Send + Sync + 'static) {
        let _ = self.store.shared.cached.recorded.set(Box::new(recorded));
    }

    /// Whether a copy is part of it.
    pub fn contains(self, root: &Root) -> bool {
        self.store.shared.cached.contains(root)
    }

    /// What it has and did. Asks the device for its size.
    ///
    /// # Errors
    /// [`BlobError::Io`] if the device cannot be asked.
    pub fn usage(self) -> Result<CacheUsage, BlobError> {
        let limit = self.limit()?;
        let Table { copies, bytes, evicted, evicted_bytes } = &*self.store.shared.cached.table.lock();
        let copies = copies.len() as u64;
        Ok(CacheUsage { copies, bytes: *bytes, limit, evicted: *evicted, evicted_bytes: *evicted_bytes })
    }

    fn limit(self) -> Result<u64, BlobError> {
        match self.store.shared.config.cache {
            CacheLimit::Bytes(bytes) => Ok(bytes),
            share => Ok(share.of(self.store.capacity()?)),
        }
    }

    /// Makes room for a copy of a root that comes for a reader, within the cache's limit and the device's. Answers
    /// whether there is: if not, the bytes are to be passed through. Nothing is set aside for it.
    ///
    /// # Errors
    /// [`BlobError::Io`] if the device cannot be asked; [`BlobError::Index`].
    pub async fn make_room(self, root: &Root, size: u64) -> Result<bool, BlobError> {
        let limit = self.limit()?;
        if size > limit {
            return Ok(false);
        }
        let over = || (self.store.shared.cached.bytes() + self.coming(root) + size).saturating_sub(limit);
        if over() > 0 {
            self.evict(over).await?;
        }
        if over() > 0 {
            return Ok(false);
        }
        let wanted = size.saturating_add(self.headroom());
        Ok(self.store.ensure_room(wanted).await.is_ok())
    }

    /// Bytes of fetches for readers that are under way, or broke off and may go on.
    fn coming(self, but: &Root) -> u64 {
        let running = self.store.shared.fetches.running.lock();
        let others = running.iter().filter(|(root, fetch)| *root != but && !fetch.is_promised());
        others.map(|(_, fetch)| fetch.data.size).sum()
    }

    /// What the cache leaves free beyond what uploads must: what comes in before it can make way.
    fn headroom(self) -> u64 {
        self.store.shared.config.min_free / 4
    }

    /// Brings the cache within its limit, and the device above what must stay free on it and a bit more. To be called
    /// every few seconds.
    ///
    /// # Errors
    /// [`BlobError::Io`] if the device cannot be asked; [`BlobError::Index`].
    pub async fn trim(self) -> Result<(), BlobError> {
        let limit = self.limit()?;
        let cached = &self.store.shared.cached;
        let over = || cached.bytes().saturating_sub(limit);
        if over() > 0 || cached.table.lock().copies.len() > COPIES {
            self.evict(over).await?;
        }
        self.free(self.headroom()).await
    }

    /// Evicts until `more` bytes can be written and what must stay free still is, or nothing is left to evict.
    ///
    /// # Errors
    /// [`BlobError::Io`] if the device cannot be asked; [`BlobError::Index`].
    pub(crate) async fn free(self, more: u64) -> Result<(), BlobError> {
        let wanted = self.store.shared.config.min_free.saturating_add(more);
        let short = |store: &BlobStore| Ok::<_, BlobError>(wanted.saturating_sub(store.free_space()?));
        // A file that is still read gives its room back later.
        for _ in 0..2 {
            if self.store.shared.cached.bytes() == 0 || short(self.store)? == 0 {
                return Ok(());
            }
            self.evict(|| short(self.store).unwrap_or(0)).await?;
            self.store.shared.space.forget();
        }
        Ok(())
    }

    /// Deletes the copies that were not read for longest, so many that their bytes are those that `needed` says once
    /// it is this one's turn.
    async fn evict(self, needed: impl Fn() -> u64) -> Result<(), BlobError> {
        if self.store.shared.cached.recorded.get().is_none() {
            return Ok(());
        }
        let _alone = self.store.shared.cached.evicting.lock().await;
        let roots = self.store.shared.cached.oldest(needed());
        let evicted = stream::iter(roots).map(|root| self.evict_one(root)).buffer_unordered(PARALLEL);
        let outcomes: Vec<Result<(), BlobError>> = evicted.collect().await;
        outcomes.into_iter().collect()
    }

    /// Deletes a copy, unless a receipt was made for it or the cluster's record names it. Readers that have it open
    /// are served to the end.
    async fn evict_one(self, root: Root) -> Result<(), BlobError> {
        let store = self.store.clone();
        detached(async move {
            let _exclusive = store.shared.locks.lock(&root).await;
            if !store.shared.cached.contains(&root) {
                return Ok(());
            }
            let asker = store.clone();
            let recorded =
                blocking(move || Ok::<_, BlobError>(asker.shared.cached.is_recorded(&root))).await?;
            match recorded {
                Some(false) => {}
                Some(true) => return store.cache().promote(&root).await,
                None => return Ok(()),
            }
            let size = store.holds(&root).unwrap_or_default();
            store.replicas().forget(&root).await?;
            let shared = store.shared.clone();
            blocking(move || shared.paths.unlink(&root).map_err(BlobError::io("deleting a cached copy")))
                .await?;
            tracing::debug!(%root, size, "a cached copy made way");
            let mut table = store.shared.cached.table.lock();
            table.evicted += 1;
            table.evicted_bytes += size;
            Ok(())
        })
        .await
    }

    /// Makes a cached copy one that counts, durably. Under the root's lock.
    pub(crate) async fn promote(self, root: &Root) -> Result<(), BlobError> {
        if self.store.shared.cached.contains(root) {
            let mut batch = Batch::default();
            delete_cached(&mut batch, root);
            self.store.shared.index.commit(batch).await?;
            self.store.shared.cached.remove(root);
        }
        Ok(())
    }

    /// Writes down when copies were last read, as far as that has changed much.
    pub(crate) fn save_uses(self) -> Result<(), BlobError> {
        let mut batch = Batch::default();
        for (root, row) in self.store.shared.cached.unsaved() {
            put_cached(&mut batch, &root, &row);
        }
        if batch.is_empty() { Ok(()) } else { self.store.shared.index.write(batch) }
    }
}
