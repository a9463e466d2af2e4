//! How far apart members may be, and how long a wait for one of them may be therefore.

use std::time::Duration;

/// The longest round trip between two members that a node allows for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoundTrip(Duration);

impl RoundTrip {
    /// A round trip of so many milliseconds.
    pub const fn millis(millis: u64) -> RoundTrip {
        RoundTrip(Duration::from_millis(millis))
    }

    /// How long it is.
    pub const fn length(self) -> Duration {
        self.0
    }

    /// How long something may take that is `work` at its ends and so many round trips between them. Each counts
    /// twice: for jitter, and for a packet that is lost and sent again.
    pub fn within(self, trips: u32, work: Duration) -> Duration {
        work + 2 * trips * self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_the_work_and_twice_the_way() {
        let work = Duration::from_millis(500);
        assert_eq!(RoundTrip::millis(50).within(3, work), Duration::from_millis(800));
        assert_eq!(RoundTrip::millis(400).within(3, work), Duration::from_millis(2900));
    }
}
