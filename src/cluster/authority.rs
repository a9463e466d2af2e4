//! The cluster's CA, opened with whichever of this node's cluster keys it is sealed under.

use clawhub_peer::{Ca, ClusterKey, KeyFiles};
use clawhub_state::cluster::ClusterRecord;

use crate::ClusterError;

/// The CA in force, and the key that it lies sealed under.
pub(crate) fn open(cluster: &ClusterRecord, keys: &KeyFiles) -> Result<(Ca, ClusterKey), ClusterError> {
    let present = keys.present();
    let next = keys.next();
    let mut last = ClusterError::internal("there is no cluster key");
    // For a moment after a rotation the state is ahead of the files.
    for keys in [Some(present), next].into_iter().flatten() {
        match Ca::open(&cluster.ca_cert, &cluster.ca_key_sealed, &keys.cluster_key) {
            Ok(ca) => return Ok((ca, keys.cluster_key.clone())),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}
