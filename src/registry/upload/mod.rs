//! Uploads: taking a client's bytes, mirroring them to a partner, and sending steps on to the node that owns
//! the session.
//!
//! # State
//! The session itself (offset, hashes, file) belongs to the blob store and survives a restart at its fsynced
//! offset. [`Uploads`] keeps in memory what else belongs to each session: who mirrors it, the right to run a
//! step, and the receipts of the last finished ones, so that a PUT can be repeated. A crash loses all three: the
//! next step mirrors again, and a repeated PUT is refused.
//!
//! # Rooms
//! [`Uploads`] decides which node does a step. `receive` takes a chunk in, `mirror` keeps a partner level with the
//! file here, `places` bounds what both use at once, and `forward` sends a step to the node that owns the session:
//! they work for [`Uploads`] and know nothing of it.

mod forward;
mod mirror;
mod op;
mod places;
mod receive;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use clawhub_auth::{Permit, Push};
use clawhub_policy::possible;
use clawhub_types::{Algorithm, Digest, NodeId, Receipt, RepoName, UploadId};
use parking_lot::Mutex;

use forward::forward;
use mirror::{Mirrored, Step};
pub use op::UploadOp;
use places::Places;

use crate::copies::Copies;
use crate::core::Core;
use crate::error::RETRY;
use crate::{Chunk, Error, UploadView, What};

/// How long a step waits for an earlier one of the same session, whose client may just have left.
const TURN: Duration = Duration::from_secs(20);
/// So many finished uploads are remembered.
const KEPT: usize = 4096;

/// The owner of every upload that this node takes part in.
pub(crate) struct Uploads {
    core: Arc<Core>,
    copies: Copies,
    places: Places,
    open: Mutex<HashMap<UploadId, Arc<tokio::sync::Mutex<Mirrored>>>>,
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

impl Uploads {
    pub(crate) fn new(core: Arc<Core>, copies: Copies) -> Uploads {
        Uploads { core, copies, places: Places::default(), open: Mutex::default(), kept: Mutex::default() }
    }

    /// Does a step: here, if this node owns the session, else by having its owner do it. A new session is opened on
    /// a node that the project's policy lets hold a copy. Answers where the session stands then, unless it ended.
    ///
    /// # Errors
    /// Those of the step; unavailable if the owner cannot be reached.
    pub(crate) async fn step(
        &self,
        permit: &Permit<Push>,
        op: UploadOp,
    ) -> Result<Option<UploadView>, Error> {
        let owner = match op.session() {
            Some(id) => id.node,
            None => self.owner_of_a_new_one(permit.on())?,
        };
        if owner == self.core.me() {
            return self.run(permit, op).await;
        }
        forward(&self.core, owner, permit, op).await
    }

    /// Does a step that another member has sent on, which must be for this node: there is one hop.
    ///
    /// # Errors
    /// Those of the step; [`What::Upload`] is unknown here.
    pub(crate) async fn step_here(
        &self,
        permit: &Permit<Push>,
        op: UploadOp,
    ) -> Result<Option<UploadView>, Error> {
        if op.session().is_some_and(|id| id.node != self.core.me()) {
            return Err(Error::not_found(What::Upload, "this node does not own the upload"));
        }
        self.run(permit, op).await
    }

    /// Stores a whole blob where it belongs and links it. Nothing is left behind if that fails.
    ///
    /// # Errors
    /// Those of the steps.
    pub(crate) async fn store(
        &self,
        permit: &Permit<Push>,
        digest: &Digest,
        chunk: Chunk,
    ) -> Result<(), Error> {
        let sha512 = digest.algorithm() == Algorithm::Sha512;
        let opened = self.step(permit, UploadOp::Begin { sha512 }).await?;
        let UploadView { id, .. } = opened.ok_or_else(confused)?;
        let finished = self.step(permit, UploadOp::Finish(id, digest.clone(), chunk)).await;
        if finished.is_err() {
            // Nobody learns the session's address; without this it would stay until it expires.
            let _ = self.step(permit, UploadOp::Cancel(id)).await;
        }
        finished?.map_or(Ok(()), |_| Err(confused()))
    }

    /// The node to open a session on: this one, if the project's policy lets it hold a copy.
    fn owner_of_a_new_one(&self, repo: &RepoName) -> Result<NodeId, Error> {
        let (policy, layout) = self.core.placement(repo)?;
        let stores = |id: NodeId| layout.node(id).is_some_and(|node| policy.admits(node));
        if stores(self.core.me()) {
            return Ok(self.core.me());
        }
        let replicate = &self.core.replicate;
        let accepting = replicate.liveness().accepting();
        let nodes: Vec<NodeId> = accepting.into_iter().filter(|id| stores(*id)).collect();
        let nearest = replicate.nearest_first(&nodes);
        nearest.first().copied().ok_or_else(|| Error::unavailable(RETRY, "no storage node is alive"))
    }

    /// Forgets uploads that nobody has touched for `idle`, and ends the mirrors of those that no step has used
    /// since the last call. Answers how many are forgotten.
    pub(crate) async fn expire(&self, idle: Duration) -> usize {
        let expired = self.core.blobs().expire(idle).await;
        let mut open = self.open.lock();
        open.retain(|id, _| self.core.blobs().uploads().status(*id).is_some());
        for session in open.values() {
            // Locked: in use.
            if let Ok(mut session) = session.try_lock() {
                session.rest();
            }
        }
        expired
    }

    /// How many sessions there are, and how many of them have a mirror.
    #[cfg(test)]
    pub(crate) fn count(&self) -> (usize, usize) {
        let open = self.open.lock();
        let mirrored = |session: &&Arc<tokio::sync::Mutex<Mirrored>>| {
            session.try_lock().is_ok_and(|session| session.is_mirrored())
        };
        (open.len(), open.values().filter(mirrored).count())
    }

    fn session(&self, id: UploadId) -> Arc<tokio::sync::Mutex<Mirrored>> {
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

    /// The right to run the next step of a session, once the store knows it and the repository is the
    /// one it was opened for.
    async fn turn<'u>(&'u self, repo: &'u RepoName, id: UploadId) -> Result<Step<'u>, Error> {
        // Before its place among the open ones: an id that nobody knows must not leave one there.
        mirror::offset(&self.core, repo, id)?;
        let turn = self.session(id).lock_owned();
        let late = |_| Error::unavailable(RETRY, "another step of this upload is still running");
        let session = tokio::time::timeout(TURN, turn).await.map_err(late)?;
        Step::new(&self.core, &self.places, repo, id, session)
    }

    /// Whether a push could be acknowledged now; asked when it begins, not after its bytes are here.
    async fn check_possible(&self, repo: &RepoName) -> Result<(), Error> {
        self.core.wait_for_votes(repo).await?;
        let (policy, layout) = self.core.placement(repo)?;
        let liveness = self.core.replicate.liveness();
        if possible(&policy, &layout, &liveness.accepting()).is_ok() {
            return Ok(());
        }
        // The table may be older than a node that just came back.
        liveness.refresh().await;
        let short = possible(&policy, &layout, &liveness.accepting());
        short.map_err(|short| Error::unavailable(RETRY, short.to_string()))
    }
}

/// The steps of sessions that this node owns.
impl Uploads {
    async fn run(&self, permit: &Permit<Push>, op: UploadOp) -> Result<Option<UploadView>, Error> {
        let repo = permit.on();
        match op {
            UploadOp::Begin { sha512 } => self.begin(repo, sha512).await.map(Some),
            UploadOp::Append(id, chunk) => self.append(repo, id, chunk).await.map(Some),
            UploadOp::Finish(id, digest, chunk) => {
                self.finish(permit, id, &digest, chunk).await.map(|()| None)
            }
            UploadOp::Status(id) => self.status(repo, id).await.map(Some),
            UploadOp::Cancel(id) => self.cancel(repo, id).await.map(|()| None),
        }
    }

    async fn begin(&self, repo: &RepoName, sha512: bool) -> Result<UploadView, Error> {
        let core = &self.core;
        core.blobs().ensure_accepts()?;
        self.check_possible(repo).await?;
        let id = UploadId { node: core.me(), random: rand::random() };
        // No partner yet: there is nothing that could be lost, and of many an upload nothing ever comes.
        core.blobs().uploads().begin(id, repo, sha512).await?;
        Ok(UploadView { id, offset: 0 })
    }

    async fn append(&self, repo: &RepoName, id: UploadId, chunk: Chunk) -> Result<UploadView, Error> {
        let mut step = self.turn(repo, id).await?;
        receive::receive(&mut step, chunk).await?;
        Ok(UploadView { id, offset: step.confirm().await? })
    }

    async fn finish(
        &self,
        permit: &Permit<Push>,
        id: UploadId,
        digest: &Digest,
        chunk: Chunk,
    ) -> Result<(), Error> {
        let Uploads { core, copies, .. } = self;
        let repo = permit.on();
        // A PUT repeated after a lost answer, or after a commit that failed. The copy here may have been given up
        // since; the client then uploads it once more.
        if let Some(receipts) = self.kept(id, repo, digest)
            && receipts.iter().any(|receipt| core.blobs().holds(&receipt.root).is_some())
        {
            return copies.commit_blob(permit, digest, receipts).await;
        }
        let mut step = self.turn(repo, id).await?;
        receive::receive(&mut step, chunk).await?;
        let sealed = core.blobs().uploads().seal(id, digest).await?;
        let receipts = step.keep(digest, &sealed, copies.generation(&sealed.root)?).await?;
        self.keep(Kept { id, repo: repo.clone(), digest: digest.clone(), receipts: receipts.clone() });
        copies.commit_blob(permit, digest, receipts).await
    }

    /// Where a session stands, which is durable here and on the partner by then: a client may forget what
    /// it is told has arrived.
    async fn status(&self, repo: &RepoName, id: UploadId) -> Result<UploadView, Error> {
        let offset = self.turn(repo, id).await?.confirm().await?;
        Ok(UploadView { id, offset })
    }

    async fn cancel(&self, repo: &RepoName, id: UploadId) -> Result<(), Error> {
        let mut step = self.turn(repo, id).await?;
        let (cancelled, ()) = tokio::join!(self.core.blobs().uploads().cancel(id), step.abort());
        cancelled?;
        self.close(id);
        Ok(())
    }
}

/// An owner that answers a step as if it were another one.
pub(crate) fn confused() -> Error {
    Error::internal("the upload's owner gave an answer of another kind")
}
