//! An ordered key-value store behind one small trait.
//!
//! Two implementations: [`memory`], for tests and simulation, which forgets what was not synced when
//! told to crash, and [`rocks`], the only place in the project that knows RocksDB. Both are object
//! safe: everything above holds an `Arc<dyn Kv>`. One suite of tests runs over both.
//!
//! What a crash loses: of the process, nothing; of the machine, the batches since the last
//! [`Kv::sync`], youngest first, so that what is left is always a state the store was once in.

pub mod memory;
pub mod rocks;
#[cfg(test)]
mod suite;
mod tail;

use std::ffi::OsStr;
use std::fmt::Display;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use memory::MemoryKv;
pub use rocks::{RocksKv, RocksProfile};

/// What is wrong with a store that failed, as its owner needs to tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvErrorKind {
    /// The store is damaged: opening it again is of no use, whatever becomes of its device.
    Corrupt,
    /// The device did not do what it was asked. It may do so later, and only opening the store anew tells
    /// what it holds.
    Io,
    /// Nothing is known to be wrong with store or device: another process has it open, for example.
    Other,
}

/// A store failed. There is no answer to give: the node that owns the store stops using it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{context}: {message}")]
pub struct KvError {
    /// What the owner decides by.
    pub kind: KvErrorKind,
    /// What was being done, and where.
    pub context: String,
    /// What the store said.
    pub message: String,
}

impl KvError {
    /// An error met while doing `context`.
    pub fn new(kind: KvErrorKind, context: impl Into<String>, message: impl Display) -> Self {
        KvError { kind, context: context.into(), message: message.to_string() }
    }

    /// For `map_err`: the device refused, or the file system, while doing `context`.
    pub(crate) fn io(context: impl Into<String>) -> impl FnOnce(io::Error) -> KvError {
        move |error| KvError::new(KvErrorKind::Io, context, error)
    }

    /// Whether the store is damaged rather than out of reach.
    pub fn is_corrupt(&self) -> bool {
        self.kind == KvErrorKind::Corrupt
    }

    /// The store's error that an [`io::Error`] carries, if one of a store was made into it.
    pub fn within(error: &io::Error) -> Option<&KvError> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<KvError> for io::Error {
    fn from(error: KvError) -> Self {
        io::Error::other(error)
    }
}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Reads, from the live store or from a snapshot of it.
pub trait KvRead: Send + Sync {
    /// The value of `key`.
    ///
    /// # Errors
    /// [`KvError`] if the store cannot be read; never for an absent key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// At most `limit` pairs with `start <= key < end`, in key order.
    ///
    /// # Errors
    /// [`KvError`] if the store cannot be read.
    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Pair>, KvError>;

    /// The pair with the greatest key in `start <= key < end`.
    ///
    /// # Errors
    /// [`KvError`] if the store cannot be read.
    fn last(&self, start: &[u8], end: &[u8]) -> Result<Option<Pair>, KvError>;
}

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Set a key.
    Put(Vec<u8>, Vec<u8>),
    /// Remove a key, present or not.
    Delete(Vec<u8>),
    /// Remove every key in `start <= key < end`.
    DeleteRange(Vec<u8>, Vec<u8>),
}

/// Changes that become visible, and after a crash are present, all or none. Applied in order.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The changes, first to last.
    pub changes: Vec<Change>,
}

impl Batch {
    /// Sets a key.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.push(Change::Put(key.into(), value.into()));
    }

    /// Removes a key.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        self.changes.push(Change::Delete(key.into()));
    }

    /// Removes every key in `start <= key < end`.
    pub fn delete_range(&mut self, start: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) {
        self.changes.push(Change::DeleteRange(start.into(), end.into()));
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// An ordered key-value store. Writes are atomic per batch and ordered among themselves; they survive
/// a crash of the process at once, and a crash of the machine after the next [`Kv::sync`].
pub trait Kv: KvRead {
    /// Applies a batch. It is readable when this returns, durable after the next [`Kv::sync`].
    ///
    /// # Errors
    /// [`KvError`] if the store refuses the write; nothing of the batch is then visible.
    fn write(&self, batch: Batch) -> Result<(), KvError>;

    /// Makes every batch written so far durable (fsync). One call covers all earlier writes, so many
    /// writers can share it.
    ///
    /// # Errors
    /// [`KvError`] if the device refuses; what was written since the last sync is then in doubt.
    fn sync(&self) -> Result<(), KvError>;

    /// Why the store refuses every further write, if it does: after a failure of the device nobody knows what
    /// the device holds, and only opening it anew tells.
    fn fault(&self) -> Option<KvError> {
        None
    }

    /// A consistent view of now, unaffected by later writes.
    fn snapshot(&self) -> Box<dyn KvRead + '_>;

    /// The same, owned by whoever holds it. It keeps the store open, and its files from being removed, until it
    /// is dropped: it is for reads that belong together, not for as long as bytes move.
    fn owned_snapshot(self: Arc<Self>) -> Arc<dyn KvRead>;

    /// Writes a complete, independently openable copy of the store into `dir`, which must not exist
    /// yet. Files and directory are fsynced when this returns.
    ///
    /// # Errors
    /// [`KvError`] if the copy cannot be made; `dir` may then hold part of it.
    fn checkpoint(&self, dir: &Path) -> Result<(), KvError>;
}

/// Whether a file of a checkpoint is a table: written once and never again, so that a second name of it is a copy of it,
/// and what was found to be sound stays so but for what the device does to it.
pub fn is_table(name: &OsStr) -> bool {
    Path::new(name).extension().is_some_and(|kind| kind == rocks::TABLE)
}

/// Makes the names in a directory durable.
fn sync_dir(dir: &Path) -> Result<(), KvError> {
    clawhub_durable::sync_dir(dir).map_err(KvError::io(format!("fsync of {}", dir.display())))
}
