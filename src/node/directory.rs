//! Who the members are, for the peer layer: the replicated state, and where it is silent the peers
//! that were last known.
//!
//! Owns the seed list in memory; the state is read at each question, since every answer may change
//! with the next entry applied.

use clawhub_consensus::StateStore;
use clawhub_peer::{Directory, Hello, PeerInfo};
use clawhub_state::cluster::NodeRecord;
use clawhub_state::{Fault, View};
use clawhub_types::NodeId;
use parking_lot::RwLock;

use crate::facts::Seed;

/// See the [module](self).
pub(crate) struct Members {
    state: StateStore,
    seeds: RwLock<Vec<Seed>>,
}

impl Members {
    /// Answers from `state`, and from `seeds` about nodes that it does not know yet.
    pub(crate) fn new(state: StateStore, seeds: Vec<Seed>) -> Members {
        Members { state, seeds: RwLock::new(seeds) }
    }

    /// The members as of now, as seeds for the next start; empty before the state knows any.
    ///
    /// # Errors
    /// [`Fault`] if the state cannot be read.
    pub(crate) fn current(&self) -> Result<Vec<Seed>, Fault> {
        let kv = self.state.kv();
        let members = View::new(&*kv).nodes()?.into_iter().filter(|node| !node.removed);
        let seed = |node: NodeRecord| Seed { node: node.id, addr: node.spec.peer_addr, spki: node.spec.spki };
        Ok(members.map(seed).collect())
    }

    /// Replaces the seeds.
    pub(crate) fn set_seeds(&self, seeds: Vec<Seed>) {
        *self.seeds.write() = seeds;
    }

    fn record(&self, node: NodeId) -> Result<Option<NodeRecord>, Fault> {
        let kv = self.state.kv();
        View::new(&*kv).node(node)
    }

    /// The highest id that the state knows.
    fn last(&self) -> Result<NodeId, Fault> {
        let kv = self.state.kv();
        Ok(View::new(&*kv).nodes()?.last().map_or(NodeId(0), |node| node.id))
    }

    /// About a node that the state does not know. Its certificate was issued by the cluster for this id,
    /// and ids are handed out in order by the log: if it is above all known ones, this state is behind,
    /// and perhaps that very node is the leader it must hear from to catch up.
    fn admit_unknown(&self, hello: &Hello, spki: &[u8; 32]) -> Result<(), String> {
        if let Some(seed) = self.seeds.read().iter().find(|seed| seed.node == hello.node) {
            return if seed.spki == *spki { Ok(()) } else { Err(OTHER_KEY.into()) };
        }
        if hello.node > self.last().map_err(unreadable)? { Ok(()) } else { Err(NO_MEMBER.into()) }
    }
}

/// What a removed node is told; it stops when it hears it.
pub(crate) const REMOVED: &str = "the node was removed from the cluster";
const NO_MEMBER: &str = "not a member of the cluster";
const OTHER_KEY: &str = "its key is not the member's";

fn unreadable(fault: Fault) -> String {
    tracing::error!(%fault, "the state cannot be read");
    "the state cannot be read".into()
}

impl Directory for Members {
    fn lookup(&self, node: NodeId) -> Option<PeerInfo> {
        match self.record(node) {
            Ok(Some(record)) if record.removed => return None,
            Ok(Some(record)) => {
                return Some(PeerInfo { addr: record.spec.peer_addr, spki: record.spec.spki });
            }
            Ok(None) => (),
            Err(fault) => {
                unreadable(fault);
            }
        }
        let seeds = self.seeds.read();
        let seed = seeds.iter().find(|seed| seed.node == node)?;
        Some(PeerInfo { addr: seed.addr.clone(), spki: seed.spki })
    }

    fn admit(&self, hello: &Hello, spki: &[u8; 32]) -> Result<(), String> {
        let Some(record) = self.record(hello.node).map_err(unreadable)? else {
            return self.admit_unknown(hello, spki);
        };
        if record.removed {
            return Err(REMOVED.into());
        }
        if record.spec.spki != *spki {
            return Err(OTHER_KEY.into());
        }
        // Equal is the present one: it registered, and goes on connecting.
        if hello.boot < record.boot {
            return Err(format!(
                "boot {} is not above {}, seen before: an old copy of its data, or a second process with it",
                hello.boot, record.boot
            ));
        }
        Ok(())
    }
}
