//! The clock that unfinished work ages by: how long this store has been open, over all its starts.
//!
//! The machine's clock would not do: one that is days ahead at a start, before anybody has set it, would end every
//! upload that a client was told is safe. A crash takes back what passed since the last [`StoreClock::keep`]; what a
//! row says of that time then lies ahead and counts as now.

use std::time::Duration;

use tokio::time::Instant;

use crate::BlobError;
use crate::index::{Index, put_uptime};

pub(crate) struct StoreClock {
    /// What it stood at when the store was opened.
    before: u64,
    opened: Instant,
}

impl StoreClock {
    /// Goes on from what was kept last.
    pub(crate) fn open(index: &Index) -> Result<StoreClock, BlobError> {
        Ok(StoreClock { before: index.uptime()?, opened: Instant::now() })
    }

    /// Milliseconds.
    pub(crate) fn now(&self) -> u64 {
        let since = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.before.saturating_add(since)
    }

    /// How long ago something was that happened at `at`, before this start of the store.
    pub(crate) fn since(&self, at: u64) -> Duration {
        Duration::from_millis(self.now().saturating_sub(at.min(self.before)))
    }

    /// Writes down where it stands.
    pub(crate) fn keep(&self, index: &Index) -> Result<(), BlobError> {
        let mut batch = clawhub_kv::Batch::default();
        put_uptime(&mut batch, self.now());
        index.write(batch)
    }
}
