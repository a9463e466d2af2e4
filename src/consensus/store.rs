//! Where the applied state lives.
//!
//! `<dir>/CURRENT` names the directory `<dir>/<n>` of the live store; `<dir>/snapshots` and
//! `<dir>/incoming` belong to [`crate::snapshot`] and [`crate::receive`]. Installing a snapshot opens a copy of its
//! files as `<n+1>`, which shares their tables, and then swaps `CURRENT`: a crash leaves either the old state or the new
//! one, and the snapshot's own files in any case. The old directory goes when its last reader is gone, or at the next
//! start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use clawhub_durable as durable;
use clawhub_kv::{Kv, KvError};
use parking_lot::{Mutex, RwLock};

const CURRENT: &str = "CURRENT";
/// What `CURRENT` is about to say: written while a full device can still refuse it.
const NEXT: &str = "NEXT";

/// What a store is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be the applied state, now or soon. It is created if there is none.
    Serve,
    /// To be read once, whole, past every cache. Nothing of it is changed.
    Check,
}

/// Opens the store in a directory.
pub type OpenKv = dyn Fn(&Path, Purpose) -> Result<Arc<dyn Kv>, KvError> + Send + Sync;

/// The applied state's store, which a snapshot replaces as a whole. Clones share it.
#[derive(Clone)]
pub struct StateStore {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    open: Box<OpenKv>,
    live: RwLock<Live>,
    /// Replaced stores that somebody may still read.
    retired: Mutex<Vec<(Weak<dyn Kv>, PathBuf)>>,
}

#[derive(Clone)]
struct Live {
    number: u64,
    kv: Arc<dyn Kv>,
}

impl StateStore {
    /// Opens the live store below `dir` and removes what an interrupted swap left.
    ///
    /// # Errors
    /// If the directory cannot be read or written, if the live store cannot be opened, or if `CURRENT`
    /// is missing or wrong while there are stores: nothing is guessed.
    pub fn open(
        dir: impl Into<PathBuf>,
        open: impl Fn(&Path, Purpose) -> Result<Arc<dyn Kv>, KvError> + Send + Sync + 'static,
    ) -> io::Result<StateStore> {
        let dir = dir.into();
        durable::create_dir(&dir)?;
        let stores = numbered(&dir)?;
        let number = match current(&dir)? {
            Some(number) => number,
            None if stores.is_empty() => {
                // Named before it is created: a store without a name never held anything.
                durable::replace(&dir.join(CURRENT), b"1\n")?;
                1
            }
            None => return Err(invalid(&dir, "CURRENT is missing")),
        };
        if number != 1 && !stores.contains(&number) {
            return Err(invalid(&dir, "CURRENT names a store that is not there"));
        }
        for other in stores.into_iter().filter(|n| *n != number) {
            durable::remove_dir(&dir.join(other.to_string()))?;
        }
        let kv = open(&dir.join(number.to_string()), Purpose::Serve)?;
        let live = RwLock::new(Live { number, kv });
        let inner = Inner { dir, open: Box::new(open), live, retired: Mutex::default() };
        Ok(StateStore { inner: Arc::new(inner) })
    }

    /// The live store. Readers take it anew for each request: a snapshot replaces it.
    pub fn kv(&self) -> Arc<dyn Kv> {
        Arc::clone(&self.inner.live.read().kv)
    }

    /// How often the live store was replaced.
    pub(crate) fn replaced(&self) -> u64 {
        self.inner.live.read().number - 1
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Opens a copy of the checkpoint in `from`, which is left as it is, beside the live store.
    ///
    /// # Errors
    /// Whatever the file system or the store says; nothing is left behind.
    pub(crate) fn prepare(&self, from: &Path) -> io::Result<Prepared> {
        self.sweep();
        let number = self.inner.live.read().number + 1;
        let dir = self.inner.dir.join(number.to_string());
        durable::remove_dir(&dir)?;
        let mut next = Prepared { number, kv: None, unnamed: Some(dir.clone()) };
        durable::copy_dir(from, &dir, clawhub_kv::is_table)?;
        let kv = next.kv.insert((self.inner.open)(&dir, Purpose::Serve)?);
        kv.sync()?;
        durable::replace(&self.inner.dir.join(NEXT), format!("{number}\n").as_bytes())?;
        Ok(next)
    }

    /// Opens the checkpoint in `dir` to read all of it.
    pub(crate) fn check(&self, dir: &Path) -> Result<Arc<dyn Kv>, KvError> {
        (self.inner.open)(dir, Purpose::Check)
    }

    /// Makes a prepared store the live one. It takes two names and not one block of the device.
    pub(crate) fn swap(&self, mut next: Prepared) -> io::Result<()> {
        let kv = Arc::clone(next.kv()?);
        // From here on `CURRENT` may name it, whatever is answered.
        next.unnamed = None;
        fs::rename(self.inner.dir.join(NEXT), self.inner.dir.join(CURRENT))?;
        durable::sync_dir(&self.inner.dir)?;
        let old = std::mem::replace(&mut *self.inner.live.write(), Live { number: next.number, kv });
        let path = self.inner.dir.join(old.number.to_string());
        self.inner.retired.lock().push((Arc::downgrade(&old.kv), path));
        Ok(())
    }

    /// Removes replaced stores that nobody reads any more.
    pub(crate) fn sweep(&self) {
        self.inner.retired.lock().retain(|(kv, path)| {
            if kv.strong_count() > 0 {
                return true;
            }
            if let Err(e) = durable::remove_dir(path) {
                tracing::warn!(path = %path.display(), error = %e, "a replaced store cannot be removed");
            }
            false
        });
    }
}

/// A store that is open and not yet in force. It goes with this handle, unless it was put in force.
pub(crate) struct Prepared {
    number: u64,
    kv: Option<Arc<dyn Kv>>,
    /// Its directory, until `CURRENT` names it.
    unnamed: Option<PathBuf>,
}

impl Prepared {
    /// The store.
    pub(crate) fn kv(&self) -> io::Result<&Arc<dyn Kv>> {
        self.kv.as_ref().ok_or_else(|| io::Error::other("a store that was never opened"))
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // Closed first.
        self.kv = None;
        let Some(dir) = &self.unnamed else { return };
        if let Err(e) = durable::remove_dir(dir) {
            tracing::warn!(dir = %dir.display(), error = %e, "a store that is not needed cannot be removed");
        }
    }
}

fn invalid(dir: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", dir.display()))
}

fn current(dir: &Path) -> io::Result<Option<u64>> {
    match fs::read_to_string(dir.join(CURRENT)) {
        Ok(text) => {
            let number = text.strip_suffix('\n').and_then(|n| n.parse().ok()).filter(|n| *n > 0);
            number.map(Some).ok_or_else(|| invalid(dir, "CURRENT holds no number"))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn numbered(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use clawhub_kv::{Batch, RocksKv, RocksProfile};

    use super::*;

    fn rocks(dir: &Path, _: Purpose) -> Result<Arc<dyn Kv>, KvError> {
        RocksKv::open(dir, RocksProfile::State).map(|kv| Arc::new(kv) as Arc<dyn Kv>)
    }

    fn put(kv: &Arc<dyn Kv>, value: &str) {
        let mut batch = Batch::default();
        batch.put("key", value);
        kv.write(batch).unwrap();
    }

    fn value(store: &StateStore) -> String {
        String::from_utf8(store.kv().get(b"key").unwrap().unwrap()).unwrap()
    }

    #[test]
    fn a_swap_replaces_the_store_and_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let store = StateStore::open(dir.path(), rocks).unwrap();
        put(&store.kv(), "old");
        let reader = store.kv();
        let copy = dir.path().join("copy");
        store.kv().checkpoint(&copy).unwrap();
        put(&store.kv(), "older than the copy");

        let next = store.prepare(&copy).unwrap();
        assert_eq!(value(&store), "older than the copy", "nothing changes before the swap");
        put(next.kv().unwrap(), "new");
        store.swap(next).unwrap();
        assert_eq!(value(&store), "new");
        assert_eq!(reader.get(b"key").unwrap().unwrap(), b"older than the copy", "readers keep theirs");
        store.sweep();
        assert!(dir.path().join("1").exists());
        drop(reader);
        store.sweep();
        assert!(!dir.path().join("1").exists());
        drop(store);
        assert_eq!(value(&StateStore::open(dir.path(), rocks).unwrap()), "new");
    }

    #[test]
    fn an_interrupted_swap_leaves_the_old_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = StateStore::open(dir.path(), rocks).unwrap();
        put(&store.kv(), "old");
        let copy = dir.path().join("copy");
        store.kv().checkpoint(&copy).unwrap();
        let next = store.prepare(&copy).unwrap();
        let crashed = dir.path().join("crashed");
        durable::copy_dir(&dir.path().join("2"), &crashed, |_| false).unwrap();
        drop((next, store));
        assert!(!dir.path().join("2").exists(), "what is not needed goes by itself");
        // A crash removes nothing.
        durable::move_dir(&crashed, &dir.path().join("2")).unwrap();
        assert_eq!(value(&StateStore::open(dir.path(), rocks).unwrap()), "old");
        assert!(!dir.path().join("2").exists());
    }

    #[test]
    fn nothing_is_guessed_about_a_damaged_directory() {
        let dir = tempfile::tempdir().unwrap();
        drop(StateStore::open(dir.path(), rocks).unwrap());
        for content in ["", "x\n", "0\n", "7\n", "1"] {
            fs::write(dir.path().join(CURRENT), content).unwrap();
            assert!(StateStore::open(dir.path(), rocks).is_err(), "{content:?}");
        }
        fs::remove_file(dir.path().join(CURRENT)).unwrap();
        assert!(StateStore::open(dir.path(), rocks).is_err());
        assert!(dir.path().join("1").exists());
    }
}
