//! A step of an upload whose session another node owns: sent there whole, body and all. The client never
//! learns of it.
//!
//! Owns nothing. Only one hop is taken: an owner does not send a step on.

use clawhub_auth::{Permit, Push};
use clawhub_replicate::{StepAnswer, StepError, StepOp, UploadStep, Vouched};
use clawhub_state::View;
use clawhub_types::{Digest, NodeId, UploadId};

use crate::core::Core;
use crate::error::RETRY;
use crate::{BodyStream, Chunk, Error, UploadView};

/// What the owner is asked to do.
pub(crate) enum Op {
    Begin { sha512: bool },
    Append(UploadId, Chunk),
    Finish(UploadId, Digest, Chunk),
    Status(UploadId),
    Cancel(UploadId),
}

impl Op {
    /// The step as it is sent, and the body that follows it.
    fn split(self) -> (StepOp, Option<BodyStream>) {
        match self {
            Op::Begin { sha512 } => (StepOp::Begin { sha512 }, None),
            Op::Append(upload, Chunk { range, length, body }) => {
                (StepOp::Append { upload, range, length }, Some(body))
            }
            Op::Finish(upload, digest, Chunk { range, length, body }) => {
                (StepOp::Finish { upload, digest, range, length }, Some(body))
            }
            Op::Status(upload) => (StepOp::Status { upload }, None),
            Op::Cancel(upload) => (StepOp::Cancel { upload }, None),
        }
    }
}

/// Has `owner` do a step. Where the session stands then, unless the step ended it.
///
/// # Errors
/// Those of the step, as the owner would answer them; unavailable if the owner cannot be reached.
pub(crate) async fn forward(
    core: &Core,
    owner: NodeId,
    permit: &Permit<Push>,
    op: Op,
) -> Result<Option<UploadView>, Error> {
    check_member(core, owner)?;
    let (op, body) = op.split();
    let by = Vouched { actor: permit.actor().clone(), access: permit.access() };
    let step = UploadStep { repo: permit.on().clone(), by, op };
    match core.replicate.upload_step(owner, &step, body).await {
        Ok(StepAnswer::Position { upload, offset }) => Ok(Some(UploadView { id: upload, offset })),
        Ok(StepAnswer::Done) => Ok(None),
        Err(StepError::Body(error)) => Err(error.into()),
        Err(StepError::Refused(refused, message)) => Err(Error::new(refused.into(), message)),
        Err(StepError::Peer(error)) => {
            tracing::warn!(%owner, %error, "an upload's owner cannot be reached");
            Err(Error::unavailable(RETRY, "the node that holds this upload cannot be reached"))
        }
    }
}

/// An id that names no member names no session either.
fn check_member(core: &Core, owner: NodeId) -> Result<(), Error> {
    let state = core.state();
    let member = View::new(&*state).cluster().node(owner)?.is_some_and(|node| !node.removed);
    member.then_some(()).ok_or_else(Error::upload_unknown)
}
