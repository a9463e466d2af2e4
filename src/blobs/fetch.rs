//! The file behind a fetch: which groups it has, and what of it survives a restart.
//!
//! A group becomes visible when it was checked and written. It survives a restart once the row says
//! so, and the row is written only after an fdatasync that began after the group was: every
//! [`CHECKPOINT`] bytes and at close. Groups restored from a row count as present, and are checked again
//! when first read; one that fails is missing again. SHA-256 follows the file like any other reader, so
//! little is left to hash when the last group arrives.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clawhub_durable::promised::{sync_blob, sync_blob_dir};
use clawhub_kv::Batch;
use clawhub_types::{Digests, Root};
use parking_lot::Mutex;
use sha2::{Digest, Sha256, Sha512};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::BlobError;
use crate::bits::Bits;
use crate::buffers::READ_BYTES;
use crate::checked::CheckedFile;
use crate::index::{Index, PartialRow, put_partial};
use crate::ingest::digest_file;
use crate::locks::RootLocks;
use crate::paths::Paths;
use crate::tree::{GROUP, group_count, group_matches, root_of};
use crate::uptime::StoreClock;

/// Bytes between two checkpoints. What came since the last is fetched again after a crash.
pub(crate) const CHECKPOINT: u64 = 64 << 20;

/// The fetches of a store. They stay here, and resumable without a look at the disk, until they are
/// finished or expire.
#[derive(Default)]
pub(crate) struct Fetches {
    pub(crate) running: Mutex<HashMap<Root, Arc<Fetch>>>,
    /// Beginning a fetch of a root and ending one exclude each other: both touch files of the same names. Taken
    /// before the root's lock of the store.
    pub(crate) locks: RootLocks,
}

pub(crate) struct Fetch {
    pub(crate) data: CheckedFile,
    /// Groups that are in the file.
    pub(crate) present: Bits,
    saved: Mutex<Saved>,
    over: AtomicBool,
    pub(crate) unsaved: AtomicU64,
    pub(crate) saving: AtomicBool,
    sha256: Mutex<Follower>,
    pub(crate) want_sha512: AtomicBool,
    /// A receipt is wanted: the copy is to be no part of the cache.
    promised: AtomicBool,
    pub(crate) progress: watch::Sender<Progress>,
    touched: Mutex<Instant>,
}

/// What the row says. Locked while a checkpoint runs.
struct Saved {
    groups: Bits,
    /// The names of the files are durable.
    named: bool,
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

impl Fetch {
    /// A fetch into a file in which these groups are present; `saved` of them say so durably.
    pub(crate) fn new(data: CheckedFile, present: Bits, saved: Option<Bits>) -> Fetch {
        let named = saved.is_some();
        let groups = saved.unwrap_or_else(|| Bits::new(group_count(data.size)));
        Fetch {
            data,
            present,
            saved: Mutex::new(Saved { groups, named }),
            over: AtomicBool::new(false),
            unsaved: AtomicU64::new(0),
            saving: AtomicBool::new(false),
            sha256: Mutex::new(Follower { hash: Sha256::new(), at: 0 }),
            want_sha512: AtomicBool::new(false),
            promised: AtomicBool::new(false),
            progress: watch::Sender::default(),
            touched: Mutex::new(Instant::now()),
        }
    }

    /// How long ago it last changed.
    pub(crate) fn idle(&self) -> Duration {
        self.touched.lock().elapsed()
    }

    pub(crate) fn promise(&self) {
        self.promised.store(true, Ordering::Release);
    }

    pub(crate) fn is_promised(&self) -> bool {
        self.promised.load(Ordering::Acquire)
    }

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
        if self.is_over() {
            return Err(BlobError::FetchFailed("it was given up".to_owned()));
        }
        let list = self.data.list().ok_or(BlobError::Incomplete(root))?;
        let now = self.data.now();
        for (index, group) in (start / GROUP..).zip(bytes.chunks(GROUP as usize)) {
            if !group_matches(&root, list, index, group) {
                return Err(BlobError::Corrupt { root, at: index * GROUP });
            }
        }
        self.data.file.write_all_at(bytes, start).map_err(BlobError::io("writing a partial blob"))?;
        for index in start / GROUP..(start + bytes.len() as u64).div_ceil(GROUP) {
            self.data.mark(index, now);
            self.present.set(index);
        }
        debug_assert!(start + bytes.len() as u64 <= size);
        self.unsaved.fetch_add(bytes.len() as u64, Ordering::AcqRel);
        self.changed();
        Ok(())
    }

    /// Blocking. Makes what is present durable, then says so in the row.
    pub(crate) fn checkpoint(
        &self,
        paths: &Paths,
        index: &Index,
        clock: &StoreClock,
    ) -> Result<(), BlobError> {
        let mut saved = self.saved.lock();
        let nothing = self.is_empty() && saved.groups.next(0, true).is_none();
        if self.is_over() || nothing || self.data.list().is_none() {
            return Ok(());
        }
        let groups = self.sync(&saved)?;
        if !saved.named {
            // Here and not when it began: most fetches are over before their first checkpoint.
            let named = sync_blob_dir(&paths.partials());
            named.map_err(BlobError::io("fsyncing the directory of partial blobs"))?;
            saved.named = true;
        }
        let row = PartialRow { size: self.data.size, touched_at: clock.now(), groups };
        let mut batch = Batch::default();
        put_partial(&mut batch, &self.data.root, &row);
        index.write(batch)?;
        if let Some(bits) = Bits::from_bytes(group_count(self.data.size), &row.groups) {
            saved.groups = bits;
        }
        Ok(())
    }

    /// Blocking. Makes what is present durable.
    pub(crate) fn settle(&self) -> Result<(), BlobError> {
        self.sync(&self.saved.lock()).map(drop)
    }

    /// The groups that were present before the sync began.
    fn sync(&self, saved: &Saved) -> Result<Vec<u8>, BlobError> {
        self.unsaved.store(0, Ordering::Release);
        let groups = self.present.to_bytes();
        if let Err(error) = sync_blob(&self.data.file) {
            // The pages that failed are gone from memory or will be: only what was saved is there.
            self.present.copy_from(&saved.groups);
            self.data.forget_checks();
            return Err(BlobError::io("fsyncing a partial blob")(error));
        }
        Ok(groups)
    }

    /// Whether no group is there.
    pub(crate) fn is_empty(&self) -> bool {
        self.present.next(0, true).is_none()
    }

    /// Blocking. Nothing is written any more, and no checkpoint begins: the files go, or are another fetch's.
    pub(crate) fn end(&self) {
        let _no_checkpoint = self.saved.lock();
        self.over.store(true, Ordering::Release);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
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
