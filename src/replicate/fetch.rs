//! Fetching a blob from its holders while serving it.
//!
//! One task per root writes the partial file; any number of readers follow it, each group as soon as
//! it is verified. Readers that leave, or are slow, do not slow the task; a task that fails tells its
//! readers why.

use bytes::BytesMut;
use clawhub_blobs::{BlobError, Partial, Sealed};
use clawhub_peer::Class;
use clawhub_peer::frame::{STALL as STALLED, read_exact};
use clawhub_types::{NodeId, Root};
use clawhub_wire::blob as pb;
use quinn::RecvStream;
use tokio::sync::watch;

use crate::{FrameError, ReplicaSpec, Replicate, ReplicateError, read_message, write_message};

/// Verified and written in pieces of this size: whole groups, few system calls.
const WRITE_BYTES: usize = 1024 * 1024;
/// Copies that receive at once; further ones wait.
pub(crate) const RECEIVING: usize = 128;
/// What they take in memory.
pub const MEMORY: u64 = (RECEIVING * WRITE_BYTES) as u64;
/// Each holder is asked this often before the fetch gives up.
const ROUNDS: usize = 2;

/// A fetch in progress, or ended.
#[derive(Clone)]
pub struct Fetch {
    partial: Partial,
    progress: watch::Receiver<Progress>,
}

#[derive(Clone)]
enum Progress {
    /// No holder has supplied anything yet.
    Searching,
    /// Verified bytes are arriving.
    Flowing,
    Ended(Result<(), Failure>),
}

/// Why a fetch ended without a copy, in words that every reader can be given.
#[derive(Clone, Debug, thiserror::Error)]
enum Failure {
    /// Every holder was tried.
    #[error("no holder could supply the blob: {0}")]
    Exhausted(String),
    /// The store here failed: holders may well supply what is not to be kept.
    #[error("{0}")]
    Local(String),
    /// There is no room for it here.
    #[error("{0}")]
    NoRoom(String),
}

impl From<BlobError> for Failure {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::NoSpace { .. } => Failure::NoRoom(error.to_string()),
            error => Failure::Local(error.to_string()),
        }
    }
}

impl From<Failure> for ReplicateError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Exhausted(reason) => ReplicateError::Exhausted(reason),
            Failure::Local(reason) | Failure::NoRoom(reason) => BlobError::FetchFailed(reason).into(),
        }
    }
}

impl Fetch {
    /// The file being written; follow it to read.
    pub fn partial(&self) -> &Partial {
        &self.partial
    }

    /// Waits for the first verified bytes, so that a caller can still answer that there are none.
    ///
    /// # Errors
    /// [`ReplicateError::Exhausted`] if no holder could supply them, [`ReplicateError::Local`] if the store
    /// could not take them.
    pub async fn flowing(&self) -> Result<(), ReplicateError> {
        let mut progress = self.progress.clone();
        let reached = progress.wait_for(|now| !matches!(now, Progress::Searching)).await;
        match reached.as_deref() {
            Ok(Progress::Ended(Err(failure))) => Err(failure.clone().into()),
            Ok(_) => Ok(()),
            Err(_) => Err(dropped()),
        }
    }

    /// Whether it has ended without a copy. Its partial tells that only to those who were reading by then.
    pub fn failed(&self) -> bool {
        matches!(*self.progress.borrow(), Progress::Ended(Err(_)))
    }

    /// Waits for the end: the full copy is here, durably.
    ///
    /// # Errors
    /// [`ReplicateError::Exhausted`] if no holder could supply it, [`ReplicateError::Local`] if the store
    /// could not take it.
    pub async fn ended(mut self) -> Result<(), ReplicateError> {
        let ended = self.progress.wait_for(|now| matches!(now, Progress::Ended(_))).await;
        match ended.as_deref() {
            Ok(Progress::Ended(Ok(()))) => Ok(()),
            Ok(Progress::Ended(Err(failure))) => Err(failure.clone().into()),
            _ => Err(dropped()),
        }
    }
}

fn dropped() -> ReplicateError {
    ReplicateError::Exhausted("the fetch was dropped".to_owned())
}

impl Replicate {
    /// Joins the fetch of this root, or starts one.
    ///
    /// # Errors
    /// [`ReplicateError::Local`] if the partial cannot be opened.
    pub async fn fetch(&self, wanted: ReplicaSpec, class: Class) -> Result<Fetch, ReplicateError> {
        if let Some(fetch) = self.running(&wanted.root) {
            return Ok(fetch);
        }
        let partial = self.inner.blobs.partials().open(wanted.root, wanted.size).await?;
        if wanted.digests.sha512.is_some() {
            partial.want_sha512();
        }
        let (tell, progress) = watch::channel(Progress::Searching);
        let fetch = Fetch { partial: partial.clone(), progress };
        {
            // Two callers may have opened the same partial; only one of them runs it.
            let mut fetches = self.inner.fetches.lock();
            if let Some(other) = fetches.get(&wanted.root) {
                return Ok(other.clone());
            }
            fetches.insert(wanted.root, fetch.clone());
        }
        tokio::spawn(self.clone().run_to_end(wanted, partial, class, tell));
        Ok(fetch)
    }

    async fn run_to_end(
        self,
        wanted: ReplicaSpec,
        partial: Partial,
        class: Class,
        tell: watch::Sender<Progress>,
    ) {
        let fetches = &self.inner.fetches;
        match self.run(&wanted, &partial, class, &tell).await {
            Ok(()) => {
                fetches.lock().remove(&wanted.root);
                tell.send_replace(Progress::Ended(Ok(())));
            }
            Err(failure) => {
                tracing::warn!(root = %wanted.root, error = %failure, "fetch failed");
                let reason = failure.to_string();
                let full = matches!(failure, Failure::NoRoom(_));
                // In this order: who begins to read between the two is told by both, and not by neither. The
                // next fetch, which has the same partial, must not be told at all.
                tell.send_replace(Progress::Ended(Err(failure)));
                if full {
                    partial.give_up(reason).await;
                } else {
                    partial.fail(reason).await;
                }
                fetches.lock().remove(&wanted.root);
            }
        }
    }

    fn running(&self, root: &Root) -> Option<Fetch> {
        self.inner.fetches.lock().get(root).cloned()
    }

    async fn run(
        &self,
        wanted: &ReplicaSpec,
        partial: &Partial,
        class: Class,
        tell: &watch::Sender<Progress>,
    ) -> Result<(), Failure> {
        let holders = self.nearest_first(&wanted.holders);
        let mut last = "the state names no other holder".to_owned();
        for holder in holders.iter().cycle().take(holders.len() * ROUNDS) {
            match self.while_alive(*holder, self.copy(*holder, wanted, partial, class, tell)).await {
                Ok(()) => return bound(wanted, &partial.finish().await?),
                // Corrupt bytes are the holder's fault, anything else this node's.
                Err(ReplicateError::Local(error)) if !matches!(error, BlobError::Corrupt { .. }) => {
                    return Err(error.into());
                }
                Err(error) => {
                    tracing::info!(root = %wanted.root, %error, "trying the next holder");
                    last = error.to_string();
                }
            }
        }
        Err(Failure::Exhausted(last))
    }

    /// Copies what is missing from one holder.
    async fn copy(
        &self,
        holder: NodeId,
        wanted: &ReplicaSpec,
        partial: &Partial,
        class: Class,
        tell: &watch::Sender<Progress>,
    ) -> Result<(), ReplicateError> {
        loop {
            let groups = !partial.has_groups();
            let Some(run) = partial.missing(0).or_else(|| groups.then_some(0..0)) else { return Ok(()) };
            let (mut send, mut recv) =
                self.inner.endpoint.open(holder, class).await.map_err(|e| ReplicateError::peer(holder, e))?;
            let get = pb::Get {
                root: bytes::Bytes::copy_from_slice(&wanted.root.0),
                start: run.start,
                end: run.end,
                groups,
            };
            let request = pb::BlobRequest { op: Some(pb::blob_request::Op::Get(get)) };
            let gone = |error: FrameError| ReplicateError::unreachable(holder, error);
            write_message(&mut send, &request).await.map_err(gone)?;
            let reply: pb::GetReply = read_message(&mut recv, STALLED).await.map_err(gone)?;
            if !reply.held || reply.size != wanted.size {
                return Err(ReplicateError::NotHeld(holder));
            }
            if groups {
                let list = group_list(&mut recv, reply.groups, wanted.size).await.map_err(gone)?;
                partial.set_groups(list).await?;
            }
            self.receive(holder, &mut recv, partial, run, tell).await?;
        }
    }

    async fn receive(
        &self,
        holder: NodeId,
        recv: &mut RecvStream,
        partial: &Partial,
        run: std::ops::Range<u64>,
        tell: &watch::Sender<Progress>,
    ) -> Result<(), ReplicateError> {
        let mut at = run.start;
        // Never closed. What comes meanwhile waits in the stream.
        let _memory = self.inner.receiving.acquire().await.ok();
        let mut piece = BytesMut::with_capacity(WRITE_BYTES);
        while at < run.end {
            let want = usize::try_from(run.end - at).unwrap_or(usize::MAX).min(WRITE_BYTES);
            while piece.len() < want {
                let chunk = tokio::time::timeout(STALLED, recv.read_chunk(want - piece.len(), true)).await;
                let chunk = chunk.map_err(|_| ReplicateError::unreachable(holder, "no bytes in time"))?;
                let chunk = chunk.map_err(|error| ReplicateError::unreachable(holder, error))?;
                let chunk = chunk.ok_or_else(|| ReplicateError::unreachable(holder, "ended early"))?;
                piece.extend_from_slice(&chunk.bytes);
            }
            partial.write(at, piece.split().freeze()).await?;
            tell.send_replace(Progress::Flowing);
            at += want as u64;
            piece.reserve(WRITE_BYTES);
        }
        Ok(())
    }

    /// Reachable nodes of the own zone, the own region, and the rest; unreachable ones last.
    pub fn nearest_first(&self, nodes: &[NodeId]) -> Vec<NodeId> {
        let layout = self.layout();
        let here = layout.nodes.iter().find(|n| n.id == self.inner.me).map(|n| n.location.clone());
        let mut ranked: Vec<NodeId> = nodes.iter().copied().filter(|n| *n != self.inner.me).collect();
        ranked.sort_by_key(|node| {
            let there = layout.nodes.iter().find(|n| n.id == *node).map(|n| &n.location);
            let distance = match (&here, there) {
                (Some(here), Some(there)) if here == there => 0,
                (Some(here), Some(there)) if here.region == there.region => 1,
                _ => 2,
            };
            (!self.inner.liveness.is_reachable(*node), distance, *node)
        });
        ranked
    }
}

/// A full copy must have the digests that its root was bound to when it was pushed.
fn bound(wanted: &ReplicaSpec, copy: &Sealed) -> Result<(), Failure> {
    if copy.digests.sha256 == wanted.digests.sha256 {
        return Ok(());
    }
    tracing::error!(root = %wanted.root, "the bytes of this root do not have the digest they are bound to");
    Err(Failure::Exhausted("the content does not have the digest it is bound to".to_owned()))
}

/// Reads the list of group chaining values; its length must be the one that `size` implies.
async fn group_list(recv: &mut RecvStream, length: u64, size: u64) -> Result<bytes::Bytes, FrameError> {
    if length != clawhub_blobs::list_len(size) {
        return Err(FrameError::Malformed(format!("a group list of {length} bytes for {size} bytes")));
    }
    let length = usize::try_from(length).map_err(|_| FrameError::Malformed("group list too long".into()))?;
    read_exact(recv, length).await
}
