//! Which peers are alive and take copies: a ping to every member twice a second.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clawhub_peer::Class;
use clawhub_types::NodeId;
use clawhub_wire::blob as pb;
use futures::future::{BoxFuture, join_all};
use parking_lot::RwLock;

use crate::{FrameError, Replicate, ReplicateError, read_message, write_message};

const EVERY: Duration = Duration::from_millis(500);
/// A peer unheard of for longer is taken for dead. Pushes go on within three seconds of a death, and
/// this is the largest part of it.
const FRESH: Duration = Duration::from_millis(2500);
/// A peer unheard of for longer is asked after the others.
const RECENT: Duration = Duration::from_millis(1100);
const PATIENCE: Duration = Duration::from_secs(1);

/// Who answered, and when.
#[derive(Default)]
pub(crate) struct Table {
    seen: RwLock<HashMap<NodeId, Seen>>,
}

struct Seen {
    at: Instant,
    accepts: bool,
    clock: ClockReading,
    reaches: BTreeSet<NodeId>,
    stands: bool,
    clock_off_ms: i64,
}

/// A member's wall clock against this node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// How far it is ahead, milliseconds; negative if it is behind.
    pub ahead_ms: i64,
    /// By how much that may be wrong: half the round trip, milliseconds.
    pub slack_ms: i64,
}

/// This node's wall clock, milliseconds since 1970. For comparing, never for deciding when something ends.
pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Replicate {
    /// The members that answered lately and take copies; this node is one of them while its own store
    /// takes uploads.
    pub fn live(&self) -> Vec<NodeId> {
        let seen = self.inner.live.seen.read();
        let mut live: Vec<NodeId> =
            seen.iter().filter(|(_, s)| s.accepts && s.at.elapsed() < FRESH).map(|(node, _)| *node).collect();
        if self.inner.blobs.accepts() {
            live.push(self.inner.me);
        }
        live.sort_unstable();
        live
    }

    /// Whether a member answered lately, whatever it takes.
    pub fn is_reachable(&self, node: NodeId) -> bool {
        node == self.inner.me
            || self.inner.live.seen.read().get(&node).is_some_and(|s| s.at.elapsed() < FRESH)
    }

    /// The wall clocks of the members that answered lately.
    pub fn clocks(&self) -> Vec<(NodeId, ClockReading)> {
        let seen = self.inner.live.seen.read();
        seen.iter().filter(|(_, s)| s.at.elapsed() < FRESH).map(|(node, s)| (*node, s.clock)).collect()
    }

    /// The members that answered lately, and this node.
    pub fn reached(&self) -> BTreeSet<NodeId> {
        let seen = self.inner.live.seen.read();
        let heard = seen.iter().filter(|(_, s)| s.at.elapsed() < FRESH).map(|(node, _)| *node);
        heard.chain([self.inner.me]).collect()
    }

    /// Whom the members that answered lately reach themselves, as they said.
    pub fn reaches(&self) -> Vec<(NodeId, BTreeSet<NodeId>)> {
        let seen = self.inner.live.seen.read();
        let fresh = seen.iter().filter(|(_, s)| s.at.elapsed() < FRESH);
        fresh.map(|(node, s)| (*node, s.reaches.clone())).collect()
    }

    /// The members that answered lately and said that their storage is sound enough to lead.
    pub fn standing(&self) -> BTreeSet<NodeId> {
        let seen = self.inner.live.seen.read();
        seen.iter().filter(|(_, s)| s.stands && s.at.elapsed() < FRESH).map(|(node, _)| *node).collect()
    }

    /// Whether this node's storage is sound enough to lead; it is until somebody says otherwise.
    pub fn stands(&self) -> bool {
        self.inner.stands.load(Ordering::Relaxed)
    }

    /// Notes whether this node's storage is sound enough to lead. The others hear of it with the next ping.
    pub fn set_stands(&self, stands: bool) {
        self.inner.stands.store(stands, Ordering::Relaxed);
    }

    /// The members that answered lately and said that their wall clock is off, and how far it is ahead,
    /// milliseconds.
    pub fn off(&self) -> BTreeMap<NodeId, i64> {
        let seen = self.inner.live.seen.read();
        let off = seen.iter().filter(|(_, s)| s.clock_off_ms != 0 && s.at.elapsed() < FRESH);
        off.map(|(node, s)| (*node, s.clock_off_ms)).collect()
    }

    /// Notes how far this node's own wall clock is ahead of where it should be, milliseconds; 0 if it is right, or
    /// nobody knows. The others hear of it with the next ping.
    pub fn set_clock_off(&self, ms: i64) {
        self.inner.clock_off_ms.store(ms, Ordering::Relaxed);
    }

    /// Puts the nodes that answered in the last second before the others; their order stays otherwise.
    pub fn recent_first(&self, nodes: &mut [NodeId]) {
        let seen = self.inner.live.seen.read();
        let recent = |node: &NodeId| seen.get(node).is_some_and(|s| s.at.elapsed() < RECENT);
        nodes.sort_by_key(|node| *node != self.inner.me && !recent(node));
    }

    /// Runs what depends on a peer until it is done or the peer is taken for dead.
    ///
    /// # Errors
    /// [`ReplicateError::Unreachable`] if the peer died first.
    pub(crate) async fn while_alive<T>(
        &self,
        node: NodeId,
        work: impl Future<Output = Result<T, ReplicateError>>,
    ) -> Result<T, ReplicateError> {
        // A peer that is not heard of, perhaps because this node has just started, gets as long to show up.
        let (began, alive) = (Instant::now(), self.is_reachable(node));
        let dead = async {
            let mut look = tokio::time::interval(EVERY);
            loop {
                look.tick().await;
                if (alive || began.elapsed() > FRESH) && !self.is_reachable(node) {
                    return;
                }
            }
        };
        tokio::select! {
            done = work => done,
            () = dead => Err(ReplicateError::unreachable(node, "it stopped answering")),
        }
    }

    /// Pings every member now; returns when each answered or timed out.
    pub async fn refresh_live(&self) {
        let mut pings: Vec<BoxFuture<'_, ()>> = Vec::new();
        for facts in self.layout().nodes {
            if facts.id != self.inner.me {
                pings.push(Box::pin(self.ping(facts.id)));
            }
        }
        join_all(pings).await;
    }

    async fn ping(&self, node: NodeId) {
        let asked = Instant::now();
        let answer = tokio::time::timeout(PATIENCE, self.ask(node)).await;
        if let Ok(Ok(pong)) = answer {
            let clock = reading(asked, pong.wall_ms);
            let reaches = pong.reaches.iter().copied().map(NodeId).collect();
            let pb::Pong { accepts, stands, clock_off_ms, .. } = pong;
            let seen = Seen { at: Instant::now(), accepts, clock, reaches, stands, clock_off_ms };
            self.inner.live.seen.write().insert(node, seen);
        }
    }

    async fn ask(&self, node: NodeId) -> Result<pb::Pong, ReplicateError> {
        let gone = |error: FrameError| ReplicateError::unreachable(node, error);
        let (mut send, mut recv) = self
            .inner
            .endpoint
            .open(node, Class::Control)
            .await
            .map_err(|e| ReplicateError::peer(node, e))?;
        let request = pb::BlobRequest { op: Some(pb::blob_request::Op::Ping(pb::Ping {})) };
        write_message(&mut send, &request).await.map_err(gone)?;
        read_message(&mut recv, PATIENCE).await.map_err(gone)
    }
}

/// What a clock that was read in the middle between `asked` and now says.
fn reading(asked: Instant, wall: u64) -> ClockReading {
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let slack_ms = i64::try_from(asked.elapsed().as_millis() / 2).unwrap_or(i64::MAX);
    let middle = signed(wall_ms()).saturating_sub(slack_ms);
    ClockReading { ahead_ms: signed(wall).saturating_sub(middle), slack_ms }
}

/// Pings for as long as a handle exists.
pub(crate) fn watch(replicate: &Replicate) {
    let weak = Arc::downgrade(&replicate.inner);
    tokio::spawn(async move {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let Some(inner) = weak.upgrade() else { return };
            Replicate { inner }.refresh_live().await;
        }
    });
}
