//! Upload sessions that this node owns: their bytes go into the local store and, as they arrive, to a
//! partner in another failure domain (module [`mirroring`](crate::mirroring)).
//!
//! # State
//! The session itself (offset, hashes, file) belongs to the blob store and survives a restart at its
//! fsynced offset. This module keeps, in memory, what else belongs to each session and the receipts of the
//! last finished ones, so that a PUT can be repeated. A crash loses both: the next step mirrors again, and
//! a repeated PUT is refused.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use clawhub_policy::possible;
use clawhub_types::{Digest, Receipt, RepoName, UploadId};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::error::RETRY;
use crate::mirroring::{Session, Step};
use crate::{BodyStream, Error, Invalid, Kind, Registry, UploadView};

/// Client bytes are gathered to this size before they are hashed, written and mirrored.
pub(crate) const PIECE: usize = 512 * 1024;
/// How long a step waits for an earlier one of the same session, whose client may just have left.
const TURN: Duration = Duration::from_secs(20);
/// Steps that take bytes at the same time. Each may have 8 MiB between receiving and mirroring, but only
/// while the disk is slower than its client; slow clients, of whom there may be many, have half a MiB.
const ACTIVE: usize = 256;
/// Mirrors that stay open between two steps of their uploads, which saves the next step opening them. Each
/// takes one of its partner's streams.
const RESTING: usize = 128;
/// So many finished uploads are remembered.
const KEPT: usize = 4096;

/// The open sessions of this node.
pub(crate) struct Sessions {
    /// Bounds the memory of uploads.
    active: Semaphore,
    resting: Arc<Semaphore>,
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

impl Default for Sessions {
    fn default() -> Self {
        let (active, resting) = (Semaphore::new(ACTIVE), Arc::new(Semaphore::new(RESTING)));
        Sessions { active, resting, open: Mutex::default(), kept: Mutex::default() }
    }
}

impl Sessions {
    fn session(&self, id: UploadId) -> Arc<tokio::sync::Mutex<Session>> {
        self.open.lock().entry(id).or_default().clone()
    }

    fn close(&self, id: UploadId) {
        self.open.lock().remove(&id);
    }

    /// The right to keep a mirror open between two steps, if there is one left.
    pub(crate) fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.resting.clone().try_acquire_owned().ok()
    }

    /// Forgets the sessions that the store does not know any more, and ends the mirrors of those that have not
    /// been used since the last call.
    pub(crate) fn tidy(&self, known: impl Fn(UploadId) -> bool) {
        let mut open = self.open.lock();
        open.retain(|id, _| known(*id));
        for session in open.values() {
            // Locked: in use.
            if let Ok(mut session) = session.try_lock() {
                session.rest();
            }
        }
    }

    /// How many sessions there are, and how many of them have a mirror.
    #[cfg(test)]
    pub(crate) fn count(&self) -> (usize, usize) {
        let open = self.open.lock();
        let mirrored = |session: &&Arc<tokio::sync::Mutex<Session>>| {
            session.try_lock().is_ok_and(|session| session.is_mirrored())
        };
        (open.len(), open.values().filter(mirrored).count())
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
        self.blobs().ensure_accepts()?;
        self.check_possible(repo).await?;
        let id = UploadId { node: self.me(), random: rand::random() };
        // No partner yet: there is nothing that could be lost, and of many an upload nothing ever comes.
        self.blobs().uploads().begin(id, repo, sha512).await?;
        Ok(UploadView { id, offset: 0 })
    }

    /// Appends a chunk; the answer's offset is durable here and on the partner.
    pub(crate) async fn own_append(
        &self,
        repo: &RepoName,
        id: UploadId,
        chunk: Chunk,
    ) -> Result<UploadView, Error> {
        let mut step = self.turn(repo, id).await?;
        self.receive(&mut step, chunk).await?;
        Ok(UploadView { id, offset: step.confirm().await? })
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
        // A PUT repeated after a lost answer, or after a commit that failed. The copy here may have been given up
        // since; the client then uploads it once more.
        if let Some(receipts) = self.inner.sessions.kept(id, repo, digest)
            && receipts.iter().any(|receipt| self.blobs().holds(&receipt.root).is_some())
        {
            return self.commit_blob(permit, repo, digest, receipts).await;
        }
        let mut step = self.turn(repo, id).await?;
        self.receive(&mut step, chunk).await?;
        let sealed = self.blobs().uploads().seal(id, digest).await?;
        let receipts = step.keep(digest, &sealed).await?;
        let (repo_name, named) = (repo.clone(), digest.clone());
        self.inner.sessions.keep(Kept { id, repo: repo_name, digest: named, receipts: receipts.clone() });
        self.commit_blob(permit, repo, digest, receipts).await
    }

    /// Where a session stands, which is durable here and on the partner by then: a client may forget what
    /// it is told has arrived.
    pub(crate) async fn own_status(&self, repo: &RepoName, id: UploadId) -> Result<UploadView, Error> {
        let offset = self.turn(repo, id).await?.confirm().await?;
        Ok(UploadView { id, offset })
    }

    /// Forgets a session and its bytes.
    pub(crate) async fn own_cancel(&self, repo: &RepoName, id: UploadId) -> Result<(), Error> {
        let mut step = self.turn(repo, id).await?;
        let (cancelled, ()) = tokio::join!(self.blobs().uploads().cancel(id), step.abort());
        cancelled?;
        self.inner.sessions.close(id);
        Ok(())
    }

    /// Whether a push could be acknowledged now; asked when it begins, not after its bytes are here.
    async fn check_possible(&self, repo: &RepoName) -> Result<(), Error> {
        let (policy, layout) = self.placement(repo)?;
        if possible(&policy, &layout, &self.inner.replicate.liveness().accepting()).is_ok() {
            return Ok(());
        }
        // The table may be older than a node that just came back.
        self.inner.replicate.liveness().refresh().await;
        let short = possible(&policy, &layout, &self.inner.replicate.liveness().accepting());
        short.map_err(|short| Error::unavailable(RETRY, short.to_string()))
    }

    /// The right to run the next step of a session, once the store knows it and the repository is the
    /// one it was opened for.
    async fn turn<'r>(&'r self, repo: &'r RepoName, id: UploadId) -> Result<Step<'r>, Error> {
        self.known(repo, id)?;
        let turn = self.inner.sessions.session(id).lock_owned();
        let late = |_| Error::unavailable(RETRY, "another step of this upload is still running");
        let session = tokio::time::timeout(TURN, turn).await.map_err(late)?;
        // Looked up again under the lock: an earlier step may have moved or ended the session.
        let at = self.known(repo, id)?;
        Ok(Step::new(self, repo, id, session, at))
    }

    /// One of the places of those that move bytes.
    pub(crate) async fn active(&self) -> Result<SemaphorePermit<'_>, Error> {
        let late = |_| Error::unavailable(RETRY, "this node takes as many uploads as it can");
        let active = tokio::time::timeout(TURN, self.inner.sessions.active.acquire()).await.map_err(late)?;
        active.map_err(|_| Error::internal("the node is stopping"))
    }

    /// Where the store's session ends now.
    fn known(&self, repo: &RepoName, id: UploadId) -> Result<u64, Error> {
        let status = self.blobs().uploads().status(id).filter(|status| status.repo == *repo);
        status.map(|status| status.offset).ok_or_else(Error::upload_unknown)
    }

    /// Streams a chunk into the store and the mirror.
    async fn receive(&self, step: &mut Step<'_>, chunk: Chunk) -> Result<(), Error> {
        let _active = self.active().await?;
        let (id, mut at) = (step.id, self.known(step.repo, step.id)?);
        let expected = expected_length(&chunk, UploadView { id, offset: at })?;
        // Without a partner the bytes are taken all the same: one may be found while they come.
        step.attach(at).await?;
        let mut body = chunk.body;
        let mut left = expected.unwrap_or(u64::MAX);
        let mut piece = BytesMut::new();
        loop {
            let next = body.next().await;
            let ended = next.is_none();
            match next {
                Some(Ok(bytes)) if bytes.len() as u64 > left => {
                    return Err(Error::invalid(Invalid::Length, "the body is longer than its Content-Range"));
                }
                Some(Ok(bytes)) => {
                    left -= bytes.len() as u64;
                    piece.extend_from_slice(&bytes);
                }
                Some(Err(error)) => {
                    // What arrived is kept: the client can go on from there.
                    at = step.store(at, piece.split().freeze()).await?;
                    tracing::info!(upload = %id, offset = at, %error, "the client left in the middle of an upload");
                    let _ = step.flush().await;
                    return Err(error.into());
                }
                None => {}
            }
            if piece.len() >= PIECE || (ended && !piece.is_empty()) {
                at = step.store(at, piece.split().freeze()).await?;
            }
            if ended {
                break;
            }
        }
        if expected.is_some() && left > 0 {
            return Err(Error::invalid(Invalid::Length, "the body is shorter than it says"));
        }
        Ok(())
    }
}

/// How many bytes the chunk must have, once its place is right.
fn expected_length(chunk: &Chunk, view: UploadView) -> Result<Option<u64>, Error> {
    let Some((start, end)) = chunk.range else { return Ok(chunk.length) };
    if start != view.offset {
        let message = format!("the next byte is {}, not {start}", view.offset);
        return Err(Error::new(Kind::Range { upload: view }, message));
    }
    let span = end.checked_sub(start).and_then(|n| n.checked_add(1));
    let span = span.ok_or_else(|| Error::invalid(Invalid::Length, "Content-Range ends before it begins"))?;
    match chunk.length {
        Some(length) if length != span => {
            Err(Error::invalid(Invalid::Length, format!("{length} bytes for a Content-Range of {span}")))
        }
        _ => Ok(Some(span)),
    }
}
