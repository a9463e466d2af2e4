//! The store over real files. "Crash" here means: the store is dropped without being closed, and, where
//! a power cut is meant, the index forgets what was not synced and files are cut or moved to what the
//! disk may then hold.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod again;
mod cached;
mod crashes;
mod ends;
mod partials;
mod reads;
mod receipts;
mod throughput;
mod uploads;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use clawhub_blobs::{BlobError, BlobStore, GROUP, Sealed, StoreConfig, root_of};
use clawhub_kv::memory::MemoryKv;
use clawhub_types::{Digest, NodeId, Receipt, RepoName, Root, UploadId};
use futures::{Stream, StreamExt};
use sha2::{Digest as _, Sha256, Sha512};

const G: usize = GROUP as usize;

/// A data directory and an index that outlive the store.
struct Home {
    dir: tempfile::TempDir,
    kv: Arc<MemoryKv>,
}

impl Home {
    fn new() -> Home {
        Home { dir: tempfile::tempdir().unwrap(), kv: Arc::new(MemoryKv::new()) }
    }

    async fn open(&self) -> BlobStore {
        self.open_with(0).await.unwrap()
    }

    async fn open_with(&self, min_free: u64) -> Result<BlobStore, BlobError> {
        let config = StoreConfig { min_free, ..StoreConfig::new(self.dir.path().to_owned(), NodeId(7)) };
        BlobStore::open(config, self.kv.clone()).await
    }

    fn blob(&self, root: &Root, kind: &str) -> PathBuf {
        let hex = root.hex();
        self.dir.path().join("blobs").join(&hex[..2]).join(&hex[2..4]).join(format!("{hex}.{kind}"))
    }

    fn partial(&self, root: &Root, kind: &str) -> PathBuf {
        self.dir.path().join("partial").join(format!("{}.{kind}", root.hex()))
    }

    fn upload(&self, id: UploadId) -> PathBuf {
        self.dir.path().join("uploads").join(id.to_string())
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join(dir)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Reproducible bytes that differ in every group.
fn content(len: usize) -> Bytes {
    let mut state = len as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out.into()
}

fn sha256_of(bytes: &[u8]) -> Digest {
    Digest::Sha256(Sha256::digest(bytes).into())
}

fn sha512_of(bytes: &[u8]) -> Digest {
    Digest::Sha512(Sha512::digest(bytes).into())
}

fn id(number: u8) -> UploadId {
    UploadId { node: NodeId(7), random: [number; 16] }
}

fn repo() -> RepoName {
    "team/app".parse().unwrap()
}

/// Appends in steps of `step` bytes from the session's offset on.
async fn append(store: &BlobStore, id: UploadId, bytes: &Bytes, step: usize) {
    let mut at = store.uploads().status(id).unwrap().offset as usize;
    while at < bytes.len() {
        let end = bytes.len().min(at + step);
        assert_eq!(store.uploads().append(id, at as u64, bytes.slice(at..end)).await.unwrap(), end as u64);
        at = end;
    }
}

/// A whole upload, up to the seal.
async fn staged(store: &BlobStore, id: UploadId, bytes: &Bytes) -> Sealed {
    store.uploads().begin(id, &repo(), false).await.unwrap();
    append(store, id, bytes, 1 << 20).await;
    store.uploads().seal(id, &sha256_of(bytes)).await.unwrap()
}

/// A whole upload.
async fn stored(store: &BlobStore, number: u8, bytes: &Bytes) -> Receipt {
    let sealed = staged(store, id(number), bytes).await;
    store.uploads().keep(id(number), &sealed, 1).await.unwrap()
}

/// All bytes of a stream, or those before its error and the error, after which it must end.
async fn drain(stream: impl Stream<Item = Result<Bytes, BlobError>>) -> (BytesMut, Option<BlobError>) {
    let mut stream = std::pin::pin!(stream);
    let mut all = BytesMut::new();
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(bytes) => all.extend_from_slice(&bytes),
            Err(error) => {
                assert!(stream.next().await.is_none(), "nothing follows an error");
                return (all, Some(error));
            }
        }
    }
    (all, None)
}

async fn read_all(store: &BlobStore, root: &Root) -> BytesMut {
    let blob = store.open_blob(root).await.unwrap().unwrap();
    let (bytes, error) = drain(blob.read(0..blob.size())).await;
    assert!(error.is_none(), "{error:?}");
    bytes
}

/// Changes one byte of a file in place.
fn flip(path: &std::path::Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

fn truncate(path: &std::path::Path, len: u64) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}
