//! What this node does for its peers: it sends ranges of blobs, takes copies, and holds the second copy of uploads
//! that other nodes own. Owns nothing; the bytes are the blob store's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clawhub_blobs::BlobError;
use clawhub_peer::Class;
use clawhub_peer::frame::{read_noted, write_chunk};
use clawhub_types::{Digest, NodeId, Receipt, RepoName, Root, UploadId};
use clawhub_wire::blob as pb;
use futures::StreamExt;
use pb::blob_request::Op as Request;
use pb::mirror_frame::Op;
use pb::mirror_reply::Outcome;
use quinn::{RecvStream, SendStream};

use crate::failure::{mirror_failed, replica_failed};
use crate::progress::{reports, telling};
use crate::{Asked, FrameError, ReplicaSpec, Replicate, ReplicateError, read_message, write_message};

/// A request must follow the opening of its stream within this.
const REQUEST: Duration = Duration::from_secs(10);
/// An owner whose client pauses ends the mirror itself, within minutes; this is for one that forgets to. A
/// client that is slow has longer between two pieces than one that stands still before it is given up.
const MIRROR_IDLE: Duration = Duration::from_secs(10 * 60);
/// Mirror data is appended in pieces of this size, and what is sent is read in such.
const APPEND_BYTES: usize = 512 * 1024;
/// What a stream that is served for a member takes in memory, beside the connection's windows.
pub const STREAM_MEMORY: u64 = APPEND_BYTES as u64;

impl Replicate {
    /// Serves a stream that a member opened. What is not about bytes alone, a step of an upload, is handed back to
    /// the layers above.
    ///
    /// # Errors
    /// [`FrameError`] if the member leaves or breaks the protocol.
    pub async fn serve(&self, send: SendStream, mut recv: RecvStream) -> Result<Option<Asked>, FrameError> {
        let request: pb::BlobRequest = read_message(&mut recv, REQUEST).await?;
        match request.op {
            Some(Request::Ping(_)) => self.inner.liveness.answer(send).await?,
            Some(Request::Get(get)) => self.serve_get(get, send).await?,
            Some(Request::Mirror(mirror)) => self.serve_mirror(mirror, send, recv).await?,
            Some(Request::Replica(replica)) => self.serve_replica(replica, send).await?,
            Some(Request::Upload(step)) => return Asked::read(step, send, recv).await,
            // A request of a later release: the peer sees the stream end without an answer.
            None => {}
        }
        Ok(None)
    }

    /// Sends a range of a blob that this node holds.
    ///
    /// # Errors
    /// [`FrameError`] if the peer leaves; a blob that turns out corrupt resets the stream.
    async fn serve_get(&self, get: pb::Get, mut send: SendStream) -> Result<(), FrameError> {
        let root = root(&get.root)?;
        let blob = match self.inner.blobs.open_blob(&root).await {
            Ok(Some(blob)) if get.start <= get.end && get.end <= blob.size() => blob,
            Ok(_) => {
                write_message(&mut send, &pb::GetReply { held: false, size: 0, groups: 0 }).await?;
                return finish(send);
            }
            Err(error) => return reset(send, &root, &error),
        };
        let groups = match get.groups {
            true => match blob.groups().await {
                Ok(groups) => groups,
                Err(error) => return reset(send, &root, &error),
            },
            false => Bytes::new(),
        };
        let reply = pb::GetReply { held: true, size: blob.size(), groups: groups.len() as u64 };
        write_message(&mut send, &reply).await?;
        write_chunk(&mut send, groups).await?;
        let mut bytes = std::pin::pin!(blob.read(get.start..get.end));
        while let Some(piece) = bytes.next().await {
            match piece {
                Ok(piece) => write_chunk(&mut send, piece).await?,
                Err(error) => return reset(send, &root, &error),
            }
        }
        finish(send)
    }

    /// Takes a copy of a blob and answers with its receipt.
    ///
    /// # Errors
    /// [`FrameError`] if the peer leaves; the copy goes on without it.
    async fn serve_replica(&self, replica: pb::Replica, mut send: SendStream) -> Result<(), FrameError> {
        use pb::replica_reply::Outcome;
        let wanted = wanted(replica)?;
        let copy = self.copy_here(wanted, Class::Background);
        let at_work = || Some(pb::ReplicaReply { outcome: Some(Outcome::Progress(0)) });
        let outcome = telling(&mut send, &mut reports(), at_work, copy).await;
        let outcome = match outcome {
            Ok(receipt) => Outcome::Receipt((&receipt).into()),
            Err(error) => Outcome::Failed(replica_failed(&error)),
        };
        write_message(&mut send, &pb::ReplicaReply { outcome: Some(outcome) }).await?;
        finish(send)
    }

    /// Makes this node a holder: the receipt of the copy it has, or of one it fetches in this class.
    ///
    /// # Errors
    /// [`ReplicateError`] if no holder can supply the bytes or the store refuses them.
    pub async fn copy_here(&self, wanted: ReplicaSpec, class: Class) -> Result<Receipt, ReplicateError> {
        let root = wanted.root;
        let generation = wanted.generation;
        if let Some(receipt) = self.inner.blobs.receipt(&root, generation).await? {
            return Ok(receipt);
        }
        match self.fetch(wanted, class).await {
            Ok(fetch) => {
                fetch.partial().promise();
                fetch.ended().await?;
            }
            // A fetch for a reader ended between the two looks.
            Err(ReplicateError::Local(BlobError::Held(_))) => {}
            Err(error) => return Err(error),
        }
        let receipt = self.inner.blobs.receipt(&root, generation).await?;
        receipt.ok_or(ReplicateError::NotHeld(self.inner.me))
    }

    /// Holds the partner's copy of an upload that another node owns.
    ///
    /// # Errors
    /// [`FrameError`] if the owner leaves; the session stays until it expires.
    async fn serve_mirror(
        &self,
        open: pb::Mirror,
        mut send: SendStream,
        mut recv: RecvStream,
    ) -> Result<(), FrameError> {
        let malformed = |what: &str| FrameError::Malformed(what.to_owned());
        let id: UploadId = open.upload.parse().map_err(|_| malformed("upload id"))?;
        let repo: RepoName = open.repo.parse().map_err(|_| malformed("repository"))?;
        let opened = match self.inner.blobs.uploads().status(id) {
            Some(status) => Ok(status.offset),
            None => self.inner.blobs.uploads().begin(id, &repo, open.sha512).await.map(|()| 0),
        };
        let outcome = opened.map_or_else(|error| Outcome::Failed(mirror_failed(&error)), Outcome::Opened);
        let refused = matches!(outcome, Outcome::Failed(_));
        write_message(&mut send, &pb::MirrorReply { outcome: Some(outcome) }).await?;
        if refused {
            return finish(send);
        }
        let mut reports = reports();
        let arrived = AtomicU64::new(0);
        let told = AtomicU64::new(0);
        let progress = || {
            let at = arrived.load(Ordering::Relaxed);
            let news = open.progress && told.swap(at, Ordering::Relaxed) != at;
            news.then_some(pb::MirrorReply { outcome: Some(Outcome::Progress(at)) })
        };
        loop {
            let frame: pb::MirrorFrame = read_message(&mut recv, MIRROR_IDLE).await?;
            let done = matches!(frame.op, Some(Op::Keep(_) | Op::Abort(_)) | None);
            let handled = self.mirror_frame(id, frame, &mut recv, &arrived);
            match telling(&mut send, &mut reports, progress, handled).await {
                Ok(None) => {}
                Ok(Some(outcome)) => {
                    write_message(&mut send, &pb::MirrorReply { outcome: Some(outcome) }).await?
                }
                Err(MirrorError::Stream(error)) => return Err(error),
                Err(MirrorError::Store(error)) => {
                    let outcome = Some(Outcome::Failed(mirror_failed(&error)));
                    write_message(&mut send, &pb::MirrorReply { outcome }).await?;
                    break;
                }
            }
            if done {
                break;
            }
        }
        finish(send)
    }

    async fn mirror_frame(
        &self,
        id: UploadId,
        frame: pb::MirrorFrame,
        recv: &mut RecvStream,
        arrived: &AtomicU64,
    ) -> Result<Option<Outcome>, MirrorError> {
        let blobs = &self.inner.blobs;
        match frame.op {
            Some(Op::Data(data)) => {
                let mut at = data.at;
                let mut left = data.length as usize;
                while left > 0 {
                    let note = |n: usize| {
                        arrived.fetch_add(n as u64, Ordering::Relaxed);
                    };
                    let piece = read_noted(recv, left.min(APPEND_BYTES), note).await?;
                    left -= piece.len();
                    at = blobs.uploads().append(id, at, piece).await?;
                }
                Ok(None)
            }
            Some(Op::Flush(_)) => Ok(Some(Outcome::Durable(blobs.uploads().flush(id).await?))),
            Some(Op::Keep(keep)) => {
                let digest: Digest =
                    keep.digest.parse().map_err(|_| FrameError::Malformed("a digest".to_owned()))?;
                let sealed = blobs.uploads().seal(id, &digest).await?;
                let receipt = blobs.uploads().keep(id, &sealed, keep.generation).await?;
                Ok(Some(Outcome::Receipt((&receipt).into())))
            }
            Some(Op::Abort(_)) => {
                blobs.uploads().cancel(id).await?;
                Ok(None)
            }
            None => Ok(None),
        }
    }
}

enum MirrorError {
    Stream(FrameError),
    Store(BlobError),
}

impl From<FrameError> for MirrorError {
    fn from(error: FrameError) -> Self {
        MirrorError::Stream(error)
    }
}

impl From<BlobError> for MirrorError {
    fn from(error: BlobError) -> Self {
        MirrorError::Store(error)
    }
}

fn finish(mut send: SendStream) -> Result<(), FrameError> {
    send.finish().map_err(|error| FrameError::Stream(error.to_string()))
}

/// Ends a stream in a way that the peer cannot take for a complete answer.
fn reset(mut send: SendStream, root: &Root, error: &BlobError) -> Result<(), FrameError> {
    tracing::error!(%root, %error, "a blob cannot be sent");
    send.reset(1u32.into()).map_err(|error| FrameError::Stream(error.to_string()))
}

fn root(bytes: &[u8]) -> Result<Root, FrameError> {
    bytes.try_into().map(Root).map_err(|_| FrameError::Malformed("a root".to_owned()))
}

fn wanted(replica: pb::Replica) -> Result<ReplicaSpec, FrameError> {
    let malformed = |what: &str| FrameError::Malformed(what.to_owned());
    let digests = replica.digests.ok_or_else(|| malformed("no digests"))?;
    Ok(ReplicaSpec {
        root: root(&replica.root)?,
        size: replica.size,
        generation: replica.generation,
        digests: digests.try_into().map_err(|_| malformed("digests"))?,
        holders: replica.holders.into_iter().map(NodeId).collect(),
    })
}
