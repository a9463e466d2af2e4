//! Passing a blob through: from its holders to a reader, without keeping it.
//!
//! For a node that may not or cannot store it. Every group is checked before it goes on, like what is read
//! from disk; a holder that fails is followed by the next one, from the byte where it stopped.
//!
//! A holder is asked only for what the reader has room for, and that is read at once. Bytes that wait for a
//! slow reader wait here, in a few pieces of memory: left in the stream they would fill the connection's
//! window, which everything else between the two nodes needs too. How many pieces there are is limited, and not how many
//! readers: a slow one holds few, and holds up nobody. Nothing here is durable.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clawhub_blobs::{GROUP, Groups, list_len};
use clawhub_peer::Class;
use clawhub_peer::frame::{STALL, read_exact};
use clawhub_types::NodeId;
use clawhub_wire::blob as pb;
use futures::Stream;
use futures::stream;
use quinn::RecvStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use crate::{FrameError, ReplicaSpec, Replicate, ReplicateError, read_message, write_message};

/// Checked and passed on in pieces of this size: whole groups.
const RELAY_PIECE_BYTES: u64 = 8 * GROUP;
/// Pieces that may be asked for or wait for the reader, if it is fast.
const ROOM: usize = 8;
/// The same at the beginning.
const FIRST: usize = 2;
/// A reader that is not waited for longer than this is fast. The next pieces are asked for while it takes the others.
const FAST: Duration = Duration::from_millis(250);
/// Each holder is asked this often for the same bytes before the reader is told that there is none.
const ROUNDS: usize = 2;
/// Pieces that all readers together may have asked for or not taken yet. A reader is given a part of those that are
/// free, so that a slow one holds one or two of them when they are scarce.
const PIECES: usize = 512;
/// The part that one reader may have of the free ones.
const PART: usize = 16;
/// Bytes of the group lists of blobs that are passed through, a 2048th of each, in units of a KiB.
const LIST_KIB: usize = 128 << 10;
/// What passing through takes in memory.
pub const MEMORY: u64 = PIECES as u64 * RELAY_PIECE_BYTES + ((LIST_KIB as u64) << 10);

type Piece = Result<Bytes, ReplicateError>;

/// What there is for all blobs that are passed through.
pub(crate) struct Places {
    pieces: Arc<Semaphore>,
    lists: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Places {
        Places { pieces: Arc::new(Semaphore::new(PIECES)), lists: Arc::new(Semaphore::new(LIST_KIB)) }
    }
}

impl Places {
    /// Waits for at least one piece, and takes at most `most`.
    async fn pieces(&self, most: usize) -> Option<OwnedSemaphorePermit> {
        let part = most.min(self.pieces.available_permits() / PART).max(1);
        let part = u32::try_from(part).ok()?;
        self.pieces.clone().acquire_many_owned(part).await.ok()
    }

    /// Waits for the memory of a blob's group list.
    async fn list(&self, size: u64) -> Option<OwnedSemaphorePermit> {
        let kib = usize::try_from(list_len(size).div_ceil(1024)).unwrap_or(LIST_KIB).clamp(1, LIST_KIB);
        self.lists.clone().acquire_many_owned(u32::try_from(kib).ok()?).await.ok()
    }
}

/// Room at the reader for as many pieces as a holder is asked for, and the memory that they take.
struct Room<'a> {
    places: mpsc::PermitIterator<'a, Piece>,
    memory: OwnedSemaphorePermit,
}

impl Room<'_> {
    fn pieces(&self) -> usize {
        self.memory.num_permits().min(self.places.len())
    }

    /// Hands over the next piece, whose memory is free once the reader has dropped it.
    fn send(&mut self, piece: Bytes) {
        if let (Some(place), Some(memory)) = (self.places.next(), self.memory.split(1)) {
            place.send(Ok(Bytes::from_owner(Held { piece, _memory: memory })));
        }
    }
}

struct Held {
    piece: Bytes,
    _memory: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

/// A blob that is passed through. Its group list takes memory for as long as it, a clone or something that reads it is
/// there.
#[derive(Clone)]
pub struct Relay(Arc<Open>);

struct Open {
    replicate: Replicate,
    wanted: ReplicaSpec,
    groups: Option<Groups>,
    _list: OwnedSemaphorePermit,
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
        // The pieces that wait keep the list, too.
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
    /// Pieces that may be on their way to the reader or wait for it: more while it is fast, fewer while it is slow.
    window: usize,
    /// Whether any were asked for.
    begun: bool,
}

impl Passing {
    fn new(wanted: ReplicaSpec, groups: Option<Groups>, range: Range<u64>) -> Passing {
        // Beyond its end no holder could ever supply anything.
        let left = range.start..range.end.min(wanted.size);
        Passing { wanted, groups, left, window: FIRST, begun: false }
    }

    /// What is left, in whole groups.
    fn missing(&self) -> Range<u64> {
        let end = self.left.end.next_multiple_of(GROUP).min(self.wanted.size);
        self.left.start / GROUP * GROUP..end
    }

    /// Waits until the reader can take the next pieces and there is memory for them, however long that is; `None` if
    /// it left.
    async fn room<'a>(&mut self, places: &Places, reader: &'a mpsc::Sender<Piece>) -> Option<Room<'a>> {
        let waiting = self.window / 2;
        let since = Instant::now();
        let room = reader.reserve_many(ROOM - waiting).await.ok()?;
        if std::mem::replace(&mut self.begun, true) {
            let fast = since.elapsed() < FAST;
            self.window = if fast { (2 * self.window).min(ROOM) } else { (self.window / 2).max(1) };
        }
        let missing = self.missing();
        let pieces = missing.end.saturating_sub(missing.start).div_ceil(RELAY_PIECE_BYTES);
        let most =
            self.window.saturating_sub(waiting).max(1).min(usize::try_from(pieces).unwrap_or(ROOM).max(1));
        let memory = tokio::select! {
            memory = places.pieces(most) => memory?,
            () = reader.closed() => return None,
        };
        Some(Room { places: room, memory })
    }
}

impl Replicate {
    /// Opens a blob that is to be passed through: waits for memory, however long that is, and for the first verified
    /// bytes, so that a caller can still answer that there are none.
    ///
    /// # Errors
    /// [`ReplicateError::Exhausted`] if no holder could supply them.
    pub async fn relay(&self, wanted: ReplicaSpec) -> Result<Relay, ReplicateError> {
        let list = self.inner.relays.list(wanted.size).await;
        let list = list.ok_or_else(|| ReplicateError::Exhausted("the node is stopping".to_owned()))?;
        let mut first = Passing::new(wanted, None, 0..1);
        let (reader, _pieces) = mpsc::channel(ROOM);
        self.pass_on(&mut first, &reader).await?;
        let Passing { wanted, groups, .. } = first;
        Ok(Relay(Arc::new(Open { replicate: self.clone(), wanted, groups, _list: list })))
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
            let room = passing.room(&self.inner.relays, reader).await;
            let Some(room) = room else { return Ok(()) };
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
        let end = end.min(start.saturating_add(room.pieces() as u64 * RELAY_PIECE_BYTES));
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
    mut room: Room<'_>,
) -> Result<(), ReplicateError> {
    let mut at = coming.start;
    while at < coming.end {
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
        room.send(piece.slice(wanted));
        passing.left.start = next.min(passing.left.end);
        at = next;
    }
    Ok(())
}

fn corrupt(holder: NodeId) -> ReplicateError {
    ReplicateError::unreachable(holder, "it sends corrupt bytes")
}
