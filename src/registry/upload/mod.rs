//! Uploads: taking a client's bytes, mirroring them to a partner, and sending steps on to the node that owns
//! the session.
//!
//! # State
//! The session itself (offset, hashes, file) belongs to the blob store and survives a restart at its fsynced
//! offset; so does what became of it, so that a PUT can be repeated. [`Uploads`] keeps in memory what else belongs
//! to each session: who mirrors it, and the right to run a step. A crash loses both, and the next step mirrors
//! again.
//!
//! # Rooms
//! [`Uploads`] decides which node does a step. `turn` says when, `receive` takes a chunk in, which `gather` makes
//! pieces of, `again` says what goes because it is sent again, `mirror` keeps a partner level with the file here,
//! `places` bounds what all use at once, and `forward` sends a step to the node that owns the session: they work for
//! [`Uploads`] and know nothing of it.

mod again;
mod forward;
mod gather;
mod mirror;
mod op;
mod places;
mod receive;
mod turn;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clawhub_auth::{Permit, Push};
use clawhub_blobs::BlobError;
use clawhub_policy::possible;
use clawhub_types::{Algorithm, Digest, NodeId, RepoName, UploadId};
use futures::StreamExt;
use parking_lot::Mutex;

use forward::forward;
use mirror::{Mirrored, Step};
pub use op::UploadOp;
pub use places::GATHER_MEMORY;
use places::Places;
use receive::{Received, receive};
use turn::Session;

use crate::copies::Copies;
use crate::core::Core;
use crate::error::RETRY;
use crate::{BodyStream, Chunk, Error, Invalid, Kind, UploadView, What};

/// So many nodes are asked to open a session.
const OWNERS: usize = 3;

/// At so many, those that have ended are looked for. More than the store has sessions.
const OPEN: usize = 32 * 1024;

type Open = HashMap<UploadId, Session<Mirrored>>;

/// The owner of every upload that this node takes part in.
pub(crate) struct Uploads {
    core: Arc<Core>,
    copies: Copies,
    places: Places,
    open: Mutex<Open>,
}

impl Uploads {
    pub(crate) fn new(core: Arc<Core>, copies: Copies) -> Uploads {
        Uploads { core, copies, places: Places::default(), open: Mutex::default() }
    }

    /// Does a step: here, if this node owns the session, else by having its owner do it. A new session is opened on
    /// a node that the project's policy lets hold a copy and that takes bytes. Answers where the session stands then,
    /// unless it ended.
    ///
    /// # Errors
    /// Those of the step; unavailable if the owner cannot be reached.
    pub(crate) async fn step(
        &self,
        permit: &Permit<Push>,
        op: UploadOp,
    ) -> Result<Option<UploadView>, Error> {
        match op {
            UploadOp::Begin { sha512 } => self.open(permit, sha512).await,
            op => {
                let owner = op.session().map_or(self.core.me(), |id| id.node);
                self.step_at(owner, permit, op).await
            }
        }
    }

    /// Opens a session on the first node that takes it: one that is full, or whose storage of blobs fails, sends its
    /// clients' uploads on to others that are not. One that takes no part in the cluster sends nothing on: what it
    /// knows of the others may be long over, and its clients could not end what they began. Asked once, and not for a
    /// session that is opened here.
    async fn open(&self, permit: &Permit<Push>, sha512: bool) -> Result<Option<UploadView>, Error> {
        let mut refused = Error::unavailable(RETRY, "no storage node is alive");
        let began = Instant::now();
        let mut takes_part = false;
        for owner in self.owners_of_a_new_one(permit.on())? {
            if owner != self.core.me() && !takes_part {
                self.core.barrier().await?;
                takes_part = true;
            }
            match self.step_at(owner, permit, UploadOp::Begin { sha512 }).await {
                // One that has waited for the cluster in vain has waited for all of them.
                Err(error @ Error { kind: Kind::NoSpace | Kind::Unavailable { .. }, .. })
                    if began.elapsed() < self.core.limits.wait =>
                {
                    tracing::info!(%owner, %error, "an upload is not opened there");
                    refused = error;
                }
                opened => return opened,
            }
        }
        Err(refused)
    }

    async fn step_at(
        &self,
        owner: NodeId,
        permit: &Permit<Push>,
        op: UploadOp,
    ) -> Result<Option<UploadView>, Error> {
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

    /// The nodes to open a session on, in this order: this one, then the nearest others, of those that the project's
    /// policy lets hold a copy and that take bytes. If none does, this one may say why.
    fn owners_of_a_new_one(&self, repo: &RepoName) -> Result<Vec<NodeId>, Error> {
        let (policy, layout) = self.core.placement(repo)?;
        let stores = |id: &NodeId| layout.node(*id).is_some_and(|node| policy.admits(node));
        let me = self.core.me();
        let replicate = &self.core.replicate;
        let accepting = replicate.liveness().accepting();
        let (mine, others): (Vec<_>, Vec<_>) = accepting.into_iter().filter(stores).partition(|id| *id == me);
        let mut owners = mine;
        owners.extend(replicate.nearest_first(&others));
        if owners.is_empty() && stores(&me) {
            owners.push(me);
        }
        owners.truncate(OWNERS);
        Ok(owners)
    }

    /// Forgets uploads that nobody has touched for `idle`, and ends the mirrors of those that no step has used
    /// since the last call. Answers how many are forgotten.
    pub(crate) async fn expire(&self, idle: Duration) -> usize {
        let expired = self.core.blobs().expire(idle).await;
        let mut open = self.open.lock();
        self.forget_ended(&mut open);
        for session in open.values() {
            if let Some(mut unused) = session.unused() {
                unused.rest();
            }
        }
        expired
    }

    /// How many sessions there are, and how many of them have a mirror.
    #[cfg(test)]
    pub(crate) fn count(&self) -> (usize, usize) {
        let open = self.open.lock();
        let mirrored =
            |session: &&Session<Mirrored>| session.unused().is_some_and(|unused| unused.is_mirrored());
        (open.len(), open.values().filter(mirrored).count())
    }

    /// How many more steps may gather whole pieces.
    #[cfg(test)]
    pub(crate) fn larges_left(&self) -> usize {
        self.places.larges_left()
    }

    fn session(&self, id: UploadId) -> Session<Mirrored> {
        let mut open = self.open.lock();
        if open.len() >= OPEN {
            self.forget_ended(&mut open);
        }
        open.entry(id).or_default().clone()
    }

    /// Drops what is kept beside sessions that the store has given up since.
    fn forget_ended(&self, open: &mut Open) {
        open.retain(|id, _| self.core.blobs().uploads().status(*id).is_some());
    }

    fn close(&self, id: UploadId) {
        self.open.lock().remove(&id);
    }

    /// The right to run the next step of a session, once the store knows it and the repository is the
    /// one it was opened for.
    async fn turn<'u>(&'u self, repo: &'u RepoName, id: UploadId) -> Result<Step<'u>, Error> {
        // Before its place among the open ones: an id that nobody knows must not leave one there.
        mirror::offset(&self.core, repo, id)?;
        let turn = self.session(id).turn().await?;
        Step::new(&self.core, &self.places, repo, id, turn)
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
        match receive(&mut step, chunk).await? {
            Received::Whole => Ok(UploadView { id, offset: step.confirm().await? }),
            Received::Superseded => Err(superseded()),
        }
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
        let mut step = match self.turn(repo, id).await {
            Err(Error { kind: Kind::NotFound(What::Upload), .. }) => {
                return self.repeated(permit, id, digest, Some(chunk.body)).await;
            }
            turn => turn?,
        };
        if receive(&mut step, chunk).await? == Received::Superseded {
            drop(step);
            // By a twin of this request, perhaps: then its outcome is the outcome of both.
            let session = self.open.lock().get(&id).cloned();
            if let Some(session) = session {
                session.quiet().await?;
            }
            let repeated = self.repeated(permit, id, digest, None).await;
            return repeated.map_err(|error| match error.kind {
                Kind::NotFound(What::Upload) => superseded(),
                _ => error,
            });
        }
        let sealed = match core.blobs().uploads().seal(id, digest).await {
            Err(BlobError::DigestMismatch { .. }) if step.cut_off_last(digest).await? => {
                core.blobs().uploads().seal(id, digest).await
            }
            sealed => sealed,
        }?;
        let receipts = step.keep(digest, &sealed, copies.generation(&sealed.root)?).await?;
        self.close(id);
        copies.commit_blob(permit, digest, receipts).await
    }

    /// Ends an upload that has ended as it was asked to, after a lost answer or a commit that failed. The copy here
    /// may be gone since; then the state must know of enough others, or the client uploads the blob once more.
    ///
    /// # Errors
    /// [`What::Upload`] is unknown; those of a commit.
    async fn repeated(
        &self,
        permit: &Permit<Push>,
        id: UploadId,
        digest: &Digest,
        body: Option<BodyStream>,
    ) -> Result<(), Error> {
        let Uploads { core, copies, .. } = self;
        let finished = core.blobs().uploads().finished(id)?;
        let same = finished.filter(|it| it.repo == *permit.on() && it.digests.contains(digest));
        let finished = same.ok_or_else(Error::upload_unknown)?;
        // An answer in the middle of the body would reach few clients.
        let mut body = body.unwrap_or_else(|| futures::stream::empty().boxed());
        while let Some(piece) = body.next().await {
            piece?;
        }
        let here = core.blobs().receipt(&finished.root, copies.generation(&finished.root)?).await?;
        let receipts = match here {
            Some(receipt) => vec![receipt],
            None => copies.receipts_elsewhere(permit.on(), digest).await?,
        };
        if receipts.is_empty() {
            return Err(Error::upload_unknown());
        }
        // A link that is there gets a whole lease once more, as the answer promises.
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

/// A step that gave way to a newer one.
fn superseded() -> Error {
    Error::invalid(Invalid::Body, "another request of this upload took over while this one stood still")
}

/// An owner that answers a step as if it were another one.
pub(crate) fn confused() -> Error {
    Error::internal("the upload's owner gave an answer of another kind")
}
