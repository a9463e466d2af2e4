//! What this node alone knows and must not forget, in the `local` store beside the blob index.
//!
//! Owns the keys `node.*`: the boot counter, whether a start was refused as an old one, the cluster's epoch,
//! the peers last known, a cluster initialisation under way, and the mark of the other stores' folders. Every
//! write is synced before it returns: a boot number that was used and then forgotten would be used twice.

use std::sync::Arc;

use clawhub_cluster::Seed;
use clawhub_kv::{Batch, Kv, KvError};
use clawhub_state::cluster::ClusterCmd;
use serde::Serialize;
use serde::de::DeserializeOwned;

const BOOT: &[u8] = b"node.boot";
const REFUSED: &[u8] = b"node.refused";
const EPOCH: &[u8] = b"node.epoch";
const PEERS: &[u8] = b"node.peers";
const STORES: &[u8] = b"node.stores";
const INIT: &[u8] = b"node.init";

/// The shape of every record here, as its first two bytes.
const SHAPE: u16 = 1;

/// Something cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeStoreError {
    #[error(transparent)]
    Kv(#[from] KvError),
    /// The bytes are of a later release, or damaged.
    #[error("{0} in the local store cannot be understood")]
    Malformed(String),
}

/// A handle on what this node alone knows. Cheap to clone.
#[derive(Clone)]
pub(crate) struct NodeStore {
    kv: Arc<dyn Kv>,
}

impl NodeStore {
    /// What is kept in the `local` store.
    pub(crate) fn new(kv: Arc<dyn Kv>) -> NodeStore {
        NodeStore { kv }
    }

    /// Counts this start of the node: one more than ever before, durably.
    pub(crate) fn count_boot(&self) -> Result<u64, NodeStoreError> {
        let boot = self.get::<u64>(BOOT)?.unwrap_or(0) + 1;
        self.put(BOOT, &boot)?;
        Ok(boot)
    }

    /// Why the cluster refused this data as an old copy or a twin's, if it did. Further starts would count
    /// on until they look new, and bring back votes and entries that others rely on being gone.
    pub(crate) fn refused(&self) -> Result<Option<String>, NodeStoreError> {
        self.get(REFUSED)
    }

    /// Keeps that the cluster refused this data.
    pub(crate) fn set_refused(&self, reason: &str) -> Result<(), NodeStoreError> {
        self.put(REFUSED, &reason)
    }

    /// The cluster's epoch when the node became a member.
    pub(crate) fn epoch(&self) -> Result<Option<u64>, NodeStoreError> {
        self.get(EPOCH)
    }

    pub(crate) fn set_epoch(&self, epoch: u64) -> Result<(), NodeStoreError> {
        self.put(EPOCH, &epoch)
    }

    /// What the folders of the other stores are marked with, once they are.
    pub(crate) fn stores(&self) -> Result<Option<u64>, NodeStoreError> {
        self.get(STORES)
    }

    /// Keeps what they are marked with.
    pub(crate) fn set_stores(&self, mark: u64) -> Result<(), NodeStoreError> {
        self.put(STORES, &mark)
    }

    pub(crate) fn peers(&self) -> Result<Vec<Seed>, NodeStoreError> {
        Ok(self.get(PEERS)?.unwrap_or_default())
    }

    /// Keeps the peers known now.
    pub(crate) fn set_peers(&self, peers: &[Seed]) -> Result<(), NodeStoreError> {
        self.put(PEERS, &peers)
    }

    /// The cluster initialisation that was begun and not seen applied.
    pub(crate) fn pending_init(&self) -> Result<Option<ClusterCmd>, NodeStoreError> {
        self.get(INIT)
    }

    /// Notes that an initialisation begins, or that it was applied.
    pub(crate) fn set_pending_init(&self, init: Option<&ClusterCmd>) -> Result<(), NodeStoreError> {
        match init {
            Some(cmd) => self.put(INIT, cmd),
            None => {
                let mut batch = Batch::default();
                batch.delete(INIT);
                self.write(batch)
            }
        }
    }

    fn get<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, NodeStoreError> {
        let Some(bytes) = self.kv.get(key)? else { return Ok(None) };
        let malformed = || NodeStoreError::Malformed(String::from_utf8_lossy(key).into_owned());
        match bytes.split_first_chunk() {
            Some((shape, rest)) if u16::from_be_bytes(*shape) == SHAPE => {
                postcard::from_bytes(rest).map(Some).map_err(|_| malformed())
            }
            _ => Err(malformed()),
        }
    }

    fn put<T: Serialize>(&self, key: &[u8], value: &T) -> Result<(), NodeStoreError> {
        let bytes = postcard::to_extend(value, SHAPE.to_be_bytes().to_vec())
            .map_err(|e| NodeStoreError::Malformed(e.to_string()))?;
        let mut batch = Batch::default();
        batch.put(key, bytes);
        self.write(batch)
    }

    fn write(&self, batch: Batch) -> Result<(), NodeStoreError> {
        self.kv.write(batch)?;
        Ok(self.kv.sync()?)
    }
}

#[cfg(test)]
mod tests {
    use clawhub_kv::memory::MemoryKv;
    use clawhub_types::NodeId;

    use super::*;

    #[test]
    fn boots_count_up_across_crashes() {
        let kv = Arc::new(MemoryKv::new());
        assert_eq!(NodeStore::new(kv.clone()).count_boot().unwrap(), 1);
        kv.crash();
        assert_eq!(NodeStore::new(kv.clone()).count_boot().unwrap(), 2);
        kv.crash();
        assert_eq!(NodeStore::new(kv).count_boot().unwrap(), 3);
    }

    #[test]
    fn what_is_kept_survives_a_crash_and_damage_is_noticed() {
        let kv = Arc::new(MemoryKv::new());
        let store = NodeStore::new(kv.clone());
        assert_eq!(store.epoch().unwrap(), None);
        assert_eq!(store.peers().unwrap(), []);
        let seed = Seed { node: NodeId(3), addr: "h:1".into(), spki: [7; 32] };
        store.set_peers(std::slice::from_ref(&seed)).unwrap();
        store.set_epoch(300).unwrap();
        kv.crash();
        assert_eq!(store.peers().unwrap(), [seed]);
        assert_eq!(store.epoch().unwrap(), Some(300));
        for damaged in [&b""[..], b"\0", b"\0\x02\0", b"\0\x01\xff"] {
            let mut batch = Batch::default();
            batch.put(PEERS, damaged);
            kv.write(batch).unwrap();
            assert!(store.peers().is_err(), "{damaged:?}");
        }
    }

    #[test]
    fn a_pending_init_is_forgotten_once_applied() {
        let store = NodeStore::new(Arc::new(MemoryKv::new()));
        let cmd = ClusterCmd::TokenCreate { hash: [1; 32], ttl: 5 };
        store.set_pending_init(Some(&cmd)).unwrap();
        assert_eq!(store.pending_init().unwrap(), Some(cmd));
        store.set_pending_init(None).unwrap();
        assert_eq!(store.pending_init().unwrap(), None);
    }
}
