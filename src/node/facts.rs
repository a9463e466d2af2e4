//! What this node alone knows and must not forget, in the `local` store beside the blob index.
//!
//! Owns the keys `node.*`: the boot counter, whether a start was refused as an old one, the cluster's epoch,
//! the peers last known, a cluster initialisation under way, and the mark of the other stores' folders. Every
//! write is synced before it returns: a boot number that was used and then forgotten would be used twice.

use std::sync::Arc;

use clawhub_kv::{Batch, Kv, KvError};
use clawhub_state::cluster::ClusterCmd;
use clawhub_types::NodeId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const BOOT: &[u8] = b"node.boot";
const REFUSED: &[u8] = b"node.refused";
const EPOCH: &[u8] = b"node.epoch";
const PEERS: &[u8] = b"node.peers";
const STORES: &[u8] = b"node.stores";
const INIT: &[u8] = b"node.init";

/// The shape of every record here, as its first two bytes.
const SHAPE: u16 = 1;

/// A fact cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FactError {
    /// The store failed.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// The bytes are of a later release, or damaged.
    #[error("{0} in the local store cannot be understood")]
    Malformed(String),
}

/// A peer as last known: where to go while the replicated state is still empty or far behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seed {
    /// Its id.
    pub(crate) node: NodeId,
    /// `host:port`.
    pub(crate) addr: String,
    /// SHA-256 of the SubjectPublicKeyInfo of its key.
    pub(crate) spki: [u8; 32],
}

/// The facts. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Facts {
    kv: Arc<dyn Kv>,
}

impl Facts {
    /// The facts in the `local` store.
    pub(crate) fn new(kv: Arc<dyn Kv>) -> Facts {
        Facts { kv }
    }

    /// Counts this start of the node: one more than ever before, durably.
    pub(crate) fn count_boot(&self) -> Result<u64, FactError> {
        let boot = self.get::<u64>(BOOT)?.unwrap_or(0) + 1;
        self.put(BOOT, &boot)?;
        Ok(boot)
    }

    /// Why the cluster refused this data as an old copy or a twin's, if it did. Further starts would count
    /// on until they look new, and bring back votes and entries that others rely on being gone.
    pub(crate) fn refused(&self) -> Result<Option<String>, FactError> {
        self.get(REFUSED)
    }

    /// Keeps that the cluster refused this data.
    pub(crate) fn set_refused(&self, reason: &str) -> Result<(), FactError> {
        self.put(REFUSED, &reason)
    }

    /// The cluster's epoch when the node became a member.
    pub(crate) fn epoch(&self) -> Result<Option<u64>, FactError> {
        self.get(EPOCH)
    }

    /// Keeps the cluster's epoch.
    pub(crate) fn set_epoch(&self, epoch: u64) -> Result<(), FactError> {
        self.put(EPOCH, &epoch)
    }

    /// What the folders of the other stores are marked with, once they are.
    pub(crate) fn stores(&self) -> Result<Option<u64>, FactError> {
        self.get(STORES)
    }

    /// Keeps what they are marked with.
    pub(crate) fn set_stores(&self, mark: u64) -> Result<(), FactError> {
        self.put(STORES, &mark)
    }

    /// The peers last known.
    pub(crate) fn peers(&self) -> Result<Vec<Seed>, FactError> {
        Ok(self.get(PEERS)?.unwrap_or_default())
    }

    /// Keeps the peers known now.
    pub(crate) fn set_peers(&self, peers: &[Seed]) -> Result<(), FactError> {
        self.put(PEERS, &peers)
    }

    /// The cluster initialisation that was begun and not seen applied.
    pub(crate) fn pending_init(&self) -> Result<Option<ClusterCmd>, FactError> {
        self.get(INIT)
    }

    /// Notes that an initialisation begins, or that it was applied.
    pub(crate) fn set_pending_init(&self, init: Option<&ClusterCmd>) -> Result<(), FactError> {
        match init {
            Some(cmd) => self.put(INIT, cmd),
            None => {
                let mut batch = Batch::default();
                batch.delete(INIT);
                self.write(batch)
            }
        }
    }

    fn get<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, FactError> {
        let Some(bytes) = self.kv.get(key)? else { return Ok(None) };
        let malformed = || FactError::Malformed(String::from_utf8_lossy(key).into_owned());
        match bytes.split_first_chunk() {
            Some((shape, rest)) if u16::from_be_bytes(*shape) == SHAPE => {
                postcard::from_bytes(rest).map(Some).map_err(|_| malformed())
            }
            _ => Err(malformed()),
        }
    }

    fn put<T: Serialize>(&self, key: &[u8], value: &T) -> Result<(), FactError> {
        let bytes = postcard::to_extend(value, SHAPE.to_be_bytes().to_vec())
            .map_err(|e| FactError::Malformed(e.to_string()))?;
        let mut batch = Batch::default();
        batch.put(key, bytes);
        self.write(batch)
    }

    fn write(&self, batch: Batch) -> Result<(), FactError> {
        self.kv.write(batch)?;
        Ok(self.kv.sync()?)
    }
}

#[cfg(test)]
mod tests {
    use clawhub_kv::memory::MemoryKv;

    use super::*;

    #[test]
    fn boots_count_up_across_crashes() {
        let kv = Arc::new(MemoryKv::new());
        assert_eq!(Facts::new(kv.clone()).count_boot().unwrap(), 1);
        kv.crash();
        assert_eq!(Facts::new(kv.clone()).count_boot().unwrap(), 2);
        kv.crash();
        assert_eq!(Facts::new(kv).count_boot().unwrap(), 3);
    }

    #[test]
    fn facts_survive_a_crash_and_damage_is_noticed() {
        let kv = Arc::new(MemoryKv::new());
        let facts = Facts::new(kv.clone());
        assert_eq!(facts.epoch().unwrap(), None);
        assert_eq!(facts.peers().unwrap(), []);
        let seed = Seed { node: NodeId(3), addr: "h:1".into(), spki: [7; 32] };
        facts.set_peers(std::slice::from_ref(&seed)).unwrap();
        facts.set_epoch(300).unwrap();
        kv.crash();
        assert_eq!(facts.peers().unwrap(), [seed]);
        assert_eq!(facts.epoch().unwrap(), Some(300));
        for damaged in [&b""[..], b"\0", b"\0\x02\0", b"\0\x01\xff"] {
            let mut batch = Batch::default();
            batch.put(PEERS, damaged);
            kv.write(batch).unwrap();
            assert!(facts.peers().is_err(), "{damaged:?}");
        }
    }

    #[test]
    fn a_pending_init_is_forgotten_once_applied() {
        let facts = Facts::new(Arc::new(MemoryKv::new()));
        let cmd = ClusterCmd::TokenCreate { hash: [1; 32], ttl: 5 };
        facts.set_pending_init(Some(&cmd)).unwrap();
        assert_eq!(facts.pending_init().unwrap(), Some(cmd));
        facts.set_pending_init(None).unwrap();
        assert_eq!(facts.pending_init().unwrap(), None);
    }
}
