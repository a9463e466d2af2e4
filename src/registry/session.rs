//! Upload sessions that this node owns: their bytes go into the local store and, as they arrive, to a
//! partner in another failure domain.
//!
//! # State
//! The session itself (offset, hashes, file) belongs to the blob store and survives a restart at its
//! fsynced offset. This module keeps, in memory, the open mirror of each session and the receipts
//! of the last finished ones, so that a PUT can be repeated. A crash loses both: the next step goes on
//! without a mirror, and the copy is made when the upload is finished.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use clawhub_blobs::Sealed;
use clawhub_policy::{partners, possible};
use clawhub_replicate::Mirror;
use clawhub_types::{Digest, ErrorCode, NodeId, Receipt, RepoName, UploadId};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, Semaphore};

use crate::errors::RETRY;
use crate::{BodyStream, Error, Kind, Registry, UploadView};

/// Client bytes are gathered to this size before they are hashed, written and mirrored.
const PIECE: usize = 512 * 1024;
/// How long a step waits for an earlier one of the same session, whose client may just have left.
const TURN: Duration = Duration::from_secs(20);
/// So many partners are tried before an upload goes on alone.
const MIRROR_TRIES: usize = 3;
/// Steps that take bytes at the same time. Each may have 8 MiB between receiving and mirroring, but only
/// while the disk is slower than its client; slow clients, of whom there may be many, have half a MiB.
const ACTIVE: usize = 256;
/// So many finished uploads are remembered.
const KEPT: usize = 4096;

/// The open sessions of this node.
pub(crate) struct Sessions {
    /// Bounds the memory of uploads.
    active: Semaphore,
    open: Mutex<HashMap<UploadId, Arc<tokio::sync::Mutex<Session>>>>,
    kept: Mutex<VecDeque<Kept>>,
}

/// An upload whose bytes became replicas. Its commit may still have failed, or its answer been lost.
#[derive(Clone)]
struct Kept {
    id: UploadId,
    repo: RepoName,
    digest: Digest,
    receipts: Vec<Receipt>,
}

/// What a session has beside its file. Held while a step runs: one at a time.
#[derive(Default)]
pub(crate) struct Session {
    mirror: Option<Mirror>,
}

impl Default for Sessions {
    fn default() -> Self {
        Sessions { active: Semaphore::new(ACTIVE), open: Mutex::default(), kept: Mutex::default() }
    }
}

impl Sessions {
    fn session(&self, id: UploadId) -> Arc<tokio::sync::Mutex<Session>> {
        self.open.lock().entry(id).or_default().clone()
    }

    fn close(&self, id: UploadId) {
        self.open.lock().remove(&id);
    }

    fn keep(&self, kept: Kept) {
        self.close(kept.id);
        let mut all = self.kept.lock();
        all.push_back(kept);
        if all.len() > KEPT {
            all.pop_front();
        }
    }

    fn kept(&self, id: UploadId, repo: &RepoName, digest: &Digest) -> Option<Vec<Receipt>> {
        let all = self.kept.lock();
        let kept =
            all.iter().rev().find(|kept| kept.id == id && kept.repo == *repo && kept.digest == *digest)?;
        Some(kept.receipts.clone())
    }
}

/// The part of a step that says which bytes it carries.
pub(crate) struct Chunk {
    /// `Content-Range`, first and last byte.
    pub(crate) range: Option<(u64, u64)>,
    /// `Content-Length`.
    pub(crate) length: Option<u64>,
    /// The bytes.
    pub(crate) body: BodyStream,
}

impl Registry {
    /// Opens a session on this node.
    pub(crate) async fn own_begin(&self, repo: &RepoName, sha512: bool) -> Result<UploadView, Error> {
        if !self.blobs().accepts() {
            return Err(Error::new(Kind::NoSpace, "this node is below its free-space limit"));
        }
        self.check_possible(repo).await?;
        let id = UploadId { node: self.me(), random: rand::random() };
        self.blobs().begin(id, repo, sha512).await?;
        let session = Session { mirror: self.open_mirror(id, repo, sha512).await? };
        self.inner.sessions.open.lock().insert(id, Arc::new(tokio::sync::Mutex::new(session)));
        Ok(UploadView { id, offset: 0 })
    }

    /// Appends a chunk; the answer's offset is durable here and on the partner.
    pub(crate) async fn own_append(
        &self,
        repo: &RepoName,
        id: UploadId,
        chunk: Chunk,
    ) -> Result<UploadView, Error> {
        let mut session = self.turn(repo, id).await?;
        self.receive(repo, id, &mut session, chunk).await?;
        let offset = self.flush(id, &mut session).await?;
        Ok(UploadView { id, offset })
    }

    /// Takes a last chunk, checks the digest, makes the copies, and binds and links the blob.
    pub(crate) async fn own_finish(
        &self,
        permit: &clawhub_auth::Permit,
        repo: &RepoName,
        id: UploadId,
        digest: &Digest,
        chunk: Chunk,
    ) -> Result<(), Error> {
        // A PUT repeated after a lost answer, or after a commit that failed.
        if let Some(receipts) = self.inner.sessions.kept(id, repo, digest) {
            return self.commit_blob(permit, repo, digest, receipts).await;
        }
        let mut session = self.turn(repo, id).await?;
        self.receive(repo, id, &mut session, chunk).await?;
        let sealed = self.blobs().seal(id, digest).await?;
        let receipts = self.keep(id, &mut session, digest, &sealed).await?;
        let (repo_name, named) = (repo.clone(), digest.clone());
        self.inner.sessions.keep(Kept { id, repo: repo_name, digest: named, receipts: receipts.clone() });
        self.commit_blob(permit, repo, digest, receipts).await
    }

    /// Where a session stands.
    pub(crate) async fn own_status(&self, repo: &RepoName, id: UploadId) -> Result<UploadView, Error> {
        let mut session = self.turn(repo, id).await?;
        let offset = self.flush(id, &mut session).await?;
        Ok(UploadView { id, offset })
    }

    /// Forgets a session and its bytes.
    pub(crate) async fn own_cancel(&self, repo: &RepoName, id: UploadId) -> Result<(), Error> {
        let mut session = self.turn(repo, id).await?;
        if let Some(mirror) = session.mirror.take() {
            mirror.abort().await;
        }
        self.blobs().cancel(id).await?;
        self.inner.sessions.close(id);
        Ok(())
    }

    /// Whether a push could be acknowledged now; asked when it begins, not after its bytes are here.
    async fn check_possible(&self, repo: &RepoName) -> Result<(), Error> {
        let (policy, layout) = self.placement(repo)?;
        if possible(&policy, &layout, &self.inner.replicate.live()).is_ok() {
            return Ok(());
        }
        // The table may be older than a node that just came back.
        self.inner.replicate.refresh_live().await;
        let short = possible(&policy, &layout, &self.inner.replicate.live());
        short.map_err(|short| Error::unavailable(RETRY, short.to_string()))
    }

    async fn open_mirror(
        &self,
        id: UploadId,
        repo: &RepoName,
        sha512: bool,
    ) -> Result<Option<Mirror>, Error> {
        let (policy, layout) = self.placement(repo)?;
        if clawhub_policy::satisfied(&policy, &layout, &[self.me()]) {
            return Ok(None);
        }
        let mut seed = [0; 32];
        seed[..16].copy_from_slice(&id.random);
        let mut ranked: Vec<NodeId> =
            partners(&policy, &layout, self.me(), &self.inner.replicate.live(), &seed);
        self.inner.replicate.recent_first(&mut ranked);
        for partner in ranked.into_iter().take(MIRROR_TRIES) {
            match self.inner.replicate.mirror(partner, id, repo, sha512).await {
                Ok(mirror) => return Ok(Some(mirror)),
                Err(error) => tracing::warn!(upload = %id, %error, "cannot mirror there"),
            }
        }
        Ok(None)
    }

    /// The right to run the next step of a session, once the store knows it and the repository is the
    /// one it was opened for.
    async fn turn(&self, repo: &RepoName, id: UploadId) -> Result<OwnedMutexGuard<Session>, Error> {
        self.known(repo, id)?;
        let turn = self.inner.sessions.session(id).lock_owned();
        let late = |_| Error::unavailable(RETRY, "another step of this upload is still running");
        tokio::time::timeout(TURN, turn).await.map_err(late)
    }

    /// Where the store's session ends now.
    fn known(&self, repo: &RepoName, id: UploadId) -> Result<u64, Error> {
        let status = self.blobs().upload(id).filter(|status| status.repo == *repo);
        let unknown =
            || Error::code(ErrorCode::BlobUploadUnknown, "the upload is unknown, finished or cancelled");
        status.map(|status| status.offset).ok_or_else(unknown)
    }

    /// Streams a chunk into the store and the mirror.
    async fn receive(
        &self,
        repo: &RepoName,
        id: UploadId,
        session: &mut Session,
        chunk: Chunk,
    ) -> Result<(), Error> {
        let late = |_| Error::unavailable(RETRY, "this node takes as many uploads as it can");
        let active = tokio::time::timeout(TURN, self.inner.sessions.active.acquire()).await.map_err(late)?;
        let _active = active.map_err(|_| Error::internal("the node is stopping"))?;
        // Looked up again under the lock: an earlier step may have moved or ended the session.
        let mut at = self.known(repo, id)?;
        let expected = expected_length(&chunk, UploadView { id, offset: at })?;
        let mut body = chunk.body;
        let mut left = expected.unwrap_or(u64::MAX);
        let mut piece = BytesMut::new();
        loop {
            let next = body.next().await;
            let ended = next.is_none();
            match next {
                Some(Ok(bytes)) if bytes.len() as u64 > left => {
                    return Err(Error::code(
                        ErrorCode::SizeInvalid,
                        "the body is longer than its Content-Range",
                    ));
                }
                Some(Ok(bytes)) => {
                    left -= bytes.len() as u64;
                    piece.extend_from_slice(&bytes);
                }
                Some(Err(error)) => {
                    // What arrived is kept: the client can go on from there.
                    at = self.store(id, session, at, piece.split().freeze()).await?;
                    tracing::info!(upload = %id, offset = at, %error, "the client left in the middle of an upload");
                    let _ = self.flush(id, session).await;
                    return Err(error.into());
                }
                None => {}
            }
            if piece.len() >= PIECE || (ended && !piece.is_empty()) {
                at = self.store(id, session, at, piece.split().freeze()).await?;
            }
            if ended {
                break;
            }
        }
        if expected.is_some() && left > 0 {
            return Err(Error::code(ErrorCode::SizeInvalid, "the body is shorter than it says"));
        }
        Ok(())
    }

    /// One piece, into the store and the mirror at the same time.
    async fn store(&self, id: UploadId, session: &mut Session, at: u64, bytes: Bytes) -> Result<u64, Error> {
        if bytes.is_empty() {
            return Ok(at);
        }
        let mirrored = async {
            match &mut session.mirror {
                Some(mirror) if mirror.offset() == at => mirror.append(bytes.clone()).await.map_err(Some),
                Some(_) => Err(None),
                None => Ok(()),
            }
        };
        let (stored, mirrored) = tokio::join!(self.blobs().append(id, at, bytes.clone()), mirrored);
        if let Err(error) = mirrored {
            self.drop_mirror(id, session, error.map_or_else(|| "out of step".to_owned(), |e| e.to_string()));
        }
        Ok(stored?)
    }

    /// Fsyncs here and on the partner; the offset that both reach.
    async fn flush(&self, id: UploadId, session: &mut Session) -> Result<u64, Error> {
        let mirrored = async {
            match &mut session.mirror {
                Some(mirror) => mirror.flush().await.map(Some),
                None => Ok(None),
            }
        };
        let (stored, mirrored) = tokio::join!(self.blobs().flush(id), mirrored);
        let stored = stored?;
        match mirrored {
            Ok(Some(offset)) => Ok(stored.min(offset)),
            Ok(None) => Ok(stored),
            Err(error) => {
                self.drop_mirror(id, session, error.to_string());
                Ok(stored)
            }
        }
    }

    /// Turns the session into a replica here and on the partner.
    async fn keep(
        &self,
        id: UploadId,
        session: &mut Session,
        digest: &Digest,
        sealed: &Sealed,
    ) -> Result<Vec<Receipt>, Error> {
        let generation = self.generation(&sealed.root)?;
        let mirror = session.mirror.take().filter(|mirror| mirror.offset() == sealed.size);
        let mirrored = async {
            match mirror {
                Some(mirror) => mirror.keep(digest, generation).await.map(Some),
                None => Ok(None),
            }
        };
        let (kept, mirrored) = tokio::join!(self.blobs().keep(id, sealed, generation), mirrored);
        let mut receipts = vec![kept?];
        match mirrored {
            Ok(receipt) => receipts.extend(receipt),
            // The copy is made when the blob is committed.
            Err(error) => tracing::warn!(upload = %id, %error, "the mirror gave no receipt"),
        }
        Ok(receipts)
    }

    fn drop_mirror(&self, id: UploadId, session: &mut Session, reason: String) {
        tracing::warn!(upload = %id, reason, "the upload goes on without its mirror");
        session.mirror = None;
    }
}

/// How many bytes the chunk must have, once its place is right.
fn expected_length(chunk: &Chunk, view: UploadView) -> Result<Option<u64>, Error> {
    let Some((start, end)) = chunk.range else { return Ok(chunk.length) };
    if start != view.offset {
        let message = format!("the next byte is {}, not {start}", view.offset);
        return Err(Error::new(Kind::RangeInvalid { upload: view }, message));
    }
    let span = end.checked_sub(start).and_then(|n| n.checked_add(1));
    let span =
        span.ok_or_else(|| Error::code(ErrorCode::SizeInvalid, "Content-Range ends before it begins"))?;
    match chunk.length {
        Some(length) if length != span => {
            Err(Error::code(ErrorCode::SizeInvalid, format!("{length} bytes for a Content-Range of {span}")))
        }
        _ => Ok(Some(span)),
    }
}
