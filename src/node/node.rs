//! A node's way to being a member: it starts as the one that its data names, or becomes one when an operator
//! asks for it.
//!
//! Owned by the one task that runs the node, so that there is one way to become a member at a time. Nobody else is
//! given it: what others need is handed to them as handles when the node has started.

use std::sync::{Arc, OnceLock};

use clawhub_api_operator as operator;
use clawhub_cluster::{Bootstrap, BootstrapRequest, Cluster, ClusterError, Dismissal, Owner, bootstrap};
use clawhub_devices::Devices;
use clawhub_jobs::{Findings, Jobs};
use clawhub_peer::NodeKey;
use clawhub_state::View;

use crate::base::Base;
use crate::error::NodeError;
use crate::http::{PROTOCOLS, ReadyGates};
use crate::member::{Member, Slot};
use crate::reconcilers;
use crate::stack::Stack;
use crate::stop::Stop;

/// What is opened to others when the node runs as a member. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Doors {
    /// To the clients of each protocol.
    pub(crate) gates: ReadyGates,
    /// To the node's own pages.
    pub(crate) member: Slot,
    pub(crate) operators: Arc<OnceLock<operator::Member>>,
}

impl Doors {
    /// All of them closed.
    pub(crate) fn closed() -> Doors {
        Doors { gates: ReadyGates::new(PROTOCOLS), member: Slot::default(), operators: Arc::default() }
    }
}

pub(crate) struct Node {
    base: Base,
    bootstrap: Bootstrap,
    devices: Arc<Devices>,
    doors: Doors,
    stop: Stop,
    running: Option<Running>,
}

/// What runs once the node is a member.
struct Running {
    stack: Stack,
    jobs: Jobs,
    dismissal: Dismissal,
}

impl Node {
    /// A node that does not run as a member yet.
    pub(crate) fn new(
        base: Base,
        bootstrap: Bootstrap,
        devices: Arc<Devices>,
        doors: Doors,
        stop: Stop,
    ) -> Node {
        Node { base, bootstrap, devices, doors, stop, running: None }
    }

    /// Starts as the member that the data directory names, if it names one.
    ///
    /// # Errors
    /// [`NodeError`] if it cannot run.
    pub(crate) async fn resume(&mut self) -> Result<(), NodeError> {
        match self.base.dir.owner() {
            Some(owner) => self.start(owner).await,
            None => {
                tracing::info!("waiting for `clawhub cluster init` or `clawhub cluster join`");
                Ok(())
            }
        }
    }

    /// Becomes the member that an operator asks it to be, and starts as such.
    ///
    /// # Errors
    /// [`ClusterError`]; if it says that this is a member already, nothing was done.
    pub(crate) async fn fulfil(&mut self, request: BootstrapRequest) -> Result<Owner, ClusterError> {
        if let Some(owner) = self.base.dir.owner() {
            return Err(ClusterError::Precondition(format!("this is {owner} already")));
        }
        let owner = match request {
            BootstrapRequest::Init(durability) => {
                let key = NodeKey::load_or_create(&self.base.dir.node_key())?;
                let credentials = bootstrap::init(self.base.profile(), &key, durability)?;
                self.base.keep(&credentials).map_err(ClusterError::internal)?;
                tracing::info!(cluster = %credentials.owner.cluster, %durability, "founding a cluster");
                credentials.owner
            }
            BootstrapRequest::Join { addresses, token } => {
                // The same key at each attempt: a join that is repeated with it gets the same id.
                let key = NodeKey::load_or_create(&self.base.dir.node_key())?;
                let joined = bootstrap::join(self.base.profile(), &key, &addresses, &token);
                let credentials = tokio::select! {
                    joined = joined => joined?,
                    () = self.stop.told() => {
                        return Err(ClusterError::Unavailable("the node is stopping".to_owned()));
                    }
                };
                self.base.keep(&credentials).map_err(ClusterError::internal)?;
                let owner = credentials.owner;
                tracing::info!(cluster = %owner.cluster, node = %owner.node, "joined a cluster");
                owner
            }
        };
        self.bootstrap.set_owner(owner);
        // It cannot be nobody again: what fails here ends this life, and the next one tries again.
        if let Err(error) = self.start(owner).await {
            match error.is_damage() {
                true => self.stop.damaged(error.to_string()),
                false => self.stop.fault(error.to_string()),
            }
            return Err(ClusterError::internal(error));
        }
        Ok(owner)
    }

    /// Builds the parts of a member, and opens the doors.
    async fn start(&mut self, owner: Owner) -> Result<(), NodeError> {
        let (stack, rotation) = Stack::start(&self.base, owner, &self.stop).await?;
        self.finish_init(&stack, owner).await?;
        // One that has just joined does not know itself yet, and has nothing to say either.
        if let Some(known) = View::new(&*stack.consensus.state()).cluster().node(owner.node)? {
            self.base.warn_of_changes(&known.spec);
        }
        let dismissal = Dismissal::default();
        let jobs = reconcilers::start(&self.base, &stack, rotation, &dismissal, &self.devices, &self.stop);
        self.open_doors(&stack, jobs.findings());
        self.running = Some(Running { stack, jobs, dismissal });
        Ok(())
    }

    /// Goes on with the founding of the cluster, if this node was to found it and has not seen it done.
    async fn finish_init(&self, stack: &Stack, owner: Owner) -> Result<(), NodeError> {
        let Some(init) = self.base.store.pending_init()? else { return Ok(()) };
        let done = tokio::select! {
            done = bootstrap::finish_init(&stack.consensus, owner.cluster, &init) => done,
            () = self.stop.told() => return Err(NodeError::Fault("stopped while founding".into())),
        };
        done.inspect_err(|error| tracing::error!(%error, "the cluster cannot be founded"))?;
        Ok(self.base.store.set_pending_init(None)?)
    }

    /// Lets clients and operators in. A node starts once, so that each door is opened once.
    fn open_doors(&self, stack: &Stack, findings: Findings) {
        let registry = stack.registry.clone();
        let cluster = Cluster::new(stack.consensus.clone(), stack.liveness.clone(), stack.keys.clone());
        let blobs = stack.blobs.clone();
        let operators = operator::Member { cluster, blobs, findings: findings.clone() };
        let _ = self.doors.operators.set(operators);
        let _ = self.doors.member.set(Member {
            boot: self.base.boot.count,
            consensus: stack.consensus.clone(),
            blobs: stack.blobs.clone(),
            findings,
        });
        self.doors.gates.open(&clawhub_api_oci::PROTOCOL, clawhub_api_oci::routes(registry));
    }

    /// Stops what runs. Clients have been drained before.
    pub(crate) async fn stop(&mut self) {
        if let Some(Running { stack, jobs, dismissal }) = self.running.take() {
            jobs.stop().await;
            reconcilers::keep_refusal(&dismissal, &self.base.store);
            stack.stop().await;
        }
    }
}
