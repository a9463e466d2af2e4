//! Blobs, as far as the log knows of them: who has which bytes is a set, and everything else is real. Clients have
//! two nodes take a blob, commit it by their receipts, and put manifests that reference it; nodes erase copies
//! that nobody has recorded, as a collector would.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clawhub_consensus::{ProposeError, Who};
use clawhub_state::artifact::{ArtifactCmd, ArtifactRejected, Body, Condition, ManifestFacts, Ref, RefKind};
use clawhub_state::blob::{BlobCmd, BlobRejected};
use clawhub_state::{Command, Rejected, View};
use clawhub_types::{Digest, Digests, NodeId, Receipt, Root};
use openraft::async_runtime::AsyncRuntime;
use openraft_rt_sim::SimRuntime;
use rand::RngExt;

use crate::workload::{WAIT, Workload, client, repo};

/// From here on numbers stand for blobs that nobody ever commits.
const NOBODYS: u64 = 1 << 40;
/// From here on they stand for manifests.
const MANIFESTS: u64 = 1 << 41;
/// A node that is no member.
const STRANGER: NodeId = NodeId(99);

/// What lies on disks, which outlives every death, and what clients were told.
#[derive(Default)]
pub(crate) struct Blobs {
    next: u64,
    /// Which node has which bytes.
    held: BTreeSet<(NodeId, u64)>,
    /// Which is about to erase which, and gives no receipt for them any more.
    doomed: BTreeSet<(NodeId, u64)>,
    /// How often each node has erased something.
    epochs: BTreeMap<NodeId, u64>,
    /// Acknowledged by their numbers.
    pub(crate) committed: BTreeSet<u64>,
    /// Which somebody has asked to be unlinked.
    unlinked: BTreeSet<u64>,
    /// Acknowledged manifests, each with the blob that it references.
    pub(crate) manifests: Vec<(u64, u64)>,
    /// Receipts that were refused, since their node had erased something since.
    pub(crate) outdated: u64,
    pub(crate) erased: u64,
}

fn root(n: u64) -> Root {
    let mut bytes = [1; 32];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    Root(bytes)
}

fn sha256(n: u64) -> [u8; 32] {
    let mut bytes = [2; 32];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    bytes
}

fn digest(n: u64) -> Digest {
    Digest::Sha256(sha256(n))
}

fn commit(n: u64, receipts: Vec<Receipt>) -> Command {
    Command::Blob(BlobCmd::Commit { repo: repo(), digest: digest(n), receipts })
}

/// A manifest that references this blob.
fn put(manifest: u64, blob: u64) -> Command {
    let facts = ManifestFacts {
        media_type: "application/vnd.oci.image.manifest.v1+json".parse().unwrap(),
        size: 2,
        refs: vec![Ref { digest: digest(blob), kind: RefKind::Blob }],
        parts: 0,
        subject: None,
        artifact_type: None,
        annotations: None,
    };
    Command::Artifact(ArtifactCmd::Put {
        repo: repo(),
        digest: digest(MANIFESTS + manifest),
        facts,
        body: Body::Inline(b"{}".to_vec()),
        tags: vec![],
        condition: Condition::Any,
    })
}

fn random(below: u64) -> u64 {
    SimRuntime::thread_rng().random_range(0..below)
}

impl Blobs {
    /// A node takes the bytes and says so; not if it is about to erase them.
    fn take(&mut self, node: NodeId, n: u64) -> Option<Receipt> {
        if self.doomed.contains(&(node, n)) {
            return None;
        }
        self.held.insert((node, n));
        let epoch = self.epochs.get(&node).copied().unwrap_or(0);
        let digests = Digests { sha256: sha256(n), sha512: None };
        Some(Receipt { node, epoch, generation: 1, digests, root: root(n), size: n + 1 })
    }

    /// Whether a receipt's node has said since that it will erase something.
    fn is_outdated(&self, receipt: &Receipt) -> bool {
        self.epochs.get(&receipt.node).is_some_and(|epoch| *epoch > receipt.epoch)
    }
}

impl Workload {
    /// Pushes blobs and manifests of them.
    pub(crate) async fn push(self) {
        while self.running() {
            self.pause().await;
            match random(10) {
                0 => self.push_void().await,
                1 => self.unlink().await,
                _ => self.push_good().await,
            }
        }
    }

    /// A blob that is new, or one of the last ones again, and then a manifest of it.
    async fn push_good(&self) {
        let n = {
            let mut blobs = self.blobs.lock();
            let again = blobs.next > 0 && random(4) == 0;
            if !again {
                blobs.next += 1;
            }
            blobs.next - 1 - if again { random(blobs.next.min(5)) } else { 0 }
        };
        let nodes = self.two();
        let receipts: Vec<Receipt> =
            nodes.into_iter().filter_map(|node| self.blobs.lock().take(node, n)).collect();
        if receipts.len() < 2 {
            return;
        }
        // The longer a receipt is on its way, the more may have happened.
        SimRuntime::sleep(Duration::from_millis(random(400))).await;
        let Some((_, node)) = self.any() else { return };
        match node.propose(commit(n, receipts.clone()), client(), WAIT).await {
            Ok(_) => {
                let mut blobs = self.blobs.lock();
                blobs.committed.insert(n);
                let gone = receipts.iter().find(|receipt| !blobs.held.contains(&(receipt.node, n)));
                if let Some(gone) = gone {
                    self.broke(format!("blob {n} counts on node {}, which erased it", gone.node));
                }
            }
            Err(ProposeError::Rejected(Rejected::Blob(BlobRejected::BadReceipt))) => {
                let mut blobs = self.blobs.lock();
                blobs.outdated += 1;
                if !receipts.iter().any(|receipt| blobs.is_outdated(receipt)) {
                    self.broke(format!("good receipts of blob {n} were refused"));
                }
                return;
            }
            Err(ProposeError::Unavailable(_) | ProposeError::Unknown) => return,
            Err(e) if self.is_uncovered(&e) => return,
            Err(e) => return self.broke(format!("blob {n}: {e}")),
        }
        self.put_manifest(n).await;
    }

    async fn put_manifest(&self, n: u64) {
        let Some((_, node)) = self.any() else { return };
        let blob = if random(5) == 0 { NOBODYS + n } else { n };
        let manifest = {
            let mut blobs = self.blobs.lock();
            blobs.next += 1;
            blobs.next - 1
        };
        match node.propose(put(manifest, blob), client(), WAIT).await {
            Ok(_) if blob >= NOBODYS => {
                self.broke(format!("manifest {manifest} was taken without its blob"));
            }
            Ok(_) => self.blobs.lock().manifests.push((manifest, blob)),
            Err(ProposeError::Rejected(Rejected::Artifact(ArtifactRejected::ReferencesUnknown(_)))) => {
                if blob < NOBODYS && !self.blobs.lock().unlinked.contains(&blob) {
                    self.broke(format!("manifest {manifest} was refused for blob {blob}, which is linked"));
                }
            }
            Err(ProposeError::Unavailable(_) | ProposeError::Unknown) => {}
            Err(e) if self.is_uncovered(&e) => {}
            Err(e) => self.broke(format!("manifest {manifest}: {e}")),
        }
    }

    /// Receipts that must not count.
    async fn push_void(&self) {
        let Some(known) = self.blobs.lock().committed.last().copied() else { return };
        let n = {
            let mut blobs = self.blobs.lock();
            blobs.next += 1;
            blobs.next - 1
        };
        let nodes = self.two();
        let receipts = nodes.into_iter().filter_map(|node| self.blobs.lock().take(node, n));
        let mut receipts: Vec<Receipt> = receipts.collect();
        let [first, second] = &mut receipts[..] else { return };
        let one_is_too_few = self.cluster.outlives_zones();
        let what = match random(4 + u64::from(one_is_too_few)) {
            0 => {
                second.size += 1;
                "another size"
            }
            1 => {
                second.generation += 1;
                "another generation"
            }
            2 => {
                second.node = STRANGER;
                "a stranger"
            }
            4 => {
                *second = first.clone();
                "one node's, twice"
            }
            _ => {
                first.digests.sha256 = sha256(known);
                second.digests.sha256 = sha256(known);
                "another blob's digest"
            }
        };
        let Some((_, node)) = self.any() else { return };
        if node.propose(commit(n, receipts), client(), WAIT).await.is_ok() {
            self.broke(format!("blob {n}: a void receipt was taken, {what}"));
        }
    }

    async fn unlink(&self) {
        let Some(n) = self.blobs.lock().committed.iter().rev().nth(random(3) as usize).copied() else {
            return;
        };
        let Some((_, node)) = self.any() else { return };
        self.blobs.lock().unlinked.insert(n);
        let cmd = Command::Blob(BlobCmd::Unlink { repo: repo(), digest: digest(n) });
        match node.propose(cmd, client(), WAIT).await {
            Ok(_) | Err(ProposeError::Unavailable(_) | ProposeError::Unknown) => {}
            Err(ProposeError::Rejected(Rejected::Blob(
                BlobRejected::BlobReferenced(_) | BlobRejected::BlobUnknown,
            ))) => {}
            Err(e) => self.broke(format!("unlinking blob {n}: {e}")),
        }
    }

    /// Nodes erase copies of the last blobs that nobody has recorded: first they have the log know that receipts
    /// from before are void, then they look once more.
    pub(crate) async fn erase(self) {
        while self.running() {
            SimRuntime::sleep(Duration::from_millis(100 + random(500))).await;
            let Some((id, node)) = self.any() else { continue };
            let (n, epoch) = {
                let mut blobs = self.blobs.lock();
                let last = blobs.held.iter().filter(|(holder, _)| *holder == id).map(|(_, n)| *n);
                let last: Vec<u64> = last.collect();
                let last = &last[last.len().saturating_sub(4)..];
                let Some(n) = last.get(random(last.len().max(1) as u64) as usize).copied() else { continue };
                if !blobs.doomed.insert((id, n)) {
                    continue;
                }
                let epoch = blobs.epochs.entry(id).or_default();
                *epoch += 1;
                (n, *epoch)
            };
            let cmd = Command::Blob(BlobCmd::Epoch { node: id, epoch });
            let Ok(committed) = node.propose(cmd, Who::system(), WAIT).await else { continue };
            if !node.wait_applied(committed.index, WAIT).await {
                continue;
            }
            let state = node.state();
            let Ok(record) = View::new(&*state).blob().root(&root(n)) else { continue };
            let mut blobs = self.blobs.lock();
            if record.is_none_or(|record| !record.holders.contains(&id)) {
                blobs.held.remove(&(id, n));
                blobs.erased += 1;
            } else {
                blobs.doomed.remove(&(id, n));
            }
        }
    }

    /// Two nodes, each in a region of its own.
    fn two(&self) -> [NodeId; 2] {
        let ids = &self.cluster.ids;
        let one = random(ids.len() as u64) as usize;
        let other = (one + 1 + random(ids.len() as u64 - 1) as usize) % ids.len();
        [ids[one], ids[other]]
    }

    /// What the log says of blobs, on one node, must be so.
    pub(crate) fn check_blobs(&self, id: NodeId) {
        let state = self.cluster.node(id).unwrap().state();
        let view = View::new(&*state);
        let blobs = self.blobs.lock();
        let Some(at) = view.project().repo(&repo()).unwrap() else { return };
        for (n, record) in (0..blobs.next).filter_map(|n| Some((n, view.blob().root(&root(n)).unwrap()?))) {
            for holder in record.holders.iter().filter(|holder| !blobs.held.contains(&(**holder, n))) {
                self.broke(format!("node {id} says that node {holder} holds blob {n}, which it erased"));
            }
        }
        for n in blobs.committed.difference(&blobs.unlinked) {
            if view.blob().link(&at, &digest(*n)).unwrap().is_none() {
                self.broke(format!("node {id} lost the link to blob {n}"));
            }
            let holders = view.blob().root(&root(*n)).unwrap().map_or(0, |record| record.holders.len());
            if self.cluster.outlives_zones() && holders < 2 {
                self.broke(format!("node {id} says that {holders} of two zones hold blob {n}"));
            }
        }
        for (manifest, n) in &blobs.manifests {
            let there = view.artifact().manifest(&at, &digest(MANIFESTS + manifest)).unwrap().is_some();
            let linked = view.blob().link(&at, &digest(*n)).unwrap().is_some();
            if !there || !linked {
                self.broke(format!(
                    "node {id}: manifest {manifest} is there: {there}; its blob {n}: {linked}"
                ));
            }
        }
    }
}
