//! Passing a blob through: from its holders to a reader, without keeping it.
//!
//! For a node that may not or cannot store it. Every group is checked before it goes on, like what is read
//! from disk; a holder that fails is followed by the next one, from the byte where it stopped.
//!
//! A holder is asked only for what the reader has room for, and that is read at once. Bytes that wait for a
//! slow reader wait here, in a few pieces of memory: left in the stream they would fill the connection's
//! window, which everything else between the two nodes needs too. How many blobs are passed through at once is
//! limited, so that those pieces are. Nothing here is durable.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use clawhub_blobs::{GROUP, Groups, list_len};
use clawhub_peer::Class;
use clawhub_peer::frame::{STALL, read_exact};
use clawhub_types::NodeId;
use clawhub_wire::blob as pb;
use futures::Stream;
use futures::stream;
use quinn::RecvStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::{FrameError, ReplicaSpec, Replicate, ReplicateError, read_message, write_message};

/// Checked and passed on in pieces of this size: whole groups.
const RELAY_PIECE_BYTES: u64 = 8 * GROUP;
/// Pieces that may be asked for or wait for the reader.
const ROOM: usize = 8;
/// The next pieces are asked for once there is room for so many, so that they come while the reader takes
/// the others.
const AT_ONCE: usize = ROOM / 2;
/// Each holder is asked this often for the same bytes before the reader is told that there is none.
const ROUNDS: usize = 2;
/// Blobs passed through at the same time, each to a reader of its own; further ones wait.
pub(crate) const RELAYS: usize = 64;
/// Bytes of the pieces that all of them hold. Beside these each has its blob's group list, a 2048th of it.
pub const MEMORY: u64 = (RELAYS * ROOM) as u64 * RELAY_PIECE_BYTES;

type Piece = Result<Bytes, ReplicateError>;
/// Room at the reader for as many pieces as a holder is asked for.
type Room<'a> = mpsc::PermitIterator<'a, Piece>;

/// A blob that is passed through. Takes one of the node's places for as long as it, a clone or something that
/// reads it is there, so that one reader at a time should use it.
#[derive(Clone)]
pub struct Relay(Arc<Open>);

struct Open {
    replicate: Replicate,
    wanted: ReplicaSpec,
    groups: Option<Groups>,
    _place: OwnedSemaphorePermit,
}

impl Relay {
    /// The bytes of `range`, which must lie within the blob, from whichever holder has them. Ends after an
    /// error: [`ReplicateError::Exhausted`] if no holder could supply the rest.
    pub fn read(&self, range: Range<u64>) -> impl Stream<Item = Piece> + Send + use<> + 'static {
        let (reader, pieces) = mpsc::channel(ROOM);
        let open = self.0.clone();
        tokio::spawn(async move {
            let Open { replicate, wanted, groups, .. } = &*open;
            let mut passing = Passing::new(wanted.clone(), groups.clone(), range);
            if let Err(error) = replicate.pass_on(&mut passing, &reader).await {
                // A reader that left does not need to know.
                let _ = reader.send(Err(error)).await;
            }
        });
        // The pieces that wait keep the place, too.
        let relay = self.clone();
        stream::unfold((pieces, relay), |(mut pieces, relay)| async move {
            Some((pieces.recv().await?, (pieces, relay)))
        })
    }
}

/// How far a reader has come.
struct Passing {
    wanted: ReplicaSpec,
    groups: Option<Groups>,
    left: Range<u64>,
}

impl Passing {
    fn new(wanted: ReplicaSpec, groups: Option<Groups>, range: Range<u64>) -> Passing {
        // Beyond its end no holder could ever supply anything.
        let left = range.start..range.end.min(wanted.size);
        Passing { wanted, groups, left }
    }

    /// What is left, in whole groups.
    fn missing(&self) -> Range<u64> {
        let end = self.left.end.next_multiple_of(GROUP).min(self.wanted.size);
        self.left.start / GROUP * GROUP..end
    }

    /// Waits until the reader can take the next pieces, however long that is; `None` if it left.
    async fn room<'a>(&self, reader: &'a mpsc::Sender<Piece>) -> Option<Room<'a>> {
        let missing = self.missing();
        let pieces = missing.end.saturating_sub(missing.start).div_ceil(RELAY_PIECE_BYTES);
        let most = reader.capacity().max(AT_ONCE);
        reader.reserve_many(usize::try_from(pieces).map_or(most, |pieces| pieces.min(most))).await.ok()
    }
}

impl Replicate {
    /// Opens a blob that is to be passed through: waits for a place, however long that is, and for the first
    /// verified bytes, so that a caller can still answer that there are none.
    ///
    /// # Errors
    /// [`ReplicateError::Exhausted`] if no holder could supply them.
    pub async fn relay(&self, wanted: ReplicaSpec) -> Result<Relay, ReplicateError> {
        let place = self.inner.relays.clone().acquire_owned().await;
        let place = place.map_err(|_| ReplicateError::Exhausted("the node is stopping".to_owned()))?;
        let mut first = Passing::new(wanted, None, 0..1);
        let (reader, _pieces) = mpsc::channel(ROOM);
        self.pass_on(&mut first, &reader).await?;
        let Passing { wanted, groups, .. } = first;
        Ok(Relay(Arc::new(Open { replicate: self.clone(), wanted, groups, _place: place })))
    }

    /// Passes on all that is left, or as much as the reader stays for.
    async fn pass_on(
        &self,
        passing: &mut Passing,
        reader: &mpsc::Sender<Piece>,
    ) -> Result<(), ReplicateError> {
        let holders = self.nearest_first(&passing.wanted.holders);
        let mut turns = holders.iter().cycle();
        let mut turn = turns.next();
        let mut tries = holders.len() * ROUNDS;
        let mut last = "the state names no other holder".to_owned();
        while !passing.left.is_empty() {
            let Some(holder) = turn.filter(|_| tries > 0) else {
                return Err(ReplicateError::Exhausted(last));
            };
            // Nothing is asked for yet, so no holder's patience and no connection's window is used up.
            let Some(room) = passing.room(reader).await else { return Ok(()) };
            let before = passing.left.start;
            let passed = self.while_alive(*holder, self.pass_from(*holder, passing, room)).await;
            if passing.left.start > before {
                tries = holders.len() * ROUNDS;
            }
            if let Err(error) = passed {
                tracing::info!(root = %passing.wanted.root, %error, "trying the next holder");
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
        passing: &mut Passing,
        room: Room<'_>,
    ) -> Result<(), ReplicateError> {
        let ReplicaSpec { root, size, .. } = passing.wanted;
        let Range { start, end } = passing.missing();
        let end = end.min(start.saturating_add(room.len() as u64 * RELAY_PIECE_BYTES));
        let gone = |error: FrameError| ReplicateError::unreachable(holder, error);
        let open = self.inner.endpoint.open(holder, Class::Foreground).await;
        let (mut send, mut recv) = open.map_err(|error| ReplicateError::peer(holder, error))?;
        let groups = passing.groups.is_none();
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
            passing.groups = Groups::new(root, size, list);
        }
        let Some(groups) = passing.groups.clone() else { return Err(corrupt(holder)) };
        pass_pieces(holder, passing, &groups, &mut recv, start..end, room).await
    }
}

/// Reads what was asked for without a pause, and hands over what is good.
async fn pass_pieces(
    holder: NodeId,
    passing: &mut Passing,
    groups: &Groups,
    recv: &mut RecvStream,
    coming: Range<u64>,
    room: Room<'_>,
) -> Result<(), ReplicateError> {
    let mut at = coming.start;
    for place in room {
        // Never more than RELAY_PIECE_BYTES, which fits.
        let length = (coming.end - at).min(RELAY_PIECE_BYTES) as usize;
        let piece = read_exact(recv, length).await;
        let piece = piece.map_err(|error| ReplicateError::unreachable(holder, error))?;
        if !groups.matches(at, &piece) {
            return Err(corrupt(holder));
        }
        let next = at + length as u64;
        // Whole groups arrive; the range may begin and end within one.
        let wanted = passing.left.start.saturating_sub(at) as usize
            ..length - next.saturating_sub(passing.left.end) as usize;
        place.send(Ok(piece.slice(wanted)));
        passing.left.start = next.min(passing.left.end);
        at = next;
    }
    Ok(())
}

fn corrupt(holder: NodeId) -> ReplicateError {
    ReplicateError::unreachable(holder, "it sends corrupt bytes")
}
