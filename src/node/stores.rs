//! The three RocksDB instances of a node, and where they lie.

use std::path::Path;
use std::sync::Arc;

use clawhub_consensus::{Purpose, StateStore};
use clawhub_kv::rocks::{RocksKv, RocksProfile};
use clawhub_kv::{Kv, KvError};

use crate::data_dir::DataDir;

/// Memory of all stores together: two memtables each of 16, 16 and 8 MiB, and one block cache of 64 MiB.
pub(crate) const MEMORY: u64 = (2 * (16 + 16 + 8) + 64) << 20;

/// Opens the store of what this node alone knows.
pub(crate) fn local(dir: &DataDir) -> Result<Arc<dyn Kv>, KvError> {
    open(&dir.local(), RocksProfile::Local)
}

/// Opens the store of votes and log entries.
pub(crate) fn raft(dir: &DataDir) -> Result<Arc<dyn Kv>, KvError> {
    open(&dir.raft(), RocksProfile::Raft)
}

/// Opens the store of the applied state, and those that snapshots bring.
pub(crate) fn state(dir: &DataDir) -> std::io::Result<StateStore> {
    StateStore::open(dir.state(), |path, purpose| match purpose {
        Purpose::Serve => open(path, RocksProfile::State),
        Purpose::Check => open(path, RocksProfile::Check),
    })
}

fn open(path: &Path, profile: RocksProfile) -> Result<Arc<dyn Kv>, KvError> {
    Ok(Arc::new(RocksKv::open(path, profile)?))
}
