//! A step of an upload whose session another node owns: sent there whole, body and all, over the
//! members' connection. The client never learns of it.

use std::time::Duration;

use clawhub_auth::Permit;
use clawhub_peer::Class;
use clawhub_replicate::{FrameError, read_message, write_body, write_body_end, write_message};
use clawhub_types::{Digest, NodeId, RepoName, UploadId};
use clawhub_wire::blob as pb;
use futures::StreamExt;
use pb::upload_reply::Outcome;
use pb::upload_step::Op;
use quinn::{RecvStream, SendStream};

use crate::error::RETRY;
use crate::session::Chunk;
use crate::{BodyStream, Error, Invalid, Kind, Registry, UploadView, What};

/// After the body has ended the owner may still have to fsync, copy and commit.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the owner is asked to do.
pub(crate) enum Step {
    Begin { sha512: bool },
    Append,
    Finish { digest: Digest },
    Status,
    Cancel,
}

impl Registry {
    /// A step that answers where the session stands.
    pub(crate) async fn forward_for_position(
        &self,
        permit: &Permit,
        repo: &RepoName,
        owner: NodeId,
        id: Option<UploadId>,
        step: Step,
        chunk: Option<Chunk>,
    ) -> Result<UploadView, Error> {
        match self.forward(permit, repo, owner, id, step, chunk).await? {
            Outcome::Position(position) => view(&position),
            _ => Err(confused()),
        }
    }

    /// A step that ends the session.
    pub(crate) async fn forward_to_end(
        &self,
        permit: &Permit,
        repo: &RepoName,
        id: UploadId,
        step: Step,
        chunk: Option<Chunk>,
    ) -> Result<(), Error> {
        match self.forward(permit, repo, id.node, Some(id), step, chunk).await? {
            Outcome::Done(_) => Ok(()),
            _ => Err(confused()),
        }
    }

    async fn forward(
        &self,
        permit: &Permit,
        repo: &RepoName,
        owner: NodeId,
        id: Option<UploadId>,
        step: Step,
        chunk: Option<Chunk>,
    ) -> Result<Outcome, Error> {
        self.check_member(owner)?;
        let away = |error: String| {
            tracing::warn!(%owner, error, "an upload's owner cannot be reached");
            Error::unavailable(RETRY, "the node that holds this upload cannot be reached")
        };
        let opened = self.inner.replicate.endpoint().open(owner, Class::Foreground).await;
        let (mut send, mut recv) = opened.map_err(|error| away(error.to_string()))?;
        let (message, body) = message(permit, repo, id, step, chunk);
        let request = pb::BlobRequest { op: Some(pb::blob_request::Op::Upload(message)) };
        write_message(&mut send, &request).await.map_err(|error| away(error.to_string()))?;
        let reply = exchange(&mut send, &mut recv, body).await?.map_err(|error| away(error.to_string()))?;
        match reply.outcome {
            Some(Outcome::Error(error)) => Err(decode_error(error)),
            Some(outcome) => Ok(outcome),
            None => Err(confused()),
        }
    }

    /// An id that names no member names no session either.
    fn check_member(&self, owner: NodeId) -> Result<(), Error> {
        let state = self.state();
        let member =
            clawhub_state::View::new(&*state).cluster().node(owner)?.is_some_and(|node| !node.removed);
        member.then_some(()).ok_or_else(Error::upload_unknown)
    }
}

/// Sends the body and waits for the answer, which may come first: an owner that refuses a chunk does
/// not read it. The outer error is the client's own, its body having broken off.
async fn exchange(
    send: &mut SendStream,
    recv: &mut RecvStream,
    body: Option<BodyStream>,
) -> Result<Result<pb::UploadReply, FrameError>, Error> {
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
    // The client decides how long its body takes; the idle limit is the edge's.
    let forever = Duration::from_secs(24 * 60 * 60);
    let early = {
        let mut sending = std::pin::pin!(sending);
        let reply = read_message::<pb::UploadReply>(recv, forever);
        let mut reply = std::pin::pin!(reply);
        tokio::select! {
            reply = &mut reply => Some(reply),
            // A refused body stops the stream; the reason is in the reply.
            _ = &mut sending => tokio::time::timeout(PATIENCE, reply).await.ok(),
        }
    };
    match (broken, early) {
        (Some(error), _) => Err(error.into()),
        (None, Some(reply)) => Ok(reply),
        (None, None) => Ok(Err(FrameError::Stalled)),
    }
}

fn message(
    permit: &Permit,
    repo: &RepoName,
    id: Option<UploadId>,
    step: Step,
    chunk: Option<Chunk>,
) -> (pb::UploadStep, Option<BodyStream>) {
    let op = match step {
        Step::Begin { sha512 } => Op::Begin(pb::UploadBegin { sha512 }),
        Step::Append => Op::Append(pb::UploadAppend {}),
        Step::Finish { digest } => Op::Finish(pb::UploadFinish { digest: digest.to_string() }),
        Step::Status => Op::Status(pb::UploadStatus {}),
        Step::Cancel => Op::Cancel(pb::UploadCancel {}),
    };
    let range = chunk.as_ref().and_then(|chunk| chunk.range);
    let message = pb::UploadStep {
        upload: id.map(|id| id.to_string()).unwrap_or_default(),
        repo: repo.to_string(),
        access: Some(pb::Access::new(permit.actor(), &permit.access())),
        range_start: range.map(|(start, _)| start),
        range_end: range.map(|(_, end)| end),
        length: chunk.as_ref().and_then(|chunk| chunk.length),
        op: Some(op),
    };
    (message, chunk.map(|chunk| chunk.body))
}

fn confused() -> Error {
    Error::internal("the upload's owner gave an answer of another kind")
}

fn view(position: &pb::UploadPosition) -> Result<UploadView, Error> {
    let id = position.upload.parse().map_err(|_| confused())?;
    Ok(UploadView { id, offset: position.offset })
}

/// An owner's refusal as it goes over the wire. What no step can answer goes as a fault.
pub(crate) fn encode_error(error: &Error) -> pb::UploadError {
    use pb::upload_error::Kind as Wire;
    let mut wire = pb::UploadError { message: error.message.clone(), ..Default::default() };
    wire.set_kind(match &error.kind {
        Kind::NotFound(What::Upload) => Wire::Unknown,
        Kind::Invalid(Invalid::Digest) => Wire::Digest,
        Kind::Invalid(Invalid::Length) => Wire::Length,
        Kind::Invalid(Invalid::Body) => Wire::Body,
        Kind::Unauthenticated => Wire::Unauthenticated,
        Kind::Denied => Wire::Denied,
        Kind::Range { .. } => Wire::Range,
        Kind::NoSpace => Wire::NoSpace,
        Kind::Unavailable { .. } => Wire::Unavailable,
        _ => Wire::Internal,
    });
    match &error.kind {
        Kind::Range { upload } => {
            wire.position = Some(pb::UploadPosition { upload: upload.id.to_string(), offset: upload.offset });
        }
        Kind::Unavailable { retry_after } => {
            wire.retry_after_ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
        }
        _ => {}
    }
    wire
}

fn decode_error(wire: pb::UploadError) -> Error {
    use pb::upload_error::Kind as Wire;
    let kind = match wire.kind() {
        Wire::Unknown => Some(Kind::NotFound(What::Upload)),
        Wire::Digest => Some(Kind::Invalid(Invalid::Digest)),
        Wire::Length => Some(Kind::Invalid(Invalid::Length)),
        Wire::Body => Some(Kind::Invalid(Invalid::Body)),
        Wire::Unauthenticated => Some(Kind::Unauthenticated),
        Wire::Denied => Some(Kind::Denied),
        Wire::Range => wire.position.as_ref().and_then(|p| view(p).ok()).map(|upload| Kind::Range { upload }),
        Wire::NoSpace => Some(Kind::NoSpace),
        Wire::Unavailable => {
            Some(Kind::Unavailable { retry_after: Duration::from_millis(wire.retry_after_ms) })
        }
        Wire::Internal => None,
    };
    Error::new(kind.unwrap_or(Kind::Internal), wire.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owners_refusals_reach_the_client_unchanged() {
        let upload = UploadView { id: UploadId { node: NodeId(3), random: [1; 16] }, offset: 77 };
        let kinds = [
            Kind::Invalid(Invalid::Digest),
            Kind::Invalid(Invalid::Length),
            Kind::Invalid(Invalid::Body),
            Kind::NotFound(What::Upload),
            Kind::Unauthenticated,
            Kind::Denied,
            Kind::Range { upload },
            Kind::NoSpace,
            Kind::Unavailable { retry_after: Duration::from_millis(1500) },
            Kind::Internal,
        ];
        for kind in kinds {
            let error = Error::new(kind.clone(), "why");
            let back = decode_error(encode_error(&error));
            assert_eq!((back.kind, back.message), (kind, "why".to_owned()));
        }
    }
}
