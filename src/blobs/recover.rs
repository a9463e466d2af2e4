//! What a crash leaves, and what becomes of it. Runs alone, while the store opens; each step may be
//! interrupted and done again.
//!
//! | left behind | then |
//! |---|---|
//! | no session row, no bytes | nothing: the client begins anew |
//! | session row, no bytes flushed | the session, empty |
//! | session row, bytes beyond the durable offset | the session, cut to it when it is used |
//! | session row, fewer bytes than durable, or moved away | dropped |
//! | directory in `uploads/` without a row | deleted |
//! | `.ob` without `.data` in `blobs/` | deleted: the rename of the data had not happened |
//! | `.data` without a row | hashed: a replica with a new row and list, or quarantined |
//! | row without `.data` | dropped: the copy is lost |
//! | partial without a row, or a row without its files | deleted |

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use clawhub_durable::promised::sync_blob;
use clawhub_kv::Batch;
use clawhub_types::{Digests, Root, UploadId};
use sha2::{Digest, Sha256};

use crate::BlobError;
use crate::cached::CachedCopies;
use crate::index::{
    BlobRow, Index, delete_blob, delete_cached, delete_partial, delete_upload, put_blob, successor,
};
use crate::ingest::read_through;
use crate::paths::{Files, Paths, remove_dir, write_durably};
use crate::session::Session;
use crate::tree::{TreeHasher, list_len};
use crate::uptime::StoreClock;

/// Rows read at a time.
const ROWS_PER_READ: usize = 1024;

fn failed(error: io::Error) -> BlobError {
    BlobError::io("recovering the blob store")(error)
}

/// Names in a directory; none if it is absent.
fn names(dir: &Path) -> Result<Vec<String>, BlobError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let name = |entry: io::Result<fs::DirEntry>| entry.map(|e| e.file_name().to_string_lossy().into_owned());
    entries.map(name).collect::<io::Result<_>>().map_err(failed)
}

/// The sessions that go on.
pub(crate) fn uploads(
    paths: &Paths,
    index: &Index,
    clock: &StoreClock,
) -> Result<HashMap<UploadId, Arc<Session>>, BlobError> {
    let mut sessions = HashMap::new();
    let mut batch = Batch::default();
    for (id, row) in index.uploads()? {
        let bytes = fs::metadata(Files::in_dir(&paths.upload(&id)).data).map_or(0, |file| file.len());
        if bytes >= row.durable {
            sessions.insert(id, Arc::new(Session::resumed(id, row, clock)));
        } else {
            tracing::warn!(upload = %id, bytes, durable = row.durable, "an upload cannot be resumed");
            delete_upload(&mut batch, &id);
        }
    }
    index.write(batch)?;
    for name in names(&paths.uploads())? {
        let known = name.parse().is_ok_and(|id: UploadId| sessions.contains_key(&id));
        if !known {
            remove_dir(&paths.uploads().join(name)).map_err(failed)?;
        }
    }
    Ok(sessions)
}

/// Leaves only fetches that have row and data; whether the rest fits shows when one is resumed.
pub(crate) fn fetches(paths: &Paths, index: &Index) -> Result<(), BlobError> {
    let mut known = Vec::new();
    let mut batch = Batch::default();
    for (root, _) in index.partials()? {
        if paths.partial(&root).data.try_exists().map_err(failed)? {
            known.push(root.hex());
        } else {
            delete_partial(&mut batch, &root);
        }
    }
    index.write(batch)?;
    for name in names(&paths.partials())? {
        let stem = name.split('.').next().unwrap_or_default();
        if !known.iter().any(|root| root == stem) {
            fs::remove_file(paths.partials().join(name)).map_err(failed)?;
        }
    }
    Ok(())
}

/// Brings rows and files of replicas together, one first byte of the root at a time, so that memory
/// holds a 256th of the names.
pub(crate) fn replicas(paths: &Paths, index: &Index) -> Result<(), BlobError> {
    for first in 0..=u8::MAX {
        let mut files = shard_files(paths, first)?;
        let mut from = Some(lowest(first));
        let mut batch = Batch::default();
        while let Some(start) = from.take() {
            let page = index.blobs(start, ROWS_PER_READ)?;
            let full = page.len() == ROWS_PER_READ;
            for (root, _) in page.iter().filter(|(root, _)| root.0[0] == first) {
                match files.remove(root) {
                    Some(Found { data: true, .. }) => {}
                    _ => {
                        tracing::error!(%root, "the file of a stored blob is gone");
                        delete_blob(&mut batch, root);
                    }
                }
            }
            from = page
                .last()
                .filter(|(root, _)| full && root.0[0] == first)
                .and_then(|(root, _)| successor(root));
        }
        for (root, found) in files {
            leftover(paths, &root, &found, &mut batch)?;
        }
        if !batch.is_empty() {
            index.write(batch)?;
        }
    }
    index.sync()
}

/// The cache, without those copies that are gone.
pub(crate) fn cached(index: &Index) -> Result<CachedCopies, BlobError> {
    let mut rows = index.cached()?;
    let mut batch = Batch::default();
    for (root, _) in &rows {
        if index.blob(root)?.is_none() {
            delete_cached(&mut batch, root);
        }
    }
    if !batch.is_empty() {
        index.write(batch)?;
        rows = index.cached()?;
    }
    Ok(CachedCopies::new(rows))
}

/// The lowest root with this first byte.
fn lowest(first: u8) -> Root {
    let mut root = [0; 32];
    root[0] = first;
    Root(root)
}

/// Which files of a root were found.
#[derive(Default)]
struct Found {
    data: bool,
    ob: bool,
}

/// The files of all roots with this first byte. Marks their directories as durable.
fn shard_files(paths: &Paths, first: u8) -> Result<BTreeMap<Root, Found>, BlobError> {
    let mut files: BTreeMap<Root, Found> = BTreeMap::new();
    let top = paths.blobs().join(format!("{first:02x}"));
    for second in names(&top)? {
        let dir = top.join(&second);
        match u8::from_str_radix(&second, 16) {
            Ok(second) => paths.known_shard(u16::from_be_bytes([first, second])),
            Err(_) => {
                tracing::warn!(path = %dir.display(), "not a directory of the blob store; left alone");
                continue;
            }
        }
        for name in names(&dir)? {
            match name.split_once('.').map(|(stem, kind)| (stem.parse::<Root>(), kind)) {
                Some((Ok(root), "data")) => files.entry(root).or_default().data = true,
                Some((Ok(root), "ob")) => files.entry(root).or_default().ob = true,
                _ => tracing::warn!(path = %dir.join(name).display(), "not a blob's file; left alone"),
            }
        }
    }
    Ok(files)
}

/// Files without a row: the crash came between rename and row, or between row and unlink.
fn leftover(paths: &Paths, root: &Root, found: &Found, batch: &mut Batch) -> Result<(), BlobError> {
    if !found.data {
        debug_assert!(found.ob);
        return paths.unlink(root).map_err(failed);
    }
    let row = match rehash(paths, root) {
        Ok(row) => row,
        // Nothing rests on files without a row, so they must not keep the node from starting: one bad sector
        // would. A new copy takes their place.
        Err(error) => {
            tracing::error!(%root, %error, "a stored blob without a row cannot be read; left alone");
            return Ok(());
        }
    };
    match row {
        Some(row) => {
            tracing::info!(%root, size = row.size, "a stored blob without a row is taken back");
            put_blob(batch, root, &row);
            Ok(())
        }
        None => {
            tracing::error!(%root, "a stored blob without a row is corrupt and goes to quarantine");
            paths.condemn(root).map_err(failed)
        }
    }
}

/// The row of a file whose bytes are what its name says; its group list is written anew.
fn rehash(paths: &Paths, root: &Root) -> io::Result<Option<BlobRow>> {
    let files = paths.blob(root);
    let data = File::open(&files.data)?;
    let size = data.metadata()?.len();
    let mut tree = TreeHasher::new();
    let mut list = Vec::new();
    let mut sha256 = Sha256::new();
    read_through(&data, 0..size, |bytes| {
        sha256.update(bytes);
        tree.update(bytes, &mut list);
        Ok(())
    })?;
    let tree = tree.finish();
    if tree.root != *root {
        return Ok(None);
    }
    sync_blob(&data)?;
    if let Some(last) = tree.last {
        list.extend_from_slice(&last);
        debug_assert_eq!(list.len() as u64, list_len(size));
        write_durably(&files.ob, &list)?;
    }
    paths.fsync_shard(root)?;
    Ok(Some(BlobRow { size, digests: Digests { sha256: sha256.finalize().into(), sha512: None } }))
}
