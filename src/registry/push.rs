//! Pushing blobs: uploads on whichever node owns the session, mounts, and the commit that binds a
//! digest to its bytes.

use clawhub_auth::Permit;
use clawhub_consensus::ProposeError;
use clawhub_consensus::Who;
use clawhub_policy::{partners, satisfied};
use clawhub_replicate::Wanted;
use clawhub_state::blob::{BlobCmd, BlobRejected, BlobReply};
use clawhub_state::project::ProjectRejected;
use clawhub_state::{Command, Rejected, Reply, View};
use clawhub_types::{AccessRevisions, Algorithm, Digest, Digests, NodeId, Receipt, RepoName, Root, UploadId};

use crate::error::RETRY;
use crate::forward::Step;
use crate::session::Chunk;
use crate::{BodyStream, Error, Registry, UploadView};

/// A commit that is short of copies is proposed again so often.
const COMMITS: usize = 3;

impl Registry {
    /// Opens an upload session, on this node if it stores blobs of the project, else on one that does.
    ///
    /// # Errors
    /// 503 while the project's durability policy cannot be met with the nodes that are alive; 507 below
    /// the free-space limit.
    pub async fn begin_upload(
        &self,
        permit: &Permit,
        repo: &RepoName,
        hint: Option<Algorithm>,
    ) -> Result<UploadView, Error> {
        let sha512 = hint == Some(Algorithm::Sha512);
        let owner = self.upload_owner(repo)?;
        if owner == self.me() {
            return self.own_begin(repo, sha512).await;
        }
        self.forward_for_position(permit, repo, owner, None, Step::Begin { sha512 }, None).await
    }

    /// Appends a chunk to an upload.
    ///
    /// # Errors
    /// 416 for a chunk out of order, `SIZE_INVALID`, `BLOB_UPLOAD_UNKNOWN`, 503, 507.
    pub async fn append_upload(
        &self,
        permit: &Permit,
        repo: &RepoName,
        id: UploadId,
        range: Option<(u64, u64)>,
        length: Option<u64>,
        body: BodyStream,
    ) -> Result<UploadView, Error> {
        let chunk = Chunk { range, length, body };
        if id.node == self.me() {
            return self.own_append(repo, id, chunk).await;
        }
        self.forward_for_position(permit, repo, id.node, Some(id), Step::Append, Some(chunk)).await
    }

    /// Ends an upload: a last chunk, possibly empty, and the digest that all of it must have.
    ///
    /// # Errors
    /// As [`append_upload`](Self::append_upload), and `DIGEST_INVALID`; the session then goes on.
    #[expect(clippy::too_many_arguments, reason = "one parameter for each thing the request carries")]
    pub async fn finish_upload(
        &self,
        permit: &Permit,
        repo: &RepoName,
        id: UploadId,
        digest: &Digest,
        range: Option<(u64, u64)>,
        length: Option<u64>,
        body: BodyStream,
    ) -> Result<Digest, Error> {
        let chunk = Chunk { range, length, body };
        if id.node == self.me() {
            self.own_finish(permit, repo, id, digest, chunk).await?;
        } else {
            let step = Step::Finish { digest: digest.clone() };
            self.forward_to_end(permit, repo, id, step, Some(chunk)).await?;
        }
        Ok(digest.clone())
    }

    /// A whole blob in one request.
    ///
    /// # Errors
    /// As [`finish_upload`](Self::finish_upload); nothing is left behind.
    pub async fn push_blob(
        &self,
        permit: &Permit,
        repo: &RepoName,
        digest: &Digest,
        length: Option<u64>,
        body: BodyStream,
    ) -> Result<Digest, Error> {
        let upload = self.begin_upload(permit, repo, Some(digest.algorithm())).await?;
        let pushed = self.finish_upload(permit, repo, upload.id, digest, None, length, body).await;
        if pushed.is_err() {
            // The client never learns the session's address; without this it would stay until it expires.
            let _ = self.cancel_upload(permit, repo, upload.id).await;
        }
        pushed
    }

    /// Where an upload stands.
    ///
    /// # Errors
    /// `BLOB_UPLOAD_UNKNOWN`; 503 if its owner cannot be reached.
    pub async fn upload_status(
        &self,
        permit: &Permit,
        repo: &RepoName,
        id: UploadId,
    ) -> Result<UploadView, Error> {
        if id.node == self.me() {
            return self.own_status(repo, id).await;
        }
        self.forward_for_position(permit, repo, id.node, Some(id), Step::Status, None).await
    }

    /// Forgets an upload.
    ///
    /// # Errors
    /// `BLOB_UPLOAD_UNKNOWN`; 503 if its owner cannot be reached.
    pub async fn cancel_upload(&self, permit: &Permit, repo: &RepoName, id: UploadId) -> Result<(), Error> {
        if id.node == self.me() {
            return self.own_cancel(repo, id).await;
        }
        self.forward_to_end(permit, repo, id, Step::Cancel, None).await
    }

    /// Links a blob of another repository; `false` if there is none to link and the client must upload.
    /// Without `from`, or without the right to read it, there is none.
    ///
    /// # Errors
    /// 503.
    pub async fn mount(
        &self,
        to: &Permit,
        from: Option<&Permit>,
        repo: &RepoName,
        source: Option<&RepoName>,
        digest: &Digest,
    ) -> Result<bool, Error> {
        let (Some(from), Some(source)) = (from, source) else { return Ok(false) };
        // Apply compares the rights to both repositories.
        let access = AccessRevisions { source: from.access().project, ..to.access() };
        let who = Who { actor: to.actor().clone(), access };
        for _ in 0..COMMITS {
            let cmd = BlobCmd::Mount { from: source.clone(), to: repo.clone(), digest: digest.clone() };
            match self.propose_as(who.clone(), Command::Blob(cmd)).await {
                Ok(committed) => return Ok(matches!(committed.reply, Reply::Blob(BlobReply::Linked { .. }))),
                Err(ProposeError::Rejected(Rejected::Blob(BlobRejected::NeedCopies(roots)))) => {
                    self.more_copies(repo, &roots).await?
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::unavailable(
            RETRY,
            "the blob has too few copies for this project and no more could be made",
        ))
    }

    /// Removes a repository's link to a blob.
    ///
    /// # Errors
    /// `BLOB_UNKNOWN`; `UNSUPPORTED` (405) naming a manifest that references it.
    pub async fn delete_blob(&self, permit: &Permit, repo: &RepoName, digest: &Digest) -> Result<(), Error> {
        let cmd = BlobCmd::Unlink { repo: repo.clone(), digest: digest.clone() };
        match self.propose(permit, Command::Blob(cmd)).await {
            Ok(_) => Ok(()),
            // A DELETE of a blob answers about the blob, whatever is missing.
            Err(ProposeError::Rejected(Rejected::Project(ProjectRejected::NameUnknown))) => {
                Err(Rejected::from(BlobRejected::BlobUnknown).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Binds a digest to bytes that are already durable, and links the blob in the repository. Makes the
    /// copies that are still missing.
    pub(crate) async fn commit_blob(
        &self,
        permit: &Permit,
        repo: &RepoName,
        digest: &Digest,
        receipts: Vec<Receipt>,
    ) -> Result<(), Error> {
        let mut receipts = self.enough_copies(repo, receipts).await?;
        for _ in 0..COMMITS {
            let cmd =
                BlobCmd::Commit { repo: repo.clone(), digest: digest.clone(), receipts: receipts.clone() };
            match self.propose(permit, Command::Blob(cmd)).await {
                Ok(_) => return Ok(()),
                Err(ProposeError::Rejected(Rejected::Blob(BlobRejected::NeedCopies(roots)))) => {
                    self.more_copies(repo, &roots).await?
                }
                // The root began a new generation, or a holder deleted since: what is here counts anew.
                Err(ProposeError::Rejected(Rejected::Blob(BlobRejected::BadReceipt))) => {
                    receipts = self.renewed(repo, receipts).await?
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::unavailable(RETRY, "too few copies could be made for the project's durability policy"))
    }

    /// Receipts for the root's present generation, beginning with this node's own copy.
    async fn renewed(&self, repo: &RepoName, stale: Vec<Receipt>) -> Result<Vec<Receipt>, Error> {
        let Some(root) = stale.first().map(|receipt| receipt.root) else { return Ok(stale) };
        let own = self.blobs().receipt(&root, self.generation(&root)?);
        let gone = || Error::unavailable(RETRY, "the copy here was deleted meanwhile; upload the blob again");
        self.enough_copies(repo, vec![own.ok_or_else(gone)?]).await
    }

    /// Adds receipts of further nodes until, with the holders that the state knows, the repository's
    /// policy is met.
    pub(crate) async fn enough_copies(
        &self,
        repo: &RepoName,
        mut receipts: Vec<Receipt>,
    ) -> Result<Vec<Receipt>, Error> {
        let Some(first) = receipts.first().cloned() else { return Ok(receipts) };
        let (policy, layout) = self.placement(repo)?;
        let mut holders = self.holders(&first.root)?;
        holders.extend(receipts.iter().map(|receipt| receipt.node));
        holders.sort_unstable();
        holders.dedup();
        let wanted = wanted(&first.root, first.size, first.generation, &first.digests, holders);
        if !satisfied(&policy, &layout, &wanted.holders) {
            let mut candidates = partners(
                &policy,
                &layout,
                self.me(),
                &self.inner.replicate.liveness().accepting(),
                &first.root.0,
            );
            self.inner.replicate.liveness().recent_first(&mut candidates);
            let more =
                self.inner.replicate.ensure(&wanted, &candidates, |h| satisfied(&policy, &layout, h)).await;
            receipts.extend(more);
        }
        Ok(receipts)
    }

    /// Copies blobs that the state already knows until the repository's policy is met, and has the new
    /// holders recorded.
    pub(crate) async fn more_copies(&self, repo: &RepoName, roots: &[Root]) -> Result<(), Error> {
        let mut receipts = Vec::new();
        for root in roots {
            let Some(wanted) = self.wanted(root)? else { continue };
            let (policy, layout) = self.placement(repo)?;
            let live = self.inner.replicate.liveness().accepting();
            let anchor = wanted.holders.first().copied().unwrap_or(self.me());
            let mut candidates = partners(&policy, &layout, anchor, &live, &root.0);
            let admitted = |id: &NodeId| layout.node(*id).is_some_and(|node| policy.admits(node));
            let others = live.iter().filter(|node| !candidates.contains(node) && admitted(node));
            candidates.extend(others.copied().collect::<Vec<_>>());
            receipts.extend(
                self.inner.replicate.ensure(&wanted, &candidates, |h| satisfied(&policy, &layout, h)).await,
            );
        }
        if !receipts.is_empty() {
            self.propose_system(Command::Blob(BlobCmd::Hold { receipts })).await?;
        }
        Ok(())
    }

    /// The generation that receipts for this root are made for.
    pub(crate) fn generation(&self, root: &Root) -> Result<u64, Error> {
        let state = self.state();
        Ok(View::new(&*state).blob().root(root)?.map_or(1, |record| record.generation))
    }

    /// What a copy of this root must turn out to be.
    pub(crate) fn wanted(&self, root: &Root) -> Result<Option<Wanted>, Error> {
        let state = self.state();
        let record = View::new(&*state).blob().root(root)?;
        Ok(record.map(|r| wanted(root, r.size, r.generation, &r.digests, r.holders)))
    }

    fn holders(&self, root: &Root) -> Result<Vec<NodeId>, Error> {
        Ok(self.wanted(root)?.map(|wanted| wanted.holders).unwrap_or_default())
    }

    /// The node to open a session on: this one, if the project's policy lets it hold a copy.
    fn upload_owner(&self, repo: &RepoName) -> Result<NodeId, Error> {
        let (policy, layout) = self.placement(repo)?;
        let stores = |id: NodeId| layout.node(id).is_some_and(|node| policy.admits(node));
        if stores(self.me()) {
            return Ok(self.me());
        }
        let nodes: Vec<NodeId> =
            self.inner.replicate.liveness().accepting().into_iter().filter(|id| stores(*id)).collect();
        let nearest = self.inner.replicate.nearest_first(&nodes);
        nearest.first().copied().ok_or_else(|| Error::unavailable(RETRY, "no storage node is alive"))
    }
}

fn wanted(root: &Root, size: u64, generation: u64, digests: &Digests, holders: Vec<NodeId>) -> Wanted {
    Wanted { root: *root, size, generation, digests: digests.clone(), holders }
}
