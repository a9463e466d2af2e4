//! A store in memory, for tests and simulation.
//!
//! It owns its pairs and nothing else. [`MemoryKv::crash`] does what a power cut does to a device that
//! honours fsync: every batch since the last [`Kv::sync`] is gone. The undo log that makes this possible
//! grows with what was written since then.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use clawhub_durable::parent;
use parking_lot::RwLock;

use crate::{Batch, Change, Kv, KvError, KvErrorKind, KvRead, Pair, sync_dir};

/// The one file of a checkpoint.
const DUMP: &str = "dump";
/// First bytes of a dump: what it is, and its version.
const MAGIC: &[u8; 8] = b"clawkv\0\x01";
/// Bytes of the BLAKE3 hash that ends a dump.
const HASH: usize = 32;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Debug, Default)]
struct Inner {
    /// Shared with snapshots; a write under an open snapshot copies the map first.
    live: Arc<Map>,
    /// For every key touched since the last sync, in order, what it held before.
    undo: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// A [`Kv`] in memory.
#[derive(Debug, Default)]
pub struct MemoryKv {
    inner: RwLock<Inner>,
}

impl MemoryKv {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// The pairs as they are now, for whoever holds them: [`Kv::owned_snapshot`] for stores made of this one.
    pub fn frozen(&self) -> Arc<dyn KvRead> {
        Arc::new(Frozen(Arc::clone(&self.inner.read().live)))
    }

    /// Forgets every batch written since the last [`Kv::sync`], as a crash of the machine would.
    pub fn crash(&self) {
        let mut inner = self.inner.write();
        let Inner { live, undo } = &mut *inner;
        let map = Arc::make_mut(live);
        for (key, before) in undo.drain(..).rev() {
            match before {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
    }

    /// A store with the contents of a checkpoint of another [`MemoryKv`], all of it durable.
    ///
    /// # Errors
    /// [`KvError`] if there is no such checkpoint, or if it is corrupt.
    pub fn open_checkpoint(dir: &Path) -> Result<Self, KvError> {
        let path = dir.join(DUMP);
        let context = || format!("opening the checkpoint {}", path.display());
        let bytes = fs::read(&path).map_err(KvError::io(context()))?;
        let corrupt = || KvError::new(KvErrorKind::Corrupt, context(), "the dump is corrupt");
        let map = decode(&bytes).ok_or_else(corrupt)?;
        Ok(MemoryKv { inner: RwLock::new(Inner { live: Arc::new(map), undo: Vec::new() }) })
    }
}

impl KvRead for MemoryKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.inner.read().live.get(key).cloned())
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
        Ok(scan(&self.inner.read().live, start, end, limit))
    }

    fn last(&self, start: &[u8], end: &[u8]) -> Result<Option<Pair>, KvError> {
        Ok(last(&self.inner.read().live, start, end))
    }
}

impl Kv for MemoryKv {
    fn write(&self, batch: Batch) -> Result<(), KvError> {
        let mut inner = self.inner.write();
        let Inner { live, undo } = &mut *inner;
        let map = Arc::make_mut(live);
        for change in batch.changes {
            match change {
                Change::Put(key, value) => {
                    let before = map.insert(key.clone(), value);
                    undo.push((key, before));
                }
                Change::Delete(key) => {
                    if let Some(before) = map.remove(&key) {
                        undo.push((key, Some(before)));
                    }
                }
                Change::DeleteRange(start, end) => {
                    let doomed: Vec<_> = range(map, &start, &end).map(|(key, _)| key.clone()).collect();
                    for key in doomed {
                        let before = map.remove(&key);
                        undo.push((key, before));
                    }
                }
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), KvError> {
        self.inner.write().undo.clear();
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn KvRead + '_> {
        Box::new(Frozen(Arc::clone(&self.inner.read().live)))
    }

    fn owned_snapshot(self: Arc<Self>) -> Arc<dyn KvRead> {
        self.frozen()
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), KvError> {
        let map = Arc::clone(&self.inner.read().live);
        let written = fs::create_dir(dir)
            .and_then(|()| File::create_new(dir.join(DUMP)))
            .and_then(|mut file| file.write_all(&encode(&map)).and_then(|()| file.sync_all()));
        written.map_err(KvError::io(format!("writing the checkpoint {}", dir.display())))?;
        sync_dir(dir)?;
        sync_dir(parent(dir))
    }
}

/// A snapshot: the map as it was.
struct Frozen(Arc<Map>);

impl KvRead for Frozen {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
        Ok(scan(&self.0, start, end, limit))
    }

    fn last(&self, start: &[u8], end: &[u8]) -> Result<Option<Pair>, KvError> {
        Ok(last(&self.0, start, end))
    }
}

fn scan(map: &Map, start: &[u8], end: &[u8], limit: usize) -> Vec<Pair> {
    range(map, start, end).take(limit).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn last(map: &Map, start: &[u8], end: &[u8]) -> Option<Pair> {
    range(map, start, end).next_back().map(|(k, v)| (k.clone(), v.clone()))
}

/// The pairs with `start <= key < end`. A range that ends before it begins is empty; the map's own
/// `range` would panic.
fn range<'m>(
    map: &'m Map,
    start: &[u8],
    end: &[u8],
) -> impl DoubleEndedIterator<Item = (&'m Vec<u8>, &'m Vec<u8>)> {
    let end = end.max(start);
    map.range::<[u8], _>((Bound::Included(start), Bound::Excluded(end)))
}

/// Magic, then each pair as two lengths (u32, big endian) and two strings, then the BLAKE3 hash of all
/// before it.
fn encode(map: &Map) -> Vec<u8> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("keys and values are far below 4 GiB");
    let mut out = MAGIC.to_vec();
    for (key, value) in map {
        out.extend(length(key).to_be_bytes());
        out.extend(length(value).to_be_bytes());
        out.extend(key);
        out.extend(value);
    }
    let hash = blake3::hash(&out);
    out.extend(hash.as_bytes());
    out
}

/// `None` if the bytes are not a whole, unchanged dump.
fn decode(bytes: &[u8]) -> Option<Map> {
    let (body, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH)?)?;
    if blake3::hash(body).as_bytes() != hash {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC)?;
    let mut map = Map::new();
    while !rest.is_empty() {
        let (lengths, after) = rest.split_first_chunk::<8>()?;
        let [a, b, c, d, e, f, g, h] = *lengths;
        let key = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
        let value = usize::try_from(u32::from_be_bytes([e, f, g, h])).ok()?;
        let (key, after) = after.split_at_checked(key)?;
        let (value, after) = after.split_at_checked(value)?;
        map.insert(key.to_vec(), value.to_vec());
        rest = after;
    }
    Some(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(kv: &MemoryKv, key: &str, value: &str) {
        let mut batch = Batch::default();
        batch.put(key, value);
        kv.write(batch).unwrap();
    }

    #[test]
    fn the_shared_suite_passes() {
        crate::suite::run(
            || Box::new(MemoryKv::new()),
            |dir| MemoryKv::open_checkpoint(dir).map(|kv| Box::new(kv) as Box<dyn Kv>),
        );
    }

    #[test]
    fn a_crash_forgets_what_was_not_synced_and_nothing_else() {
        let kv = MemoryKv::new();
        for key in ["a", "b", "c", "d"] {
            put(&kv, key, "old");
        }
        kv.sync().unwrap();
        let before = kv.scan(b"", b"z", 99).unwrap();

        let mut batch = Batch::default();
        batch.put("a", "new");
        batch.put("a", "newer");
        batch.delete("b");
        batch.delete("absent");
        batch.delete_range("c", "d");
        batch.put("c", "again");
        batch.put("e", "new");
        kv.write(batch).unwrap();
        assert_eq!(kv.get(b"c").unwrap().unwrap(), b"again");
        kv.crash();
        assert_eq!(kv.scan(b"", b"z", 99).unwrap(), before);

        put(&kv, "e", "kept");
        kv.sync().unwrap();
        kv.crash();
        assert_eq!(kv.get(b"e").unwrap().unwrap(), b"kept");
    }

    #[test]
    fn a_snapshot_survives_a_crash() {
        let kv = MemoryKv::new();
        put(&kv, "a", "unsynced");
        let snapshot = kv.snapshot();
        kv.crash();
        assert_eq!(kv.get(b"a").unwrap(), None);
        assert_eq!(snapshot.get(b"a").unwrap().unwrap(), b"unsynced");
    }

    #[test]
    fn a_damaged_dump_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("copy");
        let kv = MemoryKv::new();
        put(&kv, "key", "value");
        kv.checkpoint(&at).unwrap();
        let path = at.join(DUMP);
        let good = fs::read(&path).unwrap();
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(MemoryKv::open_checkpoint(&at).is_err(), "byte {position} changed");
            fs::write(&path, &good[..position]).unwrap();
            assert!(MemoryKv::open_checkpoint(&at).is_err(), "cut at {position}");
        }
    }
}
