//! When log entries go: once a snapshot covers them, except for those that somebody is about to need.
//!
//! openraft would drop all but a fixed number of entries behind each snapshot. A node that is being sent
//! one while others write needs what came after *it*, however many newer ones are made meanwhile; without
//! that the node would never catch up with a busy cluster. So this decides instead. In memory only: after
//! a restart nobody is being sent anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::Instant;
use openraft::async_runtime::{AsyncRuntime, WatchReceiver};
use parking_lot::Mutex;

use crate::core::Core;

/// Entries that stay behind a snapshot, for followers that are a little late.
const KEPT: u64 = 2_000;
/// Entries removed at once: few large range deletes instead of many small ones.
const BATCH: u64 = 1_024;
/// So many snapshots' worth of entries may wait for a node that is being sent one. One that takes longer
/// begins again with a newer snapshot.
const MOST: u64 = 64;
const PURGE_INTERVAL: Duration = Duration::from_millis(500);
/// After a snapshot was sent its node asks for the entries behind it within this.
const GRACE: Duration = Duration::from_secs(10);

/// The snapshots that are being sent, or were sent just now.
pub(crate) struct Transfers<I> {
    inner: Mutex<Sending<I>>,
}

struct Sending<I> {
    next: u64,
    /// The last entry in the snapshot, and until when it counts; `None` while it is being sent.
    open: BTreeMap<u64, (u64, Option<I>)>,
}

impl<I: Instant> Transfers<I> {
    pub(crate) fn new() -> Self {
        Transfers { inner: Mutex::new(Sending { next: 0, open: BTreeMap::new() }) }
    }

    /// A snapshot up to `last` is being sent from now on, until the answer is dropped.
    pub(crate) fn begin(self: &Arc<Self>, last: u64) -> Transfer<I> {
        let mut inner = self.inner.lock();
        let number = inner.next;
        inner.next += 1;
        inner.open.insert(number, (last, None));
        Transfer { transfers: Arc::clone(self), number }
    }

    /// The last entry in the oldest of them.
    fn oldest(&self) -> Option<u64> {
        let now = I::now();
        let open = &mut self.inner.lock().open;
        open.retain(|_, (_, until)| until.is_none_or(|until| until > now));
        open.values().map(|(last, _)| *last).min()
    }
}

/// A snapshot on its way.
pub(crate) struct Transfer<I: Instant> {
    transfers: Arc<Transfers<I>>,
    number: u64,
}

impl<I: Instant> Drop for Transfer<I> {
    fn drop(&mut self) {
        if let Some((_, until)) = self.transfers.inner.lock().open.get_mut(&self.number) {
            *until = Some(I::now() + GRACE);
        }
    }
}

/// Up to where entries go now, if enough have gathered.
fn upto(snapshot: u64, purged: u64, interval: u64, sending: Option<u64>) -> Option<u64> {
    let kept = snapshot.checked_sub(KEPT.min(interval))?;
    let needed =
        sending.map_or(u64::MAX, |last| last.max(snapshot.saturating_sub(interval.saturating_mul(MOST))));
    let upto = kept.min(needed);
    (upto >= purged.saturating_add(BATCH.min(interval).max(1))).then_some(upto)
}

/// Drops entries that snapshots cover, until the node stops.
pub(crate) async fn purge<R: AsyncRuntime>(core: Arc<Core<R>>, transfers: Arc<Transfers<R::Instant>>) {
    let interval = core.settings.snapshot_interval;
    loop {
        R::sleep(PURGE_INTERVAL).await;
        if !core.runs() {
            return;
        }
        let (snapshot, purged) = {
            let metrics = core.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.snapshot.map(|id| id.index), metrics.purged.map_or(0, |id| id.index))
        };
        let sending = transfers.oldest();
        let Some(upto) = snapshot.and_then(|s| upto(s, purged, interval, sending)) else { continue };
        if core.raft.trigger().purge_log(upto).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_a_snapshot_covers_goes_but_for_the_last_entries() {
        assert_eq!(upto(1_000, 0, 20_000, None), None, "all of it is kept");
        assert_eq!(upto(20_000, 0, 20_000, None), Some(18_000));
        assert_eq!(upto(20_000, 17_500, 20_000, None), None, "too few for a batch");
        assert_eq!(upto(150, 0, 50, None), Some(100), "small intervals keep less");
    }

    #[test]
    fn what_follows_a_snapshot_that_is_being_sent_stays() {
        assert_eq!(upto(60_000, 18_000, 20_000, Some(20_000)), Some(20_000));
        assert_eq!(upto(60_000, 20_000, 20_000, Some(20_000)), None);
        assert_eq!(upto(9_000_000, 20_000, 20_000, Some(20_000)), Some(7_720_000), "but not for ever");
    }

    #[test]
    fn a_transfer_counts_until_a_while_after_it_ended() {
        let transfers = Arc::new(Transfers::<Instant>::new());
        assert_eq!(transfers.oldest(), None);
        let first = transfers.begin(7);
        let second = transfers.begin(5);
        assert_eq!(transfers.oldest(), Some(5));
        drop(second);
        drop(first);
        assert_eq!(transfers.oldest(), Some(5), "its node has not asked yet");
        let now = <Instant as openraft::Instant>::now();
        transfers.inner.lock().open.values_mut().for_each(|(_, until)| *until = Some(now));
        assert_eq!(transfers.oldest(), None);
    }
}
