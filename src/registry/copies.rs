//! Copies on enough nodes, before a command that counts on them is applied.
//!
//! Owns nothing. A crash loses copies that nobody has recorded yet; they are found and recorded when they are
//! needed.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use clawhub_auth::{Permit, Pull, Push};
use clawhub_policy::{Layout, Policy, partners, satisfied};
use clawhub_replicate::ReplicaSpec;
use clawhub_state::blob::{BlobCmd, BlobRejected, BlobReply};
use clawhub_state::cluster::ClusterRejected;
use clawhub_state::{Command, Outcome, Rejected, Reply, View};
use clawhub_types::{Digest, NodeId, Receipt, RepoName, Root};

use crate::Error;
use crate::core::Core;
use crate::error::RETRY;

/// How often a command is proposed whose blobs are short of copies, making copies in between.
const TRIES: usize = 3;

/// Proposes what needs copies, and has them made. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Copies {
    core: Arc<Core>,
}

/// In whose name something is proposed that needs copies, and how long they may take.
pub(crate) struct Wish<'p> {
    pub(crate) permit: &'p Permit<Push>,
    /// For a mount: the right to read where the blob comes from.
    pub(crate) source: Option<&'p Permit<Pull>>,
    /// How long making copies may take, each time.
    pub(crate) limit: Duration,
    /// What the client is told if they cannot be made.
    pub(crate) short: &'static str,
}

impl Copies {
    pub(crate) fn new(core: Arc<Core>) -> Copies {
        Copies { core }
    }

    /// Proposes a command. While apply finds blobs short of copies, makes copies and proposes it again.
    ///
    /// # Errors
    /// Unavailable with the wish's sentence if too few copies could be made, or with what the votes lack; those of a
    /// proposal. The inner error is any other replicated refusal.
    pub(crate) async fn commit_with_copies(&self, wish: &Wish<'_>, cmd: &Command) -> Result<Outcome, Error> {
        self.attempt(wish, cmd, &mut (0..TRIES)).await
    }

    /// The same, with as many proposals as `tries` has left.
    async fn attempt(
        &self,
        wish: &Wish<'_>,
        cmd: &Command,
        tries: &mut Range<usize>,
    ) -> Result<Outcome, Error> {
        let short = || Error::unavailable(RETRY, wish.short);
        let mut refused = short();
        while tries.next().is_some() {
            self.core.wait_for_votes(wish.permit.on()).await?;
            match self.core.propose(wish.permit, wish.source, cmd.clone()).await? {
                Err(Rejected::Blob(BlobRejected::NeedCopies(roots))) => {
                    let copies = tokio::time::timeout(wish.limit, self.more(wish.permit, &roots)).await;
                    copies.map_err(|_| short())??;
                }
                // Votes have moved since. This node must see where to before it judges once more.
                Err(rejected @ Rejected::Cluster(ClusterRejected::Uncovered(_))) => {
                    refused = rejected.into();
                    self.core.barrier().await?;
                }
                outcome => return Ok(outcome),
            }
        }
        Err(refused)
    }

    /// Binds a digest to bytes that are already durable, and links the blob in the permit's repository. Makes
    /// the copies that are still missing.
    pub(crate) async fn commit_blob(
        &self,
        permit: &Permit<Push>,
        digest: &Digest,
        receipts: Vec<Receipt>,
    ) -> Result<(), Error> {
        let repo = permit.on();
        let short = "too few copies could be made for the project's durability policy";
        let wish = Wish { permit, source: None, limit: Duration::MAX, short };
        let mut receipts = self.enough(repo, receipts).await?;
        let mut tries = 0..TRIES;
        loop {
            let cmd =
                BlobCmd::Commit { repo: repo.clone(), digest: digest.clone(), receipts: receipts.clone() };
            match self.attempt(&wish, &Command::Blob(cmd), &mut tries).await? {
                Ok(_) => return Ok(()),
                // The root began a new generation, or a holder deleted since: what is here counts anew.
                Err(Rejected::Blob(BlobRejected::BadReceipt)) => {
                    receipts = self.renewed(repo, receipts).await?
                }
                Err(rejected) => return Err(rejected.into()),
            }
        }
    }

    /// Links a blob of the source's repository in the permit's; `false` if there is none to link.
    pub(crate) async fn mount(
        &self,
        to: &Permit<Push>,
        from: &Permit<Pull>,
        digest: &Digest,
    ) -> Result<bool, Error> {
        let short = "the blob has too few copies for this project and no more could be made";
        let wish = Wish { permit: to, source: Some(from), limit: Duration::MAX, short };
        let cmd = BlobCmd::Mount { from: from.on().clone(), to: to.on().clone(), digest: digest.clone() };
        let reply = self.commit_with_copies(&wish, &Command::Blob(cmd)).await??;
        Ok(matches!(reply, Reply::Blob(BlobReply::Linked { .. })))
    }

    /// Whether a repository links a blob that has the copies its policy asks for, after everything acknowledged.
    pub(crate) async fn is_complete(&self, repo: &RepoName, digest: &Digest) -> Result<bool, Error> {
        self.core.barrier().await?;
        let state = self.core.snapshot();
        let view = View::new(&*state);
        let Some(at) = view.project().repo(repo)? else { return Ok(false) };
        let Some(link) = view.blob().link(&at, digest)? else { return Ok(false) };
        let holders = view.blob().root(&link.root)?.map(|record| record.holders).unwrap_or_default();
        Ok(satisfied(&view.project().policy_of(repo)?, &view.cluster().layout()?, &holders))
    }

    /// Receipts for the root's present generation, beginning with this node's own copy.
    async fn renewed(&self, repo: &RepoName, stale: Vec<Receipt>) -> Result<Vec<Receipt>, Error> {
        let Some(root) = stale.first().map(|receipt| receipt.root) else { return Ok(stale) };
        let own = self.core.blobs().receipt(&root, self.generation(&root)?).await?;
        let gone = || Error::unavailable(RETRY, "the copy here was deleted meanwhile; upload the blob again");
        self.enough(repo, vec![own.ok_or_else(gone)?]).await
    }

    /// Adds receipts of further nodes until, with the holders that the state knows, the repository's
    /// policy is met.
    pub(crate) async fn enough(
        &self,
        repo: &RepoName,
        mut receipts: Vec<Receipt>,
    ) -> Result<Vec<Receipt>, Error> {
        let Some(first) = receipts.first().cloned() else { return Ok(receipts) };
        let (policy, layout) = self.core.placement(repo)?;
        let mut holders = self.holders(&first.root)?;
        holders.extend(receipts.iter().map(|receipt| receipt.node));
        holders.sort_unstable();
        holders.dedup();
        let spec = ReplicaSpec {
            root: first.root,
            size: first.size,
            generation: first.generation,
            digests: first.digests,
            holders,
        };
        if !satisfied(&policy, &layout, &spec.holders) {
            let liveness = self.core.replicate.liveness();
            let mut candidates =
                partners(&policy, &layout, self.core.me(), &liveness.accepting(), &spec.root.0);
            liveness.recent_first(&mut candidates);
            receipts.extend(self.make(&spec, &candidates, &policy, &layout).await);
        }
        Ok(receipts)
    }

    /// Copies blobs that the state already knows until the repository's policy is met, and has the new
    /// holders recorded, as part of what the client does.
    async fn more(&self, permit: &Permit<Push>, roots: &[Root]) -> Result<(), Error> {
        let repo = permit.on();
        let mut receipts = Vec::new();
        for root in roots {
            let Some(spec) = self.core.spec(root)? else { continue };
            let (policy, layout) = self.core.placement(repo)?;
            let live = self.core.replicate.liveness().accepting();
            let anchor = spec.holders.first().copied().unwrap_or(self.core.me());
            let mut candidates = partners(&policy, &layout, anchor, &live, &root.0);
            // Partners come first; a copy on any other node that the policy admits is better than a 503.
            let admitted = |id: &NodeId| layout.node(*id).is_some_and(|node| policy.admits(node));
            let others = live.iter().filter(|node| !candidates.contains(node) && admitted(node));
            candidates.extend(others.copied().collect::<Vec<_>>());
            receipts.extend(self.make(&spec, &candidates, &policy, &layout).await);
        }
        if !receipts.is_empty() {
            let cmd = BlobCmd::Ensured { repo: repo.clone(), receipts };
            self.core.propose(permit, None, Command::Blob(cmd)).await??;
        }
        Ok(())
    }

    async fn make(
        &self,
        spec: &ReplicaSpec,
        candidates: &[NodeId],
        policy: &Policy,
        layout: &Layout,
    ) -> Vec<Receipt> {
        let enough = |holders: &[NodeId]| satisfied(policy, layout, holders);
        self.core.replicate.ensure(spec, candidates, enough).await
    }

    /// The generation that receipts for this root are made for.
    pub(crate) fn generation(&self, root: &Root) -> Result<u64, Error> {
        let state = self.core.state();
        Ok(View::new(&*state).blob().root(root)?.map_or(1, |record| record.generation))
    }

    fn holders(&self, root: &Root) -> Result<Vec<NodeId>, Error> {
        Ok(self.core.spec(root)?.map(|spec| spec.holders).unwrap_or_default())
    }
}
