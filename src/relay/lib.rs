//! A wide-area network on one machine: a relay through which everything goes that nodes say to each other, in
//! user space, over loopback.
//!
//! Every node is advertised at an address of the relay and listens at another one. Each ordered pair of nodes is a
//! link of its own with a [`Shape`]: delay, jitter, loss, reordering, rate. Who speaks is told by the address that
//! a packet comes from, so that nodes need addresses (127.0.0.2, 127.0.0.3, …) of their own; Linux has them.
//!
//! **What is like the earth and what is not.** Datagrams are late, lost and overtaken one by one. A TCP connection
//! costs a round trip before its first byte, and each piece that is lost holds up what follows for as long as a
//! kernel waits before it sends again. It has no congestion window: a long transfer starts at full speed.
//!
//! **Precision.** Timers of Tokio go off at whole milliseconds: everything may be 1 ms late, and waits in between
//! are rounded up to that.
//!
//! **State and limits.** In memory only; all of it ends when the [`Relay`] is dropped. A link holds 32 MiB at most for
//! each connection over it: what is beyond is lost (UDP) or not read (TCP). A node is reached by at most 256
//! TCP connections and as many UDP peers at once.

mod line;
mod link;
mod shape;
mod tcp;
mod udp;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};

pub use link::Counted;
pub use shape::{Shape, ShapeError};

use link::Link;

/// Threads that carry packets.
const THREADS: usize = 2;

/// Where a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where others believe it to be: the relay listens there, TCP and UDP.
    pub advertised: SocketAddr,
    /// Where it listens. No other node has this IP address.
    pub node: SocketAddr,
}

/// A running relay. It stops when it is dropped, and with it every connection that it carries.
pub struct Relay {
    runtime: Option<Runtime>,
    links: Arc<Links>,
}

impl Relay {
    /// Listens at every advertised address. `shape(from, to)` says what a link does, by the places of its ends.
    ///
    /// # Errors
    /// If an address cannot be had.
    pub fn start(places: &[Place], shape: impl Fn(usize, usize) -> Shape) -> io::Result<Relay> {
        let links = Arc::new(Links::new(places, shape));
        let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
        {
            let _here = runtime.enter();
            for (to, place) in places.iter().enumerate() {
                let tcp = tcp::Listener::bind(*place, to, links.clone())?;
                let udp = udp::Listener::bind(*place, to, links.clone())?;
                runtime.spawn(tcp.run());
                runtime.spawn(udp.run());
            }
        }
        Ok(Relay { runtime: Some(runtime), links })
    }

    /// From now on a link does this. What is under way goes on as it began.
    pub fn set(&self, from: usize, to: usize, shape: Shape) {
        self.links.between(Some(from), Some(to)).set(shape);
    }

    /// From now on nothing gets from one node to another, and nobody is told. Bytes of TCP wait.
    pub fn cut(&self, from: usize, to: usize) {
        self.links.between(Some(from), Some(to)).cut(true);
    }

    /// Makes every link whole again.
    pub fn heal(&self) {
        self.links.all().for_each(|link| link.cut(false));
    }

    /// What has passed a link so far.
    pub fn counted(&self, from: usize, to: usize) -> Counted {
        self.links.between(Some(from), Some(to)).counted()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Without waiting: it may be dropped within another runtime.
            runtime.shutdown_background();
        }
    }
}

/// The links of all ordered pairs, and who is who.
struct Links {
    nodes: HashMap<IpAddr, usize>,
    /// Row by row: from the first to each, from the second to each, …
    pairs: Vec<Arc<Link>>,
    count: usize,
    /// For whoever is no node: a tool, a test. Nothing is done to it.
    plain: Arc<Link>,
}

impl Links {
    fn new(places: &[Place], shape: impl Fn(usize, usize) -> Shape) -> Links {
        let count = places.len();
        let seeds = (0..count * count).zip(1..);
        let pairs = seeds.map(|(at, seed)| Arc::new(Link::new(shape(at / count, at % count), seed)));
        Links {
            nodes: places.iter().enumerate().map(|(at, place)| (place.node.ip(), at)).collect(),
            pairs: pairs.collect(),
            count,
            plain: Arc::new(Link::new(Shape::default(), 0)),
        }
    }

    /// The node that speaks from this address.
    fn who(&self, address: SocketAddr) -> Option<usize> {
        self.nodes.get(&address.ip()).copied()
    }

    fn between(&self, from: Option<usize>, to: Option<usize>) -> &Arc<Link> {
        let at = from.zip(to).map(|(from, to)| from * self.count + to);
        at.and_then(|at| self.pairs.get(at)).unwrap_or(&self.plain)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Link>> {
        self.pairs.iter()
    }
}
