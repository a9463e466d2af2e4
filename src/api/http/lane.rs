//! Memory that the networks of clients share, and a queue for it.
//!
//! One network may have at most a multiple of what is free, so that its share shrinks only as memory becomes scarce;
//! a network that has nothing gets what it asks for while there is that much. Whoever has its share is passed over in the queue
//! and keeps nobody behind it waiting; beside that it is first come, first served, so that small parts do not starve large ones.
//!
//! In memory; nothing outlives the process.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use clawhub_policy::may_have;
use clawhub_types::Network;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// So many bytes for all.
#[derive(Debug)]
pub(crate) struct Lane(Mutex<State>);

#[derive(Debug)]
struct State {
    free: usize,
    by: HashMap<Network, usize>,
    next: u64,
    queue: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    from: Network,
    bytes: usize,
    granted: Option<oneshot::Sender<Part>>,
}

/// Some of a lane's bytes, until it is dropped.
#[derive(Debug)]
pub(crate) struct Part {
    lane: Arc<Lane>,
    from: Network,
    bytes: usize,
}

/// A place in the queue, until it is dropped.
struct Queued<'l> {
    lane: &'l Lane,
    number: u64,
}

impl Lane {
    pub(crate) fn new(bytes: usize) -> Arc<Lane> {
        let state = State { free: bytes, by: HashMap::new(), next: 0, queue: BTreeMap::new() };
        Arc::new(Lane(Mutex::new(state)))
    }

    /// So many bytes, all at once, for a network: waits for them, however long that is.
    pub(crate) async fn take(self: &Arc<Self>, from: Network, bytes: usize) -> Option<Part> {
        let (granted, part) = oneshot::channel();
        let waiting = Waiting { from, bytes, granted: Some(granted) };
        let (_queued, unwanted) = {
            let mut state = self.0.lock();
            let number = state.next;
            state.next += 1;
            state.queue.insert(number, waiting);
            (Queued { lane: self, number }, state.hand_out(self))
        };
        drop(unwanted);
        part.await.ok()
    }

    fn give_back(self: &Arc<Self>, from: Network, bytes: usize) {
        let unwanted = {
            let mut state = self.0.lock();
            state.free += bytes;
            if let Some(has) = state.by.get_mut(&from) {
                *has -= bytes;
                if *has == 0 {
                    state.by.remove(&from);
                }
            }
            state.hand_out(self)
        };
        // Each of them comes here once more.
        drop(unwanted);
    }
}

impl State {
    /// Serves the queue as far as it can be. Answers what nobody waited for any more, to be dropped without the lock.
    fn hand_out(&mut self, lane: &Arc<Lane>) -> Vec<Part> {
        let State { free, by, queue, .. } = self;
        let mut unwanted = Vec::new();
        let mut is_short = false;
        queue.retain(|_, Waiting { from, bytes, granted }| {
            let has = by.get(from).copied().unwrap_or(0);
            if is_short || (has > 0 && !may_have(has, *bytes, *free)) {
                return true;
            }
            is_short = *bytes > *free;
            if is_short {
                return true;
            }
            *free -= *bytes;
            by.insert(*from, has + *bytes);
            let part = Part { lane: lane.clone(), from: *from, bytes: *bytes };
            if let Some(granted) = granted.take() {
                unwanted.extend(granted.send(part).err());
            }
            false
        });
        unwanted
    }
}

impl Part {
    /// Gives back what is beyond so many bytes.
    pub(crate) fn keep(&mut self, bytes: usize) {
        let more = self.bytes.saturating_sub(bytes);
        self.bytes -= more;
        self.lane.give_back(self.from, more);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.lane.give_back(self.from, self.bytes);
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.lane.0.lock().queue.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn network(n: u8) -> Network {
        IpAddr::from([10, 0, 0, n]).into()
    }

    async fn take(lane: &Arc<Lane>, n: u8, bytes: usize) -> Option<Part> {
        timeout(Duration::from_secs(1), lane.take(network(n), bytes)).await.ok().flatten()
    }

    async fn take_all(lane: &Arc<Lane>, n: u8, bytes: usize) -> Vec<Part> {
        let mut parts = Vec::new();
        while let Some(part) = take(lane, n, bytes).await {
            parts.push(part);
        }
        parts
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_gets_most_and_leaves_some_to_others() {
        let lane = Lane::new(320);
        let greedy = take_all(&lane, 1, 10).await;
        assert_eq!(greedy.len(), 26);
        assert_eq!(take_all(&lane, 2, 10).await.len(), 5);
        assert!(take(&lane, 3, 60).await.is_some(), "who has nothing gets all that is free");
        assert!(take(&lane, 3, 61).await.is_none());
        drop(greedy);
        assert!(take(&lane, 1, 320).await.is_some());
        let state = lane.0.lock();
        assert!(state.by.is_empty() && state.queue.is_empty() && state.free == 320);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_its_share_keeps_nobody_waiting() {
        let lane = Lane::new(50);
        let greedy = take_all(&lane, 1, 10).await;
        assert_eq!(greedy.len(), 4);
        let mut more = Box::pin(lane.take(network(1), 10));
        assert!(timeout(Duration::from_secs(1), &mut more).await.is_err());
        let honest = take(&lane, 2, 10).await;
        assert!(honest.is_some(), "the place behind it is served");
        drop(honest);
        drop(greedy);
        assert!(more.await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn small_parts_do_not_overtake_a_large_one() {
        let lane = Lane::new(50);
        let mut has = take(&lane, 1, 40).await.unwrap();
        let mut large = Box::pin(lane.take(network(2), 50));
        assert!(timeout(Duration::from_millis(1), &mut large).await.is_err());
        let mut small = Box::pin(lane.take(network(3), 10));
        assert!(timeout(Duration::from_millis(1), &mut small).await.is_err());
        has.keep(10);
        assert!(timeout(Duration::from_millis(1), &mut small).await.is_err());
        drop(has);
        drop(large.await.unwrap());
        assert!(small.await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_for_one_that_has_left_goes_on() {
        let lane = Lane::new(10);
        let has = take(&lane, 1, 10).await;
        let mut left = Box::pin(lane.take(network(2), 10));
        assert!(timeout(Duration::from_millis(1), &mut left).await.is_err());
        drop(has);
        // Granted and not looked at.
        drop(left);
        assert!(take(&lane, 3, 10).await.is_some());
    }
}
