//! What a node has from its first moment on, member of a cluster or not; and what it keeps to become one.

use std::sync::Arc;

use clawhub_blobs::{CacheLimit, StoreConfig};
use clawhub_cluster::Start;
use clawhub_cluster::bootstrap::{Credentials, Profile};
use clawhub_config::{CacheSize, Config, NodeConfig};
use clawhub_kv::Kv;
use clawhub_peer::PeerPort;
use clawhub_state::cluster::NodeSpec;
use clawhub_types::NodeId;
use tokio::runtime::Handle;

use crate::data_dir::DataDir;
use crate::error::NodeError;
use crate::node_store::NodeStore;

/// One life of the node: a start of the process, or of the node in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Boot {
    /// Counts the starts, durably.
    pub(crate) count: u64,
    /// Drawn at random: tells a repeated registration from a second process with the same data.
    pub(crate) nonce: u64,
}

pub(crate) struct Base {
    pub(crate) config: Config,
    pub(crate) dir: DataDir,
    /// The store of what it alone knows, and of the blob index.
    pub(crate) local: Arc<dyn Kv>,
    pub(crate) store: NodeStore,
    pub(crate) boot: Boot,
    pub(crate) http_addr: String,
    /// The peer port, held until the endpoint takes it.
    pub(crate) peer_port: PeerPort,
    /// Where consensus runs: apart from everything that hashes, copies and waits for disks.
    pub(crate) consensus_runtime: Handle,
}

impl Base {
    /// Where peers reach this node.
    fn peer_addr(&self) -> String {
        self.config.peer.advertise.clone().unwrap_or_else(|| self.peer_port.addr().to_string())
    }

    /// What the node says of itself to a cluster.
    pub(crate) fn profile(&self) -> Profile {
        Profile {
            name: self.config.node.name.clone(),
            location: self.config.node.location.clone(),
            roles: self.config.node.roles,
            peer_addr: self.peer_addr(),
            http_addr: self.http_addr.clone(),
        }
    }

    /// How the blobs of `node`, which this is, are to be kept.
    pub(crate) fn blob_store(&self, node: NodeId) -> StoreConfig {
        let storage = &self.config.storage;
        StoreConfig {
            dir: self.dir.root().to_owned(),
            min_free: storage.min_free,
            node,
            checks_good_for: storage.recheck,
            cache: match storage.cache {
                CacheSize::Bytes(bytes) => CacheLimit::Bytes(bytes),
                CacheSize::Share(percent) => CacheLimit::Share(percent),
            },
        }
    }

    /// Says where the file is not what the node told the cluster when it joined: that stays as it is.
    pub(crate) fn warn_of_changes(&self, told: &NodeSpec) {
        for key in changes(&self.config.node, told) {
            tracing::warn!(
                "[node] {key} is not what this node joined its cluster with, and changes nothing: to change it, \
                 replace the node"
            );
        }
    }

    pub(crate) fn start(&self, start_key: &[u8]) -> Start {
        Start {
            boot: self.boot.count,
            nonce: self.boot.nonce,
            peer_addr: self.peer_addr(),
            http_addr: self.http_addr.clone(),
            start_key: start_key.to_vec(),
        }
    }

    /// Keeps what makes the node a member, durably. The order makes it safe to be interrupted: everything else is
    /// durable before `FORMAT` names the owner. Cut off earlier, the node is still nobody.
    pub(crate) fn keep(&mut self, credentials: &Credentials) -> Result<(), NodeError> {
        credentials.cluster_key.save(&self.dir.cluster_key())?;
        self.dir.save_certificates(&credentials.certificate, &credentials.ca_certificate)?;
        self.store.set_epoch(credentials.epoch)?;
        self.store.set_peers(&credentials.peers)?;
        self.store.set_pending_init(credentials.init.as_ref())?;
        Ok(self.dir.claim(credentials.owner)?)
    }
}

/// The keys of `[node]` that say something else than the cluster was told.
fn changes(node: &NodeConfig, told: &NodeSpec) -> Vec<&'static str> {
    let here = &node.location;
    let there = &told.location;
    let keys = [
        ("name", node.name != told.name),
        ("region", here.region != there.region),
        ("zone", here.zone != there.zone),
        ("roles", node.roles != told.roles),
    ];
    keys.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect()
}

#[cfg(test)]
mod tests {
    use clawhub_cluster::Owner;
    use clawhub_peer::{Ca, Csr, NodeKey};
    use clawhub_types::{ClusterId, NodeId};

    use super::*;

    #[test]
    fn a_real_certificate_is_recognised_in_the_data_directory() {
        for node in [1, 10, u64::MAX] {
            let owner = Owner { cluster: ClusterId([0xab; 16]), node: NodeId(node) };
            let ca = Ca::create(owner.cluster).unwrap();
            let csr = Csr::parse(&NodeKey::generate().unwrap().csr().unwrap()).unwrap();
            let certificate = ca.issue(csr, owner.node).unwrap();
            let temp = tempfile::tempdir().unwrap();
            let mut dir = DataDir::open(temp.path()).unwrap();
            dir.save_certificates(&certificate, ca.cert_der()).unwrap();
            dir.claim(owner).unwrap();
            drop(dir);
            assert_eq!(DataDir::open(temp.path()).unwrap().owner(), Some(owner));
        }
    }
}
