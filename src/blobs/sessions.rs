//! Which upload sessions there are, and how many there may be.
//!
//! A session that nothing has been appended to costs its entry here and nothing else: no row, no directory. Of
//! those there is room for [`EMPTY`]; the oldest gives way, so that a flood of them keeps nobody from opening one. With
//! its first bytes a session gets a row, and is there until it ends; of those there are at most [`USED`] of this
//! node's own, and as many copies of other nodes' sessions. Nothing of theirs is ever dropped for want of room: a new
//! one is refused.
//!
//! In memory. A crash loses the empty ones; the others are found by their rows.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use clawhub_types::{NodeId, UploadId};

use crate::BlobError;
use crate::hashes::HASHES_BYTES;
use crate::session::{Session, Work};

/// Sessions without a byte. At 2,000 new ones a second, each has eight seconds for its first byte.
pub(crate) const EMPTY: usize = 16 * 1024;
/// Sessions with bytes: this node's own, and, beside them, copies of other nodes'.
pub(crate) const USED: usize = 8 * 1024;
/// What an entry takes, here and where a session is used: names, offsets, locks.
const ENTRY: usize = 1024;
/// What all entries take in memory, in bytes; those with bytes have hashes.
pub const SESSION_MEMORY: u64 = (EMPTY * ENTRY + 2 * USED * (ENTRY + HASHES_BYTES)) as u64;
/// How long a session waits for its first byte.
const FIRST_BYTE: Duration = Duration::from_secs(10 * 60);

/// The table of a store's sessions.
pub(crate) struct Sessions {
    me: NodeId,
    all: HashMap<UploadId, Arc<Session>>,
    /// Those without a byte, by when they were opened.
    empty: BTreeMap<u64, UploadId>,
    /// How many were ever opened empty.
    opened: u64,
    own: usize,
    copies: usize,
}

impl Sessions {
    /// The table of node `me`, with the sessions that have rows.
    pub(crate) fn new(me: NodeId, recovered: HashMap<UploadId, Arc<Session>>) -> Sessions {
        let own = recovered.keys().filter(|id| id.node == me).count();
        let copies = recovered.len() - own;
        Sessions { me, all: recovered, empty: BTreeMap::new(), opened: 0, own, copies }
    }

    pub(crate) fn get(&self, id: UploadId) -> Option<&Arc<Session>> {
        self.all.get(&id)
    }

    /// Those with bytes.
    pub(crate) fn used(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.all.values().filter(|session| !self.is_empty(session))
    }

    /// Whether a session that is opened now could take bytes.
    ///
    /// # Errors
    /// [`BlobError::TooManyUploads`].
    pub(crate) fn ensure_room(&self, id: UploadId) -> Result<(), BlobError> {
        // A limit for each principal belongs here, once sessions have one.
        let used = if id.node == self.me { self.own } else { self.copies };
        if used < USED { Ok(()) } else { Err(BlobError::TooManyUploads) }
    }

    /// Adds a session without bytes. If there are too many of those, the oldest that nobody uses at this moment ends.
    pub(crate) fn open(&mut self, session: impl FnOnce(u64) -> Session) {
        if self.empty.len() >= EMPTY {
            self.end_empty(1, |_| true);
        }
        let number = self.opened;
        self.opened += 1;
        let session = session(number);
        self.empty.insert(number, session.id);
        self.all.insert(session.id, Arc::new(session));
    }

    /// Counts a session as one with bytes; again is fine.
    ///
    /// # Errors
    /// [`BlobError::TooManyUploads`]; [`BlobError::UploadUnknown`] if it gave way.
    pub(crate) fn occupy(&mut self, session: &Session) -> Result<(), BlobError> {
        let id = session.id;
        if !self.all.contains_key(&id) {
            return Err(BlobError::UploadUnknown(id));
        }
        if self.is_empty(session) {
            self.ensure_room(id)?;
            self.empty.remove(&session.number);
            *self.count(id) += 1;
        }
        Ok(())
    }

    /// Removes a session, if it is there.
    pub(crate) fn remove(&mut self, session: &Session) {
        if self.all.remove(&session.id).is_some() && self.empty.remove(&session.number).is_none() {
            *self.count(session.id) -= 1;
        }
    }

    /// Ends the sessions that have waited too long for their first byte, and answers how many.
    pub(crate) fn expire_empty(&mut self, idle: Duration) -> usize {
        let idle = idle.min(FIRST_BYTE);
        self.end_empty(usize::MAX, |session| session.idle() >= idle)
    }

    /// Ends at most `most` sessions without bytes, the oldest first, but none that is in use.
    fn end_empty(&mut self, most: usize, old: impl Fn(&Session) -> bool) -> usize {
        let idle = |id: &UploadId| {
            let session = self.all.get(id)?;
            let work = session.work.clone().try_lock_owned().ok()?;
            old(session).then(|| (session.clone(), work))
        };
        let ending: Vec<_> = self.empty.values().filter_map(idle).take(most).collect();
        let count = ending.len();
        for (session, mut work) in ending {
            *work = Work::Gone;
            self.remove(&session);
        }
        count
    }

    fn is_empty(&self, session: &Session) -> bool {
        self.empty.get(&session.number) == Some(&session.id)
    }

    fn count(&mut self, id: UploadId) -> &mut usize {
        if id.node == self.me { &mut self.own } else { &mut self.copies }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(node: u64, number: u64) -> UploadId {
        let mut random = [0; 16];
        random[..8].copy_from_slice(&number.to_be_bytes());
        UploadId { node: NodeId(node), random }
    }

    fn table() -> Sessions {
        Sessions::new(NodeId(1), HashMap::new())
    }

    fn open(table: &mut Sessions, id: UploadId) -> Arc<Session> {
        let repo = "a".parse().expect("a name");
        table.open(|number| Session::empty(number, id, repo, false));
        table.get(id).expect("just opened").clone()
    }

    #[test]
    fn the_oldest_empty_session_gives_way_and_no_other() {
        let mut table = table();
        let used = open(&mut table, id(1, 0));
        table.occupy(&used).expect("there is room");
        let in_use = open(&mut table, id(1, 1));
        let busy = in_use.work.clone().try_lock_owned().expect("nobody has it");
        let oldest = open(&mut table, id(1, 2));
        for number in 3..=EMPTY as u64 {
            open(&mut table, id(1, number));
        }
        assert!(table.get(oldest.id).is_some(), "there was room for exactly so many");
        open(&mut table, id(1, u64::MAX));
        assert!(table.get(oldest.id).is_none());
        assert!(matches!(table.occupy(&oldest), Err(BlobError::UploadUnknown(_))));
        assert!(table.get(used.id).is_some() && table.get(in_use.id).is_some());
        drop(busy);
        assert_eq!(table.empty.len(), EMPTY);
    }

    #[test]
    fn sessions_with_bytes_are_counted_and_refused_beyond_their_limit() {
        let mut table = table();
        for number in 0..USED as u64 {
            let session = open(&mut table, id(1, number));
            table.occupy(&session).expect("there is room");
            table.occupy(&session).expect("it is counted once");
        }
        let more = open(&mut table, id(1, u64::MAX));
        assert!(matches!(table.occupy(&more), Err(BlobError::TooManyUploads)));
        assert!(table.ensure_room(more.id).is_err());
        let copy = open(&mut table, id(2, 0));
        table.occupy(&copy).expect("copies of others' have room of their own");
        let first = table.get(id(1, 0)).expect("still there").clone();
        table.remove(&first);
        table.occupy(&more).expect("one has ended");
        assert_eq!((table.own, table.copies, table.empty.len()), (USED, 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_without_a_byte_ends_after_minutes() {
        let mut table = table();
        let (waiting, used) = (open(&mut table, id(1, 0)), open(&mut table, id(1, 1)));
        table.occupy(&used).expect("there is room");
        tokio::time::advance(FIRST_BYTE - Duration::from_secs(1)).await;
        assert_eq!(table.expire_empty(Duration::from_secs(86_400)), 0);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(table.expire_empty(Duration::from_secs(86_400)), 1);
        assert!(table.get(waiting.id).is_none() && table.get(used.id).is_some());
    }
}
