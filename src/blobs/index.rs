//! The rows this crate keeps in the node's `local` store, and the fsyncs they share.
//!
//! | key | row |
//! |---|---|
//! | `blob/` + root | [`BlobRow`]: a replica on this disk |
//! | `upload/` + node (BE) + random | [`UploadRow`]: a session and where it resumes |
//! | `finished/` + node (BE) + random | [`FinishedUpload`]: what a session became |
//! | `partial/` + root | [`PartialRow`]: a fetch and the groups it has on disk |
//! | `cached/` + root | [`CachedRow`]: beside the replica's row; it came for a reader, and no receipt was made for it |
//! | `orphan/` + root | [`OrphanRow`]: beside the replica's row; nobody counts on it, and since when |
//! | `blobs.epoch` | the deletion epoch, `u64` BE |
//! | `blobs.uptime` | how long the store has been open over all its starts, milliseconds, `u64` BE |
//!
//! Rows are a `u16` BE shape, then postcard. A replica's row is shown to nobody before it is synced: a
//! receipt made of a row that a power cut takes back would be a lie.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clawhub_durable::promised;
use clawhub_durable::task::blocking;
use clawhub_kv::{Batch, Kv, Pair};
use clawhub_types::{Digests, NodeId, RepoName, Root, UploadId};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::BlobError;
use crate::finished_upload::FinishedUpload;

const BLOB: &[u8] = b"blob/";
const UPLOAD: &[u8] = b"upload/";
const FINISHED: &[u8] = b"finished/";
const PARTIAL: &[u8] = b"partial/";
const CACHED: &[u8] = b"cached/";
const ORPHAN: &[u8] = b"orphan/";
const EPOCH: &[u8] = b"blobs.epoch";
const UPTIME: &[u8] = b"blobs.uptime";

/// The only shape so far. Another one is another version's: the store refuses to guess.
const SHAPE: u16 = 1;

/// Rows read at a time where all are visited.
const ROWS_PER_READ: usize = 1024;

/// A replica: file and directory are fsynced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlobRow {
    pub(crate) size: u64,
    pub(crate) digests: Digests,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UploadRow {
    pub(crate) repo: RepoName,
    pub(crate) sha512: bool,
    /// Milliseconds since 1970.
    pub(crate) opened_at: u64,
    /// When the row was last written, by the store's own clock.
    pub(crate) touched_at: u64,
    /// Bytes known to be on disk: where a restart resumes.
    pub(crate) durable: u64,
    /// Where the client was last told that the upload ends.
    pub(crate) acknowledged: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartialRow {
    pub(crate) size: u64,
    /// When the row was last written, by the store's own clock.
    pub(crate) touched_at: u64,
    /// One bit per group, little-endian 64-bit words; only groups that were fsynced before.
    pub(crate) groups: Vec<u8>,
}

/// A copy that is part of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CachedRow {
    pub(crate) size: u64,
    /// When it was last read, as of the last time that this was written down, by the store's own clock.
    pub(crate) used: u64,
}

/// A copy that nobody counts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OrphanRow {
    /// When that was first seen, by the store's own clock.
    pub(crate) since: u64,
}

/// Typed access to the rows, and group commit.
pub(crate) struct Index {
    kv: Arc<dyn Kv>,
    /// Replicas whose row is written and not yet synced.
    unsynced: Mutex<HashSet<Root>>,
    /// How many batches were written; the ticket of a batch is the count after it.
    written: AtomicU64,
    /// The ticket up to which batches are synced. The lock makes later callers wait for the sync in
    /// flight; most then find their batch covered by the next one, which a single caller issues.
    synced: tokio::sync::Mutex<u64>,
    epoch: AtomicU64,
}

impl Index {
    /// Blocking. Syncs once: what a killed process wrote is readable but perhaps not durable.
    pub(crate) fn open(kv: Arc<dyn Kv>) -> Result<Index, BlobError> {
        kv.sync()?;
        let epoch = number(&*kv, EPOCH)?;
        Ok(Index {
            kv,
            unsynced: Mutex::default(),
            written: AtomicU64::new(0),
            synced: tokio::sync::Mutex::new(0),
            epoch: AtomicU64::new(epoch),
        })
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// How long the store had been open when that was last written down, in milliseconds.
    pub(crate) fn uptime(&self) -> Result<u64, BlobError> {
        number(&*self.kv, UPTIME)
    }

    /// Adds one to the deletion epoch, durably, and answers the new value.
    pub(crate) async fn raise_epoch(&self) -> Result<u64, BlobError> {
        let epoch = self.epoch() + 1;
        let mut batch = Batch::default();
        batch.put(EPOCH, epoch.to_be_bytes());
        self.commit(batch).await?;
        // A racing caller raised it by the same one: both may delete under that epoch.
        self.epoch.fetch_max(epoch, Ordering::AcqRel);
        Ok(epoch)
    }

    pub(crate) fn blob(&self, root: &Root) -> Result<Option<BlobRow>, BlobError> {
        if self.is_unsynced(root) {
            return Ok(None);
        }
        self.kv.get(&blob_key(root))?.map(|bytes| decode(&bytes)).transpose()
    }

    /// Whether a replica's row is written and not yet synced.
    pub(crate) fn is_unsynced(&self, root: &Root) -> bool {
        self.unsynced.lock().contains(root)
    }

    /// At most `limit` rows whose root is `from` or greater, in order of root, synced or not.
    pub(crate) fn blobs(&self, from: Root, limit: usize) -> Result<Vec<(Root, BlobRow)>, BlobError> {
        let rows = self.kv.scan(&blob_key(&from), &end_of(BLOB), limit)?;
        rows.into_iter().map(|(key, row)| Ok((root_of(&key, BLOB)?, decode(&row)?))).collect()
    }

    pub(crate) fn uploads(&self) -> Result<Vec<(UploadId, UploadRow)>, BlobError> {
        let rows = self.all(UPLOAD)?.into_iter();
        rows.map(|(key, row)| Ok((upload_of(&key, UPLOAD)?, decode(&row)?))).collect()
    }

    pub(crate) fn finished(&self, id: &UploadId) -> Result<Option<FinishedUpload>, BlobError> {
        self.kv.get(&upload_key(FINISHED, id))?.map(|bytes| decode(&bytes)).transpose()
    }

    pub(crate) fn all_finished(&self) -> Result<Vec<(UploadId, FinishedUpload)>, BlobError> {
        let rows = self.all(FINISHED)?.into_iter();
        rows.map(|(key, row)| Ok((upload_of(&key, FINISHED)?, decode(&row)?))).collect()
    }

    pub(crate) fn partials(&self) -> Result<Vec<(Root, PartialRow)>, BlobError> {
        let rows = self.all(PARTIAL)?.into_iter();
        rows.map(|(key, row)| Ok((root_of(&key, PARTIAL)?, decode(&row)?))).collect()
    }

    pub(crate) fn partial(&self, root: &Root) -> Result<Option<PartialRow>, BlobError> {
        self.kv.get(&partial_key(root))?.map(|bytes| decode(&bytes)).transpose()
    }

    pub(crate) fn cached(&self) -> Result<Vec<(Root, CachedRow)>, BlobError> {
        let rows = self.all(CACHED)?.into_iter();
        rows.map(|(key, row)| Ok((root_of(&key, CACHED)?, decode(&row)?))).collect()
    }

    pub(crate) fn orphans(&self) -> Result<Vec<(Root, OrphanRow)>, BlobError> {
        let rows = self.all(ORPHAN)?.into_iter();
        rows.map(|(key, row)| Ok((root_of(&key, ORPHAN)?, decode(&row)?))).collect()
    }

    /// A receipt is made for a copy: whatever was seen of it before does not count.
    pub(crate) fn forget_orphan(&self, root: &Root) -> Result<(), BlobError> {
        if self.kv.get(&[ORPHAN, &root.0].concat())?.is_none() {
            return Ok(());
        }
        let mut batch = Batch::default();
        delete_orphan(&mut batch, root);
        self.write(batch)
    }

    fn all(&self, prefix: &[u8]) -> Result<Vec<Pair>, BlobError> {
        let mut rows = Vec::new();
        let mut start = prefix.to_vec();
        loop {
            let page = self.kv.scan(&start, &end_of(prefix), ROWS_PER_READ)?;
            let last = page.len() < ROWS_PER_READ;
            if let Some((key, _)) = page.last() {
                start = [key.as_slice(), &[0]].concat();
            }
            rows.extend(page);
            if last {
                return Ok(rows);
            }
        }
    }

    /// Writes a batch: it survives the process, not yet the machine.
    pub(crate) fn write(&self, batch: Batch) -> Result<(), BlobError> {
        self.kv.write(batch)?;
        self.written.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Blocking. Makes all writes durable; for the time before the store is shared.
    pub(crate) fn sync(&self) -> Result<(), BlobError> {
        Ok(self.kv.sync()?)
    }

    /// Writes a batch and returns when it is durable.
    pub(crate) async fn commit(&self, batch: Batch) -> Result<(), BlobError> {
        self.kv.write(batch)?;
        let ticket = self.written.fetch_add(1, Ordering::AcqRel) + 1;
        let mut synced = self.synced.lock().await;
        if *synced >= ticket {
            return Ok(());
        }
        let covers = self.written.load(Ordering::Acquire);
        let kv = self.kv.clone();
        blocking(move || sync_rows(&*kv)).await?;
        *synced = covers;
        Ok(())
    }

    /// Commits the row of a replica together with `batch`. If the sync fails the row stays hidden until
    /// the next start finds out what the disk has.
    pub(crate) async fn commit_blob(
        &self,
        root: &Root,
        row: &BlobRow,
        mut batch: Batch,
    ) -> Result<(), BlobError> {
        put_blob(&mut batch, root, row);
        self.unsynced.lock().insert(*root);
        self.commit(batch).await?;
        self.unsynced.lock().remove(root);
        Ok(())
    }
}

/// Blocking. Makes the rows written so far durable.
fn sync_rows(kv: &dyn Kv) -> Result<(), BlobError> {
    if promised::blobs_left_out() { Ok(()) } else { Ok(kv.sync()?) }
}

/// A number by itself; 0 if it was never written.
fn number(kv: &dyn Kv, key: &[u8]) -> Result<u64, BlobError> {
    let Some(bytes) = kv.get(key)? else { return Ok(0) };
    let bytes = bytes.try_into().map_err(|_| BlobError::Record(String::from_utf8_lossy(key).into_owned()))?;
    Ok(u64::from_be_bytes(bytes))
}

pub(crate) fn put_uptime(batch: &mut Batch, uptime: u64) {
    batch.put(UPTIME, uptime.to_be_bytes());
}

pub(crate) fn put_blob(batch: &mut Batch, root: &Root, row: &BlobRow) {
    batch.put(blob_key(root), encode(row));
}

/// With what is beside it.
pub(crate) fn delete_blob(batch: &mut Batch, root: &Root) {
    batch.delete(blob_key(root));
    delete_cached(batch, root);
    delete_orphan(batch, root);
}

pub(crate) fn put_cached(batch: &mut Batch, root: &Root, row: &CachedRow) {
    batch.put([CACHED, &root.0].concat(), encode(row));
}

pub(crate) fn delete_cached(batch: &mut Batch, root: &Root) {
    batch.delete([CACHED, &root.0].concat());
}

pub(crate) fn put_orphan(batch: &mut Batch, root: &Root, row: OrphanRow) {
    batch.put([ORPHAN, &root.0].concat(), encode(&row));
}

pub(crate) fn delete_orphan(batch: &mut Batch, root: &Root) {
    batch.delete([ORPHAN, &root.0].concat());
}

pub(crate) fn put_upload(batch: &mut Batch, id: &UploadId, row: &UploadRow) {
    batch.put(upload_key(UPLOAD, id), encode(row));
}

pub(crate) fn delete_upload(batch: &mut Batch, id: &UploadId) {
    batch.delete(upload_key(UPLOAD, id));
}

pub(crate) fn put_finished(batch: &mut Batch, id: &UploadId, row: &FinishedUpload) {
    batch.put(upload_key(FINISHED, id), encode(row));
}

pub(crate) fn delete_finished(batch: &mut Batch, id: &UploadId) {
    batch.delete(upload_key(FINISHED, id));
}

pub(crate) fn put_partial(batch: &mut Batch, root: &Root, row: &PartialRow) {
    batch.put(partial_key(root), encode(row));
}

pub(crate) fn delete_partial(batch: &mut Batch, root: &Root) {
    batch.delete(partial_key(root));
}

fn blob_key(root: &Root) -> Vec<u8> {
    [BLOB, &root.0].concat()
}

fn partial_key(root: &Root) -> Vec<u8> {
    [PARTIAL, &root.0].concat()
}

fn upload_key(prefix: &[u8], id: &UploadId) -> Vec<u8> {
    [prefix, &id.node.0.to_be_bytes(), &id.random].concat()
}

fn root_of(key: &[u8], prefix: &[u8]) -> Result<Root, BlobError> {
    let root = key.strip_prefix(prefix).and_then(|root| root.try_into().ok());
    root.map(Root).ok_or_else(|| BlobError::Record(format!("key {key:?}")))
}

fn upload_of(key: &[u8], prefix: &[u8]) -> Result<UploadId, BlobError> {
    let parse = || {
        let (node, random) = key.strip_prefix(prefix)?.split_first_chunk::<8>()?;
        let node = NodeId(u64::from_be_bytes(*node));
        Some(UploadId { node, random: random.try_into().ok()? })
    };
    parse().ok_or_else(|| BlobError::Record(format!("key {key:?}")))
}

/// The first key after all those with `prefix`, which ends in `/`.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

fn encode<T: Serialize>(row: &T) -> Vec<u8> {
    postcard::to_extend(row, SHAPE.to_be_bytes().to_vec()).expect("rows are plain data; postcard takes them")
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BlobError> {
    let Some((shape, body)) = bytes.split_first_chunk::<2>() else {
        return Err(BlobError::Record("too short".to_owned()));
    };
    let shape = u16::from_be_bytes(*shape);
    if shape != SHAPE {
        return Err(BlobError::Record(format!("shape {shape}")));
    }
    postcard::from_bytes(body).map_err(|error| BlobError::Record(error.to_string()))
}

/// The root after this one, if there is one.
pub(crate) fn successor(root: &Root) -> Option<Root> {
    let mut bytes = root.0;
    for byte in bytes.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(Root(bytes));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_their_bytes() {
        let row = BlobRow { size: 300, digests: Digests { sha256: [7; 32], sha512: None } };
        let bytes = encode(&row);
        let mut expected = vec![0, 1, 0xac, 2];
        expected.extend([7; 32]);
        expected.push(0);
        assert_eq!(bytes, expected, "a released shape never changes");
        assert_eq!(decode::<BlobRow>(&bytes).unwrap(), row);
        let other = [&[0, 2], &bytes[2..]].concat();
        assert!(matches!(decode::<BlobRow>(&other), Err(BlobError::Record(_))));
        assert!(matches!(decode::<BlobRow>(&bytes[..9]), Err(BlobError::Record(_))));

        let repo: RepoName = "a/b".parse().unwrap();
        let row = UploadRow {
            repo: repo.clone(),
            sha512: true,
            opened_at: 1,
            touched_at: 2,
            durable: 4,
            acknowledged: 3,
        };
        assert_eq!(encode(&row), [0, 1, 3, b'a', b'/', b'b', 1, 1, 2, 4, 3]);
        let digests = Digests { sha256: [7; 32], sha512: None };
        let row = FinishedUpload { repo, root: Root([8; 32]), digests, at: 300 };
        let expected = [&[0, 1, 3, b'a', b'/', b'b'][..], &[8; 32], &[7; 32], &[0, 0xac, 2]].concat();
        assert_eq!(encode(&row), expected);
        let row = PartialRow { size: 1, touched_at: 2, groups: vec![1, 0] };
        assert_eq!(encode(&row), [0, 1, 1, 2, 2, 1, 0]);
        assert_eq!(encode(&CachedRow { size: 1, used: 2 }), [0, 1, 1, 2]);
        assert_eq!(encode(&OrphanRow { since: 300 }), [0, 1, 0xac, 2]);
    }
}
