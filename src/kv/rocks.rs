//! RocksDB behind [`Kv`]; nothing else in the project knows it.
//!
//! A [`RocksKv`] owns its directory, under RocksDB's own lock. Batches reach the operating system when
//! [`Kv::write`] returns and the device when [`Kv::sync`] does. After a failed write or sync, or a read that the
//! device refuses, nobody knows what it holds, so the store then refuses every further write: its owner stops
//! using it, and finds out by opening it again. A corrupt store is reported and left as it is; a repair would lose votes or
//! receipts in silence. What a power cut leaves at the end of a log is no corruption ([`crate::tail`]).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use clawhub_durable::{parent, promised};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBAccess, DBCompressionType, DBRawIteratorWithThreadMode, DBRecoveryMode,
    ErrorKind, LogLevel, Options, ReadOptions, Snapshot, WriteBatch, WriteOptions,
};
use self_cell::self_cell;

use crate::{Batch, Change, Kv, KvError, KvErrorKind, KvRead, Pair, sync_dir, tail};

const MIB: usize = 1 << 20;
/// Blocks of all open stores together.
const CACHE: usize = 64 * MIB;
/// Blocks of a checkpoint that is read once: its indexes, and what is read ahead.
const CHECK_CACHE: usize = 8 * MIB;
/// What the names of table files end with.
pub(crate) const TABLE: &str = "sst";
/// Write-ahead logs of one store before RocksDB flushes the oldest memtable.
const MAX_WAL: u64 = 64 << 20;

/// What a store is for, and so how it recovers and how much memory it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RocksProfile {
    /// Votes and log entries: synced in groups, acknowledged to others. Only a torn tail is forgiven.
    Raft,
    /// The applied state: written without sync, replayed from the log after a crash. Recovery goes back
    /// to the last consistent point, since unsynced pages may reach the device in any order.
    State,
    /// Blob index and upload sessions: synced where a receipt depends on it. Only a torn tail is forgiven.
    Local,
    /// A checkpoint of a state that is read once, to check it. It takes no writes and changes no file, and every
    /// block comes from the device, whatever the cache of the others holds.
    Check,
}

impl RocksProfile {
    fn recovery(self) -> DBRecoveryMode {
        match self {
            RocksProfile::Raft | RocksProfile::Local => DBRecoveryMode::TolerateCorruptedTailRecords,
            RocksProfile::State => DBRecoveryMode::PointInTime,
            // A checkpoint has no log.
            RocksProfile::Check => DBRecoveryMode::AbsoluteConsistency,
        }
    }

    fn memtable(self) -> usize {
        match self {
            RocksProfile::Raft | RocksProfile::State => 16 * MIB,
            RocksProfile::Local => 8 * MIB,
            // Never filled.
            RocksProfile::Check => MIB,
        }
    }

    fn options(self) -> Options {
        let mut options = Options::default();
        options.create_if_missing(self != RocksProfile::Check);
        options.set_paranoid_checks(true);
        options.set_wal_recovery_mode(self.recovery());
        // A recycled log would leave old records behind a torn tail.
        options.set_recycle_log_file_num(0);
        options.set_track_and_verify_wals_in_manifest(true);
        options.set_max_total_wal_size(MAX_WAL);
        options.set_write_buffer_size(self.memtable());
        options.set_max_write_buffer_number(2);
        options.set_max_background_jobs(2);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_level_compaction_dynamic_level_bytes(true);
        // RocksDB's own diary: short, and only what matters.
        options.set_log_level(LogLevel::Warn);
        options.set_max_log_file_size(MIB);
        options.set_keep_log_file_num(4);
        options.set_stats_dump_period_sec(0);
        options.set_block_based_table_factory(&self.tables());
        options
    }

    fn tables(self) -> BlockBasedOptions {
        let mut tables = BlockBasedOptions::default();
        match self {
            RocksProfile::Check => tables.set_block_cache(&Cache::new_lru_cache(CHECK_CACHE)),
            _ => tables.set_block_cache(cache()),
        }
        tables.set_cache_index_and_filter_blocks(true);
        tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
        if self != RocksProfile::Raft {
            // Most lookups here ask whether a key exists; log entries are only ever scanned.
            tables.set_bloom_filter(10.0, false);
        }
        tables
    }
}

/// One block cache for every store of the process.
fn cache() -> &'static Cache {
    static SHARED: OnceLock<Cache> = OnceLock::new();
    SHARED.get_or_init(|| Cache::new_lru_cache(CACHE))
}

/// A [`Kv`] in a RocksDB database.
pub struct RocksKv {
    db: DB,
    dir: PathBuf,
    /// How the device failed: what it holds is unknown.
    failed: OnceLock<KvError>,
}

impl RocksKv {
    /// Opens the database in `dir`, creating it if the directory is absent or empty and the profile is not
    /// [`RocksProfile::Check`].
    ///
    /// # Errors
    /// [`KvError`] if another process or another handle has it open, if the device fails, or if it is
    /// corrupt, which its kind says. Nothing is ever repaired.
    pub fn open(dir: &Path, profile: RocksProfile) -> Result<RocksKv, KvError> {
        let context = || format!("opening the database {}", dir.display());
        let options = profile.options();
        let opened = if profile == RocksProfile::Check {
            DB::open_for_read_only(&options, dir, false)
        } else {
            if !dir.exists() {
                fs::create_dir_all(dir).map_err(KvError::io(context()))?;
                sync_dir(parent(dir))?;
            }
            refuse_headless(dir, &context())?;
            DB::open(&options, dir).or_else(|error| without_zeros(&options, dir, error))
        };
        let db = opened.map_err(|e| explain(context(), &e))?;
        Ok(RocksKv { db, dir: dir.to_owned(), failed: OnceLock::new() })
    }

    /// The error of something that changes nothing. One of the device ends all writing all the same: what
    /// cannot be read where it was written may not be kept either.
    fn error(&self, doing: &str, e: &rocksdb::Error) -> KvError {
        match self.context(doing, e) {
            error if error.kind == KvErrorKind::Io => self.keep(error),
            error => error,
        }
    }

    fn context(&self, doing: &str, e: &rocksdb::Error) -> KvError {
        explain(format!("{doing} {}", self.dir.display()), e)
    }

    fn usable(&self) -> Result<(), KvError> {
        if self.failed.get().is_some() {
            let context = format!("writing to {}", self.dir.display());
            let message = "an earlier write failed; what the device holds is unknown";
            return Err(KvError::new(KvErrorKind::Io, context, message));
        }
        Ok(())
    }

    /// The error, kept as the end of all writing.
    fn fail(&self, doing: &str, e: &rocksdb::Error) -> KvError {
        self.keep(self.context(doing, e))
    }

    fn keep(&self, error: KvError) -> KvError {
        // The first one tells most.
        let _ = self.failed.set(error.clone());
        error
    }
}

/// Opens a store again whose log may only seem corrupt, for the zeros at its end.
fn without_zeros(options: &Options, dir: &Path, error: rocksdb::Error) -> Result<DB, rocksdb::Error> {
    if error.kind() != ErrorKind::Corruption {
        return Err(error);
    }
    // A log that cannot be read or cut is not the better for it: the first error stands.
    let Ok(Some(trimmed)) = tail::trim(dir) else { return Err(error) };
    DB::open(options, dir).map_err(|_| {
        let _ = trimmed.restore();
        error
    })
}

/// RocksDB would silently start an empty database over data whose `CURRENT` file is gone, and so forget
/// votes and receipts. Logs and tables are only ever written after `CURRENT`.
fn refuse_headless(dir: &Path, context: &str) -> Result<(), KvError> {
    if dir.join("CURRENT").exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).map_err(KvError::io(context))? {
        let name = entry.map_err(KvError::io(context))?.file_name();
        if Path::new(&name).extension().is_some_and(|kind| kind == TABLE || kind == "log") {
            return Err(corrupt(context, &format!("{} without CURRENT", name.to_string_lossy())));
        }
    }
    Ok(())
}

fn explain(context: impl Into<String>, e: &rocksdb::Error) -> KvError {
    match e.kind() {
        ErrorKind::Corruption => corrupt(context, e.as_ref()),
        // RocksDB says so of a process without descriptors, too, and names no other cause than in its text.
        ErrorKind::IOError if !e.as_ref().contains("Too many open files") => {
            KvError::new(KvErrorKind::Io, context, e)
        }
        _ => KvError::new(KvErrorKind::Other, context, e),
    }
}

fn corrupt(context: impl Into<String>, what: &str) -> KvError {
    let message =
        format!("the database is corrupt and is not repaired, so that nothing is lost in silence: {what}");
    KvError::new(KvErrorKind::Corrupt, context, message)
}

impl KvRead for RocksKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.db.get(key).map_err(|e| self.error("reading from", &e))
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
        let Some(bounds) = bounds(start, end) else { return Ok(Vec::new()) };
        forward(self.db.raw_iterator_opt(bounds), limit).map_err(|e| self.error("scanning", &e))
    }

    fn last(&self, start: &[u8], end: &[u8]) -> Result<Option<Pair>, KvError> {
        let Some(bounds) = bounds(start, end) else { return Ok(None) };
        greatest(self.db.raw_iterator_opt(bounds)).map_err(|e| self.error("scanning", &e))
    }
}

impl Kv for RocksKv {
    fn write(&self, batch: Batch) -> Result<(), KvError> {
        self.usable()?;
        let mut changes = WriteBatch::default();
        for change in &batch.changes {
            match change {
                Change::Put(key, value) => changes.put(key, value),
                Change::Delete(key) => changes.delete(key),
                // RocksDB leaves a range that ends before it begins undefined.
                Change::DeleteRange(start, end) if start < end => changes.delete_range(start, end),
                Change::DeleteRange(..) => {}
            }
        }
        self.db.write_opt(changes, &WriteOptions::default()).map_err(|e| self.fail("writing to", &e))
    }

    fn sync(&self) -> Result<(), KvError> {
        self.usable()?;
        // The files that RocksDB writes by itself (tables, its manifest) are synced all the same.
        if promised::log_left_out() {
            return Ok(());
        }
        self.db.flush_wal(true).map_err(|e| self.fail("fsync of", &e))
    }

    fn fault(&self) -> Option<KvError> {
        self.failed.get().cloned()
    }

    fn snapshot(&self) -> Box<dyn KvRead + '_> {
        Box::new(Frozen { snapshot: self.db.snapshot(), kv: self })
    }

    fn owned_snapshot(self: Arc<Self>) -> Arc<dyn KvRead> {
        Arc::new(Pinned::new(self, |kv| Frozen { snapshot: kv.db.snapshot(), kv }))
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), KvError> {
        // Log size 0 (the default): flush first, so that the copy is tables only, without logs.
        let written = Checkpoint::new(&self.db).and_then(|c| c.create_checkpoint(dir));
        written.map_err(|e| self.error(&format!("checkpoint to {} of", dir.display()), &e))?;
        sync_files(dir)?;
        sync_dir(dir)?;
        sync_dir(parent(dir))
    }
}

/// Makes the bytes of every file in `dir` durable.
fn sync_files(dir: &Path) -> Result<(), KvError> {
    let sync = || -> std::io::Result<()> {
        for entry in fs::read_dir(dir)? {
            File::open(entry?.path())?.sync_all()?;
        }
        Ok(())
    };
    sync().map_err(KvError::io(format!("fsync of the files in {}", dir.display())))
}

struct Frozen<'db> {
    snapshot: Snapshot<'db>,
    kv: &'db RocksKv,
}

impl KvRead for Frozen<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.snapshot.get(key).map_err(|e| self.kv.error("reading from", &e))
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
        let Some(bounds) = bounds(start, end) else { return Ok(Vec::new()) };
        forward(self.snapshot.raw_iterator_opt(bounds), limit).map_err(|e| self.kv.error("scanning", &e))
    }

    fn last(&self, start: &[u8], end: &[u8]) -> Result<Option<Pair>, KvError> {
        let Some(bounds) = bounds(start, end) else { return Ok(None) };
        greatest(self.snapshot.raw_iterator_opt(bounds)).map_err(|e| self.kv.error("scanning", &e))
    }
}

self_cell! {
    /// A snapshot together with the store that it is of.
    struct Pinned {
        owner: Arc<RocksKv>,
        #[covariant]
        dependent: Frozen,
    }
}

impl KvRead for Pinned {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.borrow_dependent().get(key)
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
        self.borrow_dependent().scan(start, end, limit)
    }

    fn last(&self, start: &[u8], end: &[u8]) -> Result<Option<Pair>, KvError> {
        self.borrow_dependent().last(start, end)
    }
}

/// Options that keep an iterator within `start <= key < end`; `None` if nothing is.
fn bounds(start: &[u8], end: &[u8]) -> Option<ReadOptions> {
    if start >= end {
        return None;
    }
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(start);
    options.set_iterate_upper_bound(end);
    Some(options)
}

fn forward<D: DBAccess>(
    mut at: DBRawIteratorWithThreadMode<'_, D>,
    limit: usize,
) -> Result<Vec<Pair>, rocksdb::Error> {
    let mut out = Vec::new();
    at.seek_to_first();
    while out.len() < limit {
        let Some((key, value)) = at.item() else { break };
        out.push((key.to_vec(), value.to_vec()));
        at.next();
    }
    at.status().map(|()| out)
}

fn greatest<D: DBAccess>(mut at: DBRawIteratorWithThreadMode<'_, D>) -> Result<Option<Pair>, rocksdb::Error> {
    at.seek_to_last();
    let found = at.item().map(|(key, value)| (key.to_vec(), value.to_vec()));
    at.status().map(|()| found)
}

#[cfg(test)]
#[path = "rocks_test.rs"]
mod tests;
