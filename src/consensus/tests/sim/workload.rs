//! Clients that move tags and read them, and remember what they were promised.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clawhub_consensus::{ProposeError, Who};
use clawhub_state::artifact::{ArtifactCmd, Body, Condition, ManifestFacts};
use clawhub_state::cluster::ClusterRejected;
use clawhub_state::{Command, Rejected, View};
use clawhub_types::{AccessRevisions, Actor, Digest, NodeId, RepoName, Tag};
use openraft::async_runtime::AsyncRuntime;
use openraft_rt_sim::SimRuntime;
use parking_lot::Mutex;
use rand::RngExt;

use crate::blobs::Blobs;
use crate::cluster::Cluster;
use crate::net::Node;

/// How long a client waits for a write.
pub(crate) const WAIT: Duration = Duration::from_secs(3);

pub(crate) fn repo() -> RepoName {
    "team/app".parse().unwrap()
}

/// The manifest that stands for a version of a tag.
pub(crate) fn digest(writer: u64, series: u64, version: u64) -> Digest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&writer.to_be_bytes());
    bytes[8..16].copy_from_slice(&series.to_be_bytes());
    bytes[16..24].copy_from_slice(&version.to_be_bytes());
    Digest::Sha256(bytes)
}

pub(crate) fn version(digest: &Digest) -> u64 {
    u64::from_be_bytes(digest.as_bytes()[16..24].try_into().unwrap())
}

/// What clients were told.
#[derive(Default)]
pub(crate) struct History {
    /// The greatest version of each tag that was acknowledged.
    pub(crate) acknowledged: BTreeMap<Tag, u64>,
    /// Every manifest that was acknowledged, and by which index.
    pub(crate) stored: Vec<(Digest, u64)>,
    /// Every manifest of which was said that it was not and will not be stored.
    pub(crate) refused: Vec<Digest>,
    pub(crate) unknown: u64,
    /// So many writes were refused since too few votes were left to outlive the loss of a zone.
    pub(crate) uncovered: u64,
    pub(crate) reads: u64,
    /// A description of every promise that was broken.
    pub(crate) broken: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct Workload {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) history: Arc<Mutex<History>>,
    pub(crate) blobs: Arc<Mutex<Blobs>>,
    pub(crate) stop: Arc<AtomicBool>,
}

impl Workload {
    pub(crate) fn new(cluster: &Arc<Cluster>) -> Workload {
        Workload {
            cluster: Arc::clone(cluster),
            history: Arc::default(),
            blobs: Arc::default(),
            stop: Arc::default(),
        }
    }

    pub(crate) fn running(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn any(&self) -> Option<(NodeId, Node)> {
        let nodes = self.cluster.running();
        let id = *nodes.get(SimRuntime::thread_rng().random_range(0..nodes.len().max(1)))?;
        self.cluster.node(id).map(|node| (id, node))
    }

    /// Writes down that a promise was broken.
    pub(crate) fn broke(&self, how: String) {
        self.history.lock().broken.push(how);
    }

    /// Whether a write was refused for want of votes, where that may be.
    pub(crate) fn is_uncovered(&self, error: &ProposeError) -> bool {
        let uncovered =
            matches!(error, ProposeError::Rejected(Rejected::Cluster(ClusterRejected::Uncovered(_))));
        let counts = uncovered && self.cluster.outlives_zones();
        if counts {
            self.history.lock().uncovered += 1;
        }
        counts
    }

    pub(crate) async fn pause(&self) {
        let ms = SimRuntime::thread_rng().random_range(1..40);
        SimRuntime::sleep(Duration::from_millis(ms)).await;
    }

    /// Moves a tag from version to version. Of every other writer each move is on condition that the one before
    /// it was the last: a second application would be refused, and so be found. A second one of the others'
    /// moves would take the tag back. After an unknown outcome it goes on with a fresh tag.
    pub(crate) async fn write(self, writer: u64) {
        let (mut series, mut next, mut last) = (0, 1, None);
        while self.running() {
            let Some((_, node)) = self.any() else {
                self.pause().await;
                continue;
            };
            let tag: Tag = format!("w{writer}-{series}").parse().unwrap();
            let moved = digest(writer, series, next);
            let condition = match &last {
                _ if writer % 2 == 1 => Condition::Any,
                Some(last) => Condition::Matches(vec![Digest::clone(last)]),
                None => Condition::Absent,
            };
            let cmd = put(&moved, &tag, condition);
            match node.propose(cmd, client(), WAIT).await {
                Ok(committed) => {
                    let mut history = self.history.lock();
                    history.acknowledged.insert(tag, next);
                    history.stored.push((moved.clone(), committed.index));
                    last = Some(moved);
                }
                Err(ProposeError::Unavailable(_)) => self.history.lock().refused.push(moved),
                Err(e) if self.is_uncovered(&e) => self.history.lock().refused.push(moved),
                Err(ProposeError::Unknown) => {
                    self.history.lock().unknown += 1;
                    (series, last) = (series + 1, None);
                }
                Err(e) => {
                    let told = format!("{tag} to {next}: {e}");
                    self.history.lock().broken.push(told);
                    (series, last) = (series + 1, None);
                }
            }
            next += 1;
            self.pause().await;
        }
    }

    /// Reads tags anywhere, after a barrier, and compares with what was acknowledged before.
    pub(crate) async fn read(self) {
        while self.running() {
            self.pause().await;
            let wanted = {
                let history = self.history.lock();
                let n = history.acknowledged.len();
                let pick = SimRuntime::thread_rng().random_range(0..n.max(1));
                history.acknowledged.iter().nth(pick).map(|(tag, version)| (tag.clone(), *version))
            };
            let (Some((tag, floor)), Some((id, node))) = (wanted, self.any()) else { continue };
            if node.barrier().await.is_err() {
                continue;
            }
            let Some(found) = look(&node, &tag) else { continue };
            let mut history = self.history.lock();
            history.reads += 1;
            if found < floor {
                history.broken.push(format!("stale: {tag} was {floor}, node {id} says {found}"));
            }
        }
    }
}

/// In whose name clients ask.
pub(crate) fn client() -> Who {
    Who { actor: Actor::anonymous(), access: AccessRevisions::default() }
}

fn put(digest: &Digest, tag: &Tag, condition: Condition) -> Command {
    let bytes = digest.as_bytes().to_vec();
    Command::Artifact(ArtifactCmd::Put {
        repo: repo(),
        digest: digest.clone(),
        facts: ManifestFacts {
            media_type: "application/vnd.oci.image.manifest.v1+json".parse().unwrap(),
            size: bytes.len() as u64,
            refs: vec![],
            parts: 0,
            subject: None,
            artifact_type: None,
            annotations: None,
        },
        body: Body::Inline(bytes),
        tags: vec![tag.clone()],
        condition,
    })
}

/// The version a tag has in a node's own state, 0 if it has none; `None` if the node just died.
pub(crate) fn look(node: &Node, tag: &Tag) -> Option<u64> {
    let state = node.state();
    let view = View::new(&*state);
    let Some(repo) = view.project().repo(&repo()).ok()? else { return Some(0) };
    Some(view.artifact().tag(&repo, tag).ok()?.map_or(0, |record| version(&record.digest)))
}
