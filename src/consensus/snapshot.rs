//! Snapshots of the applied state, made on this node.
//!
//! `<state>/snapshots/<term>-<node>-<index>/` holds `data/`, a checkpoint of the store, and `MANIFEST`,
//! its files with size and BLAKE3. A directory gets its name when all of it is durable; one that a crash
//! interrupts is called `tmp-…` and goes at the next start. There is one current snapshot; an older one
//! stays while it is being sent.

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
use crate::record::{self, FileEntry, Manifest};
use crate::types::{self, LogId, Membership, SnapshotMeta, StoredMembership};

const DIRECTORY: &str = "snapshots";
const MANIFEST: &str = "MANIFEST";
const DATA: &str = "data";
const TEMPORARY: &str = "tmp-";

/// The files of one snapshot, complete and checked.
#[derive(Debug)]
pub struct SnapshotFiles {
    dir: PathBuf,
    manifest: Manifest,
    /// The files may be taken away instead of copied: they were received to be installed.
    received: bool,
    /// Remove the directory when the last handle goes.
    obsolete: AtomicBool,
}

impl SnapshotFiles {
    /// Files that arrived in `dir/data` and were checked against `manifest`.
    pub(crate) fn received(dir: PathBuf, manifest: Manifest) -> Self {
        SnapshotFiles { dir, manifest, received: true, obsolete: AtomicBool::new(false) }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join(DATA)
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(crate) fn is_received(&self) -> bool {
        self.received
    }

    fn last(&self) -> Option<LogId> {
        self.manifest.last.map(types::log_id)
    }

    /// What openraft knows of it.
    pub(crate) fn meta(&self) -> SnapshotMeta {
        meta(&self.manifest)
    }

    /// Reads every file again.
    pub(crate) fn verify(&self) -> io::Result<()> {
        for file in &self.manifest.files {
            if files::digest(&self.data().join(&file.name))? != (file.size, file.hash) {
                let what = format!("{}/{} is damaged", self.data().display(), file.name);
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
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
        if self.obsolete.load(Ordering::Relaxed)
            && let Err(e) = durable::remove_dir(&self.dir)
        {
            tracing::warn!(dir = %self.dir.display(), error = %e, "an old snapshot cannot be removed");
        }
    }
}

/// The current snapshot and the making of the next.
pub(crate) struct Snapshots {
    dir: PathBuf,
    current: Mutex<Option<Arc<SnapshotFiles>>>,
    /// Distinguishes temporary directories.
    staged: AtomicU64,
}

/// A checkpoint that was taken and not yet published.
pub(crate) struct Staged {
    dir: PathBuf,
    last: Option<LogPos>,
    membership: Option<(LogPos, Membership)>,
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
                durable::remove_dir(&older.dir)?;
            }
        }
        Ok(Snapshots { dir, current: Mutex::new(newest.map(Arc::new)), staged: AtomicU64::new(0) })
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
        // The log is purged on the strength of a snapshot, so the live state must not fall behind it.
        kv.sync()?;
        kv.checkpoint(&dir.join(DATA))?;
        Ok(Staged { dir, last, membership })
    }

    /// Hashes, names and publishes a staged snapshot.
    pub(crate) fn publish(&self, staged: Staged) -> io::Result<Arc<SnapshotFiles>> {
        let Staged { dir, last, membership } = staged;
        let manifest = Manifest { last, membership, files: list(&dir.join(DATA))? };
        durable::replace(&dir.join(MANIFEST), &record::encode_manifest(&manifest))?;
        let place = self.dir.join(name(last));
        if let Some(same) = self.current().filter(|c| c.dir == place) {
            // Built twice at one position: the states are equal, the first stays.
            durable::remove_dir(&dir)?;
            return Ok(same);
        }
        durable::remove_dir(&place)?;
        durable::move_dir(&dir, &place)?;
        let made = Arc::new(SnapshotFiles {
            dir: place,
            manifest,
            received: false,
            obsolete: AtomicBool::new(false),
        });
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

/// Every file of a checkpoint, by name.
fn list(data: &Path) -> io::Result<Vec<FileEntry>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(data)? {
        let entry = entry?;
        let name = entry.file_name().into_string();
        let name = name.map_err(|name| io::Error::other(format!("file name {name:?} in a checkpoint")))?;
        let (size, hash) = files::digest(&entry.path())?;
        found.push(FileEntry { name, size, hash });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
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
            Ok(SnapshotFiles { dir, manifest, received: false, obsolete: AtomicBool::new(false) })
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

    #[test]
    fn the_newest_is_current_and_an_old_one_stays_while_it_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path()).unwrap();
        let kv = MemoryKv::new();
        let first = snapshots.publish(snapshots.stage(&kv, at(5), None).unwrap()).unwrap();
        let late = snapshots.stage(&kv, at(6), None).unwrap();
        let second = snapshots.publish(snapshots.stage(&kv, at(9), None).unwrap()).unwrap();
        assert!(first.data().exists());
        let path = first.data();
        drop(first);
        assert!(!path.exists());
        drop(snapshots.publish(late).unwrap());
        assert_eq!(snapshots.current().unwrap().manifest().last, at(9), "a late one does not win");
        second.verify().unwrap();

        drop((second, snapshots));
        let again = Snapshots::open(dir.path()).unwrap();
        assert_eq!(again.current().unwrap().manifest().last, at(9));
    }

    #[test]
    fn unfinished_and_damaged_ones_go_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path()).unwrap();
        let kv = MemoryKv::new();
        let good = snapshots.publish(snapshots.stage(&kv, at(5), None).unwrap()).unwrap();
        drop(snapshots.stage(&kv, at(7), None).unwrap());
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
