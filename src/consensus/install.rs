//! How a snapshot of another node becomes the state of this one.
//!
//! In order: the files arrive ([`crate::receive`]); all of the state in them is read past every cache and compared with
//! its hash; a copy, which shares the tables, is opened beside the live state; a snapshot of it is made; openraft decides
//! whether it is wanted; that snapshot gets its name; `CURRENT` names the copy; what arrived goes. Up to openraft's
//! word everything that a device may refuse is done, and a refusal leaves the node as it was, to be sent the same
//! again. A crash leaves either state, and until the last step the files that arrived, which need not come again.

use std::io;
use std::path::Path;
use std::sync::Arc;

use clawhub_kv::{KvError, KvErrorKind};
use clawhub_mutant::Mutant;
use clawhub_state::{Fault, Machine, View};

use crate::position::{Position, applied, fault, position};
use crate::receive::Received;
use crate::snapshot::{Arrived, Sealed, SnapshotFiles, Snapshots};
use crate::store::{Prepared, StateStore};
use crate::tables::Known;
use crate::types::SnapshotMeta;

/// A state that is not what it says it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsound {
    /// What is there is damaged.
    #[error("{0}")]
    Damaged(String),
    /// Its store cannot be opened or read, for a reason that need not lie in it.
    #[error("{0}")]
    Unclear(String),
    /// The file system refused: nothing is known of it.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<KvError> for Unsound {
    fn from(e: KvError) -> Self {
        match e.kind {
            KvErrorKind::Io => Unsound::Io(e.into()),
            KvErrorKind::Corrupt => Unsound::Damaged(e.to_string()),
            KvErrorKind::Other => Unsound::Unclear(e.to_string()),
        }
    }
}

impl From<Fault> for Unsound {
    fn from(e: Fault) -> Self {
        match e {
            Fault::Kv(e) => e.into(),
            other => Unsound::Damaged(other.to_string()),
        }
    }
}

/// Reads all of the state in a checkpoint, compares it with its hash, and answers what it has applied.
///
/// # Errors
/// [`Unsound`].
pub(crate) fn check(store: &StateStore, data: &Path) -> Result<Position, Unsound> {
    let kv = store.check(data)?;
    let view = View::new(&*kv);
    let (index, promised) = view.state_hash()?;
    let found = view.compute_state_hash()?;
    if found != promised && !Mutant::UncheckedFiles.breaks() {
        return Err(Unsound::Damaged(format!("the rows at index {index} do not add up to the state's hash")));
    }
    Ok(applied(&Machine::open(kv)?)?)
}

/// Makes what was received ready to be put in force. The files stay where they arrived.
///
/// # Errors
/// [`Unsound`]; nothing is left behind.
pub(crate) fn make_ready(
    store: &StateStore,
    snapshots: &Snapshots,
    received: &Received,
) -> Result<Arrived, Unsound> {
    let manifest = &received.manifest;
    let found = check(store, &received.data())?;
    if found != (manifest.last, manifest.membership.clone()) {
        let promised = (manifest.last, &manifest.membership);
        return Err(Unsound::Damaged(format!("it holds {found:?} where {promised:?} was promised")));
    }
    let next = store.prepare(&received.data())?;
    let staged = snapshots.stage(&**next.kv()?, manifest.last, manifest.membership.clone())?;
    // They were hashed when they arrived, and all of them was read just now.
    let data = received.data();
    let now = clawhub_durable::now_millis();
    let known = Known { data: &data, files: &manifest.files, seen: &vec![now; manifest.files.len()] };
    let sealed = snapshots.seal(staged, Some(known))?;
    Ok(Arrived { next, sealed })
}

/// A snapshot of a state that came from one which is not the current one here.
fn seal(snapshots: &Snapshots, next: &Prepared, files: &SnapshotFiles) -> io::Result<Sealed> {
    let manifest = files.manifest();
    let staged = snapshots.stage(&**next.kv()?, manifest.last, manifest.membership.clone())?;
    snapshots.seal(staged, None)
}

/// Puts a snapshot in the place of the live state.
///
/// # Errors
/// Whatever the file system says. One of this node's own that has rotted is corrupt.
pub(crate) fn install(
    store: &StateStore,
    snapshots: &Snapshots,
    meta: &SnapshotMeta,
    files: &Arc<SnapshotFiles>,
) -> io::Result<Machine> {
    let (next, sealed) = match files.take_arrived() {
        Some(Arrived { next, sealed }) => (next, Some(sealed)),
        None => {
            // Made here, some time ago, and wanted because the live state fell behind it.
            files.verify()?;
            let next = store.prepare(&files.data())?;
            let own = snapshots.current().is_some_and(|current| Arc::ptr_eq(&current, files));
            let sealed = if own { None } else { Some(seal(snapshots, &next, files)?) };
            (next, sealed)
        }
    };
    let machine = Machine::open(Arc::clone(next.kv()?)).map_err(fault)?;
    let found = position(&machine)?;
    if found != (meta.last_log_id, meta.last_membership.clone()) {
        let what = format!("the snapshot holds {found:?} where {meta} was promised");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    if let Some(sealed) = sealed {
        snapshots.publish(sealed, false)?;
    }
    store.swap(next)?;
    Ok(machine)
}

#[cfg(test)]
#[path = "install_test.rs"]
mod tests;
