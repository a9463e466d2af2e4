//! Copies that came for readers, as a cache: they are kept within a limit, the longest unread go first, and they go
//! before an upload is refused for want of room.
//!
//! Owns nothing: which copies these are, [`crate::cached`] knows. Deleting one needs nobody's leave, since no receipt was
//! made for it; all the same the owner looks at the cluster's record before ([`Cache::decide_by`]), since a copy of
//! before may stand in it.

use clawhub_durable::task::{blocking, detached};
use clawhub_types::Root;
use futures::{StreamExt, stream};

use crate::cache_usage::{CacheLimit, CacheUsage};
use crate::{BlobError, BlobStore};

/// Copies deleted at the same time: each waits for an fsync or two.
const PARALLEL: usize = 16;

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
        self.store.shared.cached.decide_by(Box::new(recorded));
    }

    /// Whether a copy is part of it.
    pub fn contains(self, root: &Root) -> bool {
        self.store.shared.cached.contains(root)
    }

    /// What it has and did, as of now.
    pub fn usage(self) -> CacheUsage {
        self.store.shared.cached.usage()
    }

    /// Most bytes that it may have. Asks the device for its size.
    pub(crate) fn limit(self) -> Result<u64, BlobError> {
        let limit = match self.store.shared.config.cache {
            CacheLimit::Bytes(bytes) => bytes,
            share => share.of(self.store.capacity()?),
        };
        self.store.shared.cached.set_limit(limit);
        Ok(limit)
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
        Ok(self.ensure_room(wanted).await.is_ok())
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
        if over() > 0 || cached.are_too_many() {
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
        if !self.store.shared.cached.may_evict() {
            return Ok(());
        }
        let _alone = self.store.shared.cached.alone().await;
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
                Some(true) => return store.shared.cached.promote(&store.shared.index, &root).await,
                None => return Ok(()),
            }
            let size = store.holds(&root).unwrap_or_default();
            store.replicas().forget(&root).await?;
            let shared = store.shared.clone();
            blocking(move || shared.paths.unlink(&root).map_err(BlobError::io("deleting a cached copy")))
                .await?;
            tracing::debug!(%root, size, "a cached copy made way");
            store.shared.cached.evicted(size);
            Ok(())
        })
        .await
    }

    /// Refuses if `more` bytes would leave less of the device than must stay free, once the cache has made way.
    ///
    /// # Errors
    /// [`BlobError::NoSpace`], [`BlobError::HeldBack`]; [`BlobError::Io`] if the device cannot be asked.
    pub(crate) async fn ensure_room(self, more: u64) -> Result<(), BlobError> {
        match self.store.ensure_space(more) {
            Err(BlobError::NoSpace { .. }) => {
                self.free(more).await?;
                self.store.ensure_space(more)
            }
            other => other,
        }
    }
}
