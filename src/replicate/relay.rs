//! Passing a blob through: from its holders to a reader, without keeping it.
//!
//! For a node that may not or cannot store it. Every group is checked before it goes on, like what is read
//! from disk; a holder that fails is followed by the next one, from the byte where it stopped.
//!
//! A holder is asked only for what the reader has room for, and that is read at once: left in the stream it would fill
//! the connection's window, which everything else between the two nodes needs too. For a fast reader the next pieces
//! are asked for ahead, and wait for it (`handover`); a slow one is fetched each piece when it asks for it, and holds no memory here
//! in between. So how many pieces there are is limited, and not how many readers. Nothing here is durable.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use clawhub_blobs::{GROUP, Groups, list_len};
use clawhub_peer::Class;
use clawhub_peer::frame::{STALL, read_exact};
use clawhub_types::{NodeId, Root};
use clawhub_wire::blob as pb;
use futures::Stream;
use parking_lot::Mutex;
use quinn::RecvStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::handover::{Fetcher, PATIENCE, Room, handover};
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
/// free.
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
    /// The lists that are in use: all readers of a blob share one.
    used: Mutex<HashMap<Root, Weak<List>>>,
}

impl Default for Places {
    fn default() -> Places {
        let pieces = Arc::new(Semaphore::new(PIECES));
        let lists = Arc::new(Semaphore::new(LIST_KIB));
        Places { pieces, lists, used: Mutex::default() }
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

    /// The list of a blob that is passed through already.
    fn used(&self, root: &Root) -> Option<Arc<List>> {
        self.used.lock().get(root).and_then(Weak::upgrade)
    }

    fn share(&self, root: Root, list: &Arc<List>) {
        let mut used = self.used.lock();
        used.retain(|_, list| list.strong_count() > 0);
        used.insert(root, Arc::downgrade(list));
    }
}

/// A blob's group list, and the memory that it takes.
struct List {
    groups: Groups,
    _memory: OwnedSemaphorePermit,
}

/// A blob that is passed through. Its group list takes memory for as long as it, a clone or something that reads it is
/// there.
#[derive(Clone)]
pub struct Relay(Arc<Open>);

struct Open {
    replicate: Replicate,
    wanted: ReplicaSpec,
    list: Arc<List>,
}

impl Relay {
    /// The bytes of `range`, which must lie within the blob, from whichever holder has them. Ends after an
    /// error: [`ReplicateError::Exhausted`] if no holder could supply the rest.
    pub fn read(&self, range: Range<u64>) -> impl Stream<Item = Piece> + Send + use<> + 'static {
        let (fetcher, reader) = handover();
        let open = self.0.clone();
        tokio::spawn(async move {
            let Open { replicate, wanted, list } = &*open;
            let mut passing = Passing::new(wanted.clone(), Some(list.groups.clone()), range);
            if let Err(error) = replicate.pass_on(&mut passing, &fetcher).await {
                fetcher.fail(error);
                // What the reader leaves lying goes all the same.
                fetcher.room(0).await;
            }
        });
        reader
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
    /// it left. What it has left lying is missing once more then.
    async fn room(&mut self, places: &Places, reader: &Fetcher) -> Option<OwnedSemaphorePermit> {
        let waiting = self.window / 2;
        let since = Instant::now();
        match reader.room(waiting).await {
            Room::Free => {}
            Room::TakenBack(at) => self.take_back(at),
            Room::Left => return None,
        }
        if self.window == 0 && !reader.asked().await {
            return None;
        }
        if std::mem::replace(&mut self.begun, true) {
            self.window = match since.elapsed() {
                fast if fast < FAST => (2 * self.window).clamp(1, ROOM),
                slow if slow < PATIENCE => (self.window / 2).max(1),
                _ => 0,
            };
        }
        let missing = self.missing();
        let pieces = missing.end.saturating_sub(missing.start).div_ceil(RELAY_PIECE_BYTES);
        let most =
            self.window.saturating_sub(waiting).max(1).min(usize::try_from(pieces).unwrap_or(ROOM).max(1));
        tokio::select! {
            memory = places.pieces(most) => memory,
            () = reader.left() => None,
        }
    }
}

impl Passing {
    /// Waits until the reader has taken everything. Whether it leaves some of it lying instead, which is missing once
    /// more then.
    async fn is_left_lying(&mut self, reader: &Fetcher) -> bool {
        match reader.room(0).await {
            Room::Free | Room::Left => false,
            Room::TakenBack(at) => {
                self.take_back(at);
                true
            }
        }
    }

    /// The reader is slow: nothing is asked for ahead any more.
    fn take_back(&mut self, at: u64) {
        self.left.start = at;
        self.window = 0;
    }
}

impl Replicate {
    /// Opens a blob that is to be passed through: waits for memory, however long that is, and for the first verified
    /// bytes, so that a caller can still answer that there are none.
    ///
    /// # Errors
    /// [`ReplicateError::Exhausted`] if no holder could supply them.
    pub async fn relay(&self, wanted: ReplicaSpec) -> Result<Relay, ReplicateError> {
        let places = &self.inner.relays;
        let used = places.used(&wanted.root);
        let memory = match &used {
            Some(_) => None,
            None => places.list(wanted.size).await,
        };
        let mut first = Passing::new(wanted, used.as_ref().map(|list| list.groups.clone()), 0..1);
        let (fetcher, _reader) = handover();
        self.fetch_left(&mut first, &fetcher).await?;
        let Passing { wanted, groups, .. } = first;
        let list = match (used, groups, memory) {
            (Some(list), ..) => list,
            (None, Some(groups), Some(memory)) => {
                let list = Arc::new(List { groups, _memory: memory });
                places.share(wanted.root, &list);
                list
            }
            _ => return Err(ReplicateError::Exhausted("the node is stopping".to_owned())),
        };
        Ok(Relay(Arc::new(Open { replicate: self.clone(), wanted, list })))
    }

    /// Passes on all that is left, or as much as the reader stays for.
    async fn pass_on(&self, passing: &mut Passing, reader: &Fetcher) -> Result<(), ReplicateError> {
        loop {
            self.fetch_left(passing, reader).await?;
            if !passing.is_left_lying(reader).await {
                return Ok(());
            }
        }
    }

    /// Hands over all that is left, which the reader may not have taken then.
    async fn fetch_left(&self, passing: &mut Passing, reader: &Fetcher) -> Result<(), ReplicateError> {
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
            let memory = passing.room(&self.inner.relays, reader).await;
            let Some(memory) = memory else { return Ok(()) };
            let before = passing.left.start;
            let passed = self.pass_from(*holder, passing, reader, memory);
            let passed = self.while_alive(*holder, passed).await;
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

    /// Passes on as much of what is left as there is memory for, from one holder.
    async fn pass_from(
        &self,
        holder: NodeId,
        passing: &mut Passing,
        reader: &Fetcher,
        memory: OwnedSemaphorePermit,
    ) -> Result<(), ReplicateError> {
        let ReplicaSpec { root, size, .. } = passing.wanted;
        let Range { start, end } = passing.missing();
        let end = end.min(start.saturating_add(memory.num_permits() as u64 * RELAY_PIECE_BYTES));
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
        let coming = Coming { holder, recv, left: start..end };
        pass_pieces(coming, passing, &groups, reader, memory).await
    }
}

/// What a holder was asked for and sends.
struct Coming {
    holder: NodeId,
    recv: RecvStream,
    left: Range<u64>,
}

/// Reads what was asked for without a pause, and hands over what is good.
async fn pass_pieces(
    mut coming: Coming,
    passing: &mut Passing,
    groups: &Groups,
    reader: &Fetcher,
    mut memory: OwnedSemaphorePermit,
) -> Result<(), ReplicateError> {
    let holder = coming.holder;
    while !coming.left.is_empty() {
        let at = coming.left.start;
        // Never more than RELAY_PIECE_BYTES, which fits.
        let length = (coming.left.end - at).min(RELAY_PIECE_BYTES) as usize;
        let piece = read_exact(&mut coming.recv, length).await;
        let piece = piece.map_err(|error| ReplicateError::unreachable(holder, error))?;
        if !groups.matches(at, &piece) {
            return Err(corrupt(holder));
        }
        let next = at + length as u64;
        // Whole groups arrive; the range may begin and end within one.
        let wanted = passing.left.start.saturating_sub(at) as usize
            ..length - next.saturating_sub(passing.left.end) as usize;
        if let Some(memory) = memory.split(1) {
            reader.put(passing.left.start, piece.slice(wanted), memory);
        }
        passing.left.start = next.min(passing.left.end);
        coming.left.start = next;
    }
    Ok(())
}

fn corrupt(holder: NodeId) -> ReplicateError {
    ReplicateError::unreachable(holder, "it sends corrupt bytes")
}
