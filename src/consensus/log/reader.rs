//! Reads of the log in batches that are bounded by bytes, beside the one writer. Owns nothing.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use futures::stream::{self, Stream};
use openraft::async_runtime::AsyncRuntime;
use openraft::storage::RaftLogReader;

use super::{LogStore, MAX_BATCH_BYTES, index, key};
use crate::record;
use crate::types::{RaftEntry, Types, Vote};

/// Pages begin with this many entries, which even at their largest make one batch, and double.
const FIRST_PAGE: usize = 8;
/// The largest page, so that a read never holds much more than 8 MiB that it then gives up.
const LARGEST_PAGE: usize = 64;

/// A handle that reads the log while it is written.
#[derive(Clone)]
pub struct LogReader {
    store: LogStore,
}

impl LogReader {
    pub(super) fn new(store: LogStore) -> Self {
        LogReader { store }
    }

    /// The entries of `start..end` from the first that was not purged, until `limit` bytes.
    fn read(&self, start: u64, end: u64, limit: usize) -> Result<Vec<RaftEntry>, io::Error> {
        // The tombstones of purged entries are never walked over.
        let mut next = start.max(self.store.ends().first_index());
        let mut entries: Vec<RaftEntry> = Vec::new();
        if next >= end {
            return Ok(entries);
        }
        let view = self.store.inner.kv.snapshot();
        let mut bytes = 0;
        let mut page = FIRST_PAGE;
        while next < end {
            let wanted = page.min(usize::try_from(end - next).unwrap_or(page));
            let found = view.scan(&key(next), &key(end), wanted).map_err(io::Error::from)?;
            for (key, value) in &found {
                let at = index(key)?;
                if entries.is_empty() {
                    // What is missing at the beginning was purged, perhaps since the range was cut.
                    next = at;
                } else if at != next {
                    return Err(super::damaged(format!("entry {next} is missing before {at}")));
                }
                bytes += value.len();
                if bytes > limit && !entries.is_empty() {
                    return Ok(entries);
                }
                entries.push(record::decode_entry(at, value)?);
                next += 1;
            }
            if found.len() < wanted {
                break;
            }
            page = (page * 2).min(LARGEST_PAGE);
        }
        Ok(entries)
    }

    fn batch(&self, start: u64, end: u64) -> Result<Vec<RaftEntry>, io::Error> {
        let entries = self.read(start, end, MAX_BATCH_BYTES)?;
        match entries.first() {
            Some(first) if first.log_id.index == start => Ok(entries),
            _ if start >= end => Ok(entries),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, format!("entry {start} is not in the log"))),
        }
    }
}

/// `[start, end)` of any range.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(i) => *i,
        Bound::Excluded(i) => i.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(i) => i.saturating_add(1),
        Bound::Excluded(i) => *i,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl<R: AsyncRuntime> RaftLogReader<Types<R>> for LogReader {
    async fn try_get_log_entries<B>(&mut self, range: B) -> Result<Vec<RaftEntry>, io::Error>
    where
        B: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<RaftEntry>, io::Error> {
        self.batch(start, end)
    }

    /// Entries to apply: read batch by batch as they are consumed, so that catching up takes no more
    /// memory than keeping up.
    async fn entries_stream<B>(&mut self, range: B) -> impl Stream<Item = Result<RaftEntry, io::Error>> + Send
    where
        B: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (start, end) = bounds(&range);
        let reader = self.clone();
        let batches = stream::unfold(Some(start), move |next| {
            let batch = next.map(|next| reader.read(next, end, MAX_BATCH_BYTES));
            async move {
                match batch? {
                    Ok(entries) => {
                        let next = entries.last()?.log_id.index + 1;
                        Some((entries.into_iter().map(Ok).collect::<Vec<_>>(), Some(next)))
                    }
                    Err(e) => Some((vec![Err(e)], None)),
                }
            }
        });
        Box::pin(futures::StreamExt::flat_map(batches, stream::iter))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.store.ends().vote)
    }
}
