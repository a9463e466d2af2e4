//! Passing a blob through: from its holders to a reader, without keeping it.
//!
//! For a node that may not or cannot store it. Every group is checked before it goes on, like what is read
//! from disk; a holder that fails is followed by the next one, from the byte where it stopped. Memory is
//! bounded by a few pieces: a slow reader slows the stream, and with it the holder.

use std::ops::Range;

use bytes::Bytes;
use clawhub_blobs::{GROUP, Groups, list_len};
use clawhub_peer::Class;
use clawhub_types::NodeId;
use clawhub_wire::blob as pb;
use futures::Stream;
use futures::stream;
use quinn::RecvStream;
use tokio::sync::mpsc;

use crate::frame::{STALL, read_exact};
use crate::{FrameError, Replicate, ReplicateError, Wanted, read_message, write_message};

/// Checked and passed on in pieces of this size: whole groups.
const PIECE: u64 = 8 * GROUP;
/// Pieces that may wait for the reader.
const WAITING: usize = 2;
/// Each holder is asked this often before the reader is told that there is none.
const ROUNDS: usize = 2;

/// How far a relay has come.
struct Relay {
    wanted: Wanted,
    groups: Option<Groups>,
    left: Range<u64>,
    reader: mpsc::Sender<Result<Bytes, ReplicateError>>,
}

impl Replicate {
    /// The bytes of `range`, which must lie within the blob, from whichever holder has them. Ends after an
    /// error: [`ReplicateError::Exhausted`] if no holder could supply the rest.
    pub fn relay(
        &self,
        wanted: Wanted,
        range: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, ReplicateError>> + Send + use<> + 'static {
        let (reader, pieces) = mpsc::channel(WAITING);
        let this = self.clone();
        tokio::spawn(async move {
            let mut relay = Relay { wanted, groups: None, left: range, reader };
            if let Err(error) = this.pass_on(&mut relay).await {
                // A reader that left does not need to know.
                let _ = relay.reader.send(Err(error)).await;
            }
        });
        stream::unfold(pieces, |mut pieces| async move { Some((pieces.recv().await?, pieces)) })
    }

    async fn pass_on(&self, relay: &mut Relay) -> Result<(), ReplicateError> {
        let holders = self.nearest_first(&relay.wanted.holders);
        let mut last = "the state names no other holder".to_owned();
        for holder in holders.iter().cycle().take(holders.len() * ROUNDS) {
            match self.while_alive(*holder, self.pass_from(*holder, relay)).await {
                Ok(()) => return Ok(()),
                Err(_) if relay.reader.is_closed() => return Ok(()),
                Err(error) => {
                    tracing::info!(root = %relay.wanted.root, %error, "trying the next holder");
                    last = error.to_string();
                }
            }
        }
        if relay.left.is_empty() { Ok(()) } else { Err(ReplicateError::Exhausted(last)) }
    }

    /// Passes on what is left, from one holder.
    async fn pass_from(&self, holder: NodeId, relay: &mut Relay) -> Result<(), ReplicateError> {
        let Wanted { root, size, .. } = relay.wanted;
        let start = relay.left.start / GROUP * GROUP;
        let end = relay.left.end.next_multiple_of(GROUP).min(size);
        let gone = |error: FrameError| ReplicateError::unreachable(holder, error);
        let open = self.inner.endpoint.open(holder, Class::Foreground).await;
        let (mut send, mut recv) = open.map_err(|error| ReplicateError::peer(holder, error))?;
        let groups = relay.groups.is_none();
        let get = pb::Get { root: Bytes::copy_from_slice(&root.0), start, end, groups };
        let request = pb::BlobRequest { op: Some(pb::blob_request::Op::Get(get)) };
        write_message(&mut send, &request).await.map_err(gone)?;
        let reply: pb::GetReply = read_message(&mut recv, STALL).await.map_err(gone)?;
        if !reply.held || reply.size != size || (groups && reply.groups != list_len(size)) {
            return Err(ReplicateError::NotHeld(holder));
        }
        if groups {
            let length = usize::try_from(reply.groups).map_err(|_| ReplicateError::NotHeld(holder))?;
            let list = read_exact(&mut recv, length).await.map_err(gone)?;
            relay.groups = Groups::new(root, size, list);
        }
        let Some(groups) = relay.groups.clone() else { return Err(corrupt(holder)) };
        self.pass_pieces(holder, relay, &groups, &mut recv, start..end).await
    }

    async fn pass_pieces(
        &self,
        holder: NodeId,
        relay: &mut Relay,
        groups: &Groups,
        recv: &mut RecvStream,
        coming: Range<u64>,
    ) -> Result<(), ReplicateError> {
        let mut at = coming.start;
        while at < coming.end {
            // Never more than PIECE, which fits.
            let length = (coming.end - at).min(PIECE) as usize;
            let piece = read_exact(recv, length).await;
            let piece = piece.map_err(|error| ReplicateError::unreachable(holder, error))?;
            if !groups.matches(at, &piece) {
                return Err(corrupt(holder));
            }
            let next = at + length as u64;
            // Whole groups arrive; the range may begin and end within one.
            let wanted = relay.left.start.saturating_sub(at) as usize
                ..length - next.saturating_sub(relay.left.end) as usize;
            let sent = relay.reader.send(Ok(piece.slice(wanted))).await;
            sent.map_err(|_| ReplicateError::unreachable(holder, "the reader left"))?;
            relay.left.start = next.min(relay.left.end);
            at = next;
        }
        Ok(())
    }
}

fn corrupt(holder: NodeId) -> ReplicateError {
    ReplicateError::unreachable(holder, "it sends corrupt bytes")
}
