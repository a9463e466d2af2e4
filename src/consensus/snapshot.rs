//! Snapshots of the applied state, made on this node.
//!
//! `<state>/snapshots/<term>-<node>-<index>/` holds `data/`, a checkpoint of the store, and `MANIFEST`,
//! its files with size and BLAKE3. A directory gets its name when all of it is durable; one that is given up goes, and one
//! that a crash interrupts, called `tmp-…`, at the next start. There is one current snapshot; an older one stays while it
//! is being sent.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use clawhub_durable as durable;
use clawhub_kv::Kv;
use clawhub_state::LogPos;
use parking_lot::Mutex;

use crate::files;
use crate::position::Position;
use crate::record::{self, Manifest};
use crate::store::Prepared;
use crate::tables::{self, Known};
use crate::types::{self, LogId, Membership, SnapshotMeta, StoredMembership};

const DIRECTORY: &str = "snapshots";
const MANIFEST: &str = "MANIFEST";
const DATA: &str = "data";
const TEMPORARY: &str = "tmp-";

/// The files of one snapshot, complete and checked.
#[derive(Debug)]
pub struct SnapshotFiles {
    dir: Mutex<PathBuf>,
    manifest: Manifest,
    /// When each file was last read and found to be as the manifest says.
    seen: Vec<u64>,
    /// What came from another node, until it is put in force; it has no files of its own then.
    arrived: Mutex<Option<Arrived>>,
    /// Remove the directory when the last handle goes.
    obsolete: AtomicBool,
}

impl SnapshotFiles {
    fn own(dir: PathBuf, manifest: Manifest, seen: Vec<u64>) -> Self {
        let dir = Mutex::new(dir);
        let arrived = Mutex::new(None);
        SnapshotFiles { dir, manifest, seen, arrived, obsolete: AtomicBool::new(false) }
    }

    /// A snapshot of another node, ready to be put in force.
    pub(crate) fn arrived(arrived: Arrived) -> Self {
        let manifest = arrived.sealed.manifest.clone();
        let files = SnapshotFiles::own(PathBuf::new(), manifest, Vec::new());
        *files.arrived.lock() = Some(arrived);
        files
    }

    /// What came from another node, to whoever puts it in force.
    pub(crate) fn take_arrived(&self) -> Option<Arrived> {
        self.arrived.lock().take()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.lock().join(DATA)
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn last(&self) -> Option<LogId> {
        self.manifest.last.map(types::log_id)
    }

    /// What openraft knows of it.
    pub(crate) fn meta(&self) -> SnapshotMeta {
        meta(&self.manifest)
    }

    /// Reads every file again.
    ///
    /// # Errors
    /// A file cannot be read, or is not as the manifest says: then a [`clawhub_kv::KvError`] says corrupt.
    pub(crate) fn verify(&self) -> io::Result<()> {
        for file in &self.manifest.files {
            let path = self.data().join(&file.name);
            if files::digest(&path)? != (file.size, file.hash) {
                return Err(tables::rotten(&path).into());
            }
        }
        Ok(())
    }
}

pub(crate) fn meta(manifest: &Manifest) -> SnapshotMeta {
    let last_membership = match &manifest.membership {
        Some((pos, m)) => StoredMembership::new(Some(types::log_id(*pos)), m.clone()),
        None => StoredMembership::default(),
    };
    SnapshotMeta { last_log_id: manifest.last.map(types::log_id), last_membership }
}

impl Drop for SnapshotFiles {
    fn drop(&mut self) {
        let dir = self.dir.get_mut();
        if self.obsolete.load(Ordering::Relaxed)
            && let Err(e) = durable::remove_dir(dir)
        {
            tracing::warn!(dir = %dir.display(), error = %e, "an old snapshot cannot be removed");
        }
    }
}

/// The current snapshot and the making of the next.
pub(crate) struct Snapshots {
    dir: PathBuf,
    current: Mutex<Option<Arc<SnapshotFiles>>>,
    /// Held while a snapshot gets its name.
    naming: Mutex<()>,
    /// Distinguishes temporary directories.
    staged: AtomicU64,
}

/// A directory below `snapshots` that goes with this handle, unless it gets a name.
#[derive(Debug)]
struct Temporary(Option<PathBuf>);

impl Temporary {
    fn path(&self) -> io::Result<&Path> {
        self.0.as_deref().ok_or_else(|| io::Error::other("a snapshot that has a name already"))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let Some(dir) = &self.0 else { return };
        if let Err(e) = durable::remove_dir(dir) {
            tracing::warn!(dir = %dir.display(), error = %e, "an unfinished snapshot cannot be removed");
        }
    }
}

/// A checkpoint that was taken.
pub(crate) struct Staged {
    dir: Temporary,
    last: Option<LogPos>,
    membership: Option<(LogPos, Membership)>,
}

impl Staged {
    /// The checkpoint.
    pub(crate) fn data(&self) -> io::Result<PathBuf> {
        Ok(self.dir.path()?.join(DATA))
    }

    /// The same, whose position was found by looking.
    pub(crate) fn at(self, (last, membership): Position) -> Staged {
        Staged { last, membership, ..self }
    }
}

/// A snapshot that is complete and durable, but for its name.
#[derive(Debug)]
pub(crate) struct Sealed {
    dir: Temporary,
    manifest: Manifest,
    seen: Vec<u64>,
}

/// A snapshot of another node that needs nothing more but names.
pub(crate) struct Arrived {
    /// The state, open beside the live one.
    pub(crate) next: Prepared,
    /// The snapshot that others are served from.
    pub(crate) sealed: Sealed,
}

impl std::fmt::Debug for Arrived {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arrived").field("sealed", &self.sealed).finish_non_exhaustive()
    }
}

impl Snapshots {
    /// Finds the newest snapshot and removes everything else.
    pub(crate) fn open(state: &Path) -> io::Result<Snapshots> {
        let dir = state.join(DIRECTORY);
        durable::create_dir(&dir)?;
        let mut newest: Option<SnapshotFiles> = None;
        for entry in fs::read_dir(&dir)? {
            let found = match load(entry?.path()) {
                Ok(found) => found,
                Err(unusable) => {
                    tracing::warn!(error = %unusable, "removing a snapshot");
                    durable::remove_dir(&unusable.dir)?;
                    continue;
                }
            };
            let older = match &newest {
                Some(newest) if newest.last() >= found.last() => Some(found),
                _ => newest.replace(found),
            };
            if let Some(older) = older {
                durable::remove_dir(&older.dir.lock())?;
            }
        }
        let current = Mutex::new(newest.map(Arc::new));
        Ok(Snapshots { dir, current, naming: Mutex::default(), staged: AtomicU64::new(0) })
    }

    pub(crate) fn current(&self) -> Option<Arc<SnapshotFiles>> {
        self.current.lock().clone()
    }

    /// Freezes the state as it is now. The caller knows what it has applied and keeps it from applying
    /// more meanwhile.
    pub(crate) fn stage(
        &self,
        kv: &dyn Kv,
        last: Option<LogPos>,
        membership: Option<(LogPos, Membership)>,
    ) -> io::Result<Staged> {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        let dir = self.dir.join(format!("{TEMPORARY}{number}"));
        durable::remove_dir(&dir)?;
        fs::create_dir(&dir)?;
        let staged = Staged { dir: Temporary(Some(dir)), last, membership };
        // The log is purged on the strength of a snapshot, so the live state must not fall behind it.
        kv.sync()?;
        kv.checkpoint(&staged.data()?)?;
        Ok(staged)
    }

    /// Lists and hashes the files of a staged snapshot. Tables that it shares with `known`, or else with the current
    /// snapshot, are read again only if that is due.
    ///
    /// # Errors
    /// Whatever the file system says; a [`clawhub_kv::KvError`] that says corrupt if a table has rotted.
    pub(crate) fn seal(&self, staged: Staged, known: Option<Known<'_>>) -> io::Result<Sealed> {
        let data = staged.data()?;
        let Staged { dir, last, membership } = staged;
        let now = durable::now_millis();
        let (files, seen) = match (known, self.current()) {
            (None, Some(current)) => {
                let known =
                    Known { data: &current.data(), files: &current.manifest.files, seen: &current.seen };
                tables::list(&data, Some(known), now)?
            }
            (known, _) => tables::list(&data, known, now)?,
        };
        let manifest = Manifest { last, membership, files };
        durable::replace(&dir.path()?.join(MANIFEST), &record::encode_manifest(&manifest))?;
        Ok(Sealed { dir, manifest, seen })
    }

    /// Names and publishes a snapshot. It takes a name and not one block of the device. The answer is the snapshot at
    /// this position: one that was there before, unless `instead` says that it must not be sent any more.
    pub(crate) fn publish(&self, sealed: Sealed, instead: bool) -> io::Result<Arc<SnapshotFiles>> {
        let _alone = self.naming.lock();
        let Sealed { mut dir, manifest, seen } = sealed;
        let place = self.dir.join(name(manifest.last));
        if let Some(same) = self.current().filter(|c| *c.dir.lock() == place) {
            if !instead {
                // Built twice at one position: the states are equal, the first stays.
                return Ok(same);
            }
            let number = self.staged.fetch_add(1, Ordering::Relaxed);
            let aside = self.dir.join(format!("{TEMPORARY}{number}"));
            durable::remove_dir(&aside)?;
            let mut at = same.dir.lock();
            durable::move_dir(&at, &aside)?;
            *at = aside;
        }
        durable::remove_dir(&place)?;
        durable::move_dir(dir.path()?, &place)?;
        dir.0 = None;
        let made = Arc::new(SnapshotFiles::own(place, manifest, seen));
        let mut current = self.current.lock();
        let newer = current.as_ref().is_none_or(|c| c.last() <= made.last());
        let old = if newer { current.replace(Arc::clone(&made)) } else { Some(Arc::clone(&made)) };
        if let Some(old) = old {
            old.obsolete.store(true, Ordering::Relaxed);
        }
        Ok(made)
    }
}

fn name(last: Option<LogPos>) -> String {
    last.map_or_else(|| "0".to_owned(), |p| format!("{}-{}-{}", p.term, p.node, p.index))
}

#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", dir.display())]
struct Unusable {
    dir: PathBuf,
    problem: io::Error,
}

/// Reads a snapshot's manifest and checks that its files have the right sizes.
fn load(dir: PathBuf) -> Result<SnapshotFiles, Unusable> {
    let read = || -> io::Result<Manifest> {
        let manifest = record::decode_manifest(&fs::read(dir.join(MANIFEST))?)?;
        if dir.file_name().is_none_or(|n| *n != *name(manifest.last)) {
            return Err(io::Error::other("was not finished"));
        }
        for file in &manifest.files {
            if fs::metadata(dir.join(DATA).join(&file.name))?.len() != file.size {
                return Err(io::Error::other(format!("{} has another size", file.name)));
            }
        }
        Ok(manifest)
    };
    match read() {
        Ok(manifest) => {
            // What happened to the files while nobody watched is not known.
            let seen = vec![0; manifest.files.len()];
            Ok(SnapshotFiles::own(dir, manifest, seen))
        }
        Err(problem) => Err(Unusable { dir, problem }),
    }
}

#[cfg(test)]
mod tests {
    use clawhub_kv::MemoryKv;

    use super::*;

    fn at(index: u64) -> Option<LogPos> {
        Some(LogPos { term: 1, node: 1, index })
    }

    impl Snapshots {
        fn make(&self, staged: Staged) -> Arc<SnapshotFiles> {
            self.publish(self.seal(staged, None).unwrap(), false).unwrap()
        }
    }

    #[test]
    fn the_newest_is_current_and_an_old_one_stays_while_it_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path()).unwrap();
        let kv = MemoryKv::new();
        let first = snapshots.make(snapshots.stage(&kv, at(5), None).unwrap());
        let late = snapshots.stage(&kv, at(6), None).unwrap();
        let second = snapshots.make(snapshots.stage(&kv, at(9), None).unwrap());
        assert!(first.data().exists());
        let path = first.data();
        drop(first);
        assert!(!path.exists());
        drop(snapshots.make(late));
        assert_eq!(snapshots.current().unwrap().manifest().last, at(9), "a late one does not win");
        second.verify().unwrap();

        let instead = snapshots.seal(snapshots.stage(&kv, at(9), None).unwrap(), None).unwrap();
        let third = snapshots.publish(instead, true).unwrap();
        assert_ne!(second.data(), third.data());
        second.verify().unwrap();
        third.verify().unwrap();
        drop((second, third, snapshots));
        assert_eq!(fs::read_dir(dir.path().join(DIRECTORY)).unwrap().count(), 1);
        let again = Snapshots::open(dir.path()).unwrap();
        assert_eq!(again.current().unwrap().manifest().last, at(9));
    }

    #[test]
    fn unfinished_and_damaged_ones_go_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path()).unwrap();
        let kv = MemoryKv::new();
        let good = snapshots.make(snapshots.stage(&kv, at(5), None).unwrap());
        drop(snapshots.stage(&kv, at(7), None).unwrap());
        assert_eq!(fs::read_dir(dir.path().join(DIRECTORY)).unwrap().count(), 1, "one given up goes");
        // As a crash leaves it.
        std::mem::forget(snapshots.stage(&kv, at(7), None).unwrap());
        drop(snapshots);
        let again = Snapshots::open(dir.path()).unwrap();
        assert_eq!(again.current().unwrap().manifest().last, at(5));
        assert_eq!(fs::read_dir(dir.path().join(DIRECTORY)).unwrap().count(), 1);

        let file = good.data().join(&good.manifest().files[0].name);
        let mut bytes = fs::read(&file).unwrap();
        bytes[0] ^= 1;
        fs::write(&file, &bytes).unwrap();
        assert!(again.current().unwrap().verify().is_err());
        fs::write(&file, &bytes[1..]).unwrap();
        assert!(Snapshots::open(dir.path()).unwrap().current().is_none());
    }
}
