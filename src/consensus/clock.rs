//! The cluster clock, as its leader tells it.
//!
//! A leader's ticks begin at the last one applied when it was elected and go on with its monotonic
//! clock: time without a leader does not count, and nobody's wall clock is asked.

use std::time::Duration;

use openraft::Instant;
use openraft::async_runtime::AsyncRuntime;
use parking_lot::Mutex;

use crate::types::LeaderId;

/// The clock of one node, running while it leads.
pub(crate) struct Clock<R: AsyncRuntime> {
    base: Mutex<Option<Base<R::Instant>>>,
}

struct Base<I> {
    leader: LeaderId,
    since: I,
    /// The last tick before this leader; known once its first entry is applied.
    tick: Option<u64>,
}

impl<R: AsyncRuntime> Clock<R> {
    pub(crate) fn new() -> Self {
        Clock { base: Mutex::new(None) }
    }

    /// This node was elected as `leader`.
    pub(crate) fn elected(&self, leader: LeaderId) {
        let mut base = self.base.lock();
        if base.as_ref().is_none_or(|b| b.leader != leader) {
            *base = Some(Base { leader, since: R::Instant::now(), tick: None });
        }
    }

    /// The tick now, if this leader's clock was set.
    pub(crate) fn now(&self, leader: LeaderId) -> Option<u64> {
        let base = self.base.lock();
        let base = base.as_ref().filter(|b| b.leader == leader)?;
        Some(base.tick? + millis(base.since.elapsed()))
    }

    /// Sets the clock of `leader` to begin at `tick`, unless it was set.
    pub(crate) fn set(&self, leader: LeaderId, tick: u64) {
        self.elected(leader);
        if let Some(base) = self.base.lock().as_mut().filter(|b| b.leader == leader) {
            base.tick.get_or_insert(tick);
        }
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use openraft_rt_sim::SimRuntime;

    use super::*;

    #[test]
    fn ticks_go_on_from_the_last_one_with_the_leaders_own_time() {
        SimRuntime::with_seed(0).block_on(async {
            let clock = Clock::<SimRuntime>::new();
            let first = LeaderId { term: 1, node_id: 1 };
            let second = LeaderId { term: 2, node_id: 1 };
            clock.elected(first);
            assert_eq!(clock.now(first), None);
            SimRuntime::sleep(Duration::from_millis(30)).await;
            clock.set(first, 1000);
            assert_eq!(clock.now(first), Some(1030), "time since the election counts");
            clock.set(first, 5000);
            SimRuntime::sleep(Duration::from_millis(10)).await;
            assert_eq!(clock.now(first), Some(1040));
            assert_eq!(clock.now(second), None);
            SimRuntime::sleep(Duration::from_secs(100)).await;
            clock.set(second, 1041);
            assert_eq!(clock.now(second), Some(1041), "time without a leader does not");
            assert_eq!(clock.now(first), None);
        });
    }
}
