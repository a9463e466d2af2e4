//! What became of upload sessions that were kept, so that a client that has not got its answer may ask again.
//!
//! A row in the index for each, written in one batch with the end of its session; in memory the order in which
//! they came, so that only so many stay and none for long. A crash loses nothing of it. They age by the store's clock: the
//! machine's may be days ahead of when it is asked for.

use std::collections::VecDeque;
use std::time::Duration;

use clawhub_kv::Batch;
use clawhub_types::UploadId;
use parking_lot::Mutex;

use crate::BlobError;
use crate::finished_upload::FinishedUpload;
use crate::index::{Index, delete_finished, put_finished};
use crate::uptime::StoreClock;

/// So many are remembered: about 10 MiB of the index, and 2 MiB of memory.
const KEPT: usize = 65_536;
/// How long each is, while the store is open: as long as a session that nobody uses.
const LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// So many are forgotten with one batch.
const PAGE: usize = 1024;

/// The sessions that have a row, oldest first.
pub(crate) struct Finished(Mutex<VecDeque<(u64, UploadId)>>);

impl Finished {
    /// Blocking. Reads what the index has. What lies ahead of the clock counts as of now.
    pub(crate) fn open(index: &Index, clock: &StoreClock) -> Result<Finished, BlobError> {
        let rows = index.all_finished()?.into_iter();
        let now = clock.now();
        let mut order: Vec<_> = rows.map(|(id, row)| (row.at.min(now), id)).collect();
        order.sort_unstable_by_key(|(at, _)| *at);
        Ok(Finished(Mutex::new(order.into())))
    }

    /// Adds to a batch what makes a session remembered, and the oldest one forgotten if there are too many.
    pub(crate) fn note(&self, batch: &mut Batch, id: UploadId, row: FinishedUpload) {
        put_finished(batch, &id, &row);
        let mut order = self.0.lock();
        order.push_back((row.at, id));
        if order.len() > KEPT
            && let Some((_, oldest)) = order.pop_front()
        {
            delete_finished(batch, &oldest);
        }
    }

    /// Adds to a batch what makes the oldest ones forgotten, if they are old enough. Whether there are more.
    pub(crate) fn forget_old(&self, batch: &mut Batch, now: u64) -> bool {
        let life = u64::try_from(LIFE.as_millis()).unwrap_or(u64::MAX);
        let mut order = self.0.lock();
        for _ in 0..PAGE {
            if order.front().is_none_or(|(at, _)| now.saturating_sub(*at) <= life) {
                return false;
            }
            if let Some((_, id)) = order.pop_front() {
                delete_finished(batch, &id);
            }
        }
        true
    }
}
