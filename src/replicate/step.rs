//! A step of an upload, sent on by the node that the client reached to the node that owns the session: both
//! ends of it, as typed values. What they mean is for the layers above.
//!
//! Owns the stream while the step runs, and nothing else. A crash of either end breaks the step off; the session
//! stays at its durable offset.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use clawhub_peer::Class;
use clawhub_types::{AccessRevisions, Actor, Digest, NodeId, RepoName, UploadId};
use clawhub_wire::blob as pb;
use futures::{Stream, StreamExt, stream};
use pb::upload_error::Kind;
use pb::upload_reply::Outcome;
use pb::upload_step::Op;
use quinn::{RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::progress::{reports, telling};
use crate::{
    BodyFrame, FrameError, Replicate, ReplicateError, read_body, read_message, write_body, write_body_end,
    write_message,
};

/// After the body has ended the owner may still have to fsync, copy and commit. How long that takes depends on the way
/// to its partner: it says every two seconds that it is at work, and silence for longer than this is failure.
const SILENCE: Duration = Duration::from_secs(30);
/// The same for an owner of an earlier release, which says nothing.
const PATIENCE: Duration = Duration::from_secs(120);
/// The client decides how long its body takes; the idle limit is the edge's.
const FOREVER: Duration = Duration::from_secs(24 * 60 * 60);
/// The client behind the ingress may pause for so long; the ingress has the same limit.
const BODY_IDLE: Duration = Duration::from_secs(6 * 60);
/// Body pieces read ahead of the store.
const READ_AHEAD: usize = 4;

/// A client's body on its way. An error is why it broke off.
pub type StepBody<E> = Pin<Box<dyn Stream<Item = Result<Bytes, E>> + Send>>;

/// A step of an upload to a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadStep {
    /// Where the blob goes.
    pub repo: RepoName,
    /// In whose name.
    pub by: Vouched,
    /// What is to be done.
    pub op: StepOp,
}

/// Whom the ingress permitted to push, and at which revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    /// Who asked.
    pub actor: Actor,
    /// The revisions the ingress judged at.
    pub access: AccessRevisions,
}

/// What a step does. The body follows the step where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepOp {
    /// Opens a session.
    Begin {
        /// Also compute SHA-512 on the way.
        sha512: bool,
    },
    /// Appends a chunk.
    Append {
        /// The session.
        upload: UploadId,
        /// First and last byte, if the client said so.
        range: Option<(u64, u64)>,
        /// Length of the body in bytes, if the client said so.
        length: Option<u64>,
    },
    /// Appends a last chunk and commits the blob.
    Finish {
        /// The session.
        upload: UploadId,
        /// What the blob must turn out to be.
        digest: Digest,
        /// First and last byte, if the client said so.
        range: Option<(u64, u64)>,
        /// Length of the body in bytes, if the client said so.
        length: Option<u64>,
    },
    /// Asks where a session stands.
    Status {
        /// The session.
        upload: UploadId,
    },
    /// Forgets a session.
    Cancel {
        /// The session.
        upload: UploadId,
    },
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepAnswer {
    /// The session goes on.
    Position {
        /// The session.
        upload: UploadId,
        /// Where its next byte goes.
        offset: u64,
    },
    /// The session has ended as it was asked to.
    Done,
}

/// Why the owner did not do a step, so that the ingress can answer as the owner would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no such session, or it is another repository's.
    Unknown,
    /// The content has another digest.
    Digest,
    /// The body is longer or shorter than announced.
    Length,
    /// The body broke off.
    Body,
    /// Rights shrank, and other credentials might be enough.
    Unauthenticated,
    /// Rights shrank.
    Denied,
    /// The chunk does not begin where the session stands.
    Range {
        /// The session.
        upload: UploadId,
        /// Where it stands.
        offset: u64,
    },
    /// The owner is below its free-space limit.
    NoSpace,
    /// The owner cannot do it now.
    Unavailable {
        /// When to try again.
        retry_after: Duration,
    },
    /// A fault of the owner.
    Internal,
}

/// A step was not done, or nobody knows.
#[derive(Debug)]
pub enum StepError<E> {
    /// The client's own body broke off.
    Body(E),
    /// The owner refused, and what it says to people.
    Refused(Refused, String),
    /// The owner cannot be reached, or stopped talking.
    Peer(ReplicateError),
}

impl Replicate {
    /// Has `owner` do a step of an upload, and sends it the client's body.
    ///
    /// # Errors
    /// See [`StepError`].
    pub async fn upload_step<E>(
        &self,
        owner: NodeId,
        step: &UploadStep,
        body: Option<StepBody<E>>,
    ) -> Result<StepAnswer, StepError<E>> {
        let gone = |error: FrameError| StepError::Peer(ReplicateError::unreachable(owner, error));
        let opened = self.inner.endpoint.open(owner, Class::Foreground).await;
        let (mut send, mut recv) =
            opened.map_err(|error| StepError::Peer(ReplicateError::peer(owner, error)))?;
        let request = pb::BlobRequest { op: Some(pb::blob_request::Op::Upload(encode(step))) };
        write_message(&mut send, &request).await.map_err(gone)?;
        let reply = exchange(&mut send, &mut recv, body).await.map_err(StepError::Body)?;
        match reply.map_err(gone)?.outcome {
            Some(Outcome::Error(error)) => {
                let refused = decode_refusal(&error);
                Err(StepError::Refused(refused, error.message))
            }
            Some(Outcome::Done(_)) => Ok(StepAnswer::Done),
            // These were waited past.
            Some(Outcome::Progress(_)) | None => {
                Err(StepError::Peer(ReplicateError::unreachable(owner, "an empty answer")))
            }
            Some(Outcome::Position(position)) => {
                let upload = position.upload.parse();
                let nonsense = |_| ReplicateError::unreachable(owner, "an answer that is none");
                let upload = upload.map_err(|error| StepError::Peer(nonsense(error)))?;
                Ok(StepAnswer::Position { upload, offset: position.offset })
            }
        }
    }
}

/// Sends the body and waits for the answer, which may come first: an owner that refuses a chunk does
/// not read it. The outer error is the client's own, its body having broken off.
async fn exchange<E>(
    send: &mut SendStream,
    recv: &mut RecvStream,
    body: Option<StepBody<E>>,
) -> Result<Result<pb::UploadReply, FrameError>, E> {
    let mut broken = None;
    let sending = async {
        let Some(mut body) = body else { return write_body_end(send, true).await };
        while let Some(bytes) = body.next().await {
            match bytes {
                Ok(bytes) => write_body(send, bytes).await?,
                Err(error) => {
                    broken = Some(error);
                    return write_body_end(send, false).await;
                }
            }
        }
        write_body_end(send, true).await
    };
    let reply = {
        let mut sending = std::pin::pin!(sending);
        let mut is_sent = false;
        let mut limit = FOREVER;
        loop {
            let reply = read_message::<pb::UploadReply>(recv, limit);
            let mut reply = std::pin::pin!(reply);
            let reply = tokio::select! {
                reply = &mut reply => reply,
                // A refused body stops the stream; the reason is in the reply.
                _ = &mut sending, if !is_sent => {
                    is_sent = true;
                    let limit = limit.min(PATIENCE);
                    tokio::time::timeout(limit, reply).await.unwrap_or(Err(FrameError::Stalled))
                }
            };
            match reply {
                Ok(pb::UploadReply { outcome: Some(Outcome::Progress(_)) }) => limit = SILENCE,
                reply => break reply,
            }
        }
    };
    broken.map_or(Ok(reply), Err)
}

/// A step that a member asks of this node, and the stream to answer on.
pub struct Asked {
    /// What it asks.
    pub step: UploadStep,
    wants_progress: bool,
    send: SendStream,
    recv: Option<RecvStream>,
}

impl Asked {
    /// Reads a step; nothing if it is none, which its sender is told.
    pub(crate) async fn read(
        step: pb::UploadStep,
        mut send: SendStream,
        recv: RecvStream,
    ) -> Result<Option<Asked>, FrameError> {
        let wants_progress = step.progress;
        match decode(step) {
            Ok(step) => Ok(Some(Asked { step, wants_progress, send, recv: Some(recv) })),
            Err(what) => {
                let message = format!("a peer sent a malformed {what}");
                let outcome = Outcome::Error(encode_refusal(Refused::Internal, message));
                write_message(&mut send, &pb::UploadReply { outcome: Some(outcome) }).await?;
                finish(send).map(|()| None)
            }
        }
    }

    /// The client's body as the ingress sends it on; an error says in words why it broke off. Empty if it was
    /// taken before.
    pub fn body(&mut self) -> StepBody<String> {
        match self.recv.take() {
            Some(recv) => body(recv),
            None => stream::empty().boxed(),
        }
    }

    /// Has it done, and says what came of it; meanwhile, that somebody is at work.
    ///
    /// # Errors
    /// [`FrameError`] if the member left.
    pub async fn answer(
        mut self,
        work: impl Future<Output = Result<StepAnswer, (Refused, String)>>,
    ) -> Result<(), FrameError> {
        let at_work = || {
            let outcome = Some(Outcome::Progress(pb::UploadProgress {}));
            self.wants_progress.then_some(pb::UploadReply { outcome })
        };
        let done = telling(&mut self.send, &mut reports(), at_work, work).await;
        let outcome = match done {
            Ok(StepAnswer::Done) => Outcome::Done(pb::UploadDone {}),
            Ok(StepAnswer::Position { upload, offset }) => Outcome::Position(position(upload, offset)),
            Err((refused, message)) => Outcome::Error(encode_refusal(refused, message)),
        };
        write_message(&mut self.send, &pb::UploadReply { outcome: Some(outcome) }).await?;
        finish(self.send)
    }
}

/// The body is read by a task of its own, so that it comes while the store is busy. The task ends with the
/// stream that is returned, and what the client still sends is not wanted then.
fn body(mut recv: RecvStream) -> StepBody<String> {
    let (tx, rx) = mpsc::channel(READ_AHEAD);
    let mut reading = JoinSet::new();
    reading.spawn(async move {
        loop {
            let (item, last) = match read_body(&mut recv, BODY_IDLE).await {
                Ok(BodyFrame::Data(bytes)) => (Ok(bytes), false),
                Ok(BodyFrame::End) => break,
                Ok(BodyFrame::Aborted) => (Err("the client left".to_owned()), true),
                Err(error) => (Err(error.to_string()), true),
            };
            if tx.send(item).await.is_err() || last {
                break;
            }
        }
    });
    let next = |(mut rx, reading): (mpsc::Receiver<_>, JoinSet<()>)| async move {
        rx.recv().await.map(|item| (item, (rx, reading)))
    };
    stream::unfold((rx, reading), next).boxed()
}

fn finish(mut send: SendStream) -> Result<(), FrameError> {
    send.finish().map_err(|error| FrameError::Stream(error.to_string()))
}

fn position(upload: UploadId, offset: u64) -> pb::UploadPosition {
    pb::UploadPosition { upload: upload.to_string(), offset }
}

fn encode(step: &UploadStep) -> pb::UploadStep {
    let (upload, range, length, op) = match &step.op {
        StepOp::Begin { sha512 } => (None, None, None, Op::Begin(pb::UploadBegin { sha512: *sha512 })),
        StepOp::Append { upload, range, length } => {
            (Some(upload), *range, *length, Op::Append(pb::UploadAppend {}))
        }
        StepOp::Finish { upload, digest, range, length } => {
            let finish = pb::UploadFinish { digest: digest.to_string() };
            (Some(upload), *range, *length, Op::Finish(finish))
        }
        StepOp::Status { upload } => (Some(upload), None, None, Op::Status(pb::UploadStatus {})),
        StepOp::Cancel { upload } => (Some(upload), None, None, Op::Cancel(pb::UploadCancel {})),
    };
    pb::UploadStep {
        upload: upload.map(ToString::to_string).unwrap_or_default(),
        repo: step.repo.to_string(),
        access: Some(pb::Access::new(&step.by.actor, &step.by.access)),
        range_start: range.map(|(start, _)| start),
        range_end: range.map(|(_, end)| end),
        length,
        op: Some(op),
        progress: true,
    }
}

/// The error names the part that is malformed.
fn decode(step: pb::UploadStep) -> Result<UploadStep, &'static str> {
    let repo: RepoName = step.repo.parse().map_err(|_| "repository")?;
    let (actor, access) = step.access.unwrap_or_default().try_into().map_err(|_| "permit")?;
    let by = Vouched { actor, access };
    let range = step.range_start.zip(step.range_end);
    let length = step.length;
    let upload = || step.upload.parse::<UploadId>().map_err(|_| "upload id");
    let op = match step.op.ok_or("upload step")? {
        Op::Begin(begin) => StepOp::Begin { sha512: begin.sha512 },
        Op::Append(_) => StepOp::Append { upload: upload()?, range, length },
        Op::Finish(finish) => {
            let digest = finish.digest.parse().map_err(|_| "digest")?;
            StepOp::Finish { upload: upload()?, digest, range, length }
        }
        Op::Status(_) => StepOp::Status { upload: upload()? },
        Op::Cancel(_) => StepOp::Cancel { upload: upload()? },
    };
    Ok(UploadStep { repo, by, op })
}

fn encode_refusal(refused: Refused, message: String) -> pb::UploadError {
    let mut wire = pb::UploadError { message, ..Default::default() };
    wire.set_kind(match refused {
        Refused::Unknown => Kind::Unknown,
        Refused::Digest => Kind::Digest,
        Refused::Length => Kind::Length,
        Refused::Body => Kind::Body,
        Refused::Unauthenticated => Kind::Unauthenticated,
        Refused::Denied => Kind::Denied,
        Refused::Range { .. } => Kind::Range,
        Refused::NoSpace => Kind::NoSpace,
        Refused::Unavailable { .. } => Kind::Unavailable,
        Refused::Internal => Kind::Internal,
    });
    match refused {
        Refused::Range { upload, offset } => wire.position = Some(position(upload, offset)),
        Refused::Unavailable { retry_after } => {
            wire.retry_after_ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
        }
        _ => {}
    }
    wire
}

fn decode_refusal(wire: &pb::UploadError) -> Refused {
    match wire.kind() {
        Kind::Unknown => Refused::Unknown,
        Kind::Digest => Refused::Digest,
        Kind::Length => Refused::Length,
        Kind::Body => Refused::Body,
        Kind::Unauthenticated => Refused::Unauthenticated,
        Kind::Denied => Refused::Denied,
        Kind::NoSpace => Refused::NoSpace,
        Kind::Unavailable => Refused::Unavailable { retry_after: Duration::from_millis(wire.retry_after_ms) },
        Kind::Range => {
            let position = wire.position.as_ref();
            let range = position
                .and_then(|p| Some(Refused::Range { upload: p.upload.parse().ok()?, offset: p.offset }));
            range.unwrap_or(Refused::Internal)
        }
        Kind::Internal => Refused::Internal,
    }
}

#[cfg(test)]
mod tests {
    use clawhub_types::ProjectId;

    use super::*;

    const UPLOAD: UploadId = UploadId { node: NodeId(3), random: [1; 16] };

    #[test]
    fn steps_arrive_as_they_were_sent() {
        let digest = Digest::Sha256([4; 32]);
        let access = AccessRevisions { cluster: 3, project: Some((ProjectId(7), 2)), ..Default::default() };
        let ops = [
            StepOp::Begin { sha512: true },
            StepOp::Append { upload: UPLOAD, range: Some((3, 9)), length: Some(7) },
            StepOp::Finish { upload: UPLOAD, digest, range: None, length: Some(0) },
            StepOp::Status { upload: UPLOAD },
            StepOp::Cancel { upload: UPLOAD },
        ];
        for actor in [Actor::anonymous(), Actor::system(), Actor::operator()] {
            for op in ops.clone() {
                let by = Vouched { actor: actor.clone(), access };
                let step = UploadStep { repo: "a/b".parse().unwrap(), by, op };
                assert_eq!(decode(encode(&step)), Ok(step));
            }
        }
    }

    #[test]
    fn what_is_no_step_is_named() {
        let by = Vouched { actor: Actor::anonymous(), access: AccessRevisions::default() };
        let step = UploadStep { repo: "a/b".parse().unwrap(), by, op: StepOp::Status { upload: UPLOAD } };
        let broken = |change: fn(&mut pb::UploadStep)| {
            let mut wire = encode(&step);
            change(&mut wire);
            decode(wire)
        };
        assert_eq!(broken(|wire| wire.repo = "A".into()), Err("repository"));
        assert_eq!(broken(|wire| wire.access = None), Err("permit"));
        assert_eq!(broken(|wire| wire.upload = "1".into()), Err("upload id"));
        assert_eq!(broken(|wire| wire.op = None), Err("upload step"));
        let finish = |wire: &mut pb::UploadStep| {
            wire.op = Some(Op::Finish(pb::UploadFinish { digest: "sha256:1".into() }));
        };
        assert_eq!(broken(finish), Err("digest"));
    }

    #[test]
    fn refusals_arrive_as_they_were_sent() {
        let retry_after = Duration::from_millis(1500);
        for refused in [
            Refused::Unknown,
            Refused::Digest,
            Refused::Length,
            Refused::Body,
            Refused::Unauthenticated,
            Refused::Denied,
            Refused::Range { upload: UPLOAD, offset: 77 },
            Refused::NoSpace,
            Refused::Unavailable { retry_after },
            Refused::Internal,
        ] {
            let wire = encode_refusal(refused, "why".to_owned());
            assert_eq!((decode_refusal(&wire), wire.message.as_str()), (refused, "why"));
        }
    }
}
