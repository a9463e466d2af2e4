//! Passing a blob through: from its holders to a reader, without keeping it.
//!
//! For a node that may not or cannot store it. Every group is checked before it goes on, like what is read
//! from disk; a holder that fails is followed by the next one, from the byte where it stopped.
//!
//! A holder is asked only for what the reader has room for, and that is read at once. Bytes that wait for a
//! slow reader wait here, in a few pieces of memory: left in the stream they would fill the connection's
//! window, which everything else between the two nodes needs too. Nothing here is durable.

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
/// Pieces that may be asked for or wait for the reader.
const ROOM: usize = 8;
/// The next pieces are asked for once there is room for so many, so that they come while the reader takes
/// the others.
const AT_ONCE: usize = ROOM / 2;
/// Each holder is asked this often for the same bytes before the reader is told that there is none.
const ROUNDS: usize = 2;

type Piece = Result<Bytes, ReplicateError>;
/// Room at the reader for as many pieces as a holder is asked for.
type Room<'a> = mpsc::PermitIterator<'a, Piece>;

/// How far a relay has come.
struct Relay {
    wanted: Wanted,
    groups: Option<Groups>,
    left: Range<u64>,
}

impl Relay {
    /// What is left, in whole groups.
    fn missing(&self) -> Range<u64> {
        let end = self.left.end.next_multiple_of(GROUP).min(self.wanted.size);
        self.left.start / GROUP * GROUP..end
    }

    /// Waits until the reader can take the next pieces, however long that is; `None` if it left.
    async fn room<'a>(&self, reader: &'a mpsc::Sender<Piece>) -> Option<Room<'a>> {
        let missing = self.missing();
        let pieces = missing.end.saturating_sub(missing.start).div_ceil(PIECE);
        let most = reader.capacity().max(AT_ONCE);
        reader.reserve_many(usize::try_from(pieces).map_or(most, |pieces| pieces.min(most))).await.ok()
    }
}

impl Replicate {
    /// The bytes of `range`, which must lie within the blob, from whichever holder has them. Ends after an
    /// error: [`ReplicateError::Exhausted`] if no holder could supply the rest.
    pub fn relay(
        &self,
        wanted: Wanted,
        range: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, ReplicateError>> + Send + use<> + 'static {
        let (reader, pieces) = mpsc::channel(ROOM);
        let this = self.clone();
        tokio::spawn(async move {
            // Beyond its end no holder could ever supply anything.
            let left = range.start..range.end.min(wanted.size);
            let mut relay = Relay { wanted, groups: None, left };
            if let Err(error) = this.pass_on(&mut relay, &reader).await {
                // A reader that left does not need to know.
                let _ = reader.send(Err(error)).await;
            }
        });
        stream::unfold(pieces, |mut pieces| async move { Some((pieces.recv().await?, pieces)) })
    }

    /// Passes on all that is left, or as much as the reader stays for.
    async fn pass_on(&self, relay: &mut Relay, reader: &mpsc::Sender<Piece>) -> Result<(), ReplicateError> {
        let holders = self.nearest_first(&relay.wanted.holders);
        let mut turns = holders.iter().cycle();
        let mut turn = turns.next();
        let mut tries = holders.len() * ROUNDS;
        let mut last = "the state names no other holder".to_owned();
        while !relay.left.is_empty() {
            let Some(holder) = turn.filter(|_| tries > 0) else {
                return Err(ReplicateError::Exhausted(last));
            };
            // Nothing is asked for yet, so no holder's patience and no connection's window is used up.
            let Some(room) = relay.room(reader).await else { return Ok(()) };
            let before = relay.left.start;
            let passed = self.while_alive(*holder, self.pass_from(*holder, relay, room)).await;
            if relay.left.start > before {
                tries = holders.len() * ROUNDS;
            }
            if let Err(error) = passed {
                tracing::info!(root = %relay.wanted.root, %error, "trying the next holder");
                last = error.to_string();
                turn = turns.next();
                tries -= 1;
            }
        }
        Ok(())
    }

    /// Passes on as much of what is left as there is room for, from one holder.
    async fn pass_from(
        &self,
        holder: NodeId,
        relay: &mut Relay,
        room: Room<'_>,
    ) -> Result<(), ReplicateError> {
        let Wanted { root, size, .. } = relay.wanted;
        let Range { start, end } = relay.missing();
        let end = end.min(start.saturating_add(room.len() as u64 * PIECE));
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
        pass_pieces(holder, relay, &groups, &mut recv, start..end, room).await
    }
}

/// Reads what was asked for without a pause, and hands over what is good.
async fn pass_pieces(
    holder: NodeId,
    relay: &mut Relay,
    groups: &Groups,
    recv: &mut RecvStream,
    coming: Range<u64>,
    room: Room<'_>,
) -> Result<(), ReplicateError> {
    let mut at = coming.start;
    for place in room {
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
        place.send(Ok(piece.slice(wanted)));
        relay.left.start = next.min(relay.left.end);
        at = next;
    }
    Ok(())
}

fn corrupt(holder: NodeId) -> ReplicateError {
    ReplicateError::unreachable(holder, "it sends corrupt bytes")
}
