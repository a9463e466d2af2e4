//! The owner's end of a mirror: an upload's bytes go to a partner in another failure domain while the
//! client is still sending.
//!
//! # State
//! A [`Mirror`] is a stream in memory; the copy is an upload session in the partner's store. When the
//! stream ends, or the owner with it, the copy stays there as far as it came, and the next mirror on the
//! same partner goes on from it.

use std::time::Duration;

use bytes::Bytes;
use clawhub_peer::Class;
use clawhub_peer::frame::{Message, STALL, frame};
use clawhub_types::{Digest, NodeId, Receipt, RepoName, UploadId};
use clawhub_wire::blob as pb;
use futures::FutureExt;
use pb::mirror_frame::Op;
use pb::mirror_reply::Outcome;
use quinn::{SendStream, VarInt};

use crate::progress::Replies;
use crate::{CopyFailure, FrameError, Replicate, ReplicateError};

/// A partner that is alive opens a session within this, the way to it left out; else the next one is asked.
const OPEN: Duration = Duration::from_millis(500);
/// Round trips until a session is open where there is no connection yet: QUIC, Hello, the question.
const TRIPS: u32 = 3;

/// The owner gave the stream up: what it still carried is not to be appended.
const GIVEN_UP: VarInt = VarInt::from_u32(1);

/// An open mirror. Dropping it leaves the session on the partner, where it expires.
pub struct Mirror {
    replicate: Replicate,
    partner: NodeId,
    offset: u64,
    /// Bytes of the upload that this stream took.
    sent: u64,
    send: SendStream,
    replies: Replies,
}

impl Replicate {
    /// Opens a mirror of `upload` on `partner`. Its [`Mirror::offset`] is where the partner's copy ends: what
    /// it has from before counts if it is no more than `sound` bytes. One that has more begins again, for
    /// the rest may be of a try that the owner has lost.
    ///
    /// # Errors
    /// [`ReplicateError`] if the partner cannot be reached or refuses.
    pub async fn mirror(
        &self,
        partner: NodeId,
        upload: UploadId,
        repo: &RepoName,
        sha512: bool,
        sound: u64,
    ) -> Result<Mirror, ReplicateError> {
        let open = pb::Mirror { upload: upload.to_string(), repo: repo.to_string(), sha512, progress: true };
        let patience = self.inner.liveness.round_trip().within(TRIPS, OPEN);
        for _ in 0..2 {
            let opening = self.open_mirror(partner, open.clone());
            let mut mirror = match tokio::time::timeout(patience, opening).await {
                Ok(opened) => opened?,
                Err(_) => {
                    return Err(ReplicateError::unreachable(partner, "it did not open a session in time"));
                }
            };
            if (1..=sound).contains(&mirror.offset) {
                // Its files may be closed. Opening them takes longer than an append may.
                match mirror.flush().await {
                    Ok(offset) => mirror.offset = offset,
                    // Its bytes were lost, and the session with them: it begins again.
                    Err(ReplicateError::Refused { failure: CopyFailure::UploadUnknown, .. }) => continue,
                    Err(error) => return Err(error),
                }
            }
            if mirror.offset <= sound {
                return Ok(mirror);
            }
            mirror.abort().await;
        }
        Err(ReplicateError::Refused {
            node: partner,
            failure: CopyFailure::OtherBytes,
            reason: "it keeps bytes that its owner lost".into(),
        })
    }

    async fn open_mirror(&self, partner: NodeId, open: pb::Mirror) -> Result<Mirror, ReplicateError> {
        let opened = self.inner.endpoint.open(partner, Class::Foreground).await;
        let (send, recv) = opened.map_err(|error| ReplicateError::peer(partner, error))?;
        let replies = Replies::of(recv);
        let mut mirror = Mirror { replicate: self.clone(), partner, offset: 0, sent: 0, send, replies };
        mirror.say(&pb::BlobRequest { op: Some(pb::blob_request::Op::Mirror(open)) }).await?;
        match mirror.read_reply().await? {
            Outcome::Opened(offset) => mirror.offset = offset,
            other => return Err(mirror.confused(&other)),
        }
        Ok(mirror)
    }
}

impl Mirror {
    /// The node that holds the copy.
    pub fn partner(&self) -> NodeId {
        self.partner
    }

    /// Where the copy ends, in bytes, fsynced or not.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether the partner still takes bytes, as far as is known without asking: it ends a mirror that
    /// rests for long, and its connection breaks when it restarts.
    pub fn is_open(&self) -> bool {
        self.send.stopped().now_or_never().is_none()
    }

    /// Appends bytes; returns when they are on their way, after at most one flow-control window.
    ///
    /// # Errors
    /// [`ReplicateError`]; the mirror is then of no further use, nor is it if the caller gives up midway.
    pub async fn append(&mut self, bytes: Bytes) -> Result<(), ReplicateError> {
        let length = u32::try_from(bytes.len()).map_err(|_| ReplicateError::Refused {
            node: self.partner,
            failure: CopyFailure::Other,
            reason: "a piece of more than 4 GiB".into(),
        })?;
        let data = pb::MirrorData { at: self.offset, length };
        self.frame(Op::Data(data)).await?;
        self.offset += u64::from(length);
        self.write(bytes, true).await
    }

    /// Has everything appended so far fsynced; the offset up to which it is.
    ///
    /// # Errors
    /// [`ReplicateError`]; the mirror is then of no further use.
    pub async fn flush(&mut self) -> Result<u64, ReplicateError> {
        self.frame(Op::Flush(pb::MirrorFlush {})).await?;
        match self.reply().await? {
            Outcome::Durable(offset) => Ok(offset),
            other => Err(self.confused(&other)),
        }
    }

    /// Turns the copy into a replica.
    ///
    /// # Errors
    /// [`ReplicateError`]; the mirror is then of no further use.
    pub async fn keep(mut self, digest: &Digest, generation: u64) -> Result<Receipt, ReplicateError> {
        self.frame(Op::Keep(pb::MirrorKeep { digest: digest.to_string(), generation })).await?;
        match self.reply().await? {
            Outcome::Receipt(receipt) => {
                let receipt = Receipt::try_from(receipt).map_err(|error| self.gone(error))?;
                if receipt.node == self.partner {
                    Ok(receipt)
                } else {
                    Err(self.gone("a receipt of another node"))
                }
            }
            other => Err(self.confused(&other)),
        }
    }

    /// Has the partner forget the copy; returns when it has. One that cannot be told expires the session by
    /// itself.
    pub async fn abort(mut self) {
        let replicate = self.replicate.clone();
        let partner = self.partner;
        let told = async {
            self.frame(Op::Abort(pb::MirrorAbort {})).await?;
            // It ends the stream when the session is gone.
            while self.replies.next().await.is_ok() {}
            Ok(())
        };
        let told =
            tokio::time::timeout(replicate.inner.limits.fsync, replicate.while_alive(partner, told)).await;
        if let Ok(Err(error)) = told {
            tracing::debug!(%error, "a copy was left to expire");
        }
    }

    async fn frame(&mut self, op: Op) -> Result<(), ReplicateError> {
        self.say(&pb::MirrorFrame { op: Some(op) }).await
    }

    async fn say(&mut self, message: &impl Message) -> Result<(), ReplicateError> {
        let bytes = frame(message).map_err(|error| self.gone(error))?;
        self.write(bytes, false).await
    }

    /// Writes as long as what is on its way arrives.
    async fn write(&mut self, bytes: Bytes, is_data: bool) -> Result<(), ReplicateError> {
        let partner = self.partner;
        let mut rest = [bytes];
        while !rest[0].is_empty() {
            let before = rest[0].len();
            let stalled = self.replies.stalled(STALL, self.sent);
            let written = async {
                tokio::select! {
                    written = self.send.write_chunks(&mut rest) => {
                        written.map(drop).map_err(|error| ReplicateError::unreachable(partner, error))
                    }
                    () = stalled => Err(ReplicateError::unreachable(partner, FrameError::Stalled)),
                }
            };
            self.replicate.while_alive(partner, written).await?;
            if is_data {
                self.sent += (before - rest[0].len()) as u64;
            }
        }
        Ok(())
    }

    async fn reply(&mut self) -> Result<Outcome, ReplicateError> {
        let replicate = self.replicate.clone();
        let partner = self.partner;
        // Once all of it is there, the time counts as well.
        let stalled = self.replies.stalled(replicate.inner.limits.fsync, u64::MAX);
        let reply = async {
            tokio::select! {
                reply = self.read_reply() => reply,
                () = stalled => Err(ReplicateError::unreachable(partner, FrameError::Stalled)),
            }
        };
        replicate.while_alive(partner, reply).await
    }

    async fn read_reply(&mut self) -> Result<Outcome, ReplicateError> {
        match self.replies.next().await.map_err(|error| self.gone(error))? {
            Outcome::Failed(failed) => Err(ReplicateError::refused(self.partner, failed)),
            outcome => Ok(outcome),
        }
    }

    fn gone(&self, reason: impl ToString) -> ReplicateError {
        ReplicateError::unreachable(self.partner, reason)
    }

    fn confused(&self, outcome: &Outcome) -> ReplicateError {
        self.gone(format!("an unexpected reply: {outcome:?}"))
    }
}

impl Drop for Mirror {
    /// Else the partner would go on appending what is still on its way, beside the mirror that follows.
    fn drop(&mut self) {
        // A stream that has ended, or whose connection has, carries nothing more.
        let _ = self.send.reset(GIVEN_UP);
    }
}
