//! A network of channels between simulated nodes: seeded delays, cuts, and nodes that come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use clawhub_consensus::transport::*;
use clawhub_consensus::{Consensus, ServeError};
use clawhub_types::NodeId;
use futures::SinkExt;
use futures::channel::mpsc;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt};
use openraft::async_runtime::AsyncRuntime;
use openraft_rt_sim::SimRuntime;
use parking_lot::Mutex;
use rand::RngExt;

pub(crate) type Node = Consensus<SimRuntime>;

/// One question of so many is delivered twice,
const REPEATED: u32 = 40;
/// and the second time within this.
const LATE_MS: u64 = 3_000;
/// How long a message takes that does not get there, until its sender notices.
const NOTICED: Duration = Duration::from_millis(150);

#[derive(Default)]
pub(crate) struct Net {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Who is there, and in which life.
    nodes: BTreeMap<NodeId, (u64, Node)>,
    lives: u64,
    /// Directed links that carry nothing.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Pieces of snapshots that are to arrive damaged.
    damage: u32,
    /// Whether some questions are delivered twice, and how many were.
    repeats: bool,
    repeated: u64,
    /// What this node forwards stays on the way.
    held: Option<NodeId>,
    /// How far everybody is from everybody, if not near.
    distance: Option<Distance>,
}

/// One way over a long line.
#[derive(Clone, Copy)]
pub(crate) struct Distance {
    pub(crate) delay: Duration,
    /// Shorter or longer by up to this.
    pub(crate) jitter: Duration,
    /// One message in so many is lost and sent again, as a kernel does.
    pub(crate) loss: Option<u32>,
}

/// The transport of one life of a node.
pub(crate) struct Link {
    net: Arc<Net>,
    me: NodeId,
    life: u64,
}

impl Net {
    /// A transport for a node that is about to start.
    pub(crate) fn link(self: &Arc<Self>, me: NodeId) -> Link {
        let mut inner = self.inner.lock();
        inner.lives += 1;
        Link { net: Arc::clone(self), me, life: inner.lives }
    }

    pub(crate) fn join(&self, link_life: u64, node: Node) {
        self.inner.lock().nodes.insert(node.node(), (link_life, node));
    }

    pub(crate) fn leave(&self, node: NodeId) {
        self.inner.lock().nodes.remove(&node);
    }

    /// Cuts a node off from the others, or one direction only.
    pub(crate) fn cut(&self, from: NodeId, to: NodeId) {
        self.inner.lock().cut.insert((from, to));
    }

    /// Keeps what a node forwards on the way until `None` is held, whoever gives it up meanwhile.
    pub(crate) fn hold(&self, from: Option<NodeId>) {
        self.inner.lock().held = from;
    }

    /// The next so many pieces of snapshots arrive damaged.
    pub(crate) fn damage(&self, pieces: u32) {
        self.inner.lock().damage = pieces;
    }

    /// How many of them have not come yet.
    pub(crate) fn undamaged(&self) -> u32 {
        self.inner.lock().damage
    }

    /// From now on some questions are delivered twice.
    pub(crate) fn repeat(&self) {
        self.inner.lock().repeats = true;
    }

    /// How many questions were delivered twice.
    pub(crate) fn repeated(&self) -> u64 {
        self.inner.lock().repeated
    }

    fn perhaps_damaged(&self, part: SnapshotPart) -> SnapshotPart {
        let mut inner = self.inner.lock();
        match part {
            SnapshotPart::Data { file, offset, bytes } if inner.damage > 0 && !bytes.is_empty() => {
                inner.damage -= 1;
                let mut bytes = bytes.to_vec();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                SnapshotPart::Data { file, offset, bytes: bytes.into() }
            }
            part => part,
        }
    }

    pub(crate) fn heal(&self) {
        self.inner.lock().cut.clear();
    }

    /// From now on everybody is that far from everybody.
    pub(crate) fn spread(&self, distance: Distance) {
        self.inner.lock().distance = Some(distance);
    }

    /// One way.
    async fn delay(&self) {
        let distance = self.inner.lock().distance;
        SimRuntime::sleep(distance.map_or_else(near, far)).await;
    }
}

impl Link {
    pub(crate) fn life(&self) -> u64 {
        self.life
    }

    fn copy(&self) -> Link {
        Link { net: Arc::clone(&self.net), me: self.me, life: self.life }
    }

    /// The other end, if a message sent now would get there and its answer back.
    fn reach(&self, to: NodeId) -> Result<Node, TransportError> {
        let inner = self.net.inner.lock();
        let cut = inner.cut.contains(&(self.me, to)) || inner.cut.contains(&(to, self.me));
        let alive = inner.nodes.get(&self.me).is_none_or(|(life, _)| *life == self.life);
        match inner.nodes.get(&to) {
            Some((_, node)) if alive && !cut => Ok(node.clone()),
            _ => Err(TransportError::Unreachable(format!("{} cannot reach {to}", self.me))),
        }
    }

    /// Delivers a question and its answer. Now and then the question arrives once more, perhaps much later, and
    /// nobody hears the second answer.
    fn call<T: Send + 'static>(
        &self,
        to: NodeId,
        ask: impl Fn(Node) -> BoxFuture<'static, Result<T, ServeError>> + Clone + Send + 'static,
    ) -> Reply<T> {
        if self.net.inner.lock().repeats && SimRuntime::thread_rng().random_range(0..REPEATED) == 0 {
            self.again(to, ask.clone());
        }
        self.once(to, ask)
    }

    fn again<T: Send + 'static>(
        &self,
        to: NodeId,
        ask: impl Fn(Node) -> BoxFuture<'static, Result<T, ServeError>> + Send + 'static,
    ) {
        let net = Arc::clone(&self.net);
        drop(SimRuntime::spawn(async move {
            let late = SimRuntime::thread_rng().random_range(0..LATE_MS);
            SimRuntime::sleep(Duration::from_millis(late)).await;
            // Who asked may have died since: what it sent is on its way all the same.
            let node = net.inner.lock().nodes.get(&to).map(|(_, node)| node.clone());
            if let Some(node) = node {
                net.inner.lock().repeated += 1;
                drop(ask(node).await);
            }
        }));
    }

    /// Delivers a question and its answer, each with a delay, each perhaps not.
    fn once<T: Send + 'static>(
        &self,
        to: NodeId,
        ask: impl FnOnce(Node) -> BoxFuture<'static, Result<T, ServeError>> + Send + 'static,
    ) -> Reply<T> {
        let link = self.copy();
        async move {
            link.net.delay().await;
            let node = match link.reach(to) {
                Ok(node) => node,
                Err(e) => return lost(e).await,
            };
            let answer = ask(node).await.map_err(|e| TransportError::Broken(e.to_string()));
            link.net.delay().await;
            match link.reach(to) {
                Ok(_) => answer,
                Err(e) => lost(e).await,
            }
        }
        .boxed()
    }
}

async fn lost<T>(e: TransportError) -> Result<T, TransportError> {
    SimRuntime::sleep(NOTICED).await;
    Err(e)
}

/// Mostly a millisecond or two, now and then many.
fn near() -> Duration {
    let mut rng = SimRuntime::thread_rng();
    let micros = if rng.random_range(0..50) == 0 {
        rng.random_range(5_000..60_000)
    } else {
        rng.random_range(200..2_500)
    };
    Duration::from_micros(micros)
}

fn far(distance: Distance) -> Duration {
    let Distance { delay, jitter, loss } = distance;
    let mut rng = SimRuntime::thread_rng();
    let mut late = Duration::ZERO;
    let mut resend = 2 * (delay + jitter) + Duration::from_millis(200);
    while loss.is_some_and(|one_in| rng.random_range(0..one_in) == 0) {
        late += resend;
        resend *= 2;
    }
    delay + late + jitter.mul_f64(rng.random_range(-1.0..1.0_f64) + 1.0) - jitter
}

/// Carries a stream over, in order, until the link fails.
fn carry<T: Send + 'static>(
    link: Link,
    to: NodeId,
    mut from: BoxStream<'static, T>,
) -> BoxStream<'static, T> {
    let (mut tx, rx) = mpsc::channel(8);
    drop(SimRuntime::spawn(async move {
        while let Some(message) = from.next().await {
            link.net.delay().await;
            if link.reach(to).is_err() || tx.send(message).await.is_err() {
                return;
            }
        }
    }));
    rx.boxed()
}

impl Transport for Link {
    fn append(
        &self,
        to: NodeId,
        _: Channel,
        requests: BoxStream<'static, AppendRequest>,
    ) -> BoxStream<'static, Result<AppendAnswer, TransportError>> {
        let link = self.copy();
        let open = async move {
            let node = match link.reach(to) {
                Ok(node) => node,
                Err(e) => return stream::once(lost(e)).boxed(),
            };
            let replies = node.rpc().append(carry(link.copy(), to, requests), || true);
            let state = Some((link, replies));
            let carried = stream::unfold(state, move |state| async move {
                let (link, mut replies) = state?;
                let reply = replies.next().await;
                link.net.delay().await;
                match (reply, link.reach(to)) {
                    (Some(Ok(reply)), Ok(_)) => Some((Ok(reply), Some((link, replies)))),
                    (Some(Err(e)), Ok(_)) => Some((Err(TransportError::Broken(e.to_string())), None)),
                    (None, Ok(_)) => None,
                    (_, Err(e)) => Some((lost(e).await, None)),
                }
            });
            carried.boxed()
        };
        open.into_stream().flatten().boxed()
    }

    fn vote(&self, to: NodeId, request: VoteRequest, pre: bool) -> Reply<VoteReply> {
        self.call(to, move |node| {
            let request = request.clone();
            async move { node.rpc().vote(request, pre).await }.boxed()
        })
    }

    fn transfer(&self, to: NodeId, request: TransferRequest) -> Reply<bool> {
        self.call(to, move |node| {
            let request = request.clone();
            async move { node.rpc().transfer(request).await }.boxed()
        })
    }

    fn snapshot(&self, to: NodeId, parts: BoxStream<'static, SnapshotPart>) -> Reply<SnapshotReply> {
        let net = Arc::clone(&self.net);
        let parts = carry(self.copy(), to, parts.map(move |part| net.perhaps_damaged(part)).boxed());
        // Not repeated: a transfer that comes again is another one.
        self.once(to, move |node| async move { node.rpc().snapshot(parts).await }.boxed())
    }

    fn forward(&self, to: NodeId, request: ForwardRequest) -> Reply<ForwardReply> {
        let from = self.me;
        if self.net.inner.lock().held == Some(from) {
            let link = self.copy();
            let late = SimRuntime::spawn(async move {
                while link.net.inner.lock().held.is_some() {
                    SimRuntime::sleep(Duration::from_millis(1)).await;
                }
                let node = link.reach(to)?;
                Ok(node.rpc().forward(from, request).await)
            });
            return async move { late.await.unwrap() }.boxed();
        }
        self.call(to, move |node| {
            let request = request.clone();
            async move { Ok(node.rpc().forward(from, request).await) }.boxed()
        })
    }

    fn read_index(&self, to: NodeId, request: ReadIndexRequest) -> Reply<ReadIndexReply> {
        let from = self.me;
        self.call(to, move |node| async move { Ok(node.rpc().read_index(from, request).await) }.boxed())
    }

    fn change(&self, to: NodeId, change: Change, ttl: Duration) -> Reply<ChangeReply> {
        // Not repeated: a removal that comes once more after the node has returned removes it, and rightly.
        self.once(to, move |node| async move { Ok(node.rpc().change(change, ttl).await) }.boxed())
    }
}
