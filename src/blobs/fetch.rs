//! The file behind a fetch: which groups it has, and what of it survives a restart.
//!
//! A group becomes visible when it was checked and written. It survives a restart once the row says
//! so, and the row is written only after an fdatasync that began after the group was: every
//! [`CHECKPOINT`] bytes and at close. Groups restored from a row count as present, and are checked again
//! when first read; one that fails is missing again. SHA-256 follows the file like any other reader, so
//! little is left to hash when the last group arrives.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clawhub_durable::now_millis;
use clawhub_durable::promised::{sync_blob, sync_blob_dir};
use clawhub_durable::task::blocking;
use clawhub_kv::Batch;
use clawhub_types::{Digests, Root};
use parking_lot::Mutex;
use sha2::{Digest, Sha256, Sha512};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::bits::Bits;
use crate::buffers::READ_BYTES;
use crate::checked::CheckedFile;
use crate::index::{PartialRow, delete_partial, put_partial};
use crate::ingest::digest_file;
use crate::tree::{GROUP, group_count, group_matches, list_len, list_matches, root_of};
use crate::{BlobError, BlobStore};

/// Bytes between two checkpoints. What came since the last is fetched again after a crash.
pub(crate) const CHECKPOINT: u64 = 64 << 20;

/// The fetches of a store. They stay here, and resumable without a look at the disk, until they are
/// finished or expire.
#[derive(Default)]
pub(crate) struct Fetches {
    pub(crate) running: Mutex<HashMap<Root, Arc<Fetch>>>,
    /// Creating and expiring exclude each other: both touch files that a new fetch would take over.
    pub(crate) opening: tokio::sync::Mutex<()>,
}

pub(crate) struct Fetch {
    pub(crate) data: CheckedFile,
    /// Groups that are in the file.
    pub(crate) present: Bits,
    saved: Mutex<Saved>,
    pub(crate) unsaved: AtomicU64,
    pub(crate) saving: AtomicBool,
    sha256: Mutex<Follower>,
    pub(crate) want_sha512: AtomicBool,
    pub(crate) progress: watch::Sender<Progress>,
    touched: Mutex<Instant>,
}

/// What the row says. Locked while a checkpoint runs.
struct Saved {
    groups: Bits,
    /// The fetch is over and has no row any more.
    over: bool,
}

#[derive(Clone, Default)]
pub(crate) struct Progress {
    pub(crate) failures: u64,
    pub(crate) reason: String,
}

/// SHA-256 of the beginning of the file.
struct Follower {
    hash: Sha256,
    at: u64,
}

/// The fetches of a store.
#[derive(Clone, Copy)]
pub struct Partials<'a> {
    pub(crate) store: &'a BlobStore,
}

impl BlobStore {
    /// The blobs that are being fetched.
    pub fn partials(&self) -> Partials<'_> {
        Partials { store: self }
    }
}

impl Partials<'_> {
    /// Blocking. From the row if it fits, else from nothing.
    pub(crate) fn open_blocking(self, root: Root, size: u64) -> Result<Fetch, BlobError> {
        let failed = |error| BlobError::io("opening a partial blob")(error);
        let files = self.store.shared.paths.partial(&root);
        if let Some((data, list, present)) = self.restore(root, size)? {
            let saved = Bits::from_bytes(group_count(size), &present.to_bytes());
            let fetch = self.fetch(root, size, data, present, saved);
            fetch.data.set_list(list);
            return Ok(fetch);
        }
        self.store.ensure_space(size)?;
        let mut batch = Batch::default();
        delete_partial(&mut batch, &root);
        self.store.shared.index.write(batch)?;
        files.remove().map_err(failed)?;
        let mut options = OpenOptions::new();
        let data = options.read(true).write(true).create_new(true).open(&files.data).map_err(failed)?;
        if let Err(error) = reserve(&data, size) {
            files.remove().map_err(failed)?;
            return Err(failed(error));
        }
        sync_blob_dir(&self.store.shared.paths.partials()).map_err(failed)?;
        let fetch = self.fetch(root, size, data, Bits::new(group_count(size)), None);
        if list_len(size) == 0 {
            fetch.data.set_list(Bytes::new());
        }
        Ok(fetch)
    }

    /// What a row and its files still have, if they fit each other.
    fn restore(self, root: Root, size: u64) -> Result<Option<(File, Bytes, Bits)>, BlobError> {
        let Some(row) = self.store.shared.index.partial(&root)?.filter(|row| row.size == size) else {
            return Ok(None);
        };
        let files = self.store.shared.paths.partial(&root);
        let Ok(data) = OpenOptions::new().read(true).write(true).open(&files.data) else { return Ok(None) };
        let list =
            if list_len(size) == 0 { Vec::new() } else { std::fs::read(&files.ob).unwrap_or_default() };
        let fits = data.metadata().is_ok_and(|file| file.len() == size) && list_matches(&root, size, &list);
        let present = Bits::from_bytes(group_count(size), &row.groups);
        Ok(present.filter(|_| fits).map(|present| (data, Bytes::from(list), present)))
    }

    fn fetch(self, root: Root, size: u64, data: File, present: Bits, saved: Option<Bits>) -> Fetch {
        Fetch {
            data: CheckedFile::new(root, size, data, self.store.shared.buffers.clone()),
            present,
            saved: Mutex::new(Saved {
                groups: saved.unwrap_or_else(|| Bits::new(group_count(size))),
                over: false,
            }),
            unsaved: AtomicU64::new(0),
            saving: AtomicBool::new(false),
            sha256: Mutex::new(Follower { hash: Sha256::new(), at: 0 }),
            want_sha512: AtomicBool::new(false),
            progress: watch::Sender::default(),
            touched: Mutex::new(Instant::now()),
        }
    }

    pub(crate) async fn save(self) -> Result<(), BlobError> {
        let running: Vec<_> = self.store.shared.fetches.running.lock().values().cloned().collect();
        let mut outcome = Ok(());
        for fetch in running {
            let store = self.store.clone();
            outcome = outcome.and(blocking(move || fetch.checkpoint(&store)).await);
        }
        outcome
    }

    /// Drops fetches that nobody holds and nobody touched for `older_than`; answers how many.
    pub(crate) async fn expire(self, older_than: Duration) -> usize {
        let _alone = self.store.shared.fetches.opening.lock().await;
        let mut expired = Vec::new();
        let mut running = Vec::new();
        self.store.shared.fetches.running.lock().retain(|root, fetch| {
            let idle = Arc::strong_count(fetch) == 1 && fetch.touched.lock().elapsed() >= older_than;
            if idle {
                expired.push(*root)
            } else {
                running.push(*root)
            }
            !idle
        });
        let rows = self.store.shared.index.partials().unwrap_or_else(|error| {
            tracing::error!(%error, "the blob index cannot be read");
            Vec::new()
        });
        let old = now_millis().saturating_sub(older_than.as_millis() as u64);
        let resting = rows.iter().filter(|(_, row)| row.touched_at <= old).map(|(root, _)| *root);
        expired.extend(resting.filter(|root| !running.contains(root)));
        expired.sort_unstable();
        expired.dedup();
        for root in &expired {
            if let Err(error) = self.drop(*root).await {
                tracing::warn!(%root, %error, "a partial blob did not expire");
            }
        }
        expired.len()
    }

    pub(crate) async fn drop(self, root: Root) -> Result<(), BlobError> {
        let mut batch = Batch::default();
        delete_partial(&mut batch, &root);
        self.store.shared.index.write(batch)?;
        let files = self.store.shared.paths.partial(&root);
        blocking(move || files.remove().map_err(BlobError::io("deleting a partial blob"))).await
    }
}

/// Reserves the file's blocks where the file system can, its length everywhere.
fn reserve(file: &File, size: u64) -> io::Result<()> {
    use rustix::fs::FallocateFlags;
    use rustix::io::Errno;
    if size == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
        Err(Errno::OPNOTSUPP) => file.set_len(size),
        other => Ok(other?),
    }
}

impl Fetch {
    pub(crate) fn changed(&self) {
        *self.touched.lock() = Instant::now();
        self.progress.send_modify(|_| {});
    }

    /// Bytes present from `at` on, up to `end`.
    pub(crate) fn run(&self, at: u64, end: u64) -> u64 {
        let first_missing = self.present.next(at / GROUP, false);
        first_missing.map_or(end, |group| end.min(group * GROUP)).max(at)
    }

    /// A group that was present is not what it should be: to be fetched again.
    pub(crate) fn lose(&self, at: u64) {
        tracing::warn!(root = %self.data.root, at, "a group of a partial blob went bad and is fetched again");
        self.present.clear(at / GROUP);
        self.changed();
    }

    /// Blocking. Checks and writes whole groups; those that are there already are written again, which
    /// changes nothing.
    pub(crate) fn write(&self, start: u64, bytes: &[u8]) -> Result<(), BlobError> {
        let root = self.data.root;
        let size = self.data.size;
        let list = self.data.list().ok_or(BlobError::Incomplete(root))?;
        for (index, group) in (start / GROUP..).zip(bytes.chunks(GROUP as usize)) {
            if !group_matches(&root, list, index, group) {
                return Err(BlobError::Corrupt { root, at: index * GROUP });
            }
        }
        self.data.file.write_all_at(bytes, start).map_err(BlobError::io("writing a partial blob"))?;
        for index in start / GROUP..(start + bytes.len() as u64).div_ceil(GROUP) {
            self.data.mark(index);
            self.present.set(index);
        }
        debug_assert!(start + bytes.len() as u64 <= size);
        self.unsaved.fetch_add(bytes.len() as u64, Ordering::AcqRel);
        self.changed();
        Ok(())
    }

    /// Blocking. Makes what is present durable, then says so in the row.
    pub(crate) fn checkpoint(&self, store: &BlobStore) -> Result<(), BlobError> {
        let mut saved = self.saved.lock();
        if saved.over || self.data.list().is_none() {
            return Ok(());
        }
        self.unsaved.store(0, Ordering::Release);
        let groups = self.present.to_bytes();
        if let Err(error) = sync_blob(&self.data.file) {
            // The pages that failed are gone from memory or will be: only what was saved is there.
            self.present.copy_from(&saved.groups);
            self.data.distrust();
            return Err(BlobError::io("fsyncing a partial blob")(error));
        }
        let row = PartialRow { size: self.data.size, touched_at: now_millis(), groups };
        let mut batch = Batch::default();
        put_partial(&mut batch, &self.data.root, &row);
        store.shared.index.write(batch)?;
        if let Some(bits) = Bits::from_bytes(group_count(self.data.size), &row.groups) {
            saved.groups = bits;
        }
        Ok(())
    }

    /// Blocking. No checkpoint begins after this: the fetch has no row any more.
    pub(crate) fn end(&self) {
        self.saved.lock().over = true;
    }

    /// Blocking. Hashes what has become contiguous since the last time; `wait` for a follower at work.
    pub(crate) fn follow(&self, wait: bool) -> Result<(), BlobError> {
        let follower = if wait { Some(self.sha256.lock()) } else { self.sha256.try_lock() };
        let Some(mut follower) = follower else { return Ok(()) };
        loop {
            let next = self.run(follower.at, self.data.size.min(follower.at + READ_BYTES as u64));
            if next == follower.at {
                return Ok(());
            }
            match self.data.read(&(follower.at..next)) {
                Ok(bytes) => follower.hash.update(&bytes),
                Err(BlobError::Corrupt { at, .. }) => {
                    self.lose(at);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            follower.at = next;
        }
    }

    /// Blocking. Digests over the whole, if it is there and right.
    pub(crate) fn digests(&self) -> Result<Digests, BlobError> {
        let root = self.data.root;
        let size = self.data.size;
        self.follow(true)?;
        let follower = self.sha256.lock();
        if follower.at < size || self.present.next(0, false).is_some() {
            return Err(BlobError::Incomplete(root));
        }
        if size == 0 && root_of(&[]) != root {
            return Err(BlobError::Corrupt { root, at: 0 });
        }
        let sha512 = match self.want_sha512.load(Ordering::Acquire) {
            true => Some(digest_file::<Sha512>(&self.data.file, size)?.into()),
            false => None,
        };
        Ok(Digests { sha256: follower.hash.clone().finalize().into(), sha512 })
    }
}
