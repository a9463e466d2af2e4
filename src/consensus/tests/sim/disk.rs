//! Stores that a power cut takes the unsynced tail from, and that a node from before it can no longer
//! touch.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clawhub_consensus::Purpose;
use clawhub_kv::{Batch, Kv, KvError, KvErrorKind, KvRead, MemoryKv, Pair};
use parking_lot::Mutex;

/// A store as one life of a node sees it: after the cut everything fails.
pub(crate) struct Fused {
    kv: Arc<MemoryKv>,
    blown: Arc<AtomicBool>,
}

impl Fused {
    fn alive(&self) -> Result<&MemoryKv, KvError> {
        if self.blown.load(Ordering::Relaxed) {
            return Err(KvError { kind: KvErrorKind::Io, context: "power".into(), message: "cut".into() });
        }
        Ok(&self.kv)
    }
}

impl KvRead for Fused {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.alive()?.get(key)
    }
    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
        self.alive()?.scan(start, end, limit)
    }
    fn last(&self, start: &[u8], end: &[u8]) -> Result<Option<Pair>, KvError> {
        self.alive()?.last(start, end)
    }
}

impl Kv for Fused {
    fn write(&self, batch: Batch) -> Result<(), KvError> {
        self.alive()?.write(batch)
    }
    fn sync(&self) -> Result<(), KvError> {
        self.alive()?.sync()
    }
    fn snapshot(&self) -> Box<dyn KvRead + '_> {
        self.kv.snapshot()
    }
    fn owned_snapshot(self: Arc<Self>) -> Arc<dyn KvRead> {
        self.kv.frozen()
    }
    fn checkpoint(&self, dir: &Path) -> Result<(), KvError> {
        self.alive()?.checkpoint(dir)
    }
}

/// The disk of one node over all its lives.
#[derive(Default)]
pub(crate) struct Disk {
    log: Arc<MemoryKv>,
    /// Stores of the applied state by directory.
    states: Mutex<BTreeMap<PathBuf, Arc<MemoryKv>>>,
    fuse: Mutex<Arc<AtomicBool>>,
}

impl Disk {
    /// The log, for this life.
    pub(crate) fn log(&self) -> Arc<dyn Kv> {
        Arc::new(Fused { kv: Arc::clone(&self.log), blown: Arc::clone(&self.fuse.lock()) })
    }

    /// A store of the applied state, for this life.
    pub(crate) fn state(&self, dir: &Path, purpose: Purpose) -> Result<Arc<dyn Kv>, KvError> {
        if purpose == Purpose::Check {
            return Ok(Arc::new(MemoryKv::open_checkpoint(dir)?));
        }
        let mut states = self.states.lock();
        let dump = dir.join("dump");
        if dump.exists() {
            // Files that were moved or copied here: from now on they live in memory.
            states.insert(dir.to_owned(), Arc::new(MemoryKv::open_checkpoint(dir)?));
            fs::remove_file(dump).unwrap();
        }
        let kv = Arc::clone(states.entry(dir.to_owned()).or_default());
        fs::create_dir_all(dir).unwrap();
        Ok(Arc::new(Fused { kv, blown: Arc::clone(&self.fuse.lock()) }))
    }

    /// The power goes: what was not synced is lost, and who was running can do no more harm.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *self.fuse.lock()).store(true, Ordering::Relaxed);
        self.log.crash();
        for kv in self.states.lock().values() {
            kv.crash();
        }
    }
}
