//! Where the log ended a while ago: whoever has all of that lags by less than the while, however many entries a second
//! are written. In memory; a new leader begins without.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The ends of the log as they were seen, oldest first.
#[derive(Debug, Default)]
pub(super) struct Ends(VecDeque<(Instant, u64)>);

impl Ends {
    /// Notes where the log ends now; what is older than `kept` goes, but for one.
    pub(super) fn note(&mut self, now: Instant, end: u64, kept: Duration) {
        self.0.push_back((now, end));
        while self.0.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= kept) {
            self.0.pop_front();
        }
    }

    /// Where it ended so long ago, or earlier; `None` if nobody looked yet.
    pub(super) fn before(&self, now: Instant, ago: Duration) -> Option<u64> {
        let old = |(at, _): &&(Instant, u64)| now.saturating_duration_since(*at) >= ago;
        self.0.iter().rev().find(old).map(|(_, end)| *end)
    }

    /// Somebody else leads.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_known_once_it_is_old_enough() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let kept = Duration::from_secs(10);
        let mut ends = Ends::default();
        assert_eq!(ends.before(start, Duration::ZERO), None);
        for second in 0..20 {
            ends.note(after(second), 100 * second, kept);
        }
        let now = after(19);
        assert_eq!(ends.before(now, Duration::ZERO), Some(1900));
        assert_eq!(ends.before(now, Duration::from_millis(2500)), Some(1600), "at least so long ago");
        assert_eq!(ends.before(now, kept), Some(900));
        assert_eq!(ends.before(now, Duration::from_secs(11)), None);
        assert_eq!(ends.before(after(60), kept), Some(1900), "nobody looked since");
        assert!(ends.0.len() <= 11);
        ends.forget();
        assert_eq!(ends.before(now, kept), None);
    }
}
