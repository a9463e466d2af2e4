//! Who has a connection of a listener, and who gives way.
//!
//! A newcomer that finds no place gets that of the quietest connection without a request (RFC 9112, section 9.5): one
//! of the address that has most of them, or its own if it has its share. Where every connection is at work the newcomer
//! waits (`waiting`): in order, but for those whose network has its share, which are passed over. A place is taken for
//! as long as the connection or a handler that it began is there, since both hold memory.
//!
//! In memory; nothing outlives the process.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use clawhub_policy::may_have_more;
use clawhub_types::Network;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::traffic::Traffic;

/// The places of a listener.
pub(crate) struct Places {
    table: Mutex<Table>,
}

struct Table {
    /// How many may have a place.
    most: usize,
    by: HashMap<Network, usize>,
    /// How many more may speak HTTP/2.
    h2: usize,
    next: u64,
    connections: HashMap<u64, Entry>,
    /// Those that wait for a place, in the order in which they came.
    waiting: BTreeMap<u64, Waiting>,
}

struct Waiting {
    from: Network,
    /// It may have a place by now.
    called: Arc<Notify>,
}

/// A turn among those that wait for a place, until it is dropped.
pub(crate) struct Turn {
    places: Arc<Places>,
    from: Network,
    number: u64,
    called: Arc<Notify>,
}

/// Connections without a request.
#[derive(Default)]
struct Idle {
    /// Of the address that has most places, the one that has been without longest.
    quietest: Option<u64>,
    all: usize,
    /// Those of one address.
    own: usize,
}

struct Entry {
    from: Network,
    traffic: watch::Receiver<Traffic>,
    give_way: Arc<Notify>,
    h2: bool,
}

/// A connection's place. It is free again once every clone is dropped, or the connection gave way.
#[derive(Clone)]
pub(crate) struct Place(Arc<Held>);

struct Held {
    places: Arc<Places>,
    number: u64,
    from: Network,
    give_way: Arc<Notify>,
}

impl Places {
    /// So many places; on so many of them HTTP/2 may be spoken.
    pub(crate) fn new(connections: usize, h2: usize) -> Arc<Places> {
        let table = Table {
            most: connections,
            by: HashMap::new(),
            h2,
            next: 0,
            connections: HashMap::new(),
            waiting: BTreeMap::new(),
        };
        Arc::new(Places { table: Mutex::new(table) })
    }

    /// A place for a connection from there whose traffic can be seen there. `None` if there is none and nobody
    /// gives way.
    pub(crate) fn take(self: &Arc<Self>, from: IpAddr, traffic: &watch::Receiver<Traffic>) -> Option<Place> {
        self.admit(&mut self.table.lock(), from.into(), traffic)
    }

    /// A turn for a connection from there that waits for a place.
    pub(crate) fn queue(self: &Arc<Self>, from: IpAddr) -> Turn {
        let mut table = self.table.lock();
        let number = table.next;
        table.next += 1;
        Turn { places: self.clone(), from: from.into(), number, called: Arc::default() }
    }

    fn admit(
        self: &Arc<Self>,
        table: &mut Table,
        from: Network,
        traffic: &watch::Receiver<Traffic>,
    ) -> Option<Place> {
        if !may_have_more(table.of(from), table.free()) {
            let Idle { quietest, all, own } = table.idle(from, |_| true);
            // One without a request is as good as free.
            let may = may_have_more(table.of(from).saturating_sub(own), table.free() + all);
            let quietest = quietest.filter(|_| may)?;
            table.end(quietest);
        }
        *table.by.entry(from).or_default() += 1;
        let number = table.next;
        table.next += 1;
        let give_way = Arc::new(Notify::new());
        let entry = Entry { from, traffic: traffic.clone(), give_way: give_way.clone(), h2: false };
        table.connections.insert(number, entry);
        Some(Place(Arc::new(Held { places: self.clone(), number, from, give_way })))
    }
}

impl Turn {
    /// Waits for a place, however long that is.
    pub(crate) async fn place(&self, traffic: &watch::Receiver<Traffic>) -> Place {
        loop {
            {
                let mut table = self.places.table.lock();
                table.waiting.remove(&self.number);
                if let Some(place) = self.places.admit(&mut table, self.from, traffic) {
                    return place;
                }
                // Under one lock with the look, so that nothing becomes free in between.
                let waiting = Waiting { from: self.from, called: self.called.clone() };
                table.waiting.insert(self.number, waiting);
            }
            self.called.notified().await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut table = self.places.table.lock();
        if table.waiting.remove(&self.number).is_none() {
            // It was called, perhaps in vain: then the place is another's.
            table.call();
        }
    }
}

impl Table {
    fn of(&self, network: Network) -> usize {
        self.by.get(&network).copied().unwrap_or(0)
    }

    fn free(&self) -> usize {
        self.most.saturating_sub(self.connections.len())
    }

    /// Looks for connections without a request among those that fit.
    fn idle(&self, own: Network, fits: impl Fn(&Entry) -> bool) -> Idle {
        let mut idle = Idle::default();
        let mut best = None;
        for (number, entry) in self.connections.iter().filter(|(_, entry)| fits(entry)) {
            let Some(since) = entry.traffic.borrow().idle_since() else { continue };
            idle.all += 1;
            idle.own += usize::from(entry.from == own);
            let rank = (Reverse(self.of(entry.from)), since);
            if best.is_none_or(|best| rank < best) {
                best = Some(rank);
                idle.quietest = Some(*number);
            }
        }
        idle
    }

    /// A place is free, or a connection quiet: calls the first of those that may have it.
    fn call(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let mut idle: HashMap<Network, usize> = HashMap::new();
        for entry in self.connections.values().filter(|entry| entry.traffic.borrow().idle_since().is_some()) {
            *idle.entry(entry.from).or_default() += 1;
        }
        let all: usize = idle.values().sum();
        let may = |from: &Network| {
            let own = idle.get(from).copied().unwrap_or(0);
            may_have_more(self.of(*from).saturating_sub(own), self.free() + all)
        };
        let first = self.waiting.iter().find(|(_, waiting)| may(&waiting.from)).map(|(number, _)| *number);
        if let Some(waiting) = first.and_then(|number| self.waiting.remove(&number)) {
            waiting.called.notify_one();
        }
    }

    /// Asks a connection to end, and takes its place at once: without a request it holds nothing any more.
    fn end(&mut self, number: u64) {
        if let Some(entry) = self.remove(number) {
            entry.give_way.notify_one();
        }
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.connections.remove(&number)?;
        if let Some(count) = self.by.get_mut(&entry.from) {
            *count -= 1;
            if *count == 0 {
                self.by.remove(&entry.from);
            }
        }
        self.h2 += usize::from(entry.h2);
        Some(entry)
    }
}

impl Place {
    /// Where the connection comes from.
    pub(crate) fn network(&self) -> Network {
        self.0.from
    }

    /// The connection has ended a request: for somebody who waits it may be the one that gives way.
    pub(crate) fn is_quiet(&self) {
        self.0.places.table.lock().call();
    }

    /// Waits until the connection is to give way.
    pub(crate) async fn give_way(&self) {
        self.0.give_way.notified().await;
    }

    /// Notes that HTTP/2 is spoken, which takes more memory. Where there is no room for that the quietest of its kind
    /// gives way; whether there is room then.
    pub(crate) fn speaks_h2(&self) -> bool {
        let mut table = self.0.places.table.lock();
        if table.h2 == 0 {
            let Some(own) = table.connections.get(&self.0.number).map(|entry| entry.from) else {
                return false;
            };
            let Some(quietest) = table.idle(own, |entry| entry.h2).quietest else { return false };
            table.end(quietest);
        }
        let Some(entry) = table.connections.get_mut(&self.0.number) else { return false };
        entry.h2 = true;
        table.h2 -= 1;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut table = self.places.table.lock();
        // If it gave way, its place is another's by now.
        if table.remove(self.number).is_some() {
            table.call();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn from(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    struct Client {
        traffic: watch::Sender<Traffic>,
        place: Option<Place>,
    }

    impl Client {
        fn come(places: &Arc<Places>, n: u8) -> Client {
            let (traffic, seen) = watch::channel(Traffic::new());
            let place = places.take(from(n), &seen);
            Client { traffic, place }
        }

        fn work(self) -> Client {
            self.traffic.send_modify(Traffic::begin);
            self
        }

        async fn gave_way(&self) -> bool {
            let place = self.place.as_ref().unwrap();
            tokio::time::timeout(Duration::from_millis(10), place.give_way()).await.is_ok()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_quietest_gives_way_and_nobody_at_work_does() {
        let places = Places::new(3, 1);
        let busy = Client::come(&places, 1).work();
        tokio::time::advance(Duration::from_secs(1)).await;
        let quiet = Client::come(&places, 2);
        tokio::time::advance(Duration::from_secs(1)).await;
        let fresh = Client::come(&places, 3);
        tokio::time::advance(Duration::from_secs(1)).await;
        let newcomer = Client::come(&places, 4).work();
        assert!(newcomer.place.is_some());
        assert!(quiet.gave_way().await && !fresh.gave_way().await && !busy.gave_way().await);
        drop(quiet);
        let fresh = fresh.work();
        assert!(Client::come(&places, 5).place.is_none(), "its place went with it");
        drop(fresh);
        assert!(Client::come(&places, 5).place.is_some());
    }

    /// A connection that waits for a place.
    struct Patient {
        waiting: tokio::task::JoinHandle<Place>,
        _traffic: watch::Sender<Traffic>,
    }

    impl Patient {
        async fn wait(places: &Arc<Places>, n: u8) -> Patient {
            let (traffic, seen) = watch::channel(Traffic::new());
            traffic.send_modify(Traffic::begin);
            let turn = places.queue(from(n));
            let waiting = tokio::spawn(async move { turn.place(&seen).await });
            settle().await;
            Patient { waiting, _traffic: traffic }
        }

        async fn has_place(&self) -> bool {
            settle().await;
            self.waiting.is_finished()
        }
    }

    /// Lets everybody come as far as they can.
    async fn settle() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_free_place_passes_over_those_who_have_their_share() {
        let places = Places::new(5, 1);
        let mut greedy: Vec<_> = (0..4).map(|_| Client::come(&places, 1).work()).collect();
        let lone = Client::come(&places, 2).work();
        // All four fifths are theirs already.
        let mut patient = Vec::new();
        for _ in 0..3 {
            patient.push(Patient::wait(&places, 1).await);
        }
        let honest = Patient::wait(&places, 3).await;
        drop(lone);
        assert!(honest.has_place().await, "the only one that may have the place");
        for waiting in &patient {
            assert!(!waiting.has_place().await);
        }
        // One that ends a request is as good as free.
        let quiet = greedy.pop().unwrap();
        quiet.traffic.send_modify(Traffic::end);
        quiet.place.as_ref().unwrap().is_quiet();
        assert!(patient[0].has_place().await && quiet.gave_way().await && !patient[1].has_place().await);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_called_and_has_left_passes_the_place_on() {
        let places = Places::new(1, 1);
        let busy = Client::come(&places, 1).work();
        let (first, second) = (Patient::wait(&places, 2).await, Patient::wait(&places, 3).await);
        drop(busy);
        // Called, and gone before it has looked.
        first.waiting.abort();
        assert!(second.has_place().await);
        assert!(places.table.lock().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_most_gives_way_first() {
        let places = Places::new(10, 1);
        let lone = Client::come(&places, 1);
        tokio::time::advance(Duration::from_secs(100)).await;
        let many: Vec<_> = (0..20).map(|_| Client::come(&places, 2)).collect();
        let others: Vec<_> = (3..=10).map(|n| Client::come(&places, n)).collect();
        assert!(many.iter().chain(&others).all(|client| client.place.is_some()));
        assert!(!lone.gave_way().await, "although it was the quietest");
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_is_at_work_leaves_some_to_others() {
        let places = Places::new(10, 1);
        let greedy: Vec<_> = (0..8).map(|_| Client::come(&places, 1).work()).collect();
        assert!(greedy.iter().all(|client| client.place.is_some()));
        assert!(Client::come(&places, 1).place.is_none(), "it has four fifths");
        let others: Vec<_> = (2..4).map(|n| Client::come(&places, n)).collect();
        assert!(others.iter().all(|client| client.place.is_some()));
        let greedier = Client::come(&places, 1);
        assert!(greedier.place.is_none(), "what others have is not for it, idle or not");
        assert!(!others[0].gave_way().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_keeps_the_place_of_its_connection() {
        let places = Places::new(1, 1);
        let client = Client::come(&places, 1).work();
        let handler = client.place.clone();
        drop(client);
        assert!(Client::come(&places, 2).place.is_none());
        drop(handler);
        assert!(Client::come(&places, 2).place.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn http2_has_places_of_its_own() {
        let places = Places::new(10, 1);
        let (one, two) = (Client::come(&places, 1).work(), Client::come(&places, 2));
        assert!(one.place.as_ref().unwrap().speaks_h2());
        assert!(!two.place.as_ref().unwrap().speaks_h2(), "the only one is at work");
        one.traffic.send_modify(Traffic::end);
        assert!(two.place.as_ref().unwrap().speaks_h2());
        assert!(one.gave_way().await);
        drop((one, two));
        assert_eq!(places.table.lock().h2, 1);
    }
}
