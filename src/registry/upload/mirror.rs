//! The second copy of an upload under way: which partner has it, and how it keeps up with the file here.
//!
//! # State
//! One [`Mirrored`] for each upload that this node owns, in memory. A crash loses it: the next step finds a
//! partner again, and one that had the copy goes on from what it has.
//!
//! # Order
//! The file here is the truth and the mirror follows it, in order. While the two are level, a piece goes to
//! both at once. A mirror that lags is sent what it lacks from the disk: beside the pieces that come, twice
//! as much with each of them, so that it draws level; the rest before an offset is confirmed. A step ends
//! with an offset that both have fsynced, or with 503 and the bytes kept here.

use std::time::Duration;

use bytes::Bytes;
use clawhub_blobs::{BlobError, Sealed};
use clawhub_policy::{partners, satisfied};
use clawhub_replicate::{Mirror, ReplicateError};
use clawhub_types::{Digest, NodeId, Receipt, RepoName, UploadId};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep};

use super::places::{PIECE, Places};
use super::turn::Turn;
use crate::Error;
use crate::core::Core;
use crate::error::RETRY;

/// So many partners are asked in one round, and so many copies may fail while one offset is confirmed.
const TRIES: usize = 3;
/// While bytes come and nobody mirrors them, a partner is sought this often.
const SEEK: Duration = Duration::from_secs(2);
/// Between two rounds of a step that cannot end without a partner.
const PAUSE: Duration = Duration::from_millis(100);

/// What a session has beside its file. Held while a step runs: one at a time.
#[derive(Default)]
pub(super) struct Mirrored {
    /// Away while it is used: a step that is dropped between two frames leaves a mirror nobody may use.
    mirror: Option<Mirror>,
    /// The right to keep the mirror open between two steps.
    place: Option<OwnedSemaphorePermit>,
    /// Whether a step has run since the last look.
    used: bool,
    /// How much of what a partner had before this counts: the file here was cut back to this by a restart
    /// or a failed write, and the client may have sent something else since. Unknown until the next step.
    sound: Option<u64>,
    /// The partners whose copy is of the file here as it is since.
    level: Vec<NodeId>,
    /// Where the last chunk began, if it did not say so itself.
    pub(super) began: Option<u64>,
    /// A chunk said where it begins.
    pub(super) places: bool,
}

impl Mirrored {
    /// Ends a mirror that no step has used since the last look: it costs its partner a stream, and the next
    /// step goes on from the copy that stays there.
    pub(super) fn rest(&mut self) {
        if !std::mem::take(&mut self.used) {
            self.mirror = None;
            self.place = None;
        }
    }

    /// The file here was cut back to `at`. A mirror that has no more than that goes on.
    pub(super) fn cut_back(&mut self, at: u64) {
        let mirror = self.mirror.take().filter(|mirror| mirror.offset() <= at);
        let place = self.place.take().filter(|_| mirror.is_some());
        let level = mirror.iter().map(Mirror::partner).collect();
        let used = self.used;
        let places = self.places;
        *self = Mirrored { mirror, place, used, sound: Some(at), level, began: None, places };
    }

    #[cfg(test)]
    pub(super) fn is_mirrored(&self) -> bool {
        self.mirror.is_some()
    }
}

/// A step of an upload, with the right to run it.
pub(super) struct Step<'u> {
    pub(super) core: &'u Core,
    pub(super) places: &'u Places,
    repo: &'u RepoName,
    pub(super) id: UploadId,
    pub(super) turn: Turn<Mirrored>,
    /// Partners that failed in this step; they are asked last.
    failed: Vec<NodeId>,
    /// When the last round among the partners ended.
    sought: Option<Instant>,
}

impl<'u> Step<'u> {
    /// A step of a session. The store is looked at once the turn has come: an earlier step may have moved or ended
    /// the session.
    ///
    /// # Errors
    /// The repository has no such session.
    pub(super) fn new(
        core: &'u Core,
        places: &'u Places,
        repo: &'u RepoName,
        id: UploadId,
        mut turn: Turn<Mirrored>,
    ) -> Result<Step<'u>, Error> {
        let at = offset(core, repo, id)?;
        let ahead = turn.state.mirror.as_ref().is_some_and(|mirror| mirror.offset() > at);
        if ahead || turn.state.sound.is_none() {
            *turn.state = Mirrored { sound: Some(at), ..Mirrored::default() };
        }
        Ok(Step { core, places, repo, id, turn, failed: Vec::new(), sought: None })
    }

    /// Where the store's session ends now.
    pub(super) fn offset(&self) -> Result<u64, Error> {
        offset(self.core, self.repo, self.id)
    }

    /// Opens a mirror, if the policy asks for one and none is open: one round among the partners that are
    /// alive. Whether the session has all that it needs then.
    ///
    /// # Errors
    /// 503 if the state cannot be read.
    pub(super) async fn attach(&mut self, at: u64) -> Result<bool, Error> {
        if self.turn.state.mirror.as_ref().is_some_and(Mirror::is_open) {
            return Ok(true);
        }
        self.turn.state.mirror = None;
        let enough = match self.candidates()? {
            None => true,
            Some(candidates) => self.open_one(candidates, at).await,
        };
        self.sought = Some(Instant::now());
        Ok(enough)
    }

    /// Who may take the second copy, best first; nothing if the policy asks for none.
    fn candidates(&self) -> Result<Option<Vec<NodeId>>, Error> {
        let me = self.core.me();
        let (policy, layout) = self.core.placement(self.repo)?;
        if satisfied(&policy, &layout, &[me]) {
            return Ok(None);
        }
        // The same partner comes first as long as it lives: it has the bytes.
        let mut seed = [0; 32];
        seed[..16].copy_from_slice(&self.id.random);
        let liveness = self.core.replicate.liveness();
        let mut ranked = partners(&policy, &layout, me, &liveness.accepting(), &seed);
        liveness.recent_first(&mut ranked);
        ranked.sort_by_key(|partner| self.failed.contains(partner));
        Ok(Some(ranked))
    }

    async fn open_one(&mut self, candidates: Vec<NodeId>, at: u64) -> bool {
        for partner in candidates.into_iter().take(TRIES) {
            if self.open(partner, at).await {
                return true;
            }
        }
        false
    }

    async fn open(&mut self, partner: NodeId, at: u64) -> bool {
        let level = self.turn.state.level.contains(&partner);
        let sound = if level { at } else { self.turn.state.sound.unwrap_or_default() };
        let sha512 = self.core.blobs().uploads().status(self.id).is_some_and(|status| status.sha512);
        let opened = self.core.replicate.mirror(partner, self.id, self.repo, sha512, sound).await;
        match opened {
            Ok(mirror) => {
                tracing::debug!(upload = %self.id, %partner, has = mirror.offset(), of = at, "mirrored");
                if !level {
                    self.turn.state.level.push(partner);
                }
                self.turn.state.mirror = Some(mirror);
                true
            }
            Err(error) => {
                tracing::warn!(upload = %self.id, %error, "cannot mirror there");
                self.failed.push(partner);
                false
            }
        }
    }

    /// One piece, into the store and, if the mirror is level, there at the same time. Answers where the
    /// session ends then.
    ///
    /// # Errors
    /// Those of the store; the loss of the mirror is none.
    pub(super) async fn store(&mut self, at: u64, bytes: Bytes) -> Result<u64, Error> {
        if bytes.is_empty() {
            return Ok(at);
        }
        let open = self.turn.state.mirror.as_ref().is_some_and(Mirror::is_open);
        if !open && self.sought.is_none_or(|sought| sought.elapsed() >= SEEK) {
            self.attach(at).await?;
        }
        self.send_backlog(at, 2 * PIECE).await?;
        let mirror = self.turn.state.mirror.take_if(|mirror| mirror.offset() == at);
        let mirrored = append(mirror, bytes.clone());
        // Unknown to the next step if this one is dropped here: the partner may then have more of the piece.
        let sound = self.turn.state.sound.take();
        let (stored, mirrored) =
            tokio::join!(self.core.blobs().uploads().append(self.id, at, bytes), mirrored);
        self.turn.state.sound = sound;
        self.used(mirrored);
        self.stored(stored)
    }

    /// Sends the mirror at most `most` bytes of what it lacks, from the disk. What is not durable yet may
    /// not be in the file either, so it is made durable first.
    async fn send_backlog(&mut self, at: u64, most: usize) -> Result<(), Error> {
        let mut left = most;
        while left > 0
            && let Some(from) = self.lacks(at)
        {
            let blobs = self.core.blobs();
            if blobs.uploads().status(self.id).is_none_or(|status| status.durable <= from) {
                let flushed = blobs.uploads().flush(self.id).await;
                self.stored(flushed)?;
            }
            let bytes = blobs.uploads().read_durable(self.id, from, left).await?;
            if bytes.is_empty() {
                return Err(Error::internal("an upload's file is shorter than it was"));
            }
            left -= bytes.len();
            let mirror = self.turn.state.mirror.take();
            let mirrored = append(mirror, bytes).await;
            self.used(mirrored);
        }
        Ok(())
    }

    /// Where the mirror ends, if that is before `at`.
    fn lacks(&self, at: u64) -> Option<u64> {
        self.turn.state.mirror.as_ref().map(Mirror::offset).filter(|offset| *offset < at)
    }

    /// Sends the mirror everything that it lacks. That may take as long as it makes progress.
    async fn catch_up(&mut self, at: u64) -> Result<(), Error> {
        while self.lacks(at).is_some() {
            let _active = self.places.active().await?;
            self.send_backlog(at, 8 * PIECE).await?;
        }
        Ok(())
    }

    /// Fsyncs here and on the partner, as far as each has got, and records it here.
    ///
    /// # Errors
    /// Those of the store; the loss of the mirror is none.
    pub(super) async fn flush(&mut self) -> Result<(), Error> {
        self.sync().await?;
        let flushed = self.core.blobs().uploads().flush(self.id).await;
        self.stored(flushed).map(drop)
    }

    /// Fsyncs here and on the partner. Answers how much is durable here, which is to be recorded, and there.
    async fn sync(&mut self) -> Result<(u64, Option<u64>), Error> {
        let mirror = self.turn.state.mirror.take();
        let mirrored = async {
            let mut mirror = mirror?;
            let flushed = mirror.flush().await;
            Some((mirror, flushed))
        };
        let (stored, mirrored) = tokio::join!(self.core.blobs().uploads().sync(self.id), mirrored);
        let mirrored = self.used(mirrored);
        Ok((self.stored(stored)?, mirrored))
    }

    /// Brings this node and a partner to the same durable offset, notes that the client is told of it, and answers
    /// it. A partner that dies is replaced; while there is none, one is waited for as long as a write may wait for
    /// the cluster.
    ///
    /// # Errors
    /// 503 if none could be had: the session then stands where it is, durable here. Those of the store.
    pub(super) async fn confirm(&mut self) -> Result<u64, Error> {
        let mut tries = 0..TRIES;
        loop {
            let (here, there) = self.sync().await?;
            if here > 0 && there.is_none_or(|there| there < here) {
                // Whatever comes of the partner, these are kept.
                let flushed = self.core.blobs().uploads().flush(self.id).await;
                self.stored(flushed)?;
                tries.next().ok_or_else(alone)?;
                self.find(here).await?;
                if self.turn.state.mirror.is_some() {
                    self.catch_up(here).await?;
                    continue;
                }
                // One copy is all that the policy asks for.
            }
            self.acknowledge(here).await?;
            return Ok(here);
        }
    }

    /// [Attaches](Self::attach), again and again until the limit for writes.
    async fn find(&mut self, at: u64) -> Result<(), Error> {
        let began = Instant::now();
        while !self.attach(at).await? {
            if began.elapsed() >= self.core.limits.wait {
                return Err(alone());
            }
            tokio::join!(sleep(PAUSE), self.core.replicate.liveness().refresh());
        }
        Ok(())
    }

    /// Turns the session into a replica here and, if there is a mirror, on the partner. Without one the copy
    /// is made when the blob is committed.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn keep(
        &mut self,
        digest: &Digest,
        sealed: &Sealed,
        generation: u64,
    ) -> Result<Vec<Receipt>, Error> {
        self.catch_up(sealed.size).await?;
        let mirror = self.turn.state.mirror.take().filter(|mirror| mirror.offset() == sealed.size);
        let mirrored = async {
            match mirror {
                Some(mirror) => mirror.keep(digest, generation).await.map(Some),
                None => Ok(None),
            }
        };
        let kept = self.core.blobs().uploads().keep(self.id, sealed, generation);
        let (kept, mirrored) = tokio::join!(kept, mirrored);
        let mut receipts = vec![kept?];
        match mirrored {
            Ok(receipt) => receipts.extend(receipt),
            Err(error) => tracing::warn!(upload = %self.id, %error, "the mirror gave no receipt"),
        }
        Ok(receipts)
    }

    /// Has the partner forget its copy.
    pub(super) async fn abort(&mut self) {
        if let Some(mirror) = self.turn.state.mirror.take() {
            mirror.abort().await;
        }
    }

    /// Puts a mirror back after use, unless it failed.
    fn used<T>(&mut self, mirrored: Option<(Mirror, Result<T, ReplicateError>)>) -> Option<T> {
        let (mirror, outcome) = mirrored?;
        match outcome {
            Ok(done) => {
                self.turn.state.mirror = Some(mirror);
                Some(done)
            }
            Err(error) => {
                tracing::warn!(upload = %self.id, %error, "the upload lost its mirror");
                self.failed.push(mirror.partner());
                None
            }
        }
    }

    /// Passes the store's answer on. After a failure the file may have been cut back.
    pub(super) fn stored(&mut self, outcome: Result<u64, BlobError>) -> Result<u64, Error> {
        if outcome.is_err() {
            self.turn.state.sound = None;
        }
        Ok(outcome?)
    }
}

impl Drop for Step<'_> {
    /// Between two steps a mirror stays open only while there is a place for it.
    fn drop(&mut self) {
        let session = &mut *self.turn.state;
        session.used = true;
        if session.mirror.is_none() {
            session.place = None;
        } else if session.place.is_none() {
            session.place = self.places.rest();
            session.mirror.take_if(|_| session.place.is_none());
        }
    }
}

async fn append(mirror: Option<Mirror>, bytes: Bytes) -> Option<(Mirror, Result<(), ReplicateError>)> {
    let mut mirror = mirror?;
    let appended = mirror.append(bytes).await;
    Some((mirror, appended))
}

/// Where the store's session ends now, if it is this repository's.
pub(super) fn offset(core: &Core, repo: &RepoName, id: UploadId) -> Result<u64, Error> {
    let status = core.blobs().uploads().status(id).filter(|status| status.repo == *repo);
    status.map(|status| status.offset).ok_or_else(Error::upload_unknown)
}

fn alone() -> Error {
    Error::unavailable(
        RETRY,
        "no other node takes the upload's second copy at the moment; what arrived is kept",
    )
}
