//! What an operator may ask of a member about its cluster.

use std::sync::Arc;
use std::time::Duration;

use clawhub_consensus::{Consensus, Status, Who};
use clawhub_liveness::Liveness;
use clawhub_peer::{JoinToken, KeyFiles};
use clawhub_policy::{Uncovered, coverable};
use clawhub_state::cluster::{ClusterCmd, ClusterReply, ClusterView, NodeRecord, RotationCmd};
use clawhub_state::{Command, Fault, Reply, View};
use clawhub_types::{Durability, NodeId, RoundTrip};
use tokio::time::{sleep, timeout};

use crate::proposal::{PATIENCE, propose};
use crate::{ClusterError, RemovalImpact, authority, decommission};

/// How long this node may take to hear of a new leader.
const HEARSAY: Duration = Duration::from_secs(5);

/// How long a new member may take to know the others.
const ACQUAINTANCE: Duration = Duration::from_secs(10);
/// How long a rotation takes, about, if all members are there.
const ROTATION: Duration = Duration::from_secs(15);
/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(100);

/// What a member's operators may ask about its cluster, and do to it. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    consensus: Consensus,
    liveness: Liveness,
    keys: Arc<KeyFiles>,
}

/// A member, as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What the log says of it.
    pub record: NodeRecord,
    /// `leader`, `voter`, `learner`, or `joining` as long as it is none of them.
    pub standing: &'static str,
    /// Whether it answered this node lately.
    pub reachable: bool,
}

/// The way from this node to another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The other member.
    pub node: NodeId,
    /// There and back, as measured last; `None` while there is no connection.
    pub round_trip: Option<Duration>,
    /// Whether that is longer than this node allows for.
    pub too_long: bool,
}

/// What this node knows of the cluster. Everything read from the state belongs to one index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overview {
    /// What consensus says.
    pub consensus: Status,
    /// The index that the state is of.
    pub applied: u64,
    /// The hash of the state at that index: equal on all nodes.
    pub state_hash: [u8; 32],
    /// The cluster's epoch; 0 before it is known.
    pub epoch: u64,
    /// The durability of projects that say nothing else, once it is known.
    pub durability: Option<Durability>,
    /// The cluster's clock, milliseconds.
    pub tick: u64,
    /// Its keys.
    pub keys: KeysOverview,
}

/// Which keys are in force, and what becomes of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysOverview {
    /// The generation in force.
    pub generation: u64,
    /// Members whose keys are of an older one: they were away, and come back as new nodes.
    pub left_behind: Vec<NodeId>,
    /// The generation that is to come, if one was asked for and is not in force yet.
    pub next: Option<u64>,
    /// Members that have not confirmed it yet; none once new keys are shown.
    pub waits_for: Vec<NodeId>,
    /// New keys are shown; the old ones are refused in a moment.
    pub switched: bool,
}

impl KeysOverview {
    fn of(view: &ClusterView<'_>) -> Result<KeysOverview, Fault> {
        let keys = view.keys()?;
        let members: Vec<_> = view.nodes()?.into_iter().filter(|node| !node.removed).collect();
        let ids = |which: &dyn Fn(&NodeRecord) -> bool| {
            members.iter().filter(|node| which(node)).map(|node| node.id).collect::<Vec<_>>()
        };
        let switched = keys.rotation.as_ref().is_some_and(|rotation| rotation.switched.is_some());
        let waits = keys.rotation.is_some() && !switched;
        Ok(KeysOverview {
            generation: keys.generation,
            left_behind: ids(&|node| node.generation < keys.generation),
            next: match &keys.rotation {
                Some(rotation) => Some(rotation.generation),
                None => keys.due.map(|_| keys.last + 1),
            },
            waits_for: ids(&|node| waits && node.next_spki.is_none()),
            switched,
        })
    }
}

impl Cluster {
    /// The cluster that a member takes part in.
    pub fn new(consensus: Consensus, liveness: Liveness, keys: Arc<KeyFiles>) -> Cluster {
        Cluster { consensus, liveness, keys }
    }

    /// Makes a token that lets one node join within `ttl`.
    ///
    /// # Errors
    /// [`ClusterError`]; the token is of no use then.
    pub async fn create_token(&self, ttl: Duration) -> Result<JoinToken, ClusterError> {
        self.keys_settled().await?;
        // The handle is let go of before anything is awaited: a snapshot that is installed meanwhile brings another
        // store.
        let ca = {
            let state = self.consensus.state();
            let cluster = View::new(&*state).cluster().record()?;
            let behind = || ClusterError::Unavailable("this node is catching up".to_owned());
            let cluster = cluster.ok_or_else(behind)?;
            authority::open(&cluster, &self.keys)?.0
        };
        let token = JoinToken::generate(ca.spki_sha256());
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        propose(&self.consensus, ClusterCmd::TokenCreate { hash: token.hash(), ttl }).await?;
        Ok(token)
    }

    /// Waits, for a while, until no rotation of keys is on its way: it takes the tokens that are made before its end. One
    /// that waits for members that are away is not waited for.
    async fn keys_settled(&self) -> Result<(), ClusterError> {
        let settled = async {
            loop {
                let keys = View::new(&*self.consensus.state()).cluster().keys()?;
                if keys.rotation.is_none() && keys.due.is_none() {
                    return Ok(());
                }
                sleep(AGAIN).await;
            }
        };
        timeout(ROTATION, settled).await.unwrap_or(Ok(()))
    }

    /// Has the keys of the cluster and of its members replaced, by a rotation that begins after this. Those that are
    /// away are waited for so long. Answers the generation that is to come.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn rotate_keys(&self, wait: Duration) -> Result<u64, ClusterError> {
        let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let ask = Command::Cluster(ClusterCmd::Rotation(RotationCmd::Ask { wait }));
        match self.consensus.propose(ask, Who::operator(), PATIENCE).await?.reply {
            Reply::Cluster(ClusterReply::Generation(generation)) => Ok(generation),
            other => Err(ClusterError::internal(format!("an unexpected answer: {other:?}"))),
        }
    }

    /// Begins to drain a member: the others make up for its copies. With `on` unset they rely on them again.
    /// Answers the log index of the command.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn drain(&self, node: NodeId, on: bool) -> Result<u64, ClusterError> {
        propose(&self.consensus, ClusterCmd::Drain { node, on }).await
    }

    /// Removes a member for good. Without `force` only if neither a majority nor a blob comes to harm by it: it
    /// drains first, so that from then on nobody relies on its copies.
    ///
    /// # Errors
    /// [`ClusterError::Precondition`] if it may not go without force; [`ClusterError::StillDraining`] if it failed
    /// after the node was told to drain.
    pub async fn remove(&self, node: NodeId, force: bool) -> Result<RemovalImpact, ClusterError> {
        decommission::remove(&self.consensus, node, force).await
    }

    /// Hands leadership to a voter, or to whichever is best. Who leads then, as far as this node knows.
    ///
    /// # Errors
    /// [`ClusterError`] if leadership did not move, or this node does not know where to.
    pub async fn transfer_leader(&self, to: Option<NodeId>) -> Result<NodeId, ClusterError> {
        self.consensus.membership().transfer_leader(to, PATIENCE).await?;
        // This node may learn of it a heartbeat later than the leader that answered.
        self.leader(to).await.ok_or_else(|| {
            ClusterError::Unavailable("leadership moved, and this node knows no leader yet".to_owned())
        })
    }

    /// Who leads, once this node has heard of a leader: of this one, if one is `wanted`.
    async fn leader(&self, wanted: Option<NodeId>) -> Option<NodeId> {
        let mut watcher = self.consensus.watch();
        let known = async {
            while let Some(status) = watcher.changed().await {
                if status.leader.is_some() && (wanted.is_none() || status.leader == wanted) {
                    return status.leader;
                }
            }
            None
        };
        let heard = timeout(HEARSAY, known).await.ok().flatten();
        heard.or_else(|| self.consensus.status().leader)
    }

    /// Every member.
    ///
    /// # Errors
    /// [`ClusterError::State`].
    pub fn members(&self) -> Result<Vec<Member>, ClusterError> {
        let status = self.consensus.status();
        let state = self.consensus.state();
        let nodes = View::new(&*state).cluster().nodes()?;
        let standing = |id: NodeId| match () {
            () if status.leader == Some(id) => "leader",
            () if status.voters.contains(&id) => "voter",
            () if status.learners.contains(&id) => "learner",
            () => "joining",
        };
        let member = |record: NodeRecord| Member {
            standing: standing(record.id),
            reachable: self.liveness.is_reachable(record.id),
            record,
        };
        Ok(nodes.into_iter().filter(|node| !node.removed).map(member).collect())
    }

    /// What the members lack for pushes to be taken under the cluster's own durability, as of everything acknowledged
    /// before the call: what to tell an operator who is adding one.
    ///
    /// # Errors
    /// [`ClusterError`] if this node does not know the members yet.
    pub async fn lacks(&self) -> Result<Option<Uncovered>, ClusterError> {
        // One that has just joined hears of the leader a moment later.
        let known = async {
            while self.consensus.barrier().await.is_err() {
                sleep(AGAIN).await;
            }
        };
        let late = |_| ClusterError::Unavailable("this node does not know the members yet".to_owned());
        timeout(ACQUAINTANCE, known).await.map_err(late)?;
        let state = self.consensus.state();
        let snapshot = state.snapshot();
        let view = View::new(&*snapshot).cluster();
        let Some(cluster) = view.record()? else { return Ok(None) };
        Ok(coverable(cluster.durability, &view.layout()?).err())
    }

    /// The ways to the other members, and the longest round trip that this node allows for.
    pub fn links(&self) -> (Vec<Link>, RoundTrip) {
        let limit = self.liveness.round_trip();
        // What a profile holds, it holds with jitter of a fifth.
        let longest = limit.length() * 6 / 5;
        let link = |(node, round_trip): (NodeId, Option<Duration>)| {
            let too_long = round_trip.is_some_and(|round_trip| round_trip > longest);
            Link { node, round_trip, too_long }
        };
        (self.liveness.round_trips().into_iter().map(link).collect(), limit)
    }

    /// What this node knows of the cluster now.
    ///
    /// # Errors
    /// [`ClusterError::State`].
    pub fn overview(&self) -> Result<Overview, ClusterError> {
        let consensus = self.consensus.status();
        let state = self.consensus.state();
        // The hash belongs to the index read with it.
        let snapshot = state.snapshot();
        let view = View::new(&*snapshot);
        let (applied, state_hash) = view.state_hash()?;
        let cluster = view.cluster().record()?;
        Ok(Overview {
            consensus,
            applied,
            state_hash,
            epoch: cluster.as_ref().map_or(0, |cluster| cluster.epoch),
            durability: cluster.map(|cluster| cluster.durability),
            tick: view.cluster().tick()?,
            keys: KeysOverview::of(&view.cluster())?,
        })
    }
}
