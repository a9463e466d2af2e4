//! What is on its way over a link: each item until it is due. In memory only.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Bytes under way over one link for one peer: 250 ms of one Gbit a second.
pub(crate) const UNDER_WAY: usize = 32 << 20;

pub(crate) struct Line<T> {
    waiting: Mutex<Waiting<T>>,
    more: Notify,
}

struct Waiting<T> {
    items: BinaryHeap<Reverse<Item<T>>>,
    bytes: usize,
    /// When the last one that keeps its place is due: none of those overtakes another.
    last: Instant,
    count: u64,
}

struct Item<T> {
    due: Instant,
    /// Keeps the order of those that are due at once.
    number: u64,
    bytes: usize,
    what: T,
}

impl<T> PartialEq for Item<T> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<T> Eq for Item<T> {}

impl<T> PartialOrd for Item<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Item<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

impl<T> Line<T> {
    pub(crate) fn new() -> Line<T> {
        let waiting = Waiting { items: BinaryHeap::new(), bytes: 0, last: Instant::now(), count: 0 };
        Line { waiting: Mutex::new(waiting), more: Notify::new() }
    }

    /// Sends an item on its way; `false` if there is no room and it is lost. One that may be overtaken does not
    /// hold up those behind it.
    pub(crate) fn push(&self, due: Instant, overtaken: bool, bytes: usize, what: T) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.bytes + bytes > UNDER_WAY {
            return false;
        }
        let due = if overtaken { due } else { due.max(waiting.last) };
        if !overtaken {
            waiting.last = due;
        }
        waiting.bytes += bytes;
        waiting.count += 1;
        let number = waiting.count;
        let first = waiting.items.peek().is_none_or(|Reverse(first)| due < first.due);
        waiting.items.push(Reverse(Item { due, number, bytes, what }));
        drop(waiting);
        if first {
            self.more.notify_one();
        }
        true
    }

    /// Waits for what is due next, and adds everything that is due by then to `arrived`.
    pub(crate) async fn arrive(&self, arrived: &mut Vec<T>) {
        loop {
            let next = self.take(arrived);
            if !arrived.is_empty() {
                return;
            }
            match next {
                None => self.more.notified().await,
                Some(due) => tokio::select! {
                    () = sleep_until(due) => {}
                    () = self.more.notified() => {}
                },
            }
        }
    }

    fn take(&self, arrived: &mut Vec<T>) -> Option<Instant> {
        let now = Instant::now();
        let mut waiting = self.waiting.lock();
        while let Some(Reverse(first)) = waiting.items.peek() {
            if first.due > now {
                return Some(first.due);
            }
            if let Some(Reverse(item)) = waiting.items.pop() {
                waiting.bytes -= item.bytes;
                arrived.push(item.what);
            }
        }
        None
    }
}
