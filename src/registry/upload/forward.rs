//! A step of an upload whose session another node owns: sent there whole, body and all. The client never
//! learns of it.
//!
//! Owns nothing. Only one hop is taken: an owner does not send a step on.

use clawhub_auth::{Permit, Push};
use clawhub_replicate::{StepAnswer, StepError, StepOp, UploadStep, Vouched};
use clawhub_state::View;
use clawhub_types::NodeId;

use super::UploadOp;
use crate::core::Core;
use crate::error::RETRY;
use crate::{BodyStream, Chunk, Error, UploadView};

/// Has `owner` do a step. Where the session stands then, unless the step ended it.
///
/// # Errors
/// Those of the step, as the owner would answer them; unavailable if the owner cannot be reached.
pub(super) async fn forward(
    core: &Core,
    owner: NodeId,
    permit: &Permit<Push>,
    op: UploadOp,
) -> Result<Option<UploadView>, Error> {
    check_member(core, owner)?;
    let (op, body) = split(op);
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

/// The step as it is sent, and the body that follows it.
fn split(op: UploadOp) -> (StepOp, Option<BodyStream>) {
    match op {
        UploadOp::Begin { sha512 } => (StepOp::Begin { sha512 }, None),
        UploadOp::Append(upload, Chunk { range, length, body }) => {
            (StepOp::Append { upload, range, length }, Some(body))
        }
        UploadOp::Finish(upload, digest, Chunk { range, length, body }) => {
            (StepOp::Finish { upload, digest, range, length }, Some(body))
        }
        UploadOp::Status(upload) => (StepOp::Status { upload }, None),
        UploadOp::Cancel(upload) => (StepOp::Cancel { upload }, None),
    }
}

/// An id that names no member names no session either.
fn check_member(core: &Core, owner: NodeId) -> Result<(), Error> {
    let state = core.state();
    let member = View::new(&*state).cluster().node(owner)?.is_some_and(|node| !node.removed);
    member.then_some(()).ok_or_else(Error::upload_unknown)
}
