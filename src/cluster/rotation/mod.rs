//! The rotation of the cluster's keys, as each node takes part in it: another cluster key and CA for all, another key
//! and certificate for each, while all of them serve.
//!
//! One step a pass, by what the log says and what this node's files hold: a change of leader, or a crash at any point,
//! costs time and nothing else. What is promised to the log is in the files before. The next cluster key reaches the
//! others in the log, sealed to keys that their present starts have in memory: neither a copy of a disk nor of the log
//! opens it.

mod plan;

use std::sync::Arc;
use std::time::{Duration, Instant};

use clawhub_consensus::{Consensus, ProposeError, Watcher, Who};
use clawhub_peer::{
    Ca, Certified, ClusterKey, Csr, Endpoint, KeyError, KeyFiles, Keyring, Keys, NodeKey, StartKey,
};
use clawhub_state::cluster::{ClusterCmd, Envelope, NodeRecord, RotationCmd};
use clawhub_state::{Command, Rejected, View};
use clawhub_types::{ClusterId, NodeId};

use self::plan::{Facts, Own, Step};
use crate::ClusterError;
use crate::proposal::PATIENCE;

/// How long after it has heard of the switch a node shows new keys: the others are to have heard of it, too.
const SETTLING: Duration = Duration::from_secs(1);

/// A node's part in the rotation of keys.
pub struct Rotation {
    consensus: Consensus,
    watcher: Watcher,
    endpoint: Endpoint,
    keys: Arc<KeyFiles>,
    start: StartKey,
    boot: u64,
    /// The generation that was switched to, and when this node has heard of it.
    switched: Option<(u64, Instant)>,
    /// What the endpoint shows and believes.
    told: Option<Told>,
}

/// What tells one keyring from another.
#[derive(Clone, PartialEq, Eq)]
struct Told {
    preferred: [u8; 32],
    shown: Vec<[u8; 32]>,
    believed: Vec<Vec<u8>>,
}

impl Rotation {
    /// Between two looks, where nothing is applied meanwhile.
    pub const EVERY: Duration = Duration::from_secs(1);
    /// Between two looks, however fast the log grows.
    pub const REST: Duration = Duration::from_millis(50);

    /// The part of the node that has `keys` and whose present start, counted by `boot`, has logged `start`.
    pub fn new(
        consensus: Consensus,
        endpoint: Endpoint,
        keys: Arc<KeyFiles>,
        start: StartKey,
        boot: u64,
    ) -> Rotation {
        let watcher = consensus.watch();
        Rotation { consensus, watcher, endpoint, keys, start, boot, switched: None, told: None }
    }

    /// What this start has others seal secrets to.
    pub fn start_key(&self) -> &[u8] {
        self.start.public()
    }

    /// Completes when there may be something to do: `false` if consensus has stopped.
    pub async fn wake(&mut self) -> bool {
        self.watcher.changed().await.is_some()
    }

    /// Has the files and the endpoint be as the state says, and takes this node's next step. Whether there was one.
    ///
    /// # Errors
    /// [`ClusterError`] if the state cannot be read, keys cannot be made or kept, or the step was not taken.
    pub async fn pass(&mut self) -> Result<bool, ClusterError> {
        let Some(facts) = self.facts()? else { return Ok(false) };
        self.settle(&facts).await?;
        let step = {
            let present = self.keys.present();
            let next = self.keys.next();
            let has = |keys: &Keys| (keys.certified.ca_cert.clone(), keys.certified.key.spki_sha256());
            let has: Vec<_> = next.iter().chain([&present]).map(|keys| has(keys)).collect();
            let has: Vec<_> = has.iter().map(|(ca, spki)| (ca.as_slice(), *spki)).collect();
            plan::next(&facts, &Own { node: self.consensus.node(), boot: self.boot, has: &has })
        };
        match step {
            Some(step) => self.take(&facts, step).await,
            None => Ok(false),
        }
    }

    /// Has the files and the endpoint be as the state says, before anybody is let in.
    ///
    /// # Errors
    /// See [`Rotation::pass`].
    pub async fn resume(&mut self) -> Result<(), ClusterError> {
        match self.facts()? {
            Some(facts) => self.settle(&facts).await,
            // A node that has just joined, or founds a cluster, has one generation of keys.
            None => Ok(()),
        }
    }

    fn facts(&self) -> Result<Option<Facts>, ClusterError> {
        let status = self.consensus.status();
        let state = self.consensus.state();
        let snapshot = state.snapshot();
        let view = View::new(&*snapshot).cluster();
        let Some(cluster) = view.record()? else { return Ok(None) };
        let keys = view.keys()?;
        let members = match keys.rotation.is_some() || keys.due.is_some() {
            true => view.nodes()?.into_iter().filter(|node| !node.removed).collect(),
            false => Vec::new(),
        };
        Ok(Some(Facts {
            cluster,
            keys,
            members,
            voters: status.voters,
            leads: self.consensus.leading_tick(),
        }))
    }

    /// Has the files and the endpoint be as the state says.
    async fn settle(&mut self, facts: &Facts) -> Result<(), ClusterError> {
        if let Some(next) = self.keys.next() {
            let rotation = facts.keys.rotation.as_ref();
            if next.certified.ca_cert == facts.cluster.ca_cert {
                self.blocking(|keys| keys.adopt()).await?;
                tracing::info!(generation = facts.keys.generation, "the keys of the cluster are replaced");
            } else if next.generation <= facts.keys.last
                && rotation.is_none_or(|rotation| rotation.ca_cert != next.certified.ca_cert)
            {
                self.blocking(|keys| keys.discard()).await?;
            }
        }
        self.tell(facts)
    }

    /// Has the endpoint show and believe what holds now.
    fn tell(&mut self, facts: &Facts) -> Result<(), ClusterError> {
        let present = self.keys.present();
        let next = self.keys.next().map(|next| next.certified.clone());
        let rotation = facts.keys.rotation.as_ref();
        let switched =
            rotation.filter(|rotation| rotation.switched.is_some()).map(|rotation| rotation.generation);
        if self.switched.map(|(generation, _)| generation) != switched {
            self.switched = switched.map(|generation| (generation, Instant::now()));
        }
        let keyring = Keyring {
            prefer_next: next.is_some()
                && self.switched.is_some_and(|(_, since)| since.elapsed() >= SETTLING),
            present: present.certified.clone(),
            next,
            next_ca: rotation.map(|rotation| rotation.ca_cert.clone()),
        };
        let told = Told::of(&keyring);
        if self.told.as_ref() != Some(&told) {
            let anew = self.told.as_ref().is_some_and(|before| before.preferred != told.preferred);
            self.endpoint.renew(&keyring, anew)?;
            // Whoever was let in by what is not believed any more.
            self.endpoint.review();
            self.told = Some(told);
        }
        Ok(())
    }

    async fn take(&self, facts: &Facts, step: Step) -> Result<bool, ClusterError> {
        let generation = facts.keys.rotation.as_ref().map_or(0, |rotation| rotation.generation);
        let node = self.consensus.node();
        let step = match step {
            Step::Begin => self.begin(facts).await?,
            Step::Open(sealed) => {
                self.open(facts, &sealed).await?;
                return Ok(true);
            }
            Step::Confirm(spki) => RotationCmd::Confirm { generation, node, spki },
            Step::Seal(starts) => {
                for start in starts {
                    let Some(next) = self.keys.next() else { break };
                    let envelope = envelope(&next.cluster_key, facts.cluster.id, generation, &start)?;
                    self.propose(RotationCmd::Seal { generation, envelope }).await?;
                }
                return Ok(true);
            }
            Step::Switch => RotationCmd::Switch { generation },
            Step::Finish => RotationCmd::Finish { generation },
        };
        self.propose(step).await
    }

    /// Makes the keys of the next generation. They are kept before anybody hears of them.
    async fn begin(&self, facts: &Facts) -> Result<RotationCmd, ClusterError> {
        let generation = facts.keys.last + 1;
        let cluster = facts.cluster.id;
        let cluster_key = ClusterKey::generate();
        let ca = Ca::create(cluster)?;
        let ca_cert = ca.cert_der().to_vec();
        let ca_key_sealed = ca.seal_key(&cluster_key);
        let known = facts.members.iter().filter(|member| !member.start_key.is_empty());
        let envelopes: Result<_, KeyError> =
            known.map(|member| envelope(&cluster_key, cluster, generation, member)).collect();
        self.keep(generation, &ca, cluster_key).await?;
        tracing::info!(generation, "the keys of the cluster are being replaced");
        Ok(RotationCmd::Begin { generation, ca_cert, ca_key_sealed, envelopes: envelopes? })
    }

    /// Opens the next cluster key, and with it the CA, and makes this node keys of the next generation.
    async fn open(&self, facts: &Facts, sealed: &[u8]) -> Result<(), ClusterError> {
        let Some(rotation) = &facts.keys.rotation else { return Ok(()) };
        let node = self.consensus.node();
        let context = context(facts.cluster.id, rotation.generation, node, self.boot);
        let cluster_key = self.start.open(&context, sealed)?;
        let ca = Ca::open(&rotation.ca_cert, &rotation.ca_key_sealed, &cluster_key)?;
        if ca.cluster() != facts.cluster.id {
            return Err(ClusterError::internal("the next CA is another cluster's"));
        }
        self.keep(rotation.generation, &ca, cluster_key).await
    }

    /// Makes this node a key and a certificate, and keeps them with the cluster key they are of.
    async fn keep(&self, generation: u64, ca: &Ca, cluster_key: ClusterKey) -> Result<(), ClusterError> {
        let key = NodeKey::generate()?;
        let cert = ca.issue(Csr::parse(&key.csr()?)?, self.consensus.node())?;
        let certified = Certified { key, cert, ca_cert: ca.cert_der().to_vec() };
        self.blocking(move |keys| keys.prepare(Keys { generation, certified, cluster_key })).await
    }

    async fn blocking(
        &self,
        work: impl FnOnce(&KeyFiles) -> Result<(), KeyError> + Send + 'static,
    ) -> Result<(), ClusterError> {
        let keys = self.keys.clone();
        let done = tokio::task::spawn_blocking(move || work(&keys)).await;
        Ok(done.map_err(|_| ClusterError::internal("the node is stopping"))??)
    }

    /// Whether it was applied. A step that is refused was taken already, or is not due any more.
    async fn propose(&self, step: RotationCmd) -> Result<bool, ClusterError> {
        let cmd = Command::Cluster(ClusterCmd::Rotation(step));
        match self.consensus.propose(cmd, Who::system(), PATIENCE).await {
            // Until this node has seen it, it would take the same step again.
            Ok(committed) => Ok(self.consensus.wait_applied(committed.index, PATIENCE).await),
            Err(ProposeError::Rejected(Rejected::Cluster(rejected))) => {
                tracing::debug!(%rejected, "a step of the rotation of keys was not due");
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Told {
    fn of(keyring: &Keyring) -> Told {
        let spki = |certified: &Certified| certified.key.spki_sha256();
        let shown: Vec<_> =
            [Some(&keyring.present), keyring.next.as_ref()].into_iter().flatten().map(spki).collect();
        let preferred = if keyring.prefer_next { shown.last() } else { shown.first() };
        let believed = [Some(&keyring.present.ca_cert), keyring.next_ca.as_ref()];
        Told {
            preferred: preferred.copied().unwrap_or_default(),
            believed: believed.into_iter().flatten().cloned().collect(),
            shown,
        }
    }
}

/// What an envelope is bound to.
fn context(cluster: ClusterId, generation: u64, node: NodeId, boot: u64) -> Vec<u8> {
    format!("{cluster}/{generation}/{node}/{boot}").into_bytes()
}

fn envelope(
    cluster_key: &ClusterKey,
    cluster: ClusterId,
    generation: u64,
    start: &NodeRecord,
) -> Result<Envelope, KeyError> {
    let context = context(cluster, generation, start.id, start.boot);
    let sealed = cluster_key.seal_to(&start.start_key, &context)?;
    Ok(Envelope { node: start.id, boot: start.boot, sealed })
}
