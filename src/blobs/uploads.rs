//! Upload sessions as callers use them.
//!
//! The row in the index is the truth across restarts: a session resumes at the row's durable offset, however
//! many bytes follow in the file. It is written ahead of the session's first bytes. Until its first flush a session
//! survives the process but not the machine, and without bytes neither.
//!
//! One caller at a time is let in. Steps that must not stop half-way when a client disconnects run
//! detached.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use clawhub_durable::task::{blocking, detached};
use clawhub_kv::Batch;
use clawhub_types::{Algorithm, Digest, Receipt, RepoName, UploadId};
use tokio::sync::OwnedMutexGuard;

use crate::buffers::READ_BYTES;
use crate::finished_upload::FinishedUpload;
use crate::hashes::Hashes;
use crate::index::{delete_upload, put_upload};
use crate::ingest::{Ingest, SLICE, digest_file};
use crate::paths::{Files, remove_dir};
use crate::replicas::Staged;
use crate::session::{Entered, Progress, Session, UploadStatus, Work};
use crate::{BlobError, BlobStore, Sealed};

/// The upload sessions of a store.
#[derive(Clone, Copy)]
pub struct Uploads<'a> {
    pub(crate) store: &'a BlobStore,
}

impl BlobStore {
    /// The upload sessions.
    pub fn uploads(&self) -> Uploads<'_> {
        Uploads { store: self }
    }
}

impl Uploads<'_> {
    /// Opens a session. `sha512` adds SHA-512 to the pass over the bytes; without it a client that names
    /// the blob by SHA-512 costs a second pass at the end. Opening an open session again is fine.
    ///
    /// Until its first byte the session is in memory only, for minutes, and for less while very many are opened.
    ///
    /// # Errors
    /// [`BlobError::NoSpace`]; [`BlobError::TooManyUploads`]; [`BlobError::UploadTaken`] if the id is another
    /// repository's.
    pub async fn begin(self, id: UploadId, repo: &RepoName, sha512: bool) -> Result<(), BlobError> {
        self.store.cache().ensure_room(0).await?;
        let mut sessions = self.store.shared.sessions.lock();
        if let Some(session) = sessions.get(id) {
            return if session.repo == *repo { Ok(()) } else { Err(BlobError::UploadTaken(id)) };
        }
        // Told now, not when its bytes are here.
        sessions.ensure_room(id)?;
        sessions.open(|number| Session::empty(number, id, repo.clone(), sha512));
        Ok(())
    }

    /// Appends bytes at `at`, which must be the session's end, and answers the new end. The bytes are
    /// then on their way to disk, at most 4 MiB of them still in memory; [`Uploads::flush`] makes them
    /// durable. A caller that gives up midway may have appended a part.
    ///
    /// # Errors
    /// [`BlobError::Offset`], [`BlobError::NoSpace`], [`BlobError::UploadUnknown`]; with the first bytes
    /// [`BlobError::TooManyUploads`]; after [`BlobError::Io`] the session stands at its durable offset.
    pub async fn append(self, id: UploadId, at: u64, mut bytes: Bytes) -> Result<u64, BlobError> {
        let mut entered = self.enter(id).await?;
        let expected = entered.ingest()?.end();
        if at != expected {
            return Err(BlobError::Offset { expected });
        }
        self.store.cache().ensure_room(bytes.len() as u64).await?;
        while !bytes.is_empty() {
            let slice = bytes.split_to(bytes.len().min(SLICE));
            let pushed = entered.ingest()?.push(slice).await;
            let end = entered.settled(pushed).await?;
            entered.session.progress.lock().offset = end;
        }
        Ok(entered.ingest()?.end())
    }

    /// At most `most` of a session's durable bytes, and never more than 512 KiB, from `at` on, for a copy
    /// of it elsewhere; none from the durable offset on. They come unchecked: there is no root yet to check
    /// them against, and whoever keeps the copy compares its digest.
    ///
    /// # Errors
    /// [`BlobError::UploadUnknown`], [`BlobError::Io`].
    pub async fn read_durable(self, id: UploadId, at: u64, most: usize) -> Result<Bytes, BlobError> {
        let mut entered = self.enter(id).await?;
        let disk = entered.ingest()?.disk();
        let there = entered.session.progress.lock().durable.saturating_sub(at);
        let len = usize::try_from(there).unwrap_or(usize::MAX).min(most).min(READ_BYTES);
        let mut buffer = self.store.shared.buffers.take(len);
        blocking(move || {
            let read = disk.file.read_exact_at(buffer.as_mut(), at);
            read.map(|()| buffer.freeze()).map_err(BlobError::io("reading an upload"))
        })
        .await
    }

    /// The digest of a session's first `len` bytes, which costs a pass over them.
    ///
    /// # Errors
    /// [`BlobError::UploadUnknown`], [`BlobError::Io`].
    pub async fn prefix_digest(
        self,
        id: UploadId,
        len: u64,
        algorithm: Algorithm,
    ) -> Result<Digest, BlobError> {
        let mut entered = self.enter(id).await?;
        // Everything is in the file then.
        entered.ingest()?.seal(false).await?;
        let disk = entered.ingest()?.disk();
        blocking(move || match algorithm {
            Algorithm::Sha256 => Ok(Digest::Sha256(digest_file::<sha2::Sha256>(&disk.file, len)?.into())),
            Algorithm::Sha512 => Ok(Digest::Sha512(digest_file::<sha2::Sha512>(&disk.file, len)?.into())),
        })
        .await
    }

    /// Hashes what was appended and compares it with what the client named. The session goes on either
    /// way: it can be kept, appended to, or sealed against another digest.
    ///
    /// # Errors
    /// [`BlobError::DigestMismatch`], [`BlobError::UploadUnknown`]; after [`BlobError::Io`] the session
    /// stands at its durable offset.
    pub async fn seal(self, id: UploadId, expect: &Digest) -> Result<Sealed, BlobError> {
        let store = self.store.clone();
        let expect = expect.clone();
        detached(async move {
            let mut entered = store.uploads().enter(id).await?;
            let want_sha512 = matches!(expect, Digest::Sha512(_));
            let sealed = entered.ingest()?.seal(want_sha512).await;
            let sealed = entered.settled(sealed).await?;
            let actual = sealed.digests.get(expect.algorithm()).expect("seal computes what is wanted");
            if actual == expect {
                Ok(sealed)
            } else {
                Err(BlobError::DigestMismatch { expected: expect.into(), actual: actual.into() })
            }
        })
        .await
    }

    /// Turns the session's bytes into a replica and answers the receipt: data and group list are
    /// fsynced, renamed, their directory fsynced, the index row synced. The session is gone then; of one that this
    /// node opened, [`Uploads::finished`] says what it became. If the root is held already, its copy is confirmed for
    /// `generation`. Goes on if the caller goes away.
    ///
    /// # Errors
    /// [`BlobError::Unsealed`] if the session holds other bytes than `sealed`,
    /// [`BlobError::UploadUnknown`]; after [`BlobError::Io`] or [`BlobError::Index`] the outcome is
    /// unknown until the next start.
    pub async fn keep(self, id: UploadId, sealed: &Sealed, generation: u64) -> Result<Receipt, BlobError> {
        let store = self.store.clone();
        let sealed = sealed.clone();
        detached(async move {
            let mut entered = store.uploads().enter(id).await?;
            // After a restart in between, the bytes are what the durable prefix says.
            let now = entered.ingest()?.seal(sealed.digests.sha512.is_some()).await;
            let now = entered.settled(now).await?;
            let same = (now.root, now.size) == (sealed.root, sealed.size);
            if !same || !sealed.digests.iter().all(|digest| now.digests.contains(&digest)) {
                return Err(BlobError::Unsealed(id));
            }
            let sealed = now;
            let mut batch = Batch::default();
            delete_upload(&mut batch, &id);
            if id.node == store.shared.config.node {
                let repo = entered.session.repo.clone();
                let row = FinishedUpload::new(repo, &sealed, store.shared.clock.now());
                store.shared.finished.note(&mut batch, id, row);
            }
            let receipt = match store.replicas().confirm(&sealed, generation, &batch).await? {
                Some(receipt) => receipt,
                None => {
                    let settled = entered.ingest()?.settle().await;
                    entered.settled(settled).await?;
                    let files = Files::in_dir(&store.shared.paths.upload(&id));
                    let placed = store.replicas().place(Staged { files, sealed }, generation, batch).await;
                    entered.settled(placed).await?
                }
            };
            store.uploads().end(entered).await?;
            Ok(receipt)
        })
        .await
    }

    /// What a session of this node became, if it was kept not too long ago.
    ///
    /// # Errors
    /// [`BlobError::Index`].
    pub fn finished(self, id: UploadId) -> Result<Option<FinishedUpload>, BlobError> {
        self.store.shared.index.finished(&id)
    }

    /// Ends a session and deletes its bytes.
    ///
    /// # Errors
    /// [`BlobError::UploadUnknown`], [`BlobError::Io`], [`BlobError::Index`].
    pub async fn cancel(self, id: UploadId) -> Result<(), BlobError> {
        let store = self.store.clone();
        detached(async move {
            let session = store.uploads().session(id)?;
            let work = session.work.clone().lock_owned().await;
            match *work {
                Work::Gone => Err(BlobError::UploadUnknown(id)),
                Work::Hot(_) | Work::Cold(_) => store.uploads().discard(Entered { session, work }).await,
            }
        })
        .await
    }

    pub(crate) async fn discard(self, entered: Entered) -> Result<(), BlobError> {
        let mut batch = Batch::default();
        delete_upload(&mut batch, &entered.session.id);
        if entered.session.recorded.load(Ordering::Acquire) {
            self.write(batch).await?;
        }
        self.end(entered).await
    }

    /// Writes rows of sessions: they survive the process, not yet the machine.
    async fn write(self, batch: Batch) -> Result<(), BlobError> {
        let store = self.store.clone();
        blocking(move || store.shared.index.write(batch)).await
    }

    /// The session's row is gone; so go the rest of it.
    async fn end(self, mut entered: Entered) -> Result<(), BlobError> {
        *entered.work = Work::Gone;
        self.store.shared.sessions.lock().remove(&entered.session);
        let dir = self.store.shared.paths.upload(&entered.session.id);
        if !entered.session.recorded.load(Ordering::Acquire) {
            return Ok(());
        }
        blocking(move || remove_dir(&dir).map_err(BlobError::io("deleting an upload"))).await
    }

    /// A session, if it is open here.
    pub fn status(self, id: UploadId) -> Option<UploadStatus> {
        let session = self.session(id).ok()?;
        let Progress { offset, durable, acknowledged, .. } = *session.progress.lock();
        let opened_at = UNIX_EPOCH + Duration::from_millis(session.opened_at);
        let repo = session.repo.clone();
        let sha512 = session.sha512;
        Some(UploadStatus { repo, sha512, offset, durable, acknowledged, opened_at })
    }

    /// Closes the files of a session that is not used at present.
    pub(crate) async fn rest(self, mut entered: Entered) -> Result<(), BlobError> {
        let flushed = self.flush_entered(&mut entered).await;
        let hashes = match &*entered.work {
            Work::Hot(ingest) => ingest.hashes().await.ok(),
            Work::Cold(_) | Work::Gone => None,
        };
        entered.close_with(hashes).await;
        flushed.map(drop)
    }

    pub(crate) fn session(self, id: UploadId) -> Result<Arc<Session>, BlobError> {
        self.store.shared.sessions.lock().get(id).cloned().ok_or(BlobError::UploadUnknown(id))
    }

    /// Every session with bytes.
    pub(crate) fn used(self) -> Vec<Arc<Session>> {
        self.store.shared.sessions.lock().used().cloned().collect()
    }

    /// Waits for the session and resumes it if its files are closed. One without a row gets it first.
    pub(crate) async fn enter(self, id: UploadId) -> Result<Entered, BlobError> {
        let session = self.session(id)?;
        let work = session.work.clone().lock_owned().await;
        session.touch();
        match *work {
            Work::Hot(_) => Ok(Entered { session, work }),
            Work::Gone => Err(BlobError::UploadUnknown(id)),
            Work::Cold(_) => {
                let store = self.store.clone();
                // Two resumptions of the same files would ruin each other, so one is never given up.
                detached(async move {
                    store.uploads().record(&session).await?;
                    store.uploads().resume(session, work).await
                })
                .await
            }
        }
    }

    /// Has the index know of a session. The caller has the session's work.
    async fn record(self, session: &Session) -> Result<(), BlobError> {
        if session.recorded.load(Ordering::Acquire) {
            return Ok(());
        }
        self.store.shared.sessions.lock().occupy(session)?;
        let mut batch = Batch::default();
        put_upload(&mut batch, &session.id, &session.row(0, 0, &self.store.shared.clock));
        self.write(batch).await?;
        session.recorded.store(true, Ordering::Release);
        Ok(())
    }

    async fn resume(
        self,
        session: Arc<Session>,
        mut work: OwnedMutexGuard<Work>,
    ) -> Result<Entered, BlobError> {
        let dir = self.store.shared.paths.upload(&session.id);
        let durable = session.progress.lock().durable;
        let sha512 = session.sha512;
        let room = self.store.shared.room.clone();
        let open = match room.open() {
            Some(open) => open,
            None => {
                self.rest_the_idlest().await;
                room.open().ok_or(BlobError::TooManyUploads)?
            }
        };
        let known = match &mut *work {
            Work::Cold(known) => known.take(),
            Work::Hot(_) | Work::Gone => None,
        };
        let known = known.map_or_else(|| Hashes::new(sha512), |known| *known);
        match blocking(move || Ingest::resume(&dir, durable, known, &room, open)).await {
            Ok(ingest) => {
                *work = Work::Hot(Box::new(ingest));
                Ok(Entered { session, work })
            }
            Err(BlobError::Io { source, .. }) if source.kind() == std::io::ErrorKind::UnexpectedEof => {
                let id = session.id;
                tracing::warn!(upload = %id, "durable bytes of an upload are gone");
                self.discard(Entered { session, work }).await?;
                Err(BlobError::UploadUnknown(id))
            }
            Err(error) => Err(error),
        }
    }
}
