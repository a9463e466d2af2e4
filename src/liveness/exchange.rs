//! The question and its answer on a stream between two members: the only file here that knows protobuf.
//!
//! They share the blob streams' protocol (`proto/clawhub/blob/v1/blob.proto`), because a stream of another kind
//! would need a connection of its own.

use std::time::{Duration, Instant};

use clawhub_durable::now_millis;
use clawhub_peer::frame::{FrameError, read_message, write_message};
use clawhub_peer::{Class, Endpoint, PeerError, SendStream};
use clawhub_types::{NodeId, StatePoint};
use clawhub_wire::blob as pb;

use crate::clock::ClockReading;
use crate::report::{OwnReport, Report};

/// How many points of a member's state count, in one answer.
const MAX_POINTS: usize = 64;

/// A member did not answer. Which of the two it was does not matter to the caller: it is not heard.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Asks a member whether it is there.
pub(crate) async fn ask(endpoint: &Endpoint, node: NodeId, patience: Duration) -> Result<Report, AskError> {
    let asked = Instant::now();
    let (mut send, mut recv) = endpoint.open(node, Class::Control).await?;
    let request = pb::BlobRequest { op: Some(pb::blob_request::Op::Ping(pb::Ping {})) };
    write_message(&mut send, &request).await?;
    let pong: pb::Pong = read_message(&mut recv, patience).await?;
    Ok(Report {
        accepts: pong.accepts,
        eligible: pong.eligible,
        clock_skew_ms: (pong.clock_skew_ms != 0).then_some(pong.clock_skew_ms),
        reaches: pong.reaches.into_iter().map(NodeId).collect(),
        points: pong.points.into_iter().take(MAX_POINTS).filter_map(point).collect(),
        clock: ClockReading::between(asked, pong.wall_ms),
    })
}

/// A point that is none is left out: whoever sends it has nothing to compare.
fn point(point: pb::StatePoint) -> Option<StatePoint> {
    let hash = point.hash.as_ref().try_into().ok()?;
    Some(StatePoint { index: point.index, hash })
}

/// Answers a member that asked.
pub(crate) async fn answer(own: OwnReport, mut send: SendStream) -> Result<(), FrameError> {
    let pong = pb::Pong {
        accepts: own.accepts,
        wall_ms: now_millis(),
        reaches: own.reaches.iter().map(|node| node.0).collect(),
        eligible: own.eligible,
        clock_skew_ms: own.clock_skew_ms.unwrap_or_default(),
        points: own
            .points
            .iter()
            .map(|p| pb::StatePoint { index: p.index, hash: p.hash.to_vec().into() })
            .collect(),
    };
    write_message(&mut send, &pong).await?;
    send.finish().map_err(|error| FrameError::Stream(error.to_string()))
}
