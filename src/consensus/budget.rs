//! A budget of bytes that proposals may take at the same time. What does not fit is refused at once and never
//! queued, so that a node under pressure answers quickly. Counted in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What an entry costs of a budget besides its bytes.
pub(crate) const OVERHEAD: usize = 512;

/// Bytes that may be under way.
#[derive(Clone)]
pub(crate) struct Budget {
    free: Arc<AtomicUsize>,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Budget {
        Budget { free: Arc::new(AtomicUsize::new(bytes)) }
    }

    /// Takes `bytes` until the reservation is dropped; `None` if there are not so many.
    pub(crate) fn take(&self, bytes: usize) -> Option<Reservation> {
        let less = |free: usize| free.checked_sub(bytes);
        self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        Some(Reservation { budget: self.clone(), bytes })
    }
}

pub(crate) struct Reservation {
    budget: Budget,
    bytes: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.free.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back() {
        let budget = Budget::new(10);
        let six = budget.take(6).unwrap();
        assert!(budget.take(5).is_none());
        let four = budget.take(4).unwrap();
        assert!(budget.take(1).is_none());
        drop(six);
        assert!(budget.take(7).is_none());
        assert!(budget.take(6).is_some());
        drop(four);
        assert!(budget.take(10).is_some());
    }
}
