//! What members may ask of this node, and strangers who want to become members.
//!
//! A member opens streams ([`Streams`]): for bytes and copies, which are none of the registry's business, and for
//! steps of uploads that this node owns, which are; and it asks whom this node knows ([`add_members`]). A stranger may ask the join service ([`join_routes`]) and
//! nothing else.
//!
//! Owns no state. A stream comes with the member that opened it ([`Caller`]), authenticated when its
//! connection was accepted; only that makes the permit it sends along worth anything.

mod join;
mod members;

use clawhub_auth::{Permit, Push};
use clawhub_peer::{Caller, RecvStream, SendStream, StreamHandler};
use clawhub_registry::{BodyError, Chunk, Error, Registry, UploadOp, UploadView};
use clawhub_replicate::{Asked, FrameError, Replicate, StepAnswer, StepBody, StepOp};
use futures::StreamExt;
use futures::future::BoxFuture;

pub use join::routes as join_routes;
pub use members::add as add_members;

/// Serves members' streams. Cheap to clone.
#[derive(Clone)]
pub struct Streams {
    replicate: Replicate,
    registry: Registry,
}

impl Streams {
    /// Serves what `replicate` and `registry` have.
    pub fn new(replicate: Replicate, registry: Registry) -> Streams {
        Streams { replicate, registry }
    }

    async fn serve(&self, from: &Caller, send: SendStream, recv: RecvStream) -> Result<(), FrameError> {
        let Some(mut asked) = self.replicate.serve(send, recv).await? else { return Ok(()) };
        let done = self.step(from, &mut asked).await;
        asked.answer(done.map_err(|error| (error.refused(), error.message))).await
    }

    /// Does a step of an upload that this node owns.
    async fn step(&self, from: &Caller, asked: &mut Asked) -> Result<StepAnswer, Error> {
        let step = asked.step.clone();
        let permit = Permit::<Push>::vouched(from, step.by.actor, step.repo, step.by.access);
        let op = match step.op {
            StepOp::Begin { sha512 } => UploadOp::Begin { sha512 },
            StepOp::Append { upload, range, length } => {
                UploadOp::Append(upload, Chunk { range, length, body: body(asked.body()) })
            }
            StepOp::Finish { upload, digest, range, length } => {
                UploadOp::Finish(upload, digest, Chunk { range, length, body: body(asked.body()) })
            }
            StepOp::Status { upload } => UploadOp::Status(upload),
            StepOp::Cancel { upload } => UploadOp::Cancel(upload),
        };
        let stands = self.registry.upload_step(&permit, op).await?;
        Ok(stands.map_or(StepAnswer::Done, position))
    }
}

impl StreamHandler for Streams {
    fn handle(&self, from: Caller, send: SendStream, recv: RecvStream) -> BoxFuture<'static, ()> {
        let this = self.clone();
        Box::pin(async move {
            if let Err(error) = this.serve(&from, send, recv).await {
                tracing::debug!(from = %from.node(), %error, "a peer's stream ended early");
            }
        })
    }
}

fn position(view: UploadView) -> StepAnswer {
    StepAnswer::Position { upload: view.id, offset: view.offset }
}

fn body(body: StepBody<String>) -> clawhub_registry::BodyStream {
    body.map(|piece| piece.map_err(BodyError::Broken)).boxed()
}
