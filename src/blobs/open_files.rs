//! Replicas that are open, with the checks done on them.
//!
//! A file stays open for [`IDLE`] after it was last asked for; then its checks are forgotten with it. How long a
//! check is good for is the file's own business ([`crate::checks`]). Handles in use are unaffected.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use clawhub_types::Root;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::buffers::IDLE_BYTES;
use crate::checked::CheckedFile;

/// How long an unused file stays open.
const IDLE: Duration = Duration::from_secs(600);
/// Most files kept open here.
const FILES: usize = 1024;
/// Most bytes of group lists and check times kept here; both together are 9/16384 of their blob.
const LISTS: usize = 64 << 20;
/// What open files and idle read buffers take in memory, in bytes.
pub const READ_MEMORY: u64 = (LISTS + IDLE_BYTES) as u64;

#[derive(Default)]
pub(crate) struct OpenFiles {
    files: Mutex<HashMap<Root, Entry>>,
}

struct Entry {
    file: Arc<CheckedFile>,
    used: Instant,
}

impl OpenFiles {
    /// The open file of a root, unless it is not open or idle for too long.
    pub(crate) fn get(&self, root: &Root) -> Option<Arc<CheckedFile>> {
        let mut files = self.files.lock();
        let entry = files.get_mut(root).filter(|entry| entry.used.elapsed() < IDLE)?;
        entry.used = Instant::now();
        Some(entry.file.clone())
    }

    /// The same for who does not read it: it stays open no longer for that.
    pub(crate) fn peek(&self, root: &Root) -> Option<Arc<CheckedFile>> {
        self.files.lock().get(root).map(|entry| entry.file.clone())
    }

    /// Keeps a file open if `still_held` says so under the lock: a removal first drops the row, then
    /// evicts, and no insertion may come after that.
    pub(crate) fn insert(&self, file: &Arc<CheckedFile>, still_held: impl FnOnce() -> bool) {
        let mut files = self.files.lock();
        if !still_held() {
            return;
        }
        files.insert(file.root, Entry { file: file.clone(), used: Instant::now() });
        let weight = |entry: &Entry| entry.file.weight();
        let mut lists: usize = files.values().map(weight).sum();
        while files.len() > FILES || (lists > LISTS && files.len() > 1) {
            let oldest = files.iter().min_by_key(|(_, entry)| entry.used).map(|(root, _)| *root);
            let Some(evicted) = oldest.and_then(|root| files.remove(&root)) else { break };
            lists -= weight(&evicted);
        }
    }

    pub(crate) fn evict(&self, root: &Root) {
        self.files.lock().remove(root);
    }

    /// Drops this file, unless another one of its root has taken its place.
    pub(crate) fn evict_file(&self, file: &Arc<CheckedFile>) {
        let mut files = self.files.lock();
        if files.get(&file.root).is_some_and(|entry| Arc::ptr_eq(&entry.file, file)) {
            files.remove(&file.root);
        }
    }

    /// Closes what is idle for too long.
    pub(crate) fn drop_idle(&self) {
        self.files.lock().retain(|_, entry| entry.used.elapsed() < IDLE);
    }
}
