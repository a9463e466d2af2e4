//! The cluster clock, as its leader tells it.
//!
//! A leader's ticks begin at the last one applied when it was elected and go on with its monotonic
//! clock: time without a leader does not count, and nobody's wall clock is asked. It tells them with every heartbeat,
//! and a follower goes on from there by its own clock: never ahead of a leader, and behind by what the message took.

use std::time::Duration;

use clawhub_types::NodeId;
use openraft::Instant;
use openraft::async_runtime::AsyncRuntime;
use parking_lot::Mutex;

use crate::types::LeaderId;

/// The clock of one node, running while it leads.
pub(crate) struct Clock<R: AsyncRuntime> {
    base: Mutex<Option<Base<R::Instant>>>,
    /// The last word of a leader: who, its tick, and when that came.
    heard: Mutex<Option<(LeaderId, u64, R::Instant)>>,
}

struct Base<I> {
    leader: LeaderId,
    since: I,
    /// The last tick before this leader; known once its first entry is applied.
    tick: Option<u64>,
}

impl<R: AsyncRuntime> Clock<R> {
    pub(crate) fn new() -> Self {
        Clock { base: Mutex::new(None), heard: Mutex::new(None) }
    }

    /// This node was elected as `leader`. Whether that is news.
    pub(crate) fn elected(&self, leader: LeaderId) -> bool {
        let mut base = self.base.lock();
        let new = base.as_ref().is_none_or(|b| b.leader != leader);
        if new {
            *base = Some(Base { leader, since: R::Instant::now(), tick: None });
        }
        new
    }

    /// The tick now, if this leader's clock was set.
    pub(crate) fn now(&self, leader: LeaderId) -> Option<u64> {
        let base = self.base.lock();
        let base = base.as_ref().filter(|b| b.leader == leader)?;
        Some(base.tick? + millis(base.since.elapsed()))
    }

    /// Notes the tick that a leader told, and when that came. It may have been long on its way: what is known better by
    /// now stays.
    pub(crate) fn heard(&self, leader: LeaderId, tick: u64, at: R::Instant) {
        let mut heard = self.heard.lock();
        let known = heard.filter(|(from, known, since)| {
            *from > leader
                || (*from == leader && known + millis(at.saturating_duration_since(*since)) >= tick)
        });
        *heard = known.or(Some((leader, tick, at)));
    }

    /// The tick now, as far as a node knows that heard it from this leader.
    pub(crate) fn followed(&self, leader: NodeId) -> Option<u64> {
        let heard = self.heard.lock();
        let (_, tick, at) = heard.as_ref().filter(|(from, ..)| from.node_id == leader.0)?;
        Some(tick + millis(at.elapsed()))
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

    type SimInstant = <SimRuntime as AsyncRuntime>::Instant;

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

    #[test]
    fn a_follower_goes_on_from_what_it_heard() {
        SimRuntime::with_seed(0).block_on(async {
            let clock = Clock::<SimRuntime>::new();
            assert_eq!(clock.followed(NodeId(1)), None);
            let first = LeaderId { term: 1, node_id: 1 };
            clock.heard(first, 1000, SimInstant::now());
            SimRuntime::sleep(Duration::from_millis(20)).await;
            assert_eq!(clock.followed(NodeId(1)), Some(1020));
            assert_eq!(clock.followed(NodeId(2)), None, "another one's ticks are not known");
            clock.heard(first, 1010, SimInstant::now());
            assert_eq!(clock.followed(NodeId(1)), Some(1020), "it was long on its way");
            let came = SimInstant::now();
            SimRuntime::sleep(Duration::from_millis(10)).await;
            clock.heard(first, 1025, came);
            assert_eq!(clock.followed(NodeId(1)), Some(1035), "it is noted when it has been answered");
            clock.heard(LeaderId { term: 2, node_id: 2 }, 1005, SimInstant::now());
            assert_eq!(clock.followed(NodeId(2)), Some(1005), "time without a leader does not count");
            clock.heard(first, 9000, SimInstant::now());
            assert_eq!(clock.followed(NodeId(2)), Some(1005), "the first one leads no more");
        });
    }
}
