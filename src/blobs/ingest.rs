//! The one pass over an upload's bytes: written to disk and hashed as they arrive.
//!
//! A chunk goes to three [strands](crate::serial) at once, which write it, feed the group hashes, and feed
//! SHA-256; a fourth feeds SHA-512 if the client named it. `push` returns when the chunk is queued, so
//! receiving, hashing and writing overlap and use all cores; at most [`ROOM`] bytes of one upload are queued, and of
//! all together what [`Room`] has.
//!
//! A failed write or fdatasync ends the pass ([`Disk::check`]); the session falls back to its durable
//! offset. A crash loses everything here: the pass is rebuilt by rehashing the durable prefix, unless its [`Hashes`] are
//! still known.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use clawhub_durable::promised::sync_blob;
use clawhub_durable::task::blocking;
use clawhub_types::{Digests, Root};
use sha2::digest::Output;
use sha2::{Digest, Sha256, Sha512};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::BlobError;
use crate::hashes::Hashes;
use crate::paths::Files;
use crate::room::Room;
use crate::serial::{Chunk, Serial, Worker};
use crate::tree::{GROUP_VALUE, Tree, TreeHasher, list_len};
use crate::writer::{Disk, Writer};

/// Most bytes of one upload that are queued for the strands.
const ROOM: usize = 4 << 20;
/// Largest piece that is queued as one.
pub(crate) const SLICE: usize = 1 << 20;
/// What a small chunk counts for, so that the queue is bounded in entries too.
const LEAST: usize = 4 << 10;
/// Bytes of group values collected before they are written.
const LIST_BUFFER: usize = 32 << 10;

/// What a session's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The BLAKE3 root.
    pub root: Root,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256, and SHA-512 if it was asked for.
    pub digests: Digests,
}

/// Computes the group values and writes them to the list file.
struct Lister {
    disk: Arc<Disk>,
    ob: File,
    end: u64,
    tree: TreeHasher,
    /// Values not yet in the list file, and where they go.
    list: Vec<u8>,
    list_at: u64,
}

impl Lister {
    fn hash(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tree.update(bytes, &mut self.list);
        self.end += bytes.len() as u64;
        if self.list.len() >= LIST_BUFFER { self.write_list() } else { Ok(()) }
    }

    fn write_list(&mut self) -> io::Result<()> {
        self.ob.write_all_at(&self.list, self.list_at)?;
        self.list_at += self.list.len() as u64;
        self.list.clear();
        Ok(())
    }

    /// Completes the list file for what was hashed so far and makes it durable. More may follow: the
    /// last value is then overwritten.
    fn settle(&mut self) -> io::Result<()> {
        if list_len(self.end) == 0 {
            return Ok(());
        }
        self.write_list()?;
        if let Tree { last: Some(value), .. } = self.tree.finish() {
            debug_assert_eq!(self.list_at + GROUP_VALUE, list_len(self.end));
            self.ob.write_all_at(&value, self.list_at)?;
        }
        sync_blob(&self.ob)
    }
}

impl Worker for Lister {
    fn chunk(&mut self, bytes: &[u8]) {
        if let Err(error) = self.hash(bytes) {
            self.disk.fail(error);
        }
    }
}

/// A SHA-2 strand.
struct Sha<D>(D);

impl<D: Digest + Send + 'static> Worker for Sha<D> {
    fn chunk(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

impl<D: Digest + Clone + Send + 'static> Sha<D> {
    async fn digest(strand: &Serial<Sha<D>>) -> Result<Output<D>, BlobError> {
        strand.call(|sha| sha.0.clone().finalize()).await
    }
}

/// An upload while bytes arrive. Owned by its session, which lets one caller at a time in.
pub(crate) struct Ingest {
    disk: Arc<Disk>,
    writer: Serial<Writer>,
    lister: Serial<Lister>,
    sha256: Serial<Sha<Sha256>>,
    sha512: Option<Serial<Sha<Sha512>>>,
    room: Arc<Semaphore>,
    /// The same for all uploads.
    shared: Room,
    _open: OwnedSemaphorePermit,
    end: u64,
    /// What `seal` found, until more bytes come.
    sealed: Option<Sealed>,
    /// The hashes at the offset that the client was last told, or where the files were opened.
    told: Option<Box<Hashes>>,
}

impl Ingest {
    /// Blocking. Opens the files in `dir`, cuts them to the `durable` prefix and rehashes that, unless `known` are its
    /// hashes.
    ///
    /// # Errors
    /// `UnexpectedEof` as [`BlobError::Io`] if less than the durable prefix is there.
    pub(crate) fn resume(
        dir: &Path,
        durable: u64,
        known: Hashes,
        room: &Room,
        open: OwnedSemaphorePermit,
    ) -> Result<Ingest, BlobError> {
        let failed = |error| BlobError::io("opening an upload")(error);
        std::fs::create_dir_all(dir).map_err(failed)?;
        let files = Files::in_dir(dir);
        let file_at =
            |path| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file_at(&files.data).map_err(failed)?;
        let ob = file_at(&files.ob).map_err(failed)?;
        if file.metadata().map_err(failed)?.len() < durable {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        let is_known = known.end == durable && ob.metadata().map_err(failed)?.len() >= known.list;
        let mut hashes = if is_known { known } else { Hashes::new(known.sha512.is_some()) };
        file.set_len(durable).and_then(|()| ob.set_len(hashes.list)).map_err(failed)?;
        let from = hashes.end;
        let write = |bytes: &[u8]| hashes.update(bytes, |values, at| ob.write_all_at(values, at));
        read_through(&file, from..durable, write).map_err(failed)?;

        let told = Some(Box::new(hashes.clone()));
        let Hashes { end, tree, list, sha256, sha512 } = hashes;
        let disk = Arc::new(Disk::new(file, durable));
        let lister = Lister { disk: disk.clone(), ob, end, tree, list: Vec::new(), list_at: list };
        Ok(Ingest {
            writer: Serial::new(Writer::new(disk.clone(), &files.data, durable, room.clone())),
            lister: Serial::new(lister),
            disk,
            sha256: Serial::new(Sha(sha256)),
            sha512: sha512.map(|sha512| Serial::new(Sha(sha512))),
            room: Arc::new(Semaphore::new(ROOM)),
            shared: room.clone(),
            _open: open,
            end: durable,
            sealed: None,
            told,
        })
    }

    /// The hashes of everything accepted, with which the files can be opened again.
    pub(crate) async fn hashes(&self) -> Result<Box<Hashes>, BlobError> {
        let listed = self.lister.call(|lister| {
            lister.write_list()?;
            Ok((lister.end, lister.tree.clone(), lister.list_at))
        });
        let sha512 = async {
            match &self.sha512 {
                Some(strand) => strand.call(|sha| sha.0.clone()).await.map(Some),
                None => Ok(None),
            }
        };
        let (listed, sha256, sha512) = tokio::join!(listed, self.sha256.call(|sha| sha.0.clone()), sha512);
        let (end, tree, list) = listed?.map_err(BlobError::io("writing a group list"))?;
        Ok(Box::new(Hashes { end, tree, list, sha256: sha256?, sha512: sha512? }))
    }

    /// Notes that the client is told now that everything accepted is here.
    pub(crate) async fn tell(&mut self) {
        // Without them what is left is read again, should it come to that.
        self.told = self.hashes().await.ok();
    }

    /// The hashes at the offset that the client was last told, or where the files were opened.
    pub(crate) fn told(&mut self) -> Option<Box<Hashes>> {
        self.told.take()
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Queues at most [`SLICE`] bytes, waiting for room, and answers the new end. Nothing is queued if
    /// the caller gives up.
    pub(crate) async fn push(&mut self, bytes: Bytes) -> Result<u64, BlobError> {
        debug_assert!(bytes.len() <= SLICE);
        let need = bytes.len().max(LEAST) as u32;
        let room = self.room.clone().acquire_many_owned(need).await;
        let room = room.map_err(|closed| BlobError::Worker(closed.to_string()))?;
        let shared = self.shared.queue(need).await?;
        self.disk.check()?;
        self.end += bytes.len() as u64;
        self.sealed = None;
        let chunk = Arc::new(Chunk { bytes, _room: [room, shared] });
        if let Some(sha512) = &self.sha512 {
            sha512.push(chunk.clone());
        }
        self.sha256.push(chunk.clone());
        self.lister.push(chunk.clone());
        self.writer.push(chunk);
        Ok(self.end)
    }

    /// Returns when no thread writes to the files.
    pub(crate) async fn quiesce(&self) {
        // A worker that died does not write either.
        let _ = tokio::join!(self.writer.call(|_| ()), self.lister.call(|_| ()));
    }

    /// Makes everything accepted durable and answers how much that is.
    pub(crate) async fn flush(&self) -> Result<u64, BlobError> {
        let end = self.writer.call(Writer::settle).await?;
        let disk = self.disk.clone();
        blocking(move || disk.sync(end)).await?;
        Ok(end)
    }

    /// Hashes of everything accepted. SHA-512 costs a pass over the file if it was not hashed on the
    /// way and is wanted now.
    pub(crate) async fn seal(&mut self, want_sha512: bool) -> Result<Sealed, BlobError> {
        if let Some(sealed) = &self.sealed
            && (sealed.digests.sha512.is_some() || !want_sha512)
        {
            return Ok(sealed.clone());
        }
        let (written, root, sha256) = tokio::join!(
            self.writer.call(Writer::settle),
            self.lister.call(|lister| lister.tree.finish().root),
            Sha::digest(&self.sha256)
        );
        let size = written?;
        let root = root?;
        self.disk.check()?;
        let sha512 = match &self.sha512 {
            Some(strand) => Some(Sha::digest(strand).await?.into()),
            None if want_sha512 => {
                let disk = self.disk.clone();
                Some(blocking(move || digest_file::<Sha512>(&disk.file, size)).await?.into())
            }
            None => None,
        };
        let sealed = Sealed { root, size, digests: Digests { sha256: sha256?.into(), sha512 } };
        self.sealed = Some(sealed.clone());
        Ok(sealed)
    }

    pub(crate) fn disk(&self) -> Arc<Disk> {
        self.disk.clone()
    }

    /// Makes data and group list durable: the files may be moved into place after this.
    pub(crate) async fn settle(&self) -> Result<(), BlobError> {
        let (data, list) = tokio::join!(self.flush(), self.lister.call(Lister::settle));
        data?;
        list?.map_err(BlobError::io("writing a group list"))
    }
}

/// Calls `each` with a range of a file's bytes, piece by piece.
pub(crate) fn read_through(
    file: &File,
    range: Range<u64>,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let Range { start: mut at, end } = range;
    let piece = |left: u64| SLICE.min(usize::try_from(left).unwrap_or(SLICE));
    let mut buffer = vec![0; piece(end.saturating_sub(at))];
    while at < end {
        let piece = &mut buffer[..piece(end - at)];
        file.read_exact_at(piece, at)?;
        each(piece)?;
        at += piece.len() as u64;
    }
    Ok(())
}

/// The digest of the first `len` bytes of a file.
pub(crate) fn digest_file<D: Digest>(file: &File, len: u64) -> Result<Output<D>, BlobError> {
    let mut hash = D::new();
    read_through(file, 0..len, |bytes| {
        hash.update(bytes);
        Ok(())
    })
    .map_err(BlobError::io("hashing a stored file"))?;
    Ok(hash.finalize())
}
