//! Has other nodes make copies of a blob, because a push may be acknowledged only when enough of them have given
//! receipts. Nothing is kept here: a push that ends midway leaves copies that the next one finds.

use std::time::Duration;

use clawhub_peer::Class;
use clawhub_types::{NodeId, Receipt};
use clawhub_wire::blob as pb;
use pb::replica_reply::Outcome;

use crate::{FrameError, ReplicaSpec, Replicate, ReplicateError, read_message, write_message};

/// The copying node says how far it is at least every two seconds; silence for longer is failure.
const SILENCE: Duration = Duration::from_secs(10);

impl Replicate {
    /// Has one node after the other of `candidates` that is alive take a copy until `enough` says so of all holders.
    /// Returns the new receipts; fewer than needed if the candidates run out.
    pub async fn ensure(
        &self,
        wanted: &ReplicaSpec,
        candidates: &[NodeId],
        enough: impl Fn(&[NodeId]) -> bool,
    ) -> Vec<Receipt> {
        let mut holders = wanted.holders.clone();
        let mut receipts = Vec::new();
        for candidate in candidates {
            if enough(&holders) {
                break;
            }
            // Many may have died at once: none is waited for in turn.
            if holders.contains(candidate) || !self.inner.liveness.is_reachable(*candidate) {
                continue;
            }
            match self.while_alive(*candidate, self.replica(*candidate, wanted)).await {
                Ok(receipt) => {
                    holders.push(receipt.node);
                    receipts.push(receipt);
                }
                Err(error) => tracing::warn!(root = %wanted.root, %error, "a copy could not be made"),
            }
        }
        receipts
    }

    /// Has `node` take a copy from the holders and give its receipt.
    async fn replica(&self, node: NodeId, wanted: &ReplicaSpec) -> Result<Receipt, ReplicateError> {
        if node == self.inner.me {
            return self.copy_here(wanted.clone(), Class::Foreground).await;
        }
        let gone = |error: FrameError| ReplicateError::unreachable(node, error);
        let (mut send, mut recv) = self
            .inner
            .endpoint
            .open(node, Class::Foreground)
            .await
            .map_err(|e| ReplicateError::peer(node, e))?;
        let replica = pb::Replica {
            root: bytes::Bytes::copy_from_slice(&wanted.root.0),
            size: wanted.size,
            generation: wanted.generation,
            digests: Some((&wanted.digests).into()),
            holders: wanted.holders.iter().map(|holder| holder.0).collect(),
        };
        let request = pb::BlobRequest { op: Some(pb::blob_request::Op::Replica(replica)) };
        write_message(&mut send, &request).await.map_err(gone)?;
        loop {
            let reply: pb::ReplicaReply = read_message(&mut recv, SILENCE).await.map_err(gone)?;
            match reply.outcome {
                Some(Outcome::Progress(_)) => {}
                Some(Outcome::Receipt(receipt)) => {
                    let receipt =
                        Receipt::try_from(receipt).map_err(|e| ReplicateError::unreachable(node, e))?;
                    let right = receipt.node == node && receipt.root == wanted.root;
                    return right.then_some(receipt).ok_or(ReplicateError::NotHeld(node));
                }
                Some(Outcome::Failed(failed)) => return Err(ReplicateError::refused(node, failed)),
                None => return Err(ReplicateError::unreachable(node, "an empty reply")),
            }
        }
    }
}
