//! How long a reconciler waits after passes that did not settle.

use std::time::Duration;

/// A wait that doubles with every failure in a row, up to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// After the first failure.
    pub first: Duration,
    /// Never longer than this.
    pub most: Duration,
}

impl BackOff {
    /// The same wait after every failure.
    pub fn constant(wait: Duration) -> BackOff {
        BackOff { first: wait, most: wait }
    }

    /// The wait after this many failures in a row.
    pub fn after(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_its_limit() {
        let back_off = BackOff { first: Duration::from_secs(1), most: Duration::from_secs(10) };
        let waits: Vec<u64> = (1..=6).map(|failures| back_off.after(failures).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
        assert_eq!(back_off.after(u32::MAX), back_off.most);
        assert_eq!(BackOff::constant(Duration::from_secs(5)).after(9), Duration::from_secs(5));
    }
}
