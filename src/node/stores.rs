//! The three RocksDB instances of a node, where they lie, and whether they are this node's.

use std::path::Path;
use std::sync::Arc;

use clawhub_cluster::Owner;
use clawhub_consensus::{Purpose, StateStore};
use clawhub_kv::rocks::{RocksKv, RocksProfile};
use clawhub_kv::{Kv, KvError};
use clawhub_state::View;

use crate::base::Base;
use crate::data_dir::DataDir;
use crate::error::NodeError;

/// Memory of all stores together: two memtables each of 16, 16 and 8 MiB, and one block cache of 64 MiB.
pub(crate) const MEMORY: u64 = (2 * (16 + 16 + 8) + 64) << 20;

/// Opens the store of what this node alone knows.
pub(crate) fn local(dir: &DataDir) -> Result<Arc<dyn Kv>, KvError> {
    open(&dir.local(), RocksProfile::Local)
}

/// Opens the store of votes and log entries.
pub(crate) fn raft(dir: &DataDir) -> Result<Arc<dyn Kv>, KvError> {
    open(&dir.raft(), RocksProfile::Raft)
}

/// Opens the store of the applied state, and those that snapshots bring.
pub(crate) fn state(dir: &DataDir) -> std::io::Result<StateStore> {
    StateStore::open(dir.state(), |path, purpose| match purpose {
        Purpose::Serve => open(path, RocksProfile::State),
        Purpose::Check => open(path, RocksProfile::Check),
    })
}

fn open(path: &Path, profile: RocksProfile) -> Result<Arc<dyn Kv>, KvError> {
    Ok(Arc::new(RocksKv::open(path, profile)?))
}

/// Makes sure that the folders of the stores are this node's. One that is empty because its device is not mounted
/// would otherwise be taken for new, and the node would have forgotten its votes.
pub(crate) fn bind(base: &Base) -> Result<(), NodeError> {
    match base.store.stores()? {
        Some(mark) => Ok(base.dir.check_marks(mark)?),
        None => {
            // The folders first: cut off between the two, the next start draws another one.
            let mark = rand::random();
            base.dir.mark(mark)?;
            Ok(base.store.set_stores(mark)?)
        }
    }
}

/// Refuses a state that is another cluster's, for example one restored from the wrong backup.
pub(crate) fn check_owner(state: &StateStore, owner: Owner) -> Result<(), NodeError> {
    let kv = state.kv();
    match View::new(&*kv).cluster().record()? {
        Some(cluster) if cluster.id != owner.cluster => Err(NodeError::Inconsistent(format!(
            "FORMAT names {owner}, the state is cluster {}'s",
            cluster.id
        ))),
        _ => Ok(()),
    }
}
