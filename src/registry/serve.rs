//! What this node does for its peers on blob streams: the registry dispatches them, because a step of
//! an upload is one of its own use cases.

use std::time::Duration;

use clawhub_auth::Permit;
use clawhub_peer::StreamHandler;
use clawhub_replicate::{BodyFrame, FrameError, read_body, read_message, write_message};
use clawhub_types::{Digest, NodeId, RepoName, UploadId};
use clawhub_wire::{Invalid, blob as pb};
use futures::future::BoxFuture;
use futures::stream;
use pb::blob_request::Op as Request;
use pb::upload_reply::Outcome;
use pb::upload_step::Op;
use quinn::{RecvStream, SendStream};
use tokio::sync::mpsc;

use crate::forward::encode_error;
use crate::session::Chunk;
use crate::{BodyError, BodyStream, Error, Registry, UploadView, What};

/// A request must follow the opening of its stream within this.
const REQUEST: Duration = Duration::from_secs(10);
/// The client behind the ingress may pause for so long; the ingress has the same limit.
const BODY_IDLE: Duration = Duration::from_secs(6 * 60);
/// Body pieces read ahead of the store.
const READ_AHEAD: usize = 4;

impl StreamHandler for Registry {
    fn handle(&self, from: NodeId, send: SendStream, recv: RecvStream) -> BoxFuture<'static, ()> {
        let this = self.clone();
        Box::pin(async move {
            if let Err(error) = this.serve(send, recv).await {
                tracing::debug!(%from, %error, "a peer's stream ended early");
            }
        })
    }
}

impl Registry {
    async fn serve(&self, send: SendStream, mut recv: RecvStream) -> Result<(), FrameError> {
        let request: pb::BlobRequest = read_message(&mut recv, REQUEST).await?;
        let replicate = &self.inner.replicate;
        match request.op {
            Some(Request::Ping(_)) => replicate.liveness().answer(send).await,
            Some(Request::Get(get)) => replicate.serve_get(get, send).await,
            Some(Request::Mirror(mirror)) => replicate.serve_mirror(mirror, send, recv).await,
            Some(Request::Replica(replica)) => replicate.serve_replica(replica, send).await,
            Some(Request::Upload(step)) => self.serve_upload(step, send, recv).await,
            // A request of a later release: the peer sees the stream end without an answer.
            None => Ok(()),
        }
    }

    async fn serve_upload(
        &self,
        step: pb::UploadStep,
        mut send: SendStream,
        recv: RecvStream,
    ) -> Result<(), FrameError> {
        let outcome = match self.upload_step(step, recv).await {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Error(encode_error(&error)),
        };
        write_message(&mut send, &pb::UploadReply { outcome: Some(outcome) }).await?;
        send.finish().map_err(|error| FrameError::Stream(error.to_string()))
    }

    async fn upload_step(&self, step: pb::UploadStep, recv: RecvStream) -> Result<Outcome, Error> {
        let malformed = |what: &str| Error::internal(format!("a peer sent a malformed {what}"));
        let repo: RepoName = step.repo.parse().map_err(|_| malformed("repository"))?;
        let permit = permit(step.access.unwrap_or_default(), &repo)?;
        let op = step.op.ok_or_else(|| malformed("upload step"))?;
        if let Op::Begin(begin) = op {
            return self.own_begin(&repo, begin.sha512).await.map(position);
        }
        let id: UploadId = step.upload.parse().map_err(|_| malformed("upload id"))?;
        if id.node != self.me() {
            return Err(Error::not_found(What::Upload, "this node does not own the upload"));
        }
        let chunk =
            || Chunk { range: step.range_start.zip(step.range_end), length: step.length, body: body(recv) };
        match op {
            Op::Append(_) => self.own_append(&repo, id, chunk()).await.map(position),
            Op::Status(_) => self.own_status(&repo, id).await.map(position),
            Op::Cancel(_) => self.own_cancel(&repo, id).await.map(|()| Outcome::Done(pb::UploadDone {})),
            Op::Finish(finish) => {
                let digest: Digest = finish.digest.parse().map_err(|_| malformed("digest"))?;
                let finished = self.own_finish(&permit, &repo, id, &digest, chunk()).await;
                finished.map(|()| Outcome::Done(pb::UploadDone {}))
            }
            Op::Begin(_) => Err(malformed("upload step")),
        }
    }
}

fn position(view: UploadView) -> Outcome {
    Outcome::Position(pb::UploadPosition { upload: view.id.to_string(), offset: view.offset })
}

fn permit(access: pb::Access, repo: &RepoName) -> Result<Permit, Error> {
    let (actor, access) =
        access.try_into().map_err(|invalid: Invalid| Error::internal(invalid.to_string()))?;
    Ok(Permit::vouched(actor, repo.clone(), access))
}

/// The client's body as the ingress sends it on. It is read by a task of its own, so that a stream that
/// is dropped in the middle of a frame is never read again at the wrong place.
fn body(mut recv: RecvStream) -> BodyStream {
    let (tx, rx) = mpsc::channel(READ_AHEAD);
    tokio::spawn(async move {
        loop {
            let next = tokio::select! {
                next = read_body(&mut recv, BODY_IDLE) => next,
                // The step is over; what the client still sends is not wanted.
                () = tx.closed() => break,
            };
            let (item, last) = match next {
                Ok(BodyFrame::Data(bytes)) => (Ok(bytes), false),
                Ok(BodyFrame::End) => break,
                Ok(BodyFrame::Aborted) => (Err(BodyError::Broken("the client left".to_owned())), true),
                Err(error) => (Err(BodyError::Broken(error.to_string())), true),
            };
            if tx.send(item).await.is_err() || last {
                break;
            }
        }
    });
    Box::pin(stream::unfold(rx, |mut rx| async move { rx.recv().await.map(|item| (item, rx)) }))
}
