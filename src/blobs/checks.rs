//! When each group of an open file was last compared with the root, so that no check is relied on for longer than
//! the store allows (invariant 12): a page may be dropped from memory and its sector rot in the meantime, however
//! often the file is read.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The unit in which ages are counted: 32 bits of it last for 13 years.
const UNIT: Duration = Duration::from_millis(100);

/// One check time for each group of a file.
pub(crate) struct Checks {
    began: Instant,
    /// How many units a check is good for.
    good_for: u32,
    /// The unit in which the check began, counted from 1; 0 for none.
    stamps: Vec<AtomicU32>,
}

/// A moment before a group is read. What is read after it may be trusted from then on.
#[derive(Clone, Copy)]
pub(crate) struct Moment(u32);

impl Checks {
    /// No group is checked yet. A check is good for `good_for`, at least one unit.
    pub(crate) fn new(groups: u64, good_for: Duration) -> Checks {
        let good_for = units(good_for).max(1);
        let stamps = (0..groups).map(|_| AtomicU32::new(0)).collect();
        Checks { began: Instant::now(), good_for, stamps }
    }

    /// Memory of so many groups' check times, in bytes.
    pub(crate) fn weight(groups: u64) -> usize {
        usize::try_from(groups).unwrap_or(usize::MAX).saturating_mul(size_of::<AtomicU32>())
    }

    /// Now, rounded down: a check looks older than it is, never younger.
    pub(crate) fn now(&self) -> Moment {
        Moment(units(self.began.elapsed()).saturating_add(1))
    }

    /// Notes that a group is right as it was read after `moment`.
    pub(crate) fn pass(&self, group: u64, moment: Moment) {
        if let Some(stamp) = self.stamp(group) {
            stamp.fetch_max(moment.0, Ordering::AcqRel);
        }
    }

    /// Forgets every check.
    pub(crate) fn forget(&self) {
        self.stamps.iter().for_each(|stamp| stamp.store(0, Ordering::Release));
    }

    /// The first of these groups whose check is not good at `now`.
    pub(crate) fn first_stale(&self, mut groups: Range<u64>, now: Moment) -> Option<u64> {
        groups.find(|group| !self.is_good(*group, now))
    }

    /// The first of these groups whose check is good at `now`.
    pub(crate) fn first_good(&self, mut groups: Range<u64>, now: Moment) -> Option<u64> {
        groups.find(|group| self.is_good(*group, now))
    }

    /// Whether a group was checked, and lately enough.
    pub(crate) fn is_good(&self, group: u64, now: Moment) -> bool {
        let stamp = self.stamp(group).map_or(0, |stamp| stamp.load(Ordering::Acquire));
        // The unit that has only begun counts in full.
        stamp > 0 && now.0.saturating_sub(stamp) < self.good_for
    }

    fn stamp(&self, group: u64) -> Option<&AtomicU32> {
        self.stamps.get(usize::try_from(group).ok()?)
    }
}

fn units(time: Duration) -> u32 {
    u32::try_from(time.as_millis() / UNIT.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_check_ages_from_where_it_began_and_not_from_its_last_use() {
        let checks = Checks::new(3, Duration::from_secs(10));
        let began = checks.now();
        tokio::time::advance(Duration::from_secs(4)).await;
        checks.pass(1, began);
        let now = checks.now();
        assert_eq!((checks.first_stale(0..3, now), checks.first_stale(1..2, now)), (Some(0), None));
        assert_eq!((checks.first_good(0..3, now), checks.first_good(2..3, now)), (Some(1), None));
        for _ in 0..59 {
            tokio::time::advance(Duration::from_millis(100)).await;
            assert!(checks.is_good(1, checks.now()));
        }
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(!checks.is_good(1, checks.now()), "ten seconds after it was begun");
        checks.pass(1, checks.now());
        assert!(checks.is_good(1, checks.now()) && !checks.is_good(9, checks.now()));
        // A slower reader's earlier look does not take anything from a later one.
        checks.pass(1, began);
        assert!(checks.is_good(1, checks.now()));
        checks.forget();
        assert!(!checks.is_good(1, checks.now()));
    }
}
