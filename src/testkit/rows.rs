//! Rows of a node's state that are gone, as after a write that a device lost and said nothing of.

use std::path::Path;

use anyhow::{Context as _, Result};
use clawhub_kv::{Batch, Kv as _, KvRead as _, RocksKv, RocksProfile};

/// Takes a row out of the state in `dir`: of those whose key ends so, the one with the longest. Its node must not run.
///
/// # Errors
/// If the state cannot be opened or written, or there is no such row.
pub fn lose(dir: &Path, end: &[u8]) -> Result<()> {
    let kv = RocksKv::open(dir, RocksProfile::State)?;
    let keys = kv.scan(b"", &[0xff], usize::MAX)?.into_iter().map(|(key, _)| key);
    let key = keys.filter(|key| key.ends_with(end)).max_by_key(Vec::len);
    let mut batch = Batch::default();
    batch.delete(key.context("a row whose key ends so")?);
    kv.write(batch)?;
    Ok(kv.sync()?)
}
