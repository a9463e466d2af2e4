//! What every use case stands on: the layers below, a snapshot of the state, and proposing under a permit.
//!
//! Owns the handles of consensus and of those who move bytes, and no state of its own: a crash loses nothing
//! here.

use std::sync::Arc;
use std::time::Duration;

use clawhub_auth::{Act, Authorizer, Permit, Principal, Pull};
use clawhub_blobs::BlobStore;
use clawhub_consensus::{Consensus, ProposeError, Who};
use clawhub_kv::{Kv, KvRead};
use clawhub_policy::{Layout, Policy, Uncovered};
use clawhub_replicate::{ReplicaSpec, Replicate};
use clawhub_state::blob::BlobReply;
use clawhub_state::{Command, Outcome, Rejected, RequestRejected, View};
use clawhub_types::{AccessRevisions, NodeId, RepoName, Root};
use tokio::time::{Instant, sleep};

use crate::error::{Error, Kind, RETRY};
use crate::guard;

/// Between two looks at what a write waits for.
const AGAIN: Duration = Duration::from_millis(50);

/// Bounds of what one request may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a write or a read barrier may wait for the cluster before it answers 503.
    pub wait: Duration,
    /// How long a node that is cut off goes on answering GET by digest.
    pub cut_off: Duration,
}

pub(crate) struct Core {
    pub(crate) consensus: Consensus,
    pub(crate) replicate: Replicate,
    pub(crate) authorizer: Authorizer,
    pub(crate) limits: Limits,
}

impl Core {
    pub(crate) fn me(&self) -> NodeId {
        self.replicate.me()
    }

    pub(crate) fn blobs(&self) -> &BlobStore {
        self.replicate.blobs()
    }

    /// The live state. What reads more than one record takes a [`snapshot`](Self::snapshot).
    pub(crate) fn state(&self) -> Arc<dyn Kv> {
        self.consensus.state()
    }

    /// The state as this node has applied it by now, and as it stays for who reads it. It keeps files of the
    /// store from being removed: nobody holds it while bytes move.
    pub(crate) fn snapshot(&self) -> Arc<dyn KvRead> {
        self.state().owned_snapshot()
    }

    /// Waits until this node has applied everything that was acknowledged before the call.
    pub(crate) async fn barrier(&self) -> Result<u64, Error> {
        Ok(self.consensus.barrier().await?)
    }

    /// Decides, on the given state, whether somebody may do something.
    pub(crate) fn authorize<A: Act>(
        &self,
        state: &dyn KvRead,
        principal: &Principal,
        on: &A::On,
    ) -> Result<Permit<A>, Error> {
        Ok(self.authorizer.authorize(principal, on, &View::new(state))?)
    }

    /// The same once more, on the state as it is after a barrier: rights may have shrunk.
    async fn authorize_again<A: Act>(&self, permit: &Permit<A>) -> Result<Permit<A>, Error> {
        self.barrier().await?;
        let state = self.snapshot();
        Ok(self.authorizer.authorize_again(permit, &View::new(&*state))?)
    }

    /// Proposes what a client asked for, under the rights it was permitted with. A permit that apply finds
    /// stale is asked for once more, and the command proposed once more under the new one (invariant 19).
    ///
    /// # Errors
    /// A refusal of the new permit; a fault if the command lies outside of the permit, or of that of its
    /// source; unavailable. The inner error is the replicated answer.
    pub(crate) async fn propose<A: Act>(
        &self,
        permit: &Permit<A>,
        source: Option<&Permit<Pull>>,
        cmd: Command,
    ) -> Result<Outcome, Error> {
        guard::check(permit, source, &cmd)?;
        match self.propose_as(who(permit, source), cmd.clone()).await? {
            Err(Rejected::Request(RequestRejected::StalePermit)) => {
                let permit = self.authorize_again(permit).await?;
                let source = match source {
                    Some(source) => match self.authorize_again(source).await {
                        Ok(source) => Some(source),
                        // Who may read the source no more has nothing to mount, and uploads.
                        Err(Error { kind: Kind::Denied | Kind::Unauthenticated, .. }) => {
                            return Ok(Ok(BlobReply::NotMounted.into()));
                        }
                        Err(error) => return Err(error),
                    },
                    None => None,
                };
                self.propose_as(who(&permit, source.as_ref()), cmd).await
            }
            outcome => Ok(outcome),
        }
    }

    /// Proposes what the cluster itself wants.
    pub(crate) async fn propose_system(&self, cmd: Command) -> Result<Outcome, Error> {
        self.propose_as(Who::system(), cmd).await
    }

    async fn propose_as(&self, who: Who, cmd: Command) -> Result<Outcome, Error> {
        // Boxed: the compiler cannot prove the generic future `Send` once it is nested in others.
        let proposed = Box::pin(self.consensus.propose(cmd, who, self.limits.wait));
        match proposed.await {
            Ok(committed) => Ok(Ok(committed.reply)),
            Err(ProposeError::Rejected(rejected)) => Ok(Err(rejected)),
            Err(error) => Err(error.into()),
        }
    }

    /// The policy that binds a repository's blobs, and the nodes it is to be met with.
    pub(crate) fn placement(&self, repo: &RepoName) -> Result<(Policy, Layout), Error> {
        let state = self.snapshot();
        let view = View::new(&*state);
        Ok((view.project().policy_of(repo)?, view.cluster().layout()?))
    }

    /// Waits until the votes outlive what the repository's durability is about, while that can come by itself, as a
    /// write waits for a leader. Asked before anything is taken or proposed, for an answer in time; what is
    /// acknowledged is decided at apply, by the votes as of the entry.
    ///
    /// # Errors
    /// Unavailable, with what is missing.
    pub(crate) async fn wait_for_votes(&self, repo: &RepoName) -> Result<(), Error> {
        let deadline = Instant::now() + self.limits.wait;
        loop {
            let Err(uncovered) = self.votes(repo)? else { return Ok(()) };
            if !uncovered.is_passing() || Instant::now() >= deadline {
                return Err(Error::unavailable(RETRY, uncovered.to_string()));
            }
            sleep(AGAIN).await;
        }
    }

    fn votes(&self, repo: &RepoName) -> Result<Result<(), Uncovered>, Error> {
        let state = self.snapshot();
        let view = View::new(&*state);
        Ok(view.cluster().votes(view.project().policy_of(repo)?.durability)?)
    }

    /// What a copy of this root must turn out to be, if the state knows it.
    pub(crate) fn spec(&self, root: &Root) -> Result<Option<ReplicaSpec>, Error> {
        let state = self.state();
        let record = View::new(&*state).blob().root(root)?;
        Ok(record.map(|record| ReplicaSpec {
            root: *root,
            size: record.size,
            generation: record.generation,
            digests: record.digests,
            holders: record.holders,
        }))
    }
}

/// In whose name, and at which revisions, a command goes into the log. Apply compares the rights to both ends of
/// a mount.
fn who<A: Act>(permit: &Permit<A>, source: Option<&Permit<Pull>>) -> Who {
    let source = source.and_then(|source| source.access().project);
    Who { actor: permit.actor().clone(), access: AccessRevisions { source, ..permit.access() } }
}
