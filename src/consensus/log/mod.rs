//! The log: votes and entries in a [`Kv`] of their own, and nothing else in it.
//!
//! It owns the keys below. A batch is readable when it is written and counts when it is durable: one
//! [`flush`] queue syncs for everybody who waits, votes and entries in the order they were written, and
//! only then answers. A crash therefore loses entries and votes that nobody was told about. A store
//! that fails once is not written again.
//!
//! | key | value |
//! |---|---|
//! | `c` | position of the last entry known to be committed; saved without waiting for the device |
//! | `e` + BE index | an entry |
//! | `p` | position of the last purged entry |
//! | `v` | the vote |

mod check;
mod flush;
mod reader;

use std::io;
use std::sync::Arc;

use clawhub_kv::{Batch, Kv};
use clawhub_mutant::Mutant;
use openraft::async_runtime::AsyncRuntime;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use parking_lot::Mutex;

use crate::Execution;
use crate::record;
use crate::types::{LogId, RaftEntry, Types, Vote};
use flush::Flusher;

pub use reader::LogReader;

/// Entries are replicated in batches of at most this many bytes (or one entry).
pub const MAX_BATCH_BYTES: usize = 1 << 20;

const VOTE: &[u8] = b"v";
const COMMITTED: &[u8] = b"c";
const PURGED: &[u8] = b"p";
const ENTRY: u8 = b'e';
/// The key after every entry.
const ENTRIES_END: &[u8] = b"f";
fn key(index: u64) -> [u8; 9] {
    let mut key = [ENTRY; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The index a key of an entry stands for.
fn index(key: &[u8]) -> Result<u64, io::Error> {
    match key.split_first_chunk::<1>() {
        Some(([ENTRY], rest)) if rest.len() == 8 => {
            Ok(u64::from_be_bytes(rest.try_into().expect("the length was checked")))
        }
        _ => Err(damaged(format!("unknown key {key:?} among the entries"))),
    }
}

fn damaged(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// The log store. Clones share it; when the last one goes, the flush thread ends.
#[derive(Clone)]
pub struct LogStore {
    inner: Arc<Inner>,
}

struct Inner {
    kv: Arc<dyn Kv>,
    flusher: Flusher,
    ends: Mutex<Ends>,
}

/// What lies at the ends of the log, as written (not necessarily durable).
#[derive(Clone, Copy, Default)]
struct Ends {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// The last entry present; `purged` if there is none.
    last: Option<LogId>,
}

impl Ends {
    fn first_index(&self) -> u64 {
        self.purged.map_or(0, |id| id.index + 1)
    }
}

impl LogStore {
    /// Opens the log in `kv` and checks every entry: position, check sum, no gap.
    ///
    /// # Errors
    /// If the store cannot be read or holds a damaged record or a hole. Nothing is repaired: the node's
    /// votes may be gone with it, so it has to rejoin as a new one.
    pub fn open(kv: Arc<dyn Kv>, execution: Execution) -> Result<LogStore, io::Error> {
        let get = |key| kv.get(key).map_err(io::Error::from);
        let position = |key| -> Result<Option<LogId>, io::Error> {
            Ok(get(key)?.map(|bytes| record::decode_position(&bytes)).transpose()?)
        };
        let vote = get(VOTE)?.map(|bytes| record::decode_vote(&bytes)).transpose()?;
        let committed = position(COMMITTED)?;
        let purged = position(PURGED)?;
        let mut ends = Ends { vote, committed, purged, last: purged };
        check::entries(&*kv, &mut ends)?;
        let flusher = Flusher::new(Arc::clone(&kv), execution)?;
        Ok(LogStore { inner: Arc::new(Inner { kv, flusher, ends: Mutex::new(ends) }) })
    }

    fn write(&self, batch: Batch) -> Result<(), io::Error> {
        self.inner.kv.write(batch).map_err(io::Error::from)
    }

    fn ends(&self) -> Ends {
        *self.inner.ends.lock()
    }

    /// The last entry, as written; the last one purged if there is none.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.ends().last
    }

    /// The vote of this node, at least as high as any that it has told another node.
    pub(crate) fn vote(&self) -> Option<Vote> {
        self.ends().vote
    }
}

impl<R: AsyncRuntime> RaftLogStorage<Types<R>> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<Types<R>>, io::Error> {
        let Ends { purged, last, .. } = self.ends();
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader::new(self.clone())
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        // First: who asks `vote` must never see one lower than what others have been told.
        self.inner.ends.lock().vote = Some(*vote);
        let mut batch = Batch::default();
        batch.put(VOTE, record::encode_vote(vote));
        self.write(batch)?;
        if Mutant::UnsyncedVote.breaks() {
            return Ok(());
        }
        // Behind the entries written before it, never ahead of them.
        self.inner.flusher.wait().await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let mut batch = Batch::default();
        match &committed {
            Some(id) => batch.put(COMMITTED, record::encode_position(id)),
            None => batch.delete(COMMITTED),
        }
        self.write(batch)?;
        self.inner.ends.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.ends().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types<R>>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + Send,
        I::IntoIter: Send,
    {
        let mut batch = Batch::default();
        let mut last = self.ends().last;
        for entry in entries {
            let id = entry.log_id;
            if last.is_some_and(|last| last.index + 1 != id.index) {
                return Err(damaged(format!("entry {id} would leave a hole")));
            }
            batch.put(key(id.index), record::encode_entry(&entry));
            last = Some(id);
        }
        self.write(batch)?;
        self.inner.ends.lock().last = last;
        self.inner.flusher.then(Box::new(move |result| callback.io_completed(result)))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let mut batch = Batch::default();
        batch.delete_range(key(last.map_or(0, |id| id.index + 1)), ENTRIES_END);
        // Not synced: what a crash brings back is cut off again, and what is appended next lies behind
        // this in the same device queue.
        self.write(batch)?;
        let mut ends = self.inner.ends.lock();
        if ends.last.map(|id| id.index) > last.map(|id| id.index) {
            ends.last = last.max(ends.purged);
        }
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let ends = self.ends();
        if ends.purged.is_some_and(|purged| purged.index >= upto.index) {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.delete_range(key(ends.first_index()), key(upto.index + 1));
        batch.put(PURGED, record::encode_position(&upto));
        self.write(batch)?;
        let mut ends = self.inner.ends.lock();
        ends.purged = Some(upto);
        if ends.last.is_none_or(|last| last.index < upto.index) {
            ends.last = Some(upto);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clawhub_kv::{KvRead, MemoryKv};
    use openraft::EntryPayload;
    use openraft::RaftLogReader;
    use openraft_rt_tokio::TokioRuntime;

    use super::*;
    use crate::types::{LeaderId, Proposal};

    type C = Types<TokioRuntime>;

    fn entry(index: u64, size: usize) -> RaftEntry {
        let log_id = LogId::new(LeaderId { term: 1, node_id: 1 }, index);
        RaftEntry { log_id, payload: EntryPayload::Normal(Proposal(vec![7; size].into())) }
    }

    fn log(kv: &Arc<MemoryKv>) -> Result<LogStore, io::Error> {
        LogStore::open(Arc::clone(kv) as Arc<dyn Kv>, Execution::Inline)
    }

    async fn append(log: &mut LogStore, entries: Vec<RaftEntry>) -> Result<(), io::Error> {
        RaftLogStorage::<C>::append(log, entries, IOFlushed::noop()).await
    }

    async fn reader(log: &mut LogStore) -> LogReader {
        RaftLogStorage::<C>::get_log_reader(log).await
    }

    #[tokio::test]
    async fn a_batch_ends_below_the_byte_limit_and_is_never_empty() {
        let kv = Arc::new(MemoryKv::new());
        let mut log = log(&kv).unwrap();
        append(&mut log, (0..100).map(|i| entry(i, 100_000)).collect()).await.unwrap();
        let mut reader = reader(&mut log).await;
        let got = RaftLogReader::<C>::limited_get_log_entries(&mut reader, 3, 100).await.unwrap();
        assert_eq!(got.len(), 10, "ten entries of 100 kB fit 1 MiB");
        assert_eq!(got[0].log_id.index, 3);
        append(&mut log, vec![entry(100, 2 * MAX_BATCH_BYTES)]).await.unwrap();
        let got = RaftLogReader::<C>::limited_get_log_entries(&mut reader, 100, 101).await.unwrap();
        assert_eq!(got.len(), 1);
        assert!(RaftLogReader::<C>::limited_get_log_entries(&mut reader, 101, 105).await.is_err());
        let all = RaftLogReader::<C>::try_get_log_entries(&mut reader, 0..).await.unwrap();
        assert_eq!(all.len(), 101, "a full read knows no limit");
    }

    #[tokio::test]
    async fn holes_and_damage_are_found_at_opening() {
        let kv = Arc::new(MemoryKv::new());
        let mut first = log(&kv).unwrap();
        append(&mut first, (0..200).map(|i| entry(i, 10)).collect()).await.unwrap();
        assert!(append(&mut first, vec![entry(201, 10)]).await.is_err(), "an append that skips one");
        assert!(log(&kv).is_ok());

        let kept = kv.get(&key(150)).unwrap().unwrap();
        let mut batch = Batch::default();
        batch.delete(key(150));
        kv.write(batch).unwrap();
        let problem = log(&kv).err().unwrap().to_string();
        assert!(problem.contains("entry 150 is missing"), "{problem}");

        let mut damaged = kept.clone();
        damaged[20] ^= 1;
        let mut batch = Batch::default();
        batch.put(key(150), damaged);
        kv.write(batch).unwrap();
        assert!(log(&kv).err().unwrap().to_string().contains("150 is damaged"));

        let mut batch = Batch::default();
        batch.put(key(150), kept);
        kv.write(batch).unwrap();
        assert!(log(&kv).is_ok());
    }

    #[tokio::test]
    async fn a_purged_log_opens_at_its_first_entry() {
        let kv = Arc::new(MemoryKv::new());
        let mut first = log(&kv).unwrap();
        append(&mut first, (0..20).map(|i| entry(i, 10)).collect()).await.unwrap();
        RaftLogStorage::<C>::purge(&mut first, entry(9, 0).log_id).await.unwrap();
        RaftLogStorage::<C>::purge(&mut first, entry(4, 0).log_id).await.unwrap();
        let mut again = log(&kv).unwrap();
        let state = RaftLogStorage::<C>::get_log_state(&mut again).await.unwrap();
        assert_eq!(state.last_purged_log_id.unwrap().index, 9);
        assert_eq!(state.last_log_id.unwrap().index, 19);
        RaftLogStorage::<C>::purge(&mut again, entry(40, 0).log_id).await.unwrap();
        append(&mut again, vec![entry(41, 10)]).await.unwrap();
        assert!(log(&kv).is_ok());
    }

    #[tokio::test]
    async fn a_vote_is_durable_when_saved_and_so_is_what_came_before() {
        let kv = Arc::new(MemoryKv::new());
        let mut store = LogStore::open(Arc::clone(&kv) as Arc<dyn Kv>, Execution::Threads).unwrap();
        append(&mut store, vec![entry(0, 10)]).await.unwrap();
        let vote = Vote::new(7, 3);
        RaftLogStorage::<C>::save_vote(&mut store, &vote).await.unwrap();
        kv.crash();
        let mut again = log(&kv).unwrap();
        let mut reader = reader(&mut again).await;
        assert_eq!(RaftLogReader::<C>::read_vote(&mut reader).await.unwrap(), Some(vote));
        let entries = RaftLogReader::<C>::try_get_log_entries(&mut reader, ..).await.unwrap();
        assert_eq!(entries.len(), 1);
    }
}
