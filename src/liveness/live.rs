//! The last answer of each member, and the round of questions that brings it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clawhub_peer::frame::FrameError;
use clawhub_peer::{Endpoint, SendStream};
use clawhub_types::{NodeId, RoundTrip, StatePoint};
use futures::future::join_all;
use parking_lot::{Mutex, RwLock};
use tokio::time::{interval, timeout};

use crate::clock;
use crate::exchange;
use crate::report::{OwnReport, Report};

/// Between two rounds of questions.
pub const HEARTBEAT: Duration = Duration::from_millis(500);

/// How long a member is waited for, by the round trip that the node allows for.
#[derive(Clone, Copy)]
struct Patience {
    /// It may take so long to answer.
    answer: Duration,
    /// Unheard of for longer it is taken for dead. On a short way pushes go on within three seconds of a death, and
    /// this is the largest part of it.
    fresh: Duration,
    /// Unheard of for longer it is asked after the others.
    recent: Duration,
}

impl Patience {
    fn of(way: RoundTrip) -> Patience {
        Patience {
            answer: way.within(1, Duration::from_millis(900)),
            // Two answers in a row may fail to come.
            fresh: way.within(2, Duration::from_millis(2300)),
            recent: way.within(1, Duration::from_millis(1000)),
        }
    }
}

/// Who is alive. Clones share it.
#[derive(Clone)]
pub struct Liveness {
    inner: Arc<Inner>,
}

struct Inner {
    me: NodeId,
    way: RoundTrip,
    patience: Patience,
    endpoint: Endpoint,
    members: Box<dyn Fn() -> Vec<NodeId> + Send + Sync>,
    accepts: Box<dyn Fn() -> bool + Send + Sync>,
    heard: RwLock<HashMap<NodeId, Heard>>,
    own: Mutex<Own>,
}

/// A report, and when it came.
struct Heard {
    at: Instant,
    report: Report,
}

impl Heard {
    fn within(&self, limit: Duration) -> bool {
        self.at.elapsed() < limit
    }
}

/// What the layers above say of this node.
struct Own {
    eligible: bool,
    clock_skew_ms: Option<i64>,
    points: Vec<StatePoint>,
}

impl Liveness {
    /// Nobody is heard yet. [`refresh`](Self::refresh), called every [`HEARTBEAT`], asks those that `members`
    /// names, whether or not it names this node, `me`. `accepts` says whether this node's own store takes uploads;
    /// `way` is the longest round trip to a member that is allowed for.
    pub fn new(
        me: NodeId,
        way: RoundTrip,
        endpoint: Endpoint,
        members: impl Fn() -> Vec<NodeId> + Send + Sync + 'static,
        accepts: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Liveness {
        let inner = Inner {
            me,
            way,
            patience: Patience::of(way),
            endpoint,
            members: Box::new(members),
            accepts: Box::new(accepts),
            heard: RwLock::default(),
            own: Mutex::new(Own { eligible: true, clock_skew_ms: None, points: Vec::new() }),
        };
        Liveness { inner: Arc::new(inner) }
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.inner.me
    }

    /// The longest round trip to a member that is allowed for: waits for one are made of it.
    pub fn round_trip(&self) -> RoundTrip {
        self.inner.way
    }

    /// The other members, and the round trip to each as it was measured last.
    pub fn round_trips(&self) -> BTreeMap<NodeId, Option<Duration>> {
        let others = (self.inner.members)().into_iter().filter(|node| *node != self.inner.me);
        others.map(|node| (node, self.inner.endpoint.round_trip(node))).collect()
    }

    /// The members that answered lately and take copies; this node is one of them while its own store
    /// takes uploads.
    pub fn accepting(&self) -> Vec<NodeId> {
        let heard = self.inner.heard.read();
        let peers = heard.iter().filter(|(_, heard)| self.inner.is_fresh(heard) && heard.report.accepts);
        let mut accepting: Vec<NodeId> = peers.map(|(node, _)| *node).collect();
        if (self.inner.accepts)() {
            accepting.push(self.inner.me);
        }
        accepting.sort_unstable();
        accepting
    }

    /// Whether a member answered lately, whatever it takes.
    pub fn is_reachable(&self, node: NodeId) -> bool {
        node == self.inner.me
            || self.inner.heard.read().get(&node).is_some_and(|heard| self.inner.is_fresh(heard))
    }

    /// The members that answered lately, and this node.
    pub fn reachable(&self) -> BTreeSet<NodeId> {
        self.inner.reachable()
    }

    /// What the members that answered lately say of themselves; this node is not among them.
    pub fn reports(&self) -> BTreeMap<NodeId, Report> {
        let heard = self.inner.heard.read();
        let fresh = heard.iter().filter(|(_, heard)| self.inner.is_fresh(heard));
        fresh.map(|(node, heard)| (*node, heard.report.clone())).collect()
    }

    /// Whether this node's storage is sound enough to lead; it is until somebody says otherwise.
    pub fn is_eligible(&self) -> bool {
        self.inner.own.lock().eligible
    }

    /// Notes whether this node's storage is sound enough to lead. The others hear of it when they ask next.
    pub fn set_eligible(&self, eligible: bool) {
        self.inner.own.lock().eligible = eligible;
    }

    /// Notes this node's state at the last indices at which all nodes note theirs, latest first. The others hear of it
    /// when they ask next.
    pub fn set_points(&self, points: Vec<StatePoint>) {
        self.inner.own.lock().points = points;
    }

    /// Judges this node's own wall clock by those of the voters that answered lately: how far it is ahead of where
    /// it should be, milliseconds, negative if it is behind; `None` if it is right, or nobody knows. The others
    /// hear of it when they ask next.
    pub fn judge_clock(&self, voters: &[NodeId]) -> Option<i64> {
        let clocks: Vec<_> = self.reports().into_iter().map(|(node, report)| (node, report.clock)).collect();
        let skew = clock::skew(&clocks, voters);
        self.inner.own.lock().clock_skew_ms = skew;
        skew
    }

    /// Puts the nodes that answered in the last moment before the others; their order stays otherwise.
    pub fn recent_first(&self, nodes: &mut [NodeId]) {
        let heard = self.inner.heard.read();
        let recent =
            |node: &NodeId| heard.get(node).is_some_and(|heard| heard.within(self.inner.patience.recent));
        nodes.sort_by_key(|node| *node != self.inner.me && !recent(node));
    }

    /// Completes when a peer is taken for dead.
    pub async fn lost(&self, node: NodeId) {
        let began = Instant::now();
        // A peer that is not heard of, perhaps because this node has just started, gets as long to show up.
        let alive = self.is_reachable(node);
        let mut look = interval(HEARTBEAT);
        loop {
            look.tick().await;
            if (alive || began.elapsed() > self.inner.patience.fresh) && !self.is_reachable(node) {
                return;
            }
        }
    }

    /// Asks every member now; returns when each has answered or has taken too long.
    pub async fn refresh(&self) {
        self.inner.refresh().await;
    }

    /// Answers a member that asks whether this node is there.
    ///
    /// # Errors
    /// [`FrameError`] if it leaves before it has the answer.
    pub async fn answer(&self, send: SendStream) -> Result<(), FrameError> {
        exchange::answer(self.inner.report(), send).await
    }
}

impl Inner {
    fn is_fresh(&self, heard: &Heard) -> bool {
        heard.within(self.patience.fresh)
    }

    fn reachable(&self) -> BTreeSet<NodeId> {
        let heard = self.heard.read();
        let peers = heard.iter().filter(|(_, heard)| self.is_fresh(heard)).map(|(node, _)| *node);
        peers.chain([self.me]).collect()
    }

    fn report(&self) -> OwnReport {
        let reaches = self.reachable();
        let own = self.own.lock();
        OwnReport {
            accepts: (self.accepts)(),
            eligible: own.eligible,
            clock_skew_ms: own.clock_skew_ms,
            reaches,
            points: own.points.clone(),
        }
    }

    async fn refresh(&self) {
        let others = (self.members)().into_iter().filter(|node| *node != self.me);
        join_all(others.map(|node| self.ask(node))).await;
    }

    /// A member that does not answer is not noted: its last answer grows old by itself.
    async fn ask(&self, node: NodeId) {
        let patience = self.patience.answer;
        if let Ok(Ok(report)) = timeout(patience, exchange::ask(&self.endpoint, node, patience)).await {
            self.heard.write().insert(node, Heard { at: Instant::now(), report });
        }
    }
}
