//! Fetches as callers see them: one fetcher fills a partial blob, any number of readers follow it
//! (invariant 17). Nobody waits for a slow reader, and a reader that leaves stops nothing.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use clawhub_durable::task::{blocking, detached};
use clawhub_types::Root;
use futures::{Stream, stream};
use tokio::sync::watch;

use crate::buffers::READ_BYTES;
use crate::fetch::{CHECKPOINT, Fetch, Progress};
use crate::paths::write_durably;
use crate::tree::{GROUP, list_matches};
use crate::{BlobError, BlobStore, Sealed};

/// How long a reader waits for any progress of the fetch.
const STALL: Duration = Duration::from_secs(60);

/// A fetch in progress. A handle; clones share the fetch.
#[derive(Clone)]
pub struct Partial {
    fetch: Arc<Fetch>,
    store: BlobStore,
}

impl Partial {
    pub(crate) fn new(fetch: Arc<Fetch>, store: BlobStore) -> Partial {
        Partial { fetch, store }
    }

    /// The root being fetched.
    pub fn root(&self) -> Root {
        self.fetch.data.root
    }

    /// The blob's size in bytes.
    pub fn size(&self) -> u64 {
        self.fetch.data.size
    }

    /// Asks [`Partial::finish`] for SHA-512 too: a client named the blob by it.
    pub fn want_sha512(&self) {
        self.fetch.want_sha512.store(true, Ordering::Release);
    }

    /// Says that the copy is to count, not to be a part of the cache. One for which that is said too late becomes so
    /// with its receipt.
    pub fn promise(&self) {
        self.fetch.promise();
    }

    /// Whether writes may begin: the group list is there, or the blob needs none.
    pub fn has_groups(&self) -> bool {
        self.fetch.data.list().is_some()
    }

    /// Sets the group list, 32 bytes per group, as [`crate::Blob::groups`] gives it: empty for a blob of
    /// at most one group.
    ///
    /// # Errors
    /// [`BlobError::Corrupt`] if it is not this root's, [`BlobError::Io`].
    pub async fn set_groups(&self, list: Bytes) -> Result<(), BlobError> {
        let fetch = self.fetch.clone();
        let store = self.store.clone();
        blocking(move || {
            let root = fetch.data.root;
            let size = fetch.data.size;
            if fetch.data.list().is_some() || fetch.is_over() {
                return Ok(());
            }
            if !list_matches(&root, size, &list) {
                return Err(BlobError::Corrupt { root, at: 0 });
            }
            let path = store.shared.paths.partial(&root).ob;
            write_durably(&path, &list).map_err(BlobError::io("writing a group list"))?;
            fetch.data.set_list(list);
            Ok(())
        })
        .await
    }

    /// The next run of bytes at or after `from` that are not there, in whole groups; `None` if none are
    /// missing.
    pub fn missing(&self, from: u64) -> Option<Range<u64>> {
        let first = self.fetch.present.next(from / GROUP, false)?;
        let end = self.fetch.present.next(first, true).map_or(self.size(), |group| group * GROUP);
        Some(first * GROUP..end.min(self.size()))
    }

    /// Checks and writes whole groups beginning at `group_start`; the last group of the blob may be
    /// short. They are visible when this returns. Calls for different groups may run side by side.
    ///
    /// # Errors
    /// [`BlobError::Corrupt`] if a group is not what the root says: nothing of the call is written, and
    /// the source is to blame. [`BlobError::Range`] if these are not whole groups,
    /// [`BlobError::Incomplete`] without a group list, [`BlobError::NoSpace`], [`BlobError::HeldBack`],
    /// [`BlobError::FetchFailed`] if it was given up, [`BlobError::Io`].
    pub async fn write(&self, group_start: u64, bytes: Bytes) -> Result<(), BlobError> {
        let size = self.size();
        let length = bytes.len() as u64;
        let end = group_start.checked_add(length).filter(|end| *end <= size);
        let whole = end.is_some_and(|end| end == size || end.is_multiple_of(GROUP));
        if !whole || !group_start.is_multiple_of(GROUP) {
            return Err(BlobError::Range {
                start: group_start,
                end: group_start.saturating_add(length),
                size,
            });
        }
        self.store.cache().ensure_room(length).await?;
        let fetch = self.fetch.clone();
        blocking(move || fetch.write(group_start, &bytes)).await?;
        self.follow();
        if self.fetch.unsaved.load(Ordering::Acquire) >= CHECKPOINT {
            self.checkpoint();
        }
        Ok(())
    }

    /// Lets SHA-256 catch up, on its own thread.
    fn follow(&self) {
        let fetch = self.fetch.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = fetch.follow(false) {
                tracing::warn!(root = %fetch.data.root, %error, "hashing a partial blob");
            }
        });
    }

    /// Checkpoints beside the writes, one at a time.
    fn checkpoint(&self) {
        if self.fetch.saving.swap(true, Ordering::AcqRel) {
            return;
        }
        let fetch = self.fetch.clone();
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = store.shared.checkpoint(&fetch) {
                tracing::error!(root = %fetch.data.root, %error, "a partial blob's checkpoint");
            }
            fetch.saving.store(false, Ordering::Release);
        });
    }

    /// Turns the complete partial into a copy and answers what it is; the fetch is over. Readers go on. A receipt is
    /// for [`BlobStore::receipt`] to make: unless [`Partial::promise`] was called, the copy is a part of the cache.
    ///
    /// # Errors
    /// [`BlobError::Incomplete`] if bytes are missing (perhaps again: ask [`Partial::missing`]);
    /// [`BlobError::FetchFailed`] if it was given up; [`BlobError::Corrupt`], [`BlobError::Io`],
    /// [`BlobError::Index`].
    pub async fn finish(&self) -> Result<Sealed, BlobError> {
        let Partial { fetch, store } = self.clone();
        detached(async move {
            let hasher = fetch.clone();
            let digests = blocking(move || hasher.digests()).await?;
            let root = fetch.data.root;
            let sealed = Sealed { root, size: fetch.data.size, digests };
            // Nobody may begin a new fetch on files that are about to move.
            let _alone = store.shared.fetches.locks.lock(&root).await;
            if fetch.is_over() {
                return Err(BlobError::FetchFailed("it was given up".to_owned()));
            }
            let placed = store.partials().place(fetch.clone(), &sealed).await;
            // If it failed halfway, the next fetch finds out from the disk how far it got.
            store.shared.fetches.running.lock().remove(&root);
            placed?;
            let ending = fetch.clone();
            blocking(move || {
                ending.end();
                Ok::<_, BlobError>(())
            })
            .await?;
            store.partials().drop(root).await?;
            Ok(sealed)
        })
        .await
    }

    /// Tells the readers of now that the fetch has failed. What was fetched is kept for the next one; a fetch that
    /// got nothing leaves nothing.
    pub async fn fail(&self, reason: String) {
        self.tell(reason);
        if self.fetch.is_empty() {
            self.discard().await;
        } else if self.fetch.unsaved.load(Ordering::Acquire) > 0 {
            self.checkpoint();
        }
    }

    /// The same for a fetch whose bytes there is no room for: they go too.
    pub async fn give_up(&self, reason: String) {
        self.tell(reason);
        self.discard().await;
    }

    fn tell(&self, reason: String) {
        self.fetch.progress.send_modify(|progress| {
            progress.failures += 1;
            progress.reason = reason;
        });
    }

    async fn discard(&self) {
        let Partial { fetch, store } = self.clone();
        if let Err(error) = detached(async move { store.partials().discard(fetch).await }).await {
            tracing::warn!(root = %self.root(), %error, "a partial blob is still there");
        }
    }

    /// The bytes of `range` as they arrive, in pieces of at most 512 KiB. Ends after an error:
    /// [`BlobError::FetchFailed`], [`BlobError::Stalled`] after a minute in which nothing arrived,
    /// [`BlobError::Range`] outside the blob.
    pub fn read(
        &self,
        range: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, BlobError>> + Send + use<> + 'static {
        let mut progress = self.fetch.progress.subscribe();
        let failures = progress.borrow_and_update().failures;
        let reader =
            Reader { fetch: self.fetch.clone(), progress, failures, at: range.start, end: range.end };
        let start = self.fetch.data.bounds(&range).map(|()| reader);
        stream::unfold(Some(start), |state| async move {
            match state? {
                Err(error) => Some((Err(error), None)),
                Ok(mut reader) => match reader.next().await? {
                    Ok(bytes) => Some((Ok(bytes), Some(Ok(reader)))),
                    Err(error) => Some((Err(error), None)),
                },
            }
        })
    }
}

/// One reader that follows the file as it grows.
struct Reader {
    fetch: Arc<Fetch>,
    progress: watch::Receiver<Progress>,
    /// Failures that happened before this reader came.
    failures: u64,
    at: u64,
    end: u64,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<Bytes, BlobError>> {
        loop {
            if self.at >= self.end {
                return None;
            }
            let piece_end = (self.at / READ_BYTES as u64 + 1) * READ_BYTES as u64;
            let next = self.fetch.run(self.at, self.end.min(piece_end));
            let outcome =
                if next > self.at { self.take(next).await } else { self.wait().await.map(|()| None) };
            match outcome {
                Ok(None) => {}
                Ok(Some(bytes)) => {
                    self.at = next;
                    return Some(Ok(bytes));
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Nothing if a group turned out bad: it is then missing.
    async fn take(&self, next: u64) -> Result<Option<Bytes>, BlobError> {
        let range = self.at..next;
        if let Some(bytes) = self.fetch.data.read_now(&range) {
            return Ok(Some(bytes));
        }
        let fetch = self.fetch.clone();
        match blocking(move || fetch.data.read(&range)).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(BlobError::Corrupt { at, .. }) => {
                self.fetch.lose(at);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn wait(&mut self) -> Result<(), BlobError> {
        let root = self.fetch.data.root;
        // The fetch holds the sender as long as this reader holds the fetch, so `changed` cannot fail.
        let changed = tokio::time::timeout(STALL, self.progress.changed()).await;
        let progress = self.progress.borrow_and_update();
        if progress.failures > self.failures {
            return Err(BlobError::FetchFailed(progress.reason.clone()));
        }
        changed.map(drop).map_err(|_| BlobError::Stalled(root))
    }
}
